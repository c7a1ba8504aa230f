//! What is in a case of the tables of decisions.
//!
//! Times are `0` for now, or an offset such as `-1d` (s, m, h, d). People are alice (1001), bob (1002) and
//! the computer web01$ (1003), whether a case speaks of them or not; a SID is theirs by name, `unreadable`,
//! or a literal. `accounts` tells what is different about them, `policy` and `trust` what is other than the
//! product's defaults, with ours as the only anchor.

use crate::stored;
use account_store::fold::Comparison;
use account_store::{
    Account, AccountAdmin, AccountFlags, AccountStore, BoxFuture, Change, Domain, Group, GroupScope, Matches,
    MemoryStore, Put, Query, Revision, StoreError,
};
use dtyp::{FileTime, NtStatus, Sid};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType, SerialNumber, date_time_ymd,
};
use rcmp_service::message::{MappingFlags, Request};
use rcmp_service::policy::{
    AuthorityPolicy, Grant, Grantee, Grants, Sha1PublicKeyInput, StrongName, StrongNameKind,
};
use rcmp_service::trace::Step;
use rcmp_service::trust::{KeyId, Parts, Trust};
use rcmp_service::{
    Answer, Asker, Binding, Contradiction, Form, Mapper, MapperParts, Policy, Question, Validation,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Wednesday 2024-01-17 21:20:00 UTC: hour 93 of the week.
const NOW: FileTime = FileTime(133_500_000_000_000_000);
const DOMAIN: &str = "S-1-5-21-1-2-3";

/// Groups beside the primary ones; interns are partners by being interns.
const GROUPS: [(&str, u32); 3] = [("Staff", 1102), ("Partners", 1103), ("Interns", 1104)];

/// Who signed a certificate, or what is behind who did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// The anchor that is configured unless a case says otherwise.
    Ours,
    /// It is configured nowhere; it has our name and another key.
    Second,
    /// An anchor with a name of its own.
    Partner,
    /// An anchor with our name and another key.
    Twin,
    /// An anchor whose name is ours but for case and an accent.
    Lookalike,
    /// An anchor that is expired.
    Expired,
    /// An intermediate below ours, which may certify for every policy.
    Intermediate,
    /// The same intermediate, certified by the partner for longer, and for no policy.
    Cross,
    /// An intermediate below the partner that has our name.
    Below,
}

impl Role {
    /// Who certified it, if not itself.
    const fn issuer(self) -> Option<Self> {
        match self {
            Self::Intermediate => Some(Self::Ours),
            Self::Cross | Self::Below => Some(Self::Partner),
            _ => None,
        }
    }

    fn name(self) -> DistinguishedName {
        match self {
            Self::Ours | Self::Second | Self::Twin | Self::Below => name("Contoso, Ltd.", "Demo CA"),
            Self::Lookalike => name("CONTOSO, LTD.", "D\u{e9}mo CA"),
            Self::Partner => name("Fabrikam", "Partner CA"),
            Self::Expired => name("Contoso, Ltd.", "Old CA"),
            Self::Intermediate | Self::Cross => name("Contoso, Ltd.", "Issuing CA"),
        }
    }

    fn certificate(self) -> Vec<u8> {
        AUTHORITIES[&self].der().to_vec()
    }

    fn key(self) -> KeyId {
        KeyId(Sha256::digest(stored::public_key(AUTHORITIES[&self].der())).into())
    }
}

/// Keys are made once: that is the slow part.
static AUTHORITIES: LazyLock<HashMap<Role, CertifiedIssuer<'static, KeyPair>>> = LazyLock::new(|| {
    let mut made: HashMap<Role, CertifiedIssuer<'static, KeyPair>> = HashMap::new();
    let issuing = KeyPair::generate().expect("a key");
    for role in [
        Role::Ours,
        Role::Second,
        Role::Partner,
        Role::Twin,
        Role::Lookalike,
        Role::Expired,
        Role::Intermediate,
        Role::Cross,
        Role::Below,
    ] {
        let mut params = CertificateParams::default();
        params.distinguished_name = role.name();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        if role == Role::Expired {
            params.not_after = date_time_ymd(2024, 1, 1);
        }
        if role == Role::Intermediate {
            // Of two certificates the one that is valid longer is tried first; the cross-certificate is.
            params.not_after = date_time_ymd(3000, 1, 1);
            // anyPolicy: it may certify for every policy.
            let any = wrap(0x30, &wrap(0x30, &wrap(0x06, &oid("2.5.29.32.0"))));
            params.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 32], any));
        }
        let key = match role {
            Role::Intermediate | Role::Cross => KeyPair::try_from(issuing.serialize_der()).expect("a key"),
            _ => KeyPair::generate().expect("a key"),
        };
        let certified = match role.issuer() {
            None => CertifiedIssuer::self_signed(params, key),
            Some(issuer) => CertifiedIssuer::signed_by(params, key, &*made[&issuer]),
        };
        made.insert(role, certified.expect("signed"));
    }
    made
});

