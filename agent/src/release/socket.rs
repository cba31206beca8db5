//! The word of who may: a UNIX socket beside the spool, for root alone (and the agent's own user, where that is another).
//!
//! Not the admin port: anybody who reaches that could stop metering. One line is asked and one answered, by a process that
//! waits for it: `release SECONDS` or `resume`; `ok ...` or `error ...`.
//!
//! Limits: few connections at once, a line of some bytes, seconds to send it; what is cut off by them is not carried out.
//! Without the socket the agent goes on.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as Blocking;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::shutdown::Shutdown;

use crate::release::{Release, SECONDS_MAX};

const CONNECTIONS_MAX: usize = 4;
const LINE_BYTES_MAX: u64 = 64;
const LINE_WAIT: Duration = Duration::from_secs(5);
/// How long the driver may take to be let go of.
const RELEASE_WAIT: Duration = Duration::from_secs(10);
/// For who asks: all of the above.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

/// Linux's limit of a socket's path, less its closing zero.
const PATH_BYTES_MAX: usize = 107;

/// Where it is, by where the spool is: named after it, since spools of several agents may lie in one folder.
#[must_use]
pub fn beside(spool: &Path) -> PathBuf {
    let mut name = spool.file_name().unwrap_or(OsStr::new("spool")).to_owned();
    name.push(".control.sock");
    spool.with_file_name(name)
}

fn check_length(path: &Path) -> std::io::Result<()> {
    let bytes = path.as_os_str().as_bytes().len();
    if bytes <= PATH_BYTES_MAX {
        return Ok(());
    }
    let wrong = format!(
        "the socket's path has {bytes} bytes, and Linux allows {PATH_BYTES_MAX}: use a spool with a shorter path"
    );
    Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, wrong))
}

/// What is asked of a running agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Release { seconds: u64 },
    Resume,
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no agent answers at {path} (it has to run, with this spool, and you to be root)")]
    Unreachable { path: PathBuf, source: std::io::Error },
    #[error("the agent refused: {0}")]
    Refused(String),
}

/// Has a running agent carry out an order, and waits until it has. What it said.
///
/// # Errors
/// If there is no agent, or it says that it could not.
pub fn ask(path: &Path, order: Order) -> Result<String, AskError> {
    let line = match order {
        Order::Release { seconds } => format!("release {seconds}\n"),
        Order::Resume => "resume\n".to_owned(),
    };
    let talk = || {
        check_length(path)?;
        let mut stream = Blocking::connect(path)?;
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        stream.write_all(line.as_bytes())?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer: String = talk().map_err(|source| AskError::Unreachable { path: path.to_owned(), source })?;
    match answer.trim_end().split_once(' ') {
        Some(("ok", said)) => Ok(said.to_owned()),
        _ => Err(AskError::Refused(answer.trim_end().trim_start_matches("error ").to_owned())),
    }
}

/// Takes orders until `stop`.
pub async fn serve(path: PathBuf, release: Release, clock: Clock, stop: Shutdown) {
    let listener = match bind(&path) {
        Ok(listener) => listener,
        Err(error) => {
            let path = path.display();
            tracing::warn!(%path, %error, "No orders can be taken: `release` will not work.");
            return;
        }
    };
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.wait() => break,
        };
        let (Ok((stream, _)), Ok(permit)) = (accepted, Arc::clone(&permits).try_acquire_owned()) else {
            // Too many at once, or out of descriptors: who asked sees the end of the stream.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (release, clock) = (release.clone(), clock.clone());
        tokio::spawn(async move {
            serve_one(stream, &release, &clock).await;
            drop(permit);
        });
    }
    let _ = std::fs::remove_file(&path);
}

/// The spool is locked, so whatever is in its place was left by an agent that is gone.
fn bind(path: &Path) -> std::io::Result<UnixListener> {
    check_length(path)?;
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn serve_one(mut stream: UnixStream, release: &Release, clock: &Clock) {
    let own = rustix::process::geteuid().as_raw();
    // The socket's mode says it already, but for the moment between its making and that.
    let may = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own);
    let answer = if may {
        let mut line = Vec::new();
        let _ = timeout(LINE_WAIT, read_line(&mut stream, &mut line)).await;
        // Of a line that was cut off nobody knows how it would have gone on: `release 1`, or 10.
        match line.strip_suffix(b"\n") {
            Some(line) => carry_out(&String::from_utf8_lossy(line), release, clock).await,
            None => Err(format!(
                "the order was cut off: it has to end with a line feed, within {} s and {LINE_BYTES_MAX} bytes",
                LINE_WAIT.as_secs()
            )),
        }
    } else {
        Err("only root may do that".to_owned())
    };
    let answer = answer.map_or_else(|wrong| format!("error {wrong}\n"), |said| format!("ok {said}\n"));
    // Who does not wait for it has to look itself.
    let _ = timeout(LINE_WAIT, stream.write_all(answer.as_bytes())).await;
}

