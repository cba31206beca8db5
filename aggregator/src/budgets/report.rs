//! What is reported of a job by those who ran it: what it cost by their own books, here and elsewhere. It is compared with what the ledger
//! charged, and charges nothing. Pure.

use serde::{Deserialize, Serialize};

use super::hold::Subject;

/// What was reported, and what the ledger says of the same job. Amounts in nano-dollars; what is not known is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub cluster: String,
    pub job: String,
    /// When it ended, by the report.
    pub ended_ns: Option<i64>,
    pub reported_nanos: Option<i64>,
    /// Of that, on machines of one's own and in a cloud.
    pub local_nanos: Option<i64>,
    pub aws_nanos: Option<i64>,
    /// What its hold said that it may cost, and what it was charged.
    pub estimated_nanos: Option<i64>,
    pub charged_nanos: Option<i64>,
    /// Of the program that reported it.
    pub version: String,
}

/// A report, and the hold that it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// The hold of its job, whether it is to be settled or not.
    pub hold: Option<[u8; 16]>,
    pub settles: bool,
    /// Its job, if the hold was not bound to it before.
    pub subject: Option<Subject>,
    pub report: Report,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// Its job has no hold that could be settled.
    NoHold = 0,
    Settled = 1,
    /// The hold has ended otherwise, or is another job's.
    Refused = 2,
}

impl Outcome {
    /// By its number in the store.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        [Self::NoHold, Self::Settled, Self::Refused].into_iter().find(|of| i64::from(*of as u8) == number)
    }
}

/// 1 less the part by which a charge differs from its estimate, in billionths and not below 0; `None` where nothing was measured or
/// estimated.
#[must_use]
pub fn accuracy(estimated_nanos: Option<i64>, charged_nanos: Option<i64>) -> Option<i128> {
    let estimated = i128::from(estimated_nanos.filter(|nanos| *nanos > 0)?);
    let charged = i128::from(charged_nanos.filter(|nanos| *nanos > 0)?);
    let off = (charged - estimated).abs() * 1_000_000_000 / estimated;
    Some((1_000_000_000 - off).max(0))
}

/// A job as Slurm and its scripts name it: `123`, a step `123.batch`, a task of an array `123_4`, tasks `123_[1-9]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobNames {
    /// Ids under which a hold may be its own, those that are numbers first: under them the ledger charges.
    pub own: Vec<String>,
    /// The array that it is one task of: a hold of that is for all tasks.
    pub array: Option<String>,
    /// All tasks are meant.
    pub whole: bool,
}

impl JobNames {
    /// By all that was said of it; empty ones are nothing.
    #[must_use]
    pub fn of(said: &[&str]) -> Self {
        let mut names = Self::default();
        for text in said {
            let job = text.trim().split('.').next().unwrap_or_default();
            match job.split_once('_') {
                Some((array, tasks)) if tasks.starts_with('[') => {
                    names.whole = true;
                    names.own.push(array.to_owned());
                }
                Some((array, _)) => {
                    names.array = Some(array.to_owned());
                    names.own.push(job.to_owned());
                }
                None => names.own.push(job.to_owned()),
            }
        }
        names.own.retain(|name| !name.is_empty());
        names.own.sort_by_key(|name| !name.bytes().all(|byte| byte.is_ascii_digit()));
        names.own.dedup();
        // A task's own number may be that of its array: then the hold is still for all of them.
        names.array = names.array.filter(|array| !array.is_empty());
        if let Some(array) = &names.array {
            names.own.retain(|name| name != array);
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_known_by_all_forms_that_slurm_has_and_a_task_is_not_its_array() {
        let names = |own: &[&str], array: Option<&str>| JobNames {
            own: own.iter().map(|name| (*name).to_owned()).collect(),
            array: array.map(str::to_owned),
            whole: false,
        };
        for (said, expected) in [
            (&["7"][..], names(&["7"], None)),
            (&[" 7.batch", "7"], names(&["7"], None)),
            (&["7_[1-9]"], JobNames { whole: true, ..names(&["7"], None) }),
            (&["7_4", "12"], names(&["12", "7_4"], Some("7"))),
            // The last task that starts has the array's own number.
            (&["7_9", "7"], names(&["7_9"], Some("7"))),
            (&["7+1"], names(&["7+1"], None)),
            (&["", "."], names(&[], None)),
        ] {
            assert_eq!(JobNames::of(said), expected, "{said:?}");
        }
    }

    #[test]
    fn an_estimate_is_as_good_as_it_is_near_and_nothing_measured_says_nothing() {
        for (estimated, charged, expected) in [
            (Some(10), Some(10), Some(1_000_000_000)),
            (Some(10), Some(4), Some(400_000_000)),
            (Some(10), Some(12), Some(800_000_000)),
            (Some(10), Some(100), Some(0)),
            (Some(10), Some(0), None),
            (Some(0), Some(1), None),
            (None, Some(1), None),
        ] {
            assert_eq!(accuracy(estimated, charged), expected, "{estimated:?} {charged:?}");
        }
    }
}
