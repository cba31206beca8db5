//! What of a partitioned device is in no instance, where somebody holds it: an instance of its own kind, so that what its holder has
//! of the device's memory is told beside its compute slices. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use tonnage_proto::limits::WEIGHED_SLICES_MAX;

use crate::model::{DeviceInfo, Instance, MemoryShare, Observation};

/// `None` where nobody holds it, where the device is not cut, and where the driver does not say how its memory is. It goes by the
/// device's UUID. Memory that a GPU instance has is that instance's, be it that no compute instance has the use of it.
pub(super) fn of(info: &DeviceInfo, observation: &Observation) -> Option<Arc<Instance>> {
    let instances = &observation.partition.as_ref()?.instances;
    if observation.holders.is_empty() && observation.allocation.claims.is_empty() {
        return None;
    }
    let of = instances.first()?.instance.memory?.of;
    let (mut left, mut taken) = (info.slices, BTreeMap::new());
    for instance in instances.iter().map(|of| &of.instance) {
        left = left.saturating_sub(instance.slices);
        taken.insert(instance.gpu_instance, instance.memory.filter(|memory| memory.of == of)?.slices);
    }
    let slices = of.checked_sub(taken.values().sum())?;
    (1..=WEIGHED_SLICES_MAX).contains(&left).then(|| {
        Arc::new(Instance {
            gpu_instance: None,
            compute_instance: None,
            generation: 0,
            uuid: Arc::clone(&info.uuid),
            slices: left,
            slices_guessed: false,
            profile: String::new(),
            memory_bytes: 0,
            memory: Some(MemoryShare { slices, compute_slices: left, of }),
        })
    })
}
