//! The demo's processes: one aggregator, two simulated nodes, and this machine itself if it has an NVIDIA driver.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use harness::aggregator::Aggregator;
use harness::binaries::Binaries;
use harness::kubelet::Kubelet;
use harness::node::{Node, NodeSpec};
use harness::process::{Process, free_ports};
use tonnage_proto::rest::{CostAnswer, DevicesAnswer};

use crate::story;

const START: Duration = Duration::from_secs(30);
const CLUSTER: &str = "demo";

/// H100s by the hour, and a price for whatever GPU this machine has.
const PRICES: &str = "\
# The demo's price book.
currency = \"USD\"

[[price]]
match = { gpu_model = \"NVIDIA H100*\" }
price = \"2.99\"
unit = \"gpu_hour\"

[[price]]
match = { node = \"this-machine\" }
price = \"2500\"
unit = \"gpu_month\"
";

pub(crate) struct Fleet {
    nodes: Vec<Node>,
    // Ends when it is dropped.
    _kubelet: Kubelet,
    real: Option<(Process, String)>,
    // Last: it is dropped, and so killed, after the agents.
    aggregator: Aggregator,
    binaries: Binaries,
}

impl Fleet {
    pub(crate) fn start(folder: &Path, now_ns: i64) -> anyhow::Result<Self> {
        let binaries = Binaries::find()?;
        let mut aggregator = Aggregator::new(&folder.join("aggregator"), &binaries, None)?;
        std::fs::write(aggregator.prices(), PRICES)?;
        aggregator.own_group = true;
        aggregator.start(START)?;
        let mut nodes = Vec::new();
        for (name, scenario) in [("k8s-1", story::kubernetes(now_ns)), ("hpc-1", story::hpc(now_ns))] {
            let spec = NodeSpec {
                cluster: CLUSTER.to_owned(),
                name: name.to_owned(),
                uplink: aggregator.uplink(),
                clock: None,
                scenario,
            };
            let mut node = Node::new(&folder.join(name), &binaries, spec)?;
            node.own_group = true;
            story::name_users(&node.dir().join("passwd"))?;
            nodes.push(node);
        }
        let kubelet = story::kubelet(nodes[0].dir(), &nodes[0].kubelet_socket())?;
        story::jobs(nodes[1].dir(), &nodes[1].spec.scenario.boot_id, now_ns)?;
        nodes.iter_mut().try_for_each(|node| node.start(START))?;
        let real = has_driver().then(|| real_node(folder, &binaries, &aggregator)).transpose()?;
        Ok(Self { nodes, _kubelet: kubelet, real, aggregator, binaries })
    }

    /// Where to look, for a browser or curl.
    pub(crate) fn urls(&self) -> Vec<(String, String)> {
        let api = self.aggregator.url();
        let mut urls = vec![
            ("costs by pod".to_owned(), format!("{api}/api/v1/cost/pods?window=1h")),
            ("who is on the GPUs".to_owned(), format!("{api}/api/v1/live")),
            ("held and not used".to_owned(), format!("{api}/api/v1/idle?window=1h")),
            ("ledger's metrics".to_owned(), format!("{api}/metrics")),
        ];
        for node in &self.nodes {
            urls.push((format!("agent of {}", node.spec.name), format!("{}/metrics", node.url())));
        }
        if let Some((_, url)) = &self.real {
            urls.push(("agent of this machine".to_owned(), format!("{url}/metrics")));
        }
        urls
    }

    pub(crate) fn cost(&self) -> anyhow::Result<CostAnswer> {
        self.get("cost/pods?window=1h&aggregate=node,kind,namespace,pod,job,unit,user,container,profile")
    }

    pub(crate) fn devices(&self) -> anyhow::Result<DevicesAnswer> {
        self.get("devices")
    }

    /// What `tonnage idle` prints: who holds without using, and who uses without holding.
    pub(crate) fn idle(&self) -> anyhow::Result<String> {
        let output = Command::new(&self.binaries.cli)
            .args(["--url", &self.aggregator.url(), "idle", "--last", "1h"])
            .env_remove("TONNAGE_TOKEN_FILE")
            .output()?;
        anyhow::ensure!(output.status.success(), "idle: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let url = format!("{}/api/v1/{path}", self.aggregator.url());
        let text = ureq::get(&url).call().with_context(|| url.clone())?.body_mut().read_to_string()?;
        serde_json::from_str(&text).with_context(|| format!("{url}: {text}"))
    }

    /// Stops the agents, which closes their windows and delivers them.
    pub(crate) fn stop_agents(&mut self, deadline: Duration) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            node.stop(deadline)?;
        }
        if let Some((mut agent, _)) = self.real.take() {
            agent.terminate()?;
            agent.wait(deadline)?;
        }
        Ok(())
    }

    pub(crate) fn stop_aggregator(&mut self, deadline: Duration) -> anyhow::Result<()> {
        self.aggregator.stop(deadline)
    }

    /// Recomputes the ledger from the journal. Gives whether it is conserved, and what the recomputation printed.
    pub(crate) fn verify(&self) -> anyhow::Result<(bool, String)> {
        let output = Command::new(&self.binaries.aggregator)
            .arg("verify")
            .arg("--data")
            .arg(self.aggregator.data_dir())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(!text.is_empty(), "verify: {}", String::from_utf8_lossy(&output.stderr));
        Ok((output.status.success(), text))
    }
}

/// Is an NVIDIA driver loaded here?
fn has_driver() -> bool {
    Path::new("/proc/driver/nvidia/version").exists() || Path::new("/dev/nvidiactl").exists()
}

fn real_node(
    folder: &Path,
    binaries: &Binaries,
    aggregator: &Aggregator,
) -> anyhow::Result<(Process, String)> {
    let [port] = free_ports()?;
    let folder = folder.join("this-machine");
    std::fs::create_dir_all(&folder)?;
    let mut command = Command::new(&binaries.agent);
    command
        .args(["run", "--insecure-loopback", "--cluster", CLUSTER, "--node", "this-machine"])
        .args(["--aggregator", &aggregator.uplink()])
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .arg("--spool")
        .arg(folder.join("spool"))
        .process_group(0);
    let process = Process::start("agent of this machine", &mut command, &folder.join("log"))?;
    Ok((process, format!("http://127.0.0.1:{port}")))
}
