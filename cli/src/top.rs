//! `tonnage top` in a terminal: looks at the live view again and again, until `q`.
//!
//! A thread asks, this one draws and listens: a slow server does not make keys slow. The terminal is put back at the
//! end, and by ratatui's hook at a panic; ctrl-c is a key here.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tonnage_proto::rest::LiveAnswer;

use crate::client::Client;
use crate::error::Error;

mod view;

use view::View;

/// How long a key may wait for the screen, and an answer for being drawn.
const TICK: Duration = Duration::from_millis(100);

pub(crate) fn run(client: Client, interval: Duration) -> Result<(), Error> {
    // What is wrong at the first look is said on the plain terminal, with its exit code.
    let mut view = View::new(look(&client)?);
    let (answers, received) = mpsc::sync_channel(1);
    let (stop, stopped) = mpsc::sync_channel::<()>(1);
    let asker = std::thread::spawn(move || ask(&client, interval, &answers, &stopped));
    let mut terminal = ratatui::try_init()?;
    let result = follow(&mut terminal, &mut view, &received);
    ratatui::try_restore()?;
    // The thread ends when it next looks at either channel; a request on its way is not waited for.
    drop((stop, received, asker));
    result
}

fn look(client: &Client) -> Result<LiveAnswer, Error> {
    client.parse(&client.get("/api/v1/live", &[])?)
}

fn ask(
    client: &Client,
    interval: Duration,
    answers: &SyncSender<Result<LiveAnswer, Error>>,
    stopped: &Receiver<()>,
) {
    while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        if answers.send(look(client)).is_err() {
            return;
        }
    }
}

fn follow(
    terminal: &mut ratatui::DefaultTerminal,
    view: &mut View,
    received: &Receiver<Result<LiveAnswer, Error>>,
) -> Result<(), Error> {
    loop {
        while let Ok(answer) = received.try_recv() {
            view.take(answer.map_err(|error| error.to_string()));
        }
        terminal.draw(|frame| view.draw(frame))?;
        if !event::poll(TICK)? {
            continue;
        }
        if let Event::Key(key) = event::read()?
            && act(key, view)
        {
            return Ok(());
        }
    }
}

/// True = leave.
fn act(key: KeyEvent, view: &mut View) -> bool {
    if key.kind == KeyEventKind::Release {
        return false;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return true,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
        KeyCode::Down | KeyCode::Char('j') => view.scroll(1),
        KeyCode::Up | KeyCode::Char('k') => view.scroll(-1),
        KeyCode::PageDown => view.scroll(20),
        KeyCode::PageUp => view.scroll(-20),
        KeyCode::Home => view.scroll(isize::MIN),
        KeyCode::End => view.scroll(isize::MAX),
        _ => {}
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_escape_and_control_c_leave() {
        let answer = LiveAnswer { at: String::new(), currency: String::new(), rows: Vec::new() };
        let mut view = View::new(answer);
        let plain = |code| KeyEvent::new(code, KeyModifiers::NONE);
        assert!(act(plain(KeyCode::Char('q')), &mut view));
        assert!(act(plain(KeyCode::Esc), &mut view));
        assert!(act(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), &mut view));
        assert!(!act(plain(KeyCode::Char('c')), &mut view));
        assert!(!act(plain(KeyCode::PageDown), &mut view));
    }
}
