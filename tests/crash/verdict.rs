//! What the ledger has, against what the drivers served.
//!
//! The reference leaves out what a kill cost, which is bounded. Everything else that was served must be in the ledger,
//! once, under its owner and at its price; and what is not in a window must be booked as unobserved, no more and no less.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use harness::books::{self, Books, Folded};
use harness::comparison::{self, LOST_MAX_NS, Stretch};
use harness::reference::{self, Piece};
use tonnage_proto::metering::ack::Outcome;

use crate::reasons::{self, Facts, Gap, Reasons};
use crate::storm::Storm;

/// The one line, and what is behind it.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    seed: u64,
    kills: usize,
    cuts: u64,
    lost_ns: i64,
    doubled_ns: i64,
    lost_nanos: i128,
    unobserved_ns: i128,
    killed_ns: i64,
    quarantined_ns: i64,
    /// Unobserved time by the reason that the ledger gives.
    pub(crate) reasons: BTreeMap<&'static str, i64>,
    /// Everything that is not as it should be.
    pub(crate) wrong: Vec<String>,
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { seed, kills, cuts, lost_ns, doubled_ns, lost_nanos, .. } = self;
        let Self { unobserved_ns, killed_ns, quarantined_ns, .. } = self;
        write!(
            f,
            "kills={kills} cuts={cuts} lost_ns={lost_ns} doubled_ns={doubled_ns} lost_nanos={lost_nanos} \
             unobserved_ns={unobserved_ns} killed_ns={killed_ns} quarantined_ns={quarantined_ns} seed={seed}"
        )
    }
}

/// Judges a storm that is over.
pub(crate) fn judge(storm: &mut Storm) -> anyhow::Result<Verdict> {
    let books = Books::read(&storm.world.aggregator.data_dir())?;
    let folded = books.folded()?;
    let mut verdict = Verdict {
        seed: storm.world.seed,
        kills: storm.kills.iter().map(Vec::len).sum::<usize>() + storm.kills_of_aggregator as usize,
        cuts: storm.network.counts().cuts(),
        ..Verdict::default()
    };
    let refused = books.entries.len() - books.count(Outcome::Accepted);
    if refused > 0 {
        verdict.wrong.push(format!("{refused} of {} batches were not accepted", books.entries.len()));
    }
    let now = storm.world.now();
    let gaps = gaps(storm)?;
    let mut reasons = Reasons::default();
    let mut judged = BTreeMap::new();
    let mut unserved_ns = 0;
    for (node, kills) in storm.world.nodes.iter_mut().zip(&storm.kills) {
        let now_ns = node.now(now).wall_ns;
        let pieces = node.judge()?;
        let uncovered = node.uncovered()?;
        for device in node.spec.scenario.device.iter().map(|device| &device.uuid) {
            let windows = folded.get(device).map(Vec::as_slice).unwrap_or_default();
            let missing = comparison::missing(device, windows, &pieces);
            unserved_ns += verdict.device(device, windows, &pieces, &missing, (kills, now_ns));
            let facts = Facts { device, windows, uncovered: &uncovered, kills, killed: &missing };
            let gaps = gaps.get(device).map(Vec::as_slice).unwrap_or_default();
            reasons::check(&facts, gaps, &mut reasons);
            judged.insert(device.clone(), as_served(device, windows, &pieces));
        }
    }
    verdict.wrong.extend(reasons.wrong);
    verdict.reasons = reasons.time_ns;
    let strange: Vec<&String> = folded.keys().filter(|device| !judged.contains_key(*device)).collect();
    if !strange.is_empty() {
        verdict.wrong.push(format!("nobody has these devices: {strange:?}"));
    }
    let rows = comparison::rows(&books, &judged);
    (verdict.lost_nanos, verdict.unobserved_ns) = (rows.lost_nanos, rows.unobserved_ns);
    verdict.wrong.extend(rows.wrong);
    let (booked, should) = (rows.unobserved_ns, i128::from(unserved_ns + verdict.killed_ns));
    let said: i64 = verdict.reasons.values().sum();
    if booked != i128::from(said) {
        verdict.wrong.push(format!("{booked} ns are booked as unobserved, reasons are given for {said}"));
    }
    if booked != should {
        verdict.wrong.push(format!("{booked} ns are booked as unobserved, {should} should be"));
    }
    match storm.world.aggregator.admin(&["verify"]) {
        Ok(said) if said.lines().any(|line| line.starts_with("conserved:")) => {}
        Ok(said) => verdict.wrong.push(format!("verify: {said}")),
        Err(error) => verdict.wrong.push(format!("verify: {error:#}")),
    }
    Ok(verdict)
}

