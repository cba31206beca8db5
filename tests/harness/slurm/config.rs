//! Configuration files of a cluster on loopback, and whose its folders are.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::slurm::GresNode;

pub(super) struct Ports {
    pub(super) slurmctld: u16,
    pub(super) slurmdbd: u16,
    pub(super) mariadb: u16,
    /// One per node.
    pub(super) slurmd: Vec<u16>,
}

/// The device node of a GPU. Each node of the cluster has a folder of its own.
pub(super) fn device(dir: &Path, node: &str, minor: u32) -> PathBuf {
    dir.join(format!("dev/{node}/nvidia{minor}"))
}

pub(super) fn write(dir: &Path, nodes: &[String], gres: &[GresNode], ports: &Ports) -> anyhow::Result<()> {
    let key = dir.join("munge/key");
    fs::write(&key, rand::random::<[u8; 32]>().repeat(4))?;
    fs::set_permissions(&key, Permissions::from_mode(0o400))?;
    give(&key, "munge")?;
    fs::write(dir.join("slurm.conf"), slurm_conf(dir, nodes, gres, ports))?;
    fs::write(dir.join("gres.conf"), gres_conf(dir, nodes, gres))?;
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/slurm");
    for hook in ["prolog.sh", "epilog.sh"] {
        // Slurm gives hooks an environment of its own: a setting has to be made by whoever calls ours.
        let text = format!(
            "#!/bin/sh\nTONNAGE_JOBS_DIR={}/jobs/$SLURMD_NODENAME exec {}/{hook}\n",
            dir.display(),
            hooks.display()
        );
        fs::write(dir.join(hook), text)?;
        fs::set_permissions(dir.join(hook), Permissions::from_mode(0o755))?;
    }
    // Of v1: v2 needs the machine's whole tree, which a hybrid mount does not have.
    let cgroup = if Path::new("/sys/fs/cgroup/freezer").is_dir() { "cgroup/v1" } else { "autodetect" };
    fs::write(
        dir.join("cgroup.conf"),
        format!(
            "CgroupPlugin={cgroup}\nCgroupMountpoint=/sys/fs/cgroup\nCgroupAutomount=no\nConstrainDevices=yes\n"
        ),
    )?;
    let slurmdbd = dir.join("slurmdbd.conf");
    fs::write(&slurmdbd, slurmdbd_conf(dir, ports))?;
    fs::set_permissions(&slurmdbd, Permissions::from_mode(0o600))?;
    give(&slurmdbd, "slurm")
}

fn slurm_conf(dir: &Path, nodes: &[String], gres: &[GresNode], ports: &Ports) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host = host.split('.').next().unwrap_or_default().to_owned();
    let dir = dir.display();
    let Ports { slurmctld, slurmdbd, .. } = ports;
    let plugin = if Path::new("/sys/fs/cgroup/freezer").is_dir() {
        "ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup\nJobAcctGatherType=jobacct_gather/cgroup\n"
    } else {
        "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/linux\n"
    };
    let mut text = format!(
        "\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=slurm
AuthType=auth/munge
# The time that a job waits after it was requeued.
AuthInfo=socket={dir}/munge/socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={slurmctld}
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool-%n
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdPidFile={dir}/slurmd-%n.pid
SlurmctldLogFile={dir}/log/slurmctld.log
SlurmdLogFile={dir}/log/slurmd-%n.log
{plugin}SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=1000,bf_interval=1
GresTypes=gpu,shard,mps
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={slurmdbd}
AccountingStoragePass={dir}/munge/socket
AccountingStorageTRES=gres/gpu,gres/shard,gres/mps
PrologFlags=Alloc
Prolog={dir}/prolog.sh
Epilog={dir}/epilog.sh
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
KillWait=1
OverTimeLimit=0
JobRequeue=1
"
    );
    for ((name, node), port) in nodes.iter().zip(gres).zip(&ports.slurmd) {
        let many = |of: &str| node.types.iter().filter(|known| **known == of).count();
        let mut types = node.types.clone();
        types.sort_unstable();
        types.dedup();
        types.reverse();
        let mut counts: Vec<String> = types.iter().map(|of| format!("gpu:{of}:{}", many(of))).collect();
        counts.extend(types.is_empty().then(|| format!("gpu:{}", node.minors.len())));
        counts.extend((node.shards > 0).then(|| format!("shard:{}", node.shards)));
        counts.extend((node.mps > 0).then(|| format!("mps:{}", node.mps)));
        let _ = writeln!(
            text,
            "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=16 State=UNKNOWN Gres={}",
            counts.join(",")
        );
    }
    text += "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n";
    text
}

fn gres_conf(dir: &Path, nodes: &[String], gres: &[GresNode]) -> String {
    let mut text = "AutoDetect=off\n".to_owned();
    for (name, node) in nodes.iter().zip(gres) {
        for (at, minor) in node.minors.iter().enumerate() {
            let of = node.types.get(at).map(|of| format!("Type={of} ")).unwrap_or_default();
            let _ =
                writeln!(text, "NodeName={name} Name=gpu {of}File={}", device(dir, name, *minor).display());
        }
        for (of, count) in [("shard", node.shards), ("mps", node.mps)] {
            if count > 0 {
                let _ = writeln!(text, "NodeName={name} Name={of} Count={count}");
            }
        }
    }
    text
}

fn slurmdbd_conf(dir: &Path, ports: &Ports) -> String {
    let (dir, Ports { slurmdbd, mariadb, .. }) = (dir.display(), ports);
    format!(
        "\
AuthType=auth/munge
AuthInfo=socket={dir}/munge/socket
DbdAddr=127.0.0.1
DbdHost=localhost
DbdPort={slurmdbd}
SlurmUser=slurm
LogFile={dir}/log/slurmdbd.log
PidFile={dir}/state/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadb}
StorageUser=slurm
StorageLoc=slurm
"
    )
}

/// A command that runs as `user`.
pub(super) fn as_user(program: &Path, user: &str) -> anyhow::Result<Command> {
    let (uid, gid) = ids(user)?;
    let mut command = Command::new(program);
    command.uid(uid).gid(gid);
    Ok(command)
}

/// Makes a file or folder a user's.
pub(super) fn give(path: &Path, user: &str) -> anyhow::Result<()> {
    let (uid, gid) = ids(user)?;
    chown(path, Some(uid), Some(gid)).with_context(|| format!("{} to {user}", path.display()))
}

fn ids(user: &str) -> anyhow::Result<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd")?;
    let line = passwd.lines().find(|line| line.split(':').next() == Some(user));
    let mut fields = line.with_context(|| format!("no user {user}"))?.split(':').skip(2);
    let mut number = || fields.next().and_then(|field| field.parse().ok());
    Ok((number().context("a uid")?, number().context("a gid")?))
}

/// Where the database listens, by the file that was written.
pub(super) fn mariadb_port(dir: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(dir.join("slurmdbd.conf"))?;
    let port = text.lines().find_map(|line| line.strip_prefix("StoragePort="));
    Ok(port.context("StoragePort")?.to_owned())
}
