//! Whose the devices are: allocation -> pod or job, and pid -> life of a process -> cgroup -> owner.
//!
//! ```text
//! kubelet's list -> device ids -> devices      |
//!               '-> names -> uids that live    |-> grants -> claims of each device -.
//! Slurm's hooks  -> device nodes -> devices    |                                    +-> joined owners
//! driver's virtual GPUs -> virtual machines    |                                    |
//! driver's pids  -> /proc -> cgroup -> owner ---------------------------------------'
//! ```
//!
//! Evidence is what only root writes: cgroup paths (see `cgroup` for which part of them), the kubelet's folders
//! of logs, `/proc`. No environment, no command line.
//!
//! The start of each process is read at every tick, since pids are used again; its cgroup once per life and then
//! every 30 s, because Slurm adopts sessions that are running. Only the pids on a device are looked at. All state
//! is bounded: a process that is not seen for a minute is forgotten.
//!
//! Not for: what a process that left the device did, or which container of a pod has which name.

pub mod cgroup;
mod container_names;
mod device_ids;
mod devices;
mod dra_checkpoint;
mod grants;
mod guests;
mod kubelet;
mod live_pods;
pub mod mps;
mod pod_names;
mod pods;
mod process;
pub mod slurm;
mod users;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tonnage_runtime::clock::Reading;

use crate::attribution::cgroup::Place;
use crate::attribution::container_names::ContainerNames;
use crate::attribution::devices::{Devices, Place as DevicePlace};
use crate::attribution::dra_checkpoint::Checkpoint;
use crate::attribution::guests::Guests;
use crate::attribution::kubelet::Listed;
use crate::attribution::live_pods::LivePods;
use crate::attribution::pod_names::{PodName, PodNames};
use crate::attribution::process::Start;
use crate::attribution::slurm::Jobs;
use crate::attribution::slurm::sluid::{Sluids, is_sluid};
use crate::attribution::users::Users;
use crate::model::{
    Allocation, AllocationCounts, DeviceInfo, DeviceProcess, DeviceReading, Holder, Instance, KubeletState,
    Owner, OwnerKind,
};

/// How long a cgroup is believed; and that of a pod without a name, which may get one any moment.
const RECHECK_NS: i64 = 30_000_000_000;
const RECHECK_NAMELESS_NS: i64 = 10_000_000_000;
/// Of a Slurm job whose number is not known: at every tick.
const RECHECK_NUMBERLESS_NS: i64 = 0;
/// A process that is gone from `/proc` is still itself on the device for this long: two of the longest periods.
const ENDED_NS: i64 = 10_000_000_000;
const FORGET_AFTER_NS: i64 = 60_000_000_000;
/// Starts that differ by more than this in ledger time were reckoned on either side of a step of the clock.
const SAME_START_NS: u64 = 1_000_000_000;

/// Where the node's facts are; in a container these are mounts of the host's.
#[derive(Debug, Clone)]
pub struct Paths {
    /// `/proc`.
    pub procfs: PathBuf,
    /// `/sys/fs/cgroup`.
    pub cgroup: PathBuf,
    /// `/var/log/pods`; it need not exist.
    pub pod_logs: PathBuf,
    /// `/etc/passwd`; it need not exist.
    pub passwd: PathBuf,
    /// Of NVIDIA's DRA driver; it need not exist.
    pub dra_checkpoint: PathBuf,
    /// Docker's folder of containers and Podman's list of them; they need not exist.
    pub docker: PathBuf,
    pub podman: PathBuf,
    pub slurm: slurm::Paths,
}

/// The moment of a tick.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub reading: Reading,
    /// Its ledger time: it carries a process's start from the boot clock into ledger time.
    pub ledger_ns: i64,
}

