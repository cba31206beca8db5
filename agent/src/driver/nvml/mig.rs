//! A GPU with MIG on: its instances, who is on each, how much of each is used, and what is left over.
//!
//! The instances are listed every so many reads, and at once when the driver tells that the GPU was cut anew, when a
//! process is on an instance that is not known, and when a call about one finds it gone. No MIG device's handle is kept
//! between reads: who holds one may keep the GPU from being cut anew.
//!
//! Processes: the whole device's list names each one's instance, in one call, if the agent has the privileges; else
//! each instance is asked by itself, and those that had no process only every fifth read. Which of the two it is shows
//! as soon as there is a process.

use std::collections::BTreeSet;
use std::sync::Arc;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::errors::{Missing, is_gone, is_lasting, lacking, list_error};
use super::gpm::{Gpm, asked_for_gpm};
use super::memory::MemorySlices;
use super::raw::{self, Buffers, Handle, List, Listed};
use crate::driver::lives::Lives;
use crate::driver::partition::{profile, slices_of_model, stranded};
use crate::driver::processes;
use crate::model::{DeviceProcess, Instance, InstanceReading, InstanceUtilisation, MigReading};

/// NVML's kinds of profiles have numbers from 0 on; there are fewer.
const PROFILES: u32 = 32;
/// Places of a GPU for MIG devices that are looked into; GPUs have seven.
const PLACES_MAX: u32 = 64;
/// An instance without processes is asked for them once in so many reads.
const IDLE_EVERY: usize = 5;
const INSTANCES: &str = "MIG instances";
const PRIVILEGES: &str = "processes of all instances at once";

/// What a partition's calls need of its device.
pub(super) struct Gpu<'a> {
    pub(super) nvml: &'a Nvml,
    pub(super) handle: Handle,
    pub(super) slices: u32,
    pub(super) memory_bytes: u64,
    /// Monotonic.
    pub(super) now_ns: i64,
}

pub(super) struct Mig {
    /// NVML's id and the compute slices of each profile that the GPU can have.
    profiles: Vec<(u32, u32)>,
    memory: MemorySlices,
    parts: Vec<Part>,
    stranded: Option<u32>,
    /// Reads until the instances are listed again.
    reads_left: u32,
    reads: usize,
    /// They were listed once: what was known then is good for a listing that fails.
    listed: bool,
    /// The driver does not let them be listed: the GPU is read as a whole.
    refused: bool,
    sight: Sight,
    /// Instances that processes are on and that are in no list.
    strangers: BTreeSet<(u32, u32)>,
    gpm: Gpm,
    /// It was asked whether the GPU has GPM.
    gpm_asked: bool,
}

struct Part {
    instance: Arc<Instance>,
    /// Of its GPU instance.
    gpu_slices: Option<u32>,
    had_processes: bool,
}

/// How processes of instances are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// There was none yet.
    Unknown,
    Whole,
    Each,
}

/// Processes by part, and those of none.
type Seen = (Vec<Result<Vec<DeviceProcess>, String>>, Vec<DeviceProcess>);

/// A reading of a partition, and the processes that are on no instance.
pub(super) type Reading = (Option<MigReading>, Result<Vec<DeviceProcess>, NvmlError>);

impl Mig {
    pub(super) fn new(profiles: Vec<(u32, u32)>) -> Self {
        Self {
            profiles,
            memory: MemorySlices::default(),
            parts: Vec::new(),
            stranded: None,
            reads_left: 0,
            reads: 0,
            listed: false,
            refused: false,
            sight: Sight::Unknown,
            strangers: BTreeSet::new(),
            gpm: Gpm::default(),
            gpm_asked: false,
        }
    }

    pub(super) fn sees_instances(&self) -> Option<bool> {
        match self.sight {
            Sight::Unknown => None,
            Sight::Whole => Some(true),
            Sight::Each => Some(false),
        }
    }

    pub(super) fn is_due(&self) -> bool {
        self.reads_left == 0 && !self.refused
    }

    /// The next read lists the instances.
    pub(super) fn is_stale(&mut self) {
        self.reads_left = 0;
    }

    /// After an enumeration: what was refused is asked again.
    pub(super) fn ask_again(&mut self) {
        (self.refused, self.reads_left, self.gpm_asked) = (false, 0, false);
        self.memory.ask_again();
        self.sight = if self.sight == Sight::Each { Sight::Unknown } else { self.sight };
    }

    pub(super) fn instance(&self, ids: (u32, u32)) -> Option<Arc<Instance>> {
        self.parts.iter().find(|part| part.has(ids)).map(|part| Arc::clone(&part.instance))
    }

