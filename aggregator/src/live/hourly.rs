//! What the parts of a GPU cost in an hour, as they were in one window: by the ledger's formulas, of one window instead of a slot. Pure.

use tonnage_proto::limits::{MEMORY_PARTS, WEIGHED_SLICES_MAX};

use super::HOUR_NS;
use crate::model::Instance;
use crate::prices::Rate;

/// Of one window.
pub(super) struct Hourly {
    rate: Rate,
    slices: u32,
    duration_ns: i128,
    /// Parts of the memory that nobody has and no instance, where the price is by memory and any instance says what it has.
    left: Option<i128>,
}

impl Hourly {
    /// `times`: slice-nanoseconds of instances, and of who holds what is in none.
    pub(super) fn new<'a>(
        rate: Rate,
        slices: u32,
        duration_ns: i128,
        times: impl Iterator<Item = (Option<&'a Instance>, u64)>,
    ) -> Self {
        let mut hourly = Self { rate, slices, duration_ns, left: None };
        let (mut told, mut left) = (false, duration_ns * MEMORY_PARTS);
        for (instance, time_ns) in times.filter(|_| rate.is_by_memory() && slices <= WEIGHED_SLICES_MAX) {
            told |= instance.is_some_and(|instance| instance.memory.is_some());
            left -= hourly.parts(instance, time_ns);
        }
        hourly.left = told.then_some(left.max(0));
        hourly
    }

    fn parts(&self, instance: Option<&Instance>, time_ns: u64) -> i128 {
        let of_compute = || i128::from(time_ns) * (MEMORY_PARTS / i128::from(self.slices));
        let share = instance.and_then(|instance| instance.memory);
        share.map_or_else(of_compute, |share| share.parts(time_ns.cast_signed()))
    }

    /// Nano-dollars for so many slice-nanoseconds, on an instance or on what is in none.
    pub(super) fn of(&self, instance: Option<&Instance>, time_ns: u64) -> i128 {
        match self.left {
            None => self.rate.charge(i128::from(time_ns) * HOUR_NS / self.duration_ns),
            Some(_) => self.of_parts(self.parts(instance, time_ns)),
        }
    }

    /// Of what nobody has, and no instance; `rest_ns` of it has compute slices.
    pub(super) fn rest(&self, rest_ns: u64) -> i128 {
        self.left.map_or_else(|| self.of(None, rest_ns), |left| self.of_parts(left))
    }

    fn of_parts(&self, parts: i128) -> i128 {
        self.rate.charge_part(parts * HOUR_NS / self.duration_ns, MEMORY_PARTS, self.slices)
    }
}
