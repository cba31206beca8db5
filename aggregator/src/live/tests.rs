//! What the live view remembers, forgets and answers.

use super::*;
use crate::model::{MemoryShare, OwnerKind};

const SECOND: i64 = 1_000_000_000;

fn node(name: &str) -> NodeName {
    NodeName { cluster: "c".into(), node: name.into() }
}

fn batch(end_s: i64, held_ns: u64) -> UsageBatch {
    let slices = 7;
    let whole: u64 = 10_000_000_000 * 7;
    UsageBatch {
        epoch: [0; 16],
        seq: 1,
        sealed_at_ns: 0,
        boot_id: String::new(),
        instance_id: String::new(),
        facts: NodeFacts::default(),
        devices: vec![Device {
            uuid: "GPU-1".into(),
            model: "H100".into(),
            memory_bytes: 80,
            slices,
            minor: 0,
            pci_bus_id: String::new(),
            driver_version: String::new(),
        }],
        instances: Vec::new(),
        owners: vec![Owner { kind: OwnerKind::Pod, pod: "train-0".into(), ..Owner::default() }],
        windows: vec![Window {
            device: 0,
            start_ns: (end_s - 10) * SECOND,
            end_ns: end_s * SECOND,
            idle_ns: whole - held_ns,
            instance_idles: Vec::new(),
            stranded_ns: 0,
            usages: vec![Usage {
                owner: 0,
                instance: None,
                intruder: false,
                held_ns,
                busy_ns: held_ns / 2,
                memory_byte_seconds: 500,
                energy_uj: 0,
                method: 0,
            }],
            busy_unattributed_ns: 0,
            energy_idle_uj: 0,
            energy_unobserved_uj: 0,
            samples: 10,
        }],
        overlap_ns: 0,
        gaps: Vec::new(),
    }
}

fn book() -> Book {
    Book::parse("currency = \"USD\"\n[[price]]\nprice = 7\nunit = \"gpu_hour\"\n").unwrap()
}

#[test]
fn shares_of_a_device_sum_to_its_price() {
    let live = Live::default();
    live.apply(&node("n1"), &batch(100, 10_000_000_000), 100 * SECOND);
    let answer = live.answer(&book(), 103 * SECOND);
    assert_eq!(answer.rows.len(), 2);
    let (pod, idle) = (&answer.rows[0], &answer.rows[1]);
    assert_eq!((pod.owner.kind.as_str(), pod.owner.pod.as_str()), ("pod", "train-0"));
    assert_eq!((pod.held_permille, pod.busy_permille, pod.memory_bytes), (142, 71, 50));
    assert_eq!(pod.hourly_rate.as_deref(), Some("1.000000000"));
    assert_eq!(idle.owner.kind, "idle");
    assert_eq!(idle.hourly_rate.as_deref(), Some("6.000000000"));
    assert_eq!((pod.age_seconds, answer.at.as_str()), (3, "1970-01-01T00:01:43Z"));
}

#[test]
fn without_a_price_there_is_no_rate() {
    let live = Live::default();
    live.apply(&node("n1"), &batch(100, 5), 100 * SECOND);
    assert_eq!(live.answer(&Book::empty(), 100 * SECOND).rows[0].hourly_rate, None);
}

#[test]
fn a_window_is_gone_after_two_minutes_and_an_older_one_does_not_replace_a_newer() {
    let live = Live::default();
    live.apply(&node("n1"), &batch(100, 10_000_000_000), 100 * SECOND);
    live.apply(&node("n1"), &batch(90, 0), 100 * SECOND);
    assert_eq!(live.shares(&book(), 220 * SECOND)[0].held_permille, 142);
    assert!(live.shares(&book(), 221 * SECOND).is_empty());
    live.apply(&node("n1"), &batch(100, 1), 300 * SECOND);
    assert!(live.shares(&book(), 300 * SECOND).is_empty(), "a backlog is not news");
}

#[test]
fn a_node_is_connected_while_any_of_its_streams_is() {
    let live = Arc::new(Live::default());
    let first = live.connect(node("n1"));
    let second = live.connect(node("n1"));
    assert_eq!(live.streams(), 2);
    drop(first);
    assert!(live.connected(&node("n1"), 0) && !live.connected(&node("n2"), 0));
    drop(second);
    assert!(!live.connected(&node("n1"), 0));
}

/// A window of ten seconds by allocation, of which so much was busy.
fn allocated(end_s: i64, busy_ns: u64) -> UsageBatch {
    let mut batch = batch(end_s, 70_000_000_000);
    batch.windows[0].usages[0].busy_ns = busy_ns;
    batch.windows[0].usages[0].method = HELD_ALLOCATION | BUSY_PROCESS;
    batch
}

#[test]
fn a_holder_by_allocation_is_idle_since_the_first_window_without_use() {
    let live = Live::default();
    let since = |now_s: i64| {
        let holdings = live.holdings(now_s * SECOND);
        holdings.get(&(node("n1"), "GPU-1".to_owned())).map(|holders| holders[0].idle_since_ns)
    };
    live.apply(&node("n1"), &allocated(100, 5), 100 * SECOND);
    assert_eq!(since(100), Some(None), "it is busy");
    // Two windows in one batch: the newest alone would not say since when.
    let mut two = allocated(110, 0);
    two.windows.insert(0, allocated(120, 0).windows[0].clone());
    live.apply(&node("n1"), &two, 120 * SECOND);
    assert_eq!(since(120), Some(Some(100 * SECOND)));
    live.apply(&node("n1"), &allocated(150, 0), 150 * SECOND);
    assert_eq!(since(150), Some(Some(100 * SECOND)), "a gap shows no use");
    live.apply(&node("n1"), &allocated(300, 0), 300 * SECOND);
    assert_eq!(since(300), Some(Some(290 * SECOND)), "a long one shows nothing");
    let mut unknown = allocated(310, 0);
    unknown.windows[0].usages[0].method = HELD_ALLOCATION;
    live.apply(&node("n1"), &unknown, 310 * SECOND);
    assert_eq!(since(310), Some(None));
    assert_eq!(since(600), None);
}

