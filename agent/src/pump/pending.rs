//! What was metered and is not in the spool yet: closed windows and gaps up to the next edge of the window grid.
//!
//! A parcel leaves at each edge, and where a gap of all devices closed their windows. It accounts for all devices up
//! to there, by windows or by gaps. So one moment says how far the spool goes for the whole node, and at a kill
//! exactly the time since then is lost. Pure.
//!
//! Bounded: an edge comes with every cell of the grid; gaps beyond their limit are not told.

use tonnage_proto::limits::{GAPS_PER_BATCH_MAX, window_start};

use crate::model::{Gap, Window};

/// What goes into the spool together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parcel {
    /// It accounts for everything from here, unless nothing was metered before,
    pub(super) from_ns: Option<i64>,
    /// to here.
    pub(super) until_ns: i64,
    pub(super) windows: Vec<Window>,
    pub(super) gaps: Vec<Gap>,
    pub(super) overlap_ns: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Everything before is in parcels.
    until_ns: Option<i64>,
    windows: Vec<Window>,
    gaps: Vec<Gap>,
    overlap_ns: u64,
}

impl Pending {
    /// Goes on where the spool ends.
    pub(super) fn resume(until_ns: Option<i64>) -> Self {
        Self { until_ns, ..Self::default() }
    }

    pub(super) fn add(&mut self, windows: Vec<Window>, gaps: Vec<Gap>, overlap_ns: u64) {
        self.windows.extend(windows);
        gaps.into_iter().for_each(|gap| add_gap(&mut self.gaps, gap));
        self.overlap_ns = self.overlap_ns.saturating_add(overlap_ns);
    }

    /// The parcel that is due, if there is something to tell. To be asked at every tick: all windows that begin
    /// before the last edge are closed then.
    pub(super) fn due(&mut self, now_ns: i64) -> Option<Parcel> {
        let all_closed = self.gaps.iter().any(|gap| gap.device.is_none() && gap.end_ns == now_ns);
        if all_closed && !self.windows.is_empty() {
            return self.up_to(now_ns);
        }
        let edge_ns = window_start(now_ns);
        if self.until_ns.is_some_and(|until_ns| edge_ns <= until_ns) {
            return None;
        }
        self.up_to(edge_ns)
    }

    /// All of it: the agent ends at `now_ns`, or its ledger time does.
    pub(super) fn rest(&mut self, now_ns: i64) -> Option<Parcel> {
        let parcel = self.up_to(now_ns);
        self.until_ns = None;
        parcel
    }

    fn up_to(&mut self, until_ns: i64) -> Option<Parcel> {
        let (windows, later) =
            std::mem::take(&mut self.windows).into_iter().partition(|window| window.start_ns < until_ns);
        self.windows = later;
        let mut parcel = Parcel {
            from_ns: self.until_ns,
            until_ns,
            windows,
            overlap_ns: self.overlap_ns,
            ..Parcel::default()
        };
        for gap in std::mem::take(&mut self.gaps) {
            if gap.end_ns > until_ns {
                let start_ns = gap.start_ns.max(until_ns);
                self.gaps.push(Gap { start_ns, ..gap.clone() });
            }
            if gap.start_ns < until_ns {
                let end_ns = gap.end_ns.min(until_ns);
                parcel.gaps.push(Gap { end_ns, ..gap });
            }
        }
        self.until_ns = Some(until_ns);
        if parcel.windows.is_empty() && parcel.gaps.is_empty() && parcel.overlap_ns == 0 {
            return None;
        }
        self.overlap_ns = 0;
        Some(parcel)
    }
}

