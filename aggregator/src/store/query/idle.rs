//! What was held and not used, used and not held, and used or held by nobody who is known.
//!
//! Only who holds by allocation can be held-idle: of others the ledger knows no more than that they had a process. A row
//! has the method bits of all its windows, so slots are read rather than days wherever they are kept
//! ([`super::ranges_in_slots`]). One state of the ledger throughout. Limits: [`GROUPS_MAX`] rows in memory; the caller says how many of each list it wants.

use std::collections::{BTreeMap, BTreeSet};

use tonnage_proto::limits::SLOT_NS;
use tonnage_proto::method::{BUSY_INSTANCE, BUSY_PROCESS, HELD_ALLOCATION};

use super::cost::{Filter, GROUPS_MAX, QueryError, figures, kind, summed};
use super::ranges::Range;
use crate::model::{GpuTime, NodeName, Owner, OwnerKind, RowKind};
use crate::store::audit::owner_of;
use crate::store::sql::{Connection, OptionalExtension, Row};

const OWNER: &str =
    "o.kind, o.namespace, o.pod, o.pod_uid, o.container, o.container_id, o.job_id, o.step, o.unit,
    o.user, o.account, o.partition";

/// A device or an instance of it, and the node that it was in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub node: NodeName,
    pub device: String,
    pub model: String,
    /// UUID and profile of an instance of it; empty: the device as a whole.
    pub instance: String,
    pub profile: String,
}

/// What an owner held of a device by allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldIdle {
    pub place: Place,
    pub owner: Owner,
    /// Does the driver say who was busy? If not, nobody knows how much of it was idle.
    pub busy_known: bool,
    pub held: GpuTime,
    pub busy: GpuTime,
    pub unpriced: GpuTime,
    /// Of all that was held.
    pub cost_nanos: i128,
}

impl HeldIdle {
    /// Held and not used; `None` = unknown.
    #[must_use]
    pub fn idle(&self) -> Option<GpuTime> {
        self.busy_known.then_some(self.held - self.busy)
    }

    /// The part of the cost that the idle part of the time has, rounded down; `None` = unknown.
    #[must_use]
    pub fn idle_cost_nanos(&self) -> Option<i128> {
        Some(self.idle()?.share_of(self.held, self.cost_nanos))
    }
}

/// What an owner used of a device that others held by allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intrusion {
    pub place: Place,
    pub owner: Owner,
    /// Whose device it was, if one alone held it by allocation while the intruder was there.
    pub holder: Option<Owner>,
    pub busy_known: bool,
    pub busy: GpuTime,
    pub energy_uj: i128,
    /// Start of the first and of the last slot; of the hour or the day where slots are no longer kept.
    pub first_ns: i64,
    pub last_ns: i64,
}

/// Use of a device that no owner explains, and what was held by processes whose owner cannot be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unattributed {
    pub place: Place,
    pub busy: GpuTime,
    pub unowned_held: GpuTime,
    pub unowned_cost_nanos: i128,
}

/// Sums over everything that the filter let through, whether or not lists show it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IdleSums {
    /// By allocation, where the driver says who was busy.
    pub held: GpuTime,
    pub busy: GpuTime,
    pub idle_cost_nanos: i128,
    /// By allocation, where it does not.
    pub busy_unknown_held: GpuTime,
    pub unpriced: GpuTime,
    pub intruder_busy: GpuTime,
    pub busy_unattributed: GpuTime,
    pub unowned_held: GpuTime,
    pub unowned_cost_nanos: i128,
    /// Rows that there are, of each list.
    pub held_idle_rows: usize,
    pub intruder_rows: usize,
    pub unattributed_rows: usize,
}

/// Each list with what weighs most first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdleReport {
    pub held_idle: Vec<HeldIdle>,
    pub intruders: Vec<Intrusion>,
    pub unattributed: Vec<Unattributed>,
    pub totals: IdleSums,
}

/// Where a bucket's row is: its start, its width, and its tenure.
type Bucket = (i64, i64, i64);

/// An intrusion, and the buckets in which it was first and last.
type Found = (Intrusion, Bucket, Bucket);

#[derive(Default)]
struct Lists {
    held: BTreeMap<(Place, i64, bool), HeldIdle>,
    intruders: BTreeMap<(Place, i64), Found>,
    unattributed: BTreeMap<Place, Unattributed>,
    /// By a tenure, an instance and an intruder there: who held it by allocation meanwhile.
    holders: BTreeMap<(i64, i64, i64), BTreeSet<i64>>,
    tenures: BTreeMap<(Place, i64), BTreeSet<(i64, i64)>>,
}

