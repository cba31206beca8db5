//! The thread that owns the spool, and the handle by which other stages use it. It opens the spool, and opens it
//! again where that failed, or where the disk failed under it.
//!
//! One thread, for two reasons. What waits for the disk must not hold up a task. And the allocator gives threads
//! heaps of their own: where several work on sled, what one has freed is of no use to the next, and the spool takes
//! twice the memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, sync_channel};

use tokio::sync::oneshot;

use super::tended::Tended;
use super::{Spool, SpoolError};

/// Everyone waits for the answer before asking again, so it is never full.
const QUEUE_MAX: usize = 8;
const STACK_BYTES: usize = 512 * 1024;

type Work = Box<dyn FnOnce(Result<&mut Spool, SpoolError>) + Send>;

/// See the module. The thread ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Keeper(SyncSender<Work>);

impl Keeper {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system refuses one.
    pub fn start(mut tended: Tended) -> std::io::Result<Self> {
        let (sender, queue) = sync_channel::<Work>(QUEUE_MAX);
        let keep = move || {
            for work in queue {
                // A panic has lost its answer, which the other end notices. What is on disk is as good as before;
                // what is open may not be.
                let done = catch_unwind(AssertUnwindSafe(|| {
                    work(tended.spool());
                    tended.tend();
                }));
                if done.is_err() {
                    let _ = catch_unwind(AssertUnwindSafe(|| tended.close("work on it panicked")));
                }
            }
        };
        std::thread::Builder::new().name("spool".to_owned()).stack_size(STACK_BYTES).spawn(keep)?;
        Ok(Self(sender))
    }

    /// Has `work` done and waits for it. Not for tasks.
    ///
    /// # Errors
    /// What `work` fails with; [`SpoolError::Closed`] if there is no spool now, [`SpoolError::Gone`] if it panicked.
    pub fn run<T, E>(&self, work: impl FnOnce(&mut Spool) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<SpoolError> + Send + 'static,
    {
        self.begin(work).blocking_recv().unwrap_or_else(|_| Err(SpoolError::Gone.into()))
    }

    /// As [`Keeper::run`], for tasks.
    ///
    /// # Errors
    /// As [`Keeper::run`].
    pub async fn ask<T, E>(
        &self,
        work: impl FnOnce(&mut Spool) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<SpoolError> + Send + 'static,
    {
        self.begin(work).await.unwrap_or_else(|_| Err(SpoolError::Gone.into()))
    }

    fn begin<T, E>(
        &self,
        work: impl FnOnce(&mut Spool) -> Result<T, E> + Send + 'static,
    ) -> oneshot::Receiver<Result<T, E>>
    where
        T: Send + 'static,
        E: From<SpoolError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        // Who asked may have given up by then. If the thread is gone, so is the answer's sender.
        let _ = self.0.send(Box::new(move |spool| {
            drop(answer.send(spool.map_err(E::from).and_then(work)));
        }));
        answered
    }
}

#[cfg(test)]
mod tests {
    use tonnage_runtime::clock::Clock;

    use super::*;
    use crate::spool::{Identity, Limits};

    #[test]
    fn work_that_panics_loses_its_answer_and_the_next_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity { cluster: "c".to_owned(), node: "n".to_owned() };
        let limits = Limits { bytes: 1 << 20, kept_bytes: 1 << 20 };
        let tended = Tended::new(folder.path().join("spool"), identity, limits, Clock::system());
        let keeper = Keeper::start(tended).unwrap();
        let epoch = || keeper.run(|spool| Ok::<_, SpoolError>(spool.epoch()));
        let before = epoch().unwrap();
        let lost: Result<(), SpoolError> = keeper.run(|_| panic!("on purpose"));
        assert!(matches!(lost, Err(SpoolError::Gone)));
        // It is opened again, as soon as sled's threads have let go of it.
        let after = loop {
            match epoch() {
                Err(SpoolError::Closed { .. }) => std::thread::sleep(std::time::Duration::from_millis(10)),
                after => break after,
            }
        };
        assert_eq!(after.unwrap(), before);
    }
}
