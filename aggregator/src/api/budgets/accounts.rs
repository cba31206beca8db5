//! `/api/v1/accounts`: what there is, what is left, and changes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::{Extension, Json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tonnage_proto::limits::SLOT_NS;

use super::allocations::ScheduleBody;
use super::request::Money;
use super::seen::Seen;
use super::words::number;
use super::{Body, act, exact, may, one_of, read, refused};
use crate::api::Api;
use crate::api::auth::Identity;
use crate::api::cost::plain::Number;
use crate::api::error::{ApiError, quoted};
use crate::api::inventory::time;
use crate::api::params::Params;
use crate::budgets::account::{Bound, Estimate, Fail, Limit, Overrun, Spec, Standing, Status};
use crate::budgets::allocation::Schedule;
use crate::budgets::available::{Stand, stands};
use crate::budgets::period::Period;
use crate::budgets::{Account, Acted, Binding, Change, Selector, Tree, What};
use crate::store::tokens::Role;
use crate::store::{Connection, StoreError, budgets as stored};

pub(in crate::api) const LIST_PARAMETERS: [&str; 3] = ["limit", "offset", "status"];
pub(in crate::api) const LIMIT_MAX: usize = 100;
/// How often an account is looked at again, since somebody else changed it meanwhile.
const AMENDED_MAX: usize = 10;

/// A new account, or what changes of one: what is not given stays as it is.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub(in crate::api) struct AccountBody {
    /// The account's name; of a new one.
    #[serde(default)]
    slurm_account: Option<String>,
    /// What it is called.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    /// The limit for the account's whole life.
    #[serde(default)]
    budget_limit: Option<Money>,
    /// Empty: since ever.
    #[serde(default)]
    start_date: Option<String>,
    /// Empty: for ever.
    #[serde(default)]
    end_date: Option<String>,
    #[serde(default)]
    status: Option<Status>,
    /// The account above; empty for none.
    #[serde(default)]
    parent: Option<String>,
    /// Of a new account Slurm's account of its name, unless told.
    #[serde(default)]
    bindings: Option<Vec<BindingBody>>,
    /// All limits; that of budget_limit may be left out, and stays.
    #[serde(default)]
    limits: Option<Vec<LimitBody>>,
    #[serde(default)]
    buffer: Option<Money>,
    #[serde(default)]
    overrun: Option<Overrun>,
    #[serde(default)]
    fail: Option<Fail>,
    /// What holds go by: price, or measured, what such work typically cost where that is less.
    #[serde(default)]
    estimate: Option<Estimate>,
    /// Its limit for life comes in parts, by `allocation_schedule`; of a new account.
    #[serde(default)]
    has_incremental_budget: Option<bool>,
    /// Of a new account; of one that is there, `POST /api/v1/allocations`.
    #[serde(default)]
    allocation_schedule: Option<ScheduleBody>,
}

/// A field that is not known would bind more than is meant.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BindingBody {
    cluster: Option<String>,
    account: Option<String>,
    partition: Option<String>,
    namespace: Option<String>,
    user: Option<String>,
    /// Of the pod, all of these; see [`Selector`].
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Of the pod's namespace, all of these.
    #[serde(default)]
    namespace_labels: BTreeMap<String, String>,
    from: Option<String>,
    /// As it is answered of one that has ended: such a one is let be.
    to: Option<String>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
struct LimitBody {
    amount: Money,
    period: Period,
    partition: Option<String>,
    model: Option<String>,
}

/// An account, and what is left of it.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct AccountAnswer {
    id: i64,
    slurm_account: String,
    name: String,
    description: String,
    /// For its whole life; null without such a limit.
    budget_limit: Option<Number>,
    /// Charges for its whole life, and those of all accounts below it.
    budget_used: Number,
    /// What open holds reserve.
    budget_held: Number,
    /// In the tightest of all limits, those above with them; null without any.
    budget_available: Option<Number>,
    has_incremental_budget: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_allocation_date: Option<String>,
    total_allocated: Option<Number>,
    start_date: Option<String>,
    end_date: Option<String>,
    /// active, pending, inactive, suspended, expired, closed
    status: &'static str,
    created_at: String,
    updated_at: String,
    parent: Option<String>,
    bindings: Vec<BindingAnswer>,
    limits: Vec<LimitAnswer>,
    buffer: Number,
    overrun: Overrun,
    fail: Fail,
    estimate: Estimate,
    exact: AccountExact,
}

