//! `POST /api/v1/asba/affordability-check`: would there be enough for work of some cost elsewhere, and would it be late here? By what the
//! ledger knows of the budget and the request says of the work; what neither knows is null. Holds nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::request::Money;
use super::super::{Body, exact, read};
use super::burst::{Assessment, BurstBody, Impact, MINUTE_NS, Parts, Work, percent};
use super::timeline::compat;
use super::{Of, Status, look};
use crate::api::Api;
use crate::api::cost::plain::Number;
use crate::api::error::ApiError;
use crate::api::inventory::time;
use crate::budgets::burn::Risk;

#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::api) struct AffordabilityBody {
    #[serde(flatten)]
    of: Of,
    #[serde(default)]
    estimated_aws_cost: Option<Money>,
    /// The same under another name.
    #[serde(default)]
    estimated_cost: Option<Money>,
    /// Minutes until it would be done here, waiting with it.
    #[serde(default)]
    estimated_local_time: Option<u32>,
    /// RFC 3339, or a date in UTC.
    #[serde(default)]
    job_deadline: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct AffordabilityAnswer {
    affordable: bool,
    /// EITHER; LOCAL: there is not enough, or the budget does not last; AWS: there is, and here it would be late
    recommended_decision: &'static str,
    decision: &'static str,
    /// null: it goes by rules, and nobody measured how often they are right
    confidence_level: Option<Number>,
    estimated_aws_cost: Number,
    /// Percent of what is left, null if that is nothing; for the client the cost in parts.
    budget_impact: Impact,
    /// null: it is not known what else the money would do
    cost_opportunity_ratio: Option<Number>,
    /// Minutes, 0 of one that is over; null without one
    time_to_deadline: Option<i64>,
    /// By estimated_local_time, from now on
    local_completion_time: Option<String>,
    /// null: how long it would take there is not said
    aws_completion_time: Option<String>,
    /// LOW, MEDIUM, HIGH, CRITICAL; null before a whole day is over
    budget_risk: Option<&'static str>,
    /// LOW, HIGH; null without a deadline and a time
    deadline_risk: Option<&'static str>,
    /// The larger of both.
    overall_risk: Option<&'static str>,
    /// The same for the client.
    risk_assessment: Assessment,
    /// What it goes by, each in words.
    decision_factors: BTreeMap<&'static str, String>,
    reasoning: Vec<String>,
    recommendations: Vec<String>,
    /// Empty: of other ways the ledger knows nothing.
    alternative_options: Vec<String>,
    message: String,
}

pub(in crate::api) async fn affordability(
    State(api): State<Arc<Api>>,
    uri: Uri,
    body: Body,
) -> Result<Json<AffordabilityAnswer>, ApiError> {
    let client = compat(&uri)?;
    let AffordabilityBody { of, estimated_aws_cost, estimated_cost, estimated_local_time, job_deadline } =
        read(body)?;
    let asked = BurstBody {
        of: of.clone(),
        estimated_aws_cost,
        estimated_cost,
        estimated_local_time,
        job_deadline,
        conference_deadline: None,
    };
    let work = asked.work()?;
    look(&api, of).await.map(|status| Json(status.affordability(&work, client)))
}

impl Status {
    fn affordability(&self, work: &Work, client: bool) -> AffordabilityAnswer {
        let (cost, left) = (i128::from(work.cost), self.available_nanos);
        let affordable = self.may_spend() && cost <= left;
        let risk = self.risk();
        let left_ns = work.deadline_ns.map(|at_ns| at_ns - self.now_ns);
        let late = work.local_ns.zip(left_ns).map(|(local_ns, left_ns)| local_ns > left_ns);
        let deadline_risk = late.map(|late| if late { Risk::High } else { Risk::Low });
        // What is over already is late everywhere.
        let ahead = left_ns.is_some_and(|left_ns| left_ns > 0);
        let decision = match (affordable && risk < Some(Risk::High), late) {
            (false, _) => "LOCAL",
            (true, Some(true)) if ahead => "AWS",
            (true, _) => "EITHER",
        };
        let mut reasoning = self.reasons();
        reasoning.push(format!("{} of {} is asked for", exact(cost), exact(left)));
        reasoning.extend(
            late.map(|late| {
                if late { "here it would be late" } else { "here it would be in time" }.to_owned()
            }),
        );
        let of_left = percent(cost, left).map(Number);
        let mut decision_factors = BTreeMap::from([(
            "affordability",
            if affordable { "there is enough" } else { "there is not enough" }.to_owned(),
        )]);
        decision_factors.extend(risk.map(|risk| ("budget_risk", risk.name().to_owned())));
        decision_factors.extend(deadline_risk.map(|risk| ("deadline_risk", risk.name().to_owned())));
        let [budget_risk, of_deadline, overall_risk] =
            [risk, deadline_risk, risk.max(deadline_risk)].map(|risk| risk.map(Risk::name));
        AffordabilityAnswer {
            affordable,
            recommended_decision: decision,
            decision,
            confidence_level: None,
            estimated_aws_cost: Number(cost),
            budget_impact: if client {
                Impact::Parts(Parts {
                    cost_as_percent_of_budget: percent(cost, i128::from(self.limit.amount_nanos)).map(Number),
                    cost_as_percent_of_remaining: of_left,
                    opportunity_cost: None,
                    budget_after_cost: Number(left - cost),
                })
            } else {
                Impact::Percent(of_left)
            },
            cost_opportunity_ratio: None,
            time_to_deadline: left_ns.map(|left_ns| left_ns.max(0) / MINUTE_NS),
            local_completion_time: work.local_ns.map(|local_ns| time(self.now_ns.saturating_add(local_ns))),
            aws_completion_time: None,
            budget_risk,
            deadline_risk: of_deadline,
            overall_risk,
            risk_assessment: Assessment {
                budget_risk,
                deadline_risk: of_deadline,
                overall_risk,
                risk_factors: self.reasons(),
            },
            decision_factors,
            reasoning,
            recommendations: Vec::new(),
            alternative_options: Vec::new(),
            message: if affordable {
                "there is enough; nothing is held by this"
            } else {
                "there is not enough"
            }
            .to_owned(),
        }
    }
}
