//! A directory of Active Directory's schema that answers each request as a test says: what is hard to bring a
//! real server to.

use super::hostile::{element, message, result, server_config};
use super::{Opened, ldaps, name, posix, settings_at, upn};
use account_store::battery::domain;
use account_store::{Matches, Query};
use dtyp::{Encode, Sid};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use store_ldap::{AdSettings, Schema, Seen, Servers, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BASE: &str = "DC=contoso,DC=example";

/// Answers a request, which has this message ID. `None` closes the connection.
type Answer = Arc<dyn Fn(&[u8], u8) -> Option<Vec<u8>> + Send + Sync>;

fn is_about(request: &[u8], text: &str) -> bool {
    request.windows(text.len()).any(|part| part == text.as_bytes())
}

fn sid(rid: u32) -> Vec<u8> {
    domain().sid.with_rid(rid).unwrap().to_bytes()
}

/// The RIDs of the domain's SIDs that a request has.
fn asked_rids(request: &[u8]) -> impl Iterator<Item = u32> {
    let whole = sid(0);
    let domain = whole[..whole.len() - 4].to_vec();
    request.windows(whole.len()).filter_map(move |part| {
        let rid = part.strip_prefix(&domain[..])?;
        Some(u32::from_le_bytes(rid.try_into().unwrap()))
    })
}

/// SearchResultEntry.
fn entry(id: u8, attributes: &[(&str, Vec<Vec<u8>>)]) -> Vec<u8> {
    let attribute = |(name, values): &(&str, Vec<Vec<u8>>)| {
        let values: Vec<u8> = values.iter().flat_map(|value| element(4, value)).collect();
        element(0x30, &[element(4, name.as_bytes()), element(0x31, &values)].concat())
    };
    let attributes: Vec<u8> = attributes.iter().flat_map(attribute).collect();
    message(id, &element(0x64, &[element(4, b"CN=alice"), element(0x30, &attributes)].concat()))
}

fn one(id: u8, attributes: &[(&str, Vec<Vec<u8>>)]) -> Vec<u8> {
    [entry(id, attributes), result(id, 0x65, 0)].concat()
}

/// As a domain controller that has alice answers. `token_groups` answers the question for `tokenGroups`.
fn controller(request: &[u8], id: u8, token_groups: impl Fn(&[u8], u8) -> Vec<u8>) -> Vec<u8> {
    controller_with(request, id, token_groups, &[])
}

/// The same with more attributes of alice.
fn controller_with(
    request: &[u8],
    id: u8,
    token_groups: impl Fn(&[u8], u8) -> Vec<u8>,
    more: &[(&str, Vec<Vec<u8>>)],
) -> Vec<u8> {
    let text = |text: &str| vec![text.as_bytes().to_vec()];
    if is_about(request, "tokenGroups") {
        return token_groups(request, id);
    }
    if is_about(request, "groupType") {
        let group = |rid: u32| {
            let name = format!("group{rid}");
            entry(
                id,
                &[
                    ("objectSid", vec![sid(rid)]),
                    ("sAMAccountName", text(&name)),
                    ("groupType", text("-2147483646")),
                ],
            )
        };
        return [asked_rids(request).flat_map(group).collect(), result(id, 0x65, 0)].concat();
    }
    if is_about(request, "logonHours") {
        let alice = [
            ("objectGUID", vec![vec![7; 16]]),
            ("objectSid", vec![sid(1013)]),
            ("sAMAccountName", text("alice")),
            ("userAccountControl", text("512")),
            ("msDS-User-Account-Control-Computed", text("0")),
            ("primaryGroupID", text("513")),
            ("logonCount", text("0")),
        ];
        return one(id, &[&alice[..], more].concat());
    }
    one(id, &[("objectClass", text("top")), ("objectSid", vec![domain().sid.to_bytes()])])
}

async fn serve(listener: tokio::net::TcpListener, tls: tokio_rustls::TlsAcceptor, answer: Answer) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, answer) = (tls.clone(), Arc::clone(&answer));
        tokio::spawn(async move {
            let Ok(mut stream) = tls.accept(stream).await else { return };
            loop {
                // Each request begins with a length in four octets, and then the message ID.
                let mut head = [0; 6];
                if stream.read_exact(&mut head).await.is_err() {
                    return;
                }
                assert_eq!(head[..2], [0x30, 0x84]);
                let mut request = vec![0; u32::from_be_bytes(head[2..].try_into().unwrap()) as usize];
                stream.read_exact(&mut request).await.unwrap();
                let (id, operation) = (request[2], request[3]);
                let answered = match operation {
                    0x60 => Some(result(id, 0x61, 0)),
                    _ => answer(&request, id),
                };
                let Some(answered) = answered else { return };
                if stream.write_all(&answered).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
        });
    }
}

