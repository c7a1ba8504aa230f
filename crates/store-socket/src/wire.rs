//! The messages of the protocol, without a socket. A frame is the length of its body in four bytes,
//! big-endian, and the body: one JSON object in UTF-8. docs/socket-store.md describes each field.

use crate::failed::{Failed, quoted};
use account_store::alt_security_identity::AltSecurityIdentity;
use account_store::fold::casefold;
use account_store::json_lines::AccountObject;
use account_store::{Domain, GroupScope, Query, search_parts};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// The version that is spoken here.
pub const VERSION: u32 = 1;
/// The longest body of a hello of the program.
pub const HELLO_LEN_MAX: u32 = 4096;
/// The longest body of an answer: an account in 5,000 groups with names takes about 0.6 MiB.
pub const ANSWER_LEN_MAX: u32 = 2 << 20;
/// Candidates in one answer. A program that has more sends some of them, and `more`.
pub const ACCOUNTS_MAX: usize = 64;
/// Groups of one account, as with the other stores.
pub const GROUPS_MAX: usize = 5000;
/// The longest name of a revision, in bytes.
pub const REVISION_LEN_MAX: usize = 256;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask<'a> {
    /// The accounts that a query may name.
    Accounts(&'a Query),
    /// The present revision.
    Revision,
}

#[derive(Serialize)]
struct OwnHello {
    hello: &'static str,
    version: u32,
    domain: String,
}

/// The hello of the program. A later version may have more fields, and its version is reported first.
#[derive(Deserialize)]
struct Hello {
    version: u32,
    domain: Option<String>,
    #[serde(default)]
    revision: Option<String>,
}

#[derive(Serialize)]
struct Question {
    number: u64,
    timeout_ms: u64,
    ask: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    contains: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    folded: Vec<String>,
}

/// An answer, whose number was compared.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) revision: Option<String>,
    pub(crate) accounts: Vec<Candidate>,
    /// Whether the program has more candidates than it sent.
    pub(crate) has_more: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerObject {
    number: u64,
    accounts: Option<Bounded<Candidate, ACCOUNTS_MAX>>,
    #[serde(default)]
    more: bool,
    error: Option<String>,
    revision: Option<String>,
}

/// An account with its groups, not yet checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Candidate {
    pub(crate) account: AccountObject,
    groups: Bounded<GroupObject, GROUPS_MAX>,
}

impl Candidate {
    pub(crate) fn into_parts(self) -> (AccountObject, Vec<GroupObject>) {
        (self.account, self.groups.0)
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Candidate")
    }
}

/// A group, not yet checked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupObject {
    pub(crate) sid: String,
    #[serde(default)]
    pub(crate) name: Option<String>,
    #[serde(default = "global")]
    pub(crate) scope: GroupScope,
}

const fn global() -> GroupScope {
    GroupScope::Global
}

/// A list with a limit, which is noticed while it is read.
struct Bounded<T, const MAX: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    if list.len() == MAX {
                        return Err(A::Error::custom(format_args!("a list has more than {MAX} items")));
                    }
                    list.push(item);
                }
                Ok(list)
            }
        }
        deserializer.deserialize_seq(List::<T, MAX>(PhantomData)).map(Self)
    }
}

fn frame<T: Serialize>(message: &T) -> Vec<u8> {
    // INVARIANT: plain structs have a form in JSON, and texts of questions are bounded.
    let body = serde_json::to_vec(message).expect("plain values have a form in JSON");
    let len = u32::try_from(body.len()).expect("questions are short");
    [&len.to_be_bytes()[..], &body].concat()
}

/// The frame of our hello.
pub(crate) fn hello(domain: &Domain) -> Vec<u8> {
    frame(&OwnHello { hello: "rcmpd", version: VERSION, domain: domain.sid.to_string() })
}

