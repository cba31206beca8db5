//! One covered interval of one device, cut at the window grid and where holders begin and end, and split among them.
//!
//! A partitioned device is several lanes side by side: its instances, and what is in none. Each is cut and split by itself
//! with its own slices, and the parts of all lanes that lie in one cell become one.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tonnage_proto::{limits, method};

use crate::metering::split;
use crate::model::{Allocation, Claim, Holder, Instance, Owner, OwnerKind, SharedBy};

/// What tells two lives of a pid apart.
pub(super) type ProcessKey = (u32, Option<i64>);

pub(super) fn key(holder: &Holder) -> ProcessKey {
    (holder.pid, holder.started_ns)
}

/// Whether an owner holds the device, or uses what others hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Holder,
    Intruder,
}

/// Holders first, then intruders, each by instance and then in the order of owners.
pub(super) type Who = (Role, Option<Arc<Instance>>, Arc<Owner>);

/// The part of an interval that lies in one cell of the window grid.
#[derive(Debug, Clone, Default)]
pub(super) struct Part {
    pub(super) start_ns: i64,
    pub(super) duration_ns: u64,
    /// With what is in the next two.
    pub(super) idle_ns: u64,
    pub(super) instance_idle_ns: BTreeMap<Arc<Instance>, u64>,
    pub(super) stranded_ns: u64,
    pub(super) shares: BTreeMap<Who, Share>,
    pub(super) busy_unattributed_ns: u64,
    pub(super) energy_idle_uj: u64,
}

/// One owner's share of a part. Only owners who held or used something have one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    pub(super) held_ns: u64,
    /// Most that it can have been busy: what it held, or for an intruder the time that it was there.
    pub(super) room_ns: u64,
    pub(super) busy_ns: u64,
    /// Finer than a window's byte-seconds, so that rounding happens once per window.
    pub(super) memory_byte_ns: u128,
    pub(super) energy_uj: u64,
    pub(super) method: u32,
}

/// What the reading at an interval's end, and the one before, say of who is on the device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Present<'a> {
    pub(super) holders: &'a [Holder],
    pub(super) allocation: &'a Allocation,
    /// Processes of the reading before: they had started, whatever their start time says.
    pub(super) before: &'a HashSet<ProcessKey>,
}

/// A device, or one instance of a partitioned one, or what is in no instance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lane<'a> {
    pub(super) instance: Option<&'a Arc<Instance>>,
    /// What is in no instance. `instance` is then what its holders have of the memory, where that is known; idle time is the
    /// device's own.
    pub(super) is_rest: bool,
    pub(super) slices: u64,
    /// Of these, how many no instance can be made of.
    pub(super) stranded_slices: u64,
    pub(super) present: Present<'a>,
}

/// Cuts `(from_ns, to_ns]` in each lane; at least one lane. The lanes' parts of one cell are one part.
pub(super) fn cut(from_ns: i64, to_ns: i64, lanes: &[Lane<'_>]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for lane in lanes {
        let of_lane = cut_lane(from_ns, to_ns, lane);
        if parts.is_empty() {
            parts = of_lane;
        } else {
            // All lanes are cut at the same edges of the grid.
            parts.iter_mut().zip(of_lane).for_each(|(part, more)| part.add_lane(more));
        }
    }
    parts
}

/// Cuts `(from_ns, to_ns]` and splits each piece among those who held the device at its beginning: by the parts
/// that are allocated to each, and where nothing is, equally among the owners with a process.
fn cut_lane(from_ns: i64, to_ns: i64, lane: &Lane<'_>) -> Vec<Part> {
    let present = lane.present;
    let within = |at_ns: &i64| *at_ns > from_ns && *at_ns < to_ns;
    let starts = present.holders.iter().filter_map(|holder| holder.started_ns);
    let claims = present.allocation.claims.iter().flat_map(|claim| [claim.from_ns, claim.until_ns]);
    let mut edges: Vec<i64> = starts.chain(claims.flatten()).filter(within).collect();
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
        let length_ns = edge_ns.saturating_sub(piece_ns).max(0).unsigned_abs();
        if limits::window_start(piece_ns) == piece_ns && piece_ns > from_ns {
            parts.push(Part { start_ns: piece_ns, ..Part::default() });
        }
        if let Some(part) = parts.last_mut() {
            part.add_piece(length_ns, lane, &Piece::at(piece_ns, present));
        }
        piece_ns = edge_ns;
    }
    parts
}

