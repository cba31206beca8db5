//! Over which time a limit goes: a day, week, month, quarter or year of some zone's calendar, the last so many days, or an
//! account's whole life. Half-open, on slots' edges.

use std::sync::LazyLock;

use jiff::civil::Date;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tonnage_proto::limits::{DAY_NS, SLOT_NS, slot_start};

use super::{BudgetError, invalid};

/// Every month has it.
const START_DAY_MAX: i8 = 28;
const ROLLING_DAYS_MAX: u32 = 3660;

/// The zones of this program's version, and not the machine's: all that answer for one ledger have the same days.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Period {
    Calendar {
        unit: Unit,
        /// IANA's name.
        #[serde(default = "utc")]
        zone: String,
        /// At which day of the month a month begins, and a quarter and a year.
        #[serde(default = "first")]
        month_start_day: i8,
    },
    /// Up to the end of the slot of now.
    Rolling { days: u32 },
    /// Since the account began.
    Lifetime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Day,
    /// Begins on Monday.
    Week,
    Month,
    Quarter,
    Year,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn first() -> i8 {
    1
}

impl Period {
    /// # Errors
    /// If there is no such zone, day or length.
    pub fn check(&self) -> Result<(), BudgetError> {
        match self {
            Self::Calendar { zone: name, month_start_day, .. } => {
                if zone(name).is_none() {
                    let reason =
                        format!("{name:?} is no zone of the IANA database, such as Europe/Berlin or UTC");
                    return Err(invalid("limits.period.zone", reason));
                }
                if !(1..=START_DAY_MAX).contains(month_start_day) {
                    let reason =
                        format!("{month_start_day} is not 1 to {START_DAY_MAX}, which every month has");
                    return Err(invalid("limits.period.month_start_day", reason));
                }
                Ok(())
            }
            Self::Rolling { days } if !(1..=ROLLING_DAYS_MAX).contains(days) => {
                Err(invalid("limits.period.days", format!("{days} is not 1 to {ROLLING_DAYS_MAX}")))
            }
            Self::Rolling { .. } | Self::Lifetime => Ok(()),
        }
    }

    /// From when to when it goes that has `now_ns`; `began_ns` is when the account did.
    #[must_use]
    pub fn span(&self, now_ns: i64, began_ns: i64) -> (i64, i64) {
        match self {
            Self::Calendar { unit, zone, month_start_day } => {
                calendar(*unit, zone, *month_start_day, now_ns).unwrap_or((i64::MIN, i64::MAX))
            }
            Self::Rolling { days } => {
                let end_ns = slot_start(now_ns) + SLOT_NS;
                (end_ns - i64::from(*days) * DAY_NS, end_ns)
            }
            Self::Lifetime => (slot_start(began_ns), i64::MAX),
        }
    }
}

pub(super) fn zone(name: &str) -> Option<TimeZone> {
    ZONES.get(name).ok()
}

/// The date that a moment has in a zone.
#[must_use]
pub fn date(at_ns: i64, name: &str) -> Option<Date> {
    Some(Timestamp::from_nanosecond(i128::from(at_ns)).ok()?.to_zoned(zone(name)?).date())
}

