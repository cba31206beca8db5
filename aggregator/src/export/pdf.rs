//! A text with tables as PDF (ISO 32000-1), on A4: headings in Helvetica, all else in Courier, both of the fonts that every reader has.
//! Nothing is embedded, so that only characters of Windows-1252 can be shown: of others there is a `?`, and the end says how many.
//!
//! Pure; the same document gives the same bytes.

use pdf_writer::{Content, Finish as _, Name, Pdf, Rect, Ref, Str, TextStr};

const WIDTH: f32 = 595.0;
const HEIGHT: f32 = 842.0;
const MARGIN: f32 = 50.0;
const SIZE: f32 = 8.0;
const HEADING_SIZE: f32 = 11.0;
const LINE_HEIGHT: f32 = 10.5;
/// Lines of a page, without its foot; headings take two.
const LINES: usize = 68;
/// Characters of a line: Courier's are 0.6 of its size wide.
const COLUMNS: usize = 103;
/// And of a heading, whose characters are of many widths.
const HEADING_COLUMNS: usize = 70;
/// Blanks between columns of a table.
const GAP: usize = 2;
const TEXT: Name<'_> = Name(b"F1");
const BOLD: Name<'_> = Name(b"F2");
const FIRST_PAGE: i32 = 10;
/// What Windows-1252 has from 0x80 to 0x9F <https://encoding.spec.whatwg.org/index-windows-1252.txt>; U+FFFD where it has nothing.
const SPECIAL: &str = "\u{20ac}\u{fffd}\u{201a}\u{192}\u{201e}\u{2026}\u{2020}\u{2021}\u{2c6}\u{2030}\u{160}\u{2039}\u{152}\u{fffd}\
    \u{17d}\u{fffd}\u{fffd}\u{2018}\u{2019}\u{201c}\u{201d}\u{2022}\u{2013}\u{2014}\u{2dc}\u{2122}\u{161}\u{203a}\u{153}\u{fffd}\u{17e}\u{178}";

/// What is to be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Document {
    pub title: String,
    /// At the foot of each page.
    pub foot: String,
    pub sections: Vec<Section>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Section {
    pub title: String,
    /// Wrapped where they are too long.
    pub lines: Vec<String>,
    /// The first row is its head. The first column is text, and the others stand at the right.
    pub table: Vec<Vec<String>>,
}

/// A line as it is set.
struct Line {
    heading: bool,
    text: String,
}

/// The document's bytes.
#[must_use]
pub fn pdf(document: &Document) -> Vec<u8> {
    let mut lines: Vec<Line> = heading(&document.title).collect();
    for section in &document.sections {
        lines.extend(heading(&section.title));
        lines.extend(section.lines.iter().flat_map(|text| wrap(text, COLUMNS)).map(plain));
        lines.extend(table(&section.table).into_iter().map(plain));
    }
    let lost: usize = lines.iter().map(|line| line.text.chars().filter(|c| byte(*c).is_none()).count()).sum();
    if lost > 0 {
        lines.push(plain(String::new()));
        lines.push(plain(format!("{lost} characters that this document's fonts lack are shown as ?.")));
    }
    written(document, &pages(lines))
}

fn heading(text: &str) -> impl Iterator<Item = Line> {
    wrap(text, HEADING_COLUMNS).into_iter().map(|text| Line { heading: true, text })
}

fn plain(text: String) -> Line {
    Line { heading: false, text }
}

/// A heading begins no page's last line.
fn pages(lines: Vec<Line>) -> Vec<Vec<Line>> {
    let (mut pages, mut page, mut used) = (Vec::new(), Vec::new(), 0);
    for line in lines {
        let (height, wanted) = if line.heading { (2, 4) } else { (1, 1) };
        if used + wanted > LINES && !page.is_empty() {
            pages.push(std::mem::take(&mut page));
            used = 0;
        }
        used += height;
        page.push(line);
    }
    pages.push(page);
    pages
}

