//! What to do about holds, by what Slurm has and what the ledger has: pure, and the same whatever was done before.
//!
//! ```text
//! job with a mark    hold of its token not bound -> bind      no hold -> book (overdraft), or take it out of its escrow
//! hold of a job      job lives -> renew now and then          job has ended, for some time -> settle
//! hold for more of a job, which has one -> join the two
//! hold of an array   a task has an id of its own -> name it
//! hold of no job     for longer than a token lives -> void    escrow past its end -> void, once nothing is left to take out
//! ```
//!
//! The ledger's list is older than Slurm's, so a hold that is in the former and has no job in the latter was for a submission that came to
//! nothing. The other way round a job may be younger than the list: what is missing there is missing only once it was so twice.

use std::collections::{BTreeSet, HashMap};

use super::ledger::{ESCROW, EXTENDS, Hold, TOKEN};
use super::mark::{Kind, Mark};

const S: i64 = 1_000_000_000;
/// A hold lasts a day: it is renewed well before, and soon after a start, since nobody knows when that was last.
const RENEW_FIRST_NS: i64 = 3600 * S;
const RENEW_NS: i64 = 8 * 3600 * S;

/// After this much more than a lease's length since it was first seen nobody spends of it, and Slurm shows all that was let in.
const ESCROW_MARGIN_NS: i64 = 60 * S;

/// Tasks that a hold can be of, and that one request names: the ledger takes as many.
const TASKS_MAX: usize = 10_000;
const TASKS_AT_ONCE: usize = 200;

/// A job, all tasks of an array as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Slurm's id, of an array its first.
    pub id: String,
    /// Ids of tasks that have one of their own.
    pub tasks: Vec<String>,
    /// It may still run, or run again.
    pub lives: bool,
    pub mark: Option<Mark>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Bind {
        transaction: String,
        job: String,
    },
    /// A hold for more of a job becomes one with the job's own.
    Join {
        transaction: String,
        into: String,
    },
    /// The hold is also of these tasks.
    Name {
        transaction: String,
        jobs: Vec<String>,
    },
    Renew {
        transaction: String,
    },
    Settle {
        transaction: String,
    },
    Void {
        transaction: String,
    },
    /// A job has no hold, and this is why.
    Book {
        job: String,
        mark: Mark,
        why: &'static str,
    },
    /// Its hold is taken out of its escrow.
    Draw {
        job: String,
        mark: Mark,
        transaction: String,
        amount: String,
    },
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// A submission becomes a job within this.
    pub token_ns: i64,
    /// A job's last windows are in the ledger after this.
    pub settle_ns: i64,
}

#[derive(Debug, Default)]
struct Seen {
    first_ns: i64,
    /// Since when its job has ended.
    ended_ns: Option<i64>,
    renew_ns: i64,
    /// Tasks that it is known to be of, or that are known to be of another one.
    named: BTreeSet<String>,
    /// It cannot become one with its job's own.
    apart: bool,
}

/// What is remembered from one look to the next; all of it comes back by itself after a restart.
#[derive(Debug, Default)]
pub struct Memory {
    seen: HashMap<String, Seen>,
    /// Tokens of jobs that had no hold the last time.
    lacking: BTreeSet<String>,
    /// Tokens that are done with, while Slurm still shows their jobs.
    done: BTreeSet<String>,
}

impl Memory {
    /// Nothing more is to be done about a job's mark: it was booked, or cannot be.
    pub fn done(&mut self, token: &str) {
        self.done.insert(token.to_owned());
    }

    /// The ledger says that a hold cannot be joined.
    pub fn apart(&mut self, transaction: &str) {
        if let Some(seen) = self.seen.get_mut(transaction) {
            seen.apart = true;
        }
    }

    /// The ledger was told that a hold is of these tasks.
    pub fn named(&mut self, transaction: &str, jobs: Vec<String>) {
        if let Some(seen) = self.seen.get_mut(transaction) {
            seen.named.extend(jobs);
        }
    }
}

