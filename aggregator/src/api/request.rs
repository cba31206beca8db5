//! Around every request: its id, its error's shape, its log line and its metrics; a panic becomes an answer.

use std::sync::Arc;

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use tonnage_proto::rest::ErrorAnswer;

use super::Api;
use super::error::ApiError;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ID_BYTES_MAX: usize = 64;

pub(super) async fn observe(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let started_ns = api.state.clock.monotonic_ns();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    // On a task of its own, so that a panic ends only that.
    let answered = tokio::spawn(next.run(request)).await;
    let mut response = answered.unwrap_or_else(|error| {
        tracing::error!(request_id = id, %error, "A request's handler ended without an answer.");
        ApiError::internal().into_response()
    });
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let (mut parts, _) = response.into_parts();
        let timestamp = super::inventory::time(api.state.clock.wall_ns());
        let body = Json(ErrorAnswer { timestamp, ..error.answer(&id) }).into_response();
        parts.headers.extend(body.headers().clone());
        parts.headers.remove(axum::http::header::CONTENT_LENGTH);
        response = Response::from_parts(parts, body.into_body());
    }
    let duration_ns = api.state.clock.monotonic_ns().saturating_sub(started_ns);
    let code = response.status().as_u16();
    api.state.metrics.request(&route, code, duration_ns);
    if response.status().is_server_error() {
        tracing::warn!(request_id = id, %method, route, code, "Answered a request with an error.");
    } else {
        tracing::debug!(request_id = id, %method, route, code, "Answered a request.");
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// The client's id if it is a sane one, else one of ours.
fn request_id(headers: &HeaderMap) -> String {
    let sane = |id: &&str| {
        (1..=ID_BYTES_MAX).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    let sent = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(sane);
    sent.map_or_else(new_id, str::to_owned)
}

fn new_id() -> String {
    let mut bytes = [0_u8; 8];
    // Without random numbers ids repeat; the request itself does not need them.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
