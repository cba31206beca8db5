//! TLS from PEM files, for both ends of a connection: the only file that touches rustls, with [`foreign`] below it.
//!
//! TLS 1.3 alone, by ring: both ends are ours, or as new as a database or a proxy is today. No session is resumed, so every connection shows its certificates
//! anew. Time comes from the process's clock. Errors name the setting and the file and never repeat what is in it: a
//! private key that lost its line breaks would otherwise stand in a log.
//!
//! Not here: whom a certificate's name stands for, and revocation lists (use certificates that do not live long).

use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::time_provider::TimeProvider;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, Error, RootCertStore, ServerConfig, client::Resumption,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use webpki::{EndEntityCert, KeyUsage};

use crate::clock::Clock;

/// Clients of servers that are not ours.
pub mod foreign;

/// Bytes of one file; a bundle of all public CAs is a quarter of that.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What is spoken within.
const HTTP2: &[u8] = b"h2";

/// A connection of a server's.
pub type ServerStream = tokio_rustls::server::TlsStream<TcpStream>;
/// A connection of a client's.
pub type ClientStream = tokio_rustls::client::TlsStream<TcpStream>;

/// A file cannot be used. `field` is the setting that names it.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{field}: {path}: cannot be read")]
    Read {
        field: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{field}: {path}: {reason}")]
    File { field: &'static str, path: PathBuf, reason: String },
    /// It is not about a file.
    #[error("{field}: {reason}")]
    System { field: &'static str, reason: String },
}

/// A certificate with those that lead to its CA, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// What a server is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    pub identity: IdentityFiles,
    /// Clients are asked for a certificate of one of these.
    pub client_ca: Option<PathBuf>,
    /// Turn away clients that have none.
    pub require_client_cert: bool,
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// The server's certificate has to be of one of these; no other CA is trusted.
    pub ca: PathBuf,
    /// Shown to a server that asks.
    pub identity: Option<IdentityFiles>,
}

/// The files' bytes, to see whether they changed. Not printable.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerBytes {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl ServerFiles {
    /// # Errors
    /// The first file that cannot be read.
    pub fn read(&self) -> Result<ServerBytes, TlsError> {
        Ok(ServerBytes {
            cert: bytes("tls_cert", &self.identity.cert)?,
            key: bytes("tls_key", &self.identity.key)?,
            client_ca: self.client_ca.as_ref().map(|path| bytes("tls_client_ca", path)).transpose()?,
        })
    }
}

/// A server's end. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    acceptor: TlsAcceptor,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    own: CertificateDer<'static>,
    clock: Clock,
}

impl Server {
    /// # Errors
    /// The first file that is wrong, and how.
    pub fn new(files: &ServerFiles, bytes: &ServerBytes, clock: &Clock) -> Result<Self, TlsError> {
        let identity = &files.identity;
        let chain = certificates("tls_cert", &identity.cert, &bytes.cert)?;
        let key = key("tls_key", &identity.key, &bytes.key)?;
        let own = chain[0].clone();
        let mut clients = None;
        if let (Some(path), Some(bytes)) = (&files.client_ca, &bytes.client_ca) {
            let roots = Arc::new(roots("tls_client_ca", path, bytes)?);
            let builder =
                WebPkiClientVerifier::builder_with_provider(roots, Arc::new(ring::default_provider()));
            let builder = if files.require_client_cert { builder } else { builder.allow_unauthenticated() };
            let built =
                builder.build().map_err(|e| wrong("tls_client_ca", path, &format!("is no CA: {e}")))?;
            clients = Some(built);
        }
        let verifier = clients.clone().unwrap_or_else(WebPkiClientVerifier::no_client_auth);
        let builder = ServerConfig::builder_with_details(Arc::new(ring::default_provider()), time(clock))
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| wrong("tls_cert", &identity.cert, &e.to_string()))?;
        let mut config = builder
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|e| mismatch("tls_key", identity, &e))?;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), clients, own, clock: clock.clone() })
    }

    /// Goes through a handshake. The caller sets the deadline.
    ///
    /// # Errors
    /// Why there is none, in plain words, with the connection.
    pub async fn accept(&self, tcp: TcpStream) -> Result<ServerStream, (io::Error, TcpStream)> {
        self.acceptor.accept(tcp).into_fallible().await.map_err(|(error, tcp)| (explained(error), tcp))
    }

    /// Asks again what the handshake asked: of a CA that clients may have now, and not expired.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn trusts(&self, peer: &PeerCertificate) -> Result<(), String> {
        let clients = self.clients.as_ref().ok_or("client certificates are no longer taken here")?;
        let (own, between) = peer.chain.split_first().ok_or("it is empty")?;
        clients.verify_client_cert(own, between, unix_time(&self.clock)).map_err(|e| e.to_string())?;
        Ok(())
    }

    /// Is our own certificate one that clients can take now?
    ///
    /// # Errors
    /// That it has expired, or is not valid yet.
    pub fn is_valid(&self) -> Result<(), String> {
        validity(&self.own, &self.clock)
    }
}

