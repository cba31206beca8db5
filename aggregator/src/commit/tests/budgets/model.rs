//! Random histories of checks, usage, ends, prices and time, against sums that are worked out anew each time.

use super::*;

/// A job as the model has it.
struct Job {
    account: usize,
    /// What it used: when, in seconds, and for how many.
    used: Vec<(i64, i64)>,
    hold: Option<(Hold, bool)>,
    /// Others that its hold is also of.
    tasks: Vec<usize>,
}

impl Job {
    /// Seconds that it used from the slot of a time on.
    fn used_from(&self, from_ns: i64) -> i64 {
        let late = self.used.iter().filter(|(at, _)| BEGIN + at * S >= from_ns);
        late.map(|(_, seconds)| seconds).sum()
    }
}

/// What a hold's job and its tasks were charged.
fn charged(jobs: &[Job], of: usize, hold: &Hold, price: i64) -> i64 {
    let all = jobs[of].tasks.iter().chain([&of]);
    price * all.map(|at| jobs[*at].used_from(hold.from_ns)).sum::<i64>()
}

const ACCOUNTS: [(&str, Option<usize>, i64); 3] =
    [("org", None, 2000), ("a", Some(0), 1200), ("b", Some(0), 1500)];

/// What is left of an account by itself, in nano-dollars, at so many for a second.
fn left(jobs: &[Job], account: usize, price: i64) -> i64 {
    let own = (0..jobs.len()).filter(|at| account == 0 || jobs[*at].account == account);
    let taken = own.map(|at| {
        let reserved = match &jobs[at].hold {
            Some((hold, true)) => (hold.amount_nanos - charged(jobs, at, hold, price)).max(0),
            _ => 0,
        };
        jobs[at].used_from(0) * price + reserved
    });
    ACCOUNTS[account].2 * SECOND - taken.sum::<i64>()
}

#[test]
fn whatever_happens_what_is_left_is_what_a_plain_sum_says() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut ledger = Ledger::new(BOOK, 0);
    for (name, parent, seconds) in ACCOUNTS {
        let parent = parent.map(|at: usize| ACCOUNTS[at].0.to_owned());
        ledger.create(Spec { parent, ..spec(name, seconds) }).unwrap();
    }
    let (mut jobs, mut at, mut price): (Vec<Job>, i64, i64) = (Vec::new(), 0, SECOND);
    let mut agent = Agent::new("n", "b", 1);
    for step in 0..250 {
        let open: Vec<usize> =
            (0..jobs.len()).filter(|at| matches!(jobs[*at].hold, Some((_, true)))).collect();
        match rng.random_range(0..10) {
            0..3 => {
                let (account, seconds) = (rng.random_range(1..3), rng.random_range(1..200));
                let id = jobs.len().to_string();
                let hold = ledger.check(Ask { subject: Some(job(&id)), ..ask(ACCOUNTS[account].0, seconds) });
                let amount = seconds * price * 6 / 5;
                let enough = left(&jobs, account, price).min(left(&jobs, 0, price)) >= amount;
                assert_eq!((hold.state == State::Open, hold.amount_nanos), (enough, amount), "step {step}");
                let hold = enough.then_some((hold, true));
                jobs.push(Job { account, used: Vec::new(), hold, tasks: Vec::new() });
            }
            3..7 if !jobs.is_empty() => {
                let (of, seconds) = (rng.random_range(0..jobs.len()), rng.random_range(1..=10));
                let account = ACCOUNTS[jobs[of].account].0;
                let batch = agent.job((account, "gpu", &of.to_string()), &[(at, seconds)]);
                jobs[of].used.push((at, seconds));
                at += 10;
                ledger.at(at).take(batch);
            }
            7 if !open.is_empty() => {
                let of = open[rng.random_range(0..open.len())];
                let Some((hold, _)) = jobs[of].hold.clone() else { continue };
                let settled = ledger.settle(&hold).unwrap();
                assert_eq!(settled.charged_nanos, charged(&jobs, of, &hold, price));
                jobs[of].hold = Some((hold, false));
            }
            // A job without an open hold becomes a task of one that has one, late as it may be.
            8 if !open.is_empty() && rng.random_bool(0.5) => {
                let (of, task) = (open[rng.random_range(0..open.len())], rng.random_range(0..jobs.len()));
                let free = !open.contains(&task) && !open.iter().any(|at| jobs[*at].tasks.contains(&task));
                if let Some((hold, true)) = jobs[of].hold.as_ref().filter(|_| free) {
                    let named = vec![task.to_string()];
                    ledger.act(What::Tasks { transaction: hold.transaction, jobs: named }).unwrap();
                    jobs[of].tasks.push(task);
                }
            }
            8 if rng.random_bool(0.3) => {
                price = SECOND * rng.random_range(1..4);
                let shown = format!("{}.{:02}", price * 36 / 10 / SECOND, price * 360 / SECOND % 100);
                ledger.book(&BOOK.replace("3.60", &shown));
            }
            9 if rng.random_bool(0.5) => ledger.committer.working = Working::default(),
            _ => ledger.tick(),
        }
        // Whoever was not heard of for its lease has expired.
        for (hold, is_open) in jobs.iter_mut().filter_map(|job| job.hold.as_mut()) {
            *is_open = *is_open && ledger.stored(hold).state == State::Open;
        }
        for (account, (name, ..)) in ACCOUNTS.iter().enumerate().skip(1) {
            let expected = left(&jobs, account, price).min(left(&jobs, 0, price));
            let (seconds, nanos) = ledger.left(name);
            assert_eq!(seconds * SECOND + nanos, expected, "step {step}: {name}");
        }
    }
    ledger.verify();
}
