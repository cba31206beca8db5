//! Asks the node's kubelet who has which devices: pod-resources v1 over its UNIX socket.
//!
//! A task that keeps the last answer for whoever meters: nobody waits for the kubelet. It lists every few seconds, and
//! at once when told that a pod is new, but never more than once in a second: the kubelet turns away who asks too often.
//! One that is absent, slow, restarting or refusing keeps its last list, and that is said; what follows from it is
//! `attribution`'s. The socket is opened again after each failure, since a kubelet that restarts makes a new one.
//!
//! Everything that comes is outside input: bytes, pods, ids and names are limited.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonnage_proto::podresources::pod_resources_lister_client::PodResourcesListerClient;
use tonnage_proto::podresources::{
    AllocatableResourcesRequest, GetPodResourcesRequest, ListPodResourcesRequest,
};
use tonnage_runtime::backoff::Backoff;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::shutdown::Shutdown;
use tonnage_runtime::telemetry::chain;

use crate::model::KubeletState;

mod answer;

/// Where kubelets put it.
pub const DEFAULT_SOCKET: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";
const LIST_EVERY_NS: i64 = 5_000_000_000;
const CALLS_APART_NS: i64 = 1_000_000_000;
const ALLOCATABLE_EVERY_NS: i64 = 60_000_000_000;
const CALL_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of one answer; the kubelet's own clients allow as much.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// New pods that may wait to be asked for.
const ASKED_MAX: usize = 16;

/// Namespace and name.
pub type PodName = (String, String);

/// What the task knows, shared with whoever meters. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct View(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    asked: Mutex<Vec<PodName>>,
    nudge: Notify,
}

/// How the kubelet is doing.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The last list, however old.
    pub list: Option<Arc<KubeletState>>,
    /// When it was read, on the boot clock.
    pub listed_at_ns: i64,
    pub health: Health,
    /// Lists and single pods that were taken up, and calls that failed.
    pub answers: u64,
    pub failures: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Health {
    /// There is no socket: no kubelet, or its folder is not mounted.
    #[default]
    Absent,
    Up,
    /// Why the last call failed.
    Down(String),
}

/// The kubelet could not be asked.
#[derive(Debug, thiserror::Error)]
enum KubeletError {
    #[error("its socket cannot be connected to")]
    Connect(#[source] tonic::transport::Error),
    #[error("it does not answer within {} s", CALL_WITHIN.as_secs())]
    Slow,
    #[error("it turns calls away because they are too many: {0}")]
    Limited(String),
    #[error("it answers {code:?}: {message}")]
    Refused { code: Code, message: String },
}

impl From<Status> for KubeletError {
    fn from(status: Status) -> Self {
        let message = status.message().chars().take(200).collect();
        match status.code() {
            Code::ResourceExhausted => Self::Limited(message),
            Code::DeadlineExceeded | Code::Cancelled => Self::Slow,
            code => Self::Refused { code, message },
        }
    }
}

impl View {
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks for a pod that is new, without waiting. What is asked for beyond a few is in the next list.
    pub fn ask(&self, pod: PodName) {
        let mut asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() < ASKED_MAX && !asked.contains(&pod) {
            asked.push(pod);
        }
        self.0.nudge.notify_one();
    }

    /// Asks for a new list, without waiting.
    pub fn refresh(&self) {
        self.0.nudge.notify_one();
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.0.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn set_health(&self, health: Health) -> bool {
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut seen.health, health.clone()) != health
    }
}

/// The task.
pub struct Kubelet {
    pub socket: PathBuf,
    pub clock: Clock,
    pub view: View,
}

impl Kubelet {
    /// Asks until `shutdown`.
    pub async fn run(self, shutdown: Shutdown) {
        tokio::select! {
            () = self.ask_for_ever() => {}
            () = shutdown.wait() => {}
        }
    }

    async fn ask_for_ever(&self) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        loop {
            if !self.socket.exists() {
                if self.view.set_health(Health::Absent) {
                    tracing::warn!(socket = %self.socket.display(), "The kubelet's socket is gone.");
                }
                self.wait(LIST_EVERY_NS).await;
                continue;
            }
            // Ends only by failing.
            let Err(error) = self.session(&mut backoff).await;
            self.view.change(|seen| seen.failures += 1);
            let reason = chain(&error);
            if self.view.set_health(Health::Down(reason.clone())) {
                tracing::warn!(
                    reason,
                    "The kubelet cannot be asked; new pods' GPUs are attributed by their processes alone."
                );
            }
            let wait_ns = i64::try_from(backoff.next(&mut rand::rng()).as_nanos()).unwrap_or(i64::MAX);
            self.clock.sleep_until_async(self.clock.monotonic_ns().saturating_add(wait_ns)).await;
        }
    }

