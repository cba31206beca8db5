//! Where an ASBB's rows come from: its REST API, or files with what that answered.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;
use ureq::http::StatusCode;

use crate::client::Client;
use crate::error::Error;

const FILE_BYTES_MAX: u64 = 256 << 20;
const JOB_FILE_BYTES_MAX: u64 = 1 << 20;
const JOB_FILES_MAX: usize = 1_000_000;
/// Rows that one list may have.
const ROWS_MAX: usize = 2_000_000;

pub(super) type Rows = Vec<Box<RawValue>>;
/// Names and texts; of what cannot be read, why.
pub(super) type JobFiles = Vec<(String, Result<String, String>)>;

/// What was found. A list that the source does not have is `None`.
#[derive(Debug, Default)]
pub(super) struct Source {
    pub(super) accounts: Option<Rows>,
    pub(super) transactions: Option<Rows>,
    pub(super) grants: Option<Rows>,
    pub(super) allocations: Option<Rows>,
    pub(super) job_files: JobFiles,
}

pub(super) fn from_server(url: String, token_file: Option<&Path>) -> Result<Source, Error> {
    let client = Client::elsewhere(url, token_file)?;
    let accounts = pages(&client, "accounts", 100)?;
    if accounts.is_none() {
        return Err(Error::Refused("/api/v1/accounts: there is no such list; is it an ASBB?".to_owned()));
    }
    Ok(Source {
        accounts,
        transactions: pages(&client, "transactions", 1000)?,
        grants: pages(&client, "grants", 100)?,
        allocations: pages(&client, "allocations", 100)?,
        job_files: Vec::new(),
    })
}

/// A list page by page; `None` if there is none.
fn pages(client: &Client, list: &str, page: usize) -> Result<Option<Rows>, Error> {
    let mut all: Rows = Vec::new();
    loop {
        let path = format!("/api/v1/{list}?limit={page}&offset={}", all.len());
        let (status, text) = client.ask("GET", &path, "")?;
        match status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                return Ok(None);
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let text = format!("{path}: {status}; give --from-token-file with a token that may read it");
                return Err(Error::Forbidden(text));
            }
            other => return Err(Error::Refused(format!("{path}: it answered {other}"))),
        }
        let rows = list_of(&text).map_err(|error| Error::Refused(format!("{path}: {error}")))?;
        let count = rows.len();
        // A server that does not know of pages gives the same again.
        let same =
            all.len() >= count && all[all.len() - count..].iter().zip(&rows).all(|(a, b)| a.get() == b.get());
        if count == 0 || (same && !all.is_empty()) {
            return Ok(Some(all));
        }
        all.extend(rows);
        if all.len() > ROWS_MAX {
            return Err(Error::Refused(format!("{path}: there are more than {ROWS_MAX} rows")));
        }
        if count != page {
            return Ok(Some(all));
        }
    }
}

/// A bare list; an empty one may be null.
fn list_of(text: &str) -> Result<Rows, String> {
    let rows: Option<Rows> = serde_json::from_str(text).map_err(|error| format!("is no list: {error}"))?;
    Ok(rows.unwrap_or_default())
}

pub(super) fn from_folder(folder: &Path) -> Result<Source, Error> {
    let list = |name: &str| {
        let path = folder.join(name);
        if !path.exists() {
            return Ok(None);
        }
        let text = read(&path, FILE_BYTES_MAX)?;
        list_of(&text).map(Some).map_err(|reason| Error::File { path, reason })
    };
    let source = Source {
        accounts: list("accounts.json")?,
        transactions: list("transactions.json")?,
        grants: list("grants.json")?,
        allocations: list("allocations.json")?,
        job_files: Vec::new(),
    };
    if source.accounts.is_none() && source.transactions.is_none() && source.grants.is_none() {
        let reason = "has none of accounts.json, transactions.json and grants.json".to_owned();
        return Err(Error::File { path: folder.to_owned(), reason });
    }
    Ok(source)
}

/// Files of jobs, by name.
pub(super) fn job_files(folder: &Path) -> Result<JobFiles, Error> {
    let failed = |source| Error::Read { path: folder.to_owned(), source };
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("job-") && name.ends_with("-asbb-reconciliation.json") {
            names.push(path);
        }
        if names.len() > JOB_FILES_MAX {
            let reason = format!("has more than {JOB_FILES_MAX} files of jobs");
            return Err(Error::File { path: folder.to_owned(), reason });
        }
    }
    names.sort();
    let named = |path: PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        (name, read(&path, JOB_FILE_BYTES_MAX).map_err(|error| whole(&error)))
    };
    Ok(names.into_iter().map(named).collect())
}

/// An error with its cause.
fn whole(error: &Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

fn read(path: &Path, bytes_max: u64) -> Result<String, Error> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(bytes_max + 1).read_to_string(&mut text))
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    if text.len() as u64 > bytes_max {
        let reason = format!("is larger than {bytes_max} bytes");
        return Err(Error::File { path: path.to_owned(), reason });
    }
    Ok(text)
}
