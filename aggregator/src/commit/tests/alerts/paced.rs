//! How fast limits are spent, as the rules see it of a ledger.

use std::collections::BTreeSet;

use super::super::budgets::{SECOND, spec};
use super::*;
use crate::alerts::judge::pace::{Pace, Wanted};
use crate::alerts::view::view;
use crate::api;
use crate::budgets::account::{Limit, Spec};
use crate::budgets::period::{Period, Unit};

const DAY_S: i64 = 86_400;
const HOUR_S: i64 = 3_600;

impl Ledger {
    /// Of all limits in their order.
    fn paces(&self, at_s: i64, wanted: &Wanted) -> Vec<Option<Pace>> {
        let (db, now_ns) = (self.db(), BEGIN + at_s * S);
        let balances = api::balances(&db, now_ns).unwrap();
        let view = view(&db, balances, "USD".into(), (wanted, now_ns)).unwrap();
        view.limits.into_iter().map(|limit| limit.pace).collect()
    }
}

fn calendar(unit: Unit) -> Period {
    Period::Calendar { unit, zone: "UTC".into(), month_start_day: 1 }
}

/// An account with a limit over each of these periods, and one of the partition `other` alone.
fn limited(periods: Vec<Period>) -> Spec {
    let limit = |period| Limit { amount_nanos: 1000 * SECOND, period, partition: None, model: None };
    let mut limits: Vec<Limit> = periods.into_iter().map(limit).collect();
    limits.push(Limit { partition: Some("other".into()), ..limit(calendar(Unit::Month)) });
    Spec { limits, ..spec("physics", 0) }
}

fn wanted(hours: &[i64], days: bool) -> Wanted {
    Wanted { windows_hours: BTreeSet::from_iter(hours.iter().copied()), days }
}

/// Seconds of a GPU in each window.
fn seconds(pace: Option<&Pace>) -> Vec<(i64, i128)> {
    let windows = pace.unwrap().windows_nanos.iter();
    windows.map(|(hours, nanos)| (*hours, nanos / i128::from(SECOND))).collect()
}

#[test]
fn windows_are_of_slots_that_are_over_and_begin_with_the_period() {
    let mut ledger = Ledger::new(BOOK, -2 * HOUR_S);
    let ends_ns = Some(BEGIN + 10 * DAY_S * S);
    let periods =
        vec![calendar(Unit::Month), calendar(Unit::Day), Period::Rolling { days: 10 }, Period::Lifetime];
    ledger.create(limited(periods)).unwrap();
    let life = Spec { name: "grant".into(), ends_ns, ..limited(vec![Period::Lifetime]) };
    ledger.create(Spec { bindings: Vec::new(), ..life }).unwrap();
    let mut agent = Agent::new("n", "b", 1);
    // Yesterday; in the day's first hour; in its second; and in the slot that is not over.
    for at in [-HOUR_S, 0, HOUR_S + 100, 2 * HOUR_S + 100] {
        let batch = agent.job(("physics", "gpu", "7"), &[(at, 10)]);
        ledger.at(at + 10).take(batch);
    }
    let now = 2 * HOUR_S + 300;
    let paces = ledger.paces(now, &wanted(&[1, 24], false));
    let windows: Vec<_> = paces.iter().map(|pace| seconds(pace.as_ref())).collect();
    assert_eq!(windows[0], [(1, 10), (24, 30)], "of the month");
    assert_eq!(windows[1], [(1, 10), (24, 20)], "of the day, without yesterday");
    assert_eq!(windows[2], [(1, 10), (24, 30)], "of ten days that move on");
    assert_eq!(windows[3], [], "a life without an end has no rate");
    assert_eq!(windows[4], [(1, 0), (24, 0)], "of another partition");
    assert_eq!(windows[5], [(1, 0), (24, 0)], "of another account");
    let lengths = paces.iter().map(|pace| pace.as_ref().unwrap().length_ns.map(|ns| ns / S));
    let life = 10 * DAY_S + 2 * HOUR_S;
    let expected = [31 * DAY_S, DAY_S, 10 * DAY_S, 0, 31 * DAY_S, life, 31 * DAY_S];
    assert_eq!(lengths.collect::<Vec<_>>(), expected.map(|length| (length > 0).then_some(length)));
    assert_eq!(paces[2].as_ref().unwrap().end_ns, None);
    assert_eq!(paces[5].as_ref().unwrap().end_ns, ends_ns);
    assert!(ledger.paces(now, &Wanted::default()).iter().all(Option::is_none), "no rule asks");
    ledger.verify();
}

#[test]
fn a_day_costs_what_whole_days_did_on_the_average_since_the_account_began() {
    let mut ledger = Ledger::new(BOOK, 10);
    ledger
        .create(limited(vec![calendar(Unit::Month), Period::Rolling { days: 10 }, Period::Lifetime]))
        .unwrap();
    let mut agent = Agent::new("n", "b", 1);
    for (at, windows) in [(20, 1), (DAY_S + 100, 3), (2 * DAY_S + 100, 1), (3 * DAY_S + 100, 1)] {
        let windows: Vec<_> = (0..windows).map(|index| (at + 10 * index, 10)).collect();
        let batch = agent.job(("physics", "gpu", "7"), &windows);
        ledger.at(at + 40).take(batch);
    }
    let day = |at_s: i64| {
        let paces = ledger.paces(at_s, &wanted(&[], true));
        paces.into_iter().map(|pace| pace.unwrap().day_nanos).collect::<Vec<_>>()
    };
    assert_eq!(day(DAY_S - 1), [None, None, None, None], "no day is whole");
    // The first day was not: 30 s and 10 s in two days.
    let average = Some(20 * i128::from(SECOND));
    assert_eq!(
        day(3 * DAY_S + 200),
        [average, None, average, Some(0)],
        "what moves on has no end to last for"
    );
    ledger.verify();
}
