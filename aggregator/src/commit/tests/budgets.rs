//! Accounts and holds: what is checked is held, what is charged counts once, and nothing is spent twice.

use super::*;
use crate::budgets::account::{Bound, Fail, Limit, Overrun, Spec, Status};
use crate::budgets::hold::{Code, Escrow, State, Subject};
use crate::budgets::period::Period;
use crate::budgets::{Ask, Change, Hold, Selector, What};
use crate::store::budgets as stored;

// Each with its head.
mod allocated;
mod amended;
mod balanced;
mod counted;
mod escrow;
mod estimated;
mod granted;
mod joined;
mod labelled;
mod model;
mod recovered;
mod reported;
mod tasks;

/// By `BOOK` a second of a GPU is a million nano-dollars, and a hold a fifth more.
pub(super) const SECOND: i64 = 1_000_000;

pub(super) fn spec(name: &str, seconds: i64) -> Spec {
    let selector = Selector { account: Some(name.into()), ..Selector::default() };
    let limit =
        Limit { amount_nanos: seconds * SECOND, period: Period::Lifetime, partition: None, model: None };
    Spec { bindings: vec![Bound { selector, from_ns: Some(0) }], limits: vec![limit], ..Spec::new(name) }
}

/// One GPU for so many seconds, in the partition `gpu`.
fn ask(account: &str, seconds: i64) -> Ask {
    Ask {
        cluster: "c".into(),
        account: account.into(),
        partition: "gpu".into(),
        gpus: 1,
        time_ns: seconds * S,
        lease_ns: 3600 * S,
        ..Ask::default()
    }
}

fn job(id: &str) -> Subject {
    Subject::Job(id.into())
}

impl Ledger {
    fn act(&mut self, what: What) -> Result<Acted, BudgetError> {
        let (answer, mut answered) = oneshot::channel();
        let act = Box::new(Act { what, by: "test".into() });
        self.committer.commit_now(vec![Submission::Budget { act, answer }]);
        answered.try_recv().unwrap().unwrap()
    }

    pub(super) fn create(&mut self, spec: Spec) -> Result<Acted, BudgetError> {
        self.act(What::Account(Change::Create(Box::new(spec))))
    }

    fn hold(&mut self, what: What) -> Result<Hold, BudgetError> {
        let Acted::Hold(hold) = self.act(what)? else { panic!("that is no hold") };
        Ok(*hold)
    }

    fn check(&mut self, ask: Ask) -> Hold {
        self.hold(What::Check(Box::new(ask))).unwrap()
    }

    fn settle(&mut self, hold: &Hold) -> Result<Hold, BudgetError> {
        self.hold(What::Settle { transaction: hold.transaction, subject: None })
    }

    /// What a check of nothing says is left, in seconds of a GPU and nano-dollars beyond.
    fn left(&mut self, account: &str) -> (i64, i64) {
        let nothing = self.check(Ask { gpus: 0, ..ask(account, 1) });
        let nanos = nothing.available_nanos.unwrap();
        if nothing.state == State::Open {
            self.hold(What::Void { transaction: nothing.transaction }).unwrap();
        }
        (nanos.div_euclid(SECOND), nanos.rem_euclid(SECOND))
    }

    fn stored(&self, hold: &Hold) -> Hold {
        stored::hold_by_transaction(&self.db(), &hold.transaction).unwrap().unwrap()
    }
}

impl Agent {
    /// The next batch, of a job that holds a GPU: start in seconds since the beginning, and for how long, ten at most.
    pub(super) fn job(&mut self, of: (&str, &str, &str), windows: &[(i64, i64)]) -> Sealed {
        let (account, partition, job) = of;
        self.seq += 1;
        let window = |(start, length): &(i64, i64)| pb::Window {
            start_ns: BEGIN + start * S,
            duration_ns: (length * S).unsigned_abs(),
            usages: vec![pb::Usage {
                kind: pb::usage::Kind::Held.into(),
                held_ns: (length * S).unsigned_abs(),
                ..pb::Usage::default()
            }],
            ..pb::Window::default()
        };
        self.seal(pb::Batch {
            devices: vec![pb::Device {
                uuid: format!("GPU-{}", self.node),
                slices: 1,
                model: "NVIDIA A100-SXM4-80GB".into(),
                ..pb::Device::default()
            }],
            owners: vec![pb::Owner {
                kind: pb::owner::Kind::SlurmJob.into(),
                job_id: job.into(),
                account: account.into(),
                partition: partition.into(),
                user: "ada".into(),
                ..pb::Owner::default()
            }],
            windows: windows.iter().map(window).collect(),
            ..self.empty()
        })
    }
}

