//! How fast a budget is spent, whether it lasts, and when it will be gone (docs/budgets.md, "Burn rate" has the formulas).
//!
//! Pure. Amounts are whole nano-dollars and rounded down, shares are billionths; only the interval of the forecast is worked out
//! in floats, and rounded to whole nanoseconds and nano-dollars at its end.

use tonnage_proto::limits::DAY_NS;

use super::allocation::Part;
use super::period::Period;
use super::{Account, Limit};

/// Fewer whole days than these say nothing of how days differ.
pub const INTERVAL_DAYS_MIN: usize = 7;
/// Of the normal distribution, for an interval of 95 %.
const Z: f64 = 1.96;
/// How far a forecast looks, in days: ten years.
const HORIZON_DAYS: f64 = 3_660.0;
const HORIZON_DAYS_WHOLE: i64 = 3_660;
/// A hundred percent, in billionths of a percent.
const HUNDRED: i128 = 100_000_000_000;
/// Percent by which spending may differ from what is expected.
const ON_TRACK_PERCENT: i128 = 20;
/// A budget that is gone within so many days is in danger, whatever its period.
const CRITICAL_DAYS: i128 = 7;

/// What is known of a budget at `now_ns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts<'a> {
    pub now_ns: i64,
    pub limit_nanos: i64,
    /// In which the limit goes; `None` if it has no end.
    pub start_ns: i64,
    pub end_ns: Option<i64>,
    /// In the period until now, posted and provisional.
    pub spent_nanos: i128,
    /// Charges of whole days of UTC, each the next one's day before, the last one yesterday.
    pub days: &'a [i128],
    /// What comes to the limit by itself before its end, oldest first.
    pub parts: &'a [Part],
}

/// A limit with what comes to it.
#[must_use]
pub fn planned(limit_nanos: i64, parts: &[Part]) -> i64 {
    parts.iter().fold(limit_nanos, |sum, part| sum.saturating_add(part.nanos))
}

/// Until when parts of a limit without an end are looked for.
#[must_use]
pub fn horizon_ns(now_ns: i64, end_ns: Option<i64>) -> i64 {
    end_ns.unwrap_or_else(|| now_ns.saturating_add(HORIZON_DAYS_WHOLE * DAY_NS))
}

/// See [`Burn::of`]. Percentages are in billionths of a percent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Burn {
    /// Of the last whole day.
    pub day_nanos: Option<i128>,
    /// Averages of the last 7 and 30 whole days, of as many as there are.
    pub week_nanos: Option<i128>,
    pub month_nanos: Option<i128>,
    /// What a day may cost so that the limit lasts for its period.
    pub expected_day_nanos: Option<i128>,
    /// Of the last whole day, against that.
    pub day_variance: Option<i128>,
    pub expected_nanos: Option<i128>,
    pub variance: Option<i128>,
    pub health: Option<i128>,
    pub remaining_nanos: i128,
    pub remaining_percent: Option<i128>,
    pub forecast: Option<Forecast>,
}

/// What follows if days go on as they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// Whole days that it is made from, and their average.
    pub days: usize,
    pub day_nanos: i128,
    /// When the limit is spent, if that is in its period; with the early and the late end of the interval.
    pub depletion_ns: Option<i64>,
    pub earliest_ns: Option<i64>,
    pub latest_ns: Option<i64>,
    /// At the period's end, with its interval.
    pub final_nanos: Option<i128>,
    pub final_range_nanos: Option<(i128, i128)>,
    pub risk: Risk,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Risk {
    /// It lasts, also at the upper end of the interval.
    Low,
    /// It lasts at the average rate.
    Medium,
    /// It does not.
    High,
    /// It is spent, or will be within days.
    Critical,
}

impl Risk {
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::Low, "LOW"), (Self::Medium, "MEDIUM"), (Self::High, "HIGH"), (Self::Critical, "CRITICAL")];

    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// How health is called, by [`Burn::health`].
#[must_use]
pub fn health_name(health: Option<i128>) -> &'static str {
    match health.map(|health| health * 100 / HUNDRED) {
        None => "UNKNOWN",
        Some(80..) => "HEALTHY",
        Some(60..) => "CONCERN",
        Some(40..) => "WARNING",
        Some(_) => "CRITICAL",
    }
}