/// A client's certificates as it showed them, its own first; verified in the handshake.
#[derive(Debug, Clone)]
pub struct PeerCertificate {
    chain: Arc<[CertificateDer<'static>]>,
}

impl PeerCertificate {
    /// Of a connection whose client showed one.
    #[must_use]
    pub fn of(stream: &ServerStream) -> Option<Self> {
        let chain = stream.get_ref().1.peer_certificates()?;
        Some(Self { chain: chain.to_vec().into() })
    }

    /// The URIs among its alternative names.
    #[must_use]
    pub fn uris(&self) -> Vec<String> {
        self.chain.first().map(uris).unwrap_or_default()
    }
}

/// A client's end. Cheap to clone.
#[derive(Clone)]
pub struct Client(TlsConnector);

impl Client {
    /// Reads the files.
    ///
    /// # Errors
    /// The first file that is wrong, and how.
    pub fn load(files: &ClientFiles, clock: &Clock) -> Result<Self, TlsError> {
        let roots = roots("tls_ca", &files.ca, &bytes("tls_ca", &files.ca)?)?;
        let builder = ClientConfig::builder_with_details(Arc::new(ring::default_provider()), time(clock))
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| wrong("tls_ca", &files.ca, &e.to_string()))?
            .with_root_certificates(roots);
        let mut config = match &files.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = load_identity(identity)?;
                builder.with_client_auth_cert(chain, key).map_err(|e| mismatch("tls_key", identity, &e))?
            }
        };
        config.alpn_protocols = vec![HTTP2.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// Goes through a handshake with a server that has to have this name. The caller sets the deadline.
    ///
    /// # Errors
    /// Why there is none, in plain words.
    pub async fn connect(&self, server_name: &str, tcp: TcpStream) -> io::Result<ClientStream> {
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| io::Error::other(format!("{server_name:?} is no name of a server")))?;
        self.0.connect(name, tcp).await.map_err(explained)
    }
}

/// True if certificates can have this name: of a host, or an address.
#[must_use]
pub fn is_server_name(name: &str) -> bool {
    ServerName::try_from(name).is_ok()
}

/// What is in each of the files, or what is wrong with it, for people.
#[must_use]
pub fn describe(files: &ClientFiles, clock: &Clock) -> Vec<Result<String, TlsError>> {
    let ca = bytes("tls_ca", &files.ca).and_then(|bytes| {
        let roots = roots("tls_ca", &files.ca, &bytes)?;
        Ok(format!("tls_ca {}: {} certificates", files.ca.display(), roots.len()))
    });
    let mut all = vec![ca];
    let Some(identity) = &files.identity else { return all };
    let cert = &identity.cert;
    all.push(bytes("tls_cert", cert).and_then(|bytes| {
        let chain = certificates("tls_cert", cert, &bytes)?;
        validity(&chain[0], clock).map_err(|reason| wrong("tls_cert", cert, &reason))?;
        let names = uris(&chain[0]).join(" ");
        let names = if names.is_empty() { "names no URI" } else { &names };
        Ok(format!("tls_cert {}: {names}", cert.display()))
    }));
    let path = &identity.key;
    all.push(bytes("tls_key", path).and_then(|bytes| {
        key("tls_key", path, &bytes)?;
        Ok(format!("tls_key {}: a private key", path.display()))
    }));
    if all.iter().all(Result::is_ok)
        && let Err(error) = Client::load(files, clock)
    {
        all.push(Err(error));
    }
    all
}

fn bytes(field: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|source| TlsError::Read { field, path: path.to_owned(), source })?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(field, path, &format!("has over {FILE_BYTES_MAX} bytes; this is no such file")));
    }
    Ok(bytes)
}

