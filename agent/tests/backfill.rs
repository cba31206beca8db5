//! Days without a ledger on a real disk: the spool is merged as it grows, what waits stays small in memory, and all of
//! it is delivered in the end.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use tonnage_agent::model::{DeviceInfo, Owner, OwnerKind, Usage, Window};
use tonnage_agent::seal::{NodeState, draft};
use tonnage_agent::spool::{Identity, Limits, Spool};
use tonnage_proto::limits::{DAY_NS, SLOT_NS, WINDOW_NS};
use tonnage_proto::metering::Batch;

const GPUS: u32 = 8;
const DAYS: i64 = 2;
const T0: i64 = 20_000 * DAY_NS;
/// What this may add to the process.
const GROWTH_BYTES_MAX: u64 = 48 << 20;

/// Memory of this process that no file backs.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

/// One cell of the grid: every GPU held by a pod that changes by the hour.
fn cell(devices: &[Arc<DeviceInfo>], n: i64) -> Vec<u8> {
    let start_ns = T0 + n * WINDOW_NS;
    let windows: Vec<Window> = devices
        .iter()
        .enumerate()
        .map(|(gpu, info)| {
            let pod_uid = format!("0c3d2f1e-{:04}-4a5b-8c6d-{gpu:012}", n / 360);
            let owner = Owner { kind: OwnerKind::Pod, pod_uid, ..Owner::default() };
            let usage =
                Usage { held_ns: WINDOW_NS.unsigned_abs(), busy_ns: 5, energy_uj: 7, ..Usage::default() };
            Window {
                info: Arc::clone(info),
                start_ns,
                duration_ns: WINDOW_NS.unsigned_abs(),
                idle_ns: 0,
                usages: BTreeMap::from([((None, Arc::new(owner)), usage)]),
                intruders: BTreeMap::new(),
                instance_idle_ns: BTreeMap::new(),
                stranded_ns: 0,
                busy_unattributed_ns: 0,
                energy_idle_uj: 0,
                energy_unobserved_uj: 0,
                samples: 10,
            }
        })
        .collect();
    draft(&windows, &NodeState { boot_id: "b".into(), ..NodeState::default() }, 0)
}

#[test]
fn days_offline_stay_small_in_memory_and_are_delivered_whole() {
    let folder = tempfile::tempdir().unwrap();
    let devices: Vec<Arc<DeviceInfo>> = (0..GPUS)
        .map(|gpu| {
            Arc::new(DeviceInfo {
                uuid: format!("GPU-{gpu}").into(),
                model: "NVIDIA H100 80GB HBM3".into(),
                memory_bytes: 80 << 30,
                slices: 1,
                minor: Some(gpu),
                pci_bus_id: String::new(),
            })
        })
        .collect();
    let identity = Identity { cluster: "c".into(), node: "n".into() };
    let limits = Limits { bytes: 256 << 20, kept_bytes: 2_000_000 };
    let before = anonymous_bytes();
    let (mut spool, _) = Spool::open(&folder.path().join("spool"), identity, limits, T0).unwrap();
    let cells = DAYS * DAY_NS / WINDOW_NS;
    let (mut most, mut appended_bytes) = (0, 0);
    for n in 0..cells {
        let draft = cell(&devices, n);
        appended_bytes += draft.len();
        spool.append(&draft, T0 + (n + 1) * WINDOW_NS).unwrap();
        spool.seal(T0).unwrap();
        if n % 360 == 0 {
            most = most.max(anonymous_bytes().saturating_sub(before));
        }
    }
    let (bytes, drafts) = (spool.bytes(), spool.drafts());
    let mut windows: BTreeMap<u32, u64> = BTreeMap::new();
    let mut held: BTreeMap<(String, i64), u64> = BTreeMap::new();
    let mut seq = 0;
    while spool.seal(T0).unwrap() || seq < spool.holdings().sealed_seq {
        seq += 1;
        let batch = Batch::decode(spool.batch(seq).unwrap().unwrap().payload.as_slice()).unwrap();
        for window in &batch.windows {
            *windows.entry(window.device).or_default() += window.duration_ns;
            for usage in &window.usages {
                let pod = batch.owners[usage.owner as usize].pod_uid.clone();
                *held.entry((pod, window.start_ns / SLOT_NS)).or_default() += usage.held_ns;
            }
        }
        spool.ack(seq, seq, T0).unwrap();
    }
    most = most.max(anonymous_bytes().saturating_sub(before));
    println!(
        "{cells} drafts of {appended_bytes} bytes in {DAYS} days became {drafts} of {bytes} bytes, {seq} batches; \
         anonymous memory grew by at most {most} bytes"
    );
    assert!(most <= GROWTH_BYTES_MAX, "{most}");
    assert!(bytes * 5 < appended_bytes, "{bytes} of {appended_bytes}");
    assert!(windows.values().all(|ns| *ns == (DAYS * DAY_NS).unsigned_abs()), "{windows:?}");
    assert_eq!(windows.len(), GPUS as usize);
    let slots = usize::try_from(DAYS * DAY_NS / SLOT_NS).unwrap();
    assert_eq!(held.len(), slots * GPUS as usize);
    assert!(held.values().all(|ns| *ns == SLOT_NS.unsigned_abs()));
}
