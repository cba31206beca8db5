//! `GET /api/v1/burn-rate/{account}` and `analytics/health-score`: how fast a budget is spent and whether it lasts, under the
//! names of their clients (docs/budgets.md, "Burn rate").

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use schemars::JsonSchema;
use serde::Serialize;
use tonnage_proto::limits::DAY_NS;

use super::accounts::missing;
use super::exact;
use super::seen::Seen;
use crate::api::Api;
use crate::api::cost::plain::Number;
use crate::api::error::ApiError;
use crate::api::inventory::time;
use crate::api::params::Params;
use crate::budgets::allocation::Part;
use crate::budgets::burn::{self, Burn, Facts, Forecast, Risk};
use crate::budgets::period::Period;
use crate::budgets::{Account, Limit, Standing, Tree};
use crate::store::query::QueryError;
use crate::store::{Connection, StoreError, budgets as stored};

pub(in crate::api) mod grant;

pub(in crate::api) const PARAMETERS: [&str; 3] = ["period", "include_projection", "include_alerts"];
pub(in crate::api) const HEALTH_PARAMETERS: [&str; 3] = ["account", "limit", "offset"];
/// What `period` may be, and how many days that is.
pub(in crate::api) const PERIODS: [(&str, i64); 5] =
    [("7d", 7), ("30d", 30), ("90d", 90), ("6m", 182), ("1y", 365)];
const PERIOD: &str = "30d";
const LIMIT_MAX: usize = super::accounts::LIMIT_MAX;
/// A percent, in the billionths that [`Burn`] has it in.
const PERCENT: i128 = 1_000_000_000;

/// Amounts are in the price book's currency, percentages are 0 to 100, rates per day.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct BurnAnswer {
    account: String,
    /// Of a grant's burn rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    grant_number: Option<String>,
    analysis_period: String,
    time_range: TimeRange,
    /// The limit that all of it is about.
    budget: Budget,
    current_metrics: Metrics,
    historical_data: Vec<Day>,
    /// Without whole days to go by there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    projection: Option<Projection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alerts: Option<Vec<Alert>>,
    recommendations: Vec<&'static str>,
}

