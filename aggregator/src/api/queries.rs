//! Runs queries of the ledger off the async threads: few at once, none for ever.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::telemetry::chain;

use super::error::ApiError;
use crate::metrics::{Metrics, Operation};
use crate::store::Connection;
use crate::store::Readers;
use crate::store::query::QueryError;

/// Queries at once; one more is answered `unavailable`.
pub const QUERIES_MAX: usize = 8;
const TIMEOUT_NS: i64 = 30_000_000_000;

/// A gate to the ledger: at most [`QUERIES_MAX`] queries pass it at once.
pub struct Queries {
    clock: Clock,
    readers: Readers,
    metrics: Arc<Metrics>,
    permits: Arc<Semaphore>,
}

impl Queries {
    #[must_use]
    pub fn new(clock: Clock, readers: Readers, metrics: Arc<Metrics>) -> Self {
        Self { clock, readers, metrics, permits: Arc::new(Semaphore::new(QUERIES_MAX)) }
    }

    /// Runs `query`, which asks its second argument now and then whether to give up.
    ///
    /// # Errors
    /// If too many run already, it is given up, or the store fails.
    pub async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection, &dyn Fn() -> bool) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let busy =
            || ApiError::unavailable(format!("{QUERIES_MAX} queries run already; try again in a moment"));
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| busy())?;
        let (clock, readers) = (self.clock.clone(), self.readers.clone());
        let deadline_ns = clock.monotonic_ns().saturating_add(TIMEOUT_NS);
        let task = tokio::task::spawn_blocking(move || {
            // Kept until the query ends, even if nobody waits for it any more.
            let _permit = permit;
            let expired = move || clock.monotonic_ns() > deadline_ns;
            readers.until(expired.clone(), |connection| Ok(query(connection, &expired)))
        });
        let result = match task.await {
            Ok(result) => result.map_err(QueryError::from).and_then(|result| result),
            Err(error) => {
                tracing::error!(%error, "A query ended without an answer.");
                return Err(ApiError::internal());
            }
        };
        result.map_err(|error| match &error {
            QueryError::TooManyGroups => ApiError::invalid("aggregate", error.to_string()),
            QueryError::Expired => ApiError::unavailable(error.to_string()),
            QueryError::Store(store) if store.is_away() => {
                self.metrics.store_failed(Operation::Query);
                tracing::warn!(error = chain(&error), "A query found no database.");
                ApiError::unavailable(error.to_string())
            }
            QueryError::Store(_) => {
                self.metrics.store_failed(Operation::Query);
                tracing::error!(error = chain(&error), "A query failed.");
                ApiError::internal()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn one_query_too_many_is_turned_away_and_the_others_end() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let queries = Arc::new(Queries::new(Clock::system(), store.readers(), Arc::default()));
        let gate = Arc::new(Semaphore::new(0));
        let running: Vec<_> = (0..QUERIES_MAX)
            .map(|_| {
                let (queries, gate) = (Arc::clone(&queries), Arc::clone(&gate));
                tokio::spawn(async move {
                    queries
                        .run(move |_, _| {
                            while gate.available_permits() == 0 {
                                std::thread::sleep(std::time::Duration::from_millis(1));
                            }
                            Ok(())
                        })
                        .await
                })
            })
            .collect();
        while queries.permits.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = queries.run(|_, _| Ok(())).await.unwrap_err();
        assert_eq!(refused.answer("x").error.code, "unavailable");
        gate.add_permits(1);
        for query in running {
            query.await.unwrap().unwrap();
        }
        queries.run(|_, _| Ok(())).await.unwrap();
    }
}
