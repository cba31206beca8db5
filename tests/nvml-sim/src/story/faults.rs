//! The faults of a scenario in time.

use crate::Refusal;
use crate::scenario::{Faults, Nonsense};

/// Wall time from (inclusive) and to (exclusive).
type Span = (i64, i64);

/// See the module.
#[derive(Debug)]
pub(super) struct FaultsInTime {
    hang: Vec<(Span, Vec<String>)>,
    refuse: Vec<(Span, Vec<String>, Vec<String>, Refusal)>,
    garbage: Vec<(Span, Vec<Nonsense>)>,
    versions: Vec<(i64, String)>,
}

impl FaultsInTime {
    pub(super) fn new(faults: &Faults, at: impl Fn(f64) -> i64) -> Self {
        let span = |from_s: f64, to_s: Option<f64>| (at(from_s), to_s.map_or(i64::MAX, &at));
        let for_good = faults.hang_from_s.map(|from_s| (span(from_s, None), Vec::new()));
        let hang = faults.hang.iter().map(|hang| (span(hang.from_s, hang.to_s), hang.calls.clone()));
        let refuse = faults.refuse.iter().map(|refuse| {
            let span = span(refuse.from_s, refuse.to_s);
            (span, refuse.calls.clone(), refuse.devices.clone(), refuse.with)
        });
        let garbage = faults.garbage.iter().map(|of| (span(of.from_s, of.to_s), of.what.clone()));
        let versions = faults.driver_version.iter().map(|(from_s, version)| (at(*from_s), version.clone()));
        Self {
            hang: for_good.into_iter().chain(hang).collect(),
            refuse: refuse.collect(),
            garbage: garbage.collect(),
            versions: versions.collect(),
        }
    }

    pub(super) fn hangs(&self, call: &str, now_ns: i64) -> bool {
        self.hang.iter().any(|(span, calls)| within(*span, now_ns) && is_of(calls, call))
    }

    pub(super) fn refuses(&self, call: &str, device: Option<&str>, now_ns: i64) -> Option<Refusal> {
        let about = |devices: &[String]| match device {
            None => devices.is_empty(),
            Some(uuid) => devices.iter().any(|of| of == uuid),
        };
        let fits = |(span, calls, devices, _): &&(Span, Vec<String>, Vec<String>, Refusal)| {
            within(*span, now_ns) && is_of(calls, call) && about(devices)
        };
        self.refuse.iter().find(fits).map(|(.., with)| *with)
    }

    pub(super) fn talks(&self, nonsense: Nonsense, now_ns: i64) -> bool {
        self.garbage.iter().any(|(span, what)| within(*span, now_ns) && what.contains(&nonsense))
    }

    pub(super) fn version(&self, now_ns: i64) -> Option<&str> {
        let last = self.versions.iter().rev().find(|(from_ns, _)| *from_ns <= now_ns);
        last.map(|(_, version)| version.as_str())
    }
}

fn within((from_ns, to_ns): Span, now_ns: i64) -> bool {
    (from_ns..to_ns).contains(&now_ns)
}

fn is_of(calls: &[String], call: &str) -> bool {
    calls.is_empty() || calls.iter().any(|of| of == call)
}