/// What is to be done now. `holds` were listed before `jobs`; `own` are escrows that this gate may still spend.
pub fn plan(
    now_ns: i64,
    waits: Waits,
    holds: &[Hold],
    jobs: &[Job],
    own: &BTreeSet<String>,
    memory: &mut Memory,
) -> Vec<Action> {
    let mut actions = Vec::new();
    let by_id: HashMap<&str, &Job> = jobs.iter().map(|job| (job.id.as_str(), job)).collect();
    let by_token: HashMap<&str, &Hold> = holds
        .iter()
        .filter(|hold| hold.detail(EXTENDS).is_empty())
        .map(|hold| (hold.detail(TOKEN), hold))
        .collect();
    let by_job: HashMap<&str, &Hold> =
        holds.iter().filter_map(|hold| Some((hold.job_id.as_deref()?, hold))).collect();
    let mut of_tokens: HashMap<&str, &Job> = HashMap::new();
    let (mut lacking, mut drawn_from) = (BTreeSet::new(), BTreeSet::new());
    for job in jobs {
        let Some(mark) = &job.mark else { continue };
        of_tokens.insert(&mark.token, job);
        match by_token.get(mark.token.as_str()) {
            Some(hold) if hold.job_id.is_none() => {
                actions.push(Action::Bind { transaction: hold.transaction_id.clone(), job: job.id.clone() });
            }
            Some(_) => {}
            None if memory.done.contains(&mark.token) => {}
            None => {
                lacking.insert(mark.token.clone());
                let twice = memory.lacking.contains(&mark.token);
                if let Kind::Escrow { transaction, .. } = &mark.kind {
                    drawn_from.insert(transaction.clone());
                }
                actions.extend(missing(job, mark, twice));
            }
        }
    }
    for hold in holds {
        let job = hold.job_id.as_deref().or(Some(hold.detail(EXTENDS)).filter(|id| !id.is_empty()));
        let seen = memory.seen.entry(hold.transaction_id.clone()).or_insert_with(|| Seen {
            first_ns: now_ns,
            renew_ns: now_ns + RENEW_FIRST_NS,
            ended_ns: None,
            named: BTreeSet::new(),
            apart: false,
        });
        // Also of one that is bound just now: the sooner, the less counts twice meanwhile.
        let whole = match &hold.job_id {
            Some(id) => by_id.get(id.as_str()),
            None if hold.detail(EXTENDS).is_empty() => of_tokens.get(hold.detail(TOKEN)),
            None => None,
        };
        if let Some(job) = whole {
            actions.extend(name(hold, job, &seen.named));
        }
        let void = |since_ns: i64| {
            (now_ns - seen.first_ns >= since_ns)
                .then(|| Action::Void { transaction: hold.transaction_id.clone() })
        };
        actions.extend(match job {
            // What was let in for it is taken out first.
            _ if !hold.detail(ESCROW).is_empty() => {
                let length_ns =
                    hold.detail(ESCROW).parse::<u32>().map_or(i64::MAX / 2, |seconds| i64::from(seconds) * S);
                let spent = own.contains(&hold.transaction_id) || drawn_from.contains(&hold.transaction_id);
                if spent { None } else { void(length_ns + ESCROW_MARGIN_NS) }
            }
            Some(id) if hold.job_id.is_none() && !seen.apart && by_job.contains_key(id) => {
                by_job.get(id).map(|own| Action::Join {
                    transaction: hold.transaction_id.clone(),
                    into: own.transaction_id.clone(),
                })
            }
            Some(id) => known(now_ns, waits, hold, by_id.get(id).copied(), seen),
            None if of_tokens.contains_key(hold.detail(TOKEN)) => None,
            None => void(waits.token_ns),
        });
    }
    let listed: BTreeSet<&str> = holds.iter().map(|hold| hold.transaction_id.as_str()).collect();
    memory.seen.retain(|id, _| listed.contains(id.as_str()));
    memory.done.retain(|token| of_tokens.contains_key(token.as_str()));
    memory.lacking = lacking;
    actions
}

/// A job whose hold is not in the list.
fn missing(job: &Job, mark: &Mark, twice: bool) -> Option<Action> {
    let mark = mark.clone();
    let job_id = job.id.clone();
    match &mark.kind {
        Kind::Open => Some(Action::Book {
            job: job_id,
            mark,
            why: "it was let in while the aggregator could not be asked",
        }),
        Kind::Escrow { transaction, amount } => {
            let (transaction, amount) = (transaction.clone(), amount.clone());
            Some(Action::Draw { job: job_id, mark, transaction, amount })
        }
        // Of one that has ended it was settled.
        Kind::Held => (job.lives && twice).then_some(Action::Book {
            job: job_id,
            mark,
            why: "its hold ended before it did",
        }),
    }
}

/// Tasks that an array's hold is not known to be of yet, so many at a time.
fn name(hold: &Hold, job: &Job, named: &BTreeSet<String>) -> Vec<Action> {
    let new: Vec<&String> = job.tasks.iter().filter(|task| !named.contains(*task)).collect();
    let room = TASKS_MAX.saturating_sub(named.len()).min(new.len());
    let parts = new[..room].chunks(TASKS_AT_ONCE).map(|part| Action::Name {
        transaction: hold.transaction_id.clone(),
        jobs: part.iter().map(|&task| task.clone()).collect(),
    });
    parts.collect()
}

