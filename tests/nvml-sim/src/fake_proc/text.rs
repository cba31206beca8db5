//! The kernel's text formats, with every field that parsers insist on.

use tonnage_runtime::clock::Reading;

use crate::scenario::Process;

/// `/proc/<pid>/stat`: 52 fields, of which pid, name and start (22) mean something.
pub(super) fn stat(process: &Process, start_ticks: i64) -> String {
    let (pid, comm) = (process.pid, &process.comm);
    // 4 parent, 5 group, 6 session, 7 to 17 zeros, 18 priority, 19 nice, 20 threads, 21 zero; after the start
    // 30 zeros make it 52.
    let zeros = |count: usize| vec!["0"; count].join(" ");
    format!("{pid} ({comm}) S 1 {pid} {pid} {} 20 0 1 0 {start_ticks} {}\n", zeros(11), zeros(30))
}

/// `/proc/<pid>/status`.
pub(super) fn status(process: &Process) -> String {
    let (pid, uid, comm) = (process.pid, process.uid, &process.comm);
    let ids = format!("{uid}\t{uid}\t{uid}\t{uid}");
    let mut text = format!(
        "Name:\t{comm}\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t{pid}\nNgid:\t0\nPid:\t{pid}\nPPid:\t1\n\
         TracerPid:\t0\nUid:\t{ids}\nGid:\t{ids}\nFDSize:\t64\nGroups:\t\nNSpid:\t{pid}\nThreads:\t1\nSigQ:\t0/1024\n"
    );
    for set in ["SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff"] {
        text.push_str(set);
        text.push_str(":\t0000000000000000\n");
    }
    text
}

/// `/proc/stat`: the boot time only.
pub(super) fn machine_stat(now: Reading) -> String {
    format!("cpu  0 0 0 0 0 0 0 0 0 0\nbtime {}\nprocesses 1\n", (now.wall_ns - now.boot_ns) / 1_000_000_000)
}

/// `/proc/uptime`.
pub(super) fn uptime(now: Reading) -> String {
    let hundredths = now.boot_ns / 10_000_000;
    format!("{}.{:02} 0.00\n", hundredths / 100, hundredths % 100)
}
