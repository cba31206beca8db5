//! A filter of costs. What is taken stays within its limits, and its opposite (by De Morgan) passes exactly what it does not.

use std::convert::Infallible;

use rand::RngExt;
use rand::rngs::StdRng;
use tonnage_aggregator::filter::{self, Comparison, Expr, FILTER_BYTES_MAX};

use crate::target::{Target, promise};

const WORDS: &[&str] = &[
    "namespace",
    "pod",
    "nodeLabel",
    "[",
    "]",
    "[a/b.c]",
    ":",
    "!:",
    "~:",
    "!~:",
    "<~:",
    "!<~:",
    "~>:",
    "!~>:",
    "\"",
    "\"\"",
    "\"a\"",
    "\"b\",",
    ",",
    "+",
    "|",
    "(",
    ")",
    "((((((((",
    "))))))))",
    "\\",
    "\\\"",
    " ",
    "é",
    "%2B",
    "\0",
];
const FIELDS: [&str; 3] = ["namespace", "pod", "nodeLabel"];
const OPERATORS: [&str; 8] = [":", "!:", "~:", "!~:", "<~:", "!<~:", "~>:", "!~>:"];
const ROWS: [[&str; 3]; 4] = [["", "", ""], ["a", "b", "a"], ["ab", "\"", "\\"], ["__idle__", "é", "b"]];

pub(crate) fn target() -> Target {
    Target { name: "filter", generate, warp, words: WORDS, bytes_max: 2 * FILTER_BYTES_MAX, check }
}

fn generate(rng: &mut StdRng) -> Vec<u8> {
    level(rng, 0).into_bytes()
}

fn level(rng: &mut StdRng, depth: u32) -> String {
    let parts: Vec<String> = (0..rng.random_range(1..4))
        .map(|_| {
            if depth < 3 && rng.random_bool(0.3) {
                return format!("({})", level(rng, depth + 1));
            }
            let values: Vec<String> = (0..rng.random_range(1..4))
                .map(|_| {
                    format!(
                        "\"{}\"",
                        ["", "a", "b", "ab", "é", "\\\"", "\\\\", "__idle__"][rng.random_range(0..8)]
                    )
                })
                .collect();
            let field = ["namespace", "pod", "nodeLabel[a/b.c]"][rng.random_range(0..3)];
            format!("{field}{}{}", OPERATORS[rng.random_range(0..OPERATORS.len())], values.join(","))
        })
        .collect();
    parts.join(["+", "|"][rng.random_range(0..2)])
}

/// Puts one word in the place of another, or a whole filter into parentheses.
fn warp(bytes: Vec<u8>, rng: &mut StdRng) -> Vec<u8> {
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let word = |rng: &mut StdRng| WORDS[rng.random_range(0..WORDS.len())];
    match rng.random_range(0..3) {
        0 => format!("{}{text}{}", "(".repeat(rng.random_range(1..20)), ")".repeat(rng.random_range(1..20))),
        1 => vec![text; rng.random_range(2..80)].join(["+", "|", ","][rng.random_range(0..3)]),
        _ => {
            let (from, to) = (word(rng), word(rng));
            text.replacen(from, to, 1)
        }
    }
    .into_bytes()
}

fn check(bytes: &[u8]) -> Result<bool, String> {
    let text = String::from_utf8_lossy(bytes);
    let field = |name: &str, key: Option<&str>| {
        let at = FIELDS.iter().position(|known| *known == name).ok_or("is no field")?;
        if key.is_some() == (at == 2) { Ok(at) } else { Err("has a key or lacks one".to_owned()) }
    };
    let expr = match filter::parse(&text, field) {
        Ok(expr) => expr,
        Err(error) => {
            let inside = (1..=text.chars().count() + 1).contains(&error.at);
            promise(inside, || format!("an error at {} of {text:?}", error.at))?;
            promise(error.reason.len() < 512, || format!("a refusal of {} bytes", error.reason.len()))?;
            return Ok(false);
        }
    };
    let (comparisons, values) = size(&expr);
    promise(comparisons <= 64 && values <= 256, || format!("{comparisons} comparisons, {values} values"))?;
    let opposite = opposite(&expr);
    for row in ROWS {
        let mut value = |field: &usize| Ok::<_, Infallible>(row[*field].to_owned());
        let (Ok(passes), Ok(fails)) = (expr.passes(&mut value), opposite.passes(&mut value));
        promise(passes != fails, || format!("{text:?} and its opposite both say {passes} of {row:?}"))?;
    }
    Ok(true)
}

fn size(expr: &Expr<usize>) -> (usize, usize) {
    match expr {
        Expr::Is(comparison) => (1, comparison.values.len()),
        Expr::All(inner) | Expr::Any(inner) => {
            inner.iter().map(size).fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
        }
    }
}

fn opposite(expr: &Expr<usize>) -> Expr<usize> {
    match expr {
        Expr::All(inner) => Expr::Any(inner.iter().map(opposite).collect()),
        Expr::Any(inner) => Expr::All(inner.iter().map(opposite).collect()),
        Expr::Is(comparison) => Expr::Is(Comparison { negated: !comparison.negated, ..comparison.clone() }),
    }
}
