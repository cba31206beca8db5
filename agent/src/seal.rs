//! Windows into bytes: drafts, as they lie in the spool before they are numbered, and sealed batches.
//!
//! A draft is a `Batch` without a cursor. Sealing joins drafts of the same boot and facts into one batch under the
//! next number. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;
use tonnage_proto::limits::{
    BATCH_BYTES_MAX, BATCH_FORMAT, DEVICES_PER_BATCH_MAX, GAPS_PER_BATCH_MAX, OWNERS_PER_BATCH_MAX,
    WINDOWS_PER_BATCH_MAX,
};
use tonnage_proto::metering as pb;

mod merge;

pub use merge::merge;

use crate::model::{DeviceInfo, Gap, GapReason, Owner, OwnerKind, Window};

/// A gap's device, where it is of all of them.
const EVERY_DEVICE: u32 = u32::MAX;

/// What the agent knows of its node; stands in every draft, since it may be another at the next start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeState {
    pub boot_id: String,
    pub instance_id: String,
    pub facts: pb::NodeFacts,
    pub driver_version: String,
}

/// A batch's cursor, and when it is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub cluster: String,
    pub node: String,
    pub epoch: [u8; 16],
    pub seq: u64,
    pub sealed_at_ns: i64,
}

/// Encodes windows as a draft.
#[must_use]
pub fn draft(windows: &[Window], node: &NodeState, overlap_ns: u64) -> Vec<u8> {
    draft_with_gaps(windows, &[], node, overlap_ns)
}

/// Encodes windows, and why there are no others, as a draft.
#[must_use]
pub fn draft_with_gaps(windows: &[Window], gaps: &[Gap], node: &NodeState, overlap_ns: u64) -> Vec<u8> {
    let mut devices = Positions::default();
    let mut owners = Positions::default();
    let windows = windows
        .iter()
        .map(|window| pb::Window {
            device: devices.of(device(&window.info, &node.driver_version)),
            start_ns: window.start_ns,
            duration_ns: window.duration_ns,
            idle_ns: window.idle_ns,
            usages: usages(window, &mut owners),
            busy_unattributed_ns: window.busy_unattributed_ns,
            energy_idle_uj: window.energy_idle_uj,
            energy_unobserved_uj: window.energy_unobserved_uj,
            samples: window.samples,
            ..pb::Window::default()
        })
        .collect();
    let gaps = gaps
        .iter()
        .filter(|gap| 0 <= gap.start_ns && gap.start_ns < gap.end_ns)
        .map(|gap| pb::Gap {
            device: gap
                .device
                .as_ref()
                .map_or(EVERY_DEVICE, |info| devices.of(device(info, &node.driver_version))),
            start_ns: gap.start_ns,
            duration_ns: gap.end_ns.saturating_sub(gap.start_ns).unsigned_abs(),
            reason: gap_reason(gap.reason).into(),
        })
        .collect();
    let batch = pb::Batch {
        format: BATCH_FORMAT,
        boot_id: node.boot_id.clone(),
        instance_id: node.instance_id.clone(),
        facts: Some(node.facts.clone()),
        devices: devices.list,
        owners: owners.list,
        windows,
        overlap_ns,
        gaps,
        ..pb::Batch::default()
    };
    batch.encode_to_vec()
}

/// Encodes the devices of a node, for the next run of the agent.
#[must_use]
pub fn devices(infos: &[Arc<DeviceInfo>], node: &NodeState) -> Vec<u8> {
    let devices = infos.iter().map(|info| device(info, &node.driver_version)).collect();
    let (boot_id, instance_id) = (node.boot_id.clone(), node.instance_id.clone());
    pb::Batch { boot_id, instance_id, devices, ..pb::Batch::default() }.encode_to_vec()
}

