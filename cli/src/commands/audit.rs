//! `tonnage quarantine`, `tonnage audit`, `tonnage unobserved` and `tonnage devices retire`: what does not count, why,
//! and what is done about it.

use std::io::{self, IsTerminal as _, Write};

use tonnage_proto::rest::{
    AuditLogAnswer, OrderAnswer, QuarantineAnswer, QuarantineExplained, UnobservedAnswer, VerifyAnswer,
};

use super::{Show, live};
use crate::args::{Audit, Quarantine};
use crate::error::Error;
use crate::output::number::seconds;
use crate::output::{Grid, left, right};

/// The parameters that were given.
pub(super) fn query<const N: usize>(
    given: [(&'static str, Option<String>); N],
) -> Vec<(&'static str, String)> {
    given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// A name as one part of a path.
pub(super) fn path_part(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    name.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Takes a device out of service.
pub(super) fn retire(
    show: &Show<'_>,
    uuid: &str,
    at: Option<String>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let at: Vec<(&str, String)> = at.map(|at| ("at", at)).into_iter().collect();
    let path = format!("/api/v1/devices/{}/retire", path_part(uuid));
    show.write(&show.client.order(&path, &at)?, done, done_csv, out)
}

pub(super) fn quarantine(show: &Show<'_>, command: Quarantine, out: &mut dyn Write) -> Result<(), Error> {
    const PATH: &str = "/api/v1/quarantine";
    match command {
        Quarantine::List { device, state, after, limit } => {
            let query = query([
                ("device", device),
                ("state", Some(state)),
                ("after", after.map(|after| after.to_string())),
                ("limit", limit.map(|limit| limit.to_string())),
            ]);
            show.write(&show.client.get(PATH, &query)?, list, list_csv, out)
        }
        Quarantine::Explain { id } => {
            show.write(&show.client.get(&format!("{PATH}/{id}"), &[])?, explained, explained_csv, out)
        }
        Quarantine::Release { id, yes } => {
            if !yes {
                confirm(&format!("Count quarantined window {id}? There is no way back."))?;
            }
            show.write(&show.client.order(&format!("{PATH}/{id}/release"), &[])?, done, done_csv, out)
        }
    }
}

pub(super) fn audit(show: &Show<'_>, command: Audit, out: &mut dyn Write) -> Result<(), Error> {
    match command {
        Audit::Log { after, limit } => {
            let query = query([
                ("after", after.map(|after| after.to_string())),
                ("limit", limit.map(|limit| limit.to_string())),
            ]);
            show.write(&show.client.get("/api/v1/audit/log", &query)?, log, log_csv, out)
        }
        Audit::Verify => {
            let text = show.client.order("/api/v1/audit/verify", &[])?;
            show.write(&text, verified, verified_csv, out)?;
            let answer: VerifyAnswer = show.client.parse(&text)?;
            if answer.conserved {
                return Ok(());
            }
            out.flush()?;
            Err(Error::Refused("the ledger does not add up".to_owned()))
        }
    }
}

/// Asks at the terminal; without one nobody can have meant it.
pub(super) fn confirm(question: &str) -> Result<(), Error> {
    if !io::stdin().is_terminal() {
        return Err(Error::Refused(format!("{question} Say --yes to do it without a terminal")));
    }
    let mut error = io::stderr();
    write!(error, "{question} Type yes: ")?;
    error.flush()?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    if line.trim() == "yes" { Ok(()) } else { Err(Error::Refused("nothing was done".to_owned())) }
}

pub(super) fn done(answer: &OrderAnswer) -> Grid {
    Grid { notes: vec![answer.done.clone()], ..Grid::default() }
}

pub(super) fn done_csv(answer: &OrderAnswer) -> Vec<Vec<String>> {
    vec![vec!["done".to_owned()], vec![answer.done.clone()]]
}

pub(super) fn unobserved(answer: &UnobservedAnswer) -> Grid {
    let columns = vec![left("cluster"), left("node"), left("device"), left("reason"), right("seconds")];
    let rows = answer.rows.iter().map(|row| {
        let time = seconds(&row.seconds);
        vec![row.cluster.clone(), row.node.clone(), row.device.clone(), row.reason.clone(), time]
    });
    let notes = vec![String::new(), format!("{} to {}", answer.window.start, answer.window.end)];
    Grid { columns, rows: rows.collect(), notes }
}

pub(super) fn unobserved_csv(answer: &UnobservedAnswer) -> Vec<Vec<String>> {
    let header = ["cluster", "node", "device", "reason", "seconds"].map(str::to_owned).to_vec();
    let rows = answer.rows.iter().map(|row| {
        [&row.cluster, &row.node, &row.device, &row.reason, &row.seconds].map(Clone::clone).to_vec()
    });
    std::iter::once(header).chain(rows).collect()
}

fn list(answer: &QuarantineAnswer) -> Grid {
    let columns =
        ["id", "node", "device", "start", "end", "kind", "state", "reason"].map(left).into_iter().collect();
    let rows = answer.rows.iter().map(|row| {
        let node = format!("{}/{}", row.cluster, row.node);
        let (start, end) = (row.start.clone(), row.end.clone());
        let (kind, state, reason) = (row.kind.clone(), row.state.clone(), row.reason.clone());
        vec![row.id.to_string(), node, row.device.clone(), start, end, kind, state, reason]
    });
    let more = answer.next.map(|next| format!("there are more: --after {next}"));
    let notes = [String::new(), format!("{} windows", answer.rows.len())].into_iter().chain(more);
    Grid { columns, rows: rows.collect(), notes: notes.collect() }
}

fn list_csv(answer: &QuarantineAnswer) -> Vec<Vec<String>> {
    let header = ["id", "cluster", "node", "device", "start", "end", "kind", "reason", "state", "journalled"];
    let rows = answer.rows.iter().map(|row| {
        let texts = [&row.cluster, &row.node, &row.device, &row.start, &row.end];
        let more = [&row.kind, &row.reason, &row.state, &row.journalled];
        let texts = texts.into_iter().chain(more).cloned();
        std::iter::once(row.id.to_string()).chain(texts).collect()
    });
    std::iter::once(header.map(str::to_owned).to_vec()).chain(rows).collect()
}

fn explained(answer: &QuarantineExplained) -> Grid {
    let row = &answer.row;
    let mut notes = vec![
        format!("window {} of {}, {} to {}", row.id, row.device, row.start, row.end),
        format!("from node {} of cluster {}, journalled {}", row.node, row.cluster, row.journalled),
        format!("entry {} of the journal: epoch {}, batch {}", answer.journal, answer.epoch, answer.seq),
        format!("{} ({}): {}", row.state, row.kind, row.reason),
        String::new(),
    ];
    for usage in &answer.usages {
        let (held, busy) = (seconds(&usage.held_seconds), seconds(&usage.busy_seconds));
        let intruder = if usage.intruder { " (intruder)" } else { "" };
        notes.push(format!("  held {held} s, busy {busy} s  {}{intruder}", live::owner(&usage.owner)));
    }
    notes.push(format!("  idle {} s", seconds(&answer.idle_seconds)));
    for counted in &answer.counted {
        let why = if counted.ordered { ", by order" } else { "" };
        notes.push(format!(
            "counted instead: node {} of cluster {}, {} to {}{why}",
            counted.node, counted.cluster, counted.start, counted.end
        ));
    }
    notes.extend([String::new(), answer.advice.clone()]);
    Grid { notes, ..Grid::default() }
}

fn explained_csv(answer: &QuarantineExplained) -> Vec<Vec<String>> {
    let header =
        ["id", "node", "device", "start", "end", "kind", "state", "journal", "epoch", "seq", "advice"];
    let row = &answer.row;
    let values = vec![
        row.id.to_string(),
        row.node.clone(),
        row.device.clone(),
        row.start.clone(),
        row.end.clone(),
        row.kind.clone(),
        row.state.clone(),
        answer.journal.to_string(),
        answer.epoch.clone(),
        answer.seq.to_string(),
        answer.advice.clone(),
    ];
    vec![header.map(str::to_owned).to_vec(), values]
}

fn log(answer: &AuditLogAnswer) -> Grid {
    let columns = ["id", "at", "kind", "node", "seq", "outcome", "detail"].map(left).into_iter().collect();
    let rows = answer.rows.iter().map(|row| {
        let node = if row.node.is_empty() { "-".to_owned() } else { format!("{}/{}", row.cluster, row.node) };
        let seq = if row.seq == 0 { "-".to_owned() } else { row.seq.to_string() };
        let (kind, outcome, detail) = (row.kind.clone(), row.outcome.clone(), row.detail.clone());
        vec![row.id.to_string(), row.at.clone(), kind, node, seq, outcome, detail]
    });
    let notes = answer.next.map(|next| format!("there are more: --after {next}"));
    Grid { columns, rows: rows.collect(), notes: notes.into_iter().collect() }
}

fn log_csv(answer: &AuditLogAnswer) -> Vec<Vec<String>> {
    let header = ["id", "at", "kind", "cluster", "node", "seq", "outcome", "detail", "sha256"];
    let rows = answer.rows.iter().map(|row| {
        let (kind, seq) = (row.kind.clone(), row.seq.to_string());
        let (cluster, node) = (row.cluster.clone(), row.node.clone());
        let (outcome, detail, sha256) = (row.outcome.clone(), row.detail.clone(), row.sha256.clone());
        vec![row.id.to_string(), row.at.clone(), kind, cluster, node, seq, outcome, detail, sha256]
    });
    std::iter::once(header.map(str::to_owned).to_vec()).chain(rows).collect()
}

fn verified(answer: &VerifyAnswer) -> Grid {
    let read = format!("{} batches, {} windows read from the journal", answer.batches, answer.windows);
    let posted = format!("{} entries posted under {} checkpoints", answer.entries, answer.checkpoints);
    Grid { notes: vec![read, posted, answer.summary.clone()], ..Grid::default() }
}

fn verified_csv(answer: &VerifyAnswer) -> Vec<Vec<String>> {
    let header =
        ["conserved", "batches", "windows", "devices", "entries", "checkpoints", "differences", "first"];
    let counts = [answer.batches, answer.windows, answer.devices, answer.entries, answer.checkpoints];
    let counts = counts.into_iter().chain([answer.differences]).map(|count| count.to_string());
    let first = answer.first.clone().unwrap_or_default();
    let row = std::iter::once(answer.conserved.to_string()).chain(counts).chain([first]);
    vec![header.map(str::to_owned).to_vec(), row.collect()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_path_cannot_leave_its_part() {
        assert_eq!(path_part("GPU-1_a.b"), "GPU-1_a.b");
        assert_eq!(path_part("../x?y"), "..%2Fx%3Fy");
    }

    #[test]
    fn what_is_wrong_with_a_window_is_told_with_who_counts_instead_and_what_to_do() {
        let text = r#"{"id":7,"cluster":"c","node":"n","device":"GPU-1","start":"s","end":"e","kind":"overlap",
            "reason":"r","state":"held","journalled":"j","journal":9,"epoch":"00","seq":3,"idle_seconds":"1.000000000",
            "usages":[],"counted":[{"cluster":"c","node":"other","start":"s","end":"e","ordered":false}],
            "advice":"stop it"}"#;
        let answer: QuarantineExplained = serde_json::from_str(text).unwrap();
        let notes = explained(&answer).notes.join("\n");
        for part in ["window 7 of GPU-1", "held (overlap): r", "counted instead: node other", "stop it"] {
            assert!(notes.contains(part), "{part}: {notes}");
        }
        assert_eq!(explained_csv(&answer)[1][9], "3");
    }
}
