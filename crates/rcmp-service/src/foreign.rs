//! Validation of another domain's response: what the peer may say is taken from it, and a new response is
//! made of that.
//!
//! No bytes of the peer's message are forwarded. Fields that are the peer's to fill are copied, one by one. A
//! field that says something about our domain, about a third domain, or about how the account is treated here
//! rejects the response, is dropped, or is blanked. What is ours is looked for first: a peer that is
//! configured with one of our names is rejected, too.
//!
//! Which server to ask, and whether it belongs to the peer, is decided before there is a response.

use crate::answer::{self, GROUP};
use crate::claim::SidClaim;
use crate::message::Response;
use crate::response_rejection::ResponseRejection;
use account_store::Domain;
use bytes::Bytes;
use dtyp::{FileTime, Sid};
use pac::{
    GroupMembership, LogonInfo, PacError, ResourceGroups, SidAndAttributes, Text, UpnDnsInfo, VerifiedPac,
};

/// Longest name of an account or a person, in characters: the directory's limit for both ([MS-ADA1]
/// displayName, [MS-ADA3] sAMAccountName).
const NAME_LEN_MAX: usize = 256;
/// Longest NetBIOS name.
const NETBIOS_LEN_MAX: usize = 15;
/// Most groups and SIDs of one answer, all lists together. Directories have accounts with five thousand, and
/// the marks of a logon come with them; the new answer is at most a third of what a client takes.
const GROUPS_MAX: usize = 8192;
/// All `USER_*` bits of [MS-SAMR] 2.2.1.12.
const USER_ACCOUNT_CONTROL: u32 = 0x003f_ffff;

/// A domain that a peer may speak for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignDomain {
    /// NetBIOS name.
    pub netbios: String,
    /// The domain's SID.
    pub sid: Sid,
    /// DNS names that are its own: its DNS name first, then suffixes of user principal names. Names below
    /// them are not meant.
    pub names: Vec<String>,
    /// What to do with SIDs of third domains.
    pub foreign_sids: ForeignSids,
}

/// What becomes of an answer that has SIDs of third domains. SIDs that are ours refuse it in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ForeignSids {
    /// It is refused.
    #[default]
    Refuse,
    /// It loses them.
    Drop,
}

/// An account of another domain: what its peer may say of it, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignAccount {
    /// The account's name, which is unique in its domain only.
    pub name: String,
    /// The account's SID.
    pub sid: Sid,
    /// NetBIOS name of the account's domain, as it is configured.
    pub domain: String,
    /// Its groups in the new answer.
    pub groups: Vec<Sid>,
    /// SIDs that are in the peer's answer and not in the new one.
    pub dropped: Vec<Sid>,
    /// KERB_VALIDATION_INFO of the new answer.
    pub logon_info: LogonInfo,
    /// The user principal name, and whether the peer constructed it.
    upn: Option<(String, bool)>,
    /// ClientId of PAC_CLIENT_INFO.
    client_id: FileTime,
    /// DNS name of the account's domain, as it is configured.
    dns: String,
}

impl ForeignAccount {
    /// Its user principal name, unless the peer constructed one.
    pub fn user_principal_name(&self) -> Option<&str> {
        self.upn.as_ref().filter(|(_, is_constructed)| !is_constructed).map(|(upn, _)| upn.as_str())
    }

    /// The same, also if the peer constructed it.
    pub(crate) fn any_user_principal_name(&self) -> Option<&str> {
        self.upn.as_ref().map(|(upn, _)| upn.as_str())
    }

    /// SSL_CERT_LOGON_RESP for it.
    pub fn message(&self) -> Bytes {
        answer::assemble(self.logon_info.clone(), self.sid, self.client_id, self.upn.clone(), &self.dns)
            .into()
    }
}

/// Validates the response of a peer that answers for `from`, and takes from it what the peer may say. `claim`
/// is the account that the certificate is for; `identity_sid` is added as to answers of our own.
pub fn validate_response(
    response: &[u8],
    from: &ForeignDomain,
    ours: &Domain,
    claim: SidClaim,
    identity_sid: Option<Sid>,
) -> Result<ForeignAccount, ResponseRejection> {
    let response = Response::decode(response).map_err(|_| ResponseRejection::MalformedResponse)?;
    let names = Names { from, ours };
    names.netbios(&response.domain, ResponseRejection::OurDomain, ResponseRejection::OtherDomain)?;
    let pac = VerifiedPac::decode(response.auth_data).map_err(|error| match error {
        PacError::NoUserId => ResponseRejection::NoUserId,
        _ => ResponseRejection::MalformedPac,
    })?;
    let said = pac.logon_info;
    names.netbios(
        &said.logon_domain_name.text,
        ResponseRejection::OurLogonDomainName,
        ResponseRejection::OtherLogonDomainName,
    )?;
    if said.logon_domain_id == ours.sid {
        return Err(ResponseRejection::OurLogonDomainId);
    }
    if said.logon_domain_id != from.sid {
        return Err(ResponseRejection::OtherLogonDomainId);
    }
    if !claim.allows(&pac.user_sid) {
        return Err(ResponseRejection::SidMismatch);
    }
    if !is_account_name(&said.effective_name.text) {
        return Err(ResponseRejection::EffectiveName);
    }
    let upn = pac.upn_dns_info.map(|info| names.upn(info)).transpose()?;
    let dns = from.names.first().map(|name| without_dot(name)).ok_or(ResponseRejection::Nameless)?;
    if !is_netbios_name(&said.logon_server.text) {
        return Err(ResponseRejection::LogonServer);
    }
    let Sids { kept, dropped, .. } = Sids::read(&said, from, ours)?;
    let own = said.group_ids.iter().map(|group| group.rid).chain([said.primary_group_id]);
    let own = own.filter_map(|rid| from.sid.with_rid(rid));
    let groups = own.chain(kept.iter().copied()).collect();
    let logon_info = logon_info(said, from, kept.into_iter().chain(identity_sid));
    Ok(ForeignAccount {
        name: logon_info.effective_name.text.clone(),
        sid: pac.user_sid,
        domain: from.netbios.clone(),
        groups,
        dropped,
        client_id: pac.client_info.map_or(logon_info.logon_time, |info| info.client_id),
        logon_info,
        upn,
        dns: dns.to_owned(),
    })
}

