//! After a history: the ledger has every window that a disk kept, once, as it was measured, and nothing else. Where a node
//! was cloned or its clock set far back, windows of the same time were kept: each of those counts or is quarantined, and
//! no time counts twice.

use std::collections::BTreeMap;
use std::path::Path;

use harness::books::{Books, Folded};
use harness::comparison;
use tonnage_proto::limits::WINDOW_NS;
use tonnage_proto::metering::ack::Outcome;

use super::account::Account;
use super::agent::PERIOD_NS;

/// What one kill may cost one device: the open window, and a reading.
const KILLED_MAX_NS: i64 = WINDOW_NS + 2 * PERIOD_NS;

/// Gives how many windows are quarantined.
pub(super) fn ledger_has_what_was_kept(
    folder: &Path,
    accounts: &[(&str, &Account)],
    contested: bool,
) -> anyhow::Result<usize> {
    let books = Books::read(folder)?;
    let refused = books.count(Outcome::Refused);
    anyhow::ensure!(refused == 0, "{refused} of {} batches were refused", books.entries.len());
    let (folded, quarantined) = (books.folded()?, books.quarantined()?);
    let mut devices: BTreeMap<&str, Vec<&Vec<Folded>>> = BTreeMap::new();
    for (name, account) in accounts {
        anyhow::ensure!(
            account.killed_most_ns <= KILLED_MAX_NS,
            "{name}: one kill cost {} ns",
            account.killed_most_ns
        );
        for (device, kept) in &account.kept {
            devices.entry(device).or_default().push(kept);
        }
    }
    for (device, kept) in &devices {
        let of =
            |windows: &'_ BTreeMap<String, Vec<Folded>>| windows.get(*device).cloned().unwrap_or_default();
        let (windows, held_back) = (of(&folded), of(&quarantined));
        match kept.as_slice() {
            [kept] if !contested => {
                anyhow::ensure!(held_back.is_empty(), "{device}: {held_back:?} are quarantined");
                same(device, &windows, kept)?;
            }
            several => parted(device, &windows, &held_back, several)?,
        }
    }
    let strange: Vec<&String> =
        folded.keys().filter(|device| !devices.contains_key(device.as_str())).collect();
    anyhow::ensure!(strange.is_empty(), "nobody has {strange:?}");
    let rows = comparison::rows(&books, &folded);
    anyhow::ensure!(rows.wrong.is_empty(), "{}", rows.wrong.join("\n"));
    Ok(books.held_back.len())
}

/// Every window that one of several disks kept counts or is quarantined, what counts was kept, and what is quarantined
/// stood against what counts.
fn parted(
    device: &str,
    windows: &[Folded],
    held_back: &[Folded],
    kept: &[&Vec<Folded>],
) -> anyhow::Result<()> {
    let doubled_ns = comparison::doubled_ns(windows);
    anyhow::ensure!(doubled_ns == 0, "{device}: {doubled_ns} ns are there twice");
    let alike = |one: &Folded, other: &Folded| {
        (one.start_ns, one.end_ns, one.idle_ns) == (other.start_ns, other.end_ns, other.idle_ns)
            && one.held_ns == other.held_ns
    };
    for window in kept.iter().copied().flatten() {
        let found = windows.iter().chain(held_back).any(|other| alike(window, other));
        anyhow::ensure!(found, "{device}: lost {window:?}");
    }
    for window in windows {
        let found = kept.iter().copied().flatten().any(|other| alike(window, other));
        anyhow::ensure!(found, "{device}: nobody measured {window:?}");
    }
    for window in held_back {
        let stood = |other: &Folded| other.start_ns < window.end_ns && other.end_ns > window.start_ns;
        anyhow::ensure!(windows.iter().any(stood), "{device}: {window:?} is quarantined for nothing");
    }
    Ok(())
}

/// A window of the ledger may be several of the agent's that touch; none of those may be missing or come twice.
fn same(device: &str, windows: &[Folded], kept: &[Folded]) -> anyhow::Result<()> {
    let doubled_ns = comparison::doubled_ns(windows);
    anyhow::ensure!(doubled_ns == 0, "{device}: {doubled_ns} ns are there twice");
    let mut kept: Vec<&Folded> = kept.iter().collect();
    kept.sort_by_key(|window| window.start_ns);
    let mut left = kept.into_iter().peekable();
    for window in windows {
        let mut sums = Folded { start_ns: window.start_ns, end_ns: window.start_ns, ..Folded::default() };
        while let Some(part) = left.next_if(|part| part.end_ns <= window.end_ns) {
            anyhow::ensure!(part.start_ns == sums.end_ns, "{device}: lost {part:?}, before {window:?}");
            sums.end_ns = part.end_ns;
            sums.idle_ns += part.idle_ns;
            part.held_ns.iter().for_each(|(owner, ns)| *sums.held_ns.entry(owner.clone()).or_default() += ns);
        }
        let equal =
            sums.end_ns == window.end_ns && sums.idle_ns == window.idle_ns && sums.held_ns == window.held_ns;
        anyhow::ensure!(equal, "{device}: {window:?} should be {sums:?}");
    }
    match left.next() {
        Some(lost) => Err(anyhow::anyhow!("{device}: lost {lost:?}")),
        None => Ok(()),
    }
}
