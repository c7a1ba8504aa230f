//! Which users may obtain the secret ([MS-SSP] 3.1.1, 3.1.4.1: "SSO administrator"). Evaluated for each call.

use dtyp::Sid;
use rpc_auth::kerberos::RealmKind;
use rpc_auth::{IdentitySource, UserIdentity};
use std::fmt;
use std::str::FromStr;

/// One entry of the list of SSO administrators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Administrator {
    /// `sid:S-1-5-21-…`: an account or a group of an account domain.
    Sid(Sid),
    /// `principal:NAME@REALM`: a Kerberos client without SIDs, of a realm that has none.
    Principal {
        /// The name before the `@`, compared octet for octet as Kerberos does.
        name: String,
        /// The realm.
        realm: String,
    },
    /// `local:NAME`: an account of this server's own store.
    Local {
        /// Its name when the configuration was loaded.
        name: String,
        /// The account that had the name then. `None` before it was looked up, and if there was none: then no
        /// user matches. A name that another account gets later does not count.
        sid: Option<Sid>,
    },
}

/// Why an entry is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryRefused {
    /// It has none of the known forms.
    Form,
    /// The SID is well-known or built-in: it names no account or group of a domain.
    BuiltIn(Sid),
    /// Every user or computer of the domain, or its guests, have this SID.
    Everyone(Sid),
}

impl fmt::Display for EntryRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str("this is not an SSO administrator"),
            Self::BuiltIn(sid) => write!(f, "{sid} is a well-known or built-in SID"),
            Self::Everyone(sid) => {
                write!(
                    f,
                    "{sid} is a predefined group that guests, or all users or computers of the domain, are in"
                )
            }
        }
    }
}

impl std::error::Error for EntryRefused {}

/// Predefined relative identifiers ([MS-DTYP] 2.4.2.4) that no list of administrators may name: the guest,
/// the users, the guests and the computers of a domain.
const RIDS_OF_EVERYONE: [u32; 4] = [501, 513, 514, 515];

impl FromStr for Administrator {
    type Err = EntryRefused;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, value) = text.split_once(':').ok_or(EntryRefused::Form)?;
        match kind {
            "sid" => {
                let sid: Sid = value.parse().map_err(|_| EntryRefused::Form)?;
                let (domain, rid) = sid.split_rid().ok_or(EntryRefused::BuiltIn(sid))?;
                // Everything outside of account domains is well-known or built-in, and so is S-1-5-21-0-0-0.
                if !domain.is_domain() || domain.sub_authorities()[1..] == [0, 0, 0] {
                    return Err(EntryRefused::BuiltIn(sid));
                }
                match RIDS_OF_EVERYONE.contains(&rid) {
                    true => Err(EntryRefused::Everyone(sid)),
                    false => Ok(Self::Sid(sid)),
                }
            }
            "principal" => match value.rsplit_once('@') {
                Some((name, realm)) if !name.is_empty() && !realm.is_empty() => {
                    Ok(Self::Principal { name: name.to_owned(), realm: realm.to_owned() })
                }
                _ => Err(EntryRefused::Form),
            },
            "local" if !value.is_empty() && !value.contains(['\\', '@']) => {
                Ok(Self::Local { name: value.to_owned(), sid: None })
            }
            _ => Err(EntryRefused::Form),
        }
    }
}

impl fmt::Display for Administrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sid(sid) => write!(f, "sid:{sid}"),
            Self::Principal { name, realm } => write!(f, "principal:{name}@{realm}"),
            Self::Local { name, .. } => write!(f, "local:{name}"),
        }
    }
}

/// The list. One entry that matches suffices. An empty list means that SSO is not configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Administrators(pub Vec<Administrator>);

impl Administrators {
    /// The accounts of the local store that are named, to be looked up when the configuration is loaded.
    pub fn local_accounts(&mut self) -> impl Iterator<Item = (&str, &mut Option<Sid>)> {
        self.0.iter_mut().filter_map(|entry| match entry {
            Administrator::Local { name, sid } => Some((&**name, sid)),
            Administrator::Sid(_) | Administrator::Principal { .. } => None,
        })
    }
}

/// By which rules an identity is compared with the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessRules {
    /// The list.
    pub administrators: Administrators,
    /// The kind of each realm; `principal:` entries match in realms of kind [`RealmKind::Mit`] only.
    pub realms: Vec<(String, RealmKind)>,
    /// The account domain of the local store, if its users can authenticate here.
    pub own_domain: Option<LocalDomain>,
    /// For a domain or realm: the account domains whose SIDs its users may have. SIDs of other domains do not
    /// count. Users of a domain or realm without an entry may have SIDs of their own account domain only.
    pub sid_filters: Vec<(String, Vec<Sid>)>,
    /// Whether users of delegated tickets may obtain the secret.
    pub allow_delegated: bool,
}

