//! An identity, as headers for an application.
//!
//! Every header that is ever set is in every answer, empty where there is nothing to say: proxies put in what
//! they are given, and a client's copy survives exactly where they are given nothing.

use crate::dialect::OWNED;
use crate::forwarding;
use crate::identity::{Group, Identity};
use crate::secret::SECRET;
use bytes::Bytes;
use dtyp::Sid;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

/// The longest value of one header, unless another one is configured.
pub const VALUE_LEN_DEFAULT: usize = 4096;
/// The longest SID, account, user or token. A smaller `header_len_max` does not take them away: without them
/// the others mean nothing.
const ESSENTIAL_LEN_MAX: usize = VALUE_LEN_DEFAULT;
/// All values together: applications read 8 KiB of a request's headers, most of them.
const VALUES_LEN_MAX: usize = 3 * VALUE_LEN_DEFAULT / 2;
/// Values of an account with a dozen groups, without a token.
const VALUES_LEN_DEFAULT: usize = 1024;

/// A set of headers that applications know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// `Remote-User`, `Remote-Groups`, `Remote-Name`, `Remote-Email`, as Authelia has them.
    #[default]
    Remote,
    /// `X-Forwarded-User`, `X-Forwarded-Groups`, `X-Forwarded-Preferred-Username`, `X-Forwarded-Email`, as
    /// OAuth2 Proxy has them.
    Forwarded,
    /// The variables of mod_lookup_identity, as headers: `X-Remote-User`, `X-Remote-User-Groups` with colons,
    /// `X-Remote-User-Fullname`, `X-Remote-User-Email`.
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
    /// The names of groups of the own domain and of those that are named in the configuration; the SIDs of
    /// others.
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
    /// Names that the operator gives, in place of those of the preset and of `X-Identity-…`
    /// ([`custom_name`]). A meaning that the preset has no header for gets one by it.
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
    /// How old the facts about the account are, in seconds, if the store could not be asked.
    Stale,
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
    pub const KEYS: [(&'static str, Self); 18] = [
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
        ("stale", Self::Stale),
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
        matches!(self, Self::Decision | Self::Stale | Self::Reference | Self::Token)
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
const OWN: [(&str, Meaning); 14] = [
    ("x-identity-sid", Meaning::Sid),
    ("x-identity-domain", Meaning::Domain),
    ("x-identity-account", Meaning::Account),
    ("x-identity-upn", Meaning::Upn),
    ("x-identity-group-sids", Meaning::GroupSids),
    ("x-identity-method", Meaning::Method),
    ("x-identity-strength", Meaning::Strength),
    ("x-identity-rule", Meaning::Rule),
    ("x-identity-decision", Meaning::Decision),
    ("x-identity-stale", Meaning::Stale),
    ("x-identity-policy-revision", Meaning::PolicyRevision),
    ("x-identity-certificate-sha256", Meaning::Certificate),
    ("x-identity-reference", Meaning::Reference),
    ("x-identity-token", Meaning::Token),
];

/// Most bytes of a name that an operator gives: nginx has room for 64 of a variable's name, which is the
/// header's with a prefix.
const NAME_LEN_MAX: usize = 40;
/// Names, and beginnings of names, that HTTP (RFC 9110, RFC 9112 and those beside them), CGI or a web server
/// has a meaning for: framing, hop by hop, authentication, conditions, what a response says of itself, and
/// what web servers obey in an answer.
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

/// Every header that some set has: what an application may read, whichever set is chosen, is nothing for a
/// client to say.
pub fn known() -> impl Iterator<Item = HeaderName> {
    let sets = Preset::ALL.into_iter().flat_map(|preset| preset.headers());
    sets.chain(&OWN).map(|(name, _)| HeaderName::from_static(name))
}

/// Facts of a decision that are not the account's.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Names the decision in the audit.
    pub decision: &'a str,
    /// SHA-256 of the certificate, if there is one.
    pub certificate: Option<&'a [u8; 32]>,
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

/// The headers that a [`Format`] writes, in the order in which their values get room.
#[derive(Clone, Debug)]
pub struct Layout(Vec<(HeaderName, Meaning)>);

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

    /// Every header that an application may read: those of all sets, and those that the operator has named.
    /// None is a client's to send.
    pub fn known(&self) -> impl Iterator<Item = HeaderName> {
        let more = self.names.values().filter(|name| !known().any(|known| known == **name));
        known().chain(more.cloned())
    }

    /// The headers of a request without an account: every header, empty.
    pub fn without_account(&self) -> HeaderMap {
        self.advertised().map(|name| (name, HeaderValue::from_static(""))).collect()
    }

    /// Every header that is set, in the order in which values get room.
    pub fn layout(&self) -> Layout {
        let mut named: Vec<_> = self.named().collect();
        named.sort_by_key(|(_, meaning)| meaning.rank());
        Layout(named)
    }

    /// The headers of an account, by a layout that is made for it.
    #[cfg(test)]
    pub(crate) fn write(&self, identity: &Identity, facts: Facts<'_>) -> Written {
        self.write_by(&self.layout(), identity, facts, || facts.decision.to_owned())
    }

    /// The headers of an account, by [`Self::layout`], which the owner keeps. What is too long is left out,
    /// and `X-Identity-Reference` is then made.
    pub fn write_by(
        &self,
        layout: &Layout,
        identity: &Identity,
        facts: Facts<'_>,
        reference: impl FnOnce() -> String,
    ) -> Written {
        // All values, one behind the other: they become headers without another copy.
        let mut values = String::with_capacity(VALUES_LEN_DEFAULT);
        let mut ends = Vec::with_capacity(layout.0.len());
        let mut is_cut = false;
        let mut room = VALUES_LEN_MAX.max(self.value_len_max);
        for (_, meaning) in &layout.0 {
            let is_essential = meaning.rank() == 0;
            let len_max = if is_essential { self.essential_len_max() } else { self.value_len_max };
            let start = values.len();
            self.value(*meaning, identity, &facts, &mut values);
            let len = values.len() - start;
            let fits = len <= len_max && (is_essential || len <= room);
            is_cut |= !fits;
            // What does not fit takes its room away all the same: with more groups, nothing comes back that
            // fewer have pushed out. A token takes none, because it gets shorter when its groups are left
            // out.
            if *meaning != Meaning::Token {
                room = room.saturating_sub(len);
            }
            if !fits {
                values.truncate(start);
            }
            ends.push(values.len());
        }
        let values = Bytes::from(values);
        let mut headers = HeaderMap::with_capacity(layout.0.len());
        let reference = if is_cut { reference() } else { String::new() };
        let mut start = 0;
        for ((name, meaning), end) in layout.0.iter().zip(ends) {
            let value = match meaning {
                // What the reference says comes last.
                Meaning::Reference if is_cut => HeaderValue::from_str(&reference),
                _ => HeaderValue::from_maybe_shared(values.slice(start..end)),
            };
            start = end;
            // Nothing that is written is more than a header can hold.
            headers.insert(name.clone(), value.unwrap_or(HeaderValue::from_static("")));
        }
        Written { headers, is_cut }
    }

    /// Writes what a header says, whatever its length; a reference is empty.
    fn value(&self, meaning: Meaning, identity: &Identity, facts: &Facts<'_>, out: &mut String) {
        let optional = |value: &Option<String>, out: &mut String| {
            if let Some(value) = value {
                self.encoding.text(value, out);
            }
        };
        match meaning {
            Meaning::Sid => push(out, identity.sid),
            Meaning::Account => self.encoding.text(&identity.account, out),
            Meaning::Token => out.push_str(facts.token.unwrap_or_default()),
            Meaning::User => self.encoding.text(&self.user(identity), out),
            Meaning::Domain => self.encoding.text(&identity.domain, out),
            Meaning::Upn => optional(&identity.upn, out),
            Meaning::Method => out.push_str(identity.method.unwrap_or_default()),
            Meaning::Strength => out.push_str(identity.assurance.name()),
            Meaning::Rule => out.push_str(identity.assurance.rule().unwrap_or_default()),
            Meaning::Decision => out.push_str(facts.decision),
            Meaning::Stale => identity.stale_s.into_iter().for_each(|age| push(out, age)),
            Meaning::PolicyRevision if identity.policy_revision == 0 => {}
            Meaning::PolicyRevision => push(out, identity.policy_revision),
            Meaning::Certificate => {
                out.push_str(&facts.certificate.map(|sha256| dtyp::hex(sha256)).unwrap_or_default())
            }
            Meaning::Name => optional(&identity.full_name, out),
            // The UPN looks like an address, and need not be one.
            Meaning::Email => optional(&identity.mail, out),
            Meaning::Reference => {}
            Meaning::Groups => {
                let separator = self.preset.separator();
                for (at, group) in identity.groups.iter().enumerate() {
                    if at > 0 {
                        self.encoding.separate(separator, out);
                    }
                    match self.group_name(identity, group) {
                        Some(name) => self.encoding.item(name, separator, out),
                        None => self.encoding.item(&group.sid.to_string(), separator, out),
                    }
                }
            }
            Meaning::GroupSids => {
                for (at, group) in identity.groups.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    push(out, group.sid);
                }
            }
        }
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

    /// The name by which a group is written; `None` for its SID.
    fn group_name<'a>(&'a self, identity: &Identity, group: &'a Group) -> Option<&'a str> {
        if self.groups == GroupForm::Sids {
            return None;
        }
        let is_usable = |name: &&str| identity.is_ours && !name.is_empty() && !looks_like_sid(name);
        let given = self.group_names.get(&group.sid).map(String::as_str);
        given.or_else(|| group.name.as_deref().filter(is_usable))
    }
}

fn push(out: &mut String, value: impl std::fmt::Display) {
    // Writing to a string does not fail.
    let _ = write!(out, "{value}");
}

/// A group whose name is a SID would be taken for that one.
fn looks_like_sid(name: &str) -> bool {
    name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("s-"))
}