#[test]
fn a_thousand_checks_at_once_never_overspend_by_a_nano_dollar_on_two_aggregators_either() {
    let mut ledger = Ledger::new(BOOK, 10);
    let other = committer(ledger.dir.path(), &ledger.clock, BOOK);
    // Room for 100 holds of 12 s, less a nano-dollar.
    let mut physics = spec("physics", 0);
    physics.limits[0].amount_nanos = 100 * 12 * SECOND - 1;
    ledger.create(physics).unwrap();
    let (queues, threads): (Vec<_>, Vec<_>) = [std::mem::replace(&mut ledger.committer, other)]
        .into_iter()
        .chain([committer(ledger.dir.path(), &ledger.clock, BOOK)])
        .map(|committer| {
            let (queue, submissions) = mpsc::channel(QUEUE_MAX);
            (queue, std::thread::spawn(move || committer.run(submissions)))
        })
        .unzip();
    let mut answers = Vec::new();
    for at in 0..1000 {
        let (answer, answered) = oneshot::channel();
        let act = Box::new(Act { what: What::Check(Box::new(ask("physics", 10))), by: String::new() });
        queues[at % 2].blocking_send(Submission::Budget { act, answer }).unwrap();
        answers.push(answered);
    }
    let granted = answers.into_iter().filter(|_| true).filter_map(|answered| {
        match answered.blocking_recv().unwrap().unwrap().unwrap() {
            Acted::Hold(hold) => (hold.state == State::Open).then_some((hold.transaction, hold.amount_nanos)),
            _ => None,
        }
    });
    // Under ids of their own, though their clock stands still.
    let granted: BTreeMap<[u8; 16], i64> = granted.collect();
    assert_eq!((granted.len(), granted.values().sum::<i64>()), (99, 99 * 12 * SECOND));
    drop(queues);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(ledger.left("physics"), (11, SECOND - 1));
    ledger.verify();
}

#[test]
fn the_same_request_under_the_same_key_is_one_hold_also_after_a_restart_and_another_is_a_conflict() {
    let mut ledger = Ledger::new(BOOK, 10);
    ledger.create(spec("physics", 100)).unwrap();
    let keyed = Ask { key: "submit-1".into(), ..ask("physics", 10) };
    let first = ledger.check(keyed.clone());
    assert_eq!(ledger.check(keyed.clone()), first);
    ledger.committer = committer(ledger.dir.path(), &ledger.clock, BOOK);
    assert_eq!(ledger.check(keyed.clone()), first);
    assert_eq!(ledger.left("physics"), (88, 0));
    let other = ledger.hold(What::Check(Box::new(Ask { gpus: 2, ..keyed.clone() }))).unwrap_err();
    assert!(matches!(&other, BudgetError::Conflict(text) if text.starts_with("idempotency_key")), "{other}");
    // A refusal is an answer, too: more money needs another request.
    let refused = Ask { key: "submit-2".into(), ..ask("physics", 1000) };
    let no = ledger.check(refused.clone());
    assert_eq!(
        (no.state, no.refusal.as_ref().map(|(code, _)| *code)),
        (State::Refused, Some(Code::InsufficientBudget))
    );
    ledger.settle(&first).unwrap();
    assert_eq!(ledger.check(refused), no);
    ledger.verify();
}

