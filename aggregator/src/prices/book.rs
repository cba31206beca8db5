//! The price book: which rate a GPU has in a slot.
//!
//! Rows with the same `match` are one series, ordered by `valid_from`. The first series in the file that matches and
//! has a row valid at the slot's start decides; none = unpriced. A price therefore changes at slots' edges only.

use std::borrow::Cow;
use std::fmt;

use sha2::{Digest, Sha256};
use tonnage_proto::decimal;
use tonnage_proto::rest::{IdlePolicy, PriceRow};

use super::matcher::{Matcher, Patterns};
use super::nodes::Nodes;
use super::unit::Unit;
use super::{Compute, Rate, compute, parse};
use crate::model::NodeFacts;

/// Largest book in bytes.
pub const BOOK_BYTES_MAX: usize = 1 << 20;
/// Rows of a book.
pub const BOOK_ROWS_MAX: usize = 10_000;

/// What the book is asked by.
#[derive(Debug, Clone, Copy)]
pub struct PriceFacts<'a> {
    pub cluster: &'a str,
    pub node: &'a str,
    pub gpu_model: &'a str,
    pub facts: &'a NodeFacts,
}

/// A price book, or a nodes file, that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct BookError {
    /// `price book` or `nodes file`.
    pub file: &'static str,
    /// Counted from 1.
    pub line: u32,
    /// `price.unit`; empty where the file is no TOML at all.
    pub field: String,
    /// What was found there, if anything; cut to 80 characters.
    pub value: Option<String>,
    /// What is wrong with it and what would be right.
    pub reason: String,
}

impl fmt::Display for BookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} line {}: ", self.file, self.line)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        if let Some(value) = &self.value {
            write!(f, "{value:?} ")?;
        }
        f.write_str(&self.reason)
    }
}

/// The row of a book that prices a GPU in a slot, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    pub row: PriceRow,
    /// By the fact's key: the row's pattern, and the value that it matched.
    pub facts: Vec<(String, String, String)>,
    pub rate: Rate,
}

/// One price: from `valid_from_ns` until the next row of its series.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) line: u32,
    /// `None` = always.
    pub(super) valid_from_ns: Option<i64>,
    pub(super) price_nanos: i128,
    pub(super) unit: Unit,
    /// A GPU that is silent is gone, not unobserved.
    pub(super) absent_when_silent: bool,
    /// Instances of a GPU are weighed by their memory.
    pub(super) by_memory: bool,
}

impl Row {
    fn rate(&self, slot_start_ns: i64, slices: u32) -> Option<Rate> {
        self.unit.rate(self.price_nanos, slot_start_ns, slices).map(|rate| rate.weighing(self.by_memory))
    }
}

#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) patterns: Patterns,
    pub(super) matcher: Matcher,
    /// Ordered by `valid_from_ns`, no two the same.
    pub(super) rows: Vec<Row>,
}

/// A parsed book, with the nodes file if there is one, and the text that they came from. Immutable; share it by `Arc`.
#[derive(Debug, Clone)]
pub struct Book {
    pub(super) currency: String,
    pub(super) series: Vec<Series>,
    compute: Vec<compute::Series>,
    idle: IdlePolicy,
    nodes: Nodes,
    text: String,
}

/// Between a book and a nodes file in [`Book::text`]. To TOML it is a comment; a book that has this line itself is read
/// as what it then is.
const NODES_BELOW: &str = "\n# ---- nodes file ----\n";

