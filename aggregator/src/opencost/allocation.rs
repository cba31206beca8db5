//! The ledger's groups to OpenCost's allocations. Pure, and exact: of every set,
//!
//! ```text
//! sum(gpuCost of allocations) + gpuCost of __idle__ = sum(gpuCost of assets)
//! ```
//!
//! to the nano-dollar, with nine places printed. Idle is what no allocation was charged: idle time, time that nobody
//! observed, and what rounding left over; an idle allocation says how much of each.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use tonnage_proto::method::{BUSY_INSTANCE, BUSY_PROCESS, HELD_SPLIT};
use tonnage_proto::rest::sentinel;

use super::params::Idle;
use super::property::{DETAIL, KNOWN, Property, behind};
use crate::model::{GpuTime, Owner};
use crate::store::query::{Described, Dimension, Group, Sums, Told};

/// Devices that one allocation names.
const NAMED_MAX: usize = 16;

/// One allocation's GPU figures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Allocation {
    /// The first five of the detail, and controllers that were asked for, where all of its rows have the same and the ledger
    /// knows it.
    pub(super) properties: BTreeMap<&'static str, String>,
    /// Of its one pod, and of that one's namespace.
    pub(super) labels: BTreeMap<String, String>,
    pub(super) namespace_labels: BTreeMap<String, String>,
    pub(super) held: GpuTime,
    /// `None`: the driver did not say for any of it.
    pub(super) busy: Option<GpuTime>,
    /// Its own, without a share of idle cost.
    pub(super) cost_nanos: i128,
    pub(super) idle_share_nanos: i128,
    pub(super) uuids: BTreeSet<String>,
    pub(super) models: BTreeSet<String>,
    pub(super) shared: bool,
    /// Of an idle allocation.
    pub(super) rest: Option<Rest>,
}

/// What nobody was charged for, in nano-dollars and GPU time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) idle: GpuTime,
    pub(super) unobserved: GpuTime,
    pub(super) idle_nanos: i128,
    pub(super) unobserved_nanos: i128,
    pub(super) rounding_nanos: i128,
}

impl Rest {
    fn add(&mut self, sums: &Sums) {
        self.idle += sums.idle;
        self.unobserved += sums.unobserved;
        self.idle_nanos += sums.idle_cost_nanos;
        self.unobserved_nanos += sums.unobserved_cost_nanos;
        self.rounding_nanos += sums.rounding_cost_nanos;
    }

    fn cost_nanos(&self) -> i128 {
        self.idle_nanos + self.unobserved_nanos + self.rounding_nanos
    }
}

/// Allocations by their names.
pub(super) type Allocations = BTreeMap<String, Allocation>;

/// Allocations of `groups` by `DETAIL`, grouped by `by`.
#[must_use]
pub(super) fn fold(mut groups: Vec<Group>, by: &[Property], idle: Idle) -> Allocations {
    // Groups come in no order, and who gets a nano that cannot be shared is to be the same each time.
    groups.sort_by(|a, b| a.key.cmp(&b.key));
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    for (at, group) in groups.iter().enumerate() {
        let place = places.entry(place(&group.key, idle.by_node)).or_default();
        if group.sentinel {
            place.rest.add(&group.sums);
        } else {
            place.holders.push(at);
        }
    }
    let behind = behind(by);
    let mut allocations = Allocations::new();
    let mut shared = vec![0; groups.len()];
    for (name, place) in &places {
        let weights: Vec<i128> = place.holders.iter().map(|at| groups[*at].sums.held_cost_nanos).collect();
        let parts = if idle.share { shares(place.rest.cost_nanos(), &weights) } else { Vec::new() };
        // What cannot be shared, since nobody there paid anything, stays: else it would be lost.
        if parts.is_empty() && place.rest != Rest::default() && (idle.include || idle.share) {
            let name =
                if idle.by_node { format!("{name}/{}", sentinel::IDLE) } else { sentinel::IDLE.to_owned() };
            allocations.entry(name).or_default().rest(&place.rest);
        }
        for (at, part) in std::iter::zip(&place.holders, parts) {
            shared[*at] = part;
        }
    }
    let holders = std::iter::zip(&groups, shared).filter(|(group, _)| !group.sentinel);
    for (group, share_nanos) in holders {
        // An intruder's row has neither time nor cost.
        if group.sums.held == GpuTime::default() && group.sums.held_cost_nanos == 0 {
            continue;
        }
        let names: Vec<&str> = by.iter().map(|by| by.value(&group.key, &behind)).collect();
        match allocations.entry(names.join("/")) {
            Entry::Vacant(entry) => {
                entry.insert(Allocation::of(&group.key, &behind)).add(group, &behind, share_nanos);
            }
            Entry::Occupied(entry) => entry.into_mut().add(group, &behind, share_nanos),
        }
    }
    allocations
}

