use super::*;
use crate::scenario::Scenario;

const S: i64 = 1_000_000_000;
const TEXT: &str = "epoch_ns = 0\n\
    [[process]]\npid = 42\nstart_s = 5.017\nend_s = 7\nrepeat_s = 10\ncgroup = ['0::/a', '1:b:/c']\nuid = 1001\n\
    comm = 'python3 (x)'\n";

fn at(wall_ns: i64) -> Reading {
    Reading { wall_ns, monotonic_ns: wall_ns, boot_ns: wall_ns + 100 * S }
}

fn setup() -> (tempfile::TempDir, Story) {
    (tempfile::tempdir().unwrap(), Story::new(Scenario::parse(TEXT).unwrap(), 0))
}

fn process(dir: &Path) -> procfs::process::Process {
    procfs::process::Process::new_with_root(dir.join("42")).unwrap()
}

#[test]
fn procfs_reads_what_was_written() {
    let (dir, story) = setup();
    let mut proc = FakeProc::open(dir.path(), "boot-1", at(6 * S)).unwrap();
    proc.sync(&story, at(6 * S)).unwrap();
    let stat = process(dir.path()).stat().unwrap();
    assert_eq!((stat.pid, stat.comm.as_str(), stat.starttime), (42, "python3 (x)", 10_501));
    let fields = fs::read_to_string(dir.path().join("42/stat")).unwrap().replace("(python3 (x))", "x");
    assert_eq!(fields.split_whitespace().count(), 52);
    let status = process(dir.path()).status().unwrap();
    assert_eq!((status.pid, status.ruid, status.name.as_str()), (42, 1001, "python3 (x)"));
    assert_eq!(fs::read_to_string(dir.path().join("42/cgroup")).unwrap(), "0::/a\n1:b:/c\n");
    assert_eq!(fs::read_to_string(dir.path().join("sys/kernel/random/boot_id")).unwrap(), "boot-1\n");
}

#[test]
fn the_ended_are_removed_and_a_pid_that_comes_again_has_a_new_start() {
    let (dir, story) = setup();
    let mut proc = FakeProc::open(dir.path(), "boot-1", at(6 * S)).unwrap();
    proc.sync(&story, at(6 * S)).unwrap();
    proc.sync(&story, at(7 * S - 1)).unwrap();
    assert!(dir.path().join("42").exists());
    proc.sync(&story, at(7 * S)).unwrap();
    assert!(!dir.path().join("42").exists());
    proc.sync(&story, at(16 * S)).unwrap();
    assert_eq!(process(dir.path()).stat().unwrap().starttime, 11_501);
}

#[test]
fn a_pid_used_again_between_two_looks_is_written_anew() {
    let (dir, story) = setup();
    let mut proc = FakeProc::open(dir.path(), "boot-1", at(6 * S)).unwrap();
    proc.sync(&story, at(6 * S)).unwrap();
    proc.sync(&story, at(16 * S)).unwrap();
    assert_eq!(process(dir.path()).stat().unwrap().starttime, 11_501);
}

#[test]
fn a_start_stays_as_it_was_through_a_restart_and_a_step_of_the_wall_clock() {
    let (dir, story) = setup();
    FakeProc::open(dir.path(), "boot-1", at(6 * S)).unwrap().sync(&story, at(6 * S)).unwrap();
    let stepped = Reading { boot_ns: 105 * S, ..at(6 * S) };
    FakeProc::open(dir.path(), "boot-1", stepped).unwrap().sync(&story, stepped).unwrap();
    assert_eq!(process(dir.path()).stat().unwrap().starttime, 10_501);
}

#[test]
fn what_died_while_nobody_looked_is_removed_by_the_next_driver() {
    let (dir, story) = setup();
    FakeProc::open(dir.path(), "boot-1", at(6 * S)).unwrap().sync(&story, at(6 * S)).unwrap();
    FakeProc::open(dir.path(), "boot-1", at(8 * S)).unwrap().sync(&story, at(8 * S)).unwrap();
    assert!(!dir.path().join("42").exists());
}
