//! Money leased to gates: killed at any point, cut off from the aggregator, two of them, and nothing is spent twice.

use std::collections::BTreeMap;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use harness::aggregator::Aggregator;
use harness::gate::ask;
use tonnage_proto::decimal::to_nanos;

use super::*;

/// An hour of a GPU, with the buffer.
const HOUR_NANOS: i128 = 4_320_000_000;

fn line(token: usize, minutes: u64) -> String {
    format!(
        "submit token={token:032x} user=root account=research partition=main time_limit={minutes} tres_per_job=gres:gpu:1"
    )
}

/// What an answer let in: the escrow and nano-dollars of it; `None` if it was by a hold, or refused.
fn spent(answer: &str) -> Option<(String, i128)> {
    let word = answer.strip_prefix("ok escrow=")?.split(' ').next()?;
    let (transaction, amount) = word.split_once('=')?;
    Some((transaction.to_owned(), to_nanos(amount)?))
}

fn escrowed(gate: &mut Gate, hours: u32, more: &[&str]) {
    gate.extra_args =
        ["--settle-seconds", "2", "--escrow-seconds", "60", "--escrow-gpu-hours"].map(str::to_owned).to_vec();
    gate.extra_args.push(hours.to_string());
    gate.extra_args.extend(more.iter().map(|arg| (*arg).to_owned()));
}

/// Asks until a job is let in for leased money, by tokens from `first` on.
fn until_leased(gate: &Gate, first: usize) -> anyhow::Result<(String, i128)> {
    let mut token = first;
    wait_until(DEADLINE, "an escrow that is spent", String::new, || {
        token += 1;
        Ok(spent(&gate.ask(&line(token, 1))?))
    })
}

