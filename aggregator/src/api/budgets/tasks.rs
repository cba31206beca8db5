//! `POST /api/v1/holds/{transaction_id}/tasks`: of which jobs a hold also is, as a gate sees an array's tasks in Slurm.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::Uri;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Body, HoldAnswer, act, may, read, transaction_of};
use crate::api::Api;
use crate::api::auth::Identity;
use crate::api::error::ApiError;
use crate::api::params::Params;
use crate::budgets::{Acted, What};
use crate::store::tokens::Role;

#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::api) struct TasksBody {
    /// Slurm's ids of tasks, each its own; at most 200 at once. Those that were named before may be among them.
    job_ids: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct TasksAnswer {
    #[serde(flatten)]
    hold: HoldAnswer,
    /// Jobs that it is now of, besides its own.
    tasks: usize,
    /// Of those that were named: they have an open hold of their own, or are of another one.
    elsewhere: Vec<String>,
}

pub(in crate::api) async fn name(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    uri: Uri,
    body: Body,
) -> Result<Json<TasksAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Gate)?;
    let TasksBody { job_ids } = read(body)?;
    let what = What::Tasks { transaction: transaction_of(&id)?, jobs: job_ids };
    let Acted::Tasks(hold, named) = act(&api, what, by).await? else {
        return Err(ApiError::internal());
    };
    Ok(Json(TasksAnswer { hold: HoldAnswer::of(&hold), tasks: named.count, elsewhere: named.elsewhere }))
}
