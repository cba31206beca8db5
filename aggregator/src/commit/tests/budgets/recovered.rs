//! Holds that are left behind and ended at once.

use super::*;
use crate::budgets::Orphans;

const SILENT: Orphans = Orphans { silent_ns: 3600 * S, waiting: false, account: None, dry_run: false };

impl Ledger {
    /// Transactions and the states that they end in.
    fn recover(&mut self, orphans: Orphans) -> Vec<([u8; 16], State)> {
        match self.act(What::Recover(orphans)).unwrap() {
            Acted::Recovered(holds, false) => {
                holds.into_iter().map(|(hold, state)| (hold.transaction, state)).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_hold_left_behind_is_ended_at_once_and_those_that_wait_run_or_were_renewed_are_not() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(spec("physics", 1000)).unwrap();
    let lease = |ask: Ask| Ask { lease_ns: 86_400 * S, ..ask };
    let of = |id: &str| Ask { subject: Some(job(id)), ..lease(ask("physics", 10)) };
    let (unbound, renewed) =
        (ledger.check(lease(ask("physics", 10))), ledger.check(lease(ask("physics", 10))));
    let (ended, runs, waits) = (ledger.check(of("7")), ledger.check(of("8")), ledger.check(of("9")));
    let mut agent = Agent::new("n", "b", 1);
    let (first, second) = (
        agent.job(("physics", "gpu", "7"), &[(0, 5)]),
        agent.job(("physics", "gpu", "8"), &[(5, 5), (4000, 5)]),
    );
    ledger.at(10).take(first);
    ledger.at(4010).take(second);
    ledger.at(4000).hold(What::Renew { transaction: renewed.transaction }).unwrap();

    // The slot of job 7 ends at 900 s.
    assert_eq!(ledger.at(4499).recover(SILENT), [(unbound.transaction, State::Expired)]);
    ledger.at(4500);
    let expected = vec![(ended.transaction, State::Settled)];
    assert_eq!(ledger.recover(Orphans { dry_run: true, ..SILENT }), expected);
    assert_eq!(ledger.stored(&ended).state, State::Open, "a dry run changes nothing");
    assert_eq!(ledger.recover(SILENT), expected);
    assert_eq!(ledger.recover(SILENT), [], "once is enough");
    assert_eq!(ledger.stored(&ended).charged_nanos, 5 * SECOND);
    let states = [&unbound, &renewed, &ended, &runs, &waits].map(|hold| ledger.stored(hold).state);
    assert_eq!(states, [State::Expired, State::Open, State::Settled, State::Open, State::Open]);
    let waiting = Orphans { waiting: true, ..SILENT };
    assert_eq!(ledger.recover(waiting), [(waits.transaction, State::Expired)]);
    // 15 s are charged; two holds are left, one of which its job has used up to 2 s.
    assert_eq!(ledger.left("physics"), (1000 - 15 - 12 - 2, 0));
    ledger.verify();
}

#[test]
fn money_that_a_gate_spends_by_itself_is_never_recovered_unseen() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(spec("physics", 1000)).unwrap();
    let lease = Ask { escrow: Escrow::Lease, lease_ns: 60 * S, ..ask("physics", 10) };
    let escrow = ledger.check(lease);
    assert_eq!(ledger.at(86_400).recover(Orphans { waiting: true, ..SILENT }), []);
    assert_eq!(ledger.stored(&escrow).state, State::Open, "nobody has looked what was let in for it");
}

#[test]
fn what_is_recovered_is_of_one_account_and_those_below_it_where_that_is_said() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(Spec { bindings: Vec::new(), ..spec("org", 1000) }).unwrap();
    ledger.create(Spec { parent: Some("org".into()), ..spec("physics", 100) }).unwrap();
    ledger.create(spec("other", 100)).unwrap();
    let lease = |account: &str| Ask { lease_ns: 86_400 * S, ..ask(account, 10) };
    let (own, other) = (ledger.check(lease("physics")), ledger.check(lease("other")));
    ledger.at(3600);
    let of = |name: &str| Orphans { account: Some(name.into()), ..SILENT };
    let error = ledger.act(What::Recover(of("nobody"))).unwrap_err();
    assert!(matches!(error, BudgetError::NotFound(_)), "{error}");
    let error = ledger.act(What::Recover(Orphans { silent_ns: 899 * S, ..SILENT })).unwrap_err().to_string();
    assert!(error.starts_with("silent_seconds: "), "{error}");
    assert_eq!(ledger.recover(of("org")), [(own.transaction, State::Expired)]);
    assert_eq!(ledger.stored(&other).state, State::Open);
}
