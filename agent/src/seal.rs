//! Windows into bytes: drafts, as they lie in the spool before they are numbered, and sealed batches.
//!
//! A draft is a `Batch` without a cursor. Sealing joins drafts of the same boot and facts into one batch under the
//! next number. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;
use tonnage_proto::limits::{
    BATCH_BYTES_MAX, BATCH_FORMAT, DEVICES_PER_BATCH_MAX, GAPS_PER_BATCH_MAX, INSTANCES_PER_BATCH_MAX,
    OWNERS_PER_BATCH_MAX, WINDOWS_PER_BATCH_MAX,
};
use tonnage_proto::metering as pb;

mod merge;
mod words;

pub use merge::merge;

use words::{device, gap_reason, instance, owner};

use crate::model::{DeviceInfo, Gap, KnownInstance, Window};

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
    let mut names = Names::default();
    let windows = windows.iter().map(|window| names.window(window, node)).collect();
    let gaps = gaps
        .iter()
        .filter(|gap| 0 <= gap.start_ns && gap.start_ns < gap.end_ns)
        .map(|gap| pb::Gap {
            device: gap
                .device
                .as_ref()
                .map_or(EVERY_DEVICE, |info| names.devices.of(device(info, &node.driver_version))),
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
        windows,
        overlap_ns,
        gaps,
        ..names.batch()
    };
    batch.encode_to_vec()
}

/// Encodes the devices of a node, and the instances that are known of them, for the next run of the agent. Those that
/// are gone have no slices.
#[must_use]
pub fn devices(infos: &[Arc<DeviceInfo>], instances: &[KnownInstance], node: &NodeState) -> Vec<u8> {
    let mut names = Names::default();
    for info in infos {
        names.devices.of(device(info, &node.driver_version));
    }
    for known in instances {
        let at =
            infos.iter().position(|info| info.uuid == known.device).and_then(|at| u32::try_from(at).ok());
        names.instances.list.extend(at.map(|at| match instance(at, &known.instance) {
            all if known.present => all,
            all => pb::Instance {
                slices: 0,
                uuid: String::new(),
                profile: String::new(),
                memory_bytes: 0,
                gpu_memory_slices: 0,
                ..all
            },
        }));
    }
    let (boot_id, instance_id) = (node.boot_id.clone(), node.instance_id.clone());
    pb::Batch { boot_id, instance_id, ..names.batch() }.encode_to_vec()
}

/// The instances that [`devices`] was given.
#[must_use]
pub fn read_instances(encoded: &[u8]) -> Vec<KnownInstance> {
    let pb::Batch { devices, instances, .. } = pb::Batch::decode(encoded).unwrap_or_default();
    let known = instances.into_iter().filter_map(|of| {
        let device = devices.get(of.device as usize)?;
        let instance = words::read_instance(of);
        let present = instance.slices > 0;
        Some(KnownInstance { device: device.uuid.as_str().into(), instance: Arc::new(instance), present })
    });
    known.collect()
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
    let mut names = Names::default();
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
            if !same || bytes > BATCH_BYTES_MAX / 2 || !names.fit(joined, &draft) {
                break;
            }
        }
        taken += 1;
        join(&mut joined, draft, &mut names);
    }
    let batch = pb::Batch {
        format: BATCH_FORMAT,
        cluster: header.cluster.clone(),
        node: header.node.clone(),
        epoch: header.epoch.to_vec(),
        seq: header.seq,
        sealed_at_ns: header.sealed_at_ns,
        ..names.name(joined.unwrap_or_default())
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

/// What windows of a batch refer to by its place.
#[derive(Default)]
struct Names {
    devices: Positions<pb::Device>,
    owners: Positions<pb::Owner>,
    instances: Positions<pb::Instance>,
}

impl Names {
    fn window(&mut self, window: &Window, node: &NodeState) -> pb::Window {
        let device = self.devices.of(device(&window.info, &node.driver_version));
        let idles = window.instance_idle_ns.iter().map(|(of, idle_ns)| pb::InstanceIdle {
            instance: 1 + self.instances.of(instance(device, of)),
            idle_ns: *idle_ns,
        });
        let instance_idles = idles.collect();
        let held = window.usages.iter().map(|usage| (pb::usage::Kind::Held, usage));
        let intruders = window.intruders.iter().map(|usage| (pb::usage::Kind::Intruder, usage));
        let usages = held.chain(intruders).map(|(kind, ((at, name), usage))| pb::Usage {
            owner: self.owners.of(owner(name)),
            kind: kind.into(),
            held_ns: usage.held_ns,
            busy_ns: usage.busy_ns,
            memory_byte_seconds: usage.memory_byte_seconds,
            energy_uj: usage.energy_uj,
            method: usage.method,
            instance: at.as_ref().map_or(0, |at| 1 + self.instances.of(instance(device, at))),
        });
        pb::Window {
            usages: usages.collect(),
            device,
            start_ns: window.start_ns,
            duration_ns: window.duration_ns,
            idle_ns: window.idle_ns,
            busy_unattributed_ns: window.busy_unattributed_ns,
            energy_idle_uj: window.energy_idle_uj,
            energy_unobserved_uj: window.energy_unobserved_uj,
            samples: window.samples,
            instance_idles,
            stranded_ns: window.stranded_ns,
        }
    }

    /// Whether a draft that is joined leaves the batch within its limits.
    fn fit(&self, joined: &pb::Batch, draft: &pb::Batch) -> bool {
        joined.windows.len() + draft.windows.len() <= WINDOWS_PER_BATCH_MAX
            && joined.gaps.len() + draft.gaps.len() <= GAPS_PER_BATCH_MAX
            && self.devices.list.len() + draft.devices.len() <= DEVICES_PER_BATCH_MAX
            && self.owners.list.len() + draft.owners.len() <= OWNERS_PER_BATCH_MAX
            && self.instances.list.len() + draft.instances.len() <= INSTANCES_PER_BATCH_MAX
    }

    fn batch(self) -> pb::Batch {
        self.name(pb::Batch::default())
    }

    fn name(self, batch: pb::Batch) -> pb::Batch {
        let Self { devices, owners, instances } = self;
        pb::Batch { devices: devices.list, owners: owners.list, instances: instances.list, ..batch }
    }
}

fn join(joined: &mut Option<pb::Batch>, mut draft: pb::Batch, names: &mut Names) {
    let device_at: Vec<u32> = draft.devices.drain(..).map(|device| names.devices.of(device)).collect();
    let owner_at: Vec<u32> = draft.owners.drain(..).map(|owner| names.owners.of(owner)).collect();
    let place = |at: &[u32], position: u32| at.get(position as usize).copied().unwrap_or(u32::MAX);
    let instances = draft.instances.drain(..).map(|instance| {
        let device = place(&device_at, instance.device);
        names.instances.of(pb::Instance { device, ..instance })
    });
    let instance_at: Vec<u32> = instances.collect();
    // 0 = the whole device.
    let instance = |position: u32| match position.checked_sub(1) {
        None => 0,
        Some(position) => place(&instance_at, position).saturating_add(1),
    };
    for window in &mut draft.windows {
        window.device = place(&device_at, window.device);
        for usage in &mut window.usages {
            usage.owner = place(&owner_at, usage.owner);
            usage.instance = instance(usage.instance);
        }
        for idle in &mut window.instance_idles {
            idle.instance = instance(idle.instance);
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{Owner, OwnerKind, Usage};

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
            usages: BTreeMap::from([((None, Arc::new(owner)), usage)]),
            intruders: BTreeMap::new(),
            instance_idle_ns: BTreeMap::new(),
            stranded_ns: 0,
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
