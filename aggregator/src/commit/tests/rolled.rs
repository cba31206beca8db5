//! Roll-ups of every width follow what changes, late or not. That they are the sums of the rows is what `verify` says.

use super::*;

const DAY: i64 = 86_400;

/// How many blocks there are of each width, in quarters of an hour.
fn blocks(ledger: &Ledger) -> BTreeMap<i64, i64> {
    let db = ledger.db();
    let mut statement =
        db.prepare_cached("SELECT width_ns, COUNT(DISTINCT start) FROM rollup GROUP BY width_ns").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get::<i64>(0)? / SLOT_NS, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn late_windows_and_other_prices_reach_blocks_that_are_built() {
    let mut ledger = Ledger::new(ABSENT, 10);
    let mut agent = Agent::new("n", "a", 1);
    ledger.take(agent.batch("GPU-1", &[(0, 10, 10)]));
    ledger.tick();
    assert_eq!(blocks(&ledger), [(1, 1)].into(), "nothing is over");
    ledger.at(31 * DAY).tick();
    assert_eq!(blocks(&ledger), [1, 4, 24, 96, 8 * 96, 32 * 96].map(|width| (width, 1)).into());
    ledger.verify();
    // In the hour that has a window, in another of its day, and in another day.
    ledger.take(agent.batch("GPU-1", &[(1800, 10, 5), (5 * 3600, 10, 6), (20 * DAY, 10, 7)]));
    assert_eq!(ledger.held("n"), 28);
    let built = blocks(&ledger);
    assert!(built[&4] > 2 && built[&(8 * 96)] > 1 && built[&(32 * 96)] == 1, "{built:?}");
    ledger.verify();
    ledger.book(BOOK);
    assert!(ledger.seconds(RowKind::Unobserved, None) > 19 * DAY, "by this book it was there");
    ledger.verify();
    // What is there again after a restart goes on in the same way.
    ledger.committer = committer(ledger.dir.path(), &ledger.clock, BOOK);
    ledger.take(agent.batch("GPU-1", &[(20 * DAY + 10, 10, 1)]));
    ledger.at(33 * DAY).tick();
    ledger.verify();
}
