//! Reads a price book's TOML. Every refusal names the line, the field, the value and what would be right.
//!
//! Works on toml's spanned values rather than on serde, so that a wrong value's own line is known.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use jiff::Timestamp;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use tonnage_proto::decimal;
use tonnage_proto::limits::{LABELS_PER_NODE_MAX, NAME_BYTES_MAX};
use tonnage_proto::rest::IdlePolicy;

use super::book::{BOOK_BYTES_MAX, BOOK_ROWS_MAX, BookError, Row, Series};
use super::compute;
use super::matcher::{Compiler, Fact, Patterns};
use super::unit::Unit;

/// Highest price per unit, in nano-dollars: a million dollars.
const PRICE_NANOS_MAX: i128 = 1_000_000_000_000_000;
/// GPUs of one node.
const GPUS_PER_NODE_MAX: u32 = 1024;
const PRICE_KEYS: &str = "match, valid_from, price, unit, gpus_per_node, silence and weight";
const UNIT_ADVICE: &str = "use gpu_hour, gpu_month, node_hour or node_month";

/// What a book's file says, series in its order.
pub(super) struct Prices {
    pub(super) currency: String,
    pub(super) idle: IdlePolicy,
    pub(super) series: Vec<Series>,
    pub(super) compute: Vec<compute::Series>,
}

pub(super) fn book(text: &str) -> Result<Prices, BookError> {
    let lines = Lines::new("price book", text);
    let table = lines.table()?;
    let mut currency = None;
    let mut prices = None;
    let mut compute = Vec::new();
    let mut idle = IdlePolicy::default();
    for (key, value) in table.get_ref() {
        match key.get_ref().as_ref() {
            "currency" => currency = Some(self::currency(&lines, value)?),
            "price" => prices = Some(value),
            "compute" => compute = compute::parse(&lines, value)?,
            "idle" => idle = self::idle(&lines, value)?,
            other => {
                let reason = "is not a key of a price book; it has currency, idle, [[price]] and [[compute]]";
                return Err(lines.error(key.span().start, "", Some(other), reason));
            }
        }
    }
    let currency = currency.ok_or_else(|| {
        lines.error(0, "currency", None, "is missing; say what prices are in, e.g. currency = \"USD\"")
    })?;
    let series = prices.map_or(Ok(Vec::new()), |prices| series(&lines, prices))?;
    Ok(Prices { currency, idle, series, compute })
}

/// What shall become of the cost of what nobody held. It is billed by, and no row of the ledger depends on it.
fn idle(lines: &Lines<'_>, value: &Spanned<DeValue<'_>>) -> Result<IdlePolicy, BookError> {
    match lines.text("idle", value)? {
        "report" => Ok(IdlePolicy::Report),
        "share" => Ok(IdlePolicy::Share),
        "platform" => Ok(IdlePolicy::Platform),
        _ => Err(lines.wrong("idle", value, "is none of report, share and platform")),
    }
}

fn currency(lines: &Lines<'_>, value: &Spanned<DeValue<'_>>) -> Result<String, BookError> {
    let text = lines.text("currency", value)?;
    if text.len() == 3 && text.bytes().all(|b| b.is_ascii_uppercase()) {
        return Ok(text.to_owned());
    }
    Err(lines.wrong("currency", value, "is not a currency; use its three capital letters, e.g. USD"))
}

fn series(lines: &Lines<'_>, prices: &Spanned<DeValue<'_>>) -> Result<Vec<Series>, BookError> {
    let not_tables =
        || lines.wrong("price", prices, "is not a list of tables; begin each price with [[price]]");
    let DeValue::Array(array) = prices.get_ref() else { return Err(not_tables()) };
    if array.len() > BOOK_ROWS_MAX {
        let reason = format!("has {} rows; a book has at most {BOOK_ROWS_MAX}", array.len());
        return Err(lines.error(prices.span().start, "price", None, &reason));
    }
    let mut compiler = Compiler::default();
    let mut position: BTreeMap<Patterns, usize> = BTreeMap::new();
    let mut series: Vec<Series> = Vec::new();
    for item in array {
        let DeValue::Table(table) = item.get_ref() else { return Err(not_tables()) };
        let at = item.span().start;
        let (patterns, row) = price(lines, at, table)?;
        let index = match position.entry(patterns) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let matcher = compiler.matcher(entry.key()).map_err(|(fact, reason)| {
                    let value = entry.key().get(&fact).map(String::as_str);
                    lines.error(at, &format!("price.match.{}", fact.key()), value, &reason)
                })?;
                series.push(Series { patterns: entry.key().clone(), matcher, rows: Vec::new() });
                *entry.insert(series.len() - 1)
            }
        };
        let rows = &mut series[index].rows;
        match rows.binary_search_by_key(&row.valid_from_ns, |row| row.valid_from_ns) {
            Ok(same) => {
                let reason = format!(
                    "has the same match and valid_from as line {}; remove one or change its valid_from",
                    rows[same].line
                );
                return Err(lines.error(at, "price", None, &reason));
            }
            Err(place) => rows.insert(place, row),
        }
    }
    Ok(series)
}

