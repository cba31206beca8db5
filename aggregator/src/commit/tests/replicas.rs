//! Several aggregators over one ledger: each remembers what it wrote, and none what another did.

use super::*;

/// A ledger, and another aggregator that writes it too.
fn two() -> (Ledger, Committer) {
    let ledger = Ledger::new(BOOK, 200);
    let other = committer(ledger.dir.path(), &ledger.clock, BOOK);
    (ledger, other)
}

#[test]
fn an_agent_that_goes_from_one_aggregator_to_another_and_back_is_billed_for_all_of_it() {
    let (mut ledger, mut other) = two();
    let mut agent = Agent::new("n", "a", 1);
    for turn in 0..6 {
        let batch = agent.batch("GPU-1", &[(turn * 10, 10, 7)]);
        assert_eq!(ledger.take(batch), Outcome::Accepted, "turn {turn}");
        std::mem::swap(&mut ledger.committer, &mut other);
    }
    let rows = ledger.slots();
    let held: i128 =
        rows.iter().filter(|(key, _)| key.kind == RowKind::Held).map(|(_, row)| row.time_ns).sum();
    assert_eq!(held, 6 * 7 * i128::from(S));
    ledger.verify();
}

#[test]
fn the_book_in_force_is_the_last_in_the_journal_whichever_aggregator_had_it() {
    let (mut ledger, mut other) = two();
    let mut agent = Agent::new("n", "a", 1);
    ledger.take(agent.batch("GPU-1", &[(0, 10, 10)]));
    std::mem::swap(&mut ledger.committer, &mut other);
    ledger.book(&BOOK.replace("3.60", "7.20"));
    std::mem::swap(&mut ledger.committer, &mut other);
    ledger.take(agent.batch("GPU-1", &[(10, 10, 10)]));
    ledger.verify();
    let cost: i128 = ledger.slots().values().map(|row| row.cost_nanos).sum();
    assert_eq!(cost, 20 * 2_000_000, "20 s at 7.20 an hour");
}
