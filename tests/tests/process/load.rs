//! Many calls at once, good and malformed, and what is left of them in memory.

use crate::serving::{channel, question};
use netlogon_transport::client::{Association, ChannelError};
use rcmp_service::message::{PACKAGE_NAME, Response};
use rcmpd_tests::Demo;
use rcmpd_tests::client::Client;
use std::sync::Arc;

const CONNECTIONS: usize = 32;
const CALLS: usize = 100_000;
const MALFORMED_EVERY: usize = 100;
/// What may be added between the first tenth of the calls and the last: allocators keep some.
const GROWTH_KIB_MAX: u64 = 8 * 1024;

struct Question {
    data: Vec<u8>,
    account: Option<&'static str>,
}

/// Each connection's calls, every hundredth of them bad in one of several ways.
async fn caller(
    client: Arc<Client>,
    questions: Arc<Vec<Question>>,
    first: usize,
    calls: usize,
) -> (usize, usize) {
    let mut association = client.open().await.unwrap();
    let (mut good, mut refused) = (0, 0);
    for number in first..first + calls {
        let question = &questions[number % questions.len()];
        if number % MALFORMED_EVERY == 0 {
            association = malformed(&client, association, &question.data, number / MALFORMED_EVERY).await;
            refused += 1;
            continue;
        }
        let answer =
            client.channel.ask(&mut *association, PACKAGE_NAME, "CONTOSO", &question.data).await.unwrap();
        match question.account {
            Some(account) => {
                assert_eq!(answer.status.0, 0);
                let data = answer.data.unwrap().decrypted();
                let response = Response::decode(&data).unwrap();
                let name: Vec<u8> = account.encode_utf16().flat_map(u16::to_le_bytes).collect();
                assert!(response.auth_data.windows(name.len()).any(|window| window == name), "{account}");
            }
            None => assert_eq!(answer.status.0, 0xc000_006d),
        }
        good += 1;
    }
    (good, refused)
}

/// A call that must not be answered well; the association goes on, or a new one takes its place.
async fn malformed(
    client: &Client,
    mut association: Box<dyn Association>,
    data: &[u8],
    number: usize,
) -> Box<dyn Association> {
    let outcome = match number % 4 {
        // Half a question.
        0 => {
            let answer =
                client.channel.ask(&mut *association, PACKAGE_NAME, "CONTOSO", &data[..data.len() / 2]);
            answer.await.map(|answer| answer.status.0)
        }
        // Half a stub of opnum 39.
        1 => association.call(39, vec![0xff; 40].into()).await.map(|_| 0).map_err(ChannelError::from),
        // A method that does not exist.
        2 => association.call(0x7777, vec![].into()).await.map(|_| 0).map_err(ChannelError::from),
        // A package that does not exist.
        _ => client
            .channel
            .ask(&mut *association, "Nonsense", "CONTOSO", data)
            .await
            .map(|answer| answer.status.0),
    };
    match outcome {
        Ok(status) => assert_ne!(status, 0),
        Err(error) => {
            assert!(matches!(error, ChannelError::Transport(_)), "{error}");
            return client.open().await.unwrap();
        }
    }
    association
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_calls_are_each_answered_right_and_leave_nothing() {
    let demo = Demo::new().with_carol();
    // Every fifth question is a miss.
    demo.edit(|text| text.replace("[rpc]\n", "[rpc]\nmisses_per_s = 0\n"));
    let service = demo.serve();
    let accounts = [
        ("alice", Some("alice")),
        ("bob", Some("bob")),
        ("carol", Some("carol")),
        ("web01", Some("WEB01$")),
        ("mallory", None),
    ];
    let questions: Arc<Vec<Question>> = Arc::new(
        accounts
            .into_iter()
            .map(|(who, account)| Question { data: question(&service, who), account })
            .collect(),
    );
    let client = Arc::new(channel(&service).await);
    let mut after_first = 0;
    let each = CALLS / 10 / CONNECTIONS;
    let (mut good, mut refused) = (0, 0);
    for round in 0..10 {
        let mut callers = tokio::task::JoinSet::new();
        for connection in 0..CONNECTIONS {
            // The last connection of a round makes the calls that division leaves over.
            let calls = if connection == 0 { CALLS / 10 - each * (CONNECTIONS - 1) } else { each };
            let first = round * (CALLS / 10) + connection * each;
            callers.spawn(caller(Arc::clone(&client), Arc::clone(&questions), first, calls));
        }
        for (answered, bad) in callers.join_all().await {
            good += answered;
            refused += bad;
        }
        if round == 0 {
            after_first = service.resident_kib();
        }
    }
    assert_eq!(good + refused, CALLS);
    assert!(refused >= CALLS / MALFORMED_EVERY - CONNECTIONS * 10, "{refused}");
    let at_end = service.resident_kib();
    assert!(
        at_end <= after_first + GROWTH_KIB_MAX,
        "{after_first} KiB after a tenth of the calls, {at_end} KiB after all"
    );
    assert_eq!(service.metric("rcmpd_panics_total"), 0);
    drop(client);
    while service.metric("rcmpd_connections_open") > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(service.metric("rcmpd_reassembly_bytes"), 0);
}
