//! Virtual machines that this host has given virtual GPUs (vGPU): each holds its part of the GPU for as long as the
//! driver names it.
//!
//! A virtual GPU is one of as many as the GPU has room for of its kind, busy or not. What it is busy for the driver says by
//! the virtual GPU's number, which so stands where else a pid does. What runs in the guest no host can see.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::attribution::devices::Fraction;
use crate::attribution::grants::Grant;
use crate::attribution::process;
use crate::model::{DeviceReading, Holder, Owner, OwnerKind, SharedBy, Vgpu};

/// What works on the host for its guests, by the kernel's name of it (15 bytes). The driver lists it on the device.
const HOSTS: [&str; 2] = ["vgpu", "nvidia-vgpu-mgr"];

/// The guests of each device at one tick, by its UUID.
#[derive(Debug, Default)]
pub(super) struct Guests(BTreeMap<Arc<str>, Vec<Holder>>);

impl Guests {
    /// The guests of these devices, and what they hold.
    pub(super) fn of(devices: &[DeviceReading]) -> (Self, Vec<Grant>) {
        let (mut guests, mut grants) = (BTreeMap::new(), Vec::new());
        for device in devices.iter().filter(|device| !device.vgpus.is_empty()) {
            let count = u64::try_from(device.vgpus.len()).unwrap_or(u64::MAX);
            let holders: Vec<Holder> = device.vgpus.iter().map(holder).collect();
            for (vgpu, holder) in device.vgpus.iter().zip(&holders) {
                grants.push(Grant {
                    place: (Arc::clone(&device.info.uuid), None),
                    owner: Arc::clone(&holder.owner),
                    // Of a kind that the driver does not tell the number of, those that are there share the GPU.
                    part: Fraction { parts: 1, of: vgpu.of.map_or(count, u64::from) },
                    from_ns: None,
                    until_ns: None,
                    inferred: holder.inferred,
                    shared_by: SharedBy::VirtualGpus,
                });
            }
            guests.insert(Arc::clone(&device.info.uuid), holders);
        }
        (Self(guests), grants)
    }

    /// Adds a device's guests to the processes on it, and takes away what works for them on the host: by its name, if it is
    /// root's and in the host's pid namespace, since anybody can take a name.
    pub(super) fn join(&self, uuid: &str, holders: &mut Vec<Holder>, procfs: &Path) {
        let Some(guests) = self.0.get(uuid) else { return };
        holders.retain(|holder| !is_hosts(procfs, holder.pid));
        holders.extend(guests.iter().cloned());
    }
}

fn holder(vgpu: &Vgpu) -> Holder {
    let owner = Owner { kind: OwnerKind::VirtualMachine, unit: vgpu.vm.to_string(), ..Owner::default() };
    Holder {
        pid: vgpu.number,
        owner: Arc::new(owner),
        started_ns: None,
        memory_bytes: vgpu.memory_bytes,
        inferred: vgpu.of.is_none(),
    }
}

fn is_hosts(procfs: &Path, pid: u32) -> bool {
    process::name_and_parent(procfs, pid).is_some_and(|(name, _)| HOSTS.contains(&name.as_str()))
        && process::user(procfs, pid) == Some((0, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribution::tests::{Node, device};

    fn vgpu(number: u32, vm: &str, of: Option<u32>) -> Vgpu {
        Vgpu {
            number,
            uuid: format!("v{number}").into(),
            vm: vm.into(),
            kind: "".into(),
            of,
            memory_bytes: None,
        }
    }

    #[test]
    fn each_guest_holds_one_of_as_many_as_there_is_room_for() {
        let device = DeviceReading { vgpus: vec![vgpu(1, "a", Some(4)), vgpu(2, "b", Some(4))], ..device() };
        let (_, grants) = Guests::of(&[device]);
        let told: Vec<_> =
            grants.iter().map(|grant| (grant.owner.unit.as_str(), grant.part.of, grant.inferred)).collect();
        assert_eq!(told, [("a", 4, false), ("b", 4, false)]);
    }

    #[test]
    fn guests_of_a_kind_of_unknown_number_share_the_gpu_and_are_marked() {
        let device = DeviceReading { vgpus: vec![vgpu(1, "a", None), vgpu(2, "b", None)], ..device() };
        let (_, grants) = Guests::of(&[device]);
        assert!(grants.iter().all(|grant| grant.part == Fraction { parts: 1, of: 2 } && grant.inferred));
    }

    #[test]
    fn what_works_for_guests_is_nobody_and_whoever_takes_its_name_stays() {
        let node = Node::new();
        for (pid, name, uid) in [(10, "vgpu", 0), (11, "vgpu", 1000), (12, "python", 0)] {
            node.program(pid, name, uid, 1, "/system.slice/nvidia-vgpu-mgr.service");
        }
        let process = |pid| Holder {
            pid,
            owner: Arc::default(),
            started_ns: None,
            memory_bytes: None,
            inferred: false,
        };
        let joined = |vgpus: Vec<Vgpu>| {
            let mut holders: Vec<Holder> = [10, 11, 12].map(process).to_vec();
            let (guests, _) = Guests::of(&[DeviceReading { vgpus, ..device() }]);
            guests.join("GPU-a", &mut holders, &node.procfs());
            holders.iter().map(|holder| holder.pid).collect::<Vec<_>>()
        };
        assert_eq!(joined(vec![vgpu(7_000_000, "a", Some(4))]), [11, 12, 7_000_000]);
        assert_eq!(joined(Vec::new()), [10, 11, 12], "without guests nobody works for any");
    }
}
