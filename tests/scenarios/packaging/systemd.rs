//! The units under a real systemd: with all that they forbid, both processes work, are found well, and the agent is
//! started anew when its driver hangs.

use std::path::Path;
use std::process::Command;

use harness::binaries::Binaries;
use harness::process::tail;
use harness::scenario;
use harness::sim_clock::{BEGIN_NS, SimClock};
use harness::systemd::Systemd;
use harness::wait::wait_until;
use harness::world::DEADLINE;

use super::file;

const S: i64 = 1_000_000_000;
const AGENT: &str = "tonnage-agent.service";
const AGGREGATOR: &str = "tonnage-aggregator.service";

/// The unit as it is installed, but for where the program is and what it is told; and what the test adds.
fn install(folder: &Path, unit: &str, args: &str, more: &str) -> anyhow::Result<()> {
    let text = file(&format!("packaging/systemd/{unit}"))?;
    let start = text.lines().find(|line| line.starts_with("ExecStart=")).unwrap_or_default();
    let ours = format!("{} {args}", start.replace("/usr/bin/", "/mnt/bin/"));
    std::fs::write(folder.join("units").join(unit), text.replace(start, &ours))?;
    let drop_in = folder.join(format!("units/{unit}.d"));
    std::fs::create_dir_all(&drop_in)?;
    let log = format!("/mnt/{unit}.log");
    let more = format!("[Service]\nStandardOutput=append:{log}\nStandardError=append:{log}\n{more}");
    Ok(std::fs::write(drop_in.join("test.conf"), more)?)
}

/// Both units, and a node whose driver hangs after 20 s.
fn prepare(folder: &Path) -> anyhow::Result<SimClock> {
    std::fs::create_dir_all(folder.join("units"))?;
    std::fs::create_dir_all(folder.join("proc/sys/kernel/random"))?;
    let mut scenario = scenario::node(1);
    scenario.epoch_ns = Some(BEGIN_NS);
    scenario.faults.hang_from_s = Some(20.0);
    std::fs::write(folder.join("proc/sys/kernel/random/boot_id"), &scenario.boot_id)?;
    std::fs::write(folder.join("scenario.toml"), toml::to_string(&scenario)?)?;
    let clock = SimClock::new(&folder.join("clock"))?;
    let args = "--insecure-loopback --nvml-library /mnt/bin/libnvidia_ml.so --simulated-clock /mnt/clock \
                --path.procfs /mnt/proc --drain-ms 0";
    // The simulated driver keeps the processes' folders in /mnt/proc.
    let simulated = "Environment=NVML_SIM_SCENARIO=/mnt/scenario.toml NVML_SIM_CLOCK=/mnt/clock NVML_SIM_PROC=/mnt/proc\n\
                     ReadWritePaths=/mnt/proc\nWatchdogSec=1\nRestartSec=0\n";
    install(folder, AGENT, args, simulated)?;
    install(folder, AGGREGATOR, "--insecure-loopback --simulated-clock /mnt/clock", "")?;
    Ok(clock)
}

/// What a process in the agent's cgroup hears when it opens a device of this major number.
fn opened(systemd: &Systemd, major: &str) -> anyhow::Result<String> {
    let cgroup = systemd.cgroup(AGENT)?.join("cgroup.procs");
    let device = format!("/run/device-{major}");
    if !systemd.command("test").args(["-e", &device]).status()?.success() {
        let made = systemd.command("mknod").args([&device, "c", major, "200"]).status()?;
        anyhow::ensure!(made.success(), "no device {major}");
    }
    let inside = systemd.command("sh");
    let mut command = Command::new("sh");
    command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(cgroup).arg(inside.get_program());
    command.args(inside.get_args()).args(["-c", "exec < \"$0\" && echo opened"]).arg(&device);
    let output = command.output()?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn under_systemd_both_work_with_no_right_too_many_and_a_hang_ends_in_a_restart() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut clock = prepare(folder.path())?;
    let binaries = Binaries::find()?;
    let programs = binaries.agent.parent().unwrap_or(Path::new("/"));
    let Some(systemd) = Systemd::start(folder.path(), programs)? else { return Ok(()) };
    let logs =
        || [AGENT, AGGREGATOR].map(|unit| tail(&folder.path().join(format!("{unit}.log")))).join("\n---\n");
    // Returns once both have said that they have begun.
    systemd.ctl(&["start", AGGREGATOR, AGENT])?;
    for unit in [AGENT, AGGREGATOR] {
        wait_until(DEADLINE, "a sign of life", logs, || {
            anyhow::ensure!(systemd.property(unit, "ActiveState")? == "active", "{unit} ended\n{}", logs());
            Ok((systemd.property(unit, "StatusText")? == "Well.").then_some(()))
        })?;
        let pid = systemd.property(unit, "MainPID")?;
        let status = systemd.command("cat").arg(format!("/proc/{pid}/status")).output()?;
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        for line in
            ["CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"]
        {
            assert!(status.contains(line), "{unit}: {line}: {status}");
        }
    }

    // 1 is memory's, 195 the driver's; nobody has number 200 of either, so opening it fails otherwise.
    systemd.ctl(&["daemon-reload"])?;
    assert!(opened(&systemd, "1")?.contains("Operation not permitted"));
    let answer = opened(&systemd, "195")?;
    assert!(answer.contains("device") && !answer.contains("Operation not permitted"), "{answer}");

    for _ in 0..10 {
        clock.advance(S)?;
    }
    let spool = || {
        let page = systemd.command("cat").arg("/var/lib/tonnage-agent/spool/db").output()?;
        Ok((!page.stdout.is_empty()).then_some(()))
    };
    wait_until(DEADLINE, "a spool in the state's folder", logs, spool)?;
    wait_until(DEADLINE, "a restart", logs, || {
        clock.advance(40 * S)?;
        Ok((systemd.property(AGENT, "NRestarts")? != "0").then_some(()))
    })?;
    assert_eq!(systemd.property(AGGREGATOR, "NRestarts")?, "0", "{}", logs());
    systemd.ctl(&["stop", AGGREGATOR])?;
    assert_eq!(systemd.property(AGGREGATOR, "Result")?, "success", "{}", logs());
    Ok(())
}
