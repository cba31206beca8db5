//! What the agent itself uses, as the host sees it.

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// The agent's own memory and CPU time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OwnUse {
    pub resident_bytes: u64,
    pub cpu_seconds: f64,
}

impl OwnUse {
    /// Asks the host. `None` if it does not say.
    #[must_use]
    pub fn read() -> Option<Self> {
        let pid = Pid::from_u32(std::process::id());
        let what = ProcessRefreshKind::nothing().with_memory().with_cpu();
        let mut system = System::new_with_specifics(sysinfo::RefreshKind::nothing()).ok()?;
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, what);
        let process = system.process(pid)?;
        Some(Self {
            resident_bytes: process.memory(),
            cpu_seconds: process.accumulated_cpu_time() as f64 / 1000.0,
        })
    }
}
