//! What `slurm.conf` says of a node's GPUs: how many of each type. Pure.
//!
//! It decides the order of GRES indices: slurmd goes through the types of the node's `Gres=` as they stand there, and
//! takes for each the lines of gres.conf with that type, as many as it counts (`_merge_gres` in Slurm's gres.c; seen with
//! 22.05.8).
//!
//! Not for: anything else that stands there.

use crate::attribution::slurm::gres::{FILES_MAX, GPUS_MAX, lines, number};
use crate::attribution::slurm::hostlist;

/// A type in lower case and how many there are; `None`: of any type.
pub type GpuType = (Option<String>, u64);

/// The types of the GPUs of `node`, in order; empty where nothing is said of it. `include` as in [`super::gres::parse`].
pub fn gpu_types(text: &str, node: &str, include: &mut dyn FnMut(&str) -> Option<String>) -> Vec<GpuType> {
    let (mut default, mut found) = (Vec::new(), None);
    let mut texts = vec![lines(text)];
    let mut files = 1;
    while let Some(last) = texts.last_mut() {
        let Some(line) = last.pop() else {
            texts.pop();
            continue;
        };
        let mut words = line.split_whitespace();
        if words.next().is_some_and(|word| word.eq_ignore_ascii_case("include")) {
            files += 1;
            let text = include(words.next().unwrap_or_default()).filter(|_| files <= FILES_MAX);
            texts.extend(text.map(|text| lines(&text)));
            continue;
        }
        let value = |wanted: &str| {
            let pairs = line.split_whitespace().filter_map(|word| word.split_once('='));
            let mut pairs = pairs.filter(|(key, _)| key.eq_ignore_ascii_case(wanted));
            pairs.next().map(|(_, value)| value.trim_matches('"'))
        };
        let Some(nodes) = value("NodeName") else { continue };
        let types = value("Gres").map(types);
        if nodes.eq_ignore_ascii_case("DEFAULT") {
            default = types.unwrap_or(default);
        } else if hostlist::contains(nodes, node) {
            found = Some(types.unwrap_or_else(|| default.clone()));
        }
    }
    found.unwrap_or_default()
}

/// Of `gpu:a100:2(S:0-1),gpu:4,shard:8` what is said of GPUs.
fn types(gres: &str) -> Vec<GpuType> {
    let items = gres.split(',').filter_map(|item| {
        let mut parts = item.split('(').next().unwrap_or_default().split(':');
        if !parts.next()?.eq_ignore_ascii_case("gpu") {
            return None;
        }
        let parts: Vec<&str> = parts.filter(|part| !part.eq_ignore_ascii_case("no_consume")).collect();
        let count = parts.last().and_then(|part| number(part));
        let of = parts.first().filter(|part| number(part).is_none());
        Some((of.map(|of| of.to_lowercase()), count.unwrap_or(1)))
    });
    items.take(GPUS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, node: &str) -> Vec<GpuType> {
        gpu_types(text, node, &mut |path| (path == "nodes.conf").then(|| "NodeName=n9 Gres=gpu:z:1\n".into()))
    }

    fn typed(of: &str, count: u64) -> GpuType {
        (Some(of.to_owned()), count)
    }

    #[test]
    fn types_stand_in_the_nodes_order() {
        let text = "ClusterName=x # NodeName=n1 Gres=gpu:9\nNodeName=n[1-2] CPUs=4 \\\n Gres=gpu:B200:2(S:0),gpu:a30:1,shard:8\n\
                    nodename=n3 gres=gpu:4\nNodeName=n4 CPUs=1\nInclude nodes.conf\n";
        assert_eq!(of(text, "n2"), [typed("b200", 2), typed("a30", 1)]);
        assert_eq!(of(text, "n3"), [(None, 4)]);
        assert_eq!(of(text, "n9"), [typed("z", 1)]);
        assert_eq!([of(text, "n4"), of(text, "n5")], [vec![], vec![]]);
    }

    #[test]
    fn a_default_is_for_the_nodes_that_follow_and_say_nothing() {
        let text = "NodeName=DEFAULT Gres=gpu:a:2\nNodeName=n1\nNodeName=n2 Gres=gpu:b\n";
        assert_eq!([of(text, "n1"), of(text, "n2")], [[typed("a", 2)], [typed("b", 1)]]);
    }
}