#[test]
fn an_instance_that_is_cut_anew_with_the_same_ids_is_idle_since_then() {
    let live = Live::default();
    let apply = |end_s: i64, generation| {
        let mut batch = allocated(end_s, 0);
        let (device, uuid) = ("GPU-1".to_owned(), "MIG-1".to_owned());
        batch.instances = vec![Instance { device, uuid, generation, slices: 7, ..Instance::default() }];
        batch.windows[0].usages[0].instance = Some(0);
        live.apply(&node("n1"), &batch, end_s * SECOND);
        live.holdings(end_s * SECOND)[&(node("n1"), "GPU-1".to_owned())][0].idle_since_ns
    };
    assert_eq!(apply(100, 0), Some(90 * SECOND));
    assert_eq!(apply(110, 0), Some(90 * SECOND));
    assert_eq!(apply(120, 1), Some(110 * SECOND));
    assert_eq!(apply(130, 1), Some(110 * SECOND));
}

#[test]
fn what_an_instance_costs_an_hour_is_by_its_memory_where_the_price_is_and_so_is_what_is_left() {
    let memory = |slices| Some(MemoryShare { slices, compute_slices: 3, of: 8 });
    let rates = |book: &str, memory| {
        let live = Live::default();
        let mut batch = allocated(100, 0);
        batch.devices[0].slices = 7;
        let (device, uuid) = ("GPU-1".to_owned(), "MIG-1".to_owned());
        batch.instances = vec![Instance { device, uuid, slices: 3, memory, ..Instance::default() }];
        let window = &mut batch.windows[0];
        (window.usages[0].instance, window.usages[0].held_ns) = (Some(0), 30_000_000_000);
        window.idle_ns = 40_000_000_000;
        live.apply(&node("n1"), &batch, 100 * SECOND);
        let book = Book::parse(book).unwrap();
        let rows = live.answer(&book, 100 * SECOND).rows;
        rows.into_iter().map(|row| row.hourly_rate.unwrap()).collect::<Vec<_>>()
    };
    let by_compute = "currency = \"USD\"\n[[price]]\nprice = \"7\"\nunit = \"gpu_hour\"\n";
    let by_memory = format!("{by_compute}weight = \"memory\"\n");
    assert_eq!(rates(by_compute, memory(4)), ["3.000000000", "4.000000000"]);
    assert_eq!(rates(&by_memory, memory(4)), ["3.500000000", "3.500000000"]);
    assert_eq!(rates(&by_memory, None), ["3.000000000", "4.000000000"]);
}

#[test]
fn an_intruder_is_shown_and_holds_nothing() {
    let live = Live::default();
    let mut batch = allocated(100, 0);
    batch.owners.push(Owner { kind: OwnerKind::User, user: "eve".into(), ..Owner::default() });
    let usage =
        Usage { owner: 1, intruder: true, held_ns: 0, busy_ns: 7_000_000_000, ..batch.windows[0].usages[0] };
    batch.windows[0].usages.push(usage);
    live.apply(&node("n1"), &batch, 100 * SECOND);
    let rows = live.answer(&book(), 100 * SECOND).rows;
    let eve = rows.iter().find(|row| row.intruder).unwrap();
    assert_eq!((eve.owner.user.as_str(), eve.held_permille, eve.busy_permille), ("eve", 0, 100));
    assert_eq!(eve.hourly_rate.as_deref(), Some("0.000000000"));
    assert_eq!(live.holdings(100 * SECOND).into_values().map(|holders| holders.len()).sum::<usize>(), 1);
}

#[test]
fn what_another_aggregator_took_in_is_live_and_not_in_these_metrics() {
    let live = Arc::new(Live::default());
    live.apply(&node("n1"), &batch(100, 10_000_000_000), 100 * SECOND);
    live.apply_others(&node("n2"), &batch(100, 10_000_000_000), 100 * SECOND);
    let (all, own) = (live.shares(&book(), 100 * SECOND), live.own_shares(&book(), 100 * SECOND));
    assert!(all.iter().any(|share| share.node == node("n2")) && own.len() * 2 == all.len());
    assert!(live.connected(&node("n2"), 100 * SECOND) && !live.connected(&node("n1"), 100 * SECOND));
    assert!(!live.connected(&node("n2"), 300 * SECOND), "it was heard of within two minutes");
    // Its own batch again, by way of the journal.
    live.apply_others(&node("n1"), &batch(100, 0), 100 * SECOND);
    assert_eq!(live.own_shares(&book(), 100 * SECOND).len(), own.len());
    // The agent went over to the other one.
    live.apply_others(&node("n1"), &batch(110, 10_000_000_000), 110 * SECOND);
    assert!(live.own_shares(&book(), 110 * SECOND).is_empty());
}