fn written(document: &Document, pages: &[Vec<Line>]) -> Vec<u8> {
    let [catalog, tree, info, text, bold] = [1, 2, 3, 4, 5].map(Ref::new);
    let of = |at: usize, place: i32| {
        Ref::new(i32::try_from(at).unwrap_or(0).saturating_mul(2).saturating_add(FIRST_PAGE + place))
    };
    let mut pdf = Pdf::new();
    pdf.catalog(catalog).pages(tree);
    pdf.document_info(info).title(TextStr(&document.title)).producer(TextStr("Tonnage"));
    let count = i32::try_from(pages.len()).unwrap_or(i32::MAX);
    pdf.pages(tree).kids((0..pages.len()).map(|at| of(at, 0))).count(count);
    for (font, name) in [(text, &b"Courier"[..]), (bold, b"Helvetica-Bold")] {
        pdf.type1_font(font).base_font(Name(name)).encoding_predefined(Name(b"WinAnsiEncoding"));
    }
    for (at, lines) in pages.iter().enumerate() {
        let mut page = pdf.page(of(at, 0));
        page.media_box(Rect::new(0.0, 0.0, WIDTH, HEIGHT)).parent(tree).contents(of(at, 1));
        let mut resources = page.resources();
        resources.fonts().pair(TEXT, text).pair(BOLD, bold);
        resources.finish();
        page.finish();
        let page = format!(", page {} of {}", at + 1, pages.len());
        let room = COLUMNS.saturating_sub(page.len());
        let foot: String = document.foot.chars().take(room).chain(page.chars()).collect();
        pdf.stream(of(at, 1), &content(lines, &foot));
    }
    pdf.finish()
}

/// What is drawn on a page.
fn content(lines: &[Line], foot: &str) -> Vec<u8> {
    let mut content = Content::new();
    let mut y = HEIGHT - MARGIN;
    let mut set = |font: Name<'_>, size: f32, y: f32, text: &str| {
        let bytes: Vec<u8> = text.chars().map(|c| byte(c).unwrap_or(b'?')).collect();
        content.begin_text();
        content.set_font(font, size).next_line(MARGIN, y).show(Str(&bytes));
        content.end_text();
    };
    for line in lines {
        y -= if line.heading { 2.0 * LINE_HEIGHT } else { LINE_HEIGHT };
        let (font, size) = if line.heading { (BOLD, HEADING_SIZE) } else { (TEXT, SIZE) };
        set(font, size, y, &line.text);
    }
    set(TEXT, SIZE, MARGIN / 2.0, foot);
    content.finish().to_vec()
}

/// A character in Windows-1252; `None` if it has none, or is not to be shown.
fn byte(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x20..=0x7e | 0xa0..=0xff) => u8::try_from(code).ok(),
        0xfffd => None,
        _ => u8::try_from(0x80 + SPECIAL.chars().position(|known| known == c)?).ok(),
    }
}

/// Lines of at most so many characters, cut between words where there are any.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for part in text.lines() {
        let mut line = String::new();
        for word in part.split([' ', '\t']) {
            let mut word: Vec<char> = word.chars().collect();
            let used = line.chars().count();
            if used > 0 && used + 1 + word.len() > width {
                lines.push(std::mem::take(&mut line));
            } else if used > 0 {
                line.push(' ');
            }
            while word.len() > width {
                let rest = word.split_off(width);
                lines.push(word.into_iter().collect());
                word = rest;
            }
            line.extend(word);
        }
        lines.push(line);
    }
    lines
}

