//! The REST API (`tonnage_proto::rest`), with `/version`, `/healthz`, `/readyz` and `/metrics`. Reads only.
//!
//! Everything under `/api/v1` wants a token of at least the role `reader`. Errors have one shape, whatever went
//! wrong; every answer has an `x-request-id`. Limits: `queries::QUERIES_MAX` queries of the ledger at once, 30 s
//! each; bodies of 1 MiB. Not here: TLS, and limits on connections, which belong to who listens.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::Uri;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tonnage_runtime::clock::Clock;

use crate::live::Live;
use crate::metrics::Metrics;
use crate::prices::book::BOOK_BYTES_MAX;
use crate::prices::watch::Prices;
use crate::store::{Identity as LedgerIdentity, Readers};

pub mod auth;
mod cost;
pub mod error;
mod figures;
mod inventory;
pub mod params;
mod prices;
mod process;
mod queries;
mod request;
mod totals;
pub mod window;

use auth::Authenticator;
use error::ApiError;

/// Says whether something is as it should be; `Err` in plain words. Must not block.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the API reads. Cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    pub clock: Clock,
    pub ledger: LedgerIdentity,
    pub readers: Readers,
    pub authenticator: Arc<Authenticator>,
    pub prices: Prices,
    pub live: Arc<Live>,
    pub metrics: Arc<Metrics>,
    /// For `/healthz`: is the process working?
    pub health: Check,
    /// For `/readyz`: does it do its work for others?
    pub ready: Check,
}

/// The state of all handlers.
struct Api {
    state: ApiState,
    queries: queries::Queries,
    totals: Arc<totals::Totals>,
}

/// All routes.
pub fn router(state: ApiState) -> Router {
    let queries = queries::Queries::new(state.clock.clone(), state.readers.clone());
    let totals = Arc::new(totals::Totals::new(state.clock.clone(), state.readers.clone()));
    let api = Arc::new(Api { state, queries, totals });
    let mut authorised = Router::new()
        .route("/api/v1/nodes", get(inventory::nodes))
        .route("/api/v1/devices", get(inventory::devices))
        .route("/api/v1/live", get(inventory::live))
        .route("/api/v1/prices", get(prices::current))
        .route("/api/v1/prices/check", post(prices::check).layer(DefaultBodyLimit::max(BOOK_BYTES_MAX)));
    for (table, by) in cost::TABLES {
        let handler = move |api, uri| cost::cost(api, uri, by);
        authorised = authorised.route(&format!("/api/v1/cost/{table}"), get(handler));
    }
    authorised
        .route_layer(from_fn_with_state(Arc::clone(&api), auth::require_reader))
        .route("/version", get(process::version))
        .route("/healthz", get(process::healthz))
        .route("/readyz", get(process::readyz))
        .route("/metrics", get(process::metrics))
        .fallback(|uri: Uri| async move { ApiError::not_found(uri.path()) })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(from_fn_with_state(Arc::clone(&api), request::observe))
        .with_state(api)
}

#[cfg(test)]
mod tests;
