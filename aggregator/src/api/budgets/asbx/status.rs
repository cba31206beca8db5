//! `GET /api/v1/asbx/status`: how reports of jobs come in, by those that are kept. What no report says is null.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::Api;
use crate::api::budgets::exact;
use crate::api::cost::plain::Number;
use crate::api::error::ApiError;
use crate::api::inventory::time;
use crate::api::params::Params;
use crate::budgets::Outcome;
use crate::budgets::report::accuracy;
use crate::store::budgets::reports::{self, Kept};

/// Of the newest 10,000 reports.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct AsbxStatusAnswer {
    /// As the newest report that says it has it.
    asbx_version: Option<String>,
    /// Anything was ever reported.
    integration_enabled: bool,
    last_data_import: Option<String>,
    /// Each job once.
    total_jobs_reconciled: usize,
    successful_reconciliations: usize,
    /// Their holds had ended otherwise, or were other jobs'.
    failed_reconciliations: usize,
    /// Or only that of their array.
    jobs_without_hold: usize,
    /// Seconds from a job's end, by its report, to the end of its hold.
    average_reconciliation_time: Option<Number>,
    /// Mean of estimation_accuracy, 0 to 1.
    cost_model_accuracy: Option<Number>,
    /// What was reported of jobs, and what the ledger charged those, as texts.
    reported_cost: String,
    reported_local_cost: String,
    reported_aws_cost: String,
    charged_cost: String,
    last_health_check: String,
    /// healthy, or degraded: what is reported cannot be settled now
    health_status: &'static str,
}

pub(in crate::api) async fn status(
    State(api): State<Arc<Api>>,
    uri: Uri,
) -> Result<Json<AsbxStatusAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let kept = api.queries.run(|db, _| Ok(reports::all(db)?)).await?;
    let count = |outcome: Outcome| kept.iter().filter(|kept| kept.outcome == outcome).count();
    let settled = || kept.iter().filter(|kept| kept.outcome == Outcome::Settled);
    let waits = settled().filter_map(|Kept { at_ns, report, .. }| {
        Some(i128::from(*at_ns) - i128::from(report.ended_ns?)).filter(|wait_ns| *wait_ns >= 0)
    });
    let sum = |of: fn(&Kept) -> Option<i64>| exact(kept.iter().filter_map(of).map(i128::from).sum::<i128>());
    Ok(Json(AsbxStatusAnswer {
        asbx_version: kept.iter().rev().map(|kept| &kept.report.version).find(|of| !of.is_empty()).cloned(),
        integration_enabled: !kept.is_empty(),
        last_data_import: kept.iter().map(|kept| kept.at_ns).max().map(time),
        total_jobs_reconciled: kept.len(),
        successful_reconciliations: count(Outcome::Settled),
        failed_reconciliations: count(Outcome::Refused),
        jobs_without_hold: count(Outcome::NoHold),
        average_reconciliation_time: mean(waits).map(Number),
        cost_model_accuracy: mean(
            settled()
                .filter_map(|Kept { report, .. }| accuracy(report.estimated_nanos, report.charged_nanos)),
        )
        .map(Number),
        reported_cost: sum(|kept| kept.report.reported_nanos),
        reported_local_cost: sum(|kept| kept.report.local_nanos),
        reported_aws_cost: sum(|kept| kept.report.aws_nanos),
        charged_cost: sum(|kept| kept.report.charged_nanos),
        last_health_check: time(api.state.clock.wall_ns()),
        health_status: if (api.state.ready)().is_ok() { "healthy" } else { "degraded" },
    }))
}

/// `None` of nothing.
fn mean(values: impl Iterator<Item = i128>) -> Option<i128> {
    let (sum, count) = values.fold((0, 0), |(sum, count): (i128, i128), value| (sum + value, count + 1));
    sum.checked_div(count)
}