/// The boot in which these devices were seen, and the devices; none where the bytes are not what [`devices`] gave.
#[must_use]
pub fn read_devices(encoded: &[u8]) -> (String, Vec<Arc<DeviceInfo>>) {
    let pb::Batch { boot_id, devices, .. } = pb::Batch::decode(encoded).unwrap_or_default();
    let info = |device: pb::Device| DeviceInfo {
        uuid: device.uuid.into(),
        model: device.model,
        memory_bytes: device.memory_bytes,
        slices: device.slices,
        minor: Some(device.minor).filter(|minor| *minor != u32::MAX),
        pci_bus_id: device.pci_bus_id,
    };
    (boot_id, devices.into_iter().map(|device| Arc::new(info(device))).collect())
}

/// The instance id by which that boot went; empty: by its boot id.
#[must_use]
pub fn read_instance_id(encoded: &[u8]) -> String {
    pb::Batch::decode(encoded).unwrap_or_default().instance_id
}

/// Joins as many leading drafts as belong together and fit into one batch. Gives its bytes and how many drafts it
/// took: at least one of a list that is not empty. A draft that cannot be read is taken, and left out.
#[must_use]
pub fn seal(drafts: &[Vec<u8>], header: &Header) -> (Vec<u8>, usize) {
    let mut joined: Option<pb::Batch> = None;
    let mut devices = Positions::default();
    let mut owners = Positions::default();
    let (mut taken, mut bytes) = (0, 0);
    for encoded in drafts {
        let Ok(draft) = pb::Batch::decode(encoded.as_slice()) else {
            tracing::error!("A draft in the spool cannot be read; its time is unobserved.");
            taken += 1;
            continue;
        };
        bytes += encoded.len();
        if let Some(joined) = &joined {
            let same = same_node(joined, &draft);
            let fits = bytes <= BATCH_BYTES_MAX / 2
                && joined.windows.len() + draft.windows.len() <= WINDOWS_PER_BATCH_MAX
                && joined.gaps.len() + draft.gaps.len() <= GAPS_PER_BATCH_MAX
                && devices.list.len() + draft.devices.len() <= DEVICES_PER_BATCH_MAX
                && owners.list.len() + draft.owners.len() <= OWNERS_PER_BATCH_MAX;
            if !same || !fits {
                break;
            }
        }
        taken += 1;
        join(&mut joined, draft, &mut devices, &mut owners);
    }
    let batch = pb::Batch {
        format: BATCH_FORMAT,
        cluster: header.cluster.clone(),
        node: header.node.clone(),
        epoch: header.epoch.to_vec(),
        seq: header.seq,
        sealed_at_ns: header.sealed_at_ns,
        devices: devices.list,
        owners: owners.list,
        ..joined.unwrap_or_default()
    };
    (batch.encode_to_vec(), taken)
}

/// Drafts of one boot and the same facts can share a batch.
fn same_node(one: &pb::Batch, other: &pb::Batch) -> bool {
    one.boot_id == other.boot_id && one.instance_id == other.instance_id && one.facts == other.facts
}

/// The draft inside a sealed batch, to be sealed again under another epoch.
#[must_use]
pub fn unseal(payload: &[u8]) -> Option<Vec<u8>> {
    let batch = pb::Batch::decode(payload).ok()?;
    let draft = pb::Batch {
        cluster: String::new(),
        node: String::new(),
        epoch: Vec::new(),
        seq: 0,
        sealed_at_ns: 0,
        ..batch
    };
    Some(draft.encode_to_vec())
}

fn usages(window: &Window, owners: &mut Positions<pb::Owner>) -> Vec<pb::Usage> {
    let held = window.usages.iter().map(|usage| (pb::usage::Kind::Held, usage));
    let intruders = window.intruders.iter().map(|usage| (pb::usage::Kind::Intruder, usage));
    held.chain(intruders)
        .map(|(kind, (name, usage))| pb::Usage {
            owner: owners.of(owner(name)),
            kind: kind.into(),
            held_ns: usage.held_ns,
            busy_ns: usage.busy_ns,
            memory_byte_seconds: usage.memory_byte_seconds,
            energy_uj: usage.energy_uj,
            method: usage.method,
            ..pb::Usage::default()
        })
        .collect()
}

