//! The Helm chart, rendered by Helm and validated by Kubernetes' schemas.

use rcmpd_tests::Demo;
use rcmpd_tests::peers::helm_chart;
use serde_json::{Value, json};
use std::fs;

/// The object of a kind, of which there is one.
fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let object = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "two of {kind}");
    object
}

/// Nothing in a pod runs as root, may become root, or writes into its image where it need not.
fn containers(workload: &Value) -> Vec<Value> {
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
    assert_eq!(containers[0]["readinessProbe"]["httpGet"]["path"], "/ready");
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
fn chart_puts_the_socket_where_the_web_server_alone_reaches_it() {
    let values = json!({
        "mode": "sidecar",
        "config": "[domain]",
        "secret": "site",
        "application": { "image": "orders:1" },
        "webServer": { "configuration": "events {}", "secret": "tls" },
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
