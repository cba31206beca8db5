//! What the rows of jobs without GPUs cost in a slot of one partition. They are of no GPU: nothing of them is idle or unobserved, and
//! each is charged by itself, for its CPU time or for its memory.

use super::rows::Rows;

/// Prices CPU-nanoseconds, and byte-seconds of memory, rounding down.
pub type Charges<'a> = [&'a dyn Fn(i64) -> i64; 2];

/// Works out the cost of every row; `None` = unpriced. Returns the sum. A row has CPU time or memory, never both.
pub fn settle(rows: &mut Rows, charges: Option<Charges<'_>>) -> Option<i64> {
    let mut sum = 0_i64;
    for row in rows.values_mut() {
        let cost =
            charges.map(|[cpu, memory]| cpu(row.time_ns).saturating_add(memory(row.memory_byte_seconds)));
        row.cost_nanos = cost.unwrap_or(0);
        row.unpriced_ns = if cost.is_none() { row.time_ns } else { 0 };
        sum = sum.saturating_add(row.cost_nanos);
    }
    charges.map(|_| sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::rows::{Row, WHOLE};
    use crate::model::RowKind;

    #[test]
    fn each_row_is_charged_by_itself_and_without_a_price_its_time_is_unpriced() {
        let cpu = Row { time_ns: 10, ..Row::default() };
        let memory = Row { memory_byte_seconds: 100, ..Row::default() };
        let mut rows =
            Rows::from_iter([((WHOLE, 1, RowKind::Cpu), cpu), ((WHOLE, 1, RowKind::Memory), memory)]);
        let charges: Charges<'_> = [&|ns| ns * 3 / 7, &|bytes| bytes / 30];
        assert_eq!(settle(&mut rows, Some(charges)), Some(7));
        let costs: Vec<i64> = rows.values().map(|row| row.cost_nanos).collect();
        assert_eq!(costs, [4, 3]);
        assert_eq!(settle(&mut rows, None), None);
        assert_eq!(
            rows.values().map(|row| (row.cost_nanos, row.unpriced_ns)).collect::<Vec<_>>(),
            [(0, 10), (0, 0)]
        );
    }
}
