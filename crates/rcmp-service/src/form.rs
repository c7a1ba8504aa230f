//! Mapping methods, the forms in which a certificate names an account, and how strongly each binds it
//! ([MS-RCMP] 3.5.2, [MS-PKCA] 3.1.5.2.1).

use crate::message::MappingFlags;
use account_store::AltSecurityIdentity;
use std::fmt;

/// A mapping method, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Method {
    /// By subjectAltName: user principal name or DNS name.
    Upn,
    /// By what names this certificate or its key: issuer and subject, and the strong forms.
    Subject,
    /// By the issuer, or an issuer's issuer.
    Issuer,
}

impl Method {
    /// The methods in their order.
    pub const ALL: [Self; 3] = [Self::Upn, Self::Subject, Self::Issuer];

    /// The flag that asks for it.
    pub const fn flag(self) -> MappingFlags {
        match self {
            Self::Upn => MappingFlags::UPN,
            Self::Subject => MappingFlags::SUBJECT,
            Self::Issuer => MappingFlags::ISSUER,
        }
    }

    /// Its name in configuration, logs and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upn => "upn",
            Self::Subject => "subject",
            Self::Issuer => "issuer",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// By what a certificate names an account ([MS-PKCA] 3.1.5.2.1, [MS-RCMP] 3.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// A user principal name in the subjectAltName; weak.
    Upn,
    /// A DNS name in the subjectAltName; weak.
    Dns,
    /// `X509:<I>…<S>…`; weak.
    IssuerSubject,
    /// `X509:<I>…<SR>…`; strong.
    IssuerSerial,
    /// `X509:<SKI>…`; strong.
    SubjectKeyIdentifier,
    /// `X509:<SHA1-PUKEY>…`; strong.
    Sha1PublicKey,
    /// `X509:<I>…<SID>…`; strong.
    IssuerSid,
    /// `X509:<S>…`; weak, and never enough alone.
    Subject,
    /// `X509:<RFC822>…`; weak, and never enough alone.
    Rfc822,
    /// `X509:<I>…` and nothing after it; weakest.
    Issuer,
    /// The account's SID in the certificate: by extension, or as a URI in the subjectAltName; strong. It
    /// finds no account, it binds one that was found.
    Sid,
}

impl Form {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Upn,
        Self::Dns,
        Self::IssuerSubject,
        Self::IssuerSerial,
        Self::SubjectKeyIdentifier,
        Self::Sha1PublicKey,
        Self::IssuerSid,
        Self::Subject,
        Self::Rfc822,
        Self::Issuer,
        Self::Sid,
    ];

    /// Its name in configuration, logs and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upn => "upn",
            Self::Dns => "dns",
            Self::IssuerSubject => "issuer-subject",
            Self::IssuerSerial => "issuer-serial",
            Self::SubjectKeyIdentifier => "ski",
            Self::Sha1PublicKey => "sha1-pukey",
            Self::IssuerSid => "issuer-sid",
            Self::Subject => "subject",
            Self::Rfc822 => "rfc822",
            Self::Issuer => "issuer",
            Self::Sid => "sid",
        }
    }

    /// The same for people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Upn => "user principal name",
            Self::Dns => "DNS name",
            Self::IssuerSubject => "issuer+subject",
            Self::IssuerSerial => "issuer+serial number",
            Self::SubjectKeyIdentifier => "subject key identifier",
            Self::Sha1PublicKey => "hash of certificate or key",
            Self::IssuerSid => "issuer+SID",
            Self::Subject => "subject",
            Self::Rfc822 => "mail address",
            Self::Issuer => "issuer",
            Self::Sid => "SID in the certificate",
        }
    }

    /// The form of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.name() == name)
    }

    /// The method that looks accounts up by it; `None` for the SID in the certificate, which finds no
    /// account.
    pub const fn method(self) -> Option<Method> {
        match self {
            Self::Upn | Self::Dns => Some(Method::Upn),
            Self::IssuerSubject
            | Self::IssuerSerial
            | Self::SubjectKeyIdentifier
            | Self::Sha1PublicKey
            | Self::IssuerSid
            | Self::Subject
            | Self::Rfc822 => Some(Method::Subject),
            Self::Issuer => Some(Method::Issuer),
            Self::Sid => None,
        }
    }

    /// Whether it binds the account by more than names ([MS-PKCA] 3.1.5.2.1.5).
    pub const fn is_strong(self) -> bool {
        matches!(
            self,
            Self::IssuerSerial
                | Self::SubjectKeyIdentifier
                | Self::Sha1PublicKey
                | Self::IssuerSid
                | Self::Sid
        )
    }

    /// Whether it says who the issuer is by a name.
    pub const fn names_issuer(self) -> bool {
        matches!(self, Self::IssuerSubject | Self::IssuerSerial | Self::IssuerSid | Self::Issuer)
    }

    /// Whether it only proposes an account, which something strong then has to confirm, whatever the binding.
    pub const fn is_proposal(self) -> bool {
        matches!(self, Self::Subject | Self::Rfc822)
    }

    /// The form of a stored value.
    pub const fn of(identity: &AltSecurityIdentity) -> Self {
        match identity {
            AltSecurityIdentity::IssuerSubject { .. } => Self::IssuerSubject,
            AltSecurityIdentity::Subject(_) => Self::Subject,
            AltSecurityIdentity::IssuerSerial { .. } => Self::IssuerSerial,
            AltSecurityIdentity::SubjectKeyIdentifier(_) => Self::SubjectKeyIdentifier,
            AltSecurityIdentity::Sha1PublicKey(_) => Self::Sha1PublicKey,
            AltSecurityIdentity::Rfc822(_) => Self::Rfc822,
            AltSecurityIdentity::IssuerSid { .. } => Self::IssuerSid,
            AltSecurityIdentity::Issuer(_) => Self::Issuer,
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How strongly a certificate is bound to the account that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strength {
    /// By names alone.
    Weak,
    /// By this form, which the policy grants.
    Strong(Form),
}

impl Strength {
    /// Its name in logs and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Weak => "weak",
            Self::Strong(_) => "strong",
        }
    }
}
