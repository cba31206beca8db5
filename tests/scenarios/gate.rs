//! The gate beside a real slurmctld: what it lets in, what users read, and what becomes of what it held.
//!
//! Without root, Slurm or lua-socket the tests skip aloud. A GPU costs 3.60 an hour by the harness's book: a minute 0.06, and a fifth more is
//! held.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use harness::gate::Gate;
use harness::http::{http, post};
use harness::slurm::Slurm;
use harness::wait::wait_until;
use harness::world::{DEADLINE, World};
use serde_json::{Value, json};

use crate::slurm::{bill, four};

/// The aggregator or the gate does not answer.
mod absent;

/// Money that gates spend by themselves.
mod escrow;

/// Limits that the gate sets in Slurm.
mod guard;

/// The guide in docs/operations.md.
mod guide;

/// How long a submission takes.
mod latency;

/// What Slurm's jobs go through.
mod lives;

/// Something else than a gate answers.
mod nonsense;

/// Jobs without GPUs.
mod processors;

/// A minute of a GPU, held.
pub(crate) const MINUTE: f64 = 0.072;

/// A Slurm with the plugin, its GPUs metered, an account of so much money, and a gate.
pub(crate) struct Site {
    pub(crate) gate: Gate,
    pub(crate) world: World,
    pub(crate) slurm: Slurm,
    _dir: tempfile::TempDir,
}

impl Site {
    /// `None`, said aloud, where this machine cannot. `plugin` are settings of the submit plugin.
    pub(crate) fn start(limit: &str, plugin: &str) -> anyhow::Result<Option<Self>> {
        Self::start_with(limit, plugin, &[])
    }

    /// The same with more arguments for the gate.
    pub(crate) fn start_with(limit: &str, plugin: &str, gate: &[&str]) -> anyhow::Result<Option<Self>> {
        let Some(mut site) = Self::unfinished()? else { return Ok(None) };
        let account = json!({ "slurm_account": "research", "name": "Research", "budget_limit": limit });
        let url = site.world.aggregator.url();
        let (status, text) = post(&http(), &format!("{url}/api/v1/accounts"), &account.to_string())?;
        ensure!(status == 201, "{status} {text}");
        site.gate.extra_args =
            [&["--settle-seconds", "2"], gate].concat().iter().map(|&arg| arg.into()).collect();
        site.gate.start(DEADLINE)?;
        let socket = site.gate.socket().display().to_string();
        site.slurm.with_submit_plugin(&format!("socket = {socket:?}, deadline_ms = 4000, {plugin}"))?;
        Ok(Some(site))
    }

    /// The same without the account, the plugin, and the gate's start.
    #[allow(clippy::print_stdout, reason = "a skipped test has to say so")]
    pub(crate) fn unfinished() -> anyhow::Result<Option<Self>> {
        let lua = ["x86_64", "aarch64"].map(|of| format!("/usr/lib/{of}-linux-gnu/lua/5.1/socket/unix.so"));
        if !lua.iter().any(|path| Path::new(path).exists()) {
            println!("SKIPPED: lua-socket is not installed here: see tests/install-needs");
            return Ok(None);
        }
        let dir = tempfile::tempdir()?;
        let Some(slurm) = Slurm::start(&dir.path().join("slurm"), &[four()])? else { return Ok(None) };
        let mut world = bill::world(&slurm)?;
        world.start()?;
        // A price is known once the agent has told of its GPUs.
        wait_until(DEADLINE, "a device", String::new, || {
            let devices: Value = world.aggregator.answer("/api/v1/devices")?;
            Ok(devices["devices"].as_array().is_some_and(|all| !all.is_empty()).then_some(()))
        })?;
        let gate = Gate::new("gate", &slurm, world.binaries(), world.aggregator.url())?;
        Ok(Some(Self { gate, world, slurm, _dir: dir }))
    }

    /// What sbatch says to a submission of the account, unless another is named, and whether it was taken.
    pub(crate) fn sbatch(&self, args: &[&str], script: &str) -> anyhow::Result<(bool, String)> {
        self.bare(&[&["--account=research"], args].concat(), script)
    }

    /// The same without a word of an account.
    pub(crate) fn bare(&self, args: &[&str], script: &str) -> anyhow::Result<(bool, String)> {
        let output = Command::new("/usr/bin/sbatch")
            .env("SLURM_CONF", self.slurm.conf())
            .args(["--parsable", "--output=/dev/null", "--chdir=/"])
            .args(args)
            .args(["--wrap", script])
            .output()?;
        let text =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        Ok((output.status.success(), text))
    }

    /// The id of a job that is let in.
    pub(crate) fn job(&self, args: &[&str], script: &str) -> anyhow::Result<u32> {
        let (taken, text) = self.sbatch(args, script)?;
        ensure!(taken, "{text}");
        let first = text.lines().find_map(|line| line.trim().split(';').next()?.parse().ok());
        first.with_context(|| text.clone())
    }

    /// What sbatch says to one that is refused.
    pub(crate) fn refused(&self, args: &[&str]) -> anyhow::Result<String> {
        let (taken, text) = self.sbatch(args, "sleep 1")?;
        ensure!(!taken, "it was let in: {text}");
        Ok(text)
    }

    /// The newest hold or refusal of a job.
    pub(crate) fn hold(&self, job: u32) -> anyhow::Result<Option<Value>> {
        let listed: Vec<Value> =
            self.world.aggregator.answer(&format!("/api/v1/transactions?job_id={job}"))?;
        Ok(listed.into_iter().next())
    }

    /// A hold by its id.
    pub(crate) fn hold_of(&self, transaction: &str) -> anyhow::Result<Value> {
        let listed: Vec<Value> = self.world.aggregator.answer("/api/v1/transactions?limit=1000")?;
        listed.into_iter().find(|hold| hold["transaction_id"] == transaction).context("no such hold")
    }

    /// Waits until a job's hold is in this state.
    pub(crate) fn wait_hold(&self, job: u32, state: &str) -> anyhow::Result<Value> {
        let log = || std::fs::read_to_string(self.gate.log()).unwrap_or_default();
        wait_until(DEADLINE * 3, &format!("the hold of job {job} to be {state}"), log, || {
            Ok(self.hold(job)?.filter(|hold| hold["state"] == state))
        })
    }

    /// What is left of the account.
    pub(crate) fn left(&self) -> anyhow::Result<f64> {
        let account: Value = self.world.aggregator.answer("/api/v1/accounts/research")?;
        account["budget_available"].as_f64().context("a balance")
    }

    /// What is held of it.
    pub(crate) fn held(&self) -> anyhow::Result<f64> {
        let account: Value = self.world.aggregator.answer("/api/v1/accounts/research")?;
        account["budget_held"].as_f64().context("a sum of holds")
    }

    pub(crate) fn verify(&self) -> anyhow::Result<()> {
        let (status, text) =
            post(&http(), &format!("{}/api/v1/audit/verify", self.world.aggregator.url()), "")?;
        let answer: Value = serde_json::from_str(&text)?;
        ensure!(status == 200 && answer["conserved"] == true, "{status} {text}");
        Ok(())
    }
}

pub(crate) fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}
