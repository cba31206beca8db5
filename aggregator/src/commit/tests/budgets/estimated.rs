//! What checks tell besides their answer, and holds by what such work typically cost.

use super::*;
use crate::budgets::account::Estimate;
use crate::budgets::hold::{Found, PartitionFound};

/// Jobs that are checked for so many seconds, use some each, and are settled; the next second that nobody uses.
fn ran(ledger: &mut Ledger, agent: &mut Agent, from: i64, asked: i64, used: &[i64]) -> i64 {
    let mut start = from;
    for seconds in used {
        let id = format!("ran-{start}");
        let hold = ledger.check(Ask { subject: Some(job(&id)), ..ask("physics", asked) });
        assert_eq!(hold.state, State::Open, "{hold:?}");
        let batch = agent.job(("physics", "gpu", &id), &[(start, *seconds)]);
        start += 10;
        ledger.at(start).take(batch);
        assert_eq!(ledger.settle(&hold).unwrap().charged_nanos, seconds * SECOND);
    }
    start
}

fn measured(seconds: i64) -> What {
    let spec = Spec { estimate: Estimate::Measured, ..spec("physics", seconds) };
    What::Account(Change::Update(Box::new(spec)))
}

#[test]
fn what_work_typically_costs_is_told_after_five_jobs_and_holds_go_by_it_where_the_account_says_so() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(spec("physics", 1000)).unwrap();
    let mut agent = Agent::new("n", "b", 1);
    let typical = |ledger: &mut Ledger, ask: Ask| {
        let hold = ledger.check(ask);
        ledger.hold(What::Void { transaction: hold.transaction }).unwrap();
        (hold.found.typical_nanos, hold.amount_nanos, hold.found.measured)
    };
    let whole = 120 * SECOND;
    let start = ran(&mut ledger, &mut agent, 10, 100, &[2, 10, 8, 4]);
    assert_eq!(typical(&mut ledger, ask("physics", 100)), (None, whole, false), "four are no measurement");
    let keyed = Ask { key: "before".into(), ..ask("physics", 100) };
    let before = ledger.check(keyed.clone());
    ran(&mut ledger, &mut agent, start, 100, &[6]);
    assert_eq!(typical(&mut ledger, ask("physics", 100)), (Some(6 * SECOND), whole, false));
    assert_eq!(typical(&mut ledger, ask("physics", 50)), (Some(3 * SECOND), whole / 2, false));
    for other in [
        Ask { partition: "cpu".into(), ..ask("physics", 100) },
        Ask { model: "A100".into(), ..ask("physics", 100) },
        Ask { gpus: 0, ..ask("physics", 100) },
    ] {
        assert_eq!(typical(&mut ledger, other).0, None, "other work says nothing of it");
    }
    ledger.act(measured(1000)).unwrap();
    let less = (Some(6 * SECOND), 7_200_000, true);
    assert_eq!(typical(&mut ledger, ask("physics", 100)), less);
    ledger.committer.working = Working::default();
    assert_eq!(typical(&mut ledger, ask("physics", 100)), less, "the store says the same");
    // Money that a gate spends by itself is for work that nobody knows yet.
    let lease = ledger.check(Ask { escrow: Escrow::Lease, ..ask("physics", 100) });
    assert_eq!((lease.found.typical_nanos, lease.amount_nanos), (None, whole));
    assert_eq!(ledger.check(keyed), before, "the same request is answered as before");
    ledger.verify();
}

#[test]
fn a_hold_is_never_more_than_by_the_price_and_jobs_that_nobody_saw_measure_nothing() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(spec("physics", 1000)).unwrap();
    ledger.act(measured(1000)).unwrap();
    for _ in 0..6 {
        let hold = ledger.check(ask("physics", 5));
        ledger.settle(&hold).unwrap();
    }
    let of_array = BTreeMap::from([("array".to_owned(), "true".to_owned())]);
    let mut agent = Agent::new("n", "b", 1);
    for at in 1..=6 {
        let id = at.to_string();
        let details = of_array.clone();
        let hold = ledger.check(Ask { subject: Some(job(&id)), details, ..ask("physics", 100) });
        let batch = agent.job(("physics", "gpu", &id), &[(at * 10, 1)]);
        ledger.at(at * 10 + 10).take(batch);
        ledger.settle(&hold).unwrap();
    }
    assert_eq!(ledger.check(ask("physics", 5)).found.typical_nanos, None);
    ran(&mut ledger, &mut agent, 100, 5, &[10, 10, 10, 10, 10]);
    let hold = ledger.check(ask("physics", 5));
    let found = (hold.found.typical_nanos, hold.found.measured, hold.amount_nanos);
    assert_eq!(found, (Some(10 * SECOND), false, 6 * SECOND));
    ledger.verify();
}

