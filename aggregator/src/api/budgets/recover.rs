//! `POST /api/v1/holds/recover`: ends holds that were left behind, before their lease is over.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Body, act, exact, may, read};
use crate::api::Api;
use crate::api::auth::Identity;
use crate::api::error::ApiError;
use crate::api::inventory::time;
use crate::api::params::Params;
use crate::budgets::{Acted, Hold, Orphans, Subject, What};
use crate::store::tokens::Role;

const S: i64 = 1_000_000_000;
/// An hour: longer than any usage is late of an agent that is there.
const SILENT_SECONDS: u32 = 3600;

#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::api) struct RecoverBody {
    /// For so long nobody renewed it, nor did its job use anything; 900 at least, 3600 unless told.
    #[serde(default)]
    silent_seconds: Option<u32>,
    /// Also of jobs and pods that were never seen to use anything: they may wait in a queue.
    #[serde(default)]
    waiting: Option<bool>,
    /// Of this account and those below it alone.
    #[serde(default)]
    account: Option<String>,
    /// Only says what would be done.
    #[serde(default)]
    dry_run: Option<bool>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct RecoverAnswer {
    dry_run: bool,
    recovered_count: usize,
    /// What the holds reserved no longer, as text.
    released: String,
    /// There are more than are done at once: ask again.
    more: bool,
    holds: Vec<Recovered>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Recovered {
    transaction_id: String,
    account_id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_uid: Option<String>,
    /// What it ends in: settled or expired
    state: &'static str,
    amount: String,
    charged: String,
    released: String,
    /// When anything was heard of it last.
    heard_at: String,
}

pub(in crate::api) async fn recover(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    uri: Uri,
    body: Body,
) -> Result<Json<RecoverAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Operator)?;
    let RecoverBody { silent_seconds, waiting, account, dry_run } = read(body)?;
    let dry_run = dry_run.unwrap_or(false);
    let silent_ns = i64::from(silent_seconds.unwrap_or(SILENT_SECONDS)) * S;
    let orphans = Orphans { silent_ns, waiting: waiting.unwrap_or(false), account, dry_run };
    let Acted::Recovered(holds, more) = act(&api, What::Recover(orphans), by).await? else {
        return Err(ApiError::internal());
    };
    let released: i128 = holds.iter().map(|(hold, _)| hold.reserved_nanos()).sum();
    let recovered = |(hold, state): &(Hold, crate::budgets::State)| {
        let (job_id, pod_uid) = match hold.subject.clone() {
            Some(Subject::Job(id)) => (Some(id), None),
            Some(Subject::Pod(uid)) => (None, Some(uid)),
            None => (None, None),
        };
        Recovered {
            transaction_id: hold.transaction_id(),
            account_id: hold.account,
            job_id,
            pod_uid,
            state: state.name(),
            amount: exact(hold.amount_nanos),
            charged: exact(hold.charged_nanos),
            released: exact(hold.reserved_nanos()),
            heard_at: time(hold.heard_ns()),
        }
    };
    Ok(Json(RecoverAnswer {
        dry_run,
        recovered_count: holds.len(),
        released: exact(released),
        more,
        holds: holds.iter().map(recovered).collect(),
    }))
}
