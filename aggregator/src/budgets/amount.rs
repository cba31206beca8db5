//! What work may cost at most, from what it asks for: `price x GPUs x time limit`, and the hold for it, which is so much more
//! than that. Rounded up, so that a hold never is less than its work.

use super::hold::Estimate;
use super::{BudgetError, invalid};

const S: i64 = 1_000_000_000;
/// Longest time limit: 400 days.
const TIME_NS_MAX: i64 = 400 * 86_400 * S;
/// GPUs of one job.
pub const GPUS_MAX: u32 = 100_000;
pub const NODES_MAX: u32 = 100_000;
/// CPUs, and bytes of memory (1 EiB), of one job, all tasks of an array together.
pub const CPUS_MAX: u64 = 100_000_000;
pub const MEMORY_BYTES_MAX: u64 = 1 << 60;

/// What the work may cost, and the hold for it, in nano-dollars. `rate` is nano-dollars per slice-nanosecond as a fraction,
/// of a GPU that has so many slices.
///
/// # Errors
/// If it is more than the ledger can keep.
pub fn amounts(
    (num, den): (i128, i128),
    slices: u32,
    gpus: u32,
    time_ns: i64,
    buffer_permille: u32,
) -> Result<(i64, i64), BudgetError> {
    let too_much = || invalid("wall_time", "is so long that its cost is more than the ledger can keep");
    let slice_ns = i128::from(time_ns) * i128::from(slices) * i128::from(gpus);
    let cost = num.checked_mul(slice_ns).map(|product| up(product, den)).ok_or_else(too_much)?;
    let cost = i64::try_from(cost).map_err(|_| too_much())?;
    Ok((cost, buffered(cost, buffer_permille).ok_or_else(too_much)?))
}

/// The hold for work of this cost; `None` if it is more than the ledger can keep.
#[must_use]
pub fn buffered(cost_nanos: i64, buffer_permille: u32) -> Option<i64> {
    i64::try_from(up(i128::from(cost_nanos) * i128::from(buffer_permille), 1000)).ok()
}

/// The same of work without GPUs: so many CPUs and bytes of memory for a time, by nano-dollars per CPU-nanosecond and per
/// byte-second. Either part is rounded up.
///
/// # Errors
/// If it is more than the ledger can keep.
pub fn compute(
    [cpu, memory]: [(i128, i128); 2],
    (cpus, memory_bytes): (u64, u64),
    time_ns: i64,
    buffer_permille: u32,
) -> Result<(i64, i64), BudgetError> {
    let too_much = || invalid("wall_time", "is so long that its cost is more than the ledger can keep");
    let part =
        |(num, den): (i128, i128), amount: i128| num.checked_mul(amount).map(|product| up(product, den));
    let cpu_ns = i128::from(cpus) * i128::from(time_ns);
    // Time limits are whole seconds.
    let byte_seconds = i128::from(memory_bytes) * up(i128::from(time_ns), i128::from(S));
    let cpu = part(cpu, cpu_ns).ok_or_else(too_much)?;
    let memory = part(memory, byte_seconds).ok_or_else(too_much)?;
    let cost = cpu.checked_add(memory).ok_or_else(too_much)?;
    let hold = cost.checked_mul(i128::from(buffer_permille)).map(|product| up(product, 1000));
    let narrow = |amount: i128| i64::try_from(amount).map_err(|_| too_much());
    Ok((narrow(cost)?, narrow(hold.ok_or_else(too_much)?)?))
}

/// The same by what an estimator says, unless that is more than the work can cost at most.
#[must_use]
pub fn estimated((cost, hold): (i64, i64), estimate: &Estimate, buffer_permille: u32) -> (i64, i64) {
    match estimate {
        Estimate::Outside { cost_nanos } if *cost_nanos <= cost => {
            let buffered = up(i128::from(*cost_nanos) * i128::from(buffer_permille), 1000);
            // It is no more than `hold`, which fits.
            (*cost_nanos, i64::try_from(buffered).unwrap_or(hold))
        }
        Estimate::Outside { .. } | Estimate::Fallback | Estimate::Price => (cost, hold),
    }
}

/// A quotient of numbers that are not negative, rounded up.
fn up(num: i128, den: i128) -> i128 {
    num.div_euclid(den) + i128::from(num.rem_euclid(den) > 0)
}

