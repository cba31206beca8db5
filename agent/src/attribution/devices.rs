//! Which of the node's GPUs an id means, and what part of it. Pure.
//!
//! A MIG device is an instance of its GPU, and weighs what the driver says. Where the driver does not show instances, it
//! is a fraction of its GPU: so many of the compute slices as its resource's or its own name says, else one is guessed.
//! A replica is a fraction of its GPU or instance: one of as many as the kubelet could allocate, so that those that nobody
//! has are counted; where it does not say, of as many as are allocated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::attribution::device_ids::{At, DeviceId, Parent};
use crate::attribution::dra_checkpoint::{Checkpoint, Prepared};
use crate::model::{DeviceInfo, DeviceReading, Instance, MigReading, SharedBy};

/// Most parts into which a device is divided; beyond it parts are rounded.
const PARTS_MAX: u64 = 1 << 20;

/// A part of a device: `of` equal parts, `parts` of which are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fraction {
    pub(super) parts: u64,
    pub(super) of: u64,
}

impl Fraction {
    pub(super) const WHOLE: Self = Self { parts: 1, of: 1 };
}

/// The node's devices as they are at one tick.
pub(super) struct Devices<'a> {
    readings: &'a [DeviceReading],
    checkpoint: &'a Checkpoint,
    replicas: BTreeMap<At, BTreeSet<String>>,
}

impl<'a> Devices<'a> {
    /// `ids` are all that can be or is allocated: they say how many replicas there are.
    pub(super) fn new<'b>(
        readings: &'a [DeviceReading],
        checkpoint: &'a Checkpoint,
        ids: impl Iterator<Item = &'b DeviceId>,
    ) -> Self {
        let mut replicas: BTreeMap<At, BTreeSet<String>> = BTreeMap::new();
        for DeviceId { at, replica } in ids {
            if let Some(replica) = replica {
                replicas.entry(at.clone()).or_default().insert(replica.clone());
            }
        }
        Self { readings, checkpoint, replicas }
    }

    /// What the id means; `None` if no GPU here is it, or it cannot be known which.
    pub(super) fn find(&self, id: &DeviceId) -> Option<Found> {
        let (mut part, mut guessed, mut instances) = (Fraction::WHOLE, false, Vec::new());
        let reading = match &id.at {
            At::Uuid(uuid) => self.by_uuid(uuid)?,
            At::Index(index) => self.by_index(*index)?,
            At::Minor(minor) => self.by_minor(*minor)?,
            At::Mig { uuid, .. } => {
                let (reading, instance) = self.by_mig_uuid(uuid)?;
                instances.push(instance);
                reading
            }
            At::Instance { parent, instance, slices } => {
                let prepared = self.prepared(parent, instance);
                let reading = match prepared {
                    Some(prepared) => self.by_uuid(&prepared.parent)?,
                    None => self.parent(parent)?,
                };
                match &reading.mig {
                    Some(mig) => {
                        let of_it = match prepared {
                            Some(prepared) => made(mig, prepared),
                            None => numbered(mig, instance).or_else(|| {
                                guessed = true;
                                of_profile(mig, instance)
                            }),
                        };
                        // Not there, or not listed yet.
                        instances = of_it.filter(|of_it| !of_it.is_empty())?;
                    }
                    // The driver does not let us see how the GPU is partitioned.
                    None => (part, guessed) = (sliced(&reading.info, *slices), slices.is_none()),
                }
                reading
            }
        };
        guessed |= instances.iter().any(|instance| instance.slices_guessed);
        let is_sliced = matches!(id.at, At::Instance { .. }) && instances.is_empty();
        let shared_by = if is_sliced { SharedBy::Slices } else { SharedBy::Contexts };
        if id.replica.is_some() {
            let replicas = self.replicas.get(&id.at).map_or(1, BTreeSet::len);
            part.of *= u64::try_from(replicas).unwrap_or(PARTS_MAX).max(1);
        }
        Some(Found { device: Arc::clone(&reading.info.uuid), instances, part, guessed, shared_by })
    }

    /// What DRA's driver made of a device that it names by a minor and a profile.
    fn prepared(&self, parent: &Parent, instance: &str) -> Option<&'a Prepared> {
        let Parent::Minor(minor) = parent else { return None };
        self.checkpoint.device(&format!("gpu-{minor}-mig-{instance}"))
    }

    fn parent(&self, parent: &Parent) -> Option<&'a DeviceReading> {
        match parent {
            Parent::Uuid(uuid) => self.by_uuid(uuid),
            Parent::Index(index) => self.by_index(*index),
            Parent::Minor(minor) => self.by_minor(*minor),
        }
    }

    fn by_uuid(&self, uuid: &str) -> Option<&'a DeviceReading> {
        self.readings.iter().find(|reading| reading.info.uuid.eq_ignore_ascii_case(uuid))
    }

    fn by_index(&self, index: u32) -> Option<&'a DeviceReading> {
        self.readings.iter().find(|reading| reading.index == index)
    }

    fn by_minor(&self, minor: u32) -> Option<&'a DeviceReading> {
        self.readings.iter().find(|reading| reading.info.minor == Some(minor))
    }

    /// The GPU that a MIG device is on, and the MIG device.
    fn by_mig_uuid(&self, uuid: &str) -> Option<(&'a DeviceReading, Arc<Instance>)> {
        self.readings.iter().find_map(|reading| {
            let mut instances = reading.mig.iter().flat_map(|mig| &mig.instances).map(|of| &of.instance);
            let instance = instances.find(|instance| instance.uuid.eq_ignore_ascii_case(uuid))?;
            Some((reading, Arc::clone(instance)))
        })
    }
}