impl Encoding {
    fn text(self, text: &str, out: &mut String) {
        match self {
            Self::Structured => structured(text, out),
            _ => self.escaped(text, None, out),
        }
    }

    /// One item of a list.
    fn item(self, text: &str, separator: char, out: &mut String) {
        match self {
            Self::Structured => structured(text, out),
            _ => self.escaped(text, Some(separator), out),
        }
    }

    fn separate(self, separator: char, out: &mut String) {
        match self {
            Self::Structured => out.push_str(", "),
            _ => out.push(separator),
        }
    }

    fn escaped(self, text: &str, separator: Option<char>, out: &mut String) {
        // Readers of a header, and of a list in it, cut off what is white at the ends.
        let inner = text.trim();
        // Most text stands as it is.
        let stands =
            |byte: u8| matches!(byte, b' '..=b'~') && byte != b'%' && Some(char::from(byte)) != separator;
        if inner.len() == text.len() && text.bytes().all(stands) {
            return out.push_str(text);
        }
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
                out.push(c);
                continue;
            }
            // Every character that does not stand is in this set.
            out.extend(utf8_percent_encode(c.encode_utf8(&mut [0; 4]), NON_ALPHANUMERIC));
        }
    }
}

/// A string (RFC 9651, section 3.3.3), or a display string (section 3.3.8) where one cannot say it.
fn structured(text: &str, out: &mut String) {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        out.push('"');
        for c in text.chars() {
            if matches!(c, '\\' | '"') {
                out.push('\\');
            }
            out.push(c);
        }
        return out.push('"');
    }
    out.push_str("%\"");
    for byte in text.bytes() {
        match byte {
            b'%' | b'"' | ..0x20 | 0x7f.. => push(out, format_args!("%{byte:02x}")),
            byte => out.push(char::from(byte)),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests;
