//! An identity, as headers for an application.
//!
//! Every header that is ever set is in every answer, empty where there is nothing to say: proxies put in what they are given, and a
//! client's copy survives exactly where they are given nothing.

use crate::dialect::OWNED;
use crate::forwarding;
use crate::identity::{Group, Identity};
use crate::secret::SECRET;
use dtyp::Sid;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

/// The longest value of one header, unless another one is configured.
pub const VALUE_LEN_DEFAULT: usize = 4096;
/// The longest SID, account, user or token. A smaller `header_len_max` does not take them away: without them the others mean nothing.
const ESSENTIAL_LEN_MAX: usize = VALUE_LEN_DEFAULT;
/// All values together: applications read 8 KiB of a request's headers, most of them.
const VALUES_LEN_MAX: usize = 3 * VALUE_LEN_DEFAULT / 2;

/// A set of headers that applications know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// `Remote-User`, `Remote-Groups`, `Remote-Name`, `Remote-Email`, as Authelia has them.
    #[default]
    Remote,
    /// `X-Forwarded-User`, `X-Forwarded-Groups`, `X-Forwarded-Preferred-Username`, `X-Forwarded-Email`, as OAuth2 Proxy has them.
    Forwarded,
    /// The variables of mod_lookup_identity, as headers: `X-Remote-User`, `X-Remote-User-Groups` with colons, `X-Remote-User-Fullname`,
    /// `X-Remote-User-Email`.
    LookupIdentity,
    /// Only `X-Identity-…`.
    None,
}

/// How the account is named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserForm {
    /// `DOMAIN\user`.
    #[default]
    Domain,
    /// The user principal name, or `DOMAIN\user` where there is none.
    Upn,
    /// The bare name of an account of the own domain; `DOMAIN\user` of others.
    Plain,
}

/// How groups are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupForm {
    /// The names of groups of the own domain and of those that are named in the configuration; the SIDs of others.
    #[default]
    Names,
    /// SIDs.
    Sids,
}

/// How text is written that is more than visible ASCII.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Percent-encoded UTF-8 (RFC 3986, section 2.1); `%`, and separators within a name, too.
    #[default]
    Percent,
    /// UTF-8 as it stands; control characters and separators within a name percent-encoded, and `%`.
    Utf8,
    /// Strings, display strings and lists of structured fields (RFC 9651).
    Structured,
}

/// What is written and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// The headers beside `X-Identity-…`.
    pub preset: Preset,
    /// Names that the operator gives, in place of those of the preset and of `X-Identity-…` ([`custom_name`]). A meaning that the preset
    /// has no header for gets one by it.
    pub names: BTreeMap<Meaning, HeaderName>,
    /// How the account is named.
    pub user: UserForm,
    /// How groups are named.
    pub groups: GroupForm,
    /// Names of groups that the operator gives.
    pub group_names: HashMap<Sid, String>,
    /// How text is written.
    pub encoding: Encoding,
    /// The longest value. Longer ones are empty, and the reference says where the whole is.
    pub value_len_max: usize,
}

