//! Accounts and holds as their clients see them.

use serde_json::json;

use super::*;

/// Jobs that are reported, and what else checks tell.
mod asbx;
/// Requests as existing clients write them.
mod clients;

impl Site {
    async fn call(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request =
            Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body(), 1 << 22).await.unwrap();
        Answer { status, headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    async fn account(&self, body: Value) -> Answer {
        self.call(&self.operator, "POST", "/api/v1/accounts", body).await
    }

    /// So many seconds after 1970.
    fn at(&self, seconds: i64) {
        let now_ns = seconds * 1_000_000_000;
        let reading = Reading { wall_ns: now_ns, monotonic_ns: now_ns, boot_ns: now_ns };
        write_simulated(self.files.1.as_file(), reading).unwrap();
    }

    async fn check(&self, body: Value) -> Answer {
        self.call(&self.gate, "POST", "/api/v1/budget/check", body).await
    }
}

fn physics() -> Value {
    json!({
        "slurm_account": "physics", "name": "Physics", "description": "All of it", "budget_limit": 100.00,
        "start_date": "1970-01-01T00:00:00Z", "end_date": "1971-01-01T00:00:00Z", "has_incremental_budget": false
    })
}

/// As a plugin sends it: 2 GPUs for an hour, 8 at 4 an hour, and 9.60 with the buffer.
fn submit() -> Value {
    json!({
        "account": "physics", "partition": "gpu", "nodes": 1, "cpus": 8, "gpus": 2, "memory": "64GB",
        "wall_time": "01:00:00", "user_id": "ada", "job_script": "", "job_details": { "job_name": "qcd" }
    })
}

#[tokio::test]
async fn a_job_is_checked_held_and_reconciled_under_the_names_that_plugins_use() {
    let site = site();
    let made = site.account(physics()).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let answer: Value = site.check(submit()).await.json();
    for (field, expected) in [
        ("available", json!(true)),
        ("estimated_cost", json!(8.0)),
        ("hold_amount", json!(9.6)),
        ("budget_remaining", json!(90.4)),
    ] {
        assert_eq!(answer[field], expected, "{field}: {answer}");
    }
    assert_eq!(answer["exact"]["budget_remaining"], "90.400000000");
    let id = answer["transaction_id"].as_str().unwrap();
    let account: Value = site.call(&site.reader, "GET", "/api/v1/accounts/physics", Value::Null).await.json();
    assert_eq!(
        [&account["budget_limit"], &account["budget_used"], &account["budget_held"]],
        [100.0, 0.0, 9.6]
    );
    assert_eq!(
        (&account["exact"]["budget_available"], &account["status"]),
        (&json!("90.400000000"), &json!("active"))
    );

    let reconcile = json!({ "job_id": "7", "actual_cost": 3.5, "transaction_id": id });
    let mut answers = Vec::new();
    for _ in 0..2 {
        let answer = site.call(&site.gate, "POST", "/api/v1/budget/reconcile", reconcile.clone()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        answers.push(answer.json::<Value>());
    }
    assert_eq!(answers[0], answers[1], "twice is once");
    assert_eq!(answers[0]["original_hold"], 9.6);
    assert_eq!((&answers[0]["actual_charge"], &answers[0]["refund_amount"]), (&json!(0.0), &json!(9.6)));
    assert!(answers[0]["message"].as_str().unwrap().contains("the caller reported 3.500000000"));
    let account: Value = site.call(&site.reader, "GET", "/api/v1/accounts/physics", Value::Null).await.json();
    assert_eq!(account["budget_held"], 0.0, "a settled hold reserves nothing");
    let path = "/api/v1/transactions?account=physics&job_id=7&status=completed&type=hold";
    let listed: Vec<Value> = site.call(&site.reader, "GET", path, Value::Null).await.json();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["transaction_id"], &listed[0]["metadata"]["job_name"]),
        (&json!(id), &json!("qcd"))
    );
    let path = "/api/v1/transactions?type=adjustment";
    assert_eq!(site.call(&site.reader, "GET", path, Value::Null).await.body, "[]");
}

