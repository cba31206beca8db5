//! A crowd of connected agents, each with eight GPUs at real time: a batch of a window of each GPU every ten seconds, on a
//! stream of its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use harness::world::DEADLINE;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonnage_proto::limits::WINDOW_NS;
use tonnage_proto::metering::{FromAgent, ack::Outcome, from_agent, from_ledger};
use tonnage_runtime::clock::Clock;

use super::batches::{GPUS, Node};
use super::engine::Engine;
use super::{deliver, show_memory};
use crate::report::{figure, median, note, percentile};
use crate::{cores, usage};

/// Connections that are made at once.
const CONNECTING: usize = 64;
/// How long it is watched, and how long as fast as acks allow.
const WATCHED: Duration = Duration::from_secs(60);
const SATURATED: Duration = Duration::from_secs(20);

/// What all agents of the crowd share.
#[derive(Default)]
struct Crowd {
    connected: AtomicU64,
    /// Are batches sent at their time? Else as soon as the one before is acked.
    paced: AtomicBool,
    acked: AtomicU64,
    /// Milliseconds from a batch's sending to its ack, while it is watched.
    lags_ms: Mutex<Vec<f64>>,
}

/// A crowd that runs.
pub(super) struct Running<'a> {
    runtime: &'a Runtime,
    crowd: Arc<Crowd>,
    all: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl<'a> Running<'a> {
    /// Returns when all are connected, and at real time.
    ///
    /// # Errors
    /// If one of them ends.
    pub(super) fn start(runtime: &'a Runtime, uplink: String, agents: u32) -> anyhow::Result<Self> {
        let crowd = Arc::new(Crowd::default());
        crowd.paced.store(true, Ordering::Relaxed);
        let all = runtime.spawn(all(uplink, agents, Arc::clone(&crowd)));
        let running = Self { runtime, crowd, all };
        while running.crowd.connected.load(Ordering::Relaxed) < u64::from(agents) {
            anyhow::ensure!(!running.all.is_finished(), "agents ended: {:?}", runtime.block_on(running.all));
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }

    /// # Errors
    /// If one of them had ended by itself.
    pub(super) fn end(self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.all.is_finished(), "agents ended: {:?}", self.runtime.block_on(self.all));
        self.all.abort();
        Ok(())
    }
}

/// # Errors
/// If a process does not do what it should.
pub(super) fn measure(engine: &Engine, runtime: &Runtime, agents: u32) -> anyhow::Result<()> {
    let mut world = engine.world()?;
    cores::on_first(|| world.aggregator.start(DEADLINE))?;
    let pid = world.aggregator.process().context("it runs")?.id();
    let clock = Clock::system();
    let from_ns = clock.monotonic_ns();
    let running = Running::start(runtime, world.aggregator.uplink(), agents)?;
    let crowd = &running.crowd;
    let connected_s = (clock.monotonic_ns() - from_ns) as f64 / 1e9;
    note(&format!("{}{agents} agents of {GPUS} GPUs connected in {connected_s:.1} s", engine.prefix()));
    // The first round comes with what is new: nodes, devices, owners.
    std::thread::sleep(Duration::from_secs(15));
    crowd.lags_ms.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let watched = watch(&clock, pid, crowd, WATCHED)?;
    let lags = std::mem::take(&mut *crowd.lags_ms.lock().unwrap_or_else(PoisonError::into_inner));
    let name = |name: &str| format!("{}{name}", engine.prefix());
    let windows = watched.batches * f64::from(GPUS);
    let wanted = f64::from(agents * GPUS) / (WINDOW_NS as f64 / 1e9);
    figure(
        &name("crowd_windows"),
        format!("{windows:.0}"),
        "1/s",
        &format!("{agents} agents make {wanted:.0}"),
    );
    figure(
        &name("crowd_cpu"),
        format!("{:.2}", watched.cores),
        "cores",
        &format!("aim 1; senders {:.2}", watched.own),
    );
    figure(
        &name("crowd_ack_p99"),
        format!("{:.0}", percentile(&lags, 0.99)),
        "ms",
        &format!("median {:.0}", median(&lags)),
    );
    show_memory(&mut world, &name("crowd_anonymous_memory"), "aim 512")?;
    crowd.paced.store(false, Ordering::Relaxed);
    let most = watch(&clock, pid, crowd, SATURATED)?;
    let carried = most.batches * WINDOW_NS as f64 / 1e9;
    figure(
        &name("crowd_saturation"),
        format!("{carried:.0}"),
        "agents",
        &format!("whose batches it takes at most; {:.2} cores, senders {:.2}", most.cores, most.own),
    );
    running.end()
}