#[test]
fn a_request_without_a_cluster_is_answered_as_before_when_there_are_two() {
    let mut ledger = Ledger::new(BOOK, 10);
    ledger.create(spec("physics", 100)).unwrap();
    let hello = |ledger: &mut Ledger, cluster: &str| {
        let hello = HelloFacts {
            node: NodeName { cluster: cluster.into(), node: "n".into() },
            epoch: [1; 16],
            oldest_seq: 1,
            agent_version: String::new(),
            sent_at_ns: 0,
        };
        ledger.committer.commit_now(vec![Submission::Hello { hello, answer: oneshot::channel().0 }]);
    };
    hello(&mut ledger, "c");
    let keyed = Ask { key: "submit-1".into(), cluster: String::new(), ..ask("physics", 10) };
    let first = ledger.check(keyed.clone());
    assert_eq!(first.ask.cluster, "c");
    hello(&mut ledger, "d");
    let unsaid = Ask { key: String::new(), ..keyed.clone() };
    assert!(matches!(
        ledger.hold(What::Check(Box::new(unsaid))),
        Err(BudgetError::Invalid { field: "cluster", .. })
    ));
    assert_eq!(ledger.check(keyed), first);
}

#[test]
fn a_job_has_one_open_hold() {
    let mut ledger = Ledger::new(BOOK, 10);
    ledger.create(spec("physics", 100)).unwrap();
    let bound = Ask { subject: Some(job("7")), ..ask("physics", 10) };
    let first = ledger.check(bound.clone());
    assert_eq!(ledger.check(bound.clone()), first, "the same is the same");
    assert!(ledger.hold(What::Check(Box::new(Ask { gpus: 2, ..bound.clone() }))).is_err());
    let second = ledger.check(ask("physics", 10));
    let bind = |hold: &Hold, id: &str| What::Bind { transaction: hold.transaction, subject: job(id) };
    assert!(matches!(ledger.hold(bind(&second, "7")), Err(BudgetError::Conflict(_))));
    ledger.hold(bind(&second, "8")).unwrap();
    ledger.hold(bind(&second, "8")).unwrap();
    assert!(matches!(ledger.hold(bind(&second, "9")), Err(BudgetError::Conflict(_))));
    // A job that is run again is checked again.
    ledger.settle(&first).unwrap();
    assert_ne!(ledger.check(bound).transaction, first.transaction);
    ledger.verify();
}

#[test]
fn nothing_counts_twice_while_a_job_runs_and_a_settled_hold_reserves_nothing() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(Spec { limits: Vec::new(), bindings: Vec::new(), ..spec("org", 0) }).unwrap();
    ledger.create(Spec { parent: Some("org".into()), ..spec("physics", 100) }).unwrap();
    let hold = ledger.check(Ask { subject: Some(job("7")), ..ask("physics", 20) });
    assert_eq!((hold.cost_nanos, hold.amount_nanos), (Some(20 * SECOND), 24 * SECOND));
    assert_eq!(ledger.left("physics"), (76, 0));
    let mut agent = Agent::new("n", "b", 1);
    for (at, left) in [(0, 76), (10, 76), (20, 70)] {
        let batch = agent.job(("physics", "gpu", "7"), &[(at, 10)]);
        ledger.at(at + 10).take(batch);
        assert_eq!(ledger.left("physics"), (left, 0), "after {} s", at + 10);
    }
    let other = agent.job(("physics", "gpu", "8"), &[(30, 10)]);
    ledger.at(40).take(other);
    assert_eq!(ledger.left("physics"), (60, 0), "another job's usage is not of this hold");
    assert_eq!(ledger.stored(&hold).charged_nanos, 30 * SECOND);
    ledger.verify();
    let settled = ledger.settle(&hold).unwrap();
    assert_eq!(
        (settled.state, settled.charged_nanos, settled.overrun_nanos()),
        (State::Settled, 30 * SECOND, 6 * SECOND)
    );
    assert_eq!(ledger.left("physics"), (60, 0));
    // Once more is the same answer, and no end follows another.
    assert_eq!(ledger.at(50).settle(&hold).unwrap(), settled);
    assert!(ledger.hold(What::Void { transaction: hold.transaction }).is_err());
    // What comes late is charged by slots as ever.
    let late = agent.job(("physics", "gpu", "7"), &[(40, 5)]);
    ledger.take(late);
    assert_eq!(ledger.left("physics"), (55, 0));
    ledger.verify();
}

