//! One question to the upstream: plain HTTP/1.1 over a connection of its own. No proxy, no redirect, no credentials.
//!
//! Limits: a time from connecting to the last byte, [`BODY_BYTES_MAX`] of body, 64 headers.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Bytes of an answer's body.
pub(super) const BODY_BYTES_MAX: usize = 32 << 20;
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
const PORT: u16 = 9003;

/// Where an OpenCost listens: `http://HOST[:PORT][/PREFIX]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
    prefix: String,
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RIGHT: &str =
            "use http://HOST[:PORT][/PREFIX], as http://opencost.opencost:9003; it is asked by plain HTTP";
        let uri: Uri = text.parse().map_err(|_| RIGHT)?;
        let authority = uri.authority().ok_or(RIGHT)?;
        if uri.scheme_str() != Some("http") || authority.as_str().contains('@') || uri.query().is_some() {
            return Err(RIGHT);
        }
        Ok(Self {
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(PORT),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}", self.host, self.port, self.prefix)
    }
}

/// No answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("it did not answer within {0:?}")]
    Slow(Duration),
    #[error("the connection failed")]
    Connection(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("it answered {0}")]
    Status(StatusCode),
    #[error("its answer has more than {BODY_BYTES_MAX} bytes")]
    TooLarge,
}

impl FetchError {
    /// Can another try end differently?
    pub(super) fn passing(&self) -> bool {
        match self {
            Self::Slow(_) | Self::Connection(_) => true,
            Self::Status(status) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::TooLarge => false,
        }
    }
}

/// The body that `address` answers to `path_and_query` with, within `timeout`.
///
/// # Errors
/// If it does not answer in time, with 200, and in as many bytes as it may.
pub(super) async fn get(
    address: &Address,
    path_and_query: &str,
    timeout: Duration,
) -> Result<Bytes, FetchError> {
    let exchange = tokio::time::timeout(timeout, exchange(address, path_and_query));
    exchange.await.unwrap_or(Err(FetchError::Slow(timeout)))
}

async fn exchange(address: &Address, path_and_query: &str) -> Result<Bytes, FetchError> {
    fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FetchError {
        FetchError::Connection(error.into())
    }
    // An IPv6 address stands in brackets in a URL, and without them for the resolver.
    let host = address.host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, address.port)).await.map_err(failed)?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    // Ends with this call, whatever the peer does.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::builder()
        .uri(format!("{}{path_and_query}", address.prefix))
        .header(HOST, format!("{}:{}", address.host, address.port))
        .header(ACCEPT, "application/json")
        .body(Empty::new())
        .map_err(failed)?;
    let response = sender.send_request(request).await.map_err(failed)?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status()));
    }
    let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
        Ok(_) => FetchError::TooLarge,
        Err(error) => FetchError::Connection(error),
    })?;
    Ok(body.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_plain_http_without_credentials() {
        for (text, shown) in [
            ("http://opencost.opencost:9003", "http://opencost.opencost:9003"),
            ("http://10.0.0.1", "http://10.0.0.1:9003"),
            ("http://[::1]:80/model/", "http://[::1]:80/model"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for text in
            ["", "opencost:9003", "https://opencost", "http://u:p@opencost", "http://a/?b=c", "http://"]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
