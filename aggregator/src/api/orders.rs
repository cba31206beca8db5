//! What a person may have done to the ledger: `POST /api/v1/devices/{uuid}/retire` and
//! `POST /api/v1/quarantine/{id}/release`. Both want the role `operator`; both are journalled with who asked.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::Uri;
use axum::{Extension, Json};
use tonnage_proto::rest::OrderAnswer;

use super::Api;
use super::auth::Identity;
use super::error::{ApiError, quoted};
use super::params::{self, Params};
use crate::model::{Order, OrderError};
use crate::store::quarantine;
use crate::store::tokens::Role;

pub(super) const RETIRE_PARAMETERS: [&str; 1] = ["at"];

pub(super) async fn retire(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    Path(device): Path<String>,
    uri: Uri,
) -> Result<Json<OrderAnswer>, ApiError> {
    let mut params = Params::read(&uri, &RETIRE_PARAMETERS)?;
    params::check("uuid", &device)?;
    let by = operator(&identity)?;
    let at_ns = match params.take("at") {
        None => api.state.clock.wall_ns(),
        Some(text) => {
            let at = text.parse::<jiff::Timestamp>().ok();
            at.and_then(|at| i64::try_from(at.as_nanosecond()).ok()).ok_or_else(|| {
                let text = quoted(&text);
                ApiError::invalid(
                    "at",
                    format!("at {text:?} is not a time; use RFC 3339, 2026-01-31T12:00:00Z"),
                )
            })?
        }
    };
    carry_out(&api, Order::Retire { device, at_ns, by }).await
}

pub(super) async fn release(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<OrderAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let by = operator(&identity)?;
    let id = number(&id)?;
    let found = api.queries.run(move |db, _| Ok(quarantine::by_id(db, id)?)).await?;
    let Some(record) = found else {
        return Err(ApiError::missing(format!("id: there is no quarantined window {id}")));
    };
    carry_out(&api, Order::Release { journal: record.journal, window: record.window, by }).await
}

async fn carry_out(api: &Api, order: Order) -> Result<Json<OrderAnswer>, ApiError> {
    match (api.state.orders)(order).await {
        Ok(done) => Ok(Json(OrderAnswer { done })),
        Err(OrderError::NotFound(message)) => Err(ApiError::missing(message)),
        Err(OrderError::Conflict(message)) => Err(ApiError::conflict(message)),
        Err(error @ OrderError::Unavailable) => Err(ApiError::unavailable(error.to_string())),
    }
}

/// Who asks, if they may order.
fn operator(identity: &Identity) -> Result<String, ApiError> {
    if identity.may(Role::Operator) {
        return Ok(identity.to_string());
    }
    Err(ApiError::forbidden(format!(
        "{identity} may not change the ledger; use a token with the role operator"
    )))
}

pub(super) fn number(id: &str) -> Result<i64, ApiError> {
    id.parse().map_err(|_| ApiError::missing(format!("id: {:?} is not a number", quoted(id))))
}
