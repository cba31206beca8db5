//! The agent and the real driver, on a GPU that works as it is told and measures itself.
//!
//! No simulated clock and no simulated driver: these cases take real seconds, one after the other. What is exact is
//! asserted to the sample; how far use is off is printed, and written to `gpu-report.txt` below cargo's target folder.
//! Without a GPU all of it is skipped, and said.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use gpu::{Done, Ready};
use harness::aggregator::Aggregator;
use harness::binaries::Binaries;
use harness::books::Books;
use harness::http::{Scrape, get, http};
use harness::process::{Process, free_ports};
use harness::wait::wait_until;
use tonnage_aggregator::model::RowKind;
use tonnage_runtime::clock::Clock;

const LOAD: &str = env!("CARGO_BIN_EXE_tonnage-gpu-load");
const MPS_CONTROL: &str = "nvidia-cuda-mps-control";
/// The load's exit status where there is no GPU.
const NO_GPU: i32 = 3;
const PERIOD_NS: i128 = 1_000_000_000;
const SECONDS: u32 = 20;
const DEADLINE: Duration = Duration::from_secs(60);

#[allow(clippy::print_stdout, reason = "a test without a harness says itself what it did")]
fn main() -> ExitCode {
    match run() {
        Ok(report) => {
            print!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<String> {
    let probe = Command::new(LOAD).args(["--seconds", "0", "--memory-mib", "1"]).output()?;
    if probe.status.code() == Some(NO_GPU) {
        let reason = String::from_utf8_lossy(&probe.stderr);
        return Ok(format!("real GPU: SKIPPED, there is no NVIDIA GPU here: {}\n", reason.trim()));
    }
    ensure!(probe.status.success(), "the load fails: {}", String::from_utf8_lossy(&probe.stderr));
    let mut report = String::from("case, seconds: held of lived, busy by the agent and by the GPU\n");
    for duties in [&[0][..], &[25], &[50], &[100], &[50, 50], &[100, 100]] {
        let name = format!("duty {duties:?}");
        case(&name, duties, None, &mut report).with_context(|| name.clone())?;
    }
    match Mps::start() {
        Ok(mps) => case("MPS, duty [50, 50]", &[50, 50], Some(&mps), &mut report)?,
        Err(error) => writeln!(report, "MPS: SKIPPED, its daemon does not start: {error:#}")?,
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gpu-report.txt");
    std::fs::write(&path, &report)?;
    writeln!(report, "written to {}", path.display())?;
    Ok(report)
}

/// Loads side by side, metered from before they begin until after they end.
fn case(name: &str, duties: &[u32], mps: Option<&Mps>, report: &mut String) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut node = Node::start(dir.path())?;
    let clock = Clock::system();
    let started_ns = clock.wall_ns();
    let mut loads =
        duties.iter().map(|duty| Load::start(*duty, mps)).collect::<anyhow::Result<Vec<Load>>>()?;
    let ready = loads.iter_mut().map(Load::ready).collect::<anyhow::Result<Vec<Ready>>>()?;
    let uuid = ready.first().context("no load")?.uuid.clone();
    let seen_ns = node.wait_processes(&uuid, |processes| processes >= 1.0)?;
    let done = loads.into_iter().map(Load::done).collect::<anyhow::Result<Vec<Done>>>()?;
    let gone_ns = node.wait_processes(&uuid, |processes| processes < 1.0)?;
    let (cpu, anonymous_kib) = node.cost()?;
    node.stop()?;
    let books = Books::read(&node.aggregator.data_dir())?;
    let rows = books.slots.iter().filter(|((_, device, ..), _)| *device == uuid);
    let rows: Vec<_> = rows.filter(|((.., kind, _), _)| *kind == RowKind::Held).collect();
    let owners: std::collections::BTreeSet<&str> = rows.iter().map(|(key, _)| key.4.as_str()).collect();
    let held_ns: i128 = rows.iter().map(|(_, row)| row.time_ns).sum();
    let busy_ns: i128 = rows.iter().map(|(_, row)| row.busy_ns).sum();
    let ready_ns = ready.iter().map(|ready| ready.wall_ns).min().unwrap_or(started_ns);
    let ended_ns = done.iter().map(|done| done.wall_ns).max().unwrap_or(started_ns);
    let (shortest, longest) = (i128::from(ended_ns - ready_ns), i128::from(gone_ns - started_ns));
    // Loads side by side take turns, so both of their kernels go on at once by their events: at most all of the time.
    let by_events: i128 = done.iter().map(|done| i128::from(done.busy_ns)).sum();
    let by_events = by_events.min(shortest);
    let seconds = |ns: i128| ns as f64 * 1e-9;
    writeln!(
        report,
        "{name}: held {:.3} of {:.3} to {:.3}; busy {:.3} and {:.3}, off by {:+.3} ({:+.1} % of held); seen after {:.3}, gone after {:.3}; agent {cpu:.2} s of CPU, {anonymous_kib} KiB of its own",
        seconds(held_ns),
        seconds(shortest),
        seconds(longest),
        seconds(busy_ns),
        seconds(by_events),
        seconds(busy_ns - by_events),
        100.0 * (busy_ns - by_events) as f64 / held_ns.max(1) as f64,
        seconds(i128::from(seen_ns - ready_ns)),
        seconds(i128::from(gone_ns - ended_ns)),
    )?;
    let exact = shortest - PERIOD_NS <= held_ns && held_ns <= longest + PERIOD_NS;
    ensure!(exact, "held {held_ns} ns, and lived {shortest} to {longest}\n{report}");
    // Both loads are this test's: one owner, with MPS and without.
    ensure!(owners.len() == 1, "held by {owners:?}\n{report}");
    ensure!(busy_ns <= held_ns, "busy {busy_ns} of {held_ns}\n{report}");
    let sound = match duties {
        [0] => busy_ns * 10 <= held_ns,
        [100] => busy_ns * 2 >= held_ns,
        _ => true,
    };
    ensure!(sound, "busy {busy_ns} of {held_ns} is nothing like it\n{report}");
    ensure!(node.aggregator.admin(&["verify"]).is_ok(), "the ledger does not add up\n{report}");
    Ok(())
}

/// A ledger, and an agent that reads the real driver and this machine's `/proc`.
struct Node {
    aggregator: Aggregator,
    agent: Process,
    http: ureq::Agent,
    url: String,
}

impl Node {
    fn start(dir: &Path) -> anyhow::Result<Self> {
        let binaries = Binaries::find()?;
        let mut aggregator = Aggregator::new(&dir.join("aggregator"), &binaries, None)?;
        aggregator.start(DEADLINE)?;
        let [port] = free_ports()?;
        let mut command = Command::new(&binaries.agent);
        command
            .args(["run", "--insecure-loopback", "--cluster", "gpu", "--node", "here"])
            .args(["--aggregator", &aggregator.uplink()])
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .arg("--spool")
            .arg(dir.join("spool"))
            // Processes alone: what else runs on this machine was not given the GPU for this.
            .arg("--kubelet.socket")
            .arg(dir.join("no-kubelet"))
            .arg("--slurm.jobs-dir")
            .arg(dir.join("no-jobs"));
        let agent = Process::start("the agent", &mut command, &dir.join("agent.log"))?;
        let mut node = Self { aggregator, agent, http: http(), url: format!("http://127.0.0.1:{port}") };
        wait_until(DEADLINE, "the agent's first reading", String::new, || {
            if let Some(status) = node.agent.exited()? {
                bail!("the agent ended with {status}\n{}", node.agent.log_tail());
            }
            let ready = get(&node.http, &format!("{}/readyz", node.url), None);
            Ok(ready.is_ok_and(|(status, _)| status == 200).then_some(()))
        })?;
        Ok(node)
    }

    /// Waits until the agent shows so many processes on the GPU; when that was.
    fn wait_processes(&self, uuid: &str, are_there: impl Fn(f64) -> bool) -> anyhow::Result<i64> {
        wait_until(DEADLINE, "processes on the GPU", String::new, || {
            let (_, text) = get(&self.http, &format!("{}/metrics", self.url), None)?;
            let scrape = Scrape::parse(&text)?;
            let of = scrape.series("tonnage_gpu_holding_processes").iter();
            let mut of = of.filter(|(labels, _)| labels.get("gpu").is_some_and(|gpu| gpu == uuid));
            Ok(of.next().filter(|(_, processes)| are_there(*processes)).map(|_| Clock::system().wall_ns()))
        })
    }

    /// The agent's CPU time and its anonymous memory.
    fn cost(&self) -> anyhow::Result<(f64, u64)> {
        let (_, text) = get(&self.http, &format!("{}/metrics", self.url), None)?;
        let cpu = Scrape::parse(&text)?.sum("process_cpu_seconds_total").unwrap_or(0.0);
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.agent.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no RssAnon")?;
        Ok((cpu, kib.parse()?))
    }

    /// Stops both, once the ledger has everything.
    fn stop(&mut self) -> anyhow::Result<()> {
        self.agent.terminate()?;
        let status = self.agent.wait(DEADLINE)?;
        ensure!(status.success(), "the agent ended with {status}\n{}", self.agent.log_tail());
        self.aggregator.stop(DEADLINE)
    }
}

/// A load that runs.
struct Load {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Load {
    fn start(duty: u32, mps: Option<&Mps>) -> anyhow::Result<Self> {
        let mut command = Command::new(LOAD);
        command.args(["--seconds", &SECONDS.to_string(), "--duty", &duty.to_string()]).stdout(Stdio::piped());
        if let Some(mps) = mps {
            command.envs(mps.env());
        }
        let mut child = command.spawn()?;
        let said = BufReader::new(child.stdout.take().context("a load without output")?).lines();
        Ok(Self { child, said })
    }

    fn ready(&mut self) -> anyhow::Result<Ready> {
        Ok(serde_json::from_str(&self.said.next().context("the load ended at once")??)?)
    }

    fn done(mut self) -> anyhow::Result<Done> {
        let done = serde_json::from_str(&self.said.next().context("the load ended early")??)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the load ended with {status}");
        Ok(done)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // After a failure; one that ended is no longer there to be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A control daemon of this test's own.
struct Mps(tempfile::TempDir);

impl Mps {
    fn start() -> anyhow::Result<Self> {
        let mps = Self(tempfile::tempdir()?);
        let status = Command::new(MPS_CONTROL).arg("-d").envs(mps.env()).status().context(MPS_CONTROL)?;
        ensure!(status.success(), "{MPS_CONTROL} -d ended with {status}");
        Ok(mps)
    }

    fn env(&self) -> [(&'static str, &Path); 2] {
        [("CUDA_MPS_PIPE_DIRECTORY", self.0.path()), ("CUDA_MPS_LOG_DIRECTORY", self.0.path())]
    }
}

impl Drop for Mps {
    fn drop(&mut self) {
        let quit = Command::new(MPS_CONTROL).envs(self.env()).stdin(Stdio::piped()).spawn();
        if let Ok(mut quit) = quit {
            if let Some(mut input) = quit.stdin.take() {
                let _ = input.write_all(b"quit\n");
            }
            let _ = quit.wait();
        }
    }
}