struct Watched {
    /// Acked, per second.
    batches: f64,
    cores: f64,
    own: f64,
}

fn watch(clock: &Clock, pid: u32, crowd: &Crowd, time: Duration) -> anyhow::Result<Watched> {
    let read = || {
        let acked = crowd.acked.load(Ordering::Relaxed);
        anyhow::Ok((
            clock.monotonic_ns(),
            acked,
            usage::cpu_seconds(pid)?,
            usage::cpu_seconds(std::process::id())?,
        ))
    };
    let before = read()?;
    std::thread::sleep(time);
    let after = read()?;
    let seconds = (after.0 - before.0) as f64 / 1e9;
    Ok(Watched {
        batches: (after.1 - before.1) as f64 / seconds,
        cores: (after.2 - before.2) / seconds,
        own: (after.3 - before.3) / seconds,
    })
}

async fn all(uplink: String, agents: u32, crowd: Arc<Crowd>) -> anyhow::Result<()> {
    let connecting = Arc::new(tokio::sync::Semaphore::new(CONNECTING));
    let mut running = JoinSet::new();
    for number in 0..agents {
        let permit = Arc::clone(&connecting).acquire_owned().await?;
        let (uplink, crowd) = (uplink.clone(), Arc::clone(&crowd));
        running.spawn(async move {
            let node = Node { number: 100_000 + number, pods: 1 };
            let opened = deliver::open(uplink, node, 0).await?;
            drop(permit);
            crowd.connected.fetch_add(1, Ordering::Relaxed);
            live(node, i64::from(number) * WINDOW_NS / i64::from(agents), opened, &crowd).await
        });
    }
    match running.join_next().await {
        Some(ended) => ended?,
        None => Ok(()),
    }
}

/// One agent, for ever; `phase_ns` says when in each ten seconds it sends.
async fn live(
    node: Node,
    phase_ns: i64,
    (outgoing, mut incoming): deliver::Opened,
    crowd: &Crowd,
) -> anyhow::Result<()> {
    let clock = Clock::system();
    let now_ns = clock.wall_ns();
    let (mut next_ns, mut first_ns) =
        (now_ns - now_ns.rem_euclid(WINDOW_NS), now_ns - now_ns.rem_euclid(WINDOW_NS));
    for seq in 1.. {
        while crowd.paced.load(Ordering::Relaxed) {
            let wait_ns = next_ns + WINDOW_NS + phase_ns - clock.wall_ns();
            if wait_ns <= 0 {
                break;
            }
            // Looked at now and then: the pace may have gone.
            let wait_ns = wait_ns.min(500_000_000);
            tokio::time::sleep(Duration::from_nanos(wait_ns.unsigned_abs())).await;
        }
        // What comes faster than time passes is of the past, further and further back.
        let start_ns = if crowd.paced.load(Ordering::Relaxed) {
            next_ns += WINDOW_NS;
            next_ns - WINDOW_NS
        } else {
            first_ns -= WINDOW_NS;
            first_ns
        };
        let sent_ns = clock.monotonic_ns();
        let message = from_agent::Message::Batch(node.batch(seq, &[start_ns]));
        outgoing.send(FromAgent { message: Some(message) }).await.context("the stream closed")?;
        match incoming.message().await?.and_then(|message| message.message) {
            Some(from_ledger::Message::Ack(ack)) if ack.seq == seq && ack.outcome() == Outcome::Accepted => {}
            other => bail!("{}: waited for the ack of {seq}, got {other:?}", node.name()),
        }
        crowd.acked.fetch_add(1, Ordering::Relaxed);
        let lag_ms = (clock.monotonic_ns() - sent_ns) as f64 / 1e6;
        crowd.lags_ms.lock().unwrap_or_else(PoisonError::into_inner).push(lag_ms);
    }
    Ok(())
}
