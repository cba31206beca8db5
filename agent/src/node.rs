//! Wiring: builds the stages of one node, joins them by bounded queues, and stops them in the order of the flow.
//!
//! ```text
//! thread driver <--> thread sampler --Sampled--> thread pump --drafts--> spool <--batches-- task uplink --> ledger
//!                                 '--> metrics <-- task admin
//! ```

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tonnage_runtime::admin::{self, Admin};
use tonnage_runtime::clock::{Clock, ClockError};
use tonnage_runtime::notify::Supervisor;
use tonnage_runtime::shutdown::Shutdown;

use crate::attribution::Attribution;
use crate::config::{Config, DriverChoice};
use crate::driver::nvml::NvmlDriver;
use crate::driver::{Driver, NoDriver};
use crate::facts::{Known, Provider, Sources};
use crate::kubelet::{self, Kubelet};
use crate::metering::Meter;
use crate::metrics::{Metrics, OwnUse};
use crate::model::KnownInstance;
use crate::mps::{self, Mps};
use crate::pump::{Before, Pump, Status};
use crate::release::{self, Release, socket};
use crate::sampler::{QUEUE_MAX, Reader, Sampler};
use crate::seal::NodeState;
use crate::spool::{Identity, Keeper, Limits, SpoolError, Tended};
use crate::uplink::session::Peer;
use crate::uplink::{Target, Uplink};
use crate::{cloud, dmi};

/// A driver that has not answered for this long is called hung.
const HUNG_NS: i64 = 30_000_000_000;
/// Readings that nobody has taken up for this long: not a slow disk any more.
const STUCK_NS: i64 = 120_000_000_000;
/// Of the time for a stop, the part that a last reading may take; the rest is for what is measured already.
const LAST_READING_SHARE: u32 = 4;
/// How long the first windows wait to hear from the cloud which instance this is.
const LIFE_WAIT: Duration = Duration::from_secs(5);
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The agent could not start, or its stages ended by themselves.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("listen: {address}: cannot listen there")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("spool {path}: another agent has it open")]
    Spool {
        path: std::path::PathBuf,
        #[source]
        source: SpoolError,
    },
    #[error("simulated_clock cannot be used")]
    Clock(#[from] ClockError),
    #[error("the system refused a thread or a signal handler")]
    System(#[from] std::io::Error),
}

/// Runs the agent until a signal, then drains within the configured time.
///
/// # Errors
/// If it cannot start.
pub async fn run(config: Config) -> Result<(), RunError> {
    let clock = match &config.simulated_clock {
        Some(path) => Clock::simulated(path)?,
        None => Clock::system(),
    };
    let stop = Shutdown::new();
    stop.on_signals()?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| RunError::Listen { address: config.listen, source })?;
    let (spool, before) = open_spool(&config, &clock).await?;
    let (more, uplink_state) = (Arc::new(Notify::new()), Arc::default());
    let kubelet = kubelet::View::default();
    let metrics = Metrics::new(VERSION, config.node.clone(), Arc::clone(&uplink_state), kubelet.clone());
    let metrics = Arc::new(showing_mps(&config, metrics, &stop));
    let release = Release::default();
    let health = Arc::new(Health {
        clock: clock.clone(),
        alive_ns: Arc::new(AtomicI64::new(clock.monotonic_ns())),
        taken_ns: Arc::new(AtomicI64::new(clock.monotonic_ns())),
        status: Arc::default(),
        release: release.clone(),
        metrics: Arc::clone(&metrics),
    });
    // The admin port answers until the very end, so it has a stop signal of its own.
    let admin_stop = Shutdown::new();
    tokio::spawn(admin::serve(listener, Arc::clone(&health) as Arc<dyn Admin>, admin_stop.clone()));

    let boot_id = boot_id(&config.paths.procfs).unwrap_or_default();
    let node = NodeState { boot_id: boot_id.clone(), ..NodeState::default() };
    let here = before.as_ref().filter(|before| before.boot_id == node.boot_id);
    let expected = here.map_or(0, |before| before.devices.len());
    let instances = here.map_or_else(Vec::new, |before| before.instances.clone());
    let machine = machine(&config, here.map(|before| before.instance_id.clone()));
    let attribution = Attribution::new(config.paths.clone(), boot_id.clone());
    if attribution.has_foreign_pids() {
        tracing::warn!(
            "{} is of another pid namespace than the host's: owners are found by pids that may be others, and \
             are marked held_inferred. In a pod set hostPID: true",
            config.paths.procfs.display()
        );
    }
    let asking =
        Kubelet { socket: config.kubelet_socket.clone(), clock: clock.clone(), view: kubelet.clone() };
    tokio::spawn(asking.run(stop.clone()));
    let pump = Pump {
        attribution,
        kubelet,
        meter: Meter::new(config.period_ns),
        node,
        machine,
        spool: spool.clone(),
        more: Arc::clone(&more),
        metrics: Arc::clone(&metrics),
        status: Arc::clone(&health.status),
        before,
    };
    let sampler = Sampler {
        reader: Reader::start(driver(&config, &clock, expected, instances))?,
        release: release.clone(),
        clock: clock.clone(),
        period_ns: config.period_ns,
        metrics,
        alive_ns: Arc::clone(&health.alive_ns),
        taken_ns: Arc::clone(&health.taken_ns),
        last_wait: config.drain / LAST_READING_SHARE,
    };
    let metered = start_metering(sampler, pump, stop.clone())?;
    tokio::spawn(socket::serve(socket::beside(&config.spool), release, clock.clone(), stop.clone()));
    supervise(config.supervisor, Arc::clone(&health), stop.clone());
    let peer = Peer { cluster: config.cluster, node: config.node, agent_version: VERSION.to_owned() };
    let target = Target { endpoint: config.aggregator, tls: config.tls, token_file: config.token_file, peer };
    let uplink = Uplink { target, spool, more, clock, state: uplink_state };
    let uplink_stop = Shutdown::new();
    let uplink = tokio::spawn(uplink.run(uplink_stop.clone()));

    stop.wait().await;
    drain(config.drain, metered, uplink, &uplink_stop).await;
    admin_stop.set();
    Ok(())
}

