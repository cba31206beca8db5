//! What happens as time passes: silence, closing, posting, purging.

use super::*;

#[test]
fn a_silent_gpu_exists_unobserved_slot_by_slot_until_it_is_retired() {
    let mut ledger = Ledger::new(BOOK, 0);
    let mut agent = Agent::new("n", "a", 1);
    ledger.at(10).take(agent.batch("GPU-1", &[(0, 10, 10)]));
    ledger.at(10 + SILENCE_NS / S).tick();
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 0, "the slot may still be filled");
    ledger.at(2 * SLOT_NS / S).tick();
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 890);
    ledger.at(7 * SLOT_NS / S).tick();
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 890 + 5 * 900);
    ledger.verify();
    let text = ledger.retire("GPU-1", 1000).unwrap();
    assert!(text.contains("GPU-1"), "{text}");
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 990);
    ledger.at(9 * SLOT_NS / S).tick();
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 990);
    ledger.verify();
    assert!(matches!(ledger.retire("GPU-1", 1000), Err(OrderError::Conflict(_))));
    assert!(matches!(ledger.retire("GPU-2", 1000), Err(OrderError::NotFound(_))));
    // It was not gone after all: from then on it exists again, and what lay between it did not.
    ledger.take(agent.batch("GPU-1", &[(7200, 10, 10)]));
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 990);
    assert_eq!(ledger.held("n"), 20);
    ledger.verify();
}

#[test]
fn what_a_silent_gpu_was_doing_fills_the_time_when_it_is_told() {
    let mut ledger = Ledger::new(BOOK, 10);
    let mut agent = Agent::new("n", "a", 1);
    ledger.take(agent.batch("GPU-1", &[(0, 10, 10)]));
    ledger.at(7300).tick();
    let windows: Vec<(i64, i64, i64)> = (1..720).map(|cell| (cell * 10, 10, 5)).collect();
    ledger.take(agent.batch("GPU-1", &windows));
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 0);
    assert_eq!(ledger.held("n"), 10 + 719 * 5);
    ledger.tick();
    ledger.verify();
}

#[test]
fn the_book_says_whether_a_silent_gpu_is_there_or_gone() {
    let mut ledger = Ledger::new(ABSENT, 10);
    let (mut agent, mut rebooted) = (Agent::new("n", "a", 1), Agent::new("n", "b", 1));
    ledger.take(agent.batch("GPU-1", &[(0, 10, 10)]));
    ledger.at(9000).tick();
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 0);
    // The same life on return: it was there all the time.
    ledger.take(agent.batch("GPU-1", &[(8000, 10, 10)]));
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 7990);
    rebooted.seq = agent.seq;
    ledger.take(rebooted.batch("GPU-1", &[(8900, 10, 10)]));
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 7990, "another life: it was gone in between");
    ledger.verify();
    ledger.book(BOOK);
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 7990 + 890, "and by this book it was there");
    ledger.verify();
}

#[test]
fn a_gpu_that_moves_ends_where_it_was_last_seen() {
    let mut ledger = Ledger::new(BOOK, 4000);
    let (mut one, mut two) = (Agent::new("one", "a", 1), Agent::new("two", "b", 2));
    ledger.take(two.batch("GPU-1", &[(1000, 10, 10)]));
    ledger.take(one.batch("GPU-1", &[(0, 10, 10)]));
    ledger.take(one.batch("GPU-1", &[(2000, 10, 10)]));
    assert_eq!((ledger.held("one"), ledger.held("two")), (20, 10));
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 0);
    ledger.verify();
}

#[test]
fn slots_close_when_complete_or_after_grace_and_later_changes_are_corrections() {
    let mut ledger = Ledger::new(BOOK, 0);
    let mut agent = Agent::new("n", "a", 1);
    let cells = |from: i64, to: i64| (from..to).map(|cell| (cell * 10, 10, 10)).collect::<Vec<_>>();
    ledger.at(900).take(agent.batch("GPU-1", &cells(0, 90)));
    ledger.tick();
    let entries = || closing::entries_from(&ledger.db(), 0).unwrap();
    assert_eq!(entries().len(), 1, "held for the whole slot");
    assert_eq!(entries()[0].row.time_ns, 900 * S);
    // Half of the next slot, then silence: it closes after its grace, with what is unobserved.
    ledger.at(1350).take(agent.batch("GPU-1", &cells(90, 135)));
    ledger.at((SLOT_NS * 2 + GRACE_NS) / S - 1).tick();
    assert_eq!(closing::entries_from(&ledger.db(), 0).unwrap().len(), 1);
    ledger.at((SLOT_NS * 2 + GRACE_NS) / S).tick();
    let entries = closing::entries_from(&ledger.db(), BEGIN + SLOT_NS).unwrap();
    assert_eq!(entries.iter().map(|entry| entry.row.time_ns / S).collect::<Vec<_>>(), [450, 450]);
    ledger.verify();
    // Late, but not too late.
    ledger.take(agent.batch("GPU-1", &cells(135, 180)));
    ledger.tick();
    let entries = closing::entries_from(&ledger.db(), BEGIN + SLOT_NS).unwrap();
    let corrections: Vec<i64> =
        entries.iter().filter(|entry| entry.corrects != 0).map(|entry| entry.row.time_ns / S).collect();
    assert_eq!(corrections, [-450, 450]);
    let report = ledger.verify();
    assert!(report.checkpoints >= 3 && report.entries == entries.len() + 1, "{report:?}");
}

