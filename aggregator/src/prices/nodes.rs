//! The nodes file: what an operator says that nodes are (instance type, region, labels, ...), for prices to match by.
//!
//! `[[node]]` tables with patterns for `cluster` and `name`; the first in the file that matches decides. What it says
//! outweighs what agents say, field by field and label by label; what it does not say is left as they say it. Refusals
//! name the line, the field, the value and what would be right. Pure.

use std::borrow::Cow;
use std::collections::HashMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use tonnage_proto::limits::{LABELS_PER_NODE_MAX, NAME_BYTES_MAX};

use super::book::BookError;
use super::matcher::{Compiler, Pattern};
use super::parse::Lines;
use crate::model::NodeFacts;

/// Tables of one file.
const NODES_MAX: usize = 10_000;
const KEYS: &str = "cluster, name, instance_type, region, zone, capacity_type and labels";

/// A parsed nodes file. Immutable.
#[derive(Debug, Clone, Default)]
pub struct Nodes {
    nodes: Vec<Node>,
    /// Positions of those whose name is no glob, by it; and of the others. Both in the file's order.
    by_name: HashMap<String, Vec<usize>>,
    globs: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Node {
    cluster: Pattern,
    name: Pattern,
    /// As written.
    patterns: [String; 2],
    facts: NodeFacts,
}

impl Nodes {
    /// Reads a nodes file.
    ///
    /// # Errors
    /// At the first thing that is wrong, with its line.
    pub fn parse(text: &str) -> Result<Self, BookError> {
        let lines = Lines::new("nodes file", text);
        let mut parsed = Self::default();
        let mut compiler = Compiler::default();
        for (key, value) in lines.table()?.get_ref() {
            if key.get_ref() != "node" {
                let reason = "is not a key of a nodes file; it has [[node]] alone";
                return Err(lines.error(key.span().start, "", Some(key.get_ref()), reason));
            }
            let not_tables =
                || lines.wrong("node", value, "is not a list of tables; begin each with [[node]]");
            let DeValue::Array(array) = value.get_ref() else { return Err(not_tables()) };
            if array.len() > NODES_MAX {
                let reason =
                    format!("has {} tables; at most {NODES_MAX}, and a glob may stand for many", array.len());
                return Err(lines.error(value.span().start, "node", None, &reason));
            }
            for item in array {
                let DeValue::Table(table) = item.get_ref() else { return Err(not_tables()) };
                parsed.push(node(&lines, &mut compiler, item.span().start, table)?);
            }
        }
        Ok(parsed)
    }

    fn push(&mut self, node: Node) {
        let at = self.nodes.len();
        match &node.name {
            Pattern::Exact(name) => self.by_name.entry(name.clone()).or_default().push(at),
            Pattern::Glob(_) => self.globs.push(at),
        }
        self.nodes.push(node);
    }

    /// Tables in the file.
    #[must_use]
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// Patterns of cluster and name, and the facts, of each table.
    pub fn tables(&self) -> impl Iterator<Item = (&[String; 2], &NodeFacts)> {
        self.nodes.iter().map(|node| (&node.patterns, &node.facts))
    }

    /// What the agent said of its node, with what the file says in its place.
    pub(super) fn outweigh<'a>(&self, cluster: &str, name: &str, said: &'a NodeFacts) -> Cow<'a, NodeFacts> {
        let Some(node) = self.find(cluster, name) else { return Cow::Borrowed(said) };
        let mut facts = said.clone();
        let own = &node.facts;
        for (fact, own) in [
            (&mut facts.instance_type, &own.instance_type),
            (&mut facts.region, &own.region),
            (&mut facts.zone, &own.zone),
            (&mut facts.capacity_type, &own.capacity_type),
        ] {
            if !own.is_empty() {
                fact.clone_from(own);
            }
        }
        facts.labels.extend(own.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
        Cow::Owned(facts)
    }

    fn find(&self, cluster: &str, name: &str) -> Option<&Node> {
        let is = |at: &&usize| {
            self.nodes.get(**at).is_some_and(|node| node.cluster.matches(cluster) && node.name.matches(name))
        };
        let exact = self.by_name.get(name).into_iter().flatten().find(is);
        let glob = self.globs.iter().find(is);
        let first = exact.into_iter().chain(glob).min()?;
        self.nodes.get(*first)
    }
}

fn node(
    lines: &Lines<'_>,
    compiler: &mut Compiler,
    at: usize,
    table: &DeTable<'_>,
) -> Result<Node, BookError> {
    let (mut cluster, mut name) = ("*".to_owned(), None);
    let mut facts = NodeFacts::default();
    for (key, value) in table {
        let fact = match key.get_ref().as_ref() {
            "cluster" => &mut cluster,
            "name" => name.get_or_insert_default(),
            "instance_type" => &mut facts.instance_type,
            "region" => &mut facts.region,
            "zone" => &mut facts.zone,
            "capacity_type" => &mut facts.capacity_type,
            "labels" => {
                labels(lines, value, &mut facts)?;
                continue;
            }
            other => {
                let reason = format!("is not a key of a node; it has {KEYS}");
                return Err(lines.error(key.span().start, "node", Some(other), &reason));
            }
        };
        *fact = text(lines, &format!("node.{}", key.get_ref()), value)?;
    }
    let name = name.ok_or_else(|| {
        lines.error(at, "node.name", None, "is missing; write the node's name, or a glob as gpu-*")
    })?;
    if facts == NodeFacts::default() {
        let reason = "says nothing of its nodes; give it an instance_type, a region, a zone, a capacity_type or labels";
        return Err(lines.error(at, "node", Some(&name), reason));
    }
    let mut pattern = |field: &str, text: &str| {
        compiler.pattern(text).map_err(|reason| lines.error(at, field, Some(text), &reason))
    };
    Ok(Node {
        cluster: pattern("node.cluster", &cluster)?,
        name: pattern("node.name", &name)?,
        patterns: [cluster, name],
        facts,
    })
}

