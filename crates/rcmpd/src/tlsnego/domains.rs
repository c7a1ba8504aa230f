//! Passwords of users of other domains: each is checked by a controller of its domain, as a network logon
//! over our secure channel.

use super::accounts::Accounts;
use crate::checked_domains::CheckedDomain;
use crate::clock::now;
use crate::config::{self, Config};
use crate::random;
use dtyp::{FileTime, Sid};
use netlogon_tokio::Servers;
use rpc_auth::UserIdentity;
use rpc_auth::ntlm::{
    DomainNames, NtHash, NtlmProof, PlainUser, ProofVerdict, ServerNames, StoreChoice, choose_store,
};
use sidecar::{Assurance, Group, Identity};
use sso_service::AccessRules;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tlsnego_service::session::{self, StoreFailed};

/// The domains of `[[tlsnego.domain]]`.
pub(super) struct UserDomains {
    /// Of each domain, in the same order.
    names: Vec<DomainNames>,
    domains: Vec<UserDomain>,
    sid_rules: AccessRules,
}

struct UserDomain {
    domain: CheckedDomain,
    sid: Sid,
    /// This server as a member of the domain: hardened controllers compare it with the account of the
    /// channel.
    server: ServerNames,
    connections_max: usize,
}

/// A user of one of the domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DomainUser<'n> {
    /// The index of the domain.
    pub(super) at: usize,
    domain: &'n str,
    user: &'n str,
}

impl DomainUser<'_> {
    /// The name without the domain in front.
    pub(super) const fn name(&self) -> &str {
        self.user
    }
}

/// This server in a domain.
fn member_of(config: &Config, peer: &config::Peer) -> ServerNames {
    // INVARIANT: the configuration demands a name; without one the names would fit no account.
    let dns = peer.names.first().map(String::as_str).unwrap_or_default();
    ServerNames::of_member(&config.server, &peer.domain, dns)
}

/// Domains whose controllers would refuse each password, because the proof does not carry the names of the
/// channel's account.
pub(super) fn misfits(config: &Config, section: &config::Tlsnego) -> Vec<String> {
    let peers = section.domains.iter().map(|domain| &domain.peer);
    let found = peers.filter_map(|peer| {
        Some((&peer.domain, member_of(config, peer).fit_channel(&peer.account, &peer.domain).err()?))
    });
    found.map(|(domain, misfit)| format!("[[tlsnego.domain]] {domain}: {misfit}")).collect()
}

impl UserDomains {
    /// The domains of a configuration. Opens no connection.
    pub(super) fn new(config: &Config, section: &config::Tlsnego) -> anyhow::Result<Self> {
        let checked = CheckedDomain::all(config, &section.domains)?;
        let names = checked.iter().map(|domain| domain.names.clone()).collect();
        let domains = checked.into_iter().zip(&section.domains);
        let domains = domains.map(|(domain, config::CheckedDomain { peer, .. })| UserDomain {
            domain,
            sid: peer.sid,
            server: member_of(config, peer),
            connections_max: peer.connections_max,
        });
        Ok(Self { names, domains: domains.collect(), sid_rules: section.sid_rules.clone() })
    }

    /// The controllers, with the NetBIOS name of their domain.
    pub(super) fn controllers(&self) -> impl Iterator<Item = (&str, &Arc<Servers>)> {
        self.domains.iter().map(|it| (it.domain.domain.as_str(), &it.domain.servers))
    }

    /// How many passwords each domain checks at once.
    pub(super) fn parallel(&self) -> impl Iterator<Item = usize> {
        self.domains.iter().map(|domain| domain.connections_max)
    }

