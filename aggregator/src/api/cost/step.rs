//! The `step` parameter: a window in hours, days, weeks or months of UTC. Pure.

use tonnage_proto::limits::{DAY_NS, HOUR_NS};

use crate::api::error::{ApiError, quoted};
use crate::api::window::{Window, first_of_month, monday};

/// In one answer; each is a query of its own.
const STEPS_MAX: usize = 1_000;
/// In one answer, over all steps.
const ROWS_MAX: usize = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Hour,
    Day,
    Week,
    Month,
}

impl Step {
    /// The value of a `step`.
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        match text {
            "1h" => Ok(Self::Hour),
            "1d" => Ok(Self::Day),
            "1w" => Ok(Self::Week),
            "1mo" => Ok(Self::Month),
            _ => Err(ApiError::invalid(
                "step",
                format!("step {:?} is not known; use 1h, 1d, 1w or 1mo", quoted(text)),
            )),
        }
    }

    /// The parts of a window, which begin with hours, days, Mondays or months; the first and the last may be shorter.
    ///
    /// # Errors
    /// If there are too many of `limit` rows.
    pub(super) fn cut(self, (start_ns, end_ns): Window, limit: usize) -> Result<Vec<Window>, ApiError> {
        let mut found = Vec::new();
        let mut at = start_ns;
        while at < end_ns {
            let next = self.next(at).min(end_ns);
            found.push((at, next));
            at = next;
            if found.len() > STEPS_MAX {
                let message = format!(
                    "step cuts the window into more than {STEPS_MAX}; take a longer step or a shorter window"
                );
                return Err(ApiError::invalid("step", message));
            }
        }
        if found.len() * limit > ROWS_MAX {
            let message = format!(
                "step makes {} parts of up to {limit} rows; with a limit of {} they are at most {ROWS_MAX} rows",
                found.len(),
                ROWS_MAX / found.len().max(1)
            );
            return Err(ApiError::invalid("step", message));
        }
        Ok(found)
    }

    /// Where the next part begins.
    fn next(self, at_ns: i64) -> i64 {
        let day = at_ns - at_ns.rem_euclid(DAY_NS);
        match self {
            Self::Hour => at_ns - at_ns.rem_euclid(HOUR_NS) + HOUR_NS,
            Self::Day => day + DAY_NS,
            Self::Week => monday(day) + 7 * DAY_NS,
            Self::Month => first_of_month(first_of_month(day) + 31 * DAY_NS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::window;

    fn cut(step: &str, from: &str, to: &str) -> Vec<String> {
        let [start, end] = [from, to].map(|text| window::time(text).unwrap());
        let parts = Step::parse(step).unwrap().cut((start, end), 1).unwrap();
        assert_eq!((parts[0].0, parts[parts.len() - 1].1), (start, end));
        assert!(parts.windows(2).all(|pair| pair[0].1 == pair[1].0));
        let show = |ns: i64| jiff::Timestamp::from_nanosecond(ns.into()).unwrap().to_string();
        parts[1..].iter().map(|(start, _)| show(*start)).collect()
    }

    #[test]
    fn steps_begin_with_hours_days_mondays_and_months() {
        let hours = cut("1h", "2026-02-28T22:15:00Z", "2026-03-01T00:30:00Z");
        assert_eq!(hours, ["2026-02-28T23:00:00Z", "2026-03-01T00:00:00Z"]);
        assert_eq!(cut("1d", "2026-02-27T22:15:00Z", "2026-03-01T00:00:00Z"), ["2026-02-28T00:00:00Z"]);
        let weeks = cut("1w", "2026-02-28T00:00:00Z", "2026-03-10T00:00:00Z");
        assert_eq!(weeks, ["2026-03-02T00:00:00Z", "2026-03-09T00:00:00Z"]);
        let months = cut("1mo", "2026-01-31T00:00:00Z", "2026-04-30T00:00:00Z");
        assert_eq!(months, ["2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"]);
    }

    #[test]
    fn too_many_steps_or_rows_are_refused() {
        for (step, hours, limit, said) in [
            (Step::Hour, 1_001, 1, "more than 1000"),
            (Step::Hour, 1_000, 101, "1000 parts of up to 101 rows; with a limit of 100"),
        ] {
            let error = step.cut((0, hours * HOUR_NS), limit).unwrap_err().answer("x").error;
            assert!(error.message.contains(said), "{}", error.message);
        }
        assert!(Step::Hour.cut((0, 1_000 * HOUR_NS), 100).is_ok());
        assert!(Step::parse("2h").is_err());
    }
}