#[derive(Debug)]
pub struct Attribution {
    procfs: PathBuf,
    /// `/proc` is not that of the host's pids, which the driver reports.
    foreign_pids: bool,
    pod_names: PodNames,
    live_pods: LivePods,
    checkpoint: Checkpoint,
    listed: Listed,
    jobs: Jobs,
    sluids: Sluids,
    /// Of this boot of the node: a job's file of another is no job.
    boot_id: String,
    container_names: ContainerNames,
    users: Users,
    /// The last known life of each pid.
    lives: HashMap<u32, Life>,
    /// The driver listed a client of MPS once in this run, so it can.
    lists_mps_clients: bool,
    swept_at_ns: i64,
    /// By device and instance, as of this tick.
    allocations: BTreeMap<DevicePlace, Allocation>,
    guests: Guests,
    counts: AllocationCounts,
    /// Pods on a device of which the kubelet's list says nothing.
    unlisted: Vec<PodName>,
}

#[derive(Debug)]
struct Life {
    start: Start,
    started_ns: i64,
    owner: Arc<Owner>,
    /// It is a server of MPS, by its name.
    mps_server: Option<mps::Server>,
    /// Boot clock.
    recheck_at_ns: i64,
    seen_at_ns: i64,
}

impl Attribution {
    #[must_use]
    pub fn new(paths: Paths, boot_id: String) -> Self {
        Self {
            jobs: Jobs::new(paths.slurm),
            sluids: Sluids::new(paths.cgroup.clone(), paths.procfs.clone()),
            boot_id,
            foreign_pids: process::are_foreign(&paths.procfs),
            procfs: paths.procfs,
            pod_names: PodNames::new(paths.pod_logs),
            live_pods: LivePods::new(paths.cgroup),
            checkpoint: Checkpoint::new(paths.dra_checkpoint),
            listed: Listed::default(),
            container_names: ContainerNames::new(paths.docker, paths.podman),
            users: Users::new(paths.passwd),
            lives: HashMap::new(),
            lists_mps_clients: false,
            swept_at_ns: 0,
            allocations: BTreeMap::new(),
            guests: Guests::default(),
            counts: AllocationCounts::default(),
            unlisted: Vec::new(),
        }
    }

    /// Works out to whom the devices are allocated at this tick: once per tick, before [`Attribution::resolve`].
    ///
    /// `kubelet` is its last list, and when it was read on the boot clock.
    pub fn allocate(
        &mut self,
        devices: &[DeviceReading],
        kubelet: Option<(&Arc<KubeletState>, i64)>,
        now: Now,
    ) {
        self.unlisted.clear();
        self.listed.update(kubelet.map(|(list, _)| list), kubelet.map_or(0, |(_, at_ns)| at_ns));
        self.checkpoint.refresh();
        let found = Devices::new(devices, &self.checkpoint, self.listed.ids());
        let (names, live, now_ns) = (&mut self.pod_names, &mut self.live_pods, now.reading.monotonic_ns);
        let standing = |name: &PodName| pods::standing(names, live, name, now_ns);
        let (mut all, mut counts) = self.listed.grants(&found, standing, now.reading.boot_ns);
        let (of_jobs, unresolved) = slurm::grants(self.jobs.read(&self.boot_id, now.reading), &found, now);
        let (guests, of_guests) = Guests::of(devices);
        all.extend(of_jobs.into_iter().chain(of_guests));
        self.guests = guests;
        counts.unresolved += unresolved;
        (self.allocations, self.counts) = (grants::by_place(all), counts);
    }

    /// The processes of one device, or of one instance of it, with their owners, in the order given, and to whom it is
    /// allocated. An instance that is allocated to nobody is held by whom its whole GPU was given to.
    pub fn resolve(
        &mut self,
        device: &DeviceInfo,
        instance: Option<&Arc<Instance>>,
        pids: &[DeviceProcess],
        now: Now,
    ) -> (Vec<Holder>, Allocation) {
        self.sweep(now.reading.boot_ns);
        let mut holders: Vec<Holder> =
            pids.iter().map(|process| self.holder(*process, now.ledger_ns, now.reading)).collect();
        let mps = self.set_mps_servers_apart(&mut holders, pids);
        if instance.is_none() && !self.foreign_pids {
            self.guests.join(&device.uuid, &mut holders, &self.procfs);
        }
        for owner in holders.iter().map(|holder| &holder.owner).filter(|owner| !owner.pod.is_empty()) {
            let name = (owner.namespace.clone(), owner.pod.clone());
            if !self.listed.has(&name) && !self.unlisted.contains(&name) {
                self.unlisted.push(name);
            }
        }
        let of =
            |instance: Option<Arc<Instance>>| self.allocations.get(&(Arc::clone(&device.uuid), instance));
        let mut allocation = of(instance.cloned()).or_else(|| of(None)).cloned().unwrap_or_default();
        allocation.mps = mps;
        grants::join(&mut holders, &allocation);
        (holders, allocation)
    }

