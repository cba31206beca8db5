//! A spool that is opened when it can be, and opened again when its disk has failed it.
//!
//! | what happens | what is done |
//! |---|---|
//! | it cannot be opened: rights, a read-only disk | tried again, some seconds apart; the caller keeps what it has |
//! | an I/O error | the open database is poisoned: it is dropped, and opened again |
//! | the disk is full | the reserve is freed, and the spool holds no more than it does until there is room again |
//! | the files are damaged | moved aside, and a new spool begins |
//! | the database went missing at some start | a new spool begins, and the marker says what is lost |
//! | the folder is deleted, or replaced, under the open database | what is not acked moves to a new spool in its place |
//!
//! All of it is said in the log, once each. Constraint: called on the spool's thread alone.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use tonnage_runtime::clock::Clock;
use tonnage_runtime::telemetry::chain;

use super::home::{Home, Place, State};
use super::{Identity, Limits, Spool, SpoolError};

/// Between two tries to open it.
const RETRY_NS: i64 = 5_000_000_000;

/// See the module.
#[derive(Debug)]
pub struct Tended {
    home: Home,
    identity: Identity,
    limits: Limits,
    clock: Clock,
    spool: Option<Spool>,
    place: Option<Place>,
    /// Why there is none, and when it was tried last.
    closed: Option<(String, i64)>,
    /// Bytes that the spool may hold while the disk is full.
    squeezed: Option<usize>,
    /// Epoch that the marker says.
    marked: Option<[u8; 16]>,
    /// It was said that the folder is gone and no other can be made.
    homeless: bool,
}

impl Tended {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(path: PathBuf, identity: Identity, limits: Limits, clock: Clock) -> Self {
        Self {
            home: Home { path },
            identity,
            limits,
            clock,
            spool: None,
            place: None,
            closed: None,
            squeezed: None,
            marked: None,
            homeless: false,
        }
    }

    /// The spool, opened if it was not.
    pub(super) fn spool(&mut self) -> Result<&mut Spool, SpoolError> {
        if self.spool.is_some() && self.home.place() != self.place {
            self.move_house();
        }
        if self.spool.is_none() {
            self.reopen()?;
        }
        self.spool.as_mut().ok_or(SpoolError::Gone)
    }

    /// To be called after the spool was worked on.
    pub(super) fn tend(&mut self) {
        let Some(spool) = &mut self.spool else { return };
        let Some(failure) = spool.failure() else {
            let epoch = spool.epoch();
            if self.marked != Some(epoch) {
                self.mark(epoch);
                return;
            }
            let roomy = self.home.keep_reserve();
            if roomy && self.squeezed.take().is_some() {
                spool.limit(self.limits);
                tracing::info!("There is room on the spool's disk again.");
            }
            return;
        };
        if failure == ErrorKind::StorageFull {
            self.home.free_reserve();
            let bytes = spool.bytes();
            self.squeezed = Some(self.squeezed.map_or(bytes, |before| bytes.min(before / 4 * 3)));
            tracing::error!(
                bytes,
                "The spool's disk is full. Until there is room, what the spool holds must do."
            );
        }
        self.close("its disk failed; it is opened again");
    }

    /// Lets go of the open database, whatever state it is in.
    pub(super) fn close(&mut self, why: &str) {
        let spool = self.spool.take();
        tracing::warn!(why, "The spool is closed.");
        // sled may panic over what it could not write.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(spool)));
    }

    fn reopen(&mut self) -> Result<(), SpoolError> {
        let now = self.clock.read();
        if let Some((why, at_ns)) = &self.closed
            && now.monotonic_ns.saturating_sub(*at_ns) < RETRY_NS
        {
            return Err(SpoolError::Closed { why: why.clone() });
        }
        match self.open(now.wall_ns) {
            Ok(spool) => {
                if self.closed.take().is_some() {
                    tracing::info!("The spool is open again.");
                }
                self.spool = Some(spool);
                self.place = self.home.place();
                Ok(())
            }
            Err(error) => {
                let why = chain(&error);
                if self.closed.as_ref().is_none_or(|(known, _)| *known != why) {
                    tracing::error!(
                        error = why,
                        path = %self.home.path.display(),
                        "The spool cannot be opened. Metering goes on, and what is metered waits in memory for as \
                         long as there is room."
                    );
                }
                self.closed = Some((why, now.monotonic_ns));
                Err(error)
            }
        }
    }

