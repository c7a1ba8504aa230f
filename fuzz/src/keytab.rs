//! Keytab files, which an operator brings from elsewhere.

use dtyp::{Encode, FileTime};
use rpc_auth::kerberos::{Etype, Key, Keytab, KeytabProblem, MachineAccount};

/// Reads `bytes` as a keytab: what is read is written and read the same again, and each AES key is found.
pub fn check(bytes: &[u8]) {
    let Ok(keytab) = Keytab::decode(bytes) else { return };
    let again = Keytab::decode(&keytab.to_bytes()).expect("our own");
    assert_eq!(again, keytab);
    let keys: Vec<Key> = keytab.entries.iter().filter_map(|entry| entry.key.key()).collect();
    let machine = MachineAccount { keys: &keys, ..MachineAccount::default() };
    let problems = keytab.problems(&machine);
    let no_key = problems.iter().any(|problem| matches!(problem, KeytabProblem::NoAesKey { .. }));
    assert_eq!(no_key, keys.is_empty());
    for entry in keytab.entries.iter().filter(|entry| entry.key.key().is_some()) {
        let own = KeytabProblem::MachineAccountKey { principal: entry.principal.to_string() };
        assert!(problems.contains(&own), "a key of the machine account is not seen: {entry:?}");
        assert!(entry.time <= FileTime::from_unix(u32::MAX.into()));
        assert!(Etype::from_number(entry.key.etype).is_some());
    }
    for problem in problems {
        assert!(!problem.to_string().is_empty());
    }
}
