//! `[sso]`: the master secret server.

use super::checked_domain::SidFilters;
use super::ntlm::{NtlmContext, NtlmSection};
use super::{CheckedDomain, Checker, Ntlm, Operator, OperatorSocket, SEAL_FORMS, SealRef};
use serde::Deserialize;
use sso_secret::Recipient;
use sso_service::{
    AccessRules, Administrator, Administrators, EntryRefused, LocalDomain, NdrRange, RealmKind,
};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;

/// `[sso]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sso {
    /// Addresses of the interface. With port 0 the system chooses a port, and the endpoint mapper names it.
    pub listen: Vec<SocketAddr>,
    /// Address of an endpoint mapper, if `[rpc]` does not configure one.
    pub endpoint_mapper: Option<SocketAddr>,
    /// Which users may obtain the secret.
    pub rules: AccessRules,
    /// Which sizes a request may ask for.
    pub ndr_range: NdrRange,
    /// How long a security context without an end of its own lives.
    pub max_context_age: Duration,
    /// How long calls are answered with RPC_S_SERVER_UNAVAILABLE before the port closes.
    pub drain: Duration,
    /// The folder of the sealed secret.
    pub folder: PathBuf,
    /// What the secret is sealed with.
    pub seal: SealRef,
    /// Which local users may change the secret, beside root and the owner of the folder.
    pub operators: Vec<Operator>,
    /// Where they reach the service.
    pub operator_socket: Option<OperatorSocket>,
    /// For which recipients operators may make backups.
    pub backup_recipients: Vec<Recipient>,
    /// NTLM, if it is allowed.
    pub ntlm: Option<Ntlm>,
    /// Kerberos, if it is configured.
    pub kerberos: Option<Kerberos>,
    /// Limits and timeouts of connections.
    pub limits: dcerpc_tokio::Limits,
}

impl Sso {
    /// Whether accounts of the local store authenticate, for which their NT hashes are needed.
    pub fn has_local_users(&self) -> bool {
        self.ntlm.as_ref().is_some_and(|ntlm| ntlm.local)
    }
}

/// `[sso.kerberos]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kerberos {
    /// The keytab.
    pub keytab: PathBuf,
    /// The services whose tickets are accepted; if empty, each principal of the keytab.
    pub services: Vec<String>,
    /// Realms whose principals may be clients, with their kind.
    pub realms: Vec<(String, RealmKind)>,
    /// How much a client's clock may differ.
    pub clock_skew: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    listen: Spanned<Vec<Spanned<String>>>,
    endpoint_mapper: Option<Spanned<String>>,
    #[serde(default)]
    administrators: Vec<Spanned<String>>,
    ndr_range: Option<Spanned<String>>,
    #[serde(default)]
    allow_delegated: bool,
    max_context_age_s: Option<Spanned<u64>>,
    drain_s: Option<Spanned<u64>>,
    folder: PathBuf,
    seal: Spanned<String>,
    operators: Option<Spanned<Vec<Spanned<String>>>>,
    operator_socket: Option<Spanned<PathBuf>>,
    operator_group: Option<String>,
    backup_recipients: Option<Spanned<Vec<Spanned<String>>>>,
    connections_max: Option<Spanned<u64>>,
    ntlm: Option<Spanned<NtlmSection>>,
    kerberos: Option<Spanned<KerberosSection>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KerberosSection {
    keytab: PathBuf,
    services: Option<Spanned<Vec<String>>>,
    clock_skew_s: Option<Spanned<u64>>,
    realm: Spanned<Vec<RealmSection>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RealmSection {
    name: Spanned<String>,
    kind: Spanned<String>,
    sids: Option<Spanned<Vec<Spanned<String>>>>,
}

/// What `[sso]` needs of the rest of the file.
pub(super) struct Beside<'a> {
    pub(super) ntlm: NtlmContext<'a>,
    pub(super) has_audit: bool,
    pub(super) has_mapper: bool,
    pub(super) domain: Option<LocalDomain>,
}

/// A day's work; after it a client authenticates anew, and groups that a domain controller withdrew are gone.
const CONTEXT_AGE_S: u64 = 8 * 3600;
/// Long enough for a client to see the code, short enough for a restart.
const DRAIN_S: u64 = 2;
const DRAIN_MAX_S: u64 = 60;
/// RFC 4120, section 3.1.3: "within the (adjustable) clock skew limit", 5 minutes everywhere.
const CLOCK_SKEW_S: u64 = 300;
/// A farm has some hundred nodes, and each asks now and then.
const CONNECTIONS_MAX: u64 = 1000;
const CONNECTIONS_LIMIT: u64 = 100_000;

