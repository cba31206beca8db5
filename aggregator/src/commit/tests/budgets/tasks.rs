//! Arrays: one hold, and tasks that are charged under ids of their own.

use super::*;

fn tasks(hold: &Hold, jobs: &[&str]) -> What {
    let jobs = jobs.iter().map(|&job| job.to_owned()).collect();
    What::Tasks { transaction: hold.transaction, jobs }
}

impl Ledger {
    /// How many tasks the hold is of, and those that are elsewhere.
    fn name(&mut self, hold: &Hold, jobs: &[&str]) -> Result<(usize, Vec<String>), BudgetError> {
        match self.act(tasks(hold, jobs))? {
            Acted::Tasks(_, named) => Ok((named.count, named.elsewhere)),
            other => panic!("{other:?}"),
        }
    }
}

/// Ten seconds of one GPU.
fn runs(ledger: &mut Ledger, agent: &mut Agent, id: &str, at: i64) {
    let batch = agent.job(("physics", "gpu", id), &[(at, 10)]);
    ledger.at(at + 10).take(batch);
}

#[test]
fn nothing_counts_twice_while_an_array_runs_whenever_its_tasks_are_named() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(spec("physics", 1000)).unwrap();
    // Three tasks of 20 s: 72 s are held.
    let hold = ledger.check(Ask { gpus: 3, subject: Some(job("10")), ..ask("physics", 20) });
    assert_eq!(ledger.left("physics"), (928, 0));
    let mut agent = Agent::new("n", "b", 1);
    runs(&mut ledger, &mut agent, "10", 0);
    runs(&mut ledger, &mut agent, "11", 10);
    assert_eq!(ledger.left("physics"), (918, 0), "a task that nobody named is charged beside the hold");
    assert_eq!(ledger.name(&hold, &["11", "12"]).unwrap(), (2, vec![]));
    assert_eq!(ledger.left("physics"), (928, 0), "what it was charged before it was named counts, too");
    runs(&mut ledger, &mut agent, "12", 20);
    assert_eq!(ledger.left("physics"), (928, 0));
    // It ran in this slot, in another one of the hour, in another hour, and on the next day before it was named.
    for at in [30, 900, 4000, 100_000] {
        runs(&mut ledger, &mut agent, "13", at);
    }
    assert_eq!(ledger.stored(&hold).charged_nanos, 30 * SECOND);
    // Named in the commit that brings more of it, and before that.
    let batch = agent.job(("physics", "gpu", "13"), &[(100_010, 10)]);
    let (answer, named) = oneshot::channel();
    let act = Box::new(Act { what: tasks(&hold, &["13"]), by: "test".into() });
    let name = Submission::Budget { act, answer };
    let batch = Submission::Batch { batch: Box::new(batch), answer: oneshot::channel().0 };
    ledger.at(100_020).committer.commit_now(vec![batch, name]);
    drop(named);
    assert_eq!(ledger.stored(&hold).charged_nanos, 80 * SECOND);
    ledger.verify();
    // After a restart as before it.
    ledger.committer.working = Working::default();
    runs(&mut ledger, &mut agent, "12", 100_020);
    assert_eq!((ledger.stored(&hold).charged_nanos, ledger.left("physics")), (90 * SECOND, (910, 0)));
    let settled = ledger.settle(&hold).unwrap();
    assert_eq!((settled.charged_nanos, settled.overrun_nanos()), (90 * SECOND, 18 * SECOND));
    runs(&mut ledger, &mut agent, "12", 100_030);
    assert_eq!(ledger.left("physics"), (900, 0), "what comes after the end is charged as ever");
    assert_eq!(ledger.stored(&hold).charged_nanos, 90 * SECOND);
    ledger.verify();
}

