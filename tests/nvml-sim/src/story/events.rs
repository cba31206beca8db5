//! What the driver tells those who wait for events: XIDs, and that a device was cut anew.

use super::Story;

/// NVML's bits of event types.
pub const XID: u64 = 8;
pub const MIG_CONFIG_CHANGE: u64 = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub at_ns: i64,
    /// One of the bits above.
    pub kind: u64,
    /// The XID's number.
    pub data: u64,
    /// GPU instance and compute instance, where it is of one.
    pub instance: Option<(u32, u32)>,
}

impl Story {
    /// A device's events, by time.
    #[must_use]
    pub fn events(&self, device: usize) -> &[Event] {
        &self.events[device]
    }

    pub(super) fn all_events(&self, device: usize) -> Vec<Event> {
        let info = &self.scenario.device[device];
        let xid = |xid: &crate::scenario::Xid| {
            let at_ns = self.at(xid.at_s);
            let ids = self
                .mig_devices(device, at_ns)
                .find(|(_, mig, _)| xid.instance.as_ref() == Some(&mig.uuid))
                .map(|(_, mig, _)| (mig.gpu_instance, mig.compute_instance));
            Event { at_ns, kind: XID, data: xid.code, instance: ids }
        };
        let mut changes: Vec<i64> =
            self.mig[device].iter().flat_map(|((from, to), _)| [*from, *to]).collect();
        if self.mig_capable(device) {
            changes.extend([self.mode[device].0, self.mode[device].1]);
        }
        changes.retain(|at_ns| *at_ns > self.epoch_ns && *at_ns != i64::MAX);
        changes.sort_unstable();
        changes.dedup();
        let change = |at_ns| Event { at_ns, kind: MIG_CONFIG_CHANGE, data: 0, instance: None };
        let mut events: Vec<Event> =
            info.xid.iter().map(xid).chain(changes.into_iter().map(change)).collect();
        events.sort_by_key(|event| event.at_ns);
        events
    }
}