    fn open(&mut self, now_ns: i64) -> Result<Spool, SpoolError> {
        let mut state = self.home.state();
        if let State::Lost(epoch) = &state {
            let aside = self.aside(now_ns)?;
            tracing::error!(epoch, aside = %aside.display(),
                "A spool was here, and its database is gone. What it held is lost to the ledger; a new one begins.");
            state = State::New;
        }
        if state == State::New {
            self.begin()?;
        }
        let may_be_new = state != State::Kept;
        let opened = match self.open_files(may_be_new, now_ns) {
            Err(error) if error.is_full_disk() && self.home.free_reserve() => {
                self.open_files(may_be_new, now_ns)
            }
            opened => opened,
        };
        let spool = match opened {
            Err(error) if error.is_damage() => {
                let aside = self.aside(now_ns)?;
                tracing::error!(error = chain(&error), aside = %aside.display(),
                    "The spool cannot be read. It is moved aside, to be kept: what it held may be lost to the ledger. \
                     A new one begins.");
                self.begin()?;
                self.open_files(true, now_ns)?
            }
            opened => opened?,
        };
        self.mark(spool.epoch());
        if self.squeezed.is_none() {
            self.home.keep_reserve();
        }
        Ok(spool)
    }

    fn open_files(&self, may_be_new: bool, now_ns: i64) -> Result<Spool, SpoolError> {
        let limits = Limits { bytes: self.squeezed.unwrap_or(self.limits.bytes), ..self.limits };
        Spool::open_files(&self.home.path, may_be_new, self.identity.clone(), limits, now_ns)
    }

    fn mark(&mut self, epoch: [u8; 16]) {
        if let Err(error) = self.home.mark(&epoch) {
            tracing::warn!(error = chain(&error), "The spool's marker cannot be written.");
        }
        // Not tried again at each step where the disk is full: it is written when the spool is opened next.
        self.marked = Some(epoch);
    }

    fn begin(&self) -> Result<(), SpoolError> {
        self.home.begin().map_err(|source| SpoolError::Folder { path: self.home.path.clone(), source })
    }

    fn aside(&self, now_ns: i64) -> Result<PathBuf, SpoolError> {
        let failed = |source| SpoolError::Aside { path: self.home.path.clone(), source };
        self.home.move_aside(now_ns).map_err(failed)
    }

    /// The folder is gone or another; the open database still has everything. What is not acked goes into a new spool
    /// at the same place, under an epoch of its own. Where none can be made, the old one does until one can.
    fn move_house(&mut self) {
        let Some(old) = self.spool.take() else { return };
        let now_ns = self.clock.wall_ns();
        let moved = self.open(now_ns).and_then(|mut new| {
            new.take_over(&old)?;
            Ok(new)
        });
        match moved {
            Ok(new) => {
                tracing::error!(
                    path = %self.home.path.display(),
                    drafts = new.drafts(),
                    "The spool's folder was deleted or replaced under the agent. What was not in the ledger is kept in \
                     a new spool, under a new epoch."
                );
                self.spool = Some(new);
                self.place = self.home.place();
                self.homeless = false;
                let _ = catch_unwind(AssertUnwindSafe(move || drop(old)));
            }
            Err(error) => {
                if !self.homeless {
                    tracing::error!(
                        error = chain(&error),
                        "The spool's folder is gone, and no other can be made."
                    );
                }
                self.homeless = true;
                self.spool = Some(old);
            }
        }
    }
}