/// At least one.
fn certificates(
    field: &'static str,
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    // The parser's own text may repeat a line of the file.
    let chain: Vec<_> = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|_| wrong(field, path, "is damaged: not PEM, or cut off"))?;
    if chain.is_empty() {
        let reason = "holds no certificate; it should be PEM, with -----BEGIN CERTIFICATE-----";
        return Err(wrong(field, path, reason));
    }
    for certificate in &chain {
        EndEntityCert::try_from(certificate)
            .map_err(|e| wrong(field, path, &format!("holds a certificate that cannot be read: {e}")))?;
    }
    Ok(chain)
}

fn key(field: &'static str, path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    let key = PrivateKeyDer::from_pem_slice(bytes).map_err(|_| {
        let reason =
            "holds no private key; it should be PEM and not encrypted, with -----BEGIN PRIVATE KEY-----";
        wrong(field, path, reason)
    })?;
    ring::sign::any_supported_type(&key).map_err(|_| {
        wrong(field, path, "holds a key of a kind that is not known here; use ECDSA P-256 or RSA")
    })?;
    Ok(key)
}

fn load_identity(
    files: &IdentityFiles,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = certificates("tls_cert", &files.cert, &bytes("tls_cert", &files.cert)?)?;
    Ok((chain, key("tls_key", &files.key, &bytes("tls_key", &files.key)?)?))
}

fn roots(field: &'static str, path: &Path, bytes: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(field, path, bytes)? {
        roots.add(certificate).map_err(|e| wrong(field, path, &format!("holds what is no CA: {e}")))?;
    }
    Ok(roots)
}

fn wrong(field: &'static str, path: &Path, reason: &str) -> TlsError {
    TlsError::File { field, path: path.to_owned(), reason: reason.to_owned() }
}

fn mismatch(field: &'static str, identity: &IdentityFiles, error: &Error) -> TlsError {
    let reason = match error {
        Error::InconsistentKeys(_) => {
            format!("is not the key of the certificate in {}", identity.cert.display())
        }
        other => format!("cannot be used with {}: {other}", identity.cert.display()),
    };
    wrong(field, &identity.key, &reason)
}

/// URIs of a certificate.
fn uris(certificate: &CertificateDer<'_>) -> Vec<String> {
    EndEntityCert::try_from(certificate)
        .map(|certificate| certificate.valid_uri_names().map(str::to_owned).collect())
        .unwrap_or_default()
}

/// The verifier looks at a certificate's dates before it looks for its issuer; here is none.
fn validity(certificate: &CertificateDer<'_>, clock: &Clock) -> Result<(), String> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|e| e.to_string())?;
    let algorithms = ring::default_provider().signature_verification_algorithms.all;
    let now = unix_time(clock);
    match parsed.verify_for_usage(algorithms, &[], &[], now, KeyUsage::client_auth(), None, None).err() {
        Some(webpki::Error::CertExpired { not_after, .. }) => {
            Err(format!("has expired: it was valid until {} (Unix seconds)", not_after.as_secs()))
        }
        Some(webpki::Error::CertNotValidYet { not_before, .. }) => {
            Err(format!("is not valid before {} (Unix seconds)", not_before.as_secs()))
        }
        _ => Ok(()),
    }
}

/// Says what the usual failures mean.
fn explained(error: io::Error) -> io::Error {
    let hint = match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidMessage(_)) => "the other side does not speak TLS",
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "the other side's certificate is of a CA that is not trusted here"
        }
        Some(Error::InvalidCertificate(CertificateError::BadSignature)) => {
            "the other side's certificate is not signed by the CA whose name it bears"
        }
        Some(Error::InvalidCertificate(_)) => "the other side's certificate is not good",
        Some(Error::AlertReceived(_)) => "the other side refused ours",
        Some(Error::NoCertificatesPresented) => "the other side shows no certificate",
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the other side hung up in the handshake; does it speak TLS?"
        }
        _ => "the handshake failed",
    };
    io::Error::new(error.kind(), format!("TLS: {hint}: {error}"))
}

/// The process's clock, for rustls.
struct Time(Clock);

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(&self.0))
    }
}

fn time(clock: &Clock) -> Arc<dyn TimeProvider> {
    Arc::new(Time(clock.clone()))
}

fn unix_time(clock: &Clock) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_nanos(u64::try_from(clock.wall_ns()).unwrap_or(0)))
}

#[cfg(test)]
mod tests;
