//! What a traced process did to its folder, operation by operation, and the marks that were put between them.
//!
//! The format is `tests/disk-trace/src/record.rs`. Files are told apart by number, not by inode: a system may give
//! the inode of a removed file to the next one.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use harness::binaries::Binaries;

/// Kind of a mark in the log; those below 128 are the tracer's.
const MARK: u8 = 128;
const HEAD_BYTES: usize = 33;

/// A file or folder, through renames.
pub(crate) type FileId = usize;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Make {
        path: String,
        file: FileId,
    },
    Write {
        file: FileId,
        at: usize,
        data: Vec<u8>,
    },
    Truncate {
        file: FileId,
        length: usize,
    },
    Sync {
        file: FileId,
    },
    /// Starts or awaits writing, and promises nothing: disks have caches, and lengths are not among it.
    SyncRange,
    Rename {
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
    Mkdir {
        path: String,
    },
    Rmdir {
        path: String,
    },
    Fault,
    Mark(String),
}

/// Where a traced process works, and where its log and its faults are.
#[derive(Debug, Clone)]
pub(crate) struct Traced {
    /// What is watched; everything else of `dir` is not.
    pub(crate) folder: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) fault: PathBuf,
}

impl Traced {
    pub(crate) fn new(dir: &Path) -> anyhow::Result<Self> {
        let traced = Self::again(&dir.canonicalize()?);
        std::fs::create_dir(&traced.folder)?;
        std::fs::write(&traced.log, [])?;
        Ok(traced)
    }

    /// Another folder is watched.
    pub(crate) fn of_folder(folder: PathBuf, dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        Ok(Self { folder: folder.canonicalize()?, ..Self::new(dir)? })
    }

    /// The one that was made in `dir`.
    pub(crate) fn again(dir: &Path) -> Self {
        Self { folder: dir.join("traced"), log: dir.join("trace"), fault: dir.join("fault") }
    }

    /// The environment that has a process traced.
    pub(crate) fn environment(&self) -> anyhow::Result<Vec<(String, PathBuf)>> {
        let library = Binaries::find()?.nvml.with_file_name("libdisk_trace.so");
        if !library.is_file() {
            bail!("{} is missing: run `cargo build --workspace` first", library.display());
        }
        let named = |name: &str, path: &Path| (name.to_owned(), path.to_owned());
        Ok(vec![
            named("LD_PRELOAD", &library),
            named("DISK_TRACE_FOLDER", &self.folder),
            named("DISK_TRACE_LOG", &self.log),
            named("DISK_TRACE_FAULT", &self.fault),
        ])
    }

    pub(crate) fn command(&self, program: &Path) -> anyhow::Result<Command> {
        let mut command = Command::new(program);
        // What it says last is looked at: a backtrace would stand there instead.
        command.envs(self.environment()?).env("RUST_BACKTRACE", "0");
        Ok(command)
    }

    /// `CLASS SKIP ERRNO TIMES [short]`; see `tests/disk-trace/src/tracer.rs`.
    pub(crate) fn set_fault(&self, line: &str) -> anyhow::Result<()> {
        let new = self.fault.with_extension("new");
        std::fs::write(&new, line)?;
        Ok(std::fs::rename(new, &self.fault)?)
    }

    pub(crate) fn lift_fault(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(&self.fault)?)
    }

    pub(crate) fn ops(&self) -> anyhow::Result<Vec<Op>> {
        parse(&std::fs::read(&self.log)?, &self.folder)
    }
}

/// Puts a mark at the log's end: everything that is done before this is called stands in front of it.
pub(crate) fn mark(log: &Path, text: &str) -> anyhow::Result<()> {
    let mut record = vec![MARK];
    for field in [0, 0, text.len() as u64, 0] {
        record.extend_from_slice(&field.to_le_bytes());
    }
    record.extend_from_slice(text.as_bytes());
    // One write to a file that is appended to is whole, whoever else appends.
    Ok(OpenOptions::new().append(true).open(log)?.write_all(&record)?)
}

fn parse(mut log: &[u8], folder: &Path) -> anyhow::Result<Vec<Op>> {
    let mut ops = Vec::new();
    let mut files: BTreeMap<u64, FileId> = BTreeMap::new();
    let mut next = 0;
    let path = |bytes: &[u8]| -> anyhow::Result<String> {
        let path = Path::new(std::str::from_utf8(bytes)?).strip_prefix(folder)?;
        Ok(path.to_str().context("a path is no text")?.to_owned())
    };
    while !log.is_empty() {
        let head = log.get(..HEAD_BYTES).context("the log ends within a record")?;
        let field = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (kind, inode, number) = (head[0], field(1), usize::try_from(field(9))?);
        let middle = HEAD_BYTES + usize::try_from(field(17))?;
        let end = middle + usize::try_from(field(25))?;
        let body = log.get(HEAD_BYTES..end).context("the log ends within a record")?;
        let (a, b) = body.split_at(middle - HEAD_BYTES);
        log = &log[end..];
        let known = || files.get(&inode).copied().context("a file that was never opened");
        ops.push(match kind {
            1 if number == 1 || !files.contains_key(&inode) => {
                files.insert(inode, next);
                next += 1;
                if number == 0 {
                    continue;
                }
                Op::Make { path: path(a)?, file: next - 1 }
            }
            1 => continue,
            2 => Op::Write { file: known()?, at: number, data: a.to_vec() },
            3 => Op::Truncate { file: known()?, length: number },
            4 => Op::Sync { file: known()? },
            5 => Op::SyncRange,
            6 => Op::Rename { from: path(a)?, to: path(b)? },
            7 => Op::Unlink { path: path(a)? },
            8 => Op::Mkdir { path: path(a)? },
            9 => Op::Rmdir { path: path(a)? },
            10 => Op::Fault,
            MARK => Op::Mark(std::str::from_utf8(a)?.to_owned()),
            other => bail!("a record of kind {other}"),
        });
    }
    Ok(ops)
}
