//! Machines and their sealed secrets. They are read from the primary and never cached: a machine that has
//! just changed its secret proves the new one.

use crate::PostgresStore;
use crate::connection::Param;
use crate::rows::{get, name_key, optional};
use crate::sealed::{machine, machine_columns, opened};
use crate::tables::Tables;
use account_store::fold::casefold;
use account_store::sealing::UserSecretKind;
use account_store::writer::Writer;
use account_store::{
    AccountFlags, BoxFuture, Change, Forgotten, Machine, MachineAdmin, MachineRecord, MachineStore, NtHash,
    Put, Revision, SealingKey, Secrets, StoreError, rules,
};
use dtyp::{FileTime, Sid};
use std::sync::Arc;
use tokio_postgres::types::Type;

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
                let account = optional(row, 9)?.map(AccountFlags);
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

    fn refresh_machines(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.run(self.inner.refresh())
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
            let params: [Param<'_>; 2] =
                [(&i64::from(after), Type::INT8), (&crate::admin::limit(limit), Type::INT8)];
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
    /// stays.
    ///
    /// A store that is open under the former key, in this process or another, is [`StoreError::Unavailable`]
    /// from then on.
    pub async fn forget_secrets(&self, key: &SealingKey, now: FileTime) -> Result<Forgotten, StoreError> {
        let seal = key.new_seal();
        self.write(move |tables| {
            let sql = concat!("SELECT ", machine_columns!(), " FROM @.machine m ORDER BY m.rid");
            let domain = tables.domain();
            let machines: Vec<Machine> =
                tables.query(sql, &[])?.iter().map(|row| machine(domain, row)).collect::<Result<_, _>>()?;
            for machine in &machines {
                let rid = rules::rid_named(domain, &machine.sid)?;
                tables.write_sealed_machine(
                    Some(&seal),
                    rid,
                    machine,
                    &Secrets::first(NtHash::unknown()?, now),
                )?;
            }
            let with_secret = UserSecretKind::ALL.map(|kind| format!("SELECT rid FROM @.{}", kind.table()));
            let sql = format!(
                "SELECT name FROM @.account WHERE rid IN ({}) ORDER BY rid",
                with_secret.join(" UNION ")
            );
            let users = tables.query(&sql, &[])?.iter().map(|row| get(row, 0)).collect::<Result<_, _>>()?;
            for kind in UserSecretKind::ALL {
                tables.execute(&format!("DELETE FROM @.{}", kind.table()), &[])?;
            }
            for table in ["channel", "challenge", "guess"] {
                tables.execute(&format!("DELETE FROM @.{table}"), &[])?;
            }
            let check = seal.check().as_slice();
            tables.execute(
                "UPDATE @.domain SET sealing_key_check = $1 WHERE id = 1",
                &[(&check, Type::BYTEA)],
            )?;
            tables.accounts_changed();
            let machines = machines.into_iter().map(|machine| machine.name).collect();
            Ok(Forgotten { machines, users })
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
    let (machine, mut secrets) = tables.read_machine(rid)?.ok_or_else(|| unknown(sid))?;
    match change(&mut secrets) {
        true => tables.write_sealed_machine(None, rid, &machine, &secrets),
        false => Ok(()),
    }
}