/// KERB_VALIDATION_INFO of the new answer. Every field is written here, so that a new field does not compile
/// before it is decided what a peer may say in it.
fn logon_info(said: LogonInfo, from: &ForeignDomain, extra_sids: impl Iterator<Item = Sid>) -> LogonInfo {
    let full_name = Some(said.full_name.text).filter(|name| is_text(name)).unwrap_or_default();
    let mut logon_info = LogonInfo {
        logon_time: said.logon_time,
        logoff_time: said.logoff_time,
        kick_off_time: said.kick_off_time,
        password_last_set: said.password_last_set,
        password_can_change: said.password_can_change,
        password_must_change: said.password_must_change,
        effective_name: said.effective_name.text.as_str().into(),
        full_name: full_name.as_str().into(),
        // A peer names nothing that is run or mounted here.
        logon_script: Text::default(),
        profile_path: Text::default(),
        home_directory: Text::default(),
        home_directory_drive: Text::default(),
        logon_count: said.logon_count,
        bad_password_count: said.bad_password_count,
        user_id: said.user_id,
        primary_group_id: said.primary_group_id,
        group_ids: said
            .group_ids
            .iter()
            .map(|group| GroupMembership { attributes: GROUP, ..*group })
            .collect(),
        user_flags: 0,
        user_session_key: [0; 16],
        logon_server: answer::roomy(&said.logon_server.text),
        logon_domain_name: answer::roomy(&from.netbios),
        logon_domain_id: from.sid,
        reserved1: [0; 2],
        user_account_control: said.user_account_control & USER_ACCOUNT_CONTROL,
        sub_auth_status: 0,
        last_successful_logon: FileTime::UNSET,
        last_failed_logon: FileTime::UNSET,
        failed_logon_count: 0,
        reserved3: 0,
        extra_sids: extra_sids.map(|sid| SidAndAttributes { sid, attributes: GROUP }).collect(),
        resource_groups: None,
    };
    logon_info.user_flags = logon_info.presence_flags();
    logon_info
}

/// Whose a name is.
struct Names<'a> {
    from: &'a ForeignDomain,
    ours: &'a Domain,
}

impl Names<'_> {
    /// Whether a domain's name is the peer's.
    fn netbios(
        &self,
        name: &str,
        is_ours: ResponseRejection,
        is_other: ResponseRejection,
    ) -> Result<(), ResponseRejection> {
        match name {
            _ if name.eq_ignore_ascii_case(&self.ours.netbios) || is_same(name, &self.ours.dns) => {
                Err(is_ours)
            }
            _ if name.eq_ignore_ascii_case(&self.from.netbios) => Ok(()),
            _ => Err(is_other),
        }
    }

    /// Whether a DNS name is one of the peer's.
    fn dns(
        &self,
        name: &str,
        is_ours: ResponseRejection,
        is_other: ResponseRejection,
    ) -> Result<(), ResponseRejection> {
        match name {
            _ if is_same(name, &self.ours.dns) => Err(is_ours),
            _ if !name.is_empty() && self.from.names.iter().any(|theirs| is_same(name, theirs)) => Ok(()),
            _ => Err(is_other),
        }
    }

    /// The user principal name, and whether it was made up.
    fn upn(&self, info: UpnDnsInfo) -> Result<(String, bool), ResponseRejection> {
        let (local, suffix) = info.upn.rsplit_once('@').ok_or(ResponseRejection::UpnForm)?;
        if !is_account_name(local) {
            return Err(ResponseRejection::UpnForm);
        }
        // Domains of a forest may share a suffix, also our DNS name if it is configured for the peer.
        let mut shared = self.from.names.iter().skip(1);
        if !shared.any(|theirs| is_same(suffix, theirs) && !theirs.is_empty()) {
            self.dns(suffix, ResponseRejection::OurUpnSuffix, ResponseRejection::OtherUpnSuffix)?;
        }
        self.dns(
            &info.dns_domain_name,
            ResponseRejection::OurDnsDomainName,
            ResponseRejection::OtherDnsDomainName,
        )?;
        Ok((info.upn, info.is_constructed))
    }
}

