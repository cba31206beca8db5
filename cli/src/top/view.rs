//! What `tonnage top` shows. Pure but for the frame that it draws on.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::Text;
use ratatui::widgets::{Cell, Paragraph, Row, Table};
use tonnage_proto::rest::{LiveAnswer, LiveRow};

use crate::commands::{describe, summary};
use crate::output::plain;

const HEADER: [&str; 9] =
    ["NODE", "DEVICE", "MODEL", "OWNER", "HELD %", "BUSY %", "MEM GIB", "PER H", "AGE S"];
/// Columns before this one are text.
const FIRST_NUMBER: usize = 4;

pub(super) struct View {
    answer: LiveAnswer,
    /// Why the newest look failed, if it did: then `answer` is older.
    error: Option<String>,
    top: usize,
}

impl View {
    pub(super) fn new(answer: LiveAnswer) -> Self {
        Self { answer, error: None, top: 0 }
    }

    pub(super) fn take(&mut self, result: Result<LiveAnswer, String>) {
        match result {
            Ok(answer) => (self.answer, self.error) = (answer, None),
            Err(error) => self.error = Some(error),
        }
        self.scroll(0);
    }

    pub(super) fn scroll(&mut self, rows: isize) {
        let last = self.answer.rows.len().saturating_sub(1);
        self.top = self.top.saturating_add_signed(rows).min(last);
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let [head, body, foot] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)])
                .areas(frame.area());
        frame.render_widget(Paragraph::new(plain(&summary(&self.answer))).bold(), head);
        let widths = [
            Constraint::Max(24),
            Constraint::Length(12),
            Constraint::Max(20),
            Constraint::Fill(1),
            Constraint::Length(6),
            Constraint::Length(6),
            Constraint::Length(7),
            Constraint::Length(10),
            Constraint::Length(5),
        ];
        let rows = self.answer.rows.iter().skip(self.top).take(usize::from(body.height)).map(row);
        let header = Row::new(HEADER.iter().enumerate().map(|(at, title)| cell(at, (*title).to_owned())));
        frame.render_widget(Table::new(rows, widths).header(header.reversed()), body);
        let foot_line = match &self.error {
            Some(error) => Paragraph::new(plain(&format!("Not current: {error}"))).fg(Color::Red),
            None if self.answer.rows.is_empty() => {
                Paragraph::new("No GPU was seen in the last two minutes.  q quit")
            }
            None => Paragraph::new(format!(
                "{}-{} of {}  arrows scroll, q quit",
                self.top + 1,
                (self.top + usize::from(body.height.saturating_sub(1))).min(self.answer.rows.len()),
                self.answer.rows.len()
            )),
        };
        frame.render_widget(foot_line, foot);
    }
}

fn row(row: &LiveRow) -> Row<'static> {
    // `GPU-` or `MIG-` and eight digits tell devices of one node apart.
    let gpu = if row.instance.is_empty() { &row.device } else { &row.instance };
    let device: String = gpu.chars().take(12).collect();
    let model = format!("{} {}", row.model, row.profile);
    let texts = [row.node.clone(), device, model.trim_end().to_owned()].into_iter().chain(describe(row));
    let shown = Row::new(texts.enumerate().map(|(at, text)| cell(at, plain(&text))));
    match (row.owner.kind.as_str(), row.busy_permille) {
        ("idle", _) => shown.style(Style::new().dim()),
        // Held and idle: the most wanted signal there is.
        (_, 0) => shown.style(Style::new().fg(Color::Yellow)),
        _ => shown,
    }
}

fn cell(at: usize, text: String) -> Cell<'static> {
    let alignment = if at < FIRST_NUMBER { Alignment::Left } else { Alignment::Right };
    Cell::new(Text::from(text).alignment(alignment))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use tonnage_proto::rest::OwnerName;

    use super::*;

    fn answer(count: usize) -> LiveAnswer {
        let rows = (0..count).map(|n| LiveRow {
            cluster: "c".into(),
            node: format!("node-{n}"),
            device: "GPU-12345678-aaaa".into(),
            model: "NVIDIA H100".into(),
            instance: String::new(),
            profile: String::new(),
            owner: OwnerName {
                kind: "pod".into(),
                namespace: "ml".into(),
                pod: "train-0".into(),
                ..OwnerName::default()
            },
            intruder: false,
            held_permille: 1000,
            busy_permille: 425,
            memory_bytes: 1 << 30,
            hourly_rate: Some("2.500000000".into()),
            age_seconds: 4,
        });
        LiveAnswer { at: "2026-01-01T00:00:00Z".into(), currency: "USD".into(), rows: rows.collect() }
    }

    fn screen(view: &View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(110, 6)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let lines: Vec<String> = (0..buffer.area.height)
            .map(|y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>())
            .collect();
        lines.join("\n")
    }

    #[test]
    fn the_screen_shows_who_is_on_what_and_what_it_costs() {
        let text = screen(&View::new(answer(1)));
        assert!(text.starts_with("2026-01-01T00:00:00Z  2.50 USD per hour, 0.00 of it idle"), "{text}");
        for part in ["NODE", "node-0", "GPU-12345678 ", "ml/train-0", "42.5", "2.5000", "1-1 of 1"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn scrolling_ends_at_the_last_row_and_an_empty_view_says_so() {
        let mut view = View::new(answer(10));
        view.scroll(isize::MAX);
        assert!(screen(&view).contains("node-9"));
        view.scroll(isize::MIN);
        assert!(screen(&view).contains("node-0"));
        view.scroll(5);
        view.take(Ok(answer(0)));
        assert!(screen(&view).contains("No GPU was seen"));
    }

    #[test]
    fn after_a_failed_look_the_old_rows_stay_and_are_said_to_be_old() {
        let mut view = View::new(answer(1));
        view.take(Err("cannot be reached".into()));
        let text = screen(&view);
        assert!(text.contains("node-0") && text.contains("Not current: cannot be reached"), "{text}");
    }
}
