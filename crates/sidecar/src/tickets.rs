//! Sessions in a cookie: a ticket stands for the answer of the server that was asked, on each node of a farm,
//! for a short time and together with the certificate alone.
//!
//! A node uses a ticket only in place of a question to that server. It validates the certificate as it does
//! before a question, evaluates its own routes, and audits the decision. A ticket that does not count is
//! ignored: the server is asked.
//!
//! A ticket never outlives what is known better: its node's own later answer about the certificate ends it,
//! so does a change of the policy, and a ticket is made only from an answer, never from another ticket.
//!
//! # Data of a ticket
//!
//! Integers are little-endian; a text is its length in two octets and its UTF-8.
//!
//! | octets | field |
//! | --- | --- |
//! | 32 | digest of the policy |
//! | 8 | when the account ends: FILETIME |
//! | 1 | strength: 0 unknown, 1 weak, 2 strong |
//! | 1 | flags: 1 the own domain, 2 has a UPN, 4 has a display name |
//! | 8 | revision of the policy that answered |
//! | n | texts: domain, account, and UPN and display name if they are there |
//! | 2 + 4 n | number of groups in the account's domain, and their RIDs |
//! | 2 + n | number of other groups, and their SIDs, packed as in [MS-DTYP] 2.4.2.2 |
//!
//! The SID of the account and the times are the ticket's own claims.

use crate::answers::{Ended, NewestAnswers, Origin, Said};
use crate::cookies::{CookieName, Found};
use crate::dialect::ClientCertificate;
use crate::identity::{Assurance, Group, Identity};
use crate::refusal::{Outcome, Refusal};
use crate::{Cookies, cookies};
use dtyp::{Decode, DecodeError, DecodeErrorKind, Encode, FileTime, Reader, Sid};
use http::{HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;
use ticket::{Claims, DATA_MAX, Name, Roots, SALT_LEN};

/// Tickets of other purposes do not open as sessions.
const PURPOSE: &str = "sidecar-session";
/// Digest of a policy.
pub const POLICY_LEN: usize = 32;

const OURS: u8 = 1;
const HAS_UPN: u8 = 2;
const HAS_NAME: u8 = 4;

/// How tickets of a farm are made and opened.
pub(crate) struct Tickets {
    roots: Roots,
    purpose: Name,
    audience: Name,
    cookie: CookieName,
    lifetime: Duration,
    policy: [u8; POLICY_LEN],
    /// They end older tickets.
    answers: Arc<NewestAnswers>,
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tickets for {:?} in {}", self.audience, self.cookie.as_str())
    }
}

/// What the nodes of a farm have in common.
#[derive(Debug)]
pub struct Farm {
    /// The roots. One seals, each opens.
    pub roots: Roots,
    /// Its name.
    pub audience: Name,
    /// The cookie of a ticket.
    pub cookie: CookieName,
    /// How long a ticket counts.
    pub lifetime: Duration,
    /// SHA-256 of everything that decides what a server is asked and how its answer is read. Tickets that
    /// were made by another policy do not count.
    pub policy: [u8; POLICY_LEN],
}

/// A ticket that counts.
#[derive(Debug)]
pub(crate) struct Session {
    /// Ends with the ticket.
    pub(crate) identity: Identity,
    pub(crate) origin: Origin,
}

/// Why a ticket does not count. The name is for metrics.
type NotCounted = &'static str;

impl Tickets {
    pub(crate) fn new(farm: Farm) -> Self {
        let Farm { roots, audience, cookie, lifetime, policy } = farm;
        Self {
            roots,
            purpose: Name::new(PURPOSE).expect("it is a name"),
            audience,
            cookie,
            lifetime,
            policy,
            answers: Arc::default(),
        }
    }

    /// Takes over which tickets have ended.
    pub(crate) fn after(self, before: &Self) -> Self {
        Self { answers: Arc::clone(&before.answers), ..self }
    }

    /// Whether no answer that this node knows has ended the ticket.
    pub(crate) fn count(&self, certificate: &[u8; 32], ticket: &Origin) -> Result<(), NotCounted> {
        self.answers.allow(certificate, ticket).map_err(|ended| match ended {
            Ended::Superseded => "superseded",
            Ended::Evicted => "evicted",
        })
    }

    /// The server has answered a question that was asked at `now`: older tickets end. `Set-Cookie` with a
    /// ticket that is made from the answer; the error says why there is none, for metrics. An answer that
    /// decides nothing ends nothing.
    pub(crate) fn answered(
        &self,
        answer: Result<&Identity, Refusal>,
        presented: &ClientCertificate,
        now: FileTime,
    ) -> Option<Result<HeaderValue, NotCounted>> {
        match answer {
            Ok(identity) => {
                let sealed = self.seal(identity, presented, now);
                let digest = sealed.as_ref().ok().map(|(_, digest)| *digest);
                Some(match self.answers.answered(presented.sha256, Said::Yes(digest), now) {
                    true => sealed.map(|(set_cookie, _)| set_cookie),
                    false => Err("superseded"),
                })
            }
            Err(refusal) => {
                if refusal.outcome() == Outcome::Denied {
                    self.answers.answered(presented.sha256, Said::No, now);
                }
                None
            }
        }
    }