impl Default for Format {
    fn default() -> Self {
        Self {
            preset: Preset::default(),
            names: BTreeMap::new(),
            user: UserForm::default(),
            groups: GroupForm::default(),
            group_names: HashMap::new(),
            encoding: Encoding::default(),
            value_len_max: VALUE_LEN_DEFAULT,
        }
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Meaning {
    /// The account's name, as [`UserForm`] has it.
    User,
    /// The groups, as [`GroupForm`] has them.
    Groups,
    /// The display name.
    Name,
    /// Always empty: accounts have no address.
    Email,
    /// The account's SID.
    Sid,
    /// NetBIOS name of the account's domain.
    Domain,
    /// The account's bare name.
    Account,
    /// The user principal name.
    Upn,
    /// The groups' SIDs.
    GroupSids,
    /// The mapping method.
    Method,
    /// How strongly the certificate is bound to the account.
    Strength,
    /// The form that binds it.
    Rule,
    /// The id of the decision in the audit.
    Decision,
    /// The revision of the policy.
    PolicyRevision,
    /// SHA-256 of the certificate.
    Certificate,
    /// Where the whole identity is, if something did not fit.
    Reference,
    /// A signed identity.
    Token,
}

impl Meaning {
    /// All of them, by their keys in the configuration.
    pub const KEYS: [(&'static str, Self); 17] = [
        ("user", Self::User),
        ("groups", Self::Groups),
        ("name", Self::Name),
        ("email", Self::Email),
        ("sid", Self::Sid),
        ("domain", Self::Domain),
        ("account", Self::Account),
        ("upn", Self::Upn),
        ("group_sids", Self::GroupSids),
        ("method", Self::Method),
        ("strength", Self::Strength),
        ("rule", Self::Rule),
        ("decision", Self::Decision),
        ("policy_revision", Self::PolicyRevision),
        ("certificate_sha256", Self::Certificate),
        ("reference", Self::Reference),
        ("token", Self::Token),
    ];

    /// Whether it names the account.
    pub const fn is_account(self) -> bool {
        matches!(self, Self::User | Self::Sid | Self::Account | Self::Upn)
    }

    /// Whether it is a decision's and not the account's: it differs where the decision is made again.
    pub const fn is_of_decision(self) -> bool {
        matches!(self, Self::Decision | Self::Reference | Self::Token)
    }

    /// The order in which values get room. What comes first is left out last, and what is of rank 0 never.
    const fn rank(self) -> u8 {
        match self {
            Self::Sid | Self::Account | Self::Token | Self::User => 0,
            Self::Name | Self::Email => 2,
            Self::Groups => 3,
            Self::GroupSids => 4,
            _ => 1,
        }
    }
}

/// `X-Identity-…`, always.
const OWN: [(&str, Meaning); 13] = [
    ("x-identity-sid", Meaning::Sid),
    ("x-identity-domain", Meaning::Domain),
    ("x-identity-account", Meaning::Account),
    ("x-identity-upn", Meaning::Upn),
    ("x-identity-group-sids", Meaning::GroupSids),
    ("x-identity-method", Meaning::Method),
    ("x-identity-strength", Meaning::Strength),
    ("x-identity-rule", Meaning::Rule),
    ("x-identity-decision", Meaning::Decision),
    ("x-identity-policy-revision", Meaning::PolicyRevision),
    ("x-identity-certificate-sha256", Meaning::Certificate),
    ("x-identity-reference", Meaning::Reference),
    ("x-identity-token", Meaning::Token),
];

/// Most bytes of a name that an operator gives: nginx has room for 64 of a variable's name, which is the header's with a prefix.
const NAME_LEN_MAX: usize = 40;
/// Names, and beginnings of names, that HTTP (RFC 9110, RFC 9112 and those beside them), CGI or a web server has a meaning for: framing,
/// hop by hop, authentication, conditions, what a response says of itself, and what web servers obey in an answer.
const HTTP_NAMES: [&str; 60] = [
    "accept",
    "age",
    "allow",
    "alt-svc",
    "authentication-info",
    "authorization",
    "cache-control",
    "connection",
    "cookie",
    "cookie2",
    "date",
    "dav",
    "depth",
    "destination",
    "early-data",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "http2-settings",
    "keep-alive",
    "last-modified",
    "link",
    "location",
    "lock-token",
    "max-forwards",
    "origin",
    "overwrite",
    "pragma",
    "priority",
    "proxy",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "set-cookie2",
    "status",
    "strict-transport-security",
    "te",
    "timeout",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "upgrade-insecure-requests",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-method-override",
    "x-powered-by",
    "x-rcmpd-page",
    "x-request-id",
    "x-requested-with",
    "x-sendfile",
];
const HTTP_PREFIXES: [&str; 10] = [
    "accept-",
    "access-control-",
    "content-",
    "grpc-",
    "if-",
    "proxy-",
    "sec-",
    "x-accel-",
    "x-envoy-",
    "x-http-method",
];

/// A name that an operator gives an identity header; the error says why no identity header can have it.
pub fn custom_name(text: &str) -> Result<HeaderName, &'static str> {
    let name = text.to_ascii_lowercase();
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_plain = name.len() <= NAME_LEN_MAX && name.split('-').all(is_word);
    if !is_plain || !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        return Err(
            "a name is letters, digits and single hyphens, at most 40: servers drop other characters, or take them for a hyphen",
        );
    }
    if OWN.iter().any(|(own, _)| *own == name) {
        return Err("it is the name of another identity header, or already the name of this one");
    }
    if OWNED.contains(&name.as_str()) || SECRET == *name {
        return Err("web servers pass certificates, or the secret of a listener, by this name");
    }
    let is_of_preset = known().any(|known| known == *name);
    if forwarding::is_one(&name) && !is_of_preset {
        return Err("such a header says where a request comes from, or for which host and path it is");
    }
    if HTTP_NAMES.contains(&name.as_str()) || HTTP_PREFIXES.iter().any(|start| name.starts_with(start)) {
        return Err("HTTP or a web server has another meaning for this name");
    }
    HeaderName::try_from(name).map_err(|_| "this is not a name of a header")
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Remote, Self::Forwarded, Self::LookupIdentity, Self::None];