async fn read_line(stream: &mut UnixStream, line: &mut Vec<u8>) -> std::io::Result<()> {
    let mut limited = stream.take(LINE_BYTES_MAX);
    while !line.ends_with(b"\n") && limited.read_buf(line).await? > 0 {}
    Ok(())
}

async fn carry_out(line: &str, release: &Release, clock: &Clock) -> Result<String, String> {
    match line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "")) {
        ("resume", "") => {
            release.resume();
            tracing::info!("The driver is taken up again, as was asked for.");
            Ok("the next sample reads the driver again".to_owned())
        }
        ("release", seconds) => {
            let right = format!("{seconds:?} should be 1 to {SECONDS_MAX} seconds");
            let seconds: u64 = seconds.parse().map_err(|_| right.clone())?;
            if !(1..=SECONDS_MAX).contains(&seconds) {
                return Err(right);
            }
            let length_ns = i64::try_from(seconds * 1_000_000_000).unwrap_or(i64::MAX);
            let want = release.want(clock.monotonic_ns().saturating_add(length_ns));
            match timeout(RELEASE_WAIT, release.wait()).await {
                Ok(true) => {
                    tracing::info!(seconds, "The driver is let go of, as was asked for.");
                    Ok(format!("the driver is let go of, for {seconds} s at most"))
                }
                Ok(false) => Err("it was withdrawn, or over, before the driver was let go of".to_owned()),
                Err(_) => {
                    release.withdraw(want);
                    let waited = RELEASE_WAIT.as_secs();
                    Err(format!(
                        "the driver could not be let go of within {waited} s, since a call into it hangs; it stays in use"
                    ))
                }
            }
        }
        _ => Err(format!("{line:?} is not understood; ask for `release SECONDS` or `resume`")),
    }
}

#[cfg(test)]
mod tests {
    use tonnage_runtime::telemetry::chain;

    use super::*;

    #[tokio::test]
    async fn an_order_that_makes_no_sense_is_refused_and_says_what_would() {
        let (release, clock) = (Release::default(), Clock::system());
        for (line, says) in [
            ("", "release SECONDS"),
            ("resume now\n", "release SECONDS"),
            ("release\n", "1 to 86400"),
            ("release 0\n", "1 to 86400"),
            ("release 86401\n", "1 to 86400"),
            ("release 18446744073709551616\n", "1 to 86400"),
        ] {
            let error = carry_out(line, &release, &clock).await.unwrap_err();
            assert!(error.contains(says), "{line:?}: {error}");
            assert!(!release.is_wanted(), "{line:?}");
        }
    }

    #[tokio::test]
    async fn an_order_that_is_cut_off_is_not_carried_out() {
        let (release, clock) = (Release::default(), Clock::system());
        release.want(i64::MAX);
        for line in ["resume".to_owned(), format!("resume{}\n", " ".repeat(100))] {
            let (mut asks, answers) = UnixStream::pair().unwrap();
            asks.write_all(line.as_bytes()).await.unwrap();
            asks.shutdown().await.unwrap();
            serve_one(answers, &release, &clock).await;
            let mut answer = [0; 256];
            let length = asks.read(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer[..length]);
            assert!(answer.starts_with("error the order was cut off"), "{line:?}: {answer}");
            assert!(release.is_wanted(), "{line:?}");
        }
    }

    #[tokio::test]
    async fn spools_in_one_folder_have_a_socket_each_and_a_path_that_is_too_long_is_said() {
        assert_eq!(beside(Path::new("/a/one")), Path::new("/a/one.control.sock"));
        assert_eq!(beside(Path::new("/a/two/")), Path::new("/a/two.control.sock"));
        let long = beside(Path::new(&format!("/tmp/{}", "x".repeat(120))));
        for wrong in [bind(&long).unwrap_err().to_string(), chain(&ask(&long, Order::Resume).unwrap_err())] {
            assert!(wrong.contains("138 bytes, and Linux allows 107"), "{wrong}");
        }
    }
}