/// Whose a SID is, and what becomes of it.
struct Sids<'a> {
    from: &'a ForeignDomain,
    ours: &'a Domain,
    kept: Vec<Sid>,
    dropped: Vec<Sid>,
}

impl<'a> Sids<'a> {
    /// The groups that a response names.
    fn read(said: &LogonInfo, from: &'a ForeignDomain, ours: &'a Domain) -> Result<Self, ResponseRejection> {
        let resource_groups = said.resource_groups.as_ref().map_or(0, |resource| resource.groups.len());
        if said.group_ids.len() + said.extra_sids.len() + resource_groups > GROUPS_MAX {
            return Err(ResponseRejection::TooManyGroups);
        }
        if said.primary_group_id == 0 {
            return Err(ResponseRejection::NoPrimaryGroup);
        }
        if said.group_ids.iter().any(|group| group.rid == 0) {
            return Err(ResponseRejection::NoGroupId);
        }
        let mut sids = Self { from, ours, kept: Vec::new(), dropped: Vec::new() };
        said.extra_sids.iter().try_for_each(|extra| sids.extra(extra.sid))?;
        said.resource_groups.iter().try_for_each(|resource| sids.resource_groups(resource))?;
        Ok(sids)
    }

    fn extra(&mut self, sid: Sid) -> Result<(), ResponseRejection> {
        match sid {
            _ if is_within(&sid, &self.ours.sid) => Err(ResponseRejection::OurSid),
            _ if is_builtin(&sid) => Err(ResponseRejection::BuiltinSid),
            _ if sid.rid_in(&self.from.sid).is_some_and(|rid| rid != 0) => {
                self.kept.push(sid);
                Ok(())
            }
            _ if is_mark(&sid) => {
                self.dropped.push(sid);
                Ok(())
            }
            _ => self.foreign([sid]),
        }
    }

    /// Domain-local groups mean nothing outside their domain.
    fn resource_groups(&mut self, resource: &ResourceGroups) -> Result<(), ResponseRejection> {
        let domain = &resource.domain;
        let sids = resource.groups.iter().filter_map(|group| domain.with_rid(group.rid));
        match domain {
            _ if is_within(domain, &self.ours.sid) => Err(ResponseRejection::OurResourceGroups),
            _ if is_builtin(domain) => Err(ResponseRejection::BuiltinSid),
            _ if *domain == self.from.sid => {
                self.dropped.extend(sids);
                Ok(())
            }
            _ => self.foreign(sids),
        }
    }

    fn foreign(&mut self, sids: impl IntoIterator<Item = Sid>) -> Result<(), ResponseRejection> {
        match self.from.foreign_sids {
            ForeignSids::Refuse => Err(ResponseRejection::ForeignSid),
            ForeignSids::Drop => {
                self.dropped.extend(sids);
                Ok(())
            }
        }
    }
}

/// Whether a SID is a domain's, of one of its members, or of anything below.
fn is_within(sid: &Sid, domain: &Sid) -> bool {
    sid.authority() == domain.authority() && sid.sub_authorities().starts_with(domain.sub_authorities())
}

/// S-1-5-32: each machine has its own.
fn is_builtin(sid: &Sid) -> bool {
    sid.authority() == 5 && sid.sub_authorities().first() == Some(&32)
}

/// Marks of how an account was authenticated, which is for us to say: asserted identities and what goes with
/// them (S-1-18-1 to 6), compounded authentication and valid claims (S-1-5-21-0-0-0-496 and 497),
/// THIS_ORGANIZATION (S-1-5-15) and THIS_ORGANIZATION_CERTIFICATE (S-1-5-65-1).
fn is_mark(sid: &Sid) -> bool {
    match sid.authority() {
        18 => matches!(sid.sub_authorities(), [1..=6]),
        5 => matches!(sid.sub_authorities(), [21, 0, 0, 0, 496 | 497] | [15] | [65, 1]),
        _ => false,
    }
}

/// Whether a text is a name and nothing more: it does not say a domain by `\`, `/` or `@`, and needs no
/// quotes.
fn is_account_name(name: &str) -> bool {
    !name.is_empty() && is_text(name) && !name.contains(['\\', '/', '@', '"'])
}

fn is_text(text: &str) -> bool {
    text.chars().count() <= NAME_LEN_MAX && !text.contains(char::is_control)
}

fn is_netbios_name(name: &str) -> bool {
    let allowed = |c: char| c.is_alphanumeric() || "!@#$%^&'(){}_-~".contains(c);
    (1..=NETBIOS_LEN_MAX).contains(&name.chars().count()) && name.chars().all(allowed)
}

/// Whether two DNS names are the same. Only ASCII is folded, as by the DNS itself (RFC 4343).
fn is_same(a: &str, b: &str) -> bool {
    without_dot(a).eq_ignore_ascii_case(without_dot(b))
}

fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests;