/// How spending is called, by its variance.
#[must_use]
pub fn status_name(variance: Option<i128>) -> &'static str {
    let track = ON_TRACK_PERCENT * HUNDRED / 100;
    match variance {
        None => "UNKNOWN",
        Some(over) if over > track => "OVERSPENDING",
        Some(under) if under < -track => "UNDERSPENDING",
        Some(_) => "ON_TRACK",
    }
}

/// By how many billionths of a percent `nanos` is more than `expected`.
#[must_use]
pub fn variance(nanos: i128, expected: i128) -> Option<i128> {
    let share = (nanos - expected).checked_mul(HUNDRED)?;
    (expected > 0).then(|| share.div_euclid(expected))
}

/// 100 % unless more is spent than expected; then so much less as it is more. Spending less is no ill health.
#[must_use]
pub fn health(spent_nanos: i128, expected_nanos: i128) -> Option<i128> {
    if spent_nanos <= expected_nanos {
        return Some(HUNDRED);
    }
    // Of an expectation of nothing everything is too much.
    Some(variance(spent_nanos, expected_nanos).map_or(0, |over| (HUNDRED - over).max(0)))
}

/// What is expected to be spent of a limit between the start of its period and `at_ns`.
#[must_use]
pub fn expected(limit_nanos: i64, (start_ns, end_ns): (i64, i64), at_ns: i64) -> i128 {
    let (length, over) =
        (i128::from(end_ns) - i128::from(start_ns), i128::from(at_ns) - i128::from(start_ns));
    i128::from(limit_nanos) * over.clamp(0, length.max(0)) / length.max(1)
}

/// When the period of a limit began and ends that has `now_ns`; `None` is no end. A life begins with the account, also where its
/// usage before counts.
#[must_use]
pub fn term(account: &Account, limit: &Limit, now_ns: i64) -> (i64, Option<i64>) {
    match limit.period {
        Period::Lifetime => (began_ns(account), account.spec.ends_ns),
        _ => {
            let (start_ns, end_ns) = limit.period.span(now_ns, account.spec.starts_ns);
            (start_ns, Some(end_ns))
        }
    }
}

/// When the first of the last `count` whole days of UTC began that the account was there for; today's beginning if there is none.
#[must_use]
pub fn first_day_ns(account: &Account, now_ns: i64, count: i64) -> i64 {
    let today_ns = now_ns - now_ns.rem_euclid(DAY_NS);
    let whole_ns = began_ns(account).saturating_add(DAY_NS - 1).div_euclid(DAY_NS) * DAY_NS;
    (today_ns - count * DAY_NS).max(whole_ns).min(today_ns)
}

fn began_ns(account: &Account) -> i64 {
    if account.spec.starts_ns > 0 { account.spec.starts_ns } else { account.created_ns }
}

impl Burn {
    #[must_use]
    pub fn of(facts: &Facts<'_>) -> Self {
        let Facts { now_ns, limit_nanos, start_ns, end_ns, spent_nanos, days, parts } = *facts;
        let period_ns = end_ns.map(|end_ns| (start_ns, end_ns));
        let planned_nanos = planned(limit_nanos, parts);
        let expected_day_nanos = period_ns.map(|(start_ns, end_ns)| {
            expected(planned_nanos, (start_ns, end_ns), start_ns.saturating_add(DAY_NS))
        });
        let expected_nanos = period_ns.map(|period_ns| expected(planned_nanos, period_ns, now_ns));
        let day_nanos = days.last().copied();
        let remaining_nanos = i128::from(limit_nanos) - spent_nanos;
        Self {
            day_nanos,
            week_nanos: average(days, 7),
            month_nanos: average(days, 30),
            expected_day_nanos,
            day_variance: day_nanos
                .zip(expected_day_nanos)
                .and_then(|(day, expected)| variance(day, expected)),
            expected_nanos,
            variance: expected_nanos.and_then(|expected| variance(spent_nanos, expected)),
            health: expected_nanos.and_then(|expected| health(spent_nanos, expected)),
            remaining_nanos,
            remaining_percent: (limit_nanos > 0).then(|| remaining_nanos * HUNDRED / i128::from(limit_nanos)),
            forecast: average(days, days.len()).map(|day_nanos| forecast(facts, day_nanos)),
        }
    }
}

/// Of the last `count` days, or of all if they are fewer.
fn average(days: &[i128], count: usize) -> Option<i128> {
    let last = &days[days.len().saturating_sub(count)..];
    Some(last.iter().sum::<i128>().div_euclid(i128::try_from(last.len()).ok().filter(|count| *count > 0)?))
}

