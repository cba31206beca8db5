//! Budgets over REST, under the names that sites' plugins and scripts use already: `POST /api/v1/budget/check` and
//! `budget/reconcile`, `accounts`, `transactions`, and what a gate does with a hold (docs/budgets.md).
//!
//! Money is a JSON number with all its nine places, and the same as text in `exact`. Whoever checks and holds wants the role
//! `gate`; who changes accounts, `operator`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use tonnage_proto::decimal::from_nanos;

use super::Api;
use super::auth::Identity;
use super::error::{ApiError, quoted};
use super::params::Params;
use crate::budgets::hold::{Code, State as Held, Subject, transaction};
use crate::budgets::{Act, Acted, BudgetError, Hold, What};
use crate::store::tokens::Role;

pub(super) mod accounts;
pub(super) mod allocations;
pub(super) mod asba;
pub(super) mod asbx;
pub(super) mod burn;
pub(super) mod estimates;
pub(super) mod given;
pub(super) mod grants;
pub(super) mod jobs;
pub(super) mod join;
pub(super) mod recover;
mod request;
pub(super) mod seen;
pub(super) mod tasks;
pub(super) mod transactions;
mod words;

pub(super) use request::{BindBody, CheckBody, ReconcileBody};
pub(super) use words::{CheckAnswer, HoldAnswer, ReconcileAnswer};

/// Bytes of a request.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;
/// Names one request, so that the same sent again is the same.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

pub(super) type Body = Result<Bytes, BytesRejection>;

/// Is there enough? Then it is held.
pub(super) async fn check(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<CheckAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Gate)?;
    let body: CheckBody = read(body)?;
    let key = headers.get(IDEMPOTENCY_KEY).map(|key| key.to_str().map(str::to_owned)).transpose();
    let key = key.map_err(|_| {
        ApiError::invalid("idempotency_key", "the header idempotency-key is not visible ASCII")
    })?;
    let ask = body.ask(key)?;
    let hold = hold(&api, What::Check(Box::new(ask)), by).await?;
    if let Some((code, text)) = &hold.refusal {
        // Where clients look for a status, not into the answer.
        let code = match code {
            Code::AccountInactive => Some("ACCOUNT_INACTIVE"),
            Code::AccountExpired => Some("ACCOUNT_EXPIRED"),
            Code::PartitionLimitExceeded => Some("PARTITION_LIMIT_EXCEEDED"),
            Code::InsufficientBudget | Code::ModelLimitExceeded | Code::Unpriced => None,
        };
        if let Some(code) = code {
            return Err(ApiError::payment_required(code, text.clone()));
        }
    }
    Ok(Json(CheckAnswer::of(&hold)))
}

/// The job has ended: its hold reserves no more. What it cost is what its slots say.
pub(super) async fn reconcile(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    uri: Uri,
    body: Body,
) -> Result<Json<ReconcileAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Gate)?;
    let ReconcileBody { transaction_id, job_id, actual_cost, .. } = read(body)?;
    let subject = job_id.filter(|id| !id.is_empty()).map(Subject::Job);
    let settle = What::Settle { transaction: named(&api, &transaction_id).await?, subject };
    let hold = hold(&api, settle, by).await?;
    Ok(Json(ReconcileAnswer::of(&hold, actual_cost)))
}

/// Says which job or pod a hold is for.
pub(super) async fn bind(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    uri: Uri,
    body: Body,
) -> Result<Json<HoldAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Gate)?;
    let body: BindBody = read(body)?;
    let subject = request::subject(body.job_id, body.pod_uid)?
        .ok_or_else(|| ApiError::invalid("job_id", "job_id: give it, or pod_uid"))?;
    let hold = hold(&api, What::Bind { transaction: transaction_of(&id)?, subject }, by).await?;
    Ok(Json(HoldAnswer::of(&hold)))
}

/// Another lease, from now on.
pub(super) async fn renew(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<HoldAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Gate)?;
    let hold = hold(&api, What::Renew { transaction: transaction_of(&id)? }, by).await?;
    Ok(Json(HoldAnswer::of(&hold)))
}

