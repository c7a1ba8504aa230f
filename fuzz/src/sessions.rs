//! Security context tokens under any sequence of what clients and times do, beside a list that is searched
//! from end to end.

use crate::Choices;
use dtyp::FileTime;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tlsnego_service::Moment;
use tlsnego_service::fault::Reason;
use tlsnego_service::key::{Key, KeySize};
use tlsnego_service::session::{
    Credential, EndReason, Generation, Identity, NewSession, PENDING_MAX, Purpose, Renewal, SessionKind,
    SessionTimes, Sessions,
};

const OPERATIONS_MAX: usize = 300;
const TIMES: SessionTimes = SessionTimes {
    negotiated: Duration::from_secs(300),
    established: Duration::from_secs(800),
    idle: Duration::from_secs(120),
    rollover: Duration::from_secs(50),
};

/// A token as the table has to have it, the oldest first.
struct Row {
    name: String,
    account: Option<u8>,
    source: IpAddr,
    is_established: bool,
    is_pending: bool,
    deadline: Duration,
    last_use: Duration,
    renewal: Duration,
    failures: u32,
    /// Generations of the key by their number; the first has no instance.
    newest: u8,
    previous: Option<(u8, Duration)>,
}

impl Row {
    /// The account or address that it counts for.
    fn holder(&self) -> (Option<u8>, Option<IpAddr>) {
        (self.account, self.account.is_none().then_some(self.source))
    }

    fn is_over(&self, now: Duration) -> Option<Option<EndReason>> {
        if self.deadline <= now {
            return Some(None);
        }
        (self.is_established && self.last_use + TIMES.idle <= now).then_some(Some(EndReason::Idle))
    }
}

#[derive(Default)]
struct Model {
    rows: Vec<Row>,
    ended: Vec<(String, EndReason)>,
    next_search: Duration,
}

impl Model {
    fn at(&self, name: &str) -> Option<usize> {
        self.rows.iter().position(|row| row.name == name)
    }

    fn end(&mut self, at: usize, reason: Option<EndReason>) {
        let row = self.rows.remove(at);
        self.ended.extend(reason.map(|reason| (row.name, reason)));
    }

    fn expire(&mut self, now: Duration) {
        while let Some((at, reason)) =
            self.rows.iter().enumerate().find_map(|(at, row)| Some((at, row.is_over(now)?)))
        {
            self.end(at, reason);
        }
    }

    fn pending(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.is_pending)
    }

    fn refusal(&self, name: &str) -> Reason {
        let ended = self.ended.iter().find(|(ended, _)| ended == name);
        ended.map_or(Reason::UnknownToken, |(_, reason)| Reason::Ended(*reason))
    }

    fn add(&mut self, row: Row, parent: Option<&str>, now: Duration) -> Result<(), Reason> {
        if self.pending().count() >= PENDING_MAX && self.next_search <= now {
            self.next_search = now + Duration::from_secs(1);
            self.expire(now);
        }
        if row.is_pending && self.pending().count() >= PENDING_MAX {
            let mut held = HashMap::new();
            self.pending().for_each(|other| *held.entry(other.holder()).or_insert(0) += 1);
            let most = held.values().copied().max().unwrap_or_default();
            if held.get(&row.holder()).copied().unwrap_or_default() + 1 >= most {
                return Err(Reason::TooManyPending(PENDING_MAX));
            }
            let oldest = self.pending().find(|other| held[&other.holder()] == most).expect("one has most");
            let oldest = self.at(&oldest.name.clone()).expect("it is there");
            self.end(oldest, Some(EndReason::Evicted));
        }
        if let Some(at) = parent.and_then(|parent| self.at(parent))
            && !self.rows[at].is_established
        {
            self.rows.remove(at);
        }
        self.rows.push(row);
        Ok(())
    }
}

fn identity(account: u8) -> Identity {
    Identity { account: format!("account-{account}"), detail: Arc::from([account]) }
}

fn key(generation: u8) -> Key {
    Key::from_random(KeySize::Bits256, &[generation; 32])
}

fn instance(generation: u8) -> Option<String> {
    (generation > 0).then(|| format!("urn:instance:{generation}"))
}

