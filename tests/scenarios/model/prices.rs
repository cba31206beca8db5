//! Two price books, and what they mean worked out by hand.

/// 2027-03-01 00:00 UTC.
const MARCH_NS: i128 = 1_803_859_200_000_000_000;

pub(super) const MODELS: [&str; 4] = ["H100", "A100", "Mystery", "V100"];
pub(super) const BOOK: &str = r#"
currency = "USD"
[[price]]
match = { gpu_model = "H100" }
price = "2.5"
unit = "gpu_hour"
[[price]]
match = { gpu_model = "H100" }
valid_from = "2027-03-01T00:00:00Z"
price = "3.123456789"
unit = "gpu_hour"
[[price]]
match = { gpu_model = "A100" }
price = "730"
unit = "gpu_month"
[[price]]
match = { gpu_model = "V*" }
price = "24.48"
unit = "node_hour"
gpus_per_node = 7
"#;
/// Begins in the middle of a slot, which it leaves at the old price; prices the mystery, and no longer the A100.
pub(super) const SECOND_BOOK: &str = r#"
currency = "USD"
[[price]]
match = { gpu_model = "H100" }
price = "1.999999999"
unit = "gpu_hour"
[[price]]
match = { gpu_model = "H100" }
valid_from = "2027-02-28T23:50:00Z"
price = "4"
unit = "gpu_hour"
[[price]]
match = { gpu_model = "Mystery" }
price = "0.000000007"
unit = "gpu_month"
"#;

/// [`BOOK`] and [`SECOND_BOOK`] by hand: nano-dollars over nanoseconds for one slice.
pub(super) fn rate(second: bool, model: &str, slot_ns: i128, slices: i128) -> Option<(i128, i128)> {
    const HOUR_NS: i128 = 3_600_000_000_000;
    let month_ns = HOUR_NS * 24 * if slot_ns < MARCH_NS { 28 } else { 31 };
    // The slot of 23:45 began before 23:50 and keeps the old price; the next one is March's first.
    let (num, den) = match (second, model) {
        (false, "H100") if slot_ns < MARCH_NS => (2_500_000_000, HOUR_NS),
        (false, "H100") => (3_123_456_789, HOUR_NS),
        (false, "A100") => (730_000_000_000, month_ns),
        (false, "V100") => (24_480_000_000, HOUR_NS * 7),
        (true, "H100") if slot_ns < MARCH_NS => (1_999_999_999, HOUR_NS),
        (true, "H100") => (4_000_000_000, HOUR_NS),
        (true, "Mystery") => (7, month_ns),
        _ => return None,
    };
    Some((num, den * slices))
}
