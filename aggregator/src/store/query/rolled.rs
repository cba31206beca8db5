//! Sums where roll-ups tell all that is asked: see [`crate::store::rollup`]. What they do not tell apart is asked of the tables
//! of slots, hours and days, as before.

use std::collections::HashMap;

use tonnage_proto::limits::SLOT_NS;

use super::cost::{Adding, CostQuery, Filter, GROUPS_MAX, QueryError, Sums, kind};
use super::dimension::{COLUMN_COUNT, Dimension, Line};
use crate::model::RowKind;
use crate::store::StoreError;
use crate::store::rollup::{Figures, WIDTHS, packed};
use crate::store::sql::{Connection, params};
use crate::store::write::{self, Mark};

/// Parts that are asked for one by one; of more, all of a block are read.
const PARTS_MAX: usize = 64;
/// The columns of a key in the order of [`super::dimension::COLUMNS`], and what else is read of it. A key that has no owner equals
/// nothing that is asked of owners.
const KEYS: &str = "SELECT k.cluster, '', '', k.model, NULLIF(k.owner_kind, 0), k.namespace, '', '', '', '', '', '', '', k.\"user\",
     k.account, k.partition, NULL, k.profile, k.kind, k.slices, k.id
     FROM rollup_key k WHERE (CAST(?1 AS TEXT) IS NULL OR k.cluster = ?1)
     AND (CAST(?2 AS TEXT) IS NULL OR k.owner_kind <> 0 AND k.namespace = ?2)
     AND (CAST(?3 AS TEXT) IS NULL OR k.owner_kind <> 0 AND k.account = ?3)
     AND (CAST(?4 AS TEXT) IS NULL OR k.owner_kind <> 0 AND k.partition = ?4)";

/// The window of a query that roll-ups can answer.
pub(super) fn window(query: &CostQuery) -> Option<(i64, i64)> {
    let known = |dimension: &Dimension| {
        use Dimension::{Account, Budget, Cluster, Kind, Model, Namespace, Partition, Profile, User};
        matches!(
            dimension,
            Cluster | Model | Profile | Kind | Namespace | User | Account | Partition | Budget
        )
    };
    let Filter { cluster: _, namespace: _, account: _, partition: _, node, owner, device, profile } =
        &query.filter;
    if [node, owner, device, profile].into_iter().any(Option::is_some)
        || query.names(|dimension| !known(dimension))
        // No key tells labels.
        || query.names(|dimension| *dimension == Dimension::Budget) && query.tree.is_by_labels()
    {
        return None;
    }
    let whole = |at_ns: i64, width_ns: i64| at_ns.rem_euclid(width_ns) == 0;
    let mut ranges = query.ranges.iter();
    let first = ranges.next()?;
    let mut end_ns = first.start_ns;
    for range in &query.ranges {
        let width_ns = range.table.width_ns();
        if range.start_ns != end_ns || !whole(range.start_ns, width_ns) || !whole(range.end_ns, width_ns) {
            return None;
        }
        end_ns = range.end_ns;
    }
    Some((first.start_ns, end_ns))
}

/// A key that the query lets through.
struct Found {
    kind: RowKind,
    slices: u32,
    /// The group that it is in, if groups hold it.
    group: Option<(bool, Vec<String>)>,
}

/// Where keys are among those that were found, by part and place in it: looked up once for each value that is read.
type Places = HashMap<i64, [u32; packed::PLACES]>;

/// No key that was found.
const NONE: u32 = u32::MAX;

