//! From samples to prices without a process in between: the agent's meter and clock, sealing, the ledger's decoding,
//! commits, settling and prices, against a reference that shares no line with them ([`naive`]).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonnage_agent::ledger_clock::LedgerClock;
use tonnage_agent::metering::Meter;
use tonnage_agent::model::{
    Allocation, DeviceInfo, Holder, Observation, Owner, OwnerKind, UtilisationSample, Window as AgentWindow,
};
use tonnage_agent::seal::{self, Header, NodeState};
use tonnage_aggregator::commit::Verdict;
use tonnage_aggregator::model::RowKind;
use tonnage_aggregator::store::Store;
use tonnage_aggregator::verify;
use tonnage_proto::limits::slot_start;
use tonnage_proto::metering as pb;
use tonnage_proto::metering::ack::Outcome;
use tonnage_proto::metering::resync::Reason;
use tonnage_runtime::clock::Reading;

use crate::books::Books;

mod ledger;
mod naive;
mod prices;

use ledger::Ledger;
use naive::{Kind, Row};
use prices::{BOOK, MODELS, SECOND_BOOK, rate};

const S: i64 = 1_000_000_000;
const PERIOD_NS: i64 = 5 * S;
const TICKS: u32 = 500;
const SEEDS: u32 = 16;
/// 2027-02-28 23:40 UTC: a day and a month end while the model runs.
const T0_NS: i64 = 1_803_858_000 * S;

