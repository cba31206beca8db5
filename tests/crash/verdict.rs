//! What the ledger has, against what the drivers served.
//!
//! The reference leaves out what a kill cost, which is bounded, what is quarantined, and what a full disk had no room
//! for. Everything else that was served
//! must be in the ledger, once, under its owner and at its price; and what is not in a window must be booked as
//! unobserved, no more and no less, and with the reason.
//!
//! Where a node was cloned, two drivers tell the same story of the same device at the same times: what either served is
//! what there is to be had.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use harness::books::{self, Books, Folded};
use harness::comparison::{self, LOST_MAX_NS, Stretch};
use harness::reference::{self, Piece};
use tonnage_proto::metering::ack::Outcome;

use crate::reasons::{self, Facts, Gap, Party, Reasons};
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

/// Everything that is known of one device.
struct Device<'a> {
    uuid: &'a str,
    /// What counts, by start.
    windows: &'a [Folded],
    /// Spans of quarantined windows, by start.
    quarantined: Vec<Stretch>,
    /// What its drivers served.
    pieces: Vec<Piece>,
    /// Its agents: one, or two where it was cloned.
    parties: Vec<&'a Party>,
    /// Ledger time at the end.
    now_ns: i64,
}

/// Judges a storm that is over.
pub(crate) fn judge(storm: &mut Storm) -> anyhow::Result<Verdict> {
    let books = Books::of(&storm.world.aggregator.store()?)?;
    let (folded, quarantined) = (books.folded()?, books.quarantined()?);
    let mut verdict = Verdict {
        seed: storm.world.seed,
        kills: storm.kills.iter().map(Vec::len).sum::<usize>() + storm.kills_of_aggregator as usize,
        cuts: storm.network.counts().cuts(),
        ..Verdict::default()
    };
    let refused = books.count(Outcome::Refused);
    if refused > 0 {
        verdict.wrong.push(format!("{refused} of {} batches were refused", books.entries.len()));
    }
    let (parties, uuids) = parties(storm)?;
    let gaps = gaps(storm)?;
    let mut reasons = Reasons::default();
    let mut judged = BTreeMap::new();
    let mut should_ns = 0;
    for (uuid, nodes) in &uuids {
        let windows = folded.get(uuid).map(Vec::as_slice).unwrap_or_default();
        let spans =
            quarantined.get(uuid).into_iter().flatten().map(|window| (window.start_ns, window.end_ns));
        let device = Device {
            uuid,
            windows,
            quarantined: spans.collect(),
            pieces: told_once(&parties, nodes, uuid),
            parties: nodes.iter().map(|node| &parties[*node]).collect(),
            now_ns: storm.world.nodes[nodes[0]].now(storm.world.now()).wall_ns,
        };
        let gaps = gaps.get(uuid).map(Vec::as_slice).unwrap_or_default();
        should_ns += verdict.device(&device, gaps, &mut reasons);
        judged.insert(uuid.clone(), as_served(uuid, windows, &device.pieces));
    }
    verdict.wrong.extend(reasons.wrong);
    verdict.reasons = reasons.time_ns;
    let strange: Vec<&String> = folded.keys().filter(|device| !judged.contains_key(*device)).collect();
    if !strange.is_empty() {
        verdict.wrong.push(format!("nobody has these devices: {strange:?}"));
    }
    verdict.rows(&books, &judged, should_ns);
    match storm.world.aggregator.admin(&["verify"]) {
        Ok(said) if said.lines().any(|line| line.starts_with("conserved:")) => {}
        Ok(said) => verdict.wrong.push(format!("verify: {said}")),
        Err(error) => verdict.wrong.push(format!("verify: {error:#}")),
    }
    Ok(verdict)
}

/// Devices, and the nodes that have each.
type Whose = BTreeMap<String, Vec<usize>>;

/// Each node's side, and which nodes have which device.
fn parties(storm: &mut Storm) -> anyhow::Result<(Vec<Party>, Whose)> {
    let mut parties = Vec::new();
    let mut uuids = Whose::new();
    for (at, (node, kills)) in storm.world.nodes.iter_mut().zip(&storm.kills).enumerate() {
        let (pieces, uncovered) = (node.judge()?, node.uncovered()?);
        let full = storm.full.iter().filter(|(node, _)| *node == at).map(|(_, stretch)| *stretch).collect();
        parties.push(Party { pieces, uncovered, kills: kills.clone(), full });
        for device in &node.spec.scenario.device {
            uuids.entry(device.uuid.clone()).or_default().push(at);
        }
    }
    Ok((parties, uuids))
}

/// The pieces of a device by all of its drivers, those that two served once.
fn told_once(parties: &[Party], nodes: &[usize], uuid: &str) -> Vec<Piece> {
    let all = nodes.iter().flat_map(|node| &parties[*node].pieces);
    let mut pieces: Vec<Piece> = all.filter(|piece| piece.device == uuid).cloned().collect();
    pieces.sort_by(|a, b| (a.start_ns, a.end_ns, &a.owner).cmp(&(b.start_ns, b.end_ns, &b.owner)));
    pieces.dedup();
    pieces
}

