//! A network of a test's own, with addresses that this machine must not answer to for others.
//!
//! What runs inside is a thread in a network namespace, and all threads and processes that it starts. The namespace has
//! loopback and the address that is asked for, and no way out.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static MADE: AtomicU32 = AtomicU32::new(0);

/// A namespace that goes with its test.
#[derive(Debug)]
pub struct Netns(String);

impl Netns {
    /// With loopback, which has `address` (`169.254.169.254/32`) too. `None`, said aloud, where this machine does not
    /// allow it.
    #[must_use]
    #[allow(clippy::print_stderr, reason = "a skipped test has to say so")]
    pub fn with_address(address: &str) -> Option<Self> {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("tonnage-test-{}-{number}", std::process::id());
        let add = ["netns", "add", &name];
        let made = Self(name.clone());
        for args in [
            &add[..],
            &["-n", &name, "link", "set", "lo", "up"],
            &["-n", &name, "address", "add", address, "dev", "lo"],
        ] {
            match Command::new("ip").args(args).output() {
                Ok(output) if output.status.success() => {}
                refused => {
                    eprintln!("SKIPPED: no network namespace can be made here: {args:?}: {refused:?}");
                    return None;
                }
            }
        }
        Some(made)
    }

    /// Runs `body` inside.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or what `body` fails with.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let namespace = File::open(format!("/run/netns/{}", self.0))?;
        let inside = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            body()
        };
        // A thread of its own: entering is for good.
        std::thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).output();
    }
}
