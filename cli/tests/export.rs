//! `tonnage export`: a file is there whole or not at all, against a tiny server on loopback.

#![allow(clippy::unwrap_used, reason = "a test's helpers end the test")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\nx-tonnage-closed-until: 2026-02-01T00:00:00Z\r\n\
    transfer-encoding: chunked\r\nconnection: close\r\n\r\n";

/// Answers one request with a body in chunks, and its end if it is to have one; gives back what was asked.
fn server(chunks: &'static [&'static str], whole: bool) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let handle = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut request).unwrap() > 0);
        }
        stream.write_all(HEAD.as_bytes()).unwrap();
        for chunk in chunks {
            stream.write_all(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes()).unwrap();
        }
        if whole {
            stream.write_all(b"0\r\n\r\n").unwrap();
        }
        request
    });
    (url, handle)
}

fn export(url: &str, file: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tonnage"));
    command.args(["--url", url, "export", "focus", "--version", "1.3", "--format", "parquet", "--window"]);
    command.arg("lastmonth").arg("--file").arg(file).stdin(Stdio::null()).env_remove("TONNAGE_TOKEN_FILE");
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_whole_export_takes_its_name_and_says_until_when_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bill.parquet");
    std::fs::write(&file, "the one before").unwrap();
    let (url, handle) = server(&["first ", "second"], true);
    let output = export(&url, &file);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "first second");
    assert!(
        said(&output).contains("12 bytes. Slots before 2026-02-01T00:00:00Z are closed"),
        "{}",
        said(&output)
    );
    assert!(output.stdout.is_empty());
    assert_eq!(names(folder.path()), ["bill.parquet"]);
    // As readable as any file that a program makes.
    assert_ne!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o044, 0);
    let request = handle.join().unwrap();
    let asked = "GET /api/v1/export/focus?version=1.3&format=parquet&window=lastmonth HTTP/1.1";
    assert!(request.starts_with(asked), "{request}");
}

#[test]
fn an_export_that_breaks_off_leaves_what_was_there_before() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bill.parquet");
    std::fs::write(&file, "the one before").unwrap();
    let (url, handle) = server(&["first "], false);
    let output = export(&url, &file);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("broke off before its end"), "{}", said(&output));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "the one before");
    assert_eq!(names(folder.path()), ["bill.parquet"]);
    handle.join().unwrap();
}

#[test]
fn to_standard_output_goes_the_file_alone() {
    let (url, handle) = server(&["first ", "second"], true);
    let output = export(&url, Path::new("-"));
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"first second"[..]));
    handle.join().unwrap();
    let (url, handle) = server(&["first "], false);
    assert_eq!(
        export(&url, Path::new("-")).status.code(),
        Some(1),
        "half of it went out, and is told as that"
    );
    handle.join().unwrap();
}

#[test]
fn where_nothing_can_be_written_nothing_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    for file in [folder.path(), Path::new("/nowhere/bill.csv")] {
        // Nobody listens there: asking would be another error.
        let output = export("http://127.0.0.1:1", file);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("cannot be written"), "{}", said(&output));
    }
}
