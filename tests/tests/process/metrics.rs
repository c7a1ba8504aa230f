//! Metrics as scrapers read them: with the parser of Prometheus' Python client.

use crate::sidecar::{ask_about, sidecar};
use dtyp::FileTime;
use rcmpd_tests::openssl::Authority;
use rcmpd_tests::peers::read_metrics;
use rcmpd_tests::ports::free_port;
use rcmpd_tests::postgres::Postgres;
use rcmpd_tests::{Demo, Service, eventually, write_secret};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// What Prometheus 3 sends.
pub(crate) const PROMETHEUS: &str = "Accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
    application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
    text/plain;version=0.0.4;q=0.2,*/*;q=0.1\r\n";
/// A file name with all that the text format escapes.
const ODD: &str = "a \"b\" \\c\n.crl";
const ODD_AS_TOML: &str = r#"a \"b\" \\c\n.crl"#;

/// A service with everything that has metrics, after some decisions.
fn service() -> Service {
    let demo = Demo::new();
    let authority = Authority::of(&demo);
    authority.list(&demo.path(ODD), &[]);
    authority.list(&demo.path("operators.crl"), &[]);
    write_secret(demo.path("other.secret"), "correct-horse-battery\n");
    demo.edit(|text| {
        let strict = "validation = \"chain\"";
        assert!(text.contains(strict));
        text.replace(strict, &format!("validation = \"chain+crl\"\ncrls = [\"{ODD_AS_TOML}\"]"))
    });
    demo.configure(&format!(
        "[admin.tls]\nlisten = \"{}\"\ncertificate = \"certs/site.pem\"\nkey = \"certs/site.key\"\n\
         client_ca = \"certs/ca.pem\"\ncrls = [\"operators.crl\"]\n\
         [mapping.shadow]\nbinding = \"off\"\n\
         [[peer]]\ndomain = \"FABRIKAM\"\nsid = \"S-1-5-21-7-8-9\"\nnames = [\"fabrikam.example\"]\n\
         direction = \"outbound\"\nservers = [\"127.0.0.1:1\"]\nsecret = \"file:other.secret\"\n\
         [[relay]]\npackage = \"WDigest\"\nservers = [\"127.0.0.1:1\"]\naccount = \"RELAY$\"\n\
         secret = \"file:other.secret\"\nmachines = [\"WEB01$\"]\nresponse_crypt = \"encrypt\"",
        free_port()
    ));
    let proxy = "[sidecar.proxy]\nlisten = \"127.0.0.1:0\"\ncertificate = \"certs/site.pem\"\n\
                 key = \"certs/site.key\"\nupstream = \"http://127.0.0.1:1\"";
    let service = sidecar(demo, proxy);
    service.map("alice").code(0);
    service.map("carol").code(3);
    assert_eq!(ask_about(&service, "alice", &[]).status, 200);
    let diverged = "rcmpd_shadow_divergences_total{live=\"no_strong_mapping\",shadow=\"mapped\"}";
    eventually("the shadow differs", || service.get("/metrics").1.contains(diverged));
    service
}

/// A service whose accounts are elsewhere.
fn with_store(keys: &str) -> Demo {
    let demo = Demo::new();
    write_secret(demo.path("directory.secret"), "correct-horse-battery\n");
    demo.edit(|text| {
        let (before, rest) = text.split_once("[store]").expect("there is a store");
        let (_, after) = rest.split_once("[channels]").expect("there are machines");
        format!(
            "{before}[store]\n{keys}fresh_s = 1\ntimeout_s = 1\n[channels]\npath = \"accounts.db\"\n{after}"
        )
    });
    demo
}

/// A service whose accounts are in a directory that does not answer.
pub(crate) fn with_directory() -> Demo {
    with_store(
        "kind = \"ldap\"\n[store.ldap]\nschema = \"ad\"\nservers = [\"ldaps://127.0.0.1:1\"]\nca = [\"certs/ca.pem\"]\n\
         bind_dn = \"CN=rcmpd,DC=contoso,DC=example\"\nsecret = \"file:directory.secret\"\n",
    )
}

/// A service whose store does not answer.
fn unanswered(demo: Demo) -> Service {
    let service = demo.serve();
    eventually("the store does not answer", || service.get("/ready").0 == 503);
    let usable = service.get("/metrics").1.contains("rcmpd_store_usable 0");
    assert!(usable && service.get("/live").0 == 200);
    service
}

/// A master secret server, after a delivery and a wrong password.
fn master_secret() -> Service {
    let service = Demo::with_master_secret().serve();
    let server = service.master_secret().to_string();
    for (password, code) in [("users/alice.password", 0), ("users/bob.password", 5)] {
        let get =
            ["sso", "secret", "get", "--server", &server, "--user", "alice", "--password-file", password];
        service.rcmpd(&[&get[..], &["--output", &format!("key-{code}")]].concat()).code(code);
    }
    service
}

/// A gateway for SOAP clients, after a wrong password.
fn gateway() -> Service {
    let service = crate::tlsnego::with_cookies().serve();
    let url = format!("http://{}/service", service.gateway());
    fs::write(service.path("body.xml"), "<a/>").unwrap();
    let call = ["tlsnego", "call", &url, "--action", "urn:a", "--body", "body.xml", "--ca", "certs/ca.pem"];
    service
        .rcmpd(&[&call[..], &["--user", "alice", "--password-file", "users/bob.password"]].concat())
        .code(7);
    service
}

/// A service whose accounts are in PostgreSQL, and that server.
fn on_postgres() -> (Service, Postgres) {
    let server = Postgres::start();
    let service = Demo::new().into_postgres(&server, "").serve();
    service.map("alice").code(0);
    (service, server)
}

/// A service with several stores, and one that is only compared.
fn several_stores() -> Service {
    let demo = Demo::new();
    fs::write(demo.path("none.jsonl"), "").unwrap();
    let none = "kind = \"memory\"\npath = \"none.jsonl\"\n";
    let embedded = "kind = \"sqlite\"\npath = \"accounts.db\"\n";
    let several = format!(
        "kind = \"several\"\n[[store.part]]\nname = \"one\"\n{embedded}[[store.part]]\nname = \"two\"\n{none}[store.compare]\n{none}"
    );
    demo.edit(|text| {
        let text = text.replace(embedded, &several);
        text.replace("store = \"sqlite\"\n", "store = \"sqlite\"\npath = \"accounts.db\"\n")
    });
    let service = demo.serve();
    service.map("alice").code(0);
    service
}

/// The names on the page about metrics, each with the labels that it names there. The labels of peers are in
/// the text.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = fs::read_to_string(page).unwrap();
    let is_row = |line: &&str| line.starts_with("| `rcmpd_") || line.starts_with("| `process_");
    let names = page.lines().filter(is_row).flat_map(|row| {
        let row = row.trim_start_matches("| ").split(" | ").next().unwrap();
        row.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    });
    let names = names.map(|name| {
        let (name, labels) = name.split_once('{').unwrap_or((&name, ""));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        (name.to_owned(), labels.map(str::to_owned).collect())
    });
    names.collect()
}

fn samples(families: &[Value]) -> impl Iterator<Item = &Value> {
    families.iter().flat_map(|family| family["samples"].as_array().unwrap())
}

#[test]
fn scrapers_read_openmetrics_and_every_metric_is_documented() {
    let service = service();
    let (head, text) = service.get_with("/metrics", PROMETHEUS);
    let media_type = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(head.starts_with("HTTP/1.1 200 ") && head.to_lowercase().contains(media_type), "{head}");
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    let mut families = read_metrics(&text, "openmetrics");
    families.extend(read_metrics(&master_secret().get_with("/metrics", PROMETHEUS).1, "openmetrics"));
    families.extend(read_metrics(&gateway().get_with("/metrics", PROMETHEUS).1, "openmetrics"));
    let program = with_store("kind = \"socket\"\n[store.socket]\npath = \"store.sock\"\npeer = \"root\"\n");
    for store in [with_directory(), program] {
        families.extend(read_metrics(&unanswered(store).get_with("/metrics", PROMETHEUS).1, "openmetrics"));
    }
    families.extend(read_metrics(&several_stores().get_with("/metrics", PROMETHEUS).1, "openmetrics"));
    let (with_server, _server) = on_postgres();
    families.extend(read_metrics(&with_server.get_with("/metrics", PROMETHEUS).1, "openmetrics"));
    // The documents name samples, and their labels.
    let mut exported: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for sample in samples(&families) {
        let labels = sample["labels"].as_object().unwrap().keys().cloned();
        exported.entry(sample["name"].as_str().unwrap().to_owned()).or_default().extend(labels);
    }
    for (name, labels) in &mut exported {
        if name.starts_with("rcmpd_peer_") {
            let of_peers = ["domain", "package", "server"].map(str::to_owned);
            assert_eq!(*labels, BTreeSet::from(of_peers), "{name}");
            labels.clear();
        }
    }
    assert_eq!(
        exported,
        documented(),
        "docs/metrics.md names every metric with its labels, and no other one"
    );
    for family in &families {
        let (name, help) = (family["name"].as_str().unwrap(), family["documentation"].as_str().unwrap());
        assert!(help.ends_with('.') && !help.ends_with(".."), "{name}: {help}");
        for unit in ["seconds", "bytes"] {
            assert_eq!(family["unit"] == unit, name.ends_with(&format!("_{unit}")), "{name}");
        }
    }
}

#[test]
fn labels_arrive_as_they_are_in_both_formats() {
    let service = service();
    let (head, classic) = service.get_with("/metrics", "Accept: */*\r\n");
    let media_type = "content-type: text/plain; version=0.0.4; charset=utf-8\r\n";
    assert!(head.to_lowercase().contains(media_type), "{head}");
    let openmetrics = service.get_with("/metrics", PROMETHEUS).1;
    for families in [read_metrics(&classic, "prometheus"), read_metrics(&openmetrics, "openmetrics")] {
        let entries: Vec<_> =
            samples(&families).filter(|sample| sample["name"] == "rcmpd_crl_entries").collect();
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_eq!(entries[0]["labels"]["crl"], format!("./{ODD}"));
        let relayed = samples(&families).find(|sample| {
            sample["name"] == "rcmpd_relays_total" && sample["labels"]["outcome"] == "relayed"
        });
        assert_eq!(relayed.unwrap()["labels"]["package"], "WDigest");
    }
}

