//! `POST /api/v1/usage/jobs`: what jobs without GPUs ran for, as a gate reads it of Slurm's accounting (docs/budgets.md).
//!
//! Statements are of all of a run until now, so the same may be sent again, whatever became of it before.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tonnage_proto::limits::NAME_BYTES_MAX;

use super::{Body, act, may, read};
use crate::api::Api;
use crate::api::auth::Identity;
use crate::api::error::ApiError;
use crate::api::params::Params;
use crate::budgets::run::{RUNS_MAX, Report, Run};
use crate::budgets::{Acted, BudgetError, What};
use crate::store::tokens::Role;

#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::api) struct JobsBody {
    cluster: String,
    /// Everything that ran until then is stated with this, in Unix seconds; not there while there is more to come.
    #[serde(default)]
    until_s: Option<i64>,
    /// At most 50 at once.
    #[serde(default)]
    jobs: Vec<JobBody>,
}

/// One start of a job without GPUs: all of it until now.
#[derive(Debug, Deserialize, JsonSchema)]
struct JobBody {
    /// Slurm's own; a task of an array has one of its own.
    job_id: String,
    /// Unix seconds.
    start_s: i64,
    /// When it ended; while it runs, until when it is known to.
    end_s: i64,
    ended: bool,
    cpus: u64,
    memory_bytes: u64,
    #[serde(default)]
    account: String,
    #[serde(default)]
    user: String,
    #[serde(default)]
    partition: String,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct JobsAnswer {
    /// The first so many were looked at; the rest is to be sent again.
    taken: usize,
    /// Of how many anything was new.
    changed: usize,
    refused: Vec<RefusedJob>,
    /// Until when everything of this cluster is stated, in Unix seconds; 0 before the first whole report.
    until_s: i64,
    /// Jobs that are not known to have ended, and of which nothing was stated for an hour: ask Slurm for them by their ids.
    missing: Vec<String>,
}

/// A statement that cannot be so; the others are taken.
#[derive(Debug, Serialize, JsonSchema)]
struct RefusedJob {
    job_id: String,
    field: &'static str,
    message: String,
}

pub(in crate::api) async fn report(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    uri: Uri,
    body: Body,
) -> Result<Json<JobsAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Gate)?;
    let JobsBody { cluster, until_s, jobs } = read(body)?;
    if cluster.is_empty() || cluster.len() > NAME_BYTES_MAX || cluster.chars().any(char::is_control) {
        let message = format!("cluster: has to have 1 to {NAME_BYTES_MAX} bytes, and no control characters");
        return Err(ApiError::invalid("cluster", message));
    }
    if jobs.len() > RUNS_MAX {
        let message = format!("jobs: {} at once; send at most {RUNS_MAX}", jobs.len());
        return Err(ApiError::invalid("jobs", message));
    }
    if until_s.is_some_and(|until_s| until_s <= 0) {
        return Err(ApiError::invalid("until_s", "until_s: is not a time in Unix seconds"));
    }
    let runs: Vec<Run> = jobs.into_iter().map(run).collect();
    let ids: Vec<String> = runs.iter().map(|run| run.job_id.chars().take(80).collect()).collect();
    let report = Report { cluster, until_s: until_s.unwrap_or(0), runs };
    let Acted::Ran(told) = act(&api, What::Ran(report), by).await? else {
        return Err(ApiError::internal());
    };
    let refused = told.refused.into_iter().map(|(at, error)| {
        let (field, message) = match error {
            BudgetError::Invalid { field, reason } => (field, reason),
            BudgetError::NotFound(text) | BudgetError::Conflict(text) => ("job_id", text),
        };
        RefusedJob { job_id: ids.get(at).cloned().unwrap_or_default(), field, message }
    });
    Ok(Json(JobsAnswer {
        taken: told.taken,
        changed: told.changed,
        refused: refused.collect(),
        until_s: told.until_s,
        missing: told.missing,
    }))
}

fn run(job: JobBody) -> Run {
    let JobBody { job_id, start_s, end_s, ended, cpus, memory_bytes, account, user, partition } = job;
    Run { job_id, start_s, end_s, ended, cpus, memory_bytes, account, user, partition }
}
