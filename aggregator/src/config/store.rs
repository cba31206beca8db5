//! Where the ledger is, as people say it: a folder, or a database by a URL, which is read from a file where it has a password.

use std::path::PathBuf;

use clap::Args;
use tonnage_runtime::settings::{SettingsError, wrong};

use super::File;
use crate::store::Location;
use crate::store::server::TlsFiles;

const DATA: &str = "/var/lib/tonnage-aggregator";

/// A place by one word: the URL of a database, a file with such a URL, or else a folder.
///
/// # Errors
/// If it looks like a URL and is none.
pub fn place(field: &'static str, word: &str) -> Result<Location, SettingsError> {
    let mut place = StoreArgs::default();
    if word.contains("://") {
        place.database_url = Some(word.to_owned());
    } else if PathBuf::from(word).is_file() {
        place.database_url_file = Some(word.into());
    } else {
        place.data = Some(word.into());
    }
    place.resolve().map_err(|e| wrong(field, "", e.to_string()))
}

/// Where the ledger is: a folder, or a database.
#[derive(Debug, Clone, Default, Args)]
pub struct StoreArgs {
    /// Folder of the ledger [default: /var/lib/tonnage-aggregator]
    #[arg(long, value_name = "DIR", env = "TONNAGE_DATA")]
    pub(super) data: Option<PathBuf>,
    /// A database of PostgreSQL for the ledger instead of a folder: postgres://USER@HOST:PORT/NAME, without a password;
    /// with ?sslmode=MODE if that is not to be verify-full (prefer on this machine)
    #[arg(long, value_name = "URL", env = "TONNAGE_DATABASE_URL")]
    pub(super) database_url: Option<String>,
    /// File with such a URL, which may have a password
    #[arg(long, value_name = "FILE", env = "TONNAGE_DATABASE_URL_FILE")]
    pub(super) database_url_file: Option<PathBuf>,
    /// CAs of the database's certificate (PEM), as sslrootcert in the URL [default: the system's]
    #[arg(long, value_name = "FILE", env = "TONNAGE_DATABASE_CA_FILE")]
    pub(super) database_ca_file: Option<PathBuf>,
    /// Certificate to show to the database (PEM, with those that lead to its CA), as sslcert in the URL
    #[arg(long, value_name = "FILE", env = "TONNAGE_DATABASE_CERT_FILE")]
    pub(super) database_cert_file: Option<PathBuf>,
    /// Its private key (PEM), as sslkey in the URL
    #[arg(long, value_name = "FILE", env = "TONNAGE_DATABASE_KEY_FILE")]
    pub(super) database_key_file: Option<PathBuf>,
}

impl StoreArgs {
    /// Whether it names a place, nearer than another that does.
    pub(super) fn is_named(&self) -> bool {
        self.data.is_some() || self.database_url.is_some() || self.database_url_file.is_some()
    }

    /// With what the file says beside it.
    pub(super) fn or(self, file: &File) -> Self {
        Self {
            data: file.data.clone(),
            database_url: file.database_url.clone(),
            database_url_file: file.database_url_file.clone(),
            database_ca_file: self.database_ca_file.or_else(|| file.database_ca_file.clone()),
            database_cert_file: self.database_cert_file.or_else(|| file.database_cert_file.clone()),
            database_key_file: self.database_key_file.or_else(|| file.database_key_file.clone()),
        }
    }

    /// # Errors
    /// If more than one place is named, a URL is none, or what is said of TLS does not fit.
    pub fn resolve(self) -> Result<Location, SettingsError> {
        let Self { data, database_url, database_url_file, .. } = self;
        let files = TlsFiles {
            ca: self.database_ca_file,
            cert: self.database_cert_file,
            key: self.database_key_file,
        };
        let url = match (database_url, database_url_file) {
            (None, None) => {
                return match files.given() {
                    Some(setting) => {
                        Err(wrong(setting, "", "has no effect without database_url: name that too"))
                    }
                    None => Ok(Location::Folder(data.unwrap_or_else(|| DATA.into()))),
                };
            }
            (Some(_), Some(_)) => {
                return Err(wrong("database_url", "", "use either it or database_url_file"));
            }
            (Some(url), None) => ("database_url", Location::database(&url, false, &files)),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(&path).map_err(|e| {
                    wrong("database_url_file", path.display(), format!("cannot be read: {e}"))
                })?;
                ("database_url_file", Location::database(text.trim(), true, &files))
            }
        };
        let (field, location) = url;
        if data.is_some() {
            return Err(wrong("data", "", format!("use either it or {field}")));
        }
        // The URL may hold a secret, so it is not shown.
        location.map_err(|e| wrong(field, "", e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{file, resolve};
    use super::*;

    #[test]
    fn a_ledger_is_in_one_place_and_its_password_in_a_file() {
        let secret = file("postgres://t:s3cret@db/tonnage\n");
        let path = secret.path().to_str().unwrap();
        for (args, said) in [
            (&["--database-url", "postgres://t@db/tonnage", "--data", "/a"][..], "data: "),
            (&["--database-url", "postgres://t@db/x", "--database-url-file", "/a"], "database_url: "),
            (&["--database-url", "postgres://t:s3cret@db/tonnage"], "database_url_file"),
            (&["--database-url", "mysql://t@db/tonnage"], "postgres://"),
            (&["--database-url", "postgres://t@db"], "names no database"),
            (&["--database-url-file", "/nowhere"], "database_url_file"),
        ] {
            let error = resolve(args).unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("s3cret"), "{args:?}: {error}");
        }
        let config = resolve(&["--database-url-file", path]).unwrap();
        assert!(matches!(&config.store, Location::Database(_)));
        assert!(!format!("{config:?}").contains("s3cret"));
        let file = file("data = '/a'\n");
        let args = ["--config", file.path().to_str().unwrap(), "--database-url", "postgres://t@db/x"];
        assert!(matches!(resolve(&args).unwrap().store, Location::Database(_)), "a flag beats the file");
    }
}
