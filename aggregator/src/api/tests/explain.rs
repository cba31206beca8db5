//! Explanations of a ledger that the commit thread wrote: every line worked out again.

use prost::Message as _;
use tonnage_proto::metering as pb;
use tonnage_proto::method;
use tonnage_proto::rest::explain::{ExplainAnswer, ExplainedDevice};

use super::*;
use crate::commit::{Committer, Sealed, Submission};
use crate::model::NodeName;
use crate::store::write::{self, Mark};
use crate::wire;

const PRICES: &str =
    "currency = \"USD\"\n[[price]]\nmatch = { region = \"e*\" }\nprice = \"4\"\nunit = \"gpu_hour\"\n";
const S: u64 = 1_000_000_000;

fn pod(name: &str, uid: &str) -> pb::Owner {
    pb::Owner {
        kind: 2,
        namespace: "ml".into(),
        pod: name.into(),
        pod_uid: uid.into(),
        ..pb::Owner::default()
    }
}

/// 10 s of 7 slices: 3 held by allocation, 2 of an instance that nobody holds, 1 stranded, 1 in no instance.
fn window(cell: i64, owner: u32) -> pb::Window {
    let usage = pb::Usage {
        owner,
        kind: 1,
        held_ns: 30 * S,
        busy_ns: 9 * S,
        method: method::HELD_ALLOCATION | method::BUSY_INSTANCE,
        instance: 1,
        ..pb::Usage::default()
    };
    pb::Window {
        start_ns: cell * 10_000_000_000,
        duration_ns: 10 * S,
        idle_ns: 40 * S,
        usages: vec![usage],
        samples: 10,
        instance_idles: vec![pb::InstanceIdle { instance: 2, idle_ns: 20 * S }],
        stranded_ns: 10 * S,
        ..pb::Window::default()
    }
}

fn partitioned(store: &Store, clock: &Clock) {
    cut(store, clock, PRICES, 0);
}

/// The same with a price by memory: 4 and 2 slices of 8, or of which nothing is known.
fn by_memory(store: &Store, clock: &Clock) {
    cut(store, clock, &format!("{PRICES}weight = \"memory\"\n"), 8);
}

/// Covered from 0 to 20 s and from 30 s to 40 s. Pod `a` has the instance at first, then another of that name.
fn cut(store: &Store, clock: &Clock, prices: &str, gpu_memory_slices: u32) {
    let (node, epoch) = (NodeName { cluster: "c".into(), node: "n1".into() }, [1; 16]);
    let book = Arc::new(Book::parse(prices).unwrap());
    let mut committer =
        Committer::new(store, clock.clone(), Arc::clone(&book), Arc::default(), Arc::default()).unwrap();
    committer.commit_now(vec![Submission::Book(book)]);
    let instance = |slices, uuid: &str, profile: &str| pb::Instance {
        slices,
        uuid: uuid.into(),
        profile: profile.into(),
        memory_slices: 2 * (slices - 1),
        gpu_instance_slices: slices,
        gpu_memory_slices,
        ..pb::Instance::default()
    };
    let facts = pb::NodeFacts { region: "eu".into(), ..pb::NodeFacts::default() };
    let job = pb::Owner { kind: 3, job_id: "4711".into(), user: "ada".into(), ..pb::Owner::default() };
    let batch = pb::Batch {
        format: 1,
        cluster: "c".into(),
        node: "n1".into(),
        epoch: epoch.to_vec(),
        seq: 1,
        boot_id: "b".into(),
        facts: Some(facts),
        devices: vec![pb::Device {
            uuid: "GPU-1".into(),
            model: "H100".into(),
            slices: 7,
            ..pb::Device::default()
        }],
        instances: vec![instance(3, "MIG-3", "3g.40gb"), instance(2, "MIG-2", "2g.20gb")],
        owners: vec![pod("a", "u1"), pod("a", "u2"), job],
        windows: vec![window(0, 0), window(1, 1), window(3, 2)],
        ..pb::Batch::default()
    };
    let payload = batch.encode_to_vec();
    let valid = wire::decode(&payload, &node, &epoch, 1).map(Arc::new);
    assert!(valid.is_ok(), "{valid:?}");
    let sha256 = wire::sha256(&payload);
    let sealed = Sealed { node, epoch, seq: 1, sent_at_ns: 0, payload, sha256, valid };
    let answer = tokio::sync::oneshot::channel().0;
    committer.commit_now(vec![Submission::Batch { batch: Box::new(sealed), answer }, Submission::Tick]);
}

