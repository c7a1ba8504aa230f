//! What a program of `kind = "socket"` sends.

use account_store::{Domain, rules};
use store_socket::wire::{ACCOUNTS_MAX, GROUPS_MAX};

/// Reads `bytes` as each message of the program. Accounts that are taken keep the rules of a store: each is
/// of the domain, and has its primary group and no group twice. A refusal is short, and a terminal obeys
/// nothing in it.
pub fn check(bytes: &[u8]) {
    let domain = Domain {
        netbios: "CONTOSO".to_owned(),
        dns: "contoso.example".to_owned(),
        sid: "S-1-5-21-1-2-3".parse().expect("a SID"),
    };
    let records = match store_socket::read_any(&domain, bytes) {
        Ok(records) => records,
        Err(why) => {
            assert!(why.len() < 8192 && !why.chars().any(char::is_control), "{why:?}");
            return;
        }
    };
    assert!(records.len() <= ACCOUNTS_MAX);
    for record in records {
        rules::check_account(&record.account).expect("an account that is taken keeps the rules");
        assert!(record.account.sid.rid_in(&domain.sid).is_some_and(|rid| rid != 0));
        let groups = &record.memberships;
        assert!(groups.len() <= GROUPS_MAX && groups.windows(2).all(|pair| pair[0].sid < pair[1].sid));
        let rids = groups.iter().map(|group| group.sid.rid_in(&domain.sid).expect("a group of the domain"));
        assert_eq!(rids.filter(|rid| *rid == record.account.primary_group_id).count(), 1);
    }
}