#[test]
fn a_job_is_of_one_open_hold_and_a_task_with_its_own_keeps_that() {
    let mut ledger = Ledger::new(BOOK, 10);
    ledger.create(spec("physics", 1000)).unwrap();
    let [array, other] = ["10", "20"].map(|id| Ask { subject: Some(job(id)), ..ask("physics", 10) });
    let [array, other] = [ledger.check(array), ledger.check(other)];
    let own = ledger.check(Ask { subject: Some(job("12")), ..ask("physics", 10) });
    for _ in 0..2 {
        // Its own id is no other job, and what is said twice is said once.
        assert_eq!(ledger.name(&array, &["10", "11", "12", "11"]).unwrap(), (1, vec!["12".to_owned()]));
    }
    let events: i64 = ledger
        .db()
        .query_row("SELECT COUNT(*) FROM journal WHERE epoch = ?1", [&array.transaction[..]], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(events, 2, "the check, and the tasks once");
    assert_eq!(ledger.name(&other, &["11"]).unwrap(), (0, vec!["11".to_owned()]));
    let bind = What::Bind { transaction: ledger.check(ask("physics", 1)).transaction, subject: job("11") };
    assert!(matches!(ledger.hold(bind), Err(BudgetError::Conflict(_))));
    let again = Ask { subject: Some(job("11")), ..ask("physics", 10) };
    assert!(matches!(ledger.hold(What::Check(Box::new(again.clone()))), Err(BudgetError::Conflict(_))));
    let db = ledger.db();
    for (change, undone) in [
        (
            "DELETE FROM hold_task WHERE job_id = '11'",
            format!("INSERT INTO hold_task VALUES ({}, '11')", array.id),
        ),
        ("INSERT INTO hold_task VALUES (1, '99')", "DELETE FROM hold_task WHERE job_id = '99'".to_owned()),
    ] {
        db.execute_batch(change).unwrap();
        assert!(!verify::verify(&db).unwrap().conserved(), "{change}");
        db.execute_batch(&undone).unwrap();
        ledger.verify();
    }
    // Whose hold has ended can be named, and the tasks of one that has are free.
    ledger.settle(&own).unwrap();
    assert_eq!(ledger.name(&array, &["12"]).unwrap(), (2, vec![]));
    ledger.verify();
    ledger.settle(&array).unwrap();
    assert!(matches!(ledger.name(&array, &["13"]), Err(BudgetError::Conflict(_))));
    assert_eq!(ledger.check(again).state, State::Open);
    ledger.verify();
}

#[test]
fn tasks_are_bounded_and_those_of_a_hold_that_is_of_no_job_are_refused() {
    let mut ledger = Ledger::new(BOOK, 10);
    ledger.create(spec("physics", 1000)).unwrap();
    let array = ledger.check(Ask { subject: Some(job("10")), ..ask("physics", 10) });
    let (unbound, pod) = (
        ledger.check(ask("physics", 10)),
        ledger.check(Ask { subject: Some(Subject::Pod("uid".into())), ..ask("physics", 10) }),
    );
    let lease = ledger.check(Ask { escrow: Escrow::Lease, lease_ns: 60 * S, ..ask("physics", 10) });
    for (hold, says) in [
        (&unbound, "bind it to the array's id"),
        (&pod, "bind it to the array's id"),
        (&lease, "is an escrow"),
    ] {
        let error = ledger.name(hold, &["11"]).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    for jobs in [&[][..], &[""], &["a\0"], &["x"; 201]] {
        let error = ledger.name(&array, jobs).unwrap_err();
        assert!(matches!(error, BudgetError::Invalid { field: "job_ids", .. }), "{error}");
    }
    let ids: Vec<String> = (100..10_101).map(|id| id.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    for jobs in ids[..10_000].chunks(200) {
        ledger.name(&array, jobs).unwrap();
    }
    let error = ledger.name(&array, &ids[10_000..]).unwrap_err().to_string();
    assert!(error.contains("10000 tasks at most"), "{error}");
    assert_eq!(ledger.name(&array, &ids[..200]).unwrap(), (10_000, vec![]), "the same again is no more");
    ledger.verify();
}

#[test]
fn tasks_go_with_their_hold_once_it_had_ended_before_the_horizon() {
    const DAY: i64 = 86_400;
    let mut ledger = Ledger::new(ABSENT, 0);
    ledger.committer.retention = Retention { detail_days: 2, hours_days: 3, days_days: 0 };
    ledger.create(spec("physics", 100)).unwrap();
    let of = |id: &str| Ask { lease_ns: 80 * DAY * S, subject: Some(job(id)), ..ask("physics", 20) };
    let (ended, open) = (ledger.check(of("5")), ledger.check(of("7")));
    ledger.name(&ended, &["6"]).unwrap();
    ledger.name(&open, &["8"]).unwrap();
    ledger.settle(&ended).unwrap();
    let mut agent = Agent::new("n", "b", 1);
    runs(&mut ledger, &mut agent, "8", 0);
    ledger.at(5 * DAY).tick();
    assert_eq!(stored::tasks::all(&ledger.db()).unwrap(), [(open.id, "8".to_owned())]);
    assert_eq!(ledger.stored(&open).charged_nanos, 10 * SECOND, "of slots that are gone");
    ledger.verify();
}
