//! What allocations can be grouped by, as OpenCost names it, and where the ledger has it. Pure.

use tonnage_proto::rest::sentinel;

use crate::store::query::Dimension;

/// What the ledger is asked by: finer than any aggregation here. Properties name the first five by their place.
pub(super) const DETAIL: [Dimension; 8] = [
    Dimension::Cluster,
    Dimension::Node,
    Dimension::Namespace,
    Dimension::Pod,
    Dimension::Container,
    Dimension::Device,
    Dimension::Model,
    Dimension::Instance,
];
/// OpenCost's names of the first five.
pub(super) const KNOWN: [&str; 5] = ["cluster", "node", "namespace", "pod", "container"];
/// Where the pod stands.
pub(super) const POD: usize = 3;
/// And of what Kubernetes says of pods, which the ledger is asked for where it is named.
const TOLD: [(&str, Dimension); 3] = [
    ("controller", Dimension::Controller),
    ("controllerKind", Dimension::ControllerKind),
    ("team", Dimension::Team),
];
/// What OpenCost knows and the ledger does not: all GPU time is `__unallocated__` by these.
pub(super) const UNKNOWN: [&str; 11] = [
    "providerID",
    "service",
    "deployment",
    "daemonset",
    "statefulset",
    "job",
    "department",
    "environment",
    "owner",
    "product",
    "account",
];

/// What allocations are grouped by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Property {
    /// As OpenCost spells it.
    pub(super) name: String,
    pub(super) place: Place,
}

/// Where its value stands in a row's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// In [`DETAIL`].
    Detail(usize),
    /// Behind that, among those of `Request::detail`.
    Behind(Dimension),
    /// The ledger does not know it.
    Unknown,
}

impl Property {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let same = |name: &&str| name.eq_ignore_ascii_case(text);
        if let Some(place) = KNOWN.iter().position(same) {
            return Some(Self { name: KNOWN[place].to_owned(), place: Place::Detail(place) });
        }
        let told = TOLD.into_iter().find(|(name, _)| same(name));
        if let Some((name, dimension)) = told {
            return Some(Self { name: name.to_owned(), place: Place::Behind(dimension) });
        }
        if let Some(label) = text.strip_prefix("label:")
            && !label.is_empty()
            && !label.contains(char::is_control)
        {
            return Some(Self {
                name: text.to_owned(),
                place: Place::Behind(Dimension::Label(label.to_owned())),
            });
        }
        let annotation = text.strip_prefix("annotation:");
        let annotation = annotation.is_some_and(|key| !key.is_empty() && !key.contains(char::is_control));
        let name = UNKNOWN.into_iter().find(same).or(annotation.then_some(text))?;
        Some(Self { name: name.to_owned(), place: Place::Unknown })
    }

    /// The value of a row whose key has [`DETAIL`], and `behind` behind that.
    pub(super) fn value<'a>(&self, key: &'a [String], behind: &[Dimension]) -> &'a str {
        let place = match &self.place {
            Place::Detail(place) => Some(*place),
            Place::Behind(dimension) => {
                behind.iter().position(|other| other == dimension).map(|at| DETAIL.len() + at)
            }
            Place::Unknown => None,
        };
        match place.and_then(|place| key.get(place)).map(String::as_str) {
            None | Some("" | sentinel::UNKNOWN) => sentinel::UNALLOCATED,
            Some(value) => value,
        }
    }
}

/// What properties name of pods, each once.
pub(super) fn behind(by: &[Property]) -> Vec<Dimension> {
    let mut found = Vec::new();
    for property in by {
        if let Place::Behind(dimension) = &property.place
            && !found.contains(dimension)
        {
            found.push(dimension.clone());
        }
    }
    found
}
