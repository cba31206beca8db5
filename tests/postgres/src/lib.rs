//! A real PostgreSQL on loopback, from Debian's package: started, killed, started again, and gone with whoever started
//! it.
//!
//! It runs as the user `postgres` where root starts it, since it refuses root. Its files are those of a temporary folder.
//! It ends with the thread that started it, however that ends; what a process left behind that was killed goes with
//! the next start.

mod port;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

pub use port::free_port;

const PREFIX: &str = "tonnage-postgres-";
/// Whose files and process they are, where root may not be.
const USER: &str = "postgres";
/// How often a start is tried, and looked at.
const ATTEMPTS_MAX: u32 = 100;
const POLL: std::time::Duration = std::time::Duration::from_millis(50);
/// What a server of tests is told beyond its defaults.
const SETTINGS: [&str; 6] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=200",
    "shared_buffers=64MB",
    "autovacuum_naptime=10s",
    "log_min_messages=warning",
];

/// A server with its own folder. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    programs: PathBuf,
    folder: tempfile::TempDir,
    port: u16,
    settings: Vec<String>,
    running: Mutex<Option<Child>>,
    databases: AtomicU32,
}

/// Where PostgreSQL's own programs are; `None` if it is not installed.
#[must_use]
pub fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    found.retain(|bin| bin.join("initdb").exists());
    found.sort();
    found.pop()
}

impl Server {
    /// Starts a server with these `key=value` besides its own.
    ///
    /// # Errors
    /// If PostgreSQL is not installed, or does not start.
    pub fn start(settings: &[&str]) -> anyhow::Result<Self> {
        Self::start_with(settings, &[])
    }