/// The account domain of the local store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalDomain {
    /// Its NetBIOS name, under which its own domain controllers are asked.
    pub netbios: String,
    /// Its SID.
    pub sid: Sid,
}

/// Why a user may not obtain the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// No entry matches.
    NotAdministrator,
    /// The ticket was delegated through these services, or a service asserted the user.
    Delegated(Vec<String>),
    /// The account is gone or may not be used any more.
    AccountGone,
}

impl Denial {
    /// One word for the audit log and metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NotAdministrator => "not-administrator",
            Self::Delegated(_) => "delegated",
            Self::AccountGone => "account-gone",
        }
    }
}

impl AccessRules {
    /// The entry by which the user is an administrator.
    pub fn check(&self, user: &UserIdentity) -> Result<&Administrator, Denial> {
        // S4U2Self and S4U2Proxy let a service get a ticket for a user who was never there.
        if !self.allow_delegated && user.is_delegated() {
            return Err(Denial::Delegated(user.delegated_by.clone()));
        }
        let found = self.administrators.0.iter().find(|entry| self.matches(entry, user));
        found.ok_or(Denial::NotAdministrator)
    }

    fn matches(&self, entry: &Administrator, user: &UserIdentity) -> bool {
        match entry {
            Administrator::Sid(sid) => {
                (user.sid.as_ref() == Some(sid) || user.groups.contains(sid)) && self.may_have(user, sid)
            }
            Administrator::Principal { name, realm } => {
                matches!(user.source, IdentitySource::Ticket { .. })
                    && user.sid.is_none()
                    && self.realms.iter().any(|(known, kind)| known == realm && *kind == RealmKind::Mit)
                    && user.domain == *realm
                    && user.name == *name
            }
            Administrator::Local { sid, .. } => {
                user.source == IdentitySource::LocalStore && sid.is_some() && user.sid == *sid
            }
        }
    }

