//! Looks again and again at what Slurm has and what the ledger holds, and makes the one fit the other ([`super::plan`]).
//!
//! Every step may come twice, or be cut off at any point: what is left is done the next time. Without a whole answer of both nothing is
//! done.

use std::sync::Arc;
use std::time::Duration;

use tonnage_runtime::clock::Clock;
use tonnage_runtime::shutdown::Shutdown;
use tonnage_runtime::telemetry::chain;

use super::admission::ask;
use super::escrow::Purse;
use super::guard::Guard;
use super::ledger::{Ask, Change, Checked, EXTENDS, Escrow, Ledger, LedgerError};
use super::mark::{Kind, Mark};
use super::need::Site;
use super::owed::Owed;
use super::plan::{Action, Memory, Waits, plan};
use super::reporter::Reporter;
use super::request::{AskError, Request};
use super::slurm::{Slurm, SlurmError};
use crate::metrics::gate::{Counts, Swept};

/// See the module.
pub struct Sweep {
    pub ledger: Ledger,
    pub slurm: Slurm,
    pub site: Site,
    pub waits: Waits,
    pub every: Duration,
    pub guard: Option<Guard>,
    pub reporter: Option<Reporter>,
    pub owed: Arc<Owed>,
    pub purse: Arc<Purse>,
    pub counts: Arc<Counts>,
    pub clock: Clock,
}