/// Whole days of UTC before today.
#[derive(Debug, Serialize, JsonSchema)]
struct TimeRange {
    start_date: String,
    end_date: String,
    days: usize,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Budget {
    limit: String,
    period: Period,
    start: String,
    end: Option<String>,
    spent: String,
    held: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Metrics {
    /// Of yesterday.
    daily_spend_rate: Option<Number>,
    daily_expected_rate: Option<Number>,
    variance_percentage: Option<Number>,
    rolling_7day_average: Option<Number>,
    rolling_30day_average: Option<Number>,
    cumulative_spend: Number,
    cumulative_expected: Option<Number>,
    cumulative_variance_pct: Option<Number>,
    budget_health_score: Option<Number>,
    budget_remaining_amount: Number,
    budget_remaining_percent: Option<Number>,
    time_remaining_days: Option<i64>,
    /// OVERSPENDING, UNDERSPENDING, ON_TRACK, UNKNOWN
    burn_rate_status: &'static str,
    /// HEALTHY, CONCERN, WARNING, CRITICAL, UNKNOWN
    budget_health_status: &'static str,
}

/// Expectations are those of the limit's period; null before it.
#[derive(Debug, Serialize, JsonSchema)]
struct Day {
    date: String,
    daily_spend: Number,
    daily_expected: Option<Number>,
    variance_percentage: Option<Number>,
    cumulative_spend: Option<Number>,
    cumulative_expected: Option<Number>,
    budget_health_score: Option<Number>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Projection {
    projected_end_date: Option<String>,
    /// null if not before the period's end.
    projected_depletion_date: Option<String>,
    earliest_depletion_date: Option<String>,
    latest_depletion_date: Option<String>,
    projected_final_spend: Option<Number>,
    projected_final_spend_low: Option<Number>,
    projected_final_spend_high: Option<Number>,
    projected_overrun: Option<Number>,
    projected_underrun: Option<Number>,
    /// Of the interval; null without one.
    confidence_level: Option<f64>,
    projection_method: String,
    /// LOW, MEDIUM, HIGH, CRITICAL
    risk_level: &'static str,
}

/// What is so now; it is kept nowhere.
#[derive(Debug, Serialize, JsonSchema)]
struct Alert {
    account_id: i64,
    alert_type: &'static str,
    severity: &'static str,
    threshold_value: Number,
    actual_value: Number,
    message: String,
    status: &'static str,
}

/// How one account does.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct HealthAnswer {
    account: String,
    budget_limit: String,
    cumulative_spend: Number,
    cumulative_expected: Option<Number>,
    cumulative_variance_pct: Option<Number>,
    budget_health_score: Option<Number>,
    budget_health_status: &'static str,
    burn_rate_status: &'static str,
}

pub(in crate::api) async fn one(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Json<BurnAnswer>, ApiError> {
    let asked = Asked::read(&uri)?;
    let now_ns = api.state.clock.wall_ns();
    let (of, count) = (name.clone(), asked.days);
    let answer = api.queries.run(move |db, expired| {
        let mut seen = Seen::read(db, now_ns)?;
        let Some(account) = seen.tree.by_name(&of).cloned() else { return Ok(None) };
        let Some(limit) = chosen(&account, now_ns) else { return Ok(Some(Err(()))) };
        let budget = budget(db, &mut seen, &account, &limit)?;
        let days = days(db, &seen, (account.id, began_ns(&account)), (&budget, count), expired)?;
        Ok(Some(Ok((account, limit, budget, days))))
    });
    let (account, limit, budget, days) = answer.await?.ok_or_else(|| missing(&name))?.map_err(|()| {
        let message = "account: has no limit on everything, for its life or by a calendar, that could be spent; give it one";
        ApiError::invalid("account", message)
    })?;
    Ok(Json(answer_of(&account, &limit, &budget, &days, (asked, now_ns))))
}

/// What is asked about a burn rate.
struct Asked {
    period: String,
    /// Of the period.
    days: i64,
    projected: bool,
    alerted: bool,
}

impl Asked {
    fn read(uri: &Uri) -> Result<Self, ApiError> {
        let mut params = Params::read(uri, &PARAMETERS)?;
        let known = PERIODS.map(|(name, _)| name);
        let period = params.take("period").unwrap_or_else(|| PERIOD.to_owned());
        let period = super::one_of("period", period, &known)?;
        let projected = params.take_bool("include_projection", true)?;
        let alerted = params.take_bool("include_alerts", true)?;
        let days = PERIODS.into_iter().find(|(name, _)| *name == period).map_or(0, |(_, days)| days);
        Ok(Self { period, days, projected, alerted })
    }
}

/// Since when days of an account are looked at.
pub(super) fn began_ns(account: &Account) -> i64 {
    if account.spec.starts_ns > 0 { account.spec.starts_ns } else { account.created_ns }
}

pub(in crate::api) async fn health(
    State(api): State<Arc<Api>>,
    uri: Uri,
) -> Result<Json<Vec<HealthAnswer>>, ApiError> {
    let mut params = Params::read(&uri, &HEALTH_PARAMETERS)?;
    let limit = params.take_count("limit", LIMIT_MAX, LIMIT_MAX)?;
    let offset = super::transactions::offset(&mut params)?;
    let name = params.take("account");
    let now_ns = api.state.clock.wall_ns();
    let answers = api.queries.run(move |db, expired| {
        let mut seen = Seen::read(db, now_ns)?;
        if let Some(name) = name.as_ref().filter(|name| seen.tree.by_name(name).is_none()) {
            return Ok(Err(name.clone()));
        }
        let own = |account: &&Account| {
            name.as_ref().map_or_else(
                || Tree::standing(account, now_ns) == Standing::Active,
                |name| account.spec.name == *name,
            )
        };
        let limited = seen
            .tree
            .accounts()
            .filter(own)
            .filter_map(|account| Some((account.clone(), chosen(account, now_ns)?)));
        let limited: Vec<(Account, Limit)> = limited.skip(offset).take(limit).collect();
        let mut answers = Vec::new();
        for (account, limit) in limited {
            if expired() {
                return Err(QueryError::Expired);
            }
            let known = budget(db, &mut seen, &account, &limit)?;
            let burn = known.burn(&limit, &[], now_ns);
            answers.push(health_of(&account, &limit, &known, &burn));
        }
        Ok(Ok(answers))
    });
    answers.await?.map(Json).map_err(|name| missing(&name))
}

/// The limit that a burn rate is about: of those on everything that for the account's life, else the first by a calendar.
/// With what has come to it.
pub(super) fn chosen(account: &Account, now_ns: i64) -> Option<Limit> {
    let mut general: Vec<&Limit> = account
        .spec
        .limits
        .iter()
        .filter(|limit| limit.partition.is_none() && limit.model.is_none())
        .filter(|limit| !matches!(limit.period, Period::Rolling { .. }))
        .collect();
    general.sort_by_key(|limit| limit.period != Period::Lifetime);
    let limit = general.first().copied()?;
    Some(Limit { amount_nanos: account.spec.amount_nanos(limit, now_ns), ..limit.clone() })
}

/// How a limit stands in its present period.
pub(super) struct Known {
    /// What counts from then on is spent of it.
    span_start_ns: i64,
    pub(super) start_ns: i64,
    pub(super) end_ns: Option<i64>,
    pub(super) spent_nanos: i128,
    pub(super) held_nanos: i128,
    /// What comes to the limit by itself before its end.
    parts: Vec<Part>,
}

impl Known {
    pub(super) fn burn(&self, limit: &Limit, days: &[i128], now_ns: i64) -> Burn {
        let Self { start_ns, end_ns, spent_nanos, .. } = *self;
        let (limit_nanos, parts) = (limit.amount_nanos, &self.parts[..]);
        Burn::of(&Facts { now_ns, limit_nanos, start_ns, end_ns, spent_nanos, days, parts })
    }
}

pub(super) fn budget(
    db: &Connection,
    seen: &mut Seen,
    account: &Account,
    limit: &Limit,
) -> Result<Known, StoreError> {
    let span_ns = limit.period.span(seen.now_ns, account.spec.starts_ns);
    let spent_nanos = seen.spent.of(db, &seen.tree, span_ns)?.of(account.id, |_, _| true);
    let held_nanos = seen.reserved.of(account.id, |_, _| true);
    let (start_ns, end_ns) = burn::term(account, limit, seen.now_ns);
    let parts = account.spec.coming(limit, (seen.now_ns, burn::horizon_ns(seen.now_ns, end_ns)));
    Ok(Known { span_start_ns: span_ns.0, start_ns, end_ns, spent_nanos, held_nanos, parts })
}

/// What whole days cost, the last of them yesterday.
pub(super) struct Days {
    pub(super) list: Vec<(i64, i128)>,
    /// What the limit's period had cost before the first of them that is in it.
    before_nanos: i128,
}

/// The last whole days of an account, since it began.
pub(super) fn days(
    db: &Connection,
    seen: &Seen,
    (account, began_ns): (i64, i64),
    (known, count): (&Known, i64),
    expired: &dyn Fn() -> bool,
) -> Result<Days, QueryError> {
    let today_ns = seen.now_ns - seen.now_ns.rem_euclid(DAY_NS);
    let whole = |at_ns: i64| at_ns.saturating_add(DAY_NS - 1).div_euclid(DAY_NS) * DAY_NS;
    let first_ns = (today_ns - count * DAY_NS).max(whole(began_ns));
    let mut usages = stored::Usages::default();
    let mut spent = |from_ns: i64, to_ns: i64| {
        let sums = stored::spent(db, &seen.tree, &mut usages, (from_ns, to_ns), seen.now_ns)?;
        Ok::<_, StoreError>(sums.of(account, |_, _| true))
    };
    let inside_ns = first_ns.max(whole(known.span_start_ns));
    let before_nanos = spent(known.span_start_ns, inside_ns.min(today_ns))?;
    let (mut list, mut day_ns) = (Vec::new(), first_ns);
    while day_ns < today_ns {
        if expired() {
            return Err(QueryError::Expired);
        }
        list.push((day_ns, spent(day_ns, day_ns + DAY_NS)?));
        day_ns += DAY_NS;
    }
    Ok(Days { list, before_nanos })
}

fn answer_of(
    account: &Account,
    limit: &Limit,
    known: &Known,
    days: &Days,
    (asked, now_ns): (Asked, i64),
) -> BurnAnswer {
    let Asked { period, projected, alerted, .. } = asked;
    let spent: Vec<i128> = days.list.iter().map(|(_, nanos)| *nanos).collect();
    let burn = known.burn(limit, &spent, now_ns);
    let today_ns = now_ns - now_ns.rem_euclid(DAY_NS);
    let start_ns = days.list.first().map_or(today_ns, |(day_ns, _)| *day_ns);
    let alerts = alerted.then(|| alerts(account, &burn));
    BurnAnswer {
        account: account.spec.name.clone(),
        grant_number: None,
        analysis_period: period,
        time_range: TimeRange { start_date: time(start_ns), end_date: time(today_ns), days: days.list.len() },
        budget: Budget {
            limit: exact(limit.amount_nanos),
            period: limit.period.clone(),
            start: time(known.start_ns),
            end: known.end_ns.map(time),
            spent: exact(known.spent_nanos),
            held: exact(known.held_nanos),
        },
        recommendations: recommendations(&burn),
        current_metrics: Metrics {
            daily_spend_rate: burn.day_nanos.map(Number),
            daily_expected_rate: burn.expected_day_nanos.map(Number),
            variance_percentage: burn.day_variance.map(Number),
            rolling_7day_average: burn.week_nanos.map(Number),
            rolling_30day_average: burn.month_nanos.map(Number),
            cumulative_spend: Number(known.spent_nanos),
            cumulative_expected: burn.expected_nanos.map(Number),
            cumulative_variance_pct: burn.variance.map(Number),
            budget_health_score: burn.health.map(Number),
            budget_remaining_amount: Number(burn.remaining_nanos),
            budget_remaining_percent: burn.remaining_percent.map(Number),
            time_remaining_days: known.end_ns.map(|end_ns| (end_ns - now_ns).max(0) / DAY_NS),
            burn_rate_status: burn::status_name(burn.variance),
            budget_health_status: burn::health_name(burn.health),
        },
        historical_data: history(limit, known, days),
        projection: burn.forecast.filter(|_| projected).map(|forecast| projection(limit, known, &forecast)),
        alerts,
    }
}

fn history(limit: &Limit, known: &Known, days: &Days) -> Vec<Day> {
    let planned_nanos = burn::planned(limit.amount_nanos, &known.parts);
    let mut cumulative = days.before_nanos;
    let day = |(day_ns, nanos): &(i64, i128)| {
        let inside = *day_ns >= known.span_start_ns;
        cumulative += if inside { *nanos } else { 0 };
        let period_ns = known.end_ns.filter(|_| inside).map(|end_ns| (known.start_ns, end_ns));
        let expected = |at_ns| period_ns.map(|period_ns| burn::expected(planned_nanos, period_ns, at_ns));
        let (of_day, until) = (expected(known.start_ns.saturating_add(DAY_NS)), expected(day_ns + DAY_NS));
        Day {
            date: time(*day_ns),
            daily_spend: Number(*nanos),
            daily_expected: of_day.map(Number),
            variance_percentage: of_day.and_then(|of_day| burn::variance(*nanos, of_day)).map(Number),
            cumulative_spend: inside.then_some(Number(cumulative)),
            cumulative_expected: until.map(Number),
            budget_health_score: until.and_then(|until| burn::health(cumulative, until)).map(Number),
        }
    };
    days.list.iter().map(day).collect()
}

fn projection(limit: &Limit, known: &Known, forecast: &Forecast) -> Projection {
    let planned_nanos = i128::from(burn::planned(limit.amount_nanos, &known.parts));
    let over = forecast.final_nanos.map(|nanos| nanos - planned_nanos);
    let range = forecast.final_range_nanos;
    let interval = forecast.days >= burn::INTERVAL_DAYS_MIN;
    let method = format!("average of {} whole days", forecast.days);
    Projection {
        projected_end_date: known.end_ns.map(time),
        projected_depletion_date: forecast.depletion_ns.map(time),
        earliest_depletion_date: forecast.earliest_ns.map(time),
        latest_depletion_date: forecast.latest_ns.map(time),
        projected_final_spend: forecast.final_nanos.map(Number),
        projected_final_spend_low: range.map(|(least, _)| Number(least)),
        projected_final_spend_high: range.map(|(_, most)| Number(most)),
        projected_overrun: over.map(|over| Number(over.max(0))),
        projected_underrun: over.map(|over| Number((-over).max(0))),
        confidence_level: interval.then_some(0.95),
        projection_method: if interval { method + ", interval by how they differ" } else { method },
        risk_level: forecast.risk.name(),
    }
}

/// By the thresholds that clients know; but spending little is told and no fault.
fn alerts(account: &Account, burn: &Burn) -> Vec<Alert> {
    let mut alerts = Vec::new();
    let mut add = |alert_type, severity, threshold: i128, actual: i128, message: &str| {
        alerts.push(Alert {
            account_id: account.id,
            alert_type,
            severity,
            threshold_value: Number(threshold),
            actual_value: Number(actual),
            message: message.to_owned(),
            status: "active",
        });
    };
    match burn.variance {
        Some(over) if over > 50 * PERCENT => {
            add(
                "burn_rate_high",
                "critical",
                50 * PERCENT,
                over,
                "more than half again of what was expected is spent",
            );
        }
        Some(under) if under < -30 * PERCENT => {
            add("burn_rate_low", "info", -30 * PERCENT, under, "much less than expected is spent");
        }
        _ => {}
    }
    if let Some(health) = burn.health.filter(|health| *health < 40 * PERCENT) {
        add("budget_threshold", "critical", 40 * PERCENT, health, "the health score is below 40");
    }
    let gone = burn.forecast.as_ref().filter(|forecast| forecast.risk >= Risk::High);
    if let Some(forecast) = gone {
        let most = burn.remaining_nanos;
        add(
            "overspend_risk",
            "warning",
            most,
            forecast.day_nanos,
            "at this rate a day it is spent before its period ends",
        );
    }
    alerts
}

fn recommendations(burn: &Burn) -> Vec<&'static str> {
    match burn.forecast.as_ref().map(|forecast| forecast.risk) {
        Some(Risk::Critical) => {
            vec!["raise the limit, or hold back what can wait: it is spent, or will be within days"]
        }
        Some(Risk::High) => vec!["spend less a day, or raise the limit: it does not last for its period"],
        Some(Risk::Medium) => vec!["look again soon: it may not last for its period"],
        Some(Risk::Low) | None => Vec::new(),
    }
}

fn health_of(account: &Account, limit: &Limit, known: &Known, burn: &Burn) -> HealthAnswer {
    HealthAnswer {
        account: account.spec.name.clone(),
        budget_limit: exact(limit.amount_nanos),
        cumulative_spend: Number(known.spent_nanos),
        cumulative_expected: burn.expected_nanos.map(Number),
        cumulative_variance_pct: burn.variance.map(Number),
        budget_health_score: burn.health.map(Number),
        budget_health_status: burn::health_name(burn.health),
        burn_rate_status: burn::status_name(burn.variance),
    }
}