/// Adds up. False if there are more keys than may be in memory: then what was added is not all.
pub(super) fn add(
    connection: &Connection,
    window: (i64, i64),
    adding: &mut Adding<'_>,
    expired: impl Fn() -> bool,
) -> Result<bool, QueryError> {
    for piece in pieces(adding.query, window) {
        if !add_piece(connection, piece, adding, &expired)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A window in pieces. Whose a key's usage is may change within it, and nothing else of a key does; a range is as its end is.
fn pieces(query: &CostQuery, window: (i64, i64)) -> Vec<(i64, i64)> {
    let changes = query.tree.edges(window);
    let mut pieces: Vec<(i64, i64)> = Vec::new();
    for range in &query.ranges {
        let changed = changes.iter().any(|at_ns| (range.start_ns..range.end_ns).contains(at_ns));
        match pieces.last_mut() {
            Some(last) if !changed => last.1 = range.end_ns,
            _ => pieces.push((range.start_ns, range.end_ns)),
        }
    }
    pieces
}

/// Adds up a window in which nothing of keys changes.
fn add_piece(
    connection: &Connection,
    (start_ns, end_ns): (i64, i64),
    adding: &mut Adding<'_>,
    expired: impl Fn() -> bool,
) -> Result<bool, QueryError> {
    let Some((keys, places)) = keys(connection, adding, end_ns - 1, &expired)? else { return Ok(false) };
    let few = places.len() <= PARTS_MAX;
    let list = places.keys().take(PARTS_MAX).map(i64::to_string).collect::<Vec<_>>().join(",");
    let list = format!("[{list}]");
    let mut figures = vec![Figures::default(); keys.len()];
    let rolled_until_ns = write::mark(connection, Mark::RolledUntil)?;
    for (width_ns, start_ns, end_ns) in blocks(start_ns, end_ns, rolled_until_ns) {
        let all = "SELECT part, sums FROM rollup WHERE width_ns = ?1 AND start >= ?2 AND start < ?3";
        let some = format!("{all} AND part IN (SELECT CAST(value AS BIGINT) FROM json_each(?4))");
        let mut statement = connection.prepare_cached(if few { &some } else { all })?;
        let mut rows = match few {
            true => statement.query(params![width_ns, start_ns, end_ns, list])?,
            false => statement.query([width_ns, start_ns, end_ns])?,
        };
        let mut seen = 0_u32;
        while let Some(row) = rows.next()? {
            if seen.is_multiple_of(64) && expired() {
                return Err(QueryError::Expired);
            }
            seen = seen.wrapping_add(1);
            let part: i64 = row.get(0)?;
            let Some(places) = places.get(&part) else { continue };
            let whole = packed::unpack(part, row.bytes(1)?, |number, more| {
                let at =
                    usize::try_from(number - part * packed::KEYS).ok().and_then(|place| places.get(place));
                if let Some(sum) = at.and_then(|at| figures.get_mut(*at as usize)) {
                    sum.add(&more);
                }
            });
            if !whole {
                let detail = format!("figures of part {part} cannot be read");
                return Err(StoreError::Damaged { what: "rollup", detail }.into());
            }
        }
    }
    for (Found { kind, slices, group }, figures) in keys.into_iter().zip(figures) {
        if !figures.is_nothing() {
            adding.add(group, &Sums::of_row(kind, figures.method, slices, figures.sums))?;
        }
    }
    Ok(true)
}

/// Keys, and where each of them is; `None` if they are too many.
fn keys(
    connection: &Connection,
    adding: &Adding<'_>,
    at_ns: i64,
    expired: impl Fn() -> bool,
) -> Result<Option<(Vec<Found>, Places)>, QueryError> {
    let Filter { cluster, namespace, account, partition, .. } = &adding.query.filter;
    let mut statement = connection.prepare_cached(KEYS)?;
    let mut rows = statement.query(params![cluster, namespace, account, partition])?;
    let (mut keys, mut places) = (Vec::new(), Places::new());
    let mut seen = 0_u32;
    while let Some(row) = rows.next()? {
        if seen.is_multiple_of(4096) && expired() {
            return Err(QueryError::Expired);
        }
        seen = seen.wrapping_add(1);
        let kind = kind(row.get(COLUMN_COUNT)?)?;
        let CostQuery { described, tree, .. } = adding.query;
        let line = Line { row: &row, kind, method: 0, facts: None, described, tree, at_ns };
        if !adding.query.passes(&line)? {
            continue;
        }
        if keys.len() == GROUPS_MAX {
            return Ok(None);
        }
        let number: i64 = row.get(COLUMN_COUNT + 2)?;
        let part = places.entry(number.div_euclid(packed::KEYS)).or_insert([NONE; packed::PLACES]);
        let place =
            usize::try_from(number.rem_euclid(packed::KEYS)).ok().and_then(|place| part.get_mut(place));
        if let (Some(place), Ok(at)) = (place, u32::try_from(keys.len())) {
            *place = at;
        }
        keys.push(Found { kind, slices: row.get(COLUMN_COUNT + 1)?, group: adding.group(&line)? });
    }
    Ok(Some((keys, places)))
}

/// The widest blocks that cover a window on slots' edges: width, start of the first and end of the last. Behind
/// `rolled_until_ns` there are slots alone.
pub(in crate::store) fn blocks(start_ns: i64, end_ns: i64, rolled_until_ns: i64) -> Vec<(i64, i64, i64)> {
    let mut found = Vec::new();
    cut(start_ns, end_ns, rolled_until_ns, &WIDTHS, &mut found);
    found
}

fn cut(start_ns: i64, end_ns: i64, rolled_until_ns: i64, widths: &[i64], found: &mut Vec<(i64, i64, i64)>) {
    let Some((width_ns, narrower)) = widths.split_last() else { return };
    let until_ns = if *width_ns == SLOT_NS { end_ns } else { end_ns.min(rolled_until_ns) };
    let from = start_ns + (-start_ns).rem_euclid(*width_ns);
    let to = until_ns - until_ns.rem_euclid(*width_ns);
    if from >= to {
        return cut(start_ns, end_ns, rolled_until_ns, narrower, found);
    }
    cut(start_ns, from, rolled_until_ns, narrower, found);
    found.push((*width_ns, from, to));
    cut(to, end_ns, rolled_until_ns, narrower, found);
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use tonnage_proto::limits::DAY_NS;

    use super::*;

    #[test]
    fn blocks_cover_the_window_once_and_are_built() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        for _ in 0..1000 {
            let start_ns = rng.random_range(0..20_000) * SLOT_NS;
            let end_ns = start_ns + rng.random_range(0..20_000) * SLOT_NS;
            let until_ns = rng.random_range(0..40_000) * SLOT_NS;
            let mut at_ns = start_ns;
            for (width_ns, from_ns, to_ns) in blocks(start_ns, end_ns, until_ns) {
                assert_eq!((from_ns, from_ns % width_ns, to_ns % width_ns), (at_ns, 0, 0));
                assert!(to_ns > from_ns && (width_ns == SLOT_NS || to_ns <= until_ns));
                at_ns = to_ns;
            }
            assert_eq!(at_ns, end_ns);
        }
    }

    #[test]
    fn ninety_days_are_few_blocks() {
        let widest = (0..96).map(|slot| {
            let start_ns = 20_000 * DAY_NS + slot * SLOT_NS;
            let end_ns = start_ns + 90 * DAY_NS;
            let blocks = blocks(start_ns, end_ns, end_ns);
            blocks.iter().map(|(width_ns, from_ns, to_ns)| (to_ns - from_ns) / width_ns).sum::<i64>()
        });
        assert!(widest.max().unwrap() <= 40);
    }
}
