//! The REST API (`tonnage_proto::rest`), with `/version`, `/healthz`, `/readyz` and `/metrics`. It reads; what it
//! changes it changes by orders to the commit thread.
//!
//! Everything under `/api/v1` wants a token of at least the role `reader`. Errors have one shape, whatever went
//! wrong; every answer has an `x-request-id`. Limits: `queries::QUERIES_MAX` queries of the ledger at once, 30 s
//! each; bodies of 1 MiB. Not here: TLS, and limits on connections, which belong to who listens.

use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::http::Uri;
use axum::middleware::from_fn_with_state;
use tokio::sync::Semaphore;
use tonnage_proto::rest::VerifyAnswer;
use tonnage_runtime::clock::Clock;

use crate::budgets::{Act, Acted, BudgetError};
use crate::export::Parties;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::model::{AlertAct, AlertActed, Order, OrderError};
use crate::prices::watch::Prices;
use crate::store::{Identity as LedgerIdentity, Readers, StoreError};

mod alerts;
mod audit;
pub mod auth;
mod budgets;
pub(crate) mod cost;
pub mod error;
mod explain;
mod export;
mod figures;
mod idle;
pub mod inventory;
pub mod openapi;
mod orders;
pub mod params;
mod prices;
mod process;
mod quarantine;
pub mod queries;
mod request;
mod routes;
mod totals;
mod unobserved;
pub mod window;

pub use budgets::seen::balances;

use auth::Authenticator;
use error::ApiError;

/// Says whether something is as it should be; `Err` in plain words. Must not block.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Hands an order to whoever may write; gives what was done, in words.
pub type Orders = Arc<dyn Fn(Order) -> Carried + Send + Sync>;
/// An order on its way.
pub type Carried = Pin<Box<dyn Future<Output = Result<String, OrderError>> + Send>>;
/// Hands what is to be done to accounts and holds to whoever may write; `None` if that cannot be done now.
pub type Acts = Arc<dyn Fn(Act) -> Acting + Send + Sync>;
/// The same on its way.
pub type Acting = Pin<Box<dyn Future<Output = Option<Result<Acted, BudgetError>>> + Send>>;
/// Hands what is to be done to alerts to whoever may write; `None` if that cannot be done now.
pub type AlertActs = Arc<dyn Fn(AlertAct) -> AlertActing + Send + Sync>;
/// The same on its way.
pub type AlertActing = Pin<Box<dyn Future<Output = Option<AlertActed>> + Send>>;
/// Verifies the whole ledger. Blocks for as long as that takes.
pub type Verify = Arc<dyn Fn() -> Result<VerifyAnswer, StoreError> + Send + Sync>;

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
    pub orders: Orders,
    pub acts: Acts,
    pub alert_acts: AlertActs,
    pub verify: Verify,
    /// Who is who in exports.
    pub parties: Parties,
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
    /// One verification at once.
    verifying: Arc<Semaphore>,
    exporting: Arc<Semaphore>,
}

/// How handlers have it.
type Shared = Arc<Api>;

/// All routes.
pub fn router(state: ApiState) -> Router {
    let queries =
        queries::Queries::new(state.clock.clone(), state.readers.clone(), Arc::clone(&state.metrics));
    let totals =
        Arc::new(totals::Totals::new(state.clock.clone(), state.readers.clone(), Arc::clone(&state.metrics)));
    let api = Arc::new(Api {
        state,
        queries,
        totals,
        verifying: Arc::new(Semaphore::new(1)),
        exporting: Arc::new(Semaphore::new(export::EXPORTS_MAX)),
    });
    let (mut guarded, mut open) = (Router::new(), Router::new());
    for route in routes::all() {
        let of_its_kind = if route.guarded { &mut guarded } else { &mut open };
        *of_its_kind = std::mem::take(of_its_kind).route(&route.path, route.router);
    }
    guarded
        .route_layer(from_fn_with_state(Arc::clone(&api), auth::require_reader))
        .merge(open)
        .fallback(|uri: Uri| async move { ApiError::not_found(uri.path()) })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(from_fn_with_state(Arc::clone(&api), request::observe))
        .with_state(api)
}

#[cfg(test)]
mod tests;
