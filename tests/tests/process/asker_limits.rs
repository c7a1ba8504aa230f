//! How often an account may miss, and what it may write into the audit log: an account over its limits stops
//! itself alone.

use crate::askers::audit_lines;
use crate::serving::question;
use netlogon_transport::client::Association;
use rcmp_service::message::PACKAGE_NAME;
use rcmpd_tests::client::{Client, with_other_certificate};
use rcmpd_tests::{Demo, Service};
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};

/// [MS-ERREF] 2.3.1.
const SUCCESS: u32 = 0;
const LOGON_FAILURE: u32 = 0xc000_006d;
/// The server is busy: neither yes nor no.
const DS_BUSY: u32 = 0xc000_02a5;

fn add_machine(demo: &Demo, name: &str) {
    let account = format!("{name}$");
    let secret = format!("machines/{name}.secret");
    let add = ["machine", "add", &account, "--secret-file", &secret, "--permission", "rcmp"];
    demo.rcmpd(&[&add[..], &["-c", "rcmpd.toml"]].concat()).code(0);
}

async fn channel_of(service: &Service, name: &str) -> Client {
    Client::of_machine(service, "CONTOSO", name).await.unwrap()
}

/// The status and Authoritative of an answer.
async fn ask(client: &Client, association: &mut dyn Association, question: &[u8]) -> (u32, bool) {
    let answer = client.channel.ask(association, PACKAGE_NAME, "CONTOSO", question).await.unwrap();
    (answer.status.0, answer.authoritative)
}

/// One user with a certificate that maps no account, again and again, through the web server that serves
/// alice.
#[tokio::test]
async fn one_certificate_that_maps_no_account_shuts_out_no_other_user_of_its_web_server() {
    let service = Demo::new().serve();
    let (mallory, alice) = (question(&service, "mallory"), question(&service, "alice"));
    let client = channel_of(&service, "WEB01").await;
    let mut association = client.open().await.unwrap();
    for _ in 0..1000 {
        assert_eq!(ask(&client, &mut *association, &mallory).await, (LOGON_FAILURE, true));
        assert_eq!(ask(&client, &mut *association, &alice).await, (SUCCESS, true));
    }
    // Certificates without number do not shut out alice either, whose certificate mapped lately.
    let mut busy = 0;
    for number in 0..1000 {
        busy += u32::from(
            ask(&client, &mut *association, &with_other_certificate(&mallory, number)).await.0 == DS_BUSY,
        );
        assert_eq!(ask(&client, &mut *association, &alice).await, (SUCCESS, true));
    }
    assert!(busy > 100, "{busy}");
}

