//! What a target is.

use rand::rngs::StdRng;

/// A parser under attack.
pub(crate) struct Target {
    /// Its name, and that of its corpus' folder.
    pub(crate) name: &'static str,
    /// A valid input, different each time.
    pub(crate) generate: fn(&mut StdRng) -> Vec<u8>,
    /// Changes an input by what its structure is; gives it back as it is where it has none left.
    pub(crate) warp: fn(Vec<u8>, &mut StdRng) -> Vec<u8>,
    /// Words of its language, for [`crate::mutate`].
    pub(crate) words: &'static [&'static str],
    /// Longest input in bytes that its callers let through.
    pub(crate) bytes_max: usize,
    /// Parses. `Ok` says whether the input was taken; `Err` is a broken promise.
    pub(crate) check: fn(&[u8]) -> Result<bool, String>,
}

/// Fails with what was promised, unless it holds.
pub(crate) fn promise(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
