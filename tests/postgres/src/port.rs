//! Ports for servers that are started by somebody else, and perhaps killed and started again.
//!
//! They lie below the range from which Linux takes the ports of outgoing connections (`ip_local_port_range`, 32768 and
//! up): a port of that range that is free now can be any client's a moment later, and the server finds it taken.

use std::net::TcpListener;
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::bail;

const PORTS: Range<u16> = 10_000..32_768;
/// How far apart the first ports of processes are whose pids follow each other.
const STRIDE: u32 = 251;

static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id().wrapping_mul(STRIDE)));

/// A loopback port on which nobody listens and that this process was not given before.
///
/// # Errors
/// If all are taken.
pub fn free_port() -> anyhow::Result<u16> {
    let count = u32::from(PORTS.end - PORTS.start);
    for _ in 0..count {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) % count;
        let port = PORTS.start + u16::try_from(offset)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of {PORTS:?} is free on 127.0.0.1");
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test: two of them, side by side, would take each other's ports.
    #[test]
    fn ports_are_different_free_no_clients_and_those_that_are_taken_are_passed_over() {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let clients_from: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
        let (a, b) = (free_port().unwrap(), free_port().unwrap());
        assert_ne!(a, b);
        assert!(a < clients_from && b < clients_from, "{a} and {b}, clients have {range}");
        TcpListener::bind(("127.0.0.1", a)).unwrap();

        let taken = (b + 1..PORTS.end).find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).unwrap();
        assert_ne!(free_port().unwrap(), taken.local_addr().unwrap().port());
    }
}
