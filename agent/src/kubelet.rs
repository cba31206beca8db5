//! Asks the node's kubelet who has which devices: pod-resources v1 over its UNIX socket.
//!
//! A task that keeps the last answer for whoever meters: nobody waits for the kubelet. It lists every few seconds and when
//! told that pods changed, and asks for a pod that is new, for several by a list. It lists or asks for a pod no more than
//! once in a second, and for the same pod once in a minute: the kubelet turns away who asks too often.
//! One that is absent, slow, restarting or refusing keeps its last list, and that is said; what follows from it is
//! `attribution`'s. The socket is opened again after each failure, since a kubelet that restarts makes a new one. One that
//! restarted answers before it knows its pods and devices again: for a minute, what its list lacks is kept.
//!
//! Everything that comes is outside input: bytes, pods, ids and names are limited.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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

use crate::model::{KubeletState, PluginDevice, PodDevices};

mod answer;

/// Where kubelets put it.
pub const DEFAULT_SOCKET: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";
const LIST_EVERY_NS: i64 = 5_000_000_000;
const CALLS_APART_NS: i64 = 1_000_000_000;
const ALLOCATABLE_EVERY_NS: i64 = 60_000_000_000;
const CALL_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of one answer; the kubelet's own clients allow as much.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Pods that may wait to be asked for, and beyond which a list is less work than a call for each.
const WAITING_MAX: usize = 16;
const GETS_MAX: usize = 3;
/// A pod that the kubelet was asked for is not asked for again so soon: it need not have any device.
const ASK_AGAIN_NS: i64 = 60_000_000_000;
const LATELY_MAX: usize = 256;
/// How long a kubelet may take after its start to know its pods and devices again.
const SETTLES_WITHIN_NS: i64 = 60_000_000_000;

/// Namespace and name.
pub type PodName = (String, String);

/// What the task knows, shared with whoever meters. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct View(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    asked: Mutex<Asked>,
    nudge: Notify,
}

/// What the kubelet is to be asked for.
#[derive(Debug, Default)]
struct Asked {
    list: bool,
    waiting: Vec<PodName>,
    /// Pods that were asked for, and when on the monotonic clock, whatever the answer was.
    lately: HashMap<PodName, i64>,
}

#[derive(Debug, PartialEq, Eq)]
enum Call {
    List,
    Get(PodName),
}

impl Asked {
    /// Takes up a pod, unless it was asked for lately or there is no room: then it is in the next list.
    fn add(&mut self, pod: PodName) -> bool {
        let room = self.waiting.len() < WAITING_MAX && self.waiting.len() + self.lately.len() < LATELY_MAX;
        let is_new = room && !self.lately.contains_key(&pod) && !self.waiting.contains(&pod);
        if is_new {
            self.waiting.push(pod);
        }
        is_new
    }

    /// The next call, if one is due.
    fn next(&mut self, is_list_due: bool, knows_get: bool, now_ns: i64) -> Option<Call> {
        self.lately.retain(|_, at_ns| now_ns.saturating_sub(*at_ns) < ASK_AGAIN_NS);
        let several = self.waiting.len() > if knows_get { GETS_MAX } else { 0 };
        if is_list_due || self.list || several {
            self.list = false;
            self.lately.extend(self.waiting.drain(..).map(|pod| (pod, now_ns)));
            return Some(Call::List);
        }
        let pod = (!self.waiting.is_empty()).then(|| self.waiting.remove(0))?;
        self.lately.insert(pod.clone(), now_ns);
        Some(Call::Get(pod))
    }
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

    /// Asks for a pod that is new, without waiting; not for one that was asked for lately.
    pub fn ask(&self, pod: PodName) {
        if self.asked().add(pod) {
            self.0.nudge.notify_one();
        }
    }

