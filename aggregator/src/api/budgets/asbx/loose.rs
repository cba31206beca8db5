//! What shell scripts write for JSON: a number where text is wanted, text where a number is, and `16(x2)` bare.

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A text, a number or a truth value, as it was written; empty of nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::api) struct Loose(pub(super) String);

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        match text.as_bytes().first() {
            Some(b'"') => serde_json::from_str(text).map(Self).map_err(serde::de::Error::custom),
            Some(b'{' | b'[') => {
                Err(serde::de::Error::custom("an object or a list is no text and no number"))
            }
            _ if text == "null" => Ok(Self::default()),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl JsonSchema for Loose {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Loose".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number", "boolean", "null"], "description": "Text or number, as scripts write it" })
    }
}

impl Loose {
    /// As a time: RFC 3339, or seconds since 1970. `None` of anything else, such as `Unknown`.
    pub(super) fn at_ns(&self) -> Option<i64> {
        let seconds = || self.0.split('.').next()?.parse::<i64>().ok()?.checked_mul(1_000_000_000);
        let at = self.0.parse::<Timestamp>().ok().and_then(|at| i64::try_from(at.as_nanosecond()).ok());
        at.or_else(seconds).filter(|at_ns| *at_ns > 0)
    }
}

/// JSON in which bare words are put into quotes, and nothing at all is null. What is JSON already stays as it is.
pub(super) fn mended(text: &str) -> String {
    let mut mended = String::with_capacity(text.len() + 64);
    let (mut rest, mut value_due) = (text, false);
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '"' => string_length(rest),
            ':' | '{' | '}' | '[' | ']' | ',' => {
                // Of `"max_rss": ,` the value is missing.
                if value_due && matches!(c, ',' | '}') {
                    mended.push_str("null");
                }
                1
            }
            _ if c.is_whitespace() => c.len_utf8(),
            _ => rest.find([',', '}', ']', '"', '\n']).unwrap_or(rest.len()),
        };
        let (token, after) = rest.split_at(length.max(1).min(rest.len()));
        let bare = !matches!(c, '"' | ':' | '{' | '}' | '[' | ']' | ',') && !c.is_whitespace();
        if bare && serde_json::from_str::<&RawValue>(token.trim_end()).is_err() {
            mended.push_str(&serde_json::Value::from(token.trim_end()).to_string());
        } else {
            mended.push_str(token);
        }
        value_due = c == ':' || (value_due && c.is_whitespace());
        rest = after;
    }
    mended
}

/// Of a string in quotes, with them; of one without an end, to the end of all.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_epilogs_write_is_read_and_json_stays_as_it_is() {
        let sent = "{\n  \"job_id\": 7,\n  \"allocated_cpus\": 16(x2),\n  \"exit_code\": 0:0, \"max_rss\": ,\n \
                    \"end_time\": Unknown, \"state\": \"a, \\\"b\\\": 1(x2)\", \"list\": [1, x y], \"last\": }";
        let value: Value = serde_json::from_str(&mended(sent)).unwrap();
        let expected = json!({
            "job_id": 7, "allocated_cpus": "16(x2)", "exit_code": "0:0", "max_rss": null, "end_time": "Unknown",
            "state": "a, \"b\": 1(x2)", "list": [1, "x y"], "last": null,
        });
        assert_eq!(value, expected);
        for text in [r#"{"a":[1.5e3,true,null,{"b":"c:d,e"}],"é":"ü"}"#, "{}", "[]", "\"x\""] {
            assert_eq!(mended(text), text);
        }
        for text in ["", "{\"a", "{\"a\\", "é(", "}", "{:,"] {
            let _ = mended(text);
        }
    }

    #[test]
    fn a_value_is_text_whatever_it_was_and_a_time_is_one_or_none() {
        for (json, text) in [("\"7\"", "7"), ("7", "7"), ("null", ""), ("true", "true"), ("1e3", "1e3")] {
            assert_eq!(serde_json::from_str::<Loose>(json).unwrap().0, text);
        }
        assert!(serde_json::from_str::<Loose>("[1]").is_err());
        for (text, expected) in [
            ("1800000000", Some(1_800_000_000_000_000_000)),
            ("1800000000.5", Some(1_800_000_000_000_000_000)),
            ("2027-01-15T08:00:00Z", Some(1_800_000_000_000_000_000)),
            ("Unknown", None),
            ("", None),
            ("0", None),
            ("-5", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(Loose(text.to_owned()).at_ns(), expected, "{text}");
        }
    }
}
