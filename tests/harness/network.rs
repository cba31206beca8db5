//! A bad network on loopback, between agents and their ledger.
//!
//! ```text
//! agent -> proxy (one address per node) -+-> the ledger
//!                                        +-> relay -> the ledger
//! ```
//!
//! `proxy` harms bytes: it refuses, cuts (RST and FIN, also in the middle of a frame), stalls, slows down, swallows.
//! `relay` harms whole messages, which cannot be done to bytes without breaking the connection: it drops, doubles,
//! reorders and delays them, and cuts after a commit before its ack.
//!
//! What befalls a connection is a function of the seed, the node and how many connections that node had before; when it
//! befalls depends on how fast processes are. From [`Network::heal`] on nothing is harmed any more.
//!
//! Limits: an open connection costs a task and two buffers; whoever connects too often waits in the listener's queue.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

mod proxy;
mod relay;

/// See the module. Dropping it closes everything.
#[derive(Debug)]
pub struct Network {
    seed: u64,
    runtime: Runtime,
    counts: Arc<Counts>,
    healed: watch::Sender<bool>,
}

/// What was done to connections and messages so far.
#[derive(Debug, Default)]
pub struct Counts {
    pub connections: AtomicU64,
    pub relayed: AtomicU64,
    pub refused: AtomicU64,
    pub swallowed: AtomicU64,
    pub stalled: AtomicU64,
    pub reset: AtomicU64,
    pub finished: AtomicU64,
    pub messages_dropped: AtomicU64,
    pub messages_doubled: AtomicU64,
    pub messages_reordered: AtomicU64,
    pub messages_delayed: AtomicU64,
    pub streams_cut: AtomicU64,
    pub acks_swallowed: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counts {
    /// Connections and streams that were ended by force.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        let cuts = [&self.refused, &self.swallowed, &self.reset, &self.finished, &self.streams_cut];
        cuts.into_iter().map(|counter| counter.load(Ordering::Relaxed)).sum()
    }

    /// Every count by name.
    #[must_use]
    pub fn named(&self) -> Vec<(&'static str, u64)> {
        let counters = [
            ("connections", &self.connections),
            ("relayed", &self.relayed),
            ("refused", &self.refused),
            ("swallowed", &self.swallowed),
            ("stalled", &self.stalled),
            ("reset", &self.reset),
            ("finished", &self.finished),
            ("messages_dropped", &self.messages_dropped),
            ("messages_doubled", &self.messages_doubled),
            ("messages_reordered", &self.messages_reordered),
            ("messages_delayed", &self.messages_delayed),
            ("streams_cut", &self.streams_cut),
            ("acks_swallowed", &self.acks_swallowed),
        ];
        counters.into_iter().map(|(name, counter)| (name, counter.load(Ordering::Relaxed))).collect()
    }
}

/// What befalls the bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Pass,
    /// Reset before the first byte.
    Refused,
    /// Accepted, and nothing comes through; then reset.
    Swallowed {
        after: Duration,
    },
    /// Every read waits a little before it is passed on.
    Slow {
        each: Duration,
    },
    /// Nothing comes through for a while after so many bytes; then all goes on.
    Stalled {
        after_bytes: u64,
        length: Duration,
    },
    /// Ended after so many bytes of one direction, wherever in a frame that is.
    Cut {
        after_bytes: u64,
        towards_ledger: bool,
        reset: bool,
    },
}

/// What befalls a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    pub fate: Fate,
    /// Goes through the relay, which harms messages.
    pub relayed: bool,
}

/// Decides on a node's n-th connection.
#[must_use]
pub fn weather(seed: u64, node: u64, connection: u64) -> Weather {
    let mut rng = rng(seed, node, connection);
    // Most connections die young, in a handshake or a header; some live for a few hundred batches.
    let after_bytes = 1_u64 << rng.random_range(4..18);
    let after_bytes = after_bytes + rng.random_range(0..after_bytes);
    let ms = |rng: &mut StdRng, most: u64| Duration::from_millis(rng.random_range(1..=most));
    let fate = match rng.random_range(0..20) {
        0 => Fate::Refused,
        1 => Fate::Swallowed { after: ms(&mut rng, 400) },
        2 => Fate::Slow { each: ms(&mut rng, 10) },
        3 | 4 => Fate::Stalled { after_bytes, length: ms(&mut rng, 400) },
        5..12 => Fate::Cut { after_bytes, towards_ledger: rng.random(), reset: rng.random() },
        _ => Fate::Pass,
    };
    Weather { fate, relayed: rng.random_bool(0.6) }
}

fn rng(seed: u64, node: u64, connection: u64) -> StdRng {
    // Three numbers of one seed must not meet: each is spread over all bits first.
    let spread = |value: u64, factor: u64| value.wrapping_add(1).wrapping_mul(factor).rotate_left(29);
    let mixed = spread(node, 0x9e37_79b9_7f4a_7c15) ^ spread(connection, 0xc2b2_ae3d_27d4_eb4f);
    StdRng::seed_from_u64(seed ^ mixed)
}

/// One connection's place in the network.
#[derive(Debug, Clone)]
pub(crate) struct Path {
    pub(crate) seed: u64,
    pub(crate) node: u64,
    pub(crate) ledger: SocketAddr,
    pub(crate) counts: Arc<Counts>,
    pub(crate) healed: watch::Receiver<bool>,
}

impl Path {
    pub(crate) fn is_healed(&self) -> bool {
        *self.healed.borrow()
    }

    /// Returns when the network is healed; never if it is gone, which ends all tasks anyway.
    pub(crate) async fn until_healed(&self) {
        let mut healed = self.healed.clone();
        if healed.wait_for(|healed| *healed).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn rng(&self, connection: u64) -> StdRng {
        rng(self.seed.rotate_left(32), self.node, connection)
    }
}

impl Network {
    /// # Errors
    /// If the system refuses threads.
    pub fn new(seed: u64) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { seed, runtime, counts: Arc::default(), healed: watch::Sender::new(false) })
    }

    /// A way to the ledger at `uplink` (a URL) for a node of this number, as a URL.
    ///
    /// # Errors
    /// If the URL is none of loopback, or no port is free.
    pub fn way(&self, node: u64, uplink: &str) -> anyhow::Result<String> {
        let ledger = uplink.strip_prefix("http://").with_context(|| format!("{uplink}: not http://"))?;
        let path = Path {
            seed: self.seed,
            node,
            ledger: ledger.parse().with_context(|| format!("{uplink}: no address and port"))?,
            counts: Arc::clone(&self.counts),
            healed: self.healed.subscribe(),
        };
        let (front, behind) = self.runtime.block_on(async {
            let listen = || TcpListener::bind(("127.0.0.1", 0));
            Ok::<_, std::io::Error>((listen().await?, listen().await?))
        })?;
        let (address, relay) = (front.local_addr()?, behind.local_addr()?);
        self.runtime.spawn(relay::serve(behind, path.clone()));
        self.runtime.spawn(proxy::serve(front, relay, path));
        Ok(format!("http://{address}"))
    }

    /// From now on everything comes through. What was stalled or swallowed is reset, so that nobody waits for it.
    pub fn heal(&self) {
        self.healed.send_replace(true);
    }

    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }
}

#[cfg(test)]
mod tests;
