//! `GET /api/v1/transactions`: holds and refused checks, newest first, each once; and by `type` what became of those that have
//! ended: `charge`, what their jobs were charged by then, and `refund`, what they had reserved beyond that. There are no
//! adjustments: charges are by slots, in the cost tables.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use schemars::JsonSchema;
use serde::Serialize;

use super::accounts::at;
use super::words::number;
use super::{STATUSES, exact, named, one_of, said, status};
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
/// Types of transactions that clients know; of the last two there is none here.
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
    let subject = params.take("job_id");
    let listed = Listed { state, subject, from_ns, to_ns, ..Listed::default() };
    let kind = kind.map_or(Kind::Hold, |kind| Kind::of(&kind));
    if kind == Kind::None {
        return Ok(Json(Vec::new()));
    }
    let listed = Listed { charged: kind == Kind::Charge, refunded: kind == Kind::Refund, ..listed };
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
    Ok(Json(holds.iter().map(|hold| answer(hold, kind)).collect()))
}

/// One hold, or a check that was refused.
pub(in crate::api) async fn one(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<TransactionAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let transaction = named(&api, &id).await?;
    let hold = api.queries.run(move |db, _| Ok(stored::hold_by_transaction(db, &transaction)?)).await?;
    let missing = "transaction_id: there is no such hold; it may have been purged";
    hold.map(|hold| Json(answer(&hold, Kind::Hold))).ok_or_else(|| ApiError::missing(missing.to_owned()))
}

/// As what a hold is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Hold,
    Charge,
    Refund,
    /// There is none.
    None,
}

impl Kind {
    fn of(name: &str) -> Self {
        match name {
            "hold" => Self::Hold,
            "charge" => Self::Charge,
            "refund" => Self::Refund,
            _ => Self::None,
        }
    }
}

/// How many come before what is asked for.
pub(in crate::api) fn offset(params: &mut Params) -> Result<usize, ApiError> {
    let Some(text) = params.take("offset") else { return Ok(0) };
    text.parse().ok().filter(|offset| *offset <= OFFSET_MAX).ok_or_else(|| {
        let message = format!("offset {:?} is not a whole number up to {OFFSET_MAX}", quoted(&text));
        ApiError::invalid("offset", message)
    })
}

fn answer(hold: &Hold, kind: Kind) -> TransactionAnswer {
    let (amount_nanos, description) = match kind {
        Kind::Charge => (hold.charged_nanos, "what its job was charged by its end".to_owned()),
        Kind::Refund => {
            let released = hold.amount_nanos.saturating_sub(hold.charged_nanos);
            (released, "what it had reserved beyond what its job was charged".to_owned())
        }
        Kind::Hold | Kind::None => (hold.amount_nanos, said(hold)),
    };
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
        kind: TYPES[kind as usize],
        amount: number(amount_nanos),
        charged: number(hold.charged_nanos),
        description,
        metadata: hold.ask.details.clone(),
        status: status(hold.state),
        state: hold.state.name(),
        created_at: time(hold.created_ns),
        completed_at: (hold.ended_ns > 0).then(|| time(hold.ended_ns)),
        expires_at: time(hold.until_ns),
        exact: TransactionExact { amount: exact(amount_nanos), charged: exact(hold.charged_nanos) },
    }
}
