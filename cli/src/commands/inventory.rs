//! `tonnage nodes` and `tonnage devices`.

use tonnage_proto::rest::{DeviceInstance, DevicesAnswer, NodesAnswer};

use crate::output::number::{gibibytes, money};
use crate::output::{Grid, left, right};

pub(super) fn nodes(answer: &NodesAnswer) -> Grid {
    let columns = vec![
        left("cluster"),
        left("node"),
        right("gpus"),
        left("agent"),
        left("connected"),
        left("observed until"),
        right("skew ms"),
        right("accepted"),
        right("refused"),
        right("quarantined"),
        left("type"),
        left("region"),
    ];
    let rows = answer.nodes.iter().map(|node| {
        vec![
            node.cluster.clone(),
            node.node.clone(),
            node.devices.to_string(),
            dash(node.agent_version.clone()),
            if node.connected { "yes" } else { "no" }.to_owned(),
            dash(node.observed_until.clone().unwrap_or_default()),
            dash(node.clock_skew_ms.map(|skew| skew.to_string()).unwrap_or_default()),
            node.batches_accepted.to_string(),
            node.batches_refused.to_string(),
            node.batches_quarantined.to_string(),
            dash(node.facts.instance_type.clone()),
            dash(node.facts.region.clone()),
        ]
    });
    let connected = answer.nodes.iter().filter(|node| node.connected).count();
    let notes = vec![String::new(), format!("{} nodes, {connected} connected", answer.nodes.len())];
    Grid { columns, rows: rows.collect(), notes }
}

pub(super) fn nodes_csv(answer: &NodesAnswer) -> Vec<Vec<String>> {
    let header = [
        "cluster",
        "node",
        "devices",
        "agent_version",
        "connected",
        "observed_until",
        "clock_skew_ms",
        "batches_accepted",
        "batches_refused",
        "batches_quarantined",
        "instance_type",
        "region",
        "zone",
        "capacity_type",
        "labels",
    ];
    let rows = answer.nodes.iter().map(|node| {
        let labels: Vec<String> =
            node.facts.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        vec![
            node.cluster.clone(),
            node.node.clone(),
            node.devices.to_string(),
            node.agent_version.clone(),
            node.connected.to_string(),
            node.observed_until.clone().unwrap_or_default(),
            node.clock_skew_ms.map(|skew| skew.to_string()).unwrap_or_default(),
            node.batches_accepted.to_string(),
            node.batches_refused.to_string(),
            node.batches_quarantined.to_string(),
            node.facts.instance_type.clone(),
            node.facts.region.clone(),
            node.facts.zone.clone(),
            node.facts.capacity_type.clone(),
            labels.join(" "),
        ]
    });
    std::iter::once(header.map(str::to_owned).to_vec()).chain(rows).collect()
}

pub(super) fn devices(answer: &DevicesAnswer) -> Grid {
    let columns = vec![
        left("cluster"),
        left("node"),
        left("device"),
        left("model"),
        right("gib"),
        right("slices"),
        left("since"),
        left("observed until"),
        left("state"),
        right("per h"),
    ];
    let rows = answer.devices.iter().flat_map(|device| {
        let whole = vec![
            device.cluster.clone(),
            device.node.clone(),
            device.uuid.clone(),
            device.model.clone(),
            gibibytes(device.memory_bytes),
            device.slices.to_string(),
            device.since.clone(),
            device.observed_until.clone(),
            device.state.clone(),
            device.price_per_hour.as_deref().map_or_else(|| "unpriced".to_owned(), |price| money(price, 4)),
        ];
        std::iter::once(whole).chain(device.instances.iter().map(instance))
    });
    let unpriced = answer.devices.iter().filter(|device| device.price_per_hour.is_none()).count();
    let notes = vec![String::new(), format!("{} devices, {unpriced} without a price", answer.devices.len())];
    Grid { columns, rows: rows.collect(), notes }
}