#[tokio::test]
async fn a_machine_that_guesses_is_cut_off_and_another_one_is_served() {
    let demo = Demo::new();
    add_machine(&demo, "WEB02");
    demo.configure("[audit]\npath = \"audit.log\"\nrequired = true");
    demo.edit(|text| text.replace("[rpc]\n", "[rpc]\nmisses_per_s = 1\n"));
    let mut service = demo.serve();
    let (mallory, alice) = (question(&service, "mallory"), question(&service, "alice"));
    let (guessing, serving) = (channel_of(&service, "WEB01").await, channel_of(&service, "WEB02").await);
    let (mut guessed, mut serve) = (guessing.open().await.unwrap(), serving.open().await.unwrap());
    let (begun, mut misses, mut busy) = (Instant::now(), 0_u64, 0_u64);
    let mut certificates = (0..).map(|number| with_other_certificate(&mallory, number));
    let mut next = || certificates.next().unwrap();
    for number in 0..5000 {
        match ask(&guessing, &mut *guessed, &next()).await {
            (LOGON_FAILURE, true) => misses += 1,
            (DS_BUSY, false) => busy += 1,
            other => panic!("{other:x?}"),
        }
        if number % 500 == 0 {
            assert_eq!(ask(&serving, &mut *serve, &alice).await, (SUCCESS, true));
        }
    }
    // The documented limits: a hundred at once, ten a second.
    let most = 100 + begun.elapsed().as_secs() + 1;
    assert!((100..=most).contains(&misses), "{misses} of at most {most}");
    assert_eq!(misses + busy, 5000);
    // Another connection, and another channel, are the same account.
    let again = channel_of(&service, "WEB01").await;
    let mut other = again.open().await.unwrap();
    let mut right_guess_refused = false;
    for number in 1..6 {
        while ask(&guessing, &mut *guessed, &next()).await.0 == LOGON_FAILURE {}
        // Bytes behind the message mean nothing, and make another question of it, which has not mapped
        // before.
        let alice = [&alice[..], vec![0; number].as_slice()].concat();
        right_guess_refused |= ask(&again, &mut *other, &alice).await.0 == DS_BUSY;
    }
    assert!(right_guess_refused, "a right guess is not answered either");
    assert_eq!(ask(&serving, &mut *serve, &alice).await, (SUCCESS, true));
    let counted = service.metric("rcmpd_decisions_total{reason=\"asker_miss_rate\"}");
    assert!(counted >= busy, "{counted}");
    assert_eq!(service.metric("rcmpd_askers_refused_total{reason=\"asker_miss_rate\"}"), counted);
    let warned = service.log().matches("Rate limit of an account reached").count();
    assert!((1..=3).contains(&warned), "once a minute: {warned}");
    // Our own client calls it undecided. The next miss is free a second after the last one; a client that
    // takes that long decides nothing.
    let deadline = Instant::now() + Duration::from_secs(60);
    let code = loop {
        while ask(&guessing, &mut *guessed, &next()).await.0 != LOGON_FAILURE {}
        let missed = Instant::now();
        while ask(&guessing, &mut *guessed, &next()).await.0 == LOGON_FAILURE {}
        let code = service.map("alice").code;
        if missed.elapsed() < Duration::from_millis(900) {
            break code;
        }
        assert!(Instant::now() < deadline, "the client is slow");
    };
    assert_eq!(code, 7);
    // It comes back.
    let deadline = Instant::now() + Duration::from_secs(30);
    while ask(&guessing, &mut *guessed, &alice).await.0 != SUCCESS {
        assert!(Instant::now() < deadline, "it does not come back");
    }
    // Answers that map are not counted.
    for _ in 0..300 {
        assert_eq!(ask(&serving, &mut *serve, &alice).await, (SUCCESS, true));
    }
    service.signal(Signal::TERM);
    assert_eq!(service.ended(), 0);
    // The refusals are counted in a line, not written one by one.
    let lines = audit_lines(&service);
    let counts = lines.iter().filter(|line| line["event"] == "asker_refused");
    let counts: u64 = counts
        .inspect(|line| {
            assert_eq!((&line["asker"], &line["reason"]), (&json!("WEB01$"), &json!("asker_miss_rate")))
        })
        .map(|line| line["count"].as_u64().unwrap())
        .sum();
    assert!(counts >= counted, "{counts}");
    let no_match = lines.iter().filter(|line| line["reason"] == "no_match").count();
    assert!(no_match < 1000, "{no_match}");
}

#[tokio::test]
async fn a_machine_that_floods_a_required_audit_log_stops_itself_alone() {
    let demo = Demo::new();
    add_machine(&demo, "WEB02");
    demo.configure("[audit]\npath = \"small/audit.log\"\nrequired = true\nchain = true");
    let mut service = demo.serve_with_disk("small", 1024);
    let alice = question(&service, "alice");
    let flooding = channel_of(&service, "WEB01").await;
    let mut flood = flooding.open().await.unwrap();
    let mut answered = 0;
    loop {
        match ask(&flooding, &mut *flood, &alice).await {
            (SUCCESS, true) => answered += 1,
            (status, authoritative) => {
                assert_eq!((status, authoritative), (DS_BUSY, false));
                break;
            }
        }
        assert!(answered < 5000, "a disk of 1 MiB does not hold as much");
    }
    assert!(answered > 50, "{answered}");
    // The budget comes back slowly, and what is free is looked at once a second, so that one now and then is
    // answered.
    let mut refused = 0;
    for _ in 0..500 {
        refused += u32::from(ask(&flooding, &mut *flood, &alice).await.0 == DS_BUSY);
    }
    assert!(refused >= 450, "{refused}");
    // Channels in its name are lines, too. What is left of its budget is less than a decision; then none is
    // set up.
    let password = service.machine_password("WEB01");
    let server = service.netlogon.to_string();
    let mut channels = 0;
    while Client::establish(&server, "CONTOSO", "WEB01$", &password).await.is_ok() {
        channels += 1;
        assert!(channels < 100, "each is a line");
    }
    // Another machine does all of it.
    let serving = channel_of(&service, "WEB02").await;
    let mut serve = serving.open().await.unwrap();
    for _ in 0..20 {
        assert_eq!(ask(&serving, &mut *serve, &alice).await, (SUCCESS, true));
    }
    assert_eq!(service.metric("rcmpd_audit_failures_total"), 0, "the disk is not full");
    assert!(service.metric("rcmpd_decisions_total{reason=\"asker_audit_budget\"}") >= 450);
    let refused = service.metric("rcmpd_askers_refused_total{reason=\"asker_audit_budget\"}");
    assert!(
        refused > service.metric("rcmpd_decisions_total{reason=\"asker_audit_budget\"}"),
        "channels, too"
    );
    let size = fs::metadata(service.seen("small/audit.log")).unwrap().len();
    assert!(size < 512 * 1024, "{size}");
    service.signal(Signal::TERM);
    assert_eq!(service.ended(), 0);
}
