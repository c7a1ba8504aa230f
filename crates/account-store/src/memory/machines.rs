//! Machines in memory.

use super::{MemoryStore, Snapshot, ready};
use crate::admin::{Change, MachineAdmin, Put};
use crate::fold::casefold;
use crate::machines::{Machine, MachineRecord, MachineStore, NtHash, Secrets};
use crate::store::{AccountStore, BoxFuture, Revision, StoreError};
use crate::writer::Writer;
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

    fn rotate(
        &self,
        sid: Sid,
        expected: Option<NtHash>,
        secret: NtHash,
        now: FileTime,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        let mut rotated = None;
        let changed = self.change(|mut snapshot| {
            rotated = snapshot.secrets(&sid)?.rotate(expected, secret, now);
            Ok(snapshot)
        });
        ready(changed.map(|()| rotated.is_some()))
    }

    fn drop_previous(&self, sid: Sid, current: NtHash) -> BoxFuture<'_, Result<(), StoreError>> {
        ready(self.change(|mut snapshot| {
            snapshot.secrets(&sid)?.drop_previous(&current);
            Ok(snapshot)
        }))
    }

    fn machine_revision(&self) -> Result<Revision, StoreError> {
        self.revision()
    }
}

impl MachineAdmin for MemoryStore {
    fn machines(&self, after: u32, limit: usize) -> BoxFuture<'_, Result<Vec<Machine>, StoreError>> {
        let snapshot = self.snapshot();
        let page = snapshot.machines.range((Bound::Excluded(after), Bound::Unbounded)).take(limit);
        ready(Ok(page.map(|(_, (machine, _))| machine.clone()).collect()))
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

impl MemoryStore {
    fn apply_one(&self, change: Change) -> BoxFuture<'_, Result<(), StoreError>> {
        ready(self.change(|snapshot| {
            let mut writer = Writer::new(&self.domain, snapshot);
            writer.change(change)?;
            writer.finish()
        }))
    }
}

impl Snapshot {
    pub(super) fn take_machine(&mut self, rid: u32) -> Option<(Machine, Secrets)> {
        let taken = self.machines.remove(&rid)?;
        self.machine_names.remove(&casefold(&taken.0.name));
        Some(taken)
    }

    fn secrets(&mut self, sid: &Sid) -> Result<&mut Secrets, StoreError> {
        let rid = sid.rid_in(&self.domain_sid);
        let machine = rid.and_then(|rid| self.machines.get_mut(&rid));
        let unknown = || StoreError::Refused(format!("there is no machine {sid}"));
        machine.map(|(_, secrets)| secrets).ok_or_else(unknown)
    }
}
