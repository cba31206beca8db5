//! What the ledger knows of a cluster: labels and controllers of pods, and labels of namespaces, as the API server says.
//!
//! ```text
//! api (lists and watches) -> cluster (what is new) -> the commit thread, which has it journalled
//! ```
//!
//! Constraints: nobody waits for it. While the API server is away, or does not let us in, nothing is lost but the labels of that
//! time; that is logged once, and shown by a metric. Of several aggregators over one database one watches, by a lease, and clusters know nothing of each other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonnage_proto::limits::DAY_NS;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::shutdown::Shutdown;
use tonnage_runtime::telemetry::chain;

use crate::commit::{LEASE_NS, Submission, Taken};
use crate::metrics::Metrics;
use crate::model::Told;

mod api;
mod cluster;

use cluster::{Change, Cluster, Kind};

/// Changes that wait to be looked at; more wait in their streams.
const CHANGES_MAX: usize = 1_024;
/// How long news wait for more of them.
const GATHER: Duration = Duration::from_millis(500);
/// How long after a failure, or while another aggregator watches, it is tried again.
const RETRY: Duration = Duration::from_secs(10);
/// Pods are listed once what may control them was, or after so long without.
const PODS_AFTER_NS: i64 = 30_000_000_000;
/// The API server is away for so long after each error, unless it says something. Errors come at least twice a minute.
const AWAY_NS: i64 = 60_000_000_000;

/// Which cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its agents' `--cluster`.
    pub cluster: String,
    /// `None`: the one that this is a pod of.
    pub kubeconfig: Option<PathBuf>,
}

/// Watches until `stop`.
pub struct Watcher {
    pub settings: Settings,
    /// Holds no place in it, so that the commit thread ends when streams have.
    pub queue: mpsc::WeakSender<Submission>,
    /// The ledger's.
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub stop: Shutdown,
}

/// Why watching ended.
enum End {
    /// Another aggregator does.
    NotOurs,
    /// All is to be listed again.
    Again,
    Stopped,
}

impl Watcher {
    pub async fn run(self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = self.watch_for_ever() => {}
            () = stop.wait() => {}
        }
    }

    async fn watch_for_ever(&self) {
        let mut said = None;
        loop {
            let ended =
                match self.tell(Told { cluster: self.settings.cluster.clone(), ..Told::default() }).await {
                    None => return,
                    Some(Taken::NotOurs) => End::NotOurs,
                    Some(Taken::Taken { .. }) => match api::client(self.settings.kubeconfig.as_deref()).await
                    {
                        Ok(client) => {
                            said = None;
                            self.watch(client).await
                        }
                        Err(error) => {
                            self.up(Some(false));
                            let text = chain(&error);
                            if said.as_ref() != Some(&text) {
                                let cluster = &self.settings.cluster;
                                tracing::error!(
                                    cluster,
                                    error = text,
                                    "The cluster's API server cannot be asked; labels are not known."
                                );
                                said = Some(text);
                            }
                            sleep(RETRY).await;
                            continue;
                        }
                    },
                };
            match ended {
                End::NotOurs => {
                    self.up(None);
                    sleep(RETRY).await;
                }
                End::Again => {}
                End::Stopped => return,
            }
        }
    }

    /// Hands over to the commit thread until it takes it; `None` once that is gone.
    async fn tell(&self, told: Told) -> Option<Taken> {
        let told = Arc::new(told);
        loop {
            let (answer, answered) = oneshot::channel();
            let queue = self.queue.upgrade()?;
            queue.send(Submission::Told { told: Arc::clone(&told), answer }).await.ok()?;
            drop(queue);
            if let Ok(Ok(taken)) = answered.await {
                return Some(taken);
            }
            sleep(RETRY).await;
        }
    }

    async fn watch(&self, client: api::Client) -> End {
        let system = Clock::system();
        let (out, mut changes) = mpsc::channel(CHANGES_MAX);
        let mut streams = JoinSet::new();
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Pod) {
            streams.spawn(api::watch(client.clone(), kind, out.clone()));
        }
        let mut pods = Some((client, out));
        let (began_ns, mut told_ns) = (system.monotonic_ns(), system.monotonic_ns());
        let (mut cluster, mut away) = (Cluster::default(), Away::default());
        let mut again_ns = i64::MAX;
        let mut look = tokio::time::interval(GATHER);
        loop {
            let change = tokio::select! {
                change = changes.recv() => change,
                _ = look.tick() => None,
            };
            let now_ns = system.monotonic_ns();
            let is_change = change.is_some();
            if let Some((kind, change)) = change {
                self.note(&mut away, kind, &change, now_ns);
                if let Ok(change) = change {
                    cluster.apply(kind, change, now_ns);
                }
            } else {
                cluster.release(now_ns);
            }
            let owners = [Kind::ReplicaSet, Kind::Job].into_iter().all(|kind| cluster.has_listed(kind));
            if (owners || now_ns - began_ns > PODS_AFTER_NS)
                && let Some((client, out)) = pods.take()
            {
                streams.spawn(api::watch(client, Kind::Pod, out));
            }
            self.up(Some(away.is_up(now_ns) && cluster.has_listed(Kind::Pod)));
            let due =
                cluster.is_full() || !is_change && (cluster.has_news() || now_ns - told_ns > LEASE_NS / 3);
            if due {
                self.metrics.kubernetes.trimmed(std::mem::take(&mut cluster.trimmed));
                match self.tell(cluster.take(&self.settings.cluster)).await {
                    None => return End::Stopped,
                    Some(Taken::NotOurs) => return End::NotOurs,
                    Some(Taken::Taken { put_off: 0 }) => {}
                    Some(Taken::Taken { put_off }) => {
                        self.metrics.kubernetes.put_off(put_off);
                        let wall_ns = self.clock.wall_ns();
                        again_ns = wall_ns - wall_ns.rem_euclid(DAY_NS) + DAY_NS;
                    }
                }
                told_ns = system.monotonic_ns();
            }
            // What changed too often yesterday is heard again.
            if self.clock.wall_ns() >= again_ns {
                return End::Again;
            }
        }
    }

    fn up(&self, up: Option<bool>) {
        self.metrics.kubernetes.up(&self.settings.cluster, up);
    }

    fn note(&self, away: &mut Away, kind: Kind, change: &Result<Change, String>, now_ns: i64) {
        let (cluster, resource) = (&self.settings.cluster, kind.name());
        match change {
            // It is about to ask.
            Ok(Change::Listing) => {}
            Ok(_) => {
                if away.since_ns.remove(&kind).is_some() {
                    tracing::info!(cluster, resource, "The cluster's API server says again what there is.");
                }
            }
            Err(error) => {
                self.metrics.kubernetes.error(cluster, resource);
                if away.since_ns.insert(kind, now_ns).is_none() {
                    tracing::warn!(
                        cluster,
                        resource,
                        error,
                        "The cluster's API server does not say what there is; labels that change now are not known."
                    );
                }
            }
        }
    }
}

/// When the API server last failed, by what it has said nothing of since.
#[derive(Default)]
struct Away {
    since_ns: BTreeMap<Kind, i64>,
}

impl Away {
    fn is_up(&self, now_ns: i64) -> bool {
        self.since_ns.values().all(|since_ns| now_ns - since_ns > AWAY_NS)
    }
}
