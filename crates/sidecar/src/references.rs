//! What `X-Identity-Reference` stands for: an identity that did not fit the headers of a request.
//!
//! Without keys, a reference is the id of its decision, and this process alone knows what it stands for. With
//! keys that several nodes share, a reference is a sealed text that each of them opens, so that nothing is
//! stored. What does not fit such a text stays with this process.
//!
//! An account of the own store is looked up again when its reference is asked about. Only of accounts
//! elsewhere a reference keeps a copy.
//!
//! # Text of a sealed reference
//!
//! A JSON object of at most [`STATE_LEN_MAX`] octets, sealed as [`ticket::seal_state`] has it: `d` is the id
//! of the decision, `s` the SID, `n` when the account ends (FILETIME), `m` the method, `t` the strength, `r`
//! the form, and `p` the revision of the policy. `c` is a copy of an account elsewhere: `d` its domain, `o`
//! whether that is the own one, `a` the account, `u` the UPN, `f` the display name, and `g` its groups: a
//! number is a RID of the account's domain, a text a SID.

use crate::identity::{Assurance, Group, Identity};
use dtyp::{FileTime, Sid};
use quick_cache::sync::Cache as QuickCache;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use ticket::{Name, Roots, SALT_LEN};

/// Texts of other purposes do not open as references.
const PURPOSE: &str = "sidecar-reference";
/// Octets of JSON in a sealed reference, which then has at most 1,640 characters.
const STATE_LEN_MAX: usize = 1100;
/// References that are kept in this process, at least.
const KEPT_MAX: usize = 1024;

/// What nodes have in common whose references each of them knows.
#[derive(Debug)]
pub struct SharedReferences {
    /// The roots. One seals, each opens.
    pub roots: Roots,
    /// The name of the nodes.
    pub audience: Name,
    /// How long a reference counts.
    pub lifetime: Duration,
}

/// An identity that did not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    decision: String,
    sid: Sid,
    not_after: FileTime,
    method: Option<String>,
    strength: String,
    rule: Option<String>,
    policy_revision: u64,
    /// Of an account elsewhere; none if this store has it.
    copy: Option<Identity>,
}

/// References that this process keeps, and those that it shares.
pub(crate) struct References {
    kept: Arc<QuickCache<String, Arc<Reference>>>,
    shared: Option<SharedReferences>,
}

impl References {
    /// `cached_max` decisions may each have one.
    pub(crate) fn new(shared: Option<SharedReferences>, cached_max: usize) -> Self {
        Self { kept: Arc::new(QuickCache::new(cached_max.max(KEPT_MAX))), shared }
    }

    /// Takes over what the references stand for that another one keeps.
    pub(crate) fn after(self, before: &Self) -> Self {
        Self { kept: Arc::clone(&before.kept), ..self }
    }

    /// How long a decision with a reference may be cached: the reference then counts as long again.
    pub(crate) fn cached_max(&self) -> Duration {
        self.shared.as_ref().map_or(Duration::MAX, |shared| shared.lifetime / 2)
    }

    /// The reference to an identity.
    pub(crate) fn make(&self, identity: &Identity, decision: &str, now: FileTime) -> String {
        let reference = Reference::new(identity, decision);
        if let Some(sealed) = self.shared.as_ref().and_then(|shared| shared.seal(&reference, now)) {
            return sealed;
        }
        self.kept.insert(decision.to_owned(), Arc::new(reference));
        decision.to_owned()
    }

    /// What a reference stands for, if it counts.
    pub(crate) fn find(&self, text: &str, now: FileTime) -> Option<Arc<Reference>> {
        let opened = || self.shared.as_ref()?.open(text, now).map(Arc::new);
        let found = self.kept.get(text).or_else(opened)?;
        (found.not_after > now).then_some(found)
    }
}

impl SharedReferences {
    fn seal(&self, reference: &Reference, now: FileTime) -> Option<String> {
        let state = reference.state()?;
        let expires = (now + self.lifetime).min(reference.not_after);
        let mut salt = [0; SALT_LEN];
        getrandom::fill(&mut salt).ok()?;
        let state = (state.as_bytes(), expires);
        ticket::seal_state(&self.roots, &purpose(), &self.audience, state, salt)
            .ok()
            .map(|sealed| ticket::to_cookie(&sealed))
    }

    fn open(&self, text: &str, now: FileTime) -> Option<Reference> {
        let sealed = ticket::from_cookie(text).ok()?;
        let state = ticket::open_state(&self.roots, &purpose(), &self.audience, now, &sealed).ok()?;
        Reference::of_state(&state)
    }
}

