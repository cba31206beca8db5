//! `/api/v1/allocations`: budgets that come in parts at dates, under the names of their clients (docs/budgets.md).

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::{Extension, Json};
use jiff::civil::Date;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::request::Money;
use super::{Body, act, exact, may, read};
use crate::api::Api;
use crate::api::auth::Identity;
use crate::api::cost::plain::Number;
use crate::api::error::{ApiError, quoted};
use crate::api::inventory::time;
use crate::api::orders;
use crate::api::params::Params;
use crate::budgets::allocation::{Frequency, Part, Schedule, Standing, Step};
use crate::budgets::{Account, Acted, Change, Tree, What};
use crate::metrics::allocations::Run;
use crate::store::budgets as stored;
use crate::store::tokens::Role;

pub(in crate::api) const LIST_PARAMETERS: [&str; 1] = ["account"];
/// An id is that of the account and the schedule's place in it, of which there are fewer (`SCHEDULES_MAX`).
const PLACES: i64 = 100;

#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(in crate::api) struct ScheduleBody {
    /// Whose it is; of a new account its own.
    #[serde(default)]
    account: Option<String>,
    /// All parts together.
    total_budget: Money,
    /// One part.
    allocation_amount: Money,
    allocation_frequency: Frequency,
    /// Of the first part: 2026-01-31, or the day of a time.
    start_date: String,
    /// No part comes on that day or later.
    #[serde(default)]
    end_date: Option<String>,
    /// Parts come by themselves; true unless told.
    #[serde(default)]
    auto_allocate: Option<bool>,
    /// Of the IANA database, UTC unless told: parts come at midnight there.
    #[serde(default)]
    zone: Option<String>,
}

/// Which schedules are processed: all, those of an account, or one.
#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::api) struct ProcessBody {
    #[serde(default)]
    account_id: Option<i64>,
    #[serde(default)]
    schedule_id: Option<i64>,
    /// Only says what would be done.
    #[serde(default)]
    dry_run: Option<bool>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct AllocationAnswer {
    id: i64,
    account_id: i64,
    account: String,
    total_budget: Number,
    allocation_amount: Number,
    allocation_frequency: Frequency,
    start_date: String,
    end_date: Option<String>,
    /// Midnight of its zone; null if none comes.
    next_allocation_date: Option<String>,
    allocated_to_date: Number,
    remaining_budget: Number,
    /// active, paused, completed, cancelled
    status: &'static str,
    auto_allocate: bool,
    zone: String,
    /// Parts whose date is over and that wait for somebody's word.
    due_amount: Number,
    exact: Exact,
    /// The parts that have come, oldest first; of one schedule alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<Vec<PartAnswer>>,
}

