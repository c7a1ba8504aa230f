//! Tickets that another program sealed from the description of the format open here (`vectors/make.py`), and
//! no others do.

use dtyp::{FileTime, Sid};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use ticket::{
    CertificateHash, Claims, ClaimsError, DATA_MAX, MemoryRedemption, Name, Redeemed, Redemption,
    RedemptionFailed, Refused, Root, Roots, RootsError, SALT_LEN, STATE_MAX, STATE_TICKET_MAX, TICKET_MAX,
    TicketId, from_cookie, open_reusable, open_state, redeem, seal_once, seal_reusable, seal_state,
    to_cookie,
};

fn vector(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"))).expect(name)
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn roots() -> Roots {
    Roots::new(vec![Root::new(7, octets(0))]).expect("one root")
}

fn octets<const N: usize>(from: u8) -> [u8; N] {
    std::array::from_fn(|i| from + i as u8)
}

const CERTIFICATE: u8 = 0x80;
const SALT: u8 = 0x40;

fn at(seconds: i64) -> FileTime {
    FileTime::from_unix(1_800_000_000 + seconds)
}

fn claims() -> Claims {
    Claims {
        issued: at(0),
        expires: at(3600),
        audience: name("web.example"),
        account: "S-1-5-21-1-2-3-1104".parse::<Sid>().expect("a SID"),
        data: b"alice".to_vec(),
    }
}

fn open(ticket: &[u8]) -> Result<Claims, Refused> {
    open_reusable(&roots(), &name("session"), &name("web.example"), &octets(CERTIFICATE), at(60), ticket)
}

/// Runs a future that has nothing to wait for.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("there is nothing to wait for"),
    }
}

fn redeem_at(seconds: i64, ticket: &[u8], redemption: &impl Redemption) -> Result<Claims, Refused> {
    now(redeem(&roots(), &name("session"), &name("web.example"), at(seconds), ticket, redemption))
}

#[test]
fn tickets_of_another_program_open_and_ours_are_the_same_octets() {
    assert_eq!(open(&vector("reusable.bin")), Ok(claims()));
    assert_eq!(redeem_at(60, &vector("one-time.bin"), &MemoryRedemption::new(1)), Ok(claims()));
    let ours = seal_reusable(&roots(), &name("session"), &claims(), &octets(CERTIFICATE), octets(SALT));
    assert_eq!(ours, Ok(vector("reusable.bin")));
    assert_eq!(seal_once(&roots(), &name("session"), &claims(), octets(SALT)), Ok(vector("one-time.bin")));
}

#[test]
fn each_thing_that_a_ticket_is_bound_to_is_refused_if_it_differs() {
    let ticket = vector("reusable.bin");
    let other_root = Roots::new(vec![Root::new(7, octets(1))]).expect("one root");
    let other_generation = Roots::new(vec![Root::new(8, octets(0))]).expect("one root");
    type Change<'a> = (Roots, &'a str, &'a str, CertificateHash, i64, Result<(), Refused>);
    let cases: [Change<'_>; 10] = [
        (roots(), "session", "web.example", octets(CERTIFICATE), 60, Ok(())),
        (other_root, "session", "web.example", octets(CERTIFICATE), 60, Err(Refused::Seal)),
        (other_generation, "session", "web.example", octets(CERTIFICATE), 60, Err(Refused::Generation(7))),
        (roots(), "sessions", "web.example", octets(CERTIFICATE), 60, Err(Refused::Seal)),
        (roots(), "session", "api.example", octets(CERTIFICATE), 60, Err(Refused::Audience)),
        (roots(), "session", "web.examples", octets(CERTIFICATE), 60, Err(Refused::Audience)),
        (roots(), "session", "web.example", octets(CERTIFICATE + 1), 60, Err(Refused::Certificate)),
        (roots(), "session", "web.example", octets(CERTIFICATE), 3600, Err(Refused::Expired)),
        (roots(), "session", "web.example", octets(CERTIFICATE), -61, Err(Refused::Future)),
        (roots(), "session", "web.example", octets(CERTIFICATE), -60, Ok(())),
    ];
    for (roots, purpose, audience, certificate, seconds, expected) in cases {
        let opened =
            open_reusable(&roots, &name(purpose), &name(audience), &certificate, at(seconds), &ticket);
        assert_eq!(opened.map(drop), expected, "{purpose} {audience} {seconds}");
    }
    let last = open_reusable(
        &roots(),
        &name("session"),
        &name("web.example"),
        &octets(CERTIFICATE),
        at(3599),
        &ticket,
    );
    assert_eq!(last, Ok(claims()));
}

