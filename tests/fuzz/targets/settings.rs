//! Settings files of both processes: whatever stands there, an answer and no panic.

use std::path::PathBuf;

use clap::Parser as _;
use rand::RngExt;
use rand::rngs::StdRng;

use crate::mutate::{number, text};
use crate::target::Target;

const WORDS: &[&str] = &[
    "aggregator = \"https://h:1\"\n",
    "token_file = \"t\"\n",
    "insecure_loopback = true\n",
    "spool_bytes = 1\n",
    "period_ms = 100\n",
    "node_labels = { a = \"b\" }\n",
    "tls_cert = \"c\"\n",
    "tls_key = \"k\"\n",
    "tls_ca = \"a\"\n",
    "log_level = \"trace\"\n",
    "listen = \"[::1]:1\"\n",
    "slurm_gpu_map = \"0=/dev/nvidia3\"\n",
    "listen_http = \"127.0.0.1:0\"\n",
    "[a]",
    "\"\"\"",
    "http://[",
    "://",
    "\u{0}",
];

pub(crate) fn agent() -> Target {
    Target { name: "agent-settings", generate, warp, words: WORDS, bytes_max: 1 << 16, check: check_agent }
}

pub(crate) fn aggregator() -> Target {
    Target {
        name: "aggregator-settings",
        generate,
        warp,
        words: WORDS,
        bytes_max: 1 << 16,
        check: check_aggregator,
    }
}

fn generate(rng: &mut StdRng) -> Vec<u8> {
    let most = rng.random_range(1..6);
    let lines = (0..most).map(|_| WORDS[rng.random_range(0..13)]);
    lines.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<String>().into_bytes()
}

fn warp(bytes: Vec<u8>, rng: &mut StdRng) -> Vec<u8> {
    let mut whole = String::from_utf8_lossy(&bytes).into_owned();
    let key = [
        "aggregator",
        "period_ms",
        "drain_ms",
        "spool_bytes",
        "listen",
        "node",
        "tls_server_name",
        "slurm_gpu_map",
    ];
    let key = key[rng.random_range(0..key.len())];
    let value = if rng.random_bool(0.5) { number(rng).to_string() } else { format!("{:?}", text(rng)) };
    whole += &format!("{key} = {value}\n");
    whole.into_bytes()
}

/// A file of this process alone, since tests run side by side. In memory where the system has such a folder.
fn file(bytes: &[u8]) -> Result<tempfile::NamedTempFile, String> {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let file = tempfile::NamedTempFile::new_in(folder).map_err(|e| e.to_string())?;
    std::fs::write(file.path(), bytes).map_err(|e| e.to_string())?;
    Ok(file)
}

fn check_agent(bytes: &[u8]) -> Result<bool, String> {
    use tonnage_agent::config::{Cli, Command};
    let file = file(bytes)?;
    let path = file.path().display().to_string();
    match Cli::try_parse_from(["tonnage-agent", "run", "--config", &path]).map_err(|e| e.to_string())?.command
    {
        Command::Run(args) => Ok(args.resolve().is_ok()),
        other => Err(format!("another command: {other:?}")),
    }
}

fn check_aggregator(bytes: &[u8]) -> Result<bool, String> {
    use tonnage_aggregator::config::{Cli, Command};
    let file = file(bytes)?;
    let path = file.path().display().to_string();
    match Cli::try_parse_from(["tonnage-aggregator", "serve", "--config", &path])
        .map_err(|e| e.to_string())?
        .command
    {
        Command::Serve(args) => Ok(args.resolve().is_ok()),
        other => Err(format!("another command: {other:?}")),
    }
}