/// A store of so many servers that all answer like this.
fn opened(servers: usize, answer: impl Fn(&[u8], u8) -> Option<Vec<u8>> + Send + Sync + 'static) -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let config = server_config(folder.path());
    let listeners: Vec<_> = (0..servers)
        .map(|_| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        })
        .collect();
    let port = |listener: &std::net::TcpListener| listener.local_addr().unwrap().port();
    let all = listeners.iter().map(|listener| ldaps(port(listener))).collect();
    let opened = Opened::of(Settings {
        servers: Servers::Listed(all),
        schema: Schema::Ad(AdSettings { base: BASE.to_owned() }),
        ..settings_at(port(&listeners[0]), &folder.path().join("ca.pem"), posix())
    });
    let answer: Answer = Arc::new(answer);
    for listener in listeners {
        let (config, answer) = (Arc::clone(&config), Arc::clone(&answer));
        opened.runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            serve(listener, tokio_rustls::TlsAcceptor::from(config), answer).await;
        });
    }
    opened
}

/// `tokenGroups` in one answer.
fn all_groups(_: &[u8], id: u8) -> Vec<u8> {
    one(id, &[("objectSid", vec![sid(1013)]), ("tokenGroups", [513, 1100].map(sid).to_vec())])
}

fn groups_of(opened: &Opened) -> Vec<Sid> {
    opened.one(name("alice")).memberships.iter().map(|membership| membership.sid).collect()
}

/// [MS-ADTS] 3.1.1.3.1.3.3: a server sends many values in parts.
#[test]
fn an_attribute_in_ranges_is_read_to_its_end() {
    let parts = |request: &[u8], id: u8| {
        let (range, rids) = match (is_about(request, ";range=2-*"), is_about(request, ";range=3-*")) {
            (true, _) => ("tokenGroups;range=2-2", vec![1101]),
            (_, true) => ("tokenGroups;Range=3-*", vec![1102]),
            _ => ("tokenGroups;range=0-1", vec![513, 1100]),
        };
        one(id, &[("objectSid", vec![sid(1013)]), (range, rids.into_iter().map(sid).collect())])
    };
    let opened = opened(1, move |request, id| Some(controller(request, id, parts)));
    let wanted = [513, 1100, 1101, 1102].map(|rid| domain().sid.with_rid(rid).unwrap());
    assert_eq!(groups_of(&opened), wanted);
}

#[test]
fn ranges_that_do_not_end_are_an_error_and_no_shorter_list() {
    for range in ["tokenGroups;range=0-1", "tokenGroups;range=0-18446744073709551615", "tokenGroups;range=0"]
    {
        let parts =
            move |_: &[u8], id: u8| one(id, &[("objectSid", vec![sid(1013)]), (range, vec![sid(513)])]);
        let opened = opened(1, move |request, id| Some(controller(request, id, parts)));
        opened.fails(name("alice"), "comes in ranges that do not end");
    }
}

