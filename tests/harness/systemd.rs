//! A real systemd as the first process of namespaces of its own, for units that must run and not only parse.
//!
//! It has its own mounts (`/run`, `/tmp`, `/var/lib`), pids, network and part of the cgroup tree, and sees no units but the
//! test's, whose folder is `/mnt` inside. All of it goes with the test: killing the first process kills all others.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context;

use crate::process::{Process, tail};
use crate::wait::wait_until;

const PROGRAM: &str = "/lib/systemd/systemd";
/// What units depend on if they say nothing else; empty here.
const TARGETS: [&str; 8] =
    ["sysinit", "basic", "network-online", "multi-user", "shutdown", "umount", "sockets", "timers"];
const DEADLINE: Duration = Duration::from_secs(20);
static STARTED: AtomicU32 = AtomicU32::new(0);

/// `$1`: the test's folder. `$2`: where the programs are. `$3`: the part of the cgroup tree, which is v2.
const INSIDE: &str = "
set -e
mount --bind \"$1\" /mnt
mkdir -p /mnt/bin
mount --bind \"$2\" /mnt/bin
for at in /tmp /run /var/lib; do mount -t tmpfs tmpfs $at; done
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
export SYSTEMD_UNIT_PATH=/mnt/units container=lxc
exec /lib/systemd/systemd --system --log-target=console --show-status=0
";

/// A running systemd.
#[derive(Debug)]
pub struct Systemd {
    process: Process,
    first_pid: String,
    cgroup: PathBuf,
}

impl Systemd {
    /// Starts it on the units in `folder/units`, beside a `bin` that has the programs in `programs`. `None`, said aloud,
    /// where this machine does not allow it.
    ///
    /// # Errors
    /// If a file cannot be written.
    #[allow(clippy::print_stderr, reason = "a skipped test has to say so")]
    pub fn start(folder: &Path, programs: &Path) -> anyhow::Result<Option<Self>> {
        let tree = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let tree = tree.into_iter().find(|tree| tree.join("cgroup.procs").exists());
        let (Some(tree), true) = (tree, Path::new(PROGRAM).exists()) else {
            eprintln!("SKIPPED: no {PROGRAM} or no cgroup v2 here");
            return Ok(None);
        };
        for target in TARGETS {
            let text = format!("[Unit]\nDescription={target}\nDefaultDependencies=no\n");
            std::fs::write(folder.join(format!("units/{target}.target")), text)?;
        }
        let default = "[Unit]\nDescription=default\nDefaultDependencies=no\n";
        std::fs::write(folder.join("units/default.target"), default)?;
        let name = format!("tonnage-test-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let cgroup = tree.join(name);
        if let Err(error) = std::fs::create_dir(&cgroup) {
            eprintln!("SKIPPED: no cgroup can be made here: {error}");
            return Ok(None);
        }
        std::fs::write(folder.join("inside.sh"), INSIDE)?;
        // Into the cgroup first: it is then the root of what is seen inside.
        let outside = "echo $$ > \"$3/cgroup.procs\" && exec unshare --mount --pid --uts --ipc --net --cgroup --fork \
                       --kill-child --mount-proc sh \"$1/inside.sh\" \"$1\" \"$2\"";
        let mut command = Command::new("sh");
        command.args(["-c", outside, "sh"]).arg(folder).arg(programs).arg(&cgroup);
        let log = folder.join("systemd.log");
        let process = Process::start("systemd", &mut command, &log)?;
        let mut systemd = Self { process, first_pid: String::new(), cgroup };
        let up = wait_until(
            DEADLINE,
            "systemd",
            || tail(&log),
            || {
                anyhow::ensure!(systemd.process.exited()?.is_none(), "systemd ended: {}", tail(&log));
                systemd.first_pid = systemd.child()?;
                let asked = systemd.ctl(&["show", "--property=Version"]);
                Ok(asked.ok().filter(|answer| answer.contains("Version=")))
            },
        );
        if let Err(error) = up {
            eprintln!("SKIPPED: systemd does not run here: {error}");
            return Ok(None);
        }
        Ok(Some(systemd))
    }

    fn child(&self) -> anyhow::Result<String> {
        let pid = self.process.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        Ok(children.trim().to_owned())
    }

    /// A command inside.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.first_pid, "-m", "-p", "-u", "-i", "-n", "-C", program]);
        command
    }

    /// What `systemctl` answers.
    ///
    /// # Errors
    /// If it fails: then with what it said.
    pub fn ctl(&self, args: &[&str]) -> anyhow::Result<String> {
        anyhow::ensure!(!self.first_pid.is_empty(), "systemd is not there yet");
        let output = self.command("systemctl").args(args).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }

    /// A property of a unit.
    ///
    /// # Errors
    /// If systemd does not say.
    pub fn property(&self, unit: &str, name: &str) -> anyhow::Result<String> {
        Ok(self.ctl(&["show", unit, "--value", "--property", name])?.trim().to_owned())
    }

    /// The cgroup of a unit's service, as seen from outside.
    ///
    /// # Errors
    /// If systemd does not say.
    pub fn cgroup(&self, unit: &str) -> anyhow::Result<PathBuf> {
        let below = self.property(unit, "ControlGroup")?;
        let below = below.strip_prefix('/').context("no cgroup")?;
        Ok(self.cgroup.join(below))
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = self.process.kill9();
        // Its processes go one by one; a cgroup can be removed when it is empty.
        let emptied = || Ok(remove_tree(&self.cgroup).is_ok().then_some(()));
        let _ = wait_until(DEADLINE, "empty cgroups", String::new, emptied);
    }
}

fn remove_tree(cgroup: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(cgroup)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(cgroup)
}