    /// The same with these files in its folder, each by its name with what is in it; `pg_hba.conf` is one that it has.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_with(settings: &[&str], files: &[(&str, &str)]) -> anyhow::Result<Self> {
        let programs = programs().context("PostgreSQL is not installed: apt-get install postgresql")?;
        remove_leftovers();
        let folder =
            tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir()?;
        if rustix::process::getuid().is_root() {
            run(Command::new("chown").arg(USER).arg(folder.path()))?;
        }
        let port = free_port()?;
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let server = Self {
            programs,
            folder,
            port,
            settings,
            running: Mutex::default(),
            databases: AtomicU32::new(0),
        };
        let mut initdb = server.as_user("initdb");
        initdb.args(["--auth=trust", "--username=postgres", "--no-locale", "--encoding=UTF8", "--no-sync"]);
        run(initdb.arg("-D").arg(server.data()))?;
        for (name, text) in files {
            let path = server.data().join(name);
            std::fs::write(&path, text)?;
            // It takes no key that others may read.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            if rustix::process::getuid().is_root() {
                run(Command::new("chown").arg(USER).arg(&path))?;
            }
        }
        server.run()?;
        Ok(server)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A program of PostgreSQL, as a user that may run it, interrupted when the thread is gone that starts it.
    fn as_user(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "INT"]);
        if rustix::process::getuid().is_root() {
            command.args(["--reuid", USER, "--regid", USER, "--clear-groups"]);
        }
        command.arg(self.programs.join(program)).current_dir("/");
        command
    }

    /// Starts it again, on the same port and files, and waits until it answers.
    ///
    /// # Errors
    /// If it does not start.
    pub fn run(&self) -> anyhow::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(running.is_none(), "PostgreSQL runs already");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut server = self.as_user("postgres");
        server.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string());
        for setting in SETTINGS.into_iter().map(str::to_owned).chain(self.settings.iter().cloned()) {
            server.args(["-c", &setting]);
        }
        server.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = server.spawn().context("cannot start postgres")?;
        let mut attempts = 0;
        loop {
            let ready = Command::new(self.programs.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()])
                .status()?;
            if ready.success() {
                break;
            }
            if let Some(status) = child.try_wait()? {
                // Backends of a postmaster that was killed hold its memory until they have noticed.
                attempts += 1;
                if attempts == ATTEMPTS_MAX {
                    bail!("postgres ended with {status}: {}", std::fs::read_to_string(self.log())?);
                }
                child = server.spawn().context("cannot start postgres")?;
            }
            std::thread::sleep(POLL);
        }
        *running = Some(child);
        Ok(())
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// SIGKILL to the postmaster: its backends notice and end, and what it promised must still be there.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub fn kill9(&self) -> anyhow::Result<()> {
        self.end(Signal::KILL)
    }

    /// Stops it at once, cutting its connections.
    ///
    /// # Errors
    /// If it cannot be stopped.
    pub fn stop(&self) -> anyhow::Result<()> {
        self.end(Signal::INT)
    }

    fn end(&self, signal: Signal) -> anyhow::Result<()> {
        // Who is frozen hears nothing else.
        self.each(Signal::CONT)?;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut child) = running.take() else { return Ok(()) };
        kill_process(pid_of(child.id())?, signal)?;
        child.wait()?;
        Ok(())
    }

    /// Freezes it: connections stay, new ones are made by the kernel, and nobody ever answers.
    ///
    /// # Errors
    /// If a process of it cannot be stopped.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.each(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// If a process of it cannot go on.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.each(Signal::CONT)
    }

    /// To the postmaster and then to those that it started, so that none is started in between.
    fn each(&self, signal: Signal) -> anyhow::Result<()> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(child) = running.as_ref() else { return Ok(()) };
        let id = child.id();
        kill_process(pid_of(id)?, signal)?;
        for child in children_of(id) {
            // One that has ended since is gone.
            let _ = kill_process(pid_of(child)?, signal);
        }
        Ok(())
    }

    /// Copies its files, which do not change meanwhile, under a name; it must not run.
    ///
    /// # Errors
    /// If it runs, or there is no room.
    pub fn keep(&self, name: &str) -> anyhow::Result<()> {
        self.replace(&self.folder.path().join(name), &self.data())
    }

    /// Puts a copy in the place of its files; it must not run.
    ///
    /// # Errors
    /// If it runs, or there is no such copy.
    pub fn go_back(&self, name: &str) -> anyhow::Result<()> {
        self.replace(&self.data(), &self.folder.path().join(name))
    }

    fn replace(&self, to: &Path, from: &Path) -> anyhow::Result<()> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(running.is_none(), "PostgreSQL runs");
        ensure!(from.exists(), "{} is not there", from.display());
        run(Command::new("rm").arg("-rf").arg(to))?;
        run(Command::new("cp").arg("-a").arg(from).arg(to))?;
        Ok(())
    }

    /// Copies a database into a new one by `pg_dump`, and gives its URL.
    ///
    /// # Errors
    /// If either fails.
    pub fn dumped(&self, url: &str) -> anyhow::Result<String> {
        let dump = self.folder.path().join("dump.sql");
        run(Command::new(self.programs.join("pg_dump")).arg(url).arg("-f").arg(&dump))?;
        let copy = self.database()?;
        let mut psql = Command::new(self.programs.join("psql"));
        run(psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", &copy, "-f"]).arg(&dump))?;
        Ok(copy)
    }

    /// Makes a database, and gives its URL.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn database(&self) -> anyhow::Result<String> {
        let name = format!("ledger{}", self.databases.fetch_add(1, Ordering::Relaxed));
        run(Command::new(self.programs.join("createdb")).args([
            "-h",
            "127.0.0.1",
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "-T",
            "template0",
            &name,
        ]))?;
        Ok(format!("postgres://postgres@127.0.0.1:{}/{name}", self.port))
    }

    /// Runs SQL in a database by `psql`, and gives what it prints.
    ///
    /// # Errors
    /// If a statement fails.
    pub fn sql(&self, url: &str, sql: &str) -> anyhow::Result<String> {
        let output = run(Command::new(self.programs.join("psql")).args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            url,
            "-c",
            sql,
        ]))?;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a file of statements in a database by `psql`.
    ///
    /// # Errors
    /// If a statement fails.
    pub fn run_file(&self, url: &str, file: &Path) -> anyhow::Result<()> {
        let mut psql = Command::new(self.programs.join("psql"));
        run(psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", url, "-f"]).arg(file)).map(drop)
    }

    /// A folder that a copy of its files can be kept beside.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.end(Signal::INT));
    }
}

fn pid_of(id: u32) -> anyhow::Result<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw).context("a pid")
}

/// By each process's own word: the kernel's list of children may leave some out while others end.
fn children_of(id: u32) -> Vec<u32> {
    let ids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|child| {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        // Behind the name, which may have anything in it, come the state and the parent.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        parent == Some(id)
    })
    .collect()
}

fn remove_leftovers() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<Output> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}
