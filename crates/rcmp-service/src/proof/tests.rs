use super::*;
use aws_lc_rs::signature::KeyPair;
use dtyp::DecodeErrorKind::{BadText, BadValue, OutOfBounds, TooLong, Trailing, Truncated};
use pac::{Buffer, BufferType, Pac};

const DOMAINS: [&str; 3] = ["FABRIKAM", "NORTHWIND", "CONTOSO"];

fn key(domain: &str) -> Ed25519KeyPair {
    let at = DOMAINS.iter().position(|known| *known == domain).unwrap_or(9);
    Ed25519KeyPair::from_seed_unchecked(&[at as u8 + 1; 32]).expect("a seed")
}

/// Two keys, as while one is replaced; none of a domain that is not known.
fn key_of(domain: &str) -> Vec<[u8; 32]> {
    match DOMAINS.contains(&domain) {
        true => vec![[9; 32], key(domain).public_key().as_ref().try_into().expect("32 bytes")],
        false => Vec::new(),
    }
}

fn domain_sid(domain: &str) -> Sid {
    let at = DOMAINS.iter().position(|known| *known == domain).unwrap_or(9) as u32;
    Sid::new(5, &[21, 1000, 2000, 3000 + at]).expect("four parts")
}

fn question() -> Question {
    Question::new(b"whose certificate is this?", [0x6e; 16])
}

/// What the server of a domain says of an account of FABRIKAM's.
fn hop(domain: &str) -> Hop {
    Hop {
        role: if domain == "FABRIKAM" { Role::Answered } else { Role::Forwarded },
        domain: domain.into(),
        domain_sid: domain_sid(domain),
        server: format!("{domain}-DC1"),
        policy_revision: 41,
        strength: HopStrength::Strong,
        account_sid: domain_sid("FABRIKAM").with_rid(1104).expect("a SID"),
        at: FileTime(133_500_000_000_000_000),
    }
}

fn bare() -> Vec<u8> {
    Response::encode(&[0; 16], "FABRIKAM")
}

fn signed(hops: &[Hop]) -> Vec<u8> {
    hops.iter().fold(bare(), |mut message, hop| {
        append(&mut message, hop, &question(), &key(&hop.domain)).expect("it is within the limits");
        message
    })
}

fn worked() -> Vec<u8> {
    signed(&DOMAINS.map(hop))
}

fn verdicts(message: &[u8]) -> Result<Vec<Signed>, DecodeError> {
    let verified = verify(message, &question(), key_of)?;
    Ok(verified.into_iter().map(|verified| verified.signed).collect())
}

/// The entries of a block, each with its length and its signature.
fn pieces(message: &[u8]) -> Vec<Vec<u8>> {
    let (_, block) = split(message);
    let entries = entries(block).expect("our own");
    entries
        .iter()
        .map(|entry| block[HEADER_LEN + entry.before.len()..][..2 + entry.body.len() + 64].to_vec())
        .collect()
}

/// A response with these entries behind it.
fn put_together(pieces: &[Vec<u8>]) -> Vec<u8> {
    [bare(), MAGIC.to_vec(), vec![VERSION, pieces.len() as u8], pieces.concat()].concat()
}

#[test]
fn hops_come_back_in_their_order_and_stay_as_they_are() {
    let mut message = bare();
    let mut before = Vec::new();
    for (at, hop) in DOMAINS.map(hop).iter().enumerate() {
        append(&mut message, hop, &question(), &key(&hop.domain)).expect("it is within the limits");
        let (response, block) = split(&message);
        assert_eq!(response, bare(), "receivers that know nothing of it see what they always saw");
        assert!(block[HEADER_LEN..].starts_with(&before));
        assert_eq!(usize::from(block[COUNT_AT]), at + 1);
        before = block[HEADER_LEN..].to_vec();
    }
    let good = |hop| Verified { hop, signed: Signed::Good };
    assert_eq!(verify(&message, &question(), key_of), Ok(DOMAINS.map(hop).map(good).to_vec()));
    assert_eq!(put_together(&pieces(&message)), message);
    assert_eq!(verify(&bare(), &question(), key_of), Ok(vec![]));
    assert_eq!(Response::decode(&message), Response::decode(&bare()));
}

