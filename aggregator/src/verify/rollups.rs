//! Roll-ups against the slots, hours and days that they are sums of, which are verified by themselves.

use super::Report;
use crate::store::audit::{self, Bucket};
use crate::store::{Connection, StoreError};

pub(super) fn check(db: &Connection, report: &mut Report) -> Result<(), StoreError> {
    audit::rolled(db, |width_ns, mut stored, summed| {
        for (key, expected) in summed {
            let found = stored.remove(&key).unwrap_or_default();
            compare(report, width_ns, &key, found, expected);
        }
        for (key, found) in stored {
            compare(report, width_ns, &key, found, Bucket::default());
        }
        Ok(())
    })
}

fn compare(
    report: &mut Report,
    width_ns: i64,
    key: &(i64, audit::RolledKey),
    found: Bucket,
    expected: Bucket,
) {
    if found != expected {
        report.difference_ns += (found.time_ns - expected.time_ns).abs();
        report.difference_nanos += (found.cost_nanos - expected.cost_nanos).abs();
        report.note(|| {
            format!("roll-up of {width_ns} ns {key:?} is {found:?}, the rows in it sum to {expected:?}")
        });
    }
}
