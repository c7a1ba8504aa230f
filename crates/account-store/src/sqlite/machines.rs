//! Machines and their sealed secrets.

use super::{Inner, SqliteStore, failed, rows, user_secrets};
use crate::account::AccountFlags;
use crate::admin::{Change, Forgotten, MachineAdmin, Put};
use crate::columns::{Word, damaged, sids_from_json, sids_to_json, to_json};
use crate::fold::casefold;
use crate::machines::{Machine, MachineRecord, MachineStore, NtHash, Secrets};
use crate::rules;
use crate::sealing::{Seal, SealingKey, no_key};
use crate::store::{BoxFuture, Domain, Revision, StoreError};
use dtyp::{FileTime, Sid};
use rusqlite::{Connection, Row, params};
use std::sync::Arc;

/// Names longer than this are looked up but not cached.
const NAME_CACHED_LEN_MAX: usize = 256;

const COLUMNS: &str = "machine.rid, machine.name, machine.kind, machine.enabled, machine.rcmp, machine.domains, machine.groups, machine.current_since, machine.sealed";

impl MachineStore for SqliteStore {
    fn machine<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Arc<MachineRecord>>, StoreError>> {
        Box::pin(std::future::ready(self.inner.machine(name)))
    }

    fn rotate(
        &self,
        sid: Sid,
        expected: Option<NtHash>,
        secret: NtHash,
        now: FileTime,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        let inner = self.inner.clone();
        self.worker.run(move || {
            let mut rotated = None;
            inner.change_secrets(&sid, |secrets| {
                rotated = secrets.rotate(expected, secret, now);
                rotated == Some(true)
            })?;
            Ok(rotated.is_some())
        })
    }

    fn drop_previous(&self, sid: Sid, current: NtHash) -> BoxFuture<'_, Result<(), StoreError>> {
        // Asked for at every set-up of a channel, and nearly always there is nothing to do.
        match self.inner.has_previous(&sid) {
            Ok(true) => {}
            Ok(false) => return Box::pin(std::future::ready(Ok(()))),
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        }
        let inner = self.inner.clone();
        self.worker.run(move || inner.change_secrets(&sid, |secrets| secrets.drop_previous(&current)))
    }

    fn machine_revision(&self) -> Result<Revision, StoreError> {
        Ok(self.inner.revisions()?.machines)
    }
}

impl MachineAdmin for SqliteStore {
    fn machines(&self, after: u32, limit: usize) -> BoxFuture<'_, Result<Vec<Machine>, StoreError>> {
        let sql = format!("SELECT {COLUMNS} FROM machine WHERE rid > ?1 ORDER BY rid LIMIT ?2");
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let page = self.inner.read_checked(|connection| {
            rows::all(connection, &sql, (after, limit), |row| machine(&self.inner.domain, row))
        });
        Box::pin(std::future::ready(page))
    }

    fn put_machine(
        &self,
        put: Put,
        machine: Machine,
        secrets: Option<Secrets>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        self.apply_one(Change::PutMachine(put, Box::new(machine), secrets))
    }

    fn remove_machine(&self, sid: Sid) -> BoxFuture<'_, Result<(), StoreError>> {
        self.apply_one(Change::RemoveMachine(sid))
    }
}

impl SqliteStore {
    /// The way out when the key file is lost: each machine gets a random secret, sealed under `key`, and no
    /// previous one. NT hashes and password hashes of users are removed. Everything else of the machines
    /// stays.
    ///
    /// A store that is open under the former key, in this process or another, is [`StoreError::Unavailable`]
    /// from then on.
    pub fn forget_secrets(&self, key: &SealingKey, now: FileTime) -> Result<Forgotten, StoreError> {
        let seal = key.new_seal();
        self.inner.write(|transaction| {
            let sql = format!("SELECT {COLUMNS} FROM machine ORDER BY rid");
            let machines = rows::all(transaction, &sql, [], |row| machine(&self.inner.domain, row))?;
            for machine in &machines {
                let rid = rules::rid_named(&self.inner.domain, &machine.sid)?;
                write(&seal, transaction, rid, machine, &Secrets::first(NtHash::unknown()?, now))?;
            }
            let users = user_secrets::forget(transaction)?;
            let sql = "UPDATE domain SET sealing_key_check = ?1";
            transaction.execute(sql, [seal.check().as_slice()]).map_err(failed)?;
            let machines = machines.into_iter().map(|machine| machine.name).collect();
            Ok(Forgotten { machines, users })
        })
    }

    fn apply_one(&self, change: Change) -> BoxFuture<'_, Result<(), StoreError>> {
        let inner = self.inner.clone();
        self.worker.run(move || inner.apply(&mut std::iter::once(Ok(change))))
    }
}