/// `None` if it is out of all calendars, or the zone is gone from a later version: then all time is one period, which
/// lets nobody spend more.
fn calendar(unit: Unit, name: &str, month_start_day: i8, now_ns: i64) -> Option<(i64, i64)> {
    let zone = zone(name)?;
    let today = Timestamp::from_nanosecond(i128::from(now_ns)).ok()?.to_zoned(zone.clone()).date();
    let (first, next) = match unit {
        Unit::Day => (today, today.checked_add(1.day()).ok()?),
        Unit::Week => {
            let monday = today.checked_sub(i64::from(today.weekday().to_monday_zero_offset()).days()).ok()?;
            (monday, monday.checked_add(7.days()).ok()?)
        }
        Unit::Month | Unit::Quarter | Unit::Year => {
            let mut first = Date::new(today.year(), today.month(), month_start_day).ok()?;
            if first > today {
                first = first.checked_sub(1.month()).ok()?;
            }
            let months = match unit {
                Unit::Quarter => 3,
                Unit::Year => 12,
                _ => 1,
            };
            let first = first.checked_sub((i64::from(first.month() - 1) % months).months()).ok()?;
            (first, first.checked_add(months.months()).ok()?)
        }
    };
    let midnight = |date: Date| {
        // Where there is no midnight the day begins with the first moment that there is.
        let at = date.to_zoned(zone.clone()).ok()?.timestamp().as_nanosecond();
        Some(slot_start(i64::try_from(at).ok()?))
    };
    Some((midnight(first)?, midnight(next)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(text: &str) -> i64 {
        i64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    fn month(unit: Unit, zone: &str, month_start_day: i8) -> Period {
        Period::Calendar { unit, zone: zone.into(), month_start_day }
    }

    #[test]
    fn a_period_goes_from_midnight_to_midnight_of_its_zone_through_changes_of_the_clock() {
        for (period, now, from, to) in [
            (
                month(Unit::Day, "UTC", 1),
                "2026-03-10T23:59:59Z",
                "2026-03-10T00:00:00Z",
                "2026-03-11T00:00:00Z",
            ),
            // 23 and 25 hours.
            (
                month(Unit::Day, "Europe/Berlin", 1),
                "2026-03-29T10:00:00Z",
                "2026-03-28T23:00:00Z",
                "2026-03-29T22:00:00Z",
            ),
            (
                month(Unit::Day, "Europe/Berlin", 1),
                "2026-10-25T10:00:00Z",
                "2026-10-24T22:00:00Z",
                "2026-10-25T23:00:00Z",
            ),
            // A day without a midnight.
            (
                month(Unit::Day, "Africa/Cairo", 1),
                "2026-04-24T10:00:00Z",
                "2026-04-23T22:00:00Z",
                "2026-04-24T21:00:00Z",
            ),
            (
                month(Unit::Week, "Asia/Kathmandu", 1),
                "2026-11-26T12:00:00Z",
                "2026-11-22T18:15:00Z",
                "2026-11-29T18:15:00Z",
            ),
            (
                month(Unit::Month, "UTC", 1),
                "2026-02-28T12:00:00Z",
                "2026-02-01T00:00:00Z",
                "2026-03-01T00:00:00Z",
            ),
            (
                month(Unit::Month, "UTC", 15),
                "2026-01-14T12:00:00Z",
                "2025-12-15T00:00:00Z",
                "2026-01-15T00:00:00Z",
            ),
            (
                month(Unit::Month, "UTC", 15),
                "2026-01-15T00:00:00Z",
                "2026-01-15T00:00:00Z",
                "2026-02-15T00:00:00Z",
            ),
            (
                month(Unit::Quarter, "UTC", 1),
                "2026-06-30T12:00:00Z",
                "2026-04-01T00:00:00Z",
                "2026-07-01T00:00:00Z",
            ),
            (
                month(Unit::Quarter, "UTC", 10),
                "2026-04-09T12:00:00Z",
                "2026-01-10T00:00:00Z",
                "2026-04-10T00:00:00Z",
            ),
            (
                month(Unit::Year, "America/New_York", 1),
                "2026-01-01T04:00:00Z",
                "2025-01-01T05:00:00Z",
                "2026-01-01T05:00:00Z",
            ),
        ] {
            assert_eq!(period.span(ns(now), 0), (ns(from), ns(to)), "{period:?} at {now}");
        }
    }

    #[test]
    fn periods_of_every_zone_follow_each_other_without_a_gap() {
        let mut zones = 0;
        for name in ZONES.available() {
            let name = name.to_string();
            zones += 1;
            for unit in [Unit::Day, Unit::Month] {
                let period = month(unit, &name, 1);
                let mut at_ns = ns("2026-01-15T12:00:00Z");
                while at_ns < ns("2027-01-15T12:00:00Z") {
                    let (from_ns, to_ns) = period.span(at_ns, 0);
                    assert!(from_ns <= at_ns && at_ns < to_ns, "{name} {at_ns}");
                    assert_eq!(period.span(to_ns, 0).0, to_ns, "{name}");
                    at_ns = to_ns;
                }
            }
        }
        assert!(zones > 400, "{zones}");
    }

    #[test]
    fn rolling_days_end_with_the_slot_and_a_life_has_no_end() {
        let now_ns = ns("2026-03-10T12:07:00Z");
        let rolling = Period::Rolling { days: 30 };
        assert_eq!(rolling.span(now_ns, 0), (ns("2026-02-08T12:15:00Z"), ns("2026-03-10T12:15:00Z")));
        assert_eq!(Period::Lifetime.span(now_ns, 7), (0, i64::MAX));
    }

    #[test]
    fn what_is_no_period_is_refused_with_its_field() {
        for (period, field) in [
            (month(Unit::Month, "Mars/Base", 1), "limits.period.zone"),
            (month(Unit::Month, "UTC", 29), "limits.period.month_start_day"),
            (month(Unit::Month, "UTC", 0), "limits.period.month_start_day"),
            (Period::Rolling { days: 0 }, "limits.period.days"),
        ] {
            assert!(period.check().unwrap_err().to_string().starts_with(field), "{period:?}");
        }
        assert!(month(Unit::Month, "Europe/Berlin", 28).check().is_ok());
    }
}
