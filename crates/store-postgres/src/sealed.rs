//! Rows with sealed secrets: machines, and the secrets of users.

use crate::connection::Param;
use crate::rows::{get, name_key, sid};
use crate::tables::Tables;
use account_store::columns::{Word, list_from_json, sids_from_json, sids_to_json, to_json};
use account_store::fold::casefold;
use account_store::sealing::{Seal, UserSecretKind, needs_reseal};
use account_store::{Account, Domain, Machine, Secrets, StoreError};
use dtyp::FileTime;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use zeroize::Zeroizing;

macro_rules! machine_columns {
    () => {
        "m.rid, m.name, m.kind, m.enabled, m.rcmp, m.scope_domains, m.scope_groups, m.current_since, m.sealed"
    };
}
pub(crate) use machine_columns;

impl Tables<'_> {
    /// The machine with this identifier, and its secrets.
    pub(crate) fn read_machine(&mut self, rid: u32) -> Result<Option<(Machine, Secrets)>, StoreError> {
        let sql = concat!("SELECT ", machine_columns!(), " FROM @.machine m WHERE m.rid = $1");
        let rows = self.query(sql, &[(&i64::from(rid), Type::INT8)])?;
        let inner = self.transaction().inner;
        let seal = inner.seal()?;
        rows.first().map(|row| opened(inner.domain(), seal, row)).transpose()
    }

    /// Writes a machine, sealed by the store's own key or another one.
    pub(crate) fn write_sealed_machine(
        &mut self,
        seal: Option<&Seal>,
        rid: u32,
        machine: &Machine,
        secrets: &Secrets,
    ) -> Result<(), StoreError> {
        let seal = match seal {
            Some(seal) => seal,
            None => self.transaction().inner.seal()?,
        };
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
        self.execute(sql, &params)?;
        self.machines_changed();
        Ok(())
    }

    /// Writes a secret of a user, sealed for the account as it is.
    pub(crate) fn put_user_secret(
        &mut self,
        seal: &Seal,
        (kind, rid): (UserSecretKind, u32),
        account: &Account,
        mut secret: Zeroizing<Vec<u8>>,
    ) -> Result<(), StoreError> {
        let sealed = seal.seal_of_user(kind, account, &mut secret)?;
        let sql = format!(
            "INSERT INTO @.{} (rid, sealed) VALUES ($1, $2) ON CONFLICT (rid) DO UPDATE SET sealed = excluded.sealed",
            kind.table()
        );
        let params: [Param<'_>; 2] = [(&i64::from(rid), Type::INT8), (&sealed, Type::BYTEA)];
        self.execute(&sql, &params).map(drop)
    }

    /// Seals the secrets of an account that changes for what the account becomes.
    pub(crate) fn reseal(&mut self, rid: u32, old: &Account, new: &Account) -> Result<(), StoreError> {
        if !needs_reseal(old, new) {
            return Ok(());
        }
        for kind in UserSecretKind::ALL {
            let sql = format!("SELECT sealed FROM @.{} WHERE rid = $1", kind.table());
            let rows = self.query(&sql, &[(&i64::from(rid), Type::INT8)])?;
            let Some(row) = rows.first() else { continue };
            let seal = self.transaction().inner.seal()?;
            let opened = seal.open_of_user(kind, old, get(row, 0)?)?;
            self.put_user_secret(seal, (kind, rid), new, opened)?;
        }
        Ok(())
    }
}

pub(crate) fn opened(domain: &Domain, seal: &Seal, row: &Row) -> Result<(Machine, Secrets), StoreError> {
    let machine = machine(domain, row)?;
    let current_since = FileTime(get::<i64>(row, 7)?.cast_unsigned());
    let secrets = seal.open(&machine, current_since, get(row, 8)?)?;
    Ok((machine, secrets))
}

pub(crate) fn machine(domain: &Domain, row: &Row) -> Result<Machine, StoreError> {
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
