//! What agents told other aggregators over the same database, for the live view: read from the journal, which all of them
//! write, some seconds after it was committed there. What this one took in itself is in the view already.
//!
//! Nothing is kept but a place in the journal. What lies before the start is not read: each agent sends something newer
//! within a window.

use std::sync::Arc;
use std::time::Duration;

use tonnage_runtime::clock::Clock;
use tonnage_runtime::shutdown::Shutdown;
use tonnage_runtime::telemetry::chain;

use crate::live::{AGE_NS_MAX, Live};
use crate::metrics::{Metrics, Operation};
use crate::store::query::{self, Taken};
use crate::store::{Readers, StoreError};
use crate::wire;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(3);
/// Batches of one look; if there are more, the next follows at once.
const BATCHES_MAX: usize = 500;

/// Follows until `stop`.
pub async fn follow(readers: Readers, live: Arc<Live>, metrics: Arc<Metrics>, clock: Clock, stop: Shutdown) {
    let mut place = None;
    loop {
        let (readers, live, clock) = (readers.clone(), Arc::clone(&live), clock.clone());
        let looked = tokio::task::spawn_blocking(move || look(&readers, &live, &clock, place)).await;
        let mut more = false;
        match looked {
            Ok(Ok((at, full))) => (place, more) = (Some(at), full),
            Ok(Err(error)) => {
                metrics.store_failed(Operation::Follow);
                // What is known of the database is said by whoever looks after it.
                if !error.is_away() {
                    tracing::warn!(error = chain(&error), "The journal cannot be followed.");
                }
            }
            Err(error) => tracing::error!(%error, "A look at the journal ended without an answer."),
        }
        if more {
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.wait() => return,
        }
    }
}

/// Takes what came behind `place`. With the new one, and whether there may be more.
fn look(
    readers: &Readers,
    live: &Live,
    clock: &Clock,
    place: Option<i64>,
) -> Result<(i64, bool), StoreError> {
    let now_ns = clock.wall_ns();
    let (end, taken) = readers.with(|db| {
        let end = query::journal_end(db)?;
        let taken = match place {
            // One that was set back begins anew.
            Some(place) if place < end => {
                query::taken_after(db, place, now_ns.saturating_sub(AGE_NS_MAX), BATCHES_MAX)?
            }
            _ => Vec::new(),
        };
        Ok((end, taken))
    })?;
    let full = taken.len() == BATCHES_MAX;
    let at = if full { taken.last().map_or(end, |last| last.id) } else { end };
    for Taken { node, epoch, seq, payload, .. } in taken {
        if let Ok(batch) = wire::decode(&payload, &node, &epoch, seq) {
            live.apply_others(&node, &batch, now_ns);
        }
    }
    Ok((at, full))
}
