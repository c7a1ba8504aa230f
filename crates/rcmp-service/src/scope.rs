//! Which accounts an asker gets answers for: the scope of a machine account or of a trust.
//!
//! A scope is judged on the account that was found, after everything else that could refuse it without naming
//! an account. What it hides is answered as if no account had been found, so that an asker cannot learn of an
//! account by asking for it.

use account_store::Record;
use account_store::privileged::is_privileged;
use dtyp::Sid;
use std::sync::Arc;

/// The accounts that an asker gets answers for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    domains: Arc<[String]>,
    groups: Arc<[Sid]>,
    is_total: bool,
}

impl Scope {
    /// Accounts of these domains, by NetBIOS name, that are in one of these groups, by SID. No domains are
    /// all domains. No groups are all accounts that are not privileged. A SID among `groups` may also be an
    /// account's own.
    pub const fn new(domains: Arc<[String]>, groups: Arc<[Sid]>) -> Self {
        Self { domains, groups, is_total: false }
    }

    /// Every account, privileged ones included: for this process itself, which authorises by other means.
    pub fn total() -> Self {
        Self { is_total: true, ..Self::default() }
    }

    /// Whether accounts of a domain may be in scope, by its NetBIOS name.
    pub fn covers_domain(&self, netbios: &str) -> bool {
        self.domains.is_empty() || self.domains.iter().any(|name| name.eq_ignore_ascii_case(netbios))
    }

    /// Whether some account that is not privileged may be outside.
    pub(crate) fn is_limited(&self) -> bool {
        !self.domains.is_empty() || !self.groups.is_empty()
    }

    /// Whether an account's groups are needed to say whether it is in scope.
    pub(crate) fn goes_by_groups(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Whether an account of this domain may be in scope.
    pub(crate) fn covers_record(&self, netbios: &str, record: &Record) -> bool {
        self.covers_domain(netbios) && self.covers(&record.account.sid, groups(record), &[])
    }

    /// Whether an account is in scope that is in `groups`. What it is in beside them (`hidden`, which is not
    /// in the answer) makes it privileged, and brings it into no scope.
    pub(crate) fn covers(
        &self,
        account: &Sid,
        groups: impl IntoIterator<Item = Sid>,
        hidden: &[Sid],
    ) -> bool {
        let is_named = |sid: &Sid| self.groups.contains(sid);
        if self.is_total || is_named(account) {
            return true;
        }
        let mut needs_privileged = is_privileged(account) || hidden.iter().any(is_privileged);
        let (mut has_named, mut has_named_privileged) = (self.groups.is_empty(), false);
        for group in groups {
            let (is_privileged, is_named) = (is_privileged(&group), is_named(&group));
            needs_privileged |= is_privileged;
            has_named |= is_named;
            has_named_privileged |= is_privileged && is_named;
        }
        if needs_privileged { has_named_privileged } else { has_named }
    }
}

/// The SID that a scope has to name for a privileged account: that of a privileged group that the account is
/// in, or its own.
pub(crate) fn privileged_by(record: &Record) -> Option<Sid> {
    let account = record.account.sid;
    groups(record).find(is_privileged).or_else(|| is_privileged(&account).then_some(account))
}

/// All groups of an account, the primary one included.
fn groups(record: &Record) -> impl Iterator<Item = Sid> {
    let account = &record.account;
    let primary = account.sid.split_rid().and_then(|(domain, _)| domain.with_rid(account.primary_group_id));
    let groups = record.memberships.iter().map(|membership| membership.sid);
    groups.chain(account.extra_sids.iter().copied()).chain(primary)
}

/// Whether an account or a group can have this SID: in a domain and in BUILTIN it ends in a relative
/// identifier, and only there.
pub fn is_account_or_group(sid: &Sid) -> bool {
    match (sid.authority(), sid.sub_authorities()) {
        (_, []) => false,
        (5, [21, rest @ ..]) => matches!(rest, [_, _, _, rid] if *rid != 0),
        (5, [32, rest @ ..]) => matches!(rest, [rid] if *rid != 0),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
