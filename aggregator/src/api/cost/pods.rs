//! Costs of namespaces with the number of pods in each. Pure.

use std::collections::{BTreeMap, HashMap};

use tonnage_proto::rest::sentinel;

use crate::store::query::{CostQuery, Dimension, Group, Groups, QueryError, Sums};

/// Pods that held or used GPUs, by namespace; `None` = too many to be told apart.
pub(super) type Pods = Option<BTreeMap<String, u64>>;

/// What `sums` says to `query`, which groups by namespaces, and how many pods each of them has.
pub(super) fn counted(
    query: &CostQuery,
    sums: &impl Fn(&CostQuery) -> Result<Groups, QueryError>,
) -> Result<(Groups, Pods), QueryError> {
    let by_pod = CostQuery { by: vec![Dimension::Namespace, Dimension::Pod], ..query.clone() };
    let found = match sums(&by_pod) {
        Err(QueryError::TooManyGroups) => return Ok((sums(query)?, None)),
        found => found?,
    };
    let mut namespaces: HashMap<(bool, String), Sums> = HashMap::new();
    let mut pods = BTreeMap::new();
    for Group { key, sentinel, sums } in found.groups {
        let mut key = key.into_iter();
        let namespace = key.next().unwrap_or_default();
        if !sentinel && key.next().is_some_and(|pod| pod != sentinel::UNALLOCATED) {
            *pods.entry(namespace.clone()).or_insert(0) += 1;
        }
        namespaces.entry((sentinel, namespace)).or_default().add(&sums);
    }
    let group = |((sentinel, namespace), sums)| Group { key: vec![namespace], sentinel, sums };
    let groups = namespaces.into_iter().map(group).collect();
    Ok((Groups { groups, totals: found.totals }, Some(pods)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(namespace: &str, pod: &str, sentinel: bool, cost: i128) -> Group {
        let sums = Sums { held_cost_nanos: cost, ..Sums::default() };
        Group { key: vec![namespace.to_owned(), pod.to_owned()], sentinel, sums }
    }

    #[test]
    fn pods_are_counted_and_what_is_none_is_not() {
        let sums = |query: &CostQuery| {
            assert_eq!(query.by, [Dimension::Namespace, Dimension::Pod]);
            let groups = vec![
                group("ml", "a", false, 1),
                group("ml", "b", false, 2),
                group("__unallocated__", "__unallocated__", false, 4),
                group("__idle__", "__idle__", true, 8),
            ];
            Ok(Groups { groups, totals: Sums::default() })
        };
        let (found, pods) = counted(&CostQuery::default(), &sums).unwrap();
        assert_eq!(pods, Some([("ml".to_owned(), 2)].into()));
        let mut costs: Vec<_> =
            found.groups.iter().map(|g| (g.key[0].as_str(), g.sums.held_cost_nanos)).collect();
        costs.sort_unstable();
        assert_eq!(costs, [("__idle__", 8), ("__unallocated__", 4), ("ml", 3)]);
    }

    #[test]
    fn too_many_pods_are_not_counted_but_their_costs_are() {
        let sums = |query: &CostQuery| match query.by.len() {
            2 => Err(QueryError::TooManyGroups),
            _ => Ok(Groups::default()),
        };
        assert_eq!(counted(&CostQuery::default(), &sums).unwrap(), (Groups::default(), None));
    }
}
