//! What budgets read of the ledger: what was spent, by roll-ups; what a job was charged, by its slots; and which GPUs there are to
//! have a price.

use std::collections::HashMap;

use tonnage_proto::limits::{DAY_NS, HOUR_NS, SLOT_NS, slot_start};

use crate::budgets::available::Sums;
use crate::budgets::hold::Subject;
use crate::budgets::selector::{Labels, Usage};
use crate::budgets::tree::Tree;
use crate::model::{NodeFacts, OwnerKind, RowKind, Teams};
use crate::store::query::{self, Described, QueryError, blocks};
use crate::store::rollup::packed;
use crate::store::sql::{self, Connection, OptionalExtension, params};
use crate::store::write::{self, Mark};
use crate::store::{StoreError, facts, wide};

type Result<T> = std::result::Result<T, StoreError>;

/// Kinds of rows that are what an owner is charged (`RowKind::is_charge`).
const CHARGES: [i64; 3] = [RowKind::Held as i64, RowKind::Cpu as i64, RowKind::Memory as i64];

/// What a key of roll-ups sums, if somebody held it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolledUsage {
    pub usage: Usage,
    pub model: String,
    pub is_of_pods: bool,
}

/// The usage of a roll-up's key; `None` of what nobody held.
fn rolled_usage(db: &Connection, key: i64) -> Result<Option<RolledUsage>> {
    let mut statement = db.prepare_cached(
        "SELECT cluster, namespace, \"user\", account, partition, model, owner_kind FROM rollup_key
         WHERE id = ?1 AND kind IN (?2, ?3, ?4) AND owner_kind <> 0",
    )?;
    let [held, cpu, memory] = CHARGES;
    let found = statement.query_row([key, held, cpu, memory], |row| {
        let usage = Usage {
            cluster: row.get(0)?,
            namespace: row.get(1)?,
            user: row.get(2)?,
            account: row.get(3)?,
            partition: row.get(4)?,
        };
        let is_of_pods = row.get::<i64>(6)? == OwnerKind::Pod as i64;
        Ok(RolledUsage { usage, model: row.get(5)?, is_of_pods })
    });
    Ok(found.optional()?)
}

/// What was looked up.
#[derive(Debug, Default)]
pub struct Usages {
    /// By the key of a roll-up.
    by_key: HashMap<i64, Option<RolledUsage>>,
    /// What pods were like, and from when on it is known.
    described: Option<(i64, Described)>,
}

impl Usages {
    /// What pods and namespaces were like from then on. Who asks for an earlier time, too, gets all of it, so that it is read twice at
    /// most.
    fn described(&mut self, db: &Connection, from_ns: i64) -> Result<Described> {
        if let Some((known_ns, described)) = &self.described
            && *known_ns <= from_ns
        {
            return Ok(described.clone());
        }
        let from_ns = if self.described.is_some() { i64::MIN } else { from_ns };
        let described = query::described(db, (from_ns, i64::MAX), &Teams::default(), || false);
        let described = described.map_err(of_store)?;
        self.described = Some((from_ns, described.clone()));
        Ok(described)
    }

    /// Lets go of what pods were like, which is much, and may change.
    pub fn forget_described(&mut self) {
        self.described = None;
    }
}

fn of_store(error: QueryError) -> StoreError {
    match error {
        QueryError::Store(error) => error,
        QueryError::Expired | QueryError::TooManyGroups => StoreError::Interrupted,
    }
}

/// Usages that are remembered.
const USAGES_MAX: usize = 100_000;

/// The usage of a key, remembered.
///
/// # Errors
/// If SQL fails.
pub fn usage<'a>(db: &Connection, usages: &'a mut Usages, key: i64) -> Result<Option<&'a RolledUsage>> {
    let usages = &mut usages.by_key;
    if !usages.contains_key(&key) {
        if usages.len() >= USAGES_MAX {
            usages.clear();
        }
        usages.insert(key, rolled_usage(db, key)?);
    }
    Ok(usages.get(&key).and_then(Option::as_ref))
}

/// What all accounts spent in a period, by whom usage was bound to in each part of it.
///
/// # Errors
/// If SQL fails, or what is stored is damaged.
pub fn spent(
    db: &Connection,
    tree: &Tree,
    usages: &mut Usages,
    span_ns: (i64, i64),
    now_ns: i64,
) -> Result<Sums> {
    let mut sums = Sums::default();
    each(db, tree, usages, (span_ns, now_ns), |usage, model, account, cost_nanos| {
        if let Some(account) = account {
            sums.add(tree, account, (&usage.partition, model), cost_nanos);
        }
    })?;
    Ok(sums)
}

