//! Rules of how fast a limit is spent: its burn rate over two windows at once, and whether it lasts for its period. Pure.
//!
//! Source of the burn rate over a long and a short window: B. Beyer et al., The Site Reliability Workbook (O'Reilly 2018),
//! chapter 5, "Multiwindow, Multi-Burn-Rate Alerts".

use std::collections::{BTreeMap, BTreeSet};

use tonnage_proto::decimal;
use tonnage_proto::limits::DAY_NS;

use super::{LimitView, of_limit, said};
use crate::alerts::message::time;
use crate::alerts::rules::{Rule, When};
use crate::budgets::allocation::Part;
use crate::budgets::burn;
use crate::model::Finding;

const HOUR_SECONDS: i128 = 3_600;
const MINUTE_NS: i64 = 60_000_000_000;

/// How fast a limit is spent, as far as rules ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pace {
    /// Of the period; `None` if it has no end.
    pub length_ns: Option<i64>,
    /// `None` also of a period that moves on.
    pub end_ns: Option<i64>,
    /// Charges of the last so many hours, as far as they are in the period.
    pub windows_nanos: BTreeMap<i64, i128>,
    /// What comes to the limit by itself before its end, oldest first.
    pub parts: Vec<Part>,
    /// What a whole day costs, on the average of as many as the account was there for, 30 at most.
    pub day_nanos: Option<i128>,
}

/// What rules ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub windows_hours: BTreeSet<i64>,
    pub days: bool,
}

impl Wanted {
    #[must_use]
    pub fn by(rules: &[Rule]) -> Self {
        let mut wanted = Self::default();
        for rule in rules {
            match rule.when {
                When::BurnRate { long_hours, short_hours, .. } => {
                    wanted.windows_hours.extend([long_hours, short_hours]);
                }
                When::Depletion { .. } => wanted.days = true,
                _ => {}
            }
        }
        wanted
    }

    #[must_use]
    pub fn nothing(&self) -> bool {
        self.windows_hours.is_empty() && !self.days
    }
}

/// How many thousandths of the rate at which a limit just lasts for its period were spent in a window: charges / (limit x window /
/// period), rounded down. `None` where nothing is expected.
#[must_use]
pub fn rate_permille(charged_nanos: i128, hours: i64, limit_nanos: i64, length_ns: i64) -> Option<i128> {
    let even = i128::from(limit_nanos) * i128::from(hours) * HOUR_SECONDS;
    let share = charged_nanos.checked_mul(i128::from(length_ns / 1_000_000_000))?.checked_mul(1_000)?;
    (even > 0).then(|| share.div_euclid(even))
}

pub(super) fn burning(
    rule: &Rule,
    limit: &LimitView,
    (times_permille, long_hours, short_hours): (i64, i64, i64),
    currency: &str,
) -> Option<Finding> {
    let pace = limit.pace.as_ref()?;
    let length_ns = pace.length_ns?;
    let planned_nanos = burn::planned(limit.limit_nanos, &pace.parts);
    let rate = |hours: i64| {
        let charged_nanos = *pace.windows_nanos.get(&hours)?;
        let permille = rate_permille(charged_nanos, hours, planned_nanos, length_ns)?;
        (permille >= i128::from(times_permille)).then_some((permille, charged_nanos))
    };
    let ((long, charged_nanos), (short, _)) = (rate(long_hours)?, rate(short_hours)?);
    let value = times(long);
    let message = format!(
        "{} is spent {value} as fast as it would last for its period: {} {currency} in the last {long_hours} h; \
         {} in the last {short_hours} h",
        said(limit),
        decimal::from_nanos(charged_nanos),
        times(short),
    );
    Some(of_limit(rule, limit, message, (value, times(i128::from(times_permille)))))
}

/// Of thousandths, with one place, rounded down.
fn times(permille: i128) -> String {
    format!("{}.{} times", permille / 1_000, permille % 1_000 / 100)
}

