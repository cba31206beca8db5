//! A kubelet that speaks pod-resources v1 on a UNIX socket, with the pods that a test gives it; and what else a kubelet
//! leaves on a node: folders of logs and of cgroups.
//!
//! Speaks the real protocol, since a real kubelet needs a cluster. It can be slow, refuse, lack calls, and restart.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};
use tonnage_proto::podresources::pod_resources_lister_server::{
    PodResourcesLister, PodResourcesListerServer,
};
use tonnage_proto::podresources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ClaimResource, ContainerDevices,
    ContainerResources, DynamicResource, GetPodResourcesRequest, GetPodResourcesResponse,
    ListPodResourcesRequest, ListPodResourcesResponse, PodResources,
};
use tonnage_runtime::clock::Clock;

/// How it answers.
#[derive(Debug, Clone, Default)]
pub struct Manners {
    /// Waits so long before each answer.
    pub slow: Option<Duration>,
    /// Refuses each call so.
    pub refuse: Option<(Code, String)>,
    /// Lacks what older kubelets lack: `Get` and `GetAllocatableResources`.
    pub old: bool,
    /// Lists nothing, and gives single pods.
    pub lists_nothing: bool,
    /// Refuses calls beyond so many in a second and ten at once, by real time.
    pub limit_per_second: Option<u32>,
}

/// Calls at once that a kubelet which limits them answers.
const BURST: f64 = 10.0;

#[derive(Debug, Default)]
struct State {
    pods: Vec<PodResources>,
    allocatable: Vec<ContainerDevices>,
    manners: Manners,
    /// Goes up when anything changes, and the one that a list was last given of.
    generation: u64,
    listed: u64,
    counts: Counts,
    /// Calls that the limit leaves, and as of when.
    tokens: Option<(f64, i64)>,
}

/// Calls that it answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub list: u64,
    pub get: u64,
    pub allocatable: u64,
    /// Calls of any kind, answered or refused.
    pub calls: u64,
}

#[derive(Debug, Clone, Default)]
struct Service(Arc<Mutex<State>>);

/// See the module. It ends when dropped.
#[derive(Debug)]
pub struct Kubelet {
    socket: PathBuf,
    service: Service,
    /// `None`: it is stopped.
    runtime: Option<Runtime>,
}

impl Kubelet {
    /// Starts one that listens on `socket`.
    ///
    /// # Errors
    /// If it cannot listen there.
    pub fn start(socket: &Path) -> anyhow::Result<Self> {
        let mut kubelet = Self { socket: socket.to_owned(), service: Service::default(), runtime: None };
        kubelet.resume()?;
        Ok(kubelet)
    }

    /// Ends it, as for an upgrade: its socket goes, and what it knows stays.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
            let _ = std::fs::remove_file(&self.socket);
        }
    }

    /// Starts it again, with a new socket.
    ///
    /// # Errors
    /// If it cannot listen there.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        let folder = self.socket.parent().context("a socket has a folder")?;
        std::fs::create_dir_all(folder)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(async { UnixListener::bind(&self.socket) })?;
        let service = PodResourcesListerServer::new(self.service.clone());
        runtime.spawn(
            Server::builder().add_service(service).serve_with_incoming(UnixListenerStream::new(listener)),
        );
        self.runtime = Some(runtime);
        Ok(())
    }

    /// Gives it other pods.
    pub fn set_pods(&self, pods: Vec<PodResources>) {
        self.change(|state| state.pods = pods);
    }

    /// Gives it other devices that could be allocated, by resource.
    pub fn set_allocatable(&self, devices: Vec<ContainerDevices>) {
        self.change(|state| state.allocatable = devices);
    }

    pub fn set_manners(&self, manners: Manners) {
        self.change(|state| state.manners = manners);
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        self.service.state().counts
    }

    /// How many answers its client has got that has seen everything there is; `None` while nobody has.
    #[must_use]
    pub fn answers_of_all(&self) -> Option<u64> {
        let state = self.service.state();
        (state.listed == state.generation).then_some(state.counts.list + state.counts.get)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.service.state();
        change(&mut state);
        state.generation += 1;
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn take_token(&mut self, per_second: u32) -> bool {
        let now_ns = Clock::system().monotonic_ns();
        let (left, since_ns) = self.tokens.unwrap_or((BURST, now_ns));
        let left = (left + (now_ns - since_ns) as f64 * 1e-9 * f64::from(per_second)).min(BURST);
        self.tokens = Some((if left < 1.0 { left } else { left - 1.0 }, now_ns));
        left >= 1.0
    }
}

impl Service {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enter(&self) -> Result<(), Status> {
        let manners = {
            let mut state = self.state();
            state.counts.calls += 1;
            if state.manners.limit_per_second.is_some_and(|limit| !state.take_token(limit)) {
                return Err(Status::resource_exhausted("rejected by rate limit"));
            }
            state.manners.clone()
        };
        if let Some(slow) = manners.slow {
            tokio::time::sleep(slow).await;
        }
        manners.refuse.map_or(Ok(()), |(code, message)| Err(Status::new(code, message)))
    }
}

