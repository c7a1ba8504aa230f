//! The Helm chart, rendered by Helm and validated by Kubernetes' schemas.

use rcmpd_tests::Demo;
use rcmpd_tests::peers::helm_chart;
use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Stdio};

/// The object of a kind, of which there is one.
fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let object = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "two of {kind}");
    object
}

/// The containers of a server or a sidecar, which have probes.
fn containers(workload: &Value) -> Vec<Value> {
    let containers = containers_of(workload);
    assert_eq!(containers[0]["readinessProbe"]["httpGet"]["path"], "/ready");
    containers
}

/// Nothing in a pod runs as root, may become root, or writes into its image where it need not.
fn containers_of(workload: &Value) -> Vec<Value> {
    let pod = &workload["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["automountServiceAccountToken"], false);
    let containers = pod["containers"].as_array().unwrap().clone();
    for container in &containers {
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false, "{container}");
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]), "{container}");
    }
    assert_eq!(containers[0]["securityContext"]["readOnlyRootFilesystem"], true);
    containers
}

fn mounts(container: &Value) -> Vec<&str> {
    container["volumeMounts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|mount| mount["name"].as_str().unwrap())
        .collect()
}

#[test]
fn chart_serves_a_domain_with_the_configuration_as_it_was_written() {
    let demo = Demo::new();
    demo.edit(|text| {
        let text = text.replace("[\"127.0.0.1:0\"]", "[\"0.0.0.0:49190\"]");
        text.replace("listen = \"127.0.0.1:0\"", "listen = \"0.0.0.0:9464\"")
    });
    let config = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    let objects = helm_chart(&json!({ "config": config }));
    let objects = objects.as_array().unwrap();
    let rendered = one(objects, "ConfigMap")["data"]["rcmpd.toml"].as_str().unwrap();
    assert_eq!(rendered.trim_end(), config.trim_end());
    fs::write(demo.path("rcmpd.toml"), rendered).unwrap();
    demo.rcmpd(&["check-config", "-c", "rcmpd.toml"]).code(0);

    // YAML would take the indentation of the first line, if the chart did not say it.
    let indented = format!("  # Orders\n{config}");
    let of_it = helm_chart(&json!({ "config": indented }));
    let rendered = &one(of_it.as_array().unwrap(), "ConfigMap")["data"]["rcmpd.toml"];
    assert_eq!(rendered.as_str().unwrap().trim_end(), indented.trim_end());

    let workload = one(objects, "StatefulSet");
    assert_eq!(workload["spec"]["replicas"], 1);
    assert_eq!(mounts(&containers(workload)[0]), ["config", "sockets", "data"]);
    let labels = &workload["spec"]["template"]["metadata"]["labels"];
    for selector in [
        &one(objects, "Service")["spec"]["selector"],
        &one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ] {
        assert_eq!(selector, labels);
    }
    // Another configuration is another pod.
    let sum = |objects: &Value| {
        let workload = one(objects.as_array().unwrap(), "StatefulSet").clone();
        workload["spec"]["template"]["metadata"]["annotations"]["checksum/config"].clone()
    };
    assert_ne!(sum(&helm_chart(&json!({ "config": "a" }))), sum(&helm_chart(&json!({ "config": "b" }))));
}

#[test]
fn chart_creates_the_database_in_the_volume_of_the_server_if_it_is_told_to() {
    let objects = helm_chart(&json!({ "config": "[domain]", "secret": "files", "createDomain": true }));
    let objects = objects.as_array().unwrap();
    let (job, server) = (one(objects, "Job"), one(objects, "StatefulSet"));
    let (ours, servers) = (containers_of(job), containers(server));
    assert_eq!(ours.len(), 1);
    assert_eq!(ours[0]["args"], json!(["domain", "add", "-c", "/etc/rcmpd/rcmpd.toml"]));
    for same in ["image", "volumeMounts", "securityContext"] {
        assert_eq!(ours[0][same], servers[0][same], "{same}");
    }
    // Kubernetes names the claim by its template, the StatefulSet and the number of the pod.
    let claim = &server["spec"]["volumeClaimTemplates"][0]["metadata"]["name"];
    let name = &server["metadata"]["name"];
    let claim = format!("{}-{}-0", claim.as_str().unwrap(), name.as_str().unwrap());
    let volumes = job["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let data = volumes.iter().find(|volume| volume["name"] == "data").unwrap();
    assert_eq!(data["persistentVolumeClaim"]["claimName"], json!(claim));
    // It runs where the server is, and is none.
    let pod = &job["spec"]["template"];
    let place = &pod["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
    assert_eq!(place["labelSelector"]["matchLabels"], server["spec"]["template"]["metadata"]["labels"]);
    let selector = &one(objects, "Service")["spec"]["selector"];
    assert_ne!(&pod["metadata"]["labels"], selector);
    assert_ne!(pod["metadata"]["labels"]["app.kubernetes.io/name"], selector["app.kubernetes.io/name"]);

    let without = helm_chart(&json!({ "config": "[domain]" }));
    assert!(without.as_array().unwrap().iter().all(|object| object["kind"] != "Job"));
}

/// docs/replicas.md has the same configuration and values.
#[test]
fn chart_has_three_servers_of_one_postgresql() {
    let demo = Demo::new();
    let server = rcmpd_tests::postgres::Postgres::start();
    demo.move_into_postgres(&server, "");
    demo.edit(|text| text.replace("store = \"postgres\"", "store = \"postgres\"\nshared = true"));
    let config = fs::read_to_string(demo.path("rcmpd.toml")).unwrap();
    demo.rcmpd(&["check-config", "-c", "rcmpd.toml"]).code(0);
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/replicas.md");
    let page = fs::read_to_string(page).unwrap();
    let values = page.split_once("```yaml\n").unwrap().1.split_once("```").unwrap().0;
    for value in ["servers: 3", "createDomain: true", "secret: mapping-files"] {
        assert!(values.lines().any(|line| line.starts_with(value)), "{value}: {values}");
    }
    let values = json!({ "config": config, "servers": 3, "createDomain": true, "secret": "mapping-files" });
    let objects = helm_chart(&values);
    let objects = objects.as_array().unwrap_or_else(|| panic!("{objects:#}"));
    let workload = one(objects, "StatefulSet");
    assert_eq!(workload["spec"]["replicas"], 3);
    assert_eq!(mounts(&containers(workload)[0]), ["config", "secret", "sockets", "data"]);
    assert_eq!(one(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"], 1);
    // The tables are in PostgreSQL: the Job needs no volume of a server, and no server on its node.
    let pod = &one(objects, "Job")["spec"]["template"]["spec"];
    assert!(pod["affinity"].is_null(), "{pod:#}");
    let volumes = pod["volumes"].as_array().unwrap();
    assert!(volumes.iter().all(|volume| volume["persistentVolumeClaim"].is_null()), "{volumes:#?}");
    // One server stays as it was.
    let one_server = helm_chart(&json!({ "config": "[domain]" }));
    assert!(one_server.as_array().unwrap().iter().all(|object| object["kind"] != "PodDisruptionBudget"));
    for (change, says) in [("shared = true", "shared = true"), ("kind = \"postgres\"", "kind = \"postgres\"")]
    {
        let refused = helm_chart(&json!({ "config": config.replace(change, ""), "servers": 3 }));
        let refused = refused["refused"].as_str().unwrap_or_default();
        assert!(refused.contains(says), "{refused}");
    }
}

/// What `rcmpd proxy-config nginx` prints belongs into the http block. nginx reads all of it.
#[test]
fn chart_makes_a_configuration_of_nginx_from_what_proxy_config_prints() {
    let demo = Demo::new();
    demo.configure(
        "[sidecar]\n[[sidecar.listen]]\ndialect = \"nginx\"\nunix = \"/run/rcmpd/nginx.sock\"\npeers = [\"101\"]",
    );
    let at = |name: &str| format!("/etc/nginx/secrets/{name}");
    let (certificate, key, ca) = (at("site.pem"), at("site.key"), at("ca.pem"));
    let mut arguments = vec!["proxy-config", "nginx", "-c", "rcmpd.toml", "--site", "localhost"];
    arguments.extend(["--listen", "0.0.0.0:8443", "--application", "127.0.0.1:8080"]);
    arguments.extend(["--certificate", &certificate, "--key", &key, "--client-ca", &ca]);
    let printed = demo.rcmpd(&arguments).code(0).stdout;
    let objects = helm_chart(&json!({
        "mode": "sidecar",
        "config": fs::read_to_string(demo.path("rcmpd.toml")).unwrap(),
        "application": { "image": "orders:1" },
        "webServer": { "configuration": printed },
    }));
    let rendered = one(objects.as_array().unwrap(), "ConfigMap")["data"]["nginx.conf"].as_str().unwrap();
    assert!(
        rendered.contains("/etc/nginx/secrets/site.key") && rendered.contains("unix:/run/rcmpd/nginx.sock")
    );

    // Here the files of the pod are in the folder of the demo. All that nginx writes is in /tmp.
    let temporary = rendered.matches(" /tmp/").count();
    assert_eq!(temporary, 6, "the process id, and five kinds of bodies: {rendered}");
    let folder = demo.path("");
    fs::create_dir(demo.path("tmp")).unwrap();
    let here = rendered.replace(" /tmp/", &format!(" {}/tmp/", folder.display()));
    let here = here.replace("/etc/nginx/secrets/", &format!("{}/certs/", folder.display()));
    fs::write(demo.path("nginx.conf"), &here).unwrap();
    let mut nginx = Command::new("/usr/sbin/nginx");
    nginx.args(["-t", "-e", "stderr", "-c"]).arg(demo.path("nginx.conf")).stdin(Stdio::null());
    let said = nginx.output().unwrap();
    assert!(said.status.success(), "{}\n{here}", String::from_utf8_lossy(&said.stderr));
}

#[test]
fn chart_puts_the_socket_where_the_web_server_alone_reaches_it() {
    let values = json!({
        "mode": "sidecar",
        "config": "[domain]",
        "secret": "site",
        "application": { "image": "orders:1" },
        "webServer": { "configuration": "server {}", "secret": "tls" },
        "networkPolicy": { "monitoring": { "app": "prometheus" } },
    });
    let objects = helm_chart(&values);
    let objects = objects.as_array().unwrap();
    let containers = containers(one(objects, "Deployment"));
    let names: Vec<&str> = containers.iter().map(|container| container["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["rcmpd", "web-server", "application"]);
    assert!(mounts(&containers[0]).contains(&"secret"));
    let web_server = mounts(&containers[1]);
    assert!(web_server.contains(&"sockets") && web_server.contains(&"web-server-secret"));
    assert!(!web_server.contains(&"secret"), "the web server cannot read the secrets of machines");
    assert_eq!(mounts(&containers[2]), [""; 0], "the application has neither the socket nor the keys");
    assert_eq!(one(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"], 1);
    let ingress = &one(objects, "NetworkPolicy")["spec"]["ingress"];
    assert_eq!(ingress[1]["from"][0]["podSelector"]["matchLabels"], json!({ "app": "prometheus" }));
}

#[test]
fn chart_says_what_is_missing() {
    for (values, says) in [
        (json!({}), "config is empty"),
        (json!({ "mode": "both", "config": "a" }), "say server or sidecar"),
        (json!({ "mode": "sidecar", "config": "a" }), "application.image is empty"),
        (
            json!({ "mode": "sidecar", "config": "a", "application": { "image": "b" } }),
            "webServer.configuration is empty",
        ),
    ] {
        let refused = helm_chart(&values)["refused"].as_str().unwrap_or_default().to_owned();
        assert!(refused.contains(says), "{values}: {refused}");
    }
}
