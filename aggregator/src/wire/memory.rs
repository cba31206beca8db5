//! Memory slices in a batch: what an instance says that it has, and that all of a window together have no more than their GPU. So what
//! instances leave of a GPU's memory is never less than nothing, in whatever slot their time ends up. Pure.

use tonnage_proto::limits::{MEMORY_PARTS, WEIGHED_SLICES_MAX};
use tonnage_proto::metering as pb;

use crate::model::{Instance, MemoryShare, Usage};

/// `None` where it says nothing of them.
pub(super) fn share(instance: &pb::Instance, device_slices: u32) -> Result<Option<MemoryShare>, String> {
    let (slices, compute_slices, of) =
        (instance.memory_slices, instance.gpu_instance_slices, instance.gpu_memory_slices);
    if of == 0 {
        return Ok(None);
    }
    let most = WEIGHED_SLICES_MAX;
    if device_slices > most || of > most {
        return Err(format!(
            "gpu_memory_slices: {of}, of a GPU of {device_slices} compute slices, cannot be weighed: {most} of either can"
        ));
    }
    if slices > of {
        return Err(format!("memory_slices: {slices} is over the {of} of its GPU"));
    }
    if !(instance.slices..=device_slices).contains(&compute_slices) {
        let own = instance.slices;
        return Err(format!(
            "gpu_instance_slices: {compute_slices} is not between its own {own} and the {device_slices} of its device"
        ));
    }
    Ok(Some(MemoryShare { slices, compute_slices, of }))
}

/// The ledger weighs by memory what says it, and by compute slices what does not.
pub(super) fn within_gpu(
    duration_ns: u64,
    device_slices: u32,
    usages: &[Usage],
    idles: &[(usize, u64)],
    instances: &[Instance],
) -> Result<(), String> {
    if instances.iter().all(|instance| instance.memory.is_none()) {
        return Ok(());
    }
    let share = |at: Option<usize>| at.and_then(|at| instances[at].memory);
    let idle = idles.iter().map(|(at, ns)| (Some(*at), *ns));
    let times: Vec<_> = idle.chain(usages.iter().map(|usage| (usage.instance, usage.held_ns))).collect();
    // They may be another device's.
    if times.iter().all(|(at, _)| share(*at).is_none()) {
        return Ok(());
    }
    // No figure of a window is over 2^63, and where memory is told a device has no more slices than can be weighed.
    let parts = |(at, ns): &(Option<usize>, u64)| match share(*at) {
        Some(share) => share.parts(ns.cast_signed()),
        None => i128::from(*ns) * (MEMORY_PARTS / i128::from(device_slices)),
    };
    let (sum, most) = (times.iter().map(parts).sum::<i128>(), i128::from(duration_ns) * MEMORY_PARTS);
    if sum <= most {
        return Ok(());
    }
    let percent = sum.saturating_mul(100) / most.max(1);
    Err(format!("memory_slices: instances and holders have {percent} % of the GPU's memory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(slices: u32, memory_slices: u32, gpu_instance_slices: u32) -> pb::Instance {
        let device = 0;
        pb::Instance {
            device,
            slices,
            memory_slices,
            gpu_instance_slices,
            gpu_memory_slices: 8,
            ..Default::default()
        }
    }

    #[test]
    fn what_an_instance_says_of_its_memory_is_within_its_gpu_or_refused() {
        let share = |of: &pb::Instance| share(of, 7);
        assert_eq!(share(&pb::Instance { gpu_memory_slices: 0, ..part(1, 9, 9) }), Ok(None));
        assert!(share(&part(1, 0, 3)).unwrap().is_some(), "it may have none");
        for (wrong, field) in [
            (part(1, 9, 1), "memory_slices: 9"),
            (part(2, 4, 1), "gpu_instance_slices: 1"),
            (part(2, 4, 8), "gpu_instance_slices: 8"),
            (pb::Instance { gpu_memory_slices: 17, ..part(1, 1, 1) }, "gpu_memory_slices: 17"),
        ] {
            let error = share(&wrong).unwrap_err();
            assert!(error.starts_with(field), "{error}");
        }
        assert!(super::share(&part(1, 1, 1), 17).is_err());
    }

    #[test]
    fn a_window_in_which_more_memory_is_had_than_there_is_is_refused() {
        let instance = |of: &pb::Instance| Instance {
            slices: of.slices,
            memory: share(of, 7).unwrap(),
            ..Instance::default()
        };
        let instances = [part(3, 4, 3), part(3, 4, 3), part(1, 1, 1)].map(|of| instance(&of));
        let held = |instance, held_ns| Usage {
            owner: 0,
            instance,
            intruder: false,
            held_ns,
            busy_ns: 0,
            memory_byte_seconds: 0,
            energy_uj: 0,
            method: 0,
        };
        let check = |usages: &[Usage], idles: &[(usize, u64)]| within_gpu(10, 7, usages, idles, &instances);
        assert!(check(&[held(Some(0), 30)], &[(1, 30)]).is_ok());
        assert!(check(&[held(Some(0), 30)], &[(1, 30), (2, 1)]).unwrap_err().contains("memory_slices: "));
        // What is held beside instances and does not say its memory is weighed by its compute slices.
        assert!(check(&[held(Some(0), 30), held(None, 35)], &[]).is_ok());
        assert!(check(&[held(Some(0), 30), held(None, 36)], &[]).is_err());
    }
}