/// After an answer without a fault, a later search of the same look-up fails, with each code.
#[test]
fn no_code_in_the_middle_of_a_look_up_makes_a_shorter_list() {
    let whole = opened(1, |request, id| Some(controller(request, id, all_groups)));
    assert_eq!(groups_of(&whole).len(), 2);
    for failing in ["tokenGroups", "groupType"] {
        for code in [1, 2, 3, 4, 7, 8, 10, 11, 12, 16, 18, 32, 34, 50, 51, 52, 53, 54, 80, 123] {
            let opened = opened(1, move |request, id| {
                Some(match is_about(request, failing) {
                    true => result(id, 0x65, code),
                    false => controller(request, id, all_groups),
                })
            });
            let found = opened.find(name("alice"));
            assert!(
                found.as_ref().is_err_and(|error| error.to_string().contains("store: ")),
                "{failing} {code}: {found:?}"
            );
            // The entries that came before the code do not count.
            let opened = super::stub::opened(1, move |request, id| {
                let whole = controller(request, id, all_groups);
                Some(match is_about(request, failing) {
                    true => {
                        [&whole[..whole.len() - result(id, 0x65, 0).len()], &result(id, 0x65, code)].concat()
                    }
                    false => whole,
                })
            });
            let found = opened.find(name("alice"));
            // sizeLimitExceeded of a base search with its only entry is no loss.
            let is_whole = code == 4 && failing == "tokenGroups";
            assert_eq!(found.is_ok(), is_whole, "{failing} {code}: {found:?}");
        }
    }
}

/// A look-up of an account with so many groups, which come in the ranges of Windows Server: how many searches it
/// takes, and how many groups are found.
fn look_up_with(groups: u32) -> Result<(u64, usize), String> {
    const RANGE: u32 = 1500;
    let ranges = move |request: &[u8], id: u8| {
        let at = request.windows(6).position(|part| part == b"range=");
        let digits = at.map(|at| request[at + 6..].iter().take_while(|byte| byte.is_ascii_digit()));
        let from =
            digits.map_or(0, |digits| digits.fold(0, |from, digit| from * 10 + u32::from(digit - b'0')));
        let end = groups.min(from + RANGE);
        let last = if end == groups { "*".to_owned() } else { (end - 1).to_string() };
        let range = format!("tokenGroups;range={from}-{last}");
        one(id, &[("objectSid", vec![sid(1013)]), (&range, (from..end).map(|n| sid(513 + n)).collect())])
    };
    let opened = opened(1, move |request, id| Some(controller(request, id, ranges)));
    match opened.find(name("alice")) {
        Ok(Matches::One(alice)) => Ok((opened.meter.requests(), alice.memberships.len())),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

/// As many groups as an answer carries take one search for alice, four ranges, and 50 batches of 100 groups.
#[test]
fn thousands_of_groups_take_few_searches_and_more_than_the_limit_is_an_error() {
    let (searches, groups) = look_up_with(5000).unwrap();
    assert_eq!(groups, 5000);
    assert!(searches <= 60, "{searches}");
    let error = look_up_with(5001).unwrap_err();
    assert!(error.contains("has more than 5000 groups"), "{error}");
}

/// The read by `<GUID=…>` brings another account: the whole look-up is made once more, and not twice.
#[test]
fn an_entry_that_is_another_account_is_looked_up_once_more() {
    for (is_another, attempts) in [(1, 2), (usize::MAX, 2)] {
        let (candidates, reads) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let counted = Arc::clone(&candidates);
        let opened = opened(1, move |request, id| {
            if is_about(request, "logonHours") {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Some(controller(request, id, |request, id| match reads.fetch_add(1, Ordering::Relaxed) {
                read if read < is_another => {
                    one(id, &[("objectSid", vec![sid(1014)]), ("tokenGroups", vec![sid(513), sid(512)])])
                }
                _ => all_groups(request, id),
            }))
        });
        match is_another {
            1 => assert_eq!(groups_of(&opened), [513, 1100].map(|rid| domain().sid.with_rid(rid).unwrap())),
            _ => opened.fails(name("alice"), "an entry changed while it was read"),
        }
        assert_eq!(candidates.load(Ordering::Relaxed), attempts);
    }
}

#[test]
fn former_sids_and_logon_hours_are_read_and_wrong_ones_are_an_error() {
    let of = |attribute: &'static str, values: Vec<Vec<u8>>| {
        opened(1, move |request, id| {
            Some(controller_with(request, id, all_groups, &[(attribute, values.clone())]))
        })
    };
    let elsewhere: Sid = "S-1-5-21-11-12-13-1500".parse().unwrap();
    let alice = of("sIDHistory", vec![elsewhere.to_bytes()]).one(name("alice"));
    assert_eq!(alice.account.extra_sids, [elsewhere]);
    let builtin: Sid = "S-1-5-32-544".parse().unwrap();
    for wrong in [sid(512), sid(1013), builtin.to_bytes(), domain().sid.to_bytes()] {
        let opened = of("sIDHistory", vec![elsewhere.to_bytes(), wrong]);
        opened.fails(name("alice"), "which only this domain's own entries have");
    }
    of("sIDHistory", vec![b"S-1-5-21-11-12-13-1500".to_vec()]).fails(name("alice"), "is not a SID");
    // Monday from eight to sixteen, UTC: the first bit is Sunday's first hour.
    let mut hours = [0; 21];
    hours[4] = 0xff;
    let alice = of("logonHours", vec![hours.to_vec()]).one(name("alice"));
    assert_eq!(alice.account.logon_hours, Some(hours));
    for wrong in [vec![0xff; 20], vec![0xff; 22], Vec::new()] {
        of("logonHours", vec![wrong]).fails(name("alice"), "does not have 21 bytes");
    }
    of("logonHours", vec![hours.to_vec(), vec![0xff; 21]]).fails(name("alice"), "has several values");
}

/// Connections that break off: the question ends, and does not ask all servers that there are.
#[test]
fn a_question_makes_four_attempts_at_most() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let opened = opened(12, move |request, id| match is_about(request, "logonHours") {
        true => {
            counted.fetch_add(1, Ordering::Relaxed);
            None
        }
        false => Some(controller(request, id, all_groups)),
    });
    opened.fails(name("alice"), "the server closes the connection");
    assert_eq!(attempts.load(Ordering::Relaxed), 4);
}

/// What one entry holds says nothing about the server: it is not backed off, and its other connections stay.
#[test]
fn an_entry_over_a_limit_is_no_failure_of_the_server() {
    let many = vec![vec![b'x']; 20_001];
    let long = vec![vec![b'x'; 1 << 20]];
    for values in [many, long] {
        let attempts = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&attempts);
        let opened = opened(2, move |request, id| match is_about(request, "mallory") {
            true => {
                counted.fetch_add(1, Ordering::Relaxed);
                Some(one(id, &[("displayName", values.clone())]))
            }
            false => Some(controller(request, id, all_groups)),
        });
        for asked in 1..=5 {
            opened.fails(name("mallory"), "store: data: ");
            assert_eq!(attempts.load(Ordering::Relaxed), asked, "no other server is asked");
            assert_eq!(groups_of(&opened).len(), 2);
        }
    }
}

