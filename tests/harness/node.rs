//! A simulated node: a folder with its scenario, its `/proc`, its driver's log and its agent's spool, and the agent.
//!
//! Killing and starting the agent again leaves the folder as it is: to the agent it is the same machine.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use nvidia_ml::config;
use nvidia_ml::scenario::Scenario;
use nvidia_ml::served::{INIT, Record};
use nvidia_ml::story::Story;
use tonnage_runtime::clock::Reading;

use crate::binaries::Binaries;
use crate::http::{Scrape, get, http};
use crate::process::{Process, free_ports, tail};
use crate::reference::{self, Piece};
use crate::served_log::ServedLog;
use crate::sim_clock::SimClock;
use crate::wait::wait_until;

/// The answer that ends an agent's reading of a device, as far as the log shows it,
const LAST_CALL: &str = "nvmlDeviceGetTotalEnergyConsumption";
/// and where the driver lacks that and the agent learns not to ask.
const LAST_CALL_WITHOUT_ENERGY: &str = "nvmlDeviceGetComputeRunningProcesses_v3";
const METERED_UNTIL: &str = "tonnage_agent_metered_until_timestamp_seconds";

/// What a node needs to know of the world.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    pub cluster: String,
    pub name: String,
    /// Where its agent sends.
    pub uplink: String,
    pub clock: Option<PathBuf>,
    /// With `epoch_ns`, so that a new agent sees the same story go on.
    pub scenario: Scenario,
}

/// A node, its agent running or not.
#[derive(Debug)]
pub struct Node {
    pub spec: NodeSpec,
    dir: PathBuf,
    agent_binary: PathBuf,
    port: u16,
    http: ureq::Agent,
    served: ServedLog,
    story: Story,
    process: Option<Process>,
    /// In place of the world's, with which it goes on unless a test sets it.
    clock: Option<SimClock>,
    /// How often its agent samples.
    pub period_ns: i64,
    /// Given to every start of its agent, after the usual arguments.
    pub extra_args: Vec<String>,
    /// Set in its agent's environment.
    pub extra_env: Vec<(String, String)>,
    /// In place of the made-up ones: the machine's own `/proc` and cgroups.
    pub procfs: Option<PathBuf>,
    pub cgroup: Option<PathBuf>,
    /// Put before its agent's command, e.g. `ip netns exec <name>`.
    pub wrapper: Vec<String>,
    /// The driver's library.
    pub nvml: PathBuf,
    /// Sent if there is one.
    pub token_file: Option<PathBuf>,
    /// Without a token the agent is told that none is needed on loopback; set it to false where it has a certificate.
    pub insecure: bool,
    /// Starts its agent in a process group of its own, so that Ctrl-C at a terminal reaches only us.
    pub own_group: bool,
}

impl Node {
    /// # Errors
    /// If the scenario is wrong or the folder cannot be made.
    pub fn new(dir: &Path, binaries: &Binaries, spec: NodeSpec) -> anyhow::Result<Self> {
        spec.scenario.check()?;
        anyhow::ensure!(spec.scenario.epoch_ns.is_some(), "the scenario of {} has no epoch_ns", spec.name);
        for folder in ["proc", "spool", "pod-logs"] {
            std::fs::create_dir_all(dir.join(folder)).with_context(|| format!("folder {}", dir.display()))?;
        }
        std::fs::write(dir.join("scenario.toml"), toml::to_string(&spec.scenario)?)?;
        // An agent asks for the boot id before it loads the driver that keeps the rest of this `/proc`.
        let random = dir.join("proc/sys/kernel/random");
        std::fs::create_dir_all(&random)?;
        std::fs::write(random.join("boot_id"), &spec.scenario.boot_id)?;
        let [port] = free_ports()?;
        Ok(Self {
            dir: dir.to_owned(),
            agent_binary: binaries.agent.clone(),
            procfs: None,
            cgroup: None,
            wrapper: Vec::new(),
            nvml: binaries.nvml.clone(),
            port,
            http: http(),
            story: Story::new(spec.scenario.clone(), 0),
            served: ServedLog::new(&dir.join("served.jsonl")),
            process: None,
            clock: None,
            period_ns: 1_000_000_000,
            extra_args: Vec::new(),
            extra_env: Vec::new(),
            token_file: None,
            insecure: true,
            own_group: false,
            spec,
        })
    }

    /// Gives it a simulated clock of its own, which shows `now`. Before its agent's first start.
    ///
    /// # Errors
    /// If the clock's file cannot be written.
    pub fn own_clock(&mut self, now: Reading) -> anyhow::Result<()> {
        let mut clock = SimClock::new(&self.dir.join("clock"))?;
        clock.set(now)?;
        self.spec.clock = Some(clock.path().to_owned());
        self.clock = Some(clock);
        Ok(())
    }

