//! `tonnage-agent check`: what the agent sees on this node, what it cannot, and what to do about it, in plain words.
//!
//! Reads only; starts nothing and leaves nothing behind. Exit status: 0 if all that metering needs is there, else 1.

mod signals;
mod slurm;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tonnage_proto::token::PREFIX;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::telemetry::chain;
use tonnage_runtime::tls;

use crate::attribution::{Attribution, Now};
use crate::cloud;
use crate::config::{Config, DriverChoice};
use crate::dmi;
use crate::facts::Sources;
use crate::kubelet::ask_once;
use crate::model::{
    Allocation, AllocationCounts, DeviceProcess, DeviceReading, Holder, Instance, InstanceReading,
    KubeletState, OwnerKind,
};
use crate::node;
use crate::uplink::UplinkError;
use crate::uplink::tls::{connect, is_in_the_clear};

/// Kernel's number of the first pid namespace (PROC_PID_INIT_INO in include/linux/proc_ns.h).
const INIT_PID_NAMESPACE: &str = "pid:[4026531836]";

/// What was found. `problems` are what keeps the agent from metering right.
#[derive(Debug, Default)]
pub struct Findings {
    pub text: String,
    pub problems: u32,
}

impl Findings {
    fn good(&mut self, text: &str) {
        let _ = writeln!(self.text, "  ok    {text}");
    }

    fn note(&mut self, text: &str) {
        let _ = writeln!(self.text, "  note  {text}");
    }

    fn problem(&mut self, text: &str) {
        self.problems += 1;
        let _ = writeln!(self.text, "  PROBLEM  {text}");
    }

    fn section(&mut self, name: &str) {
        let _ = writeln!(self.text, "{name}");
    }
}

/// Looks at everything the agent needs.
pub async fn check(config: &Config) -> Findings {
    let mut findings = Findings::default();
    let clock = Clock::system();
    findings.section(&format!("Node {} of cluster {}", config.node, config.cluster));
    procfs(config, &mut findings);
    findings.section("What is known of the machine");
    machine(config, &mut findings).await;
    findings.section("GPUs");
    let devices = gpus(config, &clock, &mut findings).await;
    findings.section("Slurm");
    slurm::slurm(config, &devices, clock.read(), &mut findings);
    findings.section("Spool and ledger");
    spool(&config.spool, &mut findings);
    token(config, &mut findings);
    tls_files(config, &clock, &mut findings);
    ledger(config, &clock, &mut findings).await;
    let _ = match findings.problems {
        0 => writeln!(findings.text, "Nothing keeps the agent from metering this node."),
        1 => writeln!(findings.text, "1 problem: the line marked PROBLEM says what to do."),
        many => writeln!(findings.text, "{many} problems: each line marked PROBLEM says what to do."),
    };
    findings
}

fn procfs(config: &Config, findings: &mut Findings) {
    let procfs = &config.paths.procfs;
    match node::boot_id(procfs) {
        Ok(boot_id) => findings.good(&format!("{} is readable; boot id {boot_id}", procfs.display())),
        Err(error) => findings.problem(&format!(
            "{}: {error}. Owners come from there: mount the host's /proc and name it with --path.procfs",
            procfs.display()
        )),
    }
    match std::fs::read_link(procfs.join("self/ns/pid")) {
        Ok(namespace) if namespace == Path::new(INIT_PID_NAMESPACE) => {
            findings.good("the host's pids are visible");
        }
        Ok(_) => findings.note(
            "this is not the host's pid namespace: pids that the driver reports cannot be found here. In a pod set \
             hostPID: true, in a container --pid=host",
        ),
        Err(_) => findings.note("cannot tell whether these are the host's pids"),
    }
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let version = if unified { "cgroup v2" } else { "cgroup v1 or hybrid" };
    findings.good(&format!("owners are read from {version}"));
    let pod_logs = &config.paths.pod_logs;
    if pod_logs.is_dir() {
        findings.good(&format!("pods' names come from {}", pod_logs.display()));
    } else {
        findings.note(&format!(
            "{} is not there: pods, if there are any, appear by uid. On Kubernetes mount it, and name it with \
             --path.pod-logs",
            pod_logs.display()
        ));
    }
}

async fn machine(config: &Config, findings: &mut Findings) {
    let found = dmi::read(&config.path_dmi);
    let said = [("vendor", &found.vendor), ("product", &found.product)];
    let said: Vec<String> =
        said.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?))).collect();
    let folder = config.path_dmi.display();
    if said.is_empty() {
        findings.note(&format!("{folder} says nothing of this machine"));
    } else {
        let cloud = found.provider.map(|provider| format!("; a machine of {}", provider.name()));
        findings.good(&format!("{folder}: {}{}", said.join(", "), cloud.unwrap_or_default()));
    }
    let mut sources = Sources { settings: config.machine.clone(), dmi: found.machine, ..Sources::default() };
    match &config.cloud {
        None => findings.note("no cloud's metadata is asked for; --cloud-metadata auto would ask"),
        Some(settings) => match cloud::ask(settings, found.provider).await {
            Ok((provider, machine)) => {
                findings.good(&format!("{} answers at {}", provider.name(), settings.address.ip()));
                sources.cloud = machine;
            }
            Err(error) => findings.note(&format!(
                "the cloud's metadata: {}. Metering goes on without it. In a container, AWS's needs a hop limit of 2, \
                 or the host's network",
                chain(&error)
            )),
        },
    }
    for (name, value, source) in sources.told() {
        findings.good(&format!("{name}: {value}, from {source}"));
    }
    for (key, value) in sources.node_facts().labels {
        findings.good(&format!("label {key}: {value}"));
    }
}