    /// The cookie of a request, as it is.
    pub(crate) fn cookie<'a>(&self, cookies: Cookies<'a>) -> Found<'a> {
        cookies.find(&self.cookie)
    }

    /// Opens a ticket that came with a certificate.
    pub(crate) fn open(
        &self,
        text: &[u8],
        presented: &ClientCertificate,
        now: FileTime,
    ) -> Result<Session, NotCounted> {
        let ticket = str::from_utf8(text).map_err(|_| "format")?;
        let ticket = ticket::from_cookie(ticket).map_err(|refused| refused.reason())?;
        let sha256 = &presented.sha256;
        let claims = ticket::open_reusable(&self.roots, &self.purpose, &self.audience, sha256, now, &ticket)
            .map_err(|refused| refused.reason())?;
        let (policy, identity) = read(&claims).map_err(|_| "format")?;
        if policy != self.policy {
            return Err("policy");
        }
        if identity.not_after <= now {
            return Err("expired");
        }
        let origin = Origin { issued: claims.issued, digest: Sha256::digest(text).into() };
        self.count(sha256, &origin)?;
        Ok(Session { identity, origin })
    }

    /// `Set-Cookie` with a ticket for an account, and the SHA-256 of the ticket's text. The error says why
    /// there is none.
    fn seal(
        &self,
        identity: &Identity,
        presented: &ClientCertificate,
        now: FileTime,
    ) -> Result<(HeaderValue, [u8; 32]), NotCounted> {
        let expires = (now + self.lifetime).min(identity.not_after);
        let data = write(identity, &self.policy).ok_or("too_long")?;
        let claims =
            Claims { issued: now, expires, audience: self.audience.clone(), account: identity.sid, data };
        let mut salt = [0; SALT_LEN];
        getrandom::fill(&mut salt).map_err(|_| "no_randomness")?;
        let sealed = ticket::seal_reusable(&self.roots, &self.purpose, &claims, &presented.sha256, salt)
            .map_err(|_| "lifetime")?;
        let (name, text) = (self.cookie.as_str(), ticket::to_cookie(&sealed));
        let age = expires.since(now).as_secs();
        let cookie = format!("{name}={text}; Path=/; Max-Age={age}; Secure; HttpOnly; SameSite=Lax");
        let set_cookie = HeaderValue::try_from(cookie).map_err(|_| "format")?;
        Ok((set_cookie, Sha256::digest(&text).into()))
    }

    /// Whether a request has exactly the cookie that an answer would set.
    pub(crate) fn has(&self, cookies: Cookies<'_>, set_cookie: &HeaderValue) -> bool {
        let Found::One(text) = self.cookie(cookies) else { return false };
        let set = set_cookie.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        set.strip_prefix(self.cookie.as_str().as_bytes()).and_then(|set| set.strip_prefix(b"=")) == Some(text)
    }

    pub(crate) fn strip(&self, headers: &mut HeaderMap) {
        cookies::strip(headers, &self.cookie);
    }

    pub(crate) fn without(&self, value: &[u8]) -> Option<Vec<u8>> {
        cookies::without(value, &self.cookie)
    }
}

/// The data for an account; none if a ticket cannot carry all of it. Names of groups, the method and the form
/// of a mapping are known only where the accounts are, and there no ticket is used.
fn write(identity: &Identity, policy: &[u8; POLICY_LEN]) -> Option<Vec<u8>> {
    let Identity { domain, is_ours, account, upn, full_name, sid, groups, method, .. } = identity;
    let is_carried = method.is_none()
        && identity.mail.is_none()
        && identity.assurance.rule().is_none()
        && groups.iter().all(|group| group.name.is_none());
    if !is_carried {
        return None;
    }
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let strength = match identity.assurance {
        Assurance::Unknown => 0,
        Assurance::Weak => 1,
        Assurance::Strong(_) => 2,
    };
    let mut data = policy.to_vec();
    data.extend(identity.not_after.0.to_le_bytes());
    data.push(strength);
    data.push(flag(*is_ours, OURS) | flag(upn.is_some(), HAS_UPN) | flag(full_name.is_some(), HAS_NAME));
    data.extend(identity.policy_revision.to_le_bytes());
    for text in [Some(domain), Some(account), upn.as_ref(), full_name.as_ref()].into_iter().flatten() {
        data.extend(u16::try_from(text.len()).ok()?.to_le_bytes());
        data.extend(text.as_bytes());
    }
    let domain = sid.split_rid().map(|(domain, _)| domain);
    let rid_of = |group: &Group| domain.as_ref().and_then(|domain| group.sid.rid_in(domain));
    let rids: Vec<u32> = groups.iter().filter_map(rid_of).collect();
    data.extend(u16::try_from(rids.len()).ok()?.to_le_bytes());
    rids.iter().for_each(|rid| data.extend(rid.to_le_bytes()));
    let others: Vec<&Group> = groups.iter().filter(|group| rid_of(group).is_none()).collect();
    data.extend(u16::try_from(others.len()).ok()?.to_le_bytes());
    others.iter().for_each(|group| group.sid.encode(&mut data));
    (data.len() <= DATA_MAX).then_some(data)
}