/// Nothing was done, or not all.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("Slurm did not say which jobs there are")]
    Slurm(#[from] SlurmError),
    #[error("what was let in and noted cannot be read")]
    Owed(#[from] std::io::Error),
}

impl Sweep {
    /// Sweeps until `stop`.
    pub async fn run(mut self, stop: Shutdown) {
        let (mut memory, mut reporter) = (Memory::default(), self.reporter.take());
        while !stop.is_set() {
            // First, so that holds are settled once what their jobs ran for is told.
            if let Some(reporter) = &mut reporter {
                let told = reporter.tend(&self.ledger, &self.slurm).await;
                if let Err(error) = &told {
                    let error = chain(error);
                    tracing::warn!(
                        error,
                        "What jobs ran for is not all told; what is left is told the next time."
                    );
                }
                self.counts.reported(told.ok().map(|told| (told.told, told.refused)));
            }
            match self.once(&mut memory).await {
                Ok(()) => self.counts.swept(Ok(self.clock.wall_ns())),
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(%error, "A sweep ended early; what is left is done with the next.");
                    self.counts.swept(Err(error));
                }
            }
            if let Some(guard) = &self.guard {
                guard.tend(&self.ledger, &self.slurm).await;
            }
            tokio::select! {
                () = tokio::time::sleep(self.every) => {}
                () = stop.wait() => {}
            }
        }
    }

    async fn once(&self, memory: &mut Memory) -> Result<(), SweepError> {
        // In this order: see the plan.
        let holds = self.ledger.open().await?;
        let jobs = self.slurm.jobs().await?;
        let own = self.purse.own();
        let actions = plan(self.clock.monotonic_ns(), self.waits, &holds, &jobs, &own, memory);
        for action in actions {
            self.act(action, memory).await?;
        }
        self.pay().await
    }

    async fn act(&self, action: Action, memory: &mut Memory) -> Result<(), SweepError> {
        match action {
            Action::Bind { transaction, job } => {
                self.change(&transaction, &Change::Bind { job }, Swept::Bound).await
            }
            Action::Join { transaction, into } => {
                match self.ledger.change(&transaction, &Change::Join { into }).await? {
                    Ok(()) => self.counts.did(Swept::Joined),
                    Err(why) => {
                        tracing::debug!(
                            transaction,
                            why,
                            "What a job was given more stays a hold of its own."
                        );
                        memory.apart(&transaction);
                    }
                }
                Ok(())
            }
            Action::Name { transaction, jobs } => {
                let name = Change::Name { jobs: jobs.clone() };
                match self.ledger.change(&transaction, &name).await? {
                    Ok(()) => {
                        memory.named(&transaction, jobs);
                        self.counts.did(Swept::Named);
                    }
                    Err(why) => tracing::warn!(
                        transaction,
                        why,
                        "Tasks of an array are charged beside its hold; until it ends less is left than could be."
                    ),
                }
                Ok(())
            }
            Action::Renew { transaction } => self.change(&transaction, &Change::Renew, Swept::Renewed).await,
            Action::Settle { transaction } => {
                self.change(&transaction, &Change::Settle, Swept::Settled).await
            }
            Action::Void { transaction } => self.change(&transaction, &Change::Void, Swept::Voided).await,
            Action::Book { job, mark, why } => self.book(job, &mark, why, memory).await,
            Action::Draw { job, mark, transaction, amount } => {
                let drawn = self.held(&mark, |ask| Ask {
                    job: Some(job.clone()),
                    escrow: Escrow::From { transaction, amount },
                    ..ask
                });
                match drawn.await? {
                    Some(Checked::Granted(_)) => self.counts.did(Swept::Drawn),
                    // Its escrow is gone, or has not as much: then it is held for all the same.
                    _ => {
                        return self
                            .book(job, &mark, "its escrow had ended before it was found", memory)
                            .await;
                    }
                }
                Ok(())
            }
        }
    }

    async fn change(&self, transaction: &str, change: &Change, what: Swept) -> Result<(), SweepError> {
        match self.ledger.change(transaction, change).await? {
            Ok(()) => self.counts.did(what),
            // It ended meanwhile, most likely: the next list says.
            Err(why) => tracing::debug!(transaction, ?change, why, "A hold could not be changed."),
        }
        Ok(())
    }

    /// Holds for a job whether there is enough or not.
    async fn book(&self, job: String, mark: &Mark, why: &str, memory: &mut Memory) -> Result<(), SweepError> {
        let booked = self.held(mark, |ask| Ask {
            // Of its own: the first may have been refused, or have ended.
            key: format!("{}-{}", ask.key, if mark.kind == Kind::Held { "again" } else { "open" }),
            job: Some(job.clone()),
            overdraft: why.to_owned(),
            ..ask
        });
        match booked.await? {
            Some(Checked::Granted(granted)) => {
                let transaction = granted.transaction_id;
                tracing::info!(job, transaction, why, "A job that was let in without asking is held for.");
                self.counts.did(Swept::Overdrawn);
            }
            Some(Checked::Refused(why) | Checked::Unbudgeted(why) | Checked::Conflict(why)) => {
                tracing::warn!(
                    job,
                    why,
                    "A job that was let in without asking has no hold; what it uses is charged all the same."
                );
                self.counts.did(Swept::NotHeld);
            }
            None => self.counts.did(Swept::NotHeld),
        }
        memory.done(&mark.token);
        Ok(())
    }

    /// Asks for a job by what its mark says it had asked for; `None` if that cannot be read, or is no GPU.
    async fn held(&self, mark: &Mark, more: impl FnOnce(Ask) -> Ask) -> Result<Option<Checked>, SweepError> {
        match mark.request().and_then(|request| self.ask(&request)) {
            Ok(Some(ask)) => Ok(Some(self.ledger.check(&more(ask)).await?)),
            Ok(None) => Ok(None),
            Err(error) => {
                let error = error.to_string();
                tracing::warn!(
                    error,
                    "A job's mark does not say what was asked, so that nothing is held for it."
                );
                Ok(None)
            }
        }
    }

    /// Books what was let in and noted here.
    async fn pay(&self) -> Result<(), SweepError> {
        for (token, line) in self.owed.all()? {
            let asked = Request::parse(&line).and_then(|request| self.ask(&request));
            if let Ok(Some(ask)) = asked {
                let job = ask.details.get(EXTENDS).cloned().unwrap_or_default();
                let overdraft = "it was let in while the aggregator could not be asked".to_owned();
                let key = format!("{}-open", ask.key);
                match self.ledger.check(&Ask { key, overdraft, ..ask }).await? {
                    Checked::Granted(_) => self.counts.did(Swept::Overdrawn),
                    other => {
                        tracing::warn!(
                            job,
                            ?other,
                            "What a job was given more has no hold; what it uses is charged all the same."
                        );
                        self.counts.did(Swept::NotHeld);
                    }
                }
            }
            self.owed.paid(&token)?;
        }
        Ok(())
    }

    fn ask(&self, request: &Request) -> Result<Option<Ask>, AskError> {
        ask(request, self.site, &self.ledger.cluster)
    }
}
