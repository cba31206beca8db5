//! `GET /api/v1/prices` and `POST /api/v1/prices/check`: the book in force, and a look at one that is not yet.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, Uri};
use axum::response::IntoResponse;
use tonnage_proto::rest::PricesAnswer;

use super::Api;
use super::error::ApiError;
use super::params::Params;
use crate::prices::Book;
use crate::prices::book::BOOK_BYTES_MAX;

pub(super) async fn current(State(api): State<Arc<Api>>, uri: Uri) -> Result<Json<PricesAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let book = Arc::clone(&api.state.prices.books.borrow());
    let error = api.state.prices.error.borrow().clone();
    Ok(Json(answer(&book, error)))
}

/// Changes nothing.
pub(super) async fn check(
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<PricesAnswer>, ApiError> {
    Params::read(&uri, &[])?;
    let body = body.map_err(|error| {
        if error.into_response().status() == StatusCode::PAYLOAD_TOO_LARGE {
            return ApiError::too_large(BOOK_BYTES_MAX);
        }
        ApiError::bad_request("the body could not be read to its end")
    })?;
    // A megabyte of TOML takes a while.
    let parsed = tokio::task::spawn_blocking(move || {
        let text = str::from_utf8(&body).map_err(|error| {
            ApiError::invalid_price_book(format!(
                "price book: is not UTF-8 from byte {}",
                error.valid_up_to()
            ))
        })?;
        Book::parse(text).map_err(|error| ApiError::invalid_price_book(error.to_string()))
    })
    .await;
    let book = parsed.map_err(|error| {
        tracing::error!(%error, "A price book could not be checked.");
        ApiError::internal()
    })??;
    Ok(Json(answer(&book, None)))
}

fn answer(book: &Book, error: Option<String>) -> PricesAnswer {
    PricesAnswer { currency: book.currency().to_owned(), prices: book.rows(), error }
}
