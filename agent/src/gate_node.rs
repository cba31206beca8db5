//! Wiring of the gate: a socket for Slurm's submit plugin, a sweep, an admin port.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tonnage_runtime::admin::{self, Admin};
use tonnage_runtime::clock::Clock;
use tonnage_runtime::notify::Supervisor;
use tonnage_runtime::shutdown::Shutdown;

use crate::gate::admission::Admission;
use crate::gate::client::Client;
use crate::gate::escrow::Purse;
use crate::gate::guard::Guard;
use crate::gate::ledger::Ledger;
use crate::gate::owed::Owed;
use crate::gate::reporter::Reporter;
use crate::gate::settings::Settings;
use crate::gate::socket;
use crate::gate::sweep::Sweep;
use crate::metrics::gate::Counts;

/// For one of the sweep's questions to the aggregator, of which nobody waits for an answer.
const SWEEP_DEADLINE: std::time::Duration = std::time::Duration::from_secs(20);

/// The gate could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("listen: {address}: cannot listen there")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("socket: {path}: cannot listen there")]
    Socket {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("state: {path}: cannot be used")]
    State {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the system refused a signal handler")]
    System(#[from] std::io::Error),
    #[error("two metrics have one name")]
    Metrics,
}

/// Runs the gate until a signal.
///
/// # Errors
/// If it cannot start.
pub async fn run(settings: Settings, supervisor: Supervisor) -> Result<(), RunError> {
    let Settings { target, cluster, slurm_uid, .. } = settings;
    let clock = Clock::system();
    let stop = Shutdown::new();
    stop.on_signals()?;
    let admin_port = TcpListener::bind(settings.listen)
        .await
        .map_err(|source| RunError::Listen { address: settings.listen, source })?;
    let unusable = |source| RunError::State { path: settings.state.clone(), source };
    let purse = Purse::open(&settings.state, settings.escrow, clock.clone()).map_err(unusable)?;
    let (owed, purse) = (Arc::new(Owed::open(&settings.state).map_err(unusable)?), Arc::new(purse));
    let counts = Arc::new(Counts::new(env!("CARGO_PKG_VERSION"), &cluster).map_err(|_| RunError::Metrics)?);
    let listener = socket::bind(&settings.socket, slurm_uid)
        .map_err(|source| RunError::Socket { path: settings.socket.clone(), source })?;
    // Each has a connection of its own: a sweep keeps no submission waiting.
    let ledger =
        |deadline| Ledger::new(Client::new(target.clone(), clock.clone()), cluster.clone(), deadline);
    let admission = Admission {
        ledger: ledger(settings.deadline),
        leasing: Arc::new(ledger(SWEEP_DEADLINE)),
        purse: Arc::clone(&purse),
        site: settings.site,
        policy: settings.policy,
        unbudgeted: settings.unbudgeted,
        owed: Arc::clone(&owed),
        counts: Arc::clone(&counts),
        clock: clock.clone(),
    };
    let sweep = Sweep {
        ledger: ledger(SWEEP_DEADLINE),
        slurm: settings.slurm,
        site: settings.site,
        waits: settings.waits,
        every: settings.sweep_every,
        guard: settings.guard.map(|terms| Guard::new(terms, &settings.state)),
        reporter: settings.reports.map(|programs| Reporter::new(programs, clock.clone())),
        owed,
        purse,
        counts: Arc::clone(&counts),
        clock,
    };
    let health = Arc::new(Health { counts });
    tokio::spawn(admin::serve(admin_port, Arc::clone(&health) as Arc<dyn Admin>, stop.clone()));
    tokio::spawn(supervisor.tend(|| true, move || health.health(), stop.clone()));
    tokio::spawn(sweep.run(stop.clone()));
    tracing::info!(socket = %settings.socket.display(), "The gate answers.");
    socket::serve(listener, Arc::new(admission), slurm_uid, stop).await;
    let _ = std::fs::remove_file(&settings.socket);
    Ok(())
}

struct Health {
    counts: Arc<Counts>,
}

impl Admin for Health {
    /// It answers by its policy, be it that nobody answers it: that is no reason to start it anew.
    fn health(&self) -> Result<(), String> {
        Ok(())
    }

    fn remark(&self) -> Option<String> {
        Some(format!("the last sweep ended early: {}", self.counts.last_sweep()?.err()?))
    }

    fn ready(&self) -> Result<(), String> {
        match self.counts.last_sweep() {
            Some(Ok(_)) => Ok(()),
            Some(Err(reason)) => Err(reason),
            None => Err("no sweep has ended yet".to_owned()),
        }
    }

    fn metrics(&self) -> String {
        self.counts.render()
    }
}
