//! Roll-ups for verification: what is stored, and the rows that it should be the sum of, both under natural keys.

use std::collections::{BTreeMap, HashMap};

use tonnage_proto::limits::{DAY_NS, HOUR_NS, SLOT_NS};

use super::Bucket;
use crate::store::rollup::{WIDTHS, packed};
use crate::store::sql::{self, Connection, Row};
use crate::store::write::{self, Mark};
use crate::store::{StoreError, wide};

/// What a roll-up tells apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RolledKey {
    pub cluster: String,
    pub model: String,
    pub slices: u32,
    pub kind: i64,
    pub profile: String,
    /// 0 and empty of what has no owner.
    pub owner_kind: i64,
    pub namespace: String,
    pub user: String,
    pub account: String,
    pub partition: String,
}

/// Figures by the start of a block and its keys.
pub type Rolled = BTreeMap<(i64, RolledKey), Bucket>;

/// Blocks of one width, and the sums of the rows in them: of those blocks that must be there, width by width.
///
/// # Errors
/// If the store cannot be read or is damaged, or `each` fails.
pub fn rolled(
    db: &Connection,
    mut each: impl FnMut(i64, Rolled, Rolled) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let rolled_until_ns = write::mark(db, Mark::RolledUntil)?;
    let keys = keys(db)?;
    for width_ns in WIDTHS {
        let (table, kept) = match width_ns {
            ..HOUR_NS => ("slot", Mark::PurgedUntil),
            HOUR_NS..DAY_NS => ("hour", Mark::HoursFrom),
            _ => ("day", Mark::DaysFrom),
        };
        let kept_ns = write::mark(db, kept)?;
        let from_ns = kept_ns + (-kept_ns).rem_euclid(width_ns);
        let until_ns = match width_ns {
            SLOT_NS => i64::MAX,
            _ => rolled_until_ns - rolled_until_ns.rem_euclid(width_ns),
        };
        let stored = stored(db, &keys, width_ns, (from_ns, until_ns))?;
        each(width_ns, stored, summed(db, table, width_ns, (from_ns, until_ns))?)?;
    }
    Ok(())
}

fn keys(db: &Connection) -> Result<HashMap<i64, RolledKey>, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT id, cluster, model, slices, kind, profile, owner_kind, namespace, \"user\", account, partition
         FROM rollup_key",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, key(row)?)))?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// The columns of a key, behind one other.
fn key(row: &Row<'_>) -> sql::Result<RolledKey> {
    Ok(RolledKey {
        cluster: row.get(1)?,
        model: row.get(2)?,
        slices: row.get(3)?,
        kind: row.get(4)?,
        profile: row.get(5)?,
        owner_kind: row.get(6)?,
        namespace: row.get(7)?,
        user: row.get(8)?,
        account: row.get(9)?,
        partition: row.get(10)?,
    })
}

fn bucket([time_ns, busy_ns, memory_byte_seconds, energy_uj, cost_nanos, unpriced_ns]: [i128; 6]) -> Bucket {
    Bucket { time_ns, busy_ns, memory_byte_seconds, energy_uj, cost_nanos, unpriced_ns }
}

fn stored(
    db: &Connection,
    keys: &HashMap<i64, RolledKey>,
    width_ns: i64,
    (from_ns, until_ns): (i64, i64),
) -> Result<Rolled, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT start, part, sums FROM rollup WHERE width_ns = ?1 AND start >= ?2 AND start < ?3",
    )?;
    let mut rows = statement.query([width_ns, from_ns, until_ns])?;
    let mut found = Rolled::new();
    while let Some(row) = rows.next()? {
        let (start_ns, part): (i64, i64) = (row.get(0)?, row.get(1)?);
        let mut unknown = None;
        let whole = packed::unpack(part, row.bytes(2)?, |number, figures| match keys.get(&number) {
            Some(key) => drop(found.insert((start_ns, key.clone()), bucket(figures.sums))),
            None => unknown = Some(number),
        });
        if let Some(what) = unknown.map(|number| format!("there is no key {number}")) {
            return Err(StoreError::Damaged { what: "rollup", detail: what });
        }
        if !whole {
            let detail = format!("figures of part {part} at {start_ns} cannot be read");
            return Err(StoreError::Damaged { what: "rollup", detail });
        }
    }
    Ok(found)
}

fn summed(
    db: &Connection,
    table: &str,
    width_ns: i64,
    (from_ns, until_ns): (i64, i64),
) -> Result<Rolled, StoreError> {
    const FIGURES: [&str; 6] =
        ["r.time_ns", "r.busy_ns", "r.memory_byte_seconds", "r.energy_uj", "r.cost_nanos", "r.unpriced_ns"];
    let sums = FIGURES.map(wide::sum).join(", ");
    let mut statement = db.prepare_cached(&format!(
        "SELECT r.start - r.start % {width_ns}, n.cluster, d.model, t.slices, r.kind, COALESCE(i.profile, ''),
         COALESCE(o.kind, 0), COALESCE(o.namespace, ''), COALESCE(o.user, ''), COALESCE(o.account, ''),
         COALESCE(o.partition, ''), {sums}
         FROM {table} r JOIN tenure t ON t.id = r.tenure JOIN device d ON d.id = t.device
         JOIN node n ON n.id = t.node LEFT JOIN owner o ON o.id = r.owner LEFT JOIN instance i ON i.id = r.instance
         WHERE r.start >= ?1 AND r.start < ?2 GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"
    ))?;
    let mut rows = statement.query([from_ns, until_ns])?;
    let mut found = Rolled::new();
    while let Some(row) = rows.next()? {
        let mut sums = [0; 6];
        for (at, sum) in sums.iter_mut().enumerate() {
            *sum = wide::read(&row, 11 + 2 * at)?;
        }
        found.insert((row.get(0)?, key(&row)?), bucket(sums));
    }
    Ok(found)
}
