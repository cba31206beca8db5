//! Jobs that are reported by those who ran them.

use super::*;
use crate::budgets::{Outcome, Report, Reported};
use crate::store::budgets::reports;

impl Ledger {
    fn report(&mut self, hold: Option<&Hold>, id: &str, reported: i64) -> Option<Result<Hold, BudgetError>> {
        let report = Report {
            cluster: "c".into(),
            job: id.into(),
            reported_nanos: Some(reported),
            ..Report::default()
        };
        let hold = hold.map(|hold| hold.transaction);
        let reported = Box::new(Reported { hold, settles: hold.is_some(), subject: Some(job(id)), report });
        match self.act(What::Report(reported)).unwrap() {
            Acted::Reported(settled) => settled.map(|settled| settled.map(|hold| *hold)),
            other => panic!("{other:?}"),
        }
    }

    fn kept(&self) -> Vec<(Outcome, String, Option<i64>, Option<i64>)> {
        let kept = reports::all(&self.db()).unwrap().into_iter();
        kept.map(|kept| {
            (kept.outcome, kept.report.job, kept.report.charged_nanos, kept.report.reported_nanos)
        })
        .collect()
    }
}

#[test]
fn a_report_settles_its_hold_once_and_is_kept_once_with_what_the_ledger_charged() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(spec("physics", 100)).unwrap();
    let hold = ledger.check(ask("physics", 50));
    let mut agent = Agent::new("n", "b", 1);
    let batch = agent.job(("physics", "gpu", "7"), &[(10, 10)]);
    ledger.at(20).take(batch);
    let first = ledger.report(Some(&hold), "7", 99).unwrap().unwrap();
    assert_eq!((first.state, first.charged_nanos), (State::Settled, 10 * SECOND));
    assert_eq!(ledger.left("physics"), (90, 0), "what was reported charges nothing");
    // More comes late, and is charged; the report again is as it was.
    let batch = agent.job(("physics", "gpu", "7"), &[(20, 5)]);
    ledger.at(30).take(batch);
    assert_eq!(ledger.report(Some(&hold), "7", 1), Some(Ok(first)));
    assert_eq!(ledger.kept(), [(Outcome::Settled, "7".to_owned(), Some(10 * SECOND), Some(99))]);
    ledger.verify();
}

#[test]
fn a_job_that_is_reported_before_it_is_settled_is_kept_once() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(spec("physics", 100)).unwrap();
    let report = |settles: bool, hold: Option<&Hold>, reported: i64| {
        let report = Report {
            cluster: "c".into(),
            job: "7".into(),
            reported_nanos: Some(reported),
            ..Report::default()
        };
        let hold = hold.map(|hold| hold.transaction);
        What::Report(Box::new(Reported { hold, settles, subject: None, report }))
    };
    ledger.act(report(true, None, 1)).unwrap();
    let hold = ledger.check(Ask { subject: Some(job("7")), ..ask("physics", 50) });
    ledger.act(report(false, Some(&hold), 2)).unwrap();
    assert_eq!(ledger.kept(), [(Outcome::NoHold, "7".to_owned(), None, Some(2))]);
    assert_eq!(ledger.stored(&hold).state, State::Open);
    ledger.act(report(true, Some(&hold), 3)).unwrap();
    ledger.act(report(false, Some(&hold), 4)).unwrap();
    assert_eq!(
        ledger.kept(),
        [(Outcome::Settled, "7".to_owned(), Some(0), Some(3))],
        "what is settled stays"
    );
    ledger.verify();
}

#[test]
fn a_report_that_settles_nothing_is_kept_until_one_does() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.create(spec("physics", 100)).unwrap();
    assert_eq!(ledger.report(None, "9", 5), None);
    assert_eq!(ledger.report(None, "9", 6), None);
    let voided = ledger.check(Ask { subject: Some(job("7")), ..ask("physics", 10) });
    assert!(matches!(ledger.report(Some(&voided), "8", 1), Some(Err(BudgetError::Conflict(_)))));
    assert_eq!(ledger.stored(&voided).state, State::Open, "it is another job's");
    let refused = (Outcome::Refused, "8".to_owned(), None, Some(1));
    assert_eq!(ledger.kept(), [(Outcome::NoHold, "9".to_owned(), None, Some(6)), refused]);
    ledger.report(Some(&voided), "7", 2).unwrap().unwrap();
    assert_eq!(ledger.kept()[1], (Outcome::Settled, "7".to_owned(), Some(0), Some(2)));
    ledger.verify();
}