    /// The user that a name means, if it is of one of the domains: `DOMAIN\user`, or a user principal name.
    /// Such a name is never a local account.
    pub(super) fn user<'n>(&self, name: &'n str) -> Option<DomainUser<'n>> {
        if self.names.is_empty() {
            return None;
        }
        user_of(name, &self.names)
    }

    /// Whose password it is, by a controller of the domain, or why it is refused.
    pub(super) async fn check(
        &self,
        DomainUser { at, domain, user }: DomainUser<'_>,
        password: &str,
    ) -> Result<Result<session::Identity, String>, StoreFailed> {
        // INVARIANT: `user` gives an index of a domain.
        let of = &self.domains[at];
        // Without a name a logon is anonymous, and an empty password proves nothing.
        if user.is_empty() || password.is_empty() {
            return Ok(Err("no user name, or no password".to_owned()));
        }
        let user = PlainUser {
            user,
            domain,
            hash: NtHash::from_password(password),
            // Clients at one address are kept from delaying others by the queue of the domain.
            source: Ipv4Addr::UNSPECIFIED.into(),
        };
        let proof = NtlmProof::of_password(user, &of.server, now(), &mut random::fill);
        match of.domain.checker.check(&proof).await {
            ProofVerdict::Accepted { identity, .. } => {
                let user = accepted(&identity, &of.domain.domain, &of.sid, &self.sid_rules);
                Ok(user.map(|user| Accounts::of_identity(&user)).ok_or_else(|| {
                    format!("domain controller of {}: a user of another domain", of.domain.domain)
                }))
            }
            ProofVerdict::Rejected { detail, .. } => Ok(Err(detail)),
            ProofVerdict::Unavailable(error) => Err(StoreFailed(error)),
        }
    }
}

fn user_of<'n>(name: &'n str, names: &[DomainNames]) -> Option<DomainUser<'n>> {
    // A DNS name may end with a dot, and means the same.
    let absolute = |name: &'n str| match name {
        "." => name,
        _ => name.strip_suffix('.').unwrap_or(name),
    };
    let (domain, user) = match name.split_once('\\') {
        Some((domain, user)) => (absolute(domain), user),
        None => ("", name),
    };
    let user = if domain.is_empty() { absolute(user) } else { user };
    match choose_store(user, domain, &[], names) {
        StoreChoice::Domain(at) => Some(DomainUser { at, domain, user }),
        StoreChoice::Local | StoreChoice::Unknown => None,
    }
}