/// The devices, where they can be read.
async fn gpus(config: &Config, clock: &Clock, findings: &mut Findings) -> Vec<DeviceReading> {
    if config.driver == DriverChoice::None {
        findings.note("--driver none: no GPU is looked for");
        return Vec::new();
    }
    let mut driver = node::driver(config, clock, 0, Vec::new());
    let devices = match driver.read() {
        Ok(devices) => devices,
        Err(error) => {
            findings.problem(&chain(&error));
            return Vec::new();
        }
    };
    let info = driver.describe();
    findings.good(&format!("driver {}, NVML {}", info.driver_version, info.nvml_version));
    for missing in &info.missing {
        findings.note(&format!("{missing}; figures that rest on it will say so"));
    }
    if devices.is_empty() {
        findings.note("the driver knows of no GPU");
    }
    let mut attribution =
        Attribution::new(config.paths.clone(), node::boot_id(&config.paths.procfs).unwrap_or_default());
    let reading = clock.read();
    let now = Now { reading, ledger_ns: reading.wall_ns };
    let list = kubelet(config, findings).await.map(Arc::new);
    attribution.allocate(&devices, list.as_ref().map(|list| (list, reading.boot_ns)), now);
    for device in &devices {
        gpu(
            device,
            |instance, processes| attribution.resolve(&device.info, instance, processes, now),
            findings,
        );
    }
    allocations(attribution.counts(), findings);
    devices
}

type Resolved = (Vec<Holder>, Allocation);

fn gpu(
    device: &DeviceReading,
    mut resolve: impl FnMut(Option<&Arc<Instance>>, &[DeviceProcess]) -> Resolved,
    findings: &mut Findings,
) {
    let name = format!("{} {}", device.info.uuid, device.info.model);
    match &device.processes {
        Err(reason) => findings.problem(&format!("{name}: its processes cannot be listed: {reason}")),
        Ok(processes) => {
            findings.good(&format!("{name}: {} processes", processes.len()));
            holders(resolve(None, processes), findings);
        }
    }
    findings.good(&format!("  the driver tells: {}", signals::told(device)));
    if let Some(mig) = &device.mig {
        findings.good(&format!("  {}", signals::layout(mig, device.info.slices)));
        match device.signals.sees_instances {
            Some(true) => findings.good("  privileged: one list names the instance of each process"),
            Some(false) => findings.note(
                "  not privileged: each instance is asked for its processes, idle ones with every fifth sample. In a \
                 container, see NVIDIA_MIG_MONITOR_DEVICES",
            ),
            None => findings.note("  privileged or not: no process yet to tell by"),
        }
    }
    for InstanceReading { instance, processes, .. } in device.mig.iter().flat_map(|mig| &mig.instances) {
        let name = format!("  {} {}", instance.uuid, instance.profile);
        match processes {
            Err(reason) => findings.problem(&format!("{name}: its processes cannot be listed: {reason}")),
            Ok(processes) => {
                let of = format!("{} of {} slices", instance.slices, device.info.slices);
                findings.good(&format!("{name}, {of}: {} processes", processes.len()));
                holders(resolve(Some(instance), processes), findings);
            }
        }
    }
    if device.utilisation.is_none() && device.mig.is_none() {
        findings.note(&format!("{name}: no utilisation per process: busy time will be zero and say so"));
    }
    if device.energy_mj.is_none() {
        findings.note(&format!("{name}: no energy counter"));
    }
}

fn holders((holders, allocation): Resolved, findings: &mut Findings) {
    for claim in &allocation.claims {
        let parts = format!("{} of {} parts", claim.parts, allocation.parts.max(1));
        findings.good(&format!("  allocated ({parts}): {}", describe(&claim.owner)));
    }
    for Holder { pid, owner, .. } in holders {
        let holds =
            allocation.claims.is_empty() || allocation.claims.iter().any(|claim| claim.owner == owner);
        if !holds && owner.kind != OwnerKind::Unowned {
            findings.note(&format!(
                "  pid {pid}: {}, an intruder: the GPU is allocated to others",
                describe(&owner)
            ));
        } else if owner.kind == OwnerKind::Unowned {
            findings.note(&format!(
                "  pid {pid}: whose it is cannot be known; its time will be shown as unowned"
            ));
        } else {
            findings.good(&format!("  pid {pid}: {}", describe(&owner)));
        }
    }
}