/// A time limit as Slurm writes it: minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes and
/// days-hours:minutes:seconds <https://slurm.schedmd.com/sbatch.html#OPT_time>. In nanoseconds.
///
/// # Errors
/// If it is none, nothing, or has no end.
pub fn time_limit(text: &str) -> Result<i64, BudgetError> {
    let shown: String = text.chars().take(80).collect();
    let wrong = |reason: &str| invalid("wall_time", format!("{shown:?} {reason}"));
    let forms = "is no time limit; use HH:MM:SS, D-HH:MM:SS or minutes";
    if text.eq_ignore_ascii_case("unlimited") || text.eq_ignore_ascii_case("infinite") {
        return Err(wrong("has no end, so that nobody knows what it may cost; give a time limit"));
    }
    let number = |part: &str| {
        let digits = !part.is_empty() && part.len() <= 9 && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<i64>().ok().filter(|_| digits).ok_or_else(|| wrong(forms))
    };
    let (days, rest) = match text.split_once('-') {
        Some((days, rest)) => (Some(number(days)?), rest),
        None => (None, text),
    };
    let parts: Vec<i64> = rest.split(':').map(number).collect::<Result<_, _>>()?;
    let seconds = match (days, parts.as_slice()) {
        (None, [minutes]) => minutes * 60,
        (None, [minutes, seconds]) => minutes * 60 + seconds,
        (_, [hours, minutes, seconds]) => hours * 3600 + minutes * 60 + seconds,
        (Some(_), [hours]) => hours * 3600,
        (Some(_), [hours, minutes]) => hours * 3600 + minutes * 60,
        _ => return Err(wrong(forms)),
    };
    let ns = days.unwrap_or(0).checked_mul(86_400).and_then(|days| days.checked_add(seconds)?.checked_mul(S));
    ns.filter(|ns| (1..=TIME_NS_MAX).contains(ns))
        .ok_or_else(|| wrong("is not more than nothing and at most 400 days"))
}

/// GPUs of a job, and their type if it is said: a number is all of them; a GRES, `gpu:4`, `gpu:a100:4` or `gres/gpu:a100=4`, is what
/// each node has. `gpu` alone is one.
///
/// # Errors
/// If it is neither, or too many.
pub fn gpus(text: &str, nodes: u32) -> Result<(u32, String), BudgetError> {
    let shown: String = text.chars().take(80).collect();
    let wrong = || {
        let reason = format!("{shown:?} is neither a number up to {GPUS_MAX} nor a GRES such as gpu:a100:4");
        invalid("gpus", reason)
    };
    let count = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|count| digits && *count <= GPUS_MAX).ok_or_else(wrong)
    };
    if text.is_empty() {
        return Ok((0, String::new()));
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok((count(text)?, String::new()));
    }
    let (mut total, mut model) = (0_u32, String::new());
    for gres in text.split(',') {
        let gres = gres.strip_prefix("gres/").or_else(|| gres.strip_prefix("gres:")).unwrap_or(gres);
        // Which of them, as `gpu:4(S:0-1)` has it, does not matter.
        let gres = gres.split('(').next().unwrap_or_default();
        let parts: Vec<&str> = gres.split([':', '=']).collect();
        let (of_type, number) = match parts.as_slice() {
            ["gpu"] => ("", 1),
            ["gpu", last] if last.starts_with(|c: char| c.is_ascii_digit()) => ("", count(last)?),
            ["gpu", of_type] => (*of_type, 1),
            ["gpu", of_type, number] => (*of_type, count(number)?),
            _ => return Err(wrong()),
        };
        if !of_type.is_empty() && !model.is_empty() && of_type != model {
            let reason = format!("{shown:?} has GPUs of several types; check each by itself");
            return Err(invalid("gpus", reason));
        }
        if !of_type.is_empty() {
            of_type.clone_into(&mut model);
        }
        total = total.checked_add(number).ok_or_else(wrong)?;
    }
    let total = total.checked_mul(nodes.max(1)).filter(|total| *total <= GPUS_MAX).ok_or_else(wrong)?;
    Ok((total, model))
}

