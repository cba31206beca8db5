//! Slurm's accounting: a database of its own, and what sacct says of jobs.

use std::process::Command;

use anyhow::Context;

use crate::process::Process;
use crate::slurm::{ACCOUNT, Slurm, config, program};

/// A job as sacct has it. Slurm counts in whole seconds, and rounds both ends down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accounted {
    /// A number of its own also for a task of an array, or a part of a heterogeneous job.
    pub job: u32,
    pub state: String,
    /// Seconds since the Unix epoch.
    pub start_s: Option<i64>,
    pub end_s: Option<i64>,
    pub elapsed_s: i64,
    /// `cpu=1,gres/gpu=2,node=1`.
    pub tres: String,
    /// As people see it: `4_1`, `5+1`.
    pub shown: String,
}

impl Slurm {
    pub(super) fn start_accounting(&mut self) -> anyhow::Result<()> {
        let db = self.dir.join("db");
        let data = format!("--datadir={}", db.join("data").display());
        let socket = db.join("socket");
        let made = Command::new(program("mariadb-install-db"))
            .args(["--no-defaults", "--user=mysql", &data, "--skip-test-db"])
            .arg("--auth-root-authentication-method=normal")
            .output()?;
        anyhow::ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stdout));
        let mut command = Command::new(program("mariadbd"));
        command
            .args(["--no-defaults", "--user=mysql", &data, "--bind-address=127.0.0.1"])
            .arg(format!("--port={}", config::mariadb_port(&self.dir)?))
            .arg(format!("--socket={}", socket.display()))
            .arg(format!("--pid-file={}", db.join("pid").display()))
            .args(["--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0"]);
        self.daemons.insert(0, Process::start("mariadbd", &mut command, &self.log("mariadbd"))?);
        let grant = "CREATE DATABASE slurm; CREATE USER slurm@'127.0.0.1', slurm@localhost; \
                     GRANT ALL ON slurm.* TO slurm@'127.0.0.1'; GRANT ALL ON slurm.* TO slurm@localhost;";
        self.wait("the database", |_| {
            let mut command = Command::new(program("mariadb"));
            command.args(["--no-defaults", "-u", "root", "-S"]).arg(&socket).args(["-e", grant]);
            Ok(command.output()?.status.success().then_some(()))
        })?;
        self.start_daemon("slurmdbd", &["-D"])?;
        self.wait("slurmdbd", |slurm| Ok(slurm.run("sacctmgr", &["-n", "show", "cluster"]).ok()))?;
        for what in [
            &["cluster", "test"][..],
            &["account", ACCOUNT],
            &["user", "root", &format!("account={ACCOUNT}")],
            &["user", "nobody", &format!("account={ACCOUNT}")],
        ] {
            self.run("sacctmgr", &[&["-i", "add"], what].concat())?;
        }
        Ok(())
    }

    /// What sacct says of a job, each of its runs: an array gives its tasks, a heterogeneous job its parts.
    ///
    /// # Errors
    /// If sacct fails, or says something that is not understood.
    pub fn sacct(&self, job: u32) -> anyhow::Result<Vec<Accounted>> {
        let fields = "--format=JobIDRaw,State,Start,End,ElapsedRaw,AllocTRES,JobID";
        let text = self.run("sacct", &["-n", "-P", "-X", "-D", "-j", &job.to_string(), fields])?;
        text.lines().map(|line| accounted(line).with_context(|| line.to_owned())).collect()
    }
}

fn accounted(line: &str) -> Option<Accounted> {
    let mut fields = line.split('|');
    let mut next = || fields.next().map(str::to_owned);
    Some(Accounted {
        job: next()?.parse().ok()?,
        state: next()?,
        start_s: next()?.parse().ok(),
        end_s: next()?.parse().ok(),
        elapsed_s: next()?.parse().ok()?,
        tres: next()?,
        shown: next()?,
    })
}