#[test]
fn an_entry_has_the_bytes_that_are_told() {
    let message = signed(&[hop("FABRIKAM")]);
    let expect = concat!(
        "52434d505041544801",                                       // Magic, Version
        "01",                                                       // Count
        "5c00",                                                     // BodyLength
        "0102",                                                     // Role, Strength
        "2900000000000000",                                         // PolicyRevision
        "00c083ed8a49da01",                                         // At
        "0846414252494b414d",                                       // Domain
        "0c46414252494b414d2d444331",                               // Server
        "010400000000000515000000e8030000d0070000b80b0000",         // DomainSid
        "010500000000000515000000e8030000d0070000b80b000050040000", // AccountSid
    );
    let (_, block) = split(&message);
    let (told, signature) = block.split_at(block.len() - SIGNATURE_LEN);
    assert_eq!(dtyp::hex(told), expect);
    let body = &told[HEADER_LEN + 2..];
    let said =
        [b"rcmpd path v1\n", &question().digest[..], &[0x6e; 16], &Sha256::digest(b"")[..], body].concat();
    assert_eq!(key("FABRIKAM").sign(&said).as_ref(), signature);
}

#[test]
fn whatever_byte_is_changed_its_hop_and_all_later_ones_are_not_believed() {
    let message = worked();
    let start = bare().len();
    let lens: Vec<usize> = pieces(&message).iter().map(Vec::len).collect();
    for at in start..message.len() {
        // The hop that the byte is of; the header is everybody's.
        let of = |offset| {
            lens.iter()
                .scan(HEADER_LEN, |end, len| {
                    *end += len;
                    Some(*end)
                })
                .position(|end| offset < end)
        };
        let hop = if at < start + HEADER_LEN { Some(0) } else { of(at - start) }.expect("it is of one");
        for bit in 0..8 {
            let mut changed = message.clone();
            changed[at] ^= 1 << bit;
            if let Ok(verdicts) = verdicts(&changed) {
                assert!(verdicts[..hop].iter().all(|signed| *signed == Signed::Good), "{at}");
                assert!(verdicts[hop..].iter().all(|signed| *signed != Signed::Good), "{at}");
            }
        }
    }
}

#[test]
fn no_truncated_block_is_read() {
    let message = worked();
    for len in (0..message.len()).filter(|len| *len != bare().len()) {
        let mut truncated = message[..len].to_vec();
        assert!(verdicts(&truncated).is_err(), "{len}");
        assert!(append(&mut truncated, &hop("CONTOSO"), &question(), &key("CONTOSO")).is_err(), "{len}");
        assert_eq!(truncated, message[..len], "what is refused is left alone");
    }
    let cut = &message[..bare().len() - 1];
    assert_eq!(split(cut), (cut, &[][..]), "what is no response has no block");
}

#[test]
fn another_question_is_not_answered() {
    let message = worked();
    let asked = |question| {
        let verified = verify(&message, &question, key_of).expect("it is well formed");
        verified.into_iter().map(|verified| verified.signed).collect::<Vec<_>>()
    };
    assert_eq!(asked(question()), [Signed::Good; 3]);
    assert_eq!(asked(Question { nonce: [0x6f; 16], ..question() }), [Signed::Bad; 3]);
    assert_eq!(asked(Question::new(b"and this?", [0x6e; 16])), [Signed::Bad; 3]);
}

#[test]
fn hops_cannot_be_moved_dropped_inserted_or_doubled() {
    use Signed::{Bad, Good};
    let [a, b, c] = &pieces(&worked())[..] else { panic!("there are three") };
    // Signed for the same question, in another place.
    let [alone] = &pieces(&signed(&[hop("CONTOSO")]))[..] else { panic!("there is one") };
    let check = |what, pieces: &[&Vec<u8>], expect: &[Signed]| {
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        assert_eq!(verdicts(&put_together(&pieces)).as_deref(), Ok(expect), "{what}");
    };
    check("as they are", &[a, b, c], &[Good, Good, Good]);
    check("the last are gone", &[a, b], &[Good, Good]);
    check("the first is gone", &[b, c], &[Bad, Bad]);
    check("one between is gone", &[a, c], &[Good, Bad]);
    check("two changed places", &[b, a, c], &[Bad, Bad, Bad]);
    check("the last two changed places", &[a, c, b], &[Good, Bad, Bad]);
    check("one is there twice", &[a, a, b, c], &[Good, Bad, Bad, Bad]);
    check("the last is there twice", &[a, b, c, c], &[Good, Good, Good, Bad]);
    check("one came in before", &[alone, a, b, c], &[Good, Bad, Bad, Bad]);
    check("one came in between", &[a, alone, b, c], &[Good, Bad, Bad, Bad]);
    check("one came in behind", &[a, b, c, alone], &[Good, Good, Good, Bad]);
}

