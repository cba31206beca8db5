//! The naive reference: ledger time, metering, the ledger and its prices, each as plainly as it can be said, in i128,
//! with nothing from the product. Slow on purpose: it looks at everything again for every answer.

use std::collections::{BTreeMap, BTreeSet};

use tonnage_runtime::clock::Reading;

const S: i128 = 1_000_000_000;
const CELL_NS: i128 = 10 * S;
pub(super) const SLOT_NS: i128 = 900 * S;

/// Ledger time of a node whose wall clock only ever steps by half a second or more.
pub(super) struct Clock {
    ledger_ns: i128,
    last: Reading,
    first: bool,
    far_behind: bool,
}

/// What the clock says of one reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) now_ns: i128,
    pub(super) continuous: bool,
    pub(super) new_epoch: bool,
}

impl Clock {
    pub(super) fn start(at: Reading, stored_ns: Option<i128>) -> Self {
        let wall_ns = i128::from(at.wall_ns);
        let stored_ns = stored_ns.unwrap_or(wall_ns);
        let far_behind = stored_ns - wall_ns > 60 * S;
        let ledger_ns = if far_behind { wall_ns } else { wall_ns.max(stored_ns) };
        Self { ledger_ns, last: at, first: true, far_behind }
    }

    pub(super) fn look(&mut self, at: Reading) -> Moment {
        let passed = |now: i64, before: i64| i128::from(now) - i128::from(before);
        let awake_ns = passed(at.monotonic_ns, self.last.monotonic_ns);
        let boot_ns = passed(at.boot_ns, self.last.boot_ns);
        let slept = boot_ns - awake_ns > S / 10;
        let due_ns = i128::from(self.last.wall_ns) + if slept { boot_ns } else { awake_ns };
        let wall_ns = i128::from(at.wall_ns);
        let first = std::mem::replace(&mut self.first, false);
        self.last = at;
        if self.ledger_ns.max(due_ns) - wall_ns > 60 * S {
            self.ledger_ns = wall_ns;
            return Moment { now_ns: wall_ns, continuous: false, new_epoch: true };
        }
        let before_ns = self.ledger_ns;
        self.ledger_ns = before_ns.max(wall_ns);
        let jumped = wall_ns > due_ns && self.ledger_ns > before_ns;
        let new_epoch = first && self.far_behind;
        Moment { now_ns: self.ledger_ns, continuous: !(first || slept || jumped), new_epoch }
    }
}

/// A process on a GPU; owners are numbers, in the order of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) owner: usize,
    pub(super) started_ns: Option<i128>,
}

/// Time of one GPU in one cell of the grid, without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) gpu: usize,
    pub(super) start_ns: i128,
    pub(super) end_ns: i128,
    pub(super) held_ns: BTreeMap<usize, i128>,
}

#[derive(Default)]
struct Gpu {
    /// Processes of the last reading; `None` before the first.
    before: Option<Vec<Process>>,
    open: Option<Window>,
}

pub(super) struct Meter {
    period_ns: i128,
    slices: Vec<i128>,
    last_ns: Option<i128>,
    gpus: Vec<Gpu>,
}

impl Meter {
    pub(super) fn new(period_ns: i128, slices: &[i128]) -> Self {
        let gpus = slices.iter().map(|_| Gpu::default()).collect();
        Self { period_ns, slices: slices.to_vec(), last_ns: None, gpus }
    }

    /// `seen`: the processes of each GPU, `None` where it could not be read. Gives what closed.
    pub(super) fn tick(&mut self, moment: Moment, seen: &[Option<Vec<Process>>]) -> Vec<Window> {
        let to_ns = moment.now_ns;
        let from_ns = self.last_ns.replace(to_ns).unwrap_or(to_ns);
        let length_ns = to_ns - from_ns;
        let broken =
            !moment.continuous || moment.new_epoch || length_ns < 0 || length_ns > 2 * self.period_ns;
        let mut closed = Vec::new();
        for (gpu, now) in seen.iter().enumerate() {
            let known = self.gpus[gpu].before.is_some();
            if broken || (length_ns > 0 && now.is_none()) {
                closed.extend(self.gpus[gpu].open.take());
            }
            if let (Some(now), true, false, true) = (now, known, broken, length_ns > 0) {
                self.cover(gpu, from_ns, to_ns, now, &mut closed);
            }
            if let Some(now) = now {
                self.gpus[gpu].before = Some(now.clone());
            }
        }
        closed
    }

    pub(super) fn finish(&mut self) -> Vec<Window> {
        self.gpus.iter_mut().filter_map(|gpu| gpu.open.take()).collect()
    }

