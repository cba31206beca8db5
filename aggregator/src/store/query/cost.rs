//! Sums over ranges of the ledger, in groups.

use std::collections::HashMap;
use std::sync::Arc;

use tonnage_proto::rest::sentinel;

use super::described::Described;
use super::dimension::{COLUMN_COUNT, COLUMNS, Dimension, Line};
use super::facts::Facts;
use super::ranges::Range;
use super::rolled;
use crate::budgets::Tree;
use crate::filter::Expr;
use crate::model::{GpuTime, RowKind};
use crate::store::sql::{self, Connection, Row, ToSql};
use crate::store::{StoreError, wide};

/// Groups that one query may find; each is held in memory.
pub const GROUPS_MAX: usize = 200_000;
const SUMMED: [&str; 6] =
    ["time_ns", "busy_ns", "memory_byte_seconds", "energy_uj", "cost_nanos", "unpriced_ns"];

/// A field of a filter; `None` is one that the ledger knows nothing of, so that it has no value in any row.
pub type Field = Option<Dimension>;

/// What to add up.
#[derive(Debug, Clone, Default)]
pub struct CostQuery {
    pub ranges: Vec<Range>,
    pub by: Vec<Dimension>,
    pub filter: Filter,
    /// Asked of each row beside `filter`, by the values that it would be grouped by.
    pub condition: Option<Expr<Field>>,
    /// Of the nodes of tenures, if dimensions here are of them.
    pub facts: Facts,
    /// Of pods and namespaces, if dimensions here are of them. Then nothing of them changes within a range.
    pub described: Described,
    /// Of accounts, if dimensions here are of them. Then whose usage is whose does not change within a range.
    pub tree: Arc<Tree>,
    /// Do groups hold what nobody held, too? Totals do either way.
    pub idle: bool,
}

impl CostQuery {
    /// Does it group by one like this, or filter by one?
    pub fn names(&self, like: impl Fn(&Dimension) -> bool) -> bool {
        let like_field = |field: &Field| field.as_ref().is_some_and(&like);
        self.by.iter().any(&like) || self.condition.as_ref().is_some_and(|expr| expr.names(&like_field))
    }

    /// Do its filters pick among owners? Then totals are not all that there is of devices.
    #[must_use]
    pub fn picks_owners(&self) -> bool {
        let of_owner = |field: &Field| field.as_ref().is_none_or(|dimension| !dimension.of_device());
        self.filter.by_owner() || self.condition.as_ref().is_some_and(|expr| expr.names(&of_owner))
    }

    pub(super) fn passes(&self, line: &Line<'_>) -> Result<bool, sql::Error> {
        let Some(condition) = &self.condition else { return Ok(true) };
        condition.passes(&mut |field| match field {
            Some(dimension) => dimension.value(line),
            None => Ok(sentinel::UNALLOCATED.to_owned()),
        })
    }
}

/// Exact values; `None` lets everything through. With one of owners only rows that have an owner pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub cluster: Option<String>,
    pub node: Option<String>,
    pub namespace: Option<String>,
    /// Pod, its UID, container, job id, unit or user.
    pub owner: Option<String>,
    /// Slurm's.
    pub account: Option<String>,
    pub partition: Option<String>,
    /// UUID of a device, or of a MIG instance.
    pub device: Option<String>,
    /// Of MIG instances.
    pub profile: Option<String>,
}

impl Filter {
    /// Does it pick among owners? Then idle and unobserved time are nobody's, and left out.
    #[must_use]
    pub fn by_owner(&self) -> bool {
        let Self { cluster: _, node: _, device: _, profile: _, namespace, owner, account, partition } = self;
        [namespace, owner, account, partition].into_iter().any(Option::is_some)
    }

