//! A gate under test, beside a Slurm's slurmctld.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use crate::binaries::Binaries;
use crate::http::{Scrape, get, http};
use crate::process::{Process, free_ports, tail};
use crate::slurm::Slurm;
use crate::wait::wait_until;

/// A gate, running or not.
#[derive(Debug)]
pub struct Gate {
    dir: PathBuf,
    binary: PathBuf,
    conf: PathBuf,
    port: u16,
    process: Option<Process>,
    /// Aggregators, the first first.
    pub aggregators: Vec<String>,
    /// Given to every start, after the usual arguments.
    pub extra_args: Vec<String>,
}

impl Gate {
    /// In a folder of its own, of this name, below Slurm's.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new(name: &str, slurm: &Slurm, binaries: &Binaries, aggregator: String) -> anyhow::Result<Self> {
        let dir = slurm.dir().join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("folder {}", dir.display()))?;
        let [port] = free_ports()?;
        Ok(Self {
            dir,
            binary: binaries.agent.clone(),
            conf: slurm.conf(),
            port,
            process: None,
            aggregators: vec![aggregator],
            extra_args: Vec::new(),
        })
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(&mut self, deadline: Duration) -> anyhow::Result<()> {
        let mut command = Command::new(&self.binary);
        command.arg("gate").args(["--insecure-loopback", "--cluster", "test", "--sweep-seconds", "1"]);
        command.args(["--token-seconds", "5", "--deadline-ms", "2000"]);
        command.arg("--socket").arg(self.socket()).arg("--state").arg(self.dir.join("state"));
        command.arg("--slurm.conf").arg(&self.conf).args(["--listen", &format!("127.0.0.1:{}", self.port)]);
        for url in &self.aggregators {
            command.args(["--aggregator", url]);
        }
        command.args(&self.extra_args);
        let log = self.log();
        let mut process = Process::start("gate", &mut command, &log)?;
        wait_until(
            deadline,
            "a gate that answers",
            || tail(&log),
            || {
                if let Some(status) = process.exited()? {
                    anyhow::bail!("the gate ended with {status}\n{}", process.log_tail());
                }
                Ok(UnixStream::connect(self.socket()).is_ok().then_some(()))
            },
        )?;
        self.process = Some(process);
        Ok(())
    }

    /// # Errors
    /// If it does not run or end.
    pub fn stop(&mut self, deadline: Duration) -> anyhow::Result<()> {
        let mut process = self.process.take().context("the gate does not run")?;
        process.terminate()?;
        let status = process.wait(deadline)?;
        anyhow::ensure!(status.success(), "the gate ended with {status}\n{}", process.log_tail());
        Ok(())
    }

    /// # Errors
    /// If it does not run or cannot be killed.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.process.take().context("the gate does not run")?.kill9()
    }

    /// Asks it as the submit plugin does.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn ask(&self, line: &str) -> anyhow::Result<String> {
        ask(&self.socket(), line)
    }

    /// # Errors
    /// If nobody answers, or not as Prometheus would have it.
    pub fn metrics(&self) -> anyhow::Result<Scrape> {
        Scrape::parse(&get(&http(), &format!("http://127.0.0.1:{}/metrics", self.port), None)?.1)
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("gate.sock")
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
}

/// Asks the gate at `socket` as the submit plugin does.
///
/// # Errors
/// If it does not answer.
pub fn ask(socket: &Path, line: &str) -> anyhow::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("{line}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    anyhow::ensure!(answer.ends_with('\n'), "it answered {answer:?} and no more");
    Ok(answer.trim_end().to_owned())
}
