//! What jobs without GPUs ran for, again from the journal alone: of each run its last word, cut into slots and priced by the book.

use std::collections::BTreeMap;

use tonnage_proto::limits::SLOT_NS;

use crate::budgets::run::{Run, Stated};
use crate::model::{NodeName, Owner, OwnerKind, RowKind};
use crate::prices::Book;
use crate::store::audit::{Bucket, BucketKey, Entry};
use crate::store::{StoreError, jobs as stored};

const S: i128 = 1_000_000_000;

/// Runs as the journal says, by cluster, job and start.
#[derive(Default)]
pub(super) struct Replayed(BTreeMap<(String, String, i64), Run>);

impl Replayed {
    pub(super) fn add(&mut self, entry: &Entry) -> Result<(), StoreError> {
        let Stated { cluster, runs } = serde_json::from_slice(&entry.payload).map_err(|e| {
            StoreError::Damaged { what: "journal", detail: format!("entry {}: {e}", entry.id) }
        })?;
        for run in runs {
            self.0.insert((cluster.clone(), run.job_id.clone(), run.start_s), run);
        }
        Ok(())
    }

    /// The rows that should be stored, of slots from `horizon_ns` on.
    pub(super) fn slots(&self, book: &Book, horizon_ns: i64) -> BTreeMap<BucketKey, Bucket> {
        let mut rows: BTreeMap<BucketKey, Bucket> = BTreeMap::new();
        for ((cluster, _, _), run) in &self.0 {
            let (from_ns, to_ns) = (i128::from(run.start_s) * S, i128::from(run.end_s) * S);
            let slot = i128::from(SLOT_NS);
            let mut start_ns = from_ns.div_euclid(slot) * slot;
            while start_ns < to_ns {
                let ns = to_ns.min(start_ns + slot) - from_ns.max(start_ns);
                if let Ok(start_ns) = i64::try_from(start_ns)
                    && start_ns >= horizon_ns
                {
                    let key = |kind| key(cluster, run, start_ns, kind);
                    rows.entry(key(RowKind::Cpu)).or_default().time_ns += ns * i128::from(run.cpus);
                    let memory = rows.entry(key(RowKind::Memory)).or_default();
                    memory.memory_byte_seconds += ns * i128::from(run.memory_bytes) / S;
                }
                start_ns += slot;
            }
        }
        rows.retain(|_, row| *row != Bucket::default());
        for (key, row) in &mut rows {
            let partition = key.owner.as_ref().map_or("", |owner| &owner.partition);
            match book.compute(&key.node.cluster, partition, key.start_ns) {
                Some(prices) if key.kind == RowKind::Cpu => row.cost_nanos = prices.cpu.charge(row.time_ns),
                Some(prices) => row.cost_nanos = prices.memory.charge(row.memory_byte_seconds),
                None => row.unpriced_ns = row.time_ns,
            }
        }
        rows
    }
}

fn key(cluster: &str, run: &Run, start_ns: i64, kind: RowKind) -> BucketKey {
    BucketKey {
        start_ns,
        device: stored::place(cluster),
        node: NodeName { cluster: cluster.to_owned(), node: String::new() },
        tenure_from_ns: 0,
        instance: None,
        owner: Some(Owner {
            kind: OwnerKind::SlurmJob,
            job_id: run.job_id.clone(),
            user: run.user.clone(),
            account: run.account.clone(),
            partition: run.partition.clone(),
            ..Owner::default()
        }),
        kind,
    }
}
