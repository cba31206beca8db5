//! `tonnage price`: a book's rows, and reading a book to have it checked.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use tonnage_proto::rest::{PriceRow, PricesAnswer};

use crate::error::Error;
use crate::output::number::money;
use crate::output::{Grid, left, right};

/// The server takes no more.
const BOOK_BYTES_MAX: u64 = 1 << 20;

/// The text of `path`, or of standard input for `-`.
pub(super) fn read(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(path).map_err(failed)?)
    };
    let bytes = input.take(BOOK_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if u64::try_from(bytes).is_ok_and(|bytes| bytes > BOOK_BYTES_MAX) {
        let reason = format!("is too large for a price book; one has at most {BOOK_BYTES_MAX} bytes");
        return Err(Error::File { path: path.to_owned(), reason });
    }
    Ok(text)
}

pub(super) fn grid(answer: &PricesAnswer) -> Grid {
    let columns = vec![
        right("line"),
        left("match"),
        left("valid from"),
        right("price"),
        left("unit"),
        right(format!("{} per gpu h", answer.currency)),
    ];
    let rows = answer.prices.iter().map(|row| {
        let from = if row.valid_from.is_empty() { "always" } else { &row.valid_from };
        vec![
            row.line.to_string(),
            matches(row),
            from.to_owned(),
            money(&row.price, 4),
            if row.weight == "memory" { format!("{}, by memory", row.unit) } else { row.unit.clone() },
            money(&row.price_per_gpu_hour, 6),
        ]
    });
    let mut notes = vec![String::new(), format!("{} prices", answer.prices.len())];
    if let Some(error) = &answer.error {
        notes.push(format!("These are not the file's prices. {error}"));
    }
    Grid { columns, rows: rows.collect(), notes }
}

pub(super) fn csv(answer: &PricesAnswer) -> Vec<Vec<String>> {
    let header = ["line", "match", "valid_from", "price", "unit", "price_per_gpu_hour", "currency", "weight"];
    let rows = answer.prices.iter().map(|row| {
        vec![
            row.line.to_string(),
            matches(row),
            row.valid_from.clone(),
            row.price.clone(),
            row.unit.clone(),
            row.price_per_gpu_hour.clone(),
            answer.currency.clone(),
            row.weight.clone(),
        ]
    });
    std::iter::once(header.map(str::to_owned).to_vec()).chain(rows).collect()
}

fn matches(row: &PriceRow) -> String {
    if row.matches.is_empty() {
        return "everything".to_owned();
    }
    let parts: Vec<String> = row.matches.iter().map(|(fact, pattern)| format!("{fact}={pattern}")).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_book_is_shown_row_by_row() {
        let row = PriceRow {
            line: 4,
            matches: [("gpu_model".to_owned(), "NVIDIA H100*".to_owned())].into(),
            valid_from: String::new(),
            price: "98.320000000".into(),
            unit: "node_hour".into(),
            weight: "compute".into(),
            price_per_gpu_hour: "12.290000000".into(),
        };
        let all = PriceRow { matches: std::collections::BTreeMap::new(), ..row.clone() };
        let error = Some("price book line 2: no".to_owned());
        let answer = PricesAnswer { currency: "USD".into(), prices: vec![row, all], error };
        let mut out = Vec::new();
        grid(&answer).write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("   4  gpu_model=NVIDIA H100*  always      98.3200  node_hour      12.290000\n"),
            "{text}"
        );
        assert!(text.contains("everything") && text.ends_with("prices. price book line 2: no\n"), "{text}");
        assert_eq!((csv(&answer)[1][5].as_str(), csv(&answer)[1][7].as_str()), ("12.290000000", "compute"));
        let by_memory = PriceRow { weight: "memory".into(), ..answer.prices[0].clone() };
        let shown = grid(&PricesAnswer { prices: vec![by_memory], ..answer });
        assert!(shown.rows[0].contains(&"node_hour, by memory".to_owned()));
    }

    #[test]
    fn a_file_that_is_no_book_by_its_size_is_not_sent() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![b'#'; (1 << 20) + 1]).unwrap();
        assert!(matches!(read(file.path()), Err(Error::File { .. })));
        assert!(matches!(read(Path::new("/nowhere")), Err(Error::Read { .. })));
    }
}