/// The frame of a question.
pub(crate) fn question(number: u64, time: Duration, ask: Ask<'_>) -> Vec<u8> {
    let timeout_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let query = match ask {
        Ask::Revision => {
            let (by, text, contains, folded) = (None, None, Vec::new(), Vec::new());
            return frame(&Question { number, timeout_ms, ask: "revision", by, text, contains, folded });
        }
        Ask::Accounts(query) => query,
    };
    let (mut contains, mut folded) = (Vec::new(), Vec::new());
    let (by, text) = match query {
        Query::UserPrincipalName(text) => ("user_principal_name", casefold(text)),
        Query::ServicePrincipalName(text) => ("service_principal_name", casefold(text)),
        Query::Mail(text) => ("mail", casefold(text)),
        Query::Name(text) => ("name", casefold(text)),
        Query::Sid(sid) => ("sid", sid.to_string()),
        Query::AltSecurityIdentity(text) => match text.parse::<AltSecurityIdentity>() {
            Ok(identity) => {
                contains = search_parts::exact(&identity).concat();
                folded = search_parts::folded(&identity);
                ("alt_security_identity", identity.to_string())
            }
            // It has no place, so it is not asked.
            Err(_) => ("alt_security_identity", text.clone()),
        },
        // A kind of a later version of the trait.
        _ => ("unknown", String::new()),
    };
    let (by, text) = (Some(by), Some(text));
    frame(&Question { number, timeout_ms, ask: "accounts", by, text, contains, folded })
}

fn revision(revision: Option<String>) -> Result<Option<String>, Failed> {
    match revision {
        Some(long) if long.len() > REVISION_LEN_MAX => {
            Err(Failed::Protocol(format!("a revision is longer than {REVISION_LEN_MAX} bytes")))
        }
        revision => Ok(revision),
    }
}

/// Reads the hello of the program, and returns its revision, if it has revisions.
pub(crate) fn read_hello(body: &[u8], domain: &Domain) -> Result<Option<String>, Failed> {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    if let Ok(Refusal { error }) = serde_json::from_slice(body) {
        return Err(Failed::Hello(format!("the program refuses: {}", quoted(&error))));
    }
    let hello: Hello = serde_json::from_slice(body)
        .map_err(|error| Failed::Hello(format!("this is no hello: {}", quoted(&error.to_string()))))?;
    if hello.version != VERSION {
        let other = hello.version;
        return Err(Failed::Hello(format!("the program speaks version {other}, and rcmpd {VERSION}")));
    }
    let sid = domain.sid.to_string();
    match hello.domain {
        Some(other) if other != sid => {
            Err(Failed::Hello(format!("the program has accounts of {}, not of {sid}", quoted(&other))))
        }
        Some(_) => revision(hello.revision),
        None => Err(Failed::Hello("the program does not say whose accounts it has".to_owned())),
    }
}

/// Reads the answer to the question of this number.
pub(crate) fn read_answer(body: &[u8], number: u64, ask: Ask<'_>) -> Result<Answer, Failed> {
    let answer: AnswerObject = serde_json::from_slice(body)
        .map_err(|error| Failed::Protocol(format!("this is no answer: {}", quoted(&error.to_string()))))?;
    if answer.number != number {
        let other = answer.number;
        return Err(Failed::Protocol(format!("an answer to question {other} came for question {number}")));
    }
    let revision = revision(answer.revision)?;
    let wrong = |what: &str| Err(Failed::Protocol(what.to_owned()));
    match (answer.error, answer.accounts, ask) {
        (Some(error), None, _) => Err(Failed::Program(quoted(&error))),
        (Some(_), Some(_), _) => wrong("an answer has accounts and an error"),
        (None, Some(accounts), Ask::Accounts(_)) => {
            Ok(Answer { revision, accounts: accounts.0, has_more: answer.more })
        }
        // A list that is missing is not an empty list.
        (None, None, Ask::Accounts(_)) => wrong("an answer has neither accounts nor an error"),
        (None, None, Ask::Revision) => Ok(Answer { revision, accounts: Vec::new(), has_more: false }),
        (None, Some(_), Ask::Revision) => wrong("accounts were sent that were not asked for"),
    }
}
