//! slurmctld by itself: with the project's submit plugin, stopped and started again with its state.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::slurm::{DEADLINE, Slurm};

/// What jobs find besides the usual partition.
const SHORT: &str = "PartitionName=short Nodes=ALL DefaultTime=1 MaxTime=5 State=UP\n";

impl Slurm {
    /// Installs the submit plugin, with `settings` for its `tonnage_gate.lua`, and starts slurmctld anew.
    ///
    /// # Errors
    /// If slurmctld does not come back.
    pub fn with_submit_plugin(&mut self, settings: &str) -> anyhow::Result<()> {
        let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/slurm/job_submit.lua");
        fs::copy(plugin, self.dir.join("job_submit.lua"))?;
        fs::write(self.dir.join("tonnage_gate.lua"), format!("return {{ {settings} }}\n"))?;
        let conf = fs::read_to_string(self.conf())?;
        if !conf.contains("JobSubmitPlugins") {
            fs::write(self.conf(), format!("{conf}JobSubmitPlugins=lua\n{SHORT}"))?;
        }
        self.stop_slurmctld()?;
        self.start_slurmctld()
    }

    /// # Errors
    /// If it does not end.
    pub fn stop_slurmctld(&mut self) -> anyhow::Result<()> {
        // The last that was started is the first.
        anyhow::ensure!(self.daemons.len() == 4, "slurmctld does not run");
        let mut slurmctld = self.daemons.remove(0);
        slurmctld.terminate()?;
        slurmctld.wait(DEADLINE)?;
        Ok(())
    }

    /// Starts it with the state that it left, and waits until it answers and its nodes are there.
    ///
    /// # Errors
    /// If it does not.
    pub fn start_slurmctld(&mut self) -> anyhow::Result<()> {
        self.start_daemon("slurmctld", &["-D"])?;
        let nodes = self.nodes.len();
        self.wait("slurmctld", |slurm| {
            let states = slurm.run("sinfo", &["-h", "-N", "-p", "main", "-o", "%t"]).unwrap_or_default();
            let up = states.lines().filter(|state| ["idle", "mix", "alloc"].contains(&state.trim()));
            Ok((up.count() == nodes).then_some(()))
        })
    }

    /// slurmctld's log.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn controller_log(&self) -> anyhow::Result<String> {
        let path: PathBuf = self.dir.join("log/slurmctld.log");
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }
}
