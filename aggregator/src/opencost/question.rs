//! What an upstream is asked: the same as we were, in OpenCost's words. Pure.

use axum::http::Uri;

use super::params::{Plan, Request, parse_window, span};
use crate::api::error::ApiError;
use crate::api::params::Params;
use crate::api::window::Window;

/// What the upstream is asked, as our clients asked us.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Question {
    Allocations(Request),
    /// Of the window in these words.
    Assets(String),
}

impl Question {
    /// Reads the parameters of `/assets`, which takes a window and nothing else.
    ///
    /// # Errors
    /// The first parameter that is not served or missing, by name.
    pub(super) fn assets(uri: &Uri) -> Result<Self, ApiError> {
        let mut params = Params::read(uri, &["window"])?;
        params.take("window").map(Self::Assets).ok_or_else(|| {
            ApiError::invalid("window", "window is missing; say of what time, as in window=7d")
        })
    }

    /// What it means at `now_ns`; assets have no sets.
    ///
    /// # Errors
    /// If the window is none, or has too many steps.
    pub(super) fn plan(&self, now_ns: i64) -> Result<Plan, ApiError> {
        match self {
            Self::Allocations(request) => request.plan(now_ns),
            Self::Assets(window) => Ok(Plan { window: parse_window(window, now_ns)?, sets: Vec::new() }),
        }
    }

    /// Path and query in OpenCost's words, for `window`.
    #[must_use]
    pub(super) fn path(&self, window: Window) -> String {
        match self {
            Self::Allocations(request) => format!("/allocation?{}", request.upstream_query(window)),
            Self::Assets(_) => format!("/assets?{}", span(window)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonnage_proto::limits::SLOT_NS;

    use super::*;

    #[test]
    fn the_upstream_is_asked_the_same_in_its_own_words() {
        let query =
            "window=1d&aggregate=pod,label:a%26b&step=1h&includeIdle=1&accumulateBy=day&resolution=1m";
        let request = Request::read(&format!("http://x/allocation?{query}").parse().unwrap()).unwrap();
        assert_eq!(
            Question::Allocations(request).path((0, SLOT_NS)),
            "/allocation?window=0,900&aggregate=pod,label:a%26b&includeIdle=true&idleByNode=false&shareIdle=false\
             &step=60m&accumulateBy=day"
        );
        let assets = Question::assets(&"http://x/assets?window=1d".parse().unwrap()).unwrap();
        assert_eq!(assets.path((0, SLOT_NS)), "/assets?window=0,900");
    }
}