/// The same amounts as texts.
#[derive(Debug, Serialize, JsonSchema)]
struct Exact {
    total_budget: String,
    allocation_amount: String,
    allocated_to_date: String,
    remaining_budget: String,
    due_amount: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PartAnswer {
    date: String,
    amount: String,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct ProcessAnswer {
    processed_count: usize,
    total_allocated: Number,
    allocations: Vec<Processed>,
    dry_run: bool,
    exact: ProcessExact,
}

/// The same amount as text.
#[derive(Debug, Serialize, JsonSchema)]
struct ProcessExact {
    total_allocated: String,
}

/// The same amount as text.
#[derive(Debug, Serialize, JsonSchema)]
struct ProcessedExact {
    allocated_amount: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Processed {
    schedule_id: i64,
    account_id: i64,
    allocated_amount: Number,
    /// The schedule, and until when its parts have come: the same part has the same.
    transaction_id: String,
    exact: ProcessedExact,
}

impl ScheduleBody {
    pub(super) fn schedule(self) -> Result<Schedule, ApiError> {
        if self.account.is_some() {
            let message = "account: of a new account a schedule is its own; leave it out";
            return Err(ApiError::invalid("account", message));
        }
        let zone = self.zone.unwrap_or_else(|| "UTC".to_owned());
        Ok(Schedule {
            total_nanos: self.total_budget.0,
            part_nanos: self.allocation_amount.0,
            frequency: self.allocation_frequency,
            first: date("start_date", &self.start_date, &zone)?,
            end: self.end_date.map(|end| date("end_date", &end, &zone)).transpose()?,
            automatic: self.auto_allocate.unwrap_or(true),
            zone,
            decisions: Vec::new(),
        })
    }
}

/// A date, or that of a time in a zone.
fn date(field: &'static str, text: &str, zone: &str) -> Result<Date, ApiError> {
    let of_time = || {
        let at = text.parse::<jiff::Timestamp>().ok()?.as_nanosecond();
        crate::budgets::period::date(i64::try_from(at).ok()?, zone)
    };
    // A time is no date, though it begins with one.
    let plain = (text.len() == 10).then(|| text.parse::<Date>().ok()).flatten();
    plain.or_else(of_time).ok_or_else(|| {
        let message = format!(
            "{field} {:?} is not a date such as 2026-01-31, nor a time as RFC 3339 has it",
            quoted(text)
        );
        ApiError::invalid(field, message)
    })
}

pub(in crate::api) async fn list(
    State(api): State<Arc<Api>>,
    uri: Uri,
) -> Result<Json<Vec<AllocationAnswer>>, ApiError> {
    let mut params = Params::read(&uri, &LIST_PARAMETERS)?;
    let name = params.take("account");
    let (tree, now_ns) = (tree(&api).await?, api.state.clock.wall_ns());
    if let Some(name) = name.as_ref().filter(|name| tree.by_name(name).is_none()) {
        return Err(super::accounts::missing(name));
    }
    let own = tree.accounts().filter(|account| name.as_ref().is_none_or(|name| account.spec.name == *name));
    let all = own.flat_map(|account| account.spec.schedules.iter().enumerate().map(move |of| (account, of)));
    Ok(Json(all.map(|(account, (place, schedule))| answer(account, place, schedule, now_ns)).collect()))
}

pub(in crate::api) async fn one(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    uri: Uri,
) -> Result<Json<AllocationAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    shown(&api, orders::number(&id)?).await.map(Json)
}

pub(in crate::api) async fn create(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    uri: Uri,
    body: Body,
) -> Result<(StatusCode, Json<AllocationAnswer>), ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Operator)?;
    let mut schedule: ScheduleBody = read(body)?;
    let Some(account) = schedule.account.take() else {
        return Err(ApiError::invalid("account", "account: say whose schedule it is"));
    };
    let change = Change::Schedule { account, schedule: Box::new(schedule.schedule()?) };
    let account = changed(&api, change, by).await?;
    let place = account.spec.schedules.len().saturating_sub(1);
    Ok((StatusCode::CREATED, Json(shown(&api, id_of(&account, place)).await?)))
}

pub(in crate::api) async fn decide(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    Path(id): Path<String>,
    uri: Uri,
    step: Step,
) -> Result<Json<AllocationAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Operator)?;
    let id = orders::number(&id)?;
    let tree = tree(&api).await?;
    let (account, place, _) = found(&tree, id)?;
    changed(&api, Change::Decide { account: account.spec.name.clone(), schedule: place, step }, by).await?;
    shown(&api, id).await.map(Json)
}

pub(in crate::api) async fn process(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    uri: Uri,
    body: Body,
) -> Result<Json<ProcessAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Operator)?;
    let body: ProcessBody = read(body)?;
    let done = processed(&api, body, by).await;
    api.state.metrics.allocations.ran(match &done {
        Err(_) => Run::Failed,
        Ok(done) if done.dry_run => Run::Dry,
        Ok(done) if done.processed_count > 0 => Run::Allocated,
        Ok(_) => Run::NothingDue,
    });
    done.map(Json)
}