/// A line below its device.
fn instance(instance: &DeviceInstance) -> Vec<String> {
    let state = if instance.held { "held" } else { "idle" };
    let [none, empty, since, until, price] = [const { String::new() }; 5];
    let (uuid, profile) = (format!("  {}", instance.uuid), format!("  {}", instance.profile));
    let (memory, slices) = (gibibytes(instance.memory_bytes), instance.slices.to_string());
    vec![none, empty, uuid, profile, memory, slices, since, until, state.to_owned(), price]
}

pub(super) fn devices_csv(answer: &DevicesAnswer) -> Vec<Vec<String>> {
    let header = [
        "cluster",
        "node",
        "uuid",
        "model",
        "memory_bytes",
        "slices",
        "since",
        "observed_until",
        "state",
        "price_per_hour",
        "instances",
    ];
    let rows = answer.devices.iter().map(|device| {
        vec![
            device.cluster.clone(),
            device.node.clone(),
            device.uuid.clone(),
            device.model.clone(),
            device.memory_bytes.to_string(),
            device.slices.to_string(),
            device.since.clone(),
            device.observed_until.clone(),
            device.state.clone(),
            device.price_per_hour.clone().unwrap_or_default(),
            device.instances.iter().map(|instance| instance.uuid.as_str()).collect::<Vec<_>>().join(" "),
        ]
    });
    std::iter::once(header.map(str::to_owned).to_vec()).chain(rows).collect()
}

fn dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonnage_proto::rest::{DeviceRow, NodeFacts, NodeRow};

    fn shown(grid: &Grid) -> String {
        let mut out = Vec::new();
        grid.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_node_that_never_spoke_has_dashes() {
        let node = NodeRow {
            cluster: "c".into(),
            node: "n1".into(),
            devices: 8,
            agent_version: String::new(),
            connected: false,
            observed_until: None,
            clock_skew_ms: None,
            batches_accepted: 0,
            batches_refused: 0,
            batches_quarantined: 0,
            facts: NodeFacts { labels: [("rack".into(), "r1".into())].into(), ..NodeFacts::default() },
        };
        let answer = NodesAnswer { nodes: vec![node] };
        let text = shown(&nodes(&answer));
        assert!(text.contains("c        n1       8  -      no         -"), "{text}");
        assert!(text.ends_with("1 nodes, 0 connected\n"), "{text}");
        assert_eq!((nodes_csv(&answer)[1][5].as_str(), nodes_csv(&answer)[1][14].as_str()), ("", "rack=r1"));
    }

    #[test]
    fn a_device_without_a_price_says_so() {
        let device = DeviceRow {
            uuid: "GPU-1".into(),
            model: "H100".into(),
            cluster: "c".into(),
            node: "n1".into(),
            memory_bytes: 85_899_345_920,
            slices: 7,
            since: "s".into(),
            observed_until: "u".into(),
            state: "observed".into(),
            price_per_hour: None,
            instances: vec![DeviceInstance {
                uuid: "MIG-1".into(),
                profile: "3g.40gb".into(),
                slices: 3,
                memory_bytes: 42_949_672_960,
                memory_share: "4/8".into(),
                held: false,
            }],
        };
        let priced = DeviceRow { price_per_hour: Some("2.500000001".into()), ..device.clone() };
        let answer = DevicesAnswer { devices: vec![device, priced] };
        let text = shown(&devices(&answer));
        assert!(text.contains("unpriced") && text.contains("2.5000\n"), "{text}");
        assert!(text.ends_with("2 devices, 1 without a price\n"), "{text}");
        let line = text.lines().find(|line| line.contains("MIG-1")).unwrap();
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["MIG-1", "3g.40gb", "40.0", "3", "idle"]);
        assert_eq!(
            (devices_csv(&answer)[2][9].as_str(), devices_csv(&answer)[2][10].as_str()),
            ("2.500000001", "MIG-1")
        );
    }
}
