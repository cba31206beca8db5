//! The only file that reads the environment: a library that the loader brings has no other arguments.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// The folder that is watched: an absolute path without links.
pub(crate) const FOLDER: &str = "DISK_TRACE_FOLDER";
/// Where the log goes; outside of the folder.
pub(crate) const LOG: &str = "DISK_TRACE_LOG";
/// A file that says what fails, while it is there; may be absent.
pub(crate) const FAULT: &str = "DISK_TRACE_FAULT";

pub(crate) struct Config {
    pub(crate) folder: Vec<u8>,
    pub(crate) log: Vec<u8>,
    pub(crate) fault: Option<Vec<u8>>,
}

impl Config {
    /// `None`: nothing is watched.
    #[allow(clippy::disallowed_methods, reason = "this is the config file")]
    pub(crate) fn from_env() -> Option<Self> {
        let bytes = |name| std::env::var_os(name).map(OsString::into_vec);
        Some(Self { folder: bytes(FOLDER)?, log: bytes(LOG)?, fault: bytes(FAULT) })
    }
}