    const fn headers(self) -> &'static [(&'static str, Meaning)] {
        match self {
            Self::Remote => &[
                ("remote-user", Meaning::User),
                ("remote-groups", Meaning::Groups),
                ("remote-name", Meaning::Name),
                ("remote-email", Meaning::Email),
            ],
            Self::Forwarded => &[
                ("x-forwarded-user", Meaning::User),
                ("x-forwarded-groups", Meaning::Groups),
                ("x-forwarded-preferred-username", Meaning::Name),
                ("x-forwarded-email", Meaning::Email),
            ],
            Self::LookupIdentity => &[
                ("x-remote-user", Meaning::User),
                ("x-remote-user-groups", Meaning::Groups),
                ("x-remote-user-fullname", Meaning::Name),
                ("x-remote-user-email", Meaning::Email),
            ],
            Self::None => &[],
        }
    }

    /// What separates groups.
    const fn separator(self) -> char {
        match self {
            Self::LookupIdentity => ':',
            _ => ',',
        }
    }
}

/// Every header that some set has: what an application may read, whichever set is chosen, is nothing for a client to say.
pub fn known() -> impl Iterator<Item = HeaderName> {
    let sets = Preset::ALL.into_iter().flat_map(|preset| preset.headers());
    sets.chain(&OWN).map(|(name, _)| HeaderName::from_static(name))
}

/// Facts of a decision that are not the account's.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Names the decision in the audit.
    pub decision: &'a str,
    /// SHA-256 of the certificate.
    pub certificate: &'a [u8; 32],
    /// A signed identity, where one is made.
    pub token: Option<&'a str>,
}

/// Headers of an identity, and whether something did not fit.
#[derive(Clone, Debug)]
pub struct Written {
    /// All of them.
    pub headers: HeaderMap,
    /// Whether `X-Identity-Reference` stands for what was too long.
    pub is_cut: bool,
}

impl Format {
    /// Every header that is ever set, and what it says.
    fn named(&self) -> impl Iterator<Item = (HeaderName, Meaning)> {
        let set = self.preset.headers().iter().chain(&OWN);
        let own = set.map(|(name, meaning)| {
            (self.names.get(meaning).cloned().unwrap_or_else(|| HeaderName::from_static(name)), *meaning)
        });
        let has =
            |meaning: Meaning| self.preset.headers().iter().chain(&OWN).any(|(_, known)| *known == meaning);
        let more = self.names.iter().filter(move |(meaning, _)| !has(**meaning));
        own.chain(more.map(|(meaning, name)| (name.clone(), *meaning)))
    }

    /// Every header that is ever set.
    pub fn advertised(&self) -> impl Iterator<Item = HeaderName> {
        self.named().map(|(name, _)| name)
    }

    /// Every header that an application may read: those of all sets, and those that the operator has named. None is a client's to send.
    pub fn known(&self) -> impl Iterator<Item = HeaderName> {
        let more = self.names.values().filter(|name| !known().any(|known| known == **name));
        known().chain(more.cloned())
    }

    /// The headers of a request without an account: every header, empty.
    pub fn without_account(&self) -> HeaderMap {
        self.advertised().map(|name| (name, HeaderValue::from_static(""))).collect()
    }

    /// The headers of an account. What is too long is left out, and the decision's name stands in `X-Identity-Reference`.
    pub fn write(&self, identity: &Identity, facts: Facts<'_>) -> Written {
        let user = self.user(identity);
        let groups: Vec<String> = identity.groups.iter().map(|group| self.group(identity, group)).collect();
        let sids: Vec<String> = identity.groups.iter().map(|group| group.sid.to_string()).collect();
        let text = |text: &str| self.encoding.text(text);
        let optional = |value: Option<&str>| value.map(text).unwrap_or_default();
        let value = |meaning: Meaning| match meaning {
            Meaning::Sid => identity.sid.to_string(),
            Meaning::Account => text(&identity.account),
            Meaning::Token => facts.token.unwrap_or_default().to_owned(),
            Meaning::User => text(&user),
            Meaning::Domain => text(&identity.domain),
            Meaning::Upn => optional(identity.upn.as_deref()),
            Meaning::Method => identity.method.unwrap_or_default().to_owned(),
            Meaning::Strength => identity.assurance.name().to_owned(),
            Meaning::Rule => identity.assurance.rule().unwrap_or_default().to_owned(),
            Meaning::Decision => facts.decision.to_owned(),
            Meaning::PolicyRevision => {
                let revision = Some(identity.policy_revision).filter(|known| *known != 0);
                revision.map(|known| known.to_string()).unwrap_or_default()
            }
            Meaning::Certificate => dtyp::hex(facts.certificate),
            Meaning::Name => optional(identity.full_name.as_deref()),
            // An account has no address; its UPN looks like one and need not be. What the reference says comes last.
            Meaning::Email | Meaning::Reference => String::new(),
            Meaning::Groups => self.encoding.list(&groups, self.preset.separator()),
            Meaning::GroupSids => sids.join(","),
        };
        let mut named: Vec<_> = self.named().collect();
        named.sort_by_key(|(_, meaning)| meaning.rank());
        let mut is_cut = false;
        let mut room = VALUES_LEN_MAX.max(self.value_len_max);
        let mut headers: HeaderMap = HeaderMap::with_capacity(named.len());
        let mut reference_name = None;
        for (name, meaning) in named {
            let is_essential = meaning.rank() == 0;
            let len_max = if is_essential { self.essential_len_max() } else { self.value_len_max };
            let value = value(meaning);
            let fits = value.len() <= len_max && (is_essential || value.len() <= room);
            is_cut |= !fits;
            // What does not fit takes its room away all the same: with more groups, nothing comes back that fewer have pushed out. A token
            // takes none, because it gets shorter when its groups are left out.
            if meaning != Meaning::Token {
                room = room.saturating_sub(value.len());
            }
            let value = if fits { value } else { String::new() };
            if meaning == Meaning::Reference {
                reference_name = Some(name.clone());
            }
            // Nothing that is written is more than a header can hold.
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap_or(HeaderValue::from_static(""));
            headers.insert(name, value);
        }
        if let Some(name) = reference_name.filter(|_| is_cut) {
            let reference = HeaderValue::from_str(facts.decision);
            headers.insert(name, reference.unwrap_or(HeaderValue::from_static("")));
        }
        Written { headers, is_cut }
    }