/// The key of every certificate, and the one of those that have another.
static KEYS: LazyLock<[KeyPair; 2]> =
    LazyLock::new(|| std::array::from_fn(|_| KeyPair::generate().expect("a key")));

fn name(organization: &str, common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if !common_name.is_empty() {
        name.push(DnType::OrganizationName, organization);
        name.push(DnType::CommonName, common_name);
    }
    name
}

/// A case, but for `what`, `rule` and `differs`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    #[serde(default)]
    policy: PolicyCase,
    #[serde(default)]
    trust: TrustCase,
    /// What is presented.
    #[serde(default)]
    pub(crate) certificate: CertificateCase,
    /// What the mappings of accounts are computed from, if not from what is presented.
    stored: Option<CertificateCase>,
    #[serde(default)]
    accounts: BTreeMap<String, AccountCase>,
    /// Methods that the client asks for; `upn` and `subject` unless it is said.
    ask: Option<Vec<String>>,
    /// Authorities whose names the request carries; the issuer's unless it is said.
    names: Option<Vec<Role>>,
    /// The store cannot answer.
    #[serde(default)]
    store_down: bool,
    pub(crate) expect: Expect,
    /// Why it maps another account, or one at all, when something is not granted.
    pub(crate) names_two: Option<String>,
    /// Why it maps an account when an anchor is gone.
    pub(crate) two_ways: Option<String>,
}

/// Where it differs from the product's own defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyCase {
    methods: Option<Vec<String>>,
    binding: Option<String>,
    /// Seconds.
    backdating: Option<u64>,
    validation: Option<String>,
    grants: Option<Vec<String>>,
    #[serde(default)]
    authorities: BTreeMap<Role, AuthorityCase>,
    comparison: Option<Comparison>,
    name_comparison: Option<Comparison>,
    sha1: Option<String>,
    #[serde(default)]
    tell_restrictions: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorityCase {
    methods: Option<Vec<String>>,
    binding: Option<String>,
    backdating: Option<u64>,
    grants: Option<Vec<String>>,
    #[serde(default)]
    direct: bool,
    #[serde(default)]
    tuples: Vec<TupleCase>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TupleCase {
    policies: Vec<String>,
    /// `issuer-subject`, or `@` and a suffix.
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TrustCase {
    anchors: Vec<Role>,
    intermediates: Vec<Role>,
    usages: Vec<String>,
    usage_required: bool,
}

impl Default for TrustCase {
    fn default() -> Self {
        Self { anchors: vec![Role::Ours], intermediates: vec![], usages: vec![], usage_required: false }
    }
}

/// What is in a certificate.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CertificateCase {
    issuer: Role,
    /// The common name, in the organization Contoso, Ltd.; empty for an empty subject.
    subject: String,
    upn: Vec<String>,
    dns: Vec<String>,
    rfc822: Vec<String>,
    uri: Vec<String>,
    /// So many more DNS names.
    more_names: usize,
    /// In the extension.
    sid: Option<String>,
    /// In URIs.
    sid_uri: Vec<String>,
    policies: Vec<String>,
    usages: Vec<String>,
    not_before: String,
    not_after: String,
    ski: Option<String>,
    serial: String,
    other_key: bool,
    /// The subjectAltName cannot be read.
    broken_names: bool,
    /// It is a CA's.
    ca: bool,
    /// The last byte is cut off.
    truncated: bool,
}

impl Default for CertificateCase {
    fn default() -> Self {
        Self {
            issuer: Role::Ours,
            subject: "Alice Smith".into(),
            upn: vec![],
            dns: vec![],
            rfc822: vec![],
            uri: vec![],
            more_names: 0,
            sid: None,
            sid_uri: vec![],
            policies: vec![],
            usages: vec![],
            not_before: "-1d".into(),
            not_after: "+365d".into(),
            ski: None,
            // The published pair: 1200000000ac11000000002b.
            serial: "2b0000000011ac0000000012".into(),
            other_key: false,
            broken_names: false,
            ca: false,
            truncated: false,
        }
    }
}

/// What is different about an account.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountCase {
    /// Forms, or literal values. `issuer:ROLE` is the value for an authority.
    #[serde(default)]
    mappings: Vec<String>,
    upn: Option<String>,
    spn: Option<Vec<String>>,
    /// An offset, or `unknown`; thirty days ago unless it is said.
    created: Option<String>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    groups: Vec<String>,
    expires: Option<String>,
    /// Hours of the week from Sunday midnight.
    hours: Option<Vec<u8>>,
    #[serde(default)]
    absent: bool,
}

