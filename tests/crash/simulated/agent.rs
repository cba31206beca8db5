//! The agent's end: its own clock, meter, spool and session, on a disk in memory, driven by hand.
//!
//! It does what the agent's pump and uplink do between their stages, without threads: see `agent/src/pump.rs`.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonnage_agent::ledger_clock::LedgerClock;
use tonnage_agent::metering::Meter;
use tonnage_agent::model::{Allocation, DeviceInfo, Holder, Observation, Owner, OwnerKind, Window};
use tonnage_agent::seal::{self, NodeState};
use tonnage_agent::spool::memory::{Fault, Memory};
use tonnage_agent::spool::{Identity, Limits, Spool, SpoolError};
use tonnage_agent::uplink::session::{Offer, Peer, Session, SessionError};
use tonnage_proto::metering::{FromAgent, FromLedger};
use tonnage_runtime::clock::Reading;

use super::account::Account;

/// How often it samples: the slowest that the agent can be told to.
pub(super) const PERIOD_NS: i64 = 5_000_000_000;
const CLUSTER: &str = "simulated";

struct Device {
    info: Arc<DeviceInfo>,
    owner: Option<Arc<Owner>>,
    /// Not in the readings now.
    away: bool,
    seen: bool,
}

/// The agent's process, while there is one.
struct Life {
    spool: Spool,
    meter: Meter,
    clock: Option<LedgerClock>,
    last_tick_ns: Option<i64>,
    last_window_end_ns: Option<i64>,
    session: Option<Session>,
}

pub(super) struct Agent {
    pub(super) name: String,
    /// By how much its node's wall clock is off.
    pub(super) offset_ns: i64,
    pub(super) account: Account,
    limits: Limits,
    disk: Memory,
    fault: Option<Fault>,
    mint_seed: u64,
    devices: Vec<Device>,
    life: Option<Life>,
}

/// What a session comes to.
pub(super) enum Said {
    Send(Vec<FromAgent>),
    Over,
}

impl Agent {
    pub(super) fn new(number: usize, rng: &mut StdRng, limits: Limits) -> Self {
        let device = |gpu: u32| Device {
            info: Arc::new(DeviceInfo {
                uuid: format!("GPU-{number}-{gpu}").into(),
                model: "NVIDIA H100 80GB HBM3".to_owned(),
                memory_bytes: 80 << 30,
                slices: 1,
                minor: Some(gpu),
                pci_bus_id: String::new(),
            }),
            owner: None,
            away: false,
            seen: false,
        };
        Self {
            name: format!("node-{number}"),
            offset_ns: 0,
            account: Account::default(),
            limits,
            disk: Memory::default(),
            fault: None,
            mint_seed: rng.random(),
            devices: (0..rng.random_range(1..=2)).map(device).collect(),
            life: None,
        }
    }

    /// The same node once more, with a copy of its disk: a machine that was cloned.
    pub(super) fn copy(&self, rng: &mut StdRng) -> Self {
        let device = |device: &Device| Device {
            info: Arc::clone(&device.info),
            owner: None,
            away: false,
            seen: false,
        };
        Self {
            name: self.name.clone(),
            offset_ns: self.offset_ns,
            account: Account::default(),
            limits: self.limits,
            disk: self.disk.copy(),
            fault: None,
            mint_seed: rng.random(),
            devices: self.devices.iter().map(device).collect(),
            life: None,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.life.is_some()
    }

    pub(super) fn has_session(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.session.is_some())
    }

    pub(super) fn start(&mut self, now: Reading) -> anyhow::Result<()> {
        let spool = self.open_spool(now)?;
        let last_window_end_ns = spool.last_window_end_ns()?;
        self.devices.iter_mut().for_each(|device| device.seen = false);
        self.life = Some(Life {
            spool,
            meter: Meter::new(PERIOD_NS),
            clock: None,
            last_tick_ns: None,
            last_window_end_ns,
            session: None,
        });
        Ok(())
    }

