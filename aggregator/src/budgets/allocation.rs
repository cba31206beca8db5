//! Budgets that come in parts: so much at each date of a calendar, until all of it is there.
//!
//! What a schedule has allocated by some time is a function of the schedule, of what was decided about it and of that time, and is
//! kept nowhere. So no part is missed and none comes twice, however long nothing ran; nobody has to run for it at all.

use jiff::civil::Date;
use jiff::{Span, ToSpan as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tonnage_proto::limits::slot_start;

use super::period::zone;
use super::{BudgetError, invalid};

/// Of one account, cancelled ones with them.
pub const SCHEDULES_MAX: usize = 16;
/// Parts that one schedule comes in; daily, ten years.
pub const PARTS_MAX: i64 = 4_000;
/// Dates of one schedule, those in pauses with them.
const DATES_MAX: i64 = 20_000;
/// Decisions about one schedule.
pub const DECISIONS_MAX: usize = 4_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Frequency {
    Daily,
    Weekly,
    Monthly,
    Quarterly,
    Yearly,
}

/// Journalled as JSON. Of what it says only decisions are added to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// All parts together; the last one is what is left of it.
    pub total_nanos: i64,
    pub part_nanos: i64,
    pub frequency: Frequency,
    /// IANA's name; parts come at midnight there.
    pub zone: String,
    /// Of the first part; may lie in the past, and then is due at once.
    pub first: Date,
    /// No part comes on that day or later.
    #[serde(default)]
    pub end: Option<Date>,
    /// Parts come by themselves; else when somebody says so after their date.
    pub automatic: bool,
    #[serde(default)]
    pub decisions: Vec<Decision>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub at_ns: i64,
    pub step: Step,
}

/// What somebody decides about a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// From now on dates bring nothing; what they would have brought is not lost to the total.
    Pause,
    Resume,
    /// No part any more, for good.
    Cancel,
    /// All parts whose date is over, of a schedule that is not automatic.
    Allocate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Active,
    Paused,
    /// All of it is there.
    Completed,
    Cancelled,
}

impl Standing {
    /// By their numbers.
    pub const NAMES: [&'static str; 4] = ["active", "paused", "completed", "cancelled"];

    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// A part that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its date.
    pub due_ns: i64,
    pub nanos: i64,
}

impl Schedule {
    /// # Errors
    /// At the first field that is wrong by itself.
    pub fn check(&self) -> Result<(), BudgetError> {
        let Self { total_nanos, part_nanos, .. } = *self;
        if part_nanos <= 0 {
            return Err(invalid("allocation_amount", "is not more than 0"));
        }
        if total_nanos < part_nanos {
            return Err(invalid("total_budget", "is less than one allocation_amount"));
        }
        if total_nanos / part_nanos >= PARTS_MAX {
            let reason = format!("comes in more than {PARTS_MAX} parts; make allocation_amount larger");
            return Err(invalid("total_budget", reason));
        }
        if zone(&self.zone).is_none() {
            let reason =
                format!("{:?} is no zone of the IANA database, such as Europe/Berlin or UTC", self.zone);
            return Err(invalid("zone", reason));
        }
        if !(1970..=2200).contains(&self.first.year()) {
            return Err(invalid("start_date", "is not in the years 1970 to 2200"));
        }
        if self.end.is_some_and(|end| end <= self.first) {
            return Err(invalid("end_date", "is not after start_date"));
        }
        Ok(())
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self, now_ns: i64) -> Standing {
        if self.allocated_nanos(now_ns) == self.total_nanos {
            return Standing::Completed;
        }
        let counts = |of: &&Decision| of.at_ns <= now_ns && of.step != Step::Allocate;
        let last = self.decisions.iter().rev().find(counts);
        match last.map(|decision| decision.step) {
            Some(Step::Cancel) => Standing::Cancelled,
            Some(Step::Pause) => Standing::Paused,
            _ => Standing::Active,
        }
    }

    /// What has come by then.
    #[must_use]
    pub fn allocated_nanos(&self, at_ns: i64) -> i64 {
        self.of_parts(self.parts(self.granted_until_ns(at_ns)))
    }

    /// How many parts that are; the last may be a smaller one.
    #[must_use]
    pub fn parts_come(&self, at_ns: i64) -> i64 {
        let (come, part) = (self.allocated_nanos(at_ns), self.part_nanos.max(1));
        come / part + i64::from(come % part > 0)
    }

