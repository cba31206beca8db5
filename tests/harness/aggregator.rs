//! The aggregator under test: its folder, its ports (the same through restarts), its process.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use tonnage_aggregator::store::server::TlsFiles;
use tonnage_aggregator::store::{Location, Store};

use crate::binaries::Binaries;
use crate::http::{get, http};
use crate::process::{Process, free_ports, tail};
use crate::wait::wait_until;

/// H100s at 3.60 an hour: a nano-dollar per microsecond, so that sums are easy to read. Others are unpriced.
pub const PRICES: &str = "\
currency = \"USD\"

[[price]]
match = { gpu_model = \"NVIDIA H100*\" }
price = \"3.60\"
unit = \"gpu_hour\"
";

/// An aggregator, running or not.
#[derive(Debug)]
pub struct Aggregator {
    dir: PathBuf,
    binary: PathBuf,
    clock: Option<PathBuf>,
    http_port: u16,
    grpc_port: u16,
    process: Option<Process>,
    http: ureq::Agent,
    /// URL of the database that its ledger is in; `None`: it is in its folder.
    pub database: Option<String>,
    /// Asks nobody for a token. Set it to false before the start to have tokens asked for.
    pub insecure: bool,
    /// Sent with every request of [`Aggregator::get`].
    pub token: Option<String>,
    /// Given to every start, after the usual arguments.
    pub extra_args: Vec<String>,
    /// Added to the environment of every start.
    pub environment: Vec<(String, PathBuf)>,
    /// Starts it in a process group of its own, so that Ctrl-C at a terminal reaches only us.
    pub own_group: bool,
}

impl Aggregator {
    /// # Errors
    /// If its folder cannot be made.
    pub fn new(dir: &Path, binaries: &Binaries, clock: Option<&Path>) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("folder {}", dir.display()))?;
        std::fs::write(dir.join("prices.toml"), PRICES)?;
        let [http_port, grpc_port] = free_ports()?;
        Ok(Self {
            dir: dir.to_owned(),
            binary: binaries.aggregator.clone(),
            clock: clock.map(Path::to_owned),
            http_port,
            grpc_port,
            process: None,
            http: http(),
            database: None,
            insecure: true,
            token: None,
            extra_args: Vec::new(),
            environment: Vec::new(),
            own_group: false,
        })
    }

    /// How it is started: the one place that knows its arguments.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg("serve")
            .args(self.place())
            .args(["--listen-http", &format!("127.0.0.1:{}", self.http_port)])
            .args(["--listen-grpc", &format!("127.0.0.1:{}", self.grpc_port)])
            .arg("--prices")
            .arg(self.prices());
        if self.insecure {
            command.arg("--insecure-loopback");
        }
        if let Some(clock) = &self.clock {
            command.arg("--simulated-clock").arg(clock);
        }
        command.args(&self.extra_args).envs(self.environment.iter().cloned());
        if self.own_group {
            command.process_group(0);
        }
        command
    }

    /// Starts it and waits until it is healthy.
    ///
    /// # Errors
    /// If it is not.
    pub fn start(&mut self, deadline: Duration) -> anyhow::Result<()> {
        let mut process = Process::start("aggregator", &mut self.command(), &self.log())?;
        let healthy = format!("{}/healthz", self.url());
        let log = self.log();
        wait_until(
            deadline,
            "a healthy aggregator",
            || tail(&log),
            || {
                if let Some(status) = process.exited()? {
                    anyhow::bail!("the aggregator ended with {status}\n{}", tail(&log));
                }
                Ok(ureq::get(&healthy).call().is_ok().then_some(()))
            },
        )?;
        self.process = Some(process);
        Ok(())
    }

    /// # Errors
    /// If it does not run or cannot be killed.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.process.take().context("the aggregator does not run")?.kill9()
    }

    /// Asks it to stop and waits for the end.
    ///
    /// # Errors
    /// If it does not run, does not end in time, or fails at it.
    pub fn stop(&mut self, deadline: Duration) -> anyhow::Result<()> {
        let mut process = self.process.take().context("the aggregator does not run")?;
        process.terminate()?;
        let status = process.wait(deadline)?;
        anyhow::ensure!(status.success(), "the aggregator ended with {status}\n{}", process.log_tail());
        Ok(())
    }

    /// Runs one of its commands (`verify`, `token list`) on its ledger, and gives what it printed.
    ///
    /// # Errors
    /// If it cannot be started, or fails: then with what it said.
    pub fn admin(&self, command: &[&str]) -> anyhow::Result<String> {
        let [flag, place] = self.place();
        let (flag, place) = (flag.to_string_lossy(), place.to_string_lossy());
        self.run(&[command, &[&*flag, &*place]].concat())
    }

    /// One of its commands, wherever that finds its ledger.
    #[must_use]
    pub fn program(&self, command: &[&str]) -> Command {
        let mut program = Command::new(&self.binary);
        program.args(command);
        program
    }

    /// Runs one to its end, and gives what it printed.
    ///
    /// # Errors
    /// As [`Aggregator::admin`].
    pub fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        let output = self.program(command).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{command:?} ended with {}: {text}{errors}", output.status);
        Ok(text)
    }

    /// Status and text of one of its pages.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        get(&self.http, &format!("{}{path}", self.url()), self.token.as_deref())
    }

    /// An answer of the REST API.
    ///
    /// # Errors
    /// If nobody answers, or with an error.
    pub fn answer<T: serde::de::DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let (status, text) = self.get(path)?;
        anyhow::ensure!(status == 200, "{path}: {status} {text}");
        serde_json::from_str(&text).with_context(|| format!("{path}: {text}"))
    }

    /// Its process, while it runs.
    pub fn process(&mut self) -> Option<&mut Process> {
        self.process.as_mut()
    }

    /// Where REST, metrics and health are.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http_port)
    }

    /// Where agents send.
    #[must_use]
    pub fn uplink(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc_port)
    }

    /// Where its ledger is, as arguments.
    fn place(&self) -> [OsString; 2] {
        match &self.database {
            Some(url) => ["--database-url".into(), url.into()],
            None => ["--data".into(), self.data_dir().into()],
        }
    }

    /// Its ledger, whether it runs or not.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn store(&self) -> anyhow::Result<Store> {
        Ok(match &self.database {
            Some(url) => Location::database(url, false, &TlsFiles::default())?.open()?,
            None => Store::open(&self.data_dir())?,
        })
    }

    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Its price book, to be written anew.
    #[must_use]
    pub fn prices(&self) -> PathBuf {
        self.dir.join("prices.toml")
    }

    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }
}
