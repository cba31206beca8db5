//! `POST /api/v1/asba/budget-status`, and what else advisors on where to run work ask of a budget, under the names of both of their client's
//! and their server's documents. All of it is the ledger's; of what work costs elsewhere it only knows what the request says.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tonnage_proto::limits::DAY_NS;

use super::accounts::missing;
use super::burn::{Known, began_ns, budget, chosen, days, grant};
use super::request::Money;
use super::seen::Seen;
use super::{Body, read, refused};
use crate::api::Api;
use crate::api::cost::plain::Number;
use crate::api::error::ApiError;
use crate::api::inventory::time;
use crate::api::params::Params;
use crate::budgets::available::{Stand, stands};
use crate::budgets::burn::{self, Burn, Risk};
use crate::budgets::grant::Standing as GrantStanding;
use crate::budgets::{Account, Award, Limit, Standing, Tree};
use crate::store::query::QueryError;
use crate::store::{Connection, StoreError, grants};

pub(in crate::api) mod affordability;
pub(in crate::api) mod burst;
pub(in crate::api) mod timeline;

/// Whole days that a rate is of.
const DAYS: i64 = 30;
const PERCENT: i128 = 1_000_000_000;

#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::api) struct StatusBody {
    #[serde(flatten)]
    of: Of,
}

/// Whose budget is asked about: an account's limit, or a grant's direct costs.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
struct Of {
    /// That of the grant unless told.
    #[serde(default)]
    account: String,
    #[serde(default)]
    grant_number: Option<String>,
}

/// Percentages are 0 to 100, rates per day. What is not known is null.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct StatusAnswer {
    account: String,
    /// null where no grant was asked about
    grant_number: Option<String>,
    budget_limit: Number,
    budget_used: Number,
    budget_held: Number,
    /// In the tightest of all limits on everything, those above with them.
    budget_available: Number,
    budget_utilization: Option<Number>,
    grant_start_date: String,
    grant_end_date: Option<String>,
    days_remaining: Option<i64>,
    grant_days_remaining: Option<i64>,
    daily_burn_rate: Option<Number>,
    burn_rate: Option<Number>,
    expected_daily_rate: Option<Number>,
    burn_rate_variance: Option<Number>,
    budget_health_score: Option<Number>,
    health_score: Option<i64>,
    health_status: &'static str,
    projected_depletion_date: Option<String>,
    /// null before a whole day is over
    risk_level: Option<&'static str>,
    /// The account may spend, something is left, and its limit lasts.
    can_afford_aws_burst: bool,
    can_afford_aws: bool,
    /// EITHER, PREFER_LOCAL, EMERGENCY_ONLY
    recommended_decision: &'static str,
    decision: &'static str,
    decision_reasoning: Vec<String>,
    last_updated: String,
}

/// An account as advisors ask about it.
struct Status {
    account: Account,
    award: Option<Award>,
    limit: Limit,
    known: Known,
    burn: Burn,
    available_nanos: i128,
    standing: Standing,
    now_ns: i64,
}

pub(in crate::api) async fn status(
    State(api): State<Arc<Api>>,
    uri: Uri,
    body: Body,
) -> Result<Json<StatusAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let StatusBody { of } = read(body)?;
    look(&api, of).await.map(|status| Json(status.answer()))
}

/// What work may cost elsewhere, by the request.
fn cost(said: Option<Money>) -> Result<i64, ApiError> {
    match said {
        None => {
            Err(ApiError::invalid("estimated_aws_cost", "estimated_aws_cost: say what the work may cost"))
        }
        Some(Money(..0)) => {
            Err(ApiError::invalid("estimated_aws_cost", "estimated_aws_cost: is less than 0"))
        }
        Some(Money(cost)) => Ok(cost),
    }
}

async fn look(api: &Api, of: Of) -> Result<Status, ApiError> {
    let now_ns = api.state.clock.wall_ns();
    api.queries.run(move |db, expired| find(db, &of, now_ns, expired)).await?
}

