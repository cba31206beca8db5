//! What is known of the nodes of tenures, for grouping and filtering by it.
//!
//! Days and hours do not tell by which facts their slots were priced. So a tenure, which is one life of a node, has those of
//! its newest slot here, in all of its time.

use std::collections::HashMap;
use std::sync::Arc;

use tonnage_proto::limits::SLOT_NS;

use super::cost::QueryError;
use super::inventory::parse;
use crate::model::NodeFacts;
use crate::store::Connection;

/// By tenure. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Facts(Arc<HashMap<i64, Arc<NodeFacts>>>);

impl Facts {
    pub(super) fn of(&self, tenure: i64) -> Option<&NodeFacts> {
        self.0.get(&tenure).map(|facts| &**facts)
    }
}

/// The facts of all tenures that existed in `[start_ns, end_ns)`. `outweigh` makes what is in force of a cluster, a node and
/// what its agent said. Asks `expired` now and then whether to give up.
///
/// # Errors
/// If the store fails, facts in it are not readable, or `expired` says so.
pub fn facts(
    connection: &Connection,
    (start_ns, end_ns): (i64, i64),
    outweigh: impl Fn(&str, &str, &NodeFacts) -> NodeFacts,
    expired: impl Fn() -> bool,
) -> Result<Facts, QueryError> {
    let mut statement = connection.prepare_cached(
        "SELECT t.id, n.id, n.cluster, n.name, COALESCE(f.id, 0), COALESCE(f.json, '')
         FROM tenure t JOIN node n ON n.id = t.node
         LEFT JOIN slot_state s ON s.tenure = t.id AND s.start = t.to_ns - 1 - (t.to_ns - 1) % ?3
         LEFT JOIN facts f ON f.id = COALESCE(NULLIF(s.facts, 0), t.facts)
         WHERE t.to_ns > ?1 AND t.from_ns < ?2",
    )?;
    let mut rows = statement.query([start_ns, end_ns, SLOT_NS])?;
    let mut known: HashMap<(i64, i64), Arc<NodeFacts>> = HashMap::new();
    let mut found = HashMap::new();
    while let Some(row) = rows.next()? {
        if found.len().is_multiple_of(4096) && expired() {
            return Err(QueryError::Expired);
        }
        let (node, said): (i64, i64) = (row.get(1)?, row.get(4)?);
        let facts = match known.get(&(node, said)) {
            Some(facts) => Arc::clone(facts),
            None => {
                let json: String = row.get(5)?;
                let told = if json.is_empty() { NodeFacts::default() } else { parse(&json)? };
                let (cluster, name): (String, String) = (row.get(2)?, row.get(3)?);
                let facts = Arc::new(outweigh(&cluster, &name, &told));
                known.insert((node, said), Arc::clone(&facts));
                facts
            }
        };
        found.insert(row.get(0)?, facts);
    }
    Ok(Facts(Arc::new(found)))
}