#[test]
fn a_key_that_is_not_known_is_not_a_wrong_one() {
    let message = signed(&[hop("FABRIKAM"), hop("ELSEWHERE"), hop("CONTOSO")]);
    assert_eq!(verdicts(&message), Ok(vec![Signed::Good, Signed::Unknown, Signed::Good]));
    let mut message = bare();
    append(&mut message, &hop("FABRIKAM"), &question(), &key("CONTOSO")).expect("it is within the limits");
    assert_eq!(verdicts(&message), Ok(vec![Signed::Bad]), "another domain's key");
}

#[test]
fn no_more_hops_are_added_than_may_be() {
    let mut message = signed(&vec![hop("CONTOSO"); HOPS_MAX]);
    let full = message.clone();
    let error =
        append(&mut message, &hop("CONTOSO"), &question(), &key("CONTOSO")).map_err(|error| error.kind);
    assert_eq!((error, &message), (Err(TooLong), &full));
    assert_eq!(verdicts(&full), Ok(vec![Signed::Good; HOPS_MAX]));
    // Long names fill the block before eight do.
    let long = Hop { domain: "D".repeat(255), server: "S".repeat(255), ..hop("CONTOSO") };
    let mut message = bare();
    let add = |message: &mut Vec<u8>| append(message, &long, &question(), &key("CONTOSO"));
    let added = (0..HOPS_MAX).take_while(|_| add(&mut message).is_ok()).count();
    assert_eq!((added, verdicts(&message).map(|verdicts| verdicts.len())), (6, Ok(6)));
    // A response that is as long as any client takes gets no hop.
    let mut message = Response::encode(&vec![0; RESPONSE_LEN_MAX - 64], "FABRIKAM");
    assert_eq!(add(&mut message).map_err(|error| error.what), Err("Block"));
}

#[test]
fn a_hop_that_could_not_be_read_is_not_written() {
    for (name, expect) in [("", BadValue), ("D\n", BadText), (&"D".repeat(256), TooLong)] {
        for hop in
            [Hop { domain: name.into(), ..hop("CONTOSO") }, Hop { server: name.into(), ..hop("CONTOSO") }]
        {
            let mut message = bare();
            let error = append(&mut message, &hop, &question(), &key("CONTOSO")).map_err(|error| error.kind);
            assert_eq!((error, message), (Err(expect), bare()), "{name}");
        }
    }
}

#[test]
fn every_number_of_a_block_is_checked() {
    let worked = worked();
    let start = bare().len();
    let body = HEADER_LEN + 2;
    let domain_sid_at = body + 1 + 1 + 8 + 8 + 1 + "FABRIKAM".len() + 1 + "FABRIKAM-DC1".len();
    for (what, at, value, expect) in [
        ("no response", 0, 1, ("MessageType", BadValue)),
        ("a response that ends beyond", 6, 1, ("Length", OutOfBounds)),
        ("another magic", start, b'r', ("Magic", BadValue)),
        ("another version", start + 8, 2, ("Version", BadValue)),
        ("no entries", start + COUNT_AT, 0, ("Count", BadValue)),
        ("too few entries", start + COUNT_AT, 2, ("Block", Trailing)),
        ("too many entries", start + COUNT_AT, 4, ("BodyLength", Truncated)),
        ("more entries than may be", start + COUNT_AT, HOPS_MAX as u8 + 1, ("Count", TooLong)),
        ("a body that ends beyond", start + HEADER_LEN + 1, 0xff, ("Body", Truncated)),
        ("a body that is too long", start + HEADER_LEN, 0x5d, ("Body", Trailing)),
        ("a body that is too short", start + HEADER_LEN, 0x5b, ("SID.SubAuthority", Truncated)),
        ("another role", start + body, 3, ("Role", BadValue)),
        ("no role", start + body, 0, ("Role", BadValue)),
        ("another strength", start + body + 1, 3, ("Strength", BadValue)),
        ("a domain without a name", start + body + 18, 0, ("Domain", BadValue)),
        ("a name that ends beyond", start + body + 18, 0xff, ("Domain", Truncated)),
        ("a name that is no text", start + body + 19, 0xff, ("Domain", BadText)),
        ("a name with a line feed", start + body + 19, b'\n', ("Domain", BadText)),
        ("a SID of another revision", start + domain_sid_at, 2, ("SID.Revision", BadValue)),
        ("a SID of many parts", start + domain_sid_at + 1, 16, ("SID.SubAuthorityCount", TooLong)),
    ] {
        let mut message = worked.clone();
        message[at] = value;
        assert_eq!(verdicts(&message).map_err(|error| (error.what, error.kind)), Err(expect), "{what}");
    }
    let longer = [&worked[..], &[0]].concat();
    assert_eq!(verdicts(&longer).map_err(|error| error.kind), Err(Trailing));
    let longer = [&worked[..], &[0; BLOCK_LEN_MAX]].concat();
    assert_eq!(verdicts(&longer).map_err(|error| (error.what, error.kind)), Err(("Block", TooLong)));
}

