//! Stands between a process and libc: what the process does to the files of one folder is passed on, and logged in
//! the order in which it happened; on request some of it fails instead. Loaded with `LD_PRELOAD`, Linux only.
//!
//! Flow: `hooks` (C in, C out) -> `tracer` (which files, one order, which call fails) -> `record` (bytes of the
//! log) -> `sys` (the system itself, without libc's names, which are ours here). `config` reads the environment.
//!
//! Constraints: files are known by inode, so that renamed and duplicated ones are followed. One lock is held over a
//! call and its record: the log's order is the disk's. Nothing here may open or write a file by std, which would
//! come back to `hooks`.
//!
//! Non-goals: calls that neither sled nor SQLite makes (`copy_file_range`, `renameat`, ...), and memory maps: SQLite
//! maps its `-shm` only, which a crash need not leave behind. Who replays a log compares its end with the folder, so
//! that a call which escapes is seen.

mod config;
mod hooks;
mod record;
mod sys;
mod tracer;