#[test]
fn a_hold_that_never_ran_is_voided_and_one_that_nobody_speaks_of_expires() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(spec("physics", 100)).unwrap();
    let never = ledger.check(ask("physics", 10));
    let silent = ledger.check(Ask { subject: Some(job("7")), ..ask("physics", 10) });
    let renewed = ledger.check(ask("physics", 10));
    let runs = ledger.check(Ask { subject: Some(job("8")), ..ask("physics", 10) });
    ledger.hold(What::Void { transaction: never.transaction }).unwrap();
    assert_eq!(ledger.left("physics"), (64, 0));
    ledger.at(3000).hold(What::Renew { transaction: renewed.transaction }).unwrap();
    let mut agent = Agent::new("n", "b", 1);
    let batch = agent.job(("physics", "gpu", "8"), &[(3000, 5)]);
    ledger.at(3010).take(batch);
    ledger.at(3599).tick();
    assert_eq!(ledger.stored(&silent).state, State::Open);
    ledger.at(3600).tick();
    let states = [&never, &silent, &renewed, &runs].map(|hold| ledger.stored(hold).state);
    assert_eq!(states, [State::Voided, State::Expired, State::Open, State::Open]);
    assert_eq!(ledger.left("physics"), (100 - 24, 0));
    let error = ledger.settle(&silent).unwrap_err().to_string();
    assert!(error.contains("expired already"), "{error}");
    ledger.verify();
}

#[test]
fn limits_of_partitions_models_and_of_those_above_are_kept() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(Spec { bindings: Vec::new(), ..spec("org", 50) }).unwrap();
    let mut physics = Spec { parent: Some("org".into()), ..spec("physics", 100) };
    let sub = |partition: Option<&str>, model: Option<&str>, seconds: i64| Limit {
        amount_nanos: seconds * SECOND,
        period: Period::Lifetime,
        partition: partition.map(str::to_owned),
        model: model.map(str::to_owned),
    };
    physics.limits.extend([sub(Some("gpu"), None, 30), sub(None, Some("A100"), 20)]);
    ledger.create(physics).unwrap();
    let code = |hold: &Hold| hold.refusal.as_ref().map(|(code, _)| *code);
    let of = |partition: &str, model: &str, seconds| Ask {
        partition: partition.into(),
        model: model.into(),
        ..ask("physics", seconds)
    };
    assert_eq!(code(&ledger.check(of("gpu", "h100", 26))), Some(Code::PartitionLimitExceeded));
    assert_eq!(code(&ledger.check(of("other", "a100", 17))), Some(Code::ModelLimitExceeded));
    assert_eq!(
        code(&ledger.check(of("other", "h100", 42))),
        Some(Code::InsufficientBudget),
        "the limit above"
    );
    // 24 s of the partition are held; 10 s of 20 of the model are used.
    assert_eq!(code(&ledger.check(of("gpu", "h100", 20))), None);
    let mut agent = Agent::new("n", "b", 1);
    let batch = agent.job(("physics", "other", "7"), &[(0, 10)]);
    ledger.at(10).take(batch);
    assert_eq!(code(&ledger.check(of("gpu", "h100", 6))), Some(Code::PartitionLimitExceeded));
    assert_eq!(code(&ledger.check(of("other", "a100", 9))), Some(Code::ModelLimitExceeded));
    assert_eq!(code(&ledger.check(of("other", "h100", 14))), Some(Code::InsufficientBudget), "50 - 24 - 10");
    assert_eq!(code(&ledger.check(of("other", "h100", 13))), None);
    ledger.verify();
}

#[test]
fn an_account_that_is_not_active_holds_nothing_and_usage_without_one_is_no_ones() {
    let mut ledger = Ledger::new(BOOK, 100);
    ledger.create(Spec { bindings: Vec::new(), ..spec("org", 50) }).unwrap();
    let physics = Spec { parent: Some("org".into()), ..spec("physics", 100) };
    ledger.create(physics.clone()).unwrap();
    let code = |ledger: &mut Ledger| ledger.check(ask("physics", 1)).refusal.map(|(code, _)| code);
    assert_eq!(code(&mut ledger), None);
    let update =
        |ledger: &mut Ledger, spec: Spec| ledger.act(What::Account(Change::Update(Box::new(spec)))).unwrap();
    let org = Spec { bindings: Vec::new(), ..spec("org", 50) };
    update(&mut ledger, Spec { status: Status::Suspended, ..org.clone() });
    assert_eq!(code(&mut ledger), Some(Code::AccountInactive), "as is all below it");
    update(&mut ledger, org);
    update(&mut ledger, Spec { ends_ns: Some(BEGIN + 200 * S), ..physics });
    assert_eq!(code(&mut ledger), None);
    ledger.at(200);
    assert_eq!(code(&mut ledger), Some(Code::AccountExpired));
    let error = ledger.hold(What::Check(Box::new(ask("chemistry", 1)))).unwrap_err();
    assert!(matches!(error, BudgetError::NotFound(_)), "{error}");
    ledger.verify();
}