/// Rows as lines. A name that does not fit stands on lines of its own, above its figures.
fn table(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest =
        |column: usize| rows.iter().filter_map(move |row| row.get(column)).map(|cell| cell.chars().count());
    let widths: Vec<usize> = (0..count).map(|column| widest(column).max().unwrap_or(0)).collect();
    let figures: usize = widths.iter().skip(1).map(|width| width + GAP).sum();
    let first = widths.first().copied().unwrap_or(0).min(COLUMNS.saturating_sub(figures));
    let mut lines = Vec::new();
    for row in rows {
        let name = row.first().map_or("", String::as_str);
        let mut line = if name.chars().count() > first {
            lines.extend(wrap(name, COLUMNS));
            " ".repeat(first)
        } else {
            format!("{name:<first$}")
        };
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            line += &format!("{}{cell:>width$}", " ".repeat(GAP));
        }
        lines.push(line.trim_end().to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_windows_1252_has_is_kept_and_all_else_is_a_question_mark_that_is_told() {
        for (c, expected) in [
            ('a', Some(b'a')),
            ('\u{e9}', Some(0xe9)),
            ('\u{20ac}', Some(0x80)),
            ('\u{2013}', Some(0x96)),
            ('\u{178}', Some(0x9f)),
            ('\u{81}', None),
            ('\u{141}', None),
            ('\n', None),
            ('\u{fffd}', None),
        ] {
            assert_eq!(byte(c), expected, "{c:?}");
        }
        let document = |name: &str| {
            let section = Section { lines: vec![name.to_owned()], ..Section::default() };
            let bytes = pdf(&Document { sections: vec![section], ..Document::default() });
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let told = document("Stanis\u{142}aw \u{141}ukasiewicz");
        assert!(told.contains("Stanis?aw ?ukasiewicz") && told.contains("2 characters that"), "{told}");
        assert!(!document("Ada (Lovelace)").contains("characters that"));
    }

    #[test]
    fn lines_are_cut_between_words_and_lose_nothing() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("a\n\nb", 5), ["a", "", "b"]);
        assert_eq!(wrap("a\tb", 5), ["a b"]);
    }

    #[test]
    fn figures_stand_below_each_other_also_below_a_long_name() {
        let cells = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let lines = table(&[
            cells(&["user", "charged"]),
            cells(&["ada", "1.5"]),
            cells(&["x".repeat(200).as_str(), "22.25"]),
        ]);
        assert!(lines.iter().all(|line| line.chars().count() <= COLUMNS), "{lines:?}");
        assert!(lines[1].ends_with("    1.5") && lines[1].starts_with("ada "));
        assert_eq!(lines[2..4].concat(), "x".repeat(200));
        let ends: Vec<usize> = [0, 1, 4].map(|at: usize| lines[at].chars().count()).into();
        assert!(ends.windows(2).all(|two| two[0] == two[1]), "{lines:?}");
    }

    #[test]
    fn a_page_is_not_fuller_than_a_page_and_each_says_which_it_is() {
        let section =
            Section { title: "Lines".into(), lines: vec!["line".into(); 500], ..Section::default() };
        let document = Document { title: "T".into(), foot: "foot".into(), sections: vec![section] };
        let text = String::from_utf8_lossy(&pdf(&document)).into_owned();
        assert!(text.starts_with("%PDF-1.") && text.trim_end().ends_with("%%EOF"));
        assert_eq!(text.matches("(line) Tj").count(), 500);
        assert!(text.contains("(foot, page 8 of 8)"), "504 lines on pages of {LINES}");
    }

    #[test]
    fn a_title_of_any_length_stays_on_its_page_and_so_does_the_number_of_the_page() {
        let long = "N".repeat(256);
        let bytes = pdf(&Document { title: long.clone(), foot: long.clone(), sections: Vec::new() });
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let shown: Vec<&str> =
            text.split(") Tj").filter_map(|part| part.rsplit_once('(')).map(|of| of.1).collect();
        assert!(shown.iter().all(|line| line.len() <= COLUMNS), "{shown:?}");
        let (foot, heading) = shown.split_last().unwrap();
        assert_eq!(heading.concat(), long);
        assert!(foot.ends_with("N, page 1 of 1"), "{foot}");
    }
}