    /// Its own clock, if it has one.
    pub fn clock(&mut self) -> Option<&mut SimClock> {
        self.clock.as_mut()
    }

    /// What its clock shows when the world's shows `now`.
    #[must_use]
    pub fn now(&self, now: Reading) -> Reading {
        self.clock.as_ref().map_or(now, SimClock::now)
    }

    /// Puts a copy of its spool in the place of another node's. Neither agent may run.
    ///
    /// # Errors
    /// If a file cannot be copied.
    pub fn copy_spool(&self, to: &Self) -> anyhow::Result<()> {
        std::fs::remove_dir_all(to.spool())?;
        copy_folder(&self.spool(), &to.spool())
    }

    /// How its agent is started (`run`), or another of its commands: the one place that knows the arguments.
    #[must_use]
    pub fn command(&self, what: &str) -> Command {
        let mut command = match self.wrapper.split_first() {
            Some((program, args)) => {
                let mut command = Command::new(program);
                command.args(args).arg(&self.agent_binary);
                command
            }
            None => Command::new(&self.agent_binary),
        };
        command
            .arg(what)
            .args(["--cluster", &self.spec.cluster])
            .args(["--node", &self.spec.name])
            .args(["--aggregator", &self.spec.uplink])
            .arg("--spool")
            .arg(self.dir.join("spool"))
            .args(["--listen", &format!("127.0.0.1:{}", self.port)])
            .arg("--nvml-library")
            .arg(&self.nvml)
            .arg("--path.procfs")
            .arg(self.procfs.clone().unwrap_or_else(|| self.dir.join("proc")))
            .arg("--path.pod-logs")
            .arg(self.dir.join("pod-logs"))
            .arg("--path.passwd")
            .arg(self.dir.join("passwd"))
            .arg("--slurm.conf")
            .arg(self.dir.join("slurm.conf"))
            .arg("--slurm.jobs-dir")
            .arg(self.dir.join("jobs"))
            .arg("--path.docker")
            .arg(self.dir.join("docker"))
            .arg("--path.podman")
            .arg(self.dir.join("containers.json"))
            .arg("--path.dmi")
            .arg(self.dir.join("dmi"))
            .arg("--path.cgroup")
            .arg(self.cgroup.clone().unwrap_or_else(|| self.dir.join("cgroup")))
            .arg("--kubelet.socket")
            .arg(self.kubelet_socket())
            .arg("--path.dra-checkpoint")
            .arg(self.dir.join("dra-checkpoint.json"));
        match &self.token_file {
            Some(path) => command.arg("--token-file").arg(path),
            None if self.insecure => command.arg("--insecure-loopback"),
            None => &mut command,
        };
        if let Some(clock) = &self.spec.clock {
            command.arg("--simulated-clock").arg(clock);
        }
        command.args(&self.extra_args);
        if self.own_group {
            command.process_group(0);
        }
        command.env(config::SCENARIO, self.dir.join("scenario.toml"));
        command.env(config::LOG, self.served.path());
        command.env(config::PROC, self.dir.join("proc"));
        match &self.spec.clock {
            Some(clock) => command.env(config::CLOCK, clock),
            None => command.env_remove(config::CLOCK),
        };
        command.envs(self.extra_env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// A command to its running agent: `release` or `resume`, and what belongs to it.
    #[must_use]
    pub fn control(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.agent_binary);
        command.args(args).arg("--spool").arg(self.spool());
        command
    }

    /// Starts its agent and waits for nothing: it may never read a device.
    ///
    /// # Errors
    /// If it runs already or cannot be started.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(self.process.is_none(), "the agent of {} runs already", self.spec.name);
        self.process = Some(Process::start(&self.spec.name, &mut self.command("run"), &self.log())?);
        Ok(())
    }

    /// Starts its agent and waits until that has read the node's devices for the first time.
    ///
    /// # Errors
    /// If it runs already, or has not at the deadline.
    pub fn start(&mut self, deadline: Duration) -> anyhow::Result<()> {
        let before = self.served.records()?.len();
        self.spawn()?;
        self.wait_served(deadline, "its first reading", |node| {
            let records = node.served.records()?;
            let init = records[before..].iter().find(|record| record.call == INIT);
            let Some((wall_ns, monotonic_ns)) = init.map(|init| (init.wall_ns, init.monotonic_ns)) else {
                return Ok(false);
            };
            node.has_read_since(before, Reading { wall_ns, monotonic_ns, ..Reading::default() })
        })
    }