pub(super) fn depleted(
    rule: &Rule,
    limit: &LimitView,
    within_days: Option<i64>,
    (now_ns, currency): (i64, &str),
) -> Option<Finding> {
    let pace = limit.pace.as_ref()?;
    let (day_nanos, left_nanos) = (pace.day_nanos?, i128::from(limit.limit_nanos) - limit.charged_nanos);
    // Of a limit of nothing nothing can be left.
    if limit.limit_nanos == 0 || (pace.end_ns.is_none() && within_days.is_none()) {
        return None;
    }
    let at_ns = burn::depletion(now_ns, left_nanos, day_nanos, (pace.end_ns, &pace.parts))?;
    let left_ns = at_ns - now_ns;
    if within_days.is_some_and(|days| left_ns > days.saturating_mul(DAY_NS)) {
        return None;
    }
    let early = pace.end_ns.map_or_else(String::new, |end_ns| {
        format!(", {} before its period ends", days(end_ns.saturating_sub(at_ns)))
    });
    let what = if left_nanos <= 0 {
        format!("is spent{early}")
    } else {
        let at = time(at_ns - at_ns.rem_euclid(MINUTE_NS));
        let (left, day) = (decimal::from_nanos(left_nanos), decimal::from_nanos(day_nanos));
        let come: i128 =
            pace.parts.iter().filter(|part| part.due_ns <= at_ns).map(|part| i128::from(part.nanos)).sum();
        let come =
            if come == 0 { String::new() } else { format!(", {} come by then", decimal::from_nanos(come)) };
        format!("will be spent by {at}{early}: {left} {currency} are left{come}, a day costs {day}")
    };
    let message = format!("{} {what}", said(limit));
    let threshold = within_days.map_or_else(|| "its period's end".to_owned(), |days| format!("{days} days"));
    Some(of_limit(rule, limit, message, (days(left_ns), threshold)))
}