#[tokio::test]
async fn too_little_is_an_answer_and_an_account_that_may_not_spend_is_402() {
    let site = site();
    site.account(physics()).await;
    let much = |wall_time: &str| {
        let mut body = submit();
        body["wall_time"] = json!(wall_time);
        body
    };
    let answer = site.check(much("1-00:00:00")).await;
    let body: Value = answer.json();
    assert_eq!((answer.status, &body["available"]), (StatusCode::OK, &json!(false)));
    assert_eq!((&body["reason"], &body["estimated_cost"]), (&json!("insufficient_budget"), &json!(192.0)));
    assert_eq!(body.get("transaction_id"), None);
    let limits = json!({ "limits": [{ "amount": "9", "period": { "kind": "calendar", "unit": "month" }, "partition": "gpu" }] });
    let updated = site.call(&site.operator, "PUT", "/api/v1/accounts/physics", limits).await;
    let account: Value = updated.json();
    assert_eq!(
        (&account["budget_limit"], &account["limits"][1]["available"]),
        (&json!(100.0), &json!("9.000000000"))
    );
    assert_eq!(site.check(submit()).await.error().1, "PARTITION_LIMIT_EXCEEDED");
    site.call(&site.operator, "PUT", "/api/v1/accounts/physics", json!({ "status": "suspended" })).await;
    let answer = site.check(submit()).await;
    let (status, code, ..) = answer.error();
    assert_eq!((status, code.as_str()), (402, "ACCOUNT_INACTIVE"));
    let body: Value = answer.json();
    assert_eq!(body["request_id"], body["error"]["request_id"]);
    assert_eq!(body["timestamp"], "1970-01-01T00:16:40Z");
}

