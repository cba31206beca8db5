//! A CA for tests, and the certificates that it issues, as files.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};

/// A year, a month, a day: from its first moment on.
pub type Day = (i32, u8, u8);

/// A CA.
#[derive(Debug)]
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Ca {
    /// # Errors
    /// If no key can be made.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Writes its own certificate.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        Ok(std::fs::write(path, &self.pem)?)
    }

    /// Issues a certificate for a server on loopback.
    ///
    /// # Errors
    /// If the files cannot be written.
    pub fn server(&self, identity: &Identity) -> anyhow::Result<()> {
        let mut params = named("server");
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        self.issue(&params, identity)
    }

    /// Issues a certificate with these URIs, valid until that day if one is given.
    ///
    /// # Errors
    /// If a URI is not ASCII, or the files cannot be written.
    pub fn client(&self, identity: &Identity, uris: &[&str], until: Option<Day>) -> anyhow::Result<()> {
        let mut params = named("client");
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into()?));
        }
        if let Some((year, month, day)) = until {
            params.not_after = date_time_ymd(year, month, day);
        }
        self.issue(&params, identity)
    }

    /// The key first: who sees the new certificate may look for its key.
    fn issue(&self, params: &CertificateParams, identity: &Identity) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        std::fs::write(&identity.key, key.serialize_pem())?;
        Ok(std::fs::write(&identity.cert, params.signed_by(&key, &self.issuer)?.pem())?)
    }
}

impl Identity {
    /// `NAME.pem` and `NAME.key` in a folder.
    #[must_use]
    pub fn within(folder: &Path, name: &str) -> Self {
        Self { cert: folder.join(format!("{name}.pem")), key: folder.join(format!("{name}.key")) }
    }

    /// As both programs are told.
    #[must_use]
    pub fn args(&self) -> [String; 4] {
        let text = |path: &Path| path.display().to_string();
        ["--tls-cert".to_owned(), text(&self.cert), "--tls-key".to_owned(), text(&self.key)]
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