/// What is decided: an account with a method and a strength, or a reason with its event.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    account: Option<String>,
    method: Option<String>,
    #[serde(default)]
    weak: bool,
    /// The form that makes it strong.
    strong: Option<String>,
    reason: Option<String>,
    /// What the chain lacks.
    pub(crate) chain: Option<String>,
    pub(crate) event: Option<u16>,
    /// What the client is told; STATUS_LOGON_FAILURE for a refusal unless it is said.
    status: Option<String>,
}

impl Expect {
    pub(crate) fn decided(&self) -> String {
        match (&self.account, &self.method, self.weak, &self.strong, &self.reason) {
            (Some(account), Some(method), true, None, None) => format!("{account} by {method}, weak"),
            (Some(account), Some(method), false, Some(form), None) => {
                format!("{account} by {method}, strong by {form}")
            }
            (None, None, false, None, Some(reason)) => reason.clone(),
            other => panic!("an account has a method and a strength, or there is a reason: {other:?}"),
        }
    }

    /// [MS-ERREF] 2.3.
    pub(crate) fn status(&self) -> NtStatus {
        NtStatus(match (self.status.as_deref(), &self.account) {
            (None, Some(_)) => 0,
            (None, None) => 0xc000_006d,
            (Some("account_disabled"), None) => 0xc000_0072,
            (Some("account_locked_out"), None) => 0xc000_0234,
            (Some("account_expired"), None) => 0xc000_0193,
            (Some("invalid_logon_hours"), None) => 0xc000_006f,
            (Some("ds_busy"), None) => 0xc000_02a5,
            (other, _) => panic!("{other:?} is no status here"),
        })
    }
}

/// A case that is set up: everything that a decision is made from.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) policy: Policy,
    pub(crate) trust: Option<TrustSetting>,
    pub(crate) certificate: Vec<u8>,
    accounts: Vec<(Account, Vec<String>)>,
    ask: MappingFlags,
    names: Vec<Role>,
    store_down: bool,
}

/// What chains are verified by.
#[derive(Clone, Debug)]
pub(crate) struct TrustSetting {
    pub(crate) anchors: Vec<Role>,
    intermediates: Vec<Role>,
    usages: Vec<Vec<u8>>,
    usage_required: bool,
}

impl TrustSetting {
    /// Takes an anchor away, and the intermediates that only it vouches for.
    pub(crate) fn remove(&mut self, anchor: Role) {
        self.anchors.retain(|known| *known != anchor);
        self.intermediates.retain(|intermediate| intermediate.issuer() != Some(anchor));
    }

    fn trust(&self) -> Trust {
        let certificates = |roles: &[Role]| roles.iter().map(|role| role.certificate()).collect();
        let parts = Parts {
            anchors: certificates(&self.anchors),
            intermediates: certificates(&self.intermediates),
            extended_key_usages: self.usages.clone(),
            require_extended_key_usage: self.usage_required,
            ..Parts::default()
        };
        Trust::new(parts).expect("they are authorities")
    }
}

