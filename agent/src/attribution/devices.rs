//! Which of the node's GPUs an id means, and what part of it. Pure.
//!
//! A part is a fraction: one of so many replicas, so many of the compute slices, or both. The number of replicas is what
//! the kubelet could allocate, so that those that nobody has are counted; where it does not say, what is allocated. The
//! slices of a MIG device are as the driver says, else as its resource's or its own name says, else one is guessed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::attribution::device_ids::{At, DeviceId, Parent};
use crate::attribution::dra_checkpoint::Checkpoint;
use crate::model::{DeviceInfo, DeviceReading};

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

    /// The GPU's UUID, the part of it, and whether the part was guessed; `None` if no GPU here is it, or it cannot be
    /// known which.
    pub(super) fn find(&self, id: &DeviceId) -> Option<(Arc<str>, Fraction, bool)> {
        let (mut part, mut guessed) = (Fraction::WHOLE, false);
        let info = match &id.at {
            At::Uuid(uuid) => self.by_uuid(uuid)?,
            At::Index(index) => self.by_index(*index)?,
            At::Minor(minor) => self.by_minor(*minor)?,
            At::Mig { uuid, slices } => {
                let (info, of_driver) = self.by_mig_uuid(uuid)?;
                let slices = of_driver.or(*slices);
                (part, guessed) = (sliced(info, slices), slices.is_none());
                info
            }
            At::Instance { parent, instance, slices } => {
                let concrete = match parent {
                    Parent::Minor(minor) => self.checkpoint.parent(&format!("gpu-{minor}-mig-{instance}")),
                    Parent::Uuid(_) | Parent::Index(_) => None,
                };
                let info = match (concrete, parent) {
                    (Some(uuid), _) => self.by_uuid(uuid)?,
                    (None, Parent::Uuid(uuid)) => self.by_uuid(uuid)?,
                    (None, Parent::Minor(minor)) => self.by_minor(*minor)?,
                    (None, Parent::Index(index)) => self.by_index(*index)?,
                };
                let slices = self.slices_of(info, instance).or(*slices);
                (part, guessed) = (sliced(info, slices), slices.is_none());
                info
            }
        };
        if id.replica.is_some() {
            let replicas = self.replicas.get(&id.at).map_or(1, BTreeSet::len);
            part.of *= u64::try_from(replicas).unwrap_or(PARTS_MAX).max(1);
        }
        Some((Arc::clone(&info.uuid), part, guessed))
    }

    fn by_uuid(&self, uuid: &str) -> Option<&'a Arc<DeviceInfo>> {
        let infos = self.readings.iter().map(|reading| &reading.info);
        infos.into_iter().find(|info| info.uuid.eq_ignore_ascii_case(uuid))
    }

    fn by_index(&self, index: u32) -> Option<&'a Arc<DeviceInfo>> {
        self.readings.iter().find(|reading| reading.index == index).map(|reading| &reading.info)
    }

    fn by_minor(&self, minor: u32) -> Option<&'a Arc<DeviceInfo>> {
        self.readings.iter().map(|reading| &reading.info).find(|info| info.minor == Some(minor))
    }

    /// The GPU that a MIG device is on, and its compute slices.
    fn by_mig_uuid(&self, uuid: &str) -> Option<(&'a Arc<DeviceInfo>, Option<u32>)> {
        self.readings.iter().find_map(|reading| {
            let device = reading.mig_devices.iter().find(|mig| mig.uuid.eq_ignore_ascii_case(uuid))?;
            Some((&reading.info, device.slices))
        })
    }

    /// The compute slices of the GPU instance `<number>`, or of a compute instance of it, `<number>/<number>`.
    fn slices_of(&self, info: &DeviceInfo, instance: &str) -> Option<u32> {
        let (gpu_instance, compute_instance) = match instance.split_once('/') {
            Some((gpu_instance, compute_instance)) => {
                (gpu_instance, Some(compute_instance.parse::<u32>().ok()?))
            }
            None => (instance, None),
        };
        let gpu_instance = gpu_instance.parse::<u32>().ok()?;
        let reading = self.readings.iter().find(|reading| reading.info.uuid == info.uuid)?;
        let of_it = reading.mig_devices.iter().filter(|mig| {
            mig.gpu_instance == Some(gpu_instance)
                && (compute_instance.is_none() || mig.compute_instance == compute_instance)
        });
        // `None` if any is not known.
        of_it.map(|mig| mig.slices).sum::<Option<u32>>().filter(|slices| *slices > 0)
    }
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
    use crate::model::{Gauges, MigDevice};

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
            mig_devices: Vec::new(),
            processes: Ok(Vec::new()),
            utilisation: None,
            energy_mj: None,
            gauges: Gauges::default(),
        }
    }

    fn find(
        readings: &[DeviceReading],
        all: &[&str],
        resource: &str,
        id: &str,
    ) -> Option<(String, u64, u64)> {
        let (uuid, part, _) = find_or_guess(readings, all, resource, id)?;
        Some((uuid.to_string(), part.parts, part.of))
    }

    fn find_or_guess(
        readings: &[DeviceReading],
        all: &[&str],
        resource: &str,
        id: &str,
    ) -> Option<(Arc<str>, Fraction, bool)> {
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

    #[test]
    fn a_mig_device_is_so_many_of_its_gpus_slices() {
        let mut node = [reading(0, 0, "GPU-a", "NVIDIA A100"), reading(1, 1, "GPU-b", "NVIDIA A30")];
        node[0].mig_devices = vec![mig("MIG-1", Some(3), 2, 0)];
        assert_eq!(find(&node, &[], "nvidia.com/gpu", "MIG-1"), Some(("GPU-a".into(), 3, 7)));
        assert_eq!(find(&node, &[], "nvidia.com/gpu", "MIG-2"), None);
        let a30 = find(&node, &[], "nvidia.com/mig-2g.12gb", "MIG-GPU-b/1/0");
        assert_eq!(a30, Some(("GPU-b".into(), 2, 4)));
        let shared = ["nvidia0/gi3/vgpu0", "nvidia0/gi3/vgpu1"];
        assert_eq!(find(&node, &shared, "nvidia.com/gpu", shared[0]), Some(("GPU-a".into(), 1, 14)));
    }

    fn mig(uuid: &str, slices: Option<u32>, gpu_instance: u32, compute_instance: u32) -> MigDevice {
        let (gpu_instance, compute_instance) = (Some(gpu_instance), Some(compute_instance));
        MigDevice { uuid: uuid.into(), slices, gpu_instance, compute_instance }
    }

    #[test]
    fn an_instance_has_the_slices_that_the_driver_says_and_else_those_of_its_resource_or_a_guess() {
        let mut node = [reading(0, 0, "GPU-a", "NVIDIA H100"), reading(1, 1, "GPU-b", "NVIDIA H100")];
        node[0].mig_devices = vec![mig("MIG-1", Some(2), 7, 0), mig("MIG-2", Some(1), 7, 1)];
        node[1].mig_devices = vec![mig("MIG-3", Some(4), 7, 0), mig("MIG-4", None, 9, 0)];
        let part = |resource, id| {
            let (_, part, guessed) = find_or_guess(&node, &[], resource, id).unwrap();
            assert_eq!(part.of, 7);
            (part.parts, guessed)
        };
        let gpu = "nvidia.com/gpu";
        assert_eq!(part(gpu, "nvidia0/gi7"), (3, false));
        assert_eq!(part(gpu, "MIG-GPU-a/7/0"), (2, false));
        assert_eq!(part(gpu, "MIG-GPU-a/7/1"), (1, false));
        assert_eq!(part("nvidia.com/mig-1g.10gb", "MIG-GPU-b/7/0"), (4, false));
        assert_eq!(part("nvidia.com/mig-2g.20gb", "MIG-GPU-b/9/0"), (2, false));
        assert_eq!(part(gpu, "MIG-GPU-b/9/0"), (1, true));
        assert_eq!(part(gpu, "MIG-4"), (1, true));
        assert_eq!(part(gpu, "nvidia1/gi8"), (1, true));
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
