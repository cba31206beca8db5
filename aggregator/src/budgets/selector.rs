//! Which usage is an account's: every field that a selector gives must be so.
//!
//! Of several selectors that one row of usage matches, that of the highest [`Rank`] has it. Two of the same rank that one
//! row could match are refused when the second is made, so that the order is total and each row has one account.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tonnage_proto::limits::NAME_BYTES_MAX;

use super::{BudgetError, invalid};
use crate::model::{LABEL_KEY_BYTES_MAX, LABEL_VALUE_BYTES_MAX};

/// Labels that one selector gives of each kind.
const LABELS_MAX: usize = 8;

/// What usage goes to an account. Texts are exact but for `namespace`, in which `*` is any text and `?` one character.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Selector {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Slurm's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Slurm's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Of the pod, all of these.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Of the pod's namespace, all of these.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub namespace_labels: BTreeMap<String, String>,
}

/// What a selector is asked about; empty of what does not apply.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Usage {
    pub cluster: String,
    pub namespace: String,
    pub user: String,
    pub account: String,
    pub partition: String,
}

/// How the pod of some usage and its namespace are labelled in its slot; nothing of what is no pod, or is not told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Labels<'a> {
    pub pod: Option<&'a BTreeMap<String, String>>,
    pub namespace: Option<&'a BTreeMap<String, String>>,
}

/// What goes first, compared from left to right: an account is given, a namespace with more characters that are no
/// wildcards, more labels of the namespace, more of the pod, a namespace of wildcards alone, a user, a partition, a cluster.
///
/// A pod's author writes its labels, so these take no usage away from a namespace that is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(bool, usize, usize, usize, bool, bool, bool, bool);

impl Selector {
    /// # Errors
    /// If it gives nothing, or a text is none.
    pub fn check(&self) -> Result<(), BudgetError> {
        let fields = [
            ("bindings.cluster", &self.cluster),
            ("bindings.account", &self.account),
            ("bindings.partition", &self.partition),
            ("bindings.namespace", &self.namespace),
            ("bindings.user", &self.user),
        ];
        if fields.iter().all(|(_, value)| value.is_none()) && !self.is_by_labels() {
            let reason = "a binding gives at least one of cluster, account, partition, namespace, user, labels, \
                          namespace_labels";
            return Err(invalid("bindings", reason));
        }
        for (field, value) in fields {
            let Some(value) = value else { continue };
            if value.is_empty() || value.len() > NAME_BYTES_MAX {
                let reason =
                    format!("{value:?} has to have 1 to {NAME_BYTES_MAX} bytes; leave it out to match all");
                return Err(invalid(field, reason));
            }
        }
        for (field, labels) in
            [("bindings.labels", &self.labels), ("bindings.namespace_labels", &self.namespace_labels)]
        {
            if labels.len() > LABELS_MAX {
                return Err(invalid(field, format!("{} are given, of at most {LABELS_MAX}", labels.len())));
            }
            for (key, value) in labels {
                let fits = !key.is_empty()
                    && key.len() <= LABEL_KEY_BYTES_MAX
                    && value.len() <= LABEL_VALUE_BYTES_MAX
                    && !key.chars().chain(value.chars()).any(char::is_control);
                if !fits {
                    let reason = format!(
                        "{key:?}: {value:?} is no label; a key has 1 to {LABEL_KEY_BYTES_MAX} bytes, a value at most \
                         {LABEL_VALUE_BYTES_MAX}, and neither control characters"
                    );
                    return Err(invalid(field, reason));
                }
            }
        }
        Ok(())
    }

    /// Does it take labels to tell what matches?
    #[must_use]
    pub fn is_by_labels(&self) -> bool {
        !self.labels.is_empty() || !self.namespace_labels.is_empty()
    }

    #[must_use]
    pub fn matches(&self, usage: &Usage, labels: Labels<'_>) -> bool {
        let exact = |given: &Option<String>, value: &str| given.as_ref().is_none_or(|given| given == value);
        exact(&self.cluster, &usage.cluster)
            && exact(&self.account, &usage.account)
            && exact(&self.partition, &usage.partition)
            && exact(&self.user, &usage.user)
            && self.namespace.as_ref().is_none_or(|glob| is_match(glob, &usage.namespace))
            && has(labels.pod, &self.labels)
            && has(labels.namespace, &self.namespace_labels)
    }

    #[must_use]
    pub fn rank(&self) -> Rank {
        let named = self.namespace.as_ref().map_or(0, |glob| {
            // An exact name goes before every pattern.
            let wild = glob.chars().filter(|c| matches!(c, '*' | '?')).count();
            if wild == 0 { usize::MAX } else { glob.chars().count() - wild }
        });
        let [account, namespace, user, partition, cluster] =
            [&self.account, &self.namespace, &self.user, &self.partition, &self.cluster].map(Option::is_some);
        let [of_namespace, of_pod] = [self.namespace_labels.len(), self.labels.len()];
        Rank(account, named, of_namespace, of_pod, namespace, user, partition, cluster)
    }