/// What was charged in a period for usage that is nobody's budget's, by whose it is.
///
/// # Errors
/// If SQL fails, or what is stored is damaged.
pub fn unassigned(
    db: &Connection,
    tree: &Tree,
    usages: &mut Usages,
    span_ns: (i64, i64),
    now_ns: i64,
) -> Result<HashMap<Usage, i128>> {
    let mut sums = HashMap::new();
    each(db, tree, usages, (span_ns, now_ns), |usage, _, account, cost_nanos| {
        if account.is_none() {
            *sums.entry(usage.clone()).or_default() += cost_nanos;
        }
    })?;
    Ok(sums)
}

/// Gives each charge of a period with its GPUs' model and the account that it was bound to: by roll-ups; where labels bind, those of
/// pods by their rows.
fn each(
    db: &Connection,
    tree: &Tree,
    usages: &mut Usages,
    ((from_ns, to_ns), now_ns): ((i64, i64), i64),
    mut with: impl FnMut(&Usage, &str, Option<i64>, i128),
) -> Result<()> {
    let pods_apart = tree.is_by_labels();
    // Nothing is counted that ends later than a minute from now.
    let (from_ns, to_ns) = (from_ns.max(0), to_ns.min(slot_start(now_ns) + 2 * SLOT_NS));
    let mut edges = vec![from_ns];
    edges.extend(tree.edges((from_ns, to_ns)));
    edges.push(to_ns);
    for part in edges.windows(2).filter(|part| part[0] < part[1]) {
        for (key, cost_nanos) in costs(db, (part[0], part[1]))? {
            let Some(of) = usage(db, usages, key)? else { continue };
            if of.is_of_pods && pods_apart {
                continue;
            }
            let account = tree.owner_of(&of.usage, Labels::default(), part[0]);
            with(&of.usage, &of.model, account, cost_nanos);
        }
    }
    if pods_apart && from_ns < to_ns {
        let kept = kept(db)?;
        let window = (kept(from_ns), kept(to_ns));
        let described = usages.described(db, window.0)?;
        query::pod_charges(db, (tree, &described), window, |usage, model, labels, at_ns, cost_nanos| {
            with(usage, model, tree.owner_of(usage, labels, at_ns), cost_nanos);
        })
        .map_err(of_store)?;
    }
    Ok(())
}

/// Where an edge is, where detail is purged: that of the hour or day that it lies in, since from then on no narrower sums are kept.
fn kept(db: &Connection) -> Result<impl Fn(i64) -> i64> {
    let (slots_ns, hours_ns) = (write::mark(db, Mark::PurgedUntil)?, write::mark(db, Mark::HoursFrom)?);
    Ok(move |edge_ns: i64| match edge_ns {
        ..0 => 0,
        _ if edge_ns < hours_ns => edge_ns - edge_ns.rem_euclid(DAY_NS),
        _ if edge_ns < slots_ns => edge_ns - edge_ns.rem_euclid(HOUR_NS),
        _ => edge_ns,
    })
}

/// What slots in a window cost, by the keys of roll-ups.
fn costs(db: &Connection, (from_ns, to_ns): (i64, i64)) -> Result<HashMap<i64, i128>> {
    let kept = kept(db)?;
    let rolled_until_ns = write::mark(db, Mark::RolledUntil)?;
    let mut statement = db
        .prepare_cached("SELECT part, sums FROM rollup WHERE width_ns = ?1 AND start >= ?2 AND start < ?3")?;
    let mut costs: HashMap<i64, i128> = HashMap::new();
    for (width_ns, from_ns, to_ns) in blocks(kept(from_ns), kept(to_ns), rolled_until_ns) {
        let mut rows = statement.query([width_ns, from_ns, to_ns])?;
        while let Some(row) = rows.next()? {
            let part: i64 = row.get(0)?;
            let whole = packed::unpack(part, row.bytes(1)?, |key, figures| {
                *costs.entry(key).or_default() += figures.cost_nanos();
            });
            if !whole {
                let detail = format!("figures of part {part} cannot be read");
                return Err(StoreError::Damaged { what: "rollup", detail });
            }
        }
    }
    costs.retain(|_, cost| *cost != 0);
    Ok(costs)
}

