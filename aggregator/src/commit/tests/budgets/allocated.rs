//! Limits that come in parts, in the writer: each part once, whatever ran in between, and verified.

use super::*;
use crate::budgets::allocation::{Frequency, Schedule, Step};

const DAY: i64 = 86_400;

/// 10 s of a GPU a day, 50 in all, from the day after the ledger's first.
fn daily(automatic: bool) -> Schedule {
    let first = jiff::Timestamp::from_nanosecond(i128::from(BEGIN + DAY * S)).unwrap();
    Schedule {
        total_nanos: 50 * SECOND,
        part_nanos: 10 * SECOND,
        frequency: Frequency::Daily,
        zone: "UTC".into(),
        first: first.to_zoned(jiff::tz::TimeZone::UTC).date(),
        end: None,
        automatic,
        decisions: Vec::new(),
    }
}

/// Seconds from the ledger's begin to the midnight before a date's own: parts come at `midnight(1)`, `midnight(2)`, ...
fn midnight(day: i64) -> i64 {
    let midnight_ns = (BEGIN + day * DAY * S).div_euclid(DAY * S) * DAY * S;
    (midnight_ns - BEGIN) / S
}

impl Ledger {
    fn decide(&mut self, step: Step) -> Result<Acted, BudgetError> {
        self.act(What::Account(Change::Decide { account: "physics".into(), schedule: 0, step }))
    }
}

#[test]
fn parts_come_once_each_also_after_days_in_which_nothing_ran() {
    let mut ledger = Ledger::new(BOOK, 0);
    let mut physics = Spec { schedules: vec![daily(true)], ..spec("physics", 0) };
    physics.limits.clear();
    ledger.create(physics).unwrap();
    assert_eq!(ledger.left("physics"), (0, 0), "a limit that nothing has come to is nothing, not none");
    assert_eq!(ledger.check(ask("physics", 1)).state, State::Refused);
    assert_eq!(ledger.at(midnight(1) - 1).left("physics"), (0, 0));
    assert_eq!(ledger.at(midnight(1)).left("physics"), (10, 0));
    // Down for three dates, and up again twice.
    for _ in 0..2 {
        ledger.committer = committer(ledger.dir.path(), &ledger.clock, BOOK);
        ledger.at(midnight(4) + 7).tick();
        assert_eq!(ledger.left("physics"), (40, 0));
    }
    assert_eq!(ledger.check(ask("physics", 30)).state, State::Open);
    ledger.at(midnight(99)).tick();
    assert_eq!(ledger.left("physics").0, 50, "its hold has expired, and all of it is there");
    ledger.verify();
}

#[test]
fn decisions_are_journalled_and_an_update_of_the_account_leaves_its_schedules() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(spec("physics", 5)).unwrap();
    let add = What::Account(Change::Schedule { account: "physics".into(), schedule: Box::new(daily(true)) });
    ledger.act(add).unwrap();
    ledger.at(midnight(1)).decide(Step::Pause).unwrap();
    let error = ledger.decide(Step::Pause).unwrap_err();
    assert!(matches!(error, BudgetError::Conflict(_)), "{error}");
    assert_eq!(ledger.at(midnight(3)).left("physics"), (15, 0), "5 were its own");
    ledger.decide(Step::Resume).unwrap();
    ledger.act(What::Account(Change::Update(Box::new(spec("physics", 6))))).unwrap();
    assert_eq!(ledger.at(midnight(4)).left("physics"), (26, 0));
    ledger.decide(Step::Cancel).unwrap();
    assert_eq!(ledger.at(midnight(9)).left("physics"), (26, 0));
    ledger.verify();
    ledger.db().execute("UPDATE account SET json = REPLACE(json, 'cancel', 'resume')", []).unwrap();
    let report = verify::verify(&ledger.db()).unwrap();
    assert!(!report.conserved(), "a decision that nobody took is found");
}

#[test]
fn by_hand_parts_wait_for_a_word_and_a_second_word_brings_nothing() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(Spec { schedules: vec![daily(false)], ..spec("physics", 0) }).unwrap();
    assert_eq!(ledger.at(midnight(3)).left("physics"), (0, 0));
    ledger.decide(Step::Allocate).unwrap();
    assert_eq!(ledger.left("physics"), (30, 0));
    let error = ledger.decide(Step::Allocate).unwrap_err().to_string();
    assert!(error.contains("no part of it is due"), "{error}");
    assert_eq!(ledger.at(midnight(5)).left("physics"), (30, 0));
    ledger.verify();
}

#[test]
fn a_schedule_that_is_wrong_or_of_no_account_changes_nothing() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(spec("physics", 5)).unwrap();
    let add = |account: &str, schedule| {
        What::Account(Change::Schedule { account: account.into(), schedule: Box::new(schedule) })
    };
    let error =
        ledger.act(add("physics", Schedule { part_nanos: 0, ..daily(true) })).unwrap_err().to_string();
    assert!(error.starts_with("allocation_amount: "), "{error}");
    assert!(matches!(ledger.act(add("none", daily(true))), Err(BudgetError::NotFound(_))));
    assert!(matches!(ledger.decide(Step::Pause), Err(BudgetError::NotFound(_))));
    for _ in 0..16 {
        ledger.act(add("physics", daily(true))).unwrap();
    }
    let error = ledger.act(add("physics", daily(true))).unwrap_err().to_string();
    assert!(error.starts_with("allocation_schedule: "), "{error}");
    ledger.verify();
}