impl Case {
    /// Sets it up.
    pub(crate) fn setting(&self) -> Setting {
        let certificate = self.certificate.encoded();
        let stored = self.stored.as_ref().map_or_else(|| certificate.clone(), CertificateCase::encoded);
        let policy = self.policy.policy();
        let trust = (policy.validation != Validation::Off).then(|| TrustSetting {
            anchors: self.trust.anchors.clone(),
            intermediates: self.trust.intermediates.clone(),
            usages: self.trust.usages.iter().map(|usage| usage_id(usage)).collect(),
            usage_required: self.trust.usage_required,
        });
        let mut changes: BTreeMap<&str, &AccountCase> =
            self.accounts.iter().map(|(name, change)| (name.as_str(), change)).collect();
        let unchanged = AccountCase::default();
        let accounts = [("alice", 1001), ("bob", 1002), ("web01$", 1003)]
            .into_iter()
            .map(|(name, rid)| (name, rid, changes.remove(name).unwrap_or(&unchanged)))
            .filter(|(_, _, change)| !change.absent)
            .map(|(name, rid, change)| (change.account(name, rid, &stored), change.groups.clone()))
            .collect();
        assert!(changes.is_empty(), "no account is called {changes:?}");
        Setting {
            policy,
            trust,
            accounts,
            ask: methods(self.ask.as_deref().unwrap_or(&["upn".into(), "subject".into()])),
            names: self.names.clone().unwrap_or_else(|| vec![self.certificate.issuer]),
            store_down: self.store_down,
            certificate,
        }
    }
}

impl Setting {
    /// What is decided.
    pub(crate) fn answer(&self) -> Result<Answer, Contradiction> {
        let asker = Asker::machine("WEB01$", sid(1003), true);
        let question = Question::new(self.request(), asker, NOW);
        Ok(block_on(self.mapper()?.answer(&question)))
    }

    /// The same, and how.
    pub(crate) fn explanation(&self) -> Result<(Answer, Vec<Step>), Contradiction> {
        let mut steps = Vec::new();
        let answer = block_on(self.mapper()?.explain(&self.request().into(), NOW, &mut steps));
        Ok((answer, steps))
    }

    /// The authorities that are configured.
    pub(crate) fn authorities(&self) -> Vec<(String, KeyId)> {
        let roles = self.trust.iter().flat_map(|trust| trust.anchors.iter().chain(&trust.intermediates));
        roles.map(|role| (format!("{role:?}").to_lowercase(), role.key())).collect()
    }

    fn request(&self) -> Vec<u8> {
        let names: Vec<Vec<u8>> =
            self.names.iter().map(|role| stored::encoded_name(&role.certificate())).collect();
        let issuers = names.iter().map(Vec::as_slice).collect();
        let request = Request { flags: self.ask, certificate: &self.certificate, issuers };
        request.encode().expect("within the limits")
    }

    fn mapper(&self) -> Result<Mapper, Contradiction> {
        let store: Arc<dyn AccountStore> = match self.store_down {
            true => Arc::new(Down(domain())),
            false => Arc::new(self.store()),
        };
        Mapper::new(MapperParts {
            policy: self.policy.clone(),
            trust: self.trust.as_ref().map(|trust| Arc::new(trust.trust())),
            responder: None,
            store,
            server: "DC1".into(),
        })
    }

    fn store(&self) -> MemoryStore {
        let store = MemoryStore::new(domain());
        let group = |name: &str, rid| Group { name: name.into(), sid: sid(rid), scope: GroupScope::Global };
        let member = |group: &str, member: &str| Change::AddNamedMember {
            group: group.into(),
            member: member.into(),
            line: 0,
        };
        let mut changes = vec![
            Change::PutGroup(Put::New, group("Domain Users", 513)),
            Change::PutGroup(Put::New, group("Domain Computers", 515)),
        ];
        changes.extend(GROUPS.map(|(name, rid)| Change::PutGroup(Put::New, group(name, rid))));
        changes.push(member("Partners", "Interns"));
        for (account, groups) in &self.accounts {
            changes.push(Change::PutAccount(Put::New, Box::new(account.clone())));
            changes.extend(groups.iter().map(|group| member(group, &account.name)));
        }
        block_on(store.apply(&mut changes.into_iter().map(Ok))).expect("they follow the rules");
        store
    }
}

