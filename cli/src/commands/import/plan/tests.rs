//! What moves, and what is named because it does not.

use super::*;

const S: i128 = 1_000_000_000;

fn rows(values: &Value) -> Option<Vec<Box<RawValue>>> {
    serde_json::from_str(&values.to_string()).unwrap()
}

fn account(id: i64, name: &str, limit: f64, used: f64, held: f64) -> Value {
    json!({
        "id": id, "slurm_account": name, "name": name, "budget_limit": limit, "budget_used": used, "budget_held": held,
        "has_incremental_budget": false, "start_date": "2026-01-01T00:00:00Z", "end_date": "2027-01-01T00:00:00Z",
        "status": "active",
    })
}

fn transaction(id: &str, kind: &str, amount: f64, more: &Value) -> Value {
    let mut row = json!({
        "id": 1, "account_id": 1, "transaction_id": id, "type": kind, "amount": amount, "description": "",
        "status": "completed", "created_at": "2026-05-01T00:00:00Z",
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        row[field] = value.clone();
    }
    row
}

fn names(items: &[Item]) -> Vec<&str> {
    items.iter().map(|item| item.name.as_str()).collect()
}

#[test]
fn what_is_left_of_an_account_moves_and_of_its_holds_those_that_nothing_has_ended() {
    let none = json!({});
    let transactions = json!([
        transaction("txn_1_1", "hold", 12.0, &json!({ "job_id": "7" })),
        transaction("txn_1_2", "charge", 10.0, &json!({ "job_id": "7" })),
        transaction("txn_2_1", "hold", 24.0, &none),
        transaction("txn_2_2", "refund", 4.0, &json!({ "description": "Refund of txn_2_1." })),
        transaction("txn_3_1", "hold", 36.5, &json!({ "job_id": 9 })),
        transaction("txn_4_1", "hold", 1.0, &json!({ "status": "failed" })),
        transaction("txn_5_1", "hold", 2.0, &json!({ "account_id": 8 })),
        // Of another account's job with that number.
        transaction("txn_6_1", "charge", 2.0, &json!({ "account_id": 2, "job_id": "9" })),
        // What failed has ended nothing.
        transaction("txn_7_1", "charge", 2.0, &json!({ "job_id": "9", "status": "failed" })),
    ]);
    let source = Source {
        accounts: rows(&json!([
            account(1, "physics", 1000.0, 250.25, 72.5),
            account(2, "over", 1.0, 1.5, 0.0)
        ])),
        transactions: rows(&transactions),
        ..Source::default()
    };
    let plan = Plan::of(&source, Some("c"), &[]);
    assert_eq!(names(&plan.holds), ["txn_3_1"]);
    let hold: Value = serde_json::from_str(&plan.holds[0].body).unwrap();
    assert_eq!(
        (&hold["idempotency_key"], &hold["amount"], &hold["job_id"], &hold["cluster"]),
        (&json!("asbb:txn_3_1"), &json!("36.500000000"), &json!("9"), &json!("c"))
    );
    let moved = &plan.accounts[0];
    assert_eq!(moved.body["budget_limit"], "749.750000000");
    assert!(moved.body["description"].as_str().unwrap().starts_with(MARK), "{}", moved.body);
    // 36 of what it says that it holds is of jobs that were reconciled.
    assert_eq!((moved.before(), moved.after()), (677_250_000_000, 713_250_000_000));
    assert_eq!(moved.after() - moved.before(), moved.held - moved.open);
    let refused: Vec<(&str, &str)> =
        plan.refused.iter().map(|refused| (refused.what, refused.name.as_str())).collect();
    assert_eq!(refused, [("hold", "txn_5_1"), ("account", "over")]);
}

#[test]
fn parts_that_are_still_to_come_are_moved_as_a_schedule_of_their_own() {
    let mut incremental = account(1, "a", 300.0, 50.0, 0.0);
    incremental["has_incremental_budget"] = json!(true);
    let mut lost = account(2, "b", 300.0, 0.0, 0.0);
    lost["end_date"] = json!("0001-01-01T00:00:00Z");
    lost["has_incremental_budget"] = json!(true);
    let schedule = |account: i64, status: &str, left: f64| {
        json!({
            "id": 1, "account_id": account, "total_budget": 600.0, "allocation_amount": 100.0, "status": status,
            "allocation_frequency": "monthly", "start_date": "2026-01-01T00:00:00Z", "auto_allocate": true,
            "next_allocation_date": "2026-04-01T00:00:00Z", "allocated_to_date": 300.0, "remaining_budget": left,
        })
    };
    let schedules =
        json!([schedule(1, "paused", 250.0), schedule(1, "active", 50.0), schedule(2, "completed", 0.0)]);
    let source = Source {
        accounts: rows(&json!([incremental, lost])),
        allocations: rows(&schedules),
        ..Source::default()
    };
    let plan = Plan::of(&source, None, &[]);
    let (first, paused) = &plan.accounts[0].schedules[0];
    assert_eq!(
        (&first["total_budget"], &first["allocation_amount"], &first["start_date"], paused),
        (&json!("250.000000000"), &json!("100.000000000"), &json!("2026-04-01T00:00:00Z"), &true)
    );
    assert_eq!(
        plan.accounts[0].schedules[1].0["allocation_amount"], "50.000000000",
        "no part is more than is left"
    );
    assert_eq!(plan.accounts[1].body.get("end_date"), None, "it has none");
    assert_eq!(plan.refused[0].what, "schedule");
    assert_eq!(plan.accounts[1].after(), 300 * S, "what has come is moved all the same");
}

#[test]
fn rows_and_files_that_are_wrong_are_named_and_the_others_move() {
    let mut odd = account(3, "c", 1.0, 0.0, 0.0);
    odd["status"] = json!("deleted");
    let good = json!({ "job_id": "7", "account": "physics", "actual_cost": 3.25, "export_time": "2026-05-01T00:00:00Z" });
    let source = Source {
        accounts: rows(&json!([{ "slurm_account": "a" }, 7, account(2, "b", 5.0, 1e-7, 0.0), odd])),
        transactions: rows(&json!([{ "type": "hold", "amount": "much", "transaction_id": "txn_1" }])),
        grants: rows(&json!([
            { "grant_number": "NSF-1", "internal_project_code": "b", "id": 7, "status": "completed", "cost_center": null },
            {},
            null,
            { "grant_number": "NSF-2", "internal_project_code": "nobody" },
            { "grant_number": "NSF-3", "internal_project_code": "b", "status": "cancelled" },
        ])),
        job_files: vec![
            ("job-7".to_owned(), Ok(good.to_string())),
            ("job-8".to_owned(), Ok("{".to_owned())),
            ("job-9".to_owned(), Err("is larger".to_owned())),
        ],
        ..Source::default()
    };
    let plan = Plan::of(&source, None, &[]);
    assert_eq!(plan.accounts.iter().map(|of| of.name.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(plan.accounts[0].body["budget_limit"], "4.999999900");
    assert_eq!((names(&plan.grants), names(&plan.jobs)), (vec!["NSF-1"], vec!["7"]));
    assert_eq!(plan.grants[0].body, r#"{"account":"b","grant_number":"NSF-1","internal_project_code":"b"}"#);
    let refused: Vec<String> =
        plan.refused.iter().map(|refused| format!("{} {}", refused.what, refused.name)).collect();
    let expected = [
        "account accounts[0]",
        "account accounts[1]",
        "hold transactions[0]",
        "account c",
        "grant grants[1]",
        "grant grants[2]",
        "grant NSF-2",
        "grant NSF-3",
        "job job-8",
        "job job-9",
    ];
    assert_eq!(refused, expected);
    assert!(plan.refused[2].reason.contains("\"much\" is not an amount"), "{:?}", plan.refused[2]);
}
