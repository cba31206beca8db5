//! Slurm's way of naming many things at once: `gpu[01-04,7],login`, for nodes and for device files. Pure.
//!
//! A text names at most [`MAX`] things where they are listed; what goes beyond, or makes no sense, names nothing. Asking
//! for one name lists nothing: a cluster's file may name ten thousand nodes in each line.
//!
//! Not for: multi-dimensional ranges of letters (`bgl[000xFFF]`), which only Blue Gene had.

const DIGITS_MAX: usize = 9;
/// Most names that are listed.
pub const MAX: usize = 1_024;
/// Brackets in one name; Slurm's dimensions are fewer.
const BRACKETS_MAX: usize = 4;

/// Every name, in the order given; empty if the text makes no sense or names too many.
#[must_use]
pub fn expand(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for part in parts(text) {
        let Some(more) = expand_part(part) else { return Vec::new() };
        names.extend(more);
        if names.len() > MAX {
            return Vec::new();
        }
    }
    names
}

/// True if `name` is one of the names.
#[must_use]
pub fn contains(text: &str, name: &str) -> bool {
    let parts = parts(text).into_iter().filter(|part| part.matches('[').count() <= BRACKETS_MAX);
    parts.into_iter().any(|part| is_of(part, name))
}

fn is_of(part: &str, name: &str) -> bool {
    let Some((before, bracket)) = part.split_once('[') else { return part == name };
    let Some((ranges, after)) = bracket.split_once(']') else { return false };
    let Some(rest) = name.strip_prefix(before) else { return false };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count().min(DIGITS_MAX);
    (1..=digits).any(|many| {
        let (number, rest) = rest.split_at(many);
        ranges.split(',').any(|range| in_range(range, number)) && is_of(after, rest)
    })
}

fn in_range(range: &str, number: &str) -> bool {
    // A number is as wide as its range is written, or wider where it does not fit.
    bounds(range).is_some_and(|(first, last, width)| {
        number
            .parse::<usize>()
            .is_ok_and(|at| (first..=last).contains(&at) && number.len() == width.max(at.to_string().len()))
    })
}

/// First, last and width of a range.
fn bounds(range: &str) -> Option<(usize, usize, usize)> {
    let range = range.trim();
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_: &usize| digits && text.len() <= DIGITS_MAX)
    };
    let (first, last) = (number(from)?, number(to)?);
    (first <= last).then_some((first, last, from.len()))
}

/// The text's parts between commas that stand outside brackets.
fn parts(text: &str) -> Vec<&str> {
    let mut within = false;
    let split = text.split(move |c| {
        match c {
            '[' => within = true,
            ']' => within = false,
            _ => {}
        }
        c == ',' && !within
    });
    split.map(str::trim).filter(|part| !part.is_empty()).collect()
}

/// `None`: a bracket is not closed, a range is wrong, or there are too many names.
fn expand_part(part: &str) -> Option<Vec<String>> {
    let mut names = vec![String::new()];
    let mut rest = part;
    if part.matches('[').count() > BRACKETS_MAX {
        return None;
    }
    while let Some((before, bracket)) = rest.split_once('[') {
        let (ranges, after) = bracket.split_once(']')?;
        let numbers = numbers(ranges)?;
        if names.len().checked_mul(numbers.len())? > MAX {
            return None;
        }
        names = names
            .iter()
            .flat_map(|name| numbers.iter().map(move |number| format!("{name}{before}{number}")))
            .collect();
        rest = after;
    }
    names.iter_mut().for_each(|name| name.push_str(rest));
    Some(names)
}

/// `01-03,7` as text, each as wide as its range is written.
fn numbers(ranges: &str) -> Option<Vec<String>> {
    let mut numbers = Vec::new();
    for range in ranges.split(',') {
        let (first, last, width) = bounds(range)?;
        if last - first >= MAX - numbers.len() {
            return None;
        }
        numbers.extend((first..=last).map(|number| format!("{number:0width$}")));
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_keep_their_order_and_their_width() {
        assert_eq!(expand("gpu[01-03,7],login"), ["gpu01", "gpu02", "gpu03", "gpu7", "login"]);
        assert_eq!(expand("r[0-1]n[8-9]x"), ["r0n8x", "r0n9x", "r1n8x", "r1n9x"]);
        assert_eq!(expand("/dev/nvidia[3,1]"), ["/dev/nvidia3", "/dev/nvidia1"]);
        assert_eq!(expand("a, b"), ["a", "b"]);
    }

    #[test]
    fn a_name_is_found_without_listing_all() {
        for (text, name) in [
            ("gpu[01-03,7],login", "gpu03"),
            ("gpu[01-03,7],login", "gpu7"),
            ("gpu[01-03,7],login", "login"),
            ("r[0-1]n[8-12]x", "r1n12x"),
            ("n[1-900000000]", "n77"),
        ] {
            assert!(contains(text, name), "{text} {name}");
        }
        for (text, name) in
            [("gpu[01-03]", "gpu3"), ("gpu[1-3]", "gpu4"), ("n[1-3]", "n1x"), ("n1", "n12"), ("n[1", "n1")]
        {
            assert!(!contains(text, name), "{text} {name}");
        }
    }

    #[test]
    fn what_makes_no_sense_or_is_too_much_names_nothing() {
        for text in ["", "a[1", "a[2-1]", "a[x]", "a[]", "a[1-]", "a[0-99999999]", "a[0-999]b[0-999]"] {
            assert_eq!(expand(text), [""; 0], "{text}");
        }
    }
}
