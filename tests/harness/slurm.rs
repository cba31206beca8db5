//! A real Slurm on loopback: munged, MariaDB, slurmdbd, slurmctld and a slurmd per node, in one folder, ended at drop.
//!
//! GPUs are device nodes without a driver behind them. Their minor numbers are given by the test, so that they are those
//! of a simulated driver, and lines of gres.conf stand in the order given: 3, 1 makes `/dev/nvidia3` index 0. Prolog and
//! Epilog are the project's, with the folder of jobs in Slurm's own.
//!
//! Needs root and Debian's Slurm; where one is missing [`Slurm::start`] says so aloud and gives none. Node names are
//! unlike any others of this machine, since cgroups are called by them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use rustix::fs::{FileType, Mode, makedev, mknodat};

use crate::process::{Process, free_ports, tail};
use crate::wait::wait_until;

mod accounting;
mod cgroups;
mod config;
mod controller;

pub use accounting::Accounted;

/// The account that jobs are of, unless they say another.
pub const ACCOUNT: &str = "research";
/// Major number of NVIDIA's devices.
const NVIDIA_MAJOR: u32 = 195;
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two questions to a daemon: each is a process.
const ASK_EVERY: Duration = Duration::from_millis(50);
const PROGRAMS: [&str; 7] = ["munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacct"];
const FOLDERS: [&str; 2] = ["/usr/sbin", "/usr/bin"];

/// A node's GPUs.
#[derive(Debug, Clone, Default)]
pub struct GresNode {
    /// Minor numbers in the order of GRES indices.
    pub minors: Vec<u32>,
    /// Their types in the same order; empty = they have none.
    pub types: Vec<&'static str>,
    /// Shards, and parts of MPS, of all its GPUs together; 0 = none.
    pub shards: u32,
    pub mps: u32,
}

/// A cluster, running.
#[derive(Debug)]
pub struct Slurm {
    dir: PathBuf,
    pub nodes: Vec<String>,
    jobs_dirs: Vec<PathBuf>,
    slurmd: Vec<Option<Process>>,
    scripts: u32,
    /// In the order of their end.
    daemons: Vec<Process>,
}

impl Slurm {
    /// Starts a cluster below `dir`. `None`, said aloud, where this machine cannot.
    ///
    /// # Errors
    /// If a daemon does not come up.
    #[allow(clippy::print_stderr, reason = "a skipped test has to say so")]
    pub fn start(dir: &Path, nodes: &[GresNode]) -> anyhow::Result<Option<Self>> {
        let missing = PROGRAMS.iter().find(|program| program_path(program).is_none());
        if let Some(program) = missing {
            eprintln!("SKIPPED: {program} is not installed here: see tests/install-needs");
            return Ok(None);
        }
        if !rustix::process::getuid().is_root() {
            eprintln!("SKIPPED: only root can run Slurm for several users, and make device nodes");
            return Ok(None);
        }
        let mut slurm = Self::prepare(dir, nodes)?;
        slurm.start_munge()?;
        slurm.start_accounting()?;
        slurm.start_daemon("slurmctld", &["-D", "-c"])?;
        for at in 0..slurm.nodes.len() {
            slurm.start_slurmd(at)?;
        }
        Ok(Some(slurm))
    }

