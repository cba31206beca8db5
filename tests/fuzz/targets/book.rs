//! A price book, with or without a nodes file: what is taken reads back the same, prices nothing below zero, and keeps
//! its limits.

use rand::RngExt;
use rand::rngs::StdRng;
use tonnage_aggregator::model::NodeFacts;
use tonnage_aggregator::prices::book::{BOOK_BYTES_MAX, BOOK_ROWS_MAX};
use tonnage_aggregator::prices::{Book, PriceFacts};
use tonnage_proto::decimal;
use tonnage_proto::limits::{SLICES_MAX, slot_start};
use tonnage_proto::rest::PriceRow;

use crate::mutate::{EDGES, number, text};
use crate::target::{Target, promise};

const WORDS: &[&str] = &[
    "[[price]]",
    "[[node]]",
    "name = \"n*\"\n",
    "instance_type = \"i\"\n",
    "currency = \"USD\"\n",
    "match = { gpu_model = \"NVIDIA H100*\" }\n",
    "labels = { a = \"b\" }",
    "valid_from = 2026-01-01T00:00:00Z\n",
    "price = \"2.50\"\n",
    "unit = \"gpu_hour\"\n",
    "unit = \"node_month\"\n",
    "gpus_per_node = 8\n",
    "1e9",
    "0x10",
    "-0",
    "nan",
    "\"\"\"",
    "{",
    "}",
    "[",
    "]",
    "*",
    "?",
    "[!a]",
    "{a,b}",
    "\\u0000",
    "#",
];

pub(crate) fn target() -> Target {
    Target { name: "book", generate, warp, words: WORDS, bytes_max: 2 * BOOK_BYTES_MAX + 99, check }
}

fn generate(rng: &mut StdRng) -> Vec<u8> {
    let mut book = "currency = \"USD\"\n".to_owned();
    for at in 0..rng.random_range(0..6) {
        let unit = ["gpu_hour", "gpu_month", "node_hour", "node_month"][rng.random_range(0..4)];
        let price = decimal::from_nanos(rng.random_range(0..=1_000_000_000_000_000));
        book += &format!("[[price]]\nprice = \"{price}\"\nunit = \"{unit}\"\n");
        if unit.starts_with("node") {
            book += &format!("gpus_per_node = {}\n", rng.random_range(1..=1024));
        }
        book += match rng.random_range(0..4) {
            0 => "match = { gpu_model = \"NVIDIA H100*\", labels = { \"a.b/c\" = \"?\" } }\n",
            1 => "match = { region = \"eu\", node = \"n[0-9]\" }\n",
            2 => "match = { cluster = \"c\", zone = \"{a,b}\" }\n",
            _ => "",
        };
        book += &format!("valid_from = \"20{:02}-0{}-01T00:00:00Z\"\n", rng.random_range(10..70), at + 1);
    }
    if rng.random_bool(0.3) {
        book = Book::joined(&book, &nodes(rng));
    }
    book.into_bytes()
}

fn nodes(rng: &mut StdRng) -> String {
    let mut file = String::new();
    for _ in 0..rng.random_range(0..5) {
        let name = ["n1", "n*", "n[0-9]", "*"][rng.random_range(0..4)];
        file += &format!("[[node]]\nname = \"{name}\"\n");
        if rng.random() {
            file += "cluster = \"{a,c}\"\n";
        }
        file += match rng.random_range(0..3) {
            0 => "region = \"eu\"\n",
            1 => "zone = \"b\"\ncapacity_type = \"spot\"\n",
            _ => "[node.labels]\n\"a.b/c\" = \"y\"\n",
        };
    }
    file
}

/// Another value on one line.
fn warp(bytes: Vec<u8>, rng: &mut StdRng) -> Vec<u8> {
    let whole = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines: Vec<String> = whole.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        return bytes;
    }
    let at = rng.random_range(0..lines.len());
    let value = match rng.random_range(0..4) {
        0 => number(rng).to_string(),
        1 => format!("{:?}", text(rng)),
        2 => format!("\"{}.{}\"", number(rng), number(rng)),
        _ => format!("\"{:04}-12-31T23:59:60-23:59\"", rng.random_range(0..10_000)),
    };
    match lines[at].split_once('=') {
        Some((key, _)) => lines[at] = format!("{key}= {value}"),
        None => lines.insert(at, WORDS[rng.random_range(0..WORDS.len())].to_owned()),
    }
    lines.join("\n").into_bytes()
}