/// The response that the hops are about.
fn pac() -> VerifiedPac {
    let sid = hop("FABRIKAM").account_sid;
    let mut logon_info = crate::test::bob();
    logon_info.user_flags = logon_info.presence_flags();
    let mut data = Vec::new();
    logon_info.encode(&mut data);
    let pac = Pac { buffers: vec![Buffer { buffer_type: BufferType::LOGON_INFO, data }] };
    let pac = VerifiedPac::decode(&pac.to_bytes()).expect("it agrees with itself");
    assert_eq!(pac.user_sid, sid);
    pac
}

#[test]
fn a_path_is_strong_when_every_hop_is_and_everybody_is_known() {
    let path = || verify(&worked(), &question(), key_of).expect("it is well formed");
    let judge = |hops: &[Verified], domain: &str, asked| {
        strong_at_every_hop(hops, &Response { auth_data: &[], domain: domain.into() }, &pac(), asked)
    };
    let check = |what, edit: fn(&mut Vec<Verified>), expect| {
        let mut hops = path();
        edit(&mut hops);
        assert_eq!(judge(&hops, "fabrikam", "contoso"), expect, "{what}");
    };
    check("all is well", |_| {}, Ok(()));
    check("no hop says anything", Vec::clear, Err(Weakness::NoProof));
    check("the one that was asked is missing", |hops| hops.truncate(2), Err(Weakness::OtherAsked));
    check("no hop answered", |hops| drop(hops.remove(0)), Err(Weakness::OutOfOrder(0)));
    check("two answered", |hops| hops[1].hop.role = Role::Answered, Err(Weakness::OutOfOrder(1)));
    check(
        "another domain answered",
        |hops| hops[0].hop.domain = "NORTHWIND".into(),
        Err(Weakness::OtherDomain),
    );
    check(
        "a namesake answered",
        |hops| hops[0].hop.domain_sid = domain_sid("CONTOSO"),
        Err(Weakness::OtherDomain),
    );
    check(
        "the last means another account",
        |hops| hops[2].hop.account_sid = domain_sid("CONTOSO"),
        Err(Weakness::OtherAccount(2)),
    );
    check(
        "the first means another account",
        |hops| hops[0].hop.account_sid = domain_sid("CONTOSO"),
        Err(Weakness::OtherAccount(0)),
    );
    check("one is unknown", |hops| hops[1].signed = Signed::Unknown, Err(Weakness::UnknownKey(1)));
    check("one is forged", |hops| hops[2].signed = Signed::Bad, Err(Weakness::BadSignature(2)));
    check("one is weak", |hops| hops[1].hop.strength = HopStrength::Weak, Err(Weakness::NotStrong(1)));
    check("one cannot tell", |hops| hops[0].hop.strength = HopStrength::Unknown, Err(Weakness::NotStrong(0)));
    assert_eq!(
        judge(&path(), "CONTOSO", "CONTOSO"),
        Err(Weakness::OtherDomain),
        "a response of another domain"
    );
    assert_eq!(judge(&path()[..1], "FABRIKAM", "FABRIKAM"), Ok(()), "no domain between");
}
