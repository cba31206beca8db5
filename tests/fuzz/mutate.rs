//! Breaks bytes without knowing what they are: bits, splices, truncation, repetition, huge lengths, numbers at limits.

use rand::RngExt;
use rand::rngs::StdRng;

/// Numbers at which arithmetic breaks.
pub(crate) const EDGES: [u64; 16] = [
    0,
    1,
    2,
    127,
    128,
    255,
    65_535,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
    899_999_999_999,
    900_000_000_000,
    1_800_000_000_000_000_000,
];

/// A number that is likely to break something, or any.
pub(crate) fn number(rng: &mut StdRng) -> u64 {
    match rng.random_range(0..4) {
        0 => rng.random(),
        1 => rng.random_range(0..300),
        _ => EDGES[rng.random_range(0..EDGES.len())].wrapping_add(rng.random_range(0..3)).wrapping_sub(1),
    }
}

/// As [`number`], its lower half.
pub(crate) fn number_32(rng: &mut StdRng) -> u32 {
    u32::try_from(number(rng) & u64::from(u32::MAX)).unwrap_or(0)
}

/// A text that is likely to break something.
pub(crate) fn text(rng: &mut StdRng) -> String {
    const ODD: [&str; 10] =
        ["", "\u{0}", "a\nb", "\u{202e}x", "\u{1b}[31m", "\u{fffd}", "é", "\u{10ffff}", "'\"\\", "%"];
    match rng.random_range(0..4) {
        0 => "x".repeat(rng.random_range(250..300)),
        1 => "é".repeat(rng.random_range(100..200)),
        _ => ODD[rng.random_range(0..ODD.len())].to_owned(),
    }
}

/// One change. `other` is another input of the same target.
pub(crate) fn mutate(mut bytes: Vec<u8>, other: &[u8], words: &[&str], rng: &mut StdRng) -> Vec<u8> {
    let at = rng.random_range(0..=bytes.len());
    let end = (at + rng.random_range(0..64)).min(bytes.len());
    match rng.random_range(0..9) {
        0 if !bytes.is_empty() => {
            let at = at.min(bytes.len() - 1);
            bytes[at] ^= 1 << rng.random_range(0..8);
        }
        1 => bytes.truncate(at),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let part = bytes[at..end].to_vec();
            for _ in 0..rng.random_range(1..20) {
                insert(&mut bytes, at, &part);
            }
        }
        4 if !other.is_empty() => {
            let from = rng.random_range(0..other.len());
            let to = (from + rng.random_range(1..256)).min(other.len());
            insert(&mut bytes, at, &other[from..to]);
        }
        5 => insert(&mut bytes, at, &varint(number(rng))),
        6 => insert(&mut bytes, at, number(rng).to_string().as_bytes()),
        7 if !words.is_empty() => insert(&mut bytes, at, words[rng.random_range(0..words.len())].as_bytes()),
        _ => insert(&mut bytes, at, text(rng).as_bytes()),
    }
    bytes
}

fn insert(bytes: &mut Vec<u8>, at: usize, part: &[u8]) {
    let at = at.min(bytes.len());
    bytes.splice(at..at, part.iter().copied());
}

/// As protobuf writes it; also a length that promises more than there is.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
