//! `POST /api/v1/asba/grant-timeline`: what comes of a grant, when, and how much is left until then, under the names of its clients.
//! With `compat=asba-client` types are those of the client where they differ from its server's document.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tonnage_proto::limits::DAY_NS;

use super::super::{Body, exact, one_of, read};
use super::{Of, Status, look};
use crate::api::Api;
use crate::api::cost::plain::Number;
use crate::api::error::ApiError;
use crate::api::inventory::time;
use crate::api::params::Params;
use crate::budgets::Award;
use crate::budgets::burn::{Risk, status_name};
use crate::budgets::grant::Period;

pub(in crate::api) const PARAMETERS: [&str; 1] = ["compat"];
/// What `compat` may be.
pub(in crate::api) const COMPAT: &str = "asba-client";
const LOOK_AHEAD_DAYS: u32 = 90;
const LOOK_AHEAD_DAYS_MAX: u32 = 36_600;
/// Days before a deadline from which on it is a warning, and critical.
const WARNING_DAYS: i64 = 30;
const CRITICAL_DAYS: i64 = 7;

#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::api) struct TimelineBody {
    #[serde(flatten)]
    of: Of,
    /// For deadlines and allocations to come; 90 unless told.
    #[serde(default)]
    look_ahead_days: Option<u32>,
}

/// Amounts are of direct costs. What is not known is null.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct TimelineAnswer {
    grant_number: String,
    account: String,
    grant_start_date: String,
    grant_end_date: String,
    /// A number; text for the client. null before the grant's start and from its end on.
    current_period: Option<Either>,
    total_periods: usize,
    period_end_date: Option<String>,
    days_until_period_end: Option<i64>,
    days_until_grant_end: i64,
    days_remaining: i64,
    /// Those within the days to look ahead.
    allocation_schedule: Vec<AllocationAhead>,
    next_allocation: Option<AllocationAhead>,
    upcoming_deadlines: Vec<Deadline>,
    budget_timeline: Vec<PeriodAhead>,
    /// The risk that direct costs do not last: LOW, MEDIUM, HIGH, CRITICAL; null before a whole day is over
    current_urgency: Option<&'static str>,
    /// CONSERVATIVE, NORMAL, AGGRESSIVE, EMERGENCY
    bursting_recommendation: &'static str,
    optimization_advice: Vec<String>,
    emergency_options: Vec<String>,
    budget_guidance: Guidance,
    emergency_burst_advice: Emergency,
    last_updated: String,
}

/// A number for those who read the server's document, and text for the client.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
enum Either {
    Number(i64),
    Text(String),
}

