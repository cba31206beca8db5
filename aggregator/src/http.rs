//! One request to somebody else: HTTP/1.1 over a connection of its own, plain or by TLS. No proxy, no redirect.
//!
//! Limits: a time from connecting to the last byte, bytes of the answer's body, 64 headers.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::{HOST, HeaderMap, RETRY_AFTER};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::tls::foreign::{ForeignFiles, Verified};

const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
const TLS_PORT: u16 = 443;

/// Where a server listens: `http://HOST[:PORT][/PATH]`, or `https://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `None`: plain.
    tls: Option<ForeignFiles>,
    host: String,
    port: u16,
    path: String,
}

impl Server {
    /// `port` is that of plain addresses without one. `ca_setting` names the setting of the CAs, for errors. `None` if this is
    /// no such address.
    #[must_use]
    pub fn parse(text: &str, port: u16, ca_setting: &'static str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let plain = uri.scheme_str() == Some("http");
        let known = plain || uri.scheme_str() == Some("https");
        if !known || authority.as_str().contains('@') {
            return None;
        }
        let settings = [ca_setting, "", ""];
        let tls = ForeignFiles { verified: Verified::Name, ca: None, identity: None, settings };
        Some(Self {
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(if plain { port } else { TLS_PORT }),
            tls: (!plain).then_some(tls),
            // As it was given, a slash at its end too: to some servers that is another place.
            path: uri.path_and_query().map_or("", |path| path.as_str()).to_owned(),
        })
    }

    /// The same with the CAs of its certificate instead of the system's; `None` if it is plain.
    #[must_use]
    pub fn of_ca(self, ca: PathBuf) -> Option<Self> {
        let tls = ForeignFiles { ca: Some(ca), ..self.tls? };
        Some(Self { tls: Some(tls), ..self })
    }

    /// Has its address parameters?
    #[must_use]
    pub fn has_query(&self) -> bool {
        self.path.contains('?')
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path)
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    pub method: Method,
    /// Behind the server's own path.
    pub path_and_query: &'a str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    pub timeout: Duration,
    /// Of the answer's body.
    pub bytes_max: usize,
}

/// No answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("it did not answer within {0:?}")]
    Slow(Duration),
    #[error("the connection failed")]
    Connection(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// With the seconds after which it may be asked again, if it said so.
    #[error("it answered {0}")]
    Status(StatusCode, Option<u64>),
    #[error("its answer has more than {0} bytes")]
    TooLarge(usize),
}

impl HttpError {
    /// Can another try end differently?
    #[must_use]
    pub fn passing(&self) -> bool {
        match self {
            Self::Slow(_) | Self::Connection(_) => true,
            Self::Status(status, _) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::TooLarge(_) => false,
        }
    }
}

/// The body of a good answer.
///
/// # Errors
/// If it does not answer in time, with a 2xx, and in as many bytes as it may.
pub async fn ask(server: &Server, question: Question<'_>) -> Result<Bytes, HttpError> {
    let timeout = question.timeout;
    let exchange = tokio::time::timeout(timeout, exchange(server, question));
    exchange.await.unwrap_or(Err(HttpError::Slow(timeout)))
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> HttpError {
    HttpError::Connection(error.into())
}

async fn exchange(server: &Server, question: Question<'_>) -> Result<Bytes, HttpError> {
    // An IPv6 address stands in brackets in a URL, and without them for the resolver.
    let host = server.host.trim_start_matches('[').trim_end_matches(']');
    let tcp = TcpStream::connect((host, server.port)).await.map_err(failed)?;
    match &server.tls {
        None => over(server, question, tcp).await,
        Some(files) => {
            let stream = files.connect(host, tcp, &Clock::system()).await.map_err(failed)?;
            over(server, question, stream).await
        }
    }
}

async fn over(
    server: &Server,
    question: Question<'_>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Bytes, HttpError> {
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    // Ends with this call, whatever the peer does.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    // Behind a root's slash there is no second one.
    let prefix = if question.path_and_query.is_empty() {
        server.path.as_str()
    } else {
        server.path.trim_end_matches('/')
    };
    let path = format!("{prefix}{}", question.path_and_query);
    let mut request = Request::builder()
        .method(question.method)
        .uri(if path.starts_with('/') { path } else { format!("/{path}") })
        .header(HOST, format!("{}:{}", server.host, server.port));
    for (name, value) in question.headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(question.body)).map_err(failed)?;
    let response = sender.send_request(request).await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(HttpError::Status(response.status(), retry_after(response.headers())));
    }
    let body = Limited::new(response.into_body(), question.bytes_max).collect().await;
    let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
        Ok(_) => HttpError::TooLarge(question.bytes_max),
        Err(error) => HttpError::Connection(error),
    })?;
    Ok(body.to_bytes())
}

/// RFC 9110, 10.2.3; of its two forms the one in seconds.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_stays_as_it_was_given() {
        for url in ["https://hooks.example:443/a/", "https://hooks.example:443/a/?b=c/", "http://x:80/"] {
            assert_eq!(Server::parse(url, 80, "ca").unwrap().to_string(), url);
        }
    }
}