    /// `every`: list the instances again after so many reads.
    pub(super) fn read(
        &mut self,
        gpu: &Gpu<'_>,
        buffers: &mut Buffers,
        lives: &mut Lives,
        missing: &mut Missing,
        every: u32,
    ) -> Reading {
        self.reads = self.reads.wrapping_add(1);
        if self.is_due() {
            self.list(gpu, lives, missing, every);
        } else {
            self.reads_left = self.reads_left.saturating_sub(1);
        }
        if self.refused {
            let whole = lists(gpu, gpu.handle, buffers, missing);
            return (None, whole.map(|listed| processes::merge(listed.into_iter().map(|one| one.process))));
        }
        if !self.listed {
            // Nobody knows into what it is cut, so nobody knows who holds what.
            return (Some(MigReading::default()), Err(NvmlError::Unknown));
        }
        let mut stale = false;
        let mut seen = self.processes(gpu, buffers, missing, &mut stale);
        if stale {
            self.list(gpu, lives, missing, every);
            seen = self.processes(gpu, buffers, missing, &mut stale);
        }
        let (of_parts, whole) = match seen {
            Ok((of_parts, whole)) => (of_parts, Ok(whole)),
            Err(error) => (vec![Err(list_error(&error)); self.parts.len()], Err(error)),
        };
        let utilisation = self.utilisation(gpu, missing);
        let parts = self.parts.iter().zip(of_parts).zip(utilisation);
        let instances = parts
            .map(|((part, processes), utilisation)| InstanceReading {
                instance: Arc::clone(&part.instance),
                processes,
                utilisation,
            })
            .collect();
        (Some(MigReading { instances, stranded_slices: self.stranded }), whole)
    }

    /// What fails for this once leaves what was known, and is tried again by the next read; what is refused, after the
    /// next enumeration.
    fn list(&mut self, gpu: &Gpu<'_>, lives: &mut Lives, missing: &mut Missing, every: u32) {
        let device = gpu.handle.device(gpu.nvml);
        match found(&device, missing) {
            Ok(found) => {
                self.listed = true;
                let within = |(instance, of): (Instance, Option<u32>)| {
                    // What the driver says of a part cannot be more than the whole.
                    let memory_bytes = instance.memory_bytes.min(gpu.memory_bytes);
                    let slices = instance.slices.clamp(1, gpu.slices.max(1));
                    (Instance { slices, memory_bytes, ..instance }, of.map(|slices| slices.min(gpu.slices)))
                };
                let mut found: Vec<_> = found.into_iter().map(within).collect();
                let again = self.memory.tell(&device, &self.profiles, &mut found, missing);
                let (instances, slices): (Vec<_>, Vec<_>) = found.into_iter().unzip();
                let part = |(instance, gpu_slices)| {
                    let known = self.parts.iter().find(|part| part.instance == instance);
                    Part { had_processes: known.is_none_or(|part| part.had_processes), instance, gpu_slices }
                };
                self.parts = lives.listed(instances).into_iter().zip(slices).map(part).collect();
                self.stranded = self.remainder(&device, gpu.slices, missing);
                self.reads_left = if again { 0 } else { every.saturating_sub(1) };
                missing.remove(INSTANCES);
                let parts = &self.parts;
                self.gpm.retain(|id| parts.iter().any(|part| part.instance.gpu_instance == id));
            }
            Err(error) if is_lasting(&error) => {
                (self.parts, self.refused) = (Vec::new(), true);
                missing.insert(INSTANCES, format!("the GPU is read as a whole: {error}"));
            }
            Err(error) => {
                self.reads_left = 0;
                missing.insert(INSTANCES, format!("what was known is used: {error}"));
            }
        }
    }

    /// Slices that no instance can be made of.
    fn remainder(&self, device: &Device<'_>, slices: u32, missing: &mut Missing) -> Option<u32> {
        let mut sliced = 0;
        let mut counted = BTreeSet::new();
        for part in &self.parts {
            if counted.insert(part.instance.gpu_instance?) {
                sliced += part.gpu_slices?;
            }
        }
        let mut room = Vec::with_capacity(self.profiles.len());
        for &(id, slices) in &self.profiles {
            let count = lacking("stranded slices", raw::remaining_capacity(device, id), missing).ok()??;
            room.push((slices, count));
        }
        (!room.is_empty()).then(|| stranded(slices, sliced, room))
    }