    /// The longest value of a header that is not left out for others.
    pub(crate) fn essential_len_max(&self) -> usize {
        self.value_len_max.max(ESSENTIAL_LEN_MAX)
    }

    /// The account's name, as it is wanted.
    pub fn user(&self, identity: &Identity) -> String {
        let qualified = || format!("{}\\{}", identity.domain, identity.account);
        match self.user {
            // What reads like an account of another domain is told apart from it.
            UserForm::Plain if identity.is_ours && !identity.account.contains('\\') => {
                identity.account.clone()
            }
            UserForm::Upn => {
                let upn = identity.upn.clone().filter(|upn| upn.contains('@') && !upn.contains('\\'));
                upn.unwrap_or_else(qualified)
            }
            UserForm::Domain | UserForm::Plain => qualified(),
        }
    }

    fn group(&self, identity: &Identity, group: &Group) -> String {
        let given = || self.group_names.get(&group.sid).cloned();
        let is_usable = |name: &String| identity.is_ours && !name.is_empty() && !looks_like_sid(name);
        let own = || group.name.clone().filter(is_usable);
        match self.groups {
            GroupForm::Sids => None,
            GroupForm::Names => given().or_else(own),
        }
        .unwrap_or_else(|| group.sid.to_string())
    }
}

/// A group whose name is a SID would be taken for that one.
fn looks_like_sid(name: &str) -> bool {
    name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("s-"))
}

impl Encoding {
    fn text(self, text: &str) -> String {
        match self {
            Self::Structured => structured(text),
            _ => self.escaped(text, None),
        }
    }

    fn list(self, items: &[String], separator: char) -> String {
        match self {
            Self::Structured => items.iter().map(|item| structured(item)).collect::<Vec<_>>().join(", "),
            _ => {
                let escaped = items.iter().map(|item| self.escaped(item, Some(separator)));
                escaped.collect::<Vec<_>>().join(&separator.to_string())
            }
        }
    }

    fn escaped(self, text: &str, separator: Option<char>) -> String {
        let mut escaped = String::with_capacity(text.len());
        // Readers of a header, and of a list in it, cut off what is white at the ends.
        let inner = text.trim();
        let start = text.len() - text.trim_start().len();
        for (at, c) in text.char_indices() {
            let stands = match c {
                '%' => false,
                _ if !(start..start + inner.len()).contains(&at) => false,
                c if Some(c) == separator => false,
                ' '..='~' => true,
                c => self == Self::Utf8 && !c.is_control(),
            };
            if stands {
                escaped.push(c);
                continue;
            }
            // Every character that does not stand is in this set.
            escaped.extend(utf8_percent_encode(c.encode_utf8(&mut [0; 4]), NON_ALPHANUMERIC));
        }
        escaped
    }
}

/// A string (RFC 9651, section 3.3.3), or a display string (section 3.3.8) where one cannot say it.
fn structured(text: &str) -> String {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    }
    let mut display = String::from("%\"");
    for byte in text.bytes() {
        match byte {
            b'%' | b'"' | ..0x20 | 0x7f.. => {
                let _ = write!(display, "%{byte:02x}");
            }
            byte => display.push(char::from(byte)),
        }
    }
    display.push('"');
    display
}

#[cfg(test)]
mod tests;
