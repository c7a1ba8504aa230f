//! Who somebody is, as headers for an application.
//!
//! Every header that is ever set is in every answer, empty where there is nothing to say: proxies put in what they are given, and a
//! client's copy survives exactly where they are given nothing.

use crate::identity::{Group, Identity};
use dtyp::Sid;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::collections::HashMap;
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
            user: UserForm::default(),
            groups: GroupForm::default(),
            group_names: HashMap::new(),
            encoding: Encoding::default(),
            value_len_max: VALUE_LEN_DEFAULT,
        }
    }
}

macro_rules! names {
    ($($name:ident = $text:literal;)*) => { $(const $name: HeaderName = HeaderName::from_static($text);)* };
}

names! {
    SID = "x-identity-sid";
    DOMAIN = "x-identity-domain";
    ACCOUNT = "x-identity-account";
    UPN = "x-identity-upn";
    GROUP_SIDS = "x-identity-group-sids";
    METHOD = "x-identity-method";
    STRENGTH = "x-identity-strength";
    RULE = "x-identity-rule";
    DECISION = "x-identity-decision";
    POLICY = "x-identity-policy-revision";
    CERTIFICATE = "x-identity-certificate-sha256";
    REFERENCE = "x-identity-reference";
    TOKEN = "x-identity-token";
}

/// `X-Identity-…`, always.
const OWN: [HeaderName; 13] = [
    SID,
    DOMAIN,
    ACCOUNT,
    UPN,
    GROUP_SIDS,
    METHOD,
    STRENGTH,
    RULE,
    DECISION,
    POLICY,
    CERTIFICATE,
    REFERENCE,
    TOKEN,
];

/// What a name in a preset means.
#[derive(Clone, Copy)]
enum Meaning {
    User,
    Groups,
    Name,
    Email,
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
    sets.map(|(name, _)| HeaderName::from_static(name)).chain(OWN)
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
    /// Every header that is ever set.
    pub fn advertised(&self) -> impl Iterator<Item = HeaderName> {
        self.preset.headers().iter().map(|(name, _)| HeaderName::from_static(name)).chain(OWN)
    }

    /// Nobody: every header, empty.
    pub fn nobody(&self) -> HeaderMap {
        self.advertised().map(|name| (name, HeaderValue::from_static(""))).collect()
    }

    /// Somebody. What is too long is left out, and the decision's name stands in `X-Identity-Reference`.
    pub fn write(&self, identity: &Identity, facts: Facts<'_>) -> Written {
        let user = self.user(identity);
        let groups: Vec<String> = identity.groups.iter().map(|group| self.group(identity, group)).collect();
        let sids: Vec<String> = identity.groups.iter().map(|group| group.sid.to_string()).collect();
        let text = |text: &str| self.encoding.text(text);
        let optional = |value: Option<&str>| value.map(text).unwrap_or_default();
        let mut essential = vec![
            (SID, identity.sid.to_string()),
            (ACCOUNT, text(&identity.account)),
            (TOKEN, facts.token.unwrap_or_default().to_owned()),
        ];
        let mut values = vec![
            (DOMAIN, text(&identity.domain)),
            (UPN, optional(identity.upn.as_deref())),
            (METHOD, identity.method.unwrap_or_default().to_owned()),
            (STRENGTH, identity.assurance.name().to_owned()),
            (RULE, identity.assurance.rule().unwrap_or_default().to_owned()),
            (DECISION, facts.decision.to_owned()),
            (
                POLICY,
                Some(identity.policy_revision)
                    .filter(|known| *known != 0)
                    .map(|known| known.to_string())
                    .unwrap_or_default(),
            ),
            (CERTIFICATE, dtyp::hex(facts.certificate)),
        ];
        let mut long = vec![(GROUP_SIDS, sids.join(","))];
        for (name, meaning) in self.preset.headers() {
            let name = HeaderName::from_static(name);
            match meaning {
                Meaning::User => essential.push((name, text(&user))),
                Meaning::Name => values.push((name, optional(identity.full_name.as_deref()))),
                // An account has no address; its UPN looks like one and need not be.
                Meaning::Email => values.push((name, String::new())),
                Meaning::Groups => {
                    long.insert(0, (name, self.encoding.list(&groups, self.preset.separator())));
                }
            }
        }
        let mut is_cut = false;
        let mut room = VALUES_LEN_MAX.max(self.value_len_max);
        let mut headers: HeaderMap = HeaderMap::with_capacity(OWN.len() + 4);
        let essential = essential.into_iter().map(|value| (value, self.essential_len_max(), true));
        let others = values.into_iter().chain(long).map(|value| (value, self.value_len_max, false));
        for ((name, value), len_max, is_essential) in essential.chain(others) {
            let fits = value.len() <= len_max && (is_essential || value.len() <= room);
            is_cut |= !fits;
            // What does not fit takes its room away all the same: with more groups, nothing comes back that fewer have pushed out.
            room = room.saturating_sub(value.len());
            let value = if fits { value } else { String::new() };
            // Nothing that is written is more than a header can hold.
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap_or(HeaderValue::from_static(""));
            headers.insert(name, value);
        }
        let reference = if is_cut { facts.decision } else { "" };
        headers.insert(REFERENCE, HeaderValue::from_str(reference).unwrap_or(HeaderValue::from_static("")));
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
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(escaped, "%{byte:02X}");
            }
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