/// What a scheduler's id means here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The GPU's UUID.
    pub(super) device: Arc<str>,
    /// Of the GPU; none: the GPU as a whole.
    pub(super) instances: Vec<Arc<Instance>>,
    /// Of the GPU, or of each of the instances.
    pub(super) part: Fraction,
    /// The part, or an instance's weight, is a guess.
    pub(super) guessed: bool,
    pub(super) shared_by: SharedBy,
}

impl Found {
    /// The places that it is made of: the GPU, or instances of it.
    pub(super) fn places(&self) -> Vec<Place> {
        if self.instances.is_empty() {
            return vec![(Arc::clone(&self.device), None)];
        }
        let place = |instance: &Arc<Instance>| (Arc::clone(&self.device), Some(Arc::clone(instance)));
        self.instances.iter().map(place).collect()
    }
}

/// A GPU's UUID; and an instance of it, or the GPU as a whole.
pub(super) type Place = (Arc<str>, Option<Arc<Instance>>);

/// The compute instances of the GPU instance `<number>`, or the one that `<number>/<number>` is; `None` if that is not
/// what the text says.
fn numbered(mig: &MigReading, text: &str) -> Option<Vec<Arc<Instance>>> {
    let (gpu_instance, compute_instance) = match text.split_once('/') {
        Some((gpu_instance, compute_instance)) => (gpu_instance, Some(compute_instance.parse::<u32>().ok()?)),
        None => (text, None),
    };
    let gpu_instance = gpu_instance.parse::<u32>().ok()?;
    let instances = mig.instances.iter().map(|reading| &reading.instance).filter(|instance| {
        instance.gpu_instance == Some(gpu_instance)
            && (compute_instance.is_none() || instance.compute_instance == compute_instance)
    });
    Some(instances.cloned().collect())
}

/// The instance that DRA's driver made, by what it says of it.
fn made(mig: &MigReading, prepared: &Prepared) -> Option<Vec<Arc<Instance>>> {
    let instances =
        mig.instances.iter().map(|reading| &reading.instance).filter(|instance| match &prepared.mig {
            Some(uuid) => instance.uuid.eq_ignore_ascii_case(uuid),
            None => {
                prepared.gpu_instance.is_some()
                    && instance.gpu_instance == prepared.gpu_instance
                    && (prepared.compute_instance.is_none()
                        || instance.compute_instance == prepared.compute_instance)
            }
        });
    Some(instances.cloned().collect())
}

/// The one instance of the profile in DRA's name for it, `<profile>-<id>-<start>`; of several nobody knows which it is.
fn of_profile(mig: &MigReading, name: &str) -> Option<Vec<Arc<Instance>>> {
    let profile = name.split('-').next()?;
    let undotted = |instance: &Instance| instance.profile.replace('.', "");
    let mut of_it = mig.instances.iter().map(|of| &of.instance).filter(|of| undotted(of) == profile);
    of_it.next().filter(|_| of_it.next().is_none()).map(|only| vec![Arc::clone(only)])
}

/// So many of a GPU's compute slices; one is the guess where nobody says.
fn sliced(info: &DeviceInfo, slices: Option<u32>) -> Fraction {
    let of = match info.slices {
        // A100, H100, H200 and B200 have seven.
        0 | 1 if info.model.contains("A30") => 4,
        0 | 1 => 7,
        slices => slices,
    };
    Fraction { parts: u64::from(slices.unwrap_or(1).clamp(1, of)), of: u64::from(of) }
}

