//! A disk in memory that can be made to fail at any write, and to lose what was not flushed: for simulations and
//! for the enumeration of crash points.
//!
//! Handles share one disk, so that whoever drives a simulation keeps one beside the spool's. As with sled, an error
//! poisons the disk until it is opened again: [`Memory::crash`], then [`super::Spool::open_on`] with a handle of it.
//! Non-goal: being fast.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Change, Changes, Disk, List, Name, StoreError};

/// How a write fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing was written.
    Refused,
    /// Applied, and the flush failed with nothing on disk.
    Lost,
    /// Applied, and the flush failed after all bytes were on disk.
    Kept,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<State>>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Contents {
    values: BTreeMap<Name, Vec<u8>>,
    lists: BTreeMap<(List, u64), Vec<u8>>,
}

#[derive(Debug, Default)]
struct State {
    /// What reads show.
    now: Contents,
    /// What a crash leaves.
    durable: Contents,
    writes: u64,
    fault: Option<(u64, Fault)>,
    poisoned: bool,
}

impl Memory {
    /// Writes until now, failed ones included.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    /// Another disk with what is durable on this one.
    #[must_use]
    pub fn copy(&self) -> Self {
        let durable = self.state().durable.clone();
        Self(Arc::new(Mutex::new(State { now: durable.clone(), durable, ..State::default() })))
    }

    /// Has the write number `write` (the first is 0) fail, if it is still to come.
    pub fn fail_at(&self, write: u64, fault: Fault) {
        self.state().fault = Some((write, fault));
    }

    /// Has the next write fail.
    pub fn fail_next(&self, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((state.writes, fault));
    }

    /// The process ends here, or opens the disk again: what is not durable is gone.
    pub fn crash(&self) {
        let mut state = self.state();
        state.now = state.durable.clone();
        state.poisoned = false;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn readable(&self) -> Result<&Contents, StoreError> {
        if self.poisoned { Err(failed("failed before, and was not opened again")) } else { Ok(&self.now) }
    }
}

impl Disk for Memory {
    fn apply(&mut self, changes: Changes) -> Result<(), StoreError> {
        let mut state = self.state();
        state.readable()?;
        let fault = state.fault.filter(|(write, _)| *write == state.writes).map(|(_, fault)| fault);
        state.writes += 1;
        if fault != Some(Fault::Refused) {
            changes.0.into_iter().for_each(|change| state.now.change(change));
        }
        if matches!(fault, None | Some(Fault::Kept)) {
            state.durable = state.now.clone();
        }
        state.poisoned = fault.is_some();
        if fault.is_some() { Err(failed("was told to fail")) } else { Ok(()) }
    }

    fn get(&self, name: Name) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.state().readable()?.values.get(&name).cloned())
    }

    fn read(&self, list: List, number: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.state().readable()?.lists.get(&(list, number)).cloned())
    }

    fn failure(&self) -> Option<std::io::ErrorKind> {
        self.state().poisoned.then_some(std::io::ErrorKind::Other)
    }

    fn sizes(&self, list: List) -> Result<Vec<(u64, usize)>, StoreError> {
        let state = self.state();
        let entries = state.readable()?.lists.range((list, 0)..=(list, u64::MAX));
        Ok(entries.map(|((_, number), value)| (*number, value.len())).collect())
    }
}

impl Contents {
    fn change(&mut self, change: Change) {
        match change {
            Change::Set(name, value) => drop(self.values.insert(name, value)),
            Change::Put(list, number, value) => drop(self.lists.insert((list, number), value)),
            Change::Remove(list, number) => drop(self.lists.remove(&(list, number))),
        }
    }
}

fn failed(why: &'static str) -> StoreError {
    StoreError::Io(std::io::Error::other(format!("the simulated disk {why}")))
}