    /// Lists over one connection until something fails.
    async fn session(&self, backoff: &mut Backoff) -> Result<std::convert::Infallible, KubeletError> {
        let mut client = PodResourcesListerClient::new(connect(&self.socket).await?)
            .max_decoding_message_size(ANSWER_BYTES_MAX);
        let mut allocatable_at_ns: Option<i64> = None;
        let mut knows_get = true;
        loop {
            let now_ns = self.clock.read().boot_ns;
            let mut state = self.list(&mut client).await?;
            if allocatable_at_ns.is_none_or(|at_ns| now_ns.saturating_sub(at_ns) >= ALLOCATABLE_EVERY_NS) {
                allocatable_at_ns = Some(now_ns);
                state.allocatable = allocatable(&mut client).await?;
            } else if let Some(before) = self.view.seen().list {
                state.allocatable.clone_from(&before.allocatable);
            }
            self.keep(state, now_ns);
            backoff.reset();
            // Pods that appear meanwhile are asked for one by one, where the kubelet knows how.
            let mut waited_ns = 0;
            while waited_ns < LIST_EVERY_NS {
                let begun_ns = self.clock.monotonic_ns();
                self.wait(LIST_EVERY_NS - waited_ns).await;
                waited_ns += (self.clock.monotonic_ns() - begun_ns).max(CALLS_APART_NS);
                let asked =
                    std::mem::take(&mut *self.view.0.asked.lock().unwrap_or_else(PoisonError::into_inner));
                if asked.is_empty() || !knows_get || !self.socket.exists() {
                    break;
                }
                knows_get = self.get(&mut client, asked).await?;
                if !knows_get {
                    break;
                }
            }
        }
    }

    async fn list(
        &self,
        client: &mut PodResourcesListerClient<Channel>,
    ) -> Result<KubeletState, KubeletError> {
        let answer = within(client.list(ListPodResourcesRequest {})).await?;
        Ok(KubeletState { pods: answer::pods(answer.pod_resources), ..KubeletState::default() })
    }

    /// Puts single pods into the list; false if the kubelet cannot be asked for one.
    async fn get(
        &self,
        client: &mut PodResourcesListerClient<Channel>,
        asked: Vec<PodName>,
    ) -> Result<bool, KubeletError> {
        for (pod_namespace, pod_name) in asked {
            let request = GetPodResourcesRequest { pod_name, pod_namespace };
            let pod = match within(client.get(request)).await {
                Ok(answer) => answer.pod_resources,
                Err(error @ (KubeletError::Slow | KubeletError::Limited(_) | KubeletError::Connect(_))) => {
                    return Err(error);
                }
                Err(KubeletError::Refused { code: Code::Unavailable, message }) => {
                    return Err(KubeletError::Refused { code: Code::Unavailable, message });
                }
                // Behind a feature gate in older clusters, which answer in words.
                Err(KubeletError::Refused { code, message }) => {
                    if code == Code::Unimplemented || message.contains("disabled") {
                        return Ok(false);
                    }
                    continue;
                }
            };
            let Some(list) = self.view.seen().list else { continue };
            let mut state = (*list).clone();
            for pod in answer::pods(pod.into_iter().collect()) {
                state.pods.retain(|known| (&known.namespace, &known.pod) != (&pod.namespace, &pod.pod));
                state.pods.push(pod);
            }
            self.keep(state, self.clock.read().boot_ns);
        }
        Ok(true)
    }

    fn keep(&self, state: KubeletState, now_ns: i64) {
        let pods = state.pods.len();
        self.view.change(|seen| {
            seen.listed_at_ns = now_ns;
            seen.answers += 1;
            // One that says the same is only newer: ids are taken apart once per list.
            if seen.list.as_deref() != Some(&state) {
                seen.list = Some(Arc::new(state));
            }
        });
        if self.view.set_health(Health::Up) {
            tracing::info!(pods, "The kubelet says who has which devices.");
        }
    }

    /// Until so much time has passed, or somebody asks for something; at least as long as calls must be apart.
    async fn wait(&self, at_most_ns: i64) {
        let now_ns = self.clock.monotonic_ns();
        self.clock.sleep_until_async(now_ns.saturating_add(CALLS_APART_NS.min(at_most_ns))).await;
        tokio::select! {
            () = self.view.0.nudge.notified() => {}
            () = self.clock.sleep_until_async(now_ns.saturating_add(at_most_ns)) => {}
        }
    }
}

async fn allocatable(
    client: &mut PodResourcesListerClient<Channel>,
) -> Result<Vec<crate::model::PluginDevice>, KubeletError> {
    match within(client.get_allocatable_resources(AllocatableResourcesRequest {})).await {
        Ok(answer) => Ok(answer::devices(answer.devices)),
        // Older kubelets lack it: then replicas that nobody has are not known.
        Err(KubeletError::Refused { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

async fn within<T>(
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, KubeletError> {
    let answer = tokio::time::timeout(CALL_WITHIN, call).await.map_err(|_| KubeletError::Slow)?;
    Ok(answer?.into_inner())
}

/// Connects to the kubelet's socket; once, without trying again.
async fn connect(socket: &Path) -> Result<Channel, KubeletError> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
    });
    // The address is not used: the connector knows where to go.
    let endpoint = Endpoint::from_static("http://kubelet").connect_timeout(CALL_WITHIN);
    endpoint.connect_with_connector(connector).await.map_err(KubeletError::Connect)
}

/// Asks the kubelet once, for `check`.
///
/// # Errors
/// Why it cannot be asked, in plain words.
pub async fn ask_once(socket: &Path) -> Result<KubeletState, String> {
    let ask = async {
        let mut client =
            PodResourcesListerClient::new(connect(socket).await?).max_decoding_message_size(ANSWER_BYTES_MAX);
        let answer = within(client.list(ListPodResourcesRequest {})).await?;
        let allocatable = allocatable(&mut client).await?;
        Ok::<_, KubeletError>(KubeletState { pods: answer::pods(answer.pod_resources), allocatable })
    };
    ask.await.map_err(|error| chain(&error))
}
