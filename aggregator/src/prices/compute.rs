//! What jobs without GPUs cost: rows of the book for CPU-hours and GB-hours, by cluster and partition.
//!
//! Rows with the same `match` are one series, ordered by `valid_from`; the first series that matches and has a row valid at the
//! slot's start decides, as with GPUs. A GB is 2^30 bytes, as Slurm's `G` is.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use tonnage_proto::decimal;
use tonnage_proto::rest::PriceRow;

use super::book::{BOOK_ROWS_MAX, BookError, rfc3339};
use super::matcher::{Compiler, Pattern};
use super::parse::{Lines, amount, time};
use super::{HOUR_NS, Rate};

const KEYS: &str = "match, valid_from, cpu_hour and gb_hour";
const HOUR_SECONDS: i128 = 3_600;
const GB_BYTES: i128 = 1 << 30;

/// What a partition's CPUs and memory cost in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compute {
    /// Nano-dollars per nanosecond of one CPU.
    pub cpu: Rate,
    /// Nano-dollars per byte-second.
    pub memory: Rate,
    /// Of the book, counted from 1.
    pub line: u32,
}

/// Patterns as written: of the cluster and of the partition.
type Names = [Option<String>; 2];

#[derive(Debug, Clone)]
pub(super) struct Series {
    names: Names,
    patterns: [Option<Pattern>; 2],
    /// Ordered by `valid_from_ns`, no two the same.
    rows: Vec<Row>,
}

#[derive(Debug, Clone)]
struct Row {
    line: u32,
    /// `None` = always.
    valid_from_ns: Option<i64>,
    cpu_hour_nanos: i128,
    gb_hour_nanos: i128,
}

impl Series {
    pub(super) fn is_of_cluster(&self, cluster: &str) -> bool {
        self.patterns[0].as_ref().is_none_or(|pattern| pattern.matches(cluster))
    }

    fn is_of_partition(&self, partition: &str) -> bool {
        self.patterns[1].as_ref().is_none_or(|pattern| !partition.is_empty() && pattern.matches(partition))
    }

    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Each row as two: its CPU-hours and its GB-hours.
    pub(super) fn shown(&self) -> impl Iterator<Item = PriceRow> {
        self.rows.iter().flat_map(|row| {
            [("cpu_hour", row.cpu_hour_nanos), ("gb_hour", row.gb_hour_nanos)].map(|(unit, nanos)| PriceRow {
                line: row.line,
                matches: self.matches(),
                valid_from: row.valid_from_ns.map_or_else(String::new, rfc3339),
                price: decimal::from_nanos(nanos),
                unit: unit.to_owned(),
                weight: String::new(),
                price_per_gpu_hour: String::new(),
            })
        })
    }

    fn matches(&self) -> BTreeMap<String, String> {
        let named = std::iter::zip(["cluster", "partition"], &self.names);
        named.filter_map(|(key, name)| Some((key.to_owned(), name.clone()?))).collect()
    }
}

/// The prices of a partition in the slot that starts at `slot_start_ns`; `None` = unpriced.
pub(super) fn rates(all: &[Series], cluster: &str, partition: &str, slot_start_ns: i64) -> Option<Compute> {
    let valid = |row: &&Row| row.valid_from_ns.is_none_or(|from| from <= slot_start_ns);
    let row = all.iter().find_map(|series| {
        let row = series.rows.iter().rev().find(valid)?;
        (series.is_of_cluster(cluster) && series.is_of_partition(partition)).then_some(row)
    })?;
    Some(Compute {
        cpu: Rate::new(row.cpu_hour_nanos, HOUR_NS)?,
        memory: Rate::new(row.gb_hour_nanos, HOUR_SECONDS * GB_BYTES)?,
        line: row.line,
    })
}

/// Reads the book's `[[compute]]`.
pub(super) fn parse(lines: &Lines<'_>, tables: &Spanned<DeValue<'_>>) -> Result<Vec<Series>, BookError> {
    let not_tables =
        || lines.wrong("compute", tables, "is not a list of tables; begin each price with [[compute]]");
    let DeValue::Array(array) = tables.get_ref() else { return Err(not_tables()) };
    if array.len() > BOOK_ROWS_MAX {
        let reason = format!("has {} rows; a book has at most {BOOK_ROWS_MAX}", array.len());
        return Err(lines.error(tables.span().start, "compute", None, &reason));
    }
    let mut compiler = Compiler::default();
    let mut position: BTreeMap<Names, usize> = BTreeMap::new();
    let mut all: Vec<Series> = Vec::new();
    for item in array {
        let DeValue::Table(table) = item.get_ref() else { return Err(not_tables()) };
        let at = item.span().start;
        let (names, row) = one(lines, at, table)?;
        let index = match position.entry(names) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let patterns = patterns(lines, at, entry.key(), &mut compiler)?;
                all.push(Series { names: entry.key().clone(), patterns, rows: Vec::new() });
                *entry.insert(all.len() - 1)
            }
        };
        let rows = &mut all[index].rows;
        match rows.binary_search_by_key(&row.valid_from_ns, |row| row.valid_from_ns) {
            Ok(same) => {
                let reason = format!(
                    "has the same match and valid_from as line {}; remove one or change its valid_from",
                    rows[same].line
                );
                return Err(lines.error(at, "compute", None, &reason));
            }
            Err(place) => rows.insert(place, row),
        }
    }
    Ok(all)
}

