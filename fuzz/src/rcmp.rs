//! RCMP messages, and what a server with two accounts makes of them.

use account_store::{Account, AccountAdmin, Change, Domain, Group, GroupScope, MemoryStore, Put};
use dtyp::{FileTime, NtStatus, Sid};
use pac::VerifiedPac;
use rcmp_service::message::{MappingFlags, Request, Response};
use rcmp_service::policy::Grants;
use rcmp_service::{Asker, Binding, Mapper, MapperParts, Policy, Question, Validation};
use std::sync::{Arc, LazyLock};

const NOW: FileTime = FileTime(133_500_000_000_000_000);

/// Reads `bytes` as a request and as a response, and asks the request.
pub fn check(bytes: &[u8]) {
    if let Ok(request) = Request::decode(bytes) {
        // Many names may lie on the same bytes when they are read, which would not fit side by side.
        if let Some(written) = request.encode() {
            let again = Request::decode(&written).expect("our own");
            assert_eq!((again.certificate, &again.issuers), (request.certificate, &request.issuers));
            assert_eq!(again.flags, request.flags);
        }
    }
    if let Ok(response) = Response::decode(bytes) {
        let written = Response::encode(response.auth_data, &response.domain);
        assert_eq!(Response::decode(&written), Ok(response));
    }
    ask(bytes);
}

/// There is an account, or there is none and a reason; what is there can be read by a client.
fn ask(bytes: &[u8]) {
    let asker = |may_map| Asker::machine("WEB01$", sid(1000), may_map);
    let question = |may_map| Question::new(bytes.to_vec(), asker(may_map), NOW);
    let answer = crate::now(MAPPER.answer(&question(true)));
    assert_eq!(answer.status == NtStatus::SUCCESS, answer.mapped.is_some());
    if let Some(mapped) = answer.mapped {
        let message = answer.message.expect("an account has a message");
        let response = Response::decode(&message).expect("our own");
        let pac = VerifiedPac::decode(response.auth_data).expect("our own");
        assert_eq!((response.domain.as_str(), pac.user_sid), ("CONTOSO", mapped.record.account.sid));
        assert!(Request::decode(bytes).is_ok(), "no account is found by what cannot be read");
    }
    assert!(
        crate::now(MAPPER.answer(&question(false))).mapped.is_none(),
        "an asker without the permission is not told"
    );
}

fn sid(rid: u32) -> Sid {
    Sid::new(5, &[21, 3_623_811_015, 3_361_044_348, 30_300_820, rid]).expect("five parts")
}

static MAPPER: LazyLock<Mapper> = LazyLock::new(|| {
    let domain = Domain {
        netbios: "CONTOSO".into(),
        dns: "contoso.com".into(),
        sid: Sid::new(5, &[21, 3_623_811_015, 3_361_044_348, 30_300_820]).expect("four parts"),
    };
    let users = Group { name: "Domain Users".into(), sid: sid(513), scope: GroupScope::Global };
    let store = MemoryStore::new(domain);
    let alice =
        Account { user_principal_name: Some("alice@contoso.com".into()), ..Account::new("alice", sid(1013)) };
    let web = Account {
        service_principal_names: vec!["HOST/web01.contoso.com".into()],
        alt_security_identities: vec!["X509:<I>DC=com,DC=contoso,CN=CONTOSO-CA".into()],
        primary_group_id: 513,
        ..Account::new("WEB01$", sid(1014))
    };
    let accounts = [alice, web].map(|account| Change::PutAccount(Put::New, Box::new(account)));
    let mut changes = std::iter::once(Change::PutGroup(Put::New, users)).chain(accounts).map(Ok);
    crate::now(store.apply(&mut changes)).expect("they follow the rules");
    let policy = Policy {
        methods: MappingFlags::ALL,
        binding: Binding::Off,
        validation: Validation::Off,
        grants: Grants::standard(Validation::Off),
        tell_restrictions: true,
        identity_sid: None,
        ..Policy::default()
    };
    let parts =
        MapperParts { policy, trust: None, responder: None, store: Arc::new(store), server: "DC1".into() };
    Mapper::new(parts).expect("it makes sense")
});