fn price(lines: &Lines<'_>, at: usize, table: &DeTable<'_>) -> Result<(Patterns, Row), BookError> {
    let mut patterns = Patterns::new();
    let (mut price, mut unit, mut gpus, mut valid_from_ns) = (None, None, None, None);
    let (mut absent_when_silent, mut by_memory) = (false, false);
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "match" => patterns = self::patterns(lines, value)?,
            "valid_from" => valid_from_ns = Some(time(lines, "price.valid_from", value)?),
            "price" => price = Some(amount(lines, "price.price", value)?),
            "unit" => unit = Some(value),
            "gpus_per_node" => gpus = Some(value),
            "silence" => absent_when_silent = silence(lines, value)?,
            "weight" => by_memory = weight(lines, value)?,
            other => {
                let reason = format!("is not a key of a price; it has {PRICE_KEYS}");
                return Err(lines.error(key.span().start, "price", Some(other), &reason));
            }
        }
    }
    let missing = |field: &str, reason: &str| lines.error(at, field, None, reason);
    let price_nanos =
        price.ok_or_else(|| missing("price.price", "is missing; write e.g. price = \"2.50\""))?;
    let unit = unit.ok_or_else(|| missing("price.unit", &format!("is missing; {UNIT_ADVICE}")))?;
    let unit = self::unit(lines, unit, gpus)?;
    Ok((
        patterns,
        Row { line: lines.line(at), valid_from_ns, price_nanos, unit, absent_when_silent, by_memory },
    ))
}

/// True where instances of a GPU are weighed by their memory.
fn weight(lines: &Lines<'_>, value: &Spanned<DeValue<'_>>) -> Result<bool, BookError> {
    match lines.text("price.weight", value)? {
        "compute" => Ok(false),
        "memory" => Ok(true),
        _ => Err(lines.wrong("price.weight", value, "is neither compute nor memory")),
    }
}

/// True for a GPU that is gone when nothing is heard of it.
fn silence(lines: &Lines<'_>, value: &Spanned<DeValue<'_>>) -> Result<bool, BookError> {
    match lines.text("price.silence", value)? {
        "unobserved" => Ok(false),
        "absent" => Ok(true),
        _ => Err(lines.wrong("price.silence", value, "is neither unobserved nor absent")),
    }
}

fn unit(
    lines: &Lines<'_>,
    value: &Spanned<DeValue<'_>>,
    gpus: Option<&Spanned<DeValue<'_>>>,
) -> Result<Unit, BookError> {
    const GPUS: &str = "price.gpus_per_node";
    let name = lines.text("price.unit", value)?;
    if !Unit::NAMES.contains(&name) {
        return Err(lines.wrong("price.unit", value, &format!("is not a unit; {UNIT_ADVICE}")));
    }
    let per_node = name.starts_with("node");
    let gpus = match (per_node, gpus) {
        (false, None) => 1,
        (false, Some(gpus)) => {
            return Err(lines.wrong(GPUS, gpus, &format!("does not apply to {name}; remove it")));
        }
        (true, None) => {
            let reason = format!("is missing; {name} needs to know among how many GPUs the price is split");
            return Err(lines.error(value.span().start, GPUS, None, &reason));
        }
        (true, Some(gpus)) => integer(gpus)
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| (1..=GPUS_PER_NODE_MAX).contains(n))
            .ok_or_else(|| {
                lines.wrong(GPUS, gpus, &format!("is not an integer from 1 to {GPUS_PER_NODE_MAX}"))
            })?,
    };
    Ok(match name {
        "gpu_hour" => Unit::GpuHour,
        "gpu_month" => Unit::GpuMonth,
        "node_hour" => Unit::NodeHour { gpus },
        _ => Unit::NodeMonth { gpus },
    })
}

pub(super) fn amount(
    lines: &Lines<'_>,
    field: &str,
    value: &Spanned<DeValue<'_>>,
) -> Result<i128, BookError> {
    let nanos = match value.get_ref() {
        DeValue::String(text) => decimal::to_nanos(text),
        DeValue::Integer(_) => integer(value).and_then(|n| n.checked_mul(1_000_000_000)),
        DeValue::Float(_) => {
            let key = field.rsplit('.').next().unwrap_or(field);
            let reason = format!("is a TOML float, which is not exact; quote it, e.g. {key} = \"2.50\"");
            return Err(lines.wrong(field, value, &reason));
        }
        _ => None,
    };
    let nanos = nanos.ok_or_else(|| {
        lines.wrong(field, value, "is not a price; use a quoted decimal with at most nine places")
    })?;
    if !(0..=PRICE_NANOS_MAX).contains(&nanos) {
        return Err(lines.wrong(field, value, "is out of range; a price is from 0 to 1000000"));
    }
    Ok(nanos)
}

