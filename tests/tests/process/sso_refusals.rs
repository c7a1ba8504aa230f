//! Accounts that cannot log on by NTLM: the answer, and what is done for it, do not tell why.

use account_store::{
    AccountStore, BoxFuture, Domain, Matches, NtHash, NtHashes, Query, Revision, StoreError,
};
use dtyp::Sid;
use rcmpd::sso::Stores;
use rcmpd_tests::Demo;
use rcmpd_tests::refused_users::{REFUSED, RefusedUsers, add_refused_users};
use std::sync::{Arc, Mutex};

/// Stores that note what is asked of them.
struct Noting {
    stores: Stores,
    asked: Arc<Mutex<Vec<&'static str>>>,
}

impl Noting {
    fn note(&self, what: &'static str) {
        self.asked.lock().unwrap().push(what);
    }
}

impl AccountStore for Noting {
    fn domain(&self) -> &Domain {
        self.stores.accounts.domain()
    }

    fn find<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Result<Matches, StoreError>> {
        self.note("account");
        self.stores.accounts.find(query)
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        self.stores.accounts.revision()
    }
}

impl NtHashes for Noting {
    fn nt_hash<'a>(&'a self, sid: &'a Sid) -> BoxFuture<'a, Result<Option<NtHash>, StoreError>> {
        self.note("hash");
        self.stores.hashes.nt_hash(sid)
    }

    fn set_nt_hash(&self, sid: Sid, hash: Option<NtHash>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.stores.hashes.set_nt_hash(sid, hash)
    }
}

/// How long it takes is measured by `make bench`.
#[tokio::test]
async fn same_work_is_done_for_each_account_that_is_refused() {
    let demo = Demo::with_master_secret();
    add_refused_users(&demo);
    let asked = Arc::<Mutex<Vec<_>>>::default();
    let users = RefusedUsers::new(&demo, |stores| {
        let noting = Arc::new(Noting { stores, asked: Arc::clone(&asked) });
        Stores { accounts: Arc::clone(&noting) as _, hashes: noting }
    })
    .await;
    asked.lock().unwrap().clear();
    for (number, (why, name)) in (0..).zip(REFUSED) {
        users.attempt(name, number).await;
        assert_eq!(std::mem::take(&mut *asked.lock().unwrap()), ["account", "hash"], "{why}");
    }
}

#[test]
fn answer_to_each_account_that_is_refused_is_the_same() {
    let demo = Demo::with_master_secret();
    add_refused_users(&demo);
    let service = demo.serve();
    let server = service.master_secret().to_string();
    rcmpd_tests::write_secret(service.path("wrong.password"), "wrong\n");
    let answers: Vec<_> = REFUSED
        .iter()
        .map(|(_, name)| {
            let password = if *name == "alice" { "wrong.password" } else { "users/alice.password" };
            let get = ["sso", "secret", "get", "--server", &server, "--user", name, "--output", "a.key"];
            let done = service.rcmpd(&[&get[..], &["--password-file", password]].concat());
            (done.code, done.stderr)
        })
        .collect();
    assert_eq!(answers[0].0, 5, "{answers:?}");
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    let refused = service.audit("authentication_refused");
    assert!(refused.iter().all(|line| line["reason"] == "proof"), "{refused:#?}");
    let details: Vec<_> = refused.iter().map(|line| line["detail"].as_str().unwrap()).collect();
    // The log has them apart. It has five lines of a source's refusals in a minute.
    for why in ["without an NT hash", "disabled, expired", "an empty password", "unknown account"] {
        assert!(details.iter().any(|detail| detail.contains(why)), "{why}: {details:?}");
    }
}