    /// What is due and waits for somebody's word.
    #[must_use]
    pub fn due_nanos(&self, at_ns: i64) -> i64 {
        if self.standing(at_ns) == Standing::Cancelled {
            return 0;
        }
        self.of_parts(self.parts(at_ns)) - self.allocated_nanos(at_ns)
    }

    /// When the next part has its date, if there is one.
    #[must_use]
    pub fn next_ns(&self, now_ns: i64) -> Option<i64> {
        let left = self.of_parts(self.parts(now_ns)) < self.total_nanos;
        let next = self.dates_until(now_ns);
        (left && self.standing(now_ns) == Standing::Active).then(|| self.date_ns(next)).flatten()
    }

    /// The parts that have come by then, oldest first.
    #[must_use]
    pub fn history(&self, at_ns: i64) -> Vec<Part> {
        let until_ns = self.granted_until_ns(at_ns);
        let mut parts = Vec::new();
        let mut left = self.total_nanos;
        for (from, to) in self.active(until_ns) {
            for number in from..to {
                let Some(due_ns) = self.date_ns(number).filter(|_| left > 0) else { return parts };
                let nanos = self.part_nanos.min(left);
                left -= nanos;
                parts.push(Part { due_ns, nanos });
            }
        }
        parts
    }

    /// The parts that come by themselves after `now_ns` and before `until_ns`, if nobody decides anything.
    #[must_use]
    pub fn coming(&self, now_ns: i64, until_ns: i64) -> Vec<Part> {
        let mut parts = Vec::new();
        if !self.automatic || self.standing(now_ns) != Standing::Active {
            return parts;
        }
        let mut left = self.total_nanos - self.allocated_nanos(now_ns);
        for number in self.dates_until(now_ns)..DATES_MAX {
            let due_ns = self.date_ns(number).filter(|due_ns| *due_ns < until_ns && left > 0);
            let Some(due_ns) = due_ns else { break };
            let nanos = self.part_nanos.min(left);
            left -= nanos;
            parts.push(Part { due_ns, nanos });
        }
        parts
    }

    /// Notes what is decided.
    ///
    /// # Errors
    /// If it does not fit; then nothing has changed.
    pub fn decide(&mut self, step: Step, now_ns: i64) -> Result<(), BudgetError> {
        let standing = self.standing(now_ns);
        let fits = match step {
            Step::Pause => standing == Standing::Active,
            Step::Resume => standing == Standing::Paused,
            Step::Cancel => matches!(standing, Standing::Active | Standing::Paused),
            Step::Allocate => self.due_nanos(now_ns) > 0,
        };
        if !fits {
            let what = match step {
                Step::Pause => "be paused",
                Step::Resume => "be resumed",
                Step::Cancel => "be cancelled",
                Step::Allocate => "be processed: no part of it is due",
            };
            return Err(BudgetError::Conflict(format!(
                "schedule: it is {} and cannot {what}",
                standing.name()
            )));
        }
        if self.decisions.len() >= DECISIONS_MAX {
            let text = format!(
                "schedule: {DECISIONS_MAX} decisions were taken about it; cancel it and make another"
            );
            return Err(BudgetError::Conflict(text));
        }
        self.decisions.push(Decision { at_ns: now_ns, step });
        Ok(())
    }

    /// Until when dates have brought their parts.
    fn granted_until_ns(&self, at_ns: i64) -> i64 {
        if self.automatic {
            return at_ns;
        }
        let granted = self.decisions.iter().rev().find(|of| of.at_ns <= at_ns && of.step == Step::Allocate);
        granted.map_or(i64::MIN, |decision| decision.at_ns)
    }

    fn of_parts(&self, parts: i64) -> i64 {
        self.part_nanos.saturating_mul(parts).min(self.total_nanos)
    }

    /// Dates until then that were not in a pause, nor behind the end.
    fn parts(&self, at_ns: i64) -> i64 {
        self.active(at_ns).into_iter().map(|(from, to)| to - from).sum()
    }

    /// Numbers of dates until then on which the schedule went, half-open.
    fn active(&self, at_ns: i64) -> Vec<(i64, i64)> {
        let mut ranges = Vec::new();
        let mut since = Some(0);
        for decision in self.decisions.iter().filter(|decision| decision.at_ns <= at_ns) {
            match (decision.step, since) {
                (Step::Pause | Step::Cancel, Some(from)) => {
                    // A clock that was set back in between takes nothing away.
                    ranges.push((from, self.dates_until(decision.at_ns).max(from)));
                    since = None;
                }
                (Step::Resume, None) => since = Some(self.dates_until(decision.at_ns)),
                _ => {}
            }
        }
        ranges.extend(since.map(|from| (from, self.dates_until(at_ns).max(from))));
        ranges
    }

