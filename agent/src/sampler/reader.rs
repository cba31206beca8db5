//! The thread that calls into the driver, the only one, and what others see of it: a question at a time, and its answer.
//!
//! It may hang for as long as the driver likes, so nobody joins it, and it is waited for by clock.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tonnage_runtime::clock::{Clock, Reading};
use tonnage_runtime::shutdown::Shutdown;
use tonnage_runtime::telemetry::chain;

use crate::driver::Driver;
use crate::sampler::Sampled;

/// Who waits looks at the clock so often.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Waited beyond the bound, by the processor's time and not the clock's: a process that was stopped, or a machine that
/// was, finds the bound passed when it goes on, and its reader has only to go on, too.
const GRACE: Duration = Duration::from_millis(250);
/// How long a good end may take: the driver is shut down in it.
const END_WAIT: Duration = Duration::from_secs(1);

/// What became of a question.
#[derive(Debug)]
pub(super) enum Waited {
    Answered(Sampled),
    InVain,
    /// The thread has ended.
    Gone,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Question {
    /// `introduce`: say what the driver is, too.
    Read {
        at: Reading,
        introduce: bool,
    },
    LetGo {
        at: Reading,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Reader {
    questions: SyncSender<Question>,
    answers: Receiver<Sampled>,
}

impl Reader {
    /// Starts the thread. It calls nothing before it is asked.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(driver: Box<dyn Driver>) -> std::io::Result<Self> {
        // One question is out at a time, so neither side ever waits for room.
        let (questions, asked) = sync_channel(1);
        let (answer, answers) = sync_channel(1);
        let thread = thread::Builder::new().name("driver".to_owned()).stack_size(512 * 1024);
        thread.spawn(move || serve(driver, &asked, &answer))?;
        Ok(Self { questions, answers })
    }

    /// To be called when what was asked before is answered.
    pub(super) fn ask(&self, question: Question) {
        // If the thread has ended, waiting says so.
        let _ = self.questions.try_send(question);
    }

    /// The answer, if it is there.
    pub(super) fn look(&self) -> Waited {
        self.receive(Duration::ZERO)
    }

    /// Waits for the answer until the monotonic clock shows `until_ns`, and no longer than `last_wait` once there is to be
    /// a stop.
    pub(super) fn wait(
        &self,
        clock: &Clock,
        until_ns: i64,
        shutdown: &Shutdown,
        last_wait: Duration,
    ) -> Waited {
        let mut stopping = Duration::ZERO;
        loop {
            match self.receive(LOOK_EVERY) {
                Waited::InVain if clock.monotonic_ns() >= until_ns => return self.receive(GRACE),
                Waited::InVain if shutdown.is_set() => {
                    stopping += LOOK_EVERY;
                    if stopping > last_wait {
                        return Waited::InVain;
                    }
                }
                Waited::InVain => {}
                waited => return waited,
            }
        }
    }

    /// Lets the thread end, and waits a moment for the driver to be shut down.
    pub(super) fn end(self) {
        drop(self.questions);
        let _ = self.answers.recv_timeout(END_WAIT);
    }

    fn receive(&self, within: Duration) -> Waited {
        match self.answers.recv_timeout(within) {
            Ok(sampled) => Waited::Answered(sampled),
            Err(RecvTimeoutError::Timeout) => Waited::InVain,
            Err(RecvTimeoutError::Disconnected) => Waited::Gone,
        }
    }
}

/// Answers until nobody asks. Then the driver is dropped before the channel is, which tells whoever waits for the end.
fn serve(mut driver: Box<dyn Driver>, asked: &Receiver<Question>, answer: &SyncSender<Sampled>) {
    for question in asked {
        let sampled = match question {
            Question::LetGo { at } => {
                driver.let_go();
                Sampled::Released { at }
            }
            Question::Read { at, introduce } => match driver.read() {
                Ok(devices) => {
                    let info = introduce.then(|| driver.describe());
                    Sampled::Reading { at, devices, driver: info }
                }
                Err(error) => Sampled::Failed { at, reason: chain(&error) },
            },
        };
        if answer.send(sampled).is_err() {
            // The agent ends, and nothing is called in a driver that may hang in that, too.
            std::mem::forget(driver);
            return;
        }
    }
    drop(driver);
}