/// `floor(a * b / c) = d`, with as many factors on either side, worked out.
fn worked_out(arithmetic: &str) -> i64 {
    let digits = |text: &str| text.parse::<i128>().unwrap_or_else(|e| panic!("{arithmetic}: {e}"));
    let inner = arithmetic.strip_prefix("floor(").unwrap();
    let (inner, result) = inner.split_once(") = ").unwrap();
    let (above, below) = inner.split_once(" / ").unwrap();
    let product = |text: &str| text.trim_matches(['(', ')']).split(" * ").map(digits).product::<i128>();
    let result = digits(result.split(',').next().unwrap());
    assert_eq!(product(above) / product(below), result, "{arithmetic}");
    i64::try_from(result).unwrap()
}

fn conserved(device: &ExplainedDevice) {
    let price = device.price.as_ref().unwrap();
    assert_eq!(worked_out(&price.arithmetic), price.price_nanos);
    assert_eq!((device.rows_ns, device.rows_cost_nanos), (device.existence_ns, price.price_nanos));
    assert_eq!(device.existence_ns, device.covered_ns + device.unobserved_ns);
    for row in device.rows.iter().filter(|row| row.kind != "rounding") {
        assert_eq!(worked_out(&row.arithmetic), row.cost_nanos, "{row:?}");
    }
}

#[tokio::test]
async fn every_line_of_a_gpus_slot_is_there_and_can_be_worked_out() {
    let site = site_of(partitioned);
    let answer: ExplainAnswer = site.get("/api/v1/explain?device=GPU-1&at=5").await.json();
    assert_eq!((answer.slot.start.as_str(), answer.devices.len()), ("1970-01-01T00:00:00Z", 1));
    assert!(answer.notes.is_empty(), "{:?}", answer.notes);
    let device = &answer.devices[0];
    conserved(device);
    let second = 1_000_000_000;
    assert_eq!((device.slices, device.covered_ns, device.unobserved_ns), (7, 210 * second, 70 * second));
    assert_eq!(device.unobserved_reasons["silent"], 10 * second);
    let matched = &device.price.as_ref().unwrap().matched["region"];
    assert_eq!((matched.pattern.as_str(), matched.value.as_str()), ("e*", "eu"));
    let times: Vec<(&str, &str, i64)> = device
        .rows
        .iter()
        .map(|row| (row.kind.as_str(), row.profile.as_str(), row.time_ns / second))
        .collect();
    for expected in [
        ("held", "3g.40gb", 30),
        ("idle", "2g.20gb", 60),
        ("idle", "", 30),
        ("stranded", "", 30),
        ("unobserved", "", 70),
    ] {
        assert!(times.contains(&expected), "{expected:?} is not in {times:?}");
    }
    let held: Vec<_> = device.rows.iter().filter(|row| row.kind == "held").collect();
    assert_eq!(held.len(), 3);
    assert!(held[0].methods.iter().any(|method| method.contains("allocation")), "{:?}", held[0].methods);
    let told: u64 = device.evidence.iter().flat_map(|window| &window.usages).map(|usage| usage.held_ns).sum();
    assert_eq!(i64::try_from(told).unwrap(), held.iter().map(|row| row.time_ns).sum::<i64>());
    assert_eq!(device.evidence.len(), 3);
    assert_eq!((device.evidence[0].seq, device.evidence[0].sha256.len()), (1, 64));
}

#[tokio::test]
async fn a_price_by_memory_is_worked_out_by_memory_slices_line_by_line() {
    let site = site_of(by_memory);
    let answer: ExplainAnswer = site.get("/api/v1/explain?device=GPU-1&at=5").await.json();
    let device = &answer.devices[0];
    conserved(device);
    assert_eq!(device.price.as_ref().unwrap().weight, "memory");
    assert!(answer.notes.is_empty(), "{:?}", answer.notes);
    let row = |kind: &str, profile: &str| {
        device.rows.iter().find(|row| (row.kind.as_str(), row.profile.as_str()) == (kind, profile)).unwrap()
    };
    assert!(row("held", "3g.40gb").arithmetic.ends_with(", by 4/8 of the GPU's memory"));
    // 4 and 2 of 8 slices for 30 s at 7 an hour; half of what is left is stranded.
    assert_eq!(row("idle", "2g.20gb").cost_nanos, 4_000_000_000 / 120 * 2 / 8);
    assert_eq!(row("stranded", "").cost_nanos, 4_000_000_000 / 120 / 8);
    assert!(row("idle", "").arithmetic.ends_with(", what is left of the GPU's memory"));
    let untold = site_of(|store, clock| cut(store, clock, &format!("{PRICES}weight = \"memory\"\n"), 0));
    let answer: ExplainAnswer = untold.get("/api/v1/explain?device=GPU-1&at=5").await.json();
    conserved(&answer.devices[0]);
    assert!(answer.notes[0].contains("no instance says its memory slices"), "{:?}", answer.notes);
    let held = answer.devices[0].rows.iter().find(|row| row.kind == "held").unwrap();
    assert!(held.methods.iter().any(|method| method.contains("weighed by compute slices")), "{held:?}");
}

