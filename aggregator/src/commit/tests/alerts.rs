//! Alerts: triggered once, resolved once, told until they were told.

use super::*;
use crate::model::{Alert, AlertAct, AlertActed, AlertState, Event, Finding, Sent, Severity};
use crate::store::alerts;

/// Many of them, and channels that change or hang.
mod many;
/// How fast limits are spent.
mod paced;

fn finding(key: &str) -> Finding {
    Finding {
        key: key.into(),
        rule: "nearly spent".into(),
        kind: "budget_threshold".into(),
        severity: Severity::Warning,
        account: "physics".into(),
        grant: String::new(),
        message: "m".into(),
        value: "80 %".into(),
        threshold: "80 %".into(),
        channels: vec!["ops".into(), "pager".into()],
    }
}

impl Ledger {
    fn alert(&mut self, act: AlertAct) -> AlertActed {
        let (answer, mut answered) = oneshot::channel();
        self.committer.commit_now(vec![Submission::Alerts { act, answer }]);
        answered.try_recv().unwrap().unwrap()
    }

    fn judged(&mut self, at_s: i64, keys: &[&str]) -> AlertActed {
        let findings = keys.iter().map(|key| finding(key)).collect();
        self.at(at_s).alert(AlertAct::Judged(findings))
    }

    /// Everything that is due, as event and channel, and their numbers.
    fn due(&self, at_s: i64) -> Vec<(i64, &'static str, String)> {
        let due = alerts::due(&self.db(), BEGIN + at_s * S, 100).unwrap();
        due.into_iter().map(|delivery| (delivery.id, delivery.event.name(), delivery.channel)).collect()
    }

    fn tell_all(&mut self, at_s: i64) -> Vec<(&'static str, String)> {
        let due = self.due(at_s);
        self.at(at_s).alert(AlertAct::Sent(due.iter().map(|(id, ..)| (*id, Sent::Told)).collect()));
        due.into_iter().map(|(_, event, channel)| (event, channel)).collect()
    }

    fn all(&self) -> Vec<Alert> {
        alerts::list(&self.db(), None, None, (100, 0)).unwrap()
    }
}

fn both(event: Event) -> [(&'static str, String); 2] {
    ["ops", "pager"].map(|channel| (event.name(), channel.to_owned()))
}

#[test]
fn what_is_found_is_told_once_and_once_more_when_it_has_not_been_so_for_a_while() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.judged(10, &["a"]);
    assert_eq!(ledger.tell_all(10), both(Event::Trigger));
    ledger.judged(25, &["a"]);
    assert_eq!(ledger.tell_all(25), []);
    // To and fro is no news.
    for at in [40, 55] {
        ledger.judged(at, &[]);
    }
    ledger.judged(70, &["a"]);
    ledger.judged(85, &[]);
    ledger.judged(384, &[]);
    assert_eq!(ledger.tell_all(384), []);
    ledger.judged(385, &[]);
    assert_eq!(ledger.tell_all(385), both(Event::Resolve));
    assert_eq!((ledger.all()[0].state, ledger.all()[0].resolved_ns), (AlertState::Resolved, BEGIN + 385 * S));
    ledger.judged(400, &["a"]);
    assert_eq!(ledger.tell_all(400), both(Event::Trigger));
    assert_eq!(ledger.all().len(), 2, "it is another alert");
    ledger.verify();
}

#[test]
fn who_cannot_be_told_is_tried_again_ever_later_in_order_and_given_up_after_a_day() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.judged(0, &["a"]);
    let [(ops, ..), (pager, ..)] = ledger.due(0)[..] else { panic!("two channels") };
    ledger
        .alert(AlertAct::Sent(vec![(ops, Sent::Failed("away".into())), (pager, Sent::Refused("no".into()))]));
    assert_eq!(ledger.due(4), []);
    // It is over before it was told: that is told afterwards.
    ledger.judged(1, &[]);
    ledger.judged(301, &[]);
    let due: Vec<_> = ledger.due(301).into_iter().map(|(_, event, channel)| (event, channel)).collect();
    assert_eq!(due, [("trigger", "ops".to_owned()), ("resolve", "pager".to_owned())]);
    let mut waits = Vec::new();
    let mut at = 301;
    for _ in 0..10 {
        ledger.at(at).alert(AlertAct::Sent(vec![(ops, Sent::Failed("away".into()))]));
        let next = (at..at + 2_000).find(|at| ledger.due(*at).iter().any(|(id, ..)| *id == ops)).unwrap();
        waits.push(next - at);
        at = next;
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 900, 900, 900]);
    ledger.at(86_400).alert(AlertAct::Sent(vec![(ops, Sent::Failed("away".into()))]));
    assert!(ledger.due(86_400).iter().all(|(id, ..)| *id != ops), "given up");
    assert!(ledger.tell_all(86_400).contains(&("resolve", "ops".to_owned())));
    assert_eq!(alerts::waiting(&ledger.db()).unwrap(), 0);
    // An answer that comes twice, of another aggregator, changes nothing.
    ledger.alert(AlertAct::Sent(vec![(ops, Sent::Failed("late".into()))]));
    assert_eq!(alerts::waiting(&ledger.db()).unwrap(), 0);
}

#[test]
fn a_person_acknowledges_an_alert_once_and_none_that_is_over() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.judged(0, &["a"]);
    ledger.tell_all(0);
    let id = ledger.all()[0].id;
    let by = |id, who: &str| AlertAct::Acknowledge { id, by: who.into(), notes: "on it".into() };
    for who in ["ada", "bob"] {
        let AlertActed::Acknowledged(alert) = ledger.at(5).alert(by(id, who)) else { panic!("acknowledged") };
        assert_eq!((alert.state, alert.acknowledged_by.as_str()), (AlertState::Acknowledged, "ada"));
    }
    assert_eq!(ledger.tell_all(5), both(Event::Acknowledge));
    ledger.judged(10, &["a"]);
    assert_eq!(ledger.all()[0].state, AlertState::Acknowledged, "still");
    ledger.judged(20, &[]);
    ledger.judged(320, &[]);
    assert_eq!(ledger.tell_all(320), both(Event::Resolve));
    assert_eq!(ledger.alert(by(id, "cy")), AlertActed::Resolved);
    assert_eq!(ledger.alert(by(99, "cy")), AlertActed::Missing);
    ledger.judged(320 + 401 * 86_400, &[]);
    assert!(ledger.all().is_empty(), "and let go of in time");
}

#[test]
fn of_two_aggregators_one_looks_after_alerts() {
    let mut ledger = Ledger::new(BOOK, 0);
    ledger.judged(0, &["a"]);
    let own = std::mem::replace(&mut ledger.committer.turn.holder, "another".to_owned());
    assert_eq!(ledger.judged(10, &["b"]), AlertActed::NotOurs);
    assert_eq!(ledger.judged(91, &["b"]), AlertActed::Done, "the first is gone");
    ledger.committer.turn.holder = own;
    assert_eq!(ledger.judged(92, &["a"]), AlertActed::NotOurs);
    assert_eq!(ledger.all().len(), 2);
}
