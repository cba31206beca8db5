//! Exponential backoff with full jitter: the wait before try `n` is drawn evenly from 0 to
//! `min(cap, base * 2^n)`. Full jitter spreads a fleet that lost its server over the whole interval
//! (Marc Brooker, "Exponential Backoff And Jitter", 2015).

use std::time::Duration;

use rand::RngExt;

/// Pure state: whoever retries asks for the next wait and sleeps by itself.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    tries: u32,
}

impl Backoff {
    /// Waits of up to `base` at first, doubling up to `cap`.
    #[must_use]
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, tries: 0 }
    }

    /// The next wait.
    pub fn next(&mut self, rng: &mut impl rand::Rng) -> Duration {
        let ceiling = self.base.saturating_mul(1 << self.tries.min(20)).min(self.cap);
        self.tries = self.tries.saturating_add(1);
        ceiling.mul_f64(rng.random_range(0.0..=1.0))
    }

    /// A success: the next failure waits like the first.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_never_pass_it() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let (base, cap) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(base, cap);
        let mut longest = Duration::ZERO;
        for n in 0..2000_u32 {
            let wait = backoff.next(&mut rng);
            assert!(wait <= base.saturating_mul(1 << n.min(20)).min(cap));
            longest = longest.max(wait);
        }
        assert!(longest > cap / 2, "jitter uses the whole range, saw at most {longest:?}");
        backoff.reset();
        assert!(backoff.next(&mut rng) <= base);
    }
}
