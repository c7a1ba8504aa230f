//! Checks what the program sent of an account.

use crate::failed::{Failed, quoted};
use crate::wire::{Candidate, GroupObject};
use account_store::privileged::group_name_refused;
use account_store::rules::check_name;
use account_store::{Domain, Membership, Record, fold};
use dtyp::Sid;
use std::collections::HashMap;

/// The account with its groups, in ascending order of SID.
pub(crate) fn record(domain: &Domain, candidate: Candidate) -> Result<Record, Failed> {
    let (account, groups) = candidate.into_parts();
    let account = account.into_account(domain).map_err(|why| Failed::Data(quoted(&why)))?;
    let refuse = |why: String| Failed::Data(format!("account {:?}: {}", account.name, quoted(&why)));
    let groups = groups.into_iter().map(|group| membership(domain, group));
    let mut memberships = groups.collect::<Result<Vec<_>, _>>().map_err(refuse)?;
    memberships.sort_by_key(|membership| membership.sid);
    if memberships.is_sorted_by(|one, next| one.sid < next.sid) {
        only_own_names(&mut memberships);
    } else {
        return Err(refuse("a group is in the list twice".to_owned()));
    }
    let is_primary = |group: &Membership| group.sid.rid_in(&domain.sid) == Some(account.primary_group_id);
    if !memberships.iter().any(is_primary) {
        let rid = account.primary_group_id;
        return Err(refuse(format!("its primary group {rid} is not among its groups")));
    }
    Ok(Record { account, memberships })
}

fn membership(domain: &Domain, group: GroupObject) -> Result<Membership, String> {
    let GroupObject { sid: text, name, scope } = group;
    let sid: Sid = text.parse().map_err(|error| format!("group {text:?}: {error}"))?;
    if sid.rid_in(&domain.sid).is_none_or(|rid| rid == 0) {
        return Err(format!("group {sid} is not of the domain; groups of other domains are extra_sids"));
    }
    if let Some(name) = &name {
        check_name("group", name).map_err(|error| error.to_string())?;
        group_name_refused(name, &sid, &domain.sid).map_or(Ok(()), Err)?;
    }
    Ok(Membership { sid, name, scope })
}

/// Takes the names from groups that share one: a route by that name would let in the members of both.
fn only_own_names(memberships: &mut [Membership]) {
    let mut count: HashMap<String, usize> = HashMap::new();
    let names = memberships.iter().filter_map(|group| group.name.as_deref());
    names.for_each(|name| *count.entry(fold::wide(name)).or_default() += 1);
    for group in memberships {
        group.name.take_if(|name| count.get(&fold::wide(name)).is_some_and(|count| *count > 1));
    }
}