fn purpose() -> Name {
    Name::new(PURPOSE).expect("it is a name")
}

impl Reference {
    /// The method is known only of accounts in the own store.
    fn new(identity: &Identity, decision: &str) -> Self {
        let text = |text: Option<&'static str>| text.map(ToOwned::to_owned);
        Self {
            decision: decision.to_owned(),
            sid: identity.sid,
            not_after: identity.not_after,
            method: text(identity.method),
            strength: identity.assurance.name().to_owned(),
            rule: text(identity.assurance.rule()),
            policy_revision: identity.policy_revision,
            copy: identity.method.is_none().then(|| identity.clone()),
        }
    }

    /// The SID of the account.
    pub(crate) fn sid(&self) -> Sid {
        self.sid
    }

    /// The account, if it is elsewhere.
    pub(crate) fn copy(&self) -> Option<&Identity> {
        self.copy.as_ref()
    }

    /// All of an identity, as an application gets it. `identity` is the account as it is now.
    pub(crate) fn whole(&self, identity: &Identity, user: &str) -> Value {
        let groups =
            identity.groups.iter().map(|group| json!({ "sid": group.sid.to_string(), "name": group.name }));
        json!({
            "decision": self.decision,
            "user": user,
            "domain": identity.domain,
            "account": identity.account,
            "sid": self.sid.to_string(),
            "upn": identity.upn,
            "full_name": identity.full_name,
            "mail": identity.mail,
            "groups": groups.collect::<Vec<_>>(),
            "method": self.method,
            "strength": self.strength,
            "rule": self.rule,
            "policy_revision": self.policy_revision,
            "stale_s": identity.stale_s,
        })
    }

    /// None if it is too long, or has what accounts elsewhere do not have.
    fn state(&self) -> Option<String> {
        let copy = match &self.copy {
            None => Value::Null,
            Some(copy) => copy_state(copy)?,
        };
        let state = json!({
            "d": self.decision, "s": self.sid.to_string(), "n": self.not_after.0, "m": self.method,
            "t": self.strength, "r": self.rule, "p": self.policy_revision, "c": copy,
        });
        Some(state.to_string()).filter(|state| state.len() <= STATE_LEN_MAX)
    }