#[test]
fn channels_and_the_time_of_decisions_are_counted() {
    let service = Demo::new().serve();
    service.map("alice").code(0);
    service.map("mallory").code(3);
    write_secret(service.path("machines/WEB01.secret"), "this is another one\n");
    service.map("alice").code(5);
    let openmetrics = service.get_with("/metrics", PROMETHEUS).1;
    let classic = service.get_with("/metrics", "Accept: */*\r\n").1;
    for families in [read_metrics(&classic, "prometheus"), read_metrics(&openmetrics, "openmetrics")] {
        let value = |name: &str, label: (&str, &str)| {
            let found = samples(&families)
                .find(|sample| sample["name"] == name && sample["labels"][label.0] == label.1)
                .unwrap_or_else(|| panic!("{name} {label:?}"));
            found["value"].as_f64().unwrap()
        };
        // Each command sets up a channel of its own.
        assert_eq!(value("rcmpd_channels", ("age", "1m")), 2.0);
        assert_eq!(value("rcmpd_channels", ("age", "12h")), 0.0);
        let total = |name: &str| {
            samples(&families).find(|sample| sample["name"] == name).unwrap()["value"].as_f64().unwrap()
        };
        assert_eq!(total("rcmpd_channels_established_total"), 2.0);
        assert!(value("rcmpd_channels_refused_total", ("reason", "wrong_credential")) >= 1.0);
        assert_eq!(value("rcmpd_channels_refused_total", ("reason", "downgrade")), 0.0);
        // A client may ask more than once about a certificate.
        let asked = |reason| value("rcmpd_decisions_total", ("reason", reason));
        for (result, count) in
            [("mapped", asked("mapped")), ("rejected", asked("no_match")), ("undecided", 0.0)]
        {
            assert_eq!(value("rcmpd_decision_duration_seconds_count", ("result", result)), count);
            let sum = value("rcmpd_decision_duration_seconds_sum", ("result", result));
            assert_eq!(sum > 0.0, count > 0.0, "{result}");
        }
    }
}

