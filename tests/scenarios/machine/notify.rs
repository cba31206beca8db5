//! What systemd hears, over a real socket: that a process has begun, is well, and ends; and nothing good of one that is
//! not well.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use harness::scenario;
use harness::world::{DEADLINE, World};

const S: i64 = 1_000_000_000;
/// Messages among which one that must come has come.
const MESSAGES_MAX: usize = 500;

/// systemd's end.
struct Systemd {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Systemd {
    fn new(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let path = folder.join(name);
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        Ok(Self { socket, path })
    }

    fn environment(&self) -> Vec<(String, String)> {
        let path = self.path.to_string_lossy().into_owned();
        vec![("NOTIFY_SOCKET".to_owned(), path), ("WATCHDOG_USEC".to_owned(), "150000".to_owned())]
    }

    /// The next message, within the deadline.
    fn hear(&self) -> anyhow::Result<String> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// Messages up to one with this in it.
    fn hear_until(&self, last: &str) -> anyhow::Result<Vec<String>> {
        let mut heard = vec![self.hear()?];
        while !heard[heard.len() - 1].contains(last) {
            anyhow::ensure!(heard.len() < MESSAGES_MAX, "never heard {last:?}: {heard:?}");
            heard.push(self.hear()?);
        }
        Ok(heard)
    }

    /// Forgets what was said so far.
    fn drain(&self) -> anyhow::Result<()> {
        self.socket.set_nonblocking(true)?;
        while self.hear().is_ok() {}
        self.socket.set_nonblocking(false)?;
        Ok(())
    }
}

#[test]
fn an_agent_says_that_it_meters_and_no_longer_when_its_driver_hangs() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    let mut scenario = scenario::node(1);
    scenario.faults.hang_from_s = Some(20.0);
    world.add_node("n", scenario)?;
    let systemd = Systemd::new(world.dir(), "notify")?;
    world.nodes[0].extra_env = systemd.environment();
    world.start()?;
    assert_eq!(systemd.hear()?, "READY=1");
    assert!(world.nodes[0].served()?.iter().any(|record| record.device.is_some()), "ready before a reading");
    systemd.hear_until("WATCHDOG=1")?;
    world.live(15)?;
    systemd.drain()?;
    systemd.hear_until("WATCHDOG=1")?;

    // A reading after 20 s hangs; from then on time passes.
    let mut last = String::new();
    for _ in 0..MESSAGES_MAX {
        world.move_clock(40 * S)?;
        last = systemd.hear()?;
        if !last.contains("WATCHDOG=1") {
            break;
        }
    }
    assert!(last.starts_with("STATUS=no sample for") && last.contains("the driver hangs"), "{last}");
    for _ in 0..5 {
        let next = systemd.hear()?;
        assert!(!next.contains("WATCHDOG=1") && next.starts_with("STATUS=no sample"), "{next}");
    }
    assert_eq!(world.nodes[0].get("/healthz")?.0, 503);
    Ok(())
}

#[test]
fn an_agent_whose_driver_is_not_there_has_begun_to_wait_for_it() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    world.add_node("n", scenario::node(1))?;
    world.nodes[0].nvml = "/no/such/library.so".into();
    // Nobody takes what it has.
    world.nodes[0].extra_args = vec!["--drain-ms".to_owned(), "0".to_owned()];
    let systemd = Systemd::new(world.dir(), "notify")?;
    world.nodes[0].extra_env = systemd.environment();
    world.nodes[0].spawn()?;
    assert_eq!(systemd.hear()?, "READY=1");
    systemd.hear_until("WATCHDOG=1")?;
    world.nodes[0].stop(DEADLINE)?;
    systemd.hear_until("STOPPING=1")?;
    Ok(())
}

#[test]
fn an_aggregator_says_that_it_serves_and_that_it_ends() -> anyhow::Result<()> {
    let mut world = World::new(1)?;
    let systemd = Systemd::new(world.dir(), "notify")?;
    world.aggregator.environment =
        systemd.environment().into_iter().map(|(name, value)| (name, value.into())).collect();
    world.aggregator.start(DEADLINE)?;
    assert_eq!(systemd.hear()?, "READY=1");
    systemd.hear_until("WATCHDOG=1")?;
    world.aggregator.stop(DEADLINE)?;
    systemd.hear_until("STOPPING=1")?;
    Ok(())
}
