//! What can go wrong, and the exit code that says so to scripts.

use std::error::Error as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use tonnage_proto::token::masked;

/// Shown at the end of `--help`.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  done
  1  the server refused the request or could not answer it, or a file is bad
  2  the command line is wrong
  3  the server cannot be reached
  4  not allowed: no token, a wrong one, or one without the role that is needed";

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Forbidden(String),
    #[error("{url}: cannot be reached")]
    Unreachable {
        url: String,
        #[source]
        source: ureq::Error,
    },
    #[error("{url}: its answer was cut off, or is too large")]
    Body {
        url: String,
        #[source]
        source: ureq::Error,
    },
    #[error("{from}: broke off before its end; nothing was kept of it but what went to standard output")]
    Broken {
        from: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{path}: cannot be written")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{url}: answered what is no answer of a Tonnage aggregator; check --url")]
    Answer {
        url: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path}: cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path}: {reason}")]
    File { path: PathBuf, reason: String },
    #[error("output cannot be written")]
    Output(#[from] io::Error),
}

impl Error {
    fn code(&self) -> u8 {
        match self {
            Self::Unreachable { .. } => 3,
            Self::Forbidden(_) => 4,
            _ => 1,
        }
    }
}

/// The command line is wrong.
pub(crate) fn usage(wrong: &str) -> ExitCode {
    // Nobody is left to be told if this fails.
    let _ = writeln!(io::stderr(), "tonnage: {wrong}");
    ExitCode::from(2)
}

/// Says what went wrong on standard error. Who closed our output has what they wanted: that is no error.
pub(crate) fn exit_code(result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("tonnage: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                text += &format!(": {cause}");
                source = cause.source();
            }
            // Nobody is left to be told if this fails.
            let _ = writeln!(io::stderr(), "{}", crate::output::plain(&masked(&text)));
            ExitCode::from(error.code())
        }
    }
}