    /// Asks for a new list, without waiting.
    pub fn refresh(&self) {
        self.asked().list = true;
        self.0.nudge.notify_one();
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
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
                self.wait_until(self.clock.monotonic_ns().saturating_add(LIST_EVERY_NS)).await;
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
        // Another kubelet may have answered before, or this one before it was restarted.
        let mut former = self.view.seen().list;
        let settled_at_ns = self.clock.monotonic_ns().saturating_add(SETTLES_WITHIN_NS);
        loop {
            let now_ns = self.clock.read().boot_ns;
            let mut state = self.list(&mut client).await?;
            if allocatable_at_ns.is_none_or(|at_ns| now_ns.saturating_sub(at_ns) >= ALLOCATABLE_EVERY_NS) {
                allocatable_at_ns = Some(now_ns);
                state.allocatable = allocatable(&mut client).await?;
            } else if let Some(before) = self.view.seen().list {
                state.allocatable.clone_from(&before.allocatable);
            }
            former = former.filter(|_| self.clock.monotonic_ns() < settled_at_ns);
            if let Some(former) = &former {
                add_lacking(&mut state, former);
            }
            self.keep(state, now_ns);
            backoff.reset();
            // Pods that appear meanwhile are asked for one by one, where the kubelet knows how.
            let due_ns = self.clock.monotonic_ns().saturating_add(LIST_EVERY_NS);
            loop {
                self.wait_until(due_ns).await;
                let now_ns = self.clock.monotonic_ns();
                let call = self.view.asked().next(now_ns >= due_ns, knows_get, now_ns);
                match call {
                    None => {}
                    Some(Call::List) => break,
                    Some(Call::Get(pod)) => knows_get = self.get(&mut client, pod).await?,
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

    /// Puts a single pod into the list; false if the kubelet cannot be asked for one.
    async fn get(
        &self,
        client: &mut PodResourcesListerClient<Channel>,
        (pod_namespace, pod_name): PodName,
    ) -> Result<bool, KubeletError> {
        let pod = match within(client.get(GetPodResourcesRequest { pod_name, pod_namespace })).await {
            Ok(answer) => answer.pod_resources,
            Err(KubeletError::Refused { code, message }) if code != Code::Unavailable => {
                // Behind a feature gate in older clusters, which answer in words.
                return Ok(code != Code::Unimplemented && !message.contains("disabled"));
            }
            Err(error) => return Err(error),
        };
        let pods = answer::pods(pod.into_iter().collect());
        self.view.change(|seen| {
            seen.answers += 1;
            let Some(list) = &mut seen.list else { return };
            for pod in pods {
                if list.pods.contains(&pod) {
                    continue;
                }
                // Whoever still has the list as it was keeps it so, and sees that this is another.
                let pods = &mut Arc::make_mut(list).pods;
                match pods
                    .iter_mut()
                    .find(|known| (&known.namespace, &known.pod) == (&pod.namespace, &pod.pod))
                {
                    Some(known) => *known = pod,
                    None => pods.push(pod),
                }
            }
        });
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

    /// Until then, or until somebody asks for something; at least as long as calls must be apart.
    async fn wait_until(&self, due_ns: i64) {
        let now_ns = self.clock.monotonic_ns();
        self.clock.sleep_until_async(now_ns.saturating_add(CALLS_APART_NS)).await;
        tokio::select! {
            () = self.view.0.nudge.notified() => {}
            () = self.clock.sleep_until_async(due_ns) => {}
        }
    }
}

/// Adds the pods and devices of `former` that `state` lacks. Whether such a pod lives is seen in its cgroup.
fn add_lacking(state: &mut KubeletState, former: &KubeletState) {
    let name = |pod: &PodDevices| (pod.namespace.clone(), pod.pod.clone());
    let names: HashSet<PodName> = state.pods.iter().map(name).collect();
    let pods = former.pods.iter().filter(|pod| !names.contains(&name(pod))).cloned();
    state.pods.extend(pods.take(answer::PODS_MAX.saturating_sub(names.len())));
    let devices: BTreeSet<PluginDevice> = state.allocatable.iter().cloned().collect();
    let lacking = former.allocatable.iter().filter(|device| !devices.contains(device)).cloned();
    state.allocatable.extend(lacking.take(answer::DEVICES_MAX.saturating_sub(devices.len())));
}

async fn allocatable(
    client: &mut PodResourcesListerClient<Channel>,
) -> Result<Vec<PluginDevice>, KubeletError> {
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

/// Connects to the kubelet's socket once: that the connection was lost must be seen, since a kubelet that restarted has to
/// find its pods again.
async fn connect(socket: &Path) -> Result<Channel, KubeletError> {
    let mut socket = Some(socket.to_owned());
    let connector = tower::service_fn(move |_| {
        let socket = socket.take();
        async move {
            let socket = socket.ok_or_else(|| std::io::Error::other("the connection was lost"))?;
            Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?))
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    fn name(n: usize) -> PodName {
        ("ml".into(), format!("pod-{n}"))
    }

    #[test]
    fn a_pod_is_asked_for_once_in_a_minute_and_several_by_one_list() {
        let mut asked = Asked::default();
        assert!(asked.add(name(0)) && asked.add(name(1)) && !asked.add(name(1)));
        assert_eq!(asked.next(false, true, 0), Some(Call::Get(name(0))));
        assert_eq!(asked.next(false, true, S), Some(Call::Get(name(1))));
        assert!(!asked.add(name(0)) && !asked.add(name(1)));
        assert_eq!(asked.next(false, true, 59 * S), None);
        assert_eq!(asked.next(false, true, 60 * S), None);
        assert!(asked.add(name(0)) && !asked.add(name(1)));
        assert!((2..5).all(|n| asked.add(name(n))));
        assert_eq!(asked.next(false, true, 61 * S), Some(Call::List));
        assert!((0..5).all(|n| asked.add(name(n)) == (n == 1)));
    }

    #[test]
    fn what_a_list_lacks_is_added_and_what_it_has_stays_as_it_is() {
        let pod = |n: usize, device: &str| {
            let devices = vec![PluginDevice { resource: "r".into(), id: device.into() }];
            let container = crate::model::ContainerDevices { devices, ..Default::default() };
            PodDevices { namespace: "ml".into(), pod: name(n).1, containers: vec![container] }
        };
        let all = |ids: &[&str]| {
            ids.iter().map(|id| PluginDevice { resource: "r".into(), id: (*id).into() }).collect()
        };
        let former = KubeletState { pods: vec![pod(0, "a"), pod(1, "b")], allocatable: all(&["a", "b"]) };
        let mut state = KubeletState { pods: vec![pod(1, "c")], allocatable: all(&["c", "b"]) };
        add_lacking(&mut state, &former);
        let expected =
            KubeletState { pods: vec![pod(1, "c"), pod(0, "a")], allocatable: all(&["c", "b", "a"]) };
        assert_eq!(state, expected);
    }

    #[test]
    fn a_kubelet_that_knows_no_single_pods_is_asked_for_a_list() {
        let mut asked = Asked::default();
        assert!(asked.add(name(0)));
        assert_eq!(asked.next(false, false, 0), Some(Call::List));
        assert!(!asked.add(name(0)));
        assert_eq!((asked.next(false, false, S), asked.next(true, false, S)), (None, Some(Call::List)));
    }

    #[test]
    fn pods_that_were_asked_for_are_remembered_up_to_a_limit() {
        let mut asked = Asked::default();
        for n in 0..2 * LATELY_MAX {
            asked.add(name(n));
            asked.next(true, true, 0);
        }
        assert_eq!((asked.lately.len(), asked.waiting.len()), (LATELY_MAX, 0));
        assert_eq!(asked.next(false, true, ASK_AGAIN_NS), None);
        assert!(asked.add(name(2 * LATELY_MAX)));
    }
}
