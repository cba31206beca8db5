//! The rows of one slot and tenure: how they are named, what they say, and how they are kept.

use crate::model::RowKind;

/// Instance of rows that are of the device itself, or of what is in no instance.
pub const WHOLE: i64 = 0;
/// Owner of rows that have none.
pub const NOBODY: i64 = 0;

/// A row's key within its (slot, tenure): instance, owner and kind.
pub type Key = (i64, i64, RowKind);

/// The figures of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Row {
    pub time_ns: i64,
    pub busy_ns: i64,
    pub memory_byte_seconds: i64,
    pub energy_uj: i64,
    pub method: u32,
    pub cost_nanos: i64,
    pub unpriced_ns: i64,
}

impl Row {
    /// What it changed by; method bits are those that it has now.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            time_ns: self.time_ns - before.time_ns,
            busy_ns: self.busy_ns - before.busy_ns,
            memory_byte_seconds: self.memory_byte_seconds - before.memory_byte_seconds,
            energy_uj: self.energy_uj - before.energy_uj,
            method: self.method,
            cost_nanos: self.cost_nanos - before.cost_nanos,
            unpriced_ns: self.unpriced_ns - before.unpriced_ns,
        }
    }

    /// Adds figures; method bits are those of both.
    pub fn add(&mut self, more: &Self) {
        self.time_ns += more.time_ns;
        self.busy_ns += more.busy_ns;
        self.memory_byte_seconds += more.memory_byte_seconds;
        self.energy_uj += more.energy_uj;
        self.method |= more.method;
        self.cost_nanos += more.cost_nanos;
        self.unpriced_ns += more.unpriced_ns;
    }
}

/// The rows of one (slot, tenure), sorted by key. A device has three or four, and a fleet has them by the hundred thousand:
/// a sorted list takes a third of the memory of a tree, whose smallest node has room for eleven.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rows(Vec<(Key, Row)>);

impl Rows {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Row> {
        self.place(key).ok().map(|at| &self.0[at].1)
    }

    /// The row of this key, made if there is none.
    pub fn row(&mut self, key: Key) -> &mut Row {
        let at = self.place(&key).unwrap_or_else(|at| {
            // Room for this one alone: most devices' rows never become more.
            self.0.reserve_exact(1);
            self.0.insert(at, (key, Row::default()));
            at
        });
        &mut self.0[at].1
    }

    pub fn remove(&mut self, key: &Key) {
        if let Ok(at) = self.place(key) {
            self.0.remove(at);
        }
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&Key, &Row) -> bool) {
        self.0.retain(|(key, row)| keep(key, row));
    }

    /// In the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Row)> {
        self.0.iter().map(|(key, row)| (key, row))
    }

    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &Row> {
        self.0.iter().map(|(_, row)| row)
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.0.iter_mut().map(|(_, row)| row)
    }

    fn place(&self, key: &Key) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| known.cmp(key))
    }
}

impl FromIterator<(Key, Row)> for Rows {
    fn from_iter<I: IntoIterator<Item = (Key, Row)>>(rows: I) -> Self {
        let mut all = Self::new();
        rows.into_iter().for_each(|(key, row)| *all.row(key) = row);
        all
    }
}
