//! Prolog and Epilog by themselves: whatever the environment is, they exit with 0, and write a whole file or none.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use harness::tmpfs::Tmpfs;
use tonnage_runtime::clock::Clock;

use super::{Noted, S, noted, number};

const GOOD: [(&str, &str); 7] = [
    ("SLURM_JOB_ID", "42"),
    ("SLURM_JOB_GPUS", "0,2"),
    ("SLURM_JOB_UID", "1000"),
    ("SLURM_JOB_USER", "ada"),
    ("SLURM_JOB_ACCOUNT", "ml"),
    ("SLURM_JOB_PARTITION", "gpu"),
    ("SLURMD_NODENAME", "n1"),
];

fn hook(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/slurm").join(name)
}

/// Runs a hook as slurmd does: with nothing in its environment but this.
fn run(hook: &Path, jobs: &Path, environment: &[(&str, &str)]) -> anyhow::Result<Output> {
    let mut command = Command::new(hook);
    command.env_clear().env("TONNAGE_JOBS_DIR", jobs).envs(environment.iter().copied());
    let output = command.stdin(Stdio::null()).output()?;
    assert_eq!(output.status.code(), Some(0), "{environment:?}: {output:?}");
    Ok(output)
}

fn prolog(jobs: &Path, environment: &[(&str, &str)]) -> anyhow::Result<String> {
    Ok(String::from_utf8_lossy(&run(&hook("prolog.sh"), jobs, environment)?.stderr).into_owned())
}

fn epilog(jobs: &Path, id: &str) -> anyhow::Result<String> {
    let output = run(&hook("epilog.sh"), jobs, &[("SLURM_JOB_ID", id)])?;
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// `GOOD`, one variable changed.
fn with<'a>(key: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let rest = GOOD.into_iter().filter(|(known, _)| *known != key);
    rest.chain([(key, value)]).collect()
}

#[test]
fn a_job_is_noted_with_its_start_and_then_with_its_end() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let jobs = dir.path().join("made/jobs");
    let before_ns = Clock::system().read().wall_ns;
    assert_eq!(prolog(&jobs, &GOOD)?, "");
    let begun = noted(&jobs, 42).unwrap();
    let start_ns = number(&begun, "start_ns")?;
    assert!((before_ns..=Clock::system().read().wall_ns).contains(&start_ns));
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let fields = ["version", "job_id", "boot_id", "uid", "user", "account", "partition", "node", "gpus"];
    let values = ["1", "42", boot_id.trim(), "1000", "ada", "ml", "gpu", "n1", "0,2"];
    let given: Noted = fields.into_iter().zip(values).map(|(f, v)| (f.to_owned(), v.to_owned())).collect();
    assert_eq!(
        Noted::from_iter(begun.clone().into_iter().filter(|(key, _)| !key.starts_with("start_"))),
        given
    );
    let modes =
        [&jobs, &jobs.join("42")].map(|path| fs::metadata(path).unwrap().permissions().mode() & 0o7777);
    assert_eq!(modes, [0o755, 0o644]);

    assert_eq!(epilog(&jobs, "42")?, "");
    let mut ended = noted(&jobs, 42).unwrap();
    assert!(number(&ended, "end_ns")? >= start_ns);
    ended.remove("end_ns");
    // Both count hundredths of the same clock.
    let uptime_s = |noted: &Noted, key: &str| noted[key].parse::<f64>().unwrap();
    assert!(uptime_s(&ended, "end_boot_s") >= uptime_s(&begun, "start_boot_s"));
    ended.remove("end_boot_s");
    assert_eq!(ended, begun);
    assert_eq!(fs::read_dir(&jobs)?.count(), 1, "a temporary file was left");
    Ok(())
}

#[test]
fn a_job_without_a_gpu_is_not_noted() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let jobs = dir.path().join("jobs");
    prolog(&jobs, &with("SLURM_JOB_GPUS", ""))?;
    assert!(!jobs.exists());
    epilog(&jobs, "42")?;
    fs::create_dir(&jobs)?;
    epilog(&jobs, "42")?;
    assert_eq!(fs::read_dir(&jobs)?.count(), 0);
    Ok(())
}

#[test]
fn hostile_values_write_no_lines_and_no_other_files() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let jobs = dir.path().join("jobs");
    let long = "x".repeat(100_000);
    for id in ["", "../../etc/x", "4\n2", "-1", "$(id)", "*", &long] {
        assert!(prolog(&jobs, &with("SLURM_JOB_ID", id))?.contains("SLURM_JOB_ID"), "{id}");
        fs::create_dir_all(&jobs)?;
        assert!(epilog(&jobs, id)?.contains("SLURM_JOB_ID"), "{id}");
    }
    for gpus in ["0\nuser=eve", "0 1", "`id`", "all", &"0,".repeat(1_000)] {
        assert!(prolog(&jobs, &with("SLURM_JOB_GPUS", gpus))?.contains("SLURM_JOB_GPUS"), "{gpus}");
    }
    assert_eq!(fs::read_dir(&jobs)?.count(), 0);
    for (key, field) in [("SLURM_JOB_ACCOUNT", "account"), ("SLURM_JOB_USER", "user")] {
        for value in ["a\nend_ns=1", "a\u{1b}[2J", &long] {
            assert!(prolog(&jobs, &with(key, value))?.contains(field));
            let noted = noted(&jobs, 42).unwrap();
            assert!(!noted.contains_key(field) && !noted.contains_key("end_ns"), "{noted:?}");
        }
    }
    let odd = "ä \\n %s $(id) \"'*";
    prolog(&jobs, &with("SLURM_JOB_ACCOUNT", odd))?;
    assert_eq!(noted(&jobs, 42).unwrap()["account"], odd);
    // Whatever hooks are given besides: their own variables are not to be set from outside.
    let inherited = [("user", "eve"), ("start_ns", "1"), ("text", "x"), ("boot_id", "x"), ("IFS", "0")];
    prolog(&jobs, &[&with("SLURM_JOB_USER", "")[..], &inherited].concat())?;
    let noted = noted(&jobs, 42).unwrap();
    assert!(!noted.contains_key("user") && noted["start_ns"] != "1" && noted["boot_id"] != "x", "{noted:?}");
    Ok(())
}