/// What slots from `from_ns` on charge for jobs or pods, all their steps and containers.
///
/// # Errors
/// If SQL fails.
pub fn charged<'a>(
    db: &Connection,
    cluster: &str,
    subjects: impl IntoIterator<Item = &'a Subject>,
    from_ns: i64,
) -> Result<i64> {
    let mut owners: Vec<i64> = Vec::new();
    for subject in subjects {
        // The second as its index has it.
        let (kind, of, name) = match subject {
            Subject::Pod(uid) => (OwnerKind::Pod, "pod_uid = ?2", uid),
            Subject::Job(id) => (OwnerKind::SlurmJob, "job_id = ?2 AND job_id <> ''", id),
        };
        let mut statement = db.prepare_cached(&format!("SELECT id FROM owner WHERE kind = ?1 AND {of}"))?;
        let ids = statement.query_map(params![kind as u8, name], |row| row.get::<i64>(0))?;
        owners.extend(ids.collect::<sql::Result<Vec<_>>>()?);
    }
    // Of whom nothing was ever heard, nothing is looked up.
    if owners.is_empty() {
        return Ok(0);
    }
    // Sums have what is behind their start whole: so a job that was held for long ago is read by its days.
    let [hour_ns, day_ns] = [HOUR_NS, DAY_NS]
        .map(|width_ns| from_ns.saturating_add(width_ns - 1).div_euclid(width_ns) * width_ns);
    let (sum, owners) = (wide::sum("s.cost_nanos"), serde_json::json!(owners).to_string());
    let [held, cpu, memory] = CHARGES;
    let mut total = 0_i128;
    for (table, from_ns, to_ns) in
        [("slot", from_ns, hour_ns), ("hour", hour_ns, day_ns), ("day", day_ns, i64::MAX)]
    {
        let mut statement = db.prepare_cached(&format!(
            "SELECT {sum} FROM {table} s JOIN tenure t ON t.id = s.tenure JOIN node n ON n.id = t.node
             WHERE s.start >= ?1 AND s.start < ?2 AND s.kind IN (?3, ?4, ?5) AND n.cluster = ?6
             AND s.owner IN (SELECT CAST(value AS BIGINT) FROM json_each(?7))"
        ))?;
        let values = params![from_ns, to_ns, held, cpu, memory, cluster, owners];
        total += statement.query_row(values, |row| wide::read(row, 0))?;
    }
    Ok(i64::try_from(total).unwrap_or(i64::MAX))
}

/// The job or pod that an owner is a part of.
///
/// # Errors
/// If SQL fails.
pub fn subject_of(db: &Connection, owner: i64) -> Result<Option<Subject>> {
    let mut statement = db.prepare_cached("SELECT kind, job_id, pod_uid FROM owner WHERE id = ?1")?;
    let (kind, job_id, pod_uid): (i64, String, String) =
        statement.query_row([owner], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(match OwnerKind::from_number(kind) {
        Some(OwnerKind::SlurmJob) if !job_id.is_empty() => Some(Subject::Job(job_id)),
        Some(OwnerKind::Pod) if !pod_uid.is_empty() => Some(Subject::Pod(pod_uid)),
        _ => None,
    })
}

/// Did a pod ever hold anything?
///
/// # Errors
/// If SQL fails.
pub fn is_owner(db: &Connection, pod_uid: &str) -> Result<bool> {
    let mut statement = db.prepare_cached("SELECT EXISTS (SELECT 1 FROM owner WHERE pod_uid = ?1)")?;
    Ok(statement.query_row([pod_uid], |row| row.get(0))?)
}

/// GPUs of one model on one node, as a price book asks for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownGpu {
    pub cluster: String,
    pub node: String,
    pub model: String,
    pub slices: u32,
    pub facts: NodeFacts,
}

/// GPUs that existed in slots from `from_ns` on.
///
/// # Errors
/// If SQL fails, or what is stored is damaged.
pub fn gpus(db: &Connection, from_ns: i64) -> Result<Vec<KnownGpu>> {
    let mut statement = db.prepare_cached(
        "SELECT DISTINCT n.cluster, n.name, d.model, t.slices, s.facts FROM slot_state s
         JOIN tenure t ON t.id = s.tenure JOIN node n ON n.id = t.node JOIN device d ON d.id = t.device
         WHERE s.start >= ?1 AND n.name <> ''",
    )?;
    let rows = statement.query_map([from_ns], |row| {
        let gpu = KnownGpu {
            cluster: row.get(0)?,
            node: row.get(1)?,
            model: row.get(2)?,
            slices: row.get(3)?,
            facts: NodeFacts::default(),
        };
        Ok((gpu, row.get::<i64>(4)?))
    })?;
    let mut gpus = rows.collect::<sql::Result<Vec<_>>>()?;
    let mut known: HashMap<i64, NodeFacts> = HashMap::from([(0, NodeFacts::default())]);
    for (gpu, facts) in &mut gpus {
        if !known.contains_key(facts) {
            known.insert(*facts, facts::by_number(db, *facts)?);
        }
        gpu.facts.clone_from(&known[facts]);
    }
    Ok(gpus.into_iter().map(|(gpu, _)| gpu).collect())
}

/// Clusters that usage came from, two of them at most.
///
/// # Errors
/// If SQL fails.
pub fn clusters(db: &Connection) -> Result<Vec<String>> {
    let mut statement = db.prepare_cached("SELECT DISTINCT cluster FROM node ORDER BY cluster LIMIT 2")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<sql::Result<_>>()?)
}
