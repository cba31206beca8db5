//! Jobs without GPUs: what is stated of them is charged once, whatever comes twice, late or wrong.

use super::*;
use crate::budgets::account::{Bound, Limit, Spec};
use crate::budgets::hold::{State, Subject};
use crate::budgets::period::Period;
use crate::budgets::run::{CPUS_MAX, Report, Run, Told};
use crate::budgets::{Ask, Change, Selector, What};
use crate::model::OwnerKind;
use crate::store::{budgets as stored, jobs};

const PRICES: &str = "currency = \"USD\"\n[[price]]\nprice = \"3.60\"\nunit = \"gpu_hour\"\n\
    [[compute]]\nmatch = { partition = \"cpu*\" }\ncpu_hour = \"0.02\"\ngb_hour = \"0.003\"\n";
const BEGIN_S: i64 = BEGIN / S;

/// Four CPUs and 8 GB from one second of the test to another.
fn run(job: &str, start: i64, end: i64, ended: bool) -> Run {
    Run {
        job_id: job.into(),
        start_s: BEGIN_S + start,
        end_s: BEGIN_S + end,
        ended,
        cpus: 4,
        memory_bytes: 8 << 30,
        account: "physics".into(),
        user: "ada".into(),
        partition: "cpu".into(),
    }
}

impl Ledger {
    fn does(&mut self, what: What) -> Result<Acted, BudgetError> {
        let (answer, mut answered) = oneshot::channel();
        let act = Box::new(Act { what, by: "test".into() });
        self.committer.commit_now(vec![Submission::Budget { act, answer }]);
        answered.try_recv().unwrap().unwrap()
    }

    fn state_runs(&mut self, cluster: &str, until: i64, runs: &[Run]) -> Result<Told, BudgetError> {
        let until_s = if until == 0 { 0 } else { BEGIN_S + until };
        let report = Report { cluster: cluster.into(), until_s, runs: runs.to_vec() };
        match self.does(What::Ran(report))? {
            Acted::Ran(told) => Ok(told),
            other => panic!("{other:?}"),
        }
    }

    /// What is taken of statements that all can be so.
    fn state(&mut self, runs: &[Run]) -> Told {
        let told = self.state_runs("c", 0, runs).unwrap();
        assert_eq!((told.taken, told.refused.len()), (runs.len(), 0), "{told:?}");
        told
    }

    /// CPU-seconds, GB-seconds and nano-dollars of a job.
    fn ran(&self, job: &str) -> (i128, i128, i128) {
        let rows = self.slots();
        let own = rows.iter().filter(|(key, _)| key.owner.as_ref().is_some_and(|owner| owner.job_id == job));
        own.fold((0, 0, 0), |(cpu, memory, cost), (_, row)| {
            let gb_seconds = row.memory_byte_seconds / (1 << 30);
            (cpu + row.time_ns / i128::from(S), memory + gb_seconds, cost + row.cost_nanos)
        })
    }
}

#[test]
fn the_example_of_the_documentation_is_worked_out() {
    let mut ledger = Ledger::new(PRICES, 2000);
    ledger.state(&[run("7", 890, 1810, true)]);
    let rows = ledger.slots();
    let shown: Vec<_> = rows
        .iter()
        .map(|(key, row)| ((key.start_ns - BEGIN) / S, key.kind, row.time_ns / i128::from(S), row.cost_nanos))
        .collect();
    let expected = [
        (0, RowKind::Cpu, 40, 222_222),
        (0, RowKind::Memory, 0, 66_666),
        (900, RowKind::Cpu, 3_600, 20_000_000),
        (900, RowKind::Memory, 0, 6_000_000),
        (1800, RowKind::Cpu, 40, 222_222),
        (1800, RowKind::Memory, 0, 66_666),
    ];
    assert_eq!(shown, expected);
    assert_eq!(ledger.ran("7"), (3_680, 7_360, 26_577_776));
    let owner = rows.keys().find_map(|key| key.owner.clone()).unwrap();
    assert_eq!(
        (owner.kind, owner.account.as_str(), owner.user.as_str()),
        (OwnerKind::SlurmJob, "physics", "ada")
    );
    ledger.verify();
}

