//! Opaque packages: "Kerberos" through our relay to a real domain controller says what it says when it is
//! asked directly.

use crate::SUCCESS;
use rcmpd_tests::peers::{SambaDc, run};
use rcmpd_tests::{Demo, Service, write_secret};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// A service of the controller's own domain, beside it.
fn relay(dc: &SambaDc, more: &str) -> Service {
    let of = Demo::new();
    let demo = Demo::domain("FABRIKAM", "RELAY", "127.0.0.1", &of);
    // The database was made for a domain of another SID, and no account is in it.
    let sid = demo.domain_sid();
    for file in ["accounts.db", "accounts.key", "machines/WEB01.secret"] {
        fs::remove_file(demo.path(file)).unwrap();
    }
    demo.edit(|text| text.replace(&sid, &dc.text("sid")));
    demo.rcmpd(&["domain", "add", "-c", "rcmpd.toml"]).code(0);
    for machine in ["WEB01", "WEB02"] {
        let (name, file) = (format!("{machine}$"), format!("machines/{machine}.secret"));
        let arguments =
            ["machine", "add", &name, "--secret-file", &file, "--permission", "rcmp", "-c", "rcmpd.toml"];
        demo.rcmpd(&arguments).code(0);
    }
    write_secret(demo.path("relay.secret"), dc.secret("WEB07$"));
    demo.configure(&format!(
        "[[relay]]\npackage = \"Kerberos\"\nservers = [\"{}:{}\"]\naccount = \"WEB07$\"\nsecret = \"file:relay.secret\"\n\
         machines = [\"web01$\"]\nresponse_crypt = \"encrypt\"\n{more}",
        dc.text("address"),
        dc.text("port")
    ));
    // In its network, and in this folder.
    let mut command = Command::new("nsenter");
    command.args(["-t", &dc.text("pid"), "-n", "--"]).arg(rcmpd_tests::binary());
    demo.serve_by(command)
}

fn ask(dc: &SambaDc, service: &Service, machine: &str, questions: &[Value]) -> Vec<Value> {
    let secret = service.path(&format!("machines/{}.secret", machine.trim_end_matches('$')));
    let given = json!({
        "host": service.netlogon.ip().to_string(), "port": service.netlogon.port(), "domain": "FABRIKAM",
        "account": machine, "secret_file": secret, "questions": questions,
    });
    let done = run(dc.beside(rcmpd_tests::peers::impacket_python()), "impacket_client.py", &given);
    assert_eq!(done["error"], Value::Null, "{done:#}\n{}", service.log());
    done["answers"].as_array().unwrap().clone()
}

#[test]
fn a_signed_pac_is_verified_through_the_relay_as_it_is_directly() {
    let dc = SambaDc::start();
    let service = relay(&dc, "");
    let questions: Vec<Value> = [dc.verify_pac("good"), dc.verify_pac("bad"), "00ff".into(), String::new()]
        .iter()
        .map(|data| json!({ "package": "Kerberos", "data": data }))
        .collect();
    let direct = dc.impacket("WEB06$", json!({ "questions": questions }));
    let direct = direct["answers"].as_array().unwrap();
    let relayed = ask(&dc, &service, "WEB01$", &questions);
    for (relayed, direct) in relayed.iter().zip(direct) {
        for key in ["status", "authoritative"] {
            assert_eq!(relayed[key], direct[key], "{key}: {relayed:#} {direct:#}");
        }
    }
    // A structure without data; Samba answers so to refusals, too, for which [MS-NRPC] has no structure.
    assert_eq!(relayed[0]["validation"], "");
    assert_eq!(direct[0]["validation"], "");
    assert_eq!(relayed[1]["validation"], Value::Null);
    let statuses: Vec<_> = relayed.iter().map(|answer| answer["status"].as_str().unwrap()).collect();
    assert_eq!(statuses[..3], [SUCCESS, "0xC000006D", "0xC000000D"]);

    // Only for the machines that may use it, of our domain only, and no other package.
    let good = &questions[0];
    assert_eq!(ask(&dc, &service, "WEB02$", std::slice::from_ref(good))[0]["status"], "0xC00000FE");
    let mut elsewhere = good.clone();
    elsewhere["logon_domain"] = "CONTOSO".into();
    let mut ours = good.clone();
    ours["logon_domain"] = dc.text("dns").into();
    let mut other = good.clone();
    other["package"] = "WDigest".into();
    let answers = ask(&dc, &service, "WEB01$", &[elsewhere, ours, other]);
    let statuses: Vec<_> = answers.iter().map(|answer| answer["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["0xC0000064", SUCCESS, "0xC00000FE"]);

    let outcomes: Vec<String> = service
        .audit("relay")
        .iter()
        .map(|line| format!("{} {}", line["asker"].as_str().unwrap(), line["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!(
        outcomes,
        [
            "WEB01$ relayed",
            "WEB01$ relayed",
            "WEB01$ relayed",
            "WEB01$ relayed",
            "WEB02$ not_allowed",
            "WEB01$ other_domain",
            "WEB01$ relayed"
        ]
    );
}
