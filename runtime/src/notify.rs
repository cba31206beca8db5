//! What systemd wants to hear of a service of `Type=notify` (sd_notify(3)): that it has begun, that it is well, that it
//! ends. Without systemd nothing is said.
//!
//! A sign of life goes out only while the process finds itself well: one that is said whatever happens is worth nothing.
//! Where it is not well, the status says why, and after `WatchdogSec=` systemd starts it anew.
//!
//! Sends to paths and to abstract names (`@`), and never waits for systemd to read.

use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::shutdown::Shutdown;

/// Between two looks whether it has begun, and between two signs of life where nobody watches.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const UNWATCHED_EVERY: Duration = Duration::from_secs(10);
/// Bytes of a status; systemd cuts longer ones itself.
const STATUS_BYTES_MAX: usize = 1024;

/// Who wants to hear it, and how often.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Supervisor {
    socket: Option<OsString>,
    every: Option<Duration>,
}

impl Supervisor {
    /// From `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`; signs of life are wanted of that process alone.
    #[must_use]
    pub fn new(socket: Option<OsString>, watchdog_usec: Option<u64>, watchdog_pid: Option<u32>) -> Self {
        let ours = watchdog_pid.is_none_or(|pid| pid == std::process::id());
        let usec = watchdog_usec.filter(|usec| ours && *usec > 0);
        // Three signs within the time, so that one may be late.
        Self { socket, every: usec.map(|usec| Duration::from_micros(usec) / 3) }
    }

    /// Tells it all until `stop`. `begun`: the process does its work; `health` says what is wrong with it, if anything.
    pub async fn tend(
        self,
        begun: impl Fn() -> bool + Send + Sync,
        health: impl Fn() -> Result<(), String> + Send + Sync,
        stop: Shutdown,
    ) {
        let Some(voice) = self.socket.as_ref().and_then(Voice::new) else { return };
        let waited = async {
            while !begun() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            voice.say("READY=1");
            loop {
                match health() {
                    Ok(()) => voice.say("WATCHDOG=1\nSTATUS=Well."),
                    Err(reason) => voice.say(&status(&reason)),
                }
                tokio::time::sleep(self.every.unwrap_or(UNWATCHED_EVERY)).await;
            }
        };
        tokio::select! {
            () = waited => {}
            () = stop.wait() => voice.say("STOPPING=1\nSTATUS=Stopping."),
        }
    }
}

/// A status is one line.
fn status(reason: &str) -> String {
    let line: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let end = line.floor_char_boundary(STATUS_BYTES_MAX);
    format!("STATUS={}", &line[..end])
}

struct Voice {
    socket: UnixDatagram,
    to: SocketAddr,
}

impl Voice {
    fn new(name: &OsString) -> Option<Self> {
        let to = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(name),
        };
        let opened = to.and_then(|to| {
            let socket = UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            Ok(Self { socket, to })
        });
        opened.inspect_err(|error| tracing::warn!(?name, %error, "NOTIFY_SOCKET cannot be used.")).ok()
    }

    fn say(&self, text: &str) {
        // Nobody reads, or not fast enough: what is lost is a sign of life, and the next one follows.
        if let Err(error) = self.socket.send_to_addr(text.as_bytes(), &self.to) {
            tracing::debug!(%error, text, "systemd could not be told.");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn supervisor(socket: impl Into<OsString>, watchdog_pid: Option<u32>) -> Supervisor {
        Supervisor::new(Some(socket.into()), Some(3_000), watchdog_pid)
    }

    /// What comes until it is `last`.
    async fn heard(socket: &tokio::net::UnixDatagram, last: &str) -> Vec<String> {
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        while heard.last().is_none_or(|text: &String| !text.contains(last)) {
            let length = socket.recv(&mut buffer).await.unwrap();
            heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        heard
    }

    #[tokio::test]
    async fn signs_of_life_come_only_while_it_is_well() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
        let (begun, well, stop) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)), Shutdown::new());
        let tended = tokio::spawn({
            let (begun, well) = (Arc::clone(&begun), Arc::clone(&well));
            let health = move || match well.load(Ordering::Relaxed) {
                true => Ok(()),
                false => Err("a call\nhangs".to_owned()),
            };
            supervisor(path, None).tend(move || begun.load(Ordering::Relaxed), health, stop.clone())
        });
        begun.store(true, Ordering::Relaxed);
        assert_eq!(heard(&socket, "WATCHDOG=1").await[0], "READY=1");
        well.store(false, Ordering::Relaxed);
        heard(&socket, "STATUS=a call hangs").await;
        for _ in 0..3 {
            assert_eq!(heard(&socket, "").await, ["STATUS=a call hangs"]);
        }
        well.store(true, Ordering::Relaxed);
        heard(&socket, "WATCHDOG=1\nSTATUS=Well.").await;
        stop.set();
        heard(&socket, "STOPPING=1").await;
        tended.await.unwrap();
    }

    #[tokio::test]
    async fn abstract_names_are_sockets_too() {
        let name = format!("tonnage-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UnixDatagram::from_std(socket).unwrap();
        let stop = Shutdown::new();
        tokio::spawn(supervisor(format!("@{name}"), None).tend(|| true, || Ok(()), stop.clone()));
        assert_eq!(heard(&socket, "READY=1").await.len(), 1);
        stop.set();
    }

    #[test]
    fn signs_of_life_are_wanted_of_the_named_process_alone() {
        assert_eq!(supervisor("x", Some(std::process::id())).every, Some(Duration::from_millis(1)));
        assert_eq!(supervisor("x", Some(1)).every, None);
        assert_eq!(Supervisor::new(None, Some(0), None).every, None);
    }

    #[tokio::test]
    async fn without_systemd_nothing_is_waited_for() {
        Supervisor::default().tend(|| false, || Ok(()), Shutdown::new()).await;
        assert_eq!(status(&"ä".repeat(2000)).len(), "STATUS=".len() + STATUS_BYTES_MAX);
    }
}
