//! `GET /api/v1/alerts` and its acknowledgement: what somebody is to know, and who knows (docs/alerts.md).

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::Uri;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Api;
use super::auth::Identity;
use super::budgets::transactions::offset;
use super::budgets::{Body, may, read};
use super::error::{ApiError, quoted};
use super::inventory::time;
use super::params::Params;
use crate::model::{Alert, AlertAct, AlertActed, AlertState};
use crate::store::alerts;
use crate::store::tokens::Role;

pub(super) const PARAMETERS: [&str; 4] = ["account", "status", "limit", "offset"];
pub(super) const LIMIT_MAX: usize = 1_000;
const LIMIT: usize = 100;
const TEXT_BYTES_MAX: usize = 2_048;

/// Something that somebody is to know.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct AlertAnswer {
    id: i64,
    /// The budget; empty if it is of none.
    account_id: String,
    /// The grant's number, of one that ends.
    #[serde(skip_serializing_if = "String::is_empty")]
    grant_id: String,
    /// The rule that found it.
    rule: String,
    /// budget_threshold, burn_rate, depletion, grant_expiring, unassigned, unpriced or quarantine.
    alert_type: String,
    /// info, warning or critical.
    severity: &'static str,
    threshold_value: String,
    /// As it was found last.
    actual_value: String,
    message: String,
    triggered_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    acknowledged_at: Option<String>,
    acknowledged_by: String,
    notes: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved_at: Option<String>,
    /// active, acknowledged or resolved.
    status: &'static str,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct AcknowledgeBody {
    /// Where the path does not name it.
    #[serde(default)]
    alert_id: Option<i64>,
    /// Whoever asks, unless told.
    #[serde(default)]
    acknowledged_by: String,
    #[serde(default)]
    notes: String,
}

pub(super) async fn list(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<Vec<AlertAnswer>>, ApiError> {
    let mut params = Params::read(&uri, &PARAMETERS)?;
    let page = (params.take_count("limit", LIMIT, LIMIT_MAX)?, offset(&mut params)?);
    let account = params.take("account");
    let state = match params.take("status") {
        None => None,
        Some(text) => {
            let known = AlertState::ALL.into_iter().find(|(_, name)| *name == text);
            Some(known.map(|(state, _)| state).ok_or_else(|| {
                let message =
                    format!("status {:?} is none of active, acknowledged and resolved", quoted(&text));
                ApiError::invalid("status", message)
            })?)
        }
    };
    let found = api.queries.run(move |db, _| Ok(alerts::list(db, state, account.as_deref(), page)?)).await?;
    Ok(Json(found.into_iter().map(answer).collect()))
}

pub(super) async fn acknowledge_one(
    api: State<Arc<Api>>,
    identity: Extension<Identity>,
    Path(id): Path<String>,
    uri: Uri,
    body: Body,
) -> Result<Json<AlertAnswer>, ApiError> {
    let id = id.parse().map_err(|_| {
        ApiError::invalid("alert_id", format!("alert_id {:?} is no number of an alert", quoted(&id)))
    })?;
    acknowledged(&api, &identity, &uri, body, Some(id)).await
}

pub(super) async fn acknowledge(
    api: State<Arc<Api>>,
    identity: Extension<Identity>,
    uri: Uri,
    body: Body,
) -> Result<Json<AlertAnswer>, ApiError> {
    acknowledged(&api, &identity, &uri, body, None).await
}

async fn acknowledged(
    api: &Api,
    identity: &Identity,
    uri: &Uri,
    body: Body,
    id: Option<i64>,
) -> Result<Json<AlertAnswer>, ApiError> {
    Params::read(uri, &[])?;
    let own = may(identity, Role::Operator)?;
    let AcknowledgeBody { alert_id, acknowledged_by, notes } = read(body)?;
    let id = match (id, alert_id) {
        (Some(id), Some(other)) if id != other => {
            return Err(ApiError::invalid("alert_id", "alert_id: is not the one of the path"));
        }
        (Some(id), _) | (None, Some(id)) => id,
        (None, None) => return Err(ApiError::invalid("alert_id", "alert_id: is missing")),
    };
    for (field, text) in [("acknowledged_by", &acknowledged_by), ("notes", &notes)] {
        if text.len() > TEXT_BYTES_MAX || text.contains('\0') {
            let message = format!("{field}: use at most {TEXT_BYTES_MAX} bytes without U+0000");
            return Err(ApiError::invalid(field, message));
        }
    }
    let by = if acknowledged_by.is_empty() { own } else { acknowledged_by };
    let acted = (api.state.alert_acts)(AlertAct::Acknowledge { id, by, notes }).await;
    match acted.ok_or_else(|| ApiError::unavailable("the ledger cannot write now"))? {
        AlertActed::Acknowledged(alert) => Ok(Json(answer(*alert))),
        AlertActed::Missing => Err(ApiError::missing(format!("alert_id: there is no alert {id}"))),
        AlertActed::Resolved => Err(ApiError::conflict(format!("alert_id: {id} is resolved already"))),
        AlertActed::Done | AlertActed::NotOurs => Err(ApiError::internal()),
    }
}

fn answer(alert: Alert) -> AlertAnswer {
    let Alert { id, finding, state, acknowledged_by, notes, .. } = alert;
    let at = |at_ns: i64| (at_ns != 0).then(|| time(at_ns));
    AlertAnswer {
        id,
        account_id: finding.account,
        grant_id: finding.grant,
        rule: finding.rule,
        alert_type: finding.kind,
        severity: finding.severity.name(),
        threshold_value: finding.threshold,
        actual_value: finding.value,
        message: finding.message,
        triggered_at: time(alert.triggered_ns),
        acknowledged_at: at(alert.acknowledged_ns),
        acknowledged_by,
        notes,
        resolved_at: at(alert.resolved_ns),
        status: state.name(),
    }
}
