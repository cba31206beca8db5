//! A ledger of a large fleet's 90 days, written straight into the store: no batches, so nothing to verify, but the rows that
//! such a fleet leaves.
//!
//! Every GPU has a pod of its own for nine days at a time, and pods are spread over namespaces. Days are there for all of the
//! time, hours and slots for the first day and the last, where the edges of a window lie.

use anyhow::Context;
use tonnage_aggregator::model::{Device, NodeName, Owner, OwnerKind};
use tonnage_aggregator::store::write::{self, Mark};
use tonnage_aggregator::store::{Connection, existence, server};
use tonnage_proto::limits::{DAY_NS, HOUR_NS, SLOT_NS, slot_start};

use super::CLUSTER;

pub(super) const DAYS: i64 = 90;
/// Days that a pod lives.
const POD_DAYS: i64 = 9;
const GPUS_PER_NODE: i64 = 8;
/// Rows in one transaction, more or less.
const ROWS_MAX: usize = 300_000;

/// How large it is: so many GPUs, as many namespaces, and ten times as many pods.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fleet {
    pub(super) gpus: i64,
}

/// The store's numbers of what rows name.
struct Numbers {
    tenures: Vec<i64>,
    owners: Vec<i64>,
}

impl Fleet {
    pub(super) fn pods(self) -> i64 {
        self.gpus * (DAYS / POD_DAYS + 1)
    }

    /// Writes it; gives how many rows there are.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn write(self, db: &Connection, now_ns: i64) -> anyhow::Result<usize> {
        let end_ns = slot_start(now_ns);
        let today_ns = end_ns - end_ns.rem_euclid(DAY_NS);
        let first_ns = today_ns - DAYS * DAY_NS;
        let numbers = self.numbers(db, first_ns, end_ns)?;
        let edges = [(first_ns, first_ns + DAY_NS), (today_ns, end_ns)];
        let mut count = self.fill(db, &numbers, ("day", DAY_NS), (first_ns, end_ns), first_ns)?;
        for edge in edges {
            count += self.fill(db, &numbers, ("hour", HOUR_NS), edge, first_ns)?;
            count += self.fill(db, &numbers, ("slot", SLOT_NS), edge, first_ns)?;
        }
        if db.is_server() {
            db.execute_batch("ANALYZE")?;
        }
        Ok(count)
    }

    fn numbers(self, db: &Connection, first_ns: i64, end_ns: i64) -> anyhow::Result<Numbers> {
        let transaction = db.begin()?;
        let tenures = (0..self.gpus).map(|gpu| {
            let node = format!("fleet-{:05}", gpu / GPUS_PER_NODE);
            let node = write::node(&transaction, &NodeName { cluster: CLUSTER.to_owned(), node })?;
            let real = harness::scenario::device(u32::try_from(gpu % GPUS_PER_NODE)?);
            let device = Device {
                uuid: format!("GPU-{gpu:08x}-aaaa-4f57-9c2e-2b6f6e0c7a11"),
                model: real.model,
                memory_bytes: real.memory_bytes,
                slices: 1,
                minor: 0,
                pci_bus_id: real.pci_bus_id,
                driver_version: "580.95.05".to_owned(),
            };
            let device = write::device(&transaction, &device)?;
            Ok(existence::tenure(&transaction, (device, node, "life", 1), first_ns)?)
        });
        let tenures = tenures.collect::<anyhow::Result<_>>()?;
        transaction.execute(
            "UPDATE tenure SET from_ns = ?1, to_ns = ?2, covered_until_ns = ?2",
            [first_ns, end_ns],
        )?;
        let owners = (0..self.pods()).map(|pod| {
            // Spread so that neighbours on a node are of different namespaces, and none is empty.
            let namespace = pod * 7_919 % self.gpus;
            let number = u32::try_from(pod)?;
            let owner = Owner {
                kind: OwnerKind::Pod,
                namespace: format!("team-{namespace:05}"),
                pod: format!("training-{pod}-worker-0"),
                pod_uid: harness::scenario::pod_uid(number),
                container_id: harness::scenario::container_id(number),
                user: format!("user-{:03}", namespace % 200),
                account: format!("account-{:02}", namespace % 50),
                ..Owner::default()
            };
            Ok(write::owner(&transaction, &owner)?)
        });
        let owners = owners.collect::<anyhow::Result<_>>()?;
        for mark in [Mark::ExistenceUntil, Mark::ClosedUntil] {
            write::set_mark(&transaction, mark, end_ns)?;
        }
        transaction.commit()?;
        Ok(Numbers { tenures, owners })
    }

    /// Rows of one table for all that starts in a range; gives how many.
    fn fill(
        self,
        db: &Connection,
        numbers: &Numbers,
        (table, width_ns): (&str, i64),
        (from_ns, end_ns): (i64, i64),
        first_ns: i64,
    ) -> anyhow::Result<usize> {
        let mut rows: Vec<[Option<i64>; 12]> = Vec::new();
        let mut count = 0;
        let mut start_ns = from_ns;
        while start_ns < end_ns {
            let length_ns = width_ns.min(end_ns - start_ns);
            let generation = (start_ns - first_ns) / (POD_DAYS * DAY_NS);
            for (gpu, tenure) in (0..self.gpus).zip(&numbers.tenures) {
                let pod = usize::try_from(generation * self.gpus + gpu)?;
                let owner = *numbers.owners.get(pod).context("a pod for each time")?;
                // Figures that differ, so that they take the bytes that real ones take.
                let held_ns = length_ns - (gpu % 97) * 1_000_003;
                let seconds = length_ns / 1_000_000_000;
                let energy_uj = seconds * (350_000_000 + gpu * 131);
                let held =
                    [held_ns, held_ns / 3 + gpu * 977, seconds * (10 << 30), energy_uj, 3, held_ns / 1_000];
                let idle =
                    [length_ns - held_ns, 0, 0, seconds * 70_000_000, 0, (length_ns - held_ns) / 1_000];
                let rounding = [0, 0, 0, 0, 0, 1];
                for (owner, kind, figures) in [(owner, 0, held), (0, 1, idle), (0, 3, rounding)] {
                    let [time, busy, memory, energy, method, cost] = figures;
                    let row =
                        [start_ns, *tenure, 0, owner, kind, time, busy, memory, energy, method, cost, 0];
                    rows.push(row.map(Some));
                }
            }
            start_ns += width_ns;
            if rows.len() >= ROWS_MAX || start_ns >= end_ns {
                count += rows.len();
                let transaction = db.begin()?;
                server::make_room(&transaction, table, rows.iter().filter_map(|row| row[0]))?;
                transaction.insert_all(table, "", &rows)?;
                transaction.commit()?;
                rows.clear();
            }
        }
        Ok(count)
    }
}
