//! The driver as one process has it loaded: a story, a clock, a log, and the count of who initialised it.
//!
//! Every call takes the one lock, reads the clock once, and answers from that reading. The C side is in
//! [`crate::abi`].

use std::path::PathBuf;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use tonnage_runtime::clock::{Clock, ClockError, Reading};

use crate::Refusal;
use crate::config::Config;
use crate::fake_proc::FakeProc;
use crate::handles::Handles;
use crate::scenario::{Nonsense, Scenario, ScenarioError};
use crate::served::{INIT, Log, Record, SHUTDOWN};
use crate::story::Story;

/// As a scenario's faults name them.
const INIT_CALL: &str = "nvmlInit_v2";
const SHUTDOWN_CALL: &str = "nvmlShutdown";
/// A call that hangs looks so often whether it still does.
const HANG_LOOK_EVERY: Duration = Duration::from_millis(1);

static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

struct Loaded {
    driver: Driver,
    users: u32,
}

#[derive(Debug)]
struct Driver {
    story: Story,
    clock: Clock,
    log: Log,
    proc: Option<FakeProc>,
    handles: Handles,
}

/// One call: what it may look at, and what will be logged of it.
#[derive(Debug)]
pub struct Call<'a> {
    driver: &'a mut Driver,
    pub now: Reading,
    pub record: Record,
    /// It only asked how long a list is.
    pub probe: bool,
}

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("{name} is not set", name = crate::config::SCENARIO)]
    NoScenario,
    #[error("scenario {path}: {source}")]
    Scenario { path: PathBuf, source: ScenarioError },
    #[error("{0}")]
    Clock(#[from] ClockError),
    #[error("{path}: {source}")]
    Output { path: PathBuf, source: std::io::Error },
}

/// Loads the driver, or counts one more user of it.
///
/// # Errors
/// `DriverNotLoaded` if the configuration cannot be used: the reason goes to standard error, once.
pub fn start(config: &Config) -> Result<(), Refusal> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(loaded) = loaded.as_mut() {
        loaded.driver.permits(INIT_CALL)?;
        loaded.users += 1;
        return Ok(());
    }
    let driver = Driver::load(config).map_err(|error| {
        say_once(&error);
        Refusal::DriverNotLoaded
    })?;
    driver.permits(INIT_CALL)?;
    *loaded = Some(Loaded { driver, users: 1 });
    Ok(())
}

/// Takes one user away; the last one's leaving unloads the driver.
///
/// # Errors
/// `Uninitialized` if nobody uses it.
pub fn stop() -> Result<(), Refusal> {
    let mut slot = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let loaded = slot.as_mut().ok_or(Refusal::Uninitialized)?;
    loaded.driver.wait_out(SHUTDOWN_CALL);
    loaded.users -= 1;
    if loaded.users == 0 {
        let handles = &mut loaded.driver.handles;
        let record = Record {
            unfreed: Some((handles.gpm_samples.len(), handles.event_sets.len())),
            calls: Some(std::mem::take(&mut handles.calls)),
            ..Record::new(loaded.driver.clock.read(), SHUTDOWN, 0)
        };
        let logged = loaded.driver.log.append(&record);
        *slot = None;
        logged.map_err(|_| Refusal::OperatingSystem)?;
    }
    Ok(())
}