/// Adds a gap, or makes the last of its kind longer where it goes on from there.
pub(super) fn add_gap(gaps: &mut Vec<Gap>, gap: Gap) {
    let alike = |other: &&mut Gap| {
        let devices = (&other.device, &gap.device);
        other.reason == gap.reason
            && (devices.0.as_ref().map(|info| &info.uuid) == devices.1.as_ref().map(|info| &info.uuid))
    };
    let room = gaps.len() < GAPS_PER_BATCH_MAX / 2;
    match gaps.iter_mut().rev().find(alike) {
        Some(last) if last.end_ns == gap.start_ns => last.end_ns = gap.end_ns,
        _ if room => gaps.push(gap),
        _ => {
            tracing::warn!(reason = ?gap.reason, "More gaps than can be told; the time of this one is unobserved all the same.")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::model::{DeviceInfo, GapReason};

    const S: i64 = 1_000_000_000;

    fn window(start_ns: i64, end_ns: i64) -> Window {
        let info = DeviceInfo {
            uuid: "GPU-1".into(),
            model: String::new(),
            memory_bytes: 0,
            slices: 1,
            minor: None,
            pci_bus_id: String::new(),
        };
        Window {
            info: Arc::new(info),
            start_ns,
            duration_ns: (end_ns - start_ns).unsigned_abs(),
            idle_ns: 0,
            usages: BTreeMap::new(),
            intruders: BTreeMap::new(),
            instance_idle_ns: BTreeMap::new(),
            stranded_ns: 0,
            busy_unattributed_ns: 0,
            energy_idle_uj: 0,
            energy_unobserved_uj: 0,
            samples: 1,
        }
    }

    fn gap(start_ns: i64, end_ns: i64, reason: GapReason) -> Gap {
        Gap { device: None, start_ns, end_ns, reason }
    }

    #[test]
    fn a_parcel_leaves_at_each_edge_and_holds_everything_up_to_it() {
        let mut pending = Pending::resume(Some(0));
        pending.add(vec![window(0, 4 * S)], vec![gap(4 * S, 5 * S, GapReason::NotRead)], 0);
        assert_eq!(pending.due(9 * S), None);
        let gaps = vec![gap(5 * S, 12 * S, GapReason::NotRead)];
        pending.add(vec![window(10 * S, 11 * S)], gaps, 3);
        let parcel = pending.due(13 * S).unwrap();
        assert_eq!((parcel.from_ns, parcel.until_ns, parcel.overlap_ns), (Some(0), 10 * S, 3));
        assert_eq!(parcel.windows, [window(0, 4 * S)]);
        assert_eq!(parcel.gaps, [gap(4 * S, 10 * S, GapReason::NotRead)]);
        assert_eq!(pending.due(14 * S), None);
        let rest = pending.rest(14 * S).unwrap();
        assert_eq!(rest.windows, [window(10 * S, 11 * S)]);
        assert_eq!(rest.gaps, [gap(10 * S, 12 * S, GapReason::NotRead)]);
    }

    #[test]
    fn a_gap_of_all_devices_does_not_keep_their_closed_windows_waiting() {
        let mut pending = Pending::resume(Some(0));
        pending.add(vec![window(0, 3 * S)], vec![gap(3 * S, 7 * S, GapReason::NotRead)], 0);
        let parcel = pending.due(7 * S).unwrap();
        assert_eq!((parcel.until_ns, parcel.windows.len(), parcel.gaps.len()), (7 * S, 1, 1));
        // Without windows it waits for the edge.
        pending.add(Vec::new(), vec![gap(7 * S, 8 * S, GapReason::NotRead)], 0);
        assert_eq!(pending.due(8 * S), None);
        assert_eq!(pending.due(10 * S).unwrap().gaps, [gap(7 * S, 8 * S, GapReason::NotRead)]);
    }

    #[test]
    fn where_there_is_nothing_to_tell_there_is_no_parcel() {
        let mut pending = Pending::default();
        assert_eq!(pending.due(25 * S), None);
        assert_eq!(pending.rest(31 * S), None);
    }

    #[test]
    fn gaps_of_another_reason_or_apart_stay_gaps_of_their_own_and_are_bounded() {
        let mut gaps = Vec::new();
        add_gap(&mut gaps, gap(0, 1, GapReason::NotRead));
        add_gap(&mut gaps, gap(1, 2, GapReason::Clock));
        add_gap(&mut gaps, gap(1, 2, GapReason::NotRead));
        add_gap(&mut gaps, gap(5, 6, GapReason::NotRead));
        assert_eq!(gaps.len(), 3);
        (0..10_000).for_each(|at| add_gap(&mut gaps, gap(at * 2, at * 2 + 1, GapReason::Clock)));
        assert!(gaps.len() <= GAPS_PER_BATCH_MAX / 2);
    }
}
