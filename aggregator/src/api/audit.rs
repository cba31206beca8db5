//! `GET /api/v1/audit/log` and `POST /api/v1/audit/verify`: what the ledger was told, and whether it adds up.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use tonnage_proto::rest::{AuditLogAnswer, AuditLogRow, VerifyAnswer};
use tonnage_runtime::telemetry::chain;

use super::error::ApiError;
use super::params::Params;
use super::{Api, inventory};
use crate::metrics::Operation;
use crate::store::audit::{self, LogRecord};

pub(super) const PARAMETERS: [&str; 2] = ["after", "limit"];
pub(super) const LIMIT_MAX: usize = 1_000;

pub(super) async fn log(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<AuditLogAnswer>, ApiError> {
    let mut params = Params::read(&uri, &PARAMETERS)?;
    let limit = params.take_count("limit", 100, LIMIT_MAX)?;
    let after = params.take_after()?;
    let found = api.queries.run(move |db, _| Ok(audit::log(db, after, limit)?)).await?;
    let next = (found.len() == limit).then(|| found.last().map(|record| record.id)).flatten();
    Ok(Json(AuditLogAnswer { rows: found.into_iter().map(row).collect(), next }))
}

pub(super) async fn verify(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<VerifyAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let busy = |_| ApiError::unavailable("a verification runs already; wait for it to end");
    let permit = Arc::clone(&api.verifying).try_acquire_owned().map_err(busy)?;
    let verify = Arc::clone(&api.state.verify);
    let verified = tokio::task::spawn_blocking(move || {
        // Kept until it ends, even if nobody waits for it any more.
        let _permit = permit;
        verify()
    });
    match verified.await {
        Ok(Ok(answer)) => Ok(Json(answer)),
        Ok(Err(error)) => {
            tracing::error!(error = chain(&error), "The ledger could not be verified.");
            api.state.metrics.store_failed(Operation::Verify);
            let away = error.is_away();
            Err(if away { ApiError::unavailable(error.to_string()) } else { ApiError::internal() })
        }
        Err(error) => {
            tracing::error!(%error, "A verification ended without an answer.");
            Err(ApiError::internal())
        }
    }
}

fn row(record: LogRecord) -> AuditLogRow {
    AuditLogRow {
        id: record.id,
        at: inventory::time(record.at_ns),
        kind: record.kind.to_owned(),
        cluster: record.node.cluster,
        node: record.node.node,
        seq: record.seq,
        outcome: record.outcome.to_owned(),
        detail: record.detail,
        sha256: record.sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