/// Kerberos users of a domain may have the SIDs that its NTLM users may have, unless the realm names SIDs
/// itself.
fn filter_realm_of(domain: &CheckedDomain, realms: &[(String, RealmKind)], sid_filters: &mut SidFilters) {
    let is_of =
        |realm: &&String| domain.peer.names.first().is_some_and(|dns| dns.eq_ignore_ascii_case(realm));
    let sids =
        |of: &str, filters: &SidFilters| filters.iter().find(|(name, _)| name == of).map(|it| it.1.clone());
    let Some(realm) = realms.iter().map(|(realm, _)| realm).find(is_of) else { return };
    if let (None, Some(sids)) = (sids(realm, sid_filters), sids(&domain.peer.domain, sid_filters)) {
        sid_filters.push((realm.clone(), sids));
    }
}

impl Checker<'_> {
    pub(super) fn sso(&mut self, section: Spanned<Section>, beside: &Beside<'_>) -> Option<Sso> {
        let span = section.span();
        let mut section = section.into_inner();
        let (listen, endpoint_mapper) = self.sso_listeners(&section, beside.has_mapper);
        if !beside.has_audit {
            self.problem(
                span.clone(),
                "[sso] needs an audit log: the secret is delivered only after its delivery is recorded",
                "name a file: [audit] path = \"audit.log\"",
            );
        }
        if section.ntlm.is_none() && section.kerberos.is_none() {
            self.problem(
                span.clone(),
                "[sso] has no way to authenticate",
                "add [sso.kerberos] with a keytab, or [sso.ntlm]",
            );
        }
        let mut sid_filters = Vec::new();
        let ntlm = section.ntlm.take().map(|ntlm| self.ntlm(ntlm, &beside.ntlm, &mut sid_filters));
        // Without local users the domain's SIDs are those of an Active Directory domain that this server is a
        // member of.
        let has_local_users = beside.ntlm.has_accounts && ntlm.as_ref().is_some_and(|ntlm| ntlm.local);
        let own_domain = beside.domain.clone().filter(|_| has_local_users);
        let kerberos = section
            .kerberos
            .take()
            .map(|kerberos| self.kerberos(kerberos.into_inner(), own_domain.as_ref(), &mut sid_filters));
        let realms = kerberos.as_ref().map(|kerberos| kerberos.realms.clone()).unwrap_or_default();
        for domain in ntlm.iter().flat_map(|ntlm| &ntlm.domains) {
            filter_realm_of(domain, &realms, &mut sid_filters);
        }
        self.names_of_domains(span, &realms, ntlm.as_ref());
        let (operators, operator_socket) = self.operators(
            &section.operators,
            section.operator_socket.as_ref(),
            section.operator_group.as_ref(),
        );
        let backup_recipients = self.backup_recipients(&section.backup_recipients);
        let administrators = self.administrators(&section.administrators, &realms);
        let ranges = [("idl", NdrRange::Idl), ("prose", NdrRange::Prose)];
        let ndr_range = self.one_of(section.ndr_range.as_ref(), &ranges, "ndr_range").unwrap_or_default();
        let day = 1..=86_400;
        let max_context_age = self.seconds(section.max_context_age_s.as_ref(), day, CONTEXT_AGE_S);
        let drain = self.seconds(section.drain_s.as_ref(), 0..=DRAIN_MAX_S, DRAIN_S);
        let connections_max =
            self.count(section.connections_max.as_ref(), 16..=CONNECTIONS_LIMIT, CONNECTIONS_MAX);
        Some(Sso {
            listen,
            endpoint_mapper,
            rules: AccessRules {
                administrators,
                realms,
                own_domain,
                sid_filters,
                allow_delegated: section.allow_delegated,
            },
            ndr_range,
            max_context_age,
            drain,
            folder: self.path(&section.folder),
            seal: self.seal(&section.seal)?,
            operators,
            operator_socket,
            backup_recipients,
            ntlm,
            kerberos,
            limits: dcerpc_tokio::Limits { connections_max, ..dcerpc_tokio::Limits::default() },
        })
    }

    /// Where the interface listens, and its endpoint mapper.
    fn sso_listeners(
        &mut self,
        section: &Section,
        has_mapper: bool,
    ) -> (Vec<SocketAddr>, Option<SocketAddr>) {
        if section.listen.get_ref().is_empty() {
            self.problem(
                section.listen.span(),
                "listen is an empty list",
                "name an address, as in \"127.0.0.1:0\"",
            );
        }
        let listen: Vec<_> =
            section.listen.get_ref().iter().filter_map(|address| self.listens(address)).collect();
        if let (Some(mapper), true) = (&section.endpoint_mapper, has_mapper) {
            self.problem(
                mapper.span(),
                "[rpc] configures an endpoint mapper already",
                "remove this one: the endpoint mapper of [rpc] has the interface, too",
            );
        }
        let endpoint_mapper = section.endpoint_mapper.as_ref().and_then(|address| self.listens(address));
        let is_dynamic = listen.iter().any(|address| address.port() == 0);
        if is_dynamic && endpoint_mapper.is_none() && !has_mapper {
            self.problem(
                section.listen.span(),
                "no client can find port 0 without an endpoint mapper",
                "choose a port, or set endpoint_mapper",
            );
        }
        (listen, endpoint_mapper)
    }

    /// SIDs are filtered by the name of a realm or of a domain: no name may stand for both.
    fn names_of_domains(&mut self, span: Range<usize>, realms: &[(String, RealmKind)], ntlm: Option<&Ntlm>) {
        let shared = |domain: &&CheckedDomain| {
            realms.iter().any(|(realm, _)| realm.eq_ignore_ascii_case(&domain.peer.domain))
        };
        if let Some(shared) = ntlm.into_iter().flat_map(|ntlm| &ntlm.domains).find(shared) {
            self.problem(
                span,
                format!("{} is the name of a realm and of a domain of [sso.ntlm]", shared.peer.domain),
                "a realm has the DNS name of a domain in capital letters, and a domain of [sso.ntlm] its NetBIOS name",
            );
        }
    }

    fn administrators(
        &mut self,
        entries: &[Spanned<String>],
        realms: &[(String, RealmKind)],
    ) -> Administrators {
        let mut found = Vec::new();
        for entry in entries {
            match entry.get_ref().parse::<Administrator>() {
                Ok(Administrator::Principal { realm, .. })
                    if !realms.contains(&(realm.clone(), RealmKind::Mit)) =>
                {
                    self.problem(
                        entry.span(),
                        format!("{realm} is not a realm of kind \"mit\" in [sso.kerberos], so this matches no user"),
                        "name users of Active Directory and Samba by SID: \"sid:S-1-5-21-A-B-C-RID\"",
                    );
                }
                Ok(administrator) => found.push(administrator),
                Err(error) => {
                    let help = match error {
                        EntryRefused::Form => {
                            "write \"sid:S-1-5-21-A-B-C-RID\", \"local:NAME\" or \"principal:NAME@REALM\""
                        }
                        _ => {
                            "name an account or group of a domain that has SSO administrators and no other members"
                        }
                    };
                    self.problem(entry.span(), error.to_string(), help);
                }
            }
        }
        Administrators(found)
    }

    fn seal(&mut self, seal: &Spanned<String>) -> Option<SealRef> {
        let parsed = SealRef::parse(seal.get_ref(), self.base);
        parsed.inspect_err(|why| self.problem(seal.span(), why.clone(), SEAL_FORMS)).ok()
    }

    fn kerberos(
        &mut self,
        section: KerberosSection,
        own_domain: Option<&LocalDomain>,
        sid_filters: &mut Vec<(String, Vec<dtyp::Sid>)>,
    ) -> Kerberos {
        if section.realm.get_ref().is_empty() {
            self.problem(
                section.realm.span(),
                "no realm may have clients",
                "add [[sso.kerberos.realm]] with name and kind",
            );
        }
        let mut realms: Vec<(String, RealmKind)> = Vec::new();
        for realm in section.realm.get_ref() {
            let kinds = [("ad", RealmKind::ActiveDirectory), ("mit", RealmKind::Mit)];
            let name = realm.name.get_ref();
            if realms.iter().any(|(known, _)| known == name) {
                self.problem(realm.name.span(), "this realm is named twice", "remove one of the two");
            }
            let help = "an empty list would let no SID count: name the SIDs of domains, or remove the key";
            let sids = self.restricting("sids", &realm.sids, help);
            let mut domains = Vec::new();
            for sid in sids {
                let Some(domain) = self.domain_sid(sid) else { continue };
                if own_domain.is_some_and(|own| own.sid == domain) {
                    self.problem(
                        sid.span(),
                        "this is the SID of [domain]: its SIDs count from the store alone, never from a ticket",
                        "remove it; if its users are known by tickets alone, set local = false in [sso.ntlm]",
                    );
                }
                domains.push(domain);
            }
            if !domains.is_empty() {
                sid_filters.push((name.clone(), domains));
            }
            if let Some(kind) = self.one_of(Some(&realm.kind), &kinds, "kind of realm") {
                realms.push((name.clone(), kind));
            }
        }
        let clock_skew = self.seconds(section.clock_skew_s.as_ref(), 1..=3600, CLOCK_SKEW_S);
        let help = "name the services, or remove the key: then each principal of the keytab is one";
        let services = self.restricting("services", &section.services, help).to_vec();
        Kerberos { keytab: self.path(&section.keytab), services, realms, clock_skew }
    }
}