/// Adds to allocations that are of one pod each what Kubernetes said of it at a time: labels, those of its namespace, and its
/// controller.
pub(super) fn describe(allocations: &mut Allocations, described: &Described, at_ns: i64) {
    for allocation in allocations.values_mut() {
        let Some(pod) = allocation.properties.get("pod").cloned() else { continue };
        let of = |name| allocation.properties.get(name).cloned().unwrap_or_default();
        let (cluster, namespace) = (of("cluster"), of("namespace"));
        let owner = Owner { namespace: namespace.clone(), pod: pod.clone(), ..Owner::default() };
        let mut told = described.told(&cluster, &owner, at_ns);
        if told.pod.is_none() {
            // A pod whose name is not known is called by its UID.
            told = described.told(&cluster, &Owner { namespace, pod_uid: pod, ..Owner::default() }, at_ns);
        }
        let Told { pod, namespace, .. } = told;
        allocation.namespace_labels = namespace.map(|namespace| namespace.labels.clone()).unwrap_or_default();
        let Some(pod) = pod else { continue };
        allocation.labels = pod.labels.clone();
        for (name, value) in [("controller", &pod.controller), ("controllerKind", &pod.controller_kind)] {
            if !value.is_empty() {
                allocation.properties.entry(name).or_insert_with(|| value.clone());
            }
        }
    }
}

/// Among whom idle cost is shared: a node, or a cluster as OpenCost does it.
fn place(key: &[String], by_node: bool) -> String {
    let names = key.iter().take(if by_node { 2 } else { 1 });
    names.map(String::as_str).collect::<Vec<_>>().join("/")
}

#[derive(Debug, Default)]
struct Place {
    rest: Rest,
    /// Where its holders' groups are.
    holders: Vec<usize>,
}

/// `amount` in proportion to `weights`, by largest remainder: the parts sum to it. Empty if all weigh nothing, or the
/// products are beyond 128 bits.
fn shares(amount: i128, weights: &[i128]) -> Vec<i128> {
    let total: i128 = weights.iter().sum();
    let products: Option<Vec<i128>> = weights.iter().map(|weight| amount.checked_mul(*weight)).collect();
    let Some(products) = products.filter(|_| total > 0) else { return Vec::new() };
    let mut parts: Vec<i128> = products.iter().map(|product| product.div_euclid(total)).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(products[*at].rem_euclid(total)));
    let left = amount - parts.iter().sum::<i128>();
    for at in order.into_iter().take(usize::try_from(left).unwrap_or(0)) {
        parts[at] += 1;
    }
    parts
}

/// The names of a row's properties that the ledger knows, with their values; of what is behind the detail, controllers.
fn known<'a>(key: &'a [String], behind: &[Dimension]) -> impl Iterator<Item = (&'static str, &'a String)> {
    let told = std::iter::zip(behind, key.iter().skip(DETAIL.len()));
    let told = told.filter_map(|(dimension, value)| match dimension {
        Dimension::Controller => Some(("controller", value)),
        Dimension::ControllerKind => Some(("controllerKind", value)),
        _ => None,
    });
    let known = std::iter::zip(KNOWN, key).chain(told);
    known.filter(|(_, value)| !value.is_empty() && !value.starts_with("__"))
}

impl Allocation {
    fn of(key: &[String], behind: &[Dimension]) -> Self {
        let properties = known(key, behind).map(|(name, value)| (name, value.clone())).collect();
        Self { properties, ..Self::default() }
    }

    fn add(&mut self, group: &Group, behind: &[Dimension], share_nanos: i128) {
        let Group { key, sums, .. } = group;
        let own: BTreeMap<&str, &String> = known(key, behind).collect();
        self.properties.retain(|name, value| own.get(name).is_some_and(|same| *same == value));
        self.held += sums.held;
        if sums.method & (BUSY_PROCESS | BUSY_INSTANCE) != 0 {
            self.busy = Some(self.busy.unwrap_or_default() + sums.busy);
        }
        self.cost_nanos += sums.held_cost_nanos;
        self.idle_share_nanos += share_nanos;
        let [uuid, model, instance] = [5, 6, 7].map(|at| key.get(at).map_or("", String::as_str));
        self.shared |= sums.method & HELD_SPLIT != 0 || !instance.is_empty();
        for (names, name) in
            [(&mut self.uuids, if instance.is_empty() { uuid } else { instance }), (&mut self.models, model)]
        {
            if !name.is_empty() && names.len() <= NAMED_MAX {
                names.insert(name.to_owned());
            }
        }
    }

    fn rest(&mut self, more: &Rest) {
        let rest = self.rest.get_or_insert_default();
        *rest = Rest {
            idle: rest.idle + more.idle,
            unobserved: rest.unobserved + more.unobserved,
            idle_nanos: rest.idle_nanos + more.idle_nanos,
            unobserved_nanos: rest.unobserved_nanos + more.unobserved_nanos,
            rounding_nanos: rest.rounding_nanos + more.rounding_nanos,
        };
        self.held += more.idle + more.unobserved;
        self.cost_nanos += more.cost_nanos();
    }

    /// What `gpuCost` is, in nano-dollars.
    #[must_use]
    pub(super) fn gpu_cost_nanos(&self) -> i128 {
        self.cost_nanos + self.idle_share_nanos
    }

