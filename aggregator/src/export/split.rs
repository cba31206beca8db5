//! How the cost of a resource in an hour was split among owners (FOCUS 1.3, `Allocated*`): method `tonnage-time-v1`.
//!
//! The origin charge is that of one GPU or MIG instance in one hour and posting; it is told only by the charges that it was split
//! into. What nobody held is its unallocated part. A resource of which no owner had anything is not split at all.

use std::fmt::Write as _;

use tonnage_proto::decimal::from_nanos;

use crate::store::query::posted::Charge;

/// Names the rule of docs/focus.md by which parts are worked out; another rule needs another name.
pub(super) const METHOD: &str = "tonnage-time-v1";
/// A whole, in the billionths in which ratios are told.
const WHOLE: i128 = 1_000_000_000;

/// One charge's part of its origin charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Split {
    /// `AllocatedMethodDetails`; `None` where the parts cannot be told as ratios, as with corrections.
    pub(super) details: Option<String>,
}

/// A split for each charge, in their order; `None` where its resource was not split.
pub(super) fn of(charges: &[Charge]) -> Vec<Option<Split>> {
    let same_origin = |a: &Charge, b: &Charge| {
        a.tenure.id == b.tenure.id && a.instance == b.instance && a.posting == b.posting
    };
    let mut splits = Vec::with_capacity(charges.len());
    for parts in charges.chunk_by(same_origin) {
        // A job without GPUs is charged for what it held itself.
        if parts.iter().all(|part| part.owner.is_none() || part.kind.is_of_job()) {
            splits.extend(parts.iter().map(|_| None));
            continue;
        }
        let ratios = ratios(parts);
        for (at, part) in parts.iter().enumerate() {
            let details =
                ratios.as_ref().and_then(|ratios| ratios.get(at)).map(|ratio| details(part, *ratio));
            splits.push(Some(Split { details }));
        }
    }
    splits
}

/// Parts of a whole in billionths, which sum to it exactly: of the cost, or of the time where nothing was priced.
fn ratios(parts: &[Charge]) -> Option<Vec<i128>> {
    let costs: Vec<i128> = parts.iter().map(|part| part.figures.cost_nanos).collect();
    let times = || parts.iter().map(|part| part.figures.time_ns).collect();
    let weights: Vec<i128> = if costs.iter().any(|cost| *cost != 0) { costs } else { times() };
    let sum: i128 = weights.iter().sum();
    if sum <= 0 || weights.iter().any(|weight| *weight < 0) {
        return None;
    }
    let mut ratios: Vec<i128> = weights.iter().map(|weight| weight * WHOLE / sum).collect();
    // What rounding down left over goes to the first with the largest remainders.
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(weights.get(*at).map_or(0, |weight| weight * WHOLE % sum)));
    let left = usize::try_from(WHOLE - ratios.iter().sum::<i128>()).unwrap_or(0);
    for at in order.into_iter().take(left) {
        if let Some(ratio) = ratios.get_mut(at) {
            *ratio += 1;
        }
    }
    Some(ratios)
}

/// A JSON object by the specification's schema; numbers only, and exact.
fn details(part: &Charge, ratio: i128) -> String {
    let mut json = format!("{{\"Elements\":[{{\"AllocatedRatio\":{}", from_nanos(ratio));
    let hours = super::row::hours(part.gpu_time(part.figures.time_ns));
    // Writing to a string cannot fail.
    let _ = write!(json, ",\"UsageUnit\":\"GPU-Hours\",\"UsageQuantity\":{}}}]}}", from_nanos(hours));
    json
}
