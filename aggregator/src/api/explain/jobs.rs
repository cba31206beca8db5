//! The part of an explanation that is of jobs without GPUs: rows of a partition, each charged by itself.

use std::collections::BTreeMap;

use tonnage_proto::rest::explain::{ExplainedDevice, ExplainedRow};

use super::{ROWS_MAX, entry, ledger, row, words};
use crate::model::RowKind;
use crate::prices::{Book, Compute};
use crate::store::query::explain::{RowRecord, SlotRecord, Who};
use crate::store::{Connection, StoreError};

/// What a partition's slot has of a [`Who`]. Its time is that of CPUs, and all of it is somebody's.
pub(super) fn partition(
    db: &Connection,
    (book, who): (&Book, &Who),
    slot: SlotRecord,
    notes: &mut Vec<String>,
) -> Result<ExplainedDevice, StoreError> {
    let SlotRecord { start_ns, tenure, rows, .. } = slot;
    let prices = book.compute(&tenure.node.cluster, &tenure.life, start_ns);
    let whose = format!("partition {} of cluster {}", tenure.life, tenure.node.cluster);
    notes.push(match &prices {
        Some(prices) => format!("{whose}: CPUs and memory by line {} of the price book", prices.line),
        None => format!("{whose}: the price book has no [[compute]] for it"),
    });
    let asked: Vec<&RowRecord> = rows.iter().filter(|row| who.has(row.key)).collect();
    let entries = ledger::entries(db, who, start_ns, &tenure, ROWS_MAX)?;
    if asked.len() > ROWS_MAX || entries.len() == ROWS_MAX {
        notes.push(format!("{whose}: the first {ROWS_MAX} rows and entries are shown"));
    }
    let cpu_ns = rows.iter().map(|record| record.row.time_ns).sum();
    let shown = asked.into_iter().take(ROWS_MAX).map(|record| ExplainedRow {
        arithmetic: arithmetic(record, prices.as_ref()),
        ..row(record, who, None, cpu_ns)
    });
    Ok(ExplainedDevice {
        rows: shown.collect(),
        device: tenure.uuid,
        model: tenure.model,
        cluster: tenure.node.cluster,
        node: tenure.node.node,
        life: tenure.life,
        slices: tenure.slices,
        existence_ns: cpu_ns,
        covered_ns: cpu_ns,
        unobserved_ns: 0,
        unobserved_reasons: BTreeMap::new(),
        price: None,
        rows_ns: cpu_ns,
        rows_cost_nanos: rows.iter().map(|record| record.row.cost_nanos).sum(),
        entries: entries.into_iter().map(entry).collect(),
        evidence: Vec::new(),
    })
}

fn arithmetic(record: &RowRecord, prices: Option<&Compute>) -> String {
    let Some(prices) = prices else { return "unpriced".to_owned() };
    let (_, _, kind) = record.key;
    let (rate, amount) = match kind {
        RowKind::Memory => (prices.memory, record.row.memory_byte_seconds),
        _ => (prices.cpu, record.row.time_ns),
    };
    words::arithmetic(rate, amount, rate.charge(i128::from(amount)))
}
