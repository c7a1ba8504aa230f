use super::*;
use crate::administrators::Administrators;
use dcerpc::ndr::NdrSyntax;
use dcerpc::security::AuthType;
use dcerpc::server::CallSecurity;
use dtyp::ByteOrder;
use rpc_auth::IdentitySource;
use rpc_auth::kerberos::RealmKind;
use std::sync::Mutex;
use std::task::{Context, Waker};

const KEY: [u8; 16] = [0xa5; 16];

/// A made-up store, account list and audit log, with what they were asked in order.
struct World {
    state: SecretState,
    secret: Result<Option<MasterSecret>, StoreFailed>,
    account: Result<bool, StoreFailed>,
    audit: Result<(), AuditFailed>,
    panics: bool,
    asked: Mutex<Vec<&'static str>>,
}

impl World {
    fn new() -> Self {
        Self {
            state: SecretState::Open,
            secret: Ok(Some(MasterSecret::new(KEY))),
            account: Ok(true),
            audit: Ok(()),
            panics: false,
            asked: Mutex::default(),
        }
    }

    fn ask(&self, what: &'static str) {
        self.asked.lock().expect("no test panics with it").push(what);
    }
}

impl MasterSecrets for World {
    fn state(&self) -> BoxFuture<'_, SecretState> {
        Box::pin(std::future::ready(self.state.clone()))
    }

    fn current(&self) -> BoxFuture<'_, Result<Option<CurrentSecret>, StoreFailed>> {
        self.ask("secret");
        assert!(!self.panics, "this panic is part of the test");
        let secret = self.secret.clone();
        Box::pin(async { Ok(secret?.map(|secret| CurrentSecret { secret, generation: 3 })) })
    }
}

impl Accounts for World {
    fn refresh(
        &self,
        user: Arc<UserIdentity>,
    ) -> BoxFuture<'_, Result<Option<Arc<UserIdentity>>, StoreFailed>> {
        self.ask("account");
        let account = self.account.clone();
        Box::pin(async { Ok(account?.then_some(user)) })
    }
}

impl DeliveryAudit for World {
    fn record<'a>(&'a self, delivery: &'a Delivery<'a>) -> BoxFuture<'a, Result<(), AuditFailed>> {
        self.ask("audit");
        assert_eq!((delivery.generation, &*delivery.entry), (3, "local:ssoadmin"));
        Box::pin(async { self.audit.clone() })
    }
}

fn identity() -> UserIdentity {
    UserIdentity {
        name: "ssoadmin".into(),
        domain: String::new(),
        sid: "S-1-5-21-1-2-3-1104".parse().ok(),
        groups: Vec::new(),
        source: IdentitySource::LocalStore,
        password: None,
        delegated_by: Vec::new(),
        expires: None,
    }
}

fn rules() -> AccessRules {
    let mut administrators = Administrators(vec!["local:ssoadmin".parse().expect("an entry")]);
    administrators.local_accounts().for_each(|(_, sid)| *sid = identity().sid);
    AccessRules {
        administrators,
        realms: vec![("EXAMPLE.TEST".into(), RealmKind::ActiveDirectory)],
        ..AccessRules::default()
    }
}

fn call(size: u32, level: AuthLevel) -> MasterSecretCall {
    let security = CallSecurity { auth_type: AuthType(10), level, identity: Arc::new(identity()) };
    MasterSecretCall {
        address: "192.0.2.1:40000".parse().expect("an address"),
        call: Call {
            id: 2,
            interface: 0,
            opnum: 0,
            object: None,
            syntax: NdrSyntax::Ndr,
            order: ByteOrder::Little,
            stub: size.to_le_bytes().to_vec(),
            extension: None,
            security: Some(security),
        },
    }
}

/// Nothing here waits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the future waits"),
    }
}

