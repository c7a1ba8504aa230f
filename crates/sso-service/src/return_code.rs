use std::fmt;

/// The return value of RemoteGetMasterSecret ([MS-SSP] 3.1.4.1). Values that the document does not name are
/// kept as they are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReturnCode(pub u32);

macro_rules! codes {
    ($($(#[$doc:meta])* $constant:ident = $value:literal, $name:literal;)*) => {
        impl ReturnCode {
            $($(#[$doc])* pub const $constant: Self = Self($value);)*

            /// The values of the document.
            pub const ALL: &[Self] = &[$(Self::$constant),*];

            /// The document's name; `None` for other values.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($name),)*
                    _ => None,
                }
            }
        }
    };
}

codes! {
    /// The secret is delivered.
    SUCCESS = 0, "ERROR_SUCCESS";
    /// The caller is not an SSO administrator.
    ACCESS_DENIED = 0x8063_0005, "SSO_E_ACCESSDENIED";
    /// The buffer is smaller than the secret; only with [`crate::NdrRange::Prose`].
    OUT_OF_MEMORY = 0x8007_000e, "E_OUTOFMEMORY";
    /// The buffer has no octets; only with [`crate::NdrRange::Prose`].
    INVALID_ARGUMENT = 0x8007_0057, "E_INVALIDARG";
    /// The store is not open, or the delivery cannot be recorded.
    UNEXPECTED = 0x8000_ffff, "E_UNEXPECTED";
    /// The server is shutting down. The document prints the NTSTATUS form of this name.
    SERVER_UNAVAILABLE = 0xc002_0017, "RPC_S_SERVER_UNAVAILABLE";
    /// The store failed, or the method panicked.
    EXCEPTION = 0x8063_0428, "SSO_E_EXCEPTION";
    /// There is no secret.
    NO_SECRET = 0x8063_0002, "SSO_E_MASTER_SECRET_NOT_EXIST";
    /// No administrator is configured.
    NOT_CONFIGURED = 0x8063_064a, "SSO_E_SSO_NOT_CONFIGURED";
}

impl ReturnCode {
    /// Whether the answer has the secret.
    pub const fn is_success(self) -> bool {
        self.0 == Self::SUCCESS.0
    }
}

impl fmt::Display for ReturnCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} (0x{:08x})", self.0),
            None => write!(f, "code 0x{:08x}", self.0),
        }
    }
}

impl fmt::Debug for ReturnCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