/// What the ledger says of unobserved time, by device.
fn gaps(storm: &Storm) -> anyhow::Result<BTreeMap<String, Vec<Gap>>> {
    let mut gaps: BTreeMap<String, Vec<Gap>> = BTreeMap::new();
    for piece in books::unobserved(&storm.world.aggregator.store()?)? {
        gaps.entry(piece.device).or_default().push((piece.start_ns, piece.end_ns, piece.reason));
    }
    Ok(gaps)
}

impl Verdict {
    /// Gives the time that should be booked as unobserved.
    fn device(&mut self, device: &Device<'_>, gaps: &[Gap], reasons: &mut Reasons) -> i64 {
        let Device { uuid, windows, quarantined, pieces, parties, now_ns } = device;
        if let Err(error) = comparison::same_as_served(uuid, windows, pieces) {
            self.wrong.push(format!("{error:#}"));
        }
        let doubled_ns = comparison::doubled_ns(windows);
        if doubled_ns > 0 {
            self.wrong.push(format!("{uuid}: {doubled_ns} ns are covered twice"));
        }
        self.doubled_ns += doubled_ns;
        let (Some(first), Some(last)) = (windows.first(), windows.last()) else {
            self.wrong.push(format!("{uuid}: is not in the ledger"));
            return 0;
        };
        let missing = comparison::missing(uuid, windows, pieces);
        let (missing, held_back) = comparison::part(&missing, quarantined);
        // A disk without room for it may cost time, if the ledger is told so.
        let turned_away: Vec<Stretch> =
            gaps.iter().filter(|gap| gap.2 == "spool").map(|gap| (gap.0, gap.1)).collect();
        let (missing, turned_away) = comparison::part(&missing, &turned_away);
        let turned_away_ns = comparison::length_ns(&turned_away);
        let killed = self.losses(device, &missing);
        let (killed_ns, held_back_ns) = (comparison::length_ns(&killed), comparison::length_ns(&held_back));
        self.killed_ns += killed_ns;
        self.quarantined_ns += held_back_ns;
        // A clock that was set back may not have caught up with ledger time.
        let until_ns = pieces.iter().map(|piece| piece.end_ns).max();
        if Some(last.end_ns) != until_ns || last.end_ns < *now_ns {
            self.wrong.push(format!("{uuid}: ends at {}, not at {until_ns:?} or {now_ns}", last.end_ns));
        }
        let served = comparison::served(uuid, pieces);
        let existence = [(first.start_ns, last.end_ns)];
        let (before, known) = comparison::part(&served, &existence);
        if !before.is_empty() {
            self.wrong.push(format!("{uuid}: {before:?} was served before the ledger knew of it"));
        }
        let facts = Facts { device: uuid, windows, quarantined, parties, killed: &killed };
        reasons::check(&facts, gaps, reasons);
        let lost_ns = killed_ns + held_back_ns + turned_away_ns;
        comparison::length_ns(&existence) - comparison::length_ns(&known) + lost_ns
    }

    /// What is missing for a kill; what is missing for nothing is lost.
    fn losses(&mut self, device: &Device<'_>, missing: &[Stretch]) -> Vec<Stretch> {
        let mut kills: Vec<i64> = device.parties.iter().flat_map(|party| &party.kills).copied().collect();
        kills.sort_unstable();
        let losses = comparison::by_kill(missing, &kills);
        for stretch in &losses.unexplained {
            self.wrong.push(format!("{}: {stretch:?} was served and is nowhere", device.uuid));
        }
        if losses.longest_ns() > LOST_MAX_NS {
            let longest_ns = losses.longest_ns();
            self.wrong.push(format!("{}: a kill cost {longest_ns} ns: {losses:?}", device.uuid));
        }
        self.lost_ns += comparison::length_ns(&losses.unexplained);
        losses.by_kill.into_values().collect()
    }

    /// Rows and charges against windows as the reference fills them.
    fn rows(&mut self, books: &Books, judged: &BTreeMap<String, Vec<Folded>>, should_ns: i64) {
        let rows = comparison::rows(books, judged);
        (self.lost_nanos, self.unobserved_ns) = (rows.lost_nanos, rows.unobserved_ns);
        self.wrong.extend(rows.wrong);
        let (booked, said_ns) = (rows.unobserved_ns, self.reasons.values().sum::<i64>());
        if booked != i128::from(said_ns) {
            self.wrong.push(format!("{booked} ns are booked as unobserved, reasons are given for {said_ns}"));
        }
        if booked != i128::from(should_ns) {
            self.wrong.push(format!("{booked} ns are booked as unobserved, {should_ns} should be"));
        }
        let quarantined_ns = self.reasons.get("quarantined").copied().unwrap_or(0);
        if quarantined_ns != self.quarantined_ns {
            let should_ns = self.quarantined_ns;
            self.wrong.push(format!("{quarantined_ns} ns are booked as quarantined, {should_ns} should be"));
        }
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
