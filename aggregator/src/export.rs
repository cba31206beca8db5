//! What was posted as a file of the FinOps Open Cost and Usage Specification (FOCUS), docs/focus.md.
//!
//! Pure: charges of one hour after the other become rows (`row`), rows become the columns of a version (`columns`), and
//! those bytes of a [`Format`]. Memory is bounded by an hour and by `as_parquet::ROWS_MAX` rows, however long the window
//! is. Not here: the store, the clock, and who takes the bytes.

use std::io::{self, Write};

use crate::store::query::posted::Charge;

mod as_csv;
mod as_parquet;
mod columns;
pub mod pdf;
mod row;
mod split;

pub use row::month;

/// Version of the specification. Each has exactly its own columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1_2,
    V1_3,
}

impl Version {
    /// Every version with its name, oldest first.
    pub const ALL: [(Self, &'static str); 2] = [(Self::V1_2, "1.2"), (Self::V1_3, "1.3")];

    /// By its name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(version, _)| version)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        }
    }
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// UTF-8 with a line of names; null is an empty field.
    Csv,
    /// zstd; amounts are DECIMAL(38, 9), times TIMESTAMP in UTC, the rest text.
    Parquet,
}

impl Format {
    /// By its name, which is also a file's ending.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Csv, Self::Parquet].into_iter().find(|format| format.name() == name)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }

    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }
}

/// Who is who on a bill, as the operator says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parties {
    /// Who runs the GPUs: `ProviderName`, `PublisherName`, `ServiceProviderName`.
    pub provider: String,
    /// Whose machines they are in: `HostProviderName`.
    pub host_provider: String,
    pub invoice_issuer: String,
    /// `BillingAccountName`.
    pub account_name: String,
}

impl Default for Parties {
    fn default() -> Self {
        let own = || "Tonnage".to_owned();
        Self { provider: own(), host_provider: own(), invoice_issuer: own(), account_name: own() }
    }
}

/// What every row of a file has in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bill {
    pub parties: Parties,
    /// `BillingAccountId`: the ledger's id.
    pub account_id: String,
    /// The book's, ISO 4217.
    pub currency: String,
}

/// A file on its way to whoever takes it.
pub struct Export<W: Write + Send> {
    bill: Bill,
    version: Version,
    file: File<W>,
}

enum File<W: Write + Send> {
    Csv(as_csv::CsvFile<W>),
    Parquet(as_parquet::ParquetFile<W>),
}

impl<W: Write + Send> Export<W> {
    /// Begins a file with what comes before the first row.
    ///
    /// # Errors
    /// If `out` fails.
    pub fn new(version: Version, format: Format, bill: Bill, out: W) -> io::Result<Self> {
        let columns = columns::of(version);
        let file = match format {
            Format::Csv => File::Csv(as_csv::CsvFile::new(columns, out)?),
            Format::Parquet => File::Parquet(as_parquet::ParquetFile::new(columns, version, out)?),
        };
        Ok(Self { bill, version, file })
    }

    /// Writes the charges of (a part of) one hour, in their order.
    ///
    /// # Errors
    /// If `out` fails.
    pub fn hour(&mut self, (start_ns, end_ns): (i64, i64), charges: &[Charge]) -> io::Result<()> {
        let splits = split::of(charges);
        for (charge, split) in charges.iter().zip(&splits) {
            let row = row::Row {
                bill: &self.bill,
                version: self.version,
                start_ns,
                end_ns,
                charge,
                split: split.as_ref(),
            };
            match &mut self.file {
                File::Csv(file) => file.write(&row)?,
                File::Parquet(file) => file.write(&row)?,
            }
        }
        Ok(())
    }

    /// Writes what comes behind the last row. A file without it is not whole.
    ///
    /// # Errors
    /// If `out` fails.
    pub fn finish(self) -> io::Result<()> {
        match self.file {
            File::Csv(file) => file.finish(),
            File::Parquet(file) => file.finish(),
        }
    }
}
