//! One file per kind of command; here they are told apart.

use std::io::{self, BufWriter, IsTerminal as _, Write};

use clap::CommandFactory as _;
use serde::de::DeserializeOwned;
use tonnage_proto::rest::VersionAnswer;

use crate::args::budgets::{Budget, Holds};
use crate::args::{Args, Command, Devices, Export, Output, Price, Unobserved};
use crate::client::Client;
use crate::error::Error;
use crate::output::{self, Grid};
use crate::top;

mod alerts;
mod allocations;
mod audit;
mod budgets;
mod burn;
mod config;
mod cost;
mod ecosystem;
mod explain;
mod export;
mod grants;
mod idle;
mod import;
mod inventory;
mod live;
mod prices;
mod report;

pub(crate) use live::{describe, summary};

/// Does what the command line says.
pub(crate) fn run(args: Args) -> Result<(), Error> {
    let mut out = BufWriter::new(io::stdout().lock());
    if let Command::Completions { shell } = args.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Args::command(), "tonnage", &mut script);
        out.write_all(&script)?;
        return Ok(out.flush()?);
    }
    if let Command::Config { command } = args.command {
        config::config(command, &mut out)?;
        return Ok(out.flush()?);
    }
    let client = Client::new(args.url, args.token_file.as_deref())?;
    let show = Show { client: &client, output: args.output };
    match args.command {
        Command::Cost(cost) => {
            let text = client.get(cost.table.path(), &cost::query(&cost))?;
            show.write(&text, cost::grid, cost::csv, &mut out)?;
        }
        Command::Report { command } => report::report(&show, command, &mut out)?,
        Command::Explain(options) => {
            let text = client.get(explain::PATH, &explain::query(options))?;
            show.write(&text, explain::grid, explain::csv, &mut out)?;
        }
        Command::Idle(idle) => {
            let text = client.get(idle::PATH, &idle::query(idle))?;
            show.write(&text, idle::grid, idle::csv, &mut out)?;
        }
        Command::Top(options) => {
            if args.output == Output::Table && !options.once && io::stdout().is_terminal() {
                drop(out);
                return top::run(client, options.interval);
            }
            show.write(&client.get(live::PATH, &[])?, live::grid, live::csv, &mut out)?;
        }
        Command::Nodes => {
            show.write(&client.get("/api/v1/nodes", &[])?, inventory::nodes, inventory::nodes_csv, &mut out)?;
        }
        Command::Devices { command: None } => {
            let text = client.get("/api/v1/devices", &[])?;
            show.write(&text, inventory::devices, inventory::devices_csv, &mut out)?;
        }
        Command::Devices { command: Some(Devices::Retire { uuid, at }) } => {
            audit::retire(&show, &uuid, at, &mut out)?;
        }
        Command::Unobserved(Unobserved { window, device }) => {
            let query = audit::query([("window", window), ("device", device)]);
            let text = client.get("/api/v1/unobserved", &query)?;
            show.write(&text, audit::unobserved, audit::unobserved_csv, &mut out)?;
        }
        Command::Quarantine { command } => audit::quarantine(&show, command, &mut out)?,
        Command::Audit { command } => audit::audit(&show, command, &mut out)?,
        Command::Export { command: Export::Focus(focus) } => export::focus(&client, focus, &mut out)?,
        Command::Account { command } => budgets::accounts(&show, command, &mut out)?,
        Command::Alert { command } => alerts::alerts(&show, command, &mut out)?,
        Command::Hold { command } => budgets::holds(&show, command, &mut out)?,
        Command::Budget { command } => budgets::budget(&show, command, &mut out)?,
        Command::Allocation { command } => allocations::allocations(&show, command, &mut out)?,
        Command::Grant { command } => grants::grants(&show, command, &mut out)?,
        Command::BurnRate(burn) => burn::rate(&show, &burn, &mut out)?,
        Command::Forecast(burn) => burn::forecast(&show, &burn, &mut out)?,
        Command::Usage { command } => {
            let text = burn::used(&client, command)?;
            show.write(&text, cost::grid, cost::csv, &mut out)?;
        }
        Command::Import { command } => import::import(&show, command, &mut out)?,
        Command::Recover(recover) => budgets::holds(&show, Holds::Recover(recover), &mut out)?,
        Command::Reconcile(reconcile) => budgets::budget(&show, Budget::Reconcile(reconcile), &mut out)?,
        Command::Ecosystem => ecosystem::ecosystem(&show, &mut out)?,
        Command::Price { command } => {
            let text = match command {
                Price::List => client.get("/api/v1/prices", &[])?,
                Price::Check { file } => client.post("/api/v1/prices/check", &prices::read(&file)?)?,
            };
            show.write(&text, prices::grid, prices::csv, &mut out)?;
        }
        Command::Version => version(&client, args.output, &mut out)?,
        Command::Completions { .. } | Command::Config { .. } => {}
    }
    Ok(out.flush()?)
}

struct Show<'a> {
    client: &'a Client,
    output: Output,
}

impl Show<'_> {
    fn write<T: DeserializeOwned>(
        &self,
        text: &str,
        grid: impl FnOnce(&T) -> Grid,
        csv: impl FnOnce(&T) -> Vec<Vec<String>>,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        // JSON too is only passed on if it is what it should be.
        let answer: T = self.client.parse(text)?;
        if self.output == Output::Json {
            return Ok(output::json(&self.client.parse(text)?, out)?);
        }
        self.rows(&answer, grid, csv, out)
    }

    /// As [`Show::write`], where rows are wanted.
    fn rows<T>(
        &self,
        answer: &T,
        grid: impl FnOnce(&T) -> Grid,
        csv: impl FnOnce(&T) -> Vec<Vec<String>>,
        out: &mut dyn Write,
    ) -> Result<(), Error> {
        match self.output {
            Output::Csv => output::csv(csv(answer), out)?,
            Output::Table | Output::Json => grid(answer).write(out)?,
        }
        Ok(())
    }
}

/// Our own version is said even where the server cannot be reached.
fn version(client: &Client, output: Output, out: &mut dyn Write) -> Result<(), Error> {
    const OWN: &str = env!("CARGO_PKG_VERSION");
    if output == Output::Table {
        writeln!(out, "tonnage {OWN}")?;
        out.flush()?;
    }
    let server: VersionAnswer = client.parse(&client.get("/version", &[])?)?;
    match output {
        Output::Table => {
            let VersionAnswer { version, protocol, ledger_id } = server;
            let line = format!("server  {version}, protocol {protocol}, ledger {ledger_id}");
            writeln!(out, "{}", output::plain(&line))?;
        }
        Output::Json => output::json(&serde_json::json!({ "client": OWN, "server": server }), out)?,
        Output::Csv => {
            let names = ["client", "server", "protocol", "ledger_id"].map(str::to_owned).to_vec();
            let row = vec![OWN.to_owned(), server.version, server.protocol.to_string(), server.ledger_id];
            output::csv([names, row], out)?;
        }
    }
    Ok(())
}
