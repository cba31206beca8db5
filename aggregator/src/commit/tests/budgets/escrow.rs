//! Overdrafts and escrow: what was let in is held for, and no money of an escrow is free while a gate may spend it.

use super::*;

fn overdraft(seconds: i64, id: &str) -> Ask {
    Ask {
        overdraft: "the aggregator did not answer".into(),
        subject: Some(job(id)),
        ..ask("physics", seconds)
    }
}

fn from(lease: &Hold, seconds: i64, id: &str) -> Ask {
    let escrow = Escrow::From { transaction: lease.transaction, amount_nanos: seconds * SECOND };
    Ask { key: id.into(), escrow, subject: Some(job(id)), ..ask("physics", seconds) }
}

fn lease(seconds: i64) -> Ask {
    Ask { escrow: Escrow::Lease, lease_ns: 60 * S, ..ask("physics", seconds) }
}

#[test]
fn an_overdraft_is_held_whatever_is_left_and_what_is_left_knows_of_it() {
    let mut ledger = Ledger::new(BOOK, 10);
    ledger.create(spec("physics", 10)).unwrap();
    assert_eq!(ledger.check(ask("physics", 100)).state, State::Refused);
    let hold = ledger.check(overdraft(100, "7"));
    assert_eq!((hold.state, hold.amount_nanos), (State::Open, 120 * SECOND));
    assert_eq!(ledger.left("physics"), (-110, 0));
    ledger
        .act(What::Account(Change::Update(Box::new(Spec {
            status: Status::Suspended,
            ..spec("physics", 10)
        }))))
        .unwrap();
    assert_eq!(ledger.check(overdraft(1, "8")).state, State::Open, "it runs, whatever became of its account");
    let nobody = Ask { account: "nobody".into(), ..overdraft(1, "9") };
    assert!(ledger.hold(What::Check(Box::new(nobody))).is_err(), "but it has to be somebody's");
    ledger.settle(&hold).unwrap();
    ledger.verify();
}

#[test]
fn a_hold_out_of_an_escrow_moves_money_and_takes_none() {
    let mut ledger = Ledger::new(BOOK, 10);
    ledger.create(spec("physics", 100)).unwrap();
    let escrow = ledger.check(lease(50));
    assert_eq!(ledger.left("physics"), (40, 0), "50 s and a fifth more");
    let hold = ledger.check(from(&escrow, 24, "7"));
    assert_eq!((hold.state, hold.amount_nanos, hold.account), (State::Open, 24 * SECOND, escrow.account));
    assert_eq!((ledger.left("physics"), ledger.stored(&escrow).amount_nanos), ((40, 0), 36 * SECOND));
    assert_eq!(ledger.check(from(&escrow, 24, "7")), hold, "asked twice it is taken once");
    let left = ledger.stored(&escrow);
    assert_eq!(
        (left.amount_nanos, left.first_amount_nanos()),
        (36 * SECOND, 60 * SECOND),
        "asked again it tells that"
    );
    for (ask, says) in [
        (from(&escrow, 37, "8"), "0.036000000 left".to_owned()),
        (Ask { cluster: "d".into(), ..from(&escrow, 1, "8") }, "\"c\"".to_owned()),
        (from(&hold, 1, "8"), "no such open escrow".to_owned()),
    ] {
        let error = ledger.hold(What::Check(Box::new(ask))).unwrap_err().to_string();
        assert!(error.contains(&says), "{error}");
    }
    ledger.settle(&hold).unwrap();
    assert_eq!(ledger.left("physics"), (64, 0), "its money is free, the escrow's is not");
    ledger.committer.working = Working::default();
    assert_eq!(ledger.left("physics"), (64, 0));
    ledger.verify();
}

#[test]
fn what_is_left_of_an_escrow_is_free_only_after_its_end_and_a_margin_and_never_by_itself() {
    let mut ledger = Ledger::new(BOOK, 10);
    ledger.create(spec("physics", 100)).unwrap();
    let escrow = ledger.check(lease(50));
    let void = What::Void { transaction: escrow.transaction };
    for at in [0, 59, 89] {
        let error = ledger.at(at).hold(void.clone()).unwrap_err().to_string();
        assert!(error.contains("may spend the escrow"), "{at}: {error}");
    }
    for other in [
        What::Renew { transaction: escrow.transaction },
        What::Bind { transaction: escrow.transaction, subject: job("7") },
    ] {
        assert!(ledger.hold(other).unwrap_err().to_string().contains("is an escrow"));
    }
    ledger.at(86_400).tick();
    assert_eq!(ledger.stored(&escrow).state, State::Open, "nobody has looked what was let in");
    let late = ledger.check(from(&escrow, 10, "7"));
    assert_eq!(late.state, State::Open, "what a cut off gate let in is held for when it is found");
    ledger.hold(void).unwrap();
    assert_eq!(ledger.left("physics"), (90, 0));
    assert!(ledger.hold(What::Check(Box::new(from(&escrow, 1, "8")))).is_err());
    ledger.verify();
}
