//! The one shape of every error. A handler returns an [`ApiError`]; `request` writes it, with the request's id.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tonnage_proto::rest::{ErrorAnswer, ErrorBody};
use tonnage_proto::token::masked;

/// Longest piece of a request that an error repeats, in characters.
const QUOTED_CHARS_MAX: usize = 80;

/// When what is not to be had now may be asked for again.
const RETRY_AFTER_SECONDS: &str = "5";

/// What went wrong, for programs and for people.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    field: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), field: None }
    }

    /// `message` names the value and what would be right.
    pub fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", message);
        Self { field: Some(field), ..error }
    }

    /// A parameter that the endpoint does not have.
    pub(super) fn unknown_parameter(name: &str, known: &[&str]) -> Self {
        let advice =
            if known.is_empty() { "takes none".to_owned() } else { format!("takes {}", known.join(", ")) };
        let message = format!("{:?} is not a parameter of this endpoint; it {advice}", quoted(name));
        Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", message)
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", message)
    }

    pub(super) fn invalid_price_book(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_price_book", message)
    }

    pub(super) fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    pub(super) fn not_found(path: &str) -> Self {
        let message = format!("{:?} is not an endpoint; they begin with /api/v1/", quoted(path));
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// A thing that is named in the path and is not there.
    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// It does not fit what is in the ledger.
    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    /// An account that may not spend; `code` is a word that clients of budgets know.
    pub(super) fn payment_required(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYMENT_REQUIRED, code, message)
    }

    #[must_use]
    pub fn method_not_allowed() -> Self {
        let message = "this endpoint has no such method; the allow header lists those it has";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    pub(super) fn too_large(limit_bytes: usize) -> Self {
        let message = format!("the body is too large; send at most {limit_bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// What happened is for the log; the client learns the id to look for.
    #[must_use]
    pub fn internal() -> Self {
        let message = "something went wrong here; the log has it under this request_id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// The status that it is answered with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// For people, without anything that looks like a token.
    #[must_use]
    pub fn message(&self) -> String {
        masked(&self.message)
    }

    pub(super) fn answer(&self, request_id: &str) -> ErrorAnswer {
        ErrorAnswer {
            error: ErrorBody {
                code: self.code.to_owned(),
                message: self.message(),
                field: self.field.map(str::to_owned),
                request_id: request_id.to_owned(),
            },
            request_id: request_id.to_owned(),
            timestamp: String::new(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// The beginning of what a stranger sent, to show it to them.
#[must_use]
pub fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_CHARS_MAX).collect()
}
