//! What the operator says that nodes are: in the journal, outweighing agents, for the past too.

use super::*;

const BY_REGION: &str =
    "currency = \"USD\"\n[[price]]\nmatch = { region = \"eu\" }\nprice = \"3.60\"\nunit = \"gpu_hour\"\n";

fn node(region: &str) -> String {
    Book::joined(BY_REGION, &format!("[[node]]\nname = \"n*\"\nregion = \"{region}\"\n"))
}

fn cost(ledger: &Ledger) -> i128 {
    ledger.slots().values().map(|bucket| bucket.cost_nanos).sum()
}

#[test]
fn what_the_nodes_file_says_prices_slots_again_and_the_journal_needs_nothing_else() {
    let mut ledger = Ledger::new(BY_REGION, 0);
    let mut agent = Agent::new("n1", "a", 1);
    agent.region = "us".into();
    let cells: Vec<_> = (0..90).map(|cell| (cell * 10, 10, 6)).collect();
    ledger.at(910).take(agent.batch("GPU-1", &cells));
    ledger.tick();
    assert_eq!(cost(&ledger), 0, "by what the agent says it is unpriced");
    ledger.verify();
    ledger.book(&node("eu"));
    ledger.tick();
    assert_eq!(cost(&ledger), 900_000_000);
    ledger.verify();
    ledger.book(&node("us"));
    ledger.tick();
    assert_eq!(cost(&ledger), 0);
    ledger.verify();
    ledger.book(BY_REGION);
    ledger.verify();
}

#[test]
fn a_purge_keeps_the_nodes_file_for_what_is_left() {
    let mut ledger = Ledger::new(BY_REGION, 10);
    ledger.book(&node("eu"));
    ledger.committer.retention = Retention { detail_days: 1, ..Retention::default() };
    let mut agent = Agent::new("n1", "a", 1);
    ledger.take(agent.batch("GPU-1", &[(0, 10, 6)]));
    let day_s = 86_400;
    ledger.at(3 * day_s + 100).take(agent.batch("GPU-1", &[(3 * day_s, 10, 6)]));
    ledger.tick();
    assert!(ledger.slots().keys().all(|key| key.start_ns > BEGIN), "the first day is purged");
    assert!(cost(&ledger) > 0);
    ledger.verify();
}
