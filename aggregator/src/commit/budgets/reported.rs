//! Jobs that are reported by those who ran them: the report is kept, and the job's hold is settled, both or neither.
//!
//! The end of the hold is journalled as every other is; the report is not, since no charge and no balance depends on it.

use super::{Answer, Budgets, CommitError, Context};
use crate::budgets::{Acted, Outcome, Report, Reported};
use crate::store::budgets::reports;

impl Budgets {
    pub(super) fn report(
        &mut self,
        context: Context<'_>,
        reported: &Reported,
        by: &str,
    ) -> Result<Answer, CommitError> {
        let Reported { hold: of, settles, subject, report } = reported;
        let settled = match of.as_ref().filter(|_| *settles) {
            None => None,
            Some(transaction) => match self.settle(context, transaction, subject.as_ref(), by)? {
                Ok(Acted::Hold(hold)) => Some(Ok(hold)),
                Ok(_) => return Err(CommitError::Bug("what was settled is no hold")),
                Err(error) => Some(Err(error)),
            },
        };
        let (outcome, hold) = match &settled {
            None => (Outcome::NoHold, None),
            Some(Ok(hold)) => (Outcome::Settled, Some(hold)),
            Some(Err(_)) => (Outcome::Refused, None),
        };
        let by_job = format!("{}/{}", report.cluster, report.job);
        let key = match of {
            Some(transaction) => {
                // Told before it had a hold, it is the same job all the same.
                reports::forget(context.db, &by_job)?;
                transaction.iter().map(|byte| format!("{byte:02x}")).collect()
            }
            None => by_job,
        };
        let report = Report {
            estimated_nanos: hold.and_then(|hold| hold.cost_nanos),
            charged_nanos: hold.map(|hold| hold.charged_nanos),
            ..report.clone()
        };
        reports::put(context.db, &key, context.now_ns, outcome, &report)?;
        Ok(Ok(Acted::Reported(settled)))
    }
}