/// A hold whose job is known.
fn known(now_ns: i64, waits: Waits, hold: &Hold, job: Option<&Job>, seen: &mut Seen) -> Option<Action> {
    let transaction = hold.transaction_id.clone();
    if job.is_some_and(|job| job.lives) {
        seen.ended_ns = None;
        if now_ns < seen.renew_ns {
            return None;
        }
        seen.renew_ns = now_ns + RENEW_NS;
        return Some(Action::Renew { transaction });
    }
    let ended_ns = *seen.ended_ns.get_or_insert(now_ns);
    (now_ns - ended_ns >= waits.settle_ns).then_some(Action::Settle { transaction })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::ledger::GATE;
    use super::*;

    const TOKEN_A: &str = "aaaaaaaaaaaaaaaa";
    const WAITS: Waits = Waits { token_ns: 60 * S, settle_ns: 30 * S };

    fn hold(id: &str, job: Option<&str>, details: &[(&str, &str)]) -> Hold {
        let metadata: BTreeMap<String, String> = details
            .iter()
            .chain(&[(GATE, "c")])
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Hold { transaction_id: id.to_owned(), job_id: job.map(str::to_owned), metadata }
    }

    fn job(id: &str, lives: bool, comment: &str) -> Job {
        Job { id: id.to_owned(), tasks: Vec::new(), lives, mark: Mark::find(comment) }
    }

    fn held(kind: &str) -> String {
        format!("tonnage:{kind}:{TOKEN_A}:submit;token={TOKEN_A}")
    }

    fn at(seconds: i64, holds: &[Hold], jobs: &[Job], memory: &mut Memory) -> Vec<Action> {
        plan(seconds * S, WAITS, holds, jobs, &BTreeSet::new(), memory)
    }

    #[test]
    fn a_token_binds_a_hold_to_its_job_and_one_that_came_to_nothing_is_voided() {
        let mut memory = Memory::default();
        let holds = [hold("h", None, &[(TOKEN, TOKEN_A)])];
        let jobs = [job("7", true, &held("held"))];
        assert_eq!(
            at(0, &holds, &jobs, &mut memory),
            [Action::Bind { transaction: "h".into(), job: "7".into() }]
        );
        assert_eq!(at(0, &holds, &[], &mut memory), []);
        assert_eq!(at(59, &holds, &[], &mut memory), [], "it may become a job yet");
        assert_eq!(at(60, &holds, &[], &mut memory), [Action::Void { transaction: "h".into() }]);
        assert_eq!(
            at(900, &holds, &jobs, &mut memory),
            [Action::Bind { transaction: "h".into(), job: "7".into() }]
        );
    }

    #[test]
    fn a_hold_is_settled_once_its_job_has_ended_for_some_time_and_a_requeue_is_no_end() {
        let mut memory = Memory::default();
        let holds = [hold("h", Some("7"), &[(TOKEN, TOKEN_A)])];
        let jobs = |lives| [job("7", lives, &held("held"))];
        assert_eq!(at(0, &holds, &jobs(false), &mut memory), []);
        assert_eq!(at(20, &holds, &jobs(true), &mut memory), []);
        assert_eq!(at(31, &holds, &jobs(false), &mut memory), [], "its time begins anew");
        assert_eq!(
            at(61, &holds, &[], &mut memory),
            [Action::Settle { transaction: "h".into() }],
            "Slurm forgot it"
        );
    }

    #[test]
    fn each_task_of_an_array_is_named_once_it_has_an_id_and_once_if_the_ledger_took_it() {
        let mut memory = Memory::default();
        let holds = [hold("h", Some("7"), &[]), hold("more", None, &[(EXTENDS, "9")])];
        let jobs = |tasks: std::ops::Range<usize>| {
            [Job { tasks: tasks.map(|id| id.to_string()).collect(), ..job("7", true, "") }]
        };
        let named = |tasks, memory: &mut Memory| -> Vec<Vec<String>> {
            let named = at(0, &holds, &jobs(tasks), memory).into_iter().map(|action| match action {
                Action::Name { transaction, jobs } if transaction == "h" => jobs,
                other => panic!("{other:?}"),
            });
            named.collect()
        };
        assert!(named(0..0, &mut memory).is_empty());
        let unbound = [hold("h", None, &[(TOKEN, TOKEN_A)])];
        let new = [Job { tasks: vec!["8".into()], ..job("7", true, &held("held")) }];
        let actions = at(0, &unbound, &new, &mut Memory::default());
        assert!(matches!(&*actions, [Action::Bind { .. }, Action::Name { .. }]), "{actions:?}");
        assert_eq!(named(8..10, &mut memory), [["8", "9"]]);
        assert_eq!(named(8..10, &mut memory), [["8", "9"]], "it may have been cut off");
        memory.named("h", vec!["8".into(), "9".into()]);
        assert_eq!(named(8..11, &mut memory), [["10"]]);
        let all = named(10..20_000, &mut memory);
        assert_eq!((all.len(), all.concat().len()), (50, TASKS_MAX - 2), "no more than a hold can be of");
    }

    #[test]
    fn holds_of_jobs_that_wait_are_renewed_long_before_their_day_is_over() {
        let mut memory = Memory::default();
        let holds = [hold("h", Some("7"), &[]), hold("more", None, &[(TOKEN, "b"), (EXTENDS, "7")])];
        let jobs = [job("7", true, "")];
        let joined = [Action::Join { transaction: "more".into(), into: "h".into() }];
        assert_eq!(at(0, &holds, &jobs, &mut memory), joined);
        assert_eq!(at(0, &holds, &[], &mut memory), joined, "before both are settled");
        memory = Memory::default();
        at(0, &holds, &jobs, &mut memory);
        // Another account pays for it, say: then it lasts as long by itself.
        memory.apart("more");
        let renewals = |seconds, memory: &mut Memory| at(seconds, &holds, &jobs, memory).len();
        assert_eq!(
            [0, 3599, 3600, 3601, 3600 * 9 - 1, 3600 * 9].map(|seconds| renewals(seconds, &mut memory)),
            [0, 0, 2, 0, 0, 2]
        );
        assert_eq!(at(40_000, &holds, &[], &mut memory), []);
        let settled = at(40_030, &holds, &[], &mut memory);
        assert_eq!(settled.len(), 2, "what was added for a job ends with it: {settled:?}");
    }

    #[test]
    fn what_was_let_in_without_asking_is_booked_once() {
        let mut memory = Memory::default();
        for lives in [true, false] {
            let actions = at(0, &[], &[job("7", lives, &held("open"))], &mut memory);
            assert!(matches!(&*actions, [Action::Book { job, .. }] if job == "7"), "{actions:?}");
        }
        memory.done(TOKEN_A);
        assert_eq!(at(1, &[], &[job("7", true, &held("open"))], &mut memory), []);
        // The ask may have come through late, and be held after all.
        let late = [hold("h", None, &[(TOKEN, TOKEN_A)])];
        let actions = at(2, &late, &[job("7", true, &held("open"))], &mut Memory::default());
        assert_eq!(actions, [Action::Bind { transaction: "h".into(), job: "7".into() }]);
    }

    #[test]
    fn a_job_whose_hold_is_missing_twice_is_booked_and_one_that_has_ended_is_not() {
        let mut memory = Memory::default();
        let jobs = |lives| [job("7", lives, &held("held"))];
        assert_eq!(at(0, &[], &jobs(true), &mut memory), [], "its hold may be younger than the list");
        let actions = at(1, &[], &jobs(true), &mut memory);
        assert!(matches!(&*actions, [Action::Book { .. }]), "{actions:?}");
        assert_eq!(at(2, &[], &jobs(false), &mut memory), []);
    }

    #[test]
    fn an_escrow_is_voided_once_all_that_was_let_in_is_taken_out_of_it_and_nobody_spends_it() {
        let mut memory = Memory::default();
        let escrow = hold("txn_e", None, &[(ESCROW, "600")]);
        let jobs = [job("7", true, &held("escrow=txn_e=1.5"))];
        let holds = [escrow.clone(), hold("h", Some("7"), &[(TOKEN, TOKEN_A)])];
        assert_eq!(at(0, &holds, &jobs, &mut memory), []);
        assert_eq!(
            at(659, &holds, &[], &mut memory),
            [],
            "a gate that is cut off may let work in until its lease ends"
        );
        let actions = at(660, &[escrow], &jobs, &mut memory);
        assert!(
            matches!(&*actions, [Action::Draw { transaction, amount, .. }] if transaction == "txn_e" && amount == "1.5"),
            "{actions:?}"
        );
        let own = BTreeSet::from(["txn_e".to_owned()]);
        assert_eq!(plan(661 * S, WAITS, &holds, &jobs, &own, &mut memory), []);
        assert_eq!(at(662, &holds, &jobs, &mut memory), [Action::Void { transaction: "txn_e".into() }]);
    }
}