/// Reports, with at most `limit` rows in each list. Asks `expired` now and then whether to give up.
///
/// # Errors
/// If the store fails, there are too many rows, or `expired` says so.
pub fn idle(
    connection: &Connection,
    ranges: &[Range],
    filter: &Filter,
    limit: usize,
    expired: impl Fn() -> bool,
) -> Result<IdleReport, QueryError> {
    let mut lists = Lists::default();
    for range in ranges {
        let mut statement = connection.prepare_cached(&sql(*range))?;
        let mut rows = statement.query(&filter.parameters(range)[..])?;
        let mut seen = 0_u32;
        while let Some(row) = rows.next()? {
            if seen.is_multiple_of(4096) && expired() {
                return Err(QueryError::Expired);
            }
            seen = seen.wrapping_add(1);
            lists.take(&row, range.table.width_ns())?;
            if lists.held.len() + lists.intruders.len() + lists.unattributed.len() > GROUPS_MAX {
                return Err(QueryError::TooManyGroups);
            }
        }
    }
    if !lists.intruders.is_empty() {
        for range in ranges {
            if expired() {
                return Err(QueryError::Expired);
            }
            lists.take_holders(connection, *range)?;
        }
    }
    lists.report(connection, limit)
}

fn sql(range: Range) -> String {
    let (sums, read) = summed();
    format!(
        "SELECT n.cluster, n.name, d.uuid, d.model, r.tenure, r.owner, r.kind, r.method, r.first, r.last, {OWNER},
             COALESCE(i.uuid, ''), COALESCE(i.profile, ''), r.instance, t.slices, {read}
         FROM (SELECT tenure, instance, owner, kind, method, MIN(start) AS first, MAX(start) AS last, {sums} FROM {}
               WHERE start >= ?1 AND start < ?2 AND (kind IN (0, 4) OR kind = 1 AND busy_ns > 0)
               GROUP BY tenure, instance, owner, kind, method) r
         JOIN tenure t ON t.id = r.tenure
         JOIN node n ON n.id = t.node
         JOIN device d ON d.id = t.device
         LEFT JOIN owner o ON o.id = r.owner
         LEFT JOIN instance i ON i.id = r.instance
         WHERE (r.kind <> 0 OR r.method & {HELD_ALLOCATION} <> 0 OR o.kind = {}) AND {}",
        range.table.name(),
        OwnerKind::Unowned as u8,
        Filter::SQL,
    )
}

impl Lists {
    fn take(&mut self, row: &Row<'_>, width_ns: i64) -> Result<(), QueryError> {
        let place = Place {
            node: NodeName { cluster: row.get(0)?, node: row.get(1)? },
            device: row.get(2)?,
            model: row.get(3)?,
            instance: row.get(22)?,
            profile: row.get(23)?,
        };
        let (tenure, owner_id, kind, method): (i64, i64, _, u32) =
            (row.get(4)?, row.get(5)?, kind(row.get(6)?)?, row.get(7)?);
        let (first, last) = ((row.get(8)?, width_ns, tenure), (row.get(9)?, width_ns, tenure));
        let (instance, slices): (i64, u32) = (row.get(24)?, row.get(25)?);
        let [time_ns, busy_ns, _, energy_uj, cost_nanos, unpriced_ns] = figures(row, 26)?;
        let [time, busy, unpriced] = [time_ns, busy_ns, unpriced_ns].map(|ns| GpuTime::of_slices(ns, slices));
        if kind == RowKind::Idle {
            self.unattributed(place).busy += busy;
            return Ok(());
        }
        let owner = owner_of(row, 10)?;
        let busy_known = method & (BUSY_PROCESS | BUSY_INSTANCE) != 0;
        if kind == RowKind::Intruder {
            self.tenures.entry((place.clone(), owner_id)).or_default().insert((tenure, instance));
            let key = (place.clone(), owner_id);
            let (sum, begin, end) = self.intruders.entry(key).or_insert_with(|| {
                let (holder, first_ns, last_ns) = (None, first.0, last.0);
                let (busy, energy_uj) = (GpuTime::default(), 0);
                (
                    Intrusion { place, owner, holder, busy_known, busy, energy_uj, first_ns, last_ns },
                    first,
                    last,
                )
            });
            sum.busy += busy;
            sum.energy_uj += energy_uj;
            sum.busy_known &= busy_known;
            (*begin, *end) = ((*begin).min(first), (*end).max(last));
            return Ok(());
        }
        if owner.kind == OwnerKind::Unowned {
            let sum = self.unattributed(place.clone());
            sum.unowned_held += time;
            sum.unowned_cost_nanos += cost_nanos;
        }
        if method & HELD_ALLOCATION != 0 {
            let key = (place.clone(), owner_id, busy_known);
            let sum = self.held.entry(key).or_insert_with(|| {
                let (held, busy, unpriced) = Default::default();
                HeldIdle { place, owner, busy_known, held, busy, unpriced, cost_nanos: 0 }
            });
            sum.held += time;
            sum.busy += busy;
            sum.unpriced += unpriced;
            sum.cost_nanos += cost_nanos;
        }
        Ok(())
    }