fn forecast(facts: &Facts<'_>, day_nanos: i128) -> Forecast {
    let Facts { now_ns, limit_nanos, end_ns, spent_nanos, days, parts, .. } = *facts;
    let remaining_nanos = i128::from(limit_nanos) - spent_nanos;
    let until = |days: f64| before(now_ns, days, end_ns);
    let spread = Spread::of(days);
    let (mut earliest_ns, mut latest_ns) = (None, None);
    if let (Some(spread), 1..) = (&spread, remaining_nanos) {
        let gone = |z: f64| gone(now_ns, remaining_nanos, parts, |left| spread.reaches(float(left), z));
        (earliest_ns, latest_ns) = (gone(Z).and_then(until), gone(-Z).and_then(until));
    }
    let left_ns = end_ns.map(|end_ns| i128::from(end_ns - now_ns).max(0));
    let final_nanos =
        left_ns.map(|left_ns| spent_nanos + (day_nanos * left_ns).div_euclid(i128::from(DAY_NS)));
    let final_range_nanos = spread.zip(left_ns).map(|(spread, left_ns)| {
        let days = float(left_ns) / float(i128::from(DAY_NS));
        let at = |z: f64| spent_nanos + whole(spread.spent(days, z));
        (at(-Z).max(spent_nanos), at(Z))
    });
    let depletion_ns = depletion(now_ns, remaining_nanos, day_nanos, (end_ns, parts));
    let limit = i128::from(planned(limit_nanos, parts));
    let soon =
        depletion_ns.is_some_and(|at_ns| i128::from(at_ns - now_ns) < CRITICAL_DAYS * i128::from(DAY_NS));
    let risk = if remaining_nanos <= 0 || soon {
        Risk::Critical
    } else if depletion_ns.is_some() || final_nanos.is_some_and(|nanos| nanos > limit) {
        Risk::High
    } else if earliest_ns.is_some() || final_range_nanos.is_some_and(|(_, most)| most > limit) {
        Risk::Medium
    } else {
        Risk::Low
    };
    Forecast {
        days: days.len(),
        day_nanos,
        depletion_ns,
        earliest_ns,
        latest_ns,
        final_nanos,
        final_range_nanos,
        risk,
    }
}

/// How days differ: what `d` days to come cost is their average times `d`, give or take z·s·√(d + d²/n), since the days
/// differ and the average of n days is not known better.
struct Spread {
    mean: f64,
    deviation: f64,
    count: f64,
}

impl Spread {
    /// `None` of too few days.
    fn of(days: &[i128]) -> Option<Self> {
        if days.len() < INTERVAL_DAYS_MIN {
            return None;
        }
        let count = days.iter().map(|_| 1.0).sum::<f64>();
        let mean = float(days.iter().sum()) / count;
        let squares: f64 = days.iter().map(|day| (float(*day) - mean).powi(2)).sum();
        Some(Self { mean, deviation: (squares / (count - 1.0)).sqrt(), count })
    }

    fn spent(&self, days: f64, z: f64) -> f64 {
        self.mean * days + z * self.deviation * (days + days * days / self.count).sqrt()
    }

    /// After how many days that is `nanos`; `None` if not before the horizon. It is less before one day and more after it, whatever
    /// `z` is, so halving finds it.
    fn reaches(&self, nanos: f64, z: f64) -> Option<f64> {
        let (mut low, mut high) = (0.0, HORIZON_DAYS);
        if self.spent(high, z) < nanos {
            return None;
        }
        for _ in 0..64 {
            let middle = f64::midpoint(low, high);
            if self.spent(middle, z) < nanos {
                low = middle;
            } else {
                high = middle;
            }
        }
        Some(high)
    }
}

/// When what is left, and what comes before it is spent, will be spent at so much a day: at once if nothing is left, and `None` if that
/// is not before `end_ns`.
#[must_use]
pub fn depletion(
    now_ns: i64,
    remaining_nanos: i128,
    day_nanos: i128,
    (end_ns, parts): (Option<i64>, &[Part]),
) -> Option<i64> {
    let days = match remaining_nanos {
        ..=0 => 0.0,
        _ if day_nanos <= 0 => return None,
        _ => gone(now_ns, remaining_nanos, parts, |left| Some(float(left) / float(day_nanos)))?,
    };
    before(now_ns, days, end_ns)
}