/// The policy and the account of a ticket.
fn read(claims: &Claims) -> Result<([u8; POLICY_LEN], Identity), DecodeError> {
    let mut reader = Reader::new(&claims.data);
    let policy = reader.array("policy")?;
    let not_after = FileTime(reader.u64("not after")?);
    let assurance = match reader.u8("strength")? {
        0 => Assurance::Unknown,
        1 => Assurance::Weak,
        2 => Assurance::Strong(None),
        _ => return Err(reader.error("strength", DecodeErrorKind::BadValue)),
    };
    let flags = reader.u8("flags")?;
    if flags & !(OURS | HAS_UPN | HAS_NAME) != 0 {
        return Err(reader.error("flags", DecodeErrorKind::BadValue));
    }
    let policy_revision = reader.u64("policy revision")?;
    let mut text = |what| {
        let len = reader.u16(what)?;
        let octets = reader.take(what, len.into())?;
        let text = str::from_utf8(octets).map_err(|_| reader.error(what, DecodeErrorKind::BadText))?;
        Ok(text.to_owned())
    };
    let (domain, account) = (text("domain")?, text("account")?);
    let upn = (flags & HAS_UPN != 0).then(|| text("UPN")).transpose()?;
    let full_name = (flags & HAS_NAME != 0).then(|| text("display name")).transpose()?;
    let of_account = claims.account.split_rid().map(|(domain, _)| domain);
    let mut groups = Vec::new();
    for _ in 0..reader.u16("groups")? {
        let rid = reader.u32("RID")?;
        let sid = of_account.as_ref().and_then(|domain| domain.with_rid(rid));
        let sid = sid.ok_or_else(|| reader.error("RID", DecodeErrorKind::BadValue))?;
        groups.push(Group { sid, name: None });
    }
    for _ in 0..reader.u16("other groups")? {
        groups.push(Group { sid: Sid::decode(&mut reader)?, name: None });
    }
    reader.finish("data of a ticket")?;
    let identity = Identity {
        domain,
        is_ours: flags & OURS != 0,
        account,
        upn,
        full_name,
        mail: None,
        sid: claims.account,
        groups,
        method: None,
        assurance,
        policy_revision,
        stale_s: None,
        not_after: not_after.min(claims.expires),
    };
    Ok((policy, identity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::{alice, sid};

    /// What comes over Netlogon: no names of groups, no method, no form.
    fn from_elsewhere() -> Identity {
        let groups = ["S-1-5-21-1-2-3-513", "S-1-5-21-1-2-3-1100", "S-1-5-21-4-5-6-1200", "S-1-5-32-545"];
        Identity {
            groups: groups.map(|group| Group { sid: sid(group), name: None }).into(),
            method: None,
            assurance: Assurance::Strong(None),
            ..alice()
        }
    }

    fn claims(data: Vec<u8>) -> Claims {
        let account = alice().sid;
        let audience = Name::new("farm").expect("a name");
        Claims { issued: FileTime(1), expires: FileTime::NEVER, audience, account, data }
    }

    #[test]
    fn an_identity_comes_back_whole() {
        let whole = from_elsewhere();
        for identity in [
            whole.clone(),
            Identity { upn: None, full_name: None, is_ours: false, ..whole.clone() },
            Identity { groups: Vec::new(), assurance: Assurance::Weak, upn: None, ..whole.clone() },
            Identity { assurance: Assurance::Unknown, full_name: None, policy_revision: u64::MAX, ..whole },
        ] {
            let data = write(&identity, &[7; POLICY_LEN]).expect("it fits");
            assert_eq!(read(&claims(data.clone())), Ok(([7; POLICY_LEN], identity)));
            for len in 0..data.len() {
                assert!(read(&claims(data[..len].to_vec())).is_err(), "{len}");
            }
            assert!(read(&claims([data, vec![0]].concat())).is_err());
        }
    }

    #[test]
    fn what_a_ticket_cannot_carry_is_in_none() {
        let whole = from_elsewhere();
        let named = Group { name: Some("Staff".to_owned()), ..whole.groups[0].clone() };
        let many = |count: u32| {
            let groups = (0..count).map(|n| Group { sid: sid(&format!("S-1-5-21-1-2-3-{n}")), name: None });
            Identity { groups: groups.collect(), ..from_elsewhere() }
        };
        for identity in [
            Identity { method: Some("upn"), ..whole.clone() },
            Identity { assurance: Assurance::Strong(Some("sid")), ..whole.clone() },
            Identity { groups: vec![named], ..whole.clone() },
            Identity { full_name: Some("a".repeat(DATA_MAX)), ..whole.clone() },
            many(300),
        ] {
            assert_eq!(write(&identity, &[0; POLICY_LEN]), None);
        }
        assert!(write(&many(200), &[0; POLICY_LEN]).is_some());
    }
}
