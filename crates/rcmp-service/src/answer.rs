//! The answer for an account: its PAC ([MS-KILE] 3.3.5.6.4, [MS-PAC] 2.4) in a response message.

use crate::logon_hours::end_of_allowed_hours;
use crate::message::Response;
use account_store::{Account, Domain, GroupScope, Record};
use bytes::Bytes;
use dtyp::{Encode, FileTime, Sid};
use pac::{
    Buffer, BufferType, ClientInfo, GroupMembership, LogonInfo, Pac, ResourceGroups, SidAndAttributes, Text,
    UpnDnsInfo, user_account_control,
};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// MANDATORY, ENABLED_BY_DEFAULT, ENABLED ([MS-PAC] 2.2.1).
pub(crate) const GROUP: u32 = 0x7;
/// The same, and RESOURCE.
const RESOURCE_GROUP: u32 = 0x2000_0007;
/// Where an absent name is said: there is room for a NUL, as Windows has it.
const NAME_ROOM: u16 = 2;

/// The response message for an account, built `now`; `None` when the account cannot be put into one, for
/// instance because it is not of this domain.
fn build(
    record: &Record,
    domain: &Domain,
    server: &str,
    identity_sid: Option<Sid>,
    now: FileTime,
) -> Option<(Vec<u8>, FileTime)> {
    let account = &record.account;
    let logoff_time = logoff_time(account, now);
    let (group_ids, mut extra_sids, resource_groups) = groups(record, domain)?;
    extra_sids.extend(account.extra_sids.iter().map(|sid| SidAndAttributes { sid: *sid, attributes: GROUP }));
    extra_sids.extend(identity_sid.map(|sid| SidAndAttributes { sid, attributes: GROUP }));
    let logon_info = LogonInfo {
        logon_time: now,
        logoff_time,
        kick_off_time: logoff_time,
        password_last_set: account.password_last_set,
        password_can_change: account.password_can_change,
        password_must_change: account.password_must_change,
        effective_name: account.name.as_str().into(),
        full_name: account.profile.full_name.as_str().into(),
        logon_script: account.profile.logon_script.as_str().into(),
        profile_path: account.profile.profile_path.as_str().into(),
        home_directory: account.profile.home_directory.as_str().into(),
        home_directory_drive: account.profile.home_directory_drive.as_str().into(),
        logon_count: account.logon_count,
        bad_password_count: account.bad_password_count,
        user_id: account.sid.rid_in(&domain.sid)?,
        primary_group_id: account.primary_group_id,
        group_ids,
        user_flags: 0,
        user_session_key: [0; 16],
        logon_server: roomy(server),
        logon_domain_name: roomy(&domain.netbios),
        logon_domain_id: domain.sid,
        reserved1: [0; 2],
        user_account_control: user_account_control(account.flags.0),
        sub_auth_status: 0,
        last_successful_logon: FileTime::UNSET,
        last_failed_logon: FileTime::UNSET,
        failed_logon_count: 0,
        reserved3: 0,
        extra_sids,
        resource_groups,
    };
    let upn = account.user_principal_name.clone().map(|upn| (upn, false));
    Some((assemble(logon_info, account.sid, now, upn, &domain.dns), logoff_time))
}

/// The name of a server or a domain, as Windows has it.
pub(crate) fn roomy(name: &str) -> Text {
    Text { room: NAME_ROOM, ..Text::from(name) }
}

/// The response message around a KERB_VALIDATION_INFO, whose UserFlags are set here: with the buffers that
/// say some of it again, and without signatures. `upn` is the user principal name and whether it was made up;
/// where there is none, one is.
pub(crate) fn assemble(
    mut logon_info: LogonInfo,
    sid: Sid,
    client_id: FileTime,
    upn: Option<(String, bool)>,
    dns: &str,
) -> Vec<u8> {
    logon_info.user_flags = logon_info.presence_flags();
    let name = &logon_info.effective_name.text;
    let (upn, is_constructed) = upn.unwrap_or_else(|| (format!("{name}@{dns}"), true));
    let upn_dns_info = UpnDnsInfo {
        upn,
        is_constructed,
        dns_domain_name: dns.to_uppercase(),
        extended: Some((name.clone(), sid)),
    };
    let client_info = ClientInfo { client_id, name: name.clone() };
    let mut logon_info_bytes = Vec::with_capacity(640);
    logon_info.encode(&mut logon_info_bytes);
    let buffer = |buffer_type, data| Buffer { buffer_type, data };
    let pac = Pac {
        buffers: vec![
            buffer(BufferType::LOGON_INFO, logon_info_bytes),
            buffer(BufferType::CLIENT_INFO, client_info.to_bytes()),
            buffer(BufferType::UPN_DNS_INFO, upn_dns_info.to_bytes()),
            buffer(BufferType::REQUESTOR_SID, sid.to_bytes()),
        ],
    };
    Response::encode(&pac.to_bytes(), &logon_info.logon_domain_name.text)
}

