//! What those who report jobs are answered. All of it is worked out from the hold and the report, so that the same again is the same.

use schemars::JsonSchema;
use serde::Serialize;

use super::Done;
use crate::api::budgets::exact;
use crate::api::budgets::words::number;
use crate::api::cost::plain::Number;
use crate::budgets::estimate::Sample;
use crate::budgets::report::accuracy;

/// `POST /api/v1/asbx/reconcile`. What is not known is null.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct ReconciledAnswer {
    /// A hold was settled, now or before.
    success: bool,
    reconciliation_id: String,
    original_transaction: Option<String>,
    /// What its hold said that the job may cost.
    estimated_cost: Option<Number>,
    /// What the ledger charged it by the hold's end.
    actual_cost: Option<Number>,
    /// What the caller said that it cost.
    reported_cost: Option<Number>,
    /// reported_cost less actual_cost
    reported_variance: Option<Number>,
    /// actual_cost less estimated_cost
    cost_variance: Option<Number>,
    /// Of estimated_cost, in percent.
    cost_variance_pct: Option<Number>,
    /// What the hold had reserved beyond actual_cost.
    refund_amount: Number,
    /// What the job cost beyond its hold.
    additional_charge: Number,
    /// 0 to 1
    estimation_accuracy: Option<Number>,
    /// What it was charged counts in what such work typically costs.
    model_update_applied: bool,
    message: String,
    warnings: Vec<String>,
    recommendations: Vec<String>,
    exact: ReconciledExact,
}

/// The same amounts as texts.
#[derive(Debug, Serialize, JsonSchema)]
struct ReconciledExact {
    estimated_cost: Option<String>,
    actual_cost: Option<String>,
    reported_cost: Option<String>,
    reported_variance: Option<String>,
    cost_variance: Option<String>,
    refund_amount: String,
    additional_charge: String,
}

/// `POST /api/v1/asbx/epilog`. An epilog has nothing to do about any of it.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::api) struct EpilogAnswer {
    /// The report was taken, whether there was a hold or not.
    success: bool,
    job_id: String,
    /// A hold was settled, now or before.
    reconciliation_triggered: bool,
    reconciliation_id: String,
    message: String,
    next_steps: Vec<String>,
    /// settled; no_hold: there was none to settle; failed: there is one that cannot be
    data_import_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_details: Option<String>,
}

impl Done {
    fn is_settled(&self) -> bool {
        self.hold.is_some() && self.unsettled.is_none()
    }

    /// Of the hold, or of the job without one.
    fn id(&self) -> String {
        match &self.hold {
            Some(hold) => hold.transaction_id().replacen("txn_", "rec_", 1),
            None => format!("rec_{}_{}", self.reported.cluster, self.job),
        }
    }

    fn message(&self) -> String {
        match (&self.unsettled, &self.hold) {
            (Some(why), _) => why.clone(),
            (None, Some(hold)) => format!("settled; the ledger charged {}", exact(hold.charged_nanos)),
            (None, None) => String::new(),
        }
    }
}

impl ReconciledAnswer {
    pub(super) fn of(done: &Done) -> Self {
        let hold = done.hold.as_ref().filter(|_| done.is_settled());
        let (estimated, charged) =
            (hold.and_then(|hold| hold.cost_nanos), hold.map(|hold| hold.charged_nanos));
        let reported = done.reported.reported_nanos;
        let less = |one: Option<i64>, other: Option<i64>| Some(i128::from(one?) - i128::from(other?));
        let (variance, off) = (less(charged, estimated), less(reported, charged));
        let percent =
            |nanos: i128| Some(nanos * 100_000_000_000 / i128::from(estimated.filter(|of| *of > 0)?));
        let refund = hold.map_or(0, |hold| hold.amount_nanos.saturating_sub(hold.charged_nanos).max(0));
        let overrun = hold.map_or(0, crate::budgets::Hold::overrun_nanos);
        let mut warnings = done.warnings.clone();
        if let (Some(reported), Some(charged)) = (reported, charged)
            && reported != charged
        {
            let [reported, charged] = [reported, charged].map(exact);
            warnings
                .push(format!("actual_cost: {reported} was reported, {charged} is what the ledger charged"));
        }
        let over =
            (overrun > 0).then(|| "it cost more than its hold: ask for its real time limit".to_owned());
        Self {
            success: done.is_settled(),
            reconciliation_id: done.id(),
            original_transaction: done.hold.as_ref().map(crate::budgets::Hold::transaction_id),
            estimated_cost: estimated.map(number),
            actual_cost: charged.map(number),
            reported_cost: reported.map(number),
            reported_variance: off.map(Number),
            cost_variance: variance.map(Number),
            cost_variance_pct: variance.and_then(percent).map(Number),
            refund_amount: number(refund),
            additional_charge: number(overrun),
            estimation_accuracy: accuracy(estimated, charged).map(Number),
            model_update_applied: hold.is_some_and(|hold| Sample::of(hold).is_some()),
            message: done.message(),
            warnings,
            recommendations: over.into_iter().collect(),
            exact: ReconciledExact {
                estimated_cost: estimated.map(exact),
                actual_cost: charged.map(exact),
                reported_cost: reported.map(exact),
                reported_variance: off.map(exact),
                cost_variance: variance.map(exact),
                refund_amount: exact(refund),
                additional_charge: exact(overrun),
            },
        }
    }
}

impl EpilogAnswer {
    /// `job_id`: as it was sent.
    pub(super) fn of(done: &Done, job_id: String) -> Self {
        let settled = done.is_settled();
        Self {
            success: true,
            job_id,
            reconciliation_triggered: settled,
            reconciliation_id: done.id(),
            message: done.message(),
            next_steps: Vec::new(),
            data_import_status: match (settled, done.refused) {
                (true, _) => "settled",
                (false, true) => "failed",
                (false, false) => "no_hold",
            },
            error_details: done.unsettled.clone().filter(|_| done.refused),
        }
    }
}