/// The answer, and what was asked for it.
fn answer(
    world: World,
    rules: &AccessRules,
    range: NdrRange,
    call: &MasterSecretCall,
) -> (Answer, Vec<&'static str>) {
    let world = Arc::new(world);
    let server =
        MasterSecretServer::new(Arc::clone(&world) as _, Arc::clone(&world) as _, Arc::clone(&world) as _);
    let answer = at_once(server.answer(rules, range, call));
    let asked = world.asked.lock().expect("no test panics with it").clone();
    (answer, asked)
}

/// What every failure carries: 16 zero octets and the code (the vectors of the digest, section 3.1).
fn failure(code: u32) -> Vec<u8> {
    [&16_u32.to_le_bytes()[..], &16_u32.to_le_bytes(), &[0; 16], &code.to_le_bytes()].concat()
}

#[test]
fn administrator_gets_the_secret_after_its_record() {
    let (answer, asked) = answer(World::new(), &rules(), NdrRange::Idl, &call(16, AuthLevel::PRIVACY));
    let stub = [&16_u32.to_le_bytes()[..], &16_u32.to_le_bytes(), &KEY, &[0; 4]].concat();
    assert_eq!(answer.reply, Ok(stub));
    assert_eq!(answer.outcome, Outcome::Delivered { generation: 3 });
    assert_eq!(asked, ["account", "secret", "audit"]);
}

