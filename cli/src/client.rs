//! Asks the REST API, and tells apart what may go wrong. Plain HTTP, no proxy, no redirects: a token goes nowhere
//! but to `--url`.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tonnage_proto::rest::ErrorAnswer;
use tonnage_proto::token;
use ureq::http::{HeaderMap, StatusCode};
use ureq::{Agent, Body, BodyReader};

use crate::error::Error;

const CONNECT: Duration = Duration::from_secs(5);
/// The server gives a query up after 30 s.
const WHOLE: Duration = Duration::from_secs(45);
/// A stream that brings nothing for so long is broken; the server gives up a client that takes nothing for as long.
const PAUSE: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: u64 = 256 << 20;
const TOKEN_BYTES_MAX: u64 = 4096;

type Response = ureq::http::Response<Body>;

pub(crate) struct Client {
    agent: Agent,
    url: String,
    authorization: Option<String>,
}

impl Client {
    pub(crate) fn new(url: String, token_file: Option<&Path>) -> Result<Self, Error> {
        Ok(Self::with(url, token_file.map(read_token).transpose()?))
    }

    /// Of a server that is not ours, and has tokens of its own.
    pub(crate) fn elsewhere(url: String, token_file: Option<&Path>) -> Result<Self, Error> {
        Ok(Self::with(url, token_file.map(read_any_token).transpose()?))
    }

    fn with(url: String, token: Option<String>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(WHOLE))
            .user_agent(concat!("tonnage/", env!("CARGO_PKG_VERSION")))
            .build();
        let authorization = token.map(|token| format!("Bearer {token}"));
        Self { agent: config.new_agent(), url, authorization }
    }

    /// The answer's text.
    pub(crate) fn get(&self, path: &str, query: &[(&str, String)]) -> Result<String, Error> {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        for (name, value) in query {
            request = request.query(*name, value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.answer(request.call())
    }

    /// The answer as it comes: its headers, and a body of any length. Only a pause ends it, not its whole time.
    pub(crate) fn stream(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<(HeaderMap, BodyReader<'static>), Error> {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        for (name, value) in query {
            request = request.query(*name, value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let request = request.config().timeout_global(None).timeout_per_read(Some(PAUSE)).build();
        let mut response =
            request.call().map_err(|source| Error::Unreachable { url: self.url.clone(), source })?;
        if response.status().is_success() {
            let (head, body) = response.into_parts();
            return Ok((head.headers, body.into_reader()));
        }
        let text = self.text(&mut response)?;
        Err(self.refusal(response.status(), &text))
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Result<String, Error> {
        let mut request =
            self.agent.post(format!("{}{path}", self.url)).header("content-type", "application/toml");
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.answer(request.send(body))
    }

    /// Sends some JSON by this method; nothing if it is empty.
    pub(crate) fn send(&self, method: &str, path: &str, json: &str) -> Result<String, Error> {
        let (status, text) = self.ask(method, path, json)?;
        if status.is_success() { Ok(text) } else { Err(self.refusal(status, &text)) }
    }

    /// As [`Self::send`], and whatever the status is, it is an answer.
    pub(crate) fn ask(&self, method: &str, path: &str, json: &str) -> Result<(StatusCode, String), Error> {
        let url = format!("{}{path}", self.url);
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        if !json.is_empty() {
            request = request.header("content-type", "application/json");
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let request = request.body(json.to_owned()).map_err(ureq::Error::from);
        let answered = request.and_then(|request| self.agent.run(request));
        let mut response = answered.map_err(|source| Error::Unreachable { url: self.url.clone(), source })?;
        let text = self.text(&mut response)?;
        Ok((response.status(), text))
    }

    /// Has the server do something; says in the answer what was done.
    pub(crate) fn order(&self, path: &str, query: &[(&str, String)]) -> Result<String, Error> {
        let mut request = self.agent.post(format!("{}{path}", self.url));
        for (name, value) in query {
            request = request.query(*name, value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.answer(request.send_empty())
    }

    /// Reads what [`Self::get`] or [`Self::post`] answered.
    pub(crate) fn parse<T: DeserializeOwned>(&self, text: &str) -> Result<T, Error> {
        serde_json::from_str(text).map_err(|source| Error::Answer { url: self.url.clone(), source })
    }

    fn answer(&self, result: Result<Response, ureq::Error>) -> Result<String, Error> {
        let mut response = result.map_err(|source| Error::Unreachable { url: self.url.clone(), source })?;
        let text = self.text(&mut response)?;
        if response.status().is_success() { Ok(text) } else { Err(self.refusal(response.status(), &text)) }
    }

    fn text(&self, response: &mut Response) -> Result<String, Error> {
        let limited = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).lossy_utf8(true);
        limited.read_to_string().map_err(|source| Error::Body { url: self.url.clone(), source })
    }

    /// What an answer says that is none of what was asked for.
    pub(crate) fn refusal(&self, status: StatusCode, text: &str) -> Error {
        let message = match serde_json::from_str::<ErrorAnswer>(text) {
            Ok(answer) if status.is_server_error() => {
                format!("{} (request {})", answer.error.message, answer.error.request_id)
            }
            Ok(answer) => answer.error.message,
            Err(_) => format!("{} answered {status}; is it a Tonnage aggregator?", self.url),
        };
        match status {
            StatusCode::UNAUTHORIZED if self.authorization.is_none() => {
                Error::Forbidden(format!("{message}; give --token-file or TONNAGE_TOKEN_FILE"))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Forbidden(message),
            _ => Error::Refused(message),
        }
    }
}

fn read_token(path: &Path) -> Result<String, Error> {
    let token = read_any_token(path)?;
    if !token.starts_with(token::PREFIX) {
        let reason = "holds no token; it should be one line that begins with tng_".to_owned();
        return Err(Error::File { path: path.to_owned(), reason });
    }
    Ok(token)
}

fn read_any_token(path: &Path) -> Result<String, Error> {
    if token::stands_in(&path.to_string_lossy()) {
        return Err(Error::Refused(token::BELONGS_IN_A_FILE.to_owned()));
    }
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut text))
        .map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let reason = "holds no token; it should be one line".to_owned();
        return Err(Error::File { path: path.to_owned(), reason });
    }
    Ok(token.to_owned())
}
