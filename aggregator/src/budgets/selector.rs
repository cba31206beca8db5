//! Which usage is an account's: every field that a selector gives must be so.
//!
//! Of several selectors that one row of usage matches, that of the highest [`Rank`] has it. Two of the same rank that one
//! row could match are refused when the second is made, so that the order is total and each row has one account.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tonnage_proto::limits::NAME_BYTES_MAX;

use super::{BudgetError, invalid};

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

/// What goes first, compared from left to right: an account is given, a namespace with more characters that are no
/// wildcards, a user, a partition, a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(bool, usize, bool, bool, bool);

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
        if fields.iter().all(|(_, value)| value.is_none()) {
            let reason = "a binding gives at least one of cluster, account, partition, namespace, user";
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
        Ok(())
    }

    #[must_use]
    pub fn matches(&self, usage: &Usage) -> bool {
        let exact = |given: &Option<String>, value: &str| given.as_ref().is_none_or(|given| given == value);
        exact(&self.cluster, &usage.cluster)
            && exact(&self.account, &usage.account)
            && exact(&self.partition, &usage.partition)
            && exact(&self.user, &usage.user)
            && self.namespace.as_ref().is_none_or(|glob| is_match(glob, &usage.namespace))
    }

    #[must_use]
    pub fn rank(&self) -> Rank {
        let namespace = self.namespace.as_ref().map_or(0, |glob| {
            // An exact name goes before every pattern.
            let wild = glob.chars().filter(|c| matches!(c, '*' | '?')).count();
            if wild == 0 { usize::MAX } else { 1 + glob.chars().count() - wild }
        });
        let [account, user, partition, cluster] =
            [&self.account, &self.user, &self.partition, &self.cluster].map(Option::is_some);
        Rank(account, namespace, user, partition, cluster)
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
    }
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
        f.write_str(&given.collect::<Vec<_>>().join(", "))
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
        assert!(selector.matches(&usage));
        assert!(!selector.matches(&Usage { cluster: "d".into(), ..usage.clone() }));
        assert!(!selector.matches(&Usage { account: String::new(), ..usage }));
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
            assert_eq!(namespace(glob).matches(&in_namespace(name)), expected, "{glob} {name}");
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
            namespace("team-a"),
            namespace("team-*"),
            namespace("*"),
            user,
            Selector { cluster: Some("c".into()), ..Selector::default() },
        ];
        assert!(order.is_sorted_by(|one, next| one.rank() > next.rank()));
        assert!(namespace("a*").is_ambiguous_with(&namespace("*a")));
        assert!(!namespace("a*").is_ambiguous_with(&namespace("b*")));
        assert!(!account(None, Some("gpu")).is_ambiguous_with(&account(None, Some("cpu"))));
        assert!(account(None, None).is_ambiguous_with(&account(None, None)));
    }

    #[test]
    fn a_selector_of_nothing_or_of_an_empty_text_is_refused() {
        assert!(Selector::default().check().is_err());
        let error = namespace("").check().unwrap_err().to_string();
        assert!(error.contains("bindings.namespace"), "{error}");
        assert!(namespace("a").check().is_ok());
    }
}