/// A budget period that begins, with its part of direct costs.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct AllocationAhead {
    date: String,
    amount: Number,
    description: String,
    #[serde(rename = "type")]
    kind: &'static str,
    source: &'static str,
    days_from_now: i64,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Deadline {
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'static str,
    description: String,
    date: String,
    days_from_now: i64,
    days_until: i64,
    /// info, warning, critical
    severity: &'static str,
    urgency: &'static str,
    /// What is left of direct costs as of now.
    budget_impact: Number,
    impact: String,
    recommendations: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct PeriodAhead {
    period_number: i64,
    start_date: String,
    end_date: String,
    direct_costs: Number,
    /// future, active, completed
    status: &'static str,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Guidance {
    remaining_amount: Number,
    /// What is left, for each day that is.
    daily_rate: Option<Number>,
    burn_rate_status: &'static str,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Emergency {
    available: bool,
    available_amount: Number,
}

pub(in crate::api) async fn timeline(
    State(api): State<Arc<Api>>,
    uri: Uri,
    body: Body,
) -> Result<Json<TimelineAnswer>, ApiError> {
    let client = compat(&uri)?;
    let TimelineBody { of, look_ahead_days } = read(body)?;
    if of.grant_number.as_ref().is_none_or(String::is_empty) {
        return Err(ApiError::invalid("grant_number", "grant_number: say which grant"));
    }
    let days = look_ahead_days.unwrap_or(LOOK_AHEAD_DAYS);
    if days > LOOK_AHEAD_DAYS_MAX {
        let message = format!("look_ahead_days: {days} is more than {LOOK_AHEAD_DAYS_MAX}");
        return Err(ApiError::invalid("look_ahead_days", message));
    }
    let status = look(&api, of).await?;
    let award = status.award.clone().ok_or_else(ApiError::internal)?;
    Ok(Json(status.timeline(&award, days, client)))
}

/// Does who asks want the client's types?
pub(super) fn compat(uri: &Uri) -> Result<bool, ApiError> {
    let compat = Params::read(uri, &PARAMETERS)?.take("compat");
    Ok(compat.map(|compat| one_of("compat", compat, &[COMPAT])).transpose()?.is_some())
}

impl Status {
    fn timeline(&self, award: &Award, look_ahead_days: u32, client: bool) -> TimelineAnswer {
        let now_ns = self.now_ns;
        let until_ns = now_ns.saturating_add(i64::from(look_ahead_days) * DAY_NS);
        let (start_ns, end_ns) = award.grant.span_ns();
        let periods = award.grant.periods();
        let current = periods.iter().find(|period| period.has(now_ns) && self.award_goes_on());
        let coming = periods.iter().filter(|period| period.start_ns > now_ns && self.award_goes_on());
        let coming: Vec<&Period> = coming.collect();
        let ahead = |period: &Period| AllocationAhead {
            date: time(period.start_ns),
            amount: Number(i128::from(period.direct_nanos)),
            description: format!("direct costs of budget period {}", period.number),
            kind: "budget_period",
            source: "grant",
            days_from_now: days_until(period.start_ns, now_ns),
        };
        let left = self.burn.remaining_nanos - self.known.held_nanos;
        let days_left = days_until(end_ns, now_ns);
        let number =
            |number: i64| if client { Either::Text(number.to_string()) } else { Either::Number(number) };
        TimelineAnswer {
            grant_number: award.grant.number.clone(),
            account: self.account.spec.name.clone(),
            grant_start_date: time(start_ns),
            grant_end_date: time(end_ns),
            current_period: current.map(|period| number(period.number)),
            total_periods: periods.len(),
            period_end_date: current.map(|period| time(period.end_ns)),
            days_until_period_end: current.map(|period| days_until(period.end_ns, now_ns)),
            days_until_grant_end: days_left,
            days_remaining: days_left,
            allocation_schedule: coming
                .iter()
                .filter(|period| period.start_ns <= until_ns)
                .map(|period| ahead(period))
                .collect(),
            next_allocation: coming.first().map(|period| ahead(period)),
            upcoming_deadlines: self.deadlines(current, (end_ns, until_ns), left),
            budget_timeline: periods.iter().map(|period| period_ahead(period, now_ns)).collect(),
            current_urgency: self.risk().map(Risk::name),
            bursting_recommendation: self.bursting(),
            optimization_advice: self.reasons(),
            emergency_options: Vec::new(),
            budget_guidance: Guidance {
                remaining_amount: Number(left),
                daily_rate: (days_left > 0).then(|| Number(left / i128::from(days_left))),
                burn_rate_status: status_name(self.burn.variance),
            },
            emergency_burst_advice: Emergency {
                available: self.may_spend() && self.available_nanos > 0,
                available_amount: Number(self.available_nanos.max(0)),
            },
            last_updated: time(now_ns),
        }
    }

    fn award_goes_on(&self) -> bool {
        self.award.as_ref().is_some_and(|award| award.closed_ns.is_none())
    }

    /// What ends within the days to look ahead.
    fn deadlines(
        &self,
        current: Option<&Period>,
        (end_ns, until_ns): (i64, i64),
        left: i128,
    ) -> Vec<Deadline> {
        let now_ns = self.now_ns;
        let deadline = |kind, name, at_ns: i64| {
            let days = days_until(at_ns, now_ns);
            let severity = if days <= CRITICAL_DAYS {
                "critical"
            } else if days <= WARNING_DAYS {
                "warning"
            } else {
                "info"
            };
            Deadline {
                kind,
                name,
                description: format!("{name} ends"),
                date: time(at_ns),
                days_from_now: days,
                days_until: days,
                severity,
                urgency: severity,
                budget_impact: Number(left),
                impact: format!("{} of direct costs is not spent", exact(left)),
                recommendations: Vec::new(),
            }
        };
        let period = current.filter(|period| period.end_ns < end_ns);
        let period = period.map(|period| deadline("period_ending", "budget period", period.end_ns));
        let goes_on = self.award_goes_on() && now_ns < end_ns;
        let grant = goes_on.then(|| deadline("grant_expiring", "grant", end_ns));
        let soon = |deadline: &Deadline| deadline.days_from_now <= days_until(until_ns, now_ns);
        period.into_iter().chain(grant).filter(soon).collect()
    }

    /// By what is left and how long it lasts; nothing else is known here.
    fn bursting(&self) -> &'static str {
        match self.risk() {
            _ if !self.may_spend() || self.available_nanos <= 0 => "EMERGENCY",
            Some(Risk::High | Risk::Critical) => "EMERGENCY",
            Some(Risk::Medium) => "CONSERVATIVE",
            Some(Risk::Low) if status_name(self.burn.variance) == "UNDERSPENDING" => "AGGRESSIVE",
            _ => "NORMAL",
        }
    }
}

fn period_ahead(period: &Period, now_ns: i64) -> PeriodAhead {
    PeriodAhead {
        period_number: period.number,
        start_date: time(period.start_ns),
        end_date: time(period.end_ns),
        direct_costs: Number(i128::from(period.direct_nanos)),
        status: match () {
            () if now_ns < period.start_ns => "future",
            () if period.has(now_ns) => "active",
            () => "completed",
        },
    }
}

/// Whole days; 0 of what is over.
fn days_until(at_ns: i64, now_ns: i64) -> i64 {
    at_ns.saturating_sub(now_ns).max(0) / DAY_NS
}