fn patterns(
    lines: &Lines<'_>,
    at: usize,
    names: &Names,
    compiler: &mut Compiler,
) -> Result<[Option<Pattern>; 2], BookError> {
    let mut patterns = [None, None];
    for ((name, key), pattern) in std::iter::zip(names, ["cluster", "partition"]).zip(&mut patterns) {
        let Some(name) = name else { continue };
        let compiled = compiler.pattern(name);
        *pattern = Some(compiled.map_err(|reason| {
            lines.error(at, &format!("compute.match.{key}"), Some(name.as_str()), &reason)
        })?);
    }
    Ok(patterns)
}

fn one(lines: &Lines<'_>, at: usize, table: &DeTable<'_>) -> Result<(Names, Row), BookError> {
    let mut names: Names = [None, None];
    let (mut cpu, mut memory, mut valid_from_ns) = (None, None, None);
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "match" => names = self::names(lines, value)?,
            "valid_from" => valid_from_ns = Some(time(lines, "compute.valid_from", value)?),
            "cpu_hour" => cpu = Some(amount(lines, "compute.cpu_hour", value)?),
            "gb_hour" => memory = Some(amount(lines, "compute.gb_hour", value)?),
            other => {
                let reason = format!("is not a key of a price of CPUs and memory; it has {KEYS}");
                return Err(lines.error(key.span().start, "compute", Some(other), &reason));
            }
        }
    }
    if cpu.is_none() && memory.is_none() {
        let reason = "is missing, and so is compute.gb_hour; write e.g. cpu_hour = \"0.02\"";
        return Err(lines.error(at, "compute.cpu_hour", None, reason));
    }
    let (cpu_hour_nanos, gb_hour_nanos) = (cpu.unwrap_or(0), memory.unwrap_or(0));
    Ok((names, Row { line: lines.line(at), valid_from_ns, cpu_hour_nanos, gb_hour_nanos }))
}

fn names(lines: &Lines<'_>, value: &Spanned<DeValue<'_>>) -> Result<Names, BookError> {
    let DeValue::Table(table) = value.get_ref() else {
        return Err(lines.wrong("compute.match", value, "is not a table; write { partition = \"pattern\" }"));
    };
    let mut names: Names = [None, None];
    for (key, value) in table {
        let (at, field) = match key.get_ref().as_ref() {
            "cluster" => (0, "compute.match.cluster"),
            "partition" => (1, "compute.match.partition"),
            other => {
                let reason = "is not what a price of CPUs can match; there are cluster and partition";
                return Err(lines.error(key.span().start, "compute.match", Some(other), reason));
            }
        };
        names[at] = Some(lines.text(field, value)?.to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use crate::prices::Book;

    const HOUR_NS: i128 = 3_600_000_000_000;

    fn book(rows: &str) -> Result<Book, String> {
        Book::parse(&format!("currency = \"USD\"\n{rows}")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_row_that_matches_decides_from_its_time_on() {
        let book = book(
            "[[compute]]\nmatch = { cluster = \"a\", partition = \"big*\" }\ncpu_hour = \"0.04\"\n\
             [[compute]]\nmatch = { cluster = \"a\" }\ncpu_hour = \"0.02\"\ngb_hour = \"0.003\"\n\
             [[compute]]\nmatch = { cluster = \"a\" }\ncpu_hour = \"0.03\"\nvalid_from = 2026-01-01T00:00:00Z\n",
        )
        .unwrap();
        let hour = |cluster: &str, partition: &str, at_ns| {
            let found = book.compute(cluster, partition, at_ns)?;
            Some((found.cpu.charge(HOUR_NS), found.memory.charge(3_600 << 30)))
        };
        assert_eq!(hour("a", "bigmem", 0), Some((40_000_000, 0)));
        assert_eq!(hour("a", "cpu", 0), Some((20_000_000, 3_000_000)));
        assert_eq!(hour("a", "cpu", 1_767_225_600_000_000_000), Some((30_000_000, 0)));
        assert_eq!(hour("b", "cpu", 0), None, "unpriced");
        assert!(book.prices_jobs_of("a") && !book.prices_jobs_of("b"));
        assert_eq!((book.row_count(), book.rows().len()), (3, 6));
    }

    #[test]
    fn a_row_that_is_wrong_is_named_with_its_line() {
        for (rows, says) in [
            ("[[compute]]\n", "line 2: compute.cpu_hour: is missing"),
            ("[[compute]]\ncpu_hour = 0.02\n", "line 3: compute.cpu_hour: \"0.02\" is a TOML float"),
            ("[[compute]]\ngb_hour = \"-1\"\n", "line 3: compute.gb_hour: \"-1\" is out of range"),
            ("[[compute]]\nprice = \"1\"\n", "line 3: compute: \"price\" is not a key"),
            ("[[compute]]\ncpu_hour = \"1\"\nmatch = { node = \"n\" }\n", "compute.match: \"node\" is not"),
            (
                "[[compute]]\ncpu_hour = \"1\"\nmatch = { partition = \"[\" }\n",
                "compute.match.partition: \"[\"",
            ),
            (
                "[[compute]]\ncpu_hour = \"1\"\n[[compute]]\ngb_hour = \"1\"\n",
                "same match and valid_from as line 2",
            ),
            (
                "[[compute]]\ncpu_hour = \"1\"\nvalid_from = \"now\"\n",
                "compute.valid_from: \"now\" is not a time",
            ),
            ("compute = 1\n", "compute: \"1\" is not a list"),
        ] {
            let error = book(rows).unwrap_err();
            assert!(error.contains(says), "{rows}: {error}");
        }
    }
}
