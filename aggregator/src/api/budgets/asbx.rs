//! `POST /api/v1/asbx/reconcile`, `asbx/epilog` and `GET /api/v1/asbx/status`: what a bursting service and a scheduler's epilogs
//! report of jobs that have ended, under the names that they use.
//!
//! A report settles the hold of its job, and is kept to be compared. What the job cost is what the ledger charged, whatever is reported.
//! The same report again is the same answer. A job without a hold is no error: epilogs run for every job, and one that fails
//! may drain its node.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::Deserialize;

use super::request::Money;
use super::{Body, act, may, read};
use crate::api::Api;
use crate::api::auth::Identity;
use crate::api::error::ApiError;
use crate::api::params::Params;
use crate::budgets::hold::{check_subject, transaction};
use crate::budgets::report::JobNames;
use crate::budgets::{Acted, BudgetError, Hold, Report, Reported, Subject, What};
use crate::store::budgets::{self as stored, Listed};
use crate::store::tokens::Role;

mod answers;
mod loose;
pub(in crate::api) mod status;

pub(in crate::api) use answers::{EpilogAnswer, ReconciledAnswer};
use loose::Loose;

/// A hold that was moved here has its former id in its key.
pub(super) const MOVED: &str = "asbb:";
/// Holds of one job that are looked at, newest first.
const OF_ONE_JOB_MAX: usize = 100;

/// What a bursting service reports of a job. Fields that are not here are let be.
#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::api) struct AsbxReconcileBody {
    job_cost_data: JobCostData,
    /// false only keeps the report.
    #[serde(default)]
    auto_reconcile: Option<bool>,
    /// Reports are made by `tonnage report`, so this is answered with a warning.
    #[serde(default)]
    generate_report: Option<bool>,
    /// Who is told of what is said in the file of alerts, so this is answered with a warning.
    #[serde(default)]
    notify_stakeholders: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct JobCostData {
    #[serde(default)]
    job_id: Loose,
    /// Slurm's own number, of an array's task too.
    #[serde(default)]
    slurm_job_id: Loose,
    /// Needed where usage comes from several.
    #[serde(default)]
    cluster: Loose,
    #[serde(default)]
    account: Loose,
    #[serde(default)]
    completed_at: Loose,
    /// Compared with what the ledger charged, and never charged itself; so are the next two.
    #[serde(default)]
    actual_cost: Option<Money>,
    #[serde(default)]
    local_cost: Option<Money>,
    #[serde(default)]
    aws_cost: Option<Money>,
    /// The hold; without it, that of the job.
    #[serde(default)]
    budget_transaction_id: Loose,
    #[serde(default)]
    plugin_version: Loose,
}

/// What an epilog reports of a job. Fields that are not here are let be.
#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::api) struct EpilogBody {
    job_id: Loose,
    /// Slurm's own number, of an array's task too.
    #[serde(default)]
    slurm_job_id: Loose,
    #[serde(default)]
    cluster: Loose,
    #[serde(default)]
    account: Loose,
    /// RFC 3339, or seconds since 1970.
    #[serde(default)]
    end_time: Loose,
}

/// What somebody says of a job.
struct Said {
    names: JobNames,
    transaction: String,
    settles: bool,
    account: String,
    report: Report,
}

/// What became of it.
struct Done {
    job: String,
    hold: Option<Hold>,
    reported: Report,
    /// Why nothing was settled, if so.
    unsettled: Option<String>,
    /// The hold is there, and cannot be settled.
    refused: bool,
    warnings: Vec<String>,
}

