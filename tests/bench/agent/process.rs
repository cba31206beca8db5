//! The agent in real time: started as on a node, with the simulator's log only where it is the stopwatch.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::binaries::Binaries;
use harness::process::{Process, free_ports, tail};
use harness::served_log::ServedLog;
use harness::wait::wait_until;
use harness::world::DEADLINE;
use nvidia_ml::config;
use nvidia_ml::scenario::Scenario;
use tonnage_runtime::clock::Clock;

use super::{CLUSTER, NODE};

/// The answer that ends the reading of a device.
const LAST_CALL: &str = "nvmlDeviceGetTotalEnergyConsumption";

pub(super) struct Agent {
    binary: PathBuf,
    nvml: PathBuf,
    dir: PathBuf,
    uplink: String,
    port: u16,
    devices: usize,
}

impl Agent {
    /// On the node in `dir`, whose story goes on in the machine's own time.
    pub(super) fn new(
        binaries: &Binaries,
        dir: PathBuf,
        uplink: &str,
        scenario: impl Fn(i64) -> Scenario,
    ) -> anyhow::Result<Self> {
        let scenario = scenario(Clock::system().wall_ns() - 60_000_000_000);
        std::fs::write(dir.join("scenario.toml"), toml::to_string(&scenario)?)?;
        let [port] = free_ports()?;
        let (binary, nvml) = (binaries.agent.clone(), binaries.nvml.clone());
        Ok(Self { binary, nvml, dir, uplink: uplink.to_owned(), port, devices: scenario.device.len() })
    }

    pub(super) fn start(&self, log: Option<&Path>) -> anyhow::Result<Process> {
        let mut command = Command::new(&self.binary);
        command
            .args(["run", "--insecure-loopback", "--cluster", CLUSTER, "--node", NODE])
            .args(["--aggregator", &self.uplink])
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .arg("--spool")
            .arg(self.dir.join("spool"))
            .arg("--nvml-library")
            .arg(&self.nvml)
            .arg("--path.procfs")
            .arg(self.dir.join("proc"))
            .arg("--path.pod-logs")
            .arg(self.dir.join("pod-logs"));
        self.simulate(&mut command, log);
        Process::start("the agent", &mut command, &self.log())
    }

    /// See [`crate::driver_alone`].
    pub(super) fn driver_alone(&self) -> anyhow::Result<Process> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("driver-alone").arg(&self.nvml);
        self.simulate(&mut command, None);
        // It has a `/proc` of its own to keep, as the agent's simulator has.
        command.env(config::PROC, self.dir.join("driver-alone-proc"));
        Process::start("the driver alone", &mut command, &self.log())
    }

    fn simulate(&self, command: &mut Command, log: Option<&Path>) {
        command
            .env(config::SCENARIO, self.dir.join("scenario.toml"))
            .env(config::PROC, self.dir.join("proc"))
            .env_remove(config::CLOCK)
            .env_remove(config::LOG);
        if let Some(log) = log {
            command.env(config::LOG, log);
        }
    }

    /// From exec until every device was read once. The agent is killed then, as by a power cut.
    pub(super) fn first_sample_ms(&self) -> anyhow::Result<f64> {
        let path = self.dir.join("starts.jsonl");
        let mut log = ServedLog::new(&path);
        let from_ns = Clock::system().monotonic_ns();
        let mut process = self.start(Some(&path))?;
        let read_ns = wait_until(
            DEADLINE,
            "a first reading",
            || tail(&self.log()),
            || {
                anyhow::ensure!(process.exited()?.is_none(), "{}", process.log_tail());
                let read = log.records()?.iter().filter(|record| record.call == LAST_CALL);
                Ok(read.map(|record| record.monotonic_ns).nth(self.devices - 1))
            },
        )?;
        process.kill9()?;
        std::fs::remove_file(&path)?;
        Ok((read_ns - from_ns) as f64 / 1e6)
    }

    pub(super) fn scrape(&self) -> anyhow::Result<String> {
        let url = format!("http://127.0.0.1:{}/metrics", self.port);
        let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(5))).build();
        Ok(ureq::Agent::from(agent).get(&url).call()?.body_mut().read_to_string()?)
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
}
