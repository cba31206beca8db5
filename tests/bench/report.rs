//! How figures are shown, and the little statistics that they need.

use std::fmt::Display;

/// One figure.
#[allow(clippy::print_stdout, reason = "printing figures is what the benchmark is for")]
pub(crate) fn figure(name: &str, value: impl Display, unit: &str, note: &str) {
    if note.is_empty() {
        println!("{name} {value} {unit}");
    } else {
        println!("{name} {value} {unit} ({note})");
    }
}

/// Something to know about the figures below.
#[allow(clippy::print_stdout, reason = "as above")]
pub(crate) fn note(text: &str) {
    println!("# {text}");
}

/// What the figures were measured on.
pub(crate) fn machine() {
    let first = |path: &str, key: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
        line.split_once(':').map_or(line.trim().to_owned(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    note(&format!(
        "{cores} cores, {}; memory {}; Linux {}",
        first("/proc/cpuinfo", "model name"),
        first("/proc/meminfo", "MemTotal"),
        first("/proc/sys/kernel/osrelease", ""),
    ));
}

/// The middle one; of none, nothing.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The smallest value that so large a part of all does not exceed.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a short list")]
pub(crate) fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert!((percentile(&values, 0.99) - 198.0).abs() < 1e-9);
        assert!((median(&values) - 100.0).abs() < 1e-9);
        assert!((percentile(&[7.0], 0.99) - 7.0).abs() < 1e-9);
    }
}