/// A store that cannot answer.
struct Down(Domain);

impl AccountStore for Down {
    fn domain(&self) -> &Domain {
        &self.0
    }

    fn find<'a>(&'a self, _: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
        Box::pin(async { Err(StoreError::Unavailable("it is down".into())) })
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        Err(StoreError::Unavailable("it is down".into()))
    }
}

fn domain() -> Domain {
    Domain { netbios: "CONTOSO".into(), dns: "contoso.example".into(), sid: DOMAIN.parse().expect("a SID") }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("a store in memory answers at once"),
    }
}

fn sid(rid: u32) -> Sid {
    format!("{DOMAIN}-{rid}").parse().expect("a SID")
}

/// Seconds from now.
#[track_caller]
fn offset(text: &str) -> i64 {
    if text == "0" {
        return 0;
    }
    let (number, unit) = text.split_at(text.len() - 1);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => panic!("{text} is no offset"),
    };
    number.parse::<i64>().unwrap_or_else(|error| panic!("{text}: {error}")) * seconds
}

fn time(text: &str) -> FileTime {
    FileTime::from_unix(NOW.to_unix() + offset(text))
}

impl AccountCase {
    fn account(&self, name: &str, rid: u32, stored: &[u8]) -> Account {
        let mut account = Account::new(name, sid(rid));
        match name {
            "web01$" => account.service_principal_names = vec!["host/web01.contoso.example".into()],
            _ => account.user_principal_name = Some(format!("{name}@contoso.example")),
        }
        if let Some(upn) = &self.upn {
            account.user_principal_name = Some(upn.clone()).filter(|upn| !upn.is_empty());
        }
        if let Some(spn) = &self.spn {
            account.service_principal_names.clone_from(spn);
        }
        account.created = match self.created.as_deref() {
            None => time("-30d"),
            Some("unknown") => FileTime::UNSET,
            Some(created) => time(created),
        };
        for flag in &self.flags {
            account.flags = match flag.as_str() {
                "disabled" => account.flags.with(AccountFlags::DISABLED, true),
                "locked" => account.flags.with(AccountFlags::LOCKED, true),
                other => panic!("{other} is no flag"),
            };
        }
        if let Some(expires) = &self.expires {
            account.expires = time(expires);
        }
        account.logon_hours = self.hours.as_ref().map(|hours| {
            let mut bits = [0; 21];
            hours.iter().for_each(|hour| bits[usize::from(hour / 8)] |= 1 << (hour % 8));
            bits
        });
        let mapping = |mapping: &String| match mapping.strip_prefix("issuer:") {
            Some(role) => {
                let role = Role::deserialize(toml::Value::String(role.into())).expect("an authority");
                stored::issuer(&role.certificate())
            }
            None if mapping.contains([':', '<']) => mapping.clone(),
            None => stored::value(mapping, stored),
        };
        account.alt_security_identities = self.mappings.iter().map(mapping).collect();
        account
    }
}

impl PolicyCase {
    fn policy(&self) -> Policy {
        let validation = match self.validation.as_deref() {
            None | Some("chain") => Validation::Chain,
            Some("off") => Validation::Off,
            Some(other) => panic!("{other} is no validation"),
        };
        let standard = Policy::default();
        Policy {
            methods: self.methods.as_deref().map_or(standard.methods, methods),
            binding: self.binding.as_deref().map_or(standard.binding, binding),
            backdating_s: self.backdating.unwrap_or(standard.backdating_s),
            validation,
            grants: self.grants.as_deref().map_or_else(|| Grants::standard(validation), grants),
            authorities: self
                .authorities
                .iter()
                .map(|(role, authority)| (role.key(), authority.policy()))
                .collect(),
            comparison: self.comparison.unwrap_or(standard.comparison),
            name_comparison: self.name_comparison.unwrap_or(standard.name_comparison),
            sha1_public_key: match self.sha1.as_deref() {
                None | Some("thumbprint") => Sha1PublicKeyInput::Thumbprint,
                Some("public-key") => Sha1PublicKeyInput::PublicKey,
                Some(other) => panic!("{other} is nothing to hash"),
            },
            tell_restrictions: self.tell_restrictions,
            ..standard
        }
    }
}

