//! The admin port: `/healthz`, `/readyz` and `/metrics` over HTTP/1.1. Plain and small: it must answer when
//! everything else is busy, so it only asks the [`Admin`] it is given.
//!
//! Limits: [`CONNECTIONS_MAX`] at once (further ones wait in the listen queue), one minute per connection, no
//! request body is read.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::shutdown::Shutdown;

/// Connections served at once.
pub const CONNECTIONS_MAX: usize = 32;

/// What the port asks its process. Called on the admin task: answer from memory, do not block.
pub trait Admin: Send + Sync + 'static {
    /// Is the process working? `Err` says in plain words what is wrong.
    ///
    /// # Errors
    /// If something is wrong with the process itself.
    fn health(&self) -> Result<(), String>;
    /// What a process that is well has to add.
    fn remark(&self) -> Option<String> {
        None
    }
    /// Does it do its work for others yet?
    ///
    /// # Errors
    /// If it does not yet, or not any more.
    fn ready(&self) -> Result<(), String>;
    /// Prometheus text format, version 0.0.4.
    fn metrics(&self) -> String;
}

/// Serves until `shutdown`.
pub async fn serve(listener: TcpListener, admin: Arc<dyn Admin>, shutdown: Shutdown) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.wait() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: give the others time to end.
                tracing::warn!(%error, "The admin port could not accept a connection.");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, admin.as_ref());
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(10))
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            // A peer that goes away or sends rubbish is its own loss.
            let _ = tokio::time::timeout(Duration::from_secs(60), connection).await;
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, admin: &dyn Admin) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if !matches!(path, "/healthz" | "/readyz" | "/metrics") {
        return text(StatusCode::NOT_FOUND, "not found; there are /healthz, /readyz and /metrics\n".into());
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
    }
    let state = |result: Result<(), String>| match result {
        Ok(()) => text(StatusCode::OK, "ok\n".into()),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    };
    match path {
        "/healthz" => match (admin.health(), admin.remark()) {
            (Ok(()), Some(remark)) => text(StatusCode::OK, format!("ok; {remark}\n")),
            (health, _) => state(health),
        },
        "/readyz" => state(admin.ready()),
        _ => text(StatusCode::OK, admin.metrics()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    response
}