#[test]
fn one_kind_does_not_pass_for_the_other() {
    assert_eq!(open(&vector("one-time.bin")), Err(Refused::Kind));
    assert_eq!(redeem_at(60, &vector("reusable.bin"), &MemoryRedemption::new(1)), Err(Refused::Kind));
    for name in ["one-time.bin", "reusable.bin"] {
        let mut turned = vector(name);
        turned[1] = 3 - turned[1];
        assert_eq!(
            open(&turned).and(redeem_at(60, &turned, &MemoryRedemption::new(1))).map(drop),
            match name {
                "one-time.bin" => Err(Refused::Seal),
                _ => Err(Refused::Kind),
            }
        );
    }
}

#[test]
fn tickets_are_refused_at_each_length_and_with_each_bit_changed() {
    let ticket = vector("reusable.bin");
    for len in 0..ticket.len() {
        open(&ticket[..len]).expect_err("cut short");
    }
    for bit in 0..ticket.len() * 8 {
        let mut changed = ticket.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let refused = open(&changed).expect_err("changed");
        let expected: &[&str] = match bit / 8 {
            0 => &["version"],
            1 => &["format", "kind"],
            2..6 => &["generation"],
            _ => &["seal"],
        };
        assert!(expected.contains(&refused.reason()), "octet {}: {refused}", bit / 8);
    }
    open(&[ticket.as_slice(), &[0]].concat()).expect_err("longer");
    assert_eq!(open(&vec![1; TICKET_MAX + 1]).expect_err("too long").reason(), "format");
    assert_eq!(open(&[&[2], &ticket[1..]].concat()), Err(Refused::Version(2)));
}

/// As in `state.bin`.
const STATE: &[u8] = b"of a session";

fn open_state_at(seconds: i64, audience: &str, ticket: &[u8]) -> Result<Vec<u8>, Refused> {
    let opened = open_state(&roots(), &name("session"), &name(audience), at(seconds), ticket);
    opened.map(|state| state.to_vec())
}

#[test]
fn state_opens_at_each_node_until_it_expires_and_for_its_purpose_alone() {
    let (ticket, sealed) = (vector("state.bin"), (STATE, at(3600)));
    let ours = seal_state(&roots(), &name("session"), &name("web.example"), sealed, octets(SALT));
    assert_eq!(ours, Ok(ticket.clone()));
    assert_eq!(open_state_at(3599, "web.example", &ticket), Ok(STATE.to_vec()));
    assert_eq!(open_state_at(3600, "web.example", &ticket), Err(Refused::Expired));
    assert_eq!(open_state_at(0, "api.example", &ticket), Err(Refused::Audience));
    let other = |roots: Roots, purpose| {
        open_state(&roots, &name(purpose), &name("web.example"), at(0), &ticket).map(drop)
    };
    assert_eq!(other(roots(), "sessions"), Err(Refused::Seal));
    let root = |generation, from| Roots::new(vec![Root::new(generation, octets(from))]).expect("a root");
    assert_eq!(other(root(7, 1), "session"), Err(Refused::Seal));
    assert_eq!(other(root(8, 0), "session"), Err(Refused::Generation(7)));
    // It is no ticket of a client, and a ticket of a client is no state.
    assert_eq!(open(&ticket), Err(Refused::Kind));
    assert_eq!(redeem_at(0, &ticket, &MemoryRedemption::new(1)), Err(Refused::Kind));
    for file in ["reusable.bin", "one-time.bin"] {
        let mut turned = vector(file);
        assert_eq!(open_state_at(0, "web.example", &turned), Err(Refused::Kind));
        turned[1] = 3;
        assert_eq!(open_state_at(0, "web.example", &turned), Err(Refused::Seal));
    }
}

