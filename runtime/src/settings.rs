//! What reading settings has in common: a TOML file of them, values in text, and errors that name the setting, its
//! value and what would be right. Which settings there are is each process's own matter.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::DeserializeOwned;

/// A setting is wrong.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("config file {path}: cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The parser's message has line and key.
    #[error("config file {path}: {message}")]
    Parse { path: PathBuf, message: String },
    #[error("{field}: {value:?}: {right}")]
    Value { field: &'static str, value: String, right: String },
}

/// Reads the settings in `path`; all defaults without one.
///
/// # Errors
/// If the file cannot be read, is not TOML, or has keys or values that `T` does not.
pub fn read<T: DeserializeOwned + Default>(path: Option<&Path>) -> Result<T, SettingsError> {
    let Some(path) = path else { return Ok(T::default()) };
    let text = std::fs::read_to_string(path)
        .map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|e| {
        // Not its whole text, which repeats the line: a secret may stand there.
        let line =
            e.span().and_then(|span| text.get(..span.start)).map(|before| before.matches('\n').count() + 1);
        let message =
            line.map_or_else(|| e.message().to_owned(), |line| format!("line {line}: {}", e.message()));
        SettingsError::Parse { path: path.to_owned(), message }
    })
}

/// A value that is not what `right` says.
pub fn wrong(field: &'static str, value: impl ToString, right: impl Into<String>) -> SettingsError {
    SettingsError::Value { field, value: value.to_string(), right: right.into() }
}

/// Parses a value if there is one.
///
/// # Errors
/// If it does not parse; the parser says what would be right.
pub fn parsed<T: FromStr<Err: Display>>(
    field: &'static str,
    value: Option<String>,
) -> Result<Option<T>, SettingsError> {
    value.map(|value| value.parse().map_err(|e: T::Err| wrong(field, &value, e.to_string()))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        port: Option<u16>,
    }

    fn read_text(text: &str) -> Result<Settings, SettingsError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(Some(file.path()))
    }

    #[test]
    fn without_a_file_everything_is_default() {
        assert_eq!(read::<Settings>(None).unwrap(), Settings { port: None });
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_key_and_line() {
        let error = read_text("port = 1\nprot = 2\n").unwrap_err().to_string();
        assert!(error.contains("prot") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn a_bad_value_is_named_with_its_field() {
        let error = parsed::<u16>("port", Some("x".into())).unwrap_err().to_string();
        assert!(error.starts_with("port: \"x\": "), "{error}");
    }
}
