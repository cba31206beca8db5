//! How answers look: a [`Grid`] as a table for people, rows as CSV, JSON as it came.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Row, Table};

pub(crate) mod number;

/// A column and how it is aligned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) title: String,
    pub(crate) right: bool,
}

/// Text, aligned to the left.
pub(crate) fn left(title: impl Into<String>) -> Column {
    Column { title: title.into(), right: false }
}

/// Numbers, aligned to the right.
pub(crate) fn right(title: impl Into<String>) -> Column {
    Column { title: title.into(), right: true }
}

/// A table for people.
#[derive(Debug, Default)]
pub(crate) struct Grid {
    pub(crate) columns: Vec<Column>,
    pub(crate) rows: Vec<Vec<String>>,
    /// Lines below.
    pub(crate) notes: Vec<String>,
}

impl Grid {
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for line in self.lines().iter().chain(&self.notes) {
            writeln!(out, "{}", plain(line))?;
        }
        Ok(())
    }

    /// The table without its notes.
    pub(crate) fn lines(&self) -> Vec<String> {
        // Some answers are notes alone.
        if self.columns.is_empty() {
            return Vec::new();
        }
        let mut table = Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(Row::from(self.columns.iter().map(|column| column.title.to_uppercase())));
        table.add_rows(self.rows.iter().map(|row| Row::from(row.iter().map(|cell| plain(cell)))));
        for (at, column) in self.columns.iter().enumerate() {
            if let Some(shown) = table.column_mut(at) {
                shown.set_padding((0, 2));
                let alignment = if column.right { CellAlignment::Right } else { CellAlignment::Left };
                shown.set_cell_alignment(alignment);
            }
        }
        table.lines().map(|line| line.trim_end().to_owned()).collect()
    }
}

/// Rows for programs; the first holds the names.
pub(crate) fn csv(rows: impl IntoIterator<Item = Vec<String>>, out: &mut dyn Write) -> io::Result<()> {
    let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(out);
    for row in rows {
        writer.write_record(&row).map_err(|error| match error.into_kind() {
            csv::ErrorKind::Io(error) => error,
            other => io::Error::other(format!("{other:?}")),
        })?;
    }
    writer.flush()
}

/// The server's answer with all its fields, indented.
pub(crate) fn json(value: &serde_json::Value, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
    writeln!(out)
}

/// Names come from elsewhere: what could steer a terminal is shown as a question mark.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(grid: &Grid) -> String {
        let mut out = Vec::new();
        grid.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_stand_under_each_other_at_their_right_end() {
        let rows = vec![vec!["a".into(), "1.5".into()], vec!["long-name".into(), "100.5".into()]];
        let grid = Grid { columns: vec![left("name"), right("cost")], rows, notes: vec!["a note".into()] };
        assert_eq!(shown(&grid), "NAME        COST\na            1.5\nlong-name  100.5\na note\n");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let rows = vec![vec!["\u{1b}[31mred\n".into()]];
        let text = shown(&Grid { columns: vec![left("name")], rows, notes: Vec::new() });
        assert_eq!(text, "NAME\n?[31mred?\n");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let mut out = Vec::new();
        csv([vec!["a,b".to_owned(), "c".to_owned()]], &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "\"a,b\",c\n");
    }
}