/// Stops in the order of the flow: the sampler and the pump have heard it, the uplink hears it when they have ended.
async fn drain(
    within: Duration,
    metered: tokio::sync::oneshot::Receiver<()>,
    uplink: tokio::task::JoinHandle<()>,
    uplink_stop: &Shutdown,
) {
    let drained = tokio::time::timeout(within, async {
        let _ = metered.await;
        uplink_stop.set();
        let _ = uplink.await;
    });
    match drained.await {
        Ok(()) => tracing::info!("Stopped; everything measured is in the ledger."),
        Err(_) => tracing::warn!("Stopped at the deadline; what is left is in the spool for the next start."),
    }
}

/// Has MPS looked after, and lets the metrics show it.
fn showing_mps(config: &Config, metrics: Metrics, stop: &Shutdown) -> Metrics {
    let view = mps::View::default();
    let (settings, procfs) = (config.mps.clone(), config.paths.procfs.clone());
    tokio::spawn(Mps { settings, procfs, view: view.clone() }.run(stop.clone()));
    metrics.showing_mps(view)
}

/// Tells systemd how it goes.
fn supervise(supervisor: Supervisor, health: Arc<Health>, stop: Shutdown) {
    let status = Arc::clone(&health.status);
    // Begun is also who waits for a driver: a node without one would else hold up whoever starts it.
    let begun = move || status.get().is_some();
    tokio::spawn(supervisor.tend(begun, move || health.health(), stop));
}

/// Starts the two threads. The receiver hears when both have ended.
fn start_metering(
    sampler: Sampler,
    pump: Pump,
    stop: Shutdown,
) -> std::io::Result<tokio::sync::oneshot::Receiver<()>> {
    let (samples, received) = sync_channel(QUEUE_MAX);
    let (ended, metered) = tokio::sync::oneshot::channel();
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned()).stack_size(512 * 1024);
    thread("sampler").spawn(move || sampler.run(&samples, &stop))?;
    thread("pump").spawn(move || {
        pump.run(&received);
        // Nobody waits for it when the agent is past its deadline.
        let _ = ended.send(());
    })?;
    Ok(metered)
}

