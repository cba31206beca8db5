//! `tonnage export focus`: takes a file as it comes, and lets nobody have half of one.

use std::fs::Permissions;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tempfile::{Builder, NamedTempFile};
use tonnage_proto::rest::CLOSED_UNTIL;
use ureq::http::HeaderMap;

use crate::args::Focus;
use crate::client::Client;
use crate::error::Error;
use crate::output::plain;

const PATH: &str = "/api/v1/export/focus";
const BUFFER_BYTES: usize = 64 << 10;

/// Writes the export to its file, or to `out`.
pub(super) fn focus(client: &Client, options: Focus, out: &mut dyn Write) -> Result<(), Error> {
    let Focus { version, format, window, file } = options;
    let query = [("version", version), ("format", format), ("window", window)];
    let (headers, bytes) = save(client, (PATH, &query), &file, out)?;
    let closed_until = headers.get(CLOSED_UNTIL).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let written = bytes.map_or_else(String::new, |bytes| format!("{}: {bytes} bytes. ", file.display()));
    let note = format!("{written}Slots before {closed_until} are closed; later ones are not in it.");
    // Nobody is left to be told if this fails.
    let _ = writeln!(io::stderr(), "{}", plain(&note));
    Ok(())
}

/// Asks, and writes the answer to `file` as it comes, or to `out` where that is `-`; how many bytes went into the file.
pub(super) fn save(
    client: &Client,
    (path, query): (&str, &[(&str, String)]),
    file: &Path,
    out: &mut dyn Write,
) -> Result<(HeaderMap, Option<u64>), Error> {
    // Before anything is asked: a folder that cannot be written to is told at once.
    let part = if file.as_os_str() == "-" { None } else { Some(part_of(file)?) };
    let (headers, body) = client.stream(path, query)?;
    let Some(mut part) = part else {
        copy(body, |bytes| Ok(out.write_all(bytes)?))?;
        out.flush()?;
        return Ok((headers, None));
    };
    let failed = |source| Error::Write { path: file.to_owned(), source };
    let bytes = copy(body, |bytes| part.write_all(bytes).map_err(failed))?;
    part.as_file().sync_all().map_err(failed)?;
    part.persist(file).map_err(|error| failed(error.error))?;
    Ok((headers, Some(bytes)))
}

/// A file beside `file`, which goes away unless it takes that one's place.
fn part_of(file: &Path) -> Result<NamedTempFile, Error> {
    let failed = |source| Error::Write { path: file.to_owned(), source };
    let Some(name) = file.file_name() else {
        return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
    };
    if file.is_dir() {
        return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = Builder::new();
    let prefix = format!(".{}.", name.to_string_lossy());
    builder.prefix(&prefix).suffix(".part").permissions(Permissions::from_mode(0o666));
    builder.tempfile_in(folder).map_err(failed)
}

/// Hands on all of `body`, with what is done on a terminal; says how much it was.
fn copy(mut body: impl Read, mut take: impl FnMut(&[u8]) -> Result<(), Error>) -> Result<u64, Error> {
    // Draws on standard error, and on a terminal only.
    let progress = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {bytes} ({bytes_per_sec}) in {elapsed}") {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(200));
    let mut buffer = vec![0; BUFFER_BYTES];
    let done = loop {
        match body.read(&mut buffer) {
            Ok(0) => break Ok(progress.position()),
            Ok(count) => {
                if let Err(error) = take(buffer.get(..count).unwrap_or_default()) {
                    break Err(error);
                }
                progress.inc(u64::try_from(count).unwrap_or(0));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => break Err(Error::Broken { from: "the export", source }),
        }
    };
    progress.finish_and_clear();
    done
}