/// What the ledger says of unobserved time, by device.
fn gaps(storm: &Storm) -> anyhow::Result<BTreeMap<String, Vec<Gap>>> {
    let mut gaps: BTreeMap<String, Vec<Gap>> = BTreeMap::new();
    for piece in books::unobserved(&storm.world.aggregator.data_dir())? {
        gaps.entry(piece.device).or_default().push((piece.start_ns, piece.end_ns, piece.reason));
    }
    Ok(gaps)
}

impl Verdict {
    /// Gives the time within the device's existence in which its driver served nothing.
    fn device(
        &mut self,
        device: &str,
        windows: &[Folded],
        pieces: &[Piece],
        missing: &[Stretch],
        (kills, now_ns): (&[i64], i64),
    ) -> i64 {
        if let Err(error) = comparison::same_as_served(device, windows, pieces) {
            self.wrong.push(format!("{error:#}"));
        }
        let doubled_ns = comparison::doubled_ns(windows);
        let losses = comparison::by_kill(missing, kills);
        for stretch in &losses.unexplained {
            self.wrong.push(format!("{device}: {stretch:?} was served and is nowhere"));
        }
        if losses.longest_ns() > LOST_MAX_NS {
            self.wrong.push(format!("{device}: a kill cost {} ns: {losses:?}", losses.longest_ns()));
        }
        let killed_ns: i64 = losses.by_kill.values().map(|(start_ns, end_ns)| end_ns - start_ns).sum();
        self.lost_ns += comparison::length_ns(&losses.unexplained);
        self.doubled_ns += doubled_ns;
        self.killed_ns += killed_ns;
        if doubled_ns > 0 {
            self.wrong.push(format!("{device}: {doubled_ns} ns are covered twice"));
        }
        let (Some(first), Some(last)) = (windows.first(), windows.last()) else {
            self.wrong.push(format!("{device}: is not in the ledger"));
            return 0;
        };
        // A clock that was set back may not have caught up with ledger time.
        let until_ns = pieces.iter().filter(|piece| piece.device == device).map(|piece| piece.end_ns).max();
        if Some(last.end_ns) != until_ns || last.end_ns < now_ns {
            self.wrong.push(format!("{device}: ends at {}, not at {until_ns:?} or {now_ns}", last.end_ns));
        }
        let covered_ns: i64 = windows.iter().map(|window| window.end_ns - window.start_ns).sum();
        let before_first: i64 = comparison::length_ns(
            &missing.iter().filter(|stretch| stretch.1 <= first.start_ns).copied().collect::<Vec<_>>(),
        );
        if before_first > 0 {
            self.wrong.push(format!("{device}: {before_first} ns were served before the ledger knew of it"));
        }
        (last.end_ns - first.start_ns) - (covered_ns - doubled_ns) - killed_ns
    }
}

/// The same windows as the reference would fill them.
fn as_served(device: &str, windows: &[Folded], pieces: &[Piece]) -> Vec<Folded> {
    let served = |window: &Folded| {
        let sums = reference::sums(pieces, device, window.start_ns, window.end_ns);
        Folded { held_ns: sums.held_ns, idle_ns: sums.idle_ns, ..window.clone() }
    };
    windows.iter().map(served).collect()
}