/// The agent's part and its node, beside the reference of both.
struct Model {
    rng: StdRng,
    ledger: Ledger,
    expected: naive::Ledger,
    infos: Vec<Arc<DeviceInfo>>,
    slices: Vec<i128>,
    owners: Vec<Arc<Owner>>,
    /// The node's clocks; true time is the ledger's.
    true_ns: i64,
    at: Reading,
    boot: u32,
    processes: Vec<Vec<naive::Process>>,
    next_pid: u32,
    energy_mj: u64,
    meter: Meter,
    naive_meter: naive::Meter,
    clocks: Option<(LedgerClock, naive::Clock)>,
    /// Ends of the last windows that were kept, by both.
    last_end_ns: Option<i64>,
    naive_last_end_ns: Option<i128>,
    epoch: [u8; 16],
    seq: u64,
    drafts: Vec<Vec<u8>>,
    waiting: Vec<(u32, naive::Window)>,
    sent: Option<([u8; 16], u64, Vec<u8>)>,
    /// Windows that the ledger quarantined and the reference has not seen yet.
    quarantined: usize,
    /// What happened, so that a model in which nothing happens is noticed: windows accepted and quarantined, epochs.
    happened: [usize; 3],
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let slices: Vec<i128> = MODELS.iter().map(|_| [1, 1, 4, 7][rng.random_range(0..4)]).collect();
        let info = |(at, slices): (usize, &i128)| DeviceInfo {
            uuid: format!("GPU-{at}").into(),
            model: MODELS[at].to_owned(),
            memory_bytes: 80 << 30,
            slices: u32::try_from(*slices).unwrap(),
            minor: None,
            pci_bus_id: String::new(),
        };
        let begin = Reading { wall_ns: T0_NS, monotonic_ns: S, boot_ns: S };
        Self {
            ledger: Ledger::new(BOOK, T0_NS),
            expected: naive::Ledger::new(&slices),
            infos: slices.iter().enumerate().map(info).map(Arc::new).collect(),
            owners: owners(),
            true_ns: T0_NS,
            at: begin,
            boot: 1,
            processes: vec![Vec::new(); slices.len()],
            next_pid: 1,
            energy_mj: 0,
            meter: Meter::new(PERIOD_NS),
            naive_meter: naive::Meter::new(i128::from(PERIOD_NS), &slices),
            clocks: None,
            last_end_ns: None,
            naive_last_end_ns: None,
            epoch: rng.random(),
            seq: 0,
            drafts: Vec::new(),
            waiting: Vec::new(),
            sent: None,
            quarantined: 0,
            happened: [0; 3],
            slices,
            rng,
        }
    }

    /// Time passes, clocks are set, the node sleeps or boots, the agent is killed or stopped.
    fn pass_time(&mut self) {
        let mut step_ns = match self.rng.random_range(0..20) {
            0 => self.rng.random_range(2 * PERIOD_NS..=2 * PERIOD_NS + 1),
            1 => self.rng.random_range(PERIOD_NS..10 * PERIOD_NS),
            2..6 => self.rng.random_range(PERIOD_NS - S..PERIOD_NS + S),
            _ => PERIOD_NS,
        };
        match self.rng.random_range(0..150) {
            0 => self.at.wall_ns += self.rng.random_range(S..90 * S),
            1 => self.at.wall_ns -= self.rng.random_range(S..58 * S),
            2 => self.at.wall_ns -= self.rng.random_range(100 * S..400 * S),
            // Somebody sets it right.
            3..6 if (self.true_ns - self.at.wall_ns).abs() >= S => self.at.wall_ns = self.true_ns,
            6 => {
                let slept_ns = self.rng.random_range(S..200 * S);
                self.at.boot_ns += slept_ns;
                self.at.wall_ns += slept_ns;
                self.true_ns += slept_ns;
            }
            7 | 8 => self.restart(false),
            9 | 10 => self.restart(true),
            11 => {
                self.restart(false);
                self.boot += 1;
                step_ns += 60 * S;
                (self.at.monotonic_ns, self.at.boot_ns) = (S, S);
            }
            _ => {}
        }
        self.true_ns += step_ns;
        self.at.wall_ns += step_ns;
        self.at.monotonic_ns += step_ns;
        self.at.boot_ns += step_ns;
        self.ledger.set_clock(self.true_ns);
    }

    /// A clean stop closes what is open; a kill loses it. The spool stays.
    fn restart(&mut self, clean: bool) {
        if clean {
            let (windows, naive) = (self.meter.finish(), self.naive_meter.finish());
            self.keep(&windows, naive);
        }
        self.meter = Meter::new(PERIOD_NS);
        self.naive_meter = naive::Meter::new(i128::from(PERIOD_NS), &self.slices);
        self.clocks = None;
    }

    fn tick(&mut self) {
        self.pass_time();
        let (at, stored, naive_stored) = (self.at, self.last_end_ns, self.naive_last_end_ns);
        let (clock, naive_clock) = self
            .clocks
            .get_or_insert_with(|| (LedgerClock::start(at, stored), naive::Clock::start(at, naive_stored)));
        let (tick, moment) = (clock.observe(at), naive_clock.look(at));
        let told = naive::Moment {
            now_ns: i128::from(tick.now_ns),
            continuous: tick.continuous,
            new_epoch: tick.new_epoch,
        };
        assert_eq!(told, moment, "at {at:?}");
        if tick.new_epoch {
            (self.epoch, self.seq) = (self.rng.random(), 0);
            self.happened[2] += 1;
        }
        let none_readable = self.rng.random_bool(0.02);
        let mut seen = Vec::new();
        let mut observations = Vec::new();
        for gpu in 0..self.infos.len() {
            self.churn(gpu, tick.now_ns);
            if none_readable || self.rng.random_bool(0.03) {
                seen.push(None);
                continue;
            }
            seen.push(Some(self.processes[gpu].clone()));
            observations.push(self.observe(gpu, at.wall_ns));
        }
        let windows = self.meter.observe(tick, observations);
        let naive = self.naive_meter.tick(moment, &seen);
        self.keep(&windows, naive);
    }

    fn churn(&mut self, gpu: usize, now_ns: i64) {
        let (rng, processes) = (&mut self.rng, &mut self.processes[gpu]);
        processes.retain(|_| rng.random_bool(0.93));
        while rng.random_bool(0.2) {
            let started_ns = match rng.random_range(0..5) {
                0 => None,
                1 => Some(i128::from(now_ns - 100 * S)),
                _ => Some(i128::from(now_ns - rng.random_range(0..PERIOD_NS))),
            };
            let owner = rng.random_range(0..self.owners.len());
            processes.push(naive::Process { pid: self.next_pid, owner, started_ns });
            self.next_pid += 1;
        }
    }

    fn observe(&mut self, gpu: usize, wall_ns: i64) -> Observation {
        let rng = &mut self.rng;
        self.energy_mj += rng.random_range(0..5_000_000);
        let timestamp_us = wall_ns.unsigned_abs() / 1_000;
        let sample = |process: &naive::Process| UtilisationSample {
            pid: process.pid,
            timestamp_us,
            sm_percent: process.pid % 101,
        };
        let holder = |process: &naive::Process| Holder {
            pid: process.pid,
            owner: Arc::clone(&self.owners[process.owner]),
            started_ns: process.started_ns.map(|at| i64::try_from(at).unwrap()),
            memory_bytes: Some(u64::from(process.pid) << 20),
            inferred: false,
        };
        Observation {
            info: Arc::clone(&self.infos[gpu]),
            partition: None,
            holders: self.processes[gpu].iter().map(holder).collect(),
            allocation: Allocation::default(),
            utilisation: rng.random_bool(0.9).then(|| self.processes[gpu].iter().map(sample).collect()),
            energy_mj: rng.random_bool(0.9).then_some(self.energy_mj),
        }
    }

    /// As the agent's pump does: windows into a draft.
    fn keep(&mut self, windows: &[AgentWindow], naive: Vec<naive::Window>) {
        if windows.is_empty() {
            assert_eq!(naive, []);
            return;
        }
        let end = |window: &AgentWindow| window.start_ns.saturating_add_unsigned(window.duration_ns);
        self.last_end_ns = windows.iter().map(end).max();
        self.naive_last_end_ns = naive.iter().map(|window| window.end_ns).max();
        let node = NodeState { boot_id: format!("boot-{}", self.boot), ..NodeState::default() };
        self.drafts.push(seal::draft(windows, &node, 0));
        self.waiting.extend(naive.into_iter().map(|window| (self.boot, window)));
    }

    /// Sends everything that waits; repeats and gaps in between change nothing.
    fn deliver(&mut self) {
        while !self.drafts.is_empty() {
            if let Some((epoch, seq, payload)) = self.sent.clone().filter(|_| self.rng.random_bool(0.2)) {
                let verdict = self.ledger.submit(epoch, seq, payload);
                assert!(
                    matches!(verdict, Verdict::Committed { outcome: Outcome::Duplicate, .. }),
                    "{verdict:?}"
                );
            }
            if self.rng.random_bool(0.05) {
                let (payload, _) = self.seal(self.seq + 2);
                let verdict = self.ledger.submit(self.epoch, self.seq + 2, payload);
                assert_eq!(verdict, Verdict::Resync { next_seq: self.seq + 1, reason: Reason::Gap });
            }
            let (payload, taken) = self.seal(self.seq + 1);
            self.seq += 1;
            self.drafts.drain(..taken);
            match self.ledger.submit(self.epoch, self.seq, payload.clone()) {
                Verdict::Committed { outcome, quarantined, .. } => {
                    let whole = quarantined.is_empty();
                    assert_eq!(outcome, if whole { Outcome::Accepted } else { Outcome::Quarantined });
                    self.quarantined += quarantined.len();
                }
                resync @ Verdict::Resync { .. } => panic!("{resync:?}"),
            }
            self.sent = Some((self.epoch, self.seq, payload));
        }
        for (boot, window) in std::mem::take(&mut self.waiting) {
            if self.expected.take(boot, self.epoch, window, i128::from(self.true_ns)) {
                self.happened[0] += 1;
            } else {
                self.quarantined -= 1;
                self.happened[1] += 1;
            }
        }
        assert_eq!(self.quarantined, 0, "the ledger quarantined other windows than the reference");
    }

    /// As the agent seals, with intruders in some windows.
    fn seal(&mut self, seq: u64) -> (Vec<u8>, usize) {
        let (cluster, node) = ("c".to_owned(), "n".to_owned());
        let (payload, taken) = seal::seal(
            &self.drafts,
            &Header { cluster, node, epoch: self.epoch, seq, sealed_at_ns: self.at.wall_ns },
        );
        let mut batch = pb::Batch::decode(payload.as_slice()).unwrap();
        let owners = u32::try_from(batch.owners.len()).unwrap();
        for window in batch.windows.iter_mut().filter(|_| owners > 0) {
            if self.rng.random_bool(0.3) {
                window.usages.push(pb::Usage {
                    owner: self.rng.random_range(0..owners),
                    kind: pb::usage::Kind::Intruder.into(),
                    busy_ns: self.rng.random_range(0..3 * window.duration_ns),
                    ..pb::Usage::default()
                });
            }
        }
        (batch.encode_to_vec(), taken)
    }

    /// The ledger's intruders are those of the windows that count, slot by slot, and have neither time nor cost.
    fn compare_intruders(&self, books: &Books) {
        let mut expected: BTreeMap<(i64, String, String), i128> = BTreeMap::new();
        for (device, windows) in books.folded().unwrap() {
            for window in windows {
                let slot_ns = slot_start(window.start_ns);
                for (owner, busy_ns) in window.intruded_ns {
                    *expected.entry((slot_ns, device.clone(), owner)).or_default() += i128::from(busy_ns);
                }
            }
        }
        expected.retain(|_, busy_ns| *busy_ns > 0);
        let mut stored: BTreeMap<(i64, String, String), i128> = BTreeMap::new();
        for ((start_ns, device, _, _, owner), bucket) in
            books.slots.iter().filter(|(key, _)| key.3 == RowKind::Intruder)
        {
            assert_eq!((bucket.time_ns, bucket.cost_nanos, bucket.unpriced_ns), (0, 0, 0));
            *stored.entry((*start_ns, device.clone(), owner.clone())).or_default() += bucket.busy_ns;
        }
        assert_eq!(stored, expected);
    }

    /// Slots, hours and days are the reference's, and verification agrees.
    fn compare(&self, second: bool) {
        let rates = |gpu: usize, slot_ns| rate(second, MODELS[gpu], slot_ns, self.slices[gpu]);
        let slots = self.expected.slots(&rates);
        let books = Books::read(self.ledger.data()).unwrap();
        const HOUR_NS: i128 = 4 * naive::SLOT_NS;
        for (what, stored, expected) in [
            ("slots", &books.slots, slots.clone()),
            ("hours", &books.hours, naive::rolled_up(&slots, HOUR_NS)),
            ("days", &books.days, naive::rolled_up(&slots, 24 * HOUR_NS)),
        ] {
            let named: BTreeMap<_, Row> =
                expected.into_iter().map(|(key, row)| (self.named(key), row)).collect();
            let mut stored: BTreeMap<_, Row> = stored
                .iter()
                .map(|(key, bucket)| (key.clone(), [bucket.time_ns, bucket.cost_nanos, bucket.unpriced_ns]))
                .collect();
            // A row may hold energy alone.
            stored.retain(|_, row| *row != [0; 3]);
            assert_eq!(stored, named, "{what}");
        }
        let busy = books.slots.iter().filter(|(key, _)| key.3 == RowKind::Held);
        assert!(busy.into_iter().all(|(_, bucket)| bucket.busy_ns <= bucket.time_ns));
        self.compare_intruders(&books);
        verified(self.ledger.data());
    }

    fn named(&self, (start_ns, gpu, tenure_ns, kind): naive::Key) -> crate::books::Key {
        let (kind, owner) = match kind {
            Kind::Held(owner) => (RowKind::Held, format!("pod:{owner:02}/")),
            Kind::Idle => (RowKind::Idle, String::new()),
            Kind::Unobserved => (RowKind::Unobserved, String::new()),
            Kind::Rounding => (RowKind::Rounding, String::new()),
        };
        let ns = |at: i128| i64::try_from(at).unwrap();
        (ns(start_ns), self.infos[gpu].uuid.to_string(), ns(tenure_ns), kind, owner)
    }
}

