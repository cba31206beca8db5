//! Which GPUs a series of prices is for: patterns over the facts of a device and its node.
//!
//! A pattern without `*`, `?`, `[` or `{` is exact text; others are globs. A fact that is not known matches no
//! pattern, not even `*`: a guess is not a price.

use std::collections::{BTreeMap, HashMap};

use globset::{Glob, GlobMatcher};

use super::book::PriceFacts;

/// Distinct globs in one file: each is a compiled automaton, so their number bounds the memory of a book.
const GLOBS_MAX: usize = 1_000;
/// Longest pattern in bytes; names are not longer.
pub(super) const PATTERN_BYTES_MAX: usize = 256;

/// A fact that a pattern can ask for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fact {
    Cluster,
    Node,
    GpuModel,
    InstanceType,
    Region,
    Zone,
    CapacityType,
    Label(String),
}

impl Fact {
    pub(super) const NAMES: &str =
        "gpu_model, instance_type, region, zone, capacity_type, cluster, node and labels";

    /// By its key in the book; labels have a table of their own.
    pub(super) fn from_key(key: &str) -> Option<Self> {
        Some(match key {
            "cluster" => Self::Cluster,
            "node" => Self::Node,
            "gpu_model" => Self::GpuModel,
            "instance_type" => Self::InstanceType,
            "region" => Self::Region,
            "zone" => Self::Zone,
            "capacity_type" => Self::CapacityType,
            _ => return None,
        })
    }

    /// As [`Self::from_key`] reads it; a label as `labels.KEY`.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Cluster => "cluster".to_owned(),
            Self::Node => "node".to_owned(),
            Self::GpuModel => "gpu_model".to_owned(),
            Self::InstanceType => "instance_type".to_owned(),
            Self::Region => "region".to_owned(),
            Self::Zone => "zone".to_owned(),
            Self::CapacityType => "capacity_type".to_owned(),
            Self::Label(key) => format!("labels.{key}"),
        }
    }

    pub(super) fn of<'a>(&self, facts: &PriceFacts<'a>) -> &'a str {
        match self {
            Self::Cluster => facts.cluster,
            Self::Node => facts.node,
            Self::GpuModel => facts.gpu_model,
            Self::InstanceType => &facts.facts.instance_type,
            Self::Region => &facts.facts.region,
            Self::Zone => &facts.facts.zone,
            Self::CapacityType => &facts.facts.capacity_type,
            Self::Label(key) => facts.facts.labels.get(key).map_or("", String::as_str),
        }
    }
}

/// The patterns of one series, as written; equal texts are one series.
pub(super) type Patterns = BTreeMap<Fact, String>;

#[derive(Debug, Clone)]
pub(super) enum Pattern {
    Exact(String),
    Glob(GlobMatcher),
}

impl Pattern {
    pub(super) fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(text) => text == value,
            Self::Glob(glob) => glob.is_match(value),
        }
    }
}

/// All patterns must match; without any, everything does.
#[derive(Debug, Clone)]
pub(super) struct Matcher(Vec<(Fact, Pattern)>);

impl Matcher {
    pub(super) fn matches(&self, facts: &PriceFacts<'_>) -> bool {
        self.0.iter().all(|(fact, pattern)| {
            let value = fact.of(facts);
            !value.is_empty() && pattern.matches(value)
        })
    }
}

/// Compiles patterns, each distinct one once.
#[derive(Debug, Default)]
pub(super) struct Compiler(HashMap<String, GlobMatcher>);

impl Compiler {
    /// The matcher of one series; an error names the fact and says what is wrong with its pattern.
    pub(super) fn matcher(&mut self, patterns: &Patterns) -> Result<Matcher, (Fact, String)> {
        let compiled = patterns.iter().map(|(fact, text)| {
            let pattern = self.pattern(text).map_err(|reason| (fact.clone(), reason))?;
            Ok((fact.clone(), pattern))
        });
        compiled.collect::<Result<_, _>>().map(Matcher)
    }

    pub(super) fn pattern(&mut self, text: &str) -> Result<Pattern, String> {
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX {
            return Err(format!(
                "a pattern has 1 to {PATTERN_BYTES_MAX} bytes; leave the key out to match all"
            ));
        }
        if !text.contains(['*', '?', '[', '{', '\\']) {
            return Ok(Pattern::Exact(text.to_owned()));
        }
        if let Some(glob) = self.0.get(text) {
            return Ok(Pattern::Glob(glob.clone()));
        }
        if self.0.len() >= GLOBS_MAX {
            return Err(format!("a file has at most {GLOBS_MAX} distinct globs; write exact names instead"));
        }
        let glob = Glob::new(text).map_err(|e| format!("is not a glob: {}", e.kind()))?.compile_matcher();
        self.0.insert(text.to_owned(), glob.clone());
        Ok(Pattern::Glob(glob))
    }
}