    fn open_spool(&mut self, now: Reading) -> Result<Spool, SpoolError> {
        self.disk.crash();
        self.mint_seed = self.mint_seed.wrapping_add(1);
        let mut mint = StdRng::seed_from_u64(self.mint_seed);
        let identity = Identity { cluster: CLUSTER.to_owned(), node: self.name.clone() };
        let disk = Box::new(self.disk.clone());
        Spool::open_on(disk, Box::new(move || Ok(mint.random())), identity, self.limits, now.wall_ns)
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        self.life = None;
        self.fault = None;
        self.account.kill();
        // A fault that did not strike would strike the next life.
        self.disk.fail_at(u64::MAX, Fault::Refused);
        self.disk.crash();
    }

    /// Has the next write to its disk fail.
    pub(super) fn spoil(&mut self, fault: Fault) {
        if self.life.is_some() {
            self.fault = Some(fault);
            self.disk.fail_next(fault);
        }
    }

    /// Another process on a device, or none, or the device out of sight.
    pub(super) fn stir(&mut self, rng: &mut StdRng) {
        for device in &mut self.devices {
            if rng.random_bool(0.2) {
                let n = rng.random_range(0..6);
                let owner = Owner { kind: OwnerKind::SystemdUnit, unit: format!("u{n}"), ..Owner::default() };
                device.owner = (n > 0).then(|| Arc::new(owner));
            }
            device.away = rng.random_bool(0.02);
        }
    }

    /// A sample at this time.
    pub(super) fn observe(&mut self, now: Reading) -> anyhow::Result<()> {
        let at = Reading { wall_ns: now.wall_ns + self.offset_ns, ..now };
        let Some(life) = &mut self.life else { return Ok(()) };
        let last = life.last_window_end_ns;
        let tick = life.clock.get_or_insert_with(|| LedgerClock::start(at, last)).observe(at);
        let from_ns = life.last_tick_ns.replace(tick.now_ns);
        let covers = |from_ns: i64| {
            let length_ns = tick.now_ns - from_ns;
            tick.continuous && !tick.new_epoch && length_ns > 0 && length_ns <= 2 * PERIOD_NS
        };
        let mut observations = Vec::new();
        for device in self.devices.iter_mut().filter(|device| !device.away) {
            let first = !std::mem::replace(&mut device.seen, true);
            if let Some(from_ns) = from_ns.filter(|from_ns| !first && covers(*from_ns)) {
                let owner = device.owner.as_ref().map(|owner| format!("unit:{}", owner.unit));
                self.account.serve(&device.info.uuid, from_ns, tick.now_ns, owner.as_deref());
            }
            observations.push(observation(device));
        }
        let windows = life.meter.observe(tick, observations);
        if tick.new_epoch {
            let renewed = life.spool.new_epoch();
            self.settle(renewed, now)?;
        }
        if windows.is_empty() && tick.overlap_ns == 0 {
            Ok(())
        } else {
            self.keep(&windows, tick.overlap_ns, now)
        }
    }

    /// Closes what is open, as a clean stop does.
    pub(super) fn finish(&mut self, now: Reading) -> anyhow::Result<()> {
        let Some(life) = &mut self.life else { return Ok(()) };
        let windows = life.meter.finish();
        if !windows.is_empty() {
            self.keep(&windows, 0, now)?;
        }
        anyhow::ensure!(self.account.is_closed(), "{}: {:?} is in no window", self.name, self.account);
        Ok(())
    }

