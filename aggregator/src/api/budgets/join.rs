//! `POST /api/v1/holds/{transaction_id}/join`: a hold for more of a job, as more time, becomes one with the job's own.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::Uri;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Body, HoldAnswer, hold, may, read, transaction_of};
use crate::api::Api;
use crate::api::auth::Identity;
use crate::api::error::ApiError;
use crate::api::params::Params;
use crate::budgets::What;
use crate::store::tokens::Role;

#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::api) struct JoinBody {
    /// The transaction_id of the job's own hold, which is answered as it is then.
    into: String,
}

pub(in crate::api) async fn join(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    uri: Uri,
    body: Body,
) -> Result<Json<HoldAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Gate)?;
    let JoinBody { into } = read(body)?;
    let into = transaction_of(&into).map_err(|_| {
        ApiError::invalid("into", "into: is no transaction_id; they are txn_ and 32 hex digits")
    })?;
    let own = hold(&api, What::Join { transaction: transaction_of(&id)?, into }, by).await?;
    Ok(Json(HoldAnswer::of(&own)))
}