/// Who is there from one edge to the next.
struct Piece<'a> {
    processes: BTreeMap<&'a Arc<Owner>, Processes>,
    claims: BTreeMap<&'a Arc<Owner>, Claimed>,
    parts: u64,
    /// By what processes share it, if they do: a bit of `method`.
    shared_by: u32,
}

/// One owner's processes.
#[derive(Debug, Clone, Copy, Default)]
struct Processes {
    memory_bytes: Option<u128>,
    inferred: bool,
}

/// One owner's claims.
#[derive(Debug, Clone, Copy, Default)]
struct Claimed {
    parts: u64,
    inferred: bool,
    /// By what it shares with others, if it does: a bit of `method`.
    shared_by: u32,
}

impl<'a> Piece<'a> {
    fn at(at_ns: i64, present: Present<'a>) -> Self {
        let started = |holder: &&Holder| {
            present.before.contains(&key(holder))
                || holder.started_ns.is_none_or(|start_ns| start_ns <= at_ns)
        };
        let mut processes: BTreeMap<&Arc<Owner>, Processes> = BTreeMap::new();
        for holder in present.holders.iter().filter(started) {
            let known = processes.entry(&holder.owner).or_default();
            known.inferred |= holder.inferred;
            if let Some(bytes) = holder.memory_bytes {
                known.memory_bytes = Some(known.memory_bytes.unwrap_or(0) + u128::from(bytes));
            }
        }
        let in_force = |claim: &&Claim| {
            claim.from_ns.is_none_or(|from_ns| from_ns <= at_ns)
                && claim.until_ns.is_none_or(|until_ns| until_ns > at_ns)
        };
        let mut claims: BTreeMap<&Arc<Owner>, Claimed> = BTreeMap::new();
        for claim in present.allocation.claims.iter().filter(in_force) {
            let known = claims.entry(&claim.owner).or_default();
            known.parts = known.parts.saturating_add(claim.parts.max(1));
            known.inferred |= claim.inferred;
            known.shared_by |= shared_by(claim.shared_by, present.allocation.mps);
        }
        let turns = shared_by(SharedBy::Contexts, present.allocation.mps);
        Self { processes, claims, parts: present.allocation.parts, shared_by: turns }
    }
}

impl Part {
    /// What another lane did in the same time.
    fn add_lane(&mut self, other: Self) {
        self.idle_ns += other.idle_ns;
        self.instance_idle_ns.extend(other.instance_idle_ns);
        self.stranded_ns += other.stranded_ns;
        self.shares.extend(other.shares);
    }

    fn add_piece(&mut self, length_ns: u64, lane: &Lane<'_>, piece: &Piece<'_>) {
        self.duration_ns += length_ns;
        let whole_ns = length_ns * lane.slices;
        if !piece.claims.is_empty() {
            let idle_ns = self.add_claimed(whole_ns, lane, piece);
            self.add_idle(idle_ns, length_ns, lane);
        } else if piece.processes.is_empty() {
            self.add_idle(whole_ns, length_ns, lane);
        } else {
            self.add_shared(whole_ns, lane, piece);
        }
        for (owner, processes) in &piece.processes {
            let holds = piece.claims.is_empty() || piece.claims.contains_key(owner);
            if !holds && owner.kind == OwnerKind::Unowned {
                // Nobody to name as an intruder: its use is unattributed.
                continue;
            }
            let role = if holds { Role::Holder } else { Role::Intruder };
            let share = self.share(role, lane, owner);
            if !holds {
                share.room_ns += whole_ns;
            }
            if let Some(bytes) = processes.memory_bytes {
                share.memory_byte_ns = share.memory_byte_ns.saturating_add(bytes * u128::from(length_ns));
                share.method |= method::MEMORY_PROCESS;
            }
        }
    }