/// The value of the sample of this name whose labels are these.
fn value_of(service: &Service, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let families = read_metrics(&service.get_with("/metrics", PROMETHEUS).1, "openmetrics");
    let expected: serde_json::Map<_, _> =
        labels.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
    let found = samples(&families)
        .find(|sample| sample["name"] == name && sample["labels"].as_object() == Some(&expected))?;
    found["value"].as_f64()
}

#[test]
fn accounts_are_counted_by_method_and_strength() {
    let demo = Demo::new();
    demo.edit(|text| {
        let full = "binding    = \"full\"";
        assert!(text.contains(full), "{text}");
        text.replace(full, "binding = \"off\"")
    });
    let service = demo.serve();
    let counts = || {
        let count = |method, strength| {
            let labels = [("method", method), ("strength", strength)];
            value_of(&service, "rcmpd_mappings_total", &labels).unwrap()
        };
        [("upn", "strong"), ("subject", "strong"), ("subject", "weak"), ("upn", "weak"), ("issuer", "weak")]
            .map(|(method, strength)| count(method, strength))
    };
    assert_eq!(counts(), [0.0; 5], "the samples are there before the first event");
    // alice has her SID in the certificate, bob has issuer and serial number in altSecurityIdentities, and
    // carol has issuer and subject there. mallory has no account.
    for (person, code) in [("alice", 0), ("bob", 0), ("bob", 0), ("carol", 0), ("mallory", 3)] {
        service.map(person).code(code);
    }
    // A command may ask more than once about a certificate.
    let mapped = value_of(&service, "rcmpd_decisions_total", &[("reason", "mapped")]).unwrap();
    let each = mapped / 4.0;
    assert!(each >= 1.0, "{mapped}");
    assert_eq!(counts(), [each, 2.0 * each, each, 0.0, 0.0]);
}