pub(in crate::api) async fn reconcile(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    uri: Uri,
    body: Body,
) -> Result<Json<ReconciledAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Gate)?;
    let AsbxReconcileBody { job_cost_data: job, auto_reconcile, generate_report, notify_stakeholders } =
        read(body)?;
    let nanos = |money: Option<Money>| money.map(|Money(nanos)| nanos);
    let report = Report {
        cluster: job.cluster.0,
        ended_ns: job.completed_at.at_ns(),
        reported_nanos: nanos(job.actual_cost),
        local_nanos: nanos(job.local_cost),
        aws_nanos: nanos(job.aws_cost),
        version: job.plugin_version.0,
        ..Report::default()
    };
    let said = Said {
        names: JobNames::of(&[&job.job_id.0, &job.slurm_job_id.0]),
        transaction: job.budget_transaction_id.0,
        settles: auto_reconcile != Some(false),
        account: job.account.0,
        report,
    };
    let mut done = take(&api, said, by).await?;
    let asked = |asked: Option<bool>| asked == Some(true);
    for (asked, warning) in [
        (asked(generate_report), "generate_report: no report is made by this; tonnage report makes them"),
        (
            asked(notify_stakeholders),
            "notify_stakeholders: nobody is told by this; alerts tell those that they name",
        ),
    ] {
        done.warnings.extend(asked.then(|| warning.to_owned()));
    }
    Ok(Json(ReconciledAnswer::of(&done)))
}

pub(in crate::api) async fn epilog(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    uri: Uri,
    body: Body,
) -> Result<Json<EpilogAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Gate)?;
    let body = body.map(|bytes| match std::str::from_utf8(&bytes) {
        Ok(text) if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() => {
            loose::mended(text).into()
        }
        _ => bytes,
    });
    let EpilogBody { job_id, slurm_job_id, cluster, account, end_time } = read(body)?;
    let report = Report { cluster: cluster.0, ended_ns: end_time.at_ns(), ..Report::default() };
    let said = Said {
        names: JobNames::of(&[&job_id.0, &slurm_job_id.0]),
        transaction: String::new(),
        settles: true,
        account: account.0,
        report,
    };
    Ok(Json(EpilogAnswer::of(&take(&api, said, by).await?, job_id.0)))
}

/// Finds the hold, settles it, and keeps what was said.
async fn take(api: &Api, said: Said, by: String) -> Result<Done, ApiError> {
    let Said { names, transaction, settles, account, mut report } = said;
    check(&names, &transaction, &report)?;
    let wanted = (names.clone(), transaction.clone(), report.cluster.clone());
    let found = api.queries.run(move |db, _| Ok(find(db, &wanted.0, &wanted.1, &wanted.2)?)).await?;
    let mut warnings = Vec::new();
    let (hold, mut unsettled) = match found {
        Found::One(hold) if settles => (Some(*hold), None),
        Found::One(hold) => {
            (Some(*hold), Some("auto_reconcile is false: the report is kept, nothing is settled".to_owned()))
        }
        Found::Array(hold) => {
            let id = hold.transaction_id();
            (None, Some(format!("{id} is the hold of the whole array, and is settled when that has ended")))
        }
        Found::None => (None, Some("the job has no hold: there is nothing to settle".to_owned())),
        Found::Several => {
            let message = "cluster: is not there, and jobs of several have this id; say which one";
            return Err(ApiError::invalid("cluster", message));
        }
    };
    if !transaction.is_empty() && hold.as_ref().is_some_and(|hold| !is_named(hold, &transaction)) {
        warnings.push("budget_transaction_id: there is no such hold; that of the job is meant".to_owned());
    }
    if let Some(hold) = hold.as_ref().filter(|hold| !account.is_empty() && hold.ask.account != account) {
        warnings.push(format!("account: the hold is of {:?}", hold.ask.account));
    }
    let own = names.own.first().cloned().unwrap_or_default();
    let subject = hold.as_ref().and_then(|hold| binds(hold, &names));
    report.job = own.clone();
    if let Some(hold) = &hold {
        report.cluster.clone_from(&hold.ask.cluster);
    }
    let of = hold.as_ref().map(|hold| hold.transaction);
    let reported = Reported { hold: of, settles, subject, report: report.clone() };
    let Acted::Reported(settled) = act(api, What::Report(Box::new(reported)), by).await? else {
        return Err(ApiError::internal());
    };
    let (hold, refused) = match settled {
        Some(Ok(hold)) => (Some(*hold), false),
        Some(Err(BudgetError::Conflict(text) | BudgetError::NotFound(text))) => {
            unsettled = Some(text);
            (hold, true)
        }
        Some(Err(error)) => return Err(super::refused(error)),
        None => (hold, false),
    };
    Ok(Done { job: own, hold, reported: report, unsettled, refused, warnings })
}

