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
        ("a suffix", peer("OTHER", 3, &["fabrikam.test"]), Some("fabrikam.test")),
        ("a NetBIOS name as a suffix", peer("OTHER", 3, &["FABRIKAM"]), Some("FABRIKAM")),
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