impl Inner {
    pub(super) fn seal(&self) -> Result<&Seal, StoreError> {
        self.seal.as_ref().ok_or_else(no_key)
    }

    fn machine(&self, name: &str) -> Result<Option<Arc<MachineRecord>>, StoreError> {
        let seal = self.seal()?;
        let revision = self.revisions()?.machines;
        if let Some((of, record)) = self.machines.get(name)
            && of == revision
        {
            return Ok(record);
        }
        let sql = format!(
            "SELECT {COLUMNS}, account.flags FROM machine LEFT JOIN account ON account.rid = machine.rid WHERE machine.name_key = ?1"
        );
        let record = self.read(|connection| {
            rows::one(connection, &sql, [casefold(name)], |row| {
                let (machine, secrets) = opened(&self.domain, seal, row)?;
                let account: Option<u32> = row.get(9).map_err(failed)?;
                Ok(Arc::new(MachineRecord { machine, secrets, account: account.map(AccountFlags) }))
            })
        })?;
        // As in `find`: only what is exactly of this revision is kept under it.
        let is_unbroken = self.revisions()?.machines.is_unbroken_since(&revision);
        if is_unbroken && name.len() <= NAME_CACHED_LEN_MAX {
            self.machines.insert(name.to_owned(), (revision, record.clone()));
        }
        Ok(record)
    }

    fn has_previous(&self, sid: &Sid) -> Result<bool, StoreError> {
        let (seal, rid) = (self.seal()?, rules::rid_named(&self.domain, sid)?);
        let found = self.read_checked(|connection| read(&self.domain, seal, connection, rid))?;
        found.map(|(_, secrets)| secrets.previous.is_some()).ok_or_else(|| unknown(sid))
    }

    /// Lets `change` change the secrets of a machine; nothing is written when it says that it did not.
    fn change_secrets(&self, sid: &Sid, change: impl FnOnce(&mut Secrets) -> bool) -> Result<(), StoreError> {
        let (seal, rid) = (self.seal()?, rules::rid_named(&self.domain, sid)?);
        self.write(|transaction| {
            let (machine, mut secrets) =
                read(&self.domain, seal, transaction, rid)?.ok_or_else(|| unknown(sid))?;
            match change(&mut secrets) {
                true => write(seal, transaction, rid, &machine, &secrets),
                false => Ok(()),
            }
        })
    }
}

fn unknown(sid: &Sid) -> StoreError {
    StoreError::Refused(format!("there is no machine {sid}"))
}

pub(super) fn read(
    domain: &Domain,
    seal: &Seal,
    connection: &Connection,
    rid: u32,
) -> Result<Option<(Machine, Secrets)>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM machine WHERE rid = ?1");
    rows::one(connection, &sql, [rid], |row| opened(domain, seal, row))
}

pub(super) fn write(
    seal: &Seal,
    connection: &Connection,
    rid: u32,
    machine: &Machine,
    secrets: &Secrets,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO machine (rid, name, name_key, kind, enabled, rcmp, domains, groups, current_since, sealed)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
        ON CONFLICT (rid) DO UPDATE SET (name, name_key, kind, enabled, rcmp, domains, groups, current_since, sealed)
        = (?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let values = params![
        rid,
        machine.name,
        casefold(&machine.name),
        machine.kind.word(),
        machine.enabled,
        machine.rcmp,
        to_json(&machine.domains),
        sids_to_json(&machine.groups),
        secrets.current_since.0,
        seal.seal(machine, secrets)?,
    ];
    connection.execute(sql, values).map(drop).map_err(failed)
}

fn opened(domain: &Domain, seal: &Seal, row: &Row<'_>) -> Result<(Machine, Secrets), StoreError> {
    let machine = machine(domain, row)?;
    let current_since = FileTime(row.get(7).map_err(failed)?);
    let sealed = row.get_ref(8).map_err(failed)?.as_blob().map_err(|_| damaged("a sealed secret"))?;
    let secrets = seal.open(&machine, current_since, sealed)?;
    Ok((machine, secrets))
}

fn machine(domain: &Domain, row: &Row<'_>) -> Result<Machine, StoreError> {
    let flag = |column| match row.get::<_, i64>(column).map_err(failed)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(damaged("a flag of a machine")),
    };
    Ok(Machine {
        sid: domain.sid.with_rid(row.get(0).map_err(failed)?).ok_or_else(|| damaged("a SID"))?,
        name: rows::text(row, 1)?.to_owned(),
        kind: Word::from_word(rows::text(row, 2)?)?,
        enabled: flag(3)?,
        rcmp: flag(4)?,
        domains: rows::list(row, 5)?,
        groups: sids_from_json(rows::text(row, 6)?)?,
    })
}
