//! Settings of who supervises the agent.

use std::ffi::OsString;

use clap::Args;
use tonnage_runtime::notify::Supervisor;

#[derive(Debug, Default, Args)]
pub(super) struct MachineArgs {
    #[command(flatten)]
    pub(super) supervisor: SupervisorArgs,
}

/// What systemd sets in the environment of a service of `Type=notify`.
#[derive(Debug, Default, Args)]
pub(super) struct SupervisorArgs {
    #[arg(long, env = "NOTIFY_SOCKET", hide = true)]
    notify_socket: Option<OsString>,
    #[arg(long, env = "WATCHDOG_USEC", hide = true)]
    watchdog_usec: Option<u64>,
    #[arg(long, env = "WATCHDOG_PID", hide = true)]
    watchdog_pid: Option<u32>,
}

impl SupervisorArgs {
    pub(super) fn resolve(self) -> Supervisor {
        Supervisor::new(self.notify_socket, self.watchdog_usec, self.watchdog_pid)
    }
}
