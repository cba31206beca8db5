//! docs/operations.md to the letter: its commands, run one after the other by a shell, end with the first refused job.
//!
//! Only what this machine must keep as it is stands elsewhere: folders are the test's, and systemctl and apt-get do what they would do here.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use harness::process::free_ports;

use super::*;

const SECTION: &str = "## Slurm: refusing jobs that a budget cannot pay";

/// The section's commands as they stand there.
fn commands() -> anyhow::Result<String> {
    let path = crate::tidy::root().join("docs/operations.md");
    let text = fs::read_to_string(path)?;
    let section = text.split_once(SECTION).context("the section is gone")?.1;
    let section = section.split("\n## ").next().unwrap_or_default();
    let lines: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    ensure!(lines.len() > 10, "{lines:?}");
    Ok(lines.join("\n"))
}

/// Puts a program into the folder that the shell looks into first.
fn program(bin: &Path, name: &str, script: &str) -> anyhow::Result<()> {
    fs::write(bin.join(name), format!("#!/bin/sh\n{script}\n"))?;
    Ok(fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755))?)
}

#[test]
fn the_guide_to_the_letter_ends_with_a_refused_job() -> anyhow::Result<()> {
    let Some(mut site) = Site::unfinished()? else { return Ok(()) };
    let root = site.slurm.dir().join("root");
    let bin = root.join("bin");
    for folder in ["bin", "usr/bin", "etc/systemd/system", "run", "state"] {
        fs::create_dir_all(root.join(folder))?;
    }
    let (dir, conf) = (site.slurm.dir().display().to_string(), site.slurm.conf().display().to_string());
    let (shown, [port]) = (root.display().to_string(), free_ports()?);
    let binaries = site.world.binaries().clone();
    let data = site.world.aggregator.data_dir().display().to_string();
    let url = site.world.aggregator.url();
    program(&bin, "apt-get", "exit 0")?;
    program(
        &bin,
        "tonnage-aggregator",
        &format!("exec {} \"$@\" --data {data}", binaries.aggregator.display()),
    )?;
    program(&bin, "tonnage", &format!("exec {} \"$@\" --url {url}", binaries.cli.display()))?;
    // The unit's program with the unit's environment; and slurmctld, which the test starts anew.
    let start = "sed -n 's/^ExecStart=//p' ROOT/etc/systemd/system/tonnage-gate.service";
    let gate = "--socket ROOT/run/gate.sock --state ROOT/state --listen 127.0.0.1:PORT --slurm.conf CONF --sweep-seconds 1";
    let systemctl = format!(
        "case \"$*\" in *tonnage-gate) set -a; . ROOT/etc/tonnage/gate.env; \
         ROOT$({start}) {gate} >ROOT/gate.log 2>&1 & echo $! >ROOT/gate.pid; \
         until curl -sf http://127.0.0.1:PORT/readyz >/dev/null; do :; done ;; \
         'restart slurmctld') touch ROOT/restart; while [ -e ROOT/restart ]; do :; done ;; esac"
    );
    let systemctl =
        systemctl.replace("ROOT", &shown).replace("PORT", &port.to_string()).replace("CONF", &conf);
    program(&bin, "systemctl", &systemctl)?;
    fs::write(
        site.slurm.dir().join("tonnage_gate.lua"),
        format!("return {{ socket = \"{shown}/run/gate.sock\" }}\n"),
    )?;

    let script = commands()?
        .replace("target/release/tonnage-agent", &binaries.agent.display().to_string())
        .replace("/etc/slurm", &dir)
        .replace("/usr/bin/", &format!("{shown}/usr/bin/"))
        .replace("/etc/tonnage", &format!("{shown}/etc/tonnage"))
        .replace("/etc/systemd", &format!("{shown}/etc/systemd"))
        .replace("TONNAGE_CLUSTER=prod", "TONNAGE_CLUSTER=test")
        .replace("http://127.0.0.1:7788", &url)
        .replace("127.0.0.1:9789", &format!("127.0.0.1:{port}"));
    let path = format!("{}:{}", bin.display(), std::env!("PATH"));
    let mut shell = Command::new("sh");
    shell.args(["-ec", &script]).current_dir(crate::tidy::root()).env("PATH", path).env("SLURM_CONF", &conf);
    let output = std::thread::spawn(move || shell.output());
    let restart = root.join("restart");
    // A guide that ends before has failed, and says how below.
    let reached = wait_until(DEADLINE, "the restart of slurmctld", String::new, || {
        Ok((restart.exists() || output.is_finished()).then(|| restart.exists()))
    })?;
    if reached {
        site.slurm.stop_slurmctld()?;
        site.slurm.start_slurmctld()?;
        fs::remove_file(&restart)?;
    }
    let output = output.join().expect("a shell")?;
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    let pid = fs::read_to_string(root.join("gate.pid")).context(text.clone())?;
    let ended = Command::new("kill").arg(pid.trim()).status()?;
    println!("{text}");
    ensure!(!output.status.success() && ended.success(), "{text}");
    // 4 GPUs for a day are 345.60, and a fifth more is held.
    let line = text.lines().find(|line| line.contains("sbatch: error: tonnage: ")).context(text.clone())?;
    ensure!(line.contains("4 GPUs for 1-00:00:00") && line.contains("10.000000000 left"), "{line}");
    site.world.nodes[0].stop(DEADLINE)
}
