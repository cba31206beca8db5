//! What costs can be grouped and filtered by, as requests call it. Pure.

use crate::api::error::{ApiError, quoted};
use crate::filter::{self, Expr};
use crate::store::query::{Dimension, Field};

/// Groupings in one request.
const DIMENSIONS_MAX: usize = 16;
/// Bytes of a label's key: Kubernetes allows a prefix of 253, a slash and 63.
const KEY_BYTES_MAX: usize = 317;
/// OpenCost's words, and ours as its clients would write them.
const ALIASES: [(&str, &str); 8] = [
    ("podUid", "pod_uid"),
    ("capacityType", "capacity_type"),
    ("instanceType", "instance_type"),
    ("sharingMode", "sharing_mode"),
    ("controllerName", "controller"),
    ("controllerKind", "controller_kind"),
    ("nodeLabel", "node_label"),
    ("namespaceLabel", "namespace_label"),
];
/// OpenCost's fields of which the ledger knows nothing: no row has a value there.
const NEVER: [&str; 1] = ["provider"];
/// The words that people look for first, and what there is in their place.
const INSTEAD: [(&str, &str); 4] = [
    ("label", "name a label of pods, as in label:app"),
    ("namespace_label", "name a label of namespaces, as in namespace_label:team"),
    ("annotation", "annotations are not in the ledger; labels of pods are label:KEY"),
    ("provider", "the provider is not in the ledger; cluster, region and instance_type are"),
];

/// The dimensions of an `aggregate`, with commas between.
///
/// # Errors
/// If one is not known, or named twice, or there are too many.
pub(super) fn aggregate(list: &str) -> Result<Vec<Dimension>, ApiError> {
    let wrong = |message: String| ApiError::invalid("aggregate", message);
    let mut by = Vec::new();
    for name in list.split(',') {
        let dimension = dimension(name)
            .map_err(|reason| wrong(format!("aggregate {:?} is not known: {reason}", quoted(name))))?;
        if by.contains(&dimension) {
            return Err(wrong(format!("aggregate names {} twice; name it once", quoted(name))));
        }
        by.push(dimension);
        if by.len() > DIMENSIONS_MAX {
            return Err(wrong(format!("aggregate has more than {DIMENSIONS_MAX} names; leave some out")));
        }
    }
    Ok(by)
}

/// A `filter`.
///
/// # Errors
/// If it cannot be read, or names a field that is not known.
pub(crate) fn condition(text: &str) -> Result<Expr<Field>, ApiError> {
    let field = |name: &str, key: Option<&str>| {
        if NEVER.contains(&canonical(name)) && key.is_none() {
            return Ok(None);
        }
        let full = key.map_or_else(|| name.to_owned(), |key| format!("{name}:{key}"));
        dimension(&full).map(Some).map_err(|reason| format!("{:?} is not a field: {reason}", quoted(&full)))
    };
    filter::parse(text, field).map_err(|error| ApiError::invalid("filter", format!("filter, {error}")))
}

fn dimension(name: &str) -> Result<Dimension, String> {
    let (word, key) = name.split_once(':').map_or((name, None), |(word, key)| (word, Some(key)));
    let word = canonical(word);
    if key.is_some_and(|key| key.len() > KEY_BYTES_MAX) {
        return Err(format!("its key has more than {KEY_BYTES_MAX} bytes"));
    }
    let full = key.map_or_else(|| word.to_owned(), |key| format!("{word}:{key}"));
    Dimension::from_name(&full).ok_or_else(|| {
        let instead = INSTEAD.into_iter().find(|(known, _)| *known == word).map(|(_, instead)| instead);
        instead.map_or_else(
            || {
                let known: Vec<&str> = Dimension::ALL.iter().map(|(_, name)| *name).collect();
                format!("use {}, node_label:KEY, label:KEY, namespace_label:KEY", known.join(", "))
            },
            str::to_owned,
        )
    })
}

fn canonical(word: &str) -> &str {
    ALIASES.into_iter().find(|(alias, _)| *alias == word).map_or(word, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aggregate_is_known_and_named_once() {
        assert_eq!(aggregate("node,pod").unwrap(), [Dimension::Node, Dimension::Pod]);
        let label = Dimension::NodeLabel("example.com/rack".into());
        assert_eq!(aggregate("capacityType,node_label:example.com/rack").unwrap()[1], label);
        let many = (0..17).map(|at| format!("node_label:k{at}")).collect::<Vec<_>>().join(",");
        for (list, said) in [
            ("provider", "\"provider\" is not known: the provider is not in the ledger"),
            ("annotation:app", "annotations are not in the ledger"),
            ("label", "\"label\" is not known: name a label of pods, as in label:app"),
            ("namespace_label:", "\"namespace_label:\" is not known: name a label of namespaces"),
            ("controllerKind,controller_kind", "twice"),
            ("pod,pod", "twice"),
            ("capacity_type,capacityType", "twice"),
            ("pod,", "\"\" is not known: use cluster, node"),
            ("node_label:", "is not known"),
            (many.as_str(), "more than 16 names"),
        ] {
            let error = aggregate(list).unwrap_err().answer("x").error;
            assert!(error.message.contains(said), "{}", error.message);
            assert_eq!(error.field.as_deref(), Some("aggregate"));
        }
    }

    #[test]
    fn a_filter_names_opencosts_fields_and_ours() {
        for known in [
            "cluster",
            "node",
            "namespace",
            "pod",
            "container",
            "controllerName",
            "controllerKind",
            "team",
            "label[app.kubernetes.io/name]",
            "namespaceLabel[team]",
            "namespace_label[team]",
            "provider",
            "device",
            "model",
            "job",
            "user",
            "account",
            "partition",
            "profile",
            "capacityType",
            "sharingMode",
            "nodeLabel[a/b]",
            "pool",
            "region",
        ] {
            assert!(condition(&format!("{known}:\"x\"")).is_ok(), "{known}");
        }
        for (text, said) in [
            ("label:\"x\"", "\"label\" is not a field: name a label of pods"),
            ("colour:\"x\"", "\"colour\" is not a field: use cluster"),
            ("provider[x]:\"y\"", "is not a field"),
            ("namespace:\"a\"|hue:\"b\"", "at character 15: \"hue\" is not a field: use cluster"),
            ("namespace=\"a\"", "at character 10: found"),
        ] {
            let error = condition(text).unwrap_err().answer("x").error;
            assert!(error.message.contains(said), "{}", error.message);
            assert_eq!(error.field.as_deref(), Some("filter"));
        }
    }
}