    /// The parameters of [`Filter::SQL`], behind the start and the end of a range.
    pub(super) fn parameters<'a>(&'a self, range: &'a Range) -> [&'a dyn ToSql; 10] {
        let Self { cluster, node, namespace, owner, account, partition, device, profile } = self;
        [&range.start_ns, &range.end_ns, cluster, node, namespace, owner, account, partition, device, profile]
    }

    /// What rows `r` with their node `n`, device `d`, instance `i` and owner `o` must be like; an owner that is none is NULL and equals
    /// nothing.
    pub(super) const SQL: &str = "(CAST(?3 AS TEXT) IS NULL OR n.cluster = ?3) AND (CAST(?4 AS TEXT) IS NULL OR n.name = ?4)
           AND (CAST(?5 AS TEXT) IS NULL OR o.namespace = ?5)
           AND (CAST(?6 AS TEXT) IS NULL OR ?6 IN (o.pod, o.pod_uid, o.container, o.job_id, o.unit, o.user))
           AND (CAST(?7 AS TEXT) IS NULL OR o.account = ?7) AND (CAST(?8 AS TEXT) IS NULL OR o.partition = ?8)
           AND (CAST(?9 AS TEXT) IS NULL OR ?9 IN (d.uuid, i.uuid)) AND (CAST(?10 AS TEXT) IS NULL OR i.profile = ?10)";
}

/// Exact sums; units stand last in the names (docs/ledger.md).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    pub held: GpuTime,
    pub idle: GpuTime,
    /// The part of `idle` that no instance can be made of.
    pub stranded: GpuTime,
    pub unobserved: GpuTime,
    pub busy: GpuTime,
    /// Use by owners while others held the device by allocation; in no other figure of time.
    pub intruder_busy: GpuTime,
    pub unpriced: GpuTime,
    pub memory_byte_seconds: i128,
    pub energy_uj: i128,
    pub held_cost_nanos: i128,
    pub idle_cost_nanos: i128,
    /// The part of `idle_cost_nanos` that is of `stranded`.
    pub stranded_cost_nanos: i128,
    pub unobserved_cost_nanos: i128,
    pub rounding_cost_nanos: i128,
    /// Of jobs without GPUs, and in no figure above: time of CPUs, the part of it that has no price, and memory.
    pub cpu_ns: i128,
    pub unpriced_cpu_ns: i128,
    pub ram_byte_seconds: i128,
    pub cpu_cost_nanos: i128,
    pub ram_cost_nanos: i128,
    /// Of held rows, and of intruders.
    pub method: u32,
}

impl Sums {
    #[must_use]
    pub fn cost_nanos(&self) -> i128 {
        self.gpu_cost_nanos() + self.cpu_cost_nanos + self.ram_cost_nanos
    }

    /// What owners are charged: for GPUs that they held, and for CPUs and memory of jobs without GPUs.
    #[must_use]
    pub fn charged_nanos(&self) -> i128 {
        self.held_cost_nanos + self.cpu_cost_nanos + self.ram_cost_nanos
    }

    /// Without what jobs without GPUs cost.
    #[must_use]
    pub fn gpu_cost_nanos(&self) -> i128 {
        self.held_cost_nanos + self.idle_cost_nanos + self.unobserved_cost_nanos + self.rounding_cost_nanos
    }

    /// Is there nothing to tell of it?
    fn is_nothing(&self) -> bool {
        Self { method: 0, ..*self } == Self::default()
    }

    pub fn add(&mut self, other: &Self) {
        self.held += other.held;
        self.idle += other.idle;
        self.stranded += other.stranded;
        self.unobserved += other.unobserved;
        self.busy += other.busy;
        self.intruder_busy += other.intruder_busy;
        self.unpriced += other.unpriced;
        self.memory_byte_seconds += other.memory_byte_seconds;
        self.energy_uj += other.energy_uj;
        self.held_cost_nanos += other.held_cost_nanos;
        self.idle_cost_nanos += other.idle_cost_nanos;
        self.stranded_cost_nanos += other.stranded_cost_nanos;
        self.unobserved_cost_nanos += other.unobserved_cost_nanos;
        self.rounding_cost_nanos += other.rounding_cost_nanos;
        self.cpu_ns += other.cpu_ns;
        self.unpriced_cpu_ns += other.unpriced_cpu_ns;
        self.ram_byte_seconds += other.ram_byte_seconds;
        self.cpu_cost_nanos += other.cpu_cost_nanos;
        self.ram_cost_nanos += other.ram_cost_nanos;
        self.method |= other.method;
    }

