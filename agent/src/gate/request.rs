//! What Slurm's submit plugin asks, as one line: a verb, then `key=value` separated by spaces, values percent-encoded. Pure.
//!
//! ```text
//! submit token=5f0c... user=ada account=physics partition=gpu time_limit=60 tres_per_node=gres:gpu:a100:4 min_nodes=2
//! modify token=9e1b... job=17 user=ada account=physics ... was.time_limit=60 time_limit=120
//! ```
//!
//! Keys are those of `job_desc`, as job_submit.lua has them, and their values as it has them: numbers that stand for "not set" may
//! come along. Keys that are not known are let be, so that plugin and gate may be of different versions.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

/// Bytes of a line, its line feed with them.
pub const LINE_BYTES_MAX: usize = 4096;
/// Bytes of one value.
const VALUE_BYTES_MAX: usize = 1024;
const FIELDS_MAX: usize = 64;
/// What a token is: hex digits, so that it needs no quotes anywhere.
const TOKEN_CHARS: std::ops::RangeInclusive<usize> = 16..=64;
/// Slurm's numbers for "not set" and "no end", of 16, 32 and 64 bits.
const NOT_SET: [u64; 3] = [0xfffe, 0xffff_fffe, 0xffff_ffff_ffff_fffe];
const NO_END: [u64; 3] = [0xffff, 0xffff_ffff, 0xffff_ffff_ffff_ffff];

/// What is wrong with an ask; says the field, its value, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value:?}: {right}")]
pub struct AskError {
    pub field: String,
    pub value: String,
    pub right: String,
}

pub(super) fn wrong(field: &str, value: &str, right: impl Into<String>) -> AskError {
    let value = value.chars().take(80).collect();
    AskError { field: field.to_owned(), value, right: right.into() }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Submit,
    Modify,
}

/// A line, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub verb: Verb,
    /// Made by the plugin for this very ask.
    pub token: String,
    /// What is asked for.
    pub ask: Fields,
    /// What a job that is to be modified had; empty for a submission.
    pub was: Fields,
}

/// Fields of a job by their names; those without a value are not there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fields(BTreeMap<String, String>);

/// A number, as Slurm's plugins have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    Is(u64),
    /// `UNLIMITED`.
    NoEnd,
}

impl Request {
    /// # Errors
    /// If it is no such line: at the first thing that is wrong.
    pub fn parse(line: &str) -> Result<Self, AskError> {
        if line.len() > LINE_BYTES_MAX {
            return Err(wrong("line", "", format!("has over {LINE_BYTES_MAX} bytes")));
        }
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let verb = match words.next() {
            Some("submit") => Verb::Submit,
            Some("modify") => Verb::Modify,
            other => return Err(wrong("line", other.unwrap_or_default(), "begin with submit or modify")),
        };
        let (mut ask, mut was) = (Fields::default(), Fields::default());
        for (count, word) in words.enumerate() {
            if count == FIELDS_MAX {
                return Err(wrong("line", "", format!("has over {FIELDS_MAX} fields")));
            }
            let (key, value) = word.split_once('=').ok_or_else(|| wrong("line", word, "use key=value"))?;
            let value = percent_decode_str(value)
                .decode_utf8()
                .map_err(|_| wrong(key, value, "use percent-encoded UTF-8"))?;
            if value.len() > VALUE_BYTES_MAX || value.chars().any(char::is_control) {
                let right = format!("use at most {VALUE_BYTES_MAX} bytes, without control characters");
                return Err(wrong(key, &value, right));
            }
            let (of, key) = match key.strip_prefix("was.") {
                Some(key) => (&mut was, key),
                None => (&mut ask, key),
            };
            if of.0.insert(key.to_owned(), value.into_owned()).is_some() {
                return Err(wrong(key, "", "is there twice"));
            }
        }
        let token = ask.0.remove("token").unwrap_or_default();
        if !is_token(&token) {
            return Err(wrong("token", &token, "use 16 to 64 hex digits in small letters"));
        }
        Ok(Self { verb, token, ask, was })
    }
}