    /// How many dates are not after `at_ns`: found by halving, since they follow each other.
    fn dates_until(&self, at_ns: i64) -> i64 {
        let (mut low, mut high) = (0, DATES_MAX);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.date_ns(middle).is_some_and(|date_ns| date_ns <= at_ns) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The midnight of a date; `None` behind the end, and of a date or zone that there is not. Dates count from the first: the 31st
    /// of January, the 28th of February, the 31st of March.
    fn date_ns(&self, number: i64) -> Option<i64> {
        let span: Span = match self.frequency {
            Frequency::Daily => number.days(),
            Frequency::Weekly => (number * 7).days(),
            Frequency::Monthly => number.months(),
            Frequency::Quarterly => (number * 3).months(),
            Frequency::Yearly => number.years(),
        };
        let date = self.first.checked_add(span).ok().filter(|date| self.end.is_none_or(|end| *date < end))?;
        let at = date.to_zoned(zone(&self.zone)?).ok()?.timestamp().as_nanosecond();
        Some(slot_start(i64::try_from(at).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(text: &str) -> i64 {
        i64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    fn monthly(first: &str, automatic: bool) -> Schedule {
        Schedule {
            total_nanos: 600,
            part_nanos: 100,
            frequency: Frequency::Monthly,
            zone: "Europe/Berlin".into(),
            first: first.parse().unwrap(),
            end: None,
            automatic,
            decisions: Vec::new(),
        }
    }

    #[test]
    fn parts_come_at_midnight_of_their_zone_and_never_more_than_the_total() {
        let schedule = monthly("2026-01-31", true);
        let midnights = ["2026-01-30T23:00:00Z", "2026-02-27T23:00:00Z", "2026-03-30T22:00:00Z"].map(ns);
        for (at_ns, expected) in std::iter::zip(midnights, [100, 200, 300]) {
            assert_eq!(schedule.allocated_nanos(at_ns - 1), expected - 100);
            assert_eq!(schedule.allocated_nanos(at_ns), expected);
            assert_eq!(schedule.next_ns(at_ns - 1), Some(at_ns));
        }
        // Nothing ran for two years: each date counts once, and the last is the sixth.
        let later_ns = ns("2028-01-01T00:00:00Z");
        assert_eq!((schedule.allocated_nanos(later_ns), schedule.next_ns(later_ns)), (600, None));
        assert_eq!(schedule.standing(later_ns), Standing::Completed);
        let odd = Schedule { total_nanos: 250, ..schedule };
        let parts: Vec<i64> = odd.history(later_ns).iter().map(|part| part.nanos).collect();
        assert_eq!(parts, [100, 100, 50]);
        assert_eq!((odd.allocated_nanos(later_ns), odd.parts_come(later_ns)), (250, 3));
    }

    #[test]
    fn what_is_to_come_is_what_will_have_come() {
        let odd = Schedule { total_nanos: 250, ..monthly("2026-01-31", true) };
        let ends =
            ["2026-01-30T22:59:59Z", "2026-02-10T00:00:00Z", "2026-03-30T22:00:00Z", "2030-01-01T00:00:00Z"]
                .map(ns);
        for now_ns in ends {
            for until_ns in ends {
                let sum: i64 = odd.coming(now_ns, until_ns).iter().map(|part| part.nanos).sum();
                let more = odd.allocated_nanos(until_ns - 1) - odd.allocated_nanos(now_ns);
                assert_eq!(sum, more.max(0), "{now_ns} {until_ns}");
            }
        }
        let mut paused = odd.clone();
        paused.decide(Step::Pause, ns("2026-02-10T00:00:00Z")).unwrap();
        for of in [paused, Schedule { automatic: false, ..odd }] {
            assert_eq!(of.coming(ns("2026-02-10T00:00:00Z"), i64::MAX), [], "nobody knows when");
        }
    }

    #[test]
    fn every_frequency_has_its_dates() {
        for (frequency, second) in [
            (Frequency::Daily, "2026-03-29T22:00:00Z"),
            (Frequency::Weekly, "2026-04-04T22:00:00Z"),
            (Frequency::Monthly, "2026-04-28T22:00:00Z"),
            (Frequency::Quarterly, "2026-06-28T22:00:00Z"),
            (Frequency::Yearly, "2027-03-28T22:00:00Z"),
        ] {
            let schedule = Schedule { frequency, ..monthly("2026-03-29", true) };
            assert_eq!(schedule.next_ns(ns("2026-03-28T23:00:00Z")), Some(ns(second)), "{frequency:?}");
        }
    }

    #[test]
    fn dates_in_a_pause_bring_nothing_and_a_schedule_that_is_cancelled_never_does() {
        let mut schedule = monthly("2026-01-01", true);
        schedule.decide(Step::Pause, ns("2026-02-15T00:00:00Z")).unwrap();
        assert_eq!(schedule.allocated_nanos(ns("2026-04-15T00:00:00Z")), 200);
        assert_eq!(schedule.standing(ns("2026-04-15T00:00:00Z")), Standing::Paused);
        schedule.decide(Step::Resume, ns("2026-04-15T00:00:00Z")).unwrap();
        assert_eq!(schedule.allocated_nanos(ns("2026-05-15T00:00:00Z")), 300);
        assert_eq!(schedule.allocated_nanos(ns("2027-05-15T00:00:00Z")), 600, "no money is lost by a pause");
        schedule.decide(Step::Cancel, ns("2026-05-15T00:00:00Z")).unwrap();
        let later_ns = ns("2027-05-15T00:00:00Z");
        assert_eq!(
            (schedule.allocated_nanos(later_ns), schedule.standing(later_ns)),
            (300, Standing::Cancelled)
        );
        for step in [Step::Pause, Step::Resume, Step::Cancel, Step::Allocate] {
            let error = schedule.decide(step, later_ns).unwrap_err().to_string();
            assert!(error.starts_with("schedule: it is cancelled and cannot "), "{error}");
        }
        let due: Vec<i64> = schedule.history(later_ns).iter().map(|part| part.due_ns).collect();
        assert_eq!(due, ["2025-12-31T23:00:00Z", "2026-01-31T23:00:00Z", "2026-04-30T22:00:00Z"].map(ns));
    }

    #[test]
    fn a_clock_that_is_set_back_between_decisions_takes_nothing_away() {
        let mut schedule = monthly("2026-01-01", true);
        for (step, at) in [
            (Step::Pause, "2026-03-15T00:00:00Z"),
            (Step::Resume, "2026-06-15T00:00:00Z"),
            (Step::Pause, "2026-04-15T00:00:00Z"),
        ] {
            schedule.decisions.push(Decision { at_ns: ns(at), step });
        }
        assert_eq!(schedule.allocated_nanos(ns("2026-07-15T00:00:00Z")), 300);
        assert_eq!(schedule.history(ns("2026-07-15T00:00:00Z")).len(), 3);
    }

    #[test]
    fn by_hand_all_that_is_due_comes_at_once_and_once() {
        let mut schedule = monthly("2026-01-01", false);
        let now_ns = ns("2026-03-15T00:00:00Z");
        assert_eq!((schedule.allocated_nanos(now_ns), schedule.due_nanos(now_ns)), (0, 300));
        schedule.decide(Step::Allocate, now_ns).unwrap();
        assert_eq!((schedule.allocated_nanos(now_ns), schedule.due_nanos(now_ns)), (300, 0));
        assert!(schedule.decide(Step::Allocate, now_ns).is_err(), "nothing is due twice");
        let later_ns = ns("2026-04-15T00:00:00Z");
        assert_eq!((schedule.allocated_nanos(later_ns), schedule.due_nanos(later_ns)), (300, 100));
        assert_eq!(schedule.history(later_ns).len(), 3);
    }

    #[test]
    fn a_schedule_ends_before_its_end() {
        let schedule = Schedule { end: Some("2026-03-01".parse().unwrap()), ..monthly("2026-01-01", true) };
        let later_ns = ns("2027-01-01T00:00:00Z");
        assert_eq!((schedule.allocated_nanos(later_ns), schedule.next_ns(later_ns)), (200, None));
    }

    #[test]
    fn a_field_that_is_wrong_is_named() {
        let good = monthly("2026-01-01", true);
        assert_eq!(good.check(), Ok(()));
        for (schedule, field) in [
            (Schedule { part_nanos: 0, ..good.clone() }, "allocation_amount"),
            (Schedule { part_nanos: 601, ..good.clone() }, "total_budget"),
            (Schedule { total_nanos: i64::MAX, ..good.clone() }, "total_budget"),
            (Schedule { zone: "Mars/Base".into(), ..good.clone() }, "zone"),
            (Schedule { first: "1901-01-01".parse().unwrap(), ..good.clone() }, "start_date"),
            (Schedule { end: Some("2026-01-01".parse().unwrap()), ..good }, "end_date"),
        ] {
            let error = schedule.check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: ")), "{error}");
        }
    }
}
