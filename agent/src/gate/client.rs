//! REST to the aggregator: HTTP/1.1 over a connection that is kept, plain or by TLS, to the first of several addresses that answers.
//!
//! One request at a time. Limits: a deadline from the first connection to the last byte, 4 MiB of body. What is asked has a
//! key, so that asking again, and another address, is no second ask.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tonnage_proto::token;
use tonnage_runtime::clock::Clock;
use tonnage_runtime::tls::foreign::{ForeignFiles, Verified};

const BODY_BYTES_MAX: usize = 4 << 20;
const PORT: u16 = 7788;
const TLS_PORT: u16 = 443;
/// The settings of its certificates; ours is never shown.
const SETTINGS: [&str; 3] = ["tls_ca", "", ""];

/// Where an aggregator's REST is: `http://HOST[:PORT][/PREFIX]`, or `https://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    port: u16,
    prefix: String,
    pub is_tls: bool,
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RIGHT: &str = "use a URL like https://ledger.example.org or http://127.0.0.1:7788";
        let uri: Uri = text.parse().map_err(|_| RIGHT)?;
        let authority = uri.authority().ok_or(RIGHT)?;
        let is_tls = uri.scheme_str() == Some("https");
        if !(is_tls || uri.scheme_str() == Some("http"))
            || authority.as_str().contains('@')
            || uri.query().is_some()
        {
            return Err(RIGHT);
        }
        Ok(Self {
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(if is_tls { TLS_PORT } else { PORT }),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            is_tls,
        })
    }
}

/// Whom to ask, and as whom.
#[derive(Debug, Clone)]
pub struct Target {
    /// At least one.
    pub addresses: Vec<Address>,
    /// CAs of their certificates; `None`: the system's.
    pub tls_ca: Option<PathBuf>,
    /// Read anew for each request, so that it can be replaced.
    pub token_file: Option<PathBuf>,
}

/// No answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("it did not answer within {0:?}")]
    Slow(Duration),
    #[error("the connection failed")]
    Connection(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("token file {path}: cannot be read, or holds no token")]
    Token { path: PathBuf, source: std::io::Error },
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answered {
    pub status: StatusCode,
    pub body: Bytes,
}

struct Connected {
    /// Its place among the addresses.
    at: usize,
    sender: SendRequest<Full<Bytes>>,
    /// Ends with it, whatever the peer does.
    _driver: JoinSet<hyper::Result<()>>,
}

/// See the module.
pub struct Client {
    target: Target,
    clock: Clock,
    connected: Mutex<Option<Connected>>,
}

impl Client {
    #[must_use]
    pub fn new(target: Target, clock: Clock) -> Self {
        Self { target, clock, connected: Mutex::default() }
    }

    /// Asks, and waits for the answer as long as `within`.
    ///
    /// # Errors
    /// If none of the addresses answers in time.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Answered, CallError> {
        let asked = tokio::time::timeout(within, self.ask(method, path, body, within));
        asked.await.unwrap_or(Err(CallError::Slow(within)))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Answered, CallError> {
        let authorization = self.target.token_file.as_deref().map(authorization).transpose()?;
        let mut connected = self.connected.lock().await;
        let count = self.target.addresses.len().max(1);
        let first = connected.as_ref().map_or(0, |connected| connected.at);
        // An address that says nothing must leave time for the next.
        let each = within / u32::try_from(count).unwrap_or(u32::MAX);
        let mut failed = None;
        // The kept connection may have been closed meanwhile: then the same address is asked once more.
        for at in std::iter::once(first).chain((0..count).map(|next| (first + next) % count)) {
            let kept = connected.take().filter(|kept| kept.at == at && !kept.sender.is_closed());
            let one = async {
                let mut one = match kept {
                    Some(kept) => kept,
                    None => self.connect(at).await?,
                };
                let answered = self.send(&mut one, &method, path, &body, authorization.as_ref()).await?;
                Ok((one, answered))
            };
            match tokio::time::timeout(each, one).await.unwrap_or(Err(CallError::Slow(each))) {
                Ok((one, answered)) => {
                    *connected = Some(one);
                    // It is there, and cannot do it: another one may.
                    if answered.status != StatusCode::SERVICE_UNAVAILABLE || count == 1 {
                        return Ok(answered);
                    }
                    failed = Some(Ok(answered));
                }
                Err(error) => failed = Some(failed.take().filter(Result::is_ok).unwrap_or(Err(error))),
            }
        }
        failed.unwrap_or(Err(CallError::Slow(within)))
    }

