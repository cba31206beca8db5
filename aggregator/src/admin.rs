//! The commands beside `serve`: verification, backups, tokens, checking a price book. They print for people.
#![allow(clippy::print_stdout, reason = "these are commands for people")]

use std::path::{Path, PathBuf};

use tonnage_runtime::clock::Clock;

use crate::api;
use crate::config::{self, StoreArgs, TokenCommand};
use crate::model::NodeName;
use crate::prices::watch::{self, Files};
use crate::store::tokens::{self, Grant, Role};
use crate::store::{self, Location, backup, transfer};
use crate::verify;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Prints what verification found. True if the ledger is conserved.
///
/// # Errors
/// If there is no ledger, or it cannot be read.
pub fn verify_ledger(store: StoreArgs) -> Result<bool> {
    let store = store.resolve()?.existing()?;
    let report = verify::verify(&store.reader()?)?;
    println!("{} batches, {} windows read from the journal", report.batches, report.windows);
    println!("{} entries posted under {} checkpoints", report.entries, report.checkpoints);
    println!("{report}");
    Ok(report.conserved())
}

/// Prints the document of the API.
///
/// # Errors
/// If it cannot be written.
pub fn openapi() -> Result<()> {
    println!("{}", serde_json::to_string_pretty(&api::openapi::document())?);
    Ok(())
}

/// Writes a backup.
///
/// # Errors
/// If the file exists or cannot be written.
pub fn backup(store: StoreArgs, file: &Path) -> Result<()> {
    let done = backup::backup(&store.resolve()?.existing()?, file)?;
    println!("{} bytes, {} batches in {}", done.bytes, done.batches, file.display());
    Ok(())
}

/// Takes a backup back.
///
/// # Errors
/// If it is no sound backup, or a ledger is there and may not be replaced.
pub fn restore(store: StoreArgs, file: &Path, replace: bool, simulated_clock: Option<&Path>) -> Result<()> {
    let clock = simulated_clock.map_or_else(|| Ok(Clock::system()), Clock::simulated)?;
    let done = match store.resolve()? {
        Location::Folder(data) => backup::restore(file, &data, replace, clock.wall_ns())?,
        Location::Database(_) if replace => {
            return Err("replace: a database is not moved aside; name an empty one".into());
        }
        database @ Location::Database(_) => {
            let _alone = database.alone()?;
            backup::restore_to_server(file, &database.open()?, clock.wall_ns())?
        }
    };
    if let Some(aside) = done.aside {
        println!("the ledger that was there is in {}", aside.display());
    }
    println!("{} batches restored; agents send again what is missing", done.batches);
    Ok(())
}

/// Copies a ledger to where none is.
///
/// # Errors
/// If there is none, an aggregator runs on it, or the target holds one.
pub fn migrate(from: &str, to: &str) -> Result<()> {
    let (from, to) = (config::place("from", from)?, config::place("to", to)?);
    if from.is(&to) {
        return Err("to: is the same place as from; name one that holds no ledger yet".into());
    }
    let source = from.existing()?;
    let _alone = (from.alone()?, to.alone()?);
    let target = to.open()?;
    let copied = transfer::copy(&source.reader()?, &target.writer()?)?;
    println!("{} rows copied", copied.rows);
    println!(
        "slots sum to {} slice-nanoseconds and {} nano-units of money in both",
        copied.time_ns, copied.cost_nanos
    );
    let report = verify::verify(&target.reader()?)?;
    println!("{report}");
    if report.conserved() { Ok(()) } else { Err("the copy does not verify; keep the old ledger".into()) }
}

/// Declares the ledger to continue another.
///
/// # Errors
/// If the id is none, or the store cannot be written.
pub fn succeed(store: StoreArgs, ledger_id: &str) -> Result<()> {
    let digits = |at: usize| u8::from_str_radix(ledger_id.get(at..at + 2)?, 16).ok();
    let id: Option<Vec<u8>> = (0..16).map(|at| digits(at * 2)).collect();
    let Some(id) = id.filter(|_| ledger_id.len() == 32) else {
        return Err(
            format!("ledger_id: {ledger_id:?} is no ledger's id; it has 32 hexadecimal digits").into()
        );
    };
    store::set_succeeds(&store.resolve()?.open()?.writer()?, &id)?;
    println!("agents of ledger {ledger_id} will send here; restart the aggregator if it runs");
    Ok(())
}

/// Prints a price book's rows, and a nodes file's tables.
///
/// # Errors
/// If one is not a good one.
pub fn check_prices(file: Option<PathBuf>, nodes_file: Option<PathBuf>) -> Result<()> {
    let book = watch::load(&Files { prices: file, nodes: nodes_file, teams: None })?;
    for row in book.rows() {
        let matches: Vec<String> = row.matches.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let (from, matches) = (&row.valid_from, matches.join(" "));
        println!(
            "line {}: {} {} per {} from {from}: {matches}",
            row.line,
            row.price,
            book.currency(),
            row.unit
        );
    }
    for ([cluster, name], facts) in book.nodes().tables() {
        let own = [
            ("instance_type", &facts.instance_type),
            ("region", &facts.region),
            ("zone", &facts.zone),
            ("capacity_type", &facts.capacity_type),
        ];
        let mut known: Vec<String> = own
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        known.extend(facts.labels.iter().map(|(key, value)| format!("labels.{key}={value}")));
        println!("node {name} of cluster {cluster}: {}", known.join(" "));
    }
    Ok(())
}

/// Makes, lists and removes tokens.
///
/// # Errors
/// If the store cannot be used, or the command does not fit what is there.
pub fn token(command: TokenCommand, clock: &Clock) -> Result<()> {
    match command {
        TokenCommand::Add { store, name, role, node, cluster } => {
            let grant = match (role, node, cluster) {
                (Some(role), None, None) => Grant::Role(Role::from_name(&role).ok_or_else(|| {
                    format!("role: {role:?} is not a role; use reader, gate, operator or admin")
                })?),
                (None, Some(node), Some(cluster)) => Grant::Node(NodeName { cluster, node }),
                _ => return Err("use either --role, or --node with --cluster".into()),
            };
            let connection = store.resolve()?.open()?.writer()?;
            println!("{}", tokens::add(&connection, &name, &grant, clock.wall_ns())?);
        }
        TokenCommand::List { store } => {
            for token in tokens::list(&store.resolve()?.existing()?.writer()?)? {
                match token.grant {
                    Grant::Role(role) => println!("{}\t{}", token.name, role.name()),
                    Grant::Node(NodeName { cluster, node }) => {
                        println!("{}\tnode {node} of cluster {cluster}", token.name);
                    }
                }
            }
        }
        TokenCommand::Remove { store, name } => {
            if !tokens::remove(&store.resolve()?.existing()?.writer()?, &name)? {
                return Err(format!("name: there is no token {name:?}").into());
            }
        }
    }
    Ok(())
}