#[test]
fn a_price_that_changes_for_the_past_corrects_what_is_closed() {
    let mut ledger = Ledger::new(BOOK, 0);
    let mut agent = Agent::new("n", "a", 1);
    let cells: Vec<_> = (0..90).map(|cell| (cell * 10, 10, 10)).collect();
    ledger.at(910).take(agent.batch("GPU-1", &cells));
    ledger.tick();
    ledger.book(&BOOK.replace("3.60", "7.20"));
    ledger.tick();
    let costs: Vec<i64> =
        closing::entries_from(&ledger.db(), 0).unwrap().iter().map(|entry| entry.row.cost_nanos).collect();
    assert_eq!(costs, [900_000_000, 900_000_000]);
    ledger.verify();
}

#[test]
fn whatever_was_changed_in_what_is_posted_is_found() {
    for change in [
        "UPDATE entry SET time_ns = time_ns + 1 WHERE id = (SELECT MIN(id) FROM entry)",
        "UPDATE entry SET cost_nanos = cost_nanos + 1 WHERE id = (SELECT MAX(id) FROM entry)",
        "DELETE FROM entry WHERE id = (SELECT MIN(id) FROM entry)",
        "UPDATE checkpoint SET hash = (SELECT epoch FROM cursor LIMIT 1) WHERE id = 1",
        "UPDATE checkpoint SET at_ns = at_ns + 1 WHERE id = 1",
        "DELETE FROM checkpoint WHERE id = 1",
        "UPDATE balance SET cost_nanos = '1' || cost_nanos",
        "DELETE FROM balance",
        "UPDATE quarantine SET state = 2",
        "DELETE FROM quarantine",
    ] {
        let mut ledger = Ledger::new(BOOK, 5000);
        let (mut own, mut clone) = (Agent::new("own", "a", 1), Agent::new("clone", "b", 2));
        ledger.take(own.batch("GPU-1", &[(0, 10, 6)]));
        ledger.tick();
        ledger.take(clone.batch("GPU-1", &[(0, 10, 6)]));
        ledger.at(12_000).tick();
        ledger.verify();
        let db = ledger.db();
        assert!(db.execute(change, []).unwrap() > 0, "{change}");
        let report = verify::verify(&ledger.db()).unwrap();
        assert!(!report.conserved() && report.first.is_some(), "{change}: {report}");
    }
}