fn join(
    joined: &mut Option<pb::Batch>,
    mut draft: pb::Batch,
    devices: &mut Positions<pb::Device>,
    owners: &mut Positions<pb::Owner>,
) {
    let device_at: Vec<u32> = draft.devices.drain(..).map(|device| devices.of(device)).collect();
    let owner_at: Vec<u32> = draft.owners.drain(..).map(|owner| owners.of(owner)).collect();
    for window in &mut draft.windows {
        window.device = device_at.get(window.device as usize).copied().unwrap_or(u32::MAX);
        for usage in &mut window.usages {
            usage.owner = owner_at.get(usage.owner as usize).copied().unwrap_or(u32::MAX);
        }
    }
    for gap in draft.gaps.iter_mut().filter(|gap| gap.device != EVERY_DEVICE) {
        gap.device = device_at.get(gap.device as usize).copied().unwrap_or(EVERY_DEVICE);
    }
    match joined {
        Some(batch) => {
            batch.windows.append(&mut draft.windows);
            for gap in draft.gaps {
                join_gap(&mut batch.gaps, gap);
            }
            // A damaged draft may say anything.
            batch.overlap_ns = batch.overlap_ns.saturating_add(draft.overlap_ns);
        }
        None => *joined = Some(draft),
    }
}

/// Adds a gap, or makes the last of its kind longer where it goes on from there.
fn join_gap(gaps: &mut Vec<pb::Gap>, gap: pb::Gap) {
    let alike = |other: &&mut pb::Gap| (other.device, other.reason) == (gap.device, gap.reason);
    match gaps.iter_mut().rev().find(alike) {
        Some(last) if last.start_ns.saturating_add_unsigned(last.duration_ns) == gap.start_ns => {
            last.duration_ns = last.duration_ns.saturating_add(gap.duration_ns);
        }
        _ => gaps.push(gap),
    }
}

/// A list without repeats, and where each entry stands in it.
struct Positions<T> {
    list: Vec<T>,
    at: HashMap<Vec<u8>, u32>,
}

impl<T> Default for Positions<T> {
    fn default() -> Self {
        Self { list: Vec::new(), at: HashMap::new() }
    }
}

impl<T: Message> Positions<T> {
    fn of(&mut self, entry: T) -> u32 {
        let key = entry.encode_to_vec();
        let next = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        let list = &mut self.list;
        *self.at.entry(key).or_insert_with(|| {
            list.push(entry);
            next
        })
    }
}

fn device(info: &DeviceInfo, driver_version: &str) -> pb::Device {
    pb::Device {
        uuid: info.uuid.to_string(),
        model: info.model.clone(),
        memory_bytes: info.memory_bytes,
        slices: info.slices,
        minor: info.minor.unwrap_or(u32::MAX),
        pci_bus_id: info.pci_bus_id.clone(),
        driver_version: driver_version.to_owned(),
    }
}

fn gap_reason(reason: GapReason) -> pb::gap::Reason {
    use pb::gap::Reason;
    match reason {
        GapReason::AgentDown => Reason::AgentDown,
        GapReason::NotRead => Reason::NotRead,
        GapReason::Clock => Reason::Clock,
        GapReason::Suspended => Reason::Suspended,
        GapReason::Spool => Reason::Spool,
    }
}