    async fn connect(&self, at: usize) -> Result<Connected, CallError> {
        let address = self.target.addresses.get(at).ok_or(CallError::Slow(Duration::ZERO))?;
        // An IPv6 address stands in brackets in a URL, and without them for the resolver.
        let host = address.host.trim_start_matches('[').trim_end_matches(']');
        let tcp = TcpStream::connect((host, address.port)).await.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        if !address.is_tls {
            return handshake(at, tcp).await;
        }
        let files = ForeignFiles {
            verified: Verified::Name,
            ca: self.target.tls_ca.clone(),
            identity: None,
            settings: SETTINGS,
        };
        handshake(at, files.connect(host, tcp, &self.clock).await.map_err(failed)?).await
    }

    async fn send(
        &self,
        connected: &mut Connected,
        method: &Method,
        path: &str,
        body: &Bytes,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answered, CallError> {
        let address = &self.target.addresses[connected.at];
        let mut request = Request::builder()
            .method(method.clone())
            .uri(format!("{}{path}", address.prefix))
            .header(HOST, format!("{}:{}", address.host, address.port));
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body.clone())).map_err(failed)?;
        connected.sender.ready().await.map_err(failed)?;
        let response = connected.sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX)
            .collect()
            .await
            .map_err(CallError::Connection)?;
        Ok(Answered { status, body: body.to_bytes() })
    }
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> CallError {
    CallError::Connection(error.into())
}

async fn handshake(
    at: usize,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Connected, CallError> {
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    Ok(Connected { at, sender, _driver: driver })
}

fn authorization(path: &Path) -> Result<HeaderValue, CallError> {
    let error = |source| CallError::Token { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(error)?;
    let text = text.trim();
    let invalid = || error(std::io::Error::new(std::io::ErrorKind::InvalidData, "not a token"));
    // What is no token is not sent anywhere: it may be another secret.
    if !text.starts_with(token::PREFIX) {
        return Err(invalid());
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| invalid())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(20);

    /// Answers `answers` on each connection, and closes it then. What it was asked by is sent on.
    async fn server(answers: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                for answer in answers {
                    let mut line = String::new();
                    while stream.read_line(&mut line).await.unwrap_or(0) > 2 {
                        line.clear();
                    }
                    let text = format!("HTTP/1.1 {answer}\r\ncontent-length: 2\r\n\r\nhi");
                    let _ = stream.write_all(text.as_bytes()).await;
                }
            }
        });
        url
    }

    fn client(urls: &[&str]) -> Client {
        let addresses = urls.iter().map(|url| url.parse().unwrap()).collect();
        Client::new(Target { addresses, tls_ca: None, token_file: None }, Clock::system())
    }

    async fn get(client: &Client) -> Result<u16, CallError> {
        client.call(Method::GET, "/x", Bytes::new(), WITHIN).await.map(|answered| answered.status.as_u16())
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_meanwhile_is_made_anew() {
        let url = server(&["200 OK", "201 Created"]).await;
        let client = client(&[&url]);
        for expected in [200, 201, 200, 201] {
            assert_eq!(get(&client).await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn where_one_does_not_answer_or_cannot_the_next_does_and_is_kept() {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let busy = server(&["503 Busy"]).await;
        let good = server(&["200 OK"]).await;
        let client = client(&[&format!("http://{gone}"), &busy, &good]);
        assert_eq!(get(&client).await.unwrap(), 200);
        assert_eq!(client.connected.lock().await.as_ref().map(|connected| connected.at), Some(2));
        assert_eq!(get(&client).await.unwrap(), 200);
    }

    #[tokio::test]
    async fn one_that_never_answers_is_given_up_at_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client(&[&format!("http://{}", listener.local_addr().unwrap())]);
        let asked = client.call(Method::GET, "/x", Bytes::new(), Duration::from_millis(50)).await;
        assert!(matches!(asked, Err(CallError::Slow(_))));
    }

    #[test]
    fn an_address_is_http_or_https_without_credentials() {
        for (text, host, is_tls) in
            [("http://a:1/x/", "a", false), ("https://a", "a", true), ("http://[::1]", "[::1]", false)]
        {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.is_tls), (host, is_tls));
        }
        for text in ["", "a:1", "ftp://a", "http://u:p@a", "http://a/?b", "http://"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