/// Name, state, rules, size, the code, and what was asked.
type Case<'a> = (&'a str, World, &'a AccessRules, u32, u32, &'a [&'a str]);

/// The codes of [MS-SSP] 3.1.4.1, each with what precedes it still wrong or already right.
#[test]
fn each_code_is_reached_in_the_order_of_evaluation() {
    let failed = || Err(StoreFailed("the disk is gone".into()));
    let all_wrong = || World {
        state: SecretState::Stopping,
        secret: Ok(None),
        account: Ok(false),
        audit: Err(AuditFailed("the disk is full".into())),
        ..World::new()
    };
    let no_administrator = AccessRules::default();
    let not_open = || SecretState::NotOpen("sealed: passphrase".into());
    let open = SecretState::Open;
    let cases: [Case<'_>; 10] = [
        ("stopping", all_wrong(), &no_administrator, 0, 0xc002_0017, &[]),
        ("not open", World { state: not_open(), ..all_wrong() }, &no_administrator, 0, 0x8000_ffff, &[]),
        (
            "not configured",
            World { state: open.clone(), ..all_wrong() },
            &no_administrator,
            0,
            0x8063_064a,
            &[],
        ),
        (
            "account gone",
            World { state: open.clone(), ..all_wrong() },
            &rules(),
            0,
            0x8063_0005,
            &["account"],
        ),
        ("no size", World { secret: Ok(None), ..World::new() }, &rules(), 0, 0x8007_0057, &["account"]),
        ("size 1", World { secret: Ok(None), ..World::new() }, &rules(), 1, 0x8007_000e, &["account"]),
        ("size 15", World { secret: Ok(None), ..World::new() }, &rules(), 15, 0x8007_000e, &["account"]),
        (
            "no secret",
            World { secret: Ok(None), ..World::new() },
            &rules(),
            16,
            0x8063_0002,
            &["account", "secret"],
        ),
        (
            "no record",
            World { audit: Err(AuditFailed("full".into())), ..World::new() },
            &rules(),
            16,
            0x8000_ffff,
            &["account", "secret", "audit"],
        ),
        (
            "store failed",
            World { secret: failed(), ..World::new() },
            &rules(),
            16,
            0x8063_0428,
            &["account", "secret"],
        ),
    ];
    for (name, world, rules, size, code, expected) in cases {
        let (answer, asked) = answer(world, rules, NdrRange::Prose, &call(size, AuthLevel::PRIVACY));
        assert_eq!(answer.reply, Ok(failure(code)), "{name}");
        assert_eq!(answer.outcome.code(), Some(ReturnCode(code)), "{name}");
        assert_eq!(asked, expected, "{name}");
    }
    let accounts_failed = World { account: Err(StoreFailed("gone".into())), ..World::new() };
    let (answer, _) = answer(accounts_failed, &rules(), NdrRange::Idl, &call(16, AuthLevel::PRIVACY));
    assert_eq!(answer.reply, Ok(failure(0x8063_0428)));
}

#[test]
fn user_who_is_no_administrator_is_denied_before_the_secret_is_read() {
    let other = AccessRules {
        administrators: Administrators(vec!["local:other".parse().expect("an entry")]),
        ..rules()
    };
    for size in [0, 15, 16] {
        let (answer, asked) = answer(World::new(), &other, NdrRange::Prose, &call(size, AuthLevel::PRIVACY));
        assert_eq!(answer.reply, Ok(failure(0x8063_0005)));
        assert_eq!(answer.outcome, Outcome::Denied(Denial::NotAdministrator));
        assert_eq!(asked, ["account"]);
    }
}

#[test]
fn panic_of_the_store_is_an_exception_and_the_server_lives() {
    let (answer, _) = answer(
        World { panics: true, ..World::new() },
        &rules(),
        NdrRange::Idl,
        &call(16, AuthLevel::PRIVACY),
    );
    assert_eq!(answer.reply, Ok(failure(0x8063_0428)));
}

#[test]
fn below_privacy_nothing_is_read_and_the_answer_is_fault_5() {
    let levels = [1, 2, 3, 4, 5].map(AuthLevel);
    for (size, opnum) in [(16, 0), (0, 0), (17, 0), (16, 1), (16, 0xffff)] {
        for level in levels {
            let mut call = call(size, level);
            call.call.opnum = opnum;
            let (answer, asked) = answer(World::new(), &rules(), NdrRange::Idl, &call);
            assert_eq!(answer.reply, Err(FaultStatus::ACCESS_DENIED), "{level:?} {size} {opnum}");
            assert_eq!((answer.outcome, asked.len()), (Outcome::NotProtected, 0));
        }
    }
    let mut anonymous = call(16, AuthLevel::PRIVACY);
    anonymous.call.stub.clear();
    anonymous.call.security = None;
    assert_eq!(
        answer(World::new(), &rules(), NdrRange::Idl, &anonymous).0.reply,
        Err(FaultStatus::ACCESS_DENIED)
    );
    // A context that names a computer, as that of Netlogon does, is no user's.
    let mut computer = call(16, AuthLevel::PRIVACY);
    computer.call.security.as_mut().expect("it has one").identity = Arc::new("WEB01$");
    assert_eq!(
        answer(World::new(), &rules(), NdrRange::Idl, &computer).0.reply,
        Err(FaultStatus::ACCESS_DENIED)
    );
}

#[test]
fn other_methods_and_wrong_stubs_are_faults() {
    let mut call = call(16, AuthLevel::PRIVACY);
    for opnum in [1, 2, 0xffff] {
        call.call.opnum = opnum;
        let (answer, _) = answer(World::new(), &rules(), NdrRange::Idl, &call);
        assert_eq!(answer.reply, Err(FaultStatus(0x1c01_0002)), "{opnum}");
    }
    call.call.opnum = 0;
    for (stub, fault) in
        [(vec![16, 0, 0], 0x6f7), (vec![17, 0, 0, 0], 0x1c00_0007), (vec![0xff; 4], 0x1c00_0007)]
    {
        call.call.stub = stub;
        let (answer, asked) = answer(World::new(), &rules(), NdrRange::Prose, &call);
        assert_eq!(answer.reply, Err(FaultStatus(fault)));
        assert!(asked.is_empty());
    }
}

#[test]
fn answers_ndr64_in_36_octets() {
    let mut call = call(16, AuthLevel::PRIVACY);
    call.call.syntax = NdrSyntax::Ndr64;
    let (answer, _) = answer(World::new(), &rules(), NdrRange::Idl, &call);
    let key = dtyp::hex(&KEY);
    let stub = answer.reply.map(|stub| dtyp::hex(&stub));
    assert_eq!(stub, Ok(format!("10000000000000001000000000000000{key}00000000")));
}
