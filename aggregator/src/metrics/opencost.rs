//! Gauges under the names that OpenCost exports, for rules and dashboards that know those. Off unless asked for: with an
//! OpenCost that is scraped too, every sum over them would be double.

use std::collections::BTreeMap;

use prometheus::{GaugeVec, Opts, Registry};

use super::kept;
use crate::model::NodeName;

/// Containers that have a series: a scrape is bounded.
pub const CONTAINERS_MAX: usize = 20_000;

/// What a scrape is made from.
#[derive(Debug, Default)]
pub struct Facts {
    pub nodes: BTreeMap<NodeName, NodePrices>,
    /// Thousandths of a GPU that each container holds now.
    pub containers: BTreeMap<Container, u64>,
}

/// A node's GPUs and what they cost now.
#[derive(Debug, Default)]
pub struct NodePrices {
    pub instance_type: String,
    pub region: String,
    pub spot: bool,
    pub gpus: u32,
    /// Of all of its GPUs, in nano-dollars; one without a price costs nothing.
    pub hourly_nanos: i128,
}

/// A container that holds GPUs.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Container {
    pub node: NodeName,
    pub namespace: String,
    pub pod: String,
    pub container: String,
}

/// Prometheus's text format.
#[must_use]
pub fn render(facts: &Facts) -> String {
    let registry = Registry::new();
    let gauges = |name: &str, help: &str, labels: &[&str]| {
        kept(&registry, GaugeVec::new(Opts::new(name, help), labels))
    };
    const NODE: [&str; 5] = ["cluster_id", "instance", "node", "instance_type", "region"];
    let gpu = gauges("node_gpu_hourly_cost", "Hourly cost per GPU on this node.", &NODE);
    let total =
        gauges("node_total_hourly_cost", "Hourly cost of all GPUs of this node, without CPU and RAM.", &NODE);
    let count = gauges("node_gpu_count", "Count of GPUs on this node.", &NODE);
    let spot = gauges("kubecost_node_is_spot", "1 if the node is a spot node.", &NODE);
    for (NodeName { cluster, node }, prices) in &facts.nodes {
        let labels = [cluster, node, node, prices.instance_type.as_str(), prices.region.as_str()];
        let each = prices.hourly_nanos.checked_div(i128::from(prices.gpus)).unwrap_or(0);
        gpu.with_label_values(&labels).set(units(each));
        total.with_label_values(&labels).set(units(prices.hourly_nanos));
        count.with_label_values(&labels).set(f64::from(prices.gpus));
        spot.with_label_values(&labels).set(if prices.spot { 1.0 } else { 0.0 });
    }
    let held = gauges(
        "container_gpu_allocation",
        "GPUs that the container holds.",
        &["cluster_id", "instance", "node", "namespace", "pod", "container"],
    );
    for (whose, permille) in facts.containers.iter().take(CONTAINERS_MAX) {
        let Container { node: NodeName { cluster, node }, namespace, pod, container } = whose;
        let labels = [cluster, node, node, namespace.as_str(), pod.as_str(), container.as_str()];
        held.with_label_values(&labels).set(f64::from(u32::try_from(*permille).unwrap_or(u32::MAX)) / 1000.0);
    }
    super::text(&registry.gather())
}

/// Only for display: nothing is added up in floats.
#[allow(clippy::cast_precision_loss, reason = "Prometheus has only doubles")]
fn units(nanos: i128) -> f64 {
    nanos as f64 / 1e9
}