#[test]
fn after_a_purge_the_rest_still_verifies_and_what_was_purged_is_frozen() {
    let mut ledger = Ledger::new(BOOK, 0);
    let (mut agent, mut clone) = (Agent::new("n", "a", 1), Agent::new("clone", "b", 2));
    let (day, hours) = (86_400, 3600);
    for half_day in 0..7 {
        agent.region = format!("r{half_day}");
        let from = half_day * day / 2;
        let windows = [(from, 10, 6), (from + 600, 10, 10), (from + 5 * hours, 10, 1)];
        ledger.at(from + 6 * hours).take(agent.batch("GPU-1", &windows));
        ledger.take(clone.batch("GPU-1", &[(from + 5, 5, 5), (from + 7 * 10, 10, 10)]));
        ledger.tick();
    }
    ledger.at(4 * day + 6 * hours).tick();
    let before = ledger.verify();
    let totals = |ledger: &Ledger| {
        let db = ledger.db();
        let days = audit::sums_before(&db, Buckets::Day, i64::MAX).unwrap();
        (days, closing::balances(&db).unwrap())
    };
    let was = totals(&ledger);
    ledger.committer.retention = Retention { detail_days: 2, hours_days: 3, days_days: 0 };
    ledger.tick();
    assert_eq!(totals(&ledger), was, "days and balances outlive the detail");
    let after = ledger.verify();
    assert!(after.batches < before.batches && after.entries < before.entries, "{before:?} {after:?}");
    let horizon_ns = BEGIN + 2 * day * S;
    assert!(ledger.slots().keys().all(|key| key.start_ns >= horizon_ns));
    // Too late: acked, and never folded.
    assert_eq!(ledger.take(agent.batch("GPU-1", &[(day, 10, 10)])), Outcome::Quarantined);
    assert_eq!(totals(&ledger).0, was.0);
    // Not too late, in the middle of what is left, and by the junior, who gives way.
    ledger.take(clone.batch("GPU-1", &[(3 * day + 100, 10, 10)]));
    assert_eq!(ledger.take(agent.batch("GPU-1", &[(3 * day + 100, 10, 4)])), Outcome::Accepted);
    ledger.tick();
    ledger.verify();
    ledger.at(7 * day).tick();
    ledger.verify();
    let db = ledger.db();
    db.execute("UPDATE day SET cost_nanos = cost_nanos + 1 WHERE start = ?1", [BEGIN]).unwrap();
    assert!(!verify::verify(&ledger.db()).unwrap().conserved(), "frozen days are compared by their sums");
}

#[test]
fn usage_by_a_clock_that_is_far_behind_makes_no_tenure_of_the_time_in_between() {
    let year = 365 * 86_400;
    let mut ledger = Ledger::new(BOOK, year);
    let mut agent = Agent::new("n", "a", 1);
    let behind = Sealed { sent_at_ns: BEGIN + 20 * S, ..agent.batch("GPU-1", &[(0, 10, 10)]) };
    assert_eq!(ledger.take(behind), Outcome::Quarantined);
    assert_eq!(ledger.quarantined()[0].kind, "clock_behind");
    let right = Sealed { sent_at_ns: BEGIN + year * S, ..agent.batch("GPU-1", &[(year - 10, 10, 10)]) };
    assert_eq!(ledger.take(right), Outcome::Accepted);
    assert_eq!((ledger.held("n"), ledger.seconds(RowKind::Unobserved, None)), (10, 0));
    ledger.verify();
    // What waited in a spool is old, and its clock is right.
    let late = Sealed { sent_at_ns: BEGIN + year * S, ..agent.batch("GPU-1", &[(year - 7200, 10, 10)]) };
    assert_eq!(ledger.take(late), Outcome::Accepted);
    ledger.verify();
}

#[test]
fn what_is_unobserved_is_told_by_reason_and_sums_to_the_rows() {
    let mut ledger = Ledger::new(BOOK, 1000);
    let (mut own, mut clone) = (Agent::new("own", "a", 1), Agent::new("clone", "b", 2));
    ledger.take(own.batch("GPU-1", &[(0, 10, 6), (100, 10, 6)]));
    ledger.take(clone.batch("GPU-1", &[(5, 5, 5), (105, 10, 5)]));
    let db = ledger.db();
    db.execute(
        "INSERT INTO gap SELECT node, 0, ?1, ?2, 1 FROM tenure WHERE id = 1",
        [BEGIN + 10 * S, BEGIN + 40 * S],
    )
    .unwrap();
    let mut pieces = Vec::new();
    let all = crate::ledger::coverage::Interval { start_ns: 0, end_ns: i64::MAX };
    audit::unobserved(&db, all, None, |piece| {
        pieces.push(((piece.start_ns - BEGIN) / S, (piece.end_ns - BEGIN) / S, piece.reason));
    })
    .unwrap();
    assert_eq!(pieces, [(10, 40, "agent_down"), (40, 100, "silent")]);
    assert_eq!(ledger.seconds(RowKind::Unobserved, None), 90);
}

#[test]
fn only_one_process_closes() {
    let mut ledger = Ledger::new(BOOK, 0);
    let mut agent = Agent::new("n", "a", 1);
    ledger.at(10).take(agent.batch("GPU-1", &[(0, 10, 10)]));
    ledger.tick();
    let mut other = committer(ledger.dir.path(), &ledger.clock, BOOK);
    ledger.at(30);
    other.commit_now(vec![Submission::Tick]);
    let db = ledger.db();
    let fence =
        |db: &Connection| db.query_row("SELECT fence FROM lease", [], |row| row.get::<i64>(0)).unwrap();
    assert_eq!(fence(&db), 1);
    ledger.at(200);
    other.commit_now(vec![Submission::Tick]);
    assert_eq!(fence(&db), 2);
}
