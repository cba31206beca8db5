//! The program as scripts meet it: exit codes and streams, against a tiny server on loopback.

#![allow(clippy::unwrap_used, reason = "a test's helpers end the test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::thread::JoinHandle;

const EMPTY: &str = r#"{"nodes":[]}"#;

/// Answers one request; gives back its head and body.
fn server(status: &'static str, body: &'static str) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let handle = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut request).unwrap() > 0);
        }
        let length = request
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned))
            .map_or(0, |length| length.parse().unwrap());
        let mut sent = vec![0; length];
        reader.read_exact(&mut sent).unwrap();
        request += &String::from_utf8(sent).unwrap();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        (&stream).write_all(head.as_bytes()).unwrap();
        (&stream).write_all(body.as_bytes()).unwrap();
        request
    });
    (url, handle)
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tonnage"));
    command.args(args).env_remove("TONNAGE_URL").env_remove("TONNAGE_TOKEN_FILE").stdin(Stdio::null());
    command
}

fn tonnage(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_good_answer_is_0_and_the_token_is_sent() {
    let (url, handle) = server("200 OK", EMPTY);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "tng_abc\n").unwrap();
    let output = tonnage(&["--url", &url, "--token-file", file.path().to_str().unwrap(), "nodes"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    assert!(String::from_utf8(output.stdout).unwrap().ends_with("0 nodes, 0 connected\n"));
    let request = handle.join().unwrap();
    assert!(request.starts_with("GET /api/v1/nodes HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("authorization: Bearer tng_abc\r\n"), "{request}");
}

#[test]
fn parameters_arrive_as_they_were_given() {
    let answer = r#"{"window":{"start":"a","end":"b"},"currency":"USD","aggregate":["pod"],"rows":[],
        "totals":{"held_seconds":"0","busy_seconds":"0","idle_seconds":"0","unobserved_seconds":"0",
        "unpriced_seconds":"0","memory_byte_seconds":"0","energy_joules":"0","held_cost":"0","idle_cost":"0",
        "unobserved_cost":"0","rounding_cost":"0","cost":"0","hourly_rate":"0"},
        "coverage":"","data_age_seconds":null,"added_later":1}"#;
    let (url, handle) = server("200 OK", answer);
    let window = "2026-01-01T00:00:00+01:00,2026-01-02T00:00:00Z";
    let output = tonnage(&["--url", &url, "-o", "json", "cost", "pods", "--window", window, "--limit", "5"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    assert!(String::from_utf8(output.stdout).unwrap().contains("\"added_later\": 1"));
    let request = handle.join().unwrap();
    // A bare + would be read as a blank.
    assert!(request.contains("%2B01:00") || request.contains("%2B01%3A00"), "{request}");
    assert!(request.contains("limit=5"), "{request}");
}

#[test]
fn a_refusal_is_1_and_says_why() {
    let (url, handle) = server(
        "422 Unprocessable Entity",
        r#"{"error":{"code":"invalid_price_book","message":"price book line 3: price.unit: \"h\" is not a unit","request_id":"x"}}"#,
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "currency = \"USD\"\n").unwrap();
    let output = tonnage(&["--url", &url, "price", "check", file.path().to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    assert_eq!(said(&output), "tonnage: price book line 3: price.unit: \"h\" is not a unit\n");
    assert!(output.stdout.is_empty());
    assert!(handle.join().unwrap().ends_with("\r\n\r\ncurrency = \"USD\"\n"));
}

#[test]
fn an_answer_that_is_none_and_a_bad_file_are_1() {
    let (url, handle) = server("200 OK", "<html>");
    let output = tonnage(&["--url", &url, "nodes"]);
    assert_eq!(code(&output), 1);
    assert!(said(&output).contains("check --url"), "{}", said(&output));
    handle.join().unwrap();
    assert_eq!(code(&tonnage(&["price", "check", "/nowhere/book.toml"])), 1);
    assert_eq!(code(&tonnage(&["--token-file", "/nowhere/token", "nodes"])), 1);
}

#[test]
fn a_wrong_command_line_is_2() {
    for args in [&["nonsense"][..], &["cost", "--limit", "0"], &["--url", "ftp://x", "nodes"], &[]] {
        assert_eq!(code(&tonnage(args)), 2, "{args:?}");
    }
}

#[test]
fn a_server_that_cannot_be_reached_is_3() {
    // Bound and closed again: nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let output = tonnage(&["--url", &url, "nodes"]);
    assert_eq!(code(&output), 3);
    assert!(said(&output).contains(&url), "{}", said(&output));
    let version = tonnage(&["--url", &url, "version"]);
    assert_eq!(code(&version), 3);
    assert!(String::from_utf8(version.stdout).unwrap().starts_with("tonnage "));
}

#[test]
fn without_leave_it_is_4() {
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let body = r#"{"error":{"code":"x","message":"no token","request_id":"x"}}"#;
        let (url, handle) = server(status, body);
        let output = tonnage(&["--url", &url, "devices"]);
        assert_eq!(code(&output), 4);
        assert!(said(&output).starts_with("tonnage: no token"), "{}", said(&output));
        handle.join().unwrap();
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let mut child =
        command(&["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), said(&output).as_str()), (0, ""));
}

#[test]
fn help_lists_the_exit_codes_and_completions_are_a_script() {
    let help = tonnage(&["--help"]);
    assert!(String::from_utf8(help.stdout).unwrap().contains("3  the server cannot be reached"));
    let script = tonnage(&["completions", "bash"]);
    assert!(String::from_utf8(script.stdout).unwrap().contains("_tonnage"));
}

#[test]
fn top_without_a_terminal_is_one_table() {
    let (url, handle) = server("200 OK", r#"{"at":"now","currency":"USD","rows":[]}"#);
    let output = tonnage(&["--url", &url, "top"]);
    assert_eq!(code(&output), 0, "{}", said(&output));
    assert!(String::from_utf8(output.stdout).unwrap().ends_with("now  0.00 USD per hour, 0.00 of it idle\n"));
    handle.join().unwrap();
}