#[tonic::async_trait]
impl PodResourcesLister for Service {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        self.enter().await?;
        let mut state = self.state();
        state.counts.list += 1;
        if state.manners.lists_nothing {
            return Ok(Response::new(ListPodResourcesResponse::default()));
        }
        state.listed = state.generation;
        Ok(Response::new(ListPodResourcesResponse { pod_resources: state.pods.clone() }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        self.enter().await?;
        let mut state = self.state();
        if state.manners.old {
            return Err(Status::unimplemented("unknown method GetAllocatableResources"));
        }
        state.counts.allocatable += 1;
        Ok(Response::new(AllocatableResourcesResponse { devices: state.allocatable.clone() }))
    }

    async fn get(
        &self,
        request: Request<GetPodResourcesRequest>,
    ) -> Result<Response<GetPodResourcesResponse>, Status> {
        self.enter().await?;
        let mut state = self.state();
        if state.manners.old {
            // As kubelets say it that have the call behind a gate.
            return Err(Status::unknown("PodResources API Get method disabled"));
        }
        let wanted = request.into_inner();
        let is_it =
            |pod: &&PodResources| pod.name == wanted.pod_name && pod.namespace == wanted.pod_namespace;
        let pod = state.pods.iter().find(is_it).cloned();
        let pod = pod.ok_or_else(|| Status::unknown(format!("pod {} not found", wanted.pod_name)))?;
        state.counts.get += 1;
        Ok(Response::new(GetPodResourcesResponse { pod_resources: Some(pod) }))
    }
}

/// Makes what a kubelet makes on the node `folder` when a pod of namespace `ml` begins.
///
/// # Errors
/// If a folder cannot be made.
pub fn begin_pod(folder: &Path, name: &str, uid: &str) -> std::io::Result<()> {
    begin_pod_in(folder, "ml", name, uid)
}

/// The same in another namespace.
///
/// # Errors
/// As [`begin_pod`].
pub fn begin_pod_in(folder: &Path, namespace: &str, name: &str, uid: &str) -> std::io::Result<()> {
    std::fs::create_dir_all(folder.join("pod-logs").join(format!("{namespace}_{name}_{uid}")))?;
    let cgroup = pod_cgroup(folder, uid);
    std::fs::create_dir_all(&cgroup)?;
    std::fs::write(folder.join("cgroup/cgroup.controllers"), "cpu memory pids\n")?;
    std::fs::write(cgroup.join("cgroup.events"), "populated 1\nfrozen 0\n")
}

/// Takes away what a kubelet takes away when a pod has ended: its cgroup. Its logs stay for a while.
///
/// # Errors
/// If there is no such pod.
pub fn end_pod(folder: &Path, uid: &str) -> std::io::Result<()> {
    std::fs::remove_dir_all(pod_cgroup(folder, uid))
}

fn pod_cgroup(folder: &Path, uid: &str) -> PathBuf {
    let slice = uid.replace('-', "_");
    let slices = "cgroup/kubepods.slice/kubepods-burstable.slice";
    folder.join(slices).join(format!("kubepods-burstable-pod{slice}.slice"))
}

/// A pod in namespace `ml` whose one container has these devices of `nvidia.com/gpu`, an entry per id.
#[must_use]
pub fn pod(name: &str, ids: &[&str]) -> PodResources {
    pod_of(name, "nvidia.com/gpu", ids)
}

/// The same with devices of another resource.
#[must_use]
pub fn pod_of(name: &str, resource: &str, ids: &[&str]) -> PodResources {
    let devices = ids.iter().map(|id| devices(resource, &[*id])).collect();
    let container = ContainerResources { name: "main".into(), devices, dynamic_resources: Vec::new() };
    PodResources { name: name.into(), namespace: "ml".into(), containers: vec![container] }
}

/// A pod whose one container has these devices by a claim.
#[must_use]
pub fn pod_with_claim(name: &str, devices: &[&str]) -> PodResources {
    let claim = |device: &&str| ClaimResource {
        driver_name: "gpu.nvidia.com".into(),
        pool_name: "node".into(),
        device_name: (*device).to_owned(),
        ..ClaimResource::default()
    };
    let dynamic = DynamicResource {
        claim_name: format!("{name}-gpu"),
        claim_namespace: "ml".into(),
        claim_resources: devices.iter().map(claim).collect(),
    };
    let container =
        ContainerResources { name: "main".into(), devices: Vec::new(), dynamic_resources: vec![dynamic] };
    PodResources { name: name.into(), namespace: "ml".into(), containers: vec![container] }
}

/// One entry of devices.
#[must_use]
pub fn devices(resource: &str, ids: &[&str]) -> ContainerDevices {
    let device_ids = ids.iter().map(|id| (*id).to_owned()).collect();
    ContainerDevices { resource_name: resource.into(), device_ids }
}
