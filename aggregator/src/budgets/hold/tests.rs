//! Requests that are wrong, and the ends of holds.

use super::*;

fn hold() -> Hold {
    let ask = Ask {
        key: String::new(),
        cluster: "c".into(),
        account: "a".into(),
        partition: "gpu".into(),
        namespace: String::new(),
        user: String::new(),
        model: String::new(),
        gpus: 1,
        time_ns: S,
        lease_ns: LEASE_NS,
        subject: None,
        details: BTreeMap::new(),
        ..Ask::default()
    };
    Hold {
        id: 1,
        transaction: [0xab; 16],
        account: 1,
        ask,
        subject: None,
        cost_nanos: Some(10),
        amount_nanos: 12,
        charged_nanos: 0,
        from_ns: 0,
        until_ns: 100,
        state: State::Open,
        refusal: None,
        available_nanos: None,
        found: Found::default(),
        created_ns: 0,
        ended_ns: 0,
    }
}

#[test]
fn a_hold_reserves_what_its_job_was_not_charged_yet() {
    let mut hold = hold();
    assert_eq!((hold.reserved_nanos(), hold.overrun_nanos()), (12, 0));
    hold.charged_nanos = 5;
    assert_eq!((hold.reserved_nanos(), hold.overrun_nanos()), (7, 0));
    hold.charged_nanos = 20;
    assert_eq!((hold.reserved_nanos(), hold.overrun_nanos()), (0, 8), "never less than nothing");
    hold.charged_nanos = -1;
    assert_eq!(hold.reserved_nanos(), 13, "what was taken back again may be charged again");
}

#[test]
fn a_hold_ends_once() {
    for state in [State::Settled, State::Voided, State::Expired] {
        let mut hold = hold();
        assert_eq!(hold.end(state, 50), Ok(true));
        assert_eq!((hold.reserved_nanos(), hold.ended_ns), (0, 50));
        assert_eq!(hold.end(state, 60), Ok(false));
        assert_eq!(hold.ended_ns, 50);
        for other in
            [State::Settled, State::Voided, State::Expired].into_iter().filter(|other| *other != state)
        {
            let error = hold.end(other, 70).unwrap_err().to_string();
            assert!(error.contains(&format!("is {} already", state.name())), "{error}");
        }
    }
}

#[test]
fn a_hold_is_left_behind_once_nothing_was_heard_of_it_for_long_enough() {
    let silent = Hold { until_ns: 100 + LEASE_NS, ..hold() };
    assert_eq!(silent.heard_ns(), 100);
    assert_eq!(silent.orphaned(149, 50, false), None, "something was heard within that time");
    assert_eq!(silent.orphaned(150, 50, false), Some(State::Expired), "nobody said what it is for");
    let bound = Hold { subject: Some(Subject::Job("7".into())), ..silent };
    assert_eq!(bound.orphaned(150, 50, false), None, "its job may wait");
    assert_eq!(bound.orphaned(150, 50, true), Some(State::Expired));
    let ran = Hold { charged_nanos: 5, ..bound };
    assert_eq!(ran.orphaned(150, 50, false), Some(State::Settled));
    assert_eq!(Hold { state: State::Voided, ..ran }.orphaned(150, 50, true), None);
}

#[test]
fn a_transactions_id_reads_back_and_nothing_else_does() {
    let id = hold().transaction_id();
    assert_eq!(transaction(&id), Some([0xab; 16]));
    for text in
        ["", "txn_", &id[1..], &id[..35], &format!("{id}0"), &id.replace("ab", "xy"), "txn_ééééééééééééééée"]
    {
        assert_eq!(transaction(text), None, "{text}");
    }
}

#[test]
fn a_field_that_is_wrong_is_named() {
    let good = hold().ask;
    assert_eq!(good.check(), Ok(()));
    let long = "x".repeat(257);
    for (ask, field) in [
        (Ask { account: String::new(), ..good.clone() }, "account"),
        (Ask { key: long.clone(), ..good.clone() }, "idempotency_key"),
        (Ask { lease_ns: 1, ..good.clone() }, "lease_seconds"),
        (Ask { partition: "a\0".into(), ..good.clone() }, "partition"),
        (Ask { subject: Some(Subject::Pod("\0".into())), ..good.clone() }, "job_id"),
        (Ask { subject: Some(Subject::Job(String::new())), ..good.clone() }, "job_id"),
        (Ask { details: [("a".to_owned(), "x".repeat(9000))].into(), ..good.clone() }, "job_details"),
        (Ask { overdraft: "x".repeat(257), ..good.clone() }, "overdraft"),
        (Ask { escrow: Escrow::Lease, overdraft: "x".into(), ..good.clone() }, "escrow"),
        (Ask { escrow: Escrow::From { transaction: [0; 16], amount_nanos: -1 }, ..good }, "escrow_amount"),
    ] {
        let error = ask.check().unwrap_err().to_string();
        assert!(error.starts_with(&format!("{field}: ")), "{error}");
    }
}
