//! Sums that 64 bits do not hold: SQLite has no wider integers.

use crate::store::sql::{self, Row};

/// Added up apart are quotients and rests by this; both stay far below 2^63 for as many rows as a ledger can have.
const SPLIT: i64 = 1_000_000_000;

/// SQL for the sum of a column, as two columns that [`read`] makes one figure of; 0 of no rows.
pub(super) fn sum(column: &str) -> String {
    parts(column).join(", ")
}

/// The two columns of [`sum`].
pub(super) fn parts(column: &str) -> [String; 2] {
    ["/", "%"].map(|part| format!("CAST(COALESCE(SUM({column} {part} {SPLIT}), 0) AS BIGINT)"))
}

/// The sum whose two columns begin at `first`.
pub(super) fn read(row: &Row<'_>, first: usize) -> sql::Result<i128> {
    let (quotients, rests): (i64, i64) = (row.get(first)?, row.get(first + 1)?);
    Ok(i128::from(quotients) * i128::from(SPLIT) + i128::from(rests))
}

/// A figure that is kept in decimal.
pub(super) fn decimal(row: &Row<'_>, at: usize) -> sql::Result<i128> {
    let text: String = row.get(at)?;
    text.parse().map_err(|_| sql::Error::Value { at, found: text })
}
