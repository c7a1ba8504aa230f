//! Tickets of a domain of Active Directory, as Samba's KDC issues them: a user in a thousand groups, and a
//! delegated ticket.

use crate::support::{Answer, accept, now, random, script};
use rpc_auth::kerberos::{
    ClientRealm, Credential, CredentialCache, KerberosAcceptor, KerberosConfig, KerberosInitiator, Keytab,
    KeytabProblem, MachineAccount, Principal, RealmKind, ReplayCache, SKEW_DEFAULT, SharedKeytab,
};
use rpc_auth::{IdentitySource, Initiator, InitiatorStep, Refusal, RefusalReason, Step, UserIdentity};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;

const PYTHON: &str = "/usr/bin/python3";
const GROUPS: usize = 1000;

/// A domain controller, which ends at the end of its input.
struct Controller {
    child: Child,
    input: Option<ChildStdin>,
    facts: Answer,
}

impl Controller {
    fn start() -> Self {
        let mut command = Command::new(PYTHON);
        command.arg(script("samba_dc.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3");
        let input = child.stdin.take();
        let mut facts = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut facts)
            .expect("the script says something");
        assert!(!facts.is_empty(), "the domain controller did not start: run tests/peers/install");
        Self { child, input, facts: Answer(facts) }
    }

    /// The process id, the one fact that is a number.
    fn pid(&self) -> &str {
        let start = self.facts.0.find("\"pid\": ").expect("a process id") + 7;
        let rest = &self.facts.0[start..];
        &rest[..rest.find(',').expect("JSON")]
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.child.wait());
    }
}

fn credential(folder: &Path, cache: &str, service: &Principal) -> Credential {
    let bytes = fs::read(folder.join(cache)).expect("a cache");
    let cache = CredentialCache::decode(&bytes).expect("MIT's cache");
    cache.find(service, now()).expect("a ticket").clone()
}

fn user(config: &Arc<KerberosConfig>, credential: Credential) -> Result<Arc<UserIdentity>, Refusal> {
    let initiator: Box<dyn Initiator> = Box::new(KerberosInitiator::new(credential));
    let InitiatorStep::Continue { token, next } = initiator.step(None, now(), &mut random)? else {
        panic!("one leg")
    };
    let acceptor = Box::new(KerberosAcceptor::new(Arc::clone(config)));
    let Step::Continue { token, next: acceptor } = accept(acceptor, &token)? else { panic!("one leg") };
    let InitiatorStep::Complete { token, .. } = next.step(Some(&token), now(), &mut random)? else {
        panic!("more than two tokens")
    };
    match accept(acceptor, &token)? {
        Step::Complete { context, .. } => Ok(context.user().expect("a user")),
        Step::Continue { .. } => panic!("a fourth token"),
    }
}

#[test]
fn samba_s_tickets_have_the_groups_and_say_who_delegated() {
    let controller = Controller::start();
    let facts = &controller.facts;
    let (dns, realm) = (facts.text("dns"), facts.text("dns").to_uppercase());
    let folder = tempfile::tempdir().expect("a folder");
    let made = Command::new("nsenter")
        .args(["-t", controller.pid(), "-n", "-m", "--", PYTHON])
        .arg(script("samba_kdc.py"))
        .arg(facts.text("folder"))
        .arg(folder.path())
        .args([dns, facts.text("address"), &GROUPS.to_string()])
        .output()
        .expect("nsenter");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let erika = Answer(String::from_utf8(made.stdout).expect("text"));

    let keytab =
        Keytab::decode(&fs::read(folder.path().join("keytab")).expect("a keytab")).expect("Samba's keytab");
    assert_eq!(keytab.problems(&MachineAccount::default()), []);
    let machine =
        MachineAccount { keys: &[keytab.entries[0].key.key().expect("AES")], ..MachineAccount::default() };
    assert!(matches!(keytab.problems(&machine)[..], [KeytabProblem::MachineAccountKey { .. }]));
    let config = |name: &str| {
        Arc::new(KerberosConfig {
            keytab: Arc::new(SharedKeytab::new(keytab.clone())),
            services: vec![format!("sso/srv.{dns}")],
            client_realms: vec![ClientRealm { name: name.to_owned(), kind: RealmKind::ActiveDirectory }],
            skew: SKEW_DEFAULT,
            replay: Arc::new(ReplayCache::default()),
        })
    };
    let service = Principal::parse(&format!("sso/srv.{dns}"), &realm).expect("a principal");
    let found = user(&config(&realm), credential(folder.path(), "ccache", &service)).expect("accepted");
    assert_eq!((&found.name[..], &found.domain[..]), ("erika", &realm[..]));
    assert_eq!(found.sid.expect("a SID").to_string(), erika.text("sid"));
    assert_eq!(found.source, IdentitySource::Ticket { keytab_principal: format!("sso/srv.{dns}@{realm}") });
    assert!(!found.is_delegated());
    // Groups as the domain's own database has them; those of the machine (S-1-5-32-545) are no part of a
    // ticket.
    let own = |sid: &&str| sid.starts_with("S-1-5-21-");
    let expected: BTreeSet<&str> = erika.text("groups").split(' ').filter(own).collect();
    assert!(expected.len() > GROUPS);
    let groups: Vec<String> = found.groups.iter().map(ToString::to_string).collect();
    assert_eq!(groups.iter().map(|sid| &sid[..]).filter(own).collect::<BTreeSet<&str>>(), expected);

    let delegated = credential(folder.path(), "delegated", &service);
    assert_eq!(delegated.client.to_string(), format!("erika@{realm}"));
    let found = user(&config(&realm), delegated).expect("accepted");
    assert_eq!(found.sid.expect("a SID").to_string(), erika.text("sid"));
    assert!(found.is_delegated());
    assert_eq!(found.delegated_by, [format!("svc-web@{realm}")]);

    let other = user(&config("OTHER.TEST"), credential(folder.path(), "ccache", &service));
    assert_eq!(other.map_err(|refusal| refusal.reason), Err(RefusalReason::Realm));
}
