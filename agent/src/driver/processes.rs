//! The processes on a device, from NVML's lists of compute, graphics and MPS processes.

use std::collections::BTreeMap;

use crate::model::DeviceProcess;

/// Each pid once, in order, with the most memory that any list says: a process may be in several lists, and each
/// gives its whole memory.
pub(super) fn merge(listed: impl IntoIterator<Item = DeviceProcess>) -> Vec<DeviceProcess> {
    let mut merged: BTreeMap<u32, DeviceProcess> = BTreeMap::new();
    for process in listed {
        let known = merged.entry(process.pid).or_insert(process);
        known.memory_bytes = process.memory_bytes.max(known.memory_bytes);
        known.mps_client |= process.mps_client;
    }
    merged.into_values().collect()
}

/// NVML's figure for a process's memory: all ones means not available, and no process has more than its device.
pub(super) fn memory(used_bytes: u64, device_bytes: u64) -> Option<u64> {
    let plausible = used_bytes != u64::MAX && (device_bytes == 0 || used_bytes <= device_bytes);
    plausible.then_some(used_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_in_several_lists_is_one_process_with_its_largest_memory() {
        let process = |(pid, memory_bytes, mps_client)| DeviceProcess { pid, memory_bytes, mps_client };
        let listed =
            [(7, Some(5), false), (3, None, false), (7, None, true), (7, Some(9), false), (3, None, false)];
        let expected = [(3, None, false), (7, Some(9), true)];
        assert_eq!(merge(listed.map(process)), expected.map(process));
    }

    #[test]
    fn memory_that_is_not_available_or_cannot_be_is_unknown() {
        assert_eq!(memory(u64::MAX, 80), None);
        assert_eq!(memory(81, 80), None);
        assert_eq!(memory(80, 80), Some(80));
        assert_eq!(memory(81, 0), Some(81), "the device's own size is unknown");
    }
}