    /// A server of MPS works for its clients: where the driver says who they are, they are on the device and it is not.
    /// Where the driver does not, nobody can say whose the server's use is. Tells whether MPS is at work here.
    fn set_mps_servers_apart(&mut self, holders: &mut Vec<Holder>, pids: &[DeviceProcess]) -> bool {
        let clients: Vec<u32> = pids.iter().filter(|p| p.mps_client).map(|process| process.pid).collect();
        self.lists_mps_clients |= !clients.is_empty();
        // Pids of another namespace name other processes here.
        let mut is_there = !clients.is_empty();
        if self.foreign_pids {
            return is_there;
        }
        let servers: Vec<(u32, mps::Server)> = holders
            .iter()
            .filter(|holder| !clients.contains(&holder.pid))
            .filter_map(|holder| Some((holder.pid, self.lives.get(&holder.pid)?.mps_server?)))
            .collect();
        for (pid, server) in servers {
            if !server.is_believed(clients.iter().map(|client| process::uid(&self.procfs, *client))) {
                continue;
            }
            is_there = true;
            if self.lists_mps_clients {
                holders.retain(|holder| holder.pid != pid);
            } else if let Some(holder) = holders.iter_mut().find(|holder| holder.pid == pid) {
                (holder.owner, holder.inferred) = (mps::nobody(), true);
            }
        }
        is_there
    }

    /// How many of the kubelet's allocations counted at this tick.
    #[must_use]
    pub fn counts(&self) -> AllocationCounts {
        self.counts
    }

    /// True if pods came or went since this was asked last: the kubelet has a new list.
    pub fn pods_changed(&mut self, now: Now) -> bool {
        self.pod_names.refresh(now.reading.monotonic_ns)
    }

    /// Pods that use a device and were in no list at this tick.
    #[must_use]
    pub fn unlisted(&self) -> &[PodName] {
        &self.unlisted
    }

    /// True if the pids that the driver reports may be others here.
    #[must_use]
    pub fn has_foreign_pids(&self) -> bool {
        self.foreign_pids
    }

    fn holder(&mut self, process: DeviceProcess, tick_now_ns: i64, reading: Reading) -> Holder {
        let DeviceProcess { pid, memory_bytes, mps_client: _ } = process;
        let now_ns = reading.boot_ns;
        if let Some(life) = self.lives.get(&pid).filter(|life| life.seen_at_ns == now_ns) {
            // Seen on another device in this very tick.
            return Holder {
                pid,
                owner: Arc::clone(&life.owner),
                started_ns: Some(life.started_ns),
                memory_bytes,
                inferred: self.foreign_pids,
            };
        }
        let Some(start) = process::start(&self.procfs, pid) else {
            // It ended since the driver listed it, or its context outlives it: what was known of it still holds.
            let known = self.lives.get(&pid);
            let known = known.filter(|life| now_ns.saturating_sub(life.seen_at_ns) <= ENDED_NS);
            return Holder {
                pid,
                // Else it is on the device, so it holds it; and nobody can say whose it is.
                owner: known.map(|life| Arc::clone(&life.owner)).unwrap_or_default(),
                started_ns: known.map(|life| life.started_ns),
                memory_bytes,
                inferred: self.foreign_pids,
            };
        };
        let known = self.lives.remove(&pid).filter(|life| life.start == start);
        let started_ns = tick_now_ns.saturating_sub(now_ns.saturating_sub(start.boot_ns()));
        let life = match known {
            Some(known) if now_ns < known.recheck_at_ns => {
                Life { started_ns: steady(known.started_ns, started_ns), seen_at_ns: now_ns, ..known }
            }
            known => {
                let before = known.as_ref().map(|life| life.owner.as_ref());
                let (owner, believe_ns) = self.look_up(pid, start, before, reading);
                Life {
                    start,
                    started_ns: known.map_or(started_ns, |life| steady(life.started_ns, started_ns)),
                    owner: Arc::new(owner),
                    mps_server: mps::server(&self.procfs, pid),
                    recheck_at_ns: now_ns.saturating_add(believe_ns),
                    seen_at_ns: now_ns,
                }
            }
        };
        let holder = Holder {
            pid,
            owner: Arc::clone(&life.owner),
            started_ns: Some(life.started_ns),
            memory_bytes,
            inferred: self.foreign_pids,
        };
        self.lives.insert(pid, life);
        holder
    }

