//! What Slurm has: every job that slurmctld knows, by `squeue`. A process is started here, which the plugin within slurmctld never may.
//!
//! An answer counts whole or not at all: what fails, is late, or has a line that cannot be read, is no answer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::mark::Mark;
use super::plan::Job;

/// Bytes of an answer: some 100,000 jobs.
const ANSWER_BYTES_MAX: u64 = 128 << 20;
/// What is asked of each job, the comment at the end, wide enough for any: releases of Slurm write that field's name in one of these ways.
const FORMATS: [&str; 2] = [
    "JobID:20,ArrayJobID:20,State:24,admin_comment:2048",
    "JobID:20,ArrayJobID:20,State:24,AdminComment:2048",
];
/// In any other state it may still run, or run again.
const ENDED: [&str; 10] = [
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
];

/// Where it is.
#[derive(Debug, Clone)]
pub struct Slurm {
    pub squeue: PathBuf,
    /// `None`: where Slurm looks by itself.
    pub conf: Option<PathBuf>,
    pub within: Duration,
}

/// Slurm gave no answer that counts.
#[derive(Debug, thiserror::Error)]
pub enum SlurmError {
    #[error("{program} cannot be run")]
    Run {
        program: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("it did not end within {0:?}")]
    Slow(Duration),
    #[error("it ended with {status}: {said}")]
    Failed { status: std::process::ExitStatus, said: String },
    #[error("it said {line:?}, which is no such line")]
    Line { line: String },
    #[error("its answer has over {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
}

impl Slurm {
    /// Every job that slurmctld knows, also those that ended a short time ago.
    ///
    /// # Errors
    /// If there is no whole answer.
    pub async fn jobs(&self) -> Result<Vec<Job>, SlurmError> {
        let [first, second] = FORMATS;
        match self.ask(first).await {
            Err(SlurmError::Failed { said, .. }) if said.contains("format") => self.ask(second).await,
            answer => answer,
        }
    }

    async fn ask(&self, format: &str) -> Result<Vec<Job>, SlurmError> {
        let format = format!("--Format={format}");
        jobs(&self.run(&self.squeue, &["--noheader", "--all", "--states=all", "--local", &format]).await?)
    }

    /// What one of Slurm's programs says.
    ///
    /// # Errors
    /// If it does not end well, in time, or complains.
    pub async fn run(&self, program: &Path, args: &[&str]) -> Result<String, SlurmError> {
        let mut command = Command::new(program);
        command.args(args);
        if let Some(conf) = &self.conf {
            command.env("SLURM_CONF", conf);
        }
        // Times as Unix seconds, whatever the zone.
        command.env("SLURM_TIME_FORMAT", "%s");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let answer = tokio::time::timeout(self.within, read(program, command));
        answer.await.unwrap_or(Err(SlurmError::Slow(self.within)))
    }
}

