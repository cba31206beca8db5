//! The simulated driver runs inside the agent's process, where a real one is mostly in the kernel. This is its part
//! by itself: a process that makes the agent's calls at the agent's pace, and throws the answers away.

use std::path::PathBuf;
use std::time::Duration;

use tonnage_agent::driver::Driver;
use tonnage_agent::driver::nvml::NvmlDriver;
use tonnage_runtime::clock::Clock;

/// Until it is killed. The scenario comes by environment, as to the agent.
pub(crate) fn run(library: PathBuf) -> anyhow::Result<()> {
    let mut driver = NvmlDriver::new(library, Clock::system());
    loop {
        driver.read()?;
        std::thread::sleep(Duration::from_secs(1));
    }
}
