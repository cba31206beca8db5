//! GPUs in Slurm's lists of generic resources: `gres:gpu:a100:4`, `gres/gpu=2`, `gpu:1,shard:8`, `gres:gpu:2(S:0-1)`. Pure.

use super::need::GPUS_MAX;
use super::request::{AskError, wrong};

/// Of MPS a GPU has so many parts.
const MPS_PER_GPU: u64 = 100;

/// GPUs of a model; parts of GPUs count as whole ones, rounded up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gres {
    pub count: u64,
    /// Empty if none is said, or several are.
    pub model: String,
}

/// What of a list is GPUs.
///
/// # Errors
/// If something in it looks like GPUs and cannot be read.
pub fn gpus(field: &str, text: &str, shards_per_gpu: u64) -> Result<Gres, AskError> {
    let mut all = Gres::default();
    for gres in split(text) {
        let Some((per_gpu, of_type, count)) = one(field, gres, shards_per_gpu)? else { continue };
        if count == 0 {
            continue;
        }
        if all.count > 0 && all.model != of_type {
            all.model.clear();
        } else {
            of_type.clone_into(&mut all.model);
        }
        all.count += count.div_ceil(per_gpu);
        if all.count > GPUS_MAX {
            return Err(wrong(field, gres, format!("has over {GPUS_MAX} GPUs")));
        }
    }
    Ok(all)
}

/// Commas also stand within brackets: `gpu:2(IDX:0,2)`.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
}

/// Parts of a GPU, type and count of one resource; `None` if it is no GPU.
fn one<'a>(field: &str, gres: &'a str, shards_per_gpu: u64) -> Result<Option<(u64, &'a str, u64)>, AskError> {
    let bad = || wrong(field, gres, "use gpu:COUNT, gpu:TYPE:COUNT, shard:COUNT or mps:COUNT");
    let plain = gres.strip_prefix("gres:").or_else(|| gres.strip_prefix("gres/")).unwrap_or(gres);
    let plain = plain.split('(').next().unwrap_or_default();
    let parts: Vec<&str> = plain.split([':', '=']).collect();
    let per_gpu = match parts[0] {
        "gpu" => 1,
        "shard" => shards_per_gpu.max(1),
        "mps" => MPS_PER_GPU,
        // What begins like one and is none, as `gpus:4`, is a slip of the pen rather than a resource of its own.
        name if name.starts_with("gpu") => return Err(bad()),
        _ => return Ok(None),
    };
    let digits = |text: &str| text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+');
    let (of_type, count) = match parts.as_slice() {
        [_] => ("", "1"),
        [_, count] if digits(count) => ("", *count),
        [_, of_type] => (*of_type, "1"),
        [_, of_type, count] => (*of_type, *count),
        _ => return Err(bad()),
    };
    if parts.len() > 1 && parts.iter().any(|part| part.is_empty()) {
        return Err(bad());
    }
    let (number, times) = match count.char_indices().last() {
        Some((at, 'k' | 'K')) => (&count[..at], 1024),
        _ => (count, 1),
    };
    let number = number.parse::<u32>().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit()));
    Ok(Some((per_gpu, of_type, u64::from(number.ok_or_else(bad)?) * times)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_the_gpus_in_it_however_it_is_written() {
        for (text, count, model) in [
            ("", 0, ""),
            ("gres:gpu:a100:4", 4, "a100"),
            ("gres/gpu:a100=4", 4, "a100"),
            ("gres/gpu=4", 4, ""),
            ("gpu:4", 4, ""),
            ("gpu", 1, ""),
            ("gres:gpu:a100", 1, "a100"),
            ("gres:gpu:3g.20gb:2", 2, "3g.20gb"),
            ("gres:gpu:a100:2(S:0-1)", 2, "a100"),
            ("gpu:2(IDX:0,2),nic:1", 2, ""),
            ("gres:gpu:a:1,gres:gpu:b:2", 3, ""),
            ("gres:gpu:a:1,gres:gpu:a:2", 3, "a"),
            ("gres:gpu:0", 0, ""),
            ("gres:shard:9", 3, ""),
            ("gres:mps:50", 1, ""),
            ("gres:mps:1k", 11, ""),
            ("gres:nic:2,license:x:3", 0, ""),
            ("none", 0, ""),
        ] {
            assert_eq!(gpus("f", text, 4), Ok(Gres { count, model: model.to_owned() }), "{text}");
        }
    }

    #[test]
    fn what_looks_like_gpus_and_is_not_is_refused() {
        for text in [
            "gpu:",
            "gpu:x:y",
            "gpu:a:1:2",
            "gpu:-1",
            "gpu:+1",
            "gpu:1.5",
            "gpus:4",
            "gpu::4",
            "gpu:a100:",
            "shard:1x",
            "gpu:99999999999",
        ] {
            let error = gpus("tres_per_node", text, 1).unwrap_err();
            assert_eq!((error.field.as_str(), error.value.as_str()), ("tres_per_node", text));
        }
    }
}
