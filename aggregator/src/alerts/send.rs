//! Tells a channel, once.
//!
//! Secrets are read for each try, so that a file may be changed at any time; they are in no log and no error.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::Method;
use hyper::body::Bytes;
use sha2::Sha256;
use tonnage_runtime::telemetry::chain;

use super::email;
use super::message;
use super::rules::channel::{Channel, ChannelKind, To, server};
use crate::http::{self, Question};
use crate::model::{Delivery, Sent};

const TIMEOUT: Duration = Duration::from_secs(10);
/// What is read of an answer, which says nothing that is needed.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const SECRET_BYTES_MAX: u64 = 4_096;

/// Sends what `delivery` says to a channel. `ledger` names this ledger.
pub(super) async fn send(channel: &Channel, delivery: &Delivery, ledger: &str) -> Sent {
    let secret = match channel.secret_file.as_deref().map(read).transpose() {
        Ok(secret) => secret,
        Err(error) => return Sent::Failed(error),
    };
    let routing_key =
        if channel.kind == ChannelKind::Pagerduty { secret.as_deref().unwrap_or_default() } else { "" };
    let url = match &channel.to {
        To::Mail(mail) => {
            return email::send(mail, channel.ca_file.as_deref(), secret, delivery, ledger).await;
        }
        To::Url(url) => Ok(url.clone()),
        To::File(path) => read(path),
    };
    let Some(body) = message::body(channel.kind, delivery, ledger, routing_key) else { return Sent::Told };
    let url = match url {
        Ok(url) => url,
        Err(error) => return Sent::Failed(error),
    };
    let Some(server) = server(&url, channel.ca_file.as_deref()) else {
        return Sent::Failed("what url_file has is no http:// or https:// address".to_owned());
    };
    let body = body.to_string();
    let mut headers = vec![
        ("content-type", "application/json".to_owned()),
        ("user-agent", concat!("tonnage/", env!("CARGO_PKG_VERSION")).to_owned()),
    ];
    if channel.kind == ChannelKind::Webhook {
        // The same for each try, so that whoever gets it twice can tell.
        headers.push(("idempotency-key", format!("{ledger}-{}", delivery.id)));
        if let Some(secret) = &secret {
            headers.push(("x-tonnage-signature", signature(secret, &body)));
        }
    }
    let question = Question {
        method: Method::POST,
        path_and_query: "",
        headers,
        body: Bytes::from(body),
        timeout: TIMEOUT,
        bytes_max: ANSWER_BYTES_MAX,
    };
    match http::ask(&server, question).await {
        // It was taken, whatever else it says.
        Ok(_) | Err(http::HttpError::TooLarge(_)) => Sent::Told,
        Err(error @ http::HttpError::Status(_, Some(seconds))) if error.passing() => {
            Sent::Later(chain(&error), Duration::from_secs(seconds))
        }
        Err(error) if error.passing() => Sent::Failed(chain(&error)),
        Err(error) => Sent::Refused(chain(&error)),
    }
}

/// `sha256=` and the HMAC-SHA256 of the body in hexadecimal, as GitHub's webhooks have it.
fn signature(secret: &str, body: &str) -> String {
    // Any length of key will do.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(body.as_bytes());
    let bytes = mac.finalize().into_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

/// A secret, without the line's end.
fn read(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let file =
        std::fs::File::open(path).and_then(|file| file.take(SECRET_BYTES_MAX).read_to_string(&mut text));
    file.map_err(|error| format!("{}: {error}", path.display()))?;
    let secret = text.trim();
    if secret.is_empty() { Err(format!("{}: is empty", path.display())) } else { Ok(secret.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_rfc_4231() {
        // Its second case.
        let expected = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(signature("Jefe", "what do ya want for nothing?"), expected);
    }

    #[test]
    fn a_secret_that_is_not_there_is_told_by_its_file() {
        let error = read(Path::new("/no/such/secret")).unwrap_err();
        assert!(error.starts_with("/no/such/secret: "), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(read(file.path()).unwrap_err().ends_with("is empty"));
        std::fs::write(file.path(), "abc\n").unwrap();
        assert_eq!(read(file.path()).unwrap(), "abc");
    }
}
