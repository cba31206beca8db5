//! More time for a job, in a hold of its own that becomes one with the job's.

use super::*;

fn join(more: &Hold, own: &Hold) -> What {
    What::Join { transaction: more.transaction, into: own.transaction }
}

#[test]
fn nothing_counts_twice_while_a_job_runs_for_which_more_was_asked() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(spec("physics", 1000)).unwrap();
    let own = ledger.check(Ask { subject: Some(job("7")), ..ask("physics", 10) });
    let keyed = Ask { key: "more".into(), ..ask("physics", 20) };
    let more = ledger.check(keyed.clone());
    assert_eq!(ledger.left("physics"), (964, 0), "12 s and 24 s");
    let joined = ledger.hold(join(&more, &own)).unwrap();
    assert_eq!((joined.transaction, joined.amount_nanos), (own.transaction, 36 * SECOND));
    assert_eq!(ledger.hold(join(&more, &own)).unwrap(), joined, "once");
    assert_eq!(ledger.left("physics"), (964, 0), "the money has moved");
    let ended = ledger.stored(&more);
    assert_eq!(
        (ended.state, ended.amount_nanos, ended.first_amount_nanos()),
        (State::Settled, 0, 24 * SECOND)
    );
    let mut agent = Agent::new("n", "b", 1);
    for at in [0, 10, 20] {
        let batch = agent.job(("physics", "gpu", "7"), &[(at, 10)]);
        ledger.at(at + 10).take(batch);
        assert_eq!(ledger.left("physics"), (964, 0), "after {} s", at + 10);
    }
    ledger.committer.working = Working::default();
    let batch = agent.job(("physics", "gpu", "7"), &[(30, 10)]);
    ledger.at(40).take(batch);
    assert_eq!(ledger.left("physics"), (960, 0), "it costs more than both");
    ledger.verify();
    assert_eq!(ledger.settle(&own).unwrap().overrun_nanos(), 4 * SECOND);
    assert_eq!(ledger.check(keyed).found, more.found, "the same request is told the same");
    assert!(ledger.hold(join(&more, &own)).is_err(), "it has ended");
    ledger.verify();
}

#[test]
fn holds_that_stand_in_different_limits_or_are_of_no_job_stay_apart() {
    let mut ledger = Ledger::new(BOOK, 10);
    ledger.create(spec("physics", 1000)).unwrap();
    ledger.create(spec("chemistry", 1000)).unwrap();
    let own = ledger.check(Ask { subject: Some(job("7")), ..ask("physics", 10) });
    let bound = ledger.check(Ask { subject: Some(job("8")), ..ask("physics", 10) });
    let (more, other) = (ledger.check(ask("physics", 10)), ledger.check(ask("chemistry", 10)));
    let model = ledger.check(Ask { model: "A100".into(), ..ask("physics", 10) });
    let partition = ledger.check(Ask { partition: "cpu".into(), ..ask("physics", 10) });
    let lease = ledger.check(Ask { escrow: Escrow::Lease, lease_ns: 60 * S, ..ask("physics", 10) });
    let voided = ledger.check(ask("physics", 10));
    ledger.hold(What::Void { transaction: voided.transaction }).unwrap();
    for (more, own, says) in [
        (&other, &own, "another account"),
        (&model, &own, "another account"),
        (&partition, &own, "another account"),
        (&lease, &own, "an escrow"),
        (&more, &lease, "an escrow"),
        (&bound, &own, "by itself"),
        (&own, &own, "by itself"),
        (&more, &other, "bind it first"),
        (&voided, &own, "is voided already"),
        (&more, &voided, "no such open hold"),
    ] {
        let error = ledger.hold(join(more, own)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    assert_eq!(ledger.stored(&own), own);
    ledger.verify();
}