fn owner(owner: &Owner) -> pb::Owner {
    use pb::owner::Kind;
    let kind = match owner.kind {
        OwnerKind::Unowned => Kind::Unowned,
        OwnerKind::Pod => Kind::Pod,
        OwnerKind::SlurmJob => Kind::SlurmJob,
        OwnerKind::SystemdUnit => Kind::SystemdUnit,
        OwnerKind::User => Kind::User,
        OwnerKind::Container => Kind::Container,
    };
    pb::Owner {
        kind: kind.into(),
        namespace: owner.namespace.clone(),
        pod: owner.pod.clone(),
        pod_uid: owner.pod_uid.clone(),
        container: owner.container.clone(),
        container_id: owner.container_id.clone(),
        job_id: owner.job_id.clone(),
        step: owner.step.clone(),
        unit: owner.unit.clone(),
        user: owner.user.clone(),
        account: owner.account.clone(),
        partition: owner.partition.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::Usage;

    fn window(uuid: &str, start_ns: i64, pod: &str) -> Window {
        let info = Arc::new(DeviceInfo {
            uuid: uuid.into(),
            model: "NVIDIA H100".into(),
            memory_bytes: 80 << 30,
            slices: 1,
            minor: Some(0),
            pci_bus_id: String::new(),
        });
        let owner = Owner { kind: OwnerKind::Pod, pod_uid: pod.into(), ..Owner::default() };
        let usage = Usage { held_ns: 6, busy_ns: 1, ..Usage::default() };
        Window {
            info,
            start_ns,
            duration_ns: 10,
            idle_ns: 4,
            usages: BTreeMap::from([(Arc::new(owner), usage)]),
            intruders: BTreeMap::new(),
            busy_unattributed_ns: 0,
            energy_idle_uj: 0,
            energy_unobserved_uj: 0,
            samples: 1,
        }
    }

    fn header() -> Header {
        Header { cluster: "c".into(), node: "n".into(), epoch: [7; 16], seq: 3, sealed_at_ns: 9 }
    }

    #[test]
    fn drafts_of_one_boot_become_one_batch_that_names_each_device_and_owner_once() {
        let node = NodeState { boot_id: "b".into(), ..NodeState::default() };
        let drafts = [
            draft(&[window("GPU-1", 0, "p"), window("GPU-2", 0, "q")], &node, 1),
            draft(&[window("GPU-2", 10, "p")], &node, 2),
        ];
        let (payload, taken) = seal(&drafts, &header());
        assert_eq!(taken, 2);
        let batch = pb::Batch::decode(payload.as_slice()).unwrap();
        assert_eq!((batch.devices.len(), batch.owners.len(), batch.windows.len()), (2, 2, 3));
        assert_eq!((batch.seq, batch.overlap_ns, batch.boot_id.as_str()), (3, 3, "b"));
        let last = &batch.windows[2];
        assert_eq!(batch.devices[last.device as usize].uuid, "GPU-2");
        assert_eq!(batch.owners[last.usages[0].owner as usize].pod_uid, "p");
    }

    #[test]
    fn drafts_of_two_boots_do_not_share_a_batch() {
        let [one, two] = ["one", "two"].map(|boot| {
            let node = NodeState { boot_id: boot.into(), ..NodeState::default() };
            draft(&[window("GPU-1", 0, "p")], &node, 0)
        });
        assert_eq!(seal(&[one, two], &header()).1, 1);
    }

    #[test]
    fn what_is_sealed_again_holds_the_same_windows_under_another_cursor() {
        let node = NodeState { boot_id: "b".into(), ..NodeState::default() };
        let (payload, _) = seal(&[draft(&[window("GPU-1", 0, "p")], &node, 5)], &header());
        let again = Header { epoch: [8; 16], seq: 1, ..header() };
        let (resealed, _) = seal(&[unseal(&payload).unwrap()], &again);
        let (one, two) =
            (pb::Batch::decode(payload.as_slice()).unwrap(), pb::Batch::decode(resealed.as_slice()).unwrap());
        assert_eq!(one.windows, two.windows);
        assert_eq!((two.seq, two.epoch, two.overlap_ns), (1, vec![8; 16], 5));
    }

    #[test]
    fn an_overlap_that_no_clock_can_have_does_not_stop_sealing() {
        let node = NodeState::default();
        let drafts = [u64::MAX, 5].map(|overlap_ns| draft(&[window("GPU-1", 0, "p")], &node, overlap_ns));
        let (payload, taken) = seal(&drafts, &header());
        assert_eq!((taken, pb::Batch::decode(payload.as_slice()).unwrap().overlap_ns), (2, u64::MAX));
    }

    #[test]
    fn a_draft_that_cannot_be_read_does_not_stop_the_others() {
        let node = NodeState::default();
        let drafts = [vec![0xff; 5], draft(&[window("GPU-1", 0, "p")], &node, 0)];
        let (payload, taken) = seal(&drafts, &header());
        assert_eq!(taken, 2);
        assert_eq!(pb::Batch::decode(payload.as_slice()).unwrap().windows.len(), 1);
    }
}
