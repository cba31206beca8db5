//! `/assets`: nodes with their GPUs. Pure.
//!
//! A node's `gpuCost` is the price of its GPUs' whole existence: held, idle, unobserved and rounding. Processors, memory
//! and storage of nodes are not known here and are 0.

use std::collections::BTreeMap;

use serde::Serialize;

use super::answer::{Frame, Span, hours};
use super::number::Number;
use crate::model::{GpuTime, NodeFacts, NodeName};
use crate::store::query::{Dimension, Group};

/// What the ledger is asked by.
pub(super) const DETAIL: [Dimension; 4] =
    [Dimension::Cluster, Dimension::Node, Dimension::Device, Dimension::Model];
/// What OpenCost puts where a part of a key is not known.
const UNDEFINED: &str = "__undefined__";

/// A node as OpenCost shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Asset {
    r#type: &'static str,
    properties: Properties,
    labels: BTreeMap<String, String>,
    window: Span,
    start: String,
    end: String,
    minutes: Number,
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

/// Assets by OpenCost's keys, from groups by [`DETAIL`] and what is known of the nodes.
pub(super) fn assets(
    mut groups: Vec<Group>,
    facts: &BTreeMap<NodeName, NodeFacts>,
    frame: Frame,
) -> BTreeMap<String, Asset> {
    groups.sort_by(|a, b| a.key.cmp(&b.key));
    let mut nodes: BTreeMap<NodeName, (GpuTime, i128, Vec<Gpu>)> = BTreeMap::new();
    for Group { key, sums, .. } in groups {
        let Ok([cluster, node, uuid, model]) = <[String; 4]>::try_from(key) else { continue };
        let existence = sums.held + sums.idle + sums.unobserved;
        let (time, nanos, gpus) = nodes.entry(NodeName { cluster, node }).or_default();
        *time += existence;
        *nanos += sums.cost_nanos();
        gpus.push(Gpu { uuid, model, hours: hours(existence), cost: Number(sums.cost_nanos()) });
    }
    let unknown = NodeFacts::default();
    nodes
        .into_iter()
        .map(|(name, sums)| {
            let facts = facts.get(&name).unwrap_or(&unknown);
            let (cluster, node) = (&name.cluster, &name.node);
            let key = format!(
                "{UNDEFINED}/{UNDEFINED}/{UNDEFINED}/Compute/{cluster}/Node/Kubernetes/{UNDEFINED}/{node}"
            );
            (key, asset(name, sums, facts, frame))
        })
        .collect()
}

fn asset(name: NodeName, sums: (GpuTime, i128, Vec<Gpu>), facts: &NodeFacts, frame: Frame) -> Asset {
    let (time, nanos, gpus) = sums;
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
    let (zero, passed) = (Number(0), frame.passed());
    Asset {
        r#type: "Node",
        properties: Properties {
            category: "Compute",
            service: "Kubernetes",
            cluster: name.cluster,
            name: name.node,
        },
        labels,
        window: frame.window(),
        minutes: frame.minutes(),
        node_type: facts.instance_type.clone(),
        cpu_cores: zero,
        ram_bytes: zero,
        cpu_core_hours: zero,
        ram_byte_hours: zero,
        gpu_hours: hours(time),
        cpu_breakdown: Breakdown::default(),
        ram_breakdown: Breakdown::default(),
        preemptible: u8::from(preemptible(facts)),
        discount: zero,
        cpu_cost: zero,
        gpu_cost: Number(nanos),
        gpu_count: gpus.len(),
        ram_cost: zero,
        adjustment: zero,
        total_cost: Number(nanos),
        gpus,
        start: passed.start,
        end: passed.end,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::query::Sums;

    #[test]
    fn a_node_has_the_price_of_all_its_gpus_existence() {
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
        let found =
            assets(vec![group("GPU-2", 2), group("GPU-1", 1)], &BTreeMap::from([(name, facts)]), frame);
        let found = serde_json::to_value(found).unwrap();
        let key = "__undefined__/__undefined__/__undefined__/Compute/c/Node/Kubernetes/__undefined__/n";
        let node = &found[key];
        assert_eq!((&node["gpuCost"], &node["totalCost"]), (&json!(0.000_000_016), &json!(0.000_000_016)));
        assert_eq!((&node["GPUHours"], &node["gpuCount"]), (&json!(3.5), &json!(2)));
        assert_eq!((&node["preemptible"], &node["minutes"]), (&json!(1), &json!(0.0)));
        assert_eq!(node["labels"], json!({"topology.kubernetes.io/region": "eu"}));
        assert_eq!((&node["gpus"][0]["uuid"], &node["gpus"][1]["hours"]), (&json!("GPU-1"), &json!(1.5)));
    }
}
