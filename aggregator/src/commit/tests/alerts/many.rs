//! Many alerts at once, channels that change or hang, and clocks that are set back.

use std::time::Duration;

use super::*;

fn of(key: &str, account: &str, severity: Severity) -> Finding {
    Finding { account: account.into(), severity, ..finding(key) }
}

#[test]
fn what_nothing_tells_apart_is_one_alert_and_keeps_no_other_from_being_found() {
    let mut ledger = Ledger::new(BOOK, 0);
    // Months of Berlin and of Paris, say.
    for at in [0, 15] {
        assert_eq!(ledger.judged(at, &["a", "a", "b"]), AlertActed::Done);
    }
    assert_eq!(ledger.all().len(), 2);
    assert_eq!(ledger.due(15).len(), 4, "each of both channels hears once of each");
}

#[test]
fn of_too_many_the_worst_are_told_and_what_is_of_no_budget_always_is() {
    let mut ledger = Ledger::new(BOOK, 0);
    let mut findings: Vec<Finding> =
        (0..2_005).map(|at| of(&format!("k{at}"), "a", Severity::Warning)).collect();
    findings.push(of("worst", "a", Severity::Critical));
    findings.push(of("unpriced", "", Severity::Info));
    for finding in &mut findings {
        finding.channels.truncate(1);
    }
    ledger.alert(AlertAct::Judged(findings.clone()));
    let open = alerts::open(&ledger.db()).unwrap();
    let has = |key: &str| open.iter().any(|alert| alert.finding.key == key);
    assert_eq!(open.len(), 2_001);
    assert!(has("worst") && has("unpriced") && has("k0") && !has("k2004"));
    // What was left out has its turn when there is room.
    findings.drain(..100);
    ledger.at(15).alert(AlertAct::Judged(findings.clone()));
    ledger.at(315).alert(AlertAct::Judged(findings.clone()));
    ledger.at(330).alert(AlertAct::Judged(findings));
    assert_eq!(alerts::open(&ledger.db()).unwrap().len(), 1_907);
}

#[test]
fn a_rule_that_tells_others_from_now_on_leaves_nobody_with_an_alert_that_never_ends() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.judged(0, &["a"]);
    ledger.tell_all(0);
    let id = ledger.all()[0].id;
    ledger.alert(AlertAct::Acknowledge { id, by: "ada".into(), notes: String::new() });
    ledger.tell_all(0);
    let moved = Finding { channels: vec!["pager".into(), "mail".into()], ..finding("a") };
    ledger.at(15).alert(AlertAct::Judged(vec![moved.clone()]));
    let mut told = ledger.tell_all(15);
    told.extend(ledger.tell_all(15));
    let expected = [("resolve", "ops"), ("trigger", "mail"), ("acknowledge", "mail")];
    assert_eq!(told, expected.map(|(event, channel)| (event, channel.to_owned())));
    ledger.at(30).alert(AlertAct::Judged(vec![moved]));
    assert_eq!(ledger.tell_all(30), [], "once");
}

#[test]
fn channels_take_turns_so_that_one_that_hangs_keeps_no_other_waiting() {
    let mut ledger = Ledger::new(BOOK, 0);
    let of_ops = |at: usize| Finding { channels: vec!["ops".into()], ..finding(&format!("k{at}")) };
    let mut findings: Vec<Finding> = (0..50).map(of_ops).collect();
    ledger.alert(AlertAct::Judged(findings.clone()));
    findings.push(Finding { channels: vec!["pager".into()], ..finding("new") });
    ledger.at(60).alert(AlertAct::Judged(findings));
    let due = alerts::due(&ledger.db(), BEGIN + 60 * S, 4).unwrap();
    let channels: Vec<&str> = due.iter().map(|delivery| delivery.channel.as_str()).collect();
    assert_eq!(channels, ["ops", "pager", "ops", "ops"]);
}

#[test]
fn a_channel_that_says_when_to_come_again_is_not_asked_before_but_within_an_hour() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.judged(0, &["a"]);
    let [(ops, ..), (pager, ..)] = ledger.due(0)[..] else { panic!("two channels") };
    let later = |seconds| Sent::Later("it answered 429".into(), Duration::from_secs(seconds));
    ledger.alert(AlertAct::Sent(vec![(ops, later(120)), (pager, later(u64::MAX))]));
    assert_eq!((ledger.due(119).len(), ledger.due(120).len()), (0, 1));
    assert_eq!((ledger.due(3_599).len(), ledger.due(3_600).len()), (1, 2));
    // It never makes a try come earlier, nor for ever.
    ledger.at(120).alert(AlertAct::Sent(vec![(ops, later(0))]));
    assert_eq!((ledger.due(129).len(), ledger.due(130).len()), (0, 1));
    ledger.at(86_400).alert(AlertAct::Sent(vec![(ops, later(5))]));
    assert_eq!(ledger.due(90_000).len(), 1, "given up");
}

#[test]
fn a_clock_that_is_set_back_delays_nothing_for_longer_than_it_would_have_been() {
    let mut ledger = Ledger::new(BOOK, 0);
    let day = 86_400;
    ledger.judged(day, &["a", "b"]);
    let first = ledger.due(day)[0].0;
    ledger.alert(AlertAct::Sent(vec![(first, Sent::Failed("away".into()))]));
    ledger.judged(day + 1, &["a"]);
    // A day back.
    assert_eq!(ledger.judged(2, &["a"]), AlertActed::Done);
    assert_eq!(ledger.due(2).len(), 4, "what was put off is due");
    ledger.judged(2 + 299, &["a"]);
    assert!(ledger.all().iter().all(|alert| alert.state == AlertState::Active));
    ledger.judged(2 + 300, &["a"]);
    assert_eq!(ledger.all().iter().filter(|alert| alert.state == AlertState::Resolved).count(), 1);
}

#[test]
fn what_goes_to_and_fro_for_long_is_let_go_of_and_what_is_open_or_to_be_told_stays() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.judged(0, &["open"]);
    for at in [400, 800, 1200] {
        ledger.judged(at, &["open", "flaps"]);
        ledger.judged(at + 15, &["open"]);
        ledger.judged(at + 315, &["open"]);
        if at < 1200 {
            ledger.tell_all(at + 315);
            ledger.tell_all(at + 315);
        }
    }
    let kept = |ledger: &Ledger, count| {
        alerts::forget(&ledger.db(), i64::MIN, count).unwrap();
        ledger.all().iter().map(|alert| alert.finding.key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(kept(&ledger, 3), ["flaps", "flaps", "flaps", "open"]);
    assert_eq!(kept(&ledger, 1), ["flaps", "open"], "that is not told yet");
    assert_eq!(kept(&ledger, 0), ["flaps", "open"]);
    assert_eq!(alerts::waiting(&ledger.db()).unwrap(), 4);
}

#[test]
fn an_error_that_a_server_wrote_is_stored_on_one_line_whatever_it_has() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.judged(0, &["a"]);
    let [(ops, ..), (pager, ..)] = ledger.due(0)[..] else { panic!("two channels") };
    let bad = "5.1.1\0 no\r\n".to_owned() + &"x".repeat(10_000);
    let sent = vec![(ops, Sent::Failed(bad.clone())), (pager, Sent::Refused(bad))];
    assert_eq!(ledger.alert(AlertAct::Sent(sent)), AlertActed::Done);
    let longest = "SELECT MAX(LENGTH(error)) FROM delivery";
    let db = ledger.db();
    assert_eq!(db.prepare_cached(longest).unwrap().query_row([], |row| row.get::<i64>(0)).unwrap(), 500);
}
