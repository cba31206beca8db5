//! An ASBB as its clients see it: lists over HTTP by pages, with a token, and nothing where its program has no route. The real one needs
//! a database and a release that is no longer made, so this stands in for what it answers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};

use anyhow::Context;
use serde_json::{Value, json};

pub(super) const TOKEN: &str = "old-token";

/// What it knows; it goes with the test.
pub(super) struct Old {
    pub(super) url: String,
}

impl Old {
    pub(super) fn start(accounts: Vec<Value>, transactions: Vec<Value>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who broke off has what they wanted.
                let _ = answer(stream, &accounts, &transactions);
            }
        });
        Ok(Self { url })
    }
}

fn answer(stream: TcpStream, accounts: &[Value], transactions: &[Value]) -> anyhow::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut token) = (String::new(), false);
    reader.read_line(&mut head)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        token |= line == format!("authorization: bearer {TOKEN}");
        if line.is_empty() {
            break;
        }
    }
    let path = head.split(' ').nth(1).context("a path")?;
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let number = |name: &str, otherwise: usize| {
        let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        pair.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
    };
    let page = |rows: &[Value], most: usize| {
        let rows = rows.iter().skip(number("offset", 0)).take(number("limit", most).min(most));
        (200, Value::Array(rows.cloned().collect()))
    };
    let error = |status: u16, code: &str| {
        (status, json!({ "error": { "code": code, "message": code }, "request_id": "x" }))
    };
    let (status, body) = match path {
        _ if !token => error(401, "UNAUTHORIZED"),
        "/api/v1/accounts" => page(accounts, 100),
        "/api/v1/transactions" => page(transactions, 1000),
        _ => error(404, "NOT_FOUND"),
    };
    let body = body.to_string();
    let mut stream = reader.into_inner();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )?;
    Ok(())
}
