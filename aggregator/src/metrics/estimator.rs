//! How the estimator does.

use prometheus::{IntCounterVec, Opts, Registry};

use super::kept;

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Answered,
    Failed,
    /// It had failed too often, or was asked too much at once.
    NotAsked,
}

impl Asked {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Answered, "answered"), (Self::Failed, "failed"), (Self::NotAsked, "not_asked")];
}

#[derive(Debug)]
pub(crate) struct Estimates {
    requests: IntCounterVec,
}

impl Estimates {
    pub(super) fn new(registry: &Registry) -> Self {
        let requests = Opts::new(
            "tonnage_estimator_requests_total",
            "Checks whose cost an estimator was to say, by result: answered, failed, not_asked (it failed too often).",
        );
        let requests = kept(registry, IntCounterVec::new(requests, &["result"]));
        // Each is there from the beginning, so that the first is an increase.
        Asked::ALL.iter().for_each(|(_, name)| drop(requests.with_label_values(&[name])));
        Self { requests }
    }

    pub(crate) fn asked(&self, asked: Asked) {
        let named = Asked::ALL.iter().find(|(known, _)| *known == asked);
        named.into_iter().for_each(|(_, name)| self.requests.with_label_values(&[name]).inc());
    }
}
