//! Sealed batches as agents of a crowded node make them, in memory before the clock runs.

use prost::Message;
use sha2::{Digest, Sha256};
use tonnage_proto::limits::{BATCH_FORMAT, WINDOW_NS};
use tonnage_proto::metering as pb;

use super::CLUSTER;

pub(super) const GPUS: u32 = 8;

/// A node with 8 GPUs, each shared by all its pods.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) number: u32,
    pub(super) pods: u32,
}

impl Node {
    pub(super) fn name(self) -> String {
        format!("node-{:05}", self.number)
    }

    pub(super) fn epoch(self) -> [u8; 16] {
        let mut epoch = [7; 16];
        epoch[..4].copy_from_slice(&self.number.to_be_bytes());
        epoch
    }

    /// One batch for each list of windows, given by their starts: each has a window of every GPU.
    pub(super) fn batches(self, starts: impl Iterator<Item = Vec<i64>>) -> Vec<pb::SealedBatch> {
        (1..).zip(starts).map(|(seq, starts)| self.batch(seq, &starts)).collect()
    }

    pub(super) fn batch(self, seq: u64, starts: &[i64]) -> pb::SealedBatch {
        let batch = pb::Batch {
            format: BATCH_FORMAT,
            cluster: CLUSTER.to_owned(),
            node: self.name(),
            epoch: self.epoch().to_vec(),
            seq,
            sealed_at_ns: starts.last().copied().unwrap_or(0) + WINDOW_NS,
            boot_id: "5a1f9f7e-3f56-4f57-9c2e-2b6f6e0c7a11".to_owned(),
            facts: Some(pb::NodeFacts::default()),
            devices: (0..GPUS).map(|gpu| self.device(gpu)).collect(),
            owners: (0..self.pods).map(|pod| self.owner(pod)).collect(),
            windows: starts.iter().flat_map(|start| (0..GPUS).map(|gpu| self.window(gpu, *start))).collect(),
            ..pb::Batch::default()
        };
        let payload = batch.encode_to_vec();
        let sha256 = Sha256::digest(&payload).to_vec();
        pb::SealedBatch { seq, payload, sha256, sent_at_ns: 0 }
    }

    fn device(self, gpu: u32) -> pb::Device {
        let real = harness::scenario::device(gpu);
        pb::Device {
            uuid: format!("GPU-{:08x}-{gpu:04x}-4f57-9c2e-2b6f6e0c7a11", self.number),
            model: real.model,
            memory_bytes: real.memory_bytes,
            slices: 1,
            minor: gpu,
            pci_bus_id: real.pci_bus_id,
            driver_version: "580.95.05".to_owned(),
        }
    }

    fn owner(self, pod: u32) -> pb::Owner {
        let n = self.number * 1_000 + pod;
        pb::Owner {
            kind: pb::owner::Kind::Pod.into(),
            namespace: format!("team-{}", n % 7),
            pod: format!("training-{n}-worker-0"),
            pod_uid: harness::scenario::pod_uid(n),
            container_id: harness::scenario::container_id(n),
            ..pb::Owner::default()
        }
    }

    fn window(self, gpu: u32, start_ns: i64) -> pb::Window {
        let length_ns = WINDOW_NS.unsigned_abs();
        let held_ns = length_ns / u64::from(self.pods);
        let usage = |owner: u32| pb::Usage {
            owner,
            kind: pb::usage::Kind::Held.into(),
            held_ns,
            // Figures that differ, so that they take the bytes that real ones take.
            busy_ns: held_ns / 3 + u64::from(owner * 977 + gpu),
            memory_byte_seconds: 10 << 30,
            energy_uj: 350_000_000 + u64::from(owner * 131 + gpu),
            method: 3,
            ..pb::Usage::default()
        };
        pb::Window {
            device: gpu,
            start_ns,
            duration_ns: length_ns,
            idle_ns: length_ns - held_ns * u64::from(self.pods),
            usages: (0..self.pods).map(usage).collect(),
            samples: 10,
            ..pb::Window::default()
        }
    }
}
