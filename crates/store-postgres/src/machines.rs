//! Machines and their sealed secrets. They are read from the primary and never cached: a machine that has
//! just changed its secret proves the new one.

use crate::PostgresStore;
use crate::connection::Param;
use crate::rows::{get, name_key, number, sid};
use crate::tables::Tables;
use account_store::columns::{Word, list_from_json, sids_from_json, sids_to_json, to_json};
use account_store::fold::casefold;
use account_store::sealing::Seal;
use account_store::writer::Writer;
use account_store::{
    AccountFlags, BoxFuture, Change, Domain, Machine, MachineAdmin, MachineRecord, MachineStore, NtHash, Put,
    Revision, SealingKey, Secrets, StoreError, rules,
};
use dtyp::{FileTime, Sid};
use std::sync::Arc;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

macro_rules! machine_columns {
    () => {
        "m.rid, m.name, m.kind, m.enabled, m.rcmp, m.scope_domains, m.scope_groups, m.current_since, m.sealed"
    };
}

impl MachineStore for PostgresStore {
    fn machine<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Arc<MachineRecord>>, StoreError>> {
        self.run(async move {
            let (inner, name) = (&self.inner, casefold(name));
            let seal = inner.seal()?;
            if name.chars().any(char::is_control) {
                return Ok(None);
            }
            let sql = concat!(
                "SELECT ",
                machine_columns!(),
                ", a.flags FROM @.machine m LEFT JOIN @.account a ON a.rid = m.rid WHERE m.name_key = $1"
            );
            let params: [Param<'_>; 1] = [(&name_key(&name), Type::TEXT)];
            let found = inner.all(sql, &params, |row| {
                let (machine, secrets) = opened(inner.domain(), seal, row)?;
                let account = match get::<Option<i64>>(row, 9)? {
                    Some(_) => Some(AccountFlags(number(row, 9)?)),
                    None => None,
                };
                Ok(Arc::new(MachineRecord { machine, secrets, account }))
            });
            Ok(found.await?.into_iter().next())
        })
    }

    fn rotate(
        &self,
        sid: Sid,
        expected: Option<NtHash>,
        secret: NtHash,
        now: FileTime,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.write(move |tables| {
            let mut rotated = None;
            change_secrets(tables, &sid, |secrets| {
                rotated = secrets.rotate(expected, secret, now);
                rotated == Some(true)
            })?;
            Ok(rotated.is_some())
        })
    }

    fn drop_previous(&self, sid: Sid, current: NtHash) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(async move {
            // Asked for at every set-up of a channel, and nearly always there is nothing to do.
            let (inner, seal) = (&self.inner, self.inner.seal()?);
            let rid = i64::from(rules::rid_named(inner.domain(), &sid)?);
            let sql = concat!("SELECT ", machine_columns!(), " FROM @.machine m WHERE m.rid = $1");
            let found =
                inner.all(sql, &[(&rid, Type::INT8)], |row| opened(inner.domain(), seal, row)).await?;
            let (_, secrets) = found.first().ok_or_else(|| unknown(&sid))?;
            if secrets.previous.is_none() {
                return Ok(());
            }
            self.write(move |tables| change_secrets(tables, &sid, |secrets| secrets.drop_previous(&current)))
                .await
        })
    }

    fn machine_revision(&self) -> Result<Revision, StoreError> {
        self.inner.seen.machines(self.inner.settings.max_age)
    }
}

