//! How an owner's team is told. Plain data: `prices::teams` reads it from a file.

use std::collections::BTreeMap;

/// Where a team's name is looked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TeamSource {
    /// The pod's label of this key.
    Label(String),
    /// Its namespace's.
    NamespaceLabel(String),
    /// The map of namespaces.
    Namespaces,
    /// The map of Slurm's accounts.
    Accounts,
}

/// The first source that has a value tells an owner's team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Teams {
    pub sources: Vec<TeamSource>,
    pub namespaces: BTreeMap<String, String>,
    pub accounts: BTreeMap<String, String>,
}

impl Default for Teams {
    /// The label `team` of the pod, else of its namespace, else what the maps say, which are empty.
    fn default() -> Self {
        let label = "team".to_owned();
        let sources = vec![
            TeamSource::Label(label.clone()),
            TeamSource::NamespaceLabel(label),
            TeamSource::Namespaces,
            TeamSource::Accounts,
        ];
        Self { sources, namespaces: BTreeMap::new(), accounts: BTreeMap::new() }
    }
}
