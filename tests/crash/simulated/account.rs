//! What one agent measured, and what became of it: open, killed, kept, or turned away. Kept beside the agent's own code
//! and filled from what its devices showed, so that it can be held against both the agent's windows and the ledger.

use std::collections::BTreeMap;

use harness::books::Folded;
use tonnage_agent::model::Window;
use tonnage_proto::limits::{WINDOW_NS, window_start};

/// A stretch of one device in one hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) device: String,
    pub(super) start_ns: i64,
    pub(super) end_ns: i64,
    /// `None` = idle.
    pub(super) owner: Option<String>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// Not in a closed window yet.
    open: Vec<Served>,
    /// Durable, by device.
    pub(super) kept: BTreeMap<String, Vec<Folded>>,
    /// Closed, and lost with the write that failed or had no room.
    pub(super) dropped_ns: i64,
    /// Open when the agent was killed.
    pub(super) killed_ns: i64,
    /// Most of one device by one kill.
    pub(super) killed_most_ns: i64,
}

impl Account {
    /// Notes a covered interval.
    pub(super) fn serve(&mut self, device: &str, from_ns: i64, to_ns: i64, owner: Option<&str>) {
        let mut start_ns = from_ns;
        while start_ns < to_ns {
            let end_ns = to_ns.min(window_start(start_ns) + WINDOW_NS);
            let (device, owner) = (device.to_owned(), owner.map(str::to_owned));
            self.open.push(Served { device, start_ns, end_ns, owner });
            start_ns = end_ns;
        }
    }

    /// A window closed: it must say what was served in its time.
    pub(super) fn close(&mut self, window: &Window) -> anyhow::Result<Folded> {
        let start_ns = window.start_ns;
        let end_ns = start_ns.saturating_add_unsigned(window.duration_ns);
        let within = |served: &mut Served| {
            served.device == *window.info.uuid && served.start_ns >= start_ns && served.end_ns <= end_ns
        };
        let mut sums = Folded { start_ns, end_ns, ..Folded::default() };
        for served in self.open.extract_if(.., within) {
            let length_ns = served.end_ns - served.start_ns;
            match served.owner {
                Some(owner) => *sums.held_ns.entry(owner).or_default() += length_ns,
                None => sums.idle_ns += length_ns,
            }
        }
        let held: BTreeMap<String, i64> = window
            .usages
            .iter()
            .map(|((_, owner), usage)| Ok((format!("unit:{}", owner.unit), i64::try_from(usage.held_ns)?)))
            .collect::<anyhow::Result<_>>()?;
        anyhow::ensure!(
            held == sums.held_ns && i64::try_from(window.idle_ns)? == sums.idle_ns,
            "{window:?} should be {sums:?}"
        );
        Ok(sums)
    }

    pub(super) fn keep(&mut self, device: &str, window: Folded) {
        self.kept.entry(device.to_owned()).or_default().push(window);
    }

    pub(super) fn drop(&mut self, window: &Folded) {
        self.dropped_ns += window.end_ns - window.start_ns;
    }

    /// The agent was killed: what is open is gone.
    pub(super) fn kill(&mut self) {
        let mut by_device: BTreeMap<String, i64> = BTreeMap::new();
        for served in self.open.drain(..) {
            *by_device.entry(served.device).or_default() += served.end_ns - served.start_ns;
        }
        self.killed_ns += by_device.values().sum::<i64>();
        self.killed_most_ns = by_device.into_values().fold(self.killed_most_ns, i64::max);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.open.is_empty()
    }
}
