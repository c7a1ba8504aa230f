//! Paths that break a rule: no account is mapped by one, the rule is reported, and other clients are served.

use rcmpd_tests::Demo;
use rcmpd_tests::openssl::Authority;

#[test]
fn a_certificate_that_breaks_a_rule_maps_nobody_and_the_rule_is_told() {
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