/// SearchResultDone with the cookie of the next page (RFC 2696).
fn page_end(id: u8, cookie: &str) -> Vec<u8> {
    let done = element(0x65, &[0x0a, 1, 0, 4, 0, 4, 0]);
    let value = element(0x30, &[&[2, 1, 0][..], &element(4, cookie.as_bytes())].concat());
    let control = element(0x30, &[element(4, b"1.2.840.113556.1.4.319"), element(4, &value)].concat());
    message(id, &[done, element(0xa0, &control)].concat())
}

fn user(id: u8, rid: u32, name: &str, upn: Option<&str>, control: Option<&str>) -> Vec<u8> {
    let text = |text: &str| vec![text.as_bytes().to_vec()];
    let mut attributes = vec![
        ("objectGUID", vec![vec![rid as u8; 16]]),
        ("objectSid", vec![sid(rid)]),
        ("sAMAccountName", text(name)),
        ("msDS-User-Account-Control-Computed", text("0")),
        ("primaryGroupID", text("513")),
        ("logonCount", text("0")),
    ];
    attributes.extend(upn.map(|upn| ("userPrincipalName", text(upn))));
    attributes.extend(control.map(|control| ("userAccountControl", text(control))));
    entry(id, &attributes)
}

/// mallory's user principal name is bob's own name with the domain, erin's state cannot be read, and one of the
/// groups cannot.
#[test]
fn a_walk_sees_who_claims_the_name_of_another_and_what_cannot_be_read() {
    let dns = domain().dns;
    let claimed = format!("bob@{dns}");
    let answer = {
        let claimed = claimed.clone();
        move |request: &[u8], id: u8| {
            let is_page = is_about(request, "1.2.840.113556.1.4.319");
            if is_page && is_about(request, "groupType") {
                let text = |text: &str| vec![text.as_bytes().to_vec()];
                let group = [
                    ("objectSid", vec![sid(513)]),
                    ("sAMAccountName", text("Domain Users")),
                    ("groupType", text("-2147483646")),
                ];
                return Some([entry(id, &group), page_end(id, "")].concat());
            }
            if is_page && is_about(request, "the second page") {
                let mallory = user(id, 12, "mallory", Some(&claimed), Some("512"));
                return Some([mallory, user(id, 13, "erin", None, None), page_end(id, "")].concat());
            }
            if is_page {
                return Some(
                    [user(id, 11, "bob", None, Some("512")), page_end(id, "the second page")].concat(),
                );
            }
            let groups = |request: &[u8], id: u8| {
                let rid = if is_about(request, "<GUID=0b0b0b0b") { 11 } else { 12 };
                one(id, &[("objectSid", vec![sid(rid)]), ("tokenGroups", [513, 1100].map(sid).to_vec())])
            };
            Some(controller(request, id, groups))
        }
    };
    let opened = opened(1, answer);
    let (mut accounts, mut groups, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    let mut see = |seen| match seen {
        Seen::Account(account) => accounts.push((account.name, account.claims)),
        Seen::Group(group) => groups.push(group.names),
        Seen::Wrong(one) => wrong.push(format!("{}: {}", one.who, one.why)),
    };
    opened.runtime.block_on(opened.store.walk(&mut see)).unwrap();
    let names: Vec<_> = accounts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["bob", "mallory", "erin"]);
    let claims =
        |(_, claims): &&(String, Vec<Query>)| claims.contains(&Query::UserPrincipalName(claimed.clone()));
    let claiming: Vec<_> = accounts.iter().filter(claims).map(|(name, _)| name.as_str()).collect();
    assert_eq!(claiming, ["bob", "mallory"], "a store finds both by it, so neither is mapped");
    assert_eq!(groups, [["Domain Users"]]);
    let group = domain().sid.with_rid(1100).unwrap();
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(wrong[0].starts_with("erin: userAccountControl is missing, or may not be read"), "{wrong:?}");
    assert!(wrong[1].starts_with(&format!("bob: the group {group} may not be read")), "{wrong:?}");
}