/// Is what was said of a job enough to find it, and short enough to be kept?
fn check(names: &JobNames, transaction: &str, report: &Report) -> Result<(), ApiError> {
    if names.own.is_empty() && transaction.is_empty() {
        return Err(ApiError::invalid("job_id", "job_id: is not there; give it, or budget_transaction_id"));
    }
    let texts = [
        ("budget_transaction_id", transaction),
        ("cluster", report.cluster.as_str()),
        ("plugin_version", report.version.as_str()),
    ];
    let ids = names.own.iter().chain(&names.array).map(|name| ("job_id", name.as_str()));
    for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()).chain(ids) {
        check_subject(text).map_err(|_| {
            ApiError::invalid(field, format!("{field}: has to have at most 256 bytes, and no U+0000"))
        })?;
    }
    Ok(())
}

/// The hold of a job.
enum Found {
    One(Box<Hold>),
    /// That of the array that it is a task of.
    Array(Box<Hold>),
    None,
    /// One on each of several clusters.
    Several,
}

fn find(
    db: &crate::store::Connection,
    names: &JobNames,
    transaction_id: &str,
    cluster: &str,
) -> Result<Found, crate::store::StoreError> {
    if let Some(hold) = by_name(db, transaction_id)? {
        return Ok(Found::One(Box::new(hold)));
    }
    for name in names.own.iter().chain(&names.array) {
        let listed = Listed { subject: Some(name.clone()), ..Listed::default() };
        let job = Some(Subject::Job(name.clone()));
        let mut holds = stored::holds(db, &listed, OF_ONE_JOB_MAX, 0)?;
        holds.retain(|hold| hold.subject == job && hold.refusal.is_none());
        holds.retain(|hold| cluster.is_empty() || hold.ask.cluster == cluster);
        let open = holds.iter().position(|hold| hold.ended_ns == 0).unwrap_or(0);
        if holds.iter().any(|hold| hold.ask.cluster != holds[0].ask.cluster) {
            return Ok(Found::Several);
        }
        if open < holds.len() {
            let hold = Box::new(holds.swap_remove(open));
            let task = names.array.as_ref() == Some(name) || (hold.is_of_array() && !names.whole);
            return Ok(if task { Found::Array(hold) } else { Found::One(hold) });
        }
    }
    Ok(Found::None)
}

/// The hold of an id: ours, or that which it had where it was before.
pub(super) fn by_name(
    db: &crate::store::Connection,
    id: &str,
) -> Result<Option<Hold>, crate::store::StoreError> {
    match transaction(id) {
        Some(transaction) => stored::hold_by_transaction(db, &transaction),
        None if id.is_empty() || id.contains('\0') => Ok(None),
        None => stored::hold_by_key(db, &format!("{MOVED}{id}")),
    }
}

fn is_named(hold: &Hold, id: &str) -> bool {
    hold.transaction_id() == id || hold.ask.key.strip_prefix(MOVED) == Some(id)
}

/// The job that a hold is to be bound to. One that is another job's is to be refused for that.
fn binds(hold: &Hold, names: &JobNames) -> Option<Subject> {
    let own = names.own.first()?;
    match &hold.subject {
        Some(Subject::Job(job)) if names.own.contains(job) || names.array.as_ref() == Some(job) => None,
        _ => Some(Subject::Job(own.clone())),
    }
}
