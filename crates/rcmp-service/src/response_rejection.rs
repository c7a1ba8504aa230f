//! The reasons for which the answer of another domain's server is rejected.

/// The reason for which a peer's response is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResponseRejection {
    /// The response cannot be decoded.
    MalformedResponse,
    /// Its PAC cannot be decoded, or contradicts itself.
    MalformedPac,
    /// UserId is 0, so that the account could be any account.
    NoUserId,
    /// No DNS name is configured for the domain.
    Nameless,
    /// The response is in our domain's name.
    OurDomain,
    /// The response is in a third domain's name.
    OtherDomain,
    /// LogonDomainName is ours.
    OurLogonDomainName,
    /// LogonDomainName is a third domain's.
    OtherLogonDomainName,
    /// LogonDomainId is ours.
    OurLogonDomainId,
    /// LogonDomainId is a third domain's.
    OtherLogonDomainId,
    /// EffectiveName is no name, or says a domain itself.
    EffectiveName,
    /// The user principal name has no suffix, or its first part is no name.
    UpnForm,
    /// The user principal name's suffix is ours.
    OurUpnSuffix,
    /// The user principal name's suffix is a third domain's.
    OtherUpnSuffix,
    /// The domain's DNS name is ours.
    OurDnsDomainName,
    /// The domain's DNS name is a third domain's.
    OtherDnsDomainName,
    /// LogonServer is no NetBIOS name.
    LogonServer,
    /// There is no primary group.
    NoPrimaryGroup,
    /// A group has the RID 0.
    NoGroupId,
    /// There are more groups than a token holds.
    TooManyGroups,
    /// An extra SID is of our domain.
    OurSid,
    /// The resource groups are of our domain.
    OurResourceGroups,
    /// A SID is of BUILTIN, which is everybody's own.
    BuiltinSid,
    /// A SID is of a third domain, or well known.
    ForeignSid,
    /// The certificate carries the SID of another account.
    SidMismatch,
}

impl ResponseRejection {
    /// All of them, for metrics.
    pub const ALL: [Self; 25] = [
        Self::MalformedResponse,
        Self::MalformedPac,
        Self::NoUserId,
        Self::Nameless,
        Self::OurDomain,
        Self::OtherDomain,
        Self::OurLogonDomainName,
        Self::OtherLogonDomainName,
        Self::OurLogonDomainId,
        Self::OtherLogonDomainId,
        Self::EffectiveName,
        Self::UpnForm,
        Self::OurUpnSuffix,
        Self::OtherUpnSuffix,
        Self::OurDnsDomainName,
        Self::OtherDnsDomainName,
        Self::LogonServer,
        Self::NoPrimaryGroup,
        Self::NoGroupId,
        Self::TooManyGroups,
        Self::OurSid,
        Self::OurResourceGroups,
        Self::BuiltinSid,
        Self::ForeignSid,
        Self::SidMismatch,
    ];

    /// A stable name for logs, metrics and audit.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MalformedResponse => "malformed_response",
            Self::MalformedPac => "malformed_pac",
            Self::NoUserId => "no_user_id",
            Self::Nameless => "nameless",
            Self::OurDomain => "our_domain",
            Self::OtherDomain => "other_domain",
            Self::OurLogonDomainName => "our_logon_domain_name",
            Self::OtherLogonDomainName => "other_logon_domain_name",
            Self::OurLogonDomainId => "our_logon_domain_id",
            Self::OtherLogonDomainId => "other_logon_domain_id",
            Self::EffectiveName => "effective_name",
            Self::UpnForm => "upn_form",
            Self::OurUpnSuffix => "our_upn_suffix",
            Self::OtherUpnSuffix => "other_upn_suffix",
            Self::OurDnsDomainName => "our_dns_domain_name",
            Self::OtherDnsDomainName => "other_dns_domain_name",
            Self::LogonServer => "logon_server",
            Self::NoPrimaryGroup => "no_primary_group",
            Self::NoGroupId => "no_group_id",
            Self::TooManyGroups => "too_many_groups",
            Self::OurSid => "our_sid",
            Self::OurResourceGroups => "our_resource_groups",
            Self::BuiltinSid => "builtin_sid",
            Self::ForeignSid => "foreign_sid",
            Self::SidMismatch => "sid_mismatch",
        }
    }

    /// The reason in one sentence, for operators.
    pub const fn text(self) -> &'static str {
        match self {
            Self::MalformedResponse => "the peer's response cannot be decoded",
            Self::MalformedPac => "the peer's PAC cannot be decoded, or contradicts itself",
            Self::NoUserId => "the peer's PAC has the UserId 0, which is no account's",
            Self::Nameless => "no DNS name is configured for the peer's domain",
            Self::OurDomain => "the peer answers in our domain's name",
            Self::OtherDomain => "the peer answers in the name of a domain that it may not speak for",
            Self::OurLogonDomainName => "the peer's PAC names our domain as the account's",
            Self::OtherLogonDomainName => "the peer's PAC names a domain that the peer may not speak for",
            Self::OurLogonDomainId => "the peer's PAC gives the account a SID of our domain",
            Self::OtherLogonDomainId => {
                "the peer's PAC gives the account a SID of a domain that the peer may not speak for"
            }
            Self::EffectiveName => "the account's name is empty, too long, or says more than a name",
            Self::UpnForm => "the user principal name is not a name, an @ and a suffix",
            Self::OurUpnSuffix => "the user principal name has our suffix, or is that of an account of ours",
            Self::OtherUpnSuffix => "the user principal name has a suffix that is not the peer's",
            Self::OurDnsDomainName => "the peer's PAC has our DNS name for the account's domain",
            Self::OtherDnsDomainName => {
                "the peer's PAC has a DNS name for the account's domain that is not the peer's"
            }
            Self::LogonServer => "the name of the server that answered is not a NetBIOS name",
            Self::NoPrimaryGroup => "the account has no primary group",
            Self::NoGroupId => "a group of the account has the RID 0",
            Self::TooManyGroups => "the account has more groups than an account can be in",
            Self::OurSid => "the peer puts the account into a group of our domain",
            Self::OurResourceGroups => "the peer puts the account into resource groups of our domain",
            Self::BuiltinSid => "the peer puts the account into a built-in group",
            Self::ForeignSid => "the peer gives the account a SID that is not of its own domain",
            Self::SidMismatch => "the certificate carries the SID of another account than the peer's",
        }
    }
}