    fn processes(
        &mut self,
        gpu: &Gpu<'_>,
        buffers: &mut Buffers,
        missing: &mut Missing,
        stale: &mut bool,
    ) -> Result<Seen, NvmlError> {
        let mut of_parts: Vec<Vec<DeviceProcess>> = vec![Vec::new(); self.parts.len()];
        let mut whole = Vec::new();
        let was = self.sight;
        if was != Sight::Each {
            match lists(gpu, gpu.handle, buffers, missing) {
                Ok(listed) => self.sort(listed, &mut of_parts, &mut whole, stale),
                Err(error) if is_lasting(&error) => {
                    missing.insert(PRIVILEGES, error.to_string());
                    self.sight = Sight::Each;
                }
                Err(error) => return Err(error),
            }
        }
        let mut of_parts: Vec<Result<_, String>> =
            of_parts.into_iter().map(|listed| Ok(processes::merge(listed))).collect();
        for (at, part) in self.parts.iter_mut().enumerate() {
            // Who cannot be told by number can only be asked.
            let numbered = part.ids().is_some();
            let in_turn = part.had_processes || (self.reads + at).is_multiple_of(IDLE_EVERY);
            if (self.sight == Sight::Whole && numbered) || !in_turn {
                continue;
            }
            match part.ask(gpu, buffers, missing, stale) {
                Ok(listed) => {
                    if !listed.is_empty() && numbered && self.sight == Sight::Unknown {
                        self.sight = Sight::Each;
                        missing.insert(
                            PRIVILEGES,
                            "the whole GPU's list does not show them: each instance is asked by itself"
                                .into(),
                        );
                    }
                    part.had_processes = !listed.is_empty();
                    of_parts[at] = Ok(listed);
                }
                Err(error) => {
                    *stale |= is_gone(&error);
                    of_parts[at] = Err(list_error(&error));
                }
            }
        }
        // In the read that shows how processes are seen, some are in both lists.
        let placed: BTreeSet<u32> = of_parts.iter().flatten().flatten().map(|process| process.pid).collect();
        whole.retain(|process| !placed.contains(&process.pid));
        Ok((of_parts, processes::merge(whole)))
    }

    /// Each process of the whole device's list to its part.
    fn sort(
        &mut self,
        listed: Vec<Listed>,
        of_parts: &mut [Vec<DeviceProcess>],
        whole: &mut Vec<DeviceProcess>,
        stale: &mut bool,
    ) {
        let mut strangers = BTreeSet::new();
        for Listed { process, ids } in listed {
            let Some(ids) = ids else {
                whole.push(process);
                continue;
            };
            self.sight = Sight::Whole;
            match self.parts.iter().position(|part| part.has(ids)) {
                Some(at) => of_parts[at].push(process),
                // It is not on what is in no instance, and what it is on is not known.
                None => _ = strangers.insert(ids),
            }
        }
        // Those that a listing did not bring are not looked for again by every read.
        *stale |= !strangers.is_subset(&self.strangers);
        self.strangers = strangers;
    }

    /// By part, of its GPU instance.
    fn utilisation(&mut self, gpu: &Gpu<'_>, missing: &mut Missing) -> Vec<Option<InstanceUtilisation>> {
        const WHAT: &str = "utilisation of instances (GPM)";
        let lib = gpu.nvml.lib();
        if !self.gpm_asked {
            self.gpm_asked = asked_for_gpm(lib, gpu.handle, WHAT, missing);
        }
        let mut of = Vec::with_capacity(self.parts.len());
        for at in 0..self.parts.len() {
            let part = &self.parts[at];
            let (Some(id), Some(slices), false) =
                (part.instance.gpu_instance, part.gpu_slices, !self.gpm_asked || missing.contains_key(WHAT))
            else {
                of.push(None);
                continue;
            };
            let same = |other: &&Part| other.instance.gpu_instance == Some(id);
            if let Some(first) = self.parts[..at].iter().position(|other| same(&other)) {
                of.push(of[first]);
                continue;
            }
            let life: Vec<_> =
                self.parts.iter().filter(same).map(|part| Arc::clone(&part.instance)).collect();
            let used = self.gpm.read(lib, gpu.handle, Some(id), &life, gpu.now_ns);
            if let Err(error) = &used
                && is_lasting(error)
            {
                missing.insert(WHAT, error.to_string());
            }
            let used = used.ok().flatten();
            let permille = used.and_then(|used| used.graphics_permille.or(used.sm_permille));
            of.push(permille.map(|permille| InstanceUtilisation { permille, slices }));
        }
        of
    }
}

impl Part {
    fn ids(&self) -> Option<(u32, u32)> {
        self.instance.gpu_instance.zip(self.instance.compute_instance)
    }

    fn has(&self, ids: (u32, u32)) -> bool {
        self.ids() == Some(ids)
    }

    /// Its processes, by a handle of its own.
    fn ask(
        &self,
        gpu: &Gpu<'_>,
        buffers: &mut Buffers,
        missing: &mut Missing,
        stale: &mut bool,
    ) -> Result<Vec<DeviceProcess>, NvmlError> {
        let mig = gpu.nvml.device_by_uuid(&*self.instance.uuid)?;
        let listed = lists(gpu, Handle::of(&mig), buffers, missing)?;
        // A UUID is used again, too.
        *stale |= listed.iter().filter_map(|one| one.ids).any(|ids| self.ids().is_some_and(|own| own != ids));
        Ok(processes::merge(listed.into_iter().map(|one| one.process)))
    }
}

