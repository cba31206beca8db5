//! The figures of up to [`KEYS`] keys in one value of bytes. Pure.
//!
//! Behind the format's number come entries in the order of their keys: the key's place (one byte), its method bits, and the
//! six figures, all but the first as LEB128, figures in zigzag. Sums over a fleet's months are more than 64 bits.

use std::collections::BTreeMap;

use crate::ledger::rows::Row;

/// Keys whose figures lie together. A value of so many is some 2 KB, which both engines keep beside its row.
pub const KEYS: i64 = 64;
/// The same as a length.
pub const PLACES: usize = 64;
const FORMAT: u8 = 1;
/// Bytes of a number of 128 bits.
const NUMBER_BYTES_MAX: u32 = 19;

/// Sums of rows: time, busy time, memory, energy, cost and unpriced time in the units of a slot's row, and the method bits
/// of all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    pub sums: [i128; 6],
    pub method: u32,
}

impl Figures {
    pub fn add(&mut self, more: &Self) {
        for (sum, more) in self.sums.iter_mut().zip(more.sums) {
            *sum += more;
        }
        self.method |= more.method;
    }

    #[must_use]
    pub fn cost_nanos(&self) -> i128 {
        self.sums[4]
    }

    /// Is there nothing to tell of it?
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.sums == [0; 6]
    }
}

impl From<Row> for Figures {
    fn from(row: Row) -> Self {
        let Row { time_ns, busy_ns, memory_byte_seconds, energy_uj, method, cost_nanos, unpriced_ns } = row;
        let sums = [time_ns, busy_ns, memory_byte_seconds, energy_uj, cost_nanos, unpriced_ns];
        Self { sums: sums.map(i128::from), method }
    }
}

/// The value of a part's figures by key, without those that are nothing; `None` if all are.
#[must_use]
pub fn pack(figures: &BTreeMap<i64, Figures>) -> Option<Vec<u8>> {
    let mut bytes = vec![FORMAT];
    for (key, figures) in figures.iter().filter(|(_, figures)| !figures.is_nothing()) {
        bytes.push(u8::try_from(key.rem_euclid(KEYS)).unwrap_or_default());
        put(&mut bytes, u128::from(figures.method));
        for sum in figures.sums {
            // The sign last: small numbers of either sign are short.
            put(&mut bytes, ((sum << 1) ^ (sum >> 127)).cast_unsigned());
        }
    }
    (bytes.len() > 1).then_some(bytes)
}

/// Hands every key of a part with its figures to `each`. False if the bytes are not what [`pack`] makes.
#[must_use]
pub fn unpack(part: i64, bytes: &[u8], mut each: impl FnMut(i64, Figures)) -> bool {
    let Some((&FORMAT, mut rest)) = bytes.split_first() else { return false };
    while let Some((place, after)) = rest.split_first() {
        rest = after;
        let Some(method) = take(&mut rest).and_then(|method| u32::try_from(method).ok()) else {
            return false;
        };
        let mut sums = [0; 6];
        for sum in &mut sums {
            let Some(number) = take(&mut rest) else { return false };
            *sum = (number >> 1).cast_signed() ^ -((number & 1).cast_signed());
        }
        each(part * KEYS + i64::from(*place), Figures { sums, method });
    }
    true
}

fn put(bytes: &mut Vec<u8>, mut number: u128) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn take(bytes: &mut &[u8]) -> Option<u128> {
    // Nearly all are of eight bytes at most, and a large answer has millions: those at once.
    if let Some((word, _)) = bytes.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        let ends = !word & 0x8080_8080_8080_8080;
        if ends != 0 {
            let length = ends.trailing_zeros() / 8 + 1;
            let sevens = word & (u64::MAX >> (64 - 8 * length)) & 0x7f7f_7f7f_7f7f_7f7f;
            // Groups of seven bits to fourteen, to twenty-eight, to all.
            let pairs = (sevens & 0x007f_007f_007f_007f) | (sevens & 0x7f00_7f00_7f00_7f00) >> 1;
            let fours = (pairs & 0x0000_3fff_0000_3fff) | (pairs & 0x3fff_0000_3fff_0000) >> 2;
            let number = (fours & 0x0fff_ffff) | (fours & 0x0fff_ffff_0000_0000) >> 4;
            *bytes = bytes.get(length as usize..)?;
            return Some(u128::from(number));
        }
    }
    let mut number = 0;
    for at in 0..NUMBER_BYTES_MAX {
        let byte = *bytes.get(at as usize)?;
        number |= u128::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            *bytes = bytes.get(at as usize + 1..)?;
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn unpacked(part: i64, bytes: &[u8]) -> Option<BTreeMap<i64, Figures>> {
        let mut found = BTreeMap::new();
        let whole = unpack(part, bytes, |key, figures| {
            found.insert(key, figures);
        });
        whole.then_some(found)
    }

    #[test]
    fn figures_of_any_size_and_sign_come_back() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let mut given = BTreeMap::new();
        for key in 7 * KEYS..8 * KEYS {
            let sums = std::array::from_fn(|_| rng.random::<i128>() >> rng.random_range(0..128));
            given.insert(key, Figures { sums, method: rng.random() });
        }
        let extremes = [i128::MAX, i128::MIN, 0, -1, 1, i128::from(i64::MIN)];
        given.insert(7 * KEYS, Figures { sums: extremes, method: u32::MAX });
        given.retain(|_, figures| !figures.is_nothing());
        assert_eq!(unpacked(7, &pack(&given).unwrap()), Some(given));
    }

    #[test]
    fn what_is_nothing_is_not_kept() {
        let nothing = Figures { sums: [0; 6], method: 3 };
        assert_eq!(pack(&[(5, nothing)].into()), None);
        let one = Figures { sums: [0, 0, 0, 0, 1, 0], method: 0 };
        assert_eq!(unpacked(0, &pack(&[(5, nothing), (6, one)].into()).unwrap()), Some([(6, one)].into()));
    }

    #[test]
    fn bytes_that_were_cut_or_are_of_another_format_are_refused() {
        let one = Figures { sums: [i128::MAX; 6], method: 3 };
        let bytes = pack(&[(5, one)].into()).unwrap();
        assert!((2..bytes.len()).all(|end| unpacked(0, &bytes[..end]).is_none()));
        assert_eq!(unpacked(0, &[]), None);
        assert_eq!(unpacked(0, &[FORMAT + 1]), None);
        let endless = [&[FORMAT, 0][..], &[0xff; 40]].concat();
        assert_eq!(unpacked(0, &endless), None);
    }
}