    /// Could one row of usage match both, and neither goes first?
    #[must_use]
    pub fn is_ambiguous_with(&self, other: &Self) -> bool {
        let meet = |one: &Option<String>, other: &Option<String>| match (one, other) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        self.rank() == other.rank()
            && meet(&self.cluster, &other.cluster)
            && meet(&self.account, &other.account)
            && meet(&self.partition, &other.partition)
            && meet(&self.user, &other.user)
            && match (&self.namespace, &other.namespace) {
                (Some(one), Some(other)) => globs_meet(one, other),
                _ => true,
            }
            && agree(&self.labels, &other.labels)
            && agree(&self.namespace_labels, &other.namespace_labels)
    }
}

/// Is there each of the wanted labels?
fn has(there: Option<&BTreeMap<String, String>>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| there.and_then(|labels| labels.get(key)) == Some(value))
}

/// Could one pod, or namespace, have all labels of both?
fn agree(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> bool {
    one.iter().all(|(key, value)| other.get(key).is_none_or(|of_other| of_other == value))
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fields = [
            ("cluster", &self.cluster),
            ("account", &self.account),
            ("partition", &self.partition),
            ("namespace", &self.namespace),
            ("user", &self.user),
        ];
        let given = fields.iter().filter_map(|(name, value)| Some(format!("{name} {:?}", value.as_ref()?)));
        let labels = [("label", &self.labels), ("namespace_label", &self.namespace_labels)];
        let labels = labels.into_iter().flat_map(|(kind, labels)| {
            labels.iter().map(move |(key, value)| format!("{kind}:{key} {value:?}"))
        });
        f.write_str(&given.chain(labels).collect::<Vec<_>>().join(", "))
    }
}

