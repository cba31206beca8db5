//! Errors of the driver's numbered kinds (XID), counted for as long as the agent runs. Pure.
//!
//! Totals and not what is new: a reading may be given up on, or find no room, and its errors are in the next one.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::Xid;

/// (error, instance) pairs of one GPU; errors of further ones are counted together.
const KINDS_MAX: usize = 64;

/// Of one GPU. Outlives the driver's session.
#[derive(Debug, Default)]
pub(super) struct Xids(BTreeMap<Xid, u64>);

impl Xids {
    pub(super) fn count(&mut self, code: u64, instance: Option<Arc<str>>) {
        let kind = Xid { code: Some(code), instance };
        let known = self.0.contains_key(&kind) || self.0.len() < KINDS_MAX;
        let kind = if known { kind } else { Xid { code: None, instance: None } };
        let total = self.0.entry(kind).or_default();
        *total = total.saturating_add(1);
    }

    pub(super) fn totals(&self) -> BTreeMap<Xid, u64> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_too_many_kinds_are_counted_together_and_none_is_lost() {
        let mut xids = Xids::default();
        for code in 0..1_000 {
            xids.count(code, None);
            xids.count(0, Some("MIG-1".into()));
        }
        let totals = xids.totals();
        assert_eq!((totals.len(), totals.values().sum::<u64>()), (KINDS_MAX + 1, 2_000));
        assert_eq!(totals[&Xid { code: Some(0), instance: Some("MIG-1".into()) }], 1_000);
        assert_eq!(totals[&Xid { code: None, instance: None }], 1_001 - KINDS_MAX as u64);
    }
}
