//! `rcmpd domain …` as an operator uses it who chains two domains: added here, told to the other side, tried,
//! and given new secrets under load.

use dtyp::NtStatus;
use netlogon_transport::client::Association;
use netlogon_transport::secrets::ChannelType;
use rcmp_service::message::PACKAGE_NAME;
use rcmpd_tests::client::{As, Client};
use rcmpd_tests::{Demo, Finished, Service, write_secret};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// NORTHWIND, which asks CONTOSO, set up by commands alone; CONTOSO is served.
fn chained() -> (Demo, Service) {
    let contoso = Demo::new();
    let northwind = Demo::domain("NORTHWIND", "NORDC1", "127.0.0.1", &contoso);
    let before = fs::read_to_string(northwind.path("rcmpd.toml")).unwrap();
    let sid = contoso.domain_sid();
    let mut add =
        vec!["domain", "add", "CONTOSO", "--sid", &sid, "--name", "contoso.example", "--kind", "rcmpd"];
    add.extend(["--direction", "outbound", "--server", "127.0.0.1:1", "-c", "rcmpd.toml"]);
    let done = northwind.rcmpd(&add).code(0);
    assert!(done.stdout.contains("rcmpd domain trust-commands -c rcmpd.toml -- CONTOSO"), "{done:?}");
    let after = fs::read_to_string(northwind.path("rcmpd.toml")).unwrap();
    assert!(after.starts_with(before.trim_end()), "what was there stays as it was");
    let secret = northwind.path("trusts/CONTOSO.secret");
    assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    northwind.rcmpd(&add).code(1);

    // The other side runs what it is told to, with the secret that was brought over.
    let commands = |program| {
        northwind
            .rcmpd(&["domain", "trust-commands", "CONTOSO", "--for", program, "-c", "rcmpd.toml"])
            .code(0)
    };
    let done = commands("rcmpd");
    assert_eq!(commands("ours").stdout, done.stdout, "the word of former versions still works");
    let password = fs::read_to_string(&secret).unwrap();
    assert!(!done.stdout.contains(password.trim()), "a secret is never printed");
    let command = done.stdout.lines().find(|line| line.starts_with("rcmpd ")).unwrap();
    fs::create_dir(contoso.path("trusts")).unwrap();
    fs::copy(&secret, contoso.path("trusts/NORTHWIND.inbound.secret")).unwrap();
    contoso.paste(&command.replace("FILE", "rcmpd.toml")).code(0);
    let machine = contoso.rcmpd(&["machine", "show", "NORTHWIND$", "-c", "rcmpd.toml"]).code(0);
    assert!(machine.stdout.contains("trusted domain"), "{machine:?}");
    let contoso = contoso.serve();
    northwind.edit(|text| text.replace("127.0.0.1:1\"", &format!("{}\"", contoso.netlogon)));
    (northwind, contoso)
}

