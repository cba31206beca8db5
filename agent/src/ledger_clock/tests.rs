use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const S: i64 = 1_000_000_000;
const MS: i64 = 1_000_000;
const T0: i64 = 1_800_000_000 * S;

/// A node's clocks that a test sets by hand.
struct Node(Reading);

impl Node {
    fn new() -> Self {
        Self(Reading { wall_ns: T0, monotonic_ns: 50 * S, boot_ns: 70 * S })
    }

    /// Real time passes; returns the reading after it.
    fn pass(&mut self, ns: i64) -> Reading {
        self.0.wall_ns += ns;
        self.0.monotonic_ns += ns;
        self.0.boot_ns += ns;
        self.0
    }

    fn set_wall(&mut self, by_ns: i64) {
        self.0.wall_ns += by_ns;
    }
}

/// A clock that has given its first tick at T0.
fn running() -> (Node, LedgerClock) {
    let node = Node::new();
    let mut clock = LedgerClock::start(node.0, None);
    let first = clock.observe(node.0);
    assert_eq!(first, Tick { continuous: false, gap: GapReason::AgentDown, ..plain(T0) });
    (node, clock)
}

fn plain(now_ns: i64) -> Tick {
    Tick { now_ns, continuous: true, gap: GapReason::Clock, overlap_ns: 0, new_epoch: false }
}

#[test]
fn an_undisturbed_clock_is_the_wall_clock() {
    let (mut node, mut clock) = running();
    for n in 1..100 {
        assert_eq!(clock.observe(node.pass(S)), plain(T0 + n * S));
    }
}

#[test]
fn an_offset_under_half_a_second_is_slewed_by_500_ppm_and_nothing_is_lost() {
    let (mut node, mut clock) = running();
    node.set_wall(499 * MS);
    assert_eq!(clock.observe(node.pass(S)), plain(T0 + S + S / 2_000));
    let (mut node, mut clock) = running();
    node.set_wall(-499 * MS);
    assert_eq!(clock.observe(node.pass(S)), plain(T0 + S - S / 2_000));
    for _ in 0..1_000 {
        assert!(clock.observe(node.pass(S)).continuous);
    }
    assert_eq!(clock.observe(node.pass(S)).now_ns, node.0.wall_ns, "the offset is gone in the end");
}

#[test]
fn a_leap_second_that_is_smeared_over_a_day_is_slewed_without_a_gap_and_closely_followed() {
    // A second more or less in a day of 24 or of 20 hours: 11.6 or 13.9 parts in a million.
    for (hours, by_ns) in [(24, S), (24, -S), (20, S), (20, -S)] {
        let (mut node, mut clock) = running();
        let seconds = hours * 3_600;
        for n in 0..seconds {
            node.set_wall(by_ns * (n + 1) / seconds - by_ns * n / seconds);
            let tick = clock.observe(node.pass(S));
            assert!(tick.continuous && tick.overlap_ns == 0 && !tick.new_epoch, "{n}: {tick:?}");
            assert!(
                (tick.now_ns - node.0.wall_ns).abs() <= MS,
                "{n}: off by {}",
                tick.now_ns - node.0.wall_ns
            );
        }
        assert_eq!(node.0.wall_ns, T0 + seconds * S + by_ns);
    }
}

#[test]
fn a_leap_second_that_is_stepped_bills_the_second_that_came_twice_once() {
    let (mut node, mut clock) = running();
    node.set_wall(-S);
    let (mut billed_ns, mut overlap_ns) = (0, 0);
    for _ in 0..10 {
        let before_ns = clock.now_ns;
        let tick = clock.observe(node.pass(S));
        assert!(tick.continuous);
        billed_ns += tick.now_ns - before_ns;
        overlap_ns += tick.overlap_ns;
    }
    assert_eq!((billed_ns, overlap_ns), (9 * S, S.unsigned_abs()));
}

#[test]
fn a_step_forward_is_a_jump_that_is_not_covered() {
    let (mut node, mut clock) = running();
    node.set_wall(500 * MS);
    let tick = clock.observe(node.pass(S));
    assert_eq!(tick, Tick { continuous: false, ..plain(T0 + 1_500 * MS) });
    assert_eq!(clock.observe(node.pass(S)), plain(T0 + 2_500 * MS));
}

#[test]
fn a_step_back_stands_still_until_the_wall_catches_up_and_counts_the_real_time() {
    let (mut node, mut clock) = running();
    node.set_wall(-60 * S + S);
    let mut overlap_ns = 0;
    for _ in 0..59 {
        let tick = clock.observe(node.pass(S));
        assert_eq!(tick.now_ns, T0);
        assert!(tick.continuous && !tick.new_epoch);
        overlap_ns += tick.overlap_ns;
    }
    assert_eq!(overlap_ns, 59 * S.unsigned_abs());
    assert_eq!(clock.observe(node.pass(S)), plain(T0 + S));
}

