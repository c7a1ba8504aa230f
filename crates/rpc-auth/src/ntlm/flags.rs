//! [MS-NLMP] 2.2.2.5 NEGOTIATE: the flags of all three messages.

use dcerpc::security::AuthLevel;

/// NegotiateFlags. Unknown bits are kept where a message is read, and never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NtlmFlags(pub u32);

impl NtlmFlags {
    /// Strings are UTF-16LE.
    pub const UNICODE: Self = Self(0x0000_0001);
    /// The CHALLENGE names its target.
    pub const REQUEST_TARGET: Self = Self(0x0000_0004);
    /// Messages are signed.
    pub const SIGN: Self = Self(0x0000_0010);
    /// Messages are sealed.
    pub const SEAL: Self = Self(0x0000_0020);
    /// Connectionless mode.
    pub const DATAGRAM: Self = Self(0x0000_0040);
    /// NTLM is spoken.
    pub const NTLM: Self = Self(0x0000_0200);
    /// The client is anonymous.
    pub const ANONYMOUS: Self = Self(0x0000_0800);
    /// A session key is agreed on, whether or not messages are signed.
    pub const ALWAYS_SIGN: Self = Self(0x0000_8000);
    /// TargetName is a domain.
    pub const TARGET_TYPE_DOMAIN: Self = Self(0x0001_0000);
    /// TargetName is a server.
    pub const TARGET_TYPE_SERVER: Self = Self(0x0002_0000);
    /// Extended session security.
    pub const EXTENDED_SESSION_SECURITY: Self = Self(0x0008_0000);
    /// The client asks for an identify token.
    pub const IDENTIFY: Self = Self(0x0010_0000);
    /// The CHALLENGE has target information.
    pub const TARGET_INFO: Self = Self(0x0080_0000);
    /// The message has a version.
    pub const VERSION: Self = Self(0x0200_0000);
    /// Keys of 128 bits.
    pub const KEY_128: Self = Self(0x2000_0000);
    /// The client draws the session key.
    pub const KEY_EXCH: Self = Self(0x4000_0000);
    /// Keys of 56 bits; without effect beside [`Self::KEY_128`].
    pub const KEY_56: Self = Self(0x8000_0000);

    /// Bits that the acceptor repeats in its CHALLENGE where the client set them. LM_KEY and OEM are not
    /// among them: extended session security and UNICODE exclude them.
    const ECHOED: Self = Self(
        Self::UNICODE.0
            | Self::SIGN.0
            | Self::SEAL.0
            | Self::EXTENDED_SESSION_SECURITY.0
            | Self::IDENTIFY.0
            | Self::VERSION.0
            | Self::KEY_128.0
            | Self::KEY_EXCH.0
            | Self::KEY_56.0,
    );

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Bits of either.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Bits of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Bits that all three messages must have for a level of protection. There is no other form: a weaker one
    /// is refused, never agreed on.
    pub(super) const fn required(level: AuthLevel) -> Self {
        let always =
            Self::UNICODE.with(Self::EXTENDED_SESSION_SECURITY).with(Self::KEY_128).with(Self::KEY_EXCH);
        match level {
            AuthLevel::PRIVACY => always.with(Self::SIGN).with(Self::SEAL),
            // A context that only connects protects nothing.
            AuthLevel::NONE | AuthLevel::CONNECT => always,
            _ => always.with(Self::SIGN),
        }
    }

    /// The flags of the CHALLENGE that answers a NEGOTIATE with these.
    pub(super) const fn challenge(self, target_type: Self) -> Self {
        self.and(Self::ECHOED)
            .with(Self::REQUEST_TARGET)
            .with(Self::NTLM)
            .with(Self::ALWAYS_SIGN)
            .with(Self::TARGET_INFO)
            .with(target_type)
    }

    /// The flags of the initiator's NEGOTIATE.
    pub(super) const fn offered(level: AuthLevel) -> Self {
        Self::required(level)
            .with(Self::REQUEST_TARGET)
            .with(Self::NTLM)
            .with(Self::ALWAYS_SIGN)
            .with(Self::TARGET_INFO)
            .with(Self::VERSION)
            .with(Self::KEY_56)
    }
}