/// Answers one call, and logs the answer under the code that `code` gives it.
///
/// # Errors
/// What `body` refuses; before it, that nobody initialised the driver or that the scenario has this call fail.
pub fn answer(
    name: &str,
    code: impl FnOnce(Result<(), Refusal>) -> u32,
    body: impl FnOnce(&mut Call<'_>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let driver = &mut loaded.as_mut().ok_or(Refusal::Uninitialized)?.driver;
    let now = driver.wait_out(name);
    *driver.handles.calls.entry(name.to_owned()).or_default() += 1;
    let mut call = Call { driver, now, record: Record::new(now, name, 0), probe: false };
    let result = call.fault(name).and_then(|()| body(&mut call));
    call.record.ret = code(result);
    if call.worth_logging(result) && call.driver.log.append(&call.record).is_err() {
        return Err(Refusal::OperatingSystem);
    }
    result
}

impl Driver {
    fn load(config: &Config) -> Result<Self, LoadError> {
        let path = config.scenario.clone().ok_or(LoadError::NoScenario)?;
        let scenario = Scenario::read(&path).map_err(|source| LoadError::Scenario { path, source })?;
        let clock = config.clock.as_deref().map_or_else(|| Ok(Clock::system()), Clock::simulated)?;
        let now = clock.read();
        let output = |path: &Option<PathBuf>| {
            let path = path.clone().unwrap_or_default();
            |source| LoadError::Output { path, source }
        };
        let mut log = Log::open(config.log.as_deref()).map_err(output(&config.log))?;
        let open = |dir: &PathBuf| FakeProc::open(dir, &scenario.boot_id, now);
        let proc = config.proc.as_ref().map(open).transpose().map_err(output(&config.proc))?;
        let record =
            Record { pid: Some(std::process::id()), boot_ns: Some(now.boot_ns), ..Record::new(now, INIT, 0) };
        log.append(&record).map_err(output(&config.log))?;
        let mut driver =
            Self { story: Story::new(scenario, now.wall_ns), clock, log, proc, handles: Handles::default() };
        driver.sync_proc(now).map_err(output(&config.proc))?;
        Ok(driver)
    }

    /// Hangs as long as the scenario has this call hang, with the lock that whoever asks has. The time when it does not.
    fn wait_out(&self, call: &str) -> Reading {
        loop {
            let now = self.clock.read();
            if !self.story.hangs(call, now.wall_ns) {
                return now;
            }
            std::thread::sleep(HANG_LOOK_EVERY);
        }
    }

    /// Before anybody has a handle.
    fn permits(&self, call: &str) -> Result<(), Refusal> {
        let now = self.wait_out(call);
        self.story.refuses(call, None, now.wall_ns).map_or(Ok(()), Err)
    }

    fn sync_proc(&mut self, now: Reading) -> std::io::Result<()> {
        self.proc.as_mut().map_or(Ok(()), |proc| proc.sync(&self.story, now))
    }
}

impl Call<'_> {
    #[must_use]
    pub fn story(&self) -> &Story {
        &self.driver.story
    }

    pub fn handles(&mut self) -> &mut Handles {
        &mut self.driver.handles
    }

    /// Before processes are named, `/proc` has to know them.
    ///
    /// # Errors
    /// `OperatingSystem` if the fake `/proc` cannot be written.
    pub fn sync_proc(&mut self) -> Result<(), Refusal> {
        self.driver.sync_proc(self.now).map_err(|_| Refusal::OperatingSystem)
    }

    fn fault(&self, name: &str) -> Result<(), Refusal> {
        let faults = &self.story().scenario.faults;
        let listed = |names: &[String]| names.iter().any(|listed| listed == name);
        if listed(&faults.function_not_found) {
            return Err(Refusal::FunctionNotFound);
        }
        if listed(&faults.no_permission) {
            return Err(Refusal::NoPermission);
        }
        if listed(&faults.not_supported) {
            return Err(Refusal::NotSupported);
        }
        self.refused(None)
    }

    /// # Errors
    /// What the scenario has this call refused with now, about this device or whatever it is about.
    pub fn refused(&self, device: Option<usize>) -> Result<(), Refusal> {
        let story = self.story();
        let uuid = device.and_then(|at| story.scenario.device.get(at)).map(|device| device.uuid.as_str());
        story.refuses(&self.record.call, uuid, self.now.wall_ns).map_or(Ok(()), Err)
    }

    /// Whether answers of this kind cannot be true now.
    #[must_use]
    pub fn talks(&self, nonsense: Nonsense) -> bool {
        self.story().talks(nonsense, self.now.wall_ns)
    }

    fn worth_logging(&self, result: Result<(), Refusal>) -> bool {
        let record = &self.record;
        let billed = record.processes.is_some() || record.samples.is_some() || record.energy_mj.is_some();
        !self.probe && (result.is_err() || billed)
    }
}

#[allow(clippy::print_stderr, reason = "a driver that cannot load has nowhere else to say why")]
fn say_once(error: &LoadError) {
    static SAID: Once = Once::new();
    SAID.call_once(|| eprintln!("nvml-sim: {error}"));
}