fn labels(lines: &Lines<'_>, value: &Spanned<DeValue<'_>>, facts: &mut NodeFacts) -> Result<(), BookError> {
    const FIELD: &str = "node.labels";
    let DeValue::Table(labels) = value.get_ref() else {
        return Err(lines.wrong(
            FIELD,
            value,
            "is not a table; write [node.labels] and key = \"value\" below",
        ));
    };
    if labels.len() > LABELS_PER_NODE_MAX {
        let reason = format!("has {} labels; a node has at most {LABELS_PER_NODE_MAX}", labels.len());
        return Err(lines.error(value.span().start, FIELD, None, &reason));
    }
    for (label, value) in labels {
        let name = label.get_ref().as_ref();
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let reason = format!("is not a label's name; it has 1 to {NAME_BYTES_MAX} bytes");
            return Err(lines.error(label.span().start, FIELD, Some(name), &reason));
        }
        facts.labels.insert(name.to_owned(), text(lines, &format!("{FIELD}.{name}"), value)?);
    }
    Ok(())
}

/// A text as facts are: short, and without control characters.
fn text(lines: &Lines<'_>, field: &str, value: &Spanned<DeValue<'_>>) -> Result<String, BookError> {
    let text = lines.text(field, value)?;
    if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        let reason = format!(
            "is not a name; it has 1 to {NAME_BYTES_MAX} bytes and no control characters, or is left out"
        );
        return Err(lines.wrong(field, value, &reason));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
[[node]]
name = \"gpu-01\"
instance_type = \"dgx-h100\"
[node.labels]
rack = \"r1\"

[[node]]
cluster = \"hpc-*\"
name = \"gpu-*\"
region = \"eu\"

[[node]]
name = \"gpu-02\"
region = \"never reached in hpc-a\"
";

    fn said() -> NodeFacts {
        NodeFacts {
            region: "us".into(),
            zone: "us-a".into(),
            labels: [("rack".into(), "r9".into()), ("team".into(), "ml".into())].into(),
            ..NodeFacts::default()
        }
    }

    #[test]
    fn the_first_table_that_matches_outweighs_what_the_agent_says_field_by_field() {
        let nodes = Nodes::parse(FILE).unwrap();
        let said = said();
        let first = nodes.outweigh("hpc-a", "gpu-01", &said);
        assert_eq!((first.instance_type.as_str(), first.region.as_str()), ("dgx-h100", "us"));
        assert_eq!((first.labels["rack"].as_str(), first.labels["team"].as_str()), ("r1", "ml"));
        assert_eq!(
            nodes.outweigh("hpc-a", "gpu-02", &said).region,
            "eu",
            "a glob that stands before the name"
        );
        assert_eq!(nodes.outweigh("other", "gpu-02", &said).region, "never reached in hpc-a");
        assert_eq!(*nodes.outweigh("other", "gpu-03", &said), said);
        assert_eq!(nodes.count(), 3);
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_line_its_field_its_value_and_what_would_be_right() {
        let long = format!("[[node]]\nname = \"{}\"\nzone = \"z\"", "n".repeat(257));
        for (text, said) in [
            (
                "[[nodes]]\n",
                "nodes file line 1: \"nodes\" is not a key of a nodes file; it has [[node]] alone",
            ),
            ("node = 1", "node: \"1\" is not a list of tables"),
            ("[[node]]\nzone = \"z\"", "line 1: node.name: is missing"),
            ("[[node]]\nname = \"n\"", "node: \"n\" says nothing of its nodes"),
            (
                "[[node]]\nname = \"n\"\nregon = \"eu\"",
                "line 3: node: \"regon\" is not a key of a node; it has cluster",
            ),
            ("[[node]]\nname = \"n\"\nregion = 5", "line 3: node.region: \"5\" is not a text; quote it"),
            ("[[node]]\nname = \"n\"\nregion = \"\"", "line 3: node.region: \"\" is not a name"),
            ("[[node]]\nname = \"a[\"\nzone = \"z\"", "node.name: \"a[\" is not a glob"),
            ("[[node]]\nname = \"n\"\nlabels = 1", "line 3: node.labels: \"1\" is not a table"),
            ("[[node]]\nname = \"n\"\n[node.labels]\na = 1", "line 4: node.labels.a: \"1\" is not a text"),
            ("[[node", "is not TOML"),
            (long.as_str(), "is not a name; it has 1 to 256 bytes"),
        ] {
            let error = Nodes::parse(text).unwrap_err().to_string();
            assert!(error.starts_with("nodes file line ") && error.contains(said), "{error}");
        }
        let many = "[[node]]\nname = \"n\"\nzone = \"z\"\n".repeat(NODES_MAX + 1);
        assert!(Nodes::parse(&many).unwrap_err().to_string().contains("at most 10000"));
    }
}
