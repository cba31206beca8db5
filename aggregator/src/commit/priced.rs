//! The price of a slot of a GPU: the book's rate for it, and what its instances have of its memory where the book weighs them by that.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use tonnage_proto::limits::MEMORY_PARTS;

use super::CommitError;
use super::working::Slot;
use crate::ledger::memory::ByMemory;
use crate::ledger::rows::WHOLE;
use crate::ledger::settle::{self, Price};
use crate::model::{MemoryShare, NodeFacts};
use crate::prices::{Book, PriceFacts};
use crate::store::{Connection, instances};

/// What instances have of their GPUs' memory, by number. It never changes.
pub(super) type Shares = HashMap<i64, Option<MemoryShare>>;

/// Settles a slot of a GPU by the book and the node's facts.
pub(super) fn settle(
    db: &Connection,
    shares: &mut Shares,
    slot: &mut Slot,
    (book, facts): (&Book, &NodeFacts),
    start_ns: i64,
) -> Result<(), CommitError> {
    let tenure = Arc::clone(&slot.tenure);
    let facts = PriceFacts {
        cluster: &tenure.node.cluster,
        node: &tenure.node.node,
        gpu_model: &tenure.model,
        facts,
    };
    let (slices, extent) = (tenure.slices, slot.state.extent);
    let rate = book.rate(&facts, start_ns, slices);
    let by_memory = rate.is_some_and(|rate| rate.is_by_memory());
    if by_memory {
        know(db, shares, slot)?;
    }
    let narrow = |nanos: i128| i64::try_from(nanos).unwrap_or(i64::MAX);
    let share = |instance: i64| shares.get(&instance).copied().flatten();
    slot.state.price_nanos = match rate {
        None => settle::settle(slot.rows(), extent, None)?,
        Some(rate) => {
            let charge = |ns: i64| narrow(rate.charge(i128::from(ns)));
            let part = |part: i128| narrow(rate.charge_part(part, MEMORY_PARTS, slices));
            let memory = by_memory.then_some(ByMemory { slices, share: &share, charge: &part });
            settle::settle(slot.rows(), extent, Some(Price { charge: &charge, memory }))?
        }
    };
    Ok(())
}

/// Looks up what is not known yet of a slot's instances.
fn know(db: &Connection, shares: &mut Shares, slot: &Slot) -> Result<(), CommitError> {
    for (instance, ..) in slot.state.rows.keys().filter(|(instance, ..)| *instance != WHOLE) {
        if let Entry::Vacant(free) = shares.entry(*instance) {
            free.insert(instances::memory(db, *instance)?);
        }
    }
    Ok(())
}
