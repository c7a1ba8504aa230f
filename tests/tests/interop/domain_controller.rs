//! Our client at a real Samba AD DC: finding it, the channel, opnums 21, 39 and 30, and refusals, beside what
//! Impacket gets there.

use crate::SUCCESS;
use rcmpd_tests::peers::SambaDc;
use rcmpd_tests::{Demo, write_secret};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// The exit code and what was printed.
fn output(mut command: Command) -> (i32, String, String) {
    let done = command.output().expect("nsenter starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code().unwrap_or(-1), text(&done.stdout), text(&done.stderr))
}

/// What our client gets there, with options and questions as `netlogon-ask` takes them.
pub(crate) fn ask(dc: &SambaDc, account: &str, password: &str, questions: &[String]) -> Value {
    let mut command = dc.beside(env!("CARGO_BIN_EXE_netlogon-ask"));
    command.arg(format!("{}:{}", dc.text("address"), dc.text("port")));
    command.args([&dc.text("netbios"), account, password]).args(questions);
    printed(command)
}

fn printed(command: Command) -> Value {
    let (code, stdout, stderr) = output(command);
    assert_eq!(code, 0, "{stdout}{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn our_client_at_samba_s_domain_controller() {
    let dc = SambaDc::start();
    is_found_by_its_srv_records(&dc);
    relays_what_impacket_relays(&dc);
    rotates_a_secret(&dc);
    the_command_line_says_what_is_wrong(&dc);
    is_a_peer_that_is_tested_and_rotated(&dc);
}

/// Samba's own DNS server knows it, and its endpoint mapper knows where Netlogon is.
fn is_found_by_its_srv_records(dc: &SambaDc) {
    let discover = |domain: &str, site: Option<&str>| {
        let mut command = dc.beside(env!("CARGO_BIN_EXE_netlogon-ask"));
        command.args(["discover", &format!("{}:53", dc.text("address")), domain]).args(site);
        printed(command)
    };
    let (domain, site) = (dc.text("dns"), dc.text("site"));
    // A site that is not known leaves all servers.
    for (site, in_site) in [(Some(&site[..]), true), (Some("Nowhere"), false), (None, false)] {
        let found = discover(&domain, site);
        let server = json!({
            "host": format!("{}.{domain}", dc.text("server").to_lowercase()), "in_site": in_site,
            "addresses": [dc.text("address")], "port": dc.facts["port"],
        });
        assert_eq!(found, json!({ "servers": [server], "ttl": 900 }), "{site:?}");
    }
    // In its own zone Samba knows that there is no such domain; of others it cannot say anything.
    for (domain, says) in [
        ("nowhere.fabrikam.example", "DNS has no domain controller of nowhere.fabrikam.example"),
        ("elsewhere.example", "DNS look-up of _ldap._tcp.dc._msdcs.elsewhere.example. failed"),
    ] {
        let found = discover(domain, Some(&site));
        assert!(found["error"].as_str().unwrap().starts_with(says), "{found:#}");
    }
}

/// One machine account for each client: that DC keeps one channel for an account.
fn relays_what_impacket_relays(dc: &SambaDc) {
    let (good, bad) = (dc.verify_pac("good"), dc.verify_pac("bad"));
    let rcmp = "Microsoft Unified Security Protocol Provider";
    let questions =
        [("Kerberos", &good[..]), ("Kerberos", &bad), ("Kerberos", "00ff"), (rcmp, "02"), ("Nonsense", "02")];
    let theirs = dc.impacket(
        "WEB01$",
        json!({ "capabilities": [1], "questions": questions.map(|(package, data)| json!({ "package": package, "data": data })) }),
    );
    assert_eq!(theirs["error"], Value::Null, "{theirs:#}");
    let arguments = questions.map(|(package, data)| format!("{package}={data}"));
    let ours = ask(dc, "WEB02$", &dc.secret("WEB02$"), &arguments);
    assert_eq!(ours["capabilities"], "good", "{ours:#}");
    let statuses = |answers: &Value| -> Vec<(Value, Value)> {
        answers
            .as_array()
            .unwrap()
            .iter()
            .map(|answer| (answer["status"].clone(), answer["authoritative"].clone()))
            .collect()
    };
    assert_eq!(statuses(&ours["answers"]), statuses(&theirs["answers"]), "{ours:#}\n{theirs:#}");
    // And these are what such a DC is known to say, so that both are not wrong together.
    let known: Vec<&str> =
        ours["answers"].as_array().unwrap().iter().filter_map(|a| a["status"].as_str()).collect();
    assert_eq!(known, [SUCCESS, "0xC000006D", "0xC000000D", "0xC000000D", "0xC000000D"]);
}

/// NetrServerPasswordSet2: the DC takes the new secret, and forgets the old one or keeps it as the previous.
fn rotates_a_secret(dc: &SambaDc) {
    let new = "A-new-secret-for-the-third-machine";
    let done = ask(dc, "WEB03$", &dc.secret("WEB03$"), &[format!("password={new}")]);
    assert_eq!(done["answers"][0]["password"], true, "{done:#}");
    let done = ask(dc, "WEB03$", new, &["Kerberos=00ff".into()]);
    assert_eq!(done["answers"][0]["status"], "0xC000000D", "{done:#}");
    let done = ask(dc, "WEB03$", "neither-the-old-nor-the-new-secret", &[]);
    assert!(done["error"].as_str().unwrap().contains("STATUS_ACCESS_DENIED"), "{done:#}");
}

fn the_command_line_says_what_is_wrong(dc: &SambaDc) {
    let demo = Demo::new();
    let secret = demo.path("machines/WEB04.secret");
    write_secret(&secret, format!("{}\n", dc.secret("WEB04$")));
    let map = |server: &str, secret: &str| {
        let mut command = dc.beside(rcmpd_tests::binary());
        command.args(["map", &demo.certificate("alice"), "--server", server, "--machine", "WEB04$"]);
        command.args(["--secret-file", secret, "--domain", &dc.text("netbios"), "--json"]);
        let (code, stdout, stderr) = output(command);
        (code, serde_json::from_str::<Value>(&stdout).unwrap_or_default(), stderr)
    };
    let right = secret.display().to_string();
    let address = dc.text("address");
    // With a port; and without one, where Samba's endpoint mapper tells it.
    for server in [format!("{address}:{}", dc.text("port")), address.clone()] {
        let (code, answer, stderr) = map(&server, &right);
        assert_eq!(code, 5, "{answer:#} {stderr}");
        assert_eq!(answer["status"]["name"], "STATUS_INVALID_PARAMETER");
        assert!(stderr.contains("does not speak the Remote Certificate Mapping Protocol"), "{stderr}");
    }
    let wrong = demo.path("machines/WEB01.secret").display().to_string();
    let (code, answer, _) = map(&address, &wrong);
    assert_eq!(code, 5, "{answer:#}");
    let (code, _, stderr) = map(&format!("{address}:1"), &right);
    assert_eq!(code, 4, "{stderr}");
}

/// Another domain, asked by a computer account that the printed lines make.
fn is_a_peer_that_is_tested_and_rotated(dc: &SambaDc) {
    let demo = Demo::new();
    let server = format!("{}:{}", dc.text("address"), dc.text("port"));
    let config = demo.path("rcmpd.toml").display().to_string();
    let (sid, name, netbios) = (dc.text("sid"), dc.text("dns"), dc.text("netbios"));
    let add = ["domain", "add", &netbios, "--sid", &sid, "--name", &name, "--direction", "outbound"];
    let how = ["--server", &server, "--channel", "workstation", "--account", "ASKING$", "-c", "rcmpd.toml"];
    demo.rcmpd(&[&add[..], &how].concat()).code(0);
    let printed =
        demo.rcmpd(&["domain", "trust-commands", &netbios, "--for", "samba", "-c", "rcmpd.toml"]).code(0);
    // Where this DC's configuration is, a real one's tools know.
    let smb_conf = format!("{}/etc/smb.conf", dc.text("folder"));
    for line in printed.stdout.lines().filter(|line| !line.starts_with('#')) {
        let mut command = dc.beside("sh");
        // A process that enters another mount namespace stands at its root.
        let folder = demo.path("trusts").display().to_string();
        command.args(["-c", &format!("cd {folder} && {line} -s {smb_conf}")]);
        let (code, stdout, stderr) = output(command);
        assert_eq!(code, 0, "{line}: {stdout}{stderr}");
    }
    let domain = |what: &str| {
        let mut command = dc.beside(rcmpd_tests::binary());
        command.args(["domain", what, &netbios, "-c", &config, "--json"]);
        let (code, stdout, stderr) = output(command);
        assert_eq!(code, 0, "{stdout}{stderr}");
        serde_json::from_str::<Value>(&stdout).unwrap()
    };
    assert_eq!(domain("test")["servers"][0]["good"], true);
    let before = fs::read_to_string(demo.path("trusts/FABRIKAM.secret")).unwrap();
    assert_eq!(domain("rotate")["done"], "the secret was changed");
    assert_ne!(fs::read_to_string(demo.path("trusts/FABRIKAM.secret")).unwrap(), before);
    assert_eq!(domain("test")["servers"][0]["good"], true);
    // A secret that was written down for a rotation, and never told, is the one that is told.
    let pending = "A-secret-that-was-written-down-before-the-lights-went-out";
    write_secret(demo.path("trusts/FABRIKAM.secret.next"), pending);
    assert_eq!(domain("rotate")["done"], "the secret was changed");
    assert_eq!(fs::read_to_string(demo.path("trusts/FABRIKAM.secret")).unwrap(), pending);
    assert_eq!(domain("test")["servers"][0]["good"], true);
    // Found by DNS, and Netlogon by its endpoint mapper.
    demo.edit(|text| {
        let found = format!(
            "discovery = \"dns\"\nsite = \"Default-First-Site-Name\"\ndns = [\"{}:53\"]",
            dc.text("address")
        );
        text.replace(&format!("servers = [\"{server}\"]"), &found)
    });
    let tested = domain("test");
    assert_eq!(tested["servers"][0]["good"], true, "{tested:#}");
    assert_eq!(tested["servers"][0]["server"], dc.text("address").as_str());
    let mut command = dc.beside(rcmpd_tests::binary());
    command.args(["doctor", &config, "--json"]);
    let (code, stdout, stderr) = output(command);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let report: Value = serde_json::from_str(&stdout).unwrap();
    let is_found = |check: &str, finding: String| {
        let mut rows = report["checks"].as_array().unwrap().iter();
        let row = json!({ "check": check, "result": "ok", "finding": finding, "to_do": "" });
        assert!(rows.any(|known| *known == row), "{row} in {report:#}");
    };
    let (address, host) = (dc.text("address"), format!("{}.{name}", dc.text("server").to_lowercase()));
    is_found("names", format!("the domain controllers of {netbios}: {host}"));
    is_found("channels", format!("[[peer]] {netbios}: {address} has accepted the channel"));
    is_found("clock", format!("it agrees with that of {address}"));
}