    /// `figures` in the order of [`SUMMED`], of a device with so many slices.
    pub(super) fn of_row(kind: RowKind, method: u32, slices: u32, figures: [i128; 6]) -> Self {
        let [time_ns, busy_ns, memory_byte_seconds, energy_uj, cost_nanos, unpriced_ns] = figures;
        match kind {
            RowKind::Cpu => {
                let (cpu_ns, unpriced_cpu_ns, cpu_cost_nanos) = (time_ns, unpriced_ns, cost_nanos);
                return Self { cpu_ns, unpriced_cpu_ns, cpu_cost_nanos, ..Self::default() };
            }
            RowKind::Memory => {
                let (ram_byte_seconds, ram_cost_nanos) = (memory_byte_seconds, cost_nanos);
                return Self { ram_byte_seconds, ram_cost_nanos, ..Self::default() };
            }
            _ => {}
        }
        let [time, busy, unpriced] =
            [time_ns, busy_ns, unpriced_ns].map(|slice_ns| GpuTime::of_slices(slice_ns, slices));
        let mut sums = Self { busy, memory_byte_seconds, energy_uj, unpriced, ..Self::default() };
        match kind {
            RowKind::Held => (sums.held, sums.held_cost_nanos, sums.method) = (time, cost_nanos, method),
            RowKind::Intruder => {
                (sums.busy, sums.intruder_busy, sums.method) = (GpuTime::default(), busy, method);
            }
            RowKind::Idle => (sums.idle, sums.idle_cost_nanos) = (time, cost_nanos),
            RowKind::Stranded => {
                (sums.idle, sums.stranded) = (time, time);
                (sums.idle_cost_nanos, sums.stranded_cost_nanos) = (cost_nanos, cost_nanos);
            }
            RowKind::Unobserved => (sums.unobserved, sums.unobserved_cost_nanos) = (time, cost_nanos),
            RowKind::Rounding => sums.rounding_cost_nanos = cost_nanos,
            RowKind::Cpu | RowKind::Memory => {}
        }
        sums
    }
}

/// One group: a value for each dimension of the query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub key: Vec<String>,
    /// Is this what nobody held, in a table of owners?
    pub sentinel: bool,
    pub sums: Sums,
}

/// Groups in no order, and the sum of everything that the filter let through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    pub groups: Vec<Group>,
    pub totals: Sums,
}

/// A query was given up, or failed.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error("query: finds more than {GROUPS_MAX} groups; narrow the window or the filters, or group by less")]
    TooManyGroups,
    #[error("query: took too long; narrow the window or the filters")]
    Expired,
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Interrupted => Self::Expired,
            error => Self::Store(error),
        }
    }
}

impl From<sql::Error> for QueryError {
    fn from(error: sql::Error) -> Self {
        StoreError::from(error).into()
    }
}

/// What is being added up.
pub(super) struct Adding<'a> {
    pub(super) query: &'a CostQuery,
    by_device: bool,
    groups: HashMap<(bool, Vec<String>), Sums>,
    totals: Sums,
}

impl<'a> Adding<'a> {
    fn new(query: &'a CostQuery) -> Self {
        let by_device = query.by.iter().all(Dimension::of_device);
        Self { query, by_device, groups: HashMap::new(), totals: Sums::default() }
    }

    /// The group of what passes the filter; `None` if it is in totals alone.
    pub(super) fn group(&self, line: &Line<'_>) -> Result<Option<(bool, Vec<String>)>, sql::Error> {
        let owned = line.kind.is_charge() || line.kind == RowKind::Intruder;
        if !owned && !self.query.idle {
            return Ok(None);
        }
        let key: Result<Vec<_>, _> = self.query.by.iter().map(|by| by.value(line)).collect();
        Ok(Some((!owned && !self.by_device, key?)))
    }

    pub(super) fn add(&mut self, group: Option<(bool, Vec<String>)>, sums: &Sums) -> Result<(), QueryError> {
        self.totals.add(sums);
        if let Some(group) = group {
            self.groups.entry(group).or_default().add(sums);
        }
        if self.groups.len() > GROUPS_MAX { Err(QueryError::TooManyGroups) } else { Ok(()) }
    }

    /// What sums to nothing is no group: a row whose windows all gave way.
    fn groups(self) -> Groups {
        let found = self.groups.into_iter().filter(|(_, sums)| !sums.is_nothing());
        let groups = found.map(|((sentinel, key), sums)| Group { key, sentinel, sums }).collect();
        Groups { groups, totals: self.totals }
    }
}

