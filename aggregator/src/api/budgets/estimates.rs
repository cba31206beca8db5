//! `GET /api/v1/analytics/estimates`: what work of each account, partition and model typically costs, as a part of what its holds said that
//! it may cost.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use schemars::JsonSchema;
use serde::Serialize;

use super::accounts::{LIMIT_MAX, missing};
use super::burn::HEALTH_PARAMETERS;
use crate::api::Api;
use crate::api::cost::plain::Number;
use crate::api::error::ApiError;
use crate::api::params::Params;
use crate::budgets::Account;
use crate::budgets::account::Estimate;
use crate::budgets::estimate::{Ratio, SAMPLES_MAX, Sample};
use crate::store::budgets as stored;
use crate::store::query::QueryError;

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct EstimateAnswer {
    account: String,
    partition: String,
    /// As it was asked for; empty for any.
    gpu_model: String,
    /// Settled holds that it is of, 20 at most.
    samples: usize,
    /// Median of charged / estimated; null of fewer than five.
    typical_ratio: Option<Number>,
    /// What holds of the account go by: price, or measured.
    estimate: Estimate,
}

pub(in crate::api) async fn estimates(
    State(api): State<Arc<Api>>,
    uri: Uri,
) -> Result<Json<Vec<EstimateAnswer>>, ApiError> {
    let mut params = Params::read(&uri, &HEALTH_PARAMETERS)?;
    let limit = params.take_count("limit", LIMIT_MAX, LIMIT_MAX)?;
    let offset = super::transactions::offset(&mut params)?;
    let name = params.take("account");
    let answers = api.queries.run(move |db, expired| {
        let tree = stored::tree(db)?;
        if let Some(name) = name.as_ref().filter(|name| tree.by_name(name).is_none()) {
            return Ok(Err(name.clone()));
        }
        let own = |account: &&Account| {
            name.as_ref().map_or(account.closed_ns.is_none(), |name| account.spec.name == *name)
        };
        let mut answers = Vec::new();
        for account in tree.accounts().filter(own).skip(offset).take(limit) {
            if expired() {
                return Err(QueryError::Expired);
            }
            answers.extend(of(account, &stored::samples(db, account.id)?));
        }
        Ok(Ok(answers))
    });
    answers.await?.map(Json).map_err(|name| missing(&name))
}

/// `samples`: of the account, newest first.
fn of(account: &Account, samples: &[Sample]) -> Vec<EstimateAnswer> {
    let mut parts: BTreeMap<(&str, &str), Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        parts.entry((sample.partition.as_str(), sample.model.as_str())).or_default().push(sample);
    }
    let answer = |((partition, model), of): ((&str, &str), Vec<&Sample>)| EstimateAnswer {
        account: account.spec.name.clone(),
        partition: partition.to_owned(),
        gpu_model: model.to_owned(),
        samples: of.len().min(SAMPLES_MAX),
        typical_ratio: Ratio::median(of.into_iter()).map(|ratio| Number(ratio.billionths())),
        estimate: account.spec.estimate,
    };
    parts.into_iter().map(answer).collect()
}
