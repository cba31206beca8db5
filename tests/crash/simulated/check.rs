//! After a history: the ledger has every window that a disk kept, once, as it was measured, and nothing else.

use std::path::Path;

use harness::books::{Books, Folded};
use harness::comparison;
use tonnage_proto::limits::WINDOW_NS;
use tonnage_proto::metering::ack::Outcome;

use super::account::Account;
use super::agent::PERIOD_NS;

/// What one kill may cost one device: the open window, and a reading.
const KILLED_MAX_NS: i64 = WINDOW_NS + 2 * PERIOD_NS;

pub(super) fn ledger_has_what_was_kept(folder: &Path, accounts: &[(&str, &Account)]) -> anyhow::Result<()> {
    let books = Books::read(folder)?;
    let others = books.entries.len() - books.count(Outcome::Accepted);
    anyhow::ensure!(others == 0, "{others} of {} batches were not accepted", books.entries.len());
    let folded = books.folded()?;
    let mut devices = 0;
    for (name, account) in accounts {
        anyhow::ensure!(
            account.killed_most_ns <= KILLED_MAX_NS,
            "{name}: one kill cost {} ns",
            account.killed_most_ns
        );
        for (device, kept) in &account.kept {
            devices += 1;
            let windows = folded.get(device).map(Vec::as_slice).unwrap_or_default();
            same(device, windows, kept)?;
        }
    }
    anyhow::ensure!(folded.len() == devices, "{} devices, {devices} should be", folded.len());
    let rows = comparison::rows(&books, &folded);
    anyhow::ensure!(rows.wrong.is_empty(), "{}", rows.wrong.join("\n"));
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