/// All of NVML's lists. The driver may lack those of graphics and MPS: then the other processes are still known.
pub(super) fn lists(
    gpu: &Gpu<'_>,
    handle: Handle,
    buffers: &mut Buffers,
    missing: &mut Missing,
) -> Result<Vec<Listed>, NvmlError> {
    let lib = gpu.nvml.lib();
    let mut listed = buffers.list(lib, List::Compute, handle, gpu.memory_bytes)?;
    for (what, list) in [("graphics processes", List::Graphics), ("MPS clients", List::Mps)] {
        if missing.contains_key(what) {
            continue;
        }
        match buffers.list(lib, list, handle, gpu.memory_bytes) {
            Ok(more) => listed.extend(more),
            Err(error) if is_lasting(&error) => {
                missing.insert(what, error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(listed)
}

/// The instances that are there, each with the compute slices of its GPU instance.
fn found(device: &Device<'_>, missing: &mut Missing) -> Result<Vec<(Instance, Option<u32>)>, NvmlError> {
    let mut found: Vec<(Instance, Option<u32>)> = Vec::new();
    for place in 0..device.mig_device_count()?.min(PLACES_MAX) {
        match open(device, place, missing) {
            // One that moves while they are listed may be seen twice.
            Ok(part) if !found.iter().any(|(known, _)| *known == part.0) => found.push(part),
            Ok(_) => {}
            // An empty place, or one that was emptied just now.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn open(
    device: &Device<'_>,
    place: u32,
    missing: &mut Missing,
) -> Result<(Instance, Option<u32>), NvmlError> {
    let mig = device.mig_device_by_index(place)?;
    let uuid = mig.uuid()?;
    let attributes = lacking("compute slices of MIG devices", mig.attributes(), missing)?;
    let known = |slices: u32| (slices > 0).then_some(slices);
    let compute = attributes.as_ref().and_then(|of| known(of.compute_instance_slice_count));
    let gpu_slices = attributes.as_ref().and_then(|of| known(of.gpu_instance_slice_count));
    let memory_mib = attributes.as_ref().map_or(0, |of| of.memory_size_mb);
    // A compute instance may be a part of its GPU instance.
    let slices = compute.or(gpu_slices);
    let name = lacking("names of MIG devices", mig.name(), missing)?.unwrap_or_default();
    let profile = profile(&name, compute.unwrap_or(0), gpu_slices.unwrap_or(0), memory_mib);
    let instance = Instance {
        uuid: uuid.into(),
        slices: slices.unwrap_or(1),
        slices_guessed: slices.is_none(),
        generation: 0,
        profile,
        memory_bytes: memory_mib.saturating_mul(1 << 20),
        memory: None,
        gpu_instance: lacking("GPU instances of MIG devices", raw::gpu_instance(&mig), missing)?,
        compute_instance: lacking("compute instances of MIG devices", raw::compute_instance(&mig), missing)?,
    };
    Ok((instance, gpu_slices))
}

/// Compute slices of a device with MIG on, and NVML's id and the slices of each profile that it can have. A call that
/// fails for this once is an error: the device would be another, of fewer slices.
pub(super) fn slices(
    device: &Device<'_>,
    model: &str,
    missing: &mut Missing,
) -> Result<(u32, Vec<(u32, u32)>), NvmlError> {
    const WHAT: &str = "compute slices by the driver";
    let mut profiles = Vec::new();
    for number in 0..PROFILES {
        match device.profile_info(number) {
            Ok(info) if (1..=PROFILES).contains(&info.slice_count) => {
                profiles.push((info.id, info.slice_count));
            }
            Ok(_) | Err(NvmlError::NotSupported) => {}
            // One that this driver does not know.
            Err(error) if is_gone(&error) => {}
            Err(error) if is_lasting(&error) => break,
            Err(error) => return Err(error),
        }
    }
    let by_profiles = profiles.iter().map(|(_, slices)| *slices).max();
    let places = device.mig_device_count().ok().filter(|places| (1..=PROFILES).contains(places));
    Ok(match (by_profiles, places) {
        (Some(slices), None) => (slices, profiles),
        (Some(slices), Some(places)) => {
            if slices != places {
                let both = format!("its profiles have up to {slices}, and there may be {places} MIG devices");
                missing.insert(WHAT, both);
            }
            (slices, profiles)
        }
        (None, Some(places)) => (places, profiles),
        (None, None) => {
            let slices = slices_of_model(model);
            missing.insert(WHAT, format!("{slices} by the name of the model"));
            (slices, profiles)
        }
    })
}