/// Samba refuses such a user principal name itself. The directory brings bob only if it is asked for his name.
#[test]
fn a_user_principal_name_that_is_the_name_of_another_account_maps_nobody() {
    let claimed = format!("bob@{}", domain().dns);
    let find = |is_there: [bool; 2]| {
        let theirs = claimed.clone();
        let opened = opened(1, move |request, id| {
            if !is_about(request, "logonHours") {
                return Some(controller(request, id, |_, id| {
                    one(id, &[("objectSid", vec![sid(12)]), ("tokenGroups", [513, 1100].map(sid).to_vec())])
                }));
            }
            let asks = |attribute: &str, value: &str| {
                let text = |text: &str| [&[4, text.len() as u8], text.as_bytes()].concat();
                let of = [text(attribute), text(value)].concat();
                request.windows(of.len()).any(|part| part == of)
            };
            let bob = asks("sAMAccountName", "bob").then(|| user(id, 11, "bob", None, Some("512")));
            let mallory = asks("userPrincipalName", &theirs)
                .then(|| user(id, 12, "mallory", Some(&theirs), Some("512")));
            let found = [bob.filter(|_| is_there[0]), mallory.filter(|_| is_there[1])];
            Some([found.into_iter().flatten().flatten().collect(), result(id, 0x65, 0)].concat())
        });
        opened.find(upn(&claimed)).unwrap()
    };
    assert!(matches!(find([false, true]), Matches::One(mallory) if mallory.account.name == "mallory"));
    assert!(matches!(find([true, true]), Matches::Many(names) if names == ["bob", "mallory"]));
    assert_eq!(find([true, false]), Matches::None, "an implicit name is not looked up");
}
