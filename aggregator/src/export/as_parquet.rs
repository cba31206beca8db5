//! Rows as Parquet: row groups of [`ROWS_MAX`], each column of a group by itself.

use std::io::{self, Write};
use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::Version;
use super::columns::{Cell, Column, Kind};
use super::row::Row;

/// Rows of a group: so many are held in memory.
pub(super) const ROWS_MAX: usize = 8_192;
/// Parquet's DECIMAL: digits, and those behind the point.
const DECIMAL: (u8, u8) = (38, 9);

pub(super) struct ParquetFile<W: Write + Send> {
    columns: Vec<(&'static Column, Values)>,
    rows: usize,
    writer: SerializedFileWriter<W>,
}

/// One column of the group to come; nulls are in `defined` alone.
#[derive(Default)]
struct Values {
    defined: Vec<i16>,
    texts: Vec<ByteArray>,
    amounts: Vec<FixedLenByteArray>,
    times: Vec<i64>,
}

impl<W: Write + Send> ParquetFile<W> {
    pub(super) fn new(columns: Vec<&'static Column>, version: Version, out: W) -> io::Result<Self> {
        let schema = Arc::new(parse_message_type(&schema(&columns)).map_err(failed)?);
        let made_by = concat!("tonnage-aggregator ", env!("CARGO_PKG_VERSION"));
        let focus = KeyValue::new("FocusVersion".to_owned(), version.name().to_owned());
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(made_by.to_owned())
            .set_key_value_metadata(Some(vec![focus]))
            .build();
        let writer = SerializedFileWriter::new(out, schema, Arc::new(properties)).map_err(failed)?;
        let columns = columns.into_iter().map(|column| (column, Values::default())).collect();
        Ok(Self { columns, rows: 0, writer })
    }

    pub(super) fn write(&mut self, row: &Row<'_>) -> io::Result<()> {
        for (column, values) in &mut self.columns {
            values.push(column, (column.cell)(row))?;
        }
        self.rows += 1;
        if self.rows < ROWS_MAX { Ok(()) } else { self.flush() }
    }

    /// Writes the group and begins the next.
    fn flush(&mut self) -> io::Result<()> {
        let mut group = self.writer.next_row_group().map_err(failed)?;
        for (column, values) in &mut self.columns {
            let Values { defined, texts, amounts, times } = std::mem::take(values);
            let defined = column.optional.then_some(defined.as_slice());
            let Some(mut out) = group.next_column().map_err(failed)? else {
                return Err(io::Error::other("the schema has fewer columns than the row"));
            };
            let written = match column.kind {
                Kind::Text => out.typed::<ByteArrayType>().write_batch(&texts, defined, None),
                Kind::Amount => out.typed::<FixedLenByteArrayType>().write_batch(&amounts, defined, None),
                Kind::Time => out.typed::<Int64Type>().write_batch(&times, defined, None),
            };
            written.map_err(failed)?;
            out.close().map_err(failed)?;
        }
        group.close().map_err(failed)?;
        self.rows = 0;
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.rows > 0 {
            self.flush()?;
        }
        self.writer.finish().map_err(failed)?;
        self.writer.inner_mut().flush()
    }
}

impl Values {
    fn push(&mut self, column: &Column, cell: Cell<'_>) -> io::Result<()> {
        self.defined.push(i16::from(cell != Cell::Null));
        match cell {
            Cell::Null if column.optional => {}
            Cell::Null => return Err(io::Error::other(format!("{} has no value", column.name))),
            Cell::Text(text) => self.texts.push(ByteArray::from(text.into_owned().into_bytes())),
            Cell::Amount(nanos) => self.amounts.push(nanos.to_be_bytes().to_vec().into()),
            Cell::Time(at_ns) => self.times.push(at_ns.div_euclid(1_000)),
        }
        Ok(())
    }
}

/// In Parquet's own words.
fn schema(columns: &[&'static Column]) -> String {
    let (precision, scale) = DECIMAL;
    let field = |column: &&Column| {
        let repetition = if column.optional { "optional" } else { "required" };
        let name = column.name;
        match column.kind {
            Kind::Text => format!("{repetition} binary {name} (STRING);"),
            Kind::Amount => {
                format!("{repetition} fixed_len_byte_array(16) {name} (DECIMAL({precision},{scale}));")
            }
            Kind::Time => format!("{repetition} int64 {name} (TIMESTAMP(MICROS,true));"),
        }
    };
    let fields: String = columns.iter().map(field).collect();
    format!("message focus {{ {fields} }}")
}

fn failed(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => match error.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(error) => io::Error::other(error),
        },
        other => io::Error::other(other),
    }
}