/// The work will never run.
pub(super) async fn void(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<HoldAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Gate)?;
    let hold = hold(&api, What::Void { transaction: transaction_of(&id)? }, by).await?;
    Ok(Json(HoldAnswer::of(&hold)))
}

async fn hold(api: &Api, what: What, by: String) -> Result<Hold, ApiError> {
    match act(api, what, by).await? {
        Acted::Hold(hold) => Ok(*hold),
        _ => Err(ApiError::internal()),
    }
}

async fn act(api: &Api, what: What, by: String) -> Result<Acted, ApiError> {
    let done = (api.state.acts)(Act { what, by }).await;
    let done = done.ok_or_else(|| ApiError::unavailable("the ledger cannot write now"))?;
    done.map_err(refused)
}

fn refused(error: BudgetError) -> ApiError {
    match error {
        BudgetError::Invalid { field, reason } => ApiError::invalid(field, format!("{field}: {reason}")),
        BudgetError::NotFound(text) => ApiError::missing(text),
        BudgetError::Conflict(text) => ApiError::conflict(text),
    }
}

/// Who asks, if they may do what `role` may.
pub(super) fn may(identity: &Identity, role: Role) -> Result<String, ApiError> {
    if identity.may(role) {
        return Ok(identity.to_string());
    }
    let name = role.name();
    Err(ApiError::forbidden(format!("{identity} may not do this; use a token with the role {name}")))
}

pub(super) fn read<T: serde::de::DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    let body = body.map_err(|error| {
        if error.into_response().status() == StatusCode::PAYLOAD_TOO_LARGE {
            return ApiError::too_large(BODY_BYTES_MAX);
        }
        ApiError::bad_request("the body could not be read to its end")
    })?;
    // A list would be read as an object's fields in some order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::bad_request("the body is no JSON object"));
    }
    serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad_request(format!("the body is not as it should be: {error}")))
}

fn transaction_of(text: &str) -> Result<[u8; 16], ApiError> {
    transaction(text).ok_or_else(|| {
        let message = format!("transaction_id {:?} is none; they are txn_ and 32 hex digits", quoted(text));
        ApiError::invalid("transaction_id", message)
    })
}

/// The hold of an id: ours, or that which it had before it was moved here.
async fn named(api: &Api, text: &str) -> Result<[u8; 16], ApiError> {
    if transaction(text).is_some() {
        return transaction_of(text);
    }
    let former = text.to_owned();
    let found = api.queries.run(move |db, _| Ok(asbx::by_name(db, &former)?)).await?;
    found.map_or_else(|| transaction_of(text), |hold| Ok(hold.transaction))
}

/// A value of which there are few.
fn one_of(field: &'static str, value: String, known: &[&str]) -> Result<String, ApiError> {
    if known.contains(&value.as_str()) {
        return Ok(value);
    }
    let message = format!("{field} {:?} is none of {}", quoted(&value), known.join(", "));
    Err(ApiError::invalid(field, message))
}

/// A text of nano-dollars, where there are any.
fn exact(nanos: impl Into<i128>) -> String {
    from_nanos(nanos.into())
}

/// In words, for the log of a scheduler.
fn said(hold: &Hold) -> String {
    match (&hold.refusal, hold.cost_nanos) {
        (Some((_, text)), _) => text.clone(),
        (None, None) => "the price is not known, so that nothing is held".to_owned(),
        (None, Some(_)) if !hold.ask.overdraft.is_empty() => {
            let (held, why) = (exact(hold.amount_nanos), &hold.ask.overdraft);
            format!("{held} is held, whether there was enough or not: {why}")
        }
        (None, Some(_)) => {
            format!("{} is held until {}", exact(hold.amount_nanos), super::inventory::time(hold.until_ns))
        }
    }
}

/// States of a hold under the names of its clients, by their numbers.
pub(in crate::api) const STATUSES: [&str; 5] = ["pending", "completed", "cancelled", "expired", "failed"];

fn status(state: Held) -> &'static str {
    STATUSES[state as usize]
}
