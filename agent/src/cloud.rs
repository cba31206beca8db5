//! What the cloud says of this machine: its instance's id and type, region, zone, and whether it is spot.
//!
//! Nothing is asked unless the settings say so. Then: plain HTTP to one link-local address, which no router carries
//! further, so that no setting makes the agent ask anybody else. No proxy, no redirect. An answer has at most
//! [`ANSWER_BYTES_MAX`], a call two seconds; a try that fails is tried again with backoff, [`TRIES_MAX`] times.
//!
//! Answers are outside input: what cannot stand in a batch is refused by its name. Nobody waits for this to meter.
//!
//! Not for: what may change while the machine runs, and credentials, which the same address hands out.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonnage_runtime::backoff::Backoff;
use tonnage_runtime::telemetry::chain;

use crate::facts::{Machine, Provider, sound};

mod aws;
mod azure;
mod gcp;

/// Bytes of an answer's body.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Tries before the agent gives up, over some forty minutes: the longest waits are of up to five.
pub const TRIES_MAX: u32 = 25;
/// For one call, from connecting to the answer's last byte.
const CALL: Duration = Duration::from_secs(2);
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Bytes of an answer's head, and its lines.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;
/// Where all three clouds listen.
pub const ADDRESS: &str = "169.254.169.254";

/// Whom to ask, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `None`: find out.
    pub provider: Option<Provider>,
    pub address: SocketAddr,
}

/// The cloud said nothing that can be used.
#[derive(Debug, thiserror::Error)]
pub enum CloudError {
    #[error("{path}: no answer within 2 s")]
    Slow { path: String },
    #[error("{path}: the connection failed")]
    Connection {
        path: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{path}: the answer is {status}; only 200 is one, and redirects are not followed")]
    Status { path: String, status: StatusCode },
    #[error("{path}: the answer is longer than {ANSWER_BYTES_MAX} bytes, or broke off")]
    Body { path: String },
    #[error("{path}: {value:?}: {right}")]
    Value { path: String, value: String, right: &'static str },
    #[error("nobody there is a cloud that is known here")]
    Nobody,
}

/// The address in text, if it is link-local: 169.254.0.0/16, or fe80::/10, there with the number of its interface
/// (`fe80::1%2`).
#[must_use]
pub fn link_local(text: &str) -> Option<SocketAddr> {
    let address = match text.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, 80),
        Err(_) => format!("[{text}]:80").parse::<SocketAddrV6>().ok()?.into(),
    };
    let is = match address.ip() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    is.then_some(address)
}

/// Asks until there is an answer. `likely`: whose machine this is by other signs. `None`: gave up, and said so.
pub async fn find(settings: &Settings, likely: Option<Provider>) -> Option<Machine> {
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    for tried in 1..=TRIES_MAX {
        let error = match ask(settings, likely).await {
            Ok((provider, machine)) => {
                tracing::info!(provider = provider.name(), ?machine, "The cloud says what this machine is.");
                return Some(machine);
            }
            Err(error) => chain(&error),
        };
        if tried == 1 {
            tracing::warn!(error, "The cloud's metadata cannot be had yet; metering goes on without.");
        } else {
            tracing::debug!(error, tried, "The cloud's metadata cannot be had yet.");
        }
        if tried == TRIES_MAX {
            tracing::warn!(error, tried, "Gave up on the cloud's metadata; the next start asks again.");
        } else {
            let wait = backoff.next(&mut rand::rng());
            tokio::time::sleep(wait).await;
        }
    }
    None
}

/// Asks once.
///
/// # Errors
/// If nobody gives an answer that can be used; where several clouds were asked, why the last was none.
pub async fn ask(settings: &Settings, likely: Option<Provider>) -> Result<(Provider, Machine), CloudError> {
    let client = Client { address: settings.address };
    let asked = match settings.provider.or(likely) {
        Some(provider) => vec![provider],
        None => vec![Provider::Aws, Provider::Gcp, Provider::Azure],
    };
    let mut failed = CloudError::Nobody;
    for provider in asked {
        let answer = match provider {
            Provider::Aws => aws::ask(&client).await,
            Provider::Gcp => gcp::ask(&client).await,
            Provider::Azure => azure::ask(&client).await,
        };
        match answer {
            Ok(machine) => return Ok((provider, machine)),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// One address that is asked, a connection for each call.
struct Client {
    address: SocketAddr,
}

/// An answer of status 200.
struct Answer {
    headers: HeaderMap,
    text: String,
}

impl Client {
    async fn get(&self, path: &str, header: (&'static str, HeaderValue)) -> Result<Answer, CloudError> {
        self.call(Method::GET, path, header).await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        header: (&'static str, HeaderValue),
    ) -> Result<Answer, CloudError> {
        let answer = tokio::time::timeout(CALL, self.exchange(method, path, header));
        answer.await.unwrap_or_else(|_| Err(CloudError::Slow { path: path.to_owned() }))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        (name, value): (&'static str, HeaderValue),
    ) -> Result<Answer, CloudError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| CloudError::Connection {
            path: path.to_owned(),
            source,
        };
        let stream = TcpStream::connect(self.address).await.map_err(|e| failed(e.into()))?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|e| failed(e.into()))?;
        // Ends with this call, whatever the peer does.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let host = match self.address {
            SocketAddr::V4(address) => address.ip().to_string(),
            SocketAddr::V6(address) => format!("[{}]", address.ip()),
        };
        let request = Request::builder().method(method).uri(path).header(HOST, host).header(name, value);
        let request = request.body(Empty::new()).map_err(|e| failed(e.into()))?;
        let response = sender.send_request(request).await.map_err(|e| failed(e.into()))?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(CloudError::Status { path: path.to_owned(), status });
        }
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|_| CloudError::Body { path: path.to_owned() })?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { headers: head.headers, text })
    }
}

/// A name in an answer.
fn named(path: &str, text: &str) -> Result<String, CloudError> {
    sound(text).ok_or_else(|| {
        let value = text.chars().take(64).collect();
        CloudError::Value {
            path: path.to_owned(),
            value,
            right: "should be 1 to 256 bytes without control characters",
        }
    })
}

/// An answer that some machines do not have: 404 is then that nothing is said.
fn optional(answer: Result<Answer, CloudError>) -> Result<Option<String>, CloudError> {
    match answer {
        Ok(answer) => Ok(Some(answer.text)),
        Err(CloudError::Status { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_link_local_addresses_are_asked() {
        for (text, address) in [
            ("169.254.169.254", "169.254.169.254:80"),
            ("169.254.0.1", "169.254.0.1:80"),
            ("fe80::a9fe:a9fe%2", "[fe80::a9fe:a9fe%2]:80"),
        ] {
            assert_eq!(link_local(text).map(|found| found.to_string()).as_deref(), Some(address));
        }
        for text in [
            "127.0.0.1",
            "10.0.0.1",
            "169.255.0.1",
            "::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "metadata",
            "",
        ] {
            assert_eq!(link_local(text), None, "{text}");
        }
    }

    #[test]
    fn a_value_that_cannot_stand_in_a_batch_is_named() {
        let error = named("/zone", "a\r\nb").unwrap_err().to_string();
        assert!(error.starts_with("/zone: \"a\\r\\nb\": should be"), "{error}");
        assert!(named("/zone", &"x".repeat(300)).is_err());
    }
}