/// With one place, rounded down.
fn days(ns: i64) -> String {
    let tenths = ns / (DAY_NS / 10);
    format!("{}.{} days", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::judge::tests::{limit, rule, view};
    use crate::alerts::judge::{View, judge};

    const DOLLAR: i128 = 1_000_000_000;
    const MONTH_NS: i64 = 30 * DAY_NS;

    fn burn_rate() -> Rule {
        rule(When::BurnRate { times_permille: 3_000, accounts: "*".into(), long_hours: 24, short_hours: 1 })
    }

    /// A limit of 3000 a month of which so much was charged in the last 24 hours and in the last one.
    fn burnt(long: i128, short: i128) -> LimitView {
        let pace = Pace {
            length_ns: Some(MONTH_NS),
            end_ns: Some(MONTH_NS),
            windows_nanos: [(24, long * DOLLAR), (1, short * DOLLAR)].into(),
            ..Pace::default()
        };
        LimitView { pace: Some(pace), ..limit("physics", 0, 3_000_000_000_000, 0, 0) }
    }

    /// docs/alerts.md, "How fast", has these figures.
    #[test]
    fn the_example_of_the_documentation_is_worked_out() {
        // 3000 in 720 hours are 100 in 24 hours and 4.1666 in one.
        let found = judge(&[burn_rate()], &view(vec![burnt(420, 15)]));
        assert_eq!((found[0].value.as_str(), found[0].threshold.as_str()), ("4.2 times", "3.0 times"));
        let expected = "physics: its limit (month) is spent 4.2 times as fast as it would last for its period: \
                        420.000000000 USD in the last 24 h; 3.6 times in the last 1 h";
        assert_eq!(found[0].message.replace("420 USD", "420.000000000 USD"), expected);
        // The spike is over, or has only begun.
        for (long, short) in [(420, 12), (299, 15)] {
            assert!(judge(&[burn_rate()], &view(vec![burnt(long, short)])).is_empty(), "{long} {short}");
        }
        // Ten days are over and cost 130 each: 1700 are left, gone 6.9 days before the period's end.
        let pace = Pace { end_ns: Some(MONTH_NS), day_nanos: Some(130 * DOLLAR), ..Pace::default() };
        let limit =
            LimitView { pace: Some(pace), ..limit("physics", 0, 3_000_000_000_000, 1_300 * DOLLAR, 0) };
        let view = View { now_ns: 10 * DAY_NS, ..view(vec![limit]) };
        let depletion = |within_days| rule(When::Depletion { accounts: "*".into(), within_days });
        let found = judge(&[depletion(None)], &view);
        assert_eq!((found[0].value.as_str(), found[0].threshold.as_str()), ("13.0 days", "its period's end"));
        let said = &found[0].message;
        assert!(
            said.contains("will be spent by 1970-01-24T01:50:00Z, 6.9 days before its period ends"),
            "{said}"
        );
        assert!(judge(&[depletion(Some(13))], &view).is_empty());
        assert_eq!(judge(&[depletion(Some(14))], &view)[0].threshold, "14 days");
    }

    #[test]
    fn both_windows_have_to_burn_and_a_limit_without_an_end_has_no_rate() {
        let exact = burnt(300, 0);
        let exact = |short_nanos| {
            let mut limit = exact.clone();
            limit.pace.as_mut().unwrap().windows_nanos.insert(1, short_nanos);
            judge(&[burn_rate()], &view(vec![limit])).len()
        };
        // Three times 3000 / 720 is 12.5.
        assert_eq!((exact(12_500_000_000), exact(12_499_999_999)), (1, 0));
        let mut endless = burnt(420, 15);
        endless.pace.as_mut().unwrap().length_ns = None;
        assert!(judge(&[burn_rate()], &view(vec![endless])).is_empty());
        let nothing = LimitView { limit_nanos: 0, ..burnt(420, 15) };
        assert!(judge(&[burn_rate()], &view(vec![nothing])).is_empty());
        let unknown = LimitView { pace: None, ..burnt(420, 15) };
        assert!(judge(&[burn_rate()], &view(vec![unknown])).is_empty());
    }

    #[test]
    fn parts_that_come_are_expected_to_be_spent_and_last_a_limit_for_longer() {
        let part = |day: i64| Part { due_ns: day * DAY_NS, nanos: 3_000_000_000_000 };
        let mut burnt = burnt(420, 15);
        burnt.pace.as_mut().unwrap().parts = vec![part(20)];
        assert!(judge(&[burn_rate()], &view(vec![burnt])).is_empty(), "2.1 times of 6000");
        // 300 are left on the tenth day, at 130 a day: gone on the twelfth, unless 3000 come on the eleventh.
        let told = |parts: Vec<Part>| {
            let pace =
                Pace { end_ns: Some(MONTH_NS), day_nanos: Some(130 * DOLLAR), parts, ..Pace::default() };
            let limit =
                LimitView { pace: Some(pace), ..limit("physics", 0, 3_000_000_000_000, 2_700 * DOLLAR, 0) };
            let view = View { now_ns: 10 * DAY_NS, ..view(vec![limit]) };
            let found = judge(&[rule(When::Depletion { accounts: "*".into(), within_days: None })], &view);
            found.into_iter().next().map(|found| found.message)
        };
        assert!(told(vec![part(13)]).unwrap().contains("300.000000000 USD are left, a day costs"));
        assert_eq!(told(vec![part(11)]), None);
        let more = told(vec![Part { nanos: 1_000_000_000_000, ..part(11) }]).unwrap();
        assert!(
            more.contains("300.000000000 USD are left, 1000.000000000 come by then, a day costs"),
            "{more}"
        );
    }

    #[test]
    fn a_new_period_is_another_finding() {
        let key = |start_ns| {
            let limit = LimitView { start_ns, ..burnt(420, 15) };
            judge(&[burn_rate()], &view(vec![limit]))[0].key.clone()
        };
        assert_eq!(key(1), key(1));
        assert_ne!(key(1), key(2));
    }

    #[test]
    fn what_is_spent_is_depleted_and_a_limit_without_an_end_is_so_only_within_days() {
        let at = |end_ns, charged: i128, within_days| {
            let pace = Pace { end_ns, day_nanos: Some(10 * DOLLAR), ..Pace::default() };
            let limit = LimitView { pace: Some(pace), ..limit("a", 0, 100_000_000_000, charged * DOLLAR, 0) };
            let view = View { now_ns: DAY_NS, ..view(vec![limit]) };
            let found = judge(&[rule(When::Depletion { accounts: "*".into(), within_days })], &view);
            found.into_iter().next().map(|found| found.message)
        };
        let spent = at(Some(3 * DAY_NS), 100, None).unwrap();
        assert_eq!(spent, "a: its limit (month) is spent, 2.0 days before its period ends");
        assert_eq!(at(Some(3 * DAY_NS), 50, None), None, "it lasts");
        assert_eq!(at(None, 50, None), None, "it has no end");
        let soon = at(None, 50, Some(5)).unwrap();
        assert!(soon.starts_with("a: its limit (month) will be spent by 1970-01-07T00:00:00Z: 50"), "{soon}");
        assert_eq!(at(None, 49, Some(5)), None);
    }
}