#[test]
fn a_price_that_is_not_known_is_said_and_the_account_says_whether_that_is_let_through() {
    let book = "currency = \"USD\"\n[[price]]\nprice = \"3.60\"\nunit = \"gpu_hour\"\nmatch = { gpu_model = \"*A100*\" }\n";
    let mut ledger = Ledger::new(book, 10);
    ledger.create(spec("closed", 100)).unwrap();
    ledger.create(Spec { fail: Fail::Open, ..spec("open", 100) }).unwrap();
    let refused = ledger.check(Ask { model: "h100".into(), ..ask("closed", 10) });
    assert_eq!(refused.refusal.map(|(code, _)| code), Some(Code::Unpriced));
    let held = ledger.check(Ask { model: "h100".into(), ..ask("open", 10) });
    assert_eq!((held.state, held.cost_nanos, held.amount_nanos), (State::Open, None, 0));
    // By the GPUs that there are: a type of a GRES is not what the driver calls the model.
    let mut agent = Agent::new("n", "b", 1);
    let batch = agent.job(("x", "gpu", "1"), &[(0, 10)]);
    ledger.take(batch);
    let by_type = ledger.at(900).check(Ask { model: "a100".into(), gpus: 2, ..ask("closed", 10) });
    assert_eq!(by_type.cost_nanos, Some(20 * SECOND));
    ledger.verify();
}

#[test]
fn work_over_its_hold_is_charged_and_suspends_its_account_where_that_says_so() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(Spec { overrun: Overrun::Suspend, ..spec("physics", 100) }).unwrap();
    let hold = ledger.check(Ask { subject: Some(job("7")), ..ask("physics", 5) });
    let mut agent = Agent::new("n", "b", 1);
    let batch = agent.job(("physics", "gpu", "7"), &[(0, 10)]);
    ledger.at(10).take(batch);
    assert_eq!(ledger.left("physics"), (90, 0));
    ledger.settle(&hold).unwrap();
    let refused = ledger.check(ask("physics", 1));
    assert_eq!(refused.refusal.map(|(code, _)| code), Some(Code::AccountInactive));
    ledger.verify();
}

#[test]
fn another_book_prices_what_was_spent_and_holds_keep_their_amount() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(spec("physics", 100)).unwrap();
    let hold = ledger.check(Ask { subject: Some(job("7")), ..ask("physics", 20) });
    let mut agent = Agent::new("n", "b", 1);
    let batch = agent.job(("physics", "gpu", "7"), &[(0, 10)]);
    ledger.at(10).take(batch);
    ledger.book(&BOOK.replace("3.60", "7.20"));
    let stored = ledger.stored(&hold);
    assert_eq!((stored.amount_nanos, stored.charged_nanos), (24 * SECOND, 20 * SECOND));
    assert_eq!(ledger.left("physics"), (76, 0));
    ledger.verify();
}

