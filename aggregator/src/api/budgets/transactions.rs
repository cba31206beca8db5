//! `GET /api/v1/transactions`: holds and refused checks, newest first. There is one row for each: charges are in the cost tables,
//! by slots, and nothing is refunded since nothing was taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use schemars::JsonSchema;
use serde::Serialize;

use super::accounts::at;
use super::words::number;
use super::{STATUSES, exact, one_of, said, status};
use crate::api::Api;
use crate::api::cost::plain::Number;
use crate::api::error::{ApiError, quoted};
use crate::api::inventory::time;
use crate::api::params::Params;
use crate::budgets::Hold;
use crate::budgets::hold::{State as Held, Subject};
use crate::store::budgets::{self as stored, Listed};

pub(in crate::api) const PARAMETERS: [&str; 8] =
    ["account", "job_id", "type", "status", "start_date", "end_date", "limit", "offset"];
/// Types of transactions that clients know; only the first is one here.
pub(in crate::api) const TYPES: [&str; 5] = ["hold", "charge", "refund", "adjustment", "allocation"];
pub(in crate::api) const LIMIT_MAX: usize = 1000;
const LIMIT: usize = 100;
const OFFSET_MAX: usize = 10_000_000;

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct TransactionAnswer {
    id: i64,
    account_id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_uid: Option<String>,
    transaction_id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    amount: Number,
    /// While it is open as of now, else as of its end.
    charged: Number,
    description: String,
    metadata: BTreeMap<String, String>,
    /// pending, completed, cancelled, expired, failed
    status: &'static str,
    /// open, settled, voided, expired, refused
    state: &'static str,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<String>,
    expires_at: String,
    exact: TransactionExact,
}

/// The same amounts as texts.
#[derive(Debug, Serialize, JsonSchema)]
struct TransactionExact {
    amount: String,
    charged: String,
}

pub(in crate::api) async fn list(
    State(api): State<Arc<Api>>,
    uri: Uri,
) -> Result<Json<Vec<TransactionAnswer>>, ApiError> {
    let mut params = Params::read(&uri, &PARAMETERS)?;
    let (limit, offset) = (params.take_count("limit", LIMIT, LIMIT_MAX)?, offset(&mut params)?);
    let account = params.take("account");
    let kind = params.take("type").map(|kind| one_of("type", kind, &TYPES)).transpose()?;
    let wanted = params.take("status").map(|wanted| one_of("status", wanted, &STATUSES)).transpose()?;
    let state = wanted.and_then(|wanted| Held::ALL.into_iter().find(|(state, _)| status(*state) == wanted));
    let state = state.map(|(state, _)| i64::from(state as u8));
    let mut time = |field| params.take(field).map(|text| at(field, &text)).transpose();
    let (from_ns, to_ns) = (time("start_date")?, time("end_date")?);
    let listed = Listed { account: None, state, subject: params.take("job_id"), from_ns, to_ns };
    if kind.is_some_and(|kind| kind != TYPES[0]) {
        return Ok(Json(Vec::new()));
    }
    let holds = api.queries.run(move |db, _| {
        let account = match account {
            None => None,
            Some(name) => match stored::tree(db)?.by_name(&name) {
                Some(account) => Some(account.id),
                None => return Ok(Err(name)),
            },
        };
        Ok(Ok(stored::holds(db, &Listed { account, ..listed }, limit, offset)?))
    });
    let holds = holds.await?.map_err(|name| {
        ApiError::missing(format!("account: there is none of the name {:?}", quoted(&name)))
    })?;
    Ok(Json(holds.iter().map(answer).collect()))
}

/// How many come before what is asked for.
pub(super) fn offset(params: &mut Params) -> Result<usize, ApiError> {
    let Some(text) = params.take("offset") else { return Ok(0) };
    text.parse().ok().filter(|offset| *offset <= OFFSET_MAX).ok_or_else(|| {
        let message = format!("offset {:?} is not a whole number up to {OFFSET_MAX}", quoted(&text));
        ApiError::invalid("offset", message)
    })
}

fn answer(hold: &Hold) -> TransactionAnswer {
    let (job_id, pod_uid) = match hold.subject.clone() {
        Some(Subject::Job(id)) => (Some(id), None),
        Some(Subject::Pod(uid)) => (None, Some(uid)),
        None => (None, None),
    };
    TransactionAnswer {
        id: hold.id,
        account_id: hold.account,
        job_id,
        pod_uid,
        transaction_id: hold.transaction_id(),
        kind: TYPES[0],
        amount: number(hold.amount_nanos),
        charged: number(hold.charged_nanos),
        description: said(hold),
        metadata: hold.ask.details.clone(),
        status: status(hold.state),
        state: hold.state.name(),
        created_at: time(hold.created_ns),
        completed_at: (hold.ended_ns > 0).then(|| time(hold.ended_ns)),
        expires_at: time(hold.until_ns),
        exact: TransactionExact { amount: exact(hold.amount_nanos), charged: exact(hold.charged_nanos) },
    }
}