pub(super) fn time(lines: &Lines<'_>, field: &str, value: &Spanned<DeValue<'_>>) -> Result<i64, BookError> {
    let text = match value.get_ref() {
        DeValue::String(text) => text.to_string(),
        DeValue::Datetime(at) => at.to_string(),
        _ => String::new(),
    };
    let at = text.parse::<Timestamp>().ok().and_then(|at| i64::try_from(at.as_nanosecond()).ok());
    at.ok_or_else(|| {
        let reason = "is not a time; use RFC 3339 with an offset, e.g. 2026-01-01T00:00:00Z";
        lines.wrong(field, value, reason)
    })
}

fn integer(value: &Spanned<DeValue<'_>>) -> Option<i128> {
    match value.get_ref() {
        DeValue::Integer(n) => i128::from_str_radix(n.as_str(), n.radix()).ok(),
        _ => None,
    }
}

fn patterns(lines: &Lines<'_>, value: &Spanned<DeValue<'_>>) -> Result<Patterns, BookError> {
    let not_a_table =
        |field: &str, value| lines.wrong(field, value, "is not a table; write { key = \"pattern\" }");
    let DeValue::Table(table) = value.get_ref() else { return Err(not_a_table("price.match", value)) };
    let mut patterns = Patterns::new();
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        if name != "labels" {
            let fact = Fact::from_key(name).ok_or_else(|| {
                let reason = format!("is not a fact that a price can match; there are {}", Fact::NAMES);
                lines.error(key.span().start, "price.match", Some(name), &reason)
            })?;
            patterns.insert(fact, lines.text(&format!("price.match.{name}"), value)?.to_owned());
            continue;
        }
        let field = "price.match.labels";
        let DeValue::Table(labels) = value.get_ref() else { return Err(not_a_table(field, value)) };
        if labels.len() > LABELS_PER_NODE_MAX {
            let reason = format!("has {} labels; at most {LABELS_PER_NODE_MAX} can match", labels.len());
            return Err(lines.error(value.span().start, field, None, &reason));
        }
        for (label, value) in labels {
            let name = label.get_ref().as_ref();
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                let reason = format!("is not a label's name; it has 1 to {NAME_BYTES_MAX} bytes");
                return Err(lines.error(label.span().start, field, Some(name), &reason));
            }
            let text = lines.text(&format!("{field}.{name}"), value)?;
            patterns.insert(Fact::Label(name.to_owned()), text.to_owned());
        }
    }
    Ok(patterns)
}

/// A file's text, to name lines and quote values.
pub(super) struct Lines<'a> {
    file: &'static str,
    text: &'a str,
    /// Where each line ends.
    ends: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(file: &'static str, text: &'a str) -> Self {
        Self { file, text, ends: text.match_indices('\n').map(|(at, _)| at).collect() }
    }

    /// The whole file.
    pub(super) fn table(&self) -> Result<Spanned<DeTable<'a>>, BookError> {
        if self.text.len() > BOOK_BYTES_MAX {
            let reason = format!("has {} bytes; it has at most {BOOK_BYTES_MAX}", self.text.len());
            return Err(self.error(0, "", None, &reason));
        }
        DeTable::parse(self.text).map_err(|e| {
            let at = e.span().map_or(0, |span| span.start);
            self.error(at, "", None, &format!("is not TOML: {}", e.message()))
        })
    }

    pub(super) fn line(&self, at: usize) -> u32 {
        u32::try_from(self.ends.partition_point(|end| *end < at) + 1).unwrap_or(u32::MAX)
    }

    pub(super) fn error(&self, at: usize, field: &str, value: Option<&str>, reason: &str) -> BookError {
        let value = value.map(|value| value.chars().take(80).collect());
        let (file, line) = (self.file, self.line(at));
        BookError { file, line, field: field.to_owned(), value, reason: reason.to_owned() }
    }

    /// The value is wrong: quotes it as it was written, without its quotation marks.
    pub(super) fn wrong(&self, field: &str, value: &Spanned<DeValue<'_>>, reason: &str) -> BookError {
        let written = self.text.get(value.span()).unwrap_or_default();
        let shown = match value.get_ref() {
            DeValue::String(text) => text.as_ref(),
            _ => written,
        };
        self.error(value.span().start, field, Some(shown), reason)
    }

    pub(super) fn text<'v>(
        &self,
        field: &str,
        value: &'v Spanned<DeValue<'_>>,
    ) -> Result<&'v str, BookError> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text.as_ref()),
            _ => Err(self.wrong(field, value, "is not a text; quote it")),
        }
    }
}
