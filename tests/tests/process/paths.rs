//! Paths that break a rule: no account is mapped by one, the rule is reported, and other clients are served.

use rcmpd_tests::Demo;
use rcmpd_tests::openssl::Authority;

#[test]
fn a_certificate_that_breaks_a_rule_maps_no_account_and_the_rule_is_told() {
    let demo = Demo::new();
    let authority = Authority::of(&demo);
    let cases = [
        ("signing", "keyUsage = critical,digitalSignature", "verified", ""),
        ("enciphering", "keyUsage = critical,keyEncipherment", "not_for_signing", "extension 2.5.29.15"),
        ("agreeing", "keyUsage = keyAgreement", "not_for_signing", "extension 2.5.29.15"),
        ("unknown", "1.2.3.4 = critical,DER:05:00", "unknown_critical", "extension 1.2.3.4"),
        ("policy", "certificatePolicies = critical,1.2.3.4", "verified", ""),
        (
            "explicit",
            "policyConstraints = critical,requireExplicitPolicy:0",
            "no_explicit_policy",
            "required",
        ),
        ("authority", "basicConstraints = CA:TRUE", "is_a_ca", "certificate of a CA"),
    ];
    for (name, extensions, _, _) in cases {
        authority.issue(&demo, name, extensions);
    }
    let service = demo.serve();
    for (name, _, state, text) in cases {
        service.map(name).code(if state == "verified" { 0 } else { 3 });
        let command = ["explain", &service.certificate(name), "--json", "-c", "rcmpd.toml"];
        let chain = service.rcmpd(&command).json()["chain"].clone();
        assert_eq!(chain["state"], state, "{name}");
        assert!(chain["text"].as_str().is_some_and(|told| told.contains(text)), "{name}: {chain}");
        service.map("alice").code(0);
    }
}

/// The policy inputs of RFC 5280 6.1.1 for one authority: `check-config` takes them, and they are asked of
/// its paths alone.
#[test]
fn an_authority_s_own_policy_inputs_are_asked_of_its_paths() {
    let demo = Demo::new();
    let theirs = Authority::root(&demo, "theirs", "/O=Fabrikam/CN=Fabrikam CA");
    let ours = Authority::of(&demo);
    for authority in [(&ours, "ours"), (&theirs, "theirs")] {
        let (authority, name) = authority;
        authority.issue(&demo, &format!("{name}-plain"), "");
        authority.issue(&demo, &format!("{name}-policy"), "certificatePolicies = 1.2.3.4");
        authority.issue(&demo, &format!("{name}-other"), "certificatePolicies = 1.2.3.5");
    }
    demo.edit(|text| text.replace("[\"certs/ca.pem\"]", "[\"certs/ca.pem\", \"theirs/ca.pem\"]"));
    let text = std::fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    let entry = |certificate: &str, keys: &str| {
        format!("\n[[mapping.authority]]\ncertificate = \"{certificate}\"\n{keys}\n")
    };
    // The keys, whose they are, and which of ours and of theirs are mapped: without a policy, with 1.2.3.4,
    // with 1.2.3.5.
    for (of, keys, expect) in [
        ("theirs/ca.pem", "require_explicit_policy = true", [true, true, true, false, true, true]),
        (
            "theirs/ca.pem",
            "require_explicit_policy = true\npolicies = [\"1.2.3.4\"]",
            [true, true, true, false, true, false],
        ),
        ("certs/ca.pem", "require_explicit_policy = true", [false, true, true, true, true, true]),
    ] {
        std::fs::write(demo.path("rcmpd.toml"), format!("{text}{}", entry(of, keys))).unwrap();
        demo.rcmpd(&["check-config", "-c", "rcmpd.toml"]).code(0);
        let names =
            ["ours-plain", "ours-policy", "ours-other", "theirs-plain", "theirs-policy", "theirs-other"];
        for (name, mapped) in names.into_iter().zip(expect) {
            let done = demo.rcmpd(&["explain", &demo.certificate(name), "--json", "-c", "rcmpd.toml"]);
            let state = if mapped { "verified" } else { "no_explicit_policy" };
            assert_eq!(done.json()["chain"]["state"], state, "{of} {keys} {name}");
        }
    }
    let wrong = entry("theirs/ca.pem", "policies = [\"card\"]");
    std::fs::write(demo.path("rcmpd.toml"), format!("{text}{wrong}")).unwrap();
    let done = demo.rcmpd(&["check-config", "-c", "rcmpd.toml"]);
    assert_ne!(done.code, 0);
    assert!(done.stderr.contains("this is not a certificate policy"), "{done:?}");
}