#[test]
fn a_folder_that_cannot_be_written_fails_no_node() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("file"), "")?;
    for jobs in [Path::new("/proc/jobs"), &dir.path().join("file"), &dir.path().join("file/jobs")] {
        assert!(prolog(jobs, &GOOD)?.contains("cannot be written"), "{jobs:?}");
        epilog(jobs, "42")?;
    }
    // A folder stands where the file should be.
    let jobs = dir.path().join("jobs");
    fs::create_dir_all(jobs.join("42/x"))?;
    assert!(prolog(&jobs, &GOOD)?.contains("cannot be written"));
    epilog(&jobs, "42")?;
    Ok(())
}

#[test]
fn a_full_disk_leaves_no_half_file() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(disk) = Tmpfs::mount(dir.path(), "size=64k") else { return Ok(()) };
    prolog(dir.path(), &GOOD)?;
    let before = fs::read(dir.path().join("42"))?;
    disk.fill()?;
    assert!(prolog(dir.path(), &with("SLURM_JOB_ID", "43"))?.contains("cannot be written"));
    assert!(epilog(dir.path(), "42")?.contains("its end is not noted"));
    assert_eq!(fs::read(dir.path().join("42"))?, before);
    assert!(!dir.path().join("43").exists() && !dir.path().join(".43").exists());
    disk.free()?;
    epilog(dir.path(), "42")?;
    assert!(noted(dir.path(), 42).unwrap().contains_key("end_ns"));
    Ok(())
}

#[test]
fn without_any_program_or_any_open_file_the_hooks_still_exit_with_0() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let jobs = dir.path().join("jobs");
    fs::create_dir(&jobs)?;
    fs::write(jobs.join("42"), "version=1\n")?;
    for name in ["prolog.sh", "epilog.sh"] {
        let text = fs::read_to_string(hook(name))?;
        let bare = dir.path().join(name);
        fs::write(&bare, text.replace("PATH=/usr/local/bin:", "PATH=/nowhere # "))?;
        fs::set_permissions(&bare, fs::Permissions::from_mode(0o755))?;
        let output = run(&bare, &jobs, &GOOD)?;
        assert!(String::from_utf8_lossy(&output.stderr).contains("date"), "{output:?}");
        let closed = "exec \"$0\" <&- >&- 2>&-";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", closed]).arg(hook(name)).env_clear().envs(GOOD).env("TONNAGE_JOBS_DIR", &jobs);
        assert_eq!(command.status()?.code(), Some(0), "{name}");
    }
    assert!(noted(&jobs, 42).unwrap().contains_key("end_ns"));
    Ok(())
}

#[test]
fn files_of_jobs_that_ended_long_ago_are_removed_and_no_others() -> anyhow::Result<()> {
    let jobs = tempfile::tempdir()?;
    let jobs = jobs.path();
    let now_ns = Clock::system().read().wall_ns;
    let write = |name: &str, text: String| fs::write(jobs.join(name), text);
    write("1", format!("end_ns={}\nversion=1\n", now_ns - 700 * S))?;
    write("2", format!("end_ns={}\nversion=1\n", now_ns - 500 * S))?;
    write("3", "version=1\n".to_owned())?;
    write("4", "end_ns=junk\n".to_owned())?;
    write("5", "\0\0\0".to_owned())?;
    write("notes", "end_ns=1000000000000\n".to_owned())?;
    fs::create_dir(jobs.join("6"))?;
    epilog(jobs, "99")?;
    let left = |name: &&str| jobs.join(name).exists();
    let names = ["1", "2", "3", "4", "5", "6", "notes"];
    assert_eq!(names.iter().filter(|name| left(name)).count(), names.len() - 1);
    assert!(!jobs.join("1").exists());
    // However many there are, they go.
    for id in 100..1_000 {
        write(&id.to_string(), format!("end_ns={}\n", now_ns - 700 * S))?;
    }
    epilog(jobs, "99")?;
    epilog(jobs, "99")?;
    assert_eq!(fs::read_dir(jobs)?.count(), names.len() - 1);
    Ok(())
}

/// Printed, not asserted: it is this machine's.
#[test]
fn a_hook_takes_some_milliseconds() -> anyhow::Result<()> {
    let jobs = tempfile::tempdir()?;
    let clock = Clock::system();
    let median_us = |mut command: Command| -> anyhow::Result<i64> {
        command.env_clear().envs(GOOD).env("TONNAGE_JOBS_DIR", jobs.path());
        let mut took_us = Vec::new();
        for _ in 0..50 {
            let before_ns = clock.monotonic_ns();
            anyhow::ensure!(command.status()?.success());
            took_us.push((clock.monotonic_ns() - before_ns) / 1_000);
        }
        took_us.sort_unstable();
        Ok(took_us[25])
    };
    let mut nothing = Command::new("/bin/sh");
    nothing.args(["-c", ":"]);
    let nothing_us = median_us(nothing)?;
    let prolog_us = median_us(Command::new(hook("prolog.sh")))?;
    let epilog_us = median_us(Command::new(hook("epilog.sh")))?;
    println!("median of 50: prolog {prolog_us} us, epilog {epilog_us} us, sh -c : {nothing_us} us");
    Ok(())
}