#[test]
fn a_step_back_within_one_interval_bills_only_what_the_wall_passed() {
    let (mut node, mut clock) = running();
    node.set_wall(-700 * MS);
    let tick = clock.observe(node.pass(S));
    assert_eq!(tick, Tick { overlap_ns: 700 * MS.unsigned_abs(), ..plain(T0 + 300 * MS) });
}

#[test]
fn a_step_back_of_over_a_minute_anchors_anew_under_a_new_epoch() {
    let (mut node, mut clock) = running();
    node.set_wall(-61 * S);
    let tick = clock.observe(node.pass(S));
    assert_eq!(tick, Tick { continuous: false, new_epoch: true, ..plain(T0 - 60 * S) });
    assert_eq!(clock.observe(node.pass(S)), plain(T0 - 59 * S));
}

#[test]
fn steps_back_that_add_up_to_over_a_minute_anchor_anew() {
    let (mut node, mut clock) = running();
    node.set_wall(-40 * S);
    assert!(!clock.observe(node.pass(S)).new_epoch);
    node.set_wall(-40 * S);
    assert!(clock.observe(node.pass(S)).new_epoch);
}

#[test]
fn a_clock_set_right_again_while_ledger_time_stands_is_a_jump() {
    let (mut node, mut clock) = running();
    node.set_wall(-30 * S);
    assert_eq!(clock.observe(node.pass(S)).overlap_ns, S.unsigned_abs());
    node.set_wall(10 * S);
    let standing = clock.observe(node.pass(S));
    assert_eq!(standing, Tick { overlap_ns: S.unsigned_abs(), ..plain(T0) });
    node.set_wall(20 * S);
    let tick = clock.observe(node.pass(S));
    assert_eq!(tick, Tick { continuous: false, ..plain(T0 + 3 * S) });
}

#[test]
fn suspend_is_not_covered() {
    let (mut node, mut clock) = running();
    node.0.wall_ns += 3_600 * S;
    node.0.boot_ns += 3_600 * S;
    let tick = clock.observe(node.pass(S));
    assert_eq!(tick, Tick { continuous: false, gap: GapReason::Suspended, ..plain(T0 + 3_601 * S) });
    assert_eq!(clock.observe(node.pass(S)), plain(T0 + 3_602 * S));
}

#[test]
fn the_anchor_is_not_before_the_last_stored_window_unless_that_is_over_a_minute_ahead() {
    let mut node = Node::new();
    let mut clock = LedgerClock::start(node.0, Some(T0 + 5 * S));
    let first = clock.observe(node.pass(S));
    assert_eq!((first.now_ns, first.continuous, first.new_epoch), (T0 + 5 * S, false, false));
    for _ in 0..4 {
        assert_eq!(clock.observe(node.pass(S)).now_ns, T0 + 5 * S);
    }
    assert_eq!(clock.observe(node.pass(S)), plain(T0 + 6 * S));

    let node = Node::new();
    let mut clock = LedgerClock::start(node.0, Some(T0 + 61 * S));
    let first = clock.observe(node.0);
    let down = Tick { continuous: false, gap: GapReason::AgentDown, ..plain(T0) };
    assert_eq!(first, Tick { new_epoch: true, ..down });
    let mut clock = LedgerClock::start(node.0, Some(T0 - 500 * S));
    assert_eq!(clock.observe(node.0).now_ns, T0);
}

#[test]
fn whatever_the_wall_does_time_does_not_go_back_in_an_epoch_and_covered_time_is_real_time() {
    for _ in 0..50 {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut node, mut clock) = running();
        let (mut before_ns, mut anchor_ns, mut covered_ns, mut gaps_ns) = (T0, T0, 0, 0);
        for _ in 0..500 {
            let real_ns = rng.random_range(0..3 * S);
            if rng.random_bool(0.1) {
                node.set_wall(rng.random_range(-70 * S..70 * S));
            } else if rng.random_bool(0.2) {
                node.set_wall(rng.random_range(-600 * MS..600 * MS));
            }
            let slept_ns = if rng.random_bool(0.02) { rng.random_range(0..100 * S) } else { 0 };
            node.0.boot_ns += slept_ns;
            node.0.wall_ns += slept_ns;
            let tick = clock.observe(node.pass(real_ns));
            if tick.new_epoch {
                assert!(!tick.continuous);
                (anchor_ns, covered_ns, gaps_ns) = (tick.now_ns, 0, 0);
            } else {
                let moved_ns = tick.now_ns - before_ns;
                assert!(moved_ns >= 0, "ledger time went back by {moved_ns}");
                if tick.continuous {
                    covered_ns += moved_ns;
                    let accounted_ns = moved_ns + i64::try_from(tick.overlap_ns).unwrap();
                    assert!((accounted_ns - real_ns).abs() <= real_ns / 2_000, "{tick:?} after {real_ns}");
                } else {
                    gaps_ns += moved_ns;
                }
            }
            assert_eq!(tick.now_ns - anchor_ns, covered_ns + gaps_ns);
            before_ns = tick.now_ns;
        }
    }
}
