use std::fmt;

/// [MS-ERREF] 2.3 NTSTATUS: the return value of Netlogon's methods and of the packages behind them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NtStatus(pub u32);

macro_rules! statuses {
    ($($name:ident = $value:literal, $doc:literal;)*) => {
        impl NtStatus {
            $(#[doc = $doc] pub const $name: Self = Self($value);)*

            /// The document's name, such as `STATUS_LOGON_FAILURE`, for the values this project knows.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(concat!("STATUS_", stringify!($name))),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    SUCCESS = 0x0000_0000, "Done.";
    UNSUCCESSFUL = 0xc000_0001, "Failed, and nothing more is said.";
    NOT_IMPLEMENTED = 0xc000_0002, "An ancient server's answer to a method it has not.";
    INVALID_INFO_CLASS = 0xc000_0003, "Logon and validation level do not go together.";
    INVALID_PARAMETER = 0xc000_000d, "The message is malformed.";
    NO_MEMORY = 0xc000_0017, "Out of memory.";
    ACCESS_DENIED = 0xc000_0022, "The proof is wrong, or the channel does not protect enough.";
    NO_LOGON_SERVERS = 0xc000_005e, "No authoritative server can be reached.";
    NO_SUCH_USER = 0xc000_0064, "No channel leads to that domain.";
    WRONG_PASSWORD = 0xc000_006a, "The password is wrong or unusable.";
    LOGON_FAILURE = 0xc000_006d, "No account for this proof; also hides account restrictions.";
    ACCOUNT_RESTRICTION = 0xc000_006e, "A restriction of the account forbids it.";
    INVALID_LOGON_HOURS = 0xc000_006f, "Outside the account's hours.";
    INVALID_WORKSTATION = 0xc000_0070, "Not from this computer.";
    PASSWORD_EXPIRED = 0xc000_0071, "The password is expired.";
    ACCOUNT_DISABLED = 0xc000_0072, "The account is disabled.";
    INSUFFICIENT_RESOURCES = 0xc000_009a, "The server lacks resources.";
    IO_TIMEOUT = 0xc000_00b5, "The deadline passed.";
    NOT_SUPPORTED = 0xc000_00bb, "The method is not offered.";
    INVALID_NETWORK_RESPONSE = 0xc000_00c3, "The peer's answer makes no sense.";
    INVALID_SERVER_STATE = 0xc000_00dc, "The server is starting or stopping.";
    NO_SUCH_DOMAIN = 0xc000_00df, "The domain is not known.";
    INTERNAL_ERROR = 0xc000_00e5, "An invariant of ours did not hold.";
    NO_SUCH_PACKAGE = 0xc000_00fe, "No package of that name.";
    INVALID_COMPUTER_NAME = 0xc000_0122, "The server is not the one that is named.";
    INVALID_LEVEL = 0xc000_0148, "The level is not known.";
    LOGON_TYPE_NOT_GRANTED = 0xc000_015b, "The account may not log on in this way.";
    NO_TRUST_LSA_SECRET = 0xc000_018a, "The server has no secret for the trust.";
    NO_TRUST_SAM_ACCOUNT = 0xc000_018b, "The server has no such machine account.";
    TRUSTED_DOMAIN_FAILURE = 0xc000_018c, "The trust could not be used.";
    TRUSTED_RELATIONSHIP_FAILURE = 0xc000_018d, "The machine's relationship is broken.";
    NETLOGON_NOT_STARTED = 0xc000_0192, "The Netlogon service does not run.";
    ACCOUNT_EXPIRED = 0xc000_0193, "The account is expired.";
    PASSWORD_MUST_CHANGE = 0xc000_0224, "The password has to be changed first.";
    ACCOUNT_LOCKED_OUT = 0xc000_0234, "The account is locked.";
    DS_BUSY = 0xc000_02a5, "The account store cannot answer now.";
    DOWNGRADE_DETECTED = 0xc000_0388, "The peer offers less than is required.";
    AUTHENTICATION_FIREWALL_FAILED = 0xc000_0413, "Selective authentication forbids it.";
}

impl NtStatus {
    /// Whether it is an error: its two highest bits are set ([MS-ERREF] 2.3).
    pub const fn is_error(self) -> bool {
        self.0 >> 30 == 3
    }

    /// Whether this is STATUS_SUCCESS.
    pub const fn is_success(self) -> bool {
        self.0 == 0
    }

    /// Whether it means that there is an account which may not be used now ([MS-ERREF] 2.3.1).
    pub const fn is_account_restriction(self) -> bool {
        matches!(
            self,
            Self::ACCOUNT_RESTRICTION
                | Self::INVALID_LOGON_HOURS
                | Self::INVALID_WORKSTATION
                | Self::PASSWORD_EXPIRED
                | Self::PASSWORD_MUST_CHANGE
                | Self::ACCOUNT_DISABLED
                | Self::ACCOUNT_EXPIRED
                | Self::ACCOUNT_LOCKED_OUT
                | Self::LOGON_TYPE_NOT_GRANTED
        )
    }
}

impl fmt::Display for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} (0x{:08x})", self.0),
            None => write!(f, "NTSTATUS 0x{:08x}", self.0),
        }
    }
}

impl fmt::Debug for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