impl AuthorityCase {
    fn policy(&self) -> AuthorityPolicy {
        let strong_name = |tuple: &TupleCase| StrongName {
            policies: tuple.policies.iter().map(|dotted| oid(dotted)).collect(),
            kind: match tuple.name.strip_prefix('@') {
                Some(suffix) => StrongNameKind::UpnSuffix(suffix.into()),
                None if tuple.name == "issuer-subject" => StrongNameKind::IssuerSubject,
                None => panic!("{} is no kind of name", tuple.name),
            },
        };
        AuthorityPolicy {
            methods: self.methods.as_deref().map(methods),
            binding: self.binding.as_deref().map(binding),
            backdating_s: self.backdating,
            grants: self.grants.as_deref().map(grants),
            direct: self.direct,
            strong_names: self.tuples.iter().map(strong_name).collect(),
        }
    }
}

fn methods(names: &[String]) -> MappingFlags {
    names.iter().fold(MappingFlags(0), |flags, name| {
        flags.with(match name.as_str() {
            "upn" => MappingFlags(0x10),
            "subject" => MappingFlags(0x20),
            "issuer" => MappingFlags(0x40),
            "issuer-chain" => MappingFlags(0x80),
            other => panic!("{other} is no method"),
        })
    })
}

fn binding(name: &str) -> Binding {
    match name {
        "off" => Binding::Off,
        "compat" => Binding::Compat,
        "full" => Binding::Full,
        other => panic!("{other} is no binding"),
    }
}

/// `FORM`, or `FORM for GRANTEE, GRANTEE`; `standard` is what counts unless something else is said.
fn grants(texts: &[String]) -> Grants {
    let form = |name: &str| Form::from_name(name).unwrap_or_else(|| panic!("{name} is no form"));
    let grants = texts.iter().flat_map(|text| match text.split_once(" for ") {
        None if text == "standard" => {
            let all =
                ["upn", "dns", "issuer-subject", "issuer-serial", "sha1-pukey", "issuer-sid", "subject"];
            let all = all.into_iter().chain(["rfc822", "sid"]);
            all.map(|name| Grant { form: form(name), to: None }).collect()
        }
        None => vec![Grant { form: form(text), to: None }],
        Some((name, grantees)) => {
            vec![Grant { form: form(name), to: Some(grantees.split(", ").map(to).collect()) }]
        }
    });
    Grants::new(grants.collect())
}

/// `@SUFFIX`, `group:NAME`, `account:NAME`, or either by SID.
fn to(text: &str) -> Grantee {
    let by_sid = |text: &str| text.parse::<Sid>().ok();
    match text.split_once(':') {
        None => Grantee::Suffix(text.strip_prefix('@').expect("a suffix").into()),
        Some(("group", name)) => {
            by_sid(name).map_or_else(|| Grantee::NamedGroup(name.into()), Grantee::Group)
        }
        Some(("account", name)) => {
            by_sid(name).map_or_else(|| Grantee::NamedAccount(name.into()), Grantee::Account)
        }
        Some((other, _)) => panic!("{other} is no grantee"),
    }
}

fn usage_id(name: &str) -> Vec<u8> {
    oid(match name {
        "client" => "1.3.6.1.5.5.7.3.2",
        "server" => "1.3.6.1.5.5.7.3.1",
        "smart-card" => "1.3.6.1.4.1.311.20.2.2",
        "any" => "2.5.29.37.0",
        other => panic!("{other} is no usage"),
    })
}

/// Contents octets of a dotted object identifier.
fn oid(dotted: &str) -> Vec<u8> {
    let arcs: Vec<u64> = dotted.split('.').map(|arc| arc.parse().expect("an arc")).collect();
    let first = 40 * arcs[0] + arcs[1];
    let mut out = Vec::new();
    for arc in std::iter::once(first).chain(arcs[2..].iter().copied()) {
        let digits = (1..).find(|n| arc >> (7 * n) == 0).expect("it ends");
        out.extend((0..digits).rev().map(|n| (arc >> (7 * n)) as u8 & 0x7f | if n > 0 { 0x80 } else { 0 }));
    }
    out
}

fn wrap(tag: u8, contents: &[u8]) -> Vec<u8> {
    let len = u8::try_from(contents.len()).ok().filter(|len| *len < 0x80).expect("a short element");
    [&[tag, len], contents].concat()
}

