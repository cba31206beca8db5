//! MIG in time: whether it is on, which MIG devices are there, who is on them and how much of them is used.

use super::{Actor, Story};
use crate::models::Model;
use crate::scenario::cut::Cut;
use crate::scenario::{MigDevice, Process, Scenario};

impl Story {
    #[must_use]
    pub fn model(&self, device: usize) -> Model {
        let device = &self.scenario.device[device];
        Model::of(&device.model, device.memory_bytes)
    }

    /// It can be partitioned.
    #[must_use]
    pub fn mig_capable(&self, device: usize) -> bool {
        self.scenario.device[device].mig.is_some()
    }

    #[must_use]
    pub fn mig_on(&self, device: usize, wall_ns: i64) -> bool {
        let (from_ns, to_ns) = self.mode[device];
        self.mig_capable(device) && (from_ns..to_ns).contains(&wall_ns)
    }

    /// A MIG device by its place in the scenario, if it is there now.
    #[must_use]
    pub fn mig_device(&self, device: usize, part: usize, wall_ns: i64) -> Option<&MigDevice> {
        let ((from_ns, to_ns), _) = self.mig.get(device)?.get(part)?;
        let parts = self.scenario.device[device].mig.as_ref()?;
        parts.get(part).filter(|_| (*from_ns..*to_ns).contains(&wall_ns))
    }

    /// What a MIG device is.
    #[must_use]
    pub fn cut(&self, device: usize, part: usize) -> Option<&Cut> {
        self.mig.get(device)?.get(part).map(|(_, cut)| cut)
    }

    /// The MIG devices that are there now, by their places in the scenario.
    pub fn mig_devices(
        &self,
        device: usize,
        wall_ns: i64,
    ) -> impl Iterator<Item = (usize, &MigDevice, &Cut)> {
        let parts = 0..self.mig.get(device).map_or(0, Vec::len);
        parts.filter_map(move |part| {
            Some((part, self.mig_device(device, part, wall_ns)?, self.cut(device, part)?))
        })
    }

    /// How many more of a profile fit.
    #[must_use]
    pub fn remaining(&self, device: usize, profile_id: u32, wall_ns: i64) -> Option<u32> {
        let taken: Vec<_> = self.mig_devices(device, wall_ns).map(|(_, _, cut)| cut.place.clone()).collect();
        let model = self.model(device);
        model.profiles.iter().find(|profile| profile.id == profile_id).map(|of| of.remaining(&taken))
    }

    /// Use of a device, or of one GPU instance of it, since its processes first began: percent times nanoseconds. Of a
    /// GPU instance its compute instances' use, by their slices.
    #[must_use]
    pub fn used_percent_ns(&self, device: usize, gpu_instance: Option<u32>, wall_ns: i64) -> i128 {
        let of = |actor: &Actor| {
            let used = actor.percent_ns(wall_ns);
            let Some(wanted) = gpu_instance else { return used };
            let Some((_, part)) = actor.part else { return 0 };
            let (Some(mig), Some(cut)) = (self.scenario.device[device].mig.as_ref(), self.cut(device, part))
            else {
                return 0;
            };
            if mig[part].gpu_instance != wanted {
                return 0;
            }
            used * i128::from(cut.compute_slices) / i128::from(cut.profile.slices)
        };
        self.actors.iter().filter(|actor| self.uses(actor, device)).map(of).sum()
    }
}

/// Device and MIG device of a process that is on one. A UUID may be used by one after another: it is on the one that
/// is there at its start.
pub(super) fn part_of(scenario: &Scenario, process: &Process) -> Option<(usize, usize)> {
    let uuid = process.instance.as_ref()?;
    let at = scenario.device.iter().position(|device| process.devices.contains(&device.uuid))?;
    let there = |part: &MigDevice| {
        part.uuid == *uuid
            && part.from_s.is_none_or(|from_s| from_s <= process.start_s)
            && part.to_s.is_none_or(|to_s| process.start_s < to_s)
    };
    let part = scenario.device[at].mig.as_deref()?.iter().position(there)?;
    Some((at, part))
}
