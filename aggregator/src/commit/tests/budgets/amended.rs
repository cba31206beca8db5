//! Changes of accounts by those who saw them as they were.

use super::*;

/// What is said of an account now.
fn said(ledger: &Ledger, name: &str) -> Spec {
    let tree = stored::tree(&ledger.db()).unwrap();
    tree.said(tree.by_name(name).unwrap())
}

fn amend(ledger: &mut Ledger, seen: &Spec, change: impl Fn(&mut Spec)) -> Acted {
    let mut spec = seen.clone();
    change(&mut spec);
    ledger.act(What::Amend { spec: Box::new(spec), seen: Box::new(seen.clone()) }).unwrap()
}

#[test]
fn who_changes_an_account_undoes_nothing_that_happened_since_they_saw_it() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(Spec { overrun: Overrun::Suspend, ..spec("physics", 100) }).unwrap();
    let seen = said(&ledger, "physics");
    // A hold ends whose work cost more than it.
    let hold = ledger.check(Ask { subject: Some(job("7")), ..ask("physics", 5) });
    let mut agent = Agent::new("n", "b", 1);
    let batch = agent.job(("physics", "gpu", "7"), &[(0, 10)]);
    ledger.at(10).take(batch);
    ledger.settle(&hold).unwrap();
    let raise = |spec: &mut Spec| spec.limits[0].amount_nanos += SECOND;
    assert_eq!(amend(&mut ledger, &seen, raise), Acted::Stale);
    assert_eq!(said(&ledger, "physics"), Spec { status: Status::Suspended, ..seen.clone() });
    let seen = said(&ledger, "physics");
    assert!(matches!(amend(&mut ledger, &seen, raise), Acted::Account(_)));
    // Two that saw the same: the second has to look again, be it for what is bound.
    let seen = said(&ledger, "physics");
    assert!(matches!(amend(&mut ledger, &seen, |spec| spec.bindings.clear()), Acted::Account(_)));
    let now = said(&ledger, "physics");
    assert_eq!(
        (now.status, now.limits[0].amount_nanos, now.bindings.len()),
        (Status::Suspended, 101 * SECOND, 0)
    );
    assert_eq!(amend(&mut ledger, &seen, raise), Acted::Stale, "nothing is bound any more");
    ledger.verify();
}
