//! How Slurm is, by its own commands where they are: `scontrol ping` for its controllers, `sinfo` for its nodes. They are started here, on the
//! machine of whoever asks; the aggregator knows nothing of it.
//!
//! Limits: [`WITHIN`] for each command, which is ended then, and [`SAID_BYTES_MAX`] of what it says.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _};
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(10);
const SAID_BYTES_MAX: u64 = 16 << 20;
/// States of nodes on which nothing can run, though nobody has taken them out.
const DOWN: [&str; 4] = ["down", "fail", "unknown", "error"];

/// One part: its name, how it is, and in words.
pub(super) type Part = (&'static str, &'static str, String);

pub(super) fn parts() -> Vec<Part> {
    match said("scontrol", &["ping"], WITHIN) {
        Err(why) => vec![("slurm", "unknown", why)],
        Ok(text) => {
            let mut parts = controllers(&text);
            if parts.iter().any(|(_, state, _)| *state == "ok") {
                parts.push(
                    match said("sinfo", &["--all", "--noheader", "--Node", "--format=%N %T"], WITHIN) {
                        Ok(text) => nodes(&text),
                        Err(why) => ("slurm nodes", "unknown", why),
                    },
                );
            }
            parts
        }
    }
}

/// What a command says, or why nothing.
fn said(program: &str, args: &[&str], within: Duration) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("{program} is not on this machine: ask where Slurm's commands are"),
        _ => format!("{program} cannot be run: {error}"),
    })?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (told, heard) = sync_channel(1);
    std::thread::spawn(move || {
        let (mut text, mut why) = (Vec::new(), Vec::new());
        let read = out.map(|out| out.take(SAID_BYTES_MAX).read_to_end(&mut text));
        let also = err.map(|err| err.take(4096).read_to_end(&mut why));
        let failed = [read, also].into_iter().flatten().any(|read| read.is_err());
        // Nobody waits for it any more where it was too late.
        let _ = told.send((!failed).then_some((text, why)));
    });
    let heard = heard.recv_timeout(within);
    // Whatever it does still, it is over; of one that has ended nothing is left but its status.
    let _ = child.kill();
    let _ = child.wait();
    let Ok(Some((text, why))) = heard else {
        return Err(format!("{program} did not answer within {} s", within.as_secs()));
    };
    let [text, why] = [text, why].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    if !text.is_empty() {
        return Ok(text);
    }
    // The last line says what it ended with.
    let why = why.lines().last().unwrap_or("it said nothing");
    Err(format!("{program}: {}", why.trim_start_matches(&format!("{program}: "))))
}

/// Each controller, as `Slurmctld(primary) at HOST is UP`.
fn controllers(text: &str) -> Vec<Part> {
    let known: Vec<Part> = text
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("Slurmctld("))
        .map(|line| ("slurm", if line.ends_with(" is UP") { "ok" } else { "not ok" }, line.to_owned()))
        .collect();
    if known.is_empty() { vec![("slurm", "unknown", format!("scontrol: {text}"))] } else { known }
}

/// Nodes by their state; a node has a line for each partition that it is in.
fn nodes(text: &str) -> Part {
    let each: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.trim().split_once(' ')).collect();
    let mut by_state: BTreeMap<&str, usize> = BTreeMap::new();
    for state in each.values() {
        *by_state.entry(state).or_default() += 1;
    }
    // A star is of a node that does not respond.
    let good = |state: &&str| !state.contains('*') && !DOWN.iter().any(|down| state.starts_with(down));
    let state = match by_state.keys().all(good) {
        _ if each.is_empty() => "unknown",
        true => "ok",
        false => "not ok",
    };
    let counts: Vec<String> = by_state.iter().map(|(state, count)| format!("{count} {state}")).collect();
    ("slurm nodes", state, if counts.is_empty() { "there are none".to_owned() } else { counts.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_what_they_say_and_what_is_no_answer_is_unknown() {
        let text = "Slurmctld(primary) at head1 is DOWN\nSlurmctld(backup) at head2 is UP\n*****\n";
        let states: Vec<&str> = controllers(text).into_iter().map(|(_, state, _)| state).collect();
        assert_eq!(states, ["not ok", "ok"]);
        assert_eq!(controllers("what?")[0].1, "unknown");
    }

    #[test]
    fn a_node_of_two_partitions_counts_once_and_one_that_does_not_respond_is_not_ok() {
        let part = nodes("n1 idle\nn1 idle\nn2 mixed\nn3 drained\n");
        assert_eq!(part, ("slurm nodes", "ok", "1 drained, 1 idle, 1 mixed".to_owned()));
        for text in ["n1 idle\nn2 down*", "n1 idle*", "n1 failing"] {
            assert_eq!(nodes(text).1, "not ok", "{text}");
        }
        assert_eq!(nodes("").1, "unknown");
    }

    #[test]
    fn a_command_that_is_not_there_hangs_or_fails_says_why_and_holds_nobody_up() {
        let within = Duration::from_millis(300);
        assert!(
            said("no-such-command-of-slurm", &[], within).unwrap_err().contains("is not on this machine")
        );
        assert!(said("sleep", &["60"], within).unwrap_err().contains("did not answer"));
        assert_eq!(said("sh", &["-c", "echo no >&2; exit 1"], within * 20), Err("sh: no".to_owned()));
        assert_eq!(said("sh", &["-c", "echo yes"], within * 20), Ok("yes".to_owned()));
    }
}
