//! `POST /api/v1/asba/burst-decision`: is work to run elsewhere for money, by what the ledger knows of the budget and the request says of
//! the work? What neither knows is null. Holds nothing.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::accounts::at;
use super::super::request::Money;
use super::super::{Body, exact, read};
use super::timeline::compat;
use super::{Of, PERCENT, Status, cost, look};
use crate::api::Api;
use crate::api::cost::plain::Number;
use crate::api::error::ApiError;
use crate::budgets::burn::{self, Risk};

pub(super) const MINUTE_NS: i64 = 60_000_000_000;
/// Minutes that work may take here: a hundred years.
const MINUTES_MAX: u32 = 52_560_000;

#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::api) struct BurstBody {
    #[serde(flatten)]
    pub(super) of: Of,
    #[serde(default)]
    pub(super) estimated_aws_cost: Option<Money>,
    /// The same under another name.
    #[serde(default)]
    pub(super) estimated_cost: Option<Money>,
    /// Minutes until it would be done here, waiting with it.
    #[serde(default)]
    pub(super) estimated_local_time: Option<u32>,
    /// RFC 3339, or a date in UTC; of two the earlier one counts.
    #[serde(default)]
    pub(super) job_deadline: Option<String>,
    #[serde(default)]
    pub(super) conference_deadline: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct BurstAnswer {
    /// LOCAL, AWS
    recommended_action: &'static str,
    /// null: it goes by rules, and nobody measured how often they are right
    confidence: Option<Number>,
    /// That of the deadline, else of the budget: LOW, MEDIUM, HIGH, CRITICAL; null if neither is known
    urgency_level: Option<&'static str>,
    /// Percent of what is left, null if that is nothing; for the client the cost in parts.
    budget_impact: Impact,
    affordable: bool,
    /// Percent of what is left that would be left after it
    affordability_score: Option<Number>,
    /// null: what the work costs here is not said
    cost_efficiency: Option<Number>,
    /// Percent of the time until the deadline that it would take here; null without both
    timeline_pressure: Option<Number>,
    /// LOW, HIGH; null without a deadline and a time
    deadline_risk: Option<&'static str>,
    /// By how much the health score would change
    grant_health_impact: Option<Number>,
    /// Percent of the limit that would be left
    budget_preservation: Option<Number>,
    decision_factors: Vec<Factor>,
    risk_assessment: Assessment,
    alternatives: Vec<String>,
    immediate_actions: Vec<String>,
    longterm_suggestions: Vec<String>,
    message: String,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Impact {
    Percent(Option<Number>),
    Parts(Parts),
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Parts {
    pub(super) cost_as_percent_of_budget: Option<Number>,
    pub(super) cost_as_percent_of_remaining: Option<Number>,
    /// null: it is not known what else the money would do
    pub(super) opportunity_cost: Option<Number>,
    pub(super) budget_after_cost: Number,
}

/// What speaks for or against it. Rules have no weights.
#[derive(Debug, Serialize, JsonSchema)]
struct Factor {
    factor: &'static str,
    weight: Option<Number>,
    value: String,
    /// for, against
    impact: &'static str,
    description: String,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Assessment {
    pub(super) budget_risk: Option<&'static str>,
    pub(super) deadline_risk: Option<&'static str>,
    /// The larger of both.
    pub(super) overall_risk: Option<&'static str>,
    pub(super) risk_factors: Vec<String>,
}

/// What of the work is known.
pub(super) struct Work {
    pub(super) cost: i64,
    pub(super) local_ns: Option<i64>,
    pub(super) deadline_ns: Option<i64>,
}

pub(in crate::api) async fn burst(
    State(api): State<Arc<Api>>,
    uri: Uri,
    body: Body,
) -> Result<Json<BurstAnswer>, ApiError> {
    let client = compat(&uri)?;
    let body: BurstBody = read(body)?;
    let (of, work) = (body.of.clone(), body.work()?);
    look(&api, of).await.map(|status| Json(status.burst(&work, client)))
}

impl BurstBody {
    pub(super) fn work(self) -> Result<Work, ApiError> {
        let cost = cost(self.estimated_aws_cost.or(self.estimated_cost))?;
        if self.estimated_local_time.is_some_and(|minutes| minutes > MINUTES_MAX) {
            let message = format!("estimated_local_time: is more than {MINUTES_MAX} minutes");
            return Err(ApiError::invalid("estimated_local_time", message));
        }
        // Clients say that there is none by a text of nothing, or by the first year.
        let filled =
            |text: Option<String>| text.filter(|text| !text.is_empty() && !text.starts_with("0001-01-01T"));
        let job = filled(self.job_deadline).map(|text| at("job_deadline", &text)).transpose()?;
        let paper =
            filled(self.conference_deadline).map(|text| at("conference_deadline", &text)).transpose()?;
        Ok(Work {
            cost,
            local_ns: self.estimated_local_time.map(|minutes| i64::from(minutes) * MINUTE_NS),
            deadline_ns: job.into_iter().chain(paper).min(),
        })
    }
}

impl Status {
    fn burst(&self, work: &Work, client: bool) -> BurstAnswer {
        let (cost, left) = (i128::from(work.cost), self.available_nanos);
        let limit = i128::from(self.limit.amount_nanos);
        let affordable = self.may_spend() && cost <= left;
        let left_ns = work.deadline_ns.map(|at_ns| at_ns - self.now_ns);
        let late = work.local_ns.zip(left_ns).map(|(local_ns, left_ns)| local_ns > left_ns);
        let risk = self.risk();
        // Without a deadline that is missed here nothing speaks for spending; one that is over is missed everywhere.
        let goes = affordable && late == Some(true) && left_ns.is_some_and(|left_ns| left_ns > 0);
        let of_left = percent(cost, left);
        let after = self
            .burn
            .expected_nanos
            .and_then(|expected| burn::health(self.known.spent_nanos + cost, expected).zip(self.burn.health));
        let deadline_risk = late.map(|late| if late { Risk::High } else { Risk::Low });
        let parts = Parts {
            cost_as_percent_of_budget: percent(cost, limit).map(Number),
            cost_as_percent_of_remaining: of_left.map(Number),
            opportunity_cost: None,
            budget_after_cost: Number(left - cost),
        };
        let mut risk_factors = self.reasons();
        if late == Some(true) {
            risk_factors.push("it would miss its deadline here".to_owned());
        }
        let pressure = work.local_ns.zip(left_ns).filter(|(_, left_ns)| *left_ns > 0);
        BurstAnswer {
            recommended_action: if goes { "AWS" } else { "LOCAL" },
            confidence: None,
            urgency_level: deadline_risk.or(risk).map(Risk::name),
            budget_impact: if client { Impact::Parts(parts) } else { Impact::Percent(of_left.map(Number)) },
            affordable,
            affordability_score: percent((left - cost).max(0), left).map(Number),
            cost_efficiency: None,
            timeline_pressure: pressure
                .and_then(|(local_ns, left_ns)| percent(local_ns.into(), left_ns.into()))
                .map(Number),
            deadline_risk: deadline_risk.map(Risk::name),
            grant_health_impact: after.map(|(after, before)| Number(after - before)),
            budget_preservation: percent(
                limit - self.known.spent_nanos - self.known.held_nanos - cost,
                limit,
            )
            .map(Number),
            decision_factors: self.factors(affordable, late, (cost, left)),
            risk_assessment: Assessment {
                budget_risk: risk.map(Risk::name),
                deadline_risk: deadline_risk.map(Risk::name),
                overall_risk: risk.max(deadline_risk).map(Risk::name),
                risk_factors,
            },
            alternatives: Vec::new(),
            immediate_actions: Vec::new(),
            longterm_suggestions: Vec::new(),
            message: match (affordable, late) {
                (false, _) => "there is not enough for it elsewhere",
                (true, Some(true)) if !goes => "there is enough, but its deadline is over",
                (true, Some(true)) => "there is enough, and here it would be late; nothing is held by this",
                (true, Some(false)) => "there is enough, but here it is in time",
                (true, None) => "there is enough, but nothing is known that speaks for spending it",
            }
            .to_owned(),
        }
    }

    fn factors(&self, affordable: bool, late: Option<bool>, (cost, left): (i128, i128)) -> Vec<Factor> {
        let verdict = |is_for: bool| if is_for { "for" } else { "against" };
        let mut factors = vec![Factor {
            factor: "affordability",
            weight: None,
            value: exact(cost),
            impact: verdict(affordable),
            description: format!("{} of {} is asked for", exact(cost), exact(left)),
        }];
        if let Some(risk) = self.risk() {
            factors.push(Factor {
                factor: "budget_risk",
                weight: None,
                value: risk.name().to_owned(),
                impact: verdict(risk < Risk::High),
                description: "the risk that the limit does not last for its time".to_owned(),
            });
        }
        if let Some(late) = late {
            factors.push(Factor {
                factor: "deadline",
                weight: None,
                value: if late { "missed here" } else { "met here" }.to_owned(),
                impact: verdict(late),
                description: "by the time that the request says it takes here".to_owned(),
            });
        }
        factors
    }
}

/// In billionths of a percent; `None` of nothing.
pub(super) fn percent(part: i128, whole: i128) -> Option<i128> {
    (whole > 0).then(|| part.saturating_mul(100 * PERCENT) / whole)
}
