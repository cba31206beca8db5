//! Random histories of checks, usage, ends, prices and time, against sums that are worked out anew each time.

use super::*;

/// A job as the model has it.
struct Job {
    account: usize,
    /// What it used, in seconds.
    used: i64,
    hold: Option<(Hold, bool)>,
}

const ACCOUNTS: [(&str, Option<usize>, i64); 3] =
    [("org", None, 2000), ("a", Some(0), 1200), ("b", Some(0), 1500)];

/// What is left of an account by itself, in nano-dollars, at so many for a second.
fn left(jobs: &[Job], account: usize, price: i64) -> i64 {
    let own = jobs.iter().filter(|job| account == 0 || job.account == account);
    let taken = own.map(|job| {
        let charged = job.used * price;
        let reserved = match &job.hold {
            Some((hold, true)) => (hold.amount_nanos - charged).max(0),
            _ => 0,
        };
        charged + reserved
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
                jobs.push(Job { account, used: 0, hold: enough.then_some((hold, true)) });
            }
            3..7 if !jobs.is_empty() => {
                let (of, seconds) = (rng.random_range(0..jobs.len()), rng.random_range(1..=10));
                let account = ACCOUNTS[jobs[of].account].0;
                let batch = agent.job((account, "gpu", &of.to_string()), &[(at, seconds)]);
                at += 10;
                ledger.at(at).take(batch);
                jobs[of].used += seconds;
            }
            7 if !open.is_empty() => {
                let of = open[rng.random_range(0..open.len())];
                let Job { used, hold: Some((hold, is_open)), .. } = &mut jobs[of] else { continue };
                let settled = ledger.settle(hold).unwrap();
                assert_eq!(settled.charged_nanos, *used * price);
                *is_open = false;
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
