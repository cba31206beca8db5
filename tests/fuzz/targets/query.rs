//! A query string of the REST API: its parameters, and the window among them. The first line is the query, so that
//! more of the time goes into queries that can be read.

use rand::RngExt;
use rand::rngs::StdRng;
use tonnage_aggregator::api::params::Params;
use tonnage_aggregator::api::window;
use tonnage_proto::limits::{DAY_NS, SLOT_NS};
use ureq::http::Uri;

use crate::mutate::number;
use crate::target::{Target, promise};

const WORDS: &[&str] = &[
    "window=",
    "limit=",
    "include_idle=true",
    "&",
    "today",
    "yesterday",
    "week",
    "month",
    "lastweek",
    "lastmonth",
    "7d",
    "30m",
    "12h",
    "2w",
    "400d",
    "401d",
    ",",
    "%2C",
    "%",
    "%00",
    "+",
    "2026-01-01T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "2026-01-01T00:00:00%2B01:00",
    "1970-01-01T00:00:00Z",
    "-1",
    "9223372036854775807",
    "é",
    "=",
];
const KNOWN: [&str; 4] = ["window", "limit", "include_idle", "namespace"];
const LIMIT_MAX: usize = 10_000;
/// 1970 and an hour, today, and the last year that windows may lie in.
const NOWS_NS: [i64; 4] =
    [3_600_000_000_001, 1_800_000_000_000_000_000, 1_799_999_999_999_999_999, 7_258_000_000_000_000_000];

pub(crate) fn target() -> Target {
    Target { name: "query", generate, warp, words: WORDS, bytes_max: 8_192, check }
}

fn generate(rng: &mut StdRng) -> Vec<u8> {
    let end = rng.random_range(1_000_000_000..1_800_000_000_u64);
    let start = end - rng.random_range(1..400) * 86_400 + rng.random_range(0..86_400);
    let window = match rng.random_range(0..4) {
        0 => format!("{start},{end}"),
        1 => format!("{}{}", rng.random_range(1..200), ["m", "h", "d"][rng.random_range(0..3)]),
        2 => ["today", "yesterday", "week", "month", "lastweek", "lastmonth"][rng.random_range(0..6)]
            .to_owned(),
        _ => format!("20{:02}-01-02T03:04:05Z,2069-01-01T00:00:00%2B01:00", rng.random_range(68..70)),
    };
    format!("window={window}&limit={}&include_idle=false", rng.random_range(1..=LIMIT_MAX)).into_bytes()
}

fn warp(bytes: Vec<u8>, rng: &mut StdRng) -> Vec<u8> {
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut parts: Vec<String> = text.split('&').map(str::to_owned).collect();
    let at = rng.random_range(0..parts.len());
    let word = |rng: &mut StdRng| WORDS[rng.random_range(0..WORDS.len())];
    parts[at] = match rng.random_range(0..3) {
        0 => format!("window={},{}", number(rng), number(rng)),
        1 => format!("window={}{}", number(rng), ["m", "h", "d", "w", "é"][rng.random_range(0..5)]),
        _ => format!("{}={}{}", KNOWN[rng.random_range(0..KNOWN.len())], word(rng), word(rng)),
    };
    parts.join("&").into_bytes()
}

fn check(bytes: &[u8]) -> Result<bool, String> {
    let text = String::from_utf8_lossy(bytes);
    let query = text.lines().next().unwrap_or_default();
    // Also as it is, since a URL cannot hold everything that a decoded value can.
    let mut accepted = windows(query)?;
    let Ok(uri) = format!("/api/v1/cost/pods?{query}").parse::<Uri>() else { return Ok(accepted) };
    let Ok(mut params) = Params::read(&uri, &KNOWN) else { return Ok(accepted) };
    if let Ok(limit) = params.take_count("limit", 1_000, LIMIT_MAX) {
        promise((1..=LIMIT_MAX).contains(&limit), || format!("limit {limit}"))?;
    }
    if let Some(text) = params.take("window") {
        promise(!text.is_empty() && text.len() <= 4_096, || format!("a value of {} bytes", text.len()))?;
        accepted |= windows(&text)?;
    }
    Ok(accepted)
}

fn windows(text: &str) -> Result<bool, String> {
    let mut accepted = false;
    for now_ns in NOWS_NS {
        match window::parse(text, now_ns) {
            Ok((start_ns, end_ns)) => {
                let on_edges = start_ns.rem_euclid(SLOT_NS) == 0 && end_ns.rem_euclid(SLOT_NS) == 0;
                let length_ns = i128::from(end_ns) - i128::from(start_ns);
                let longest_ns = i128::from(400 * DAY_NS + 2 * SLOT_NS);
                promise(on_edges && length_ns > 0 && length_ns <= longest_ns, || {
                    format!("{text:?} at {now_ns} is from {start_ns} to {end_ns}")
                })?;
                accepted = true;
            }
            Err(reason) => promise(reason.len() < 2_048, || format!("a refusal of {} bytes", reason.len()))?,
        }
    }
    Ok(accepted)
}