#[test]
fn a_check_tells_what_is_held_and_the_tightest_limit_of_its_partition_and_tells_the_same_again() {
    let mut ledger = Ledger::new(BOOK, 0);
    let of_partition = |seconds: i64| Limit {
        amount_nanos: seconds * SECOND,
        period: Period::Lifetime,
        partition: Some("gpu".into()),
        model: None,
    };
    let mut org = spec("org", 1000);
    org.limits.push(of_partition(200));
    let mut physics = Spec { parent: Some("org".into()), ..spec("physics", 1000) };
    physics.limits.push(of_partition(300));
    ledger.create(org).unwrap();
    ledger.create(physics).unwrap();
    ledger.create(Spec { parent: Some("org".into()), ..spec("chemistry", 1000) }).unwrap();
    let mut agent = Agent::new("n", "b", 1);
    let batch = agent.job(("physics", "gpu", "7"), &[(10, 10)]);
    ledger.at(20).take(batch);
    ledger.check(ask("chemistry", 10));
    let first = ledger.check(ask("physics", 20));
    // Of physics nothing was held; of the whole org's partition 12 s were.
    let partition =
        PartitionFound { limit_nanos: 200 * SECOND, used_nanos: 10 * SECOND, held_nanos: 12 * SECOND };
    let amount_nanos = Some(24 * SECOND);
    let found = Found { held_nanos: 0, partition: Some(partition), amount_nanos, ..Found::default() };
    assert_eq!(first.found, found);
    let keyed = Ask { key: "k".into(), ..ask("physics", 1) };
    let second = ledger.check(keyed.clone());
    assert_eq!(second.found.held_nanos, 24 * SECOND);
    assert_eq!(ledger.check(Ask { partition: "cpu".into(), ..ask("physics", 1) }).found.partition, None);
    ledger.committer.working = Working::default();
    assert_eq!(ledger.check(keyed), second);
    ledger.verify();
}

#[test]
fn a_hold_that_is_given_is_so_much_whatever_is_left_and_once() {
    let mut ledger = Ledger::new(BOOK, 10);
    ledger.create(Spec { status: Status::Suspended, ..spec("physics", 10) }).unwrap();
    let given = Ask {
        key: "asbb:txn_1_1".into(),
        gpus: 0,
        time_ns: 0,
        given_nanos: Some(30 * SECOND + 1),
        ..ask("physics", 1)
    };
    let hold = ledger.check(given.clone());
    assert_eq!((hold.state, hold.amount_nanos), (State::Open, 30 * SECOND + 1));
    assert_eq!(ledger.check(given.clone()), hold);
    assert!(ledger.hold(What::Check(Box::new(Ask { given_nanos: Some(1), ..given.clone() }))).is_err());
    let less = Ask { key: String::new(), given_nanos: Some(-1), ..given };
    assert!(matches!(
        ledger.hold(What::Check(Box::new(less))),
        Err(BudgetError::Invalid { field: "amount", .. })
    ));
    assert_eq!(ledger.left("physics"), (-21, SECOND - 1));
    ledger.settle(&hold).unwrap();
    ledger.verify();
}

#[test]
fn work_is_priced_by_the_model_that_it_asks_for_whatever_its_partition_is_called() {
    let of = |model: &str, price: &str| {
        format!(
            "[[price]]\nprice = \"{price}\"\nunit = \"gpu_hour\"\nmatch = {{ gpu_model = \"*{model}*\" }}\n"
        )
    };
    let book = format!("currency = \"USD\"\n{}{}", of("A100", "3.60"), of("H100", "7.20"));
    let mut ledger = Ledger::new(&book, 0);
    ledger.create(spec("physics", 1_000_000)).unwrap();
    let day = 86_400;
    let mut cost = |model: &str, partition: &str| {
        let asked = Ask { model: model.into(), partition: partition.into(), ..ask("physics", day) };
        ledger.check(asked).cost_nanos
    };
    for partition in ["gpu", "h100", "spot-cheap", ""] {
        assert_eq!(cost("NVIDIA A100", partition), Some(day * SECOND), "{partition}");
        assert_eq!(cost("NVIDIA H100", partition), Some(2 * day * SECOND), "{partition}");
    }
    assert_eq!(cost("V100", "h100"), None, "what has no price is not guessed");
}

#[test]
fn what_an_estimator_says_is_no_measurement_and_lowers_nothing_twice() {
    use crate::budgets::hold::Estimate as Said;
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(spec("physics", 10_000)).unwrap();
    let mut agent = Agent::new("n", "b", 1);
    let said = |seconds: i64| Said::Outside { cost_nanos: seconds * SECOND };
    // Jobs whose estimator said a tenth of what they may cost, and half of what they do.
    let mut start = 10;
    for _ in 0..5 {
        let id = format!("said-{start}");
        let hold = ledger.check(Ask { subject: Some(job(&id)), estimate: said(5), ..ask("physics", 50) });
        let batch = agent.job(("physics", "gpu", &id), &[(start, 10)]);
        start += 10;
        ledger.at(start).take(batch);
        assert_eq!(ledger.settle(&hold).unwrap().charged_nanos, 10 * SECOND);
    }
    assert_eq!(
        ledger.check(ask("physics", 100)).found.typical_nanos,
        None,
        "of prices nothing is measured yet"
    );
    // A tenth is typical: of the price, and not of what an estimator says.
    ran(&mut ledger, &mut agent, start, 100, &[10, 10, 10, 10, 10]);
    ledger.act(measured(10_000)).unwrap();
    for (seconds, held, is_measured) in [(40, 12_000_000, true), (5, 6_000_000, false)] {
        let hold = ledger.check(Ask { estimate: said(seconds), ..ask("physics", 100) });
        assert_eq!(hold.cost_nanos, Some(seconds * SECOND));
        assert_eq!(
            (hold.found.typical_nanos, hold.amount_nanos, hold.found.measured),
            (Some(10 * SECOND), held, is_measured)
        );
    }
    // What is not believed counts as the price that decided.
    let hold = ledger.check(Ask { estimate: said(101), ..ask("physics", 100) });
    assert_eq!((hold.cost_nanos, hold.amount_nanos), (Some(100 * SECOND), 12_000_000));
    ledger.verify();
}