#[test]
fn what_is_stated_twice_or_bit_by_bit_or_too_early_is_charged_once() {
    let mut ledger = Ledger::new(PRICES, 2000);
    for (statement, changed) in [
        (run("7", 890, 900, false), 1),
        (run("7", 890, 900, false), 0),
        (run("7", 890, 1900, false), 1),
        (run("7", 890, 1200, false), 0),
        // It had ended before it was last seen to run.
        (run("7", 890, 1810, true), 1),
        (run("7", 890, 1900, false), 0),
        (run("7", 890, 1810, true), 0),
    ] {
        assert_eq!(ledger.state(&[statement]).changed, changed);
        ledger.committer.working = Working::default();
        ledger.verify();
    }
    assert_eq!(ledger.ran("7"), (3_680, 7_360, 26_577_776));
    let rows = ledger.slots().len();
    // Nothing is left of slots that it did not run in.
    ledger.state(&[Run { partition: "cpu2".into(), ..run("7", 890, 900, true) }]);
    assert_eq!((ledger.ran("7").0, ledger.slots().len(), rows), (40, 2, 6));
    ledger.verify();
}

#[test]
fn a_job_that_is_requeued_is_charged_for_each_of_its_runs() {
    let mut ledger = Ledger::new(PRICES, 2000);
    ledger.state(&[run("7", 0, 100, true), run("7", 150, 200, false), run("8", 0, 10, true)]);
    assert_eq!((ledger.ran("7").0, ledger.ran("8").0), (600, 40));
    ledger.state(&[run("7", 150, 250, true)]);
    assert_eq!(ledger.ran("7").0, 800);
    ledger.verify();
}

