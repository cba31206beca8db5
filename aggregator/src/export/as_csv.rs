//! Rows as CSV (RFC 4180, UTF-8): a line of names first, null as an empty field, amounts as exact decimals.

use std::io::{self, Write};

use tonnage_proto::decimal::from_nanos;

use super::columns::{Cell, Column};
use super::row::Row;

pub(super) struct CsvFile<W: Write> {
    columns: Vec<&'static Column>,
    writer: csv::Writer<W>,
}

impl<W: Write> CsvFile<W> {
    pub(super) fn new(columns: Vec<&'static Column>, out: W) -> io::Result<Self> {
        let mut writer = csv::WriterBuilder::new().from_writer(out);
        writer.write_record(columns.iter().map(|column| column.name)).map_err(failed)?;
        Ok(Self { columns, writer })
    }

    pub(super) fn write(&mut self, row: &Row<'_>) -> io::Result<()> {
        for column in &self.columns {
            let written = match (column.cell)(row) {
                Cell::Null => self.writer.write_field(""),
                Cell::Text(text) => self.writer.write_field(text.as_ref()),
                Cell::Amount(nanos) => self.writer.write_field(from_nanos(nanos)),
                Cell::Time(at_ns) => self.writer.write_field(time(at_ns)),
            };
            written.map_err(failed)?;
        }
        self.writer.write_record(None::<&[u8]>).map_err(failed)
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// RFC 3339 in UTC.
fn time(at_ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at_ns)).map_or_else(|_| String::new(), |at| at.to_string())
}

fn failed(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}