    /// SID filtering: whether what proved the user may give a user this SID.
    pub fn may_have(&self, user: &UserIdentity, sid: &Sid) -> bool {
        let (authority, is_own_controller) = match &user.source {
            IdentitySource::LocalStore => return true,
            IdentitySource::DomainController { domain } => {
                let own = self.own_domain.as_ref();
                (domain, own.is_some_and(|own| own.netbios.eq_ignore_ascii_case(domain)))
            }
            IdentitySource::Ticket { .. } => (&user.domain, false),
        };
        // A KDC, or the controller of another domain, does not decide who is a member of a group of the local
        // store.
        let is_own = self.own_domain.as_ref().is_some_and(|own| sid.rid_in(&own.sid).is_some());
        if is_own && !is_own_controller {
            return false;
        }
        let is_in = |domains: &[Sid]| domains.iter().any(|domain| sid.rid_in(domain).is_some());
        match self.sid_filters.iter().find(|(name, _)| name.eq_ignore_ascii_case(authority)) {
            Some((_, domains)) => is_in(domains),
            None => {
                let own = user.sid.as_ref().and_then(Sid::split_rid);
                own.is_some_and(|(domain, _)| sid.rid_in(&domain).is_some())
                    // A domain that the configuration gives to another authority is that authority's alone.
                    && !self.sid_filters.iter().any(|(_, domains)| is_in(domains))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sid(text: &str) -> Sid {
        text.parse().expect("a SID")
    }

    fn user(source: IdentitySource) -> UserIdentity {
        UserIdentity {
            name: "ssoadmin".into(),
            domain: "EXAMPLE.TEST".into(),
            sid: Some(sid("S-1-5-21-1-2-3-1104")),
            groups: vec![sid("S-1-5-21-1-2-3-1200"), sid("S-1-5-21-9-9-9-2000")],
            source,
            password: None,
            delegated_by: Vec::new(),
            expires: None,
        }
    }

    fn ticket() -> IdentitySource {
        IdentitySource::Ticket { keytab_principal: "host/sso.example.test@EXAMPLE.TEST".into() }
    }

    fn rules(entry: &str) -> AccessRules {
        AccessRules {
            administrators: Administrators(vec![entry.parse().expect("an entry")]),
            realms: vec![
                ("EXAMPLE.TEST".into(), RealmKind::Mit),
                ("AD.TEST".into(), RealmKind::ActiveDirectory),
            ],
            ..AccessRules::default()
        }
    }

    #[test]
    fn refuses_built_in_and_well_known_sids() {
        for refused in [
            "S-1-1-0",
            "S-1-2-0",
            "S-1-3-0",
            "S-1-5-7",
            "S-1-5-9",
            "S-1-5-11",
            "S-1-5-18",
            "S-1-5-19",
            "S-1-5-20",
            "S-1-5-32-544",
            "S-1-5-32-545",
            "S-1-5-80-0",
            "S-1-16-12288",
            "S-1-18-1",
            "S-1-18-2",
            "S-1-5-21-0-0-0-497",
            "S-1-5-21-1-2-3",
        ] {
            let parsed = format!("sid:{refused}").parse::<Administrator>();
            assert_eq!(parsed, Err(EntryRefused::BuiltIn(sid(refused))), "{refused}");
        }
        for rid in [501, 513, 514, 515] {
            let text = format!("S-1-5-21-1-2-3-{rid}");
            assert_eq!(
                format!("sid:{text}").parse::<Administrator>(),
                Err(EntryRefused::Everyone(sid(&text)))
            );
        }
        for form in [
            "",
            "sid",
            "sid:",
            "sid:ssoadmin",
            "user:x",
            "principal:x",
            "principal:@R",
            "principal:x@",
            "local:",
            "local:D\\x",
            "SID:S-1-5-21-1-2-3-1104",
        ] {
            assert_eq!(form.parse::<Administrator>(), Err(EntryRefused::Form), "{form}");
        }
        for entry in
            ["sid:S-1-5-21-1-2-3-1104", "sid:S-1-5-21-1-2-3-512", "principal:a/b@R", "local:ssoadmin"]
        {
            assert_eq!(entry.parse::<Administrator>().expect(entry).to_string(), entry);
        }
    }

    #[test]
    fn matches_a_sid_of_account_or_group_from_each_source() {
        let controller = IdentitySource::DomainController { domain: "EXAMPLE".into() };
        for source in [IdentitySource::LocalStore, controller, ticket()] {
            for entry in ["sid:S-1-5-21-1-2-3-1104", "sid:S-1-5-21-1-2-3-1200"] {
                assert!(rules(entry).check(&user(source.clone())).is_ok(), "{entry} {source:?}");
            }
            let other = rules("sid:S-1-5-21-1-2-3-1105");
            assert_eq!(other.check(&user(source)), Err(Denial::NotAdministrator));
        }
        assert_eq!(AccessRules::default().check(&user(ticket())), Err(Denial::NotAdministrator));
    }

    #[test]
    fn sid_of_another_domain_does_not_count_behind_a_filter() {
        let mut rules = rules("sid:S-1-5-21-9-9-9-2000");
        rules.sid_filters = vec![("example.test".into(), vec![sid("S-1-5-21-1-2-3")])];
        assert_eq!(rules.check(&user(ticket())), Err(Denial::NotAdministrator));
        assert!(rules.check(&user(IdentitySource::LocalStore)).is_ok());
        rules.sid_filters[0].1.push(sid("S-1-5-21-9-9-9"));
        assert!(rules.check(&user(ticket())).is_ok());
    }

    #[test]
    fn without_a_filter_only_sids_of_the_users_own_domain_count() {
        let rules = rules("sid:S-1-5-21-9-9-9-2000");
        let controller = IdentitySource::DomainController { domain: "EXAMPLE".into() };
        for source in [controller, ticket()] {
            assert_eq!(rules.check(&user(source.clone())), Err(Denial::NotAdministrator), "{source:?}");
            // A ticket without a SID of the user has no domain whose SIDs could count.
            let without = UserIdentity { sid: None, ..user(source) };
            assert_eq!(rules.check(&without), Err(Denial::NotAdministrator));
            let of_the_domain = UserIdentity { sid: Some(sid("S-1-5-21-9-9-9-1104")), ..without };
            assert!(rules.check(&of_the_domain).is_ok());
        }
        assert!(rules.check(&user(IdentitySource::LocalStore)).is_ok());
    }

    #[test]
    fn without_a_filter_sids_of_a_domain_that_another_realm_has_do_not_count() {
        let mut rules = rules("sid:S-1-5-21-1-2-3-1104");
        assert!(rules.check(&user(ticket())).is_ok());
        rules.sid_filters = vec![("OTHER.TEST".into(), vec![sid("S-1-5-21-1-2-3")])];
        assert_eq!(rules.check(&user(ticket())), Err(Denial::NotAdministrator));
        let other = UserIdentity { domain: "OTHER.TEST".into(), ..user(ticket()) };
        assert!(rules.check(&other).is_ok());
    }

    #[test]
    fn sids_of_the_local_stores_domain_count_only_from_there_or_from_its_own_controller() {
        let mut rules = rules("sid:S-1-5-21-9-9-9-2000");
        rules.own_domain = Some(LocalDomain { netbios: "CONTOSO".into(), sid: sid("S-1-5-21-9-9-9") });
        let controller = |domain: &str| IdentitySource::DomainController { domain: domain.into() };
        // Whether the user claims to be of that domain, and whether the configuration allows it.
        for filters in [
            Vec::new(),
            ["example.test", "evil", "contoso"]
                .map(|name| (name.into(), vec![sid("S-1-5-21-9-9-9")]))
                .to_vec(),
        ] {
            rules.sid_filters = filters;
            for own in ["S-1-5-21-1-2-3-1104", "S-1-5-21-9-9-9-2000"] {
                let user = |source| UserIdentity { sid: Some(sid(own)), ..user(source) };
                for refused in [ticket(), controller("EVIL")] {
                    assert_eq!(rules.check(&user(refused)), Err(Denial::NotAdministrator), "{own}");
                }
                assert!(rules.check(&user(IdentitySource::LocalStore)).is_ok());
            }
            let of_the_domain =
                UserIdentity { sid: Some(sid("S-1-5-21-9-9-9-1104")), ..user(controller("Contoso")) };
            assert!(rules.check(&of_the_domain).is_ok());
        }
    }

    #[test]
    fn principal_matches_only_without_sids_in_a_realm_of_kind_mit() {
        let rules = rules("principal:ssoadmin@EXAMPLE.TEST");
        let without_sids = UserIdentity { sid: None, groups: Vec::new(), ..user(ticket()) };
        assert!(rules.check(&without_sids).is_ok());
        let refused = [
            user(ticket()),
            UserIdentity { name: "SSOADMIN".into(), ..without_sids.clone() },
            UserIdentity { domain: "OTHER.TEST".into(), ..without_sids.clone() },
            UserIdentity { source: IdentitySource::LocalStore, ..without_sids.clone() },
        ];
        for user in refused {
            assert_eq!(rules.check(&user), Err(Denial::NotAdministrator), "{user:?}");
        }
        let ad = AccessRules { realms: vec![("EXAMPLE.TEST".into(), RealmKind::ActiveDirectory)], ..rules };
        assert_eq!(ad.check(&without_sids), Err(Denial::NotAdministrator));
    }

    #[test]
    fn local_entry_matches_an_account_of_the_local_store_alone() {
        let mut rules = rules("local:SsoAdmin");
        assert_eq!(rules.check(&user(IdentitySource::LocalStore)), Err(Denial::NotAdministrator));
        let (name, found) = rules.administrators.local_accounts().next().expect("there is one");
        assert_eq!(name, "SsoAdmin");
        *found = Some(sid("S-1-5-21-1-2-3-1104"));
        // The account counts, whatever it is called now; another one of the name does not.
        let renamed = UserIdentity { name: "renamed".into(), ..user(IdentitySource::LocalStore) };
        assert!(rules.check(&renamed).is_ok());
        let named =
            UserIdentity { sid: Some(sid("S-1-5-21-1-2-3-1105")), ..user(IdentitySource::LocalStore) };
        assert_eq!(rules.check(&named), Err(Denial::NotAdministrator));
        assert!(rules.check(&user(IdentitySource::LocalStore)).is_ok());
        assert_eq!(rules.check(&user(ticket())), Err(Denial::NotAdministrator));
        let controller = IdentitySource::DomainController { domain: "EXAMPLE".into() };
        assert_eq!(rules.check(&user(controller)), Err(Denial::NotAdministrator));
    }

    #[test]
    fn delegated_ticket_is_refused_unless_allowed() {
        let mut rules = rules("sid:S-1-5-21-1-2-3-1104");
        let services = vec!["HTTP/web.example.test@EXAMPLE.TEST".to_owned()];
        let proxied = UserIdentity { delegated_by: services.clone(), ..user(ticket()) };
        assert_eq!(rules.check(&proxied), Err(Denial::Delegated(services)));
        let mut asserted = user(ticket());
        asserted.groups.push(Sid::SERVICE_ASSERTED_IDENTITY);
        assert_eq!(rules.check(&asserted), Err(Denial::Delegated(Vec::new())));
        rules.allow_delegated = true;
        assert!(rules.check(&proxied).is_ok() && rules.check(&asserted).is_ok());
    }
}
