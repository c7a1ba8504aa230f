//! Machines in memory.

use super::{MemoryStore, Snapshot, ready};
use crate::admin::Put;
use crate::fold::casefold;
use crate::machines::{Machine, MachineRecord, MachineStore, NtHash, Secrets};
use crate::store::{AccountStore, BoxFuture, Revision, StoreError};
use dtyp::{FileTime, Sid};
use std::ops::Bound;
use std::sync::Arc;

impl MachineStore for MemoryStore {
    fn machine<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Arc<MachineRecord>>, StoreError>> {
        let snapshot = self.snapshot();
        let record = snapshot.machine_names.get(&casefold(name)).and_then(|rid| {
            let (machine, secrets) = snapshot.machines.get(rid)?.clone();
            let account = snapshot.accounts.get(rid).map(|record| record.account.flags);
            Some(Arc::new(MachineRecord { machine, secrets, account }))
        });
        ready(Ok(record))
    }

    fn machines(&self, after: u32, limit: usize) -> BoxFuture<'_, Result<Vec<Machine>, StoreError>> {
        let snapshot = self.snapshot();
        let page = snapshot.machines.range((Bound::Excluded(after), Bound::Unbounded)).take(limit);
        ready(Ok(page.map(|(_, (machine, _))| machine.clone()).collect()))
    }

    fn put_machine(
        &self,
        put: Put,
        mut machine: Machine,
        secrets: Option<Secrets>,
    ) -> BoxFuture<'_, Result<(), StoreError>> {
        ready(self.change(|writer| {
            let rid = writer.place_machine(put, &mut machine)?;
            let snapshot = writer.rows();
            let old = snapshot.machines.remove(&rid);
            if let Some((old, _)) = &old {
                snapshot.machine_names.remove(&casefold(&old.name));
            }
            let Some(secrets) = secrets.or(old.map(|(_, secrets)| secrets)) else {
                return Err(StoreError::Refused(format!(
                    "machine {:?}: the secret is missing",
                    machine.name
                )));
            };
            snapshot.machine_names.insert(casefold(&machine.name), rid);
            snapshot.machines.insert(rid, (machine, secrets));
            Ok(())
        }))
    }

    fn remove_machine(&self, sid: Sid) -> BoxFuture<'_, Result<(), StoreError>> {
        ready(self.change(|writer| {
            let snapshot = writer.rows();
            let removed = sid.rid_in(&snapshot.domain_sid).and_then(|rid| snapshot.machines.remove(&rid));
            let (machine, _) = removed.ok_or_else(|| unknown(&sid))?;
            snapshot.machine_names.remove(&casefold(&machine.name));
            Ok(())
        }))
    }

    fn rotate(&self, sid: Sid, secret: NtHash, now: FileTime) -> BoxFuture<'_, Result<(), StoreError>> {
        ready(self.change(|writer| {
            writer.rows().secrets(&sid)?.rotate(secret, now);
            Ok(())
        }))
    }

    fn drop_previous(&self, sid: Sid, current: NtHash) -> BoxFuture<'_, Result<(), StoreError>> {
        ready(self.change(|writer| {
            writer.rows().secrets(&sid)?.drop_previous(&current);
            Ok(())
        }))
    }

    fn machine_revision(&self) -> Result<Revision, StoreError> {
        self.revision()
    }
}

impl Snapshot {
    fn secrets(&mut self, sid: &Sid) -> Result<&mut Secrets, StoreError> {
        let rid = sid.rid_in(&self.domain_sid);
        let machine = rid.and_then(|rid| self.machines.get_mut(&rid));
        machine.map(|(_, secrets)| secrets).ok_or_else(|| unknown(sid))
    }
}

fn unknown(sid: &Sid) -> StoreError {
    StoreError::Refused(format!("there is no machine {sid}"))
}