    fn add_idle(&mut self, idle_ns: u64, length_ns: u64, lane: &Lane<'_>) {
        self.idle_ns += idle_ns;
        match lane.instance.filter(|_| !lane.is_rest) {
            Some(_) if idle_ns == 0 => {}
            Some(instance) => *self.instance_idle_ns.entry(Arc::clone(instance)).or_default() += idle_ns,
            None => self.stranded_ns += idle_ns.min(length_ns * lane.stranded_slices),
        }
    }

    /// Equally among the owners with a process.
    fn add_shared(&mut self, whole_ns: u64, lane: &Lane<'_>, piece: &Piece<'_>) {
        let split = if piece.processes.len() > 1 { method::HELD_SPLIT | piece.shared_by } else { 0 };
        let parts = split::equally(whole_ns, piece.processes.len());
        for ((owner, processes), held_ns) in piece.processes.iter().zip(parts) {
            let evidence = if owner.kind == OwnerKind::Unowned { 0 } else { method::HELD_CGROUP };
            self.hold(lane, owner, held_ns, split | evidence | inferred(processes.inferred));
        }
    }

    /// By the parts that each claims; returns what nobody claims.
    fn add_claimed(&mut self, whole_ns: u64, lane: &Lane<'_>, piece: &Piece<'_>) -> u64 {
        let claimed = piece.claims.values().fold(0_u64, |sum, claim| sum.saturating_add(claim.parts));
        let free = piece.parts.saturating_sub(claimed);
        let weights: Vec<u64> = piece.claims.values().map(|claim| claim.parts).chain([free]).collect();
        let parts = split::by_largest_remainder(whole_ns, &weights);
        let is_split = piece.claims.len() > 1 || free > 0;
        for ((owner, claim), held_ns) in piece.claims.iter().zip(&parts) {
            let split = if is_split { method::HELD_SPLIT | claim.shared_by } else { 0 };
            self.hold(lane, owner, *held_ns, split | method::HELD_ALLOCATION | inferred(claim.inferred));
        }
        parts.last().copied().unwrap_or(0)
    }

    fn share(&mut self, role: Role, lane: &Lane<'_>, owner: &Arc<Owner>) -> &mut Share {
        self.shares.entry((role, lane.instance.cloned(), Arc::clone(owner))).or_default()
    }

    fn hold(&mut self, lane: &Lane<'_>, owner: &Arc<Owner>, held_ns: u64, method: u32) {
        let share = self.share(Role::Holder, lane, owner);
        share.held_ns += held_ns;
        share.room_ns += held_ns;
        share.method |= method;
    }
}

fn shared_by(by: SharedBy, mps: bool) -> u32 {
    match by {
        SharedBy::Contexts if mps => method::SHARED_MPS,
        SharedBy::Contexts => method::SHARED_TIME_SLICING,
        SharedBy::Mps => method::SHARED_MPS,
        SharedBy::Shards => method::SHARED_SHARDS,
        SharedBy::VirtualGpus => method::SHARED_VGPU,
        SharedBy::Slices => 0,
    }
}

fn inferred(inferred: bool) -> u32 {
    if inferred { method::HELD_INFERRED } else { 0 }
}

/// The sum of a figure over all parts, for each share.
pub(super) fn sums(parts: &[Part], figure: impl Fn(&Share) -> u64) -> BTreeMap<Who, u64> {
    let mut sums = BTreeMap::new();
    for (who, share) in parts.iter().flat_map(|part| &part.shares) {
        *sums.entry(who.clone()).or_insert(0) += figure(share);
    }
    sums
}