    fn keep(&mut self, windows: &[Window], overlap_ns: u64, now: Reading) -> anyhow::Result<()> {
        let Some(life) = &mut self.life else { return Ok(()) };
        let node = NodeState { boot_id: "boot".to_owned(), ..NodeState::default() };
        let end = |window: &Window| window.start_ns.saturating_add_unsigned(window.duration_ns);
        let last_ns = windows.iter().map(end).max().or(life.last_window_end_ns).unwrap_or(now.wall_ns);
        let draft = seal::draft(windows, &node, overlap_ns);
        let appended = life.spool.append(&draft, last_ns);
        life.last_window_end_ns = Some(last_ns);
        let ended_well = appended.is_ok();
        let failed = matches!(appended, Err(SpoolError::Store(_)));
        self.settle(appended, now)?;
        let Some(life) = &mut self.life else { return Ok(()) };
        // A write that failed may be on the disk all the same; what else is in it with the draft says so.
        let kept = ended_well || failed && life.spool.last_window_end_ns()? == Some(last_ns);
        for window in windows {
            let sums = self.account.close(window)?;
            if kept { self.account.keep(&window.info.uuid, sums) } else { self.account.drop(&sums) }
        }
        let sealed = life.spool.seal(last_ns).map(drop);
        self.settle(sealed, now)
    }

    /// After an error of the disk the spool is opened again; it knows as much as the disk does.
    fn settle(&mut self, done: Result<(), SpoolError>, now: Reading) -> anyhow::Result<()> {
        match done {
            Ok(()) | Err(SpoolError::Full { .. }) => Ok(()),
            Err(SpoolError::Store(error)) if self.fault.take().is_none() => Err(error.into()),
            Err(SpoolError::Store(_)) => {
                let spool = self.open_spool(now)?;
                if let Some(life) = &mut self.life {
                    (life.spool, life.session) = (spool, None);
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a stream.
    pub(super) fn connect(&mut self, now: Reading) -> anyhow::Result<Option<FromAgent>> {
        let Some(life) = &mut self.life else { return Ok(None) };
        let peer = Peer {
            cluster: CLUSTER.to_owned(),
            node: self.name.clone(),
            agent_version: "simulated".to_owned(),
        };
        let wall_ns = now.wall_ns + self.offset_ns;
        let (session, hello) = Session::open(&life.spool, &peer, Offer::default(), wall_ns)?;
        life.session = Some(session);
        Ok(Some(hello))
    }

    /// The stream is gone.
    pub(super) fn disconnect(&mut self) {
        if let Some(life) = &mut self.life {
            life.session = None;
        }
    }

    /// Takes a message of the ledger, or looks whether there is more to send.
    pub(super) fn step(&mut self, message: Option<FromLedger>, now: Reading) -> anyhow::Result<Said> {
        let wall_ns = now.wall_ns + self.offset_ns;
        let Some(Life { spool, session: Some(session), .. }) = &mut self.life else { return Ok(Said::Over) };
        let error = match session.step(spool, wall_ns, message) {
            Ok(step) => return Ok(Said::Send(step.send)),
            Err(error) => error,
        };
        self.disconnect();
        match error {
            SessionError::Spool(error) => self.settle(Err(error), now)?,
            // A message that came twice or out of order.
            SessionError::Protocol(_) | SessionError::Restart(_) => {}
            error => return Err(error.into()),
        }
        Ok(Said::Over)
    }

    /// Everything that it has is in the ledger.
    pub(super) fn is_delivered(&self) -> bool {
        self.life.as_ref().is_some_and(|life| {
            let held = life.spool.holdings();
            life.spool.drafts() == 0 && held.acked_seq == held.sealed_seq
        })
    }

    /// Its state in words, the same for the same history.
    pub(super) fn state(&self) -> String {
        match &self.life {
            None => "down".to_owned(),
            Some(life) => format!("{:?} {} drafts", life.spool.holdings(), life.spool.drafts()),
        }
    }
}

fn observation(device: &Device) -> Observation {
    let holder = |owner: &Arc<Owner>| Holder {
        // One process for each owner, so that the same owner is the same process.
        pid: u32::from(*owner.unit.as_bytes().last().unwrap_or(&0)),
        owner: Arc::clone(owner),
        started_ns: None,
        memory_bytes: None,
        inferred: false,
    };
    Observation {
        info: Arc::clone(&device.info),
        partition: None,
        holders: device.owner.iter().map(holder).collect(),
        allocation: Allocation::default(),
        utilisation: None,
        energy_mj: None,
    }
}