    fn of_state(state: &[u8]) -> Option<Self> {
        let state: Value = serde_json::from_slice(state).ok()?;
        let sid: Sid = state["s"].as_str()?.parse().ok()?;
        let (not_after, policy_revision) = (FileTime(state["n"].as_u64()?), state["p"].as_u64()?);
        let copy = match &state["c"] {
            Value::Null => None,
            copy => Some(Identity { not_after, policy_revision, ..identity_of_copy(copy, sid)? }),
        };
        Some(Self {
            decision: text(&state["d"])?,
            sid,
            not_after,
            method: text(&state["m"]),
            strength: text(&state["t"])?,
            rule: text(&state["r"]),
            policy_revision,
            copy,
        })
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(ToOwned::to_owned)
}

fn copy_state(copy: &Identity) -> Option<Value> {
    if copy.mail.is_some() || copy.groups.iter().any(|group| group.name.is_some()) {
        return None;
    }
    let domain = copy.sid.split_rid().map(|(domain, _)| domain);
    let rid_of = |group: &Group| domain.as_ref().and_then(|domain| group.sid.rid_in(domain));
    let state = |group: &Group| rid_of(group).map_or_else(|| json!(group.sid.to_string()), |rid| json!(rid));
    Some(json!({
        "d": copy.domain, "o": copy.is_ours, "a": copy.account, "u": copy.upn, "f": copy.full_name,
        "g": copy.groups.iter().map(state).collect::<Vec<_>>(),
    }))
}

/// Its strength is in the reference.
fn identity_of_copy(copy: &Value, sid: Sid) -> Option<Identity> {
    let domain = sid.split_rid().map(|(domain, _)| domain);
    let group = |value: &Value| {
        let sid = match value {
            Value::String(sid) => sid.parse().ok()?,
            rid => domain.as_ref()?.with_rid(u32::try_from(rid.as_u64()?).ok()?)?,
        };
        Some(Group { sid, name: None })
    };
    Some(Identity {
        domain: text(&copy["d"])?,
        is_ours: copy["o"].as_bool()?,
        account: text(&copy["a"])?,
        upn: text(&copy["u"]),
        full_name: text(&copy["f"]),
        mail: None,
        sid,
        groups: copy["g"].as_array()?.iter().map(group).collect::<Option<_>>()?,
        method: None,
        assurance: Assurance::Unknown,
        policy_revision: 0,
        stale_s: None,
        not_after: FileTime::NEVER,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scene::{alice, sid};
    use ticket::Root;

    fn now() -> FileTime {
        FileTime::from_unix(1_900_000_000)
    }

    fn root(generation: u32) -> Root {
        Root::new(generation, [u8::try_from(generation).expect("a small number"); Root::LEN])
    }

    fn node(roots: Roots, audience: &str) -> References {
        let audience = Name::new(audience).expect("a name");
        References::new(Some(SharedReferences { roots, audience, lifetime: Duration::from_secs(600) }), 1)
    }

    fn roots(generations: &[u32]) -> Roots {
        Roots::new(generations.iter().map(|generation| root(*generation)).collect()).expect("they are good")
    }

    /// What comes over Netlogon, with so many groups.
    fn from_elsewhere(groups: u32) -> Identity {
        let others = ["S-1-5-21-4-5-6-1200", "S-1-5-32-545"].map(sid);
        let groups = (0..groups).map(|rid| sid(&format!("S-1-5-21-1-2-3-{}", 1100 + rid))).chain(others);
        let groups = groups.map(|sid| Group { sid, name: None }).collect();
        Identity { groups, method: None, assurance: Assurance::Strong(None), ..alice() }
    }

    #[test]
    fn a_reference_of_one_node_is_known_to_another_one() {
        let [one, other] = ["farm"; 2].map(|audience| node(roots(&[1]), audience));
        for identity in [
            alice(),
            from_elsewhere(0),
            from_elsewhere(150),
            Identity { upn: None, full_name: None, ..from_elsewhere(1) },
        ] {
            let text = one.make(&identity, &"d".repeat(32), now());
            let found = other.find(&text, now()).expect("it opens");
            assert_eq!(*found, Reference::new(&identity, &"d".repeat(32)).without_assurance());
            assert_eq!(found.copy().is_some(), identity.method.is_none());
            let whole = found.whole(&identity, "alice");
            assert_eq!((&whole["strength"], &whole["policy_revision"]), (&json!("strong"), &json!(7)));
            // Anyone may read a request, and the text says nothing.
            assert!(!text.contains("alice") && text.len() <= 1640, "{}", text.len());
            let mut changed = text.into_bytes();
            changed[60] ^= 1;
            assert_eq!(other.find(&String::from_utf8_lossy(&changed), now()), None);
        }
    }

    #[test]
    fn a_reference_ends_and_is_of_its_nodes_alone() {
        let one = node(roots(&[1]), "farm");
        let text = one.make(&alice(), "d", now());
        let at = |seconds| now() + Duration::from_secs(seconds);
        assert!(one.find(&text, at(599)).is_some() && one.find(&text, at(600)).is_none());
        assert_eq!(node(roots(&[1]), "other").find(&text, now()), None);
        assert_eq!(node(roots(&[2]), "farm").find(&text, now()), None);
        assert_eq!(References::new(None, 1).find(&text, now()), None);
        // While the keys are exchanged, each node knows both.
        let older = node(roots(&[1, 2]).sealing_with(1).expect("it is there"), "farm");
        assert!(older.find(&text, now()).is_some());
        let text = node(roots(&[1, 2]), "farm").make(&alice(), "d", now());
        assert!(older.find(&text, now()).is_some());
        // An account that ends before the reference does.
        let ends = Identity { not_after: at(5), ..alice() };
        let text = one.make(&ends, "d", now());
        assert!(one.find(&text, at(4)).is_some() && one.find(&text, at(5)).is_none());
    }

    #[test]
    fn what_does_not_fit_stays_with_its_node() {
        let [one, other] = ["farm"; 2].map(|audience| node(roots(&[1]), audience));
        let text = one.make(&from_elsewhere(1000), "d", now());
        assert_eq!(text, "d");
        assert_eq!(
            one.find(&text, now()).map(|found| found.copy().map(|it| it.groups.len())),
            Some(Some(1002))
        );
        assert_eq!(other.find(&text, now()), None);
        let after = node(roots(&[2]), "farm").after(&one);
        assert!(after.find(&text, now()).is_some(), "a reload keeps it");
        assert_eq!(one.find(&text, alice().not_after), None, "the account has ended");
    }

    impl Reference {
        fn without_assurance(self) -> Self {
            let copy = self.copy.map(|copy| Identity { assurance: Assurance::Unknown, ..copy });
            Self { copy, ..self }
        }
    }
}
