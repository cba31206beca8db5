//! One question to the upstream: HTTP/1.1 over a connection of its own, plain or by TLS. No proxy, no redirect, no credentials.
//!
//! Limits: a time from connecting to the last byte, [`BODY_BYTES_MAX`] of body, 64 headers.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::tls::foreign::{ForeignFiles, Verified};

/// Bytes of an answer's body.
pub(super) const BODY_BYTES_MAX: usize = 32 << 20;
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
const PORT: u16 = 9003;
const TLS_PORT: u16 = 443;
/// The settings of its certificates; ours is never shown.
const SETTINGS: [&str; 3] = ["opencost_upstream_ca_file", "", ""];

/// Where an OpenCost listens: `http://HOST[:PORT][/PREFIX]`, or `https://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `None`: plain.
    tls: Option<ForeignFiles>,
    host: String,
    port: u16,
    prefix: String,
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RIGHT: &str =
            "use http://HOST[:PORT][/PREFIX] or https://..., as http://opencost.opencost:9003";
        let uri: Uri = text.parse().map_err(|_| RIGHT)?;
        let authority = uri.authority().ok_or(RIGHT)?;
        let plain = uri.scheme_str() == Some("http");
        if !(plain || uri.scheme_str() == Some("https"))
            || authority.as_str().contains('@')
            || uri.query().is_some()
        {
            return Err(RIGHT);
        }
        let tls = ForeignFiles { verified: Verified::Name, ca: None, identity: None, settings: SETTINGS };
        Ok(Self {
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(if plain { PORT } else { TLS_PORT }),
            tls: (!plain).then_some(tls),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl Address {
    /// The same with the CAs of its certificate instead of the system's; `None` if it is plain.
    #[must_use]
    pub fn of_ca(self, ca: PathBuf) -> Option<Self> {
        let tls = ForeignFiles { ca: Some(ca), ..self.tls? };
        Some(Self { tls: Some(tls), ..self })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.prefix)
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

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> FetchError {
    FetchError::Connection(error.into())
}

async fn exchange(address: &Address, path_and_query: &str) -> Result<Bytes, FetchError> {
    // An IPv6 address stands in brackets in a URL, and without them for the resolver.
    let host = address.host.trim_start_matches('[').trim_end_matches(']');
    let tcp = TcpStream::connect((host, address.port)).await.map_err(failed)?;
    match &address.tls {
        None => ask(address, path_and_query, tcp).await,
        Some(files) => {
            let stream = files.connect(host, tcp, &Clock::system()).await.map_err(failed)?;
            ask(address, path_and_query, stream).await
        }
    }
}

async fn ask(
    address: &Address,
    path_and_query: &str,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Bytes, FetchError> {
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
    use std::path::Path;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;
    use tonnage_runtime::telemetry::chain;
    use tonnage_runtime::tls::{IdentityFiles, Server, ServerFiles};

    use super::*;

    #[test]
    fn an_address_is_http_or_https_without_credentials() {
        for (text, shown) in [
            ("http://opencost.opencost:9003", "http://opencost.opencost:9003"),
            ("http://10.0.0.1", "http://10.0.0.1:9003"),
            ("http://[::1]:80/model/", "http://[::1]:80/model"),
            ("https://opencost.example", "https://opencost.example:443"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), shown);
        }
        for text in
            ["", "opencost:9003", "ftp://opencost", "https://u:p@opencost", "http://a/?b=c", "http://"]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    /// A certificate for this machine and its CA, as files.
    fn identity(folder: &Path) -> (ServerFiles, PathBuf) {
        let [ca, cert, key] = ["ca.pem", "own.pem", "own.key"].map(|name| folder.join(name));
        let (ca_key, own_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        std::fs::write(&ca, params.self_signed(&ca_key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let own = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(&cert, own.signed_by(&own_key, &issuer).unwrap().pem()).unwrap();
        std::fs::write(&key, own_key.serialize_pem()).unwrap();
        let identity = IdentityFiles { cert, key };
        (ServerFiles { identity, client_ca: None, require_client_cert: false }, ca)
    }

    #[tokio::test]
    async fn an_upstream_is_asked_by_tls_if_its_certificate_is_of_the_ca_that_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (files, ca) = identity(folder.path());
        let server = Server::new(&files, &files.read().unwrap(), &Clock::system()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                // Who does not like the certificate hangs up.
                let Ok(stream) = server.accept(tcp).await else { continue };
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).await.unwrap() > 2 {
                    line.clear();
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
            }
        });
        let at = |host: &str| format!("https://{host}:{port}").parse::<Address>().unwrap();
        let ask = async |address: Address| {
            let asked = get(&address, "/allocation", Duration::from_secs(20)).await;
            asked.map_err(|error| chain(&error))
        };
        assert_eq!(ask(at("127.0.0.1").of_ca(ca.clone()).unwrap()).await.unwrap(), "hi");
        for (address, says) in [
            (at("127.0.0.1"), "a CA that is not trusted here"),
            (at("localhost").of_ca(ca).unwrap(), "not good"),
            (at("127.0.0.1").of_ca("/nowhere".into()).unwrap(), "opencost_upstream_ca_file: /nowhere"),
        ] {
            let error = ask(address).await.unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