#[test]
fn a_statement_that_cannot_be_so_is_refused_by_itself_and_harms_nothing() {
    let mut ledger = Ledger::new(PRICES, 2000);
    let bad = [
        run("7", 100, 50, true),
        Run { cpus: CPUS_MAX + 1, ..run("8", 0, 10, true) },
        run("9", 0, 2100, false),
        run("10", 0, 10, true),
        Run { job_id: "11_1".into(), ..run("11", 0, 10, true) },
    ];
    let told = ledger.state_runs("c", 2000, &bad).unwrap();
    let fields: Vec<_> = told
        .refused
        .iter()
        .map(|(at, error)| match error {
            BudgetError::Invalid { field, .. } => (*at, *field),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(fields, [(0, "end_s"), (1, "cpus"), (2, "end_s"), (4, "job_id")]);
    assert_eq!((told.changed, told.until_s), (1, BEGIN_S + 2000));
    assert_eq!(ledger.slots().len(), 2);
    // So many runs of one job cannot be at once.
    let huge = |start| Run { cpus: CPUS_MAX, memory_bytes: 0, ..run("12", start, 900, true) };
    let told = ledger.state_runs("c", 0, &[huge(0), huge(1), huge(2)]).unwrap();
    assert_eq!(told.refused.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(ledger.ran("12").0, i128::from(CPUS_MAX) * 900);
    ledger.verify();

    let mut ledger = Ledger::new(BOOK, 2000);
    let error = ledger.state_runs("nowhere", 2000, &[run("7", 0, 10, true)]).unwrap_err();
    assert!(error.to_string().starts_with("cluster: \"nowhere\" is of no agent"), "{error}");
    assert!(ledger.slots().is_empty());
    ledger.verify();
}

#[test]
fn what_jobs_ran_for_is_posted_and_corrected_and_belongs_to_no_gpu() {
    let mut ledger = Ledger::new(PRICES, 1000);
    let mut agent = Agent::new("n", "a", 1);
    let cells: Vec<_> = (0..90).map(|cell| (cell * 10, 10, 6)).collect();
    ledger.take(agent.batch("GPU-1", &cells));
    ledger.state_runs("c", 850, &[run("7", 0, 850, false)]).unwrap();
    ledger.tick();
    assert!(closing::entries_from(&ledger.db(), 0).unwrap().is_empty(), "more is to come of that slot");
    ledger.state_runs("c", 1000, &[run("7", 0, 1000, false)]).unwrap();
    ledger.tick();
    let entries = closing::entries_from(&ledger.db(), 0).unwrap();
    let posted = |entries: &[closing::Posted], kind| -> i64 {
        entries.iter().filter(|entry| entry.key.2 == kind).map(|entry| entry.row.cost_nanos).sum()
    };
    assert_eq!((posted(&entries, RowKind::Cpu), posted(&entries, RowKind::Memory)), (20_000_000, 6_000_000));
    assert_eq!(ledger.held("n"), 540, "the GPU's time is its own");

    // It had ended earlier, and another book is in force.
    ledger.state(&[run("7", 0, 450, true)]);
    ledger.book(&PRICES.replace("0.02", "0.04"));
    ledger.tick();
    let entries = closing::entries_from(&ledger.db(), 0).unwrap();
    assert_eq!((posted(&entries, RowKind::Cpu), posted(&entries, RowKind::Memory)), (20_000_000, 3_000_000));
    assert!(entries.iter().any(|entry| entry.key.2 == RowKind::Cpu && entry.corrects != 0));
    ledger.verify();

    // Without a price it is unpriced, and costs nothing.
    ledger.book(BOOK);
    ledger.tick();
    let unpriced: i128 = ledger.slots().values().map(|row| row.unpriced_ns).sum();
    assert_eq!((ledger.ran("7").2, unpriced), (0, i128::from(4 * 450 * S)));
    ledger.verify();
}

#[test]
fn a_silent_gate_holds_slots_up_for_an_hour_and_is_told_what_it_misses() {
    let mut ledger = Ledger::new(PRICES, 100);
    ledger.state_runs("c", 100, &[run("7", 0, 100, false), run("8", 0, 90, true)]).unwrap();
    ledger.at(1000).tick();
    assert!(closing::entries_from(&ledger.db(), 0).unwrap().is_empty());
    ledger.at(4600).tick();
    assert_eq!(closing::entries_from(&ledger.db(), 0).unwrap().len(), 4);
    let told = ledger.state_runs("c", 4500, &[]).unwrap();
    assert_eq!((told.missing, told.until_s), (vec!["7".to_owned()], BEGIN_S + 4500));
    assert_eq!(ledger.state_runs("c", 4400, &[]).unwrap().until_s, BEGIN_S + 4500, "it never goes back");
    ledger.verify();
}

#[test]
fn a_hold_of_a_job_without_gpus_reserves_what_it_was_not_charged_yet() {
    let mut ledger = Ledger::new(PRICES, 100);
    let selector = Selector { account: Some("physics".into()), ..Selector::default() };
    let limit = Limit { amount_nanos: 1_000_000_000, period: Period::Lifetime, partition: None, model: None };
    let bindings = vec![Bound { selector, from_ns: Some(0) }];
    let spec = Spec { bindings, limits: vec![limit], ..Spec::new("physics") };
    ledger.does(What::Account(Change::Create(Box::new(spec)))).unwrap();
    let ask = |job: &str, hours: i64| Ask {
        cluster: "c".into(),
        account: "physics".into(),
        partition: "cpu".into(),
        cpus: 4,
        memory_bytes: 8 << 30,
        time_ns: hours * 3600 * S,
        lease_ns: 3600 * S,
        subject: Some(Subject::Job(job.into())),
        ..Ask::default()
    };
    let hold = |ledger: &mut Ledger, what| match ledger.does(what).unwrap() {
        Acted::Hold(hold) => *hold,
        other => panic!("{other:?}"),
    };
    // 4 CPU-hours and 8 GB-hours are 0.104, and a fifth more is held.
    let first = hold(&mut ledger, What::Check(Box::new(ask("7", 1))));
    assert_eq!(
        (first.cost_nanos, first.amount_nanos, first.state),
        (Some(104_000_000), 124_800_000, State::Open)
    );
    let more = hold(&mut ledger, What::Check(Box::new(ask("8", 9))));
    assert_eq!((more.state, more.available_nanos), (State::Refused, Some(875_200_000)));
    let free = Ask { partition: "other".into(), ..ask("9", 9) };
    assert_eq!(hold(&mut ledger, What::Check(Box::new(free))).cost_nanos, Some(0), "no price, no cost");

    ledger.at(1900).state(&[run("7", 100, 1900, false)]);
    let open = stored::open_holds(&ledger.db()).unwrap();
    let own = open.iter().find(|open| open.id == first.id).unwrap();
    assert_eq!(i128::from(own.charged_nanos), ledger.ran("7").2);
    // The same is held and charged together as before.
    let probe = hold(&mut ledger, What::Check(Box::new(ask("10", 1))));
    assert_eq!(probe.available_nanos, Some(875_200_000));
    ledger.at(2000).state(&[run("7", 100, 1950, true)]);
    let ended = hold(&mut ledger, What::Settle { transaction: first.transaction, subject: None });
    assert_eq!((ended.state, i128::from(ended.charged_nanos)), (State::Settled, ledger.ran("7").2));
    ledger.verify();
}

#[test]
fn a_purge_keeps_what_runs_and_lets_go_of_what_has_ended() {
    const DAY: i64 = 86_400;
    let mut ledger = Ledger::new(PRICES, 2 * DAY);
    ledger.state(&[run("7", 0, 2 * DAY, false), run("8", 0, 100, true)]);
    ledger.committer.retention = Retention { detail_days: 1, hours_days: 1, days_days: 0 };
    ledger.at(3 * DAY + 100).state(&[run("7", 0, 3 * DAY, false)]);
    for _ in 0..4 {
        ledger.tick();
    }
    let db = ledger.db();
    assert!(jobs::run(&db, "c", "8", BEGIN_S).unwrap().is_none());
    assert!(jobs::run(&db, "c", "7", BEGIN_S).unwrap().is_some());
    ledger.verify();
    // What is said of the frozen past changes nothing there, and what goes on is charged.
    let before = ledger.ran("7").0;
    ledger.state(&[run("7", 0, 3 * DAY + 50, true), run("9", 10, 20, true)]);
    assert_eq!((ledger.ran("7").0, ledger.ran("9").0), (before + 200, 0));
    ledger.tick();
    ledger.verify();
}

#[test]
fn an_end_that_was_before_the_last_word_is_purged_no_sooner_than_that_word() {
    const DAY: i64 = 86_400;
    // By a clock that is ahead it was taken to run past midnight, and had ended before.
    let mut ledger = Ledger::new(PRICES, 2 * DAY - 20);
    ledger.state(&[run("7", 0, 2 * DAY + 5, false)]);
    ledger.state(&[run("7", 0, 2 * DAY - 2, true)]);
    let charged = ledger.ran("7");
    ledger.committer.retention = Retention { detail_days: 1, hours_days: 1, days_days: 0 };
    ledger.at(3 * DAY + 4000);
    for _ in 0..4 {
        ledger.tick();
    }
    assert_eq!((ledger.ran("7").0, charged.0 > 0), (0, true), "the horizon has passed");
    ledger.verify();
}

#[test]
fn whatever_is_stated_in_whatever_order_of_reports_the_last_word_of_each_run_is_charged() {
    for seed in [rand::random(), 3_u64] {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut ledger = Ledger::new(PRICES, 20_000);
        let mut naive: BTreeMap<(String, i64), Run> = BTreeMap::new();
        for _ in 0..150 {
            let job = rng.random_range(1..5).to_string();
            let start = 5_000 * rng.random_range(0..3_i64);
            let end = start + rng.random_range(0..4_000_i64);
            let mut one = run(&job, start, end, rng.random_bool(0.2));
            one.cpus = if rng.random_bool(0.1) { 8 } else { 4 };
            if rng.random_bool(0.1) {
                one.partition = "cpu2".into();
            }
            ledger.state(std::slice::from_ref(&one));
            let known = naive.entry((job, start)).or_insert_with(|| one.clone());
            if one.ended || (!known.ended && one.end_s >= known.end_s) {
                *known = one;
            }
            if rng.random_bool(0.1) {
                ledger.committer.working = Working::default();
            }
            if rng.random_bool(0.05) {
                ledger.tick();
            }
        }
        let expected: i128 =
            naive.values().map(|run| i128::from(run.end_s - run.start_s) * i128::from(run.cpus)).sum();
        let charged: i128 = (1..5).map(|job: i32| ledger.ran(&job.to_string()).0).sum();
        assert_eq!(charged, expected);
        ledger.verify();
    }
}