type Groups = (Vec<GroupMembership>, Vec<SidAndAttributes>, Option<ResourceGroups>);

/// Global and universal groups of the domain by RID, the primary group among them; groups of other domains by
/// SID; domain-local groups apart.
fn groups(record: &Record, domain: &Domain) -> Option<Groups> {
    let mut own = Vec::with_capacity(record.memberships.len() + 1);
    let mut extra = Vec::new();
    let mut resource = Vec::new();
    let primary = record.account.primary_group_id;
    own.push(GroupMembership { rid: primary, attributes: GROUP });
    for membership in &record.memberships {
        match (membership.scope, membership.sid.rid_in(&domain.sid)) {
            (GroupScope::Local, Some(rid)) => {
                resource.push(GroupMembership { rid, attributes: RESOURCE_GROUP })
            }
            (_, Some(rid)) if rid == primary => {}
            (_, Some(rid)) => own.push(GroupMembership { rid, attributes: GROUP }),
            // A local group of another domain means nothing outside it.
            (GroupScope::Local, None) => {}
            (_, None) => extra.push(SidAndAttributes { sid: membership.sid, attributes: GROUP }),
        }
    }
    let resource = (!resource.is_empty()).then_some(ResourceGroups { domain: domain.sid, groups: resource });
    Some((own, extra, resource))
}

/// When the account will have to go: at the end of its hours or of itself, whichever comes first.
pub fn logoff_time(account: &Account, now: FileTime) -> FileTime {
    let hours =
        account.logon_hours.as_ref().map_or(FileTime::NEVER, |hours| end_of_allowed_hours(hours, now));
    let expires = match account.expires {
        FileTime::UNSET => FileTime::NEVER,
        expires => expires.min(FileTime::NEVER),
    };
    hours.min(expires)
}

/// How long an answer keeps its bytes: its times say when it was built, and they should not be stale.
const LIFETIME: Duration = Duration::from_secs(5 * 60);
/// Answers kept; each takes about a kilobyte. The slot follows from the account's RID.
const SLOTS: usize = 4096;

/// Built answers. An answer is good for exactly the record it was built from: a store that has read an
/// account anew hands out another record, so nothing here has to be told of changes.
#[derive(Debug)]
pub(crate) struct Cache {
    slots: Box<[Mutex<Option<Entry>>]>,
}

#[derive(Debug)]
struct Entry {
    record: Weak<Record>,
    built: FileTime,
    good_until: FileTime,
    response: Bytes,
}

impl Default for Cache {
    fn default() -> Self {
        Self { slots: (0..SLOTS).map(|_| Mutex::default()).collect() }
    }
}

impl Cache {
    /// The response for a record: the one built before, or a new one.
    pub(crate) fn response(
        &self,
        record: &Arc<Record>,
        domain: &Domain,
        server: &str,
        identity_sid: Option<Sid>,
        now: FileTime,
    ) -> Option<Bytes> {
        let rid = record.account.sid.rid_in(&domain.sid)?;
        let mut slot = self.slots[rid as usize % SLOTS].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = &*slot
            && entry.record.ptr_eq(&Arc::downgrade(record))
            && (entry.built..entry.good_until).contains(&now)
        {
            return Some(entry.response.clone());
        }
        let (response, logoff_time) = build(record, domain, server, identity_sid, now)?;
        let response = Bytes::from(response);
        let good_until = (now + LIFETIME).min(logoff_time);
        *slot = Some(Entry {
            record: Arc::downgrade(record),
            built: now,
            good_until,
            response: response.clone(),
        });
        Some(response)
    }
}

#[cfg(test)]
mod tests;