/// Fractions as parts of one number of parts: their least common multiple, or rounded where that is too large.
pub(super) fn common(fractions: &[Fraction]) -> (Vec<u64>, u64) {
    let of = fractions.iter().fold(1, |of, fraction| lcm(of, fraction.of.max(1)).min(PARTS_MAX));
    let parts = fractions.iter().map(|fraction| {
        let parts = u128::from(fraction.parts) * u128::from(of) / u128::from(fraction.of.max(1));
        u64::try_from(parts).unwrap_or(PARTS_MAX).max(1)
    });
    (parts.collect(), of)
}

fn lcm(a: u64, b: u64) -> u64 {
    (a / gcd(a, b)).saturating_mul(b)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribution::device_ids::plugin;
    use crate::model::{Gauges, InstanceReading};

    fn reading(index: u32, minor: u32, uuid: &str, model: &str) -> DeviceReading {
        let info = DeviceInfo {
            uuid: uuid.into(),
            model: model.into(),
            memory_bytes: 0,
            slices: 1,
            minor: Some(minor),
            pci_bus_id: String::new(),
        };
        DeviceReading {
            info: Arc::new(info),
            index,
            mig: None,
            processes: Ok(Vec::new()),
            vgpus: Vec::new(),
            utilisation: None,
            energy_mj: None,
            gauges: Gauges::default(),
            signals: Default::default(),
        }
    }

    fn find(
        readings: &[DeviceReading],
        all: &[&str],
        resource: &str,
        id: &str,
    ) -> Option<(String, u64, u64)> {
        let Found { device, part, .. } = found(readings, all, resource, id)?;
        Some((device.to_string(), part.parts, part.of))
    }

    fn found(readings: &[DeviceReading], all: &[&str], resource: &str, id: &str) -> Option<Found> {
        let checkpoint = Checkpoint::new("/no/such/file".into());
        let ids: Vec<DeviceId> = all.iter().map(|id| plugin(resource, id).unwrap()).collect();
        let devices = Devices::new(readings, &checkpoint, ids.iter());
        devices.find(&plugin(resource, id).unwrap())
    }

    #[test]
    fn index_minor_and_uuid_are_three_different_things() {
        let node = [reading(0, 3, "GPU-a", "H100"), reading(1, 0, "GPU-b", "H100")];
        let gpu = |id| find(&node, &[], "nvidia.com/gpu", id);
        assert_eq!(gpu("0"), Some(("GPU-a".into(), 1, 1)));
        assert_eq!(gpu("nvidia0"), Some(("GPU-b".into(), 1, 1)));
        assert_eq!(gpu("GPU-B"), Some(("GPU-b".into(), 1, 1)));
        assert_eq!((gpu("2"), gpu("nvidia1"), gpu("GPU-c")), (None, None, None));
    }

    #[test]
    fn a_replica_is_one_of_all_that_could_be_allocated() {
        let node = [reading(0, 0, "GPU-a", "H100"), reading(1, 1, "GPU-b", "H100")];
        let all = ["GPU-a::0", "GPU-a::1", "GPU-a::2", "GPU-b::0"];
        assert_eq!(find(&node, &all, "x/y", "GPU-a::1"), Some(("GPU-a".into(), 1, 3)));
        assert_eq!(find(&node, &all, "x/y", "GPU-b::0"), Some(("GPU-b".into(), 1, 1)));
    }

    fn partitioned(instances: &[(&str, u32, u32)]) -> Option<MigReading> {
        let reading = |(uuid, gpu_instance, compute_instance): &(&str, u32, u32)| InstanceReading {
            instance: Arc::new(Instance {
                gpu_instance: Some(*gpu_instance),
                compute_instance: Some(*compute_instance),
                generation: 1,
                uuid: (*uuid).into(),
                slices: 1,
                slices_guessed: *uuid == "MIG-guess",
                profile: String::new(),
                memory_bytes: 0,
                memory: None,
            }),
            processes: Ok(Vec::new()),
            utilisation: None,
        };
        Some(MigReading { instances: instances.iter().map(reading).collect(), stranded_slices: None })
    }

    #[test]
    fn a_mig_device_is_an_instance_of_its_gpu_and_its_replicas_are_parts_of_it() {
        let mut node = [reading(0, 0, "GPU-a", "NVIDIA A100"), reading(1, 1, "GPU-b", "NVIDIA A100")];
        node[0].mig = partitioned(&[("MIG-1", 7, 0), ("MIG-2", 7, 1), ("MIG-guess", 9, 0)]);
        let gpu = "nvidia.com/gpu";
        let instances = |all, resource, id| {
            let found = found(&node, all, resource, id)?;
            let uuids: Vec<String> = found.instances.iter().map(|of| of.uuid.to_string()).collect();
            Some((found.device.to_string(), uuids.join(" "), found.part.of, found.guessed))
        };
        let of_a = |uuids: &str, of, guessed| Some(("GPU-a".to_owned(), uuids.to_owned(), of, guessed));
        assert_eq!(instances(&[], gpu, "MIG-1"), of_a("MIG-1", 1, false));
        assert_eq!(instances(&[], "nvidia.com/mig-1g.10gb", "MIG-GPU-a/7/1"), of_a("MIG-2", 1, false));
        assert_eq!(instances(&[], gpu, "nvidia0/gi7"), of_a("MIG-1 MIG-2", 1, false));
        assert_eq!(instances(&[], gpu, "MIG-guess"), of_a("MIG-guess", 1, true));
        let shared = ["nvidia0/gi9/vgpu0", "nvidia0/gi9/vgpu1"];
        assert_eq!(instances(&shared, gpu, shared[0]), of_a("MIG-guess", 2, true));
        // Not there, or not listed yet.
        assert_eq!(instances(&[], gpu, "MIG-3"), None);
        assert_eq!(instances(&[], gpu, "nvidia0/gi8"), None);
        assert_eq!(instances(&[], gpu, "nvidia0/gi8/vgpu0"), None);
    }

    #[test]
    fn a_claims_mig_device_is_what_its_driver_made_and_else_the_only_one_of_its_profile() {
        let mut node = [reading(0, 0, "GPU-a", "NVIDIA H100")];
        node[0].mig = partitioned(&[("MIG-1", 7, 0), ("MIG-2", 9, 0)]);
        if let Some(mig) = &mut node[0].mig {
            Arc::make_mut(&mut mig.instances[0].instance).profile = "1g.10gb".into();
            Arc::make_mut(&mut mig.instances[1].instance).profile = "1g.20gb".into();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.json");
        let mut checkpoint = Checkpoint::new(path.clone());
        let claimed = |checkpoint: &Checkpoint, name| {
            let id = crate::attribution::device_ids::claimed("gpu.nvidia.com", name).unwrap();
            let found = Devices::new(&node, checkpoint, [].iter()).find(&id)?;
            Some((found.instances[0].uuid.to_string(), found.guessed))
        };
        assert_eq!(claimed(&checkpoint, "gpu-0-mig-1g20gb-15-0"), Some(("MIG-2".into(), true)));
        assert_eq!(claimed(&checkpoint, "gpu-0-mig-2g20gb-14-0"), None);
        // The minor was another when it was named.
        let text = r#"{"device":{"deviceName":"gpu-3-mig-1g10gb-19-0"},
            "concrete":{"parentUUID":"GPU-a","giId":7,"ciId":0}}"#;
        std::fs::write(&path, text).unwrap();
        checkpoint.refresh();
        assert_eq!(claimed(&checkpoint, "gpu-3-mig-1g10gb-19-0"), Some(("MIG-1".into(), false)));
    }

    #[test]
    fn where_the_driver_shows_no_instances_one_is_a_part_of_its_gpu_by_its_name_or_a_guess() {
        let node = [reading(0, 0, "GPU-a", "NVIDIA H100"), reading(1, 1, "GPU-b", "NVIDIA A30")];
        let part = |resource, id| {
            let found = found(&node, &[], resource, id).unwrap();
            (found.device.to_string(), found.part.parts, found.part.of, found.guessed)
        };
        let (a, b) = ("GPU-a".to_owned(), "GPU-b".to_owned());
        assert_eq!(part("nvidia.com/mig-2g.20gb", "MIG-GPU-a/9/0"), (a.clone(), 2, 7, false));
        assert_eq!(part("nvidia.com/mig-2g.12gb", "MIG-GPU-b/1/0"), (b.clone(), 2, 4, false));
        assert_eq!(part("nvidia.com/gpu", "nvidia1/gi8"), (b, 1, 4, true));
        assert_eq!(part("nvidia.com/gpu", "MIG-GPU-a/9/0"), (a, 1, 7, true));
    }

    #[test]
    fn fractions_become_parts_of_one_whole() {
        let [half, third] = [Fraction { parts: 1, of: 2 }, Fraction { parts: 2, of: 3 }];
        assert_eq!(common(&[half, third, Fraction::WHOLE]), (vec![3, 4, 6], 6));
        assert_eq!(common(&[]), (vec![], 1));
        let huge = [Fraction { parts: 1, of: 1 << 19 }, Fraction { parts: 1, of: (1 << 19) - 1 }];
        let (parts, of) = common(&huge);
        assert!(of <= PARTS_MAX && parts.iter().all(|parts| (1..=3).contains(parts)), "{parts:?} of {of}");
    }
}