    fn cover(&mut self, gpu: usize, from_ns: i128, to_ns: i128, now: &[Process], closed: &mut Vec<Window>) {
        let slices = self.slices[gpu];
        let Gpu { before, open } = &mut self.gpus[gpu];
        let before = before.clone().unwrap_or_default();
        let mut edges: BTreeSet<i128> = now.iter().filter_map(|process| process.started_ns).collect();
        edges.extend((from_ns / CELL_NS..=to_ns / CELL_NS).map(|cell| cell * CELL_NS));
        edges.retain(|edge| (from_ns + 1..to_ns).contains(edge));
        let mut start_ns = from_ns;
        for end_ns in edges.into_iter().chain([to_ns]) {
            let holders: BTreeSet<usize> = now
                .iter()
                .filter(|process| {
                    before.contains(process) || process.started_ns.is_none_or(|at| at <= start_ns)
                })
                .map(|process| process.owner)
                .collect();
            let window =
                open.get_or_insert_with(|| Window { gpu, start_ns, end_ns, held_ns: BTreeMap::new() });
            window.end_ns = end_ns;
            let whole_ns = (end_ns - start_ns) * slices;
            let count = i128::try_from(holders.len()).unwrap();
            for (place, owner) in (0..).zip(holders) {
                let more = i128::from(place < whole_ns % count);
                *window.held_ns.entry(owner).or_default() += whole_ns / count + more;
            }
            if end_ns % CELL_NS == 0 {
                closed.extend(open.take());
            }
            start_ns = end_ns;
        }
    }
}

/// A window that was offered: under which boot of the node and by which life of its spool.
#[derive(Debug, Clone)]
struct Offer {
    boot: u32,
    epoch: [u8; 16],
    window: Window,
    /// Since when it claims the GPU: nobody can backdate by more than a day.
    claimed_ns: i128,
}

/// A stretch of one boot, which may go on behind gaps, until another has the GPU.
#[derive(Debug)]
struct Stay {
    boot: u32,
    from_ns: i128,
    to_ns: i128,
}

/// A rate as a fraction, by GPU and slot; `None` = unpriced.
pub(super) type Rates<'a> = &'a dyn Fn(usize, i128) -> Option<(i128, i128)>;

/// What a row is: an owner's held time, or one of the others, by the names of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Held(usize),
    Idle,
    Unobserved,
    Rounding,
}

/// (start of the bucket, GPU, start of its tenure, kind).
pub(super) type Key = (i128, usize, i128, Kind);

/// Time, cost, unpriced time.
pub(super) type Row = [i128; 3];

pub(super) struct Ledger {
    slices: Vec<i128>,
    /// By GPU, in the order in which they came; those from a clock that is ahead are left out.
    offers: Vec<Vec<Offer>>,
}

impl Ledger {
    pub(super) fn new(slices: &[i128]) -> Self {
        Self { slices: slices.to_vec(), offers: slices.iter().map(|_| Vec::new()).collect() }
    }

    /// Takes a window that arrives at `now_ns`; false if it does not count, as things are.
    pub(super) fn take(&mut self, boot: u32, epoch: [u8; 16], window: Window, now_ns: i128) -> bool {
        if window.end_ns > now_ns + 60 * S {
            return false;
        }
        let offers = &mut self.offers[window.gpu];
        let alone = offers.iter().all(|other| !overlap(&other.window, &window));
        let claimed_ns = window.start_ns.max(now_ns - 24 * 3600 * S);
        offers.push(Offer { boot, epoch, window, claimed_ns });
        alone || counted(offers).contains(&(offers.len() - 1))
    }

    /// Every row of every slot.
    pub(super) fn slots(&self, rates: Rates<'_>) -> BTreeMap<Key, Row> {
        let mut rows = BTreeMap::new();
        for (gpu, offers) in self.offers.iter().enumerate() {
            let mut own: Vec<&Offer> = counted(offers).into_iter().map(|at| &offers[at]).collect();
            own.sort_by_key(|offer| offer.window.start_ns);
            let stays = stays(&own);
            let (Some(first), Some(last)) = (stays.first(), stays.last()) else { continue };
            let mut slot_ns = first.from_ns / SLOT_NS * SLOT_NS;
            while slot_ns < last.to_ns {
                for boot in stays.iter().map(|stay| stay.boot).collect::<std::collections::BTreeSet<_>>() {
                    let mine = || stays.iter().filter(move |stay| stay.boot == boot);
                    let within =
                        |stay: &Stay| (stay.to_ns.min(slot_ns + SLOT_NS) - stay.from_ns.max(slot_ns)).max(0);
                    let existence_ns = mine().map(within).sum::<i128>() * self.slices[gpu];
                    let from_ns = mine().map(|stay| stay.from_ns).min().expect("a stay of each boot");
                    let windows = own.iter().filter(|offer| offer.boot == boot).map(|offer| &offer.window);
                    let windows = windows.filter(|window| window.start_ns / SLOT_NS * SLOT_NS == slot_ns);
                    let rate = rates(gpu, slot_ns);
                    for (kind, row) in slot(windows, existence_ns, self.slices[gpu], rate) {
                        rows.insert((slot_ns, gpu, from_ns, kind), row);
                    }
                }
                slot_ns += SLOT_NS;
            }
        }
        rows.retain(|_, row| *row != [0; 3]);
        rows
    }
}

