//! Query parameters, each known and given once.

use std::collections::BTreeMap;

use axum::extract::Query;
use axum::http::Uri;

use super::error::{ApiError, quoted};
use crate::filter::FILTER_BYTES_MAX;

/// Longest value in bytes.
pub(super) const VALUE_BYTES_MAX: usize = FILTER_BYTES_MAX;

/// Is `value` one that may be asked for, whatever `field` is?
///
/// # Errors
/// If it is none or too long, or has a character that no text in a database can have.
pub(super) fn check(field: &'static str, value: &str) -> Result<(), ApiError> {
    if value.is_empty() || value.len() > VALUE_BYTES_MAX {
        let message =
            format!("{field} has {} bytes; give it 1 to {VALUE_BYTES_MAX}, or leave it out", value.len());
        return Err(ApiError::invalid(field, message));
    }
    if value.contains('\0') {
        let message = format!("{field} {:?} has the character U+0000; leave it out", quoted(value));
        return Err(ApiError::invalid(field, message));
    }
    Ok(())
}

/// What a query has.
#[derive(Debug, Default)]
pub struct Params(BTreeMap<&'static str, String>);

impl Params {
    /// Reads the parameters of `uri`, of which `known` exist.
    ///
    /// # Errors
    /// The first that is not known, has no value or too long a one, or is given twice.
    pub fn read(uri: &Uri, known: &[&'static str]) -> Result<Self, ApiError> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| ApiError::bad_request(format!("the query cannot be read: {error}")))?;
        let mut values = BTreeMap::new();
        for (name, value) in pairs.0 {
            let Some(field) = known.iter().copied().find(|known| *known == name) else {
                return Err(ApiError::unknown_parameter(&name, known));
            };
            check(field, &value)?;
            if values.insert(field, value).is_some() {
                return Err(ApiError::invalid(
                    field,
                    format!("{field} is given more than once; give it once"),
                ));
            }
        }
        Ok(Self(values))
    }

    /// The value of `name`, once.
    pub fn take(&mut self, name: &'static str) -> Option<String> {
        self.0.remove(name)
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn take_bool(&mut self, name: &'static str, default: bool) -> Result<bool, ApiError> {
        match self.take(name).as_deref() {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => {
                Err(ApiError::invalid(name, format!("{name} {:?} is neither true nor false", quoted(other))))
            }
        }
    }

    /// The `after` of a page: the last id of the page before.
    pub(super) fn take_after(&mut self) -> Result<i64, ApiError> {
        let Some(text) = self.take("after") else { return Ok(0) };
        text.parse().ok().filter(|after| *after >= 0).ok_or_else(|| {
            let message = format!("after {:?} is not an id of the page before", quoted(&text));
            ApiError::invalid("after", message)
        })
    }

    /// A whole number from 1 to `most`.
    ///
    /// # Errors
    /// If it is none.
    pub fn take_count(&mut self, name: &'static str, default: usize, most: usize) -> Result<usize, ApiError> {
        let Some(text) = self.take(name) else { return Ok(default) };
        text.parse().ok().filter(|count| (1..=most).contains(count)).ok_or_else(|| {
            let message = format!("{name} {:?} is not a whole number from 1 to {most}", quoted(&text));
            ApiError::invalid(name, message)
        })
    }
}