/// After how many days what is left is spent, where `reach` says after how many so much is. A part that comes before that adds to it.
fn gone(
    now_ns: i64,
    remaining_nanos: i128,
    parts: &[Part],
    reach: impl Fn(i128) -> Option<f64>,
) -> Option<f64> {
    let mut left = remaining_nanos;
    for part in parts {
        let due = float(i128::from(part.due_ns) - i128::from(now_ns)) / float(i128::from(DAY_NS));
        if let Some(days) = reach(left).filter(|days| *days < due) {
            return Some(days);
        }
        left += i128::from(part.nanos);
    }
    reach(left)
}

fn before(now_ns: i64, days: f64, end_ns: Option<i64>) -> Option<i64> {
    after(now_ns, days).filter(|at_ns| end_ns.is_none_or(|end_ns| *at_ns < end_ns))
}

/// `None` beyond the horizon.
fn after(now_ns: i64, days: f64) -> Option<i64> {
    if days > HORIZON_DAYS {
        return None;
    }
    now_ns.checked_add(i64::try_from(whole(days * float(i128::from(DAY_NS)))).ok()?)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "of an interval the first 15 digits are more than anybody knows"
)]
fn float(value: i128) -> f64 {
    value as f64
}

#[expect(clippy::cast_possible_truncation, reason = "`as` saturates")]
fn whole(value: f64) -> i128 {
    value.floor() as i128
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOLLAR: i128 = 1_000_000_000;

    fn facts(days: &[i128]) -> Facts<'_> {
        Facts {
            now_ns: 10 * DAY_NS,
            limit_nanos: 3_000_000_000_000,
            start_ns: 0,
            end_ns: Some(30 * DAY_NS),
            spent_nanos: days.iter().sum(),
            days,
            parts: &[],
        }
    }

    fn dollars(days: &[i128]) -> Vec<i128> {
        days.iter().map(|day| day * DOLLAR).collect()
    }

    /// docs/budgets.md, "Burn rate", has these figures.
    #[test]
    fn the_example_of_the_documentation_is_worked_out() {
        let days = dollars(&[120, 130, 140, 110, 150, 130, 120, 140, 130, 130]);
        let burn = Burn::of(&facts(&days));
        assert_eq!(burn.day_nanos, Some(130 * DOLLAR));
        assert_eq!(burn.week_nanos, Some(130 * DOLLAR));
        assert_eq!(burn.month_nanos, Some(130 * DOLLAR));
        assert_eq!((burn.expected_day_nanos, burn.expected_nanos), (Some(100 * DOLLAR), Some(1000 * DOLLAR)));
        assert_eq!((burn.variance, burn.health), (Some(30 * HUNDRED / 100), Some(70 * HUNDRED / 100)));
        assert_eq!((status_name(burn.variance), health_name(burn.health)), ("OVERSPENDING", "CONCERN"));
        assert_eq!((burn.remaining_nanos, burn.remaining_percent), (1700 * DOLLAR, Some(56_666_666_666)));
        let forecast = burn.forecast.unwrap();
        assert_eq!(forecast.final_nanos, Some((1300 + 20 * 130) * DOLLAR));
        let (least, most) = forecast.final_range_nanos.unwrap();
        assert_eq!((least / DOLLAR, most / DOLLAR), (3724, 4075));
        let days =
            |at_ns: Option<i64>| float(i128::from(at_ns.unwrap() - 10 * DAY_NS)) / float(i128::from(DAY_NS));
        let rounded = [forecast.earliest_ns, forecast.depletion_ns, forecast.latest_ns]
            .map(|at| format!("{:.2}", days(at)));
        assert_eq!(rounded, ["12.17", "13.08", "14.09"]);
        assert_eq!(forecast.risk, Risk::High);
    }

    #[test]
    fn spending_less_than_expected_is_healthy_and_nothing_spent_is_never_gone() {
        let days = dollars(&[10, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let burn = Burn::of(&facts(&days));
        assert_eq!((burn.health, status_name(burn.variance)), (Some(HUNDRED), "UNDERSPENDING"));
        let nothing = vec![0; 10];
        let burn = Burn::of(&facts(&nothing));
        assert_eq!((burn.health, burn.variance), (Some(HUNDRED), Some(-HUNDRED)));
        let forecast = burn.forecast.unwrap();
        assert_eq!((forecast.depletion_ns, forecast.earliest_ns, forecast.latest_ns), (None, None, None));
        assert_eq!((forecast.final_nanos, forecast.risk), (Some(0), Risk::Low));
    }

    /// docs/budgets.md, "Burn rate", has these figures.
    #[test]
    fn parts_that_come_before_the_rest_is_spent_are_spent_too() {
        // 600 for 180 days in six parts, of which three are there on the 75th day.
        let parts = [90, 120, 150].map(|day| Part { due_ns: day * DAY_NS, nanos: 100_000_000_000 });
        let of = |day_nanos: i128, spent: i128| {
            let days = vec![day_nanos; 10];
            Burn::of(&Facts {
                now_ns: 75 * DAY_NS,
                limit_nanos: 300_000_000_000,
                end_ns: Some(180 * DAY_NS),
                spent_nanos: spent * DOLLAR,
                parts: &parts,
                ..facts(&days)
            })
        };
        let even = of(10 * DOLLAR / 3, 250);
        assert_eq!(
            (even.expected_nanos, even.variance, even.health),
            (Some(250 * DOLLAR), Some(0), Some(HUNDRED))
        );
        assert_eq!((even.remaining_nanos, even.expected_day_nanos), (50 * DOLLAR, Some(600 * DOLLAR / 180)));
        let forecast = even.forecast.unwrap();
        assert_eq!(
            (forecast.depletion_ns, forecast.risk),
            (None, Risk::Low),
            "each part lasts until the next"
        );
        // 50 are gone after 12.5 days, before the 90th.
        let forecast = of(4 * DOLLAR, 250).forecast.unwrap();
        let at = |days: i64| Some(75 * DAY_NS + days * DAY_NS / 10);
        assert_eq!((forecast.depletion_ns, forecast.risk), (at(125), Risk::High));
        assert!(forecast.earliest_ns <= at(126) && forecast.latest_ns <= at(126), "days that do not differ");
        // 90 last until the 90th day, 100 more until the 120th, and another 100 not until the 150th.
        let forecast = of(4 * DOLLAR, 210).forecast.unwrap();
        assert_eq!((forecast.depletion_ns, forecast.final_nanos), (at(725), Some((210 + 420) * DOLLAR)));
        assert_eq!(of(DOLLAR, 300).forecast.unwrap().depletion_ns, at(0), "what is spent is spent");
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        let days = dollars(&[100; 6]);
        let no_end = Facts { end_ns: None, ..facts(&days) };
        let burn = Burn::of(&no_end);
        assert_eq!((burn.expected_nanos, burn.health, burn.variance), (None, None, None));
        assert_eq!((health_name(burn.health), status_name(burn.variance)), ("UNKNOWN", "UNKNOWN"));
        let forecast = burn.forecast.unwrap();
        assert_eq!((forecast.earliest_ns, forecast.final_nanos), (None, None), "six days have no interval");
        assert_eq!(forecast.depletion_ns, Some(34 * DAY_NS), "2400 at 100 a day, from day 10");
        let burn = Burn::of(&Facts { days: &[], ..facts(&days) });
        assert_eq!((burn.day_nanos, burn.week_nanos, burn.forecast), (None, None, None));
        let none = Burn::of(&Facts { limit_nanos: 0, ..facts(&days) });
        assert_eq!((none.remaining_percent, none.variance, none.health), (None, None, Some(0)));
    }

    #[test]
    fn a_limit_that_lasts_for_its_period_is_not_depleted_in_it_and_one_that_is_spent_is_at_once() {
        let days = dollars(&[99, 101, 99, 101, 99, 101, 99, 101, 99, 101]);
        let lasts = Burn::of(&facts(&days)).forecast.unwrap();
        assert_eq!((lasts.depletion_ns, lasts.final_nanos), (None, Some(3000 * DOLLAR)));
        assert_eq!(lasts.risk, Risk::Medium, "it may be gone a little earlier");
        let spent = Burn::of(&Facts { limit_nanos: 1, ..facts(&days) }).forecast.unwrap();
        assert_eq!((spent.depletion_ns, spent.risk), (Some(10 * DAY_NS), Risk::Critical));
    }

    #[test]
    fn averages_are_of_the_last_days() {
        let days: Vec<i128> = (0..40).collect();
        assert_eq!((average(&days, 7), average(&days, 30)), (Some(36), Some(24)));
        assert_eq!(average(&[-1, 0], 7), Some(-1), "rounded down, also what late data took back");
    }
}