/// Performs the operations that `bytes` choose.
pub fn check(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let sessions = Sessions::new(TIMES);
    let mut model = Model::default();
    let mut uptime = Duration::from_secs(1);
    let mut names = 0_u32;
    for _ in 0..OPERATIONS_MAX {
        if choices.is_empty() {
            break;
        }
        let now = Moment { wall: FileTime::from_unix(1_800_000_000) + uptime, uptime };
        let operation = choices.byte() % 10;
        // One of the last names, mostly.
        let name = format!("urn:{}", names.saturating_sub(u32::from(choices.byte())));
        match operation {
            0 | 1 => {
                let is_established = operation == 1;
                let account = Some(choices.byte() % 4).filter(|account| *account > 0);
                let source = IpAddr::from([192, 0, 2, choices.byte() % 3]);
                // Many at once, so that the limit is reached.
                let count = if is_established { choices.byte() % 80 } else { 1 };
                for _ in 0..count.max(1) {
                    names += 1;
                    let new = NewSession {
                        name: format!("urn:{names}"),
                        key: key(0),
                        identity: account.map(identity),
                        credential: Credential::UserName,
                        source,
                    };
                    let lifetime = if is_established { TIMES.established } else { TIMES.negotiated };
                    let row = Row {
                        name: new.name.clone(),
                        account,
                        source,
                        is_established,
                        is_pending: is_established,
                        deadline: uptime + lifetime,
                        last_use: uptime,
                        renewal: uptime + lifetime * 3 / 4,
                        failures: 0,
                        newest: 0,
                        previous: None,
                    };
                    let (added, expected) = match is_established {
                        true => (sessions.establish(new, &name, now), model.add(row, Some(&name), uptime)),
                        false => (sessions.negotiated(new, now), model.add(row, None, uptime)),
                    };
                    assert_eq!(added.map(drop), expected);
                }
            }
            2 => {
                sessions.used(&name, now);
                if let Some(at) = model.at(&name) {
                    model.rows[at].is_pending = false;
                    model.rows[at].last_use = uptime;
                }
            }
            3 => {
                let is_over = sessions.failed(&name);
                let row = model.at(&name);
                let expected = row.is_some_and(|at| {
                    model.rows[at].failures += 1;
                    model.rows[at].failures == 3
                });
                assert_eq!(is_over, expected);
                if let Some(at) = row.filter(|_| expected) {
                    model.end(at, Some(EndReason::Failures));
                }
            }
            4 => renew(&mut choices, &sessions, &mut model, &name, now),
            5 => {
                let is_own = choices.byte() & 1 == 0;
                let cancelled = sessions.cancel(&name, if is_own { &name } else { "urn:other" });
                let row = model.at(&name).filter(|_| is_own);
                assert_eq!(cancelled.is_ok(), row.is_some());
                if let Some(at) = row {
                    model.rows.remove(at);
                }
            }
            6 | 7 => find(&mut choices, &sessions, &mut model, &name, now),
            8 => uptime += Duration::from_secs(u64::from(choices.byte())),
            _ => {
                let ended = sessions.expire(now).len();
                model.expire(uptime);
                assert!(ended <= names as usize);
            }
        }
        assert_eq!((sessions.len(), sessions.pending()), (model.rows.len(), model.pending().count()));
    }
    let mut listed: Vec<_> = sessions.list().iter().map(|session| session.name.clone()).collect();
    let mut expected: Vec<_> = model.rows.iter().map(|row| row.name.clone()).collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
}

fn renew(choices: &mut Choices<'_>, sessions: &Sessions, model: &mut Model, name: &str, now: Moment) {
    let account = Some(choices.byte() % 4).filter(|account| *account > 0);
    let identity = account.map(identity);
    let row = model.rows.iter_mut().find(|row| row.name == name);
    let generation = row.as_ref().map_or(1, |row| row.newest.saturating_add(1));
    let renewal = Renewal {
        identity: identity.as_ref(),
        instance: instance(generation).expect("it is not the first"),
        key: key(generation),
    };
    let before = sessions.get(name);
    let renewed = sessions.renew(name, renewal, now);
    let row =
        row.filter(|row| row.is_over(now.uptime).is_none() && row.is_established && row.account == account);
    assert_eq!(renewed.is_ok(), row.is_some());
    let (Ok(after), Some(row), Some(before)) = (renewed, row, before) else { return };
    assert_eq!((&after.name, &after.identity, after.until), (&before.name, &before.identity, before.until));
    assert_eq!(
        (&after.parent, after.since, after.kind),
        (&before.parent, before.since, SessionKind::Established)
    );
    row.previous = Some((row.newest, now.uptime + TIMES.rollover));
    row.newest = generation;
    row.renewal = now.uptime + (row.deadline - now.uptime) * 3 / 4;
    row.last_use = now.uptime;
}

fn find(choices: &mut Choices<'_>, sessions: &Sessions, model: &mut Model, name: &str, now: Moment) {
    let purpose = if choices.byte() & 1 == 0 { Purpose::Message } else { Purpose::Management };
    let number = choices.byte() % 4;
    let named = instance(number);
    let generation = match choices.byte() & 1 {
        0 => Generation::Newest,
        _ => Generation::Exact(named.as_deref()),
    };
    let found = sessions.find(name, generation, purpose, now);
    if let Some(at) = model.at(name)
        && let Some(reason) = model.rows[at].is_over(now.uptime)
    {
        model.end(at, reason);
    }
    let expected = match model.at(name) {
        None => Err(model.refusal(name)),
        Some(at) => {
            let row = &model.rows[at];
            let is_newest = generation == Generation::Newest || number == row.newest;
            let is_previous =
                row.previous.is_some_and(|(previous, until)| previous == number && now.uptime < until);
            let is_due = row.is_established && purpose == Purpose::Message && row.renewal <= now.uptime;
            match (is_newest, is_previous) {
                (true, _) if is_due => Err(Reason::RenewalDue),
                (true, _) => Ok(key(row.newest)),
                (_, true) => Ok(key(number)),
                _ => Err(Reason::UnknownToken),
            }
        }
    };
    assert_eq!(found.map(|keyed| keyed.key).map_err(|refusal| refusal.reason), expected);
}
