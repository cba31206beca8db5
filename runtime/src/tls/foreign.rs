//! A client's end to servers that are not ours, as a database: how much of their certificates is looked at is chosen, CAs
//! may be the system's, and whoever speaks the protocol goes through the handshake.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::{
    Resumption, WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, RootCertStore,
    SignatureScheme,
};

use super::{
    ClientStream, IdentityFiles, TlsError, bytes, certificates, explained, key, mismatch, roots, time, wrong,
};
use crate::clock::Clock;

/// What of a server's certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// Nothing: nobody on the way can listen, but anybody can answer in the server's place.
    Nothing,
    /// That one of the CAs issued it.
    Issuer,
    /// The same, and that it has the name by which the server was called.
    Name,
}

/// What a client of such a server is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignFiles {
    pub verified: Verified,
    /// `None`: the system's CAs.
    pub ca: Option<PathBuf>,
    /// Shown to a server that asks.
    pub identity: Option<IdentityFiles>,
    /// The settings that name the CA, the certificate and its key, for errors.
    pub settings: [&'static str; 3],
}

/// For libraries that go through a handshake by themselves.
pub type ForeignConfig = ClientConfig;

impl ForeignFiles {
    /// Reads the files, as they are now.
    ///
    /// # Errors
    /// The first file that is wrong, and how; or that the system has no CAs.
    pub fn load(&self, clock: &Clock) -> Result<ForeignConfig, TlsError> {
        let [ca, cert, own_key] = self.settings;
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_details(Arc::clone(&provider), time(clock))
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| TlsError::System { field: ca, reason: e.to_string() })?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier(provider)?);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let chain = certificates(cert, &files.cert, &bytes(cert, &files.cert)?)?;
                let key = key(own_key, &files.key, &bytes(own_key, &files.key)?)?;
                builder.with_client_auth_cert(chain, key).map_err(|e| mismatch(own_key, files, &e))?
            }
        };
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// Goes through a handshake with a server of this name, with the files as they are now. The caller sets the deadline.
    ///
    /// # Errors
    /// Why there is none, in plain words.
    pub async fn connect(&self, name: &str, tcp: TcpStream, clock: &Clock) -> io::Result<ClientStream> {
        let config = self.load(clock).map_err(io::Error::other)?;
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| io::Error::other(format!("{name:?} is no name of a server")))?;
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(explained)
    }

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
        let field = self.settings[0];
        if self.verified == Verified::Nothing {
            return Ok(Arc::new(Loose { roots: None, provider }));
        }
        let roots = match &self.ca {
            Some(path) => roots(field, path, &bytes(field, path)?)?,
            None => system_roots(field)?,
        };
        if self.verified == Verified::Issuer {
            return Ok(Arc::new(Loose { roots: Some(roots), provider }));
        }
        let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(built.map_err(|e| match &self.ca {
            Some(path) => wrong(field, path, &format!("is no CA: {e}")),
            None => TlsError::System { field, reason: e.to_string() },
        })?)
    }
}

/// The system's CAs; those among them that cannot be read are left out.
fn system_roots(field: &'static str) -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let reason = format!("the system has no CAs ({}); name a file", errors.join("; "));
        return Err(TlsError::System { field, reason });
    }
    Ok(roots)
}

/// Takes a certificate by whatever name; without roots of whatever issuer. That the server has its key is verified.
#[derive(Debug)]
struct Loose {
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Loose {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            let own = ParsedCertificate::try_from(own)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&own, roots, between, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    /// TLS 1.2 is not spoken.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, own, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Its certificate is of none of the CAs.
    Issuer,
    /// Its certificate has another name.
    Name,
    /// Its certificate has expired, or is otherwise not good.
    Certificate,
    /// It speaks no TLS 1.3.
    Protocol,
    /// It does not like ours, or hung up.
    Otherwise,
}

/// What a failed handshake, anywhere among the causes of an error, was about; `None` if there was none.
#[must_use]
pub fn refused(error: &(dyn std::error::Error + 'static)) -> Option<(Refused, String)> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref::<Error>()).or_else(|| error.downcast_ref());
        if let Some(tls) = tls {
            return Some((kind(tls), tls.to_string()));
        }
        cause = error.source();
    }
    None
}

fn kind(error: &Error) -> Refused {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            Refused::Issuer
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => Refused::Name,
        Error::InvalidCertificate(_) => Refused::Certificate,
        Error::PeerIncompatible(_) | Error::InvalidMessage(_) => Refused::Protocol,
        Error::AlertReceived(alert) if format!("{alert:?}") == "ProtocolVersion" => Refused::Protocol,
        _ => Refused::Otherwise,
    }
}
