use super::*;
use crate::foreign::ForeignSids;

fn ours() -> Domain {
    Domain {
        netbios: "CONTOSO".into(),
        dns: "contoso.example".into(),
        sid: "S-1-5-21-1-1-1".parse().expect("a SID"),
    }
}

fn peer(netbios: &str, number: u32, names: &[&str]) -> PeerDomain {
    PeerDomain {
        domain: ForeignDomain {
            netbios: netbios.into(),
            sid: format!("S-1-5-21-{number}-1-1").parse().expect("a SID"),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            foreign_sids: ForeignSids::Refuse,
        },
        is_asked: true,
        may_ask: true,
        is_rcmpd: false,
        via: None,
        transit: vec![],
        issuers: vec![],
        proof_keys: vec![],
    }
}

#[test]
fn what_two_domains_claim_is_refused() {
    let fabrikam = || peer("FABRIKAM", 2, &["fabrikam.example", "Fabrikam.Test."]);
    let issuer = |name: &str| vec![name.parse().expect("a name")];
    for (what, other, expect) in [
        ("our NetBIOS name", peer("Contoso", 3, &["x.example"]), Some("Contoso")),
        ("our DNS name", peer("OTHER", 3, &["CONTOSO.example."]), Some("CONTOSO.example.")),
        ("our SID", peer("OTHER", 1, &["x.example"]), Some("S-1-5-21-1-1-1")),
        ("a NetBIOS name", peer("fabrikam", 3, &["x.example"]), Some("fabrikam")),
        ("a DNS name", peer("OTHER", 3, &["fabrikam.Example"]), Some("fabrikam.Example")),
        ("a NetBIOS name as a DNS name", peer("OTHER", 3, &["FABRIKAM"]), Some("FABRIKAM")),
        ("a NetBIOS name as a suffix", peer("OTHER", 3, &["x.example", "FABRIKAM"]), Some("FABRIKAM")),
        ("our NetBIOS name as a suffix", peer("OTHER", 3, &["x.example", "CONTOSO"]), Some("CONTOSO")),
        ("a suffix that is shared", peer("OTHER", 3, &["x.example", "fabrikam.test"]), None),
        ("our DNS name as a suffix", peer("OTHER", 3, &["x.example", "contoso.example"]), None),
        ("a SID", peer("OTHER", 2, &["x.example"]), Some("S-1-5-21-2-1-1")),
        ("nothing", peer("OTHER", 3, &["sub.fabrikam.example"]), None),
    ] {
        let made = Domains::new(ours(), vec![fabrikam(), other], 4).map(|_| ());
        assert_eq!(made, expect.map_or(Ok(()), |what| Err(DomainsError::Claimed(what.into()))), "{what}");
    }
    let with = |name: &str, number, issuers| PeerDomain { issuers, ..peer(name, number, &[name]) };
    let made = Domains::new(
        ours(),
        vec![with("B", 2, issuer("O=Partner,CN=CA")), with("C", 3, issuer("O=partner, CN=ca"))],
        4,
    );
    assert!(matches!(made, Err(DomainsError::Claimed(_))), "however it is spelt");
}

#[test]
fn the_way_to_a_domain_is_one_step() {
    let via = |name: &str, number, through: &str| PeerDomain {
        via: Some(through.into()),
        ..peer(name, number, &[name])
    };
    let direct = || peer("B", 2, &["b.example"]);
    assert!(Domains::new(ours(), vec![via("C", 3, "b"), direct()], 4).is_ok());
    for (what, peers) in [
        ("nobody", vec![via("C", 3, "X")]),
        ("itself", vec![via("C", 3, "C")]),
        ("one that is reached through another", vec![direct(), via("C", 3, "B"), via("D", 4, "C")]),
        ("one that only asks", vec![PeerDomain { is_asked: false, ..direct() }, via("C", 3, "B")]),
    ] {
        assert!(matches!(Domains::new(ours(), peers, 4), Err(DomainsError::Via(_))), "{what}");
    }
    let transit = |name: &str| PeerDomain { transit: vec![name.into()], ..direct() };
    assert!(matches!(Domains::new(ours(), vec![transit("X")], 4), Err(DomainsError::Transit(_))));
    assert!(Domains::new(ours(), vec![transit("b")], 4).is_ok());
    for hops_max in [0, HOPS_MAX + 1] {
        assert_eq!(Domains::new(ours(), vec![], hops_max).map(|_| ()), Err(DomainsError::HopsMax));
    }
}

#[test]
fn names_are_found_whatever_their_case_and_the_dot_at_their_end() {
    let domains =
        Domains::new(ours(), vec![peer("FABRIKAM", 2, &["Fabrikam.Example."])], 4).expect("they agree");
    for name in ["fabrikam", "FABRIKAM", "fabrikam.example", "FABRIKAM.EXAMPLE."] {
        assert_eq!(domains.find(name), Some(0), "{name}");
    }
    for name in ["", "fabrika", "x.fabrikam.example", "contoso"] {
        assert_eq!(domains.find(name), None, "{name}");
    }
    assert!(domains.is_ours("") && domains.is_ours("Contoso") && domains.is_ours("contoso.example."));
}

#[test]
fn a_shared_suffix_is_the_store_s_matter_and_one_peer_s() {
    let inbound = PeerDomain { is_asked: false, ..peer("INBOUND", 5, &["in.example", "two.example"]) };
    let peers = vec![
        peer("EMEA", 2, &["emea.example", "contoso.example", "mail.example", "own.example"]),
        peer("APAC", 3, &["apac.example", "mail.example", "emea.example", "Listed.Example."]),
        peer("ALONE", 4, &["alone.example", "two.example"]),
        inbound,
    ];
    let suffixes =
        Suffixes { listed: vec!["listed.example".into(), "ours.example".into()], is_forest: false };
    let domains = Domains::with_suffixes(ours(), &suffixes, peers.clone(), 4).expect("they agree");
    for (name, expected) in [
        ("contoso.example", Some(Place::Shared(Some(0)))),
        ("MAIL.example", Some(Place::Shared(None))),
        ("own.example", Some(Place::Peer(0))),
        ("emea.example", Some(Place::Shared(None))),
        ("listed.example", Some(Place::Shared(Some(1)))),
        ("ours.example", Some(Place::Shared(None))),
        ("alone.example", Some(Place::Peer(2))),
        ("two.example", Some(Place::Shared(None))),
        ("in.example", None),
        ("x.example", None),
    ] {
        assert_eq!(domains.place(name), expected, "{name}");
    }
    assert_eq!(domains.find("emea.example"), Some(0), "a DNS name stays the domain's");
    assert_eq!((domains.find("mail.example"), domains.find("listed.example")), (None, None));
    // Where the store has the forest, it is asked before any peer.
    let suffixes = Suffixes { listed: vec![], is_forest: true };
    let domains = Domains::with_suffixes(ours(), &suffixes, peers, 4).expect("they agree");
    assert_eq!(domains.place("alone.example"), Some(Place::Shared(Some(2))));
    assert_eq!(domains.place("contoso.example"), Some(Place::Shared(Some(0))));
    assert_eq!(
        Domains::new(ours(), vec![], 4).expect("they agree").place("contoso.example"),
        Some(Place::Ours)
    );
}
