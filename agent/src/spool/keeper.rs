//! The thread that owns the spool from opening on, and the handle by which other stages use it.
//!
//! One thread, for two reasons. What waits for the disk must not hold up a task. And the allocator gives threads
//! heaps of their own: where several work on sled, what one has freed is of no use to the next, and the spool takes
//! twice the memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, sync_channel};

use tokio::sync::oneshot;

use super::{Spool, SpoolError};

/// Everyone waits for the answer before asking again, so it is never full.
const QUEUE_MAX: usize = 8;
const STACK_BYTES: usize = 512 * 1024;

type Work = Box<dyn FnOnce(&mut Spool) + Send>;

/// See the module. The thread ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Keeper(SyncSender<Work>);

impl Keeper {
    /// Has `open` done on the thread and waits for it; also gives what it found.
    ///
    /// # Errors
    /// What `open` fails with, or that there is no thread.
    pub fn start<T, E>(open: impl FnOnce() -> Result<(Spool, T), E> + Send + 'static) -> Result<(Self, T), E>
    where
        T: Send + 'static,
        E: From<std::io::Error> + Send + 'static,
    {
        let (sender, queue) = sync_channel::<Work>(QUEUE_MAX);
        let (opened, opening) = sync_channel(1);
        let keep = move || {
            let mut spool = match open() {
                Ok((spool, found)) => {
                    let _ = opened.send(Ok(found));
                    spool
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                    return;
                }
            };
            drop(opened);
            for work in queue {
                // A panic has lost its answer, which the other end notices. What is on disk is as good as before.
                let _ = catch_unwind(AssertUnwindSafe(|| work(&mut spool)));
            }
        };
        std::thread::Builder::new().name("spool".to_owned()).stack_size(STACK_BYTES).spawn(keep)?;
        let found = opening.recv().map_err(|_| std::io::Error::other("the spool could not be opened"))??;
        Ok((Self(sender), found))
    }

    /// Has `work` done and waits for it. Not for tasks.
    ///
    /// # Errors
    /// What `work` fails with; [`SpoolError::Gone`] if it panicked.
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

    fn begin<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Spool) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (answer, answered) = oneshot::channel();
        // Who asked may have given up by then. If the thread is gone, so is the answer's sender.
        let _ = self.0.send(Box::new(move |spool| drop(answer.send(work(spool)))));
        answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::{Identity, Limits};

    #[test]
    fn work_that_panics_loses_its_answer_and_the_next_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        let open = move || -> Result<_, Box<dyn std::error::Error + Send + Sync>> {
            let identity = Identity { cluster: "c".to_owned(), node: "n".to_owned() };
            let limits = Limits { bytes: 1 << 20, kept_bytes: 1 << 20 };
            let (spool, _) = Spool::open(&path, identity, limits, 0)?;
            let epoch = spool.epoch();
            Ok((spool, epoch))
        };
        let (keeper, epoch) = Keeper::start(open).unwrap();
        let lost: Result<(), SpoolError> = keeper.run(|_| panic!("on purpose"));
        assert!(matches!(lost, Err(SpoolError::Gone)));
        assert_eq!(keeper.run(|spool| Ok::<_, SpoolError>(spool.epoch())).unwrap(), epoch);
    }

    #[test]
    fn a_spool_that_does_not_open_has_no_keeper() {
        let open = || Err::<(Spool, ()), _>(std::io::Error::other("no disk"));
        assert_eq!(Keeper::start(open).unwrap_err().to_string(), "no disk");
    }
}
