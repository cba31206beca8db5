//! What callers hold of the driver until they give it back: GPM samples and event sets. Whoever holds a number that
//! is not here holds nothing.

use std::collections::BTreeMap;

/// A GPM sample that was allocated; empty until something is read into it.
pub type GpmSample = Option<Taken>;

/// What a device, or a GPU instance of it, had done at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub device: usize,
    pub gpu_instance: Option<u32>,
    /// Which MIG device of the scenario its GPU instance was then: ids are used again.
    pub part: Option<usize>,
    pub wall_ns: i64,
    pub used_percent_ns: i128,
}

/// Per device: the event types that are waited for, and which of its events comes next.
pub type EventSet = BTreeMap<usize, (u64, usize)>;

#[derive(Debug, Default)]
pub struct Handles {
    last: usize,
    pub gpm_samples: BTreeMap<usize, GpmSample>,
    pub event_sets: BTreeMap<usize, EventSet>,
    /// Calls of each function since the driver was loaded.
    pub calls: BTreeMap<String, u64>,
}

impl Handles {
    /// A number that nobody has had.
    pub fn mint(&mut self) -> usize {
        // Aligned as a pointer would be.
        self.last += 16;
        self.last
    }
}
