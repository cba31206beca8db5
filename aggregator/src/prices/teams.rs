//! The teams file: how an owner's team is told.
//!
//! ```toml
//! sources = ["label:team", "namespace_label:team", "namespaces", "accounts"]
//! [namespaces]
//! ml = "research"
//! [accounts]
//! phys = "physics"
//! ```
//!
//! Teams group costs and decide none, so the file is no part of the book: a change prices nothing again.

use std::collections::BTreeMap;

use serde::Deserialize;
use tonnage_proto::limits::NAME_BYTES_MAX;

use crate::model::{LABEL_KEY_BYTES_MAX, TeamSource, Teams};

const SOURCES_MAX: usize = 16;
/// Names in both maps.
const NAMES_MAX: usize = 10_000;

/// A teams file that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TeamsError(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    sources: Option<Vec<String>>,
    #[serde(default)]
    namespaces: BTreeMap<String, String>,
    #[serde(default)]
    accounts: BTreeMap<String, String>,
}

/// Reads a teams file.
///
/// # Errors
/// At the first thing that is wrong, with what would be right.
pub fn parse(text: &str) -> Result<Teams, TeamsError> {
    let file: File = toml::from_str(text).map_err(|e| TeamsError(e.to_string().trim_end().to_owned()))?;
    let sources = match file.sources {
        None => Teams::default().sources,
        Some(names) if names.is_empty() || names.len() > SOURCES_MAX => {
            return Err(TeamsError(format!("sources: has {} names; use 1 to {SOURCES_MAX}", names.len())));
        }
        Some(names) => names.iter().map(|name| source(name)).collect::<Result<_, _>>()?,
    };
    if file.namespaces.len() + file.accounts.len() > NAMES_MAX {
        return Err(TeamsError(format!("namespaces and accounts: have more than {NAMES_MAX} names")));
    }
    for (field, map) in [("namespaces", &file.namespaces), ("accounts", &file.accounts)] {
        for text in map.iter().flat_map(|(name, team)| [name, team]) {
            if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
                let right = format!("use 1 to {NAME_BYTES_MAX} bytes without control characters");
                return Err(TeamsError(format!("{field}: {text:?} is not a name; {right}")));
            }
        }
    }
    Ok(Teams { sources, namespaces: file.namespaces, accounts: file.accounts })
}

fn source(name: &str) -> Result<TeamSource, TeamsError> {
    let key = |key: &str| (!key.is_empty() && key.len() <= LABEL_KEY_BYTES_MAX).then(|| key.to_owned());
    let found = match name {
        "namespaces" => Some(TeamSource::Namespaces),
        "accounts" => Some(TeamSource::Accounts),
        name => match name.split_once(':') {
            Some(("label", label)) => key(label).map(TeamSource::Label),
            Some(("namespace_label", label)) => key(label).map(TeamSource::NamespaceLabel),
            _ => None,
        },
    };
    found.ok_or_else(|| {
        let right = "use label:KEY, namespace_label:KEY, namespaces or accounts";
        TeamsError(format!("sources: {name:?} is not a source; {right}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_label_team_and_a_list_is_taken_in_its_order() {
        assert_eq!(parse("").unwrap(), Teams::default());
        let teams =
            parse("sources = [\"accounts\", \"label:a/b\"]\n[accounts]\nphys = \"physics\"\n").unwrap();
        assert_eq!(teams.sources, [TeamSource::Accounts, TeamSource::Label("a/b".into())]);
        assert_eq!(teams.accounts["phys"], "physics");
    }

    #[test]
    fn a_wrong_file_is_refused_with_what_would_be_right() {
        for (text, said) in [
            ("source = []", "unknown field `source`"),
            ("sources = []", "sources: has 0 names; use 1 to 16"),
            ("sources = [\"team\"]", "sources: \"team\" is not a source; use label:KEY"),
            ("sources = [\"label:\"]", "is not a source"),
            ("[namespaces]\nml = \"\"", "namespaces: \"\" is not a name"),
            ("[accounts]\nml = 5", "invalid type"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