/// `Err` within: why there is nothing to tell.
fn find(
    db: &Connection,
    of: &Of,
    now_ns: i64,
    expired: &dyn Fn() -> bool,
) -> Result<Result<Status, ApiError>, QueryError> {
    // Clients without one send an empty text.
    let award = match of.grant_number.as_ref().filter(|number| !number.is_empty()) {
        None => None,
        Some(number) => match grants::awards(db)?.numbered(number) {
            Ok(award) => Some(award.clone()),
            Err(error) => return Ok(Err(refused(error))),
        },
    };
    let name = match &award {
        Some(award) if of.account.is_empty() => award.grant.account.clone(),
        Some(award) if of.account != award.grant.account => {
            let message = format!("account: is not {:?}, which the grant is of", award.grant.account);
            return Ok(Err(ApiError::invalid("account", message)));
        }
        _ => of.account.clone(),
    };
    let mut seen = Seen::read(db, now_ns)?;
    let Some(account) = seen.tree.by_name(&name).cloned() else { return Ok(Err(missing(&name))) };
    let (limit, known, list) = match &award {
        Some(award) => {
            let Some((limit, known)) = grant::known(db, &mut seen, award)? else {
                return Ok(Err(grant::purged()));
            };
            let days = grant::paid_days(db, &seen, (account.id, award), (&known, DAYS), expired)?;
            (limit, known, days.list)
        }
        None => {
            let Some(limit) = chosen(&account, now_ns) else {
                let message =
                    "account: has no limit on everything, for its life or by a calendar; give it one";
                return Ok(Err(ApiError::invalid("account", message)));
            };
            let known = budget(db, &mut seen, &account, &limit)?;
            let days = days(db, &seen, (account.id, began_ns(&account)), (&known, DAYS), expired)?;
            (limit, known, days.list)
        }
    };
    let spent: Vec<i128> = list.iter().map(|(_, nanos)| *nanos).collect();
    let burn = known.burn(&limit, &spent, now_ns);
    let Seen { tree, reserved, spent, .. } = &mut seen;
    let all = stands(tree, account.id, reserved, now_ns, |span_ns, of, limit| {
        let sums = spent.of(db, tree, span_ns)?;
        Ok::<_, StoreError>(sums.of(of, |partition, model| limit.counts(partition, model)))
    })?;
    let general = all.iter().filter(|stand| stand.limit.partition.is_none() && stand.limit.model.is_none());
    let own = award.as_ref().map(|_| i128::from(limit.amount_nanos) - known.spent_nanos - known.held_nanos);
    let available_nanos = general.map(Stand::available_nanos).chain(own).min().unwrap_or(0);
    let down = tree.path(account.id).map(|account| Tree::standing(account, now_ns));
    let standing =
        down.into_iter().find(|standing| *standing != Standing::Active).unwrap_or(Standing::Active);
    Ok(Ok(Status { account, award, limit, known, burn, available_nanos, standing, now_ns }))
}

impl Status {
    fn risk(&self) -> Option<Risk> {
        self.burn.forecast.as_ref().map(|forecast| forecast.risk)
    }

    fn may_spend(&self) -> bool {
        let granted = self.award.as_ref().map(|award| award.standing(self.now_ns));
        self.standing == Standing::Active && granted.is_none_or(|standing| standing == GrantStanding::Active)
    }

    /// What speaks against spending more, in words.
    fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let granted = self.award.as_ref().map(|award| award.standing(self.now_ns));
        if let Some(standing) = granted.filter(|standing| *standing != GrantStanding::Active) {
            reasons.push(format!("the grant is {}", standing.name()));
        }
        if self.standing != Standing::Active {
            reasons.push(format!("the account, or one above it, is {}", self.standing.name()));
        }
        if self.available_nanos <= 0 {
            reasons.push("nothing is left".to_owned());
        }
        match self.risk() {
            Some(risk) => reasons.push(format!("the risk that the limit does not last is {}", risk.name())),
            None => reasons.push("no whole day is over yet to tell a rate by".to_owned()),
        }
        reasons
    }

    fn answer(self) -> StatusAnswer {
        let Self { account, award, limit, known, burn, available_nanos, now_ns, .. } = &self;
        let amount = i128::from(limit.amount_nanos);
        let days_left = known.end_ns.map(|end_ns| (end_ns - now_ns).max(0) / DAY_NS);
        let risk = self.risk();
        let can = self.may_spend() && *available_nanos > 0 && risk < Some(Risk::High);
        let decision = match (can, risk) {
            (true, None | Some(Risk::Low)) => "EITHER",
            (true, _) => "PREFER_LOCAL",
            (false, _) => "EMERGENCY_ONLY",
        };
        let rate = burn.month_nanos.map(Number);
        StatusAnswer {
            account: account.spec.name.clone(),
            grant_number: award.as_ref().map(|award| award.grant.number.clone()),
            budget_limit: Number(amount),
            budget_used: Number(known.spent_nanos),
            budget_held: Number(known.held_nanos),
            budget_available: Number(*available_nanos),
            budget_utilization: (amount > 0).then(|| Number(known.spent_nanos * 100 * PERCENT / amount)),
            grant_start_date: time(known.start_ns),
            grant_end_date: known.end_ns.map(time),
            days_remaining: days_left,
            grant_days_remaining: days_left,
            daily_burn_rate: rate,
            burn_rate: rate,
            expected_daily_rate: burn.expected_day_nanos.map(Number),
            burn_rate_variance: burn.variance.map(Number),
            budget_health_score: burn.health.map(Number),
            health_score: burn.health.and_then(|health| i64::try_from(health / PERCENT).ok()),
            health_status: burn::health_name(burn.health),
            projected_depletion_date: burn.forecast.as_ref().and_then(|of| of.depletion_ns).map(time),
            risk_level: risk.map(Risk::name),
            can_afford_aws_burst: can,
            can_afford_aws: can,
            recommended_decision: decision,
            decision,
            decision_reasoning: self.reasons(),
            last_updated: time(*now_ns),
        }
    }
}