/// Carries bytes to an aggregator, until it is cut.
struct Wire {
    url: String,
    cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn to(aggregator: &Aggregator) -> anyhow::Result<Self> {
        let to = aggregator.url().trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let (cut, open) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (is_cut, all) = (Arc::clone(&cut), Arc::clone(&open));
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(&to) else { continue };
                if is_cut.load(Ordering::SeqCst) {
                    continue;
                }
                for (from, into) in [(&near, &far), (&far, &near)] {
                    let (Ok(mut from), Ok(mut into)) = (from.try_clone(), into.try_clone()) else { continue };
                    std::thread::spawn(move || std::io::copy(&mut from, &mut into));
                }
                all.lock().unwrap_or_else(PoisonError::into_inner).extend([near, far]);
            }
        });
        Ok(Self { url, cut, open })
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn a_gate_that_is_killed_again_and_again_spends_no_more_than_it_leased() -> anyhow::Result<()> {
    let Some(mut site) = Site::start("1000", "")? else { return Ok(()) };
    site.gate.stop(DEADLINE)?;
    escrowed(&mut site.gate, 1, &[]);
    let mut by_lease: BTreeMap<String, i128> = BTreeMap::new();
    let mut token = 0;
    for life in 0..8 {
        site.gate.start(DEADLINE)?;
        let (transaction, amount) = until_leased(&site.gate, 1000 * (life + 1))?;
        *by_lease.entry(transaction).or_default() += amount;
        // As many as it can, until it is killed in the middle of them.
        let (socket, count) = (site.gate.socket(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&count);
        let asks = std::thread::spawn(move || {
            let mut asked = Vec::new();
            while let Ok(answer) = ask(&socket, &line(token + asked.len() + 1_000_000, 1)) {
                asked.push(spent(&answer));
                counted.fetch_add(1, Ordering::SeqCst);
            }
            asked
        });
        wait_until(DEADLINE, "some asks", String::new, || {
            Ok((count.load(Ordering::SeqCst) > 3 * life).then_some(()))
        })?;
        site.gate.kill9()?;
        let asked = asks.join().expect("a client that does not panic");
        token += asked.len() + 1;
        for (transaction, amount) in asked.into_iter().flatten() {
            *by_lease.entry(transaction).or_default() += amount;
        }
    }
    println!("spent by lease: {by_lease:?}");
    for (transaction, sum) in &by_lease {
        ensure!(*sum <= HOUR_NANOS, "{transaction}: {sum}");
    }
    site.world.nodes[0].stop(DEADLINE)?;
    site.verify()
}

#[test]
fn two_gates_one_of_them_cut_off_spend_no_money_twice_and_what_is_left_comes_back() -> anyhow::Result<()> {
    // Two hours of a GPU, less than a third.
    let Some(mut site) = Site::start("9.00", "")? else { return Ok(()) };
    site.gate.stop(DEADLINE)?;
    let wire = Wire::to(&site.world.aggregator)?;
    escrowed(&mut site.gate, 1, &[]);
    site.gate.aggregators = vec![wire.url.clone()];
    site.gate.start(DEADLINE)?;
    let (escrow, _) = until_leased(&site.gate, 10)?;
    wire.cut();
    // Cut off it goes on by what it leased, in real jobs, and refuses what is more than that.
    let (taken, text) = site.sbatch(&["--gpus=1", "--time=30", "--hold"], "true")?;
    ensure!(taken && text.contains("2.16 held"), "{text}");
    let job: u32 = text.lines().find_map(|line| line.trim().parse().ok()).context("an id")?;
    ensure!(site.refused(&["--gpus=1", "--time=30"])?.contains("its balance cannot be read now"));

    // Another one beside it, that the aggregator answers, gets nothing of the same money.
    let mut other = Gate::new("other", &site.slurm, site.world.binaries(), site.world.aggregator.url())?;
    other.extra_args = site.gate.extra_args[..2].to_vec();
    other.start(DEADLINE)?;
    let answer = other.ask(&line(900_001, 60 * 3))?;
    ensure!(answer.starts_with("no "), "{answer}");
    // It finds what the other let in, and holds for it out of that escrow.
    let hold = site.wait_hold(job, "open")?;
    ensure!(hold["exact"]["amount"] == "2.160000000", "{hold}");
    let held = site.held()?;
    ensure!(held <= 9.0, "{held}");
    println!("held of 9.00 while one gate is cut off: {held}");
    // Not before the lease and a margin are over, and then all that was not let in.
    let open = site.hold_of(&escrow)?;
    ensure!(open["state"] == "open", "{open}");
    wait_until(DEADLINE * 6, "the escrow to come back", String::new, || {
        Ok((site.hold_of(&escrow)?["state"] == "voided").then_some(()))
    })?;
    ensure!(site.hold(job)?.is_some_and(|hold| hold["state"] == "open"));
    site.slurm.run("scancel", &[&job.to_string()])?;
    site.wait_hold(job, "settled")?;
    site.world.nodes[0].stop(DEADLINE)?;
    site.verify()
}

#[test]
fn most_submissions_need_no_answer_of_the_aggregators_and_an_exhausted_lease_asks() -> anyhow::Result<()> {
    let Some(mut site) = Site::start("1000", "")? else { return Ok(()) };
    site.gate.stop(DEADLINE)?;
    escrowed(&mut site.gate, 10, &[]);
    site.gate.start(DEADLINE)?;
    until_leased(&site.gate, 10)?;
    let taken = super::latency::timed(500, |at| {
        let answer = site.gate.ask(&line(at + 10_000, 1))?;
        ensure!(answer.starts_with("ok escrow="), "{answer}");
        Ok(())
    })?;
    super::latency::say("socket, one GPU, of leased money", &taken);
    let answer = site.gate.ask(&line(1_000_001, 60 * 12))?;
    ensure!(answer.starts_with("ok held"), "twelve hours are more than ten: {answer}");
    let job = site.job(&["--gpus=1", "--time=1"], "sleep 1")?;
    site.wait_hold(job, "settled")?;
    site.world.nodes[0].stop(DEADLINE)?;
    site.verify()
}
