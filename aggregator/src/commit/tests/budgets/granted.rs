//! Grants in the writer: journalled, verified, and never two for the same day of an account.

use super::*;
use crate::budgets::grant::Standing;
use crate::budgets::{Award, Grant, GrantChange};
use crate::store::grants;

/// Of the year that the ledger begins in.
fn grant(number: &str, account: &str) -> Grant {
    Grant {
        number: number.into(),
        account: account.into(),
        agency: "NSF".into(),
        program: "CSSI".into(),
        investigator: "Ada".into(),
        co_investigators: vec!["Grace".into()],
        institution: "University".into(),
        department: String::new(),
        start: "2027-01-01".parse().unwrap(),
        end: "2028-01-01".parse().unwrap(),
        total_nanos: 1_000 * SECOND,
        indirect_rate: 0,
        period_months: 3,
        suspended: false,
        compliance: String::new(),
        federal_award_id: String::new(),
        project_code: String::new(),
        cost_center: String::new(),
    }
}

impl Ledger {
    fn grant(&mut self, change: GrantChange) -> Result<Award, BudgetError> {
        let Acted::Grant(award) = self.act(What::Grant(change))? else { panic!("that is no grant") };
        Ok(*award)
    }

    fn award(&mut self, grant: Grant) -> Result<Award, BudgetError> {
        self.grant(GrantChange::Create(Box::new(grant)))
    }

    fn awards(&self) -> Vec<Award> {
        grants::awards(&self.db()).unwrap().iter().cloned().collect()
    }
}

#[test]
fn grants_are_journalled_outlive_a_restart_and_what_nobody_decided_is_found() {
    let mut ledger = Ledger::new(BOOK, 10);
    ledger.create(spec("physics", 100)).unwrap();
    let made = ledger.award(grant("NSF-1", "physics")).unwrap();
    let suspended = Grant { suspended: true, ..grant("NSF-1", "physics") };
    let changed = ledger.at(20).grant(GrantChange::Update(Box::new(suspended))).unwrap();
    assert_eq!((changed.id, changed.created_ns), (made.id, made.created_ns));
    assert_eq!(changed.standing(BEGIN), Standing::Suspended);
    ledger.committer = committer(ledger.dir.path(), &ledger.clock, BOOK);
    assert!(ledger.award(grant("NSF-1", "physics")).is_err(), "its number is known after a restart");
    assert_eq!(ledger.awards(), [changed]);
    let closed = ledger.at(30).grant(GrantChange::Close("NSF-1".into())).unwrap();
    assert_eq!(closed.standing(BEGIN + 30 * S), Standing::Cancelled);
    // The day on which it was closed is still its own.
    let day = |day: i64| Grant {
        start: jiff::civil::date(2027, 1, 16).checked_add(jiff::Span::new().days(day)).unwrap(),
        ..grant("NSF-2", "physics")
    };
    let same = ledger.award(day(0));
    assert!(matches!(&same, Err(BudgetError::Conflict(text)) if text.contains("same days")), "{same:?}");
    ledger.award(day(1)).unwrap();
    assert_eq!(ledger.awards().iter().map(|award| award.id).collect::<Vec<_>>(), [1, 2]);
    ledger.verify();
    for (sql, back) in [
        (
            "UPDATE award SET json = REPLACE(json, 'NSF\"', 'DFG\"')",
            "UPDATE award SET json = REPLACE(json, 'DFG\"', 'NSF\"')",
        ),
        ("UPDATE award SET closed_ns = closed_ns + 1", "UPDATE award SET closed_ns = closed_ns - 1"),
        ("DELETE FROM award WHERE id = 2", ""),
    ] {
        ledger.db().execute(sql, []).unwrap();
        let report = verify::verify(&ledger.db()).unwrap();
        assert!(!report.conserved(), "{sql}");
        if !back.is_empty() {
            ledger.db().execute(back, []).unwrap();
            ledger.verify();
        }
    }
}

#[test]
fn an_account_that_moves_does_not_bring_two_grants_to_the_same_days() {
    let mut ledger = Ledger::new(BOOK, 10);
    ledger.create(spec("org", 100)).unwrap();
    ledger.create(spec("physics", 100)).unwrap();
    ledger.award(grant("NSF-1", "physics")).unwrap();
    ledger.award(grant("DFG-1", "org")).unwrap();
    let below = Spec { parent: Some("org".into()), ..spec("physics", 100) };
    let moved = ledger.act(What::Account(Change::Update(Box::new(below.clone()))));
    assert!(matches!(&moved, Err(BudgetError::Conflict(text)) if text.contains("same days")), "{moved:?}");
    assert!(matches!(ledger.award(grant("x", "none")), Err(BudgetError::NotFound(_))));
    // What was paid stays paid: closing it frees no day that is over.
    let made = Grant { start: "2026-12-01".parse().unwrap(), ..grant("DFG-1", "org") };
    ledger.grant(GrantChange::Update(Box::new(made))).unwrap();
    ledger.grant(GrantChange::Close("DFG-1".into())).unwrap();
    let moved = ledger.act(What::Account(Change::Update(Box::new(below.clone()))));
    assert!(matches!(&moved, Err(BudgetError::Conflict(text)) if text.contains("same days")), "{moved:?}");
    let later = Grant { start: "2027-02-01".parse().unwrap(), ..grant("NSF-1", "physics") };
    ledger.grant(GrantChange::Update(Box::new(later.clone()))).unwrap();
    ledger.act(What::Account(Change::Update(Box::new(below)))).unwrap();
    // Of an account that is closed all may be said that is, and no other grant be made.
    ledger.act(What::Account(Change::Close("physics".into()))).unwrap();
    ledger.grant(GrantChange::Update(Box::new(Grant { investigator: "Emmy".into(), ..later }))).unwrap();
    let new = ledger.award(Grant {
        start: "2028-01-01".parse().unwrap(),
        end: "2029-01-01".parse().unwrap(),
        ..grant("X", "physics")
    });
    assert!(matches!(&new, Err(BudgetError::Conflict(text)) if text.contains("is closed")), "{new:?}");
    ledger.grant(GrantChange::Close("NSF-1".into())).unwrap();
    ledger.verify();
}