/// The spool, and what it says of the run before, unless its disk does not let it be opened yet.
async fn open_spool(config: &Config, clock: &Clock) -> Result<(Keeper, Option<Before>), RunError> {
    let identity = Identity { cluster: config.cluster.clone(), node: config.node.clone() };
    let limits = Limits { bytes: config.spool_bytes, kept_bytes: config.spool_kept_bytes };
    let keeper = Keeper::start(Tended::new(config.spool.clone(), identity, limits, clock.clone()))?;
    match keeper.ask(|spool| Before::read(spool)).await {
        Ok(before) => Ok((keeper, Some(before))),
        Err(source) if source.is_locked() => Err(RunError::Spool { path: config.spool.clone(), source }),
        // Metering does not wait for the disk. The spool's thread has said what is wrong.
        Err(_) => Ok((keeper, None)),
    }
}

/// The driver that the configuration asks for, on a node that had so many devices and these instances in this boot. Loads
/// nothing yet.
#[must_use]
pub fn driver(
    config: &Config,
    clock: &Clock,
    expected: usize,
    instances: Vec<KnownInstance>,
) -> Box<dyn Driver> {
    match &config.driver {
        DriverChoice::Nvml(library) => {
            let driver = NvmlDriver::new(library.clone(), clock.clone()).expecting(expected);
            Box::new(driver.knowing(instances).with_slow_signals(config.slow_signals))
        }
        DriverChoice::None => Box::new(NoDriver),
    }
}

/// What is known of the machine by itself; asks the cloud for the rest, where it may. `remembered`: the instance id by
/// which an earlier run of this boot went.
fn machine(config: &Config, remembered: Option<String>) -> Known {
    let found = dmi::read(&config.path_dmi);
    let sources = Sources { settings: config.machine.clone(), dmi: found.machine, ..Sources::default() };
    let known = Known::new(sources, remembered);
    match config.cloud.clone() {
        None => known.decide(),
        Some(settings) => drop(tokio::spawn(ask(settings, found.provider, known.clone()))),
    }
    known
}

/// Asks the cloud, and lets the first windows wait for its answer no longer than they should.
async fn ask(settings: cloud::Settings, likely: Option<Provider>, known: Known) {
    let answer = cloud::find(&settings, likely);
    tokio::pin!(answer);
    let answer = match tokio::time::timeout(LIFE_WAIT, &mut answer).await {
        Ok(answer) => answer,
        Err(_) => {
            known.decide();
            answer.await
        }
    };
    if answer.is_some_and(|machine| known.answered(machine)) {
        tracing::info!("The instance's id came too late for this boot, which goes on as it began.");
    }
    known.decide();
}

/// The kernel's id of this boot.
pub(crate) fn boot_id(procfs: &Path) -> std::io::Result<String> {
    let text = std::fs::read_to_string(procfs.join("sys/kernel/random/boot_id"))?;
    Ok(text.trim().chars().filter(|c| !c.is_control()).take(64).collect())
}

struct Health {
    clock: Clock,
    /// Monotonic time at which the last call into the driver began, and at which one was last taken up.
    alive_ns: Arc<AtomicI64>,
    taken_ns: Arc<AtomicI64>,
    status: Arc<Status>,
    release: Release,
    metrics: Arc<Metrics>,
}

impl Admin for Health {
    fn health(&self) -> Result<(), String> {
        let now_ns = self.clock.monotonic_ns();
        let silent_ns = now_ns - self.alive_ns.load(Ordering::Relaxed);
        if silent_ns > HUNG_NS {
            let seconds = silent_ns / 1_000_000_000;
            return Err(format!("no sample for {seconds} s: a call into the driver hangs"));
        }
        let stuck_ns = now_ns - self.taken_ns.load(Ordering::Relaxed);
        if stuck_ns > STUCK_NS {
            let seconds = stuck_ns / 1_000_000_000;
            return Err(format!("no sample was taken up for {seconds} s: /proc or the spool's disk hangs"));
        }
        Ok(())
    }

    fn remark(&self) -> Option<String> {
        let now_ns = self.clock.monotonic_ns();
        let release::State::Released { until_ns } = self.release.at(now_ns) else { return None };
        let seconds = (until_ns - now_ns) / 1_000_000_000;
        Some(format!("the driver is released, for {seconds} s more at most"))
    }

    fn ready(&self) -> Result<(), String> {
        self.health()?;
        match self.status.get() {
            Some(Ok(_)) => Ok(()),
            Some(Err(reason)) => Err(reason),
            None => Err("no reading yet".to_owned()),
        }
    }

    fn metrics(&self) -> String {
        self.metrics.render(OwnUse::read())
    }
}
