//! How each kind of channel wants to be told. Pure.
//!
//! Sources: Slack's incoming webhooks, Adaptive Cards 1.4 as workflows of Microsoft Teams take them, PagerDuty's Events API v2. E-mail
//! has words of its own, and its form from `email.rs`.

use serde_json::{Value, json};

use super::rules::channel::ChannelKind;
use crate::model::{Delivery, Event};

/// `PagerDuty` takes no longer summaries.
const SUMMARY_CHARS_MAX: usize = 1024;
const SUBJECT_CHARS_MAX: usize = 200;

/// What is sent, or `None` where the channel knows no such event. `ledger` tells this ledger's alerts from others'.
pub(super) fn body(kind: ChannelKind, delivery: &Delivery, ledger: &str, routing_key: &str) -> Option<Value> {
    let told = delivery.event != Event::Acknowledge;
    match kind {
        ChannelKind::Slack => told.then(|| json!({ "text": escaped(&line(delivery)) })),
        ChannelKind::Teams => told.then(|| teams(&line(delivery))),
        ChannelKind::Pagerduty => Some(pagerduty(delivery, ledger, routing_key)),
        ChannelKind::Webhook => Some(webhook(delivery, ledger)),
        ChannelKind::Email => None,
    }
}

/// What an e-mail says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) subject: String,
    /// Lines with LF.
    pub(super) text: String,
}

/// What an e-mail says of an event; `None` of an acknowledgement.
pub(super) fn letter(delivery: &Delivery, ledger: &str) -> Option<Letter> {
    let finding = &delivery.alert.finding;
    let (since, id) = (time(delivery.alert.triggered_ns), delivery.alert.id);
    let (last, end) = match delivery.event {
        Event::Acknowledge => return None,
        Event::Trigger => ("", format!("Say that you know: tonnage alert acknowledge {id}")),
        Event::Resolve => (" (as it was last)", "It is no longer so.".to_owned()),
    };
    let lines = [
        finding.message.clone(),
        String::new(),
        format!("rule       {} ({})", finding.rule, finding.kind),
        format!("severity   {}", finding.severity.name()),
        format!("budget     {}", if finding.account.is_empty() { "-" } else { &finding.account }),
        format!("value      {}{last}", finding.value),
        format!("threshold  {}", finding.threshold),
        format!("since      {since}"),
        format!("alert      {id} of the ledger {ledger}"),
        String::new(),
        end,
    ];
    let subject = one_line(&line(delivery)).chars().take(SUBJECT_CHARS_MAX).collect();
    Some(Letter { subject, text: lines.map(|line| one_line(&line) + "\n").concat() })
}

/// Names come from outside: none of them begins a line.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// For people.
fn line(delivery: &Delivery) -> String {
    let finding = &delivery.alert.finding;
    let what = match delivery.event {
        Event::Resolve => "resolved".to_owned(),
        Event::Trigger | Event::Acknowledge => finding.severity.name().to_uppercase(),
    };
    format!("[{what}] {}: {}", finding.rule, finding.message)
}

/// Slack reads these three as marks of its own.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn teams(line: &str) -> Value {
    let text = json!({ "type": "TextBlock", "text": line, "wrap": true });
    let card = json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [text],
    });
    let attachment = json!({ "contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": null, "content": card });
    json!({ "type": "message", "attachments": [attachment] })
}

/// One incident for each alert, however often it is told.
fn pagerduty(delivery: &Delivery, ledger: &str, routing_key: &str) -> Value {
    let finding = &delivery.alert.finding;
    let mut event = json!({
        "routing_key": routing_key,
        "event_action": delivery.event.name(),
        "dedup_key": format!("tonnage/{ledger}/{}", delivery.alert.id),
    });
    if delivery.event == Event::Trigger {
        let summary: String =
            format!("{}: {}", finding.rule, finding.message).chars().take(SUMMARY_CHARS_MAX).collect();
        event["payload"] = json!({
            "summary": summary,
            "source": "tonnage",
            "severity": finding.severity.name(),
            "timestamp": time(delivery.alert.triggered_ns),
            "component": finding.account,
            "class": finding.kind,
            "custom_details": { "value": finding.value, "threshold": finding.threshold },
        });
    }
    event
}