    fn unattributed(&mut self, place: Place) -> &mut Unattributed {
        self.unattributed.entry(place.clone()).or_insert_with(|| Unattributed {
            place,
            busy: GpuTime::default(),
            unowned_held: GpuTime::default(),
            unowned_cost_nanos: 0,
        })
    }

    /// Who held devices by allocation in the buckets in which intruders were there.
    fn take_holders(&mut self, db: &Connection, range: Range) -> Result<(), QueryError> {
        let table = range.table.name();
        let mut statement = db.prepare_cached(&format!(
            "SELECT DISTINCT i.tenure, i.instance, i.owner, h.owner FROM {table} i
             JOIN {table} h ON h.start = i.start AND h.tenure = i.tenure AND h.instance = i.instance AND h.kind = 0
                 AND h.owner <> i.owner
             WHERE i.start >= ?1 AND i.start < ?2 AND i.kind = 4 AND h.method & {HELD_ALLOCATION} <> 0"
        ))?;
        let mut rows = statement.query([range.start_ns, range.end_ns])?;
        while let Some(row) = rows.next()? {
            let holders = self.holders.entry((row.get(0)?, row.get(1)?, row.get(2)?)).or_default();
            // One, or more than one: which more makes no difference.
            if holders.len() < 2 {
                holders.insert(row.get(3)?);
            }
        }
        Ok(())
    }

    fn report(self, db: &Connection, limit: usize) -> Result<IdleReport, QueryError> {
        let Self { held, intruders, unattributed, holders, tenures } = self;
        let mut totals = IdleSums::default();
        let mut report = IdleReport::default();
        for row in held.into_values() {
            totals.unpriced += row.unpriced;
            let Some(cost_nanos) = row.idle_cost_nanos() else {
                totals.busy_unknown_held += row.held;
                report.held_idle.push(row);
                continue;
            };
            totals.held += row.held;
            totals.busy += row.busy;
            totals.idle_cost_nanos += cost_nanos;
            if row.held > row.busy {
                report.held_idle.push(row);
            }
        }
        // What is not known comes last: `None` is less than any cost.
        report.held_idle.sort_by_key(|row| std::cmp::Reverse((row.idle_cost_nanos(), row.idle())));
        let mut found: Vec<(i64, Found)> =
            intruders.into_iter().map(|((_, owner), found)| (owner, found)).collect();
        found.sort_by_key(|(_, (row, ..))| std::cmp::Reverse((row.busy, row.energy_uj)));
        totals.intruder_busy = found.iter().map(|(_, (row, ..))| row.busy).sum();
        report.unattributed = unattributed.into_values().collect();
        report
            .unattributed
            .sort_by_key(|row| std::cmp::Reverse((row.unowned_cost_nanos, row.unowned_held, row.busy)));
        for row in &report.unattributed {
            totals.busy_unattributed += row.busy;
            totals.unowned_held += row.unowned_held;
            totals.unowned_cost_nanos += row.unowned_cost_nanos;
        }
        totals.held_idle_rows = report.held_idle.len();
        totals.intruder_rows = found.len();
        totals.unattributed_rows = report.unattributed.len();
        report.totals = totals;
        report.held_idle.truncate(limit);
        report.unattributed.truncate(limit);
        found.truncate(limit);
        for (owner, (mut row, first, last)) in found {
            row.first_ns = slot_of(db, first, owner, false)?;
            row.last_ns = slot_of(db, last, owner, true)?;
            let at = (row.place.clone(), owner);
            let in_tenures = tenures.get(&at).into_iter().flatten();
            let ids: BTreeSet<i64> = in_tenures
                .filter_map(|(tenure, instance)| holders.get(&(*tenure, *instance, owner)))
                .flatten()
                .copied()
                .collect();
            if let (1, Some(id)) = (ids.len(), ids.first()) {
                let sql = format!("SELECT {OWNER} FROM owner o WHERE o.id = ?1");
                row.holder = db.prepare_cached(&sql)?.query_row([id], |row| owner_of(row, 0)).optional()?;
            }
            report.intruders.push(row);
        }
        Ok(report)
    }
}

/// The first or the last slot within a bucket in which the owner intruded; the bucket's start where no slots are kept.
fn slot_of(db: &Connection, bucket: Bucket, owner: i64, last: bool) -> Result<i64, QueryError> {
    let (start_ns, width_ns, tenure) = bucket;
    let mut exists = db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM slot WHERE start = ?1 AND tenure = ?2 AND owner = ?3 AND kind = 4)",
    )?;
    let slots = width_ns / SLOT_NS;
    for at in 0..slots {
        let slot_ns = start_ns + SLOT_NS * if last { slots - 1 - at } else { at };
        if exists.query_row([slot_ns, tenure, owner], |row| row.get(0))? {
            return Ok(slot_ns);
        }
    }
    Ok(start_ns)
}
