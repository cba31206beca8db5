//! The socket that Slurm's submit plugin asks at: for Slurm's user, root and the gate's own user. One line is asked and one answered on
//! each connection.
//!
//! Limits: [`CONNECTIONS_MAX`] at once, further ones wait in the listen queue; a line of [`LINE_BYTES_MAX`] bytes, within two seconds.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonnage_runtime::shutdown::Shutdown;

use super::admission::Admission;
use super::request::LINE_BYTES_MAX;

pub const CONNECTIONS_MAX: usize = 64;
const LINE_WAIT: Duration = Duration::from_secs(2);
/// Linux's limit of a socket's path, less its closing zero.
pub const PATH_BYTES_MAX: usize = 107;

/// Listens at `path`, for `slurm_uid` too.
///
/// # Errors
/// If it cannot, or another gate does.
pub fn bind(path: &Path, slurm_uid: Option<u32>) -> io::Result<UnixListener> {
    if path.as_os_str().as_bytes().len() > PATH_BYTES_MAX {
        let wrong = format!("the socket's path has over {PATH_BYTES_MAX} bytes, which Linux does not allow");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, wrong));
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another gate answers there"));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    if let Some(uid) = slurm_uid.filter(|uid| *uid != rustix::process::geteuid().as_raw()) {
        chown(path, Some(uid), None)?;
    }
    Ok(listener)
}

/// Answers until `stop`.
pub async fn serve(
    listener: UnixListener,
    admission: Arc<Admission>,
    slurm_uid: Option<u32>,
    stop: Shutdown,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.wait() => return,
        };
        let Ok((stream, _)) = accepted else {
            // Out of descriptors, most likely: give the others time to end.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let admission = Arc::clone(&admission);
        tokio::spawn(async move {
            serve_one(stream, &admission, slurm_uid).await;
            drop(permit);
        });
    }
}

async fn serve_one(mut stream: UnixStream, admission: &Admission, slurm_uid: Option<u32>) {
    let own = rustix::process::geteuid().as_raw();
    // The socket's mode says it already, but for the moment between its making and that.
    let may = |uid: u32| uid == 0 || uid == own || Some(uid) == slurm_uid;
    let answer = if stream.peer_cred().is_ok_and(|peer| may(peer.uid())) {
        match timeout(LINE_WAIT, read_line(&mut stream)).await {
            Ok(Ok(Some(line))) => admission.answer(&line).await,
            _ => format!(
                "no tonnage: the ask has to end with a line feed, within {} s and {LINE_BYTES_MAX} bytes of UTF-8",
                LINE_WAIT.as_secs()
            ),
        }
    } else {
        "no tonnage: only Slurm's user and root may ask".to_owned()
    };
    // Who does not wait for it has decided already.
    let _ = timeout(LINE_WAIT, stream.write_all(format!("{answer}\n").as_bytes())).await;
}

/// A line without its end; `None` if it was cut off.
async fn read_line(stream: &mut UnixStream) -> io::Result<Option<String>> {
    let mut line = Vec::with_capacity(1024);
    let mut limited = stream.take(LINE_BYTES_MAX as u64);
    while !line.ends_with(b"\n") && limited.read_buf(&mut line).await? > 0 {}
    Ok(line.strip_suffix(b"\n").and_then(|line| String::from_utf8(line.to_vec()).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_is_left_over_is_taken_and_one_that_lives_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gate.sock");
        let first = bind(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(bind(&path, None).unwrap_err().to_string().contains("another gate"));
        drop(first);
        bind(&path, None).unwrap();
        let long = folder.path().join("x".repeat(120));
        assert!(bind(&long, None).unwrap_err().to_string().contains("107"));
    }

    #[tokio::test]
    async fn a_line_that_is_cut_off_or_too_long_is_none() {
        for (text, expected) in
            [("submit x\n", Some("submit x")), ("submit x", None), (&*"x".repeat(5000), None)]
        {
            let (mut asks, mut answers) = UnixStream::pair().unwrap();
            asks.write_all(text.as_bytes()).await.unwrap();
            asks.shutdown().await.unwrap();
            assert_eq!(read_line(&mut answers).await.unwrap().as_deref(), expected);
        }
    }
}