    /// All of `names`, or nothing where they are more than an allocation names.
    pub(super) fn named(names: &BTreeSet<String>) -> String {
        if names.len() > NAMED_MAX {
            return String::new();
        }
        names.iter().map(String::as_str).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn group(key: [&str; 8], sums: Sums) -> Group {
        Group { key: key.map(str::to_owned).to_vec(), sentinel: key[2].starts_with("__idle"), sums }
    }

    fn held(node: &str, pod: &str, nanos: i128) -> Group {
        let sums = Sums { held: GpuTime::of_slices(nanos, 1), held_cost_nanos: nanos, ..Sums::default() };
        group(["c", node, "ml", pod, "main", "GPU-1", "H100", ""], sums)
    }

    fn rest(node: &str, nanos: i128) -> Group {
        let sums = Sums {
            idle: GpuTime::of_slices(nanos, 1),
            idle_cost_nanos: nanos,
            unobserved_cost_nanos: 2,
            rounding_cost_nanos: 1,
            ..Sums::default()
        };
        group(["c", node, "__idle__", "__idle__", "__idle__", "GPU-1", "H100", ""], sums)
    }

    fn by(names: &str) -> Vec<Property> {
        let uri = format!("http://x/?window=1d&aggregate={names}").parse().unwrap();
        super::super::params::Request::read(&uri).unwrap().by
    }

    fn costs(allocations: &Allocations) -> Vec<(&str, i128)> {
        allocations.iter().map(|(name, allocation)| (name.as_str(), allocation.gpu_cost_nanos())).collect()
    }

    #[test]
    fn idle_is_one_allocation_or_one_of_each_node_and_only_if_asked_for() {
        let groups = || vec![held("n1", "a", 5), held("n2", "b", 7), rest("n1", 10), rest("n2", 20)];
        let folded = |include, by_node| fold(groups(), &by("pod"), Idle { include, by_node, share: false });
        assert_eq!(costs(&folded(false, false)), [("a", 5), ("b", 7)]);
        assert_eq!(costs(&folded(true, false)), [("__idle__", 36), ("a", 5), ("b", 7)]);
        assert_eq!(
            costs(&folded(true, true)),
            [("a", 5), ("b", 7), ("c/n1/__idle__", 13), ("c/n2/__idle__", 23)]
        );
        let idle = &folded(true, false)["__idle__"];
        let rest = idle.rest.unwrap();
        assert_eq!((rest.idle_nanos, rest.unobserved_nanos, rest.rounding_nanos), (30, 4, 2));
    }

    #[test]
    fn shared_idle_cost_stays_on_its_node_if_asked_for_and_what_nobody_can_bear_stays_idle() {
        let groups = || vec![held("n1", "a", 6), held("n1", "b", 3), rest("n1", 7), rest("n2", 20)];
        let folded = |by_node| fold(groups(), &by("pod"), Idle { include: false, by_node, share: true });
        assert_eq!(costs(&folded(false)), [("a", 6 + 22), ("b", 3 + 11)]);
        assert_eq!(costs(&folded(true)), [("a", 6 + 7), ("b", 3 + 3), ("c/n2/__idle__", 23)]);
    }

    #[test]
    fn whatever_is_asked_the_sum_is_the_bill() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        for _ in 0..300 {
            let groups: Vec<Group> = (0..rng.random_range(0..40))
                .map(|_| {
                    let node = format!("n{}", rng.random_range(0..3));
                    let nanos = i128::from(rng.random_range(0..5_000_000_000_000_i64));
                    if rng.random_range(0..3) == 0 {
                        rest(&node, nanos)
                    } else {
                        held(&node, &format!("p{}", rng.random_range(0..9)), nanos)
                    }
                })
                .collect();
            let bill: i128 = groups.iter().map(|group| group.sums.cost_nanos()).sum();
            let share: bool = rng.random();
            let idle = Idle { include: !share || rng.random(), by_node: rng.random(), share };
            let names = ["pod", "node,pod", "all", "team", "cluster"][rng.random_range(0..5)];
            let sum: i128 = fold(groups, &by(names), idle).values().map(Allocation::gpu_cost_nanos).sum();
            assert_eq!(sum, bill, "{idle:?} by {names}");
        }
    }

    #[test]
    fn an_allocation_keeps_the_properties_that_all_of_it_has() {
        let groups = vec![held("n1", "a", 5), held("n2", "a", 7)];
        let folded = fold(groups, &by("pod"), Idle::default());
        let names: Vec<_> = folded["a"].properties.keys().copied().collect();
        assert_eq!(names, ["cluster", "container", "namespace", "pod"]);
        let of = |mut group: Group, team: &str| {
            group.key.extend([team, "Job", "train"].map(str::to_owned));
            group
        };
        let groups = vec![of(held("n1", "a", 5), "x"), of(held("n1", "b", 7), "y")];
        let folded = fold(groups, &by("team,controllerKind,controller"), Idle::default());
        assert_eq!(costs(&folded), [("x/Job/train", 5), ("y/Job/train", 7)]);
        let properties = &folded["x/Job/train"].properties;
        assert_eq!(
            (properties["controllerKind"].as_str(), properties["controller"].as_str()),
            ("Job", "train")
        );
    }
}