    /// The owner of this life of the pid, and how long to believe it.
    fn look_up(&mut self, pid: u32, start: Start, before: Option<&Owner>, reading: Reading) -> (Owner, i64) {
        let text = process::cgroup(&self.procfs, pid);
        // The pid may have been used again in between: then this was another's cgroup.
        let text = text.filter(|_| process::start(&self.procfs, pid) == Some(start));
        let Some(text) = text else { return (Owner::default(), 0) };
        let owner = self.owner(pid, cgroup::parse(&text), before, reading);
        let recheck_ns = match owner.kind {
            OwnerKind::Pod if owner.pod.is_empty() => RECHECK_NAMELESS_NS,
            OwnerKind::SlurmJob if is_sluid(&owner.job_id) => RECHECK_NUMBERLESS_NS,
            _ => RECHECK_NS,
        };
        (owner, recheck_ns)
    }

    fn owner(&mut self, pid: u32, place: Place, before: Option<&Owner>, reading: Reading) -> Owner {
        let user = |users: &mut Users, procfs: &Path, uid: Option<u32>| {
            uid.or_else(|| process::uid(procfs, pid)).map(|uid| users.name(uid)).unwrap_or_default()
        };
        let mut owner = Owner::default();
        match place {
            Place::Nowhere => {}
            Place::Pod { uid, container_id } => {
                owner.kind = OwnerKind::Pod;
                // A name that was known stays: the kubelet may clear the folder while the last process ends.
                let known = before.filter(|before| before.pod_uid == uid && !before.pod.is_empty());
                let known = known.map(|before| (before.namespace.clone(), before.pod.clone()));
                let name = known.or_else(|| self.pod_names.get(&uid, reading.monotonic_ns));
                (owner.namespace, owner.pod) = name.unwrap_or_default();
                (owner.pod_uid, owner.container_id) = (uid, container_id);
            }
            Place::Slurm { job, step, uid } => {
                owner.kind = OwnerKind::SlurmJob;
                // What cannot be found out yet is looked for again at the next tick.
                owner.job_id = self.sluids.job_id(&job).map_or(job.clone(), str::to_owned);
                owner.step = step;
                owner.user = user(&mut self.users, &self.procfs, uid);
            }
            Place::Container { id } => {
                owner.kind = OwnerKind::Container;
                owner.container = self.container_names.get(&id, reading.monotonic_ns).unwrap_or_default();
                owner.container_id = id;
            }
            Place::User { uid, container_id } => {
                (owner.kind, owner.container_id) = (OwnerKind::User, container_id);
                owner.user = user(&mut self.users, &self.procfs, uid);
            }
            Place::Unit { name } => {
                (owner.kind, owner.unit) = (OwnerKind::SystemdUnit, name);
                owner.user = user(&mut self.users, &self.procfs, None);
            }
        }
        owner
    }

    fn sweep(&mut self, now_ns: i64) {
        if now_ns.saturating_sub(self.swept_at_ns) >= FORGET_AFTER_NS / 6 {
            self.swept_at_ns = now_ns;
            self.lives.retain(|_, life| now_ns.saturating_sub(life.seen_at_ns) < FORGET_AFTER_NS);
        }
    }
}

/// A start reckoned anew differs by slewing and by the moments between readings of two clocks. It keeps its first
/// value, by which metering knows a process again, unless the clock was stepped.
fn steady(known_ns: i64, reckoned_ns: i64) -> i64 {
    if known_ns.abs_diff(reckoned_ns) > SAME_START_NS { reckoned_ns } else { known_ns }
}

#[cfg(test)]
mod tests;