/// What the kubelet says, if there is one.
async fn kubelet(config: &Config, findings: &mut Findings) -> Option<KubeletState> {
    let socket = &config.kubelet_socket;
    if !socket.exists() {
        findings.note(&format!(
            "{} is not there: without a kubelet's word a pod holds a GPU only while it has a process on it. On \
             Kubernetes mount the folder (not the socket), and name it with --kubelet.socket",
            socket.display()
        ));
        return None;
    }
    match ask_once(socket).await {
        Ok(state) => {
            findings.good(&format!("the kubelet lists {} pods with devices", state.pods.len()));
            Some(state)
        }
        Err(reason) => {
            findings.problem(&format!(
                "the kubelet at {}: {reason}. The agent needs to read and write that socket, as root",
                socket.display()
            ));
            None
        }
    }
}

fn allocations(counts: AllocationCounts, findings: &mut Findings) {
    if counts.unconfirmed > 0 {
        findings.note(&format!(
            "{} pods hold GPUs without proof that they live, or which uid they have: mount the host's cgroups \
             (--path.cgroup) and its pod logs (--path.pod-logs). Their time is marked held_inferred",
            counts.unconfirmed
        ));
    }
    if counts.unresolved > 0 {
        findings.note(&format!(
            "{} device ids in the kubelet's list are no GPU of this node: their pods hold only while they have a \
             process on a GPU",
            counts.unresolved
        ));
    }
    if counts.hami > 0 {
        findings.note(&format!(
            "{} device ids are HAMi's, which do not say which GPU is used: owners come from processes",
            counts.hami
        ));
    }
}

fn describe(owner: &crate::model::Owner) -> String {
    let parts = [
        ("namespace", &owner.namespace),
        ("pod", &owner.pod),
        ("pod uid", &owner.pod_uid),
        ("container", &owner.container_id),
        ("container name", &owner.container),
        ("job", &owner.job_id),
        ("account", &owner.account),
        ("partition", &owner.partition),
        ("step", &owner.step),
        ("unit", &owner.unit),
        ("user", &owner.user),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    parts.join(", ")
}

fn spool(path: &Path, findings: &mut Findings) {
    let existing = path.ancestors().find(|folder| folder.exists()).unwrap_or(path);
    let writable = rustix::fs::access(existing, rustix::fs::Access::WRITE_OK);
    match (writable, rustix::fs::statvfs(existing)) {
        (Ok(()), Ok(disk)) => {
            let free_mb = disk.f_bavail.saturating_mul(disk.f_frsize) / 1_000_000;
            let text = format!("spool {}: writable, {free_mb} MB free", path.display());
            if free_mb < 512 { findings.note(&text) } else { findings.good(&text) }
        }
        (Err(error), _) | (_, Err(error)) => findings.problem(&format!(
            "spool {}: {} is not writable ({error}). Make the folder for the agent's user, or choose another with \
             --spool",
            path.display(),
            existing.display()
        )),
    }
}

fn token(config: &Config, findings: &mut Findings) {
    match config.token_file.as_ref().map(|path| (path, std::fs::read_to_string(path))) {
        None if config.tls.as_ref().is_some_and(|tls| tls.files.identity.is_some()) => {
            findings.good("no token is sent: this node is known by its certificate");
        }
        None => findings.note("no token is sent (--insecure-loopback)"),
        Some((path, Ok(text))) if text.trim().starts_with(PREFIX) => {
            findings.good(&format!("token from {}", path.display()));
        }
        Some((path, Ok(_))) => findings.problem(&format!(
            "token file {} holds no token; it should be one line that begins with {PREFIX}",
            path.display()
        )),
        Some((path, Err(error))) => findings.problem(&format!(
            "token file {}: {error}. Make a token with `tonnage-aggregator token add --cluster {} --node {}`",
            path.display(),
            config.cluster,
            config.node
        )),
    }
}

fn tls_files(config: &Config, clock: &Clock, findings: &mut Findings) {
    let Some(settings) = &config.tls else {
        if is_in_the_clear(&config.aggregator) {
            findings.note("usage and token travel in the clear: use an https:// address and --tls-ca");
        }
        return;
    };
    for line in tls::describe(&settings.files, clock) {
        match line {
            Ok(text) => findings.good(&text),
            Err(error) => findings.problem(&chain(&error)),
        }
    }
}

async fn ledger(config: &Config, clock: &Clock, findings: &mut Findings) {
    let uri = config.aggregator.uri().to_string();
    let endpoint = config.aggregator.clone().connect_timeout(Duration::from_secs(5));
    match connect(&endpoint, config.tls.as_ref(), clock).await {
        Ok(_) => findings.good(&format!("ledger {uri} answers")),
        // Said above, file by file.
        Err(UplinkError::Tls(_)) => {}
        Err(error) => findings.note(&format!(
            "ledger {uri}: {}. Metering goes on without it; the spool keeps what is measured",
            chain(&error)
        )),
    }
}
