//! One covered interval of one device, cut at the window grid and at process starts, and split among holders.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tonnage_proto::{limits, method};

use crate::metering::split;
use crate::model::{Holder, Owner, OwnerKind};

/// What tells two lives of a pid apart.
pub(super) type ProcessKey = (u32, Option<i64>);

pub(super) fn key(holder: &Holder) -> ProcessKey {
    (holder.pid, holder.started_ns)
}

/// The part of an interval that lies in one cell of the window grid.
#[derive(Debug, Clone, Default)]
pub(super) struct Part {
    pub(super) start_ns: i64,
    pub(super) duration_ns: u64,
    pub(super) idle_ns: u64,
    pub(super) shares: BTreeMap<Arc<Owner>, Share>,
    pub(super) busy_unattributed_ns: u64,
    pub(super) energy_idle_uj: u64,
}

/// One owner's share of a part. Only owners who held something have one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    pub(super) held_ns: u64,
    pub(super) busy_ns: u64,
    /// Finer than a window's byte-seconds, so that rounding happens once per window.
    pub(super) memory_byte_ns: u128,
    pub(super) energy_uj: u64,
    pub(super) method: u32,
}

/// Cuts `(from_ns, to_ns]` and splits each piece equally among the owners who held the device at its beginning.
///
/// `present` are the processes of the reading before: they had started, whatever their start time says.
pub(super) fn cut(
    from_ns: i64,
    to_ns: i64,
    slices: u64,
    holders: &[Holder],
    present: &HashSet<ProcessKey>,
) -> Vec<Part> {
    let within = |at_ns: &i64| *at_ns > from_ns && *at_ns < to_ns;
    let mut edges: Vec<i64> = holders.iter().filter_map(|holder| holder.started_ns).filter(within).collect();
    let first_cell_ends = limits::window_start(from_ns).saturating_add(limits::WINDOW_NS);
    let mut cell_edge = first_cell_ends;
    while cell_edge < to_ns {
        edges.push(cell_edge);
        cell_edge = cell_edge.saturating_add(limits::WINDOW_NS);
    }
    edges.push(to_ns);
    edges.sort_unstable();
    edges.dedup();

    let mut parts = vec![Part { start_ns: from_ns, ..Part::default() }];
    let mut piece_ns = from_ns;
    for edge_ns in edges {
        let started = holders.iter().filter(|holder| {
            present.contains(&key(holder)) || holder.started_ns.is_none_or(|start_ns| start_ns <= piece_ns)
        });
        let length_ns = edge_ns.saturating_sub(piece_ns).max(0).unsigned_abs();
        if limits::window_start(piece_ns) == piece_ns && piece_ns > from_ns {
            parts.push(Part { start_ns: piece_ns, ..Part::default() });
        }
        if let Some(part) = parts.last_mut() {
            part.add_piece(length_ns, slices, started);
        }
        piece_ns = edge_ns;
    }
    parts
}

impl Part {
    fn add_piece<'a>(&mut self, length_ns: u64, slices: u64, started: impl Iterator<Item = &'a Holder>) {
        let mut owners: BTreeMap<&Arc<Owner>, Option<u128>> = BTreeMap::new();
        for holder in started {
            let memory = owners.entry(&holder.owner).or_default();
            if let Some(bytes) = holder.memory_bytes {
                *memory = Some(memory.unwrap_or(0) + u128::from(bytes));
            }
        }
        self.duration_ns += length_ns;
        let whole_ns = length_ns * slices;
        if owners.is_empty() {
            self.idle_ns += whole_ns;
            return;
        }
        let split = if owners.len() > 1 { method::HELD_SPLIT } else { 0 };
        let parts = split::equally(whole_ns, owners.len());
        for ((owner, memory), held_ns) in owners.into_iter().zip(parts) {
            let share = self.shares.entry(Arc::clone(owner)).or_default();
            share.held_ns += held_ns;
            share.method |= split;
            if owner.kind != OwnerKind::Unowned {
                share.method |= method::HELD_CGROUP;
            }
            if let Some(bytes) = memory {
                share.memory_byte_ns = share.memory_byte_ns.saturating_add(bytes * u128::from(length_ns));
                share.method |= method::MEMORY_PROCESS;
            }
        }
    }
}

/// What each owner held over all parts.
pub(super) fn held_by_owner(parts: &[Part]) -> BTreeMap<Arc<Owner>, u64> {
    let mut held = BTreeMap::new();
    for (owner, share) in parts.iter().flat_map(|part| &part.shares) {
        *held.entry(Arc::clone(owner)).or_insert(0) += share.held_ns;
    }
    held
}
