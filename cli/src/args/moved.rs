//! The command line of those who come from an ASBB: what is moved here, and its verbs that are no others here.

use std::path::PathBuf;

use clap::{ArgGroup, Args as ClapArgs, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum Import {
    /// Accounts, grants, open holds and job files of an ASBB. Done twice it changes nothing
    Asbb(Box<Asbb>),
}

#[derive(Debug, ClapArgs)]
#[command(group(ArgGroup::new("from").required(true).multiple(true)))]
pub(crate) struct Asbb {
    /// Where its REST API is
    #[arg(long, value_name = "URL", value_parser = super::url, conflicts_with = "from_dir", group = "from")]
    pub(crate) from_url: Option<String>,
    /// File that holds the token to show there
    #[arg(long, value_name = "FILE", requires = "from_url")]
    pub(crate) from_token_file: Option<PathBuf>,
    /// Folder with accounts.json, transactions.json, grants.json and allocations.json, as that API answers them; those that are
    /// not there are left out
    #[arg(long, value_name = "DIR", group = "from")]
    pub(crate) from_dir: Option<PathBuf>,
    /// Folder with job-ID-asbb-reconciliation.json
    #[arg(long, value_name = "DIR", group = "from")]
    pub(crate) job_files: Option<PathBuf>,
    /// Whose jobs its holds are for; needed unless usage comes from one cluster alone
    #[arg(long)]
    pub(crate) cluster: Option<String>,
    /// Which account a grant pays for, of whom an ASBB does not tell [default: the account that its internal_project_code names]
    #[arg(long = "grant-account", value_name = "NUMBER=ACCOUNT", value_parser = pair)]
    pub(crate) grant_accounts: Vec<(String, String)>,
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

/// Whose settings a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Process {
    Aggregator,
    Agent,
    Gate,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Settings to begin with, each with what it is
    Init {
        /// Whose they are
        #[arg(long = "for", value_enum, default_value = "aggregator")]
        process: Process,
        /// Where to write; a file that is there stays as it is [default: standard output]
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Whether a file has keys and types that its process knows
    Validate {
        file: PathBuf,
        /// Whose it is
        #[arg(long = "for", value_enum, default_value = "aggregator")]
        process: Process,
    },
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once('=') {
        Some((number, account)) if !number.is_empty() && !account.is_empty() => {
            Ok((number.to_owned(), account.to_owned()))
        }
        _ => Err("write NUMBER=ACCOUNT, e.g. NSF-2534=physics".to_owned()),
    }
}
