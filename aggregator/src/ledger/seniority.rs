//! Which of two that cover the same time of a device is believed: the one that holds it, whatever came first.
//!
//! The elder tenure wins, by the first time that it ever covered; within a tenure the elder cursor. Both times are
//! noted at the first window that the ledger was offered and never change, so an outcome does not depend on the
//! order in which windows come, and verification finds the same.

use crate::model::{Id, NodeName};

/// Lower is elder. What a person ordered to be counted gives way to nobody.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seniority {
    Ordered,
    Claimed { tenure_ns: i64, node: NodeName, life: String, slices: u32, cursor_ns: i64, epoch: Id },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(tenure_ns: i64, node: &str, cursor_ns: i64) -> Seniority {
        let node = NodeName { cluster: String::new(), node: node.to_owned() };
        Seniority::Claimed { tenure_ns, node, life: String::new(), slices: 1, cursor_ns, epoch: [0; 16] }
    }

    #[test]
    fn the_elder_tenure_wins_even_with_a_younger_cursor() {
        assert!(claimed(1, "b", 9) < claimed(2, "a", 2));
        assert!(claimed(1, "b", 3) < claimed(1, "b", 4));
        assert!(Seniority::Ordered < claimed(0, "", 0));
    }
}