#[test]
fn usage_goes_to_who_it_was_bound_to_in_its_slot() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(spec("physics", 100)).unwrap();
    ledger.create(Spec { bindings: Vec::new(), ..spec("lab", 100) }).unwrap();
    let mut agent = Agent::new("n", "b", 1);
    let batch = agent.job(("physics", "gpu", "7"), &[(0, 10), (900, 10)]);
    ledger.at(910).take(batch);
    assert_eq!(ledger.left("physics"), (80, 0));
    // From the slot of now on it is the lab's.
    let update = |spec: Spec| What::Account(Change::Update(Box::new(spec)));
    let moved = Bound { selector: spec("physics", 0).bindings[0].selector.clone(), from_ns: None };
    ledger.act(update(Spec { bindings: Vec::new(), ..spec("physics", 100) })).unwrap();
    ledger.act(update(Spec { bindings: vec![moved], ..spec("lab", 100) })).unwrap();
    assert_eq!(ledger.left("physics"), (90, 0), "asked of the lab's, that has it now");
    let batch = agent.job(("physics", "gpu", "7"), &[(910, 10)]);
    ledger.at(920).take(batch);
    assert_eq!(ledger.left("physics"), (80, 0));
    ledger.verify();
}

#[test]
fn accounts_and_holds_that_are_not_as_the_journal_says_are_found() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(spec("physics", 100)).unwrap();
    ledger.check(Ask { subject: Some(job("7")), ..ask("physics", 20) });
    let settled = ledger.check(ask("physics", 10));
    ledger.settle(&settled).unwrap();
    let mut agent = Agent::new("n", "b", 1);
    let batch = agent.job(("physics", "gpu", "7"), &[(0, 10)]);
    ledger.at(10).take(batch);
    ledger.verify();
    for change in [
        "UPDATE hold SET charged_nanos = charged_nanos + 1 WHERE state = 0",
        "UPDATE hold SET amount_nanos = amount_nanos - 1 WHERE state = 0",
        "UPDATE hold SET state = 0 WHERE state = 1",
        "UPDATE binding SET to_ns = 0",
        "UPDATE account SET closed_ns = 1",
        "DELETE FROM hold WHERE state = 1",
    ] {
        let db = ledger.db();
        let transaction = db.begin().unwrap();
        transaction.execute(change, []).unwrap();
        transaction.commit().unwrap();
        let report = verify::verify(&db).unwrap();
        assert!(!report.conserved(), "{change}");
        let undone = "UPDATE hold SET charged_nanos = charged_nanos - 1 WHERE state = 0";
        if change.starts_with("UPDATE hold SET charged") {
            db.execute(undone, []).unwrap();
            ledger.verify();
        }
    }
}

#[test]
fn what_had_ended_before_the_horizon_is_purged_and_what_is_open_stays() {
    const DAY: i64 = 86_400;
    let mut ledger = Ledger::new(ABSENT, 0);
    ledger.committer.retention = Retention { detail_days: 2, hours_days: 3, days_days: 0 };
    ledger.create(spec("physics", 100)).unwrap();
    let ended = ledger.check(ask("physics", 10));
    ledger.settle(&ended).unwrap();
    let open = ledger.check(Ask { lease_ns: 80 * DAY * S, subject: Some(job("7")), ..ask("physics", 20) });
    let mut agent = Agent::new("n", "b", 1);
    let batch = agent.job(("physics", "gpu", "7"), &[(0, 10)]);
    ledger.at(10).take(batch);
    assert_eq!(ledger.left("physics"), (76, 0));
    ledger.at(5 * DAY).tick();
    assert_eq!(stored::hold_by_transaction(&ledger.db(), &ended.transaction).unwrap(), None);
    assert_eq!(ledger.stored(&open).charged_nanos, 10 * SECOND);
    ledger.committer.working = Working::default();
    assert_eq!(ledger.left("physics"), (76, 0), "what was spent is in sums that are kept");
    ledger.verify();
}

#[test]
fn an_account_with_open_holds_is_not_closed_and_one_that_is_closed_is_still_there() {
    let mut ledger = Ledger::new(BOOK, 10);
    ledger.create(spec("physics", 100)).unwrap();
    let hold = ledger.check(ask("physics", 1));
    let close = || What::Account(Change::Close("physics".into()));
    let error = ledger.act(close()).unwrap_err().to_string();
    assert!(error.contains(&hold.transaction_id()), "{error}");
    ledger.settle(&hold).unwrap();
    ledger.act(close()).unwrap();
    let tree = stored::tree(&ledger.db()).unwrap();
    assert!(tree.by_name("physics").unwrap().closed_ns.is_some());
    assert_eq!(ledger.stored(&hold).state, State::Settled);
    ledger.verify();
}
