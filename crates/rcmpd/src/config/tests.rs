use super::*;
use rcmp_service::message::MappingFlags;
use rcmp_service::policy::{Grant, Grantee, StrongNameKind};
use rcmp_service::trust::{CertIdHash, OcspAsking, PolicyInputs};
use rcmp_service::{Binding, Form, Validation};

const GOOD: &str = r#"
[domain]
netbios = "CONTOSO"
dns = "contoso.example"
sid = "S-1-5-21-1-2-3"
server = "DC1"
[rpc]
listen = ["127.0.0.1:11490"]
[store]
kind = "sqlite"
path = "accounts.db"
[mapping]
methods = ["upn", "subject"]
binding = "full"
validation = "chain"
anchors = ["certs/ca.pem"]
[client]
server = "127.0.0.1:11490"
account = "WEB01$"
secret = "file:machines/WEB01.secret"
"#;

fn problems(text: &str) -> Vec<String> {
    match parse(text, Path::new("/etc/rcmpd")) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.into_iter().map(|problem| problem.what).collect(),
    }
}

#[test]
fn second_section_of_a_name_says_where_the_first_is() {
    let twice =
        format!("{GOOD}[sso]\nlisten = [\"127.0.0.1:1\"]\n[rpc] # again\nlisten = [\"127.0.0.1:2\"]\n");
    assert_eq!(problems(&twice), ["[rpc] is there already, at line 7"]);
    let key = GOOD.replace("server = \"DC1\"", "server = \"DC1\"\nserver = \"DC1\"");
    assert_eq!(problems(&key), ["duplicate key"]);
}

#[test]
fn a_good_file_is_understood() {
    let config = parse(GOOD, Path::new("/etc/rcmpd")).expect("it is good");
    assert_eq!(config.domain.netbios, "CONTOSO");
    let store = config.store.expect("it is there");
    assert_eq!(store.kind, StoreKind::Sqlite("/etc/rcmpd/accounts.db".into()), "relative to the file");
    assert_eq!(store.machines.as_deref(), Some(Path::new("/etc/rcmpd/accounts.db")));
    assert_eq!(store.key, Path::new("/etc/rcmpd/accounts.key"));
    let client = config.client.expect("it is there");
    assert_eq!(client.secret, SecretRef::File("/etc/rcmpd/machines/WEB01.secret".into()));
    let mapping = config.mapping.expect("it is there");
    assert_eq!(mapping.policy.methods, MappingFlags(0x30));
    assert_eq!((mapping.policy.binding, mapping.policy.validation), (Binding::Full, Validation::Chain));
    assert_eq!(mapping.trust.anchors, [Path::new("/etc/rcmpd/certs/ca.pem")]);
}

/// `connections_max`, then of an address and of an account.
#[test]
fn connections_of_an_account_are_as_many_as_of_an_address_unless_the_file_says_otherwise() {
    for (keys, expected) in [
        ("", (10_000, 1_000, 1_000)),
        ("connections_per_address_max = 5000\n", (10_000, 5_000, 5_000)),
        ("connections_per_address_max = 20\nconnections_per_account_max = 300\n", (10_000, 20, 300)),
        ("connections_max = 160\nconnections_per_account_max = 8\n", (160, 1_000, 8)),
    ] {
        let text = GOOD.replace("[store]", &format!("{keys}[store]"));
        let rpc = parse(&text, Path::new("/etc/rcmpd")).expect("it is good").rpc.expect("it is there");
        let dcerpc_tokio::Limits {
            connections_max,
            connections_per_address_max,
            connections_per_account_max,
            ..
        } = rpc.limits;
        assert_eq!(
            (connections_max, connections_per_address_max, connections_per_account_max),
            expected,
            "{keys}"
        );
    }
    let none = GOOD.replace("[store]", "connections_per_account_max = 0\n[store]");
    assert_eq!(problems(&none).len(), 1);
}

/// Replaces the first text by the second one in a good file, and expects a problem that begins with the
/// third.
#[track_caller]
fn all_reported(cases: &[(&str, &str, &str)]) {
    for (from, to, expect) in cases {
        let wrong = GOOD.replacen(from, to, 1);
        assert_ne!(wrong, GOOD, "{from}");
        assert!(problems(&wrong).iter().any(|what| what.starts_with(expect)), "{to}: {:?}", problems(&wrong));
    }
}

#[test]
fn each_wrong_value_of_a_mapping_is_reported() {
    all_reported(&[
        ("binding = \"full\"", "binding = \"no\"", "unknown binding"),
        ("validation = \"chain\"", "validation = \"crl\"", "unknown validation"),
        ("validation = \"chain\"", "validation = \"off\"", "no certificate would be mapped"),
        ("\"full\"\nvalidation = \"chain\"", "\"off\"\nvalidation = \"off\"", "anchors are not used"),
        ("anchors = [\"certs/ca.pem\"]\n", "", "anchors are missing"),
        ("[\"certs/ca.pem\"]", "[]", "anchors are missing"),
        ("\"chain\"", "\"chain+crl\"", "there is no source of revocation"),
        ("anchors", "crls = [\"ca.crl\"]\nanchors", "CRLs are not used with this validation"),
        ("\"chain\"", "\"chain+crl\"\ncrls = [\"https://a/b\"]", "this is not an http:// URL"),
        ("\"chain\"", "\"chain+crl\"\ncrls = [\"a\"]\ncrl_refresh_s = 0", "this is out of range"),
        ("anchors", "extended_key_usage = [\"web\"]\nanchors", "unknown key purpose"),
        ("anchors", "extended_key_usage = []\nanchors", "extended_key_usage is an empty list"),
        ("anchors", "policies = []\nanchors", "policies is an empty list"),
        ("anchors", "policies = [\"smart cards\"]\nanchors", "this is not a certificate policy"),
        ("anchors", "policies = [\"2.5.29.32.0\"]\nanchors", "this is not a certificate policy"),
        ("anchors", "client_rsa_bits = 512\nanchors", "this is not an RSA key length"),
        ("anchors", "comparison = \"loose\"\nanchors", "unknown comparison"),
        ("anchors", "name_comparison = \"windows\"\nanchors", "unknown comparison of names"),
        ("anchors", "sha1_pukey = \"key\"\nanchors", "unknown sha1_pukey"),
        ("[client]", "[mapping.shadow]\nbinding = \"no\"\n[client]", "unknown binding"),
        ("[client]", "[mapping.shadow]\nshadow = {}\n[client]", "[mapping.shadow] cannot have a shadow"),
        ("\"upn\", ", "\"upn\", \"smell\", ", "unknown mapping method"),
        ("anchors", "identity_sid = \"me\"\nanchors", "this is not a SID"),
    ]);
}

#[test]
fn each_wrong_grant_is_reported() {
    all_reported(&[
        ("anchors", "grant = [\"smell\"]\nanchors", "unknown form"),
        (
            "anchors",
            "grant = [{ form = \"upn\", for = [\"all\"] }]\nanchors",
            "\"all\" names no account, group or suffix",
        ),
        ("anchors", "grant = [{ form = \"upn\", for = [] }]\nanchors", "for is an empty list"),
        (
            "anchors",
            "grant = [{ form = \"sid\", for = [\"@*.example\"] }]\nanchors",
            "\"@*.example\" is not the end of a",
        ),
        (
            "anchors",
            "grant = [{ form = \"sid\", for = [\"@a.example.\"] }]\nanchors",
            "\"@a.example.\" is not the end of a",
        ),
        (
            "anchors",
            "grant = [{ form = \"sid\", for = [\"@b@a.example\"] }]\nanchors",
            "\"@b@a.example\" is not the end of a",
        ),
        (
            "anchors",
            "grant = [{ form = \"sid\", for = [\"group:S-1-5-21-1-2-4-512\"] }]\nanchors",
            "S-1-5-21-1-2-4-512 is not of this domain",
        ),
        (
            "anchors",
            "grant = [{ form = \"sid\", for = [\"account:S-1-5-32-544\"] }]\nanchors",
            "S-1-5-32-544 is not of this domain",
        ),
        (
            "anchors",
            "grant = [{ form = \"sid\", for = [\"group:S-1-5-21-1-2-3\"] }]\nanchors",
            "S-1-5-21-1-2-3 is not of this domain",
        ),
        ("anchors", "grant = []\nanchors", "no form is granted"),
        ("anchors", "grant = [\"upn\", \"issuer-subject\"]\nanchors", "no strong form is granted"),
        (
            "anchors",
            "grant = [{ form = \"upn\", for = [\"@a\"], not_for = [\"@b\"] }]\nanchors",
            "data did not match",
        ),
    ]);
}

#[test]
fn each_wrong_value_of_a_ca_is_reported() {
    all_reported(&[
        (
            "methods = [\"upn\", \"subject\"]",
            "methods = []",
            "methods is an empty list, so no certificate is mapped",
        ),
        (
            "[client]",
            "[[mapping.authority]]\ncertificate = \"a\"\nmethods = []\n[client]",
            "methods is an empty list, so no certificate is mapped",
        ),
        (
            "[client]",
            "[[mapping.authority]]\ncertificate = \"a\"\nstrong_names = [{ policies = [\"1.2\"], names = \"@*.a\" }]\n[client]",
            "this is not a kind of name",
        ),
        ("[client]", "[[mapping.authority]]\n[client]", "missing field `certificate`"),
        (
            "[client]",
            "[[mapping.authority]]\ncertificate = \"a\"\nsmell = 1\n[client]",
            "unknown field `smell`",
        ),
        (
            "[client]",
            "[[mapping.authority]]\ncertificate = \"a\"\nstrong_names = [{ policies = [\"x\"], names = \"@a\" }]\n[client]",
            "this is not an object identifier",
        ),
        (
            "[client]",
            "[[mapping.authority]]\ncertificate = \"a\"\nstrong_names = [{ policies = [\"1.2\"], names = \"a\" }]\n[client]",
            "this is not a kind of name",
        ),
        (
            "[client]",
            "[[mapping.authority]]\ncertificate = \"a\"\nocsp = \"http://a/\"\n[client]",
            "OCSP responders are not asked with this validation",
        ),
        (
            "[client]",
            "[[mapping.authority]]\ncertificate = \"a\"\nocsp_signer = \"b\"\n[client]",
            "there is no OCSP responder",
        ),
        (
            "[client]",
            "[[mapping.authority]]\ncertificate = \"a\"\nocsp_nonce = 16\n[client]",
            "there is no OCSP responder",
        ),
        (
            "[client]",
            "[[mapping.authority]]\ncertificate = \"a\"\nocsp = \"http://a/\"\nocsp_nonce = 129\n[client]",
            "this is not a nonce length",
        ),
        (
            "[client]",
            "[[mapping.authority]]\ncertificate = \"a\"\nocsp = \"http://a/\"\nocsp_nonce = 0\nocsp_nonce_required = true\n[client]",
            "no nonce is sent",
        ),
        (
            "[client]",
            "[[mapping.authority]]\ncertificate = \"a\"\nocsp = \"http://a/\"\nocsp_hash = \"md5\"\n[client]",
            "unknown ocsp_hash",
        ),
        (
            "[client]",
            "[[mapping.authority]]\ncertificate = \"a\"\npolicies = [\"x\"]\n[client]",
            "this is not a certificate policy",
        ),
        (
            "anchors = [\"certs/ca.pem\"]\n",
            "anchors = [\"a\"]\npolicies = [\"1.2.3\"]\nauthority = [{ certificate = \"a\", policies = [\"1.2.4\"] }]\n",
            "none of these is among mapping.policies",
        ),
        (
            "[client]",
            "[[mapping.authority]]\ncertificate = \"a\"\nmethods = [\"issuer\"]\n[client]",
            "mapping.methods allows none of these",
        ),
    ]);
}