/// The user as the service behind the gateway sees it. The domain has its configured name, because services
/// compare names: a controller must not give its users the name of another domain. So its own SID has to be
/// of that domain, and groups count by the rules of `sids`.
fn accepted(user: &UserIdentity, domain: &str, domain_sid: &Sid, rules: &AccessRules) -> Option<Identity> {
    let sid = user.sid.filter(|sid| sid.rid_in(domain_sid).is_some() && rules.may_have(user, sid))?;
    let groups = user.groups.iter().filter(|group| rules.may_have(user, group));
    Some(Identity {
        domain: domain.to_owned(),
        is_ours: false,
        account: user.name.clone(),
        upn: None,
        full_name: None,
        mail: None,
        sid,
        groups: groups.map(|sid| Group { sid: *sid, name: None }).collect(),
        method: None,
        assurance: Assurance::Unknown,
        policy_revision: 0,
        stale_s: None,
        not_after: user.expires.unwrap_or(FileTime::NEVER),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rpc_auth::IdentitySource;
    use sso_service::LocalDomain;

    fn names() -> Vec<DomainNames> {
        let of = |netbios: &str, dns: &[&str]| DomainNames {
            netbios: netbios.to_owned(),
            dns: dns.iter().map(|&name| name.to_owned()).collect(),
        };
        vec![of("FABRIKAM", &["fabrikam.example", "fab.example"]), of("CONTOSO", &["contoso.example"])]
    }

    #[test]
    fn name_with_a_configured_domain_in_any_spelling_is_of_that_domain() {
        for (name, at, domain, user) in [
            (r"FABRIKAM\nora", 0, "FABRIKAM", "nora"),
            (r"fabrikam\nora", 0, "fabrikam", "nora"),
            (r"Fabrikam.Example\nora", 0, "Fabrikam.Example", "nora"),
            (r"fabrikam.example.\nora", 0, "fabrikam.example", "nora"),
            (r"CONTOSO.\nora", 1, "CONTOSO", "nora"),
            (r"CONTOSO\nora@fabrikam.example", 1, "CONTOSO", "nora@fabrikam.example"),
            ("nora@fabrikam.example", 0, "", "nora@fabrikam.example"),
            ("nora@FAB.example", 0, "", "nora@FAB.example"),
            ("nora@contoso.example.", 1, "", "nora@contoso.example"),
            ("a@b@contoso.example", 1, "", "a@b@contoso.example"),
            (r"\nora@contoso.example", 1, "", "nora@contoso.example"),
        ] {
            assert_eq!(user_of(name, &names()), Some(DomainUser { at, domain, user }), "{name}");
        }
        for name in
            ["nora", r".\nora", r"\nora", r"OTHER\nora", "nora@other.example", r".\nora@fabrikam.example", ""]
        {
            assert_eq!(user_of(name, &names()), None, "{name}");
        }
    }

    #[test]
    fn account_of_another_name_than_the_server_is_a_misfit() {
        let found = |account: &str| {
            let text = format!(
                "[domain]\nnetbios = \"CONTOSO\"\ndns = \"contoso.example\"\nsid = \"S-1-5-21-1-2-3\"\nserver = \"soap1\"\n\
                 [tlsnego]\nlisten = \"127.0.0.1:8310\"\naddresses = [\"http://a.example/\"]\ncertificate = \"c.pem\"\n\
                 key = \"c.key\"\ncredential = \"username\"\nupstream = \"http://127.0.0.1:8080/\"\nlocal = false\n\
                 [[tlsnego.domain]]\ndomain = \"FABRIKAM\"\nsid = \"S-1-5-21-4-5-6\"\nnames = [\"fabrikam.example\"]\n\
                 discovery = \"dns\"\nsecret = \"cred:a\"\n{account}\n"
            );
            let config = config::parse(&text, std::path::Path::new("/etc/rcmpd")).expect("it is good");
            misfits(&config, config.tlsnego.as_ref().expect("it is there"))
        };
        assert_eq!(found(""), [""; 0]);
        assert_eq!(found("account = \"Soap1$\""), [""; 0]);
        let other = found("account = \"WEB05$\"");
        assert!(
            other[0].starts_with("[[tlsnego.domain]] FABRIKAM: the NTLM computer name is SOAP1"),
            "{other:?}"
        );
    }

    #[test]
    fn controller_gives_its_users_no_name_or_sid_of_another_domain() {
        let sid = |text: &str| text.parse::<Sid>().expect("a SID");
        let user = |own: &str, groups: &[&str]| UserIdentity {
            name: "nora".into(),
            domain: "CONTOSO".into(),
            sid: Some(sid(own)),
            groups: groups.iter().map(|group| sid(group)).collect(),
            source: IdentitySource::DomainController { domain: "FABRIKAM".into() },
            password: None,
            delegated_by: vec![],
            expires: Some(FileTime::from_unix(1_900_000_000)),
        };
        let fabrikam = sid("S-1-5-21-4-5-6");
        let rules = AccessRules {
            own_domain: Some(LocalDomain { netbios: "CONTOSO".into(), sid: sid("S-1-5-21-1-2-3") }),
            sid_filters: vec![("FABRIKAM".into(), vec![fabrikam, sid("S-1-5-21-7-8-9")])],
            ..AccessRules::default()
        };
        let of = |user: &UserIdentity| accepted(user, "FABRIKAM", &fabrikam, &rules);
        let groups =
            ["S-1-5-21-4-5-6-513", "S-1-5-21-7-8-9-1200", "S-1-5-21-1-2-3-512", "S-1-5-32-544", "S-1-18-1"];
        let nora = of(&user("S-1-5-21-4-5-6-1105", &groups)).expect("a user of the domain");
        assert_eq!((&nora.domain[..], &nora.account[..], nora.is_ours), ("FABRIKAM", "nora", false));
        assert_eq!(nora.not_after, FileTime::from_unix(1_900_000_000));
        let counted: Vec<_> = nora.groups.iter().map(|group| group.sid).collect();
        assert_eq!(counted, [sid(groups[0]), sid(groups[1])]);
        for other in ["S-1-5-21-1-2-3-1105", "S-1-5-21-7-8-9-1105", "S-1-5-21-4-5-6", "S-1-5-32-544"] {
            assert_eq!(of(&user(other, &[])), None, "{other}");
        }
        assert_eq!(of(&UserIdentity { sid: None, ..user("S-1-5-21-4-5-6-1105", &[]) }), None);
    }
}