impl Book {
    /// A book in which everything is unpriced.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            currency: "USD".to_owned(),
            series: Vec::new(),
            compute: Vec::new(),
            idle: IdlePolicy::default(),
            nodes: Nodes::default(),
            text: String::new(),
        }
    }

    /// Reads what [`Book::text`] gave, as the ledger has it: without a file it is nothing.
    ///
    /// # Errors
    /// If it is not that.
    pub fn kept(text: &str) -> Result<Self, BookError> {
        if text.is_empty() { Ok(Self::empty()) } else { Self::parse(text) }
    }

    /// Reads a book from a file.
    ///
    /// # Errors
    /// At the first thing that is wrong, with its line.
    pub fn parse(text: &str) -> Result<Self, BookError> {
        let (prices, nodes) = text.split_once(NODES_BELOW).unwrap_or((text, ""));
        let parse::Prices { currency, idle, series, compute } = parse::book(prices)?;
        Ok(Self { currency, series, compute, idle, nodes: Nodes::parse(nodes)?, text: text.to_owned() })
    }

    /// The text of a book together with a nodes file's; [`Book::parse`] reads it.
    #[must_use]
    pub fn joined(prices: &str, nodes: &str) -> String {
        format!("{prices}{NODES_BELOW}{nodes}")
    }

    /// The rate of a GPU of `slices` slices in the slot that starts at `slot_start_ns`; `None` = unpriced.
    #[must_use]
    pub fn rate(&self, facts: &PriceFacts<'_>, slot_start_ns: i64, slices: u32) -> Option<Rate> {
        let (_, row) = self.found(facts, slot_start_ns)?;
        row.rate(slot_start_ns, slices)
    }

    /// What CPUs and memory of jobs without GPUs cost in the slot that starts at `slot_start_ns`; `None` = unpriced.
    #[must_use]
    pub fn compute(&self, cluster: &str, partition: &str, slot_start_ns: i64) -> Option<Compute> {
        compute::rates(&self.compute, cluster, partition, slot_start_ns)
    }

    /// Has it a price of jobs without GPUs for some partition of this cluster?
    #[must_use]
    pub fn prices_jobs_of(&self, cluster: &str) -> bool {
        self.compute.iter().any(|series| series.is_of_cluster(cluster))
    }

    /// Does a GPU of which nothing is heard go on existing? Yes, unless the row that prices it says `absent`. Asked
    /// for the slot of its last coverage.
    #[must_use]
    pub fn lasts(&self, facts: &PriceFacts<'_>, slot_start_ns: i64) -> bool {
        self.found(facts, slot_start_ns).is_none_or(|(_, row)| !row.absent_when_silent)
    }

    /// The facts by which a node is priced: the nodes file's, and what it does not say as the agent says it.
    #[must_use]
    pub fn facts<'a>(&self, cluster: &str, node: &str, said: &'a NodeFacts) -> Cow<'a, NodeFacts> {
        self.nodes.outweigh(cluster, node, said)
    }

    /// What [`Book::rate`] goes by.
    #[must_use]
    pub fn matched(&self, facts: &PriceFacts<'_>, slot_start_ns: i64, slices: u32) -> Option<Matched> {
        let (series, row) = self.found(facts, slot_start_ns)?;
        let known = self.facts(facts.cluster, facts.node, facts.facts);
        let facts = PriceFacts { facts: &known, ..*facts };
        let matched = series.patterns.iter();
        let matched = matched.map(|(fact, text)| (fact.key(), text.clone(), fact.of(&facts).to_owned()));
        let rate = row.rate(slot_start_ns, slices)?;
        Some(Matched { row: price_row(series, row), facts: matched.collect(), rate })
    }

    fn found(&self, facts: &PriceFacts<'_>, slot_start_ns: i64) -> Option<(&Series, &Row)> {
        let known = self.facts(facts.cluster, facts.node, facts.facts);
        let facts = &PriceFacts { facts: &known, ..*facts };
        let valid = |row: &Row| row.valid_from_ns.is_none_or(|from| from <= slot_start_ns);
        self.series.iter().find_map(|series| {
            let row = series.rows.iter().rev().find(|row| valid(row))?;
            series.matcher.matches(facts).then_some((series, row))
        })
    }

    /// Three capital letters.
    #[must_use]
    pub fn currency(&self) -> &str {
        &self.currency
    }

    /// What shall become of the cost of what nobody held.
    #[must_use]
    pub fn idle(&self) -> IdlePolicy {
        self.idle
    }

    /// The book as it was written, with the nodes file below it if there is one; empty for [`Book::empty`].
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Of [`Book::text`].
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.text.as_bytes()).into()
    }

    /// Tables of the nodes file.
    #[must_use]
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Rows in the book.
    #[must_use]
    pub fn row_count(&self) -> usize {
        let compute: usize = self.compute.iter().map(compute::Series::rows).sum();
        self.series.iter().map(|series| series.rows.len()).sum::<usize>() + compute
    }

    /// All rows, series by series as they first appear, each series by `valid_from`; then those of CPUs and of memory.
    #[must_use]
    pub fn rows(&self) -> Vec<PriceRow> {
        let gpus = self.series.iter().flat_map(|series| series.rows.iter().map(|row| price_row(series, row)));
        gpus.chain(self.compute.iter().flat_map(compute::Series::shown)).collect()
    }
}

fn price_row(series: &Series, row: &Row) -> PriceRow {
    let from_ns = row.valid_from_ns.unwrap_or(0);
    let rate = row.rate(from_ns, 1);
    PriceRow {
        line: row.line,
        matches: series.patterns.iter().map(|(fact, text)| (fact.key(), text.clone())).collect(),
        valid_from: row.valid_from_ns.map_or_else(String::new, rfc3339),
        price: decimal::from_nanos(row.price_nanos),
        unit: row.unit.name().to_owned(),
        weight: if row.by_memory { "memory" } else { "compute" }.to_owned(),
        price_per_gpu_hour: decimal::from_nanos(rate.map_or(0, |rate| rate.per_gpu_hour_nanos(1))),
    }
}

pub(super) fn rfc3339(at_ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at_ns)).map_or_else(|_| String::new(), |at| at.to_string())
}

#[cfg(test)]
mod tests;
