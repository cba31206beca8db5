//! Waiting for a condition, in the machine's own time whatever clock the processes see.

use std::time::Duration;

use anyhow::bail;
use tonnage_runtime::clock::Clock;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// Asks `look` until it has an answer.
///
/// # Errors
/// What `look` fails with; at the deadline, `what` was waited for and what `context` has to say (a log's tail).
pub fn wait_until<T>(
    deadline: Duration,
    what: &str,
    context: impl Fn() -> String,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let clock = Clock::system();
    let deadline_ns =
        clock.monotonic_ns().saturating_add(i64::try_from(deadline.as_nanos()).unwrap_or(i64::MAX));
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if clock.monotonic_ns() >= deadline_ns {
            bail!("waited {deadline:?} in vain for {what}\n{}", context());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_in_vain_says_what_for_and_what_was_logged() {
        let error =
            wait_until::<()>(Duration::ZERO, "the moon", || "tail".to_owned(), || Ok(None)).unwrap_err();
        assert!(error.to_string().contains("the moon\ntail"), "{error}");
    }
}