#[derive(Debug, Serialize, JsonSchema)]
struct BindingAnswer {
    #[serde(flatten)]
    selector: Selector,
    from: String,
    /// null while it is in force.
    to: Option<String>,
}

/// Amounts as texts.
#[derive(Debug, Serialize, JsonSchema)]
struct LimitAnswer {
    amount: String,
    period: Period,
    partition: Option<String>,
    model: Option<String>,
    start: String,
    end: Option<String>,
    spent: String,
    held: String,
    available: String,
}

/// The same amounts as texts.
#[derive(Debug, Serialize, JsonSchema)]
struct AccountExact {
    budget_limit: Option<String>,
    budget_used: String,
    budget_held: String,
    budget_available: Option<String>,
}

pub(in crate::api) async fn list(
    State(api): State<Arc<Api>>,
    uri: Uri,
) -> Result<Json<Vec<AccountAnswer>>, ApiError> {
    let mut params = Params::read(&uri, &LIST_PARAMETERS)?;
    let limit = params.take_count("limit", LIMIT_MAX, LIMIT_MAX)?;
    let offset = super::transactions::offset(&mut params)?;
    let status =
        params.take("status").map(|status| one_of("status", status, &Standing::NAMES)).transpose()?;
    let now_ns = api.state.clock.wall_ns();
    let answers = api.queries.run(move |db, _| {
        let mut seen = Seen::read(db, now_ns)?;
        let standing = |account: &&Account| {
            let standing = Tree::standing(account, now_ns).name();
            status.as_ref().is_none_or(|status| status == standing)
        };
        let ids: Vec<i64> = seen
            .tree
            .accounts()
            .filter(standing)
            .skip(offset)
            .take(limit)
            .map(|account| account.id)
            .collect();
        let answers = ids.into_iter().filter_map(|id| seen.answer(db, id).transpose());
        Ok(answers.collect::<Result<Vec<_>, StoreError>>()?)
    });
    Ok(Json(answers.await?))
}

pub(in crate::api) async fn one(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Json<AccountAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    shown(&api, &name).await.map(Json)
}

pub(in crate::api) async fn create(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    uri: Uri,
    body: Body,
) -> Result<(StatusCode, Json<AccountAnswer>), ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Operator)?;
    let mut body: AccountBody = read(body)?;
    let Some(name) = body.slurm_account.clone() else {
        return Err(ApiError::invalid("slurm_account", "slurm_account: give the new account's name"));
    };
    if body.bindings.is_none() {
        body.bindings = Some(vec![BindingBody { account: Some(name.clone()), ..BindingBody::default() }]);
    }
    let schedule = body.incremental()?;
    let mut spec = body.onto(Spec::new(&name))?;
    spec.schedules.extend(schedule);
    spec.check().map_err(refused)?;
    act(&api, What::Account(Change::Create(Box::new(spec))), by).await?;
    Ok((StatusCode::CREATED, Json(shown(&api, &name).await?)))
}

pub(in crate::api) async fn update(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    uri: Uri,
    body: Body,
) -> Result<Json<AccountAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Operator)?;
    let body: AccountBody = read(body)?;
    if body.allocation_schedule.is_some() {
        let message = "allocation_schedule: is of a new account; POST /api/v1/allocations adds one to an account that is there";
        return Err(ApiError::invalid("allocation_schedule", message));
    }
    if body.slurm_account.as_ref().is_some_and(|given| *given != name) {
        return Err(ApiError::invalid("slurm_account", "slurm_account: an account's name never changes"));
    }
    for _ in 0..AMENDED_MAX {
        let asked = name.clone();
        let known = api.queries.run(move |db, _| {
            let tree = stored::tree(db)?;
            Ok(tree.by_name(&asked).map(|account| tree.said(account)))
        });
        let Some(seen) = known.await? else { return Err(missing(&name)) };
        let spec = Box::new(body.clone().onto(seen.clone())?);
        match act(&api, What::Amend { spec, seen: Box::new(seen) }, by.clone()).await? {
            // By somebody else: seen and changed again.
            Acted::Stale => {}
            _ => return Ok(Json(shown(&api, &name).await?)),
        }
    }
    Err(ApiError::conflict(format!("account: {name:?} is changed all the time; send it again")))
}