#[test]
fn each_wrong_value_of_other_sections_is_reported() {
    all_reported(&[
        ("127.0.0.1:11490\"]", "localhost:11490\"]", "this is not an address and port"),
        ("S-1-5-21-1-2-3", "S-1-5-21-1-2", "this is not the SID of a domain"),
        ("WEB01$", "WEB01", "this is not a machine account"),
        ("file:machines/WEB01.secret", "hunter2", "this is not a reference to a secret"),
        ("file:machines/WEB01.secret", "cred:../x", "this is not a reference to a secret"),
        ("\"sqlite\"", "\"postgres\"", "[store.postgres] is missing"),
        ("\"sqlite\"", "\"ldap\"", "the directory is not described"),
        ("\"sqlite\"", "\"ldap\"", "this kind of store has no file"),
        ("\"sqlite\"", "\"memory\"", "this kind of store has no machine accounts"),
        ("\"sqlite\"", "\"profile\"", "this kind of store has no file"),
        ("\"sqlite\"", "\"profile\"", "there are no levels"),
        ("\"sqlite\"", "\"paper\"", "this is not a kind of store"),
        (
            "path = \"accounts.db\"",
            "path = \"accounts.db\"\nsettings = { x = 1 }",
            "[store.settings] does not belong to kind = \"sqlite\"",
        ),
        ("[\"127.0.0.1:11490\"]", "[]", "listen is an empty list"),
        ("[client]", "[telemetry]\nlog = \"info,,=%x=foo=bar\"\n[client]", "this is not a log filter"),
        ("[client]", "[telemetry]\nlog = \"inof\"\n[client]", "this has no log level and no log target"),
        (
            "[client]",
            "[telemetry]\nlog = \"rcmpdd::serve,hyper\"\n[client]",
            "this has no log level and no log target",
        ),
        ("[client]", "[tlsnego]\n[client]", "missing field `listen`"),
        ("[client]", "[audit]\nrequired = true\n[client]", "[audit] is required and has no path"),
        ("[client]", "[audit]\nchain = true\n[client]", "a chain needs a file"),
        (
            "[client]",
            "[audit]\npath = \"a\"\n[audit.heads]\npath = \"h\"\nkey = \"k\"\n[client]",
            "heads need a chain",
        ),
        (
            "[client]",
            "[audit]\npath = \"a\"\nchain = true\nheads = { path = \"a\", key = \"k\" }\n[client]",
            "this is the audit log itself",
        ),
        (
            "[client]",
            "[audit]\npath = \"a\"\nchain = true\nheads = { path = \"h\", key = \"k\", interval_s = 0 }\n[client]",
            "this is out of range",
        ),
        (
            "[client]",
            "[audit]\npath = \"a\"\nchain = true\nheads = { path = \"h\" }\n[client]",
            "missing field `key`",
        ),
        ("\"DC1\"", "\"a server name that is too long\"", "this is not a NetBIOS name"),
        ("[mapping]", "[mappings]", "unknown field `mappings`"),
        ("[mapping]", "[tlsnego]\n[mapping]", "missing field `listen`"),
        ("listen", "listne", "unknown field `listne`"),
        ("[client]", "[admin]\nlisten = \"127.0.0.1:1\"\nhosts = [\"a,b\"]\n[client]", "this is not a host"),
        (
            "[client]",
            "[admin]\nlisten = \"127.0.0.1:1\"\nhosts = [\"b\u{fc}cher\"]\n[client]",
            "this is not a host",
        ),
        ("[client]", "[admin]\nlisten = \"127.0.0.1:1\"\nhosts = [\"*.a\"]\n[client]", "this is not a host"),
        ("[rpc]\n", "[rpc]\nmisses_burst = 0\n", "this is out of range"),
        ("[rpc]\n", "[rpc]\nmisses_per_s = 1000001\n", "this is out of range"),
        (
            "[client]",
            "[audit]\npath = \"a\"\naccount_mib_per_hour = 1048577\n[client]",
            "this is out of range",
        ),
    ]);
}

/// A method looks accounts up by some forms ([MS-RCMP] 3.5.2); the SID in a certificate finds no account.
#[test]
fn a_policy_that_maps_no_certificate_is_refused() {
    let of = |methods: &str, rest: &str| {
        let text = GOOD.replace("methods = [\"upn\", \"subject\"]", &format!("methods = {methods}"));
        text.replace("[client]", &format!("{rest}\n[client]"))
    };
    let (no_look_up, no_strong) = ("no method looks accounts up", "no strong form is granted");
    let entry = |rest: &str| format!("[[mapping.authority]]\ncertificate = \"a\"\n{rest}");
    let upn_sid = "grant = [\"upn\", \"sid\"]";
    for (methods, rest, expect) in [
        ("[\"upn\", \"subject\"]", "grant = [\"sid\"]".to_owned(), no_look_up),
        ("[\"upn\"]", "grant = [\"issuer-serial\"]".to_owned(), no_look_up),
        ("[\"subject\"]", upn_sid.to_owned(), no_look_up),
        ("[\"issuer\"]", String::new(), no_look_up),
        ("[\"issuer\"]", "grant = [\"sid\", \"ski\"]".to_owned(), no_look_up),
        ("[\"upn\"]", "grant = [\"upn\", \"dns\"]".to_owned(), no_strong),
        ("[\"issuer\"]", "grant = [\"issuer\"]".to_owned(), no_strong),
        // By the rules of an authority alone, and in a shadow.
        ("[\"subject\"]", format!("grant = []\n{}", entry(upn_sid)), no_look_up),
        (
            "[\"upn\", \"subject\"]",
            format!("grant = []\n{}", entry(&format!("methods = [\"subject\"]\n{upn_sid}"))),
            no_look_up,
        ),
        ("[\"upn\", \"subject\"]", "[mapping.shadow]\ngrant = [\"sid\"]".to_owned(), no_look_up),
        ("[\"upn\", \"subject\"]", "[mapping.shadow]\nmethods = [\"issuer\"]".to_owned(), no_look_up),
    ] {
        let found = problems(&of(methods, &rest));
        assert!(matches!(&found[..], [what] if what.starts_with(expect)), "{methods} {rest}: {found:?}");
    }
    // Forms that only propose an account need something strong with any binding.
    let proposal = of("[\"subject\"]", "grant = [\"subject\", \"rfc822\"]").replace("\"full\"", "\"off\"");
    assert!(matches!(&problems(&proposal)[..], [what] if what.starts_with(no_strong)));
    let strong_names = entry("strong_names = [{ policies = [\"1.2\"], names = \"@contoso.example\" }]");
    for (methods, rest) in [
        ("[\"upn\"]", upn_sid.to_owned()),
        // Stored values bind accounts that another name found.
        ("[\"upn\"]", "grant = [\"upn\", \"issuer-serial\"]".to_owned()),
        ("[\"subject\"]", "grant = [\"issuer-serial\"]".to_owned()),
        ("[\"subject\"]", "grant = [\"rfc822\", \"sid\"]".to_owned()),
        ("[\"issuer-chain\"]", "grant = [\"issuer\", \"sid\"]".to_owned()),
        ("[\"upn\"]", format!("grant = [\"upn\"]\n{strong_names}")),
        ("[\"upn\"]", format!("grant = []\n{}", entry(upn_sid))),
        ("[\"upn\"]", format!("grant = [\"sid\"]\n{}", entry(upn_sid))),
    ] {
        assert_eq!(problems(&of(methods, &rest)), [""; 0], "{methods} {rest}");
    }
    let names = of("[\"upn\"]", "grant = [\"upn\"]").replace("\"full\"", "\"compat\"");
    assert_eq!(problems(&names), [""; 0]);
    // One authority of several may be meant to vouch for nothing. That is a warning.
    let useless = |rest: &str| {
        let text = of("[\"upn\", \"subject\"]", &entry(rest));
        let config = parse(&text, Path::new("/")).unwrap_or_else(|problems| panic!("{rest}: {problems:?}"));
        let found = crate::findings::useless_entries(&config);
        assert!(found.iter().all(|warning| warning.to_string().contains("\"/a\"")), "{found:?}");
        found.len()
    };
    for (rest, expect) in [
        ("grant = [\"sid\"]", 1),
        ("methods = [\"subject\"]\ngrant = [\"upn\", \"sid\"]", 1),
        ("grant = [\"upn\"]", 1),
        ("grant = []", 0),
        ("methods = [\"subject\"]", 0),
        ("grant = [\"issuer-serial\"]", 0),
    ] {
        assert_eq!(useless(rest), expect, "{rest}");
    }
}

#[test]
fn levels_and_targets_of_the_log_are_understood() {
    for log in [
        "info",
        "WARN",
        "off",
        "3",
        "info,dcerpc_tokio=debug",
        "rcmpd::sidecar",
        "audit",
        "info, hyper",
        "hyper=debug",
    ] {
        let text = GOOD.replace("[client]", &format!("[telemetry]\nlog = \"{log}\"\n[client]"));
        assert_eq!(problems(&text), [""; 0], "{log}");
    }
}