/// A glob of `*` and `?` against a name. Goes back to the last star alone, so that no pattern is slow.
pub fn is_match(glob: &str, name: &str) -> bool {
    if name.is_empty() {
        return false;
    }
    let (glob, name): (Vec<char>, Vec<char>) = (glob.chars().collect(), name.chars().collect());
    let (mut at, mut from, mut star) = (0, 0, None);
    while from < name.len() {
        match glob.get(at) {
            Some('*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(c) if *c == '?' || *c == name[from] => (at, from) = (at + 1, from + 1),
            _ => {
                let Some((of_star, taken)) = star else { return false };
                star = Some((of_star, taken + 1));
                (at, from) = (of_star + 1, taken + 1);
            }
        }
    }
    glob[at..].iter().all(|c| *c == '*')
}

/// Is there a name that both globs match?
fn globs_meet(one: &str, other: &str) -> bool {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    // Whether the rests from each place on meet, from the end.
    let mut meets = vec![vec![false; other.len() + 1]; one.len() + 1];
    for at in (0..=one.len()).rev() {
        for of in (0..=other.len()).rev() {
            meets[at][of] = match (one.get(at), other.get(of)) {
                (None, None) => true,
                (Some('*'), of_other) => meets[at + 1][of] || of_other.is_some() && meets[at][of + 1],
                (of_one, Some('*')) => meets[at][of + 1] || of_one.is_some() && meets[at + 1][of],
                (Some(a), Some(b)) => (a == b || *a == '?' || *b == '?') && meets[at + 1][of + 1],
                _ => false,
            };
        }
    }
    meets[0][0]
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn namespace(glob: &str) -> Selector {
        Selector { namespace: Some(glob.into()), ..Selector::default() }
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn labelled(pairs: &[(&str, &str)]) -> Selector {
        Selector { labels: labels(pairs), ..Selector::default() }
    }

    fn in_namespace(name: &str) -> Usage {
        Usage { cluster: "c".into(), namespace: name.into(), ..Usage::default() }
    }

    #[test]
    fn all_that_is_given_must_be_so() {
        let selector =
            Selector { cluster: Some("c".into()), account: Some("physics".into()), ..Selector::default() };
        let usage = Usage {
            cluster: "c".into(),
            account: "physics".into(),
            partition: "gpu".into(),
            ..Usage::default()
        };
        assert!(selector.matches(&usage, Labels::default()));
        assert!(!selector.matches(&Usage { cluster: "d".into(), ..usage.clone() }, Labels::default()));
        assert!(!selector.matches(&Usage { account: String::new(), ..usage }, Labels::default()));
    }

    #[test]
    fn a_glob_matches_whole_names_and_never_usage_without_a_namespace() {
        for (glob, name, expected) in [
            ("team-*", "team-a", true),
            ("team-*", "team-", true),
            ("team-*", "my-team-a", false),
            ("*-dev", "a-dev-dev", true),
            ("*-dev", "a-dev-x", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*", "x", true),
            ("*", "", false),
            ("a*b*c", "a-b-b-c", true),
        ] {
            let matches = namespace(glob).matches(&in_namespace(name), Labels::default());
            assert_eq!(matches, expected, "{glob} {name}");
        }
    }

    #[test]
    fn two_globs_meet_where_a_name_matches_both() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let mut text = |letters: &[u8], most| -> String {
            (0..rng.random_range(1..=most))
                .map(|_| char::from(letters[rng.random_range(0..letters.len())]))
                .collect()
        };
        // All names of up to six of two letters stand for all there are: globs of four characters tell no longer ones apart.
        let names: Vec<String> = (1..=8_u32)
            .flat_map(|length| {
                (0..1_u32 << length).map(move |bits| {
                    (0..length).map(|at| if bits >> at & 1 == 1 { 'a' } else { 'b' }).collect()
                })
            })
            .collect();
        for _ in 0..500 {
            let (one, other) = (text(b"ab*?", 4), text(b"ab*?", 4));
            let both = names.iter().any(|name| is_match(&one, name) && is_match(&other, name));
            assert_eq!(globs_meet(&one, &other), both, "{one} {other}");
        }
    }

    #[test]
    fn what_is_nearer_goes_first_and_what_is_as_near_is_ambiguous() {
        let account = |user: Option<&str>, partition: Option<&str>| Selector {
            account: Some("physics".into()),
            user: user.map(str::to_owned),
            partition: partition.map(str::to_owned),
            ..Selector::default()
        };
        let user = Selector { user: Some("ada".into()), ..Selector::default() };
        let order = [
            account(Some("ada"), None),
            account(None, Some("gpu")),
            account(None, None),
            Selector { labels: labels(&[("team", "a")]), ..namespace("team-a") },
            namespace("team-a"),
            namespace("team-*"),
            Selector { namespace_labels: labels(&[("cost", "7")]), ..labelled(&[("team", "a")]) },
            Selector { namespace_labels: labels(&[("cost", "7")]), ..Selector::default() },
            labelled(&[("team", "a"), ("app", "b")]),
            Selector { labels: labels(&[("team", "a")]), ..namespace("*") },
            labelled(&[("team", "a")]),
            namespace("*"),
            user,
            Selector { cluster: Some("c".into()), ..Selector::default() },
        ];
        assert!(order.is_sorted_by(|one, next| one.rank() > next.rank()));
        assert!(namespace("a*").is_ambiguous_with(&namespace("*a")));
        assert!(!namespace("a*").is_ambiguous_with(&namespace("b*")));
        assert!(!account(None, Some("gpu")).is_ambiguous_with(&account(None, Some("cpu"))));
        assert!(account(None, None).is_ambiguous_with(&account(None, None)));
        assert!(labelled(&[("team", "a")]).is_ambiguous_with(&labelled(&[("app", "b")])));
        assert!(!labelled(&[("team", "a")]).is_ambiguous_with(&labelled(&[("team", "b")])));
        assert!(!labelled(&[("team", "a")]).is_ambiguous_with(&labelled(&[("team", "a"), ("app", "b")])));
    }

    #[test]
    fn labels_match_where_all_of_them_are_there_and_nothing_that_is_no_pod() {
        let selector = Selector {
            labels: labels(&[("team", "a"), ("app", "")]),
            namespace_labels: labels(&[("cost", "7")]),
            ..Selector::default()
        };
        let (pod, namespace) = (labels(&[("app", ""), ("team", "a"), ("x", "y")]), labels(&[("cost", "7")]));
        let usage = in_namespace("ml");
        let all = Labels { pod: Some(&pod), namespace: Some(&namespace) };
        assert!(selector.matches(&usage, all));
        let few = labels(&[("team", "a")]);
        for labels in [
            Labels::default(),
            Labels { pod: None, ..all },
            Labels { namespace: None, ..all },
            Labels { pod: Some(&few), ..all },
            Labels { namespace: Some(&pod), ..all },
        ] {
            assert!(!selector.matches(&usage, labels), "{labels:?}");
        }
    }

    #[test]
    fn a_selector_of_nothing_or_of_an_empty_text_is_refused() {
        assert!(Selector::default().check().is_err());
        let error = namespace("").check().unwrap_err().to_string();
        assert!(error.contains("bindings.namespace"), "{error}");
        assert!(namespace("a").check().is_ok());
        assert!(labelled(&[("team", "")]).check().is_ok());
        let (key, value) = ("k".repeat(LABEL_KEY_BYTES_MAX + 1), "v".repeat(LABEL_VALUE_BYTES_MAX + 1));
        let many: Vec<String> = (0..=LABELS_MAX).map(|at| format!("k{at}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|key| (key.as_str(), "v")).collect();
        for bad in [&[("", "a")][..], &[(&key, "a")], &[("a", &value)], &[("a", "b\0")], &many] {
            for selector in [labelled(bad), Selector { namespace_labels: labels(bad), ..Selector::default() }]
            {
                let error = selector.check().unwrap_err().to_string();
                assert!(error.contains("labels"), "{error}");
            }
        }
    }
}
