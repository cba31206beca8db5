//! `/assets`: nodes with their GPUs. Pure.
//!
//! A node's `gpuCost` is the price of its GPUs' whole existence: held, idle, unobserved and rounding. Its processors and memory,
//! nodes without GPUs, and disks are the upstream's; without one they are 0, and not there.

use std::collections::BTreeMap;

use serde::Serialize;

use super::answer::{Frame, Span, hours};
use super::hardware::{Disk, Hardware, Machine};
use super::number::Number;
use crate::model::{GpuTime, NodeFacts, NodeName};
use crate::store::query::{Dimension, Group};

/// What the ledger is asked by.
pub(super) const DETAIL: [Dimension; 4] =
    [Dimension::Cluster, Dimension::Node, Dimension::Device, Dimension::Model];
/// What OpenCost puts where a part of a key is not known.
const UNDEFINED: &str = "__undefined__";

/// An asset as OpenCost shows it.
#[derive(Debug, Serialize)]
pub(super) struct Asset {
    r#type: &'static str,
    properties: Properties,
    labels: BTreeMap<String, String>,
    window: Span,
    start: String,
    end: String,
    minutes: Number,
    #[serde(flatten)]
    figures: Figures,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Figures {
    Node(Box<Node>),
    Disk(DiskFigures),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DiskFigures {
    bytes: Number,
    byte_hours: Number,
    local: Number,
    adjustment: Number,
    total_cost: Number,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    node_type: String,
    cpu_cores: Number,
    ram_bytes: Number,
    cpu_core_hours: Number,
    ram_byte_hours: Number,
    #[serde(rename = "GPUHours")]
    gpu_hours: Number,
    cpu_breakdown: Breakdown,
    ram_breakdown: Breakdown,
    /// 1 of a spot node, else 0; also where nobody said.
    preemptible: u8,
    discount: Number,
    cpu_cost: Number,
    gpu_cost: Number,
    gpu_count: usize,
    ram_cost: Number,
    adjustment: Number,
    total_cost: Number,
    /// Not OpenCost's: the GPUs one by one.
    gpus: Vec<Gpu>,
}

#[derive(Debug, Serialize)]
struct Properties {
    category: &'static str,
    service: &'static str,
    cluster: String,
    name: String,
}

#[derive(Debug, Default, Serialize)]
struct Breakdown {
    idle: Number,
    other: Number,
    system: Number,
    user: Number,
}

#[derive(Debug, Serialize)]
struct Gpu {
    uuid: String,
    model: String,
    hours: Number,
    cost: Number,
}

/// Is it of the kind that can be taken away?
#[must_use]
pub(super) fn preemptible(facts: &NodeFacts) -> bool {
    matches!(facts.capacity_type.as_str(), "spot" | "preemptible")
}

/// What the ledger has of a node's GPUs: their existence, its price, and each of them.
type Gpus = (GpuTime, i128, Vec<Gpu>);

/// Assets by OpenCost's keys, from groups by [`DETAIL`], what is known of the nodes, and what an upstream says of nodes and
/// disks.
pub(super) fn assets(
    mut groups: Vec<Group>,
    facts: &BTreeMap<NodeName, NodeFacts>,
    hardware: &BTreeMap<String, Hardware>,
    frame: Frame,
) -> BTreeMap<String, Asset> {
    groups.sort_by(|a, b| a.key.cmp(&b.key));
    let mut nodes: BTreeMap<NodeName, Gpus> = BTreeMap::new();
    for Group { key, sums, .. } in groups {
        let Ok([cluster, node, uuid, model]) = <[String; 4]>::try_from(key) else { continue };
        let existence = sums.held + sums.idle + sums.unobserved;
        // What jobs without GPUs ran for is of no asset here.
        if existence == GpuTime::default() && sums.gpu_cost_nanos() == 0 {
            continue;
        }
        let (time, nanos, gpus) = nodes.entry(NodeName { cluster, node }).or_default();
        *time += existence;
        *nanos += sums.gpu_cost_nanos();
        gpus.push(Gpu { uuid, model, hours: hours(existence), cost: Number(sums.gpu_cost_nanos()) });
    }
    let (unknown, mut found) = (NodeFacts::default(), BTreeMap::new());
    for (key, hardware) in hardware {
        let asset = match hardware {
            // Of two of one name each is a machine of its own, so the GPUs are the first one's.
            Hardware::Node(name, machine) => {
                let gpus = nodes.remove(name).unwrap_or_default();
                node(name, gpus, machine, facts.get(name).unwrap_or(&unknown), frame)
            }
            Hardware::Disk(name, disk) => self::disk(name, disk, frame),
        };
        found.insert(key.clone(), asset);
    }
    for (name, gpus) in nodes {
        let key = format!(
            "{UNDEFINED}/{UNDEFINED}/{UNDEFINED}/Compute/{}/Node/Kubernetes/{UNDEFINED}/{}",
            name.cluster, name.node
        );
        let facts = facts.get(&name).unwrap_or(&unknown);
        found.insert(key, node(&name, gpus, &Machine::default(), facts, frame));
    }
    found
}

fn node(name: &NodeName, gpus: Gpus, machine: &Machine, facts: &NodeFacts, frame: Frame) -> Asset {
    let (time, nanos, gpus) = gpus;
    let mut labels = facts.labels.clone();
    for (label, value) in [
        ("node.kubernetes.io/instance-type", &facts.instance_type),
        ("topology.kubernetes.io/region", &facts.region),
        ("topology.kubernetes.io/zone", &facts.zone),
    ] {
        if !value.is_empty() {
            labels.entry(label.to_owned()).or_insert_with(|| value.clone());
        }
    }
    let node_type = if facts.instance_type.is_empty() { &machine.node_type } else { &facts.instance_type };
    let spot = if facts.capacity_type.is_empty() { machine.preemptible } else { preemptible(facts) };
    let node = Node {
        node_type: node_type.clone(),
        cpu_cores: machine.cpu_cores,
        ram_bytes: machine.ram_bytes,
        cpu_core_hours: machine.cpu_core_hours,
        ram_byte_hours: machine.ram_byte_hours,
        gpu_hours: hours(time),
        cpu_breakdown: Breakdown::default(),
        ram_breakdown: Breakdown::default(),
        preemptible: u8::from(spot),
        discount: machine.discount,
        cpu_cost: machine.cpu_cost,
        gpu_cost: Number(nanos),
        gpu_count: gpus.len(),
        ram_cost: machine.ram_cost,
        adjustment: Number(0),
        total_cost: Number(nanos + machine.total()),
        gpus,
    };
    asset(("Node", "Compute"), name, labels, Figures::Node(Box::new(node)), frame)
}

fn disk(name: &NodeName, disk: &Disk, frame: Frame) -> Asset {
    let Disk { bytes, byte_hours, total_cost, local } = *disk;
    let figures = DiskFigures { bytes, byte_hours, local, adjustment: Number(0), total_cost };
    asset(("Disk", "Storage"), name, BTreeMap::new(), Figures::Disk(figures), frame)
}

fn asset(
    (r#type, category): (&'static str, &'static str),
    name: &NodeName,
    labels: BTreeMap<String, String>,
    figures: Figures,
    frame: Frame,
) -> Asset {
    let passed = frame.passed();
    Asset {
        r#type,
        properties: Properties {
            category,
            service: "Kubernetes",
            cluster: name.cluster.clone(),
            name: name.node.clone(),
        },
        labels,
        window: frame.window(),
        minutes: frame.minutes(),
        start: passed.start,
        end: passed.end,
        figures,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::query::Sums;

    #[test]
    fn a_node_has_the_price_of_all_its_gpus_existence_and_an_upstreams_cost_of_the_rest() {
        let hour = i128::from(tonnage_proto::limits::HOUR_NS);
        let group = |gpu: &str, slices| Group {
            key: ["c", "n", gpu, "H100"].map(str::to_owned).to_vec(),
            sentinel: false,
            sums: Sums {
                held: GpuTime::of_slices(hour, slices),
                unobserved: GpuTime::of_slices(hour, 1),
                held_cost_nanos: 5,
                unobserved_cost_nanos: 2,
                rounding_cost_nanos: 1,
                ..Sums::default()
            },
        };
        let name = NodeName { cluster: "c".into(), node: "n".into() };
        let facts = NodeFacts { capacity_type: "spot".into(), region: "eu".into(), ..NodeFacts::default() };
        let frame = Frame::new((0, 3_600_000_000_000), 0);
        let facts = BTreeMap::from([(name.clone(), facts)]);
        let groups = || vec![group("GPU-2", 2), group("GPU-1", 1)];
        let found = assets(groups(), &facts, &BTreeMap::new(), frame);
        let found = serde_json::to_value(found).unwrap();
        let key = "__undefined__/__undefined__/__undefined__/Compute/c/Node/Kubernetes/__undefined__/n";
        let node = &found[key];
        assert_eq!((&node["gpuCost"], &node["totalCost"]), (&json!(0.000_000_016), &json!(0.000_000_016)));
        assert_eq!((&node["GPUHours"], &node["gpuCount"]), (&json!(3.5), &json!(2)));
        assert_eq!((&node["preemptible"], &node["minutes"]), (&json!(1), &json!(0.0)));
        assert_eq!(node["labels"], json!({"topology.kubernetes.io/region": "eu"}));
        assert_eq!((&node["gpus"][0]["uuid"], &node["gpus"][1]["hours"]), (&json!("GPU-1"), &json!(1.5)));
        assert_eq!((&node["cpuCost"], &node["ramBytes"]), (&json!(0.0), &json!(0.0)));

        // With what an upstream says, under its keys: every cost is there once.
        let one = 1_000_000_000;
        let machine = Machine {
            node_type: "p5".into(),
            cpu_cost: Number(3 * one),
            ram_cost: Number(one + 1),
            discount: Number(one / 2),
            ..Machine::default()
        };
        let other = NodeName { node: "web".into(), ..name.clone() };
        let disk = Disk { total_cost: Number(7), local: Number(one), ..Disk::default() };
        let hardware = BTreeMap::from([
            ("a/n".to_owned(), Hardware::Node(name.clone(), machine.clone())),
            ("b/n".to_owned(), Hardware::Node(name.clone(), machine.clone())),
            ("a/web".to_owned(), Hardware::Node(other, machine)),
            ("a/disk".to_owned(), Hardware::Disk(name, disk)),
        ]);
        let found = serde_json::to_value(assets(groups(), &facts, &hardware, frame)).unwrap();
        assert_eq!(found.as_object().unwrap().len(), 4, "{found}");
        for (key, gpu_cost, total_cost) in
            [("a/n", 0.000_000_016, 2.000_000_016), ("b/n", 0.0, 2.0), ("a/web", 0.0, 2.0)]
        {
            let node = &found[key];
            assert_eq!(
                (&node["gpuCost"], &node["totalCost"]),
                (&json!(gpu_cost), &json!(total_cost)),
                "{key}"
            );
            assert_eq!((&node["cpuCost"], &node["nodeType"]), (&json!(3.0), &json!("p5")), "{key}");
        }
        let disk = &found["a/disk"];
        assert_eq!((&disk["type"], &disk["totalCost"]), (&json!("Disk"), &json!(0.000_000_007)));
        assert!(disk["gpuCost"].is_null() && disk["properties"]["category"] == "Storage", "{disk}");
    }
}
