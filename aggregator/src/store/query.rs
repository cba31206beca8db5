//! What the ledger is asked: sums over a window in groups ([`cost`]), what was held or used to no
//! purpose ([`idle`]), what there is ([`nodes`], [`devices`]), and what was posted ([`posted`]).
//!
//! Reads only. A window is cut into whole days, whole hours and slots ([`ranges`]), so that a year is not summed from
//! quarters of an hour. SQL adds up per (tenure, owner); groups are made here, in 128-bit integers. Where roll-ups tell all that is asked
//! they are read instead (`rolled`).

mod charges;
mod cost;
mod described;
mod dimension;
pub mod explain;
mod facts;
mod idle;
mod inventory;
pub mod posted;
mod ranges;
mod rolled;

pub use charges::pod_charges;
pub use cost::{CostQuery, Field, Filter, GROUPS_MAX, Group, Groups, QueryError, Sums, cost};
pub use described::{Described, Told, described, described_pod};
pub use dimension::Dimension;
pub use facts::{Facts, facts};
pub use idle::{HeldIdle, IdleReport, IdleSums, Intrusion, Place, Unattributed, idle};
pub use inventory::{
    DeviceRecord, NodeRecord, Taken, devices, journal_end, kept, newest_usage_ns, nodes, taken_after,
};
pub use ranges::{Kept, Range, Table, ranges, ranges_in_slots};
pub(super) use rolled::blocks;

#[cfg(test)]
mod tests;