async fn read(program: &Path, mut command: Command) -> Result<String, SlurmError> {
    let run = |source| SlurmError::Run { program: program.to_owned(), source };
    let mut child = command.spawn().map_err(run)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut text, mut said) = (Vec::new(), Vec::new());
    let read = async {
        if let Some(stdout) = stdout {
            stdout.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut text).await?;
        }
        if let Some(stderr) = stderr {
            stderr.take(4096).read_to_end(&mut said).await?;
        }
        Ok(())
    };
    read.await.map_err(run)?;
    if text.len() as u64 > ANSWER_BYTES_MAX {
        return Err(SlurmError::TooLarge);
    }
    let status = child.wait().await.map_err(run)?;
    // It leaves out a column that it does not know, says so, and ends well.
    if !status.success() || !said.is_empty() {
        let said = String::from_utf8_lossy(&said).trim().chars().take(300).collect();
        return Err(SlurmError::Failed { status, said });
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Lines of `squeue`; tasks of an array are one job, that lives as long as one of them does.
fn jobs(text: &str) -> Result<Vec<Job>, SlurmError> {
    if !text.is_empty() && !text.ends_with('\n') {
        let end = text.lines().next_back().unwrap_or_default();
        return Err(SlurmError::Line { line: end.chars().take(120).collect() });
    }
    let mut jobs: BTreeMap<String, Job> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let shown = || SlurmError::Line { line: line.chars().take(120).collect() };
        let mut words = line.split_whitespace();
        let (Some(id), Some(array), Some(state)) = (words.next(), words.next(), words.next()) else {
            return Err(shown());
        };
        let is_id = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        if !is_id(id) || !is_id(array) || !state.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        {
            return Err(shown());
        }
        let comment = words.collect::<Vec<_>>().join(" ");
        let lives = !ENDED.contains(&state);
        let job = jobs.entry(array.to_owned()).or_insert_with(|| Job {
            id: array.to_owned(),
            tasks: Vec::new(),
            lives,
            mark: None,
        });
        // What waits of an array, and its last task, have its own id.
        if id != array {
            job.tasks.push(id.to_owned());
        }
        job.lives |= lives;
        job.mark = job.mark.take().or_else(|| Mark::find(&comment));
    }
    Ok(jobs.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_of_an_array_are_one_job_that_lives_as_long_as_one_of_them() {
        let mark = "tonnage:held:0123456789abcdef:x";
        let text = format!(
            "7    7   RUNNING   {mark} and more\n10 9 COMPLETED {mark}\n9 9 PENDING {mark}\n11 11 COMPLETED (null)\n\
             12   12  COMPLETING \n13 13 CANCELLED\n14 14 REQUEUE_HOLD\n"
        );
        let jobs = jobs(&text).unwrap();
        let seen: Vec<_> = jobs.iter().map(|job| (job.id.as_str(), job.lives, job.mark.is_some())).collect();
        let expected = [
            ("11", false, false),
            ("12", true, false),
            ("13", false, false),
            ("14", true, false),
            ("7", true, true),
            ("9", true, true),
        ];
        assert_eq!(seen, expected);
        let tasks: Vec<_> = jobs.iter().filter(|job| !job.tasks.is_empty()).map(|job| &job.tasks).collect();
        assert_eq!(tasks, [&vec!["10".to_owned()]]);
    }

    #[test]
    fn an_answer_with_a_line_that_is_no_job_is_no_answer() {
        for text in [
            "7 7 RUNNING x\nslurm_load_jobs error: Unable to contact\n",
            "7\n",
            "7 7\n",
            "7 a RUNNING\n",
            "7 7 running\n",
            "7 7 RUNNING\n8 8 COMPLETED",
        ] {
            assert!(jobs(text).is_err(), "{text}");
        }
        assert!(jobs("").unwrap().is_empty());
    }

    fn slurm(script: &str, within: Duration) -> (tempfile::TempDir, Slurm) {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let squeue = folder.path().join("squeue");
        std::fs::write(&squeue, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&squeue, std::fs::Permissions::from_mode(0o755)).unwrap();
        (folder, Slurm { squeue, conf: None, within })
    }

    #[tokio::test]
    async fn a_squeue_that_fails_or_hangs_is_no_answer() {
        let long = Duration::from_secs(20);
        let (_folder, good) = slurm("echo 7 7 RUNNING", long);
        assert_eq!(good.jobs().await.unwrap().len(), 1);
        let (_folder, failed) = slurm("echo 7 7 RUNNING; echo no >&2; exit 1", long);
        assert!(failed.jobs().await.unwrap_err().to_string().contains("no"));
        let (_folder, half) = slurm("echo 7 7 RUNNING; echo unknown column >&2", long);
        assert!(half.jobs().await.unwrap_err().to_string().contains("unknown column"));
        let other = r#"case "$5" in *admin_comment*) echo Invalid job format >&2 ;; esac; echo 7 7 RUNNING"#;
        let (_folder, other) = slurm(other, long);
        assert_eq!(other.jobs().await.unwrap().len(), 1, "a release that has the other name");
        let (_folder, hangs) = slurm("exec sleep 60", Duration::from_millis(50));
        assert!(matches!(hangs.jobs().await, Err(SlurmError::Slow(_))));
    }
}