fn overlap(one: &Window, two: &Window) -> bool {
    one.start_ns < two.end_ns && two.start_ns < one.end_ns
}

/// Positions of the offers that count: taken in the order of seniority, each if its time is still free.
fn counted(offers: &[Offer]) -> Vec<usize> {
    let first = |same: &dyn Fn(&Offer) -> bool| {
        offers.iter().find(|offer| same(offer)).map_or(0, |offer| offer.claimed_ns)
    };
    let key = |at: &usize| {
        let own = &offers[*at];
        let tenure_ns = first(&|other| other.boot == own.boot);
        let cursor_ns = first(&|other| other.boot == own.boot && other.epoch == own.epoch);
        (tenure_ns, format!("boot-{}", own.boot), cursor_ns, own.epoch, *at)
    };
    let mut order: Vec<usize> = (0..offers.len()).collect();
    order.sort_by_cached_key(key);
    let mut counted: Vec<usize> = Vec::new();
    for at in order {
        if counted.iter().all(|other| !overlap(&offers[*other].window, &offers[at].window)) {
            counted.push(at);
        }
    }
    counted
}

/// Stays by what counts, in the order of time. The GPU is in the node all the time, so a stay lasts until the next.
fn stays(own: &[&Offer]) -> Vec<Stay> {
    let mut stays: Vec<Stay> = Vec::new();
    for Offer { boot, window, .. } in own {
        match stays.last_mut() {
            Some(last) if last.boot == *boot => last.to_ns = window.end_ns,
            last => {
                last.into_iter().for_each(|last| last.to_ns = window.start_ns);
                stays.push(Stay { boot: *boot, from_ns: window.start_ns, to_ns: window.end_ns });
            }
        }
    }
    stays
}

fn slot<'a>(
    windows: impl Iterator<Item = &'a Window>,
    existence_ns: i128,
    slices: i128,
    rate: Option<(i128, i128)>,
) -> BTreeMap<Kind, Row> {
    let mut times: BTreeMap<Kind, i128> = BTreeMap::new();
    let (mut covered_ns, mut held_ns) = (0, 0);
    for window in windows {
        covered_ns += (window.end_ns - window.start_ns) * slices;
        for (owner, own_ns) in &window.held_ns {
            *times.entry(Kind::Held(*owner)).or_default() += own_ns;
            held_ns += own_ns;
        }
    }
    times.insert(Kind::Idle, covered_ns - held_ns);
    times.insert(Kind::Unobserved, existence_ns - covered_ns);
    assert!(times.values().all(|time_ns| *time_ns >= 0), "{times:?}");
    let cost = |time_ns: i128| rate.map_or(0, |(num, den)| num * time_ns / den);
    let unpriced = |time_ns: i128| if rate.is_none() { time_ns } else { 0 };
    let rounding = cost(existence_ns) - times.values().map(|time_ns| cost(*time_ns)).sum::<i128>();
    let row = |(kind, time_ns): (Kind, i128)| (kind, [time_ns, cost(time_ns), unpriced(time_ns)]);
    times.into_iter().map(row).chain([(Kind::Rounding, [0, rounding, 0])]).collect()
}

/// Adds rows up into longer buckets.
pub(super) fn rolled_up(slots: &BTreeMap<Key, Row>, length_ns: i128) -> BTreeMap<Key, Row> {
    let mut sums: BTreeMap<Key, Row> = BTreeMap::new();
    for ((start_ns, gpu, tenure_ns, kind), row) in slots {
        let sum = sums.entry((start_ns / length_ns * length_ns, *gpu, *tenure_ns, *kind)).or_default();
        sum.iter_mut().zip(row).for_each(|(sum, more)| *sum += more);
    }
    sums.retain(|_, row| *row != [0; 3]);
    sums
}