#[test]
fn state_is_refused_at_each_length_and_with_each_bit_changed() {
    let ticket = vector("state.bin");
    let open = |ticket: &[u8]| open_state_at(0, "web.example", ticket);
    for len in 0..ticket.len() {
        open(&ticket[..len]).expect_err("cut short");
    }
    for bit in 0..ticket.len() * 8 {
        let mut changed = ticket.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        open(&changed).expect_err("changed");
    }
    open(&[ticket.as_slice(), &[0]].concat()).expect_err("longer");
    let seal = |len| {
        let state = vec![7; len];
        let audience = name(&"a".repeat(64));
        seal_state(&roots(), &name("session"), &audience, (&state, at(1)), octets(SALT))
    };
    assert_eq!(seal(STATE_MAX).map(|ticket| ticket.len()), Ok(STATE_TICKET_MAX));
    assert_eq!(seal(STATE_MAX + 1), Err(ClaimsError::TooLong { len: STATE_MAX + 1, max: STATE_MAX }));
    let longer = [&ticket[..38], &vec![0; STATE_TICKET_MAX]].concat();
    assert_eq!(open(&longer).expect_err("too long").reason(), "format");
}

#[test]
fn claims_that_no_ticket_may_have_are_neither_sealed_nor_taken() {
    assert_eq!(open(&vector("long-life.bin")), Err(Refused::Lifetime));
    assert_eq!(open(&vector("backwards.bin")), Err(Refused::Lifetime));
    assert_eq!(open(&vector("long-data.bin")).expect_err("too long").reason(), "format");
    let seal = |claims: &Claims| seal_once(&roots(), &name("session"), claims, octets(SALT));
    let lifetime = Err(ClaimsError::Lifetime);
    assert_eq!(seal(&Claims { expires: at(0), ..claims() }), lifetime);
    assert_eq!(seal(&Claims { expires: at(24 * 3600 + 1), ..claims() }), lifetime);
    assert_eq!(
        seal(&Claims { data: vec![0; DATA_MAX + 1], ..claims() }),
        Err(ClaimsError::TooLong { len: DATA_MAX + 1, max: DATA_MAX })
    );
    for text in ["", "with space", "ü", "a\0b", &"a".repeat(65)] {
        assert_eq!(Name::new(text), None);
    }
}

#[test]
fn the_largest_ticket_fits_into_a_cookie() {
    let sub_authorities = [u32::MAX; Sid::SUB_AUTHORITIES_MAX];
    let largest = Claims {
        audience: name(&"a".repeat(64)),
        account: Sid::new(5, &sub_authorities).expect("a SID"),
        data: vec![255; DATA_MAX],
        ..claims()
    };
    let ticket = seal_reusable(&roots(), &name("session"), &largest, &octets(CERTIFICATE), octets(SALT))
        .expect("sealed");
    assert_eq!(ticket.len(), TICKET_MAX);
    let cookie = to_cookie(&ticket);
    assert!(cookie.len() <= 4096 - 256, "{}", cookie.len());
    assert!(cookie.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-_".contains(&octet)));
    assert_eq!(from_cookie(&cookie), Ok(ticket));
    for text in
        ["AA==", "A", "AB", "A+", "A/", " AAAA", "AAAA\n", &"A".repeat(TICKET_MAX.div_ceil(3) * 4 + 1)]
    {
        assert_eq!(from_cookie(text).expect_err(text).reason(), "format", "{text}");
    }
}

#[test]
fn generations_overlap_and_one_of_them_seals() {
    let both = || Roots::new(vec![Root::new(7, octets(0)), Root::new(8, octets(9))]).expect("two roots");
    let generation = |ticket: &[u8]| u32::from_le_bytes(ticket[2..6].try_into().expect("four octets"));
    let seal = |roots: &Roots| seal_once(roots, &name("p"), &claims(), octets(SALT)).expect("sealed");
    assert_eq!(generation(&seal(&both())), 8);
    assert_eq!(generation(&seal(&both().sealing_with(7).expect("it is there"))), 7);
    assert!(both().sealing_with(9).is_none());
    let opened = open_reusable(
        &both(),
        &name("session"),
        &name("web.example"),
        &octets(CERTIFICATE),
        at(1),
        &vector("reusable.bin"),
    );
    assert_eq!(opened, Ok(claims()));
    let error = |generations: &[u32]| {
        Roots::new(generations.iter().map(|generation| Root::new(*generation, octets(0))).collect()).err()
    };
    assert_eq!(error(&[1, 2, 1]), Some(RootsError::Twice(1)));
    assert_eq!(error(&[]), Some(RootsError::None));
    assert_eq!(error(&[1, 2, 3, 4, 5]), Some(RootsError::TooMany));
    assert!(!format!("{:?}", both()).contains('9'), "no octet is printed");
}

#[test]
fn the_line_of_a_root_is_read_and_no_other_text() {
    let root = Root::new(7, octets(0));
    // Base64url (RFC 4648, section 5) of the octets 0 to 31.
    let line = "rcmpd-ticket-root:7:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
    assert_eq!(root.to_line().as_str(), line);
    let read = Root::from_line(line).expect("a root");
    let sealed = |root: Root| {
        let roots = Roots::new(vec![root]).expect("one root");
        seal_once(&roots, &name("session"), &claims(), octets(SALT)).expect("sealed")
    };
    assert_eq!((read.generation(), sealed(read)), (7, sealed(root)));
    for odd in [
        "",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "rcmpd-ticket-root:0:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "rcmpd-ticket-root:07:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "rcmpd-ticket-root:+7:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "rcmpd-ticket-root:4294967296:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        "rcmpd-ticket-root:7:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "rcmpd-ticket-root:7:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg",
        "rcmpd-ticket-root:7:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8 ",
    ] {
        assert!(Root::from_line(odd).is_err(), "{odd}");
    }
}

#[test]
fn of_many_redemptions_at_once_one_passes() {
    let redemption = MemoryRedemption::new(10);
    let ticket = vector("one-time.bin");
    let passed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| match redeem_at(60, &ticket, &redemption) {
                Ok(_) => drop(passed.fetch_add(1, Ordering::SeqCst)),
                other => assert_eq!(other, Err(Refused::Redeemed)),
            });
        }
    });
    assert_eq!(passed.into_inner(), 1);
}

