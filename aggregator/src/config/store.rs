//! Where the ledger is, as people say it: a folder, or a database by a URL, which is read from a file where it has a password.

use std::path::PathBuf;

use clap::Args;
use tonnage_runtime::settings::{SettingsError, wrong};

use crate::store::Location;

const DATA: &str = "/var/lib/tonnage-aggregator";

/// A place by one word: the URL of a database, a file with such a URL, or else a folder.
///
/// # Errors
/// If it looks like a URL and is none.
pub fn place(field: &'static str, word: &str) -> Result<Location, SettingsError> {
    let (data, database_url, database_url_file) = if word.contains("://") {
        (None, Some(word.to_owned()), None)
    } else if PathBuf::from(word).is_file() {
        (None, None, Some(word.into()))
    } else {
        (Some(word.into()), None, None)
    };
    StoreArgs { data, database_url, database_url_file }.resolve().map_err(|e| wrong(field, "", e.to_string()))
}

/// Where the ledger is: a folder, or a database.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// Folder of the ledger [default: /var/lib/tonnage-aggregator]
    #[arg(long, value_name = "DIR", env = "TONNAGE_DATA")]
    pub(super) data: Option<PathBuf>,
    /// A database of PostgreSQL for the ledger instead of a folder: postgres://USER@HOST:PORT/NAME, without a password
    #[arg(long, value_name = "URL", env = "TONNAGE_DATABASE_URL")]
    pub(super) database_url: Option<String>,
    /// File with such a URL, which may have a password
    #[arg(long, value_name = "FILE", env = "TONNAGE_DATABASE_URL_FILE")]
    pub(super) database_url_file: Option<PathBuf>,
}

impl StoreArgs {
    /// # Errors
    /// If more than one place is named, or a URL is none.
    pub fn resolve(self) -> Result<Location, SettingsError> {
        let Self { data, database_url, database_url_file } = self;
        let url = match (database_url, database_url_file) {
            (None, None) => return Ok(Location::Folder(data.unwrap_or_else(|| DATA.into()))),
            (Some(_), Some(_)) => {
                return Err(wrong("database_url", "", "use either it or database_url_file"));
            }
            (Some(url), None) => ("database_url", Location::database(&url, false)),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(&path).map_err(|e| {
                    wrong("database_url_file", path.display(), format!("cannot be read: {e}"))
                })?;
                ("database_url_file", Location::database(text.trim(), true))
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