fn check(bytes: &[u8]) -> Result<bool, String> {
    let text = String::from_utf8_lossy(bytes);
    let book = match Book::parse(&text) {
        Ok(book) => book,
        Err(error) => {
            let lines = text.matches('\n').count() + 1;
            let line = usize::try_from(error.line).unwrap_or(usize::MAX);
            promise((1..=lines).contains(&line), || format!("line {line} of {lines}: {error}"))?;
            promise(error.to_string().len() < 4_096, || "an endless refusal".to_owned())?;
            return Ok(false);
        }
    };
    let rows = book.rows();
    promise(rows.len() == book.row_count() && rows.len() <= BOOK_ROWS_MAX, || {
        format!("{} rows", rows.len())
    })?;
    promise(text.len() <= 2 * BOOK_BYTES_MAX + 64 && book.text() == text, || "another text".to_owned())?;
    outweighed(&book)?;
    let again = Book::parse(book.text()).map_err(|e| format!("its own text is refused: {e}"))?;
    promise(again.rows() == rows, || "its own text reads otherwise".to_owned())?;
    // Written anew from what it says of itself. How many GPUs a node has it does not say.
    if rows.iter().all(|row| row.unit.starts_with("gpu")) {
        let written = written(&book, &rows);
        let anew = Book::parse(&written).map_err(|e| format!("{e} in\n{written}"))?;
        let same = |a: &PriceRow, b: &PriceRow| {
            PriceRow { line: 0, ..a.clone() } == PriceRow { line: 0, ..b.clone() }
        };
        let all = anew.rows().len() == rows.len() && anew.rows().iter().zip(&rows).all(|(a, b)| same(a, b));
        promise(all, || format!("reads otherwise when written anew:\n{written}"))?;
    }
    rates(&book)?;
    Ok(true)
}

fn written(book: &Book, rows: &[PriceRow]) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let mut text = format!("currency = {}\n", quoted(book.currency()));
    for row in rows {
        text += &format!("[[price]]\nprice = {}\nunit = {}\n", quoted(&row.price), quoted(&row.unit));
        if !row.valid_from.is_empty() {
            text += &format!("valid_from = {}\n", quoted(&row.valid_from));
        }
        let pairs = |label: bool| {
            let pairs =
                row.matches.iter().filter_map(move |(key, value)| match key.strip_prefix("labels.") {
                    Some(key) => label.then(|| format!("{} = {}", quoted(key), quoted(value))),
                    None => (!label).then(|| format!("{key} = {}", quoted(value))),
                });
            pairs.collect::<Vec<_>>()
        };
        let mut all = pairs(false);
        if !pairs(true).is_empty() {
            all.push(format!("labels = {{ {} }}", pairs(true).join(", ")));
        }
        text += &format!("match = {{ {} }}\n", all.join(", "));
    }
    text
}

/// What the nodes file says of a node stands in the place of what is said, and nothing else is lost.
fn outweighed(book: &Book) -> Result<(), String> {
    let said =
        NodeFacts { region: "r".into(), labels: [("l".into(), "v".into())].into(), ..NodeFacts::default() };
    let facts = book.facts("c", "n1", &said);
    let tables: Vec<&NodeFacts> = book.nodes().tables().map(|(_, facts)| facts).collect();
    let by_one = |facts: &NodeFacts| {
        let or_said = |own: &String| if own.is_empty() { "r".to_owned() } else { own.clone() };
        tables.iter().any(|own| {
            own.instance_type == facts.instance_type
                && or_said(&own.region) == facts.region
                && own.labels.iter().all(|(key, value)| facts.labels.get(key) == Some(value))
        })
    };
    promise(*facts == said || by_one(&facts), || format!("facts of no table: {facts:?}"))?;
    promise(facts.labels.contains_key("l"), || "a label was lost".to_owned())
}

/// No slot of any time costs less than nothing, or more than the highest price.
fn rates(book: &Book) -> Result<(), String> {
    let labels = [("a".to_owned(), "b".to_owned()), ("a.b/c".to_owned(), "x".to_owned())].into();
    let facts = NodeFacts { region: "eu".into(), zone: "a".into(), labels, ..NodeFacts::default() };
    let facts = PriceFacts { cluster: "c", node: "n1", gpu_model: "NVIDIA H100 80GB HBM3", facts: &facts };
    for edge in EDGES {
        let at_ns = i64::try_from(edge).unwrap_or(i64::MAX - 900_000_000_000);
        for slices in [1, 7, SLICES_MAX] {
            let Some(rate) = book.rate(&facts, slot_start(at_ns), slices) else { continue };
            let hour = rate.per_gpu_hour_nanos(slices);
            promise((0..=1_000_000_000_000_000).contains(&hour), || format!("{hour} nano-dollars an hour"))?;
        }
    }
    Ok(())
}