fn webhook(delivery: &Delivery, ledger: &str) -> Value {
    let alert = &delivery.alert;
    let finding = &alert.finding;
    json!({
        "event": delivery.event.name(),
        "id": alert.id,
        "ledger_id": ledger,
        "alert_name": finding.rule,
        "alert_type": finding.kind,
        "severity": finding.severity.name(),
        "budget_name": finding.account,
        "grant_number": finding.grant,
        "message": finding.message,
        "value": finding.value,
        "threshold": finding.threshold,
        "status": alert.state.name(),
        "acknowledged_by": alert.acknowledged_by,
        "triggered_at": time(alert.triggered_ns),
        "timestamp": time(delivery.created_ns),
    })
}

/// RFC 3339.
pub(super) fn time(at_ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at_ns)).map_or_else(|_| String::new(), |at| at.to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{Alert, AlertState, Finding, Severity};

    pub(in crate::alerts) fn delivery(event: Event, message: &str) -> Delivery {
        let finding = Finding {
            key: "k".into(),
            rule: "nearly spent".into(),
            kind: "budget_threshold".into(),
            severity: Severity::Critical,
            account: "physics".into(),
            grant: String::new(),
            message: message.into(),
            value: "83.2 %".into(),
            threshold: "80 %".into(),
            channels: vec!["ops".into()],
        };
        let alert = Alert {
            id: 7,
            finding,
            state: AlertState::Active,
            triggered_ns: 1_000_000_000,
            missing_ns: 0,
            acknowledged_ns: 0,
            acknowledged_by: String::new(),
            notes: String::new(),
            resolved_ns: 0,
        };
        Delivery { id: 1, event, channel: "ops".into(), attempts: 0, created_ns: 2_000_000_000, alert }
    }

    #[test]
    fn each_kind_of_channel_is_told_in_its_own_form() {
        let trigger = delivery(Event::Trigger, "a <b> & c");
        let told = |kind| body(kind, &trigger, "l1", "key").unwrap();
        assert_eq!(
            told(ChannelKind::Slack),
            json!({ "text": "[CRITICAL] nearly spent: a &lt;b&gt; &amp; c" })
        );
        let card = &told(ChannelKind::Teams)["attachments"][0]["content"]["body"][0]["text"];
        assert_eq!(card, "[CRITICAL] nearly spent: a <b> & c");
        let page = told(ChannelKind::Pagerduty);
        assert_eq!((&page["routing_key"], &page["event_action"]), (&"key".into(), &"trigger".into()));
        assert_eq!(
            (&page["dedup_key"], &page["payload"]["severity"]),
            (&"tonnage/l1/7".into(), &"critical".into())
        );
        let hook = told(ChannelKind::Webhook);
        assert_eq!(
            (&hook["budget_name"], &hook["timestamp"]),
            (&"physics".into(), &"1970-01-01T00:00:02Z".into())
        );
    }

    #[test]
    fn an_acknowledgement_goes_to_those_who_know_what_it_is_and_a_resolution_to_all() {
        let acknowledged = delivery(Event::Acknowledge, "m");
        assert!(body(ChannelKind::Slack, &acknowledged, "", "").is_none());
        assert!(body(ChannelKind::Teams, &acknowledged, "", "").is_none());
        let page = body(ChannelKind::Pagerduty, &acknowledged, "l", "k").unwrap();
        assert_eq!((&page["event_action"], page.get("payload")), (&"acknowledge".into(), None));
        let slack = body(ChannelKind::Slack, &delivery(Event::Resolve, "m"), "", "").unwrap();
        assert_eq!(slack["text"], "[resolved] nearly spent: m");
        let long =
            body(ChannelKind::Pagerduty, &delivery(Event::Trigger, &"ä".repeat(2000)), "", "").unwrap();
        assert_eq!(long["payload"]["summary"].as_str().unwrap().chars().count(), SUMMARY_CHARS_MAX);
    }
}