fn unhex(text: &str) -> Vec<u8> {
    let mut bytes = vec![0; text.len() / 2];
    dtyp::read_hex(text.as_bytes(), &mut bytes).unwrap_or_else(|| panic!("not hex: {text}"));
    bytes
}

fn sid_text(text: &str) -> String {
    match text {
        "alice" => sid(1001).to_string(),
        "bob" => sid(1002).to_string(),
        "web01$" => sid(1003).to_string(),
        "unreadable" => "S-1-x".into(),
        literal => literal.into(),
    }
}

impl CertificateCase {
    /// The same, signed by a CA that has our name and is configured nowhere.
    pub(crate) fn signed_by_unknown_ca(&self) -> Vec<u8> {
        Self { issuer: Role::Second, ..self.clone() }.encoded()
    }

    fn encoded(&self) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name("Contoso, Ltd.", &self.subject);
        let moment = |text: &str| {
            let seconds = NOW.to_unix() + offset(text);
            date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds.try_into().expect("after 1970"))
        };
        (params.not_before, params.not_after) = (moment(&self.not_before), moment(&self.not_after));
        params.serial_number = Some(SerialNumber::from(unhex(&self.serial)));
        if self.ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params.extended_key_usages = self
            .usages
            .iter()
            .map(|usage| match usage.as_str() {
                "client" => ExtendedKeyUsagePurpose::ClientAuth,
                "server" => ExtendedKeyUsagePurpose::ServerAuth,
                "smart-card" => ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 2]),
                "any" => ExtendedKeyUsagePurpose::Any,
                other => panic!("{other} is no usage"),
            })
            .collect();
        params.subject_alt_names = self.alternative_names();
        params.custom_extensions = self.extensions();
        let key = &KEYS[usize::from(self.other_key)];
        let mut encoded = params.signed_by(key, &AUTHORITIES[&self.issuer]).expect("signed").der().to_vec();
        if self.truncated {
            encoded.pop();
        }
        encoded
    }

    fn alternative_names(&self) -> Vec<SanType> {
        let ia5 = |text: &str| text.try_into().expect("ASCII");
        let upn = self
            .upn
            .iter()
            .map(|upn| SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], upn.as_str().into())));
        let dns = self.dns.iter().map(|dns| SanType::DnsName(ia5(dns)));
        let mail = self.rfc822.iter().map(|mail| SanType::Rfc822Name(ia5(mail)));
        let sid = |sid: &String| format!("tag:microsoft.com,2022-09-14:sid:{}", sid_text(sid));
        let uri = self.uri.iter().cloned().chain(self.sid_uri.iter().map(sid));
        let more = (0..self.more_names).map(|n| SanType::DnsName(ia5(&format!("host{n}.example"))));
        upn.chain(dns).chain(mail).chain(uri.map(|uri| SanType::URI(ia5(&uri)))).chain(more).collect()
    }

    fn extensions(&self) -> Vec<CustomExtension> {
        let mut extensions = Vec::new();
        let mut extension = |id: &[u64], content| {
            extensions.push(CustomExtension::from_oid_content(id, content));
        };
        if let Some(ski) = &self.ski {
            extension(&[2, 5, 29, 14], wrap(0x04, &unhex(ski)));
        }
        if let Some(sid) = &self.sid {
            let text = wrap(0xa0, &wrap(0x04, sid_text(sid).as_bytes()));
            let other_name = [wrap(0x06, &oid("1.3.6.1.4.1.311.25.2.1")), text].concat();
            extension(&[1, 3, 6, 1, 4, 1, 311, 25, 2], wrap(0x30, &wrap(0xa0, &other_name)));
        }
        if !self.policies.is_empty() {
            let policies = self.policies.iter().map(|policy| wrap(0x30, &wrap(0x06, &oid(policy))));
            extension(&[2, 5, 29, 32], wrap(0x30, &policies.collect::<Vec<_>>().concat()));
        }
        if self.broken_names {
            // A DNS name that is longer than the extension.
            extension(&[2, 5, 29, 17], vec![0x30, 0x03, 0x82, 0x05, b'a']);
        }
        extensions
    }
}
