//! `deploy/compose`, read by docker-compose, and everything in it that needs no container engine: the
//! configuration that `prepare` writes, nginx as it is configured there, the sidecar, and the application.

use rcmpd_tests::ports::free_port;
use rcmpd_tests::web::Nginx;
use rcmpd_tests::{binary, eventually};
use serde_json::{Value, json};
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/compose").canonicalize().unwrap()
}

/// A folder that `prepare` has written.
fn prepared(folder: &Path) -> PathBuf {
    let site = folder.join("site");
    let mut prepare = Command::new(deploy().join("prepare"));
    let done = prepare.arg(&site).env("RCMPD", binary()).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    site
}

/// What docker-compose makes of the file, with all variables in their places.
fn resolved(site: &Path, backend: Option<&str>) -> Result<Value, String> {
    let mut compose = Command::new("docker-compose");
    compose.arg("-f").arg(deploy().join("compose.yaml")).arg("config").env("SITE", site);
    compose.env_remove("OTLP_BACKEND").envs(backend.map(|backend| ("OTLP_BACKEND", backend)));
    let done = compose.output().expect("docker-compose is a package of Debian");
    if !done.status.success() {
        return Err(String::from_utf8(done.stderr).unwrap());
    }
    // docker-compose reads YAML by this package of Debian's Python.
    let script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))";
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = python.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &done.stdout).unwrap();
    Ok(serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap())
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn docker_compose_reads_the_file_and_nothing_in_it_has_more_rights_than_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let site = prepared(folder.path());
    let told = resolved(&site, None).unwrap_err();
    assert!(told.contains("OTLP_BACKEND"), "{told}");
    let compose = resolved(&site, Some("backend.example:4317")).unwrap();
    let services = compose["services"].as_object().unwrap();
    assert_eq!(services.keys().collect::<Vec<_>>(), ["application", "collector", "rcmpd", "web-server"]);
    for (name, service) in services {
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(service["security_opt"], json!(["no-new-privileges:true"]), "{name}");
        // What is mounted is there.
        for volume in texts(&service["volumes"]) {
            let source = volume.split(':').next().unwrap();
            assert!(source == "sockets" || Path::new(source).exists(), "{name}: {volume}");
        }
    }
    // No other machine reaches the application, and this machine alone the admin port.
    assert_eq!(texts(&services["rcmpd"]["ports"]), ["127.0.0.1:9464:9464/tcp"]);
    assert_eq!(services["web-server"]["ports"], json!([{ "published": 8443, "target": 8443 }]));
    assert!(services["application"]["ports"].is_null() && services["collector"]["ports"].is_null());
    // The collector listens on the loopback address of rcmpd.
    assert_eq!(services["collector"]["network_mode"], "service:rcmpd");
    let endpoint = services["rcmpd"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"].as_str().unwrap();
    let collector = fs::read_to_string(deploy().join("../collector/otelcol.yaml")).unwrap();
    assert!(collector.contains(&format!("endpoint: {}", endpoint.strip_prefix("http://").unwrap())));
    // Secrets are for their owners.
    for secret in ["rcmpd/admin.token", "data/accounts.key", "nginx/site.key", "people/alice.key"] {
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(site.join(secret)).unwrap().permissions());
        assert_eq!(mode & 0o077, 0, "{secret}");
    }
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_it_configures_serves_a_person_with_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let site = prepared(folder.path());
    let compose = resolved(&site, Some("backend.example:4317")).unwrap();
    let (web, application, admin) = (free_port(), free_port(), free_port());
    // Places of the containers, and places here.
    let run = folder.path().join("run");
    fs::create_dir(&run).unwrap();
    // nginx of the image runs as the user that rcmpd lets in. Here it is this user, or the one of root's
    // workers.
    let user = match rustix::process::geteuid() {
        root if root.is_root() => "www-data".to_owned(),
        own => own.as_raw().to_string(),
    };
    for folder in [folder.path(), &run] {
        fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let at = |path: &Path| path.display().to_string();
    let edit = |name: &str, changes: &[(&str, &str)]| {
        let text = fs::read_to_string(site.join(name)).unwrap();
        let changed = changes.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "{from} is not in {name}:\n{text}");
            text.replace(from, to)
        });
        fs::write(site.join(name), &changed).unwrap();
        changed
    };
    edit(
        "rcmpd/rcmpd.toml",
        &[
            ("/var/lib/rcmpd", &at(&site.join("data"))),
            ("/run/rcmpd", &at(&run)),
            ("\"101\"", &format!("\"{user}\"")),
            ("group   = \"65532\"", ""),
            ("0.0.0.0:9464", &admin.to_string()),
        ],
    );
    let servers = edit(
        "nginx/site.conf",
        &[
            ("/run/rcmpd", &at(&run)),
            ("/etc/nginx", &at(&site.join("nginx"))),
            ("application:8080", &application.to_string()),
            ("0.0.0.0:8443", &web.to_string()),
        ],
    );
    let start = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        let log = fs::File::create(folder.path().join(arguments[0])).unwrap();
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Ended(command.spawn().unwrap())
    };
    let config = at(&site.join("rcmpd/rcmpd.toml"));
    let _rcmpd = start(&["serve", "-c", &config]);
    let command = texts(&compose["services"]["application"]["command"]).join(" ");
    let command = command.replace("0.0.0.0:8080", &application.to_string());
    let _application = start(&command.split(' ').collect::<Vec<_>>());
    // The check of the container.
    let check = texts(&compose["services"]["rcmpd"]["healthcheck"]["test"]);
    assert_eq!(check[..3], ["CMD", "/usr/bin/rcmpd", "status"]);
    eventually("the container would be healthy", || {
        let done = Command::new(binary()).args(["status", "-c", &config]).output().unwrap();
        done.status.success() && TcpStream::connect(application).is_ok()
    });
    let nginx = folder.path().join("nginx");
    fs::create_dir(&nginx).unwrap();
    let _nginx = Nginx::start(&nginx, &servers, web);
    let curl = |who: Option<&str>| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-o", "-", "-w", "\n%{http_code}", "--cacert"]).arg(site.join("nginx/ca.pem"));
        if let Some(who) = who {
            curl.arg("--cert").arg(site.join(format!("people/{who}.pem")));
            curl.arg("--key").arg(site.join(format!("people/{who}.key")));
        }
        let done = curl.arg(format!("https://localhost:{}/", web.port())).output().unwrap();
        let text = String::from_utf8(done.stdout).unwrap();
        let (body, code) = text.rsplit_once('\n').unwrap();
        (code.to_owned(), body.to_owned())
    };
    let (code, body) = curl(Some("alice"));
    let log = || fs::read_to_string(folder.path().join("serve")).unwrap();
    assert!(code == "200" && body.contains("CONTOSO\\\\alice"), "{code} {body} {}", log());
    assert_eq!(curl(Some("mallory")).0, "403");
    assert_eq!(curl(None).0, "401");
}