#[tokio::test]
async fn what_is_explained_of_an_owner_or_an_instance_is_what_it_costs() {
    let site = site_of(partitioned);
    for (asked, filter) in
        [("pod=u1", "owner=u1"), ("job=4711", "owner=4711"), ("instance=MIG-3", "device=MIG-3")]
    {
        let answer: ExplainAnswer = site.get(&format!("/api/v1/explain?{asked}&at=5")).await.json();
        let cost: CostAnswer =
            site.get(&format!("/api/v1/cost/pods?aggregate=instance&window=0,900&{filter}")).await.json();
        assert_eq!(i128::from(answer.asked_cost_nanos), to_nanos(&cost.totals.cost).unwrap(), "{asked}");
        let time = to_nanos(&cost.totals.held_seconds).unwrap();
        assert_eq!(to_nanos(&answer.asked_gpu_seconds).unwrap(), time, "{asked}");
        let rows = &answer.devices[0].rows;
        assert!(rows.iter().filter(|row| row.owner.is_some()).all(|row| row.asked), "{rows:?}");
        conserved(&answer.devices[0]);
    }
    let answer: ExplainAnswer = site.get("/api/v1/explain?pod=u1&at=5").await.json();
    assert!(answer.notes[0].contains("2 rows of others are not shown"), "{:?}", answer.notes);
}

#[tokio::test]
async fn what_cannot_be_explained_is_told_with_what_would_be_right() {
    let site = site_of(partitioned);
    for (query, status, said) in [
        ("device=GPU-9", 404, "never heard of it"),
        ("device=GPU-1&at=7200", 404, "the nearest slot that has some starts at 1970-01-01T00:00:00Z"),
        ("job=4711&at=7200", 404, "the nearest slot that has some starts at 1970-01-01T00:00:00Z"),
        ("job=4711&at=7200&cluster=c", 404, "the nearest slot that has some starts at 1970-01-01T00:00:00Z"),
        ("job=4711&at=7200&cluster=d", 404, "nor has any slot of 92 days around"),
        ("pod=ml/a&at=5", 400, "uid u1 of cluster c; uid u2 of cluster c"),
        ("pod=ml/a&job=1", 400, "no more than one"),
        ("at=5", 400, "name one of device"),
        ("device=GPU-1&at=noon", 400, "use RFC 3339"),
        ("device=GPU-1&cluster=x&at=5", 404, "has nothing in the slot"),
    ] {
        let answer = site.get(&format!("/api/v1/explain?{query}")).await;
        let (found, _, _, message) = answer.error();
        assert_eq!(found, status, "{query}: {message}");
        assert!(message.contains(said), "{query}: {message}");
    }
}

#[tokio::test]
async fn a_slot_whose_detail_is_purged_is_told_to_be() {
    let site = site_of(|store, clock| {
        partitioned(store, clock);
        write::set_mark(&store.writer().unwrap(), Mark::PurgedUntil, 900_000_000_000).unwrap();
    });
    let (status, _, field, message) = site.get("/api/v1/explain?device=GPU-1&at=5").await.error();
    assert_eq!((status, field.as_deref()), (400, Some("at")));
    assert!(message.contains("tonnage cost --window"), "{message}");
}

#[tokio::test]
async fn a_device_names_the_instances_of_its_newest_slot_held_or_not() {
    let answer: DevicesAnswer = site_of(partitioned).get("/api/v1/devices").await.json();
    let device = &answer.devices[0];
    let there: Vec<(&str, u32, bool)> =
        device.instances.iter().map(|one| (one.profile.as_str(), one.slices, one.held)).collect();
    assert_eq!(device.slices, 7);
    assert!(
        there.len() == 2 && there.contains(&("3g.40gb", 3, true)) && there.contains(&("2g.20gb", 2, false)),
        "{there:?}"
    );
}