    /// Waits until its agent has read all devices at the time `now` of a simulated clock.
    ///
    /// # Errors
    /// If it has not at the deadline, or its agent has ended.
    pub fn wait_reading(&mut self, now: Reading, deadline: Duration) -> anyhow::Result<()> {
        self.wait_served(deadline, &format!("a reading at {}", now.wall_ns), |node| {
            node.has_read_since(0, now)
        })
    }

    /// The last device that the driver shows was read at `from` or later; or as many as it shows, since after the wall clock was
    /// set back others can be there than the agent knows, and it notices with its next reading. By monotonic time: the wall
    /// clock may have been set back.
    fn has_read_since(&mut self, first_record: usize, from: Reading) -> anyhow::Result<bool> {
        let present: Vec<usize> = self.story.present(from.wall_ns).collect();
        let Some(last) = present.last() else { return Ok(true) };
        let uuid = &self.spec.scenario.device[*last].uuid;
        let faults = &self.spec.scenario.faults;
        let lacks_energy =
            faults.not_supported.iter().chain(&faults.function_not_found).any(|name| name == LAST_CALL);
        let last_call = if lacks_energy { LAST_CALL_WITHOUT_ENERGY } else { LAST_CALL };
        let new = self.served.records()?.get(first_record..).unwrap_or_default().iter().rev();
        let new = new.take_while(|record| record.monotonic_ns >= from.monotonic_ns);
        let read: BTreeSet<&String> = new
            .filter(|record| record.call == last_call)
            .filter_map(|record| record.device.as_ref())
            .collect();
        Ok(read.contains(uuid) || read.len() >= present.len())
    }

    fn wait_served(
        &mut self,
        deadline: Duration,
        what: &str,
        mut done: impl FnMut(&mut Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let log = self.log();
        let what = format!("{what} by the agent of {}", self.spec.name);
        wait_until(
            deadline,
            &what,
            || tail(&log),
            || {
                let process = self.process.as_mut().context("its agent does not run")?;
                if let Some(status) = process.exited()? {
                    anyhow::bail!("the agent ended with {status}\n{}", process.log_tail());
                }
                Ok(done(self)?.then_some(()))
            },
        )
    }

    /// Waits until its agent has worked off what it read at `now`: owners found, windows in the spool.
    ///
    /// # Errors
    /// If it has not at the deadline, or its agent has ended.
    pub fn wait_metered(&mut self, now: Reading, deadline: Duration) -> anyhow::Result<()> {
        // As precise as a gauge is: seconds as a float.
        let now_s = (now.wall_ns / 1_000_000) as f64 * 1e-3 - 1e-3;
        self.wait_served(deadline, &format!("metering up to {}", now.wall_ns), |node| {
            let until = node.metrics().ok().and_then(|metrics| metrics.sum(METERED_UNTIL));
            Ok(until.is_some_and(|until_s| until_s >= now_s))
        })
    }

    /// What its agent's metrics say now.
    ///
    /// # Errors
    /// If they cannot be had, or are not in Prometheus's format.
    pub fn metrics(&self) -> anyhow::Result<Scrape> {
        Scrape::parse(&self.get("/metrics")?.1)
    }

    /// Status and text of one of its agent's pages.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        get(&self.http, &format!("{}{path}", self.url()), None)
    }

    /// # Errors
    /// If its agent does not run or cannot be killed.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.process.take().context("the agent does not run")?.kill9()
    }

    /// Asks its agent to stop and waits for the end.
    ///
    /// # Errors
    /// If it does not run, does not end in time, or fails at it.
    pub fn stop(&mut self, deadline: Duration) -> anyhow::Result<()> {
        let mut process = self.process.take().context("the agent does not run")?;
        process.terminate()?;
        let status = process.wait(deadline)?;
        anyhow::ensure!(status.success(), "the agent ended with {status}\n{}", process.log_tail());
        Ok(())
    }

    /// Its agent's process, while it runs.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// What its driver served until now.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn served(&mut self) -> anyhow::Result<&[Record]> {
        self.served.records()
    }

    /// Who held what, judged by what was served until now.
    ///
    /// # Errors
    /// If the log cannot be read or does not fit the scenario.
    pub fn judge(&mut self) -> anyhow::Result<Vec<Piece>> {
        reference::pieces(self.served.records()?, &self.spec.scenario, self.period_ns)
    }

    /// What was left uncovered on the whole node until now, judged by what was served.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn uncovered(&mut self) -> anyhow::Result<reference::Uncovered> {
        reference::uncovered(self.served.records()?, self.period_ns)
    }

    /// Where its agent's metrics and health are.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Where its agent looks for a kubelet.
    #[must_use]
    pub fn kubelet_socket(&self) -> PathBuf {
        self.dir.join("pod-resources/kubelet.sock")
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.dir.join("spool")
    }

    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