/// The second listener gets EADDRINUSE (bind(2), ip(7)): on the same address and port, and where one of both
/// is unspecified.
#[test]
fn an_address_is_listened_on_once() {
    let sidecar = SIDECAR.replace(
        "[[sidecar.route]]",
        "[sidecar.proxy]\nlisten = \"127.0.0.1:9443\"\ncertificate = \"a\"\nkey = \"b\"\nupstream = \"http://127.0.0.1:1\"\n\
         [[sidecar.route]]",
    );
    let rest = "endpoint_mapper = \"127.0.0.1:1135\"\n[admin]\nlisten = \"127.0.0.1:9470\"\n";
    let all = format!("{}{sidecar}", GOOD.replace("[store]", &format!("{rest}[store]")));
    assert_eq!(problems(&all), [""; 0]);
    let listeners = [
        "127.0.0.1:11490\"]",
        "127.0.0.1:1135\"",
        "127.0.0.1:9470\"",
        "127.0.0.1:9481\"",
        "127.0.0.1:9443\"",
    ];
    for (at, from) in listeners.iter().enumerate() {
        let port = 20_000 + at;
        let end = &from[from.find('"').expect("a quote")..];
        for (one, other) in [
            ("127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "127.0.0.1"),
            ("127.0.0.1", "0.0.0.0"),
            ("[::1]", "[::]"),
            ("127.0.0.1", "[::ffff:127.0.0.1]"),
        ] {
            let next = listeners[(at + 1) % listeners.len()];
            let next_end = &next[next.find('"').expect("a quote")..];
            let text = all.replacen(from, &format!("{one}:{port}{end}"), 1);
            let text = text.replacen(next, &format!("{other}:{port}{next_end}"), 1);
            let found = problems(&text);
            assert!(
                matches!(&found[..], [what] if what.contains("another listener has")),
                "{text}: {found:?}"
            );
        }
        let text = all.replacen(from, &format!("127.0.0.2:9481{end}"), 1);
        assert_eq!(problems(&text), [""; 0], "another address");
    }
    let twice = GOOD.replace("[\"127.0.0.1:11490\"]", "[\"127.0.0.1:1\", \"127.0.0.1:1\"]");
    assert_eq!(problems(&twice).len(), 1);
    let free = GOOD.replace("[\"127.0.0.1:11490\"]", "[\"127.0.0.1:0\", \"127.0.0.1:0\"]");
    assert_eq!(problems(&free), [""; 0], "the kernel chooses");
}

#[test]
fn sections_are_proposed_for_an_unknown_one() {
    let [unknown] = &problems(&GOOD.replace("[mapping]", "[mappings]"))[..] else { panic!("one problem") };
    assert!(unknown.contains("`mapping`") && unknown.contains("`sidecar`"), "{unknown}");
    assert!(unknown.contains("`tlsnego`"), "{unknown}");
}

#[test]
fn a_shadow_is_the_live_policy_but_for_what_it_says() {
    let text =
        GOOD.replace("[client]", "[mapping.shadow]\nbinding = \"compat\"\nbackdating_s = 60\n[client]");
    let live = parse(&text, Path::new("/etc/rcmpd")).expect("it is good").mapping.expect("it is there");
    let shadow = live.shadow.as_ref().expect("it is there");
    assert_eq!((live.policy.binding, live.policy.backdating_s), (Binding::Full, 600));
    assert_eq!((shadow.policy.binding, shadow.policy.backdating_s), (Binding::Compat, 60));
    assert_eq!(shadow.trust, live.trust);
    assert_eq!(shadow.policy.methods, live.policy.methods);
}

#[test]
fn a_shadow_may_verify_less_than_the_live_policy() {
    let strict = GOOD.replace("validation = \"chain\"", "validation = \"chain+crl\"\ncrls = [\"ca.crl\"]");
    for (shadow, anchors) in [("validation = \"chain\"", 1), ("validation = \"off\"\nbinding = \"off\"", 0)] {
        let text = strict.replace(
            "[client]",
            &format!(
                "[[mapping.authority]]\ncertificate = \"a\"\nocsp = \"http://a/\"\n[mapping.shadow]\n{shadow}\n[client]"
            ),
        );
        let live = parse(&text, Path::new(".")).unwrap_or_else(|problems| panic!("{shadow}: {problems:?}"));
        let shadow = live.mapping.and_then(|mapping| mapping.shadow).expect("it is there");
        assert_eq!((shadow.trust.anchors.len(), shadow.trust.crls.len()), (anchors, 0));
        assert!(shadow.authorities.iter().all(|authority| authority.ocsp.is_none()));
    }
}

#[test]
fn what_is_asked_of_paths_is_read() {
    let trust = |keys: &str| {
        let text = GOOD.replacen("anchors", &format!("{keys}\nanchors"), 1);
        parse(&text, Path::new("/etc/rcmpd")).expect("it is good").mapping.expect("it is there").trust
    };
    let standard = trust("");
    assert_eq!((standard.policies, standard.client_rsa_bits), (PolicyInputs::default(), None));
    assert!(standard.require_all_crls);
    let told = trust(
        "policies = [\"1.2.3\"]\nrequire_explicit_policy = true\ninhibit_policy_mapping = true\ninhibit_any_policy = true\n\
         client_rsa_bits = 3072\nrequire_all_crls = false",
    );
    assert!(!told.require_all_crls);
    let policies = PolicyInputs {
        initial: vec![vec![0x2a, 0x03]],
        require_explicit_policy: true,
        inhibit_policy_mapping: true,
        inhibit_any_policy: true,
    };
    assert_eq!((told.policies, told.client_rsa_bits), (policies, Some(3072)));
}

#[test]
fn an_authority_has_rules_of_its_own() {
    let text = GOOD.replace("validation = \"chain\"", "validation = \"chain+crl\"").replace(
        "[client]",
        "[[mapping.authority]]
certificate = \"certs/partner.pem\"
methods = [\"subject\"]
grant = [\"issuer-serial\", { form = \"ski\", for = [\"@partner.example\", \"group:Partners\", \"account:S-1-5-21-1-2-3-1001\"] }]
strong_names = [{ policies = [\"1.2.3\"], names = \"@partner.example\" }]
policies = [\"1.2.4\"]
require_explicit_policy = true
ocsp = \"http://ocsp.partner.example/\"
ocsp_nonce = 16
ocsp_nonce_required = true
ocsp_hash = \"sha256\"
[client]",
    );
    let mapping = parse(&text, Path::new("/etc/rcmpd")).expect("it is good").mapping.expect("it is there");
    let authority = &mapping.authorities[0];
    assert_eq!(authority.certificate, Path::new("/etc/rcmpd/certs/partner.pem"));
    assert_eq!(authority.policy.methods, Some(MappingFlags::SUBJECT));
    assert_eq!(authority.policy.binding, None);
    let to = vec![
        Grantee::Suffix("partner.example".into()),
        Grantee::NamedGroup("Partners".into()),
        Grantee::Account("S-1-5-21-1-2-3-1001".parse().expect("a SID")),
    ];
    let grants: Vec<Grant> = authority.policy.grants.as_ref().expect("it is there").iter().cloned().collect();
    assert_eq!(
        grants,
        [
            Grant { form: Form::IssuerSerial, to: None },
            Grant { form: Form::SubjectKeyIdentifier, to: Some(to) }
        ]
    );
    let name = &authority.policy.strong_names[0];
    assert_eq!(name.policies, [vec![0x2a, 0x03]]);
    assert_eq!(name.kind, StrongNameKind::UpnSuffix("partner.example".into()));
    let policies = PolicyInputs {
        initial: vec![vec![0x2a, 0x04]],
        require_explicit_policy: true,
        ..PolicyInputs::default()
    };
    assert_eq!(authority.path_policies, policies);
    let ocsp = authority.ocsp.as_ref().expect("it is there");
    assert_eq!(ocsp.url, "http://ocsp.partner.example/");
    let asking = OcspAsking { nonce_len: 16, nonce_required: true, hash: CertIdHash::Sha256 };
    assert_eq!(ocsp.asking, asking);
}

#[test]
fn an_audit_log_has_its_chain_and_its_heads() {
    let audit =
        |text: &str| parse(&format!("{GOOD}{text}"), Path::new("/etc/rcmpd")).expect("it is good").audit;
    assert_eq!(audit(""), audit_log::Settings::default());
    assert!(!audit("[audit]\npath = \"a\"").chain);
    let whole = audit("[audit]\npath = \"a\"\nchain = true\n[audit.heads]\npath = \"h\"\nkey = \"k\"");
    let heads = CheckpointSettings {
        path: "/etc/rcmpd/h".into(),
        key: "/etc/rcmpd/k".into(),
        interval: Duration::from_secs(60),
    };
    let path = Some("/etc/rcmpd/a".into());
    let heads = Some(heads);
    let expect = audit_log::Settings {
        path,
        required: false,
        certificates: true,
        chain: true,
        heads,
        account_budget: 1 << 30,
        copies: Vec::new(),
        otlp: None,
    };
    assert_eq!(whole, expect);
    for (text, bytes) in [("account_mib_per_hour = 0", 0), ("account_mib_per_hour = 16", 16 << 20)] {
        assert_eq!(audit(&format!("[audit]\npath = \"a\"\n{text}")).account_budget, bytes);
    }
}

#[test]
fn misses_have_a_rate_and_a_burst() {
    let misses = |text: &str| {
        let text = GOOD.replace("[rpc]\n", &format!("[rpc]\n{text}\n"));
        parse(&text, Path::new(".")).expect("it is good").rpc.expect("it is there").misses
    };
    assert_eq!(misses(""), Misses { per_second: 10, burst: 100 });
    assert_eq!(misses("misses_per_s = 0\nmisses_burst = 1"), Misses { per_second: 0, burst: 1 });
}

#[test]
fn everything_is_said_at_once_with_its_place() {
    let wrong = GOOD.replace("S-1-5-21-1-2-3", "S-1-2").replace("WEB01$", "WEB01");
    let problems = parse(&wrong, Path::new(".")).expect_err("it is wrong");
    let error = ConfigError::Wrong { path: "rcmpd.toml".into(), text: wrong, problems };
    let text = error.to_string();
    assert!(
        text.contains(
            "rcmpd.toml:5:7: this is not the SID of a domain\n    5 | sid = \"S-1-2\"\n      |       ^^^^^^^"
        ),
        "{text}"
    );
    assert!(text.contains("rcmpd.toml:19:11: this is not a machine account"), "{text}");
    assert!(text.contains("= its name ends in a dollar sign"), "{text}");
}

#[test]
fn a_missing_mapping_does_not_start() {
    let without: String = GOOD.split("[mapping]").next().expect("it is there").to_owned();
    assert_eq!(problems(&without), ["[mapping] is missing"]);
}

#[test]
fn an_added_kind_of_store_has_a_path_and_settings() {
    let open = |domain, _| async move { Ok(crate::stores::Accounts::none(domain)) };
    crate::stores::Kinds::default().with("shelf", open).install();
    let kind = |rest: &str| {
        let text = GOOD.replace(
            "kind = \"sqlite\"\npath = \"accounts.db\"",
            &format!("kind = \"shelf\"\n{rest}\n[channels]\npath = \"machines.db\""),
        );
        parse(&text, Path::new("/etc/rcmpd")).expect("it is good").store.expect("it is there").kind
    };
    let StoreKind::Added(name, settings) = kind("path = \"shelf.txt\"\nsettings = { row = 3 }") else {
        panic!("the kind was added")
    };
    assert_eq!((name.as_str(), settings.path.as_deref()), ("shelf", Some(Path::new("/etc/rcmpd/shelf.txt"))));
    assert_eq!(settings.resolve(Path::new("a")), Path::new("/etc/rcmpd/a"));
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Row {
        row: u8,
    }
    assert_eq!(settings.read::<Row>().expect("a row").row, 3);
    for (rest, why) in
        [("", "missing field `row`"), ("settings = { row = 1, rwo = 2 }", "unknown field `rwo`")]
    {
        let StoreKind::Added(_, settings) = kind(rest) else { panic!("the kind was added") };
        let error = settings.read::<Row>().map(|_| ()).expect_err(rest).to_string();
        assert!(error.contains("[store.settings]") && error.contains(why), "{error}");
    }
    // An added kind keeps its accounts only, as the other kinds but "sqlite" do.
    let text = GOOD.replace("\"sqlite\"", "\"shelf\"");
    assert_eq!(problems(&text), ["this kind of store has no machine accounts"]);
    // It is a name like the others in the help for a wrong name.
    let text = GOOD.replace("\"sqlite\"", "\"shlef\"");
    let wrong = parse(&text, Path::new("/etc/rcmpd")).expect_err("it is wrong");
    assert_eq!(
        wrong[0].help,
        "use kind = \"sqlite\", \"postgres\", \"memory\", \"profile\", \"ldap\", \"socket\", \"several\" or \"shelf\""
    );
}

const DIRECTORY: &str = "kind = \"ldap\"
[store.ldap]
schema = \"generic\"
servers = [\"ldaps://dc1.contoso.example\", \"ldap://[::1]:10389\"]
ca = [\"ca.pem\"]
bind_dn = \"cn=rcmpd,dc=contoso,dc=example\"
secret = \"file:directory.secret\"
[store.ldap.generic]
user_base = \"ou=people,dc=contoso,dc=example\"
group_base = \"ou=groups,dc=contoso,dc=example\"
user_class = \"posixAccount\"
group_class = \"posixGroup\"
name = \"uid\"
number = \"uidNumber\"
primary_group = \"gidNumber\"
group_name = \"cn\"
group_number = \"gidNumber\"
membership = \"memberUid\"
membership_attribute = \"memberUid\"
user_rids = { first = 1000, last = 1999, rid = 100000 }
group_rids = { first = 1000, last = 1999, rid = 101000 }
state = [\"ppolicy\"]
[channels]
path = \"machines.db\"";

#[test]
fn a_directory_is_described_whole_or_refused() {
    let text = GOOD.replace("kind = \"sqlite\"\npath = \"accounts.db\"", DIRECTORY);
    let ldap = |text: &str| match parse(text, Path::new("/etc/rcmpd"))
        .expect("it is good")
        .store
        .expect("it is there")
        .kind
    {
        StoreKind::Ldap(ldap) => *ldap,
        other => panic!("{other:?}"),
    };
    let found = ldap(&text);
    assert_eq!(found.ca, [Path::new("/etc/rcmpd/ca.pem")]);
    assert_eq!((found.timeout.as_secs(), found.idle_timeout.as_secs(), found.fresh.as_secs()), (5, 600, 10));
    assert!(matches!(&found.servers, LdapServers::Listed(servers) if servers.len() == 2));
    let start = text.find("[store.ldap.generic]").expect("it is there");
    let end = text.find("[channels]").expect("it is there");
    let ad = format!("{}{}", &text[..start], &text[end..]).replace("\"generic\"", "\"ad\"");
    let base = store_ldap::AdSettings { base: "DC=contoso,DC=example".to_owned() };
    assert_eq!(ldap(&ad).schema, store_ldap::Schema::Ad(base), "of the domain's DNS name");
    let servers = "servers = [\"ldaps://dc1.contoso.example\", \"ldap://[::1]:10389\"]";
    let discovered = ldap(&ad.replace(servers, "discovery = \"dns\"\nsite = \"Berlin\"\ntls = \"starttls\""));
    let (site, tls) = (Some("Berlin".to_owned()), store_ldap::TlsMode::StartTls);
    assert_eq!(discovered.servers, LdapServers::Discovered { site, dns: vec![], tls });
    let catalog = ldap(&ad.replace("schema =", "catalog = [\"ldaps://gc.contoso.example\"]\nschema ="));
    let ports: Vec<_> = catalog.catalog.iter().map(|server| server.port).collect();
    assert_eq!(ports, [3269]);
    for (from, to, expected) in [
        (
            "ldaps://dc1.contoso.example",
            "http://dc1.contoso.example",
            "this is not the URL of a directory server",
        ),
        ("ldaps://dc1.contoso.example", "dc1.contoso.example", "this is not the URL of a directory server"),
        (servers, "servers = []", "no server is named"),
        ("schema", "catalog = [\"ldaps://a.example\"]\nschema", "catalog belongs to schema = \"ad\""),
        ("schema", "catalog = []\nschema", "catalog is an empty list"),
        (servers, "", "there are no servers"),
        (servers, "discovery = \"ldap\"", "unknown discovery"),
        ("schema", "discovery = \"dns\"\nschema", "there are two sources of servers"),
        ("schema", "site = \"Berlin\"\nschema", "site belongs to discovery"),
        ("[\"ca.pem\"]", "[]", "no CA is named"),
        ("\"cn=rcmpd,dc=contoso,dc=example\"", "\"\"", "this is not a distinguished name"),
        ("\"file:directory.secret\"", "\"hunter2\"", "this is not a reference to a secret"),
        ("\"generic\"", "\"ad\"", "[store.ldap.generic] belongs to schema = \"generic\""),
        ("\"generic\"", "\"nis\"", "unknown schema"),
        ("\"uid\"", "\"uid)(a\"", "this is not the name of an attribute"),
        ("membership = \"memberUid\"", "membership = \"members\"", "unknown membership"),
        ("rid = 101000", "rid = 100999", "an account and a group could have the same SID"),
        ("rid = 100000", "rid = 0", "this is not a range of numbers"),
        ("rid = 100000", "rid = 4294967000", "this is not a range of numbers"),
        ("\"ppolicy\"", "\"nothing\"", "unknown preset of account state"),
        ("schema", "idle_timeout_s = 900\nschema", "this is out of range"),
        ("schema", "accents = \"none\"\nschema", "unknown value of accents"),
        ("schema", "base = \"dc=x\"\nschema", "base belongs to schema = \"ad\""),
        ("path = \"machines.db\"", "", "this kind of store has no machine accounts"),
        (
            "path = \"machines.db\"",
            "path = \"machines.db\"\nstore = \"ldap\"",
            "machine secrets cannot be stored there",
        ),
    ] {
        let wrong = text.replacen(from, to, 1);
        assert_ne!(wrong, text, "{from}");
        let found = problems(&wrong);
        assert!(found.iter().any(|what| what.starts_with(expected)), "{expected}: {found:?}");
    }
    let other_kind = text.replace("kind = \"ldap\"", "kind = \"sqlite\"\npath = \"a.db\"");
    assert!(problems(&other_kind).contains(&"[store.ldap] belongs to kind = \"ldap\"".to_owned()));
}

#[test]
fn a_program_answers_at_a_socket_of_a_user_of_its_own() {
    let socket = "kind = \"socket\"\n[store.socket]\npath = \"run/store.sock\"\npeer = \"accounts\"\n";
    let text = GOOD.replace(
        "kind = \"sqlite\"\npath = \"accounts.db\"\n",
        &format!("{socket}[channels]\npath = \"machines.db\"\n"),
    );
    let store = parse(&text, Path::new("/etc/rcmpd")).expect("it is good").store.expect("it is there");
    let StoreKind::Socket(socket) = store.kind else { panic!("another kind") };
    assert_eq!(
        (socket.path.as_path(), socket.peer.as_str()),
        (Path::new("/etc/rcmpd/run/store.sock"), "accounts")
    );
    assert_eq!((socket.timeout.as_secs(), socket.fresh.as_secs(), socket.connections_max), (2, 10, 8));
    let long = format!("\"/run/{}\"", "a".repeat(103));
    for (from, to, expected) in [
        ("[store.socket]\npath = \"run/store.sock\"\npeer = \"accounts\"\n", "", "[store.socket] is missing"),
        ("\"run/store.sock\"", long.as_str(), "this path is too long for a socket"),
        ("\"accounts\"", "\"\"", "this is not a user of one program"),
        ("\"accounts\"", "\"nobody\"", "this is not a user of one program"),
        ("\"accounts\"", "\"65534\"", "this is not a user of one program"),
        ("peer", "timeout_s = 0\npeer", "this is out of range"),
        ("peer", "connections_max = 65\npeer", "this is out of range"),
        ("\"socket\"\n", "\"socket\"\npath = \"a.db\"\n", "this kind of store has no file"),
        ("kind = \"socket\"", "kind = \"profile\"", "[store.socket] does not belong to kind = \"profile\""),
        ("path = \"machines.db\"\n", "", "this kind of store has no machine accounts"),
    ] {
        let wrong = text.replacen(from, to, 1);
        assert_ne!(wrong, text, "{from}");
        let found = problems(&wrong);
        assert!(found.iter().any(|what| what.starts_with(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn levels_are_accounts_by_issuer() {
    let text =
        GOOD.replace("[\"upn\", \"subject\"]", "[\"issuer-chain\"]\ngrant = [\"issuer\", \"sid\"]").replace(
            "kind = \"sqlite\"\npath = \"accounts.db\"",
            "kind = \"profile\"
[[store.level]]
name = \"partner\"
rid = 5001
issuers = ['C=US, O=\"Partners, Inc.\", CN=Partner CA']
groups = [{ rid = 513, name = \"Domain Users\" }, { rid = 5100 }]
[channels]
store = \"sqlite\"
path = \"machines.db\"",
        );
    let store = parse(&text, Path::new("/etc/rcmpd")).expect("it is good").store.expect("it is there");
    assert_eq!(store.machines.as_deref(), Some(Path::new("/etc/rcmpd/machines.db")));
    assert_eq!(store.key, Path::new("/etc/rcmpd/machines.key"));
    let StoreKind::Profile(levels) = store.kind else { panic!("{:?}", store.kind) };
    assert_eq!((levels[0].name.as_str(), levels[0].rid), ("partner", 5001));
    assert_eq!(levels[0].issuers[0].to_string(), "C=US,O=\"Partners, Inc.\",CN=Partner CA");
    assert_eq!(levels[0].groups, [(513, Some("Domain Users".to_owned())), (5100, None)]);
    for rid in [0, 500, 513, 999] {
        let wrong = text.replace("rid = 5001", &format!("rid = {rid}")).replace("CN=Partner CA", "CN");
        assert_eq!(problems(&wrong).len(), 2, "{:?}", problems(&wrong));
    }
    assert_eq!(problems(&text.replace("rid = 5001", "rid = 1000")), [""; 0]);
    // Accounts that are found by their issuer alone, and a sidecar that does not ask by issuer.
    let all = text.replace("[\"issuer-chain\"]", "[\"upn\", \"subject\", \"issuer-chain\"]");
    // Accounts that are found by their issuer alone, and a policy that looks up by other forms, or a shadow.
    for (from, to) in [
        ("grant = [\"issuer\", \"sid\"]", "grant = [\"sid\", \"upn\"]"),
        ("grant = [\"issuer\", \"sid\"]\n", ""),
        ("[client]", "[mapping.shadow]\ngrant = [\"upn\", \"sid\"]\n[client]"),
    ] {
        let found = problems(&all.replacen(from, to, 1));
        assert!(matches!(&found[..], [what] if what.contains("found only by issuer")), "{to}: {found:?}");
    }
    let (alone, _) = SIDECAR.split_once("[[sidecar.route]]").expect("there is a route");
    let found = problems(&format!("{all}{alone}"));
    assert!(matches!(&found[..], [what] if what.contains("found only by issuer")), "{found:?}");
    for methods in ["issuer", "issuer-chain"] {
        let sidecar = alone.replace("[sidecar]", &format!("[sidecar]\nmethods = [\"{methods}\"]"));
        let config = parse(&format!("{all}{sidecar}"), Path::new("/etc/rcmpd")).expect("it is good");
        let flags = config.sidecar.expect("it is there").methods;
        assert_eq!(flags.contains(MappingFlags::ISSUER_CHAIN), methods == "issuer-chain");
        assert!(flags.contains(MappingFlags::ISSUER) && !flags.contains(MappingFlags::UPN));
    }
}

/// Two peers, one behind the other, a relay, and how questions are sent on.
const PEERS: &str = r#"
[forward]
hops_max = 3
proof_key = "proof.key"
[[peer]]
domain = "FABRIKAM"
sid = "S-1-5-21-4-5-6"
names = ["Fabrikam.example"]
direction = "both"
servers = ["dc1.fabrikam.example:11490"]
account = "CONTOSO$"
secret = "file:trusts/FABRIKAM.secret"
channel = "trusted_domain"
kind = "rcmpd"
transit = ["Litware"]
issuers = ["C=US,O=Partners,CN=Partner CA"]
response_crypt = "auto"
foreign_sids = "drop"
timeout_s = 5
connections_max = 4
queue_max = 0
hedge_ms = 200
proof_key = "fabrikam.pub"
[[peer]]
domain = "LITWARE"
sid = "S-1-5-21-7-8-9"
names = ["litware.example", "litware.test"]
direction = "outbound"
via = "Fabrikam"
[[relay]]
package = "Kerberos"
servers = ["dc1.contoso.example"]
account = "RCMPD$"
secret = "env:RELAY_SECRET"
machines = ["WEB01$"]
response_crypt = "plain"
"#;

#[test]
fn other_domains_are_understood() {
    let config = parse(&format!("{GOOD}{PEERS}"), Path::new("/etc/rcmpd")).expect("it is good");
    let [fabrikam, litware] = &config.peers[..] else { panic!("{:?}", config.peers) };
    assert_eq!(fabrikam.servers, Some(Servers::Listed(vec!["dc1.fabrikam.example:11490".into()])));
    assert_eq!(fabrikam.secret, Some(SecretRef::File("/etc/rcmpd/trusts/FABRIKAM.secret".into())));
    assert_eq!((fabrikam.direction, fabrikam.kind), (Direction::Both, PeerKind::Rcmpd));
    assert_eq!(
        (fabrikam.names.join(" "), fabrikam.transit.join(" ")),
        ("fabrikam.example".into(), "LITWARE".into())
    );
    assert_eq!((fabrikam.timeout.as_secs(), fabrikam.connections_max, fabrikam.queue_max), (5, 4, 0));
    assert_eq!(fabrikam.hedge, Some(Duration::from_millis(200)));
    assert_eq!(litware.servers, Some(Servers::Via("FABRIKAM".into())));
    assert_eq!((litware.secret.as_ref(), litware.account.as_str()), (None, "CONTOSO$"));
    assert_eq!((litware.timeout.as_secs(), litware.connections_max, litware.queue_max), (10, 8, 256));
    assert_eq!(config.relays[0].package, "Kerberos");
    assert_eq!(config.forward, Forward { hops_max: 3, proof_key: Some("/etc/rcmpd/proof.key".into()) });
    // Suffixes after the first name may be those of another domain.
    let own = GOOD.replacen("server =", "upn_suffixes = [\"Mail.example\"]\nserver =", 1);
    for suffix in ["fabrikam.example", "contoso.example", "mail.example"] {
        let shared = PEERS.replace("\"litware.test\"", &format!("\"{suffix}\""));
        let config = parse(&format!("{own}{shared}"), Path::new("/etc/rcmpd")).expect(suffix);
        assert_eq!(config.upn_suffixes, ["mail.example"]);
        assert_eq!(config.peers[1].names, ["litware.example", suffix]);
    }
    let discovered = PEERS.replace(
        "servers = [\"dc1.fabrikam.example:11490\"]",
        "discovery = \"dns\"\nsite = \"Here\"\ndns = [\"127.0.0.1:53\"]",
    );
    let config = parse(&format!("{GOOD}{discovered}"), Path::new("/etc/rcmpd")).expect("it is good");
    let dns = vec!["127.0.0.1:53".parse().expect("an address")];
    assert_eq!(config.peers[0].servers, Some(Servers::Discovered { site: Some("Here".into()), dns }));
}

#[test]
fn each_wrong_value_of_other_domains_is_reported() {
    let servers = "servers = [\"dc1.fabrikam.example:11490\"]\n";
    for (from, to, expect) in [
        ("\"LITWARE\"", "\"fabrikam\"", "this is not another peer that is asked"),
        ("\"litware.example\"", "\"Fabrikam.Example\"", "FABRIKAM already has this name"),
        ("\"litware.example\"", "\"fabrikam\"", "FABRIKAM already has this name"),
        ("\"litware.example\"", "\"contoso.example\"", "CONTOSO (this domain) already has this name"),
        ("\"LITWARE\"", "\"CONTOSO\"", "CONTOSO (this domain) already has this name"),
        ("S-1-5-21-7-8-9", "S-1-5-21-4-5-6", "FABRIKAM already has this SID"),
        ("S-1-5-21-7-8-9", "S-1-5-21-1-2-3", "CONTOSO (this domain) already has this SID"),
        (
            "via = ",
            "issuers = [\"C=us, O=PARTNERS, CN=Partner CA\"]\nvia = ",
            "FABRIKAM already has this issuer",
        ),
        ("\"C=US,O=Partners,CN=Partner CA\"", "\"Partner CA\"", "this is not a distinguished name"),
        ("S-1-5-21-7-8-9", "S-1-5-32", "this is not the SID of a domain"),
        ("\"LITWARE\"", "\"L IT\"", "this is not a NetBIOS name"),
        ("[\"Fabrikam.example\"]", "[]", "names is an empty list"),
        ("via = \"Fabrikam\"", "via = \"LITWARE\"", "this is not a peer that is asked directly"),
        ("via = \"Fabrikam\"", "via = \"NOBODY\"", "this is not a peer that is asked directly"),
        ("[\"Litware\"]", "[\"NOBODY\"]", "this is not another peer that is asked"),
        ("[\"Litware\"]", "[\"FABRIKAM\"]", "this is not another peer that is asked"),
        ("direction = \"both\"", "direction = \"outbound\"", "this peer does not ask, so it has no transit"),
        ("direction = \"both\"", "direction = \"inbound\"", "this peer is not asked"),
        ("direction = \"both\"", "direction = \"up\"", "unknown direction"),
        (servers, "", "this peer is asked, but it has no servers"),
        (servers, "servers = [\"a\"]\ndiscovery = \"dns\"\n", "this peer has two sources of servers"),
        (servers, "servers = [\"a\"]\nvia = \"LITWARE\"\n", "this peer has two sources of servers"),
        (servers, "servers = [\"a\"]\nsite = \"Here\"\n", "site belongs to discovery"),
        (servers, "servers = [\"a\"]\ndns = [\"127.0.0.1:53\"]\n", "dns belongs to discovery"),
        (servers, "discovery = \"wins\"\n", "unknown discovery"),
        (servers, "discovery = \"dns\"\ndns = [\"ns1\"]\n", "this is not an address and port"),
        (servers, "servers = []\n", "there are no servers"),
        (servers, "servers = [\"http://a/\"]\n", "this is not a server"),
        (
            "secret = \"file:trusts/FABRIKAM.secret\"\n",
            "",
            "the secret of the account in that domain is missing",
        ),
        ("file:trusts/FABRIKAM.secret", "hunter2", "this is not a reference to a secret"),
        ("via = ", "secret = \"env:A\"\nvia = ", "secret is for peers that are asked directly"),
        ("via = ", "account = \"A$\"\nvia = ", "account is for peers that are asked directly"),
        ("via = ", "channel = \"server\"\nvia = ", "channel is for peers that are asked directly"),
        ("via = ", "hedge_ms = 1\nvia = ", "hedge_ms is for peers that are asked directly"),
        ("\"CONTOSO$\"", "\"CONTOSO\"", "this is not an account of a trust or a machine"),
        ("\"trusted_domain\"", "\"cdc\"", "unknown channel"),
        ("\"rcmpd\"\ntransit", "\"samba\"\ntransit", "unknown kind"),
        ("response_crypt = \"auto\"", "response_crypt = \"rot13\"", "unknown response_crypt"),
        ("\"drop\"", "\"keep\"", "unknown foreign_sids"),
        ("timeout_s = 5", "timeout_s = 0", "this is out of range"),
        ("timeout_s = 5", "timeout_s = 121", "this is out of range"),
        ("connections_max = 4", "connections_max = 0", "this is out of range"),
        ("queue_max = 0", "queue_max = 65537", "this is out of range"),
        ("hedge_ms = 200", "hedge_ms = 0", "this is out of range"),
        ("hops_max = 3", "hops_max = 0", "this is out of range"),
        ("hops_max = 3", "hops_max = 1000", "this is out of range"),
        ("via = ", "smell = 1\nvia = ", "unknown field `smell`"),
        ("\"Kerberos\"", "\"\"", "this package is answered here"),
        ("\"Kerberos\"", "\"Microsoft unified security protocol provider\"", "this package is answered here"),
        ("\"plain\"", "\"auto\"", "\"auto\" is not possible for a relay"),
        ("\"plain\"", "\"rot13\"", "unknown response_crypt"),
        ("\"RCMPD$\"", "\"RCMPD\"", "this is not a machine account"),
        ("[\"WEB01$\"]", "[\"WEB01\"]", "this is not a machine account"),
        ("machines = [\"WEB01$\"]", "machines = []", "machines is an empty list"),
        ("machines = ", "channel = \"trusted_domain\"\nmachines = ", "unknown channel"),
        ("[\"dc1.contoso.example\"]", "[]", "there are no servers"),
        ("machines = ", "timeout_s = 121\nmachines = ", "this is out of range"),
    ] {
        let wrong = PEERS.replacen(from, to, 1);
        assert_ne!(wrong, PEERS, "{from}");
        let found = problems(&format!("{GOOD}{wrong}"));
        assert!(found.iter().any(|what| what.starts_with(expect)), "{to}: {found:?}");
    }
    let relay = &PEERS[PEERS.find("[[relay]]").expect("it is there")..];
    let twice = format!("{GOOD}{PEERS}{}", relay.replace("Kerberos", "KERBEROS"));
    assert_eq!(problems(&twice), ["another [[relay]] has this package"]);
    let peer =
        &PEERS[PEERS.find("[[peer]]").expect("it is there")..PEERS.find("[[relay]]").expect("it is there")];
    assert_eq!(problems(&format!("{GOOD}{}", peer.repeat(129))), ["there are too many peers"]);
    assert_eq!(problems(&format!("{GOOD}{}", relay.repeat(257))), ["there are too many relays"]);
}

/// Without the key nothing is restricted, so an empty list is refused and not taken for one that is absent.
#[test]
fn empty_lists_do_not_let_all_in() {
    let of_route = |list: &str| SIDECAR.replace("groups = [\"Staff\", \"S-1-5-21-1-2-3-512\"]", list);
    let without =
        || of_route("").replace("domains = [\"fabrikam\"]\n", "").replace("strength = \"strong\"\n", "");
    assert_eq!(problems(&format!("{GOOD}{}", without())), [""; 0]);
    for key in ["groups", "sids", "domains"] {
        let alone = without().replace("path =", &format!("{key} = []\npath ="));
        assert_eq!(problems(&format!("{GOOD}{alone}")), [format!("{key} is an empty list")]);
    }
    assert_eq!(
        problems(&format!("{GOOD}{}", of_route("groups = []"))).len(),
        2,
        "with domains and strength, too"
    );
    let (listeners, rest) = SIDECAR.split_once("[[sidecar.route]]").expect("there is a route");
    let (_, peer) = rest.split_once("[[peer]]").expect("there is a peer");
    let no_route = format!("{GOOD}{listeners}[[peer]]{peer}").replace("remember_s", "route = []\nremember_s");
    assert_eq!(problems(&no_route), ["route is an empty list"]);
    let no_user = SIDECAR.replace("[\"www-data\"]", "[]\nsecret = \"file:nginx.secret\"");
    assert_eq!(problems(&format!("{GOOD}{no_user}")), ["peers is an empty list"]);
    let no_server =
        PEERS.replace("servers = [\"dc1.fabrikam.example:11490\"]", "discovery = \"dns\"\ndns = []");
    assert_eq!(problems(&format!("{GOOD}{no_server}")), ["dns is an empty list"]);
}

const SIDECAR: &str = r#"
[sidecar]
remember_s = 30
[[sidecar.listen]]
dialect = "nginx"
unix = "nginx.sock"
peers = ["www-data"]
[[sidecar.listen]]
dialect = "haproxy"
address = "127.0.0.1:9481"
secret = "file:sidecar.secret"
upstream = "http://127.0.0.1:8080"
[[sidecar.route]]
host = "App.Example"
path = "/admin"
groups = ["Staff", "S-1-5-21-1-2-3-512"]
domains = ["fabrikam"]
strength = "strong"
[[peer]]
domain = "FABRIKAM"
sid = "S-1-5-21-7-8-9"
names = ["fabrikam.example"]
direction = "outbound"
servers = ["127.0.0.1:11491"]
secret = "file:trusts/FABRIKAM.secret"
"#;

#[test]
fn a_sidecar_is_understood() {
    use ::sidecar::dialect::Dialect;
    let text = format!("{GOOD}{SIDECAR}");
    let config = parse(&text, Path::new("/etc/rcmpd")).expect("it is good");
    let sidecar = config.sidecar.expect("it is there");
    assert_eq!((sidecar.source, sidecar.remember), (Source::Embedded, Duration::from_secs(30)));
    assert_eq!(sidecar.methods, MappingFlags::UPN.with(MappingFlags::SUBJECT));
    let [nginx, haproxy] = &sidecar.listen[..] else { panic!("{:?}", sidecar.listen) };
    assert_eq!(nginx.settings.speaks, Speaks::Http(Dialect::Nginx));
    let socket = |mode, group| Place::Unix(UnixPlace { path: "/etc/rcmpd/nginx.sock".into(), mode, group });
    assert_eq!(nginx.settings.at, socket(0o660, SocketGroup::OfPeers));
    for (keys, mode, group) in [
        ("mode = \"0666\"", 0o666, SocketGroup::Unchanged),
        ("group = \"web\"", 0o660, SocketGroup::Named("web".to_owned())),
        ("group = \"33\"\nmode = \"0620\"", 0o620, SocketGroup::Named("33".to_owned())),
    ] {
        let text = text.replace("unix =", &format!("{keys}\nunix ="));
        let config = parse(&text, Path::new("/etc/rcmpd")).expect("it is good");
        assert_eq!(config.sidecar.expect("it is there").listen[0].settings.at, socket(mode, group), "{keys}");
    }
    let place = UpstreamPlace::Tcp("127.0.0.1:8080".to_owned());
    assert_eq!(
        haproxy.settings.upstream,
        Some(Application { place: place.clone(), tls: None, protocol: None })
    );
    for (keys, name, own) in [
        ("", "127.0.0.1", None),
        ("upstream_name = \"app.example\"", "app.example", None),
        (
            "upstream_certificate = \"us.pem\"\nupstream_key = \"us.key\"",
            "127.0.0.1",
            Some(("/etc/rcmpd/us.pem".into(), "/etc/rcmpd/us.key".into())),
        ),
    ] {
        let url = format!("https://127.0.0.1:8080\"\nupstream_ca = \"app-ca.pem\"\n{keys}\n#");
        let text = text.replace("http://127.0.0.1:8080", &url);
        let config = parse(&text, Path::new("/etc/rcmpd")).expect("it is good");
        let tls = UpstreamTls { ca: "/etc/rcmpd/app-ca.pem".into(), name: name.to_owned(), own };
        let expected = Application { place: place.clone(), tls: Some(tls), protocol: None };
        assert_eq!(
            config.sidecar.expect("it is there").listen[1].settings.upstream,
            Some(expected),
            "{keys}"
        );
    }
    for (name, protocol) in [("h2", UpstreamProtocol::Http2), ("http/1.1", UpstreamProtocol::Http1)] {
        let keys = format!("http://127.0.0.1:8080\"\nupstream_protocol = \"{name}\"\n#");
        let config = parse(&text.replace("http://127.0.0.1:8080", &keys), Path::new("/etc/rcmpd"));
        let expected = Application { place: place.clone(), tls: None, protocol: Some(protocol) };
        let listen = &config.expect("it is good").sidecar.expect("it is there").listen[1];
        assert_eq!(listen.settings.upstream, Some(expected), "{name}");
    }
    assert_eq!(haproxy.secret, Some(SecretRef::File("/etc/rcmpd/sidecar.secret".into())));
    let [route] = &sidecar.routes[..] else { panic!("{:?}", sidecar.routes) };
    assert_eq!((route.host.as_deref(), route.path.as_deref()), (Some("app.example"), Some("/admin")));
    assert_eq!(
        (&route.groups[..], &route.domains[..]),
        (&["Staff".to_owned()][..], &["FABRIKAM".to_owned()][..])
    );
    assert_eq!(route.sids.iter().map(ToString::to_string).collect::<Vec<_>>(), ["S-1-5-21-1-2-3-512"]);
    assert!(route.strong);
}

/// A name takes the place of the set's, or adds a header that the set does not have.
#[test]
fn identity_headers_have_the_names_of_the_file() {
    let advertised = |keys: &str| {
        let text = format!("{GOOD}{}", SIDECAR.replace("remember_s = 30", keys));
        let config = parse(&text, Path::new("/etc/rcmpd")).expect("it is good");
        let format = config.sidecar.expect("it is there").format;
        format.advertised().map(|name| name.to_string()).collect::<Vec<_>>()
    };
    let has = |names: &[String], name: &str| names.iter().any(|known| known == name);
    let renamed = advertised("header_names = { user = \"X-WEBAUTH-USER\", sid = \"X-Account-Sid\" }");
    assert!(
        has(&renamed, "x-webauth-user") && has(&renamed, "x-account-sid") && has(&renamed, "remote-groups")
    );
    assert!(!has(&renamed, "remote-user") && !has(&renamed, "x-identity-sid"), "{renamed:?}");
    assert_eq!(renamed.len(), advertised("").len());
    let added = advertised("headers = \"none\"\nheader_names = { user = \"Remote-User\" }");
    assert!(has(&added, "remote-user") && !has(&added, "remote-groups"), "{added:?}");
}

/// As [`all_reported`], in a file with a sidecar; the problem has the third text in it.
#[track_caller]
fn all_reported_of_a_sidecar(cases: &[(&str, &str, &str)]) {
    for (from, to, expect) in cases {
        let found = problems(&format!("{GOOD}{SIDECAR}").replacen(from, to, 1));
        assert!(found.iter().any(|what| what.contains(expect)), "{from} -> {to}: {found:?}");
    }
}

#[test]
fn each_wrong_value_of_a_sidecar_is_reported() {
    all_reported_of_a_sidecar(&[
        ("remember_s = 30", "source = \"elsewhere\"", "unknown source"),
        ("remember_s = 30", "remember_s = 3601", "this is out of range"),
        ("remember_s = 30", "encoding = \"latin-1\"", "unknown encoding"),
        ("remember_s = 30", "headers = \"mine\"", "unknown set of headers"),
        ("remember_s = 30", "user = \"short\"", "unknown form of names"),
        ("remember_s = 30", "groups = \"all\"", "unknown form of groups"),
        ("remember_s = 30", "group_names = { x = \"y\" }", "this is not a SID"),
        ("remember_s = 30", "header_names = { boss = \"X-Boss\" }", "unknown identity header"),
        (
            "remember_s = 30",
            "header_names = { user = \"Remote-Name\" }",
            "two identity headers have this name",
        ),
        (
            "remember_s = 30",
            "header_names = { user = \"X-User\", account = \"x-uSER\" }",
            "two identity headers have this name",
        ),
        ("remember_s = 30", "header_names = { user = \"X_User\" }", "a name is letters, digits"),
        ("remember_s = 30", "header_names = { user = \"Authorization\" }", "another meaning for this name"),
        ("remember_s = 30", "methods = [\"serial\"]", "unknown mapping method"),
        ("remember_s = 30", "methods = []", "methods is an empty list, so no certificate is mapped"),
        ("remember_s = 30", "methods = [\"issuer\"]", "mapping.methods allows none of these methods"),
        (
            "remember_s = 30",
            "validation = \"off\"",
            "this contradicts [mapping], which validates certificates",
        ),
        ("[client]", "[clients]", "unknown field `clients`"),
    ]);
}

#[test]
fn each_wrong_value_of_a_sidecars_listener_is_reported() {
    all_reported_of_a_sidecar(&[
        ("dialect = \"nginx\"", "dialect = \"lighttpd\"", "unknown dialect"),
        ("peers = [\"www-data\"]", "", "this listener would trust every process that can connect to it"),
        (
            "peers = [\"www-data\"]",
            "peers = []",
            "this listener would trust every process that can connect to it",
        ),
        (
            "secret = \"file:sidecar.secret\"",
            "",
            "this listener would trust every process that can connect to it",
        ),
        ("secret = \"file:sidecar.secret\"", "peers = [\"haproxy\"]", "peers is for Unix sockets"),
        ("secret = \"file:sidecar.secret\"", "secret = \"s3cret\"", "this is not a reference to a secret"),
        ("unix = \"nginx.sock\"", "", "a listener has either address or unix"),
        (
            "unix = \"nginx.sock\"",
            "unix = \"a\"\naddress = \"127.0.0.1:1\"",
            "a listener has either address or unix",
        ),
        ("unix = \"nginx.sock\"", "unix = \"a\"\nmode = \"rw\"", "this is not a file mode"),
        (
            "secret = \"file:sidecar.secret\"",
            "secret = \"file:s\"\ngroup = \"g\"",
            "only a Unix socket has a group",
        ),
        (
            "secret = \"file:sidecar.secret\"",
            "tls = { certificate = \"a\", key = \"b\", client_ca = \"c\", names = [\"*.example\"] }",
            "this is not a host: it is a pattern",
        ),
        ("address = \"127.0.0.1:9481\"", "unix = \"nginx.sock\"", "another listener has this path"),
        (
            "peers = [\"www-data\"]",
            "tls = { certificate = \"a\", key = \"b\", client_ca = \"c\", names = [\"n\"] }",
            "there is no TLS on a Unix socket",
        ),
        (
            "secret = \"file:sidecar.secret\"",
            "tls = { certificate = \"a\", key = \"b\", client_ca = \"c\", names = [] }",
            "names is an empty list, so every certificate of the CA would be trusted",
        ),
    ]);
}

#[test]
fn each_wrong_value_of_a_listeners_upstream_is_reported() {
    all_reported_of_a_sidecar(&[
        (
            "upstream = \"http://127.0.0.1:8080\"",
            "",
            "with this dialect the proxy passes its requests through the sidecar",
        ),
        (
            "http://127.0.0.1:8080",
            "https://127.0.0.1:8080",
            "the CA of the application's certificate is not configured",
        ),
        ("http://127.0.0.1:8080", "https://127.0.0.1", "this is not the address of an application"),
        (
            "http://127.0.0.1:8080\"",
            "http://127.0.0.1:8080\"\nupstream_protocol = \"grpc\"",
            "unknown upstream_protocol",
        ),
        (
            "unix = \"nginx.sock\"",
            "unix = \"nginx.sock\"\nupstream_protocol = \"h2\"",
            "this listener has no upstream",
        ),
        ("http://127.0.0.1:8080", "ftp://127.0.0.1:80", "this is not the address of an application"),
        (
            "http://127.0.0.1:8080\"",
            "http://127.0.0.1:8080\"\nupstream_ca = \"ca.pem\"",
            "there is no TLS to this upstream",
        ),
        (
            "http://127.0.0.1:8080\"",
            "unix:app.sock\"\nupstream_name = \"app.example\"",
            "there is no TLS to this upstream",
        ),
        (
            "http://127.0.0.1:8080\"",
            "https://127.0.0.1:8080\"\nupstream_ca = \"ca.pem\"\nupstream_name = \"app example\"",
            "app example is not a DNS name or IP address of a certificate",
        ),
        (
            "http://127.0.0.1:8080\"",
            "https://127.0.0.1:8080\"\nupstream_ca = \"ca.pem\"\nupstream_key = \"app.key\"",
            "a certificate needs its key",
        ),
        (
            "unix = \"nginx.sock\"",
            "unix = \"nginx.sock\"\nupstream_ca = \"ca.pem\"",
            "this listener has no upstream",
        ),
        ("http://127.0.0.1:8080", "http://127.0.0.1", "this is not the address of an application"),
        ("http://127.0.0.1:8080", "http://a:80/path", "this is not the address of an application"),
        (
            "unix = \"nginx.sock\"",
            "unix = \"a\"\nupstream = \"http://a:80\"",
            "with this dialect the proxy connects to the application itself",
        ),
    ]);
}

#[test]
fn each_wrong_value_of_a_sidecars_route_is_reported() {
    all_reported_of_a_sidecar(&[
        ("host = \"App.Example\"", "host = \"app.example:443\"", "this is not a host"),
        ("host = \"App.Example\"", "host = \"*\"", "this is not a host"),
        ("host = \"App.Example\"", "host = \"app.example.\"", "this is not a host: the dot"),
        ("host = \"App.Example\"", "host = \"b\u{fc}cher.example\"", "this is not a host: requests have"),
        ("host = \"App.Example\"", "host = \"app,b.example\"", "this is not a host"),
        ("path = \"/admin\"", "path = \"/admin/*\"", "this is not a plain path: a path is no pattern"),
        ("path = \"/admin\"", "path = \"/admin/.*\"", "this is not a plain path: a path is no pattern"),
        ("[\"fabrikam\"]", "[\"fabricam\"]", "FABRICAM is neither [domain] nor a [[peer]]"),
        ("S-1-5-21-1-2-3-512", "S-1-5-21-1-2-3", "S-1-5-21-1-2-3 is the SID of a domain"),
        (
            "groups = [\"Staff\", \"S-1-5-21-1-2-3-512\"]\n",
            "",
            "the strength of a mapping in another domain is not known",
        ),
        (
            "[[sidecar.route]]",
            "[[sidecar.route]]\nhost = \"app.EXAMPLE\"\npath = \"/admin/\"\n[[sidecar.route]]",
            "another route has the same host and path",
        ),
        ("\"Staff\"", "\"\"", "this is not the name of a group"),
        ("\"Staff\"", "\" Staff\"", "this is not the name of a group"),
        ("path = \"/admin\"", "path = \"admin\"", "this is not a plain path"),
        ("path = \"/admin\"", "path = \"/a%2fb\"", "this is not a plain path"),
        ("path = \"/admin\"", "path = \"/a/../b\"", "this is not a plain path"),
        ("S-1-5-21-1-2-3-512", "S-1-x", "this is not a SID"),
        ("strength = \"strong\"", "strength = \"weak\"", "unknown strength"),
        ("strength = \"strong\"", "anonymous = true", "no request gets here without a certificate"),
        ("strength = \"strong\"", "strength = \"strong\"\nanonymous = true", "this route restricts accounts"),
        (
            "[[sidecar.route]]",
            "[sidecar.token]\nkey = \"k\"\nissuer = \"\"\naudience = \"a\"\n[[sidecar.route]]",
            "a token needs an issuer and an audience",
        ),
        ("path = \"/admin\"", "audience = \"orders\"", "audience needs [sidecar.token]"),
        ("path = \"/admin\"", "audience = \"\"", "this is not an audience: it has between 1 and 255 bytes"),
        (
            "path = \"/admin\"",
            "audience = \" orders\"",
            "this is not an audience: it has no control characters",
        ),
        (
            "path = \"/admin\"",
            "audience = \"a\\tb\"",
            "this is not an audience: it has no control characters",
        ),
        (
            "path = \"/admin\"",
            "audience = \"1:orders\"",
            "this is not an audience: with a colon in it, it is a URI",
        ),
    ]);
}

#[test]
fn what_a_sidecar_needs_from_other_sections_is_reported() {
    let off = |text: &str| {
        text.replace("validation = \"chain\"\nanchors = [\"certs/ca.pem\"]", "validation = \"off\"")
    };
    let remote = |more: &str| {
        let source = format!("source = \"remote\"\n{more}remember_s");
        format!("{GOOD}{}", SIDECAR.replace("remember_s", &source))
    };
    let without = |section: &str| format!("{}{SIDECAR}", GOOD.replace(section, ""));
    for (text, expect) in [
        (
            without("[store]\nkind = \"sqlite\"\npath = \"accounts.db\"\n"),
            "`[sidecar]` needs an account source",
        ),
        (format!("{GOOD}[sidecar]\n"), "this sidecar has no listener"),
        (
            off(&format!("{GOOD}{SIDECAR}")).replace("\"full\"", "\"off\""),
            "certificates are not validated here",
        ),
        (
            off(&format!("{GOOD}{SIDECAR}"))
                .replace("\"full\"", "\"off\"")
                .replace("remember_s", "validation = \"off\"\nremember_s")
                .replace("dialect = \"nginx\"", "dialect = \"caddy\""),
            "this proxy does not report how it validated a certificate",
        ),
        (
            format!(
                "{}{}",
                GOOD.split("[client]").next().unwrap_or_default(),
                SIDECAR.replace("remember_s", "source = \"remote\"\nremember_s")
            ),
            "needs a server to ask",
        ),
        (remote(""), "write the group's SID: groups = [\"S-1-5-21-A-B-C-RID\"]"),
        (
            remote("group_names = { \"S-1-5-21-1-2-3-1102\" = \"staff\" }\n"),
            "write the group's SID: groups = [\"S-1-5-21-1-2-3-1102\"]",
        ),
        (remote(""), "without proof_keys in [client] the strength of a mapping is not known"),
        (
            off(&format!("{GOOD}{SIDECAR}"))
                .replace("\"full\"", "\"off\"")
                .replace("remember_s", "validation = \"off\"\nremember_s"),
            "without validation no mapping is strong",
        ),
        (
            off(&remote("validation = \"off\"\n")).replace("\"full\"", "\"off\"")
                + "[sidecar.ticket]\nkeys = [\"file:ticket.key\"]\naudience = \"shop\"\n",
            "tickets need validation",
        ),
    ] {
        let found = parse(&text, Path::new("/etc/rcmpd")).err().unwrap_or_default();
        let found: Vec<_> =
            found.iter().map(|problem| format!("{}: {}", problem.what, problem.help)).collect();
        assert!(found.iter().any(|what| what.contains(expect)), "{expect}: {found:?}");
    }
    // A section that is wrong is not one that is missing.
    let misspelt = format!("{GOOD}{SIDECAR}").replace("\"sqlite\"", "\"sqllite\"");
    assert_eq!(problems(&misspelt), ["this is not a kind of store"]);
    // With a key of the server's domain, and groups by SID, all of a route can match.
    let good = remote("")
        .replace("secret = \"file:machines", "proof_keys = { CONTOSO = \"c.pub\" }\nsecret = \"file:machines")
        .replace("\"Staff\", ", "");
    assert_eq!(problems(&good), [""; 0]);
}

const SSO: &str = r#"
[audit]
path = "audit.log"
[sso]
listen = ["127.0.0.1:11493"]
folder = "sso"
seal = "file:sso/seal.key"
administrators = ["sid:S-1-5-21-1-2-3-1105"]
[sso.ntlm]
[sso.kerberos]
keytab = "sso/keytab"
[[sso.kerberos.realm]]
name = "AD.TEST"
kind = "ad"
sids = ["S-1-5-21-7-8-9"]
"#;

#[test]
fn sids_of_the_domain_of_local_users_are_rejected_for_a_realm() {
    let good = [GOOD, SSO].concat();
    let rules = parse(&good, Path::new("/etc/rcmpd")).expect("it is good").sso.expect("it is there").rules;
    let own = rules.own_domain.expect("local users can authenticate");
    assert_eq!((&*own.netbios, own.sid.to_string()), ("CONTOSO", "S-1-5-21-1-2-3".to_owned()));
    let own_sid = good.replace("S-1-5-21-7-8-9", "S-1-5-21-1-2-3");
    assert!(problems(&own_sid)[0].contains("the SID of [domain]"), "{:?}", problems(&own_sid));
    // Without local users it is the domain that the tickets are of.
    let tickets = own_sid.replace("[sso.ntlm]", "");
    let rules = parse(&tickets, Path::new("/etc/rcmpd")).expect("it is good").sso.expect("it is there").rules;
    assert_eq!(rules.own_domain, None);
}

const NTLM_DOMAINS: &str = r#"
[domain]
netbios = "CONTOSO"
dns = "contoso.example"
sid = "S-1-5-21-1-2-3"
server = "sso1"
[store]
kind = "sqlite"
path = "accounts.db"
[audit]
path = "audit.log"
[sso]
listen = ["127.0.0.1:11493"]
administrators = ["sid:S-1-5-21-4-5-6-1105"]
folder = "sso"
seal = "file:sso/seal.key"
[[sso.ntlm.domain]]
domain = "fabrikam"
sid = "S-1-5-21-4-5-6"
names = ["fabrikam.example"]
servers = ["dc1.fabrikam.example"]
secret = "cred:fabrikam"
"#;

#[test]
fn domains_whose_controllers_check_ntlm_proofs_are_understood() {
    let ntlm = |text: &str| {
        let config = parse(text, Path::new("/etc/rcmpd")).expect("it is good");
        let sso = config.sso.expect("it is there");
        (sso.ntlm.expect("it is there"), sso.rules.sid_filters)
    };
    let sid = |text: &str| text.parse::<Sid>().expect("a SID");
    let (usual, filters) = ntlm(NTLM_DOMAINS);
    let CheckedDomain { peer, computers } = &usual.domains[0];
    assert_eq!((peer.domain.as_str(), peer.account.as_str(), *computers), ("FABRIKAM", "SSO1$", false));
    assert_eq!(peer.channel, account_store::ChannelKind::Workstation);
    assert_eq!(peer.servers, Some(Servers::Listed(vec!["dc1.fabrikam.example".into()])));
    // Only SIDs of the domain itself count, unless others are named.
    assert_eq!(filters, [("FABRIKAM".to_owned(), vec![sid("S-1-5-21-4-5-6")])]);
    let more = NTLM_DOMAINS.replace(
        "servers = [\"dc1.fabrikam.example\"]",
        "discovery = \"dns\"\naccount = \"WEB05$\"\nchannel = \"server\"\ncomputers = true\nsids = [\"S-1-5-21-7-8-9\"]",
    );
    let (more, filters) = ntlm(&more);
    let CheckedDomain { peer, computers } = &more.domains[0];
    assert_eq!(
        (peer.account.as_str(), peer.channel, *computers),
        ("WEB05$", account_store::ChannelKind::Server, true)
    );
    assert_eq!(peer.servers, Some(Servers::Discovered { site: None, dns: vec![] }));
    assert_eq!(filters[0].1, [sid("S-1-5-21-4-5-6"), sid("S-1-5-21-7-8-9")]);
    // The domain that this server is a member of.
    let own = NTLM_DOMAINS.replace("\"CONTOSO\"", "\"FABRIKAM\"").replace("S-1-5-21-1-2-3", "S-1-5-21-4-5-6");
    assert_eq!(ntlm(&own).0.domains, usual.domains);
}

#[test]
fn each_wrong_value_of_a_domain_of_ntlm_is_reported() {
    let servers = "servers = [\"dc1.fabrikam.example\"]\n";
    let again = NTLM_DOMAINS.split_once("[[sso.ntlm.domain]]").expect("it is there").1;
    for (from, to, expected) in [
        (servers, String::new(), "this domain needs one source of domain controllers"),
        (servers, format!("{servers}discovery = \"dns\"\n"), "this domain needs one source of domain controllers"),
        (servers, format!("{servers}channel = \"trusted_domain\"\n"), "unknown channel"),
        (servers, format!("{servers}account = \"SSO1\"\n"), "this is not an account of a trust or a machine"),
        (servers, format!("{servers}timeout_s = 26\n"), "this is out of range"),
        (servers, format!("{servers}sids = []\n"), "sids is an empty list"),
        ("secret = \"cred:fabrikam\"\n", format!("secret = \"cred:fabrikam\"\n[[sso.ntlm.domain]]{again}"), "FABRIKAM already has this name"),
        ("[\"fabrikam.example\"]", "[]".into(), "names is an empty list"),
        ("S-1-5-21-4-5-6\"\nnames", "S-1-5-21-1-2-3\"\nnames".into(), "[domain] has the same name with another SID"),
        ("\"fabrikam\"", "\"contoso\"".into(), "[domain] has the same name with another SID"),
        ("[[sso.ntlm.domain]]", "[sso.ntlm]\nlocal = false\n[sso.kerberos]\nkeytab = \"k\"\n[[sso.kerberos.realm]]\nname = \"FABRIKAM\"\nkind = \"ad\"\n[[sso.ntlm.domain]]".into(), "FABRIKAM is the name of a realm"),
    ] {
        let text = NTLM_DOMAINS.replacen(from, &to, 1);
        assert_ne!(text, NTLM_DOMAINS, "{from}");
        let found = problems(&text);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{to}: {found:?}");
    }
    let alone = NTLM_DOMAINS.split_once("[[sso.ntlm.domain]]").expect("it is there").0;
    let found = problems(&format!("{alone}[sso.ntlm]\nlocal = false\n"));
    assert_eq!(found, ["no user can log on by NTLM: there are neither local accounts nor domains"]);
}

const TLSNEGO_DOMAINS: &str = r#"
[domain]
netbios = "CONTOSO"
dns = "contoso.example"
sid = "S-1-5-21-1-2-3"
server = "soap1"
[store]
kind = "sqlite"
path = "accounts.db"
[tlsnego]
listen = "127.0.0.1:8310"
addresses = ["https://orders.contoso.example/service"]
certificate = "orders.pem"
key = "orders.key"
credential = "username"
upstream = "http://127.0.0.1:8080/service"
[[tlsnego.domain]]
domain = "fabrikam"
sid = "S-1-5-21-4-5-6"
names = ["fabrikam.example", "fab.example"]
servers = ["dc1.fabrikam.example"]
secret = "cred:fabrikam"
"#;

#[test]
fn domains_whose_controllers_check_passwords_are_understood() {
    let tlsnego =
        |text: &str| parse(text, Path::new("/etc/rcmpd")).expect("it is good").tlsnego.expect("it is there");
    let sid = |text: &str| text.parse::<Sid>().expect("a SID");
    let both = tlsnego(TLSNEGO_DOMAINS);
    assert!(both.has_local_users());
    let CheckedDomain { peer, computers } = &both.domains[0];
    assert_eq!((peer.domain.as_str(), peer.account.as_str(), *computers), ("FABRIKAM", "SOAP1$", false));
    let filters =
        |sids: &[&str]| vec![("FABRIKAM".to_owned(), sids.iter().map(|text| sid(text)).collect::<Vec<_>>())];
    assert_eq!(both.sid_rules.sid_filters, filters(&["S-1-5-21-4-5-6"]));
    assert_eq!(both.sid_rules.own_domain.as_ref().map(|own| own.sid), Some(sid("S-1-5-21-1-2-3")));
    // Domains alone need no store, and one that has accounts has none for SOAP clients.
    let without =
        TLSNEGO_DOMAINS.replace("kind = \"sqlite\"\npath = \"accounts.db\"\n", "").replace("[store]\n", "");
    for text in [&without, TLSNEGO_DOMAINS] {
        let alone = tlsnego(&text.replace("credential", "local = false\ncredential"));
        assert!(!alone.has_local_users());
        assert_eq!(alone.domains, both.domains);
        assert_eq!(alone.sid_rules.own_domain, None);
    }
    let more = TLSNEGO_DOMAINS.replace("secret", "sids = [\"S-1-5-21-7-8-9\"]\nsecret");
    assert_eq!(tlsnego(&more).sid_rules.sid_filters, filters(&["S-1-5-21-4-5-6", "S-1-5-21-7-8-9"]));
    // A second domain has its own channel.
    let second = "[[tlsnego.domain]]\ndomain = \"ADATUM\"\nsid = \"S-1-5-21-8-8-8\"\nnames = [\"adatum.example\"]\ndiscovery = \"dns\"\nsecret = \"cred:adatum\"\n";
    assert_eq!(tlsnego(&format!("{TLSNEGO_DOMAINS}{second}")).domains.len(), 2);
    // Both secrets are files that users of the machine must not read.
    let files =
        parse(&TLSNEGO_DOMAINS.replace("cred:fabrikam", "file:fabrikam.secret"), Path::new("/etc/rcmpd"));
    let named: Vec<_> = files.expect("it is good").checked_domains().map(|(section, _)| section).collect();
    assert_eq!(named, ["[[tlsnego.domain]]"]);
}

#[test]
fn each_wrong_value_of_a_domain_of_tlsnego_is_reported() {
    let servers = "servers = [\"dc1.fabrikam.example\"]\n";
    let again = TLSNEGO_DOMAINS.split_once("[[tlsnego.domain]]").expect("it is there").1;
    for (from, to, expected) in [
        (servers, String::new(), "this domain needs one source of domain controllers"),
        (servers, format!("{servers}channel = \"trusted_domain\"\n"), "unknown channel"),
        (servers, format!("{servers}timeout_s = 26\n"), "this is out of range"),
        (servers, format!("{servers}sids = []\n"), "sids is an empty list"),
        (
            "secret = \"cred:fabrikam\"\n",
            format!("secret = \"cred:fabrikam\"\n[[tlsnego.domain]]{again}"),
            "FABRIKAM already has this name",
        ),
        ("\"fabrikam\"", "\"contoso\"".into(), "[domain] has the same name with another SID"),
        (
            "[store]\nkind = \"sqlite\"\npath = \"accounts.db\"\n",
            String::new(),
            "user names need accounts with passwords",
        ),
        (
            "credential = \"username\"",
            "credential = \"none\"".into(),
            "no client sends a password for this domain to check",
        ),
    ] {
        let text = TLSNEGO_DOMAINS.replacen(from, &to, 1);
        assert_ne!(text, TLSNEGO_DOMAINS, "{from}");
        let found = problems(&text);
        assert!(found.iter().any(|problem| problem.contains(expected)), "{to}: {found:?}");
    }
    let alone = TLSNEGO_DOMAINS.split_once("[[tlsnego.domain]]").expect("it is there").0;
    let found = problems(&alone.replace("credential", "local = false\ncredential"));
    assert_eq!(found, ["no user name can be accepted: there are neither local accounts nor domains"]);
}

const GATEWAY: &str = "
[tlsnego]
listen      = \"127.0.0.1:8310\"
addresses   = [\"https://orders.contoso.example/service\"]
certificate = \"orders.pem\"
key         = \"orders.key\"
credential  = \"username\"
upstream    = \"http://127.0.0.1:8080/service\"
";

#[test]
fn a_gateway_has_the_defaults_of_wcf() {
    let config = parse(&format!("{GOOD}{GATEWAY}"), Path::new("/etc/rcmpd")).expect("it is good");
    let tlsnego = config.tlsnego.expect("it is there");
    assert_eq!(tlsnego.certificate.0, Path::new("/etc/rcmpd/orders.pem"));
    // .NET: TLSNEGO with and without RST/SCT, Basic256, 5 minutes, 10 hours, 2 minutes.
    assert_eq!(tlsnego.bindings, [super::BINDINGS[0].1, super::BINDINGS[1].1]);
    assert_eq!(tlsnego.suite, xml_security::Suite::BASIC256);
    let seconds = [tlsnego.skew.0, tlsnego.times.established, tlsnego.times.idle].map(|time| time.as_secs());
    assert_eq!(seconds, [300, 36_000, 120]);
    // The only token of clients without RST/SCT lives as long as a session; a bootstrap lives 15 minutes.
    assert_eq!(tlsnego.times.negotiated.as_secs(), 36_000);
    let session = format!("{GOOD}{GATEWAY}bindings = [\"session\"]\n");
    let session = parse(&session, Path::new("/")).expect("it is good").tlsnego.expect("it is there");
    assert_eq!(session.times.negotiated.as_secs(), 900);
}

#[test]
fn each_wrong_value_of_a_gateway_is_reported() {
    for (from, to, expect) in [
        (
            "addresses   = [\"https://orders.contoso.example/service\"]",
            "addresses = []",
            "addresses is an empty list",
        ),
        (
            "https://orders.contoso.example/service",
            "orders.contoso.example",
            "\"orders.contoso.example\" is no",
        ),
        ("\"orders.key\"", "\"orders.pem\"", "certificate and key are the same file"),
        ("\"username\"", "\"windows\"", "unknown credential"),
        (
            "http://127.0.0.1:8080",
            "https://127.0.0.1:8080",
            "this is not the URL of a service over plain HTTP",
        ),
        (
            "http://127.0.0.1:8080",
            "http://user@127.0.0.1:8080",
            "this is not the URL of a service over plain HTTP",
        ),
        ("upstream ", "bindings = []\nupstream ", "bindings is an empty list"),
        ("upstream ", "bindings = [\"reliable\"]\nupstream ", "unknown binding"),
        ("upstream ", "suite = \"basic256rsa15\"\nupstream ", "unknown suite"),
        ("upstream ", "clock_skew_s = 3601\nupstream ", "this is out of range"),
        ("upstream ", "message_kib = 8\nupstream ", "this is out of range"),
        ("upstream ", "metadata = false\nwsdl = \"a.wsdl\"\nupstream ", "no client gets this WSDL"),
        ("upstream ", "cookies = true\nupstream ", "unknown field `cookies`"),
    ] {
        let wrong = format!("{GOOD}{}", GATEWAY.replacen(from, to, 1));
        let found = problems(&wrong);
        assert!(found.iter().any(|what| what.starts_with(expect)), "{to}: {found:?}");
    }
}

#[test]
fn a_store_in_postgresql_has_a_server_that_is_local_or_asked_over_tls() {
    let text = |section: &str, channels: &str| {
        let text = GOOD
            .replace("kind = \"sqlite\"\npath = \"accounts.db\"", &format!("kind = \"postgres\"\n{section}"));
        assert!(text.contains("postgres"));
        format!("{text}\n{channels}")
    };
    const FULL: &str = "[store.postgres]\nservers = [\"db1.example\", \"db2.example:6432\"]\nreplicas = [\"[::1]:5433\"]\n\
        ca = \"ca.pem\"\ndatabase = \"rcmpd\"\nuser = \"u\"\npassword = \"file:pg.secret\"\nstale_if_error_s = 30";
    let store =
        parse(&text(FULL, ""), Path::new("/etc/rcmpd")).expect("it is good").store.expect("it is there");
    assert!(store.has_accounts() && store.machines.is_none());
    assert_eq!(store.key, Path::new("/etc/rcmpd/accounts.key"));
    let StoreKind::Postgres(postgres) = store.kind else { panic!("{:?}", store.kind) };
    assert_eq!(postgres.servers[1].to_string(), "db2.example:6432");
    assert_eq!(postgres.ca.as_deref(), Some(Path::new("/etc/rcmpd/ca.pem")));
    assert_eq!(postgres.cache.stale_if_error, Duration::from_secs(30));
    for socket in ["/run/postgresql", "/run/postgresql:5433"] {
        let section = format!("[store.postgres]\nservers = [\"{socket}\"]\ndatabase = \"d\"\nuser = \"u\"");
        assert!(parse(&text(&section, ""), Path::new("/etc/rcmpd")).is_ok(), "{socket}");
    }
    for (from, to, why) in [
        ("ca = \"ca.pem\"\n", "", "TLS needs the CA of its certificate"),
        ("ca = \"ca.pem\"", "sslmode = \"disable\"", "this server is not on this machine"),
        ("ca = \"ca.pem\"", "ca = \"ca.pem\"\nsslmode = \"disable\"", "TLS is disabled"),
        ("ca = \"ca.pem\"", "sslmode = \"require\"", "does not check the server"),
        ("[\"db1.example\", \"db2.example:6432\"]", "[]", "no server is named"),
        ("db1.example", "db1.example:0", "this is not a server of PostgreSQL"),
        ("\"file:pg.secret\"", "\"hunter2\"", "this is not a reference to a secret"),
        ("user = \"u\"", "user = \"u\"\nschema = \"a;b\"", "this is not a name of a schema"),
        ("user = \"u\"", "user = \"\"", "this is not the name of a role"),
        ("user = \"u\"", "user = \"u\"\ntimeout_ms = 50", "this is out of range"),
        ("user = \"u\"", "user = \"u\"\nconnections = 1", "this is out of range"),
        ("kind = \"postgres\"", "kind = \"postgres\"\npath = \"a.db\"", "this kind of store has no file"),
        (
            "kind = \"postgres\"",
            "kind = \"memory\"\npath = \"a\"",
            "[store.postgres] does not belong to kind",
        ),
        (FULL, "", "[store.postgres] is missing"),
    ] {
        let whole = text(FULL, "");
        assert!(whole.contains(from), "{from}");
        let told = problems(&whole.replace(from, to)).join("\n");
        assert!(told.contains(why) && !told.contains("hunter2"), "{to}: {told}");
    }
    let shared = text(FULL, "[channels]\nshared = true");
    let store = parse(&shared, Path::new("/etc/rcmpd")).expect("it is good").store;
    assert!(store.is_some_and(|store| store.shares_channels));
    let fresh = |text: &str| {
        let store = parse(text, Path::new("/etc/rcmpd")).expect("it is good").store.expect("there is one");
        let StoreKind::Postgres(postgres) = store.kind else { panic!("of another kind") };
        postgres.fresh
    };
    assert_eq!((fresh(&text(FULL, "")), fresh(&shared)), (None, Some(Duration::from_millis(100))));
    let given = |text: &str, ms: u32| text.replace("user = \"u\"", &format!("user = \"u\"\nfresh_ms = {ms}"));
    assert_eq!(fresh(&given(&shared, 250)), Some(Duration::from_millis(250)));
    assert!(problems(&given(&shared, 60_001)).join("\n").contains("this is out of range"));
    let few = shared.replace("user = \"u\"", "user = \"u\"\nconnections = 7");
    assert!(problems(&few).join("\n").contains("too few connections to PostgreSQL"));
    let embedded = format!("{GOOD}\n[channels]\nshared = true");
    assert!(problems(&embedded).join("\n").contains("servers share channels in PostgreSQL only"));
    for channels in ["path = \"machines.db\"", "store = \"sqlite\""] {
        let told = problems(&text(FULL, &format!("[channels]\n{channels}"))).join("\n");
        assert!(
            told.contains("machine accounts are in") || told.contains("cannot be stored there"),
            "{told}"
        );
    }
}

#[test]
fn several_stores_have_names_and_what_they_are_asked_for() {
    const FULL: &str = "kind = \"several\"\n[[store.part]]\nname = \"staff\"\nkind = \"sqlite\"\npath = \"staff.db\"\n\
        [[store.part]]\nname = \"partners\"\nsuffixes = [\"partner.example\"]\nissuers = [\"CN=Partner CA\"]\nkind = \"memory\"\n\
        path = \"partners.jsonl\"\n[store.compare]\nkind = \"memory\"\npath = \"new.jsonl\"\n[channels]\npath = \"machines.db\"";
    let whole = GOOD.replace("kind = \"sqlite\"\npath = \"accounts.db\"", FULL);
    let store = parse(&whole, Path::new("/etc/rcmpd")).expect("it is good").store.expect("it is there");
    assert!(!store.has_accounts());
    let sections: Vec<_> = store.kinds().into_iter().map(|(section, _)| section).collect();
    assert_eq!(sections, ["store", "[[store.part]] staff", "[[store.part]] partners", "store.compare"]);
    assert_eq!(store.compare, Some(StoreKind::Memory("/etc/rcmpd/new.jsonl".into())));
    let StoreKind::Several(parts) = store.kind else { panic!("{:?}", store.kind) };
    assert_eq!(parts[0].kind, StoreKind::Sqlite("/etc/rcmpd/staff.db".into()));
    assert_eq!((parts[1].suffixes.len(), parts[1].issuers.len()), (1, 1));
    for (from, to, why) in [
        ("name = \"staff\"\n", "", "this store has no name"),
        ("\"staff\"", "\"a b\"", "this is not a name of a store"),
        ("\"staff\"", "\"partners\"", "another [[store.part]] has this name"),
        ("[\"partner.example\"]", "[]", "this list is empty"),
        ("[\"CN=Partner CA\"]", "[]", "this list is empty"),
        ("\"partner.example\"", "\"@partner.example\"", "this is not a suffix"),
        ("\"CN=Partner CA\"", "\"Partner CA\"", "this is not a distinguished name"),
        ("kind = \"several\"", "kind = \"several\"\nname = \"all\"", "name belongs to a [[store.part]]"),
        ("kind = \"several\"", "kind = \"several\"\npath = \"a\"", "this kind of store has no file"),
        ("kind = \"several\"", "kind = \"sqlite\"\npath = \"a\"", "[[store.part]] belongs to kind"),
        ("kind = \"sqlite\"\npath = \"staff.db\"", "kind = \"several\"", "this cannot be several stores"),
        ("kind = \"memory\"\npath = \"new.jsonl\"", "kind = \"several\"", "this cannot be several stores"),
        ("path = \"new.jsonl\"", "path = \"a\"\nsuffixes = [\"a\"]", "suffixes belongs to a [[store.part]]"),
        (
            "path = \"new.jsonl\"",
            "path = \"a\"\ncompare = { kind = \"memory\", path = \"b\" }",
            "has no [store.compare]",
        ),
        (
            "path = \"staff.db\"",
            "path = \"a\"\ncompare = { kind = \"memory\", path = \"b\" }",
            "cannot be compared alone",
        ),
        ("[channels]\npath = \"machines.db\"", "", "this kind of store has no machine accounts"),
    ] {
        assert!(whole.contains(from), "{from}");
        let told = problems(&whole.replacen(from, to, 1)).join("\n");
        assert!(told.contains(why), "{to}: {told}");
    }
    let one = whole.split("[[store.part]]\nname = \"partners\"").next().expect("the text before it");
    assert!(problems(one).join("\n").contains("needs 2 to 16 [[store.part]], and has 1"));
    let part = |n: u8| format!("[[store.part]]\nname = \"p{n}\"\nkind = \"memory\"\npath = \"{n}.jsonl\"\n");
    let many =
        whole.replacen("[[store.part]]", &((0..15).map(part).collect::<String>() + "[[store.part]]"), 1);
    assert!(problems(&many).join("\n").contains("needs 2 to 16 [[store.part]], and has 17"));
    let long = whole.replacen("\"staff\"", &format!("\"{}\"", "a".repeat(33)), 1);
    assert!(problems(&long).join("\n").contains("this is not a name of a store"));
}
