//! Which files are watched, the one order of what happens to them, and which call fails.
//!
//! A fault file says in one line what fails: `CLASS SKIP ERRNO TIMES [short]`, such as `room 17 28 1 short`: of the
//! calls that need room the 18th fails with ENOSPC, once; a write puts half of its bytes down first. Counted from when
//! that line is first seen; lifted by taking the file away. Classes: `room` (makes or lengthens a file or folder),
//! `write` (changes a file's bytes), `sync`, `any` (all of these).

use std::collections::BTreeSet;
use std::ffi::CString;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libc::c_int;

use crate::config::Config;
use crate::record::{Kind, encode};
use crate::sys;

/// A fault file is one short line.
const FAULT_BYTES_MAX: usize = 128;

pub(crate) struct Tracer {
    folder: Vec<u8>,
    log: c_int,
    fault: Option<CString>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Every file and folder that was opened below the folder.
    inodes: BTreeSet<u64>,
    line: Vec<u8>,
    /// Calls of the line's class that were let through or failed.
    seen: u64,
}

/// Held over a call and its record.
pub(crate) struct Order<'a> {
    tracer: &'a Tracer,
    state: MutexGuard<'a, State>,
}

/// What a call needs of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// To lengthen or make something.
    Room,
    Write,
    Sync,
}

/// How a call is to fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) errno: c_int,
    pub(crate) short: bool,
}

/// The process's tracer, if it has one.
pub(crate) fn tracer() -> Option<&'static Tracer> {
    static TRACER: OnceLock<Option<Tracer>> = OnceLock::new();
    TRACER.get_or_init(|| Config::from_env().and_then(Tracer::new)).as_ref()
}

impl Tracer {
    fn new(config: Config) -> Option<Self> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
        let log = sys::openat(libc::AT_FDCWD, &CString::new(config.log).ok()?, flags, 0o600);
        if log < 0 {
            // Without a log the test that waits for one would pass on nothing.
            std::process::abort();
        }
        let fault = config.fault.and_then(|path| CString::new(path).ok());
        Some(Self { folder: config.folder, log, fault, state: Mutex::default() })
    }

    pub(crate) fn watches(&self, path: &[u8]) -> bool {
        path.strip_prefix(self.folder.as_slice()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }

    pub(crate) fn order(&self) -> Order<'_> {
        Order { tracer: self, state: self.state.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

impl Order<'_> {
    pub(crate) fn knows(&self, inode: u64) -> bool {
        self.state.inodes.contains(&inode)
    }

    pub(crate) fn opened(&mut self, inode: u64, made: bool, path: &[u8]) {
        self.state.inodes.insert(inode);
        self.log(Kind::Open, inode, u64::from(made), path, &[]);
    }

    /// One `write` to a log that is appended to: whole, and in its place among others' records.
    pub(crate) fn log(&mut self, kind: Kind, inode: u64, number: u64, a: &[u8], b: &[u8]) {
        let record = encode(kind, inode, number, a, b);
        let written = sys::write(self.tracer.log, record.as_ptr().cast(), record.len());
        if usize::try_from(written) != Ok(record.len()) {
            std::process::abort();
        }
    }

    /// Whether the call that comes now is to fail.
    pub(crate) fn fault(&mut self, need: Need) -> Option<Fault> {
        let path = self.tracer.fault.as_ref()?;
        let fd = sys::openat(libc::AT_FDCWD, path, libc::O_RDONLY | libc::O_CLOEXEC, 0);
        if fd < 0 {
            self.state.line.clear();
            return None;
        }
        let mut line = [0; FAULT_BYTES_MAX];
        let length = sys::read(fd, &mut line);
        sys::close(fd);
        if self.state.line != line[..length] {
            self.state.line = line[..length].to_vec();
            self.state.seen = 0;
        }
        let line = String::from_utf8_lossy(&line[..length]).into_owned();
        let mut words = line.split_whitespace();
        let class = words.next()?;
        let (skip, errno): (u64, c_int) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let times: u64 = words.next()?.parse().ok()?;
        let meant = match class {
            "any" => true,
            "room" => need == Need::Room,
            "write" => need != Need::Sync,
            "sync" => need == Need::Sync,
            _ => false,
        };
        if !meant {
            return None;
        }
        let at = self.state.seen;
        self.state.seen += 1;
        if at < skip || at - skip >= times {
            return None;
        }
        self.log(Kind::Fault, 0, u64::try_from(errno).unwrap_or(0), class.as_bytes(), &[]);
        Some(Fault { errno, short: words.next() == Some("short") })
    }
}