/// Memory as Slurm's `--mem` has it, of all nodes together: what each has, in MB unless it says K, M, G or T
/// <https://slurm.schedmd.com/sbatch.html#OPT_mem>, of 1024 each; a B behind that is let be. In bytes.
///
/// # Errors
/// If it is none, or too much.
pub fn memory_bytes(text: &str, nodes: u32) -> Result<u64, BudgetError> {
    let shown: String = text.chars().take(80).collect();
    let wrong = || {
        let reason = format!(
            "{shown:?} is no memory of at most {MEMORY_BYTES_MAX} bytes in all; use 64GB or 64000, which are MB"
        );
        invalid("memory", reason)
    };
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[number.len()..].to_ascii_uppercase().as_str() {
        "K" | "KB" => 10,
        "" | "M" | "MB" => 20,
        "G" | "GB" => 30,
        "T" | "TB" => 40,
        _ => return Err(wrong()),
    };
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let each = number.parse::<u64>().ok().filter(|_| digits).and_then(|each| each.checked_mul(1 << shift));
    let all = each.and_then(|each| each.checked_mul(u64::from(nodes.max(1))));
    all.filter(|all| *all <= MEMORY_BYTES_MAX).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_each_nodes_in_units_of_slurm() {
        for (text, expected) in [
            ("64GB", 128 << 30),
            ("64g", 128 << 30),
            ("64000", 128_000 << 20),
            ("512K", 1 << 20),
            ("2T", 4 << 40),
            ("0", 0),
        ] {
            assert_eq!(memory_bytes(text, 2), Ok(expected), "{text}");
        }
        for text in ["", "G", "-1G", "1.5G", "4Gc", "1P", "9999999999T", "99999999999999999999", "64 GB", "é"]
        {
            let error = memory_bytes(text, 2).unwrap_err().to_string();
            assert!(error.starts_with("memory: ") && error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn a_day_is_twenty_four_hours_and_a_limit_is_as_slurm_has_it() {
        for (text, seconds) in [
            ("1-00:00:00", 86_400),
            ("01:30:00", 5400),
            ("90", 5400),
            ("90:30", 5430),
            ("2-12", 60 * 3600),
            ("2-12:30", 60 * 3600 + 1800),
            ("48:00:00", 172_800),
        ] {
            assert_eq!(time_limit(text), Ok(seconds * S), "{text}");
        }
        for text in [
            "",
            "0",
            "1:2:3:4",
            "-1",
            "1-",
            "1-1:1:1:1",
            "+5",
            "1e3",
            "UNLIMITED",
            "999-00",
            "999999999-0",
            "1 h",
        ] {
            let error = time_limit(text).unwrap_err().to_string();
            assert!(error.starts_with("wall_time: ") && error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn a_gres_is_each_nodes_and_a_number_is_all() {
        for (text, expected) in [
            ("", (0, "")),
            ("4", (4, "")),
            ("gpu:4", (8, "")),
            ("gpu", (2, "")),
            ("gpu:a100:4", (8, "a100")),
            ("gpu:a100", (2, "a100")),
            ("gres/gpu:a100=4", (8, "a100")),
            ("gpu:a100:4(S:0-1)", (8, "a100")),
            ("gpu:1,gpu:a100:2", (6, "a100")),
        ] {
            assert_eq!(gpus(text, 2), Ok((expected.0, expected.1.to_owned())), "{text}");
        }
        for text in [
            "four",
            "gpu:a100:x",
            "-1",
            "4x",
            "gpu:1:2:3",
            "100001",
            "gpu:99999",
            "gpu:a:1,gpu:b:1",
            "shard:4",
        ] {
            assert!(gpus(text, 2).unwrap_err().to_string().starts_with("gpus: "), "{text}");
        }
    }

    #[test]
    fn an_estimate_lowers_what_is_held_and_never_raises_it() {
        let of = |cost_nanos| estimated((10, 12), &Estimate::Outside { cost_nanos }, 1200);
        assert_eq!([of(0), of(1), of(5), of(10), of(11)], [(0, 0), (1, 2), (5, 6), (10, 12), (10, 12)]);
        assert_eq!(estimated((10, 12), &Estimate::Fallback, 1200), (10, 12));
    }

    #[test]
    fn a_hold_is_rounded_up_and_buffered() {
        // 3.60 an hour, of a GPU of seven slices, for a second: 1,000,000 nano-dollars.
        let rate = (3_600_000_000, 3600 * 7 * 1_000_000_000);
        assert_eq!(amounts(rate, 7, 1, S, 1200), Ok((1_000_000, 1_200_000)));
        assert_eq!(amounts((1, 3), 1, 1, 1, 1200), Ok((1, 2)), "a third, and a fifth more of one");
        assert_eq!(amounts((1, 3), 1, 0, S, 1200), Ok((0, 0)));
        // Four CPUs at 0.02 an hour and 8 GB at 0.003, for an hour: 0.080 and 0.024.
        let [cpu, memory] = [(20_000_000, 3600 * i128::from(S)), (3_000_000, 3600 << 30)];
        let asked = (4, 8 << 30);
        assert_eq!(compute([cpu, memory], asked, 3600 * S, 1200), Ok((104_000_000, 124_800_000)));
        assert_eq!(compute([cpu, memory], (1, 1), S, 1200), Ok((5557, 6669)), "either part is rounded up");
        assert!(compute([(1 << 50, 1); 2], (CPUS_MAX, MEMORY_BYTES_MAX), TIME_NS_MAX, 1200).is_err());
        let dearest = (1_000_000_000_000_000, 1);
        assert!(amounts(dearest, 7, GPUS_MAX, TIME_NS_MAX, 1200).is_err());
    }
}
