//! What metrics count of checks and holds: what was committed, once.

use super::*;
use crate::metrics::scrape::Facts;

#[test]
fn what_is_decided_is_counted_once_and_what_is_answered_again_is_not() {
    let mut ledger = Ledger::new(BOOK, 10);
    ledger.create(spec("physics", 100)).unwrap();
    let keyed = Ask { key: "a".into(), ..ask("physics", 10) };
    let hold = ledger.check(keyed.clone());
    ledger.check(keyed);
    ledger.check(ask("physics", 1000));
    ledger.hold(What::Check(Box::new(ask("chemistry", 1)))).unwrap_err();
    ledger.settle(&hold).unwrap();
    ledger.settle(&hold).unwrap();
    ledger.check(ask("physics", 10));
    ledger.at(10 + 3600).tick();
    let text = ledger.committer.metrics.render(&Facts::default());
    for line in [
        "tonnage_budget_checks_total{result=\"granted\"} 2",
        "tonnage_budget_checks_total{result=\"insufficient_budget\"} 1",
        "tonnage_budget_checks_total{result=\"unassigned\"} 1",
        "tonnage_budget_holds_ended_total{state=\"settled\"} 1",
        "tonnage_budget_holds_ended_total{state=\"expired\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