    fn prepare(dir: &Path, gres: &[GresNode]) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        // Daemons of several users pass through.
        for above in [dir, dir.parent().unwrap_or(dir)] {
            fs::set_permissions(above, Permissions::from_mode(0o755))?;
        }
        for (folder, owner) in
            [("munge", "munge"), ("state", "slurm"), ("log", "slurm"), ("db", "mysql"), ("out", "nobody")]
        {
            fs::create_dir_all(dir.join(folder))?;
            config::give(&dir.join(folder), owner)?;
        }
        let ports = free_ports::<4>()?;
        let names: Vec<String> = (0..gres.len()).map(|at| format!("t{}n{at}", ports[0])).collect();
        let [slurmctld, slurmdbd, mariadb, first_slurmd] = ports;
        let mut node_ports = vec![first_slurmd];
        for _ in 1..gres.len() {
            node_ports.extend(free_ports::<1>()?);
        }
        for (name, node) in names.iter().zip(gres) {
            for minor in &node.minors {
                make_device(&config::device(dir, name, *minor), *minor)?;
            }
        }
        let slurm = Self {
            dir: dir.to_owned(),
            jobs_dirs: names.iter().map(|name| dir.join("jobs").join(name)).collect(),
            slurmd: names.iter().map(|_| None).collect(),
            scripts: 0,
            daemons: Vec::new(),
            nodes: names,
        };
        let ports = config::Ports { slurmctld, slurmdbd, mariadb, slurmd: node_ports };
        config::write(dir, &slurm.nodes, gres, &ports)?;
        Ok(slurm)
    }

    fn start_munge(&mut self) -> anyhow::Result<()> {
        let dir = self.dir.join("munge");
        let socket = dir.join("socket");
        let mut command = config::as_user(&program("munged"), "munge")?;
        command.arg("--foreground");
        for (option, file) in [
            ("--key-file", "key"),
            ("--socket", "socket"),
            ("--pid-file", "pid"),
            ("--log-file", "log"),
            ("--seed-file", "seed"),
        ] {
            command.arg(format!("{option}={}", dir.join(file).display()));
        }
        self.daemons.insert(0, Process::start("munged", &mut command, &self.log("munged"))?);
        self.wait("munged's socket", |_| Ok(socket.exists().then_some(())))
    }

    fn start_daemon(&mut self, name: &str, args: &[&str]) -> anyhow::Result<()> {
        let mut command = self.command(name);
        command.args(args);
        // What depends on others ends before them.
        self.daemons.insert(0, Process::start(name, &mut command, &self.log(name))?);
        Ok(())
    }

    /// Starts a node's slurmd, and waits until the node can take jobs, or runs some.
    ///
    /// # Errors
    /// If it does not.
    pub fn start_slurmd(&mut self, at: usize) -> anyhow::Result<()> {
        let name = self.nodes.get(at).context("no such node")?.clone();
        let mut command = self.command("slurmd");
        command.args(["-D", "-N", &name]);
        self.slurmd[at] = Some(Process::start("slurmd", &mut command, &self.log(&format!("slurmd-{name}")))?);
        self.wait("a node that is up", |slurm| {
            let state = slurm.run("sinfo", &["-h", "-N", "-n", &name, "-o", "%t"]).unwrap_or_default();
            Ok(["idle", "mix", "alloc", "drain", "drng"].contains(&state.trim()).then_some(()))
        })
    }

    /// Ends a node's slurmd; its jobs go on.
    ///
    /// # Errors
    /// If it does not run or end.
    pub fn stop_slurmd(&mut self, at: usize) -> anyhow::Result<()> {
        let mut process =
            self.slurmd.get_mut(at).and_then(Option::take).context("the slurmd does not run")?;
        process.terminate()?;
        process.wait(DEADLINE)?;
        Ok(())
    }

    /// Runs one of Slurm's commands, and gives what it printed.
    ///
    /// # Errors
    /// If it fails: then with what it said.
    pub fn run(&self, program: &str, args: &[&str]) -> anyhow::Result<String> {
        let output = self.command(program).args(args).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{program} {args:?}: {}: {text}{errors}", output.status);
        Ok(text)
    }

    /// Submits a script with sbatch, and gives the job's id (of an array or a heterogeneous job the first).
    ///
    /// # Errors
    /// If Slurm does not take it.
    pub fn submit(&mut self, args: &[&str], script: &str) -> anyhow::Result<u32> {
        self.scripts += 1;
        let path = self.dir.join(format!("script-{}", self.scripts));
        fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
        let output = format!("--output={}/out/%j", self.dir.display());
        let chdir = format!("--chdir={}", self.dir.display());
        let account = format!("--account={ACCOUNT}");
        let path = path.display().to_string();
        let args = [&["--parsable", &output, &chdir, &account], args, &[&path]].concat();
        let text = self.run("sbatch", &args)?;
        text.trim().split(';').next().unwrap_or_default().parse().with_context(|| text.clone())
    }

    /// Waits until a job runs.
    ///
    /// # Errors
    /// If it does not at the deadline.
    pub fn wait_running(&self, job: u32) -> anyhow::Result<()> {
        // Not by sacct, which learns of it seconds later.
        self.wait(&format!("job {job} to run"), |slurm| {
            let state = slurm.run("squeue", &["-h", "-o", "%T", "-j", &job.to_string()])?;
            Ok((state.trim() == "RUNNING").then_some(()))
        })
    }

    /// Waits until a job has ended in this state by sacct.
    ///
    /// # Errors
    /// If it is not at the deadline.
    pub fn wait_ended(&self, job: u32, state: &str) -> anyhow::Result<Accounted> {
        self.wait(&format!("job {job} to be {state}"), |slurm| {
            let jobs = slurm.sacct(job)?;
            Ok(jobs.into_iter().rfind(|accounted| {
                accounted.job == job && accounted.state.starts_with(state) && accounted.end_s.is_some()
            }))
        })
    }

    /// Waits for a condition.
    ///
    /// # Errors
    /// If there is none at the deadline: then with the ends of all logs.
    pub fn wait<T>(
        &self,
        what: &str,
        mut look: impl FnMut(&Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let logs = || {
            let logs = fs::read_dir(self.dir.join("log")).into_iter().flatten().flatten();
            logs.map(|log| format!("--- {:?}\n{}\n", log.file_name(), tail(&log.path()))).collect()
        };
        wait_until(DEADLINE, what, logs, || {
            let found = look(self)?;
            if found.is_none() {
                std::thread::sleep(ASK_EVERY);
            }
            Ok(found)
        })
    }

    /// A node's folder of jobs.
    #[must_use]
    pub fn jobs_dir(&self, at: usize) -> &Path {
        &self.jobs_dirs[at]
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// slurm.conf; gres.conf lies beside it.
    #[must_use]
    pub fn conf(&self) -> PathBuf {
        self.dir.join("slurm.conf")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command.env("SLURM_CONF", self.conf()).env("TZ", "UTC").env("SLURM_TIME_FORMAT", "%s");
        command
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.join("log").join(name)
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        // Steps outlive slurmd: they are asked to end first, and what is left is found by its cgroup.
        let _ = self.run("scancel", &["--user=root"]);
        let _ = self.run("scancel", &["--user=nobody"]);
        let _ = self.wait("the end of all jobs", |slurm| {
            Ok(slurm.run("squeue", &["-h"]).map_or(true, |left| left.trim().is_empty()).then_some(()))
        });
        for daemon in self.slurmd.iter_mut().flatten().chain(&mut self.daemons) {
            let _ = daemon.terminate();
            let _ = daemon.wait(Duration::from_secs(10));
        }
        self.nodes.iter().for_each(|node| cgroups::remove(node));
    }
}

fn program_path(name: &str) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

fn program(name: &str) -> PathBuf {
    program_path(name).unwrap_or_else(|| name.into())
}

fn make_device(path: &Path, minor: u32) -> anyhow::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let mode = Mode::from_raw_mode(0o666);
    mknodat(rustix::fs::CWD, path, FileType::CharacterDevice, mode, makedev(NVIDIA_MAJOR, minor))
        .with_context(|| format!("device node {}", path.display()))
}
