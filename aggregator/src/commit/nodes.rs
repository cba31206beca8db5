//! The store's numbers of nodes, and how many batches of each a transaction counts.

use std::collections::HashMap;

use super::CommitError;
use crate::model::NodeName;
use crate::store::Connection;
use crate::store::write::{self, BatchCount};

/// A part of the working set, and a cache of the store as it is.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    ids: HashMap<NodeName, i64>,
    /// What this transaction counts.
    counted: HashMap<(BatchCount, i64), i64>,
}

impl Nodes {
    pub(super) fn id(&mut self, db: &Connection, name: &NodeName) -> Result<i64, CommitError> {
        if let Some(id) = self.ids.get(name) {
            return Ok(*id);
        }
        let id = write::node(db, name)?;
        self.ids.insert(name.clone(), id);
        Ok(id)
    }

    pub(super) fn count(&mut self, node: i64, count: BatchCount) {
        *self.counted.entry((count, node)).or_default() += 1;
    }

    pub(super) fn write(&mut self, db: &Connection) -> Result<(), CommitError> {
        for count in [BatchCount::Accepted, BatchCount::Refused, BatchCount::Quarantined] {
            let of_it = self.counted.iter().filter(|((which, _), _)| *which == count);
            let nodes: Vec<[i64; 2]> = of_it.map(|((_, node), times)| [*node, *times]).collect();
            if !nodes.is_empty() {
                write::node_counts(db, count, &nodes)?;
            }
        }
        self.counted.clear();
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }
}