impl MachineAdmin for PostgresStore {
    fn machines(&self, after: u32, limit: usize) -> BoxFuture<'_, Result<Vec<Machine>, StoreError>> {
        self.run(async move {
            let sql = concat!(
                "SELECT ",
                machine_columns!(),
                " FROM @.machine m WHERE m.rid > $1 ORDER BY m.rid LIMIT $2"
            );
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let params: [Param<'_>; 2] = [(&i64::from(after), Type::INT8), (&limit, Type::INT8)];
            self.inner.all(sql, &params, |row| machine(self.inner.domain(), row)).await
        })
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

impl PostgresStore {
    fn apply_one(&self, change: Change) -> BoxFuture<'_, Result<(), StoreError>> {
        self.write(move |tables| {
            let domain = tables.domain();
            let mut writer = Writer::new(domain, tables);
            writer.change(change)?;
            writer.finish().map(drop)
        })
    }

    /// The way out when the key file is lost: each machine gets a random secret, sealed under `key`, and no
    /// previous one. NT hashes and password hashes of users are removed. Everything else of the machines
    /// stays. Returns their names, in ascending order of relative identifier.
    ///
    /// A store that is open under the former key, in this process or another, is [`StoreError::Unavailable`]
    /// from then on.
    pub async fn forget_secrets(&self, key: &SealingKey, now: FileTime) -> Result<Vec<String>, StoreError> {
        let seal = key.new_seal();
        self.write(move |tables| {
            let sql = concat!("SELECT ", machine_columns!(), " FROM @.machine m ORDER BY m.rid");
            let domain = tables.domain();
            let machines: Vec<Machine> =
                tables.query(sql, &[])?.iter().map(|row| machine(domain, row)).collect::<Result<_, _>>()?;
            for machine in &machines {
                let rid = rules::rid_named(domain, &machine.sid)?;
                write_sealed(tables, &seal, rid, machine, &Secrets::first(NtHash::unknown()?, now))?;
            }
            tables.execute("DELETE FROM @.nt_hash", &[])?;
            tables.execute("DELETE FROM @.password_hash", &[])?;
            let check = seal.check().as_slice();
            tables.execute(
                "UPDATE @.domain SET sealing_key_check = $1 WHERE id = 1",
                &[(&check, Type::BYTEA)],
            )?;
            tables.accounts_changed();
            Ok(machines.into_iter().map(|machine| machine.name).collect())
        })
        .await
    }
}

fn unknown(sid: &Sid) -> StoreError {
    StoreError::Refused(format!("there is no machine {sid}"))
}

/// Lets `change` change the secrets of a machine; nothing is written when it says that it did not.
fn change_secrets(
    tables: &mut Tables<'_>,
    sid: &Sid,
    change: impl FnOnce(&mut Secrets) -> bool,
) -> Result<(), StoreError> {
    let rid = rules::rid_named(tables.domain(), sid)?;
    let (machine, mut secrets) = read(tables, rid)?.ok_or_else(|| unknown(sid))?;
    match change(&mut secrets) {
        true => write(tables, rid, &machine, &secrets),
        false => Ok(()),
    }
}

/// The machine with this identifier, and its secrets.
pub(crate) fn read(tables: &mut Tables<'_>, rid: u32) -> Result<Option<(Machine, Secrets)>, StoreError> {
    let sql = concat!("SELECT ", machine_columns!(), " FROM @.machine m WHERE m.rid = $1");
    let rows = tables.query(sql, &[(&i64::from(rid), Type::INT8)])?;
    let inner = tables.transaction().inner;
    let seal = inner.seal()?;
    rows.first().map(|row| opened(inner.domain(), seal, row)).transpose()
}

pub(crate) fn write(
    tables: &mut Tables<'_>,
    rid: u32,
    machine: &Machine,
    secrets: &Secrets,
) -> Result<(), StoreError> {
    let seal = tables.transaction().inner.seal()?;
    write_sealed(tables, seal, rid, machine, secrets)
}

fn write_sealed(
    tables: &mut Tables<'_>,
    seal: &Seal,
    rid: u32,
    machine: &Machine,
    secrets: &Secrets,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO @.machine (rid, name, name_key, kind, enabled, rcmp, scope_domains, scope_groups, current_since, sealed)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        ON CONFLICT (rid) DO UPDATE SET name = excluded.name, name_key = excluded.name_key, kind = excluded.kind,
        enabled = excluded.enabled, rcmp = excluded.rcmp, scope_domains = excluded.scope_domains,
        scope_groups = excluded.scope_groups, current_since = excluded.current_since, sealed = excluded.sealed";
    let params: [Param<'_>; 10] = [
        (&i64::from(rid), Type::INT8),
        (&machine.name, Type::TEXT),
        (&name_key(&casefold(&machine.name)), Type::TEXT),
        (&machine.kind.word(), Type::TEXT),
        (&machine.enabled, Type::BOOL),
        (&machine.rcmp, Type::BOOL),
        (&to_json(&machine.domains), Type::TEXT),
        (&sids_to_json(&machine.groups), Type::TEXT),
        (&secrets.current_since.0.cast_signed(), Type::INT8),
        (&seal.seal(machine, secrets)?, Type::BYTEA),
    ];
    tables.execute(sql, &params)?;
    tables.machines_changed();
    Ok(())
}

fn opened(domain: &Domain, seal: &Seal, row: &Row) -> Result<(Machine, Secrets), StoreError> {
    let machine = machine(domain, row)?;
    let current_since = FileTime(get::<i64>(row, 7)?.cast_unsigned());
    let secrets = seal.open(&machine, current_since, get(row, 8)?)?;
    Ok((machine, secrets))
}

fn machine(domain: &Domain, row: &Row) -> Result<Machine, StoreError> {
    Ok(Machine {
        sid: sid(domain, row, 0)?,
        name: get(row, 1)?,
        kind: Word::from_word(get(row, 2)?)?,
        enabled: get(row, 3)?,
        rcmp: get(row, 4)?,
        domains: list_from_json(get(row, 5)?)?,
        groups: sids_from_json(get(row, 6)?)?,
    })
}
