//! The way to the ledger: plain where its address is `http`, TLS where it is `https`.
//!
//! The files are read for each connection, so that new ones are taken without a restart. Only the CA that is named is
//! trusted, not the system's: a node's usage goes to its own ledger.

use std::io;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonnage_runtime::clock::Clock;
use tonnage_runtime::tls::{Client, ClientFiles};

use super::UplinkError;

/// How to speak TLS to the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub files: ClientFiles,
    /// The name that its certificate must have, if not the address's host.
    pub server_name: Option<String>,
}

/// Connects. The endpoint's own limit on the time applies.
///
/// # Errors
/// If a file cannot be used, or there is no connection.
pub async fn connect(
    endpoint: &Endpoint,
    settings: Option<&Settings>,
    clock: &Clock,
) -> Result<Channel, UplinkError> {
    let Some(settings) = settings else { return endpoint.connect().await.map_err(UplinkError::Connect) };
    let client = Client::load(&settings.files, clock)?;
    let uri = endpoint.uri();
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let name = settings.server_name.clone().unwrap_or_else(|| host.clone());
    let connector = tower::service_fn(move |_| {
        let (client, host, name) = (client.clone(), host.clone(), name.clone());
        async move {
            let tcp = TcpStream::connect((host.as_str(), port)).await?;
            tcp.set_nodelay(true)?;
            Ok::<_, io::Error>(TokioIo::new(client.connect(&name, tcp).await?))
        }
    });
    endpoint.connect_with_connector(connector).await.map_err(UplinkError::Connect)
}

/// True if what is sent there can be read on its way.
#[must_use]
pub fn is_in_the_clear(endpoint: &Endpoint) -> bool {
    let host = endpoint.uri().host().unwrap_or_default();
    endpoint.uri().scheme_str() == Some("http") && !is_loopback(host)
}

/// True if `host`, as it stands in an address, is this machine.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_to_another_machine_can_be_read_on_its_way() {
        for (url, clear) in [
            ("http://10.0.0.1:7787", true),
            ("http://ledger:7787", true),
            ("http://127.0.0.1:7787", false),
            ("http://[::1]:7787", false),
            ("http://localhost:7787", false),
            ("https://ledger:7787", false),
        ] {
            assert_eq!(is_in_the_clear(&Endpoint::from_static(url)), clear, "{url}");
        }
    }
}
