//! Where the upstream is, and one question to it. No credentials.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;

use crate::http::{self, HttpError, Question, Server};

/// Bytes of an answer's body.
pub(super) const BODY_BYTES_MAX: usize = 32 << 20;
const PORT: u16 = 9003;

/// Where an OpenCost listens: `http://HOST[:PORT][/PREFIX]`, or `https://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Server);

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RIGHT: &str =
            "use http://HOST[:PORT][/PREFIX] or https://..., as http://opencost.opencost:9003";
        // A prefix, behind which paths begin with a slash.
        let server = Server::parse(text.trim_end_matches('/'), PORT, "opencost_upstream_ca_file");
        server.filter(|server| !server.has_query()).map(Self).ok_or(RIGHT)
    }
}

impl Address {
    /// The same with the CAs of its certificate instead of the system's; `None` if it is plain.
    #[must_use]
    pub fn of_ca(self, ca: PathBuf) -> Option<Self> {
        self.0.of_ca(ca).map(Self)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without a path it has the root's.
        f.write_str(self.0.to_string().trim_end_matches('/'))
    }
}

/// The body that `address` answers to `path_and_query` with, within `timeout`.
///
/// # Errors
/// If it does not answer in time, well, and in as many bytes as it may.
pub(super) async fn get(
    address: &Address,
    path_and_query: &str,
    timeout: Duration,
) -> Result<Bytes, HttpError> {
    let question = Question {
        method: Method::GET,
        path_and_query,
        headers: vec![("accept", "application/json".to_owned())],
        body: Bytes::new(),
        timeout,
        bytes_max: BODY_BYTES_MAX,
    };
    http::ask(&address.0, question).await
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;
    use tonnage_runtime::telemetry::chain;
    use tonnage_runtime::tls::{IdentityFiles, Server as TlsServer, ServerFiles};

    use tonnage_runtime::clock::Clock;

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
        let server = TlsServer::new(&files, &files.read().unwrap(), &Clock::system()).unwrap();
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