async fn processed(api: &Api, body: ProcessBody, by: String) -> Result<ProcessAnswer, ApiError> {
    let ProcessBody { account_id, schedule_id, dry_run } = body;
    let dry_run = dry_run.unwrap_or(false);
    let (tree, now_ns) = (tree(api).await?, api.state.clock.wall_ns());
    if let Some(id) = account_id.filter(|id| tree.by_id(*id).is_none()) {
        return Err(ApiError::missing(format!("account_id: there is no account {id}")));
    }
    if let Some(id) = schedule_id {
        found(&tree, id)?;
    }
    let mut total_nanos = 0;
    let mut allocations = Vec::new();
    for account in tree.accounts().filter(|account| account.closed_ns.is_none()) {
        for (place, schedule) in account.spec.schedules.iter().enumerate() {
            let id = id_of(account, place);
            let own =
                account_id.is_none_or(|own| own == account.id) && schedule_id.is_none_or(|own| own == id);
            let mut nanos = schedule.due_nanos(now_ns);
            if !own || nanos == 0 {
                continue;
            }
            let mut until_ns = now_ns;
            if !dry_run {
                let name = account.spec.name.clone();
                let change = Change::Decide { account: name, schedule: place, step: Step::Allocate };
                // What was processed in between by somebody else is a conflict: then nothing of it is due.
                let after = changed(api, change, by.clone()).await?;
                let Some(after) = after.spec.schedules.get(place) else { return Err(ApiError::internal()) };
                until_ns = after.decisions.last().map_or(now_ns, |decision| decision.at_ns);
                nanos = after.allocated_nanos(until_ns) - schedule.allocated_nanos(now_ns);
            }
            total_nanos += i128::from(nanos);
            allocations.push(Processed {
                schedule_id: id,
                account_id: account.id,
                allocated_amount: Number(i128::from(nanos)),
                transaction_id: format!("alloc_{id}_{}", until_ns / 1_000_000_000),
                exact: ProcessedExact { allocated_amount: exact(nanos) },
            });
        }
    }
    Ok(ProcessAnswer {
        processed_count: allocations.len(),
        total_allocated: Number(total_nanos),
        allocations,
        dry_run,
        exact: ProcessExact { total_allocated: exact(total_nanos) },
    })
}

async fn changed(api: &Api, change: Change, by: String) -> Result<Account, ApiError> {
    match act(api, What::Account(change), by).await? {
        Acted::Account(account) => Ok(*account),
        _ => Err(ApiError::internal()),
    }
}

async fn tree(api: &Api) -> Result<Tree, ApiError> {
    api.queries.run(|db, _| Ok(stored::tree(db)?)).await
}

async fn shown(api: &Api, id: i64) -> Result<AllocationAnswer, ApiError> {
    let now_ns = api.state.clock.wall_ns();
    let tree = tree(api).await?;
    let (account, place, schedule) = found(&tree, id)?;
    let part = |part: Part| PartAnswer { date: time(part.due_ns), amount: exact(part.nanos) };
    let history = schedule.history(now_ns).into_iter().map(part).collect();
    Ok(AllocationAnswer { history: Some(history), ..answer(account, place, schedule, now_ns) })
}

fn found(tree: &Tree, id: i64) -> Result<(&Account, usize, &Schedule), ApiError> {
    let place = usize::try_from(id.rem_euclid(PLACES)).unwrap_or(usize::MAX);
    let account = tree.by_id(id.div_euclid(PLACES));
    let schedule = account.and_then(|account| Some((account, place, account.spec.schedules.get(place)?)));
    schedule.ok_or_else(|| ApiError::missing(format!("id: there is no schedule {id}")))
}

fn id_of(account: &Account, place: usize) -> i64 {
    account.id * PLACES + i64::try_from(place).unwrap_or(0)
}

fn answer(account: &Account, place: usize, schedule: &Schedule, now_ns: i64) -> AllocationAnswer {
    let number = |nanos: i64| Number(i128::from(nanos));
    let allocated = schedule.allocated_nanos(now_ns);
    let standing = schedule.standing(now_ns);
    let remaining = if standing == Standing::Cancelled { 0 } else { schedule.total_nanos - allocated };
    let due = schedule.due_nanos(now_ns);
    AllocationAnswer {
        id: id_of(account, place),
        account_id: account.id,
        account: account.spec.name.clone(),
        total_budget: number(schedule.total_nanos),
        allocation_amount: number(schedule.part_nanos),
        allocation_frequency: schedule.frequency,
        start_date: schedule.first.to_string(),
        end_date: schedule.end.map(|end| end.to_string()),
        next_allocation_date: schedule.next_ns(now_ns).map(time),
        allocated_to_date: number(allocated),
        remaining_budget: number(remaining),
        status: standing.name(),
        auto_allocate: schedule.automatic,
        zone: schedule.zone.clone(),
        due_amount: number(due),
        exact: Exact {
            total_budget: exact(schedule.total_nanos),
            allocation_amount: exact(schedule.part_nanos),
            allocated_to_date: exact(allocated),
            remaining_budget: exact(remaining),
            due_amount: exact(due),
        },
        history: None,
    }
}