#[test]
fn a_ticket_stays_redeemed_as_long_as_any_node_takes_it() {
    let redemption = MemoryRedemption::new(1);
    let ticket = vector("one-time.bin");
    assert_eq!(redeem_at(3599, &ticket, &redemption), Ok(claims()));
    // Another ticket, on a node whose clock is a minute ahead, needs the place.
    let next = Claims { issued: at(3600), expires: at(7200), ..claims() };
    let next = seal_once(&roots(), &name("session"), &next, octets(1)).expect("sealed");
    assert_eq!(redeem_at(3660, &next, &redemption).expect_err("full").reason(), "store");
    assert_eq!(redeem_at(3599, &ticket, &redemption), Err(Refused::Redeemed), "a node whose clock is behind");
    redeem_at(3720, &next, &redemption).expect("there is room again");
}

struct Down(AtomicUsize);

impl Redemption for Down {
    async fn insert_once(&self, _: TicketId, _: FileTime, _: FileTime) -> Result<Redeemed, RedemptionFailed> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Err(RedemptionFailed("the store is unreachable".to_owned()))
    }
}

#[test]
fn a_store_that_is_down_refuses_and_is_not_asked_for_tickets_that_do_not_count() {
    let down = Down(AtomicUsize::new(0));
    let ticket = vector("one-time.bin");
    let refused = redeem_at(60, &ticket, &down).expect_err("refused");
    assert_eq!(refused.to_string(), "redemption is not possible: the store is unreachable");
    assert_eq!(redeem_at(3600, &ticket, &down), Err(Refused::Expired));
    redeem_at(60, &ticket[1..], &down).expect_err("no ticket");
    redeem_at(60, &vector("reusable.bin"), &down).expect_err("another kind");
    assert_eq!(down.0.into_inner(), 1);
}

#[test]
fn the_longest_lifetime_is_a_day() {
    let claims = Claims { expires: at(0) + Duration::from_secs(24 * 3600), ..claims() };
    let salt: [u8; SALT_LEN] = octets(SALT);
    let ticket =
        seal_reusable(&roots(), &name("session"), &claims, &octets(CERTIFICATE), salt).expect("sealed");
    assert_eq!(open(&ticket), Ok(claims));
}
