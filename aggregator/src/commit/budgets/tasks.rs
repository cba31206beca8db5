//! Jobs that a hold is also of: tasks of its array, which Slurm charges under ids of their own. What they are charged is charged of
//! that hold, so that nothing of them counts twice while the array runs.
//!
//! Constraint: a job is of one open hold at most. Who has one of its own keeps it, and is told.

use std::collections::{BTreeSet, HashMap};

use super::{Answer, Budgets, CommitError, Context, escrow, journal};
use crate::budgets::hold::{Event, State, Subject, check_subject};
use crate::budgets::{Acted, BudgetError, Hold, Tasks as Named, invalid};
use crate::store::budgets as stored;
use crate::store::write::JournalKind;

/// That one request names,
const AT_ONCE_MAX: usize = 200;
/// one hold is of,
const OF_HOLD_MAX: usize = 10_000;
/// and all open holds together are.
const ALL_MAX: usize = 100_000;

/// Jobs by the number of the hold that they are also of.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    of: HashMap<i64, Vec<String>>,
    count: usize,
}

impl Tasks {
    fn of(&self, hold: &Hold) -> usize {
        self.of.get(&hold.id).map_or(0, Vec::len)
    }
}

impl Budgets {
    /// Says of which jobs a hold also is. What is said twice is said once.
    pub(super) fn name_tasks(
        &mut self,
        context: Context<'_>,
        transaction: &[u8; 16],
        jobs: &[String],
        by: &str,
    ) -> Result<Answer, CommitError> {
        let mut named = Named::default();
        let answer = self.with(context, transaction, |budgets, hold| {
            let (new, elsewhere) = match budgets.new_tasks(hold, jobs) {
                Ok(found) => found,
                Err(error) => return Ok(Err(error)),
            };
            named = Named { count: budgets.tasks.of(hold) + new.len(), elsewhere };
            if new.is_empty() {
                return Ok(Ok(()));
            }
            let subjects: Vec<Subject> = new.iter().cloned().map(Subject::Job).collect();
            let charged_nanos = stored::charged(context.db, &hold.ask.cluster, &subjects, hold.from_ns)?;
            hold.charged_nanos = hold.charged_nanos.saturating_add(charged_nanos);
            for job in &new {
                stored::tasks::insert(context.db, hold.id, job)?;
                budgets.remember_task(hold.id, job.clone());
            }
            let event = Event::Tasks { jobs: new.into_iter().collect(), by: by.to_owned() };
            journal(context, JournalKind::Hold, &hold.transaction, &event, by)?;
            Ok(Ok(()))
        })?;
        Ok(answer.map(|acted| match acted {
            Acted::Hold(hold) => Acted::Tasks(hold, named),
            other => other,
        }))
    }

    /// Those of `jobs` that are of no open hold yet, and those that are of another one.
    fn new_tasks(
        &self,
        hold: &Hold,
        jobs: &[String],
    ) -> Result<(BTreeSet<String>, Vec<String>), BudgetError> {
        if jobs.is_empty() || jobs.len() > AT_ONCE_MAX {
            let reason = format!("has {}; name 1 to {AT_ONCE_MAX} at once", jobs.len());
            return Err(invalid("job_ids", reason));
        }
        escrow::may_not_bind(hold)?;
        let id = hold.transaction_id();
        if hold.state != State::Open {
            let text = format!("transaction_id: {id} is {} already", hold.state.name());
            return Err(BudgetError::Conflict(text));
        }
        if !matches!(hold.subject, Some(Subject::Job(_))) {
            let text =
                format!("transaction_id: {id} is not the hold of a job; bind it to the array's id first");
            return Err(BudgetError::Conflict(text));
        }
        let (mut new, mut elsewhere) = (BTreeSet::new(), BTreeSet::new());
        for job in jobs {
            check_subject(job).map_err(|error| match error {
                BudgetError::Invalid { reason, .. } => invalid("job_ids", reason),
                other => other,
            })?;
            match self.subjects.get(&(hold.ask.cluster.clone(), Subject::Job(job.clone()))) {
                None => drop(new.insert(job.clone())),
                Some(of) if *of == hold.id => {}
                Some(_) => drop(elsewhere.insert(job.clone())),
            }
        }
        if self.tasks.of(hold) + new.len() > OF_HOLD_MAX || self.tasks.count + new.len() > ALL_MAX {
            let text = format!(
                "job_ids: a hold is of {OF_HOLD_MAX} tasks at most, and all open ones of {ALL_MAX}; others are charged beside it"
            );
            return Err(BudgetError::Conflict(text));
        }
        Ok((new, elsewhere.into_iter().collect()))
    }

    pub(super) fn remember_task(&mut self, hold: i64, job_id: String) {
        let Some(known) = self.holds.get(&hold) else { return };
        self.subjects.insert((known.ask.cluster.clone(), Subject::Job(job_id.clone())), hold);
        self.tasks.of.entry(hold).or_default().push(job_id);
        self.tasks.count += 1;
    }

    /// Of a hold that has ended.
    pub(super) fn forget_tasks(&mut self, hold: &Hold) {
        let jobs = self.tasks.of.remove(&hold.id).unwrap_or_default();
        self.tasks.count -= jobs.len();
        for job in jobs {
            self.subjects.remove(&(hold.ask.cluster.clone(), Subject::Job(job)));
        }
    }
}