/// In the order of the contract, so that the reference may know them by number.
fn owners() -> Vec<Arc<Owner>> {
    let owner = |n| Owner { kind: OwnerKind::Pod, pod_uid: format!("{n:02}"), ..Owner::default() };
    (0..6).map(owner).map(Arc::new).collect()
}

fn verified(data: &Path) {
    let report = verify::verify(&Store::open(data).unwrap().writer().unwrap()).unwrap();
    assert!(report.conserved(), "{report}");
}

#[test]
fn from_samples_to_prices_the_ledger_is_what_the_reference_says_in_every_slot() {
    let mut happened = [0; 3];
    for _ in 0..SEEDS {
        let seed = rand::random();
        println!("seed {seed}");
        let mut model = Model::new(seed);
        for tick in 0..TICKS {
            model.tick();
            if model.rng.random_bool(0.2) {
                model.deliver();
            }
            if model.rng.random_bool(0.01) {
                model.ledger.stop();
                model.ledger.start();
            }
            if tick == TICKS / 2 {
                model.deliver();
                model.compare(false);
                model.ledger.reprice(SECOND_BOOK);
                model.compare(true);
            }
        }
        model.restart(true);
        model.deliver();
        happened.iter_mut().zip(model.happened).for_each(|(sum, more)| *sum += more);
        model.compare(true);
        model.ledger.reprice(BOOK);
        model.compare(false);
        model.ledger.stop();
    }
    println!("{happened:?}");
    assert!(happened[0] > 1_000 && happened[1] > 20 && happened[2] > 5, "{happened:?}");
}
