//! `POST /api/v1/holds`: a hold of a given amount, whether there is enough or not, for work that another system holds for already. For an
//! operator who moves here from there: checks price by the book, and what is held elsewhere is so much and no other.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Deserialize;

use super::request::Money;
use super::{Body, HoldAnswer, hold, may, read};
use crate::api::Api;
use crate::api::auth::Identity;
use crate::api::error::ApiError;
use crate::api::params::Params;
use crate::budgets::What;
use crate::budgets::hold::{Ask, LEASE_NS, Subject};
use crate::store::tokens::Role;

const S: i64 = 1_000_000_000;

#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::api) struct GivenBody {
    /// The same key is the same hold, however often it is given.
    idempotency_key: String,
    /// Slurm's account.
    account: String,
    amount: Money,
    #[serde(default)]
    partition: String,
    #[serde(default)]
    user_id: String,
    /// Where usage comes from one cluster, that one unless told.
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    job_id: Option<String>,
    /// For how long it is held with nothing heard of it: a day unless told.
    #[serde(default)]
    lease_seconds: Option<u32>,
    #[serde(default)]
    job_details: BTreeMap<String, String>,
}

pub(in crate::api) async fn give(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    uri: Uri,
    body: Body,
) -> Result<Json<HoldAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Operator)?;
    let body: GivenBody = read(body)?;
    if body.idempotency_key.is_empty() {
        let message = "idempotency_key: is empty; name the hold by what it is where it is held now";
        return Err(ApiError::invalid("idempotency_key", message));
    }
    let ask = Ask {
        key: body.idempotency_key,
        cluster: body.cluster,
        account: body.account,
        partition: body.partition,
        user: body.user_id,
        lease_ns: body.lease_seconds.map_or(LEASE_NS, |seconds| i64::from(seconds) * S),
        subject: body.job_id.filter(|id| !id.is_empty()).map(Subject::Job),
        details: body.job_details,
        given_nanos: Some(body.amount.0),
        ..Ask::default()
    };
    Ok(Json(HoldAnswer::of(&hold(&api, What::Check(Box::new(ask)), by).await?)))
}
