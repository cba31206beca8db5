//! Leaves somebody alone who does not answer: after so many failures in a row nobody asks for a while, then one does. Pure.

const FAILURES_MAX: u32 = 5;
const REST_NS: i64 = 30_000_000_000;

/// See the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Breaker {
    /// In a row.
    failures: u32,
    /// Nobody asks before this.
    rests_until_ns: i64,
}

impl Breaker {
    /// May somebody ask? Of those who come after a rest one may.
    pub(super) fn lets(&mut self, now_ns: i64) -> bool {
        if self.failures < FAILURES_MAX {
            return true;
        }
        let is_over = now_ns >= self.rests_until_ns;
        if is_over {
            self.rests_until_ns = now_ns.saturating_add(REST_NS);
        }
        is_over
    }

    pub(super) fn answered(&mut self) {
        *self = Self::default();
    }

    /// True where a rest begins that was none before.
    pub(super) fn failed(&mut self, now_ns: i64) -> bool {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_MAX {
            self.rests_until_ns = now_ns.saturating_add(REST_NS);
        }
        self.failures == FAILURES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_in_a_row_begin_a_rest_and_one_asks_after_it() {
        let mut breaker = Breaker::default();
        for _ in 0..4 {
            assert!(breaker.lets(0) && !breaker.failed(0));
        }
        breaker.answered();
        for failure in 0..5 {
            assert!(breaker.lets(0));
            assert_eq!(breaker.failed(0), failure == 4);
        }
        assert!(!breaker.lets(REST_NS - 1));
        assert!(breaker.lets(REST_NS));
        assert!(!breaker.lets(REST_NS), "the others wait for what becomes of it");
        assert!(!breaker.failed(REST_NS + 1), "the rest goes on, and was told");
        assert!(!breaker.lets(2 * REST_NS) && breaker.lets(2 * REST_NS + 1));
        breaker.answered();
        assert!(breaker.lets(2 * REST_NS + 1) && breaker.lets(2 * REST_NS + 1));
    }
}
