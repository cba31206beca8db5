//! Small HTTP: a page's status and text whatever the status is, and metrics taken apart strictly.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail};

/// A client that keeps its connections, gives up after 10 s, and takes every status for an answer.
#[must_use]
pub fn http() -> ureq::Agent {
    let config = ureq::Agent::config_builder();
    config.http_status_as_error(false).timeout_global(Some(Duration::from_secs(10))).build().into()
}

/// Status and text of a page.
///
/// # Errors
/// If nobody answers.
pub fn get(http: &ureq::Agent, url: &str, token: Option<&str>) -> anyhow::Result<(u16, String)> {
    let mut request = http.get(url);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut response = request.call().with_context(|| url.to_owned())?;
    let text = response.body_mut().with_config().limit(64 << 20).read_to_string()?;
    Ok((response.status().as_u16(), text))
}

/// Status and text of the answer to some JSON.
///
/// # Errors
/// If nobody answers.
pub fn post(http: &ureq::Agent, url: &str, json: &str) -> anyhow::Result<(u16, String)> {
    let mut response =
        http.post(url).content_type("application/json").send(json).with_context(|| url.to_owned())?;
    let text = response.body_mut().with_config().limit(64 << 20).read_to_string()?;
    Ok((response.status().as_u16(), text))
}

/// One series: its labels and its value.
pub type Series = (BTreeMap<String, String>, f64);

/// Metrics in Prometheus's text format.
#[derive(Debug, Clone, Default)]
pub struct Scrape {
    /// By name.
    pub families: BTreeMap<String, Vec<Series>>,
}

impl Scrape {
    /// Parses strictly: every sample after its family's help and type, no series twice, no label twice.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut scrape = Self::default();
        let (mut helped, mut typed) = (BTreeSet::new(), BTreeMap::new());
        let mut seen = BTreeSet::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let word = |n: usize| line.split(' ').nth(n).unwrap_or_default().to_owned();
            if line.starts_with("# HELP ") {
                anyhow::ensure!(helped.insert(word(2)), "help twice: {line}");
                continue;
            }
            if line.starts_with("# TYPE ") {
                anyhow::ensure!(typed.insert(word(2), word(3)).is_none(), "type twice: {line}");
                continue;
            }
            let (name, labels, value) = sample(line).with_context(|| format!("not a sample: {line}"))?;
            let base = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| name.strip_suffix(end));
            let family = base.filter(|base| typed.contains_key(*base)).unwrap_or(&name);
            anyhow::ensure!(helped.contains(family) && typed.contains_key(family), "no help or type: {line}");
            let counter = typed.get(family).is_some_and(|kind| kind == "counter");
            anyhow::ensure!(!counter || (name.ends_with("_total") && value >= 0.0), "no counter: {line}");
            anyhow::ensure!(seen.insert((name.clone(), labels.clone())), "twice: {line}");
            scrape.families.entry(name).or_default().push((labels, value));
        }
        Ok(scrape)
    }

    /// The series of a name.
    #[must_use]
    pub fn series(&self, name: &str) -> &[Series] {
        self.families.get(name).map_or(&[], Vec::as_slice)
    }

    /// Sum over all series of a name; `None` if there is none.
    #[must_use]
    pub fn sum(&self, name: &str) -> Option<f64> {
        self.families.get(name).map(|series| series.iter().map(|(_, value)| value).sum())
    }
}

fn sample(line: &str) -> anyhow::Result<(String, BTreeMap<String, String>, f64)> {
    let name_end = line.find(['{', ' ']).context("no value")?;
    let (name, rest) = line.split_at(name_end);
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    anyhow::ensure!(!name.is_empty() && name.chars().all(plain), "name");
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    if let Some(mut inner) = rest.strip_prefix('{') {
        loop {
            if let Some(after) = inner.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = inner.split_once("=\"").context("label")?;
            let (value, after) = quoted(after)?;
            anyhow::ensure!(label.chars().all(plain), "label's name");
            anyhow::ensure!(labels.insert(label.to_owned(), value).is_none(), "label twice");
            inner = after.strip_prefix(',').unwrap_or(after);
        }
    }
    let value = rest.strip_prefix(' ').context("no space before the value")?.parse()?;
    Ok((name.to_owned(), labels, value))
}

/// The text up to the closing quote, and what follows.
fn quoted(text: &str) -> anyhow::Result<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => value.push(match chars.next() {
                Some((_, 'n')) => '\n',
                Some((_, c @ ('"' | '\\'))) => c,
                _ => bail!("escape"),
            }),
            c => value.push(c),
        }
    }
    bail!("no closing quote")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_with_quotes_and_commas_are_read_whole() {
        let text = "# HELP a_total Help.\n# TYPE a_total counter\na_total{x=\"p,\\\"q\\\\\",y=\"}\"} 2.5\n";
        let scrape = Scrape::parse(text).unwrap();
        let (labels, value) = &scrape.series("a_total")[0];
        assert_eq!((labels["x"].as_str(), labels["y"].as_str()), ("p,\"q\\", "}"));
        assert!((value - 2.5).abs() < 1e-9 && scrape.sum("a_total").is_some() && scrape.sum("b").is_none());
    }

    #[test]
    fn what_prometheus_would_choke_on_is_refused() {
        let family = "# HELP a A.\n# TYPE a gauge\n";
        for wrong in
            ["a 1\na 1\n", "a{x=\"1\" 1\n", "a{x=\"1\",x=\"2\"} 1\n", "a\n", "a x\n", "b 1\n", "a{x=\"\n"]
        {
            assert!(Scrape::parse(&format!("{family}{wrong}")).is_err(), "{wrong:?}");
        }
        assert!(Scrape::parse("# HELP a A.\n# TYPE a counter\na 1\n").is_err());
    }
}
