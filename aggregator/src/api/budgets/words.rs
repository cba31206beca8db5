//! What clients are answered about checks and holds.

use schemars::JsonSchema;
use serde::Serialize;

use super::request::Money;
use super::{exact, said};
use crate::api::cost::plain::Number;
use crate::api::inventory::time;
use crate::budgets::Hold;
use crate::budgets::hold::{Code, State, Subject};

/// `POST /api/v1/budget/check`, also where there is not enough.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct CheckAnswer {
    available: bool,
    /// null if no price is known.
    estimated_cost: Option<Number>,
    hold_amount: Number,
    #[serde(skip_serializing_if = "Option::is_none")]
    transaction_id: Option<String>,
    message: String,
    /// What is left in the tightest limit that the work counts in; null without any.
    budget_remaining: Option<Number>,
    recommendation: String,
    /// A word for programs, if there is not enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    unpriced: bool,
    /// When it ends if nothing is heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    details: CheckDetails,
    exact: CheckExact,
}

#[derive(Debug, Serialize, JsonSchema)]
struct CheckDetails {
    /// Before the hold.
    account_balance: Option<Number>,
    /// What the hold is more than what the work may cost: 1.2 is a fifth. Not there where that is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    hold_percentage: Option<Number>,
    /// What open holds of the account, and of those below it, reserved before it.
    current_hold: Number,
    /// Of the tightest limit on the partition, of the account or of one above it: what was charged in its period,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition_used: Option<Number>,
    /// what open holds reserved of it,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition_held: Option<Number>,
    /// and how much it is. Not there without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    partition_limit: Option<Number>,
    /// What such work typically costs, by what earlier jobs were charged; null of too few.
    typical_cost: Option<Number>,
    /// What the hold goes by: price, or measured.
    estimate: &'static str,
}

/// The same amounts as texts.
#[derive(Debug, Serialize, JsonSchema)]
struct CheckExact {
    estimated_cost: Option<String>,
    hold_amount: String,
    budget_remaining: Option<String>,
}

impl CheckAnswer {
    pub(super) fn of(hold: &Hold) -> Self {
        // As it was answered first, whatever became of the hold since.
        let granted = hold.state != State::Refused;
        let taken = if granted { hold.first_amount_nanos() } else { 0 };
        let left = hold.available_nanos.map(|nanos| i128::from(nanos) - i128::from(taken));
        let found = &hold.found;
        let partition = found.partition;
        let basis = if found.measured { found.typical_nanos } else { hold.cost_nanos };
        Self {
            available: granted,
            estimated_cost: hold.cost_nanos.map(number),
            hold_amount: number(taken),
            transaction_id: granted.then(|| hold.transaction_id()),
            message: said(hold),
            budget_remaining: left.map(Number),
            recommendation: recommendation(hold, granted),
            reason: hold.refusal.as_ref().map(|(code, _)| code.name()),
            unpriced: hold.cost_nanos.is_none(),
            expires_at: granted.then(|| time(hold.created_ns.saturating_add(hold.ask.lease_ns))),
            details: CheckDetails {
                account_balance: hold.available_nanos.map(number),
                hold_percentage: basis.and_then(|cost| buffer(cost, hold.first_amount_nanos())),
                current_hold: number(found.held_nanos),
                partition_used: partition.map(|of| number(of.used_nanos)),
                partition_held: partition.map(|of| number(of.held_nanos)),
                partition_limit: partition.map(|of| number(of.limit_nanos)),
                typical_cost: found.typical_nanos.map(number),
                estimate: if found.measured { "measured" } else { hold.ask.estimate.name(hold.cost_nanos) },
            },
            exact: CheckExact {
                estimated_cost: hold.cost_nanos.map(exact),
                hold_amount: exact(taken),
                budget_remaining: left.map(exact),
            },
        }
    }
}

/// What to do, in words for people.
fn recommendation(hold: &Hold, granted: bool) -> String {
    if !granted {
        let unpriced = matches!(hold.refusal, Some((Code::Unpriced, _)));
        return if unpriced {
            "ask an operator for a price of these GPUs"
        } else {
            "ask for less, or for more budget"
        }
        .to_owned();
    }
    let half = |typical: &i64| hold.cost_nanos.is_some_and(|cost| *typical < cost / 2);
    match hold.found.typical_nanos.filter(half) {
        Some(typical) => {
            format!(
                "submit; such work typically costs {}: a shorter time limit would hold less",
                exact(typical)
            )
        }
        None => "submit".to_owned(),
    }
}

/// The buffer that a hold was made with: amounts are rounded up by less than a nano-dollar, so that thousandths are exact of all
/// but the smallest.
fn buffer(cost_nanos: i64, amount_nanos: i64) -> Option<Number> {
    let permille = (i128::from(amount_nanos) * 1000).checked_div(i128::from(cost_nanos))?;
    Some(Number(permille * 1_000_000))
}

/// `POST /api/v1/budget/reconcile`.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct ReconcileAnswer {
    success: bool,
    original_hold: Number,
    /// What its slots had charged when it was settled.
    actual_charge: Number,
    /// What the hold had reserved beyond that.
    refund_amount: Number,
    /// What it cost beyond its hold.
    overrun_amount: Number,
    transaction_id: String,
    message: String,
    exact: ReconcileExact,
}

/// The same amounts as texts.
#[derive(Debug, Serialize, JsonSchema)]
struct ReconcileExact {
    original_hold: String,
    actual_charge: String,
    refund_amount: String,
    overrun_amount: String,
}

impl ReconcileAnswer {
    pub(super) fn of(hold: &Hold, reported: Option<Money>) -> Self {
        let (amount, charged) = (hold.amount_nanos, hold.charged_nanos);
        let refund = amount.saturating_sub(charged).max(0);
        let overrun = hold.overrun_nanos();
        let message = match reported {
            Some(Money(reported)) if reported != charged => {
                let [charged, reported] = [charged, reported].map(exact);
                format!(
                    "settled; the ledger charged {charged}, the caller reported {reported}: the ledger's counts"
                )
            }
            _ => format!("settled; the ledger charged {}", exact(charged)),
        };
        Self {
            success: true,
            original_hold: number(amount),
            actual_charge: number(charged),
            refund_amount: number(refund),
            overrun_amount: number(overrun),
            transaction_id: hold.transaction_id(),
            message,
            exact: ReconcileExact {
                original_hold: exact(amount),
                actual_charge: exact(charged),
                refund_amount: exact(refund),
                overrun_amount: exact(overrun),
            },
        }
    }
}

/// A hold as it is.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct HoldAnswer {
    transaction_id: String,
    /// open, settled, voided, expired, refused
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_uid: Option<String>,
    amount: String,
    charged: String,
    expires_at: String,
}

impl HoldAnswer {
    pub(super) fn of(hold: &Hold) -> Self {
        let (job_id, pod_uid) = match hold.subject.clone() {
            Some(Subject::Job(id)) => (Some(id), None),
            Some(Subject::Pod(uid)) => (None, Some(uid)),
            None => (None, None),
        };
        Self {
            transaction_id: hold.transaction_id(),
            state: hold.state.name(),
            job_id,
            pod_uid,
            amount: exact(hold.amount_nanos),
            charged: exact(hold.charged_nanos),
            expires_at: time(hold.until_ns),
        }
    }
}

pub(super) fn number(nanos: i64) -> Number {
    Number(i128::from(nanos))
}