#[tokio::test]
async fn roles_keep_to_what_is_theirs() {
    let site = site();
    site.account(physics()).await;
    for (token, method, path, body) in [
        (&site.reader, "POST", "/api/v1/budget/check", submit()),
        (&site.reader, "POST", "/api/v1/budget/reconcile", json!({})),
        (&site.reader, "POST", "/api/v1/holds/txn_0/void", Value::Null),
        (&site.gate, "POST", "/api/v1/accounts", physics()),
        (&site.gate, "PUT", "/api/v1/accounts/physics", json!({})),
        (&site.gate, "DELETE", "/api/v1/accounts/physics", Value::Null),
        (&site.node, "GET", "/api/v1/accounts", Value::Null),
    ] {
        assert_eq!(
            site.call(token, method, path, body).await.status,
            StatusCode::FORBIDDEN,
            "{method} {path}"
        );
    }
    assert_eq!(site.check(submit()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn what_is_wrong_is_named_and_changes_nothing() {
    let site = site();
    site.account(physics()).await;
    let check = |field: &str, value: Value| {
        let mut body = submit();
        body[field] = value;
        body
    };
    for (body, field) in [
        (check("wall_time", json!("soon")), "wall_time"),
        (check("gpus", json!("gpu:a100:four")), "gpus"),
        (check("nodes", json!(0)), "nodes"),
        (json!({ "wall_time": "1", "partition": "gpu" }), "account"),
        (check("lease_seconds", json!(1)), "lease_seconds"),
    ] {
        let (status, _, found, message) = site.check(body).await.error();
        assert_eq!((status, found.as_deref()), (400, Some(field)), "{message}");
    }
    for body in [
        json!({}),
        json!([]),
        json!(["physics", "gpu", 1, 1, "1:00"]),
        json!({ "account": "physics" }),
        json!({ "account": 1, "wall_time": "1" }),
    ] {
        assert_eq!(site.check(body).await.error().0, 400);
    }
    assert_eq!(site.check(check("account", json!("chemistry"))).await.error().0, 404);
    let mut twice = physics();
    assert_eq!(site.account(twice.clone()).await.error().0, 409);
    twice["slurm_account"] = json!("other");
    twice["budget_limit"] = json!("1e3");
    assert_eq!(site.account(twice.clone()).await.error().0, 400);
    twice["budget_limit"] = json!(0.000000001);
    twice["bindings"] = json!([{ "account": "physics" }]);
    let (status, _, _, message) = site.account(twice).await.error();
    assert!(status == 409 && message.contains("\"physics\"") && message.contains("\"other\""), "{message}");
    for (method, path) in [
        ("GET", "/api/v1/accounts/x"),
        ("DELETE", "/api/v1/accounts/x"),
        ("GET", "/api/v1/transactions?account=x"),
    ] {
        assert_eq!(
            site.call(&site.operator, method, path, Value::Null).await.error().0,
            404,
            "{method} {path}"
        );
    }
    let listed: Vec<Value> = site.call(&site.reader, "GET", "/api/v1/accounts", Value::Null).await.json();
    assert_eq!(listed.len(), 1);
    let none: Vec<Value> =
        site.call(&site.reader, "GET", "/api/v1/accounts?offset=1", Value::Null).await.json();
    assert_eq!(none.len(), 0);
}

#[tokio::test]
async fn a_request_under_a_key_is_one_hold_and_another_under_it_a_conflict() {
    let site = site();
    site.account(physics()).await;
    let keyed = |wall_time: &str| {
        let mut body = submit();
        (body["idempotency_key"], body["wall_time"]) = (json!("k1"), json!(wall_time));
        body
    };
    let first = site.check(keyed("01:00:00")).await;
    assert_eq!(site.check(keyed("01:00:00")).await.body, first.body);
    assert_eq!(site.check(keyed("02:00:00")).await.error().0, 409);
    let id = first.json::<Value>()["transaction_id"].as_str().unwrap().to_owned();
    let post = |what: &str, body: Value| {
        let path = format!("/api/v1/holds/{id}/{what}");
        let site = &site;
        async move { site.call(&site.gate, "POST", &path, body).await }
    };
    assert_eq!(post("bind", json!({ "job_id": "7" })).await.json::<Value>()["job_id"], "7");
    assert_eq!(post("bind", json!({ "job_id": "8" })).await.error().0, 409);
    let tasks: Value = post("tasks", json!({ "job_ids": ["7", "8", "9"] })).await.json();
    assert_eq!(
        (&tasks["tasks"], &tasks["elsewhere"], &tasks["job_id"]),
        (&json!(2), &json!([]), &json!("7"))
    );
    assert_eq!(post("tasks", json!({ "job_ids": [] })).await.error().2.as_deref(), Some("job_ids"));
    assert_eq!(post("tasks", json!({})).await.error().0, 400);
    let path = format!("/api/v1/holds/{id}/tasks");
    assert_eq!(site.call(&site.reader, "POST", &path, json!({ "job_ids": ["9"] })).await.error().0, 403);
    let of_task: Vec<Value> = site.get("/api/v1/transactions?job_id=9").await.json();
    assert_eq!(of_task[0]["transaction_id"], id.as_str());
    assert_eq!(post("renew", Value::Null).await.status, StatusCode::OK);
    let close = site.call(&site.operator, "DELETE", "/api/v1/accounts/physics", Value::Null).await;
    assert_eq!(close.error().0, 409, "it has an open hold");
    assert_eq!(post("void", Value::Null).await.json::<Value>()["state"], "voided");
    assert_eq!(site.check(keyed("01:00:00")).await.body, first.body, "as it was answered");
    let close = site.call(&site.operator, "DELETE", "/api/v1/accounts/physics", Value::Null).await;
    assert_eq!(close.status, StatusCode::NO_CONTENT);
    let account: Value = site.call(&site.reader, "GET", "/api/v1/accounts/physics", Value::Null).await.json();
    assert_eq!(account["status"], "closed");
}

#[tokio::test]
async fn balances_are_metrics_and_what_is_nobodys_is_one() {
    let site = site();
    let limits = json!([{ "amount": "50", "period": { "kind": "rolling", "days": 7 }, "partition": "gpu" }]);
    site.account(json!({ "slurm_account": "physics", "budget_limit": 100, "limits": limits })).await;
    site.account(json!({ "slurm_account": "free" })).await;
    site.check(submit()).await;
    let text = site.get("/metrics").await.body;
    for line in [
        r#"tonnage_budget_limit_dollars{account="physics",model="",partition="",period="lifetime"} 100"#,
        r#"tonnage_budget_available_dollars{account="physics",model="",partition="",period="lifetime"} 90.4"#,
        r#"tonnage_budget_held_dollars{account="physics",model="",partition="gpu",period="rolling_7d"} 9.6"#,
        r#"tonnage_budget_charged_dollars{account="free",model="",partition="",period="lifetime"} 0"#,
        r#"tonnage_budget_accounts{standing="active"} 2"#,
        "tonnage_budget_open_holds 1",
        "tonnage_budget_unassigned_dollars 0.333333333",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains(r#"tonnage_budget_limit_dollars{account="free""#), "{text}");
}

#[tokio::test]
async fn a_hold_is_shown_recovered_and_listed_by_what_became_of_it() {
    let site = site();
    site.account(physics()).await;
    let held: Value = site.check(submit()).await.json();
    assert_eq!(held["details"]["hold_percentage"], 1.2);
    let id = held["transaction_id"].as_str().unwrap();
    let one = async |id: &str| site.get(&format!("/api/v1/holds/{id}")).await;
    let shown: Value = one(id).await.json();
    assert_eq!((&shown["state"], &shown["amount"]), (&json!("open"), &json!(9.6)));
    assert_eq!(one(&format!("txn_{}", "0".repeat(32))).await.status, StatusCode::NOT_FOUND);
    assert_eq!(one("7").await.error().2.as_deref(), Some("transaction_id"));

    let recover = async |body: Value| site.call(&site.operator, "POST", "/api/v1/holds/recover", body).await;
    let answer = site.call(&site.gate, "POST", "/api/v1/holds/recover", json!({})).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let nothing: Value = recover(json!({})).await.json();
    assert_eq!((&nothing["recovered_count"], &nothing["released"]), (&json!(0), &json!("0.000000000")));
    assert_eq!(recover(json!({ "silent_seconds": 1 })).await.error().2.as_deref(), Some("silent_seconds"));

    let listed = async |kind: &str| -> Vec<Value> {
        site.get(&format!("/api/v1/transactions?account=physics&type={kind}")).await.json()
    };
    assert_eq!((listed("hold").await.len(), listed("refund").await.len()), (1, 0));
    let reconcile = json!({ "job_id": "7", "actual_cost": 0, "transaction_id": id });
    site.call(&site.gate, "POST", "/api/v1/budget/reconcile", reconcile).await;
    let refund = &listed("refund").await[0];
    assert_eq!((&refund["type"], &refund["amount"]), (&json!("refund"), &json!(9.6)));
    assert_eq!(listed("charge").await, [] as [Value; 0], "its job was charged nothing");
}

#[tokio::test]
async fn a_burn_rate_is_that_of_whole_days_and_what_is_not_known_is_null() {
    let site = site();
    let month = json!([{ "amount": 31, "period": { "kind": "calendar", "unit": "month" } }]);
    let ml = json!({ "slurm_account": "ml", "limits": month, "bindings": [{ "namespace": "ml", "from": "1970-01-01" }] });
    assert_eq!(site.account(ml).await.status, StatusCode::CREATED);
    site.account(json!({ "slurm_account": "free" })).await;
    let early: Value = site.get("/api/v1/burn-rate/ml").await.json();
    assert_eq!(
        (&early["current_metrics"]["daily_spend_rate"], early.get("projection")),
        (&Value::Null, None)
    );

    // Slot 0 cost a third of a dollar; it is noon of the fourth day, and the account was made in the first.
    site.at(3 * 86_400 + 43_200);
    let answer: Value = site.get("/api/v1/burn-rate/ml?period=7d").await.json();
    let now = &answer["current_metrics"];
    for (field, expected) in [
        ("daily_spend_rate", json!(0.0)),
        ("daily_expected_rate", json!(1.0)),
        ("rolling_7day_average", json!(0.0)),
        ("cumulative_spend", json!(0.333_333_333)),
        ("cumulative_expected", json!(3.5)),
        ("budget_health_score", json!(100.0)),
        ("budget_remaining_amount", json!(30.666_666_667)),
        ("time_remaining_days", json!(27)),
        ("burn_rate_status", json!("UNDERSPENDING")),
        ("budget_health_status", json!("HEALTHY")),
    ] {
        assert_eq!(now[field], expected, "{field}: {answer}");
    }
    let days = answer["historical_data"].as_array().unwrap();
    assert_eq!((days.len(), &days[0]["date"]), (2, &json!("1970-01-02T00:00:00Z")));
    let of_day = |field: &str| days[1][field].clone();
    assert_eq!(
        (of_day("cumulative_spend"), of_day("cumulative_expected")),
        (json!(0.333_333_333), json!(3.0))
    );
    assert_eq!(answer["projection"]["projected_depletion_date"], Value::Null);
    assert_eq!(answer["projection"]["projected_final_spend"], json!(0.333_333_333));
    let without: Value =
        site.get("/api/v1/burn-rate/ml?include_projection=false&include_alerts=false").await.json();
    assert_eq!((without.get("projection"), without.get("alerts")), (None, None));

    let scores: Vec<Value> = site.get("/api/v1/analytics/health-score").await.json();
    assert_eq!(scores.len(), 1, "an account without a limit has no score");
    assert_eq!((&scores[0]["account"], &scores[0]["budget_health_score"]), (&json!("ml"), &json!(100.0)));
    assert_eq!(site.get("/api/v1/burn-rate/free").await.error().2.as_deref(), Some("account"));
    assert_eq!(site.get("/api/v1/burn-rate/none").await.status, StatusCode::NOT_FOUND);
    assert_eq!(site.get("/api/v1/burn-rate/ml?period=8d").await.error().2.as_deref(), Some("period"));
    let usage: Value = site.get("/api/v1/usage?window=1970-01").await.json();
    let of = |name: &str| {
        let mut rows = usage["rows"].as_array().unwrap().iter();
        rows.find(|row| row["key"]["budget"] == name).map(|row| row["cost"].clone())
    };
    assert_eq!(of("ml"), Some(json!("0.333333333")), "{usage}");
    assert_eq!(of("__unassigned__"), None);
}

#[tokio::test]
async fn a_budget_comes_in_parts_under_the_names_that_clients_use() {
    let site = site();
    let schedule = json!({ "total_budget": 600, "allocation_amount": 100.00, "allocation_frequency": "monthly",
        "start_date": "1970-01-01T00:00:00Z", "auto_allocate": true });
    let mut body = json!({ "slurm_account": "physics", "name": "Physics", "budget_limit": 500,
        "has_incremental_budget": true, "allocation_schedule": schedule });
    assert_eq!(site.account(body.clone()).await.error().2.as_deref(), Some("budget_limit"));
    body["budget_limit"] = json!(600);
    let account: Value = site.account(body).await.json();
    assert_eq!((&account["has_incremental_budget"], &account["budget_limit"]), (&json!(true), &json!(100.0)));
    assert_eq!(account["next_allocation_date"], "1970-02-01T00:00:00Z");
    site.account(json!({ "slurm_account": "chemistry" })).await;
    let by_hand = json!({ "account": "chemistry", "total_budget": 90, "allocation_amount": 40, "allocation_frequency": "daily",
        "start_date": "1969-12-31", "auto_allocate": false });
    let send = async |path: &str, body: Value| site.call(&site.operator, "POST", path, body).await;
    let wrong = send("/api/v1/allocations", by_hand.clone()).await;
    assert_eq!(wrong.error().2.as_deref(), Some("start_date"));
    let mut good = by_hand;
    good["start_date"] = json!("1970-01-01");
    let made: Value = send("/api/v1/allocations", good).await.json();
    assert_eq!(
        (&made["due_amount"], &made["allocated_to_date"], &made["status"]),
        (&json!(40.0), &json!(0.0), &json!("active"))
    );
    let id = made["id"].as_i64().unwrap();

    // Three months in which nobody asked for anything.
    site.at(91 * 86_400);
    let account: Value = site.get("/api/v1/accounts/physics").await.json();
    assert_eq!((&account["budget_limit"], &account["total_allocated"]), (&json!(400.0), &json!(400.0)));
    let process = async |body: Value| -> Value { send("/api/v1/allocations/process", body).await.json() };
    let dry = process(json!({ "dry_run": true })).await;
    assert_eq!(
        (&dry["processed_count"], &dry["total_allocated"], &dry["dry_run"]),
        (&json!(1), &json!(90.0), &json!(true))
    );
    let done = process(json!({ "schedule_id": id })).await;
    assert_eq!(
        (&done["allocations"][0]["allocated_amount"], &done["allocations"][0]["schedule_id"]),
        (&json!(90.0), &json!(id))
    );
    assert_eq!(process(json!({})).await["processed_count"], 0, "once");
    let shown: Value = site.get(&format!("/api/v1/allocations/{id}")).await.json();
    assert_eq!((&shown["status"], shown["history"].as_array().unwrap().len()), (&json!("completed"), 3));

    let all: Vec<Value> = site.get("/api/v1/allocations?account=physics").await.json();
    let physics = format!("/api/v1/allocations/{}", all[0]["id"]);
    let paused: Value = send(&format!("{physics}/pause"), Value::Null).await.json();
    assert_eq!((&paused["status"], &paused["next_allocation_date"]), (&json!("paused"), &Value::Null));
    assert_eq!(send(&format!("{physics}/pause"), Value::Null).await.status, StatusCode::CONFLICT);
    assert_eq!(send("/api/v1/allocations/7/pause", Value::Null).await.status, StatusCode::NOT_FOUND);
    let reader = site.call(&site.reader, "POST", &format!("{physics}/resume"), Value::Null).await;
    assert_eq!(reader.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn an_advisor_hears_how_a_budget_stands_under_the_names_of_its_client_and_its_server() {
    let site = site();
    site.account(physics()).await;
    site.account(json!({ "slurm_account": "free" })).await;
    let ask = async |path: &str, body: Value| {
        site.call(&site.reader, "POST", &format!("/api/v1/asba/{path}"), body).await
    };
    site.check(submit()).await;
    let body = json!({ "account": "physics", "grant_number": "", "user_id": "ada" });
    let status: Value = ask("budget-status", body.clone()).await.json();
    for (field, expected) in [
        ("budget_limit", json!(100.0)),
        ("budget_held", json!(9.6)),
        ("budget_available", json!(90.4)),
        ("budget_utilization", json!(0.0)),
        ("health_score", json!(100)),
        ("days_remaining", json!(364)),
        ("risk_level", Value::Null),
        ("can_afford_aws", json!(true)),
        ("decision", json!("EITHER")),
    ] {
        assert_eq!(status[field], expected, "{field}: {status}");
    }
    let afford = async |cost: Value| -> Value {
        ask("affordability-check", json!({ "account": "physics", "estimated_aws_cost": cost })).await.json()
    };
    let enough = afford(json!(45.2)).await;
    assert_eq!((&enough["affordable"], &enough["budget_impact"]), (&json!(true), &json!(50.0)));
    let much = afford(json!(90.41)).await;
    assert_eq!((&much["affordable"], &much["recommended_decision"]), (&json!(false), &json!("LOCAL")));
    site.call(&site.operator, "PUT", "/api/v1/accounts/physics", json!({ "status": "suspended" })).await;
    let suspended: Value = ask("budget-status", body).await.json();
    assert_eq!(suspended["decision"], "EMERGENCY_ONLY");
    assert_eq!(afford(json!(1)).await["affordable"], false);
    assert_eq!(
        ask("budget-status", json!({ "account": "free" })).await.error().2.as_deref(),
        Some("account")
    );
    let none = ask("affordability-check", json!({ "account": "physics" })).await;
    assert_eq!(none.error().2.as_deref(), Some("estimated_aws_cost"));
}

#[tokio::test]
async fn an_overdraft_is_held_without_asking_and_an_escrow_is_spent_by_its_id() {
    let site = site();
    site.account(physics()).await;
    let with = |more: Value| {
        let mut body = submit();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let escrow: Value = site.check(with(json!({ "escrow": true, "lease_seconds": 60 }))).await.json();
    let id = escrow["transaction_id"].as_str().unwrap().to_owned();
    let drawn = with(json!({ "escrow_id": id, "escrow_amount": "4.5", "job_id": "7" }));
    let drawn: Value = site.check(drawn).await.json();
    assert_eq!((&drawn["hold_amount"], &drawn["budget_remaining"]), (&json!(4.5), &json!(90.4)), "{drawn}");
    let void = site.call(&site.gate, "POST", &format!("/api/v1/holds/{id}/void"), Value::Null).await;
    assert_eq!(void.status, StatusCode::CONFLICT, "{}", void.body);
    let overdraft =
        with(json!({ "overdraft": "the gate could not ask", "wall_time": "100:00:00", "gpus": 8 }));
    let overdraft: Value = site.check(overdraft).await.json();
    assert_eq!((&overdraft["available"], &overdraft["hold_amount"]), (&json!(true), &json!(3840.0)));
    assert!(overdraft["message"].as_str().unwrap().contains("the gate could not ask"), "{overdraft}");
    for (more, field) in [
        (json!({ "escrow_id": id }), "escrow_id"),
        (json!({ "escrow_id": "txn_1", "escrow_amount": 1 }), "transaction_id"),
        (json!({ "escrow": true, "job_id": "7" }), "escrow"),
        (json!({ "escrow_id": id, "escrow_amount": -1 }), "escrow_amount"),
    ] {
        let answer = site.check(with(more)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.body);
        assert!(answer.body.contains(field), "{}", answer.body);
    }
}
