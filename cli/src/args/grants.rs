//! The command line of grants.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Grants {
    /// Grants, and what is spent of them
    List {
        #[arg(long, value_parser = ["pending", "active", "suspended", "completed", "cancelled"])]
        status: Option<String>,
        /// Of this account alone
        #[arg(long)]
        account: Option<String>,
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
        limit: Option<u32>,
        /// Leave out so many of the first
        #[arg(long)]
        offset: Option<u32>,
    },
    /// One grant
    Show { number: String },
    /// Its budget periods, and what was spent in each
    Periods { number: String },
    /// What was spent of it, on what, and how each figure was measured
    Report {
        number: String,
        /// financial, technical, compliance or annual
        #[arg(long = "type", value_name = "TYPE", default_value = "financial",
              value_parser = ["financial", "technical", "compliance", "annual"])]
        kind: String,
        /// json, csv or pdf
        #[arg(long, default_value = "json", value_parser = ["json", "csv", "pdf"])]
        format: String,
        /// A date in UTC [default: the grant's first; of an annual report that of its year]
        #[arg(long, value_name = "DATE")]
        start: Option<String>,
        /// The first day that is not in it
        #[arg(long, value_name = "DATE")]
        end: Option<String>,
        /// Of one budget period, by its number
        #[arg(long, value_name = "N", conflicts_with_all = ["start", "end"])]
        period: Option<u32>,
        /// Periods alone, and not by user, month and the like
        #[arg(long)]
        no_details: bool,
        /// Where to write; replaced only once the new one is whole. - for standard output
        #[arg(short, long)]
        file: PathBuf,
    },
    /// Make a grant, which pays for an account and all below it
    Create {
        /// The agency's number
        number: String,
        #[command(flatten)]
        said: Box<Said>,
        /// Only say what it would be
        #[arg(long)]
        dry_run: bool,
    },
    /// Change what is given of a grant
    Update {
        number: String,
        #[arg(long, value_parser = ["active", "suspended"])]
        status: Option<String>,
        #[command(flatten)]
        said: Box<Said>,
        /// Only say what it would be
        #[arg(long)]
        dry_run: bool,
    },
    /// Close a grant: it pays until the end of the day (UTC), and its number is never used again. There is no way back
    Close {
        number: String,
        /// Only say whether it could be
        #[arg(long)]
        dry_run: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// What may be said of a grant.
#[derive(Debug, ClapArgs)]
pub(crate) struct Said {
    /// The account that spends it; needed of a new grant, as all up to --award are
    #[arg(long)]
    pub(crate) account: Option<String>,
    /// Who funds it
    #[arg(long)]
    pub(crate) agency: Option<String>,
    /// Principal investigator
    #[arg(long = "pi", value_name = "NAME")]
    pub(crate) investigator: Option<String>,
    #[arg(long)]
    pub(crate) institution: Option<String>,
    /// A date in UTC
    #[arg(long, value_name = "DATE")]
    pub(crate) start: Option<String>,
    /// The first day that it does not pay for
    #[arg(long, value_name = "DATE")]
    pub(crate) end: Option<String>,
    /// All of it, indirect costs with it
    #[arg(long, value_name = "AMOUNT")]
    pub(crate) award: Option<String>,
    /// Indirect costs for each of direct costs: 0.55 is 55 % [server's default: 0]
    #[arg(long, value_name = "RATE")]
    pub(crate) indirect_rate: Option<String>,
    /// Months of a budget period [server's default: 12]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=60))]
    pub(crate) period_months: Option<u8>,
    /// The agency's program
    #[arg(long)]
    pub(crate) program: Option<String>,
    /// A co-investigator; several times for several. All are said at once
    #[arg(long = "co-pi", value_name = "NAME")]
    pub(crate) co_investigators: Vec<String>,
    #[arg(long)]
    pub(crate) department: Option<String>,
    /// What reports have to keep to
    #[arg(long, value_name = "TEXT")]
    pub(crate) compliance: Option<String>,
    #[arg(long, value_name = "ID")]
    pub(crate) federal_award_id: Option<String>,
    #[arg(long, value_name = "CODE")]
    pub(crate) project_code: Option<String>,
    #[arg(long, value_name = "NAME")]
    pub(crate) cost_center: Option<String>,
}
