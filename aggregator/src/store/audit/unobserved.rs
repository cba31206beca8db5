//! Why time is unobserved: what devices existed for and nobody covers, against what agents say and what is
//! quarantined.

use crate::ledger::coverage::Interval;
use crate::model::NodeName;
use crate::store::StoreError;
use crate::store::sql::{self, Connection, params};

/// A stretch of existence that nobody observed, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub device: String,
    pub node: NodeName,
    pub start_ns: i64,
    pub end_ns: i64,
    /// One of [`REASONS`].
    pub reason: &'static str,
}

/// Every reason, in the order in which they are believed: where two apply, the first is told. The number is that of
/// `metering.v1.Gap.Reason`, where an agent says it.
pub const REASONS: [(&str, Option<u8>); 7] = [
    ("quarantined", None),
    ("agent_down", Some(1)),
    ("spool", Some(5)),
    ("clock", Some(3)),
    ("suspended", Some(4)),
    ("not_read", Some(2)),
    // Nobody has said anything.
    ("silent", None),
];

/// Hands every stretch within `span` that devices existed for and nobody covers to `each`, by device and time.
///
/// # Errors
/// If the store cannot be read.
pub fn unobserved(
    db: &Connection,
    span: Interval,
    device: Option<&str>,
    mut each: impl FnMut(Piece),
) -> Result<(), StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT s.device, d.uuid, t.node, n.cluster, n.name, s.from_ns, s.to_ns FROM stay s
         JOIN device d ON d.id = s.device JOIN tenure t ON t.id = s.tenure JOIN node n ON n.id = t.node
         WHERE s.to_ns > ?1 AND s.from_ns < ?2 AND (CAST(?3 AS TEXT) IS NULL OR d.uuid = ?3) ORDER BY d.uuid, s.from_ns",
    )?;
    let mut rows = statement.query(params![span.start_ns, span.end_ns, device])?;
    while let Some(row) = rows.next()? {
        let (id, uuid, node_id): (i64, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let node = NodeName { cluster: row.get(3)?, node: row.get(4)? };
        let stay = Interval { start_ns: row.get(5)?, end_ns: row.get(6)? }.intersect(span);
        let covered = spans(
            db,
            "SELECT start_ns, end_ns FROM covered WHERE device = ?1 AND end_ns > ?2 AND start_ns < ?3
             ORDER BY start_ns",
            params![id, stay.start_ns, stay.end_ns],
        )?;
        let (mut free, _) = part(&[stay], &covered);
        let mut found = Vec::new();
        for (reason, number) in REASONS {
            let told = match (reason, number) {
                ("quarantined", _) => spans(
                    db,
                    "SELECT start_ns, end_ns FROM quarantine WHERE device = ?1 AND end_ns > ?2 AND start_ns < ?3
                     AND state = 0 ORDER BY start_ns",
                    params![uuid, stay.start_ns, stay.end_ns],
                )?,
                (_, Some(number)) => spans(
                    db,
                    "SELECT start_ns, end_ns FROM gap WHERE node = ?1 AND device IN (0, ?2) AND end_ns > ?3
                     AND start_ns < ?4 AND reason = ?5 ORDER BY start_ns",
                    params![node_id, id, stay.start_ns, stay.end_ns, number],
                )?,
                _ => vec![stay],
            };
            let (rest, hit) = part(&free, &told);
            found.extend(hit.into_iter().map(|span| (span, reason)));
            free = rest;
        }
        found.sort_unstable();
        for (Interval { start_ns, end_ns }, reason) in found {
            each(Piece { device: uuid.clone(), node: node.clone(), start_ns, end_ns, reason });
        }
    }
    Ok(())
}

fn spans(db: &Connection, sql: &str, params: &[&dyn sql::ToSql]) -> Result<Vec<Interval>, StoreError> {
    let mut statement = db.prepare_cached(sql)?;
    let rows =
        statement.query_map(params, |row| Ok(Interval { start_ns: row.get(0)?, end_ns: row.get(1)? }))?;
    Ok(rows.collect::<sql::Result<_>>()?)
}

/// Parts `whole` into what lies outside of `by` and what lies within. Both are sorted; those of `whole` do not
/// overlap, those of `by` may.
fn part(whole: &[Interval], by: &[Interval]) -> (Vec<Interval>, Vec<Interval>) {
    let (mut outside, mut within) = (Vec::new(), Vec::new());
    let mut from = 0;
    for piece in whole {
        let mut at_ns = piece.start_ns;
        // Overlapping spans are sorted by their start alone, so only those that end before all of `piece` are over.
        while from < by.len() && by[from].end_ns <= piece.start_ns {
            from += 1;
        }
        for span in by[from..].iter().take_while(|span| span.start_ns < piece.end_ns) {
            let hit = Interval { start_ns: span.start_ns.max(at_ns), end_ns: span.end_ns.min(piece.end_ns) };
            if hit.length_ns() == 0 {
                continue;
            }
            outside.push(Interval { start_ns: at_ns, end_ns: hit.start_ns });
            within.push(hit);
            at_ns = hit.end_ns;
        }
        outside.push(Interval { start_ns: at_ns, end_ns: piece.end_ns });
    }
    outside.retain(|span| span.length_ns() > 0);
    (outside, within)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(spans: &[(i64, i64)]) -> Vec<Interval> {
        spans.iter().map(|(start_ns, end_ns)| Interval { start_ns: *start_ns, end_ns: *end_ns }).collect()
    }

    #[test]
    fn what_is_parted_sums_to_the_whole_and_overlapping_spans_count_once() {
        let whole = spans(&[(0, 10), (20, 30), (40, 50)]);
        let by = spans(&[(5, 25), (6, 22), (45, 46), (48, 60)]);
        let (outside, within) = part(&whole, &by);
        assert_eq!(outside, spans(&[(0, 5), (25, 30), (40, 45), (46, 48)]));
        assert_eq!(within, spans(&[(5, 10), (20, 25), (45, 46), (48, 50)]));
        assert_eq!(part(&whole, &[]).0, whole);
        assert_eq!(part(&whole, &spans(&[(0, 100)])).1, whole);
    }
}