#[test]
fn version_and_configuration_of_servers_can_be_compared() {
    let service = Demo::new().serve();
    let version = service.rcmpd(&["--version"]).code(0).stdout;
    let version = version.trim().strip_prefix("rcmpd ").unwrap();
    assert_eq!(value_of(&service, "rcmpd_build_info", &[("version", version)]), Some(1.0), "{version}");
    let digest = || {
        let done = Command::new("sha256sum").arg(service.path("rcmpd.toml")).output().unwrap();
        String::from_utf8(done.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
    };
    let shown = |digest: &str| value_of(&service, "rcmpd_config_info", &[("sha256", digest)]);
    let revision = || value_of(&service, "rcmpd_policy_revision", &[]);
    // The test writes the port that was chosen into the file, so that a reload keeps it.
    service.reload();
    let before = digest();
    eventually("the reload is counted", || revision() == Some(2.0));
    assert_eq!((shown(&before), revision()), (Some(1.0), Some(2.0)));
    // What is not taken over is not in use.
    let good = fs::read_to_string(service.path("rcmpd.toml")).unwrap();
    service.edit(|text| text.replace("[mapping]", "[mapping]\nnonsense = 1"));
    service.signal(Signal::HUP);
    eventually("the reload failed", || service.metric("rcmpd_config_last_reload_successful") == 0);
    assert_eq!((shown(&before), shown(&digest()), revision()), (Some(1.0), None, Some(2.0)));
    fs::write(service.path("rcmpd.toml"), format!("{good}# one more line\n")).unwrap();
    service.reload();
    eventually("the reload succeeded", || shown(&digest()) == Some(1.0));
    assert_eq!((shown(&before), revision()), (None, Some(3.0)));
}

#[test]
fn ends_of_certificates_and_of_crls_of_operators_are_measured() {
    let demo = Demo::new();
    let authority = Authority::of(&demo);
    fs::set_permissions(demo.path("openssl"), Permissions::from_mode(0o700)).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let in_days = |days: u64| now + days * 86_400;
    let issue = |name: &str, end: u64| {
        authority.issue_until(&demo, name, SystemTime::UNIX_EPOCH + Duration::from_secs(end));
        let key = demo.path(&format!("openssl/{name}.key"));
        fs::set_permissions(key, Permissions::from_mode(0o600)).unwrap();
    };
    issue("first", in_days(60));
    issue("issuer", in_days(40));
    issue("second", in_days(90));
    let folder = demo.path("");
    let list = |end: u64| {
        let time = |seconds| FileTime::from_unix(seconds as i64).to_string().replace(['-', ':', 'T'], "");
        let times = ["-crl_lastupdate", &time(now - 60), "-crl_nextupdate", &time(end)];
        authority.list(&folder.join("operators.crl"), &times);
    };
    list(in_days(5));
    let put = |certificates: &[&str], key: &str| {
        let text = |name: &&str| fs::read_to_string(folder.join(format!("certs/{name}.pem"))).unwrap();
        let chain: String = certificates.iter().map(text).collect();
        fs::write(folder.join("certs/proxy.pem"), chain).unwrap();
        fs::copy(folder.join(format!("openssl/{key}.key")), folder.join("certs/proxy.key")).unwrap();
    };
    put(&["first", "issuer"], "first");
    demo.configure(&format!(
        "[sidecar]\n[sidecar.proxy]\nlisten = \"127.0.0.1:0\"\ncertificate = \"certs/proxy.pem\"\n\
         key = \"certs/proxy.key\"\nupstream = \"http://127.0.0.1:1\"\n\
         [admin.tls]\nlisten = \"{}\"\ncertificate = \"certs/site.pem\"\nkey = \"certs/site.key\"\n\
         client_ca = \"certs/ca.pem\"\ncrls = [\"operators.crl\"]",
        free_port()
    ));
    let end_of = |file: &str| {
        let file = demo.path(file).display().to_string();
        number_of(&format!("date +%s -d \"$(openssl x509 -in {file} -noout -enddate | cut -d= -f2)\""))
    };
    let (site, ca) = (end_of("certs/site.pem"), end_of("certs/ca.pem"));
    let service = demo.serve();
    let of = |certificate: &str, file: &str| {
        let labels = [("use", certificate), ("file", &format!("./{file}"))];
        value_of(&service, "rcmpd_certificate_expiry_timestamp_seconds", &labels)
    };
    let proxy = || of("sidecar.proxy.certificate", "certs/proxy.pem");
    let crl = || value_of(&service, "rcmpd_admin_crl_next_update_seconds", &[("crl", "./operators.crl")]);
    assert_eq!(proxy(), Some(in_days(40) as f64), "the certificate of the file that expires first");
    assert_eq!(of("admin.tls.certificate", "certs/site.pem"), Some(site));
    assert_eq!(of("admin.tls.client_ca", "certs/ca.pem"), Some(ca));
    assert_eq!(of("mapping.anchors", "certs/ca.pem"), Some(ca));
    assert_eq!(crl(), Some(in_days(5) as f64));
    // New files are in use from the reload on.
    put(&["second"], "second");
    list(in_days(6));
    assert_eq!((proxy(), crl()), (Some(in_days(40) as f64), Some(in_days(5) as f64)));
    service.reload();
    eventually("the new files are read", || proxy() == Some(in_days(90) as f64));
    assert_eq!(crl(), Some(in_days(6) as f64));
}

/// The number that a command of Debian says.
fn number_of(command: &str) -> f64 {
    let done = Command::new("sh").args(["-c", command]).env("LC_ALL", "C").output().unwrap();
    String::from_utf8(done.stdout).unwrap().trim().parse().unwrap_or_else(|_| panic!("{command}"))
}

#[test]
fn process_is_measured_as_by_the_programs_of_the_system() {
    let service = Demo::new().serve();
    let families = read_metrics(&service.get_with("/metrics", PROMETHEUS).1, "openmetrics");
    let value = |name: &str| {
        let sample = samples(&families).find(|sample| sample["name"] == name);
        sample.unwrap_or_else(|| panic!("no {name}"))["value"].as_f64().unwrap()
    };
    // Files of an idle service: the admin connection of the scrape comes and goes.
    let files = fs::read_dir(format!("/proc/{}/fd", service.pid())).unwrap().count() as f64;
    assert!((value("process_open_fds") - files).abs() <= 2.0, "{files}");
    let limits = fs::read_to_string(format!("/proc/{}/limits", service.pid())).unwrap();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let limit: f64 = limit.split_whitespace().next().unwrap().parse().unwrap();
    assert_eq!(value("process_max_fds"), limit);
    let resident = number_of(&format!("ps -o rss= -p {}", service.pid())) * 1024.0;
    assert!((0.5..2.0).contains(&(value("process_resident_memory_bytes") / resident)), "{resident}");
    // `ps` says whole seconds.
    let start = number_of(&format!("date +%s -d \"$(ps -o lstart= -p {})\"", service.pid()));
    assert!((value("process_start_time_seconds") - start).abs() <= 2.0, "{start}");
    let before = value("process_cpu_seconds_total");
    service.map("alice").code(0);
    let families = read_metrics(&service.get_with("/metrics", PROMETHEUS).1, "openmetrics");
    let after = samples(&families).find(|sample| sample["name"] == "process_cpu_seconds_total").unwrap();
    assert!(before > 0.0 && after["value"].as_f64().unwrap() > before, "{before}, {after}");
}