#[test]
fn two_domains_are_chained_by_commands() {
    let (northwind, mut contoso) = chained();
    let test = || northwind.rcmpd(&["domain", "test", "contoso.example", "-c", "rcmpd.toml", "--json"]);
    let done = test().code(0).json();
    assert_eq!(done["servers"][0]["good"], true, "{done:#}");
    let shown = northwind.rcmpd(&["domain", "show", "CONTOSO", "-c", "rcmpd.toml", "--json"]).code(0).json();
    assert_eq!(
        (&shown["direction"], &shown["kind"], &shown["account"]),
        (&json!("outbound"), &json!("rcmpd"), &json!("NORTHWIND$"))
    );
    let list = northwind.rcmpd(&["domain", "list", "-c", "rcmpd.toml"]).code(0);
    assert!(list.stdout.contains("served here") && list.stdout.contains("CONTOSO"), "{list:?}");
    assert_eq!(
        northwind.rcmpd(&["domain", "show", "-c", "rcmpd.toml", "--json"]).code(0).json()["netbios"],
        "NORTHWIND"
    );
    northwind.rcmpd(&["domain", "show", "NOBODY", "-c", "rcmpd.toml"]).code(1);

    let northwind = northwind.serve();
    let alice = contoso.certificate("alice");
    let map = || northwind.rcmpd(&["map", &alice, "-c", "client.toml", "--json"]);
    assert_eq!(map().code(0).json()["domain"], "CONTOSO");
    let channels = || {
        let metric =
            format!("rcmpd_peer_channels_total{{domain=\"CONTOSO\",server=\"{}\"}}", contoso.netlogon);
        northwind.metric(&metric)
    };
    assert_eq!(channels(), 1);
    // A peer that is taken out of the configuration is no peer after a reload; and comes back the same way.
    let whole = fs::read_to_string(northwind.path("rcmpd.toml")).unwrap();
    let reload = |times: usize| {
        northwind.signal(Signal::HUP);
        let deadline = Instant::now() + Duration::from_secs(30);
        while northwind.log().matches(" Reloaded ").count() < times {
            assert!(Instant::now() < deadline, "{}", northwind.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    // What is said of a peer may change; its channel stays.
    northwind.edit(|text| text.replace("kind = \"rcmpd\"", "kind = \"netlogon\"\nforeign_sids = \"drop\""));
    reload(1);
    map().code(0);
    assert_eq!(channels(), 1);
    northwind.edit(|text| text[..text.find("[[peer]]").unwrap()].to_owned());
    reload(2);
    assert_eq!(
        map().code(3).json()["status"]["name"],
        "STATUS_LOGON_FAILURE",
        "no account of that name is here"
    );
    northwind.edit(|_| whole);
    reload(3);
    map().code(0);
    // A trust whose last [[peer]] is gone asks nothing, though its account is there.
    let inbound = fs::read_to_string(contoso.path("rcmpd.toml")).unwrap();
    contoso.edit(|text| text[..text.find("[[peer]]").unwrap()].to_owned());
    contoso.reload();
    map().code(7);
    contoso.edit(|_| inbound);
    contoso.reload();
    map().code(0);

    // An entry that only says whose account it is.
    let odd = northwind.rcmpd(&["explain", &contoso.certificate("bob"), "-c", "rcmpd.toml"]);
    assert_eq!(odd.code, 3, "not mapped: {odd:?}");
    let strings =
        northwind.rcmpd(&["mapping", "strings", &contoso.certificate("bob"), "--json"]).code(0).json();
    let forms = strings["forms"].as_array().unwrap();
    let serial =
        forms.iter().find(|form| form["form"] == "issuer-serial").unwrap()["value"].as_str().unwrap();
    northwind
        .rcmpd(&[
            "account",
            "add",
            "bob",
            "--home-domain",
            "CONTOSO",
            "--add-mapping",
            serial,
            "-c",
            "rcmpd.toml",
        ])
        .code(0);
    let done =
        northwind.rcmpd(&["map", &contoso.certificate("bob"), "-c", "client.toml", "--json"]).code(0).json();
    assert_eq!((&done["domain"], &done["account"]), (&json!("CONTOSO"), &json!("bob")));
    let odd = northwind.rcmpd(&["explain", &contoso.certificate("bob"), "-c", "rcmpd.toml"]).code(7);
    assert!(odd.stdout.contains("CONTOSO decides (store)"), "{odd:?}");
    northwind.rcmpd(&["account", "set", "bob", "--home-domain", "NOWHERE", "-c", "rcmpd.toml"]).code(0);
    northwind.rcmpd(&["explain", &contoso.certificate("bob"), "-c", "rcmpd.toml"]).code(3);

    // The trust is the other side's to end.
    contoso.rcmpd(&["machine", "set", "NORTHWIND$", "--disable", "-c", "rcmpd.toml"]).code(0);
    let done = map();
    assert_ne!(done.code, 0, "{done:?}");
    contoso.rcmpd(&["machine", "set", "NORTHWIND$", "--enable", "-c", "rcmpd.toml"]).code(0);
    contoso.kill();
    let test = northwind.rcmpd(&["domain", "test", "CONTOSO", "-c", "rcmpd.toml", "--json"]).code(4).json();
    assert!(test["servers"][0]["result"].as_str().unwrap().contains("unreachable"), "{test:#}");
}

#[test]
fn explain_names_the_line_that_sends_an_issuer_to_its_domain() {
    let (northwind, contoso) = chained();
    let explain = || northwind.rcmpd(&["explain", &contoso.certificate("bob"), "-c", "rcmpd.toml"]);
    let line = r#"issuers = ["O=Contoso,CN=Contoso Demo CA"]"#;
    let done = explain().code(3);
    assert!(done.stdout.contains(line) && done.stdout.contains("users of CONTOSO"), "{done:?}");
    northwind.edit(|text| text.replace("[[peer]]\n", &format!("[[peer]]\n{line}\n")));
    let done = explain().code(7);
    assert!(done.stdout.contains("CONTOSO decides (issuer)"), "{done:?}");
    // Without another domain there is no such line.
    let done = contoso.rcmpd(&["explain", "certs/mallory.pem", "-c", "rcmpd.toml"]).code(3);
    assert!(!done.stdout.contains("issuers ="), "{done:?}");
}

#[test]
fn a_wrong_secret_is_told_and_a_right_one_taken_at_once() {
    let (northwind, contoso) = chained();
    let secret = northwind.path("trusts/CONTOSO.secret");
    let right = fs::read_to_string(&secret).unwrap();
    write_secret(&secret, "wrong\n");
    let done = northwind.rcmpd(&["domain", "test", "CONTOSO", "-c", "rcmpd.toml"]).code(5);
    assert!(done.stdout.contains("the secret is wrong"), "{done:?}");
    let northwind = northwind.serve();
    let map = || northwind.rcmpd(&["map", &contoso.certificate("alice"), "-c", "client.toml", "--json"]);
    map().code(7);
    map().code(7);
    let refused =
        format!("rcmpd_peer_channels_refused_total{{domain=\"CONTOSO\",server=\"{}\"}}", contoso.netlogon);
    assert_eq!(northwind.metric(&refused), 1, "it is not tried again and again");
    let metric = |name: &str| {
        northwind.metric(&format!(
            "rcmpd_peer_circuit_{name}{{domain=\"CONTOSO\",server=\"{}\"}}",
            contoso.netlogon
        ))
    };
    assert_eq!((metric("open"), metric("rejections_total")), (1, 1), "the second request is not sent");
    assert!(northwind.log().contains("Circuit breaker opened"), "{}", northwind.log());
    // After the secret is corrected, no request waits.
    write_secret(&secret, right);
    map().code(0);
    assert_eq!(metric("open"), 0);
}

#[test]
fn a_secret_is_changed_without_a_failed_call() {
    let (northwind, contoso) = chained();
    let northwind = northwind.serve();
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let alice = contoso.certificate("alice");
    let secret = || fs::read_to_string(northwind.path("trusts/CONTOSO.secret")).unwrap();
    let first = secret();
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        northwind.rcmpd(&["map", &alice, "-c", "client.toml"]).code(0);
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for _ in 0..4 {
            let before = asked.load(Ordering::Relaxed);
            let done = northwind.rcmpd(&["domain", "rotate", "CONTOSO", "-c", "rcmpd.toml"]).code(0);
            assert!(done.stdout.contains("the secret was changed"), "{done:?}");
            let deadline = Instant::now() + Duration::from_secs(60);
            while asked.load(Ordering::Relaxed) < before + 10
                && askers.iter().all(|asker| !asker.is_finished())
            {
                assert!(Instant::now() < deadline, "no question is answered");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_ne!(secret(), first);
    assert!(!northwind.path("trusts/CONTOSO.secret.next").exists());

    let changed = secret();
    // Stopped after the other side was told, and before the files were moved.
    let present = northwind.path("trusts/CONTOSO.secret");
    fs::rename(&present, northwind.path("trusts/CONTOSO.secret.next")).unwrap();
    write_secret(&present, "what-it-was-before-and-is-good-no-more\n");
    northwind.rcmpd(&["map", &alice, "-c", "client.toml"]).code(0);
    let done = northwind.rcmpd(&["domain", "rotate", "CONTOSO", "-c", "rcmpd.toml"]).code(0);
    // Whether the other side still takes the one before depends on whether the new one was used; it is the
    // same in the end.
    let told = ["an interrupted rotation was completed", "the secret was changed"];
    assert!(told.iter().any(|told| done.stdout.contains(told)), "{done:?}");
    assert_eq!(secret(), changed);
    northwind.rcmpd(&["domain", "test", "CONTOSO", "-c", "rcmpd.toml"]).code(0);
    // If no server answers, nothing is changed.
    let whole = fs::read_to_string(northwind.path("rcmpd.toml")).unwrap();
    fs::write(northwind.path("dead.toml"), whole.replace(&contoso.netlogon.to_string(), "127.0.0.1:1"))
        .unwrap();
    let before = secret();
    let done = northwind.rcmpd(&["domain", "rotate", "CONTOSO", "-c", "dead.toml", "--json"]).code(4);
    assert!(done.stderr.contains("nothing was changed"), "{done:?}");
    assert_eq!(secret(), before);
    let line = fs::read_to_string(contoso.path("serve.log")).unwrap();
    assert!(line.matches("Secret rotated").count() >= 4, "{line}");
}

/// Adds a peer, whose DNS name is made from its NetBIOS name.
fn add(domain: &Demo, name: &str, sid: &str, more: &[&str]) -> Finished {
    let dns = format!("{}.example", name.to_lowercase());
    let base = ["domain", "add", name, "--sid", sid, "--name", &dns, "-c", "rcmpd.toml"];
    domain.rcmpd(&[&base[..], more].concat())
}

/// NORTHWIND with three peers: one that is asked by a member's channel, one by a trust, and one through that.
fn with_three_peers() -> Demo {
    let northwind = Demo::domain("NORTHWIND", "NORDC1", "127.0.0.1", &Demo::new());
    add(
        &northwind,
        "FABRIKAM",
        "S-1-5-21-7-7-7",
        &[
            "--direction",
            "outbound",
            "--server",
            "dc.fabrikam.example",
            "--channel",
            "workstation",
            "--account",
            "CON'1$",
        ],
    )
    .code(0);
    add(
        &northwind,
        "TAILSPIN",
        "S-1-5-21-8-8-8",
        &["--direction", "both", "--server", "dc.tailspin.example", "--transit", "FABRIKAM"],
    )
    .code(0);
    add(&northwind, "BEHIND", "S-1-5-21-9-9-9", &["--direction", "outbound", "--via", "TAILSPIN"]).code(0);
    northwind
}

#[test]
fn a_peer_that_makes_no_sense_is_not_written() {
    let northwind = with_three_peers();
    let before = fs::read_to_string(northwind.path("rcmpd.toml")).unwrap();
    for (name, sid, more, told) in [
        ("OTHER", "S-1-5-21-7-7-7", &["--direction", "inbound"][..], "FABRIKAM already has this SID"),
        ("OTHER", "nonsense", &["--direction", "inbound"], "this is not the SID of a domain"),
        (
            "OTHER",
            "S-1-5-21-6-6-6",
            &["--direction", "outbound"],
            "--server HOST[:PORT], --discovery (by DNS), or --via DOMAIN",
        ),
        (
            "OTHER",
            "S-1-5-21-6-6-6",
            &["--direction", "outbound", "--via", "BEHIND"],
            "not a peer that is asked directly",
        ),
        ("NORTHWIND", "S-1-5-21-6-6-6", &["--direction", "inbound"], "the domain NORTHWIND already exists"),
    ] {
        let done = add(&northwind, name, sid, more).code(1);
        assert!(done.stderr.contains(told), "{told}: {done:?}");
        assert!(!done.stderr.contains("rcmpd.toml:"), "a line that the file does not have: {done:?}");
    }
    assert_eq!(fs::read_to_string(northwind.path("rcmpd.toml")).unwrap(), before);
    assert!(!northwind.path("trusts/OTHER.inbound.secret").exists());
}

#[test]
fn what_to_run_on_the_other_side_is_told_for_each() {
    let northwind = with_three_peers();
    let commands = |name: &str| -> Value {
        northwind.rcmpd(&["domain", "trust-commands", name, "-c", "rcmpd.toml", "--json"]).code(0).json()
    };
    let lines = |value: &Value| {
        value
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
            .join("\n")
    };
    let fabrikam = commands("FABRIKAM");
    assert!(
        lines(&fabrikam["ours"]).contains("rcmpd machine add --kind workstation")
            && lines(&fabrikam["ours"]).contains(r" -- 'CON'\''1$'"),
        "{fabrikam:#}"
    );
    assert!(lines(&fabrikam["samba"]).contains(r"samba-tool computer create 'CON'\''1'"), "{fabrikam:#}");
    assert!(lines(&fabrikam["powershell"]).contains("New-ADComputer -Name 'CON''1'"), "{fabrikam:#}");
    let tailspin = commands("TAILSPIN");
    assert!(lines(&tailspin["ours"]).contains("--direction both"), "{tailspin:#}");
    assert!(
        lines(&tailspin["powershell"])
            .contains("CreateLocalSideOfTrustRelationship('northwind.example', 'Outbound', $password)")
    );
    northwind.rcmpd(&["domain", "trust-commands", "BEHIND", "-c", "rcmpd.toml"]).code(1);
    northwind.rcmpd(&["domain", "rotate", "BEHIND", "-c", "rcmpd.toml"]).code(1);
    let done = northwind.rcmpd(&["domain", "test", "BEHIND", "-c", "rcmpd.toml"]).code(1);
    assert!(done.stderr.contains("reached through TAILSPIN"), "{done:?}");
}

#[test]
fn an_account_of_another_domain_says_where_to_ask() {
    let northwind = with_three_peers();
    northwind
        .rcmpd(&[
            "account",
            "add",
            "dave",
            "--home-domain",
            "fabrikam",
            "--upn",
            "dave@odd.example",
            "-c",
            "rcmpd.toml",
        ])
        .code(0);
    let shown = northwind.rcmpd(&["account", "show", "dave", "-c", "rcmpd.toml", "--json"]).code(0).json();
    assert_eq!(shown["home_domain"], "FABRIKAM");
    northwind.rcmpd(&["account", "set", "dave", "--home-domain", "", "-c", "rcmpd.toml"]).code(0);
}

#[test]
fn a_key_of_a_domain_is_made_as_one_of_the_audit_log() {
    let northwind = Demo::new();
    let made = northwind.rcmpd(&["domain", "key", "proof.key"]).code(0);
    assert_eq!(made.stdout, fs::read_to_string(northwind.path("proof.key.pub")).unwrap());
    northwind.rcmpd(&["domain", "key", "proof.key"]).code(1);
}

#[tokio::test]
async fn a_trust_s_secret_that_was_rotated_away_ends_at_once() {
    let (northwind, contoso) = chained();
    let leaked = fs::read_to_string(northwind.path("trusts/CONTOSO.secret")).unwrap().trim().to_owned();
    let server = contoso.netlogon.to_string();
    let establish = async |password: &str| {
        let (domain, account, computer) = ("CONTOSO", "NORTHWIND$", "NORDC1");
        let channel_type = ChannelType::TRUSTED_DOMAIN;
        Client::establish_as(&server, As { domain, account, password, channel_type, computer }).await
    };
    let asks = async |client: &Client, association: &mut dyn Association| {
        let answer = client.channel.ask(association, PACKAGE_NAME, "CONTOSO", b"not a request").await;
        answer.is_ok_and(|answer| answer.status != NtStatus::ACCESS_DENIED)
    };
    let attacker = establish(&leaked).await.unwrap();
    let mut association = attacker.open().await.unwrap();
    assert!(asks(&attacker, &mut *association).await);
    let done = northwind.rcmpd(&["domain", "rotate", "CONTOSO", "--now", "-c", "rcmpd.toml"]).code(0);
    assert!(done.stdout.contains("the secret was changed, and the previous one has ended"), "{done:?}");
    assert!(!asks(&attacker, &mut *association).await);
    assert!(establish(&leaked).await.is_err());
    northwind.rcmpd(&["domain", "test", "CONTOSO", "-c", "rcmpd.toml"]).code(0);

    // The other side can do it, too.
    let present = fs::read_to_string(northwind.path("trusts/CONTOSO.secret")).unwrap();
    let partner = establish(present.trim()).await.unwrap();
    let mut association = partner.open().await.unwrap();
    write_secret(contoso.path("new.secret"), "A-new-secret-of-the-trust\n");
    let set = ["machine", "set", "NORTHWIND$", "--secret-file", "new.secret", "--now", "-c", "rcmpd.toml"];
    contoso.rcmpd(&set).code(0);
    assert!(!asks(&partner, &mut *association).await);
    assert!(establish(present.trim()).await.is_err());
    establish("A-new-secret-of-the-trust").await.unwrap();
}

/// Stopped after the other side took the new secret: the one before is still accepted there, but chooses no
/// other.
#[test]
fn an_interrupted_rotation_is_finished_while_the_secret_before_is_still_accepted() {
    let (northwind, contoso) = chained();
    let present = northwind.path("trusts/CONTOSO.secret");
    write_secret(northwind.path("trusts/CONTOSO.secret.next"), "A-new-secret-of-the-trust\n");
    fs::copy(northwind.path("trusts/CONTOSO.secret.next"), contoso.path("taken.secret")).unwrap();
    contoso
        .rcmpd(&["machine", "set", "NORTHWIND$", "--secret-file", "taken.secret", "-c", "rcmpd.toml"])
        .code(0);
    let done = northwind.rcmpd(&["domain", "rotate", "CONTOSO", "-c", "rcmpd.toml"]).code(0);
    assert!(done.stdout.contains("an interrupted rotation was completed"), "{done:?}");
    assert_eq!(fs::read_to_string(present).unwrap(), "A-new-secret-of-the-trust\n");
    assert!(!northwind.path("trusts/CONTOSO.secret.next").exists());
}