/// Hex digits in small letters, of such a number that nobody guesses them.
#[must_use]
pub fn is_token(text: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    TOKEN_CHARS.contains(&text.len()) && text.bytes().all(hex)
}

impl Fields {
    /// A text; empty if it is not there.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// A number, if it is set.
    ///
    /// # Errors
    /// If it is none.
    pub fn number(&self, key: &str) -> Result<Option<Number>, AskError> {
        let text = self.text(key);
        if text.is_empty() {
            return Ok(None);
        }
        // Lua has doubles, and writes large ones with an exponent unless told.
        let number: u64 = text.parse().map_err(|_| wrong(key, text, "use a whole number"))?;
        Ok(match number {
            number if NOT_SET.contains(&number) => None,
            number if NO_END.contains(&number) => Some(Number::NoEnd),
            number => Some(Number::Is(number)),
        })
    }

    /// A count above nothing, if it is set.
    ///
    /// # Errors
    /// If it is none.
    pub fn count(&self, key: &str) -> Result<Option<u64>, AskError> {
        match self.number(key)? {
            None | Some(Number::Is(0)) => Ok(None),
            Some(Number::Is(count)) => Ok(Some(count)),
            Some(Number::NoEnd) => Err(wrong(key, self.text(key), "use a number; it may not be without end")),
        }
    }

    /// These, and those of `others` that are not there: what a job is like once it is modified.
    #[must_use]
    pub fn over(&self, others: &Self) -> Self {
        let mut all = others.clone();
        all.0.extend(self.0.iter().map(|(key, value)| (key.clone(), value.clone())));
        all
    }

    #[cfg(test)]
    pub(super) fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_line_is_its_fields_and_unset_numbers_are_not_there() {
        let line = format!(
            "submit token={TOKEN} user=ada account=a%20b%25 time_limit=4294967294 max_nodes=65534 x=4294967295 n=7"
        );
        let request = Request::parse(&line).unwrap();
        assert_eq!((request.verb, request.token.as_str()), (Verb::Submit, TOKEN));
        assert_eq!((request.ask.text("user"), request.ask.text("account")), ("ada", "a b%"));
        assert_eq!((request.ask.number("time_limit"), request.ask.number("max_nodes")), (Ok(None), Ok(None)));
        assert_eq!(request.ask.number("x"), Ok(Some(Number::NoEnd)));
        assert_eq!(request.ask.number("n"), Ok(Some(Number::Is(7))));
        assert_eq!(request.ask.text("nothing"), "");
    }

    #[test]
    fn what_a_job_was_is_kept_apart() {
        let line = format!("modify token={TOKEN} job=7 time_limit=20 was.time_limit=10 was.account=a");
        let request = Request::parse(&line).unwrap();
        let after = request.ask.over(&request.was);
        assert_eq!((after.text("time_limit"), after.text("account")), ("20", "a"));
        assert_eq!(request.was.text("time_limit"), "10");
    }

    #[test]
    fn a_line_that_is_wrong_names_what_is() {
        let long = format!("submit token={TOKEN} a={}", "x".repeat(2000));
        let many = format!("submit token={TOKEN}{}", " a=".repeat(70));
        for (line, says) in [
            ("", "submit or modify"),
            ("delete", "submit or modify"),
            ("submit", "token"),
            ("submit token=xyz", "token"),
            (&*format!("submit token={TOKEN} account"), "key=value"),
            (&*format!("submit token={TOKEN} account=%ff"), "account"),
            (&*format!("submit token={TOKEN} account=a%0ab"), "account"),
            (&*format!("submit token={TOKEN} a=1 a=2"), "twice"),
            (&*long, "1024"),
            (&*many, "twice"),
            (&*"x".repeat(5000), "4096"),
        ] {
            let error = Request::parse(line).unwrap_err().to_string();
            assert!(error.contains(says), "{line}: {error}");
        }
        for text in ["1.5", "-1", "ten", "1e3", "99999999999999999999"] {
            assert!(Fields::of(&[("a", text)]).number("a").is_err(), "{text}");
        }
    }
}