pub(in crate::api) async fn close(
    State(api): State<Arc<Api>>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<StatusCode, ApiError> {
    Params::read(&uri, &[])?;
    let by = may(&identity, Role::Operator)?;
    act(&api, What::Account(Change::Close(name)), by).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn shown(api: &Api, name: &str) -> Result<AccountAnswer, ApiError> {
    let now_ns = api.state.clock.wall_ns();
    let asked = name.to_owned();
    let answer = api.queries.run(move |db, _| {
        let mut seen = Seen::read(db, now_ns)?;
        let id = seen.tree.by_name(&asked).map(|account| account.id);
        Ok(id.map(|id| seen.answer(db, id)).transpose()?.flatten())
    });
    answer.await?.ok_or_else(|| missing(name))
}

pub(super) fn missing(name: &str) -> ApiError {
    ApiError::missing(format!("account: there is none of the name {:?}", quoted(name)))
}

impl AccountBody {
    /// The schedule of a new account. Its limit is what has come by then: so `budget_limit` is all of it, or nothing.
    fn incremental(&mut self) -> Result<Option<Schedule>, ApiError> {
        let wrong = |field, message: &str| Err(ApiError::invalid(field, format!("{field}: {message}")));
        match (self.has_incremental_budget.unwrap_or(false), self.allocation_schedule.take()) {
            (false, None) => Ok(None),
            (false, Some(_)) => wrong("has_incremental_budget", "is not true beside an allocation_schedule"),
            (true, None) => {
                wrong("allocation_schedule", "is not there; give it, or no has_incremental_budget")
            }
            (true, Some(schedule)) => {
                let schedule = schedule.schedule()?;
                match self.budget_limit.take() {
                    Some(Money(limit)) if limit != 0 && limit != schedule.total_nanos => {
                        wrong("budget_limit", "comes in parts, and so is total_budget, or 0, or not there")
                    }
                    _ => Ok(Some(schedule)),
                }
            }
        }
    }

    /// The account with what is given here.
    fn onto(self, mut spec: Spec) -> Result<Spec, ApiError> {
        if let Some(limits) = self.limits {
            let given = limits.into_iter().map(|LimitBody { amount, period, partition, model }| Limit {
                amount_nanos: amount.0,
                period,
                partition,
                model,
            });
            let given: Vec<Limit> = given.collect();
            let whole = given.iter().filter(|limit| limit.is_whole()).count();
            if whole > 1 {
                let message = "limits: several are for the account's whole life and on everything; give one";
                return Err(ApiError::invalid("limits", message));
            }
            // That of budget_limit stays, unless it is among them, as it is among those that are answered.
            spec.limits.retain(|limit| limit.is_whole() && whole == 0);
            spec.limits.extend(given);
        }
        if let Some(Money(amount_nanos)) = self.budget_limit {
            if amount_nanos < 0 {
                return Err(ApiError::invalid("budget_limit", "budget_limit: is less than 0"));
            }
            spec.limits.retain(|limit| !limit.is_whole());
            spec.limits
                .insert(0, Limit { amount_nanos, period: Period::Lifetime, partition: None, model: None });
        }
        if let Some(bindings) = self.bindings {
            let now = bindings.into_iter().filter(|binding| binding.to.is_none());
            spec.bindings = now.map(BindingBody::bound).collect::<Result<_, _>>()?;
        }
        if let Some(buffer) = self.buffer {
            let permille = u32::try_from(buffer.0 / 1_000_000).ok().filter(|_| buffer.0 % 1_000_000 == 0);
            let message = "buffer: is not 1 to 10 with at most three places, such as 1.2";
            spec.buffer_permille = permille.ok_or_else(|| ApiError::invalid("buffer", message))?;
        }
        if let Some(date) = self.start_date {
            spec.starts_ns = if date.is_empty() { 0 } else { at("start_date", &date)? };
        }
        if let Some(date) = self.end_date {
            spec.ends_ns = if date.is_empty() { None } else { Some(at("end_date", &date)?) };
        }
        spec.title = self.name.unwrap_or(spec.title);
        spec.description = self.description.unwrap_or(spec.description);
        spec.parent =
            self.parent.map_or(spec.parent, |parent| Some(parent).filter(|parent| !parent.is_empty()));
        spec.status = self.status.unwrap_or(spec.status);
        spec.overrun = self.overrun.unwrap_or(spec.overrun);
        spec.fail = self.fail.unwrap_or(spec.fail);
        spec.estimate = self.estimate.unwrap_or(spec.estimate);
        spec.check().map_err(refused)?;
        Ok(spec)
    }
}

impl BindingBody {
    fn bound(self) -> Result<Bound, ApiError> {
        let Self { cluster, account, partition, namespace, user, labels, namespace_labels, from, to: _ } =
            self;
        let from_ns = from.map(|from| at("bindings.from", &from)).transpose()?;
        let selector = Selector { cluster, account, partition, namespace, user, labels, namespace_labels };
        Ok(Bound { selector, from_ns })
    }
}

/// A time, or the midnight in UTC of a date.
pub(super) fn at(field: &'static str, text: &str) -> Result<i64, ApiError> {
    let midnight = || text.parse::<jiff::civil::Date>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok();
    let at = text.parse::<jiff::Timestamp>().ok().or_else(|| Some(midnight()?.timestamp()));
    at.and_then(|at| i64::try_from(at.as_nanosecond()).ok()).filter(|at_ns| *at_ns >= 0).ok_or_else(|| {
        let text = quoted(text);
        ApiError::invalid(
            field,
            format!("{field} {text:?} is not a time; use RFC 3339, 2026-01-31T12:00:00Z"),
        )
    })
}

impl Seen {
    fn answer(&mut self, db: &Connection, id: i64) -> Result<Option<AccountAnswer>, StoreError> {
        let Self { now_ns, tree, reserved, spent } = self;
        let Some(account) = tree.by_id(id) else { return Ok(None) };
        let stands = stands(tree, id, reserved, *now_ns, |span_ns, of, limit| {
            let sums = spent.of(db, tree, span_ns)?;
            Ok::<_, StoreError>(sums.of(of, |partition, model| limit.counts(partition, model)))
        })?;
        let spec = &account.spec;
        let life_ns = Period::Lifetime.span(*now_ns, spec.starts_ns);
        let used = spent.of(db, tree, life_ns)?.of(id, |_, _| true);
        let held = reserved.of(id, |_, _| true);
        let general = |stand: &&Stand<'_>| stand.limit.partition.is_none() && stand.limit.model.is_none();
        let left = stands.iter().filter(general).map(Stand::available_nanos).min();
        let whole = spec.limits.iter().find(|limit| limit.is_whole());
        let whole = whole.map(|limit| spec.amount_nanos(limit, *now_ns));
        let schedules = &spec.schedules;
        Ok(Some(AccountAnswer {
            id,
            slurm_account: spec.name.clone(),
            name: if spec.title.is_empty() { spec.name.clone() } else { spec.title.clone() },
            description: spec.description.clone(),
            budget_limit: whole.map(number),
            budget_used: Number(used),
            budget_held: Number(held),
            budget_available: left.map(Number),
            has_incremental_budget: !schedules.is_empty(),
            next_allocation_date: schedules.iter().filter_map(|of| of.next_ns(*now_ns)).min().map(time),
            total_allocated: whole.map(number),
            start_date: (spec.starts_ns > 0).then(|| time(spec.starts_ns)),
            end_date: spec.ends_ns.map(time),
            status: Tree::standing(account, *now_ns).name(),
            created_at: time(account.created_ns),
            updated_at: time(account.updated_ns),
            parent: spec.parent.clone(),
            bindings: tree.bindings(id).map(binding).collect(),
            limits: stands.iter().filter(|stand| stand.account.id == id).map(limit).collect(),
            buffer: Number(i128::from(spec.buffer_permille) * 1_000_000),
            overrun: spec.overrun,
            fail: spec.fail,
            estimate: spec.estimate,
            exact: AccountExact {
                budget_limit: whole.map(exact),
                budget_used: exact(used),
                budget_held: exact(held),
                budget_available: left.map(exact),
            },
        }))
    }
}

fn binding(binding: &Binding) -> BindingAnswer {
    let to = (binding.to_ns != i64::MAX).then(|| time(binding.to_ns));
    BindingAnswer { selector: binding.selector.clone(), from: time(binding.from_ns), to }
}

fn limit(stand: &Stand<'_>) -> LimitAnswer {
    let (from_ns, to_ns) = stand.span_ns;
    LimitAnswer {
        amount: exact(stand.amount_nanos),
        period: stand.limit.period.clone(),
        partition: stand.limit.partition.clone(),
        model: stand.limit.model.clone(),
        start: time(from_ns),
        end: (to_ns < i64::MAX - SLOT_NS).then(|| time(to_ns)),
        spent: exact(stand.spent_nanos),
        held: exact(stand.reserved_nanos),
        available: exact(stand.available_nanos()),
    }
}
