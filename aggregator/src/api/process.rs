//! `/version`, `/healthz`, `/readyz` and `/metrics`: about the process, without a token.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use tonnage_proto::limits::PROTOCOL;
use tonnage_proto::rest::VersionAnswer;

use super::error::ApiError;
use super::{Api, Check};
use crate::metrics::scrape::Facts;

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) async fn version(State(api): State<Arc<Api>>) -> Json<VersionAnswer> {
    let ledger_id = api.state.ledger.ledger_id.iter().map(|byte| format!("{byte:02x}")).collect();
    Json(VersionAnswer { version: VERSION.to_owned(), protocol: PROTOCOL, ledger_id })
}

pub(super) async fn healthz(State(api): State<Arc<Api>>) -> Result<&'static str, ApiError> {
    state(&api.state.health)
}

pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Result<&'static str, ApiError> {
    state(&api.state.ready)
}

fn state(check: &Check) -> Result<&'static str, ApiError> {
    check().map(|()| "ok\n").map_err(ApiError::unavailable)
}

pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Response {
    let found = api.totals.get().await;
    let state = &api.state;
    let now_ns = state.clock.wall_ns();
    let book = Arc::clone(&state.prices.books.borrow());
    let price_book_good = state.prices.error.borrow().is_none();
    let shares = state.live.own_shares(&book, now_ns);
    let newest_ns = found.as_ref().and_then(|found| found.newest_ns);
    let text = state.metrics.render(&Facts {
        version: VERSION,
        streams: state.live.streams(),
        shares: &shares,
        price_rows: book.row_count(),
        price_book_good,
        data_age_ns: newest_ns.map(|newest_ns| now_ns.saturating_sub(newest_ns).max(0)),
        costs: found.as_ref().map(|found| &found.costs),
        held: found.as_ref().map_or(&[], |found| &found.held),
        unposted: found.as_ref().map_or(0, |found| found.unposted),
        budgets: found.as_ref().map(|found| &found.budgets),
    });
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