/// Adds up. Asks `expired` now and then whether to give up.
///
/// # Errors
/// If the store fails, there are too many groups, or `expired` says so.
pub fn cost(
    connection: &Connection,
    query: &CostQuery,
    expired: impl Fn() -> bool,
) -> Result<Groups, QueryError> {
    let mut adding = Adding::new(query);
    if let Some(window) = rolled::window(query) {
        if rolled::add(connection, window, &mut adding, &expired)? {
            return Ok(adding.groups());
        }
        adding = Adding::new(query);
    }
    add_rows(connection, &mut adding, expired)?;
    Ok(adding.groups())
}

/// What rows say, whatever roll-ups do.
#[cfg(test)]
pub(super) fn by_rows(connection: &Connection, query: &CostQuery) -> Result<Groups, QueryError> {
    let mut adding = Adding::new(query);
    add_rows(connection, &mut adding, || false)?;
    Ok(adding.groups())
}

/// Row by row of the widest tables.
fn add_rows(
    connection: &Connection,
    adding: &mut Adding<'_>,
    expired: impl Fn() -> bool,
) -> Result<(), QueryError> {
    let query = adding.query;
    for range in &query.ranges {
        let mut statement = connection.prepare_cached(&sql(*range))?;
        let mut rows = statement.query(&query.filter.parameters(range)[..])?;
        let mut seen = 0_u32;
        while let Some(row) = rows.next()? {
            if seen.is_multiple_of(4096) && expired() {
                return Err(QueryError::Expired);
            }
            seen = seen.wrapping_add(1);
            let (kind, tenure, sums) = read(&row)?;
            let line = Line {
                row: &row,
                kind,
                method: sums.method,
                facts: query.facts.of(tenure),
                described: &query.described,
                tree: &query.tree,
                at_ns: range.end_ns - 1,
            };
            if query.passes(&line)? {
                adding.add(adding.group(&line)?, &sums)?;
            }
        }
    }
    Ok(())
}

fn sql(range: Range) -> String {
    let (sums, read) = summed();
    format!(
        "SELECT {COLUMNS}, r.kind, r.method, t.slices, t.id, {}
         FROM (SELECT tenure, instance, owner, kind, method, {} FROM {} WHERE start >= ?1 AND start < ?2
               GROUP BY tenure, instance, owner, kind, method) r
         JOIN tenure t ON t.id = r.tenure
         JOIN node n ON n.id = t.node
         JOIN device d ON d.id = t.device
         LEFT JOIN owner o ON o.id = r.owner
         LEFT JOIN instance i ON i.id = r.instance
         WHERE {}",
        read,
        sums,
        range.table.name(),
        Filter::SQL,
    )
}

/// The sums of all figures of rows as `r`, and the columns that [`figures`] reads them from.
pub(super) fn summed() -> (String, String) {
    let sum = |column| {
        let [quotients, rests] = wide::parts(column);
        format!("{quotients} AS {column}_q, {rests} AS {column}_r")
    };
    let read = |column| format!("r.{column}_q, r.{column}_r");
    (SUMMED.map(sum).join(", "), SUMMED.map(read).join(", "))
}

/// Figures in the order of [`SUMMED`], whose columns begin at `first`.
pub(super) fn figures(row: &Row<'_>, first: usize) -> sql::Result<[i128; 6]> {
    let mut figures = [0; 6];
    for (at, figure) in figures.iter_mut().enumerate() {
        *figure = wide::read(row, first + 2 * at)?;
    }
    Ok(figures)
}

/// A row's kind by its number.
pub(super) fn kind(number: i64) -> Result<RowKind, StoreError> {
    RowKind::from_number(number).ok_or_else(|| StoreError::Damaged {
        what: "a sum of slots",
        detail: format!("its kind is {number}"),
    })
}

/// The row's kind, tenure and sums.
fn read(row: &Row<'_>) -> Result<(RowKind, i64, Sums), QueryError> {
    let kind = kind(row.get(COLUMN_COUNT)?)?;
    // Bits beyond 32 do not exist (`tonnage_proto::method`).
    let (method, slices): (u32, u32) = (row.get(COLUMN_COUNT + 1)?, row.get(COLUMN_COUNT + 2)?);
    let sums = Sums::of_row(kind, method, slices, figures(row, COLUMN_COUNT + 4)?);
    Ok((kind, row.get(COLUMN_COUNT + 3)?, sums))
}
