//! Requests as clients of an ASBB write them, whose money is in doubles.

use super::*;

#[tokio::test]
async fn amounts_that_doubles_made_are_taken_to_the_nearest_nano_dollar_and_texts_as_they_are() {
    let site = site();
    let mut body = physics();
    // 0.1 + 0.2, as most programs write it.
    body["budget_limit"] = json!(0.1 + 0.2);
    assert!(body["budget_limit"].to_string().len() > 12, "{body}");
    let account: Value = site.account(body.clone()).await.json();
    assert_eq!(account["exact"]["budget_limit"], "0.300000000", "{account}");
    body["slurm_account"] = json!("other");
    body["budget_limit"] = json!("0.30000000000000004");
    assert_eq!(site.account(body).await.error().0, 400, "a text says what it means");

    let mut check = submit();
    check["wall_time"] = json!("0:30");
    let held: Value = site.check(check).await.json();
    let cost = 31.85 - 0.1 * 3.0;
    let reconcile = json!({ "job_id": "7", "actual_cost": cost, "transaction_id": held["transaction_id"] });
    let settled = site.call(&site.gate, "POST", "/api/v1/budget/reconcile", reconcile).await;
    assert_eq!(settled.status, StatusCode::OK, "{}", settled.body);
    assert!(settled.json::<Value>()["message"].as_str().unwrap().contains("reported 31.550000000"));
    let report = json!({ "job_cost_data": { "job_id": "7", "actual_cost": cost, "local_cost": 1e-7, "aws_cost": cost } });
    let reported: Value = site.call(&site.gate, "POST", "/api/v1/asbx/reconcile", report).await.json();
    assert_eq!(reported["exact"]["reported_cost"], "31.550000000", "{reported}");
    let afford = json!({ "account": "physics", "estimated_cost": 0.1 + 0.2 });
    let afford = site.call(&site.reader, "POST", "/api/v1/asba/affordability-check", afford).await;
    assert_eq!(afford.status, StatusCode::OK, "{}", afford.body);
}

#[tokio::test]
async fn a_field_that_is_wrong_is_named_as_the_request_names_it() {
    let site = site();
    for (field, value) in [
        ("slurm_account", json!("a b")),
        ("name", json!("x".repeat(5000))),
        ("end_date", json!("1970-01-01T00:00:00Z")),
        ("start_date", json!("soon")),
        ("buffer", json!(0.5)),
    ] {
        let mut body = physics();
        body[field] = value;
        let (status, _, found, message) = site.account(body).await.error();
        assert_eq!((status, found.as_deref()), (400, Some(field)), "{message}");
    }
    for (field, value) in [
        ("budget_limit", json!(-1)),
        (
            "limits",
            json!([{ "amount": 1, "period": { "kind": "lifetime" } }, { "amount": 2, "period": { "kind": "lifetime" } }]),
        ),
    ] {
        let mut body = physics();
        body[field] = value;
        let (status, _, found, message) = site.account(body).await.error();
        assert_eq!((status, found.as_deref()), (400, Some(field)), "{message}");
    }
    let mut check = submit();
    check["gpus"] = json!(-1);
    let (status, .., message) = site.check(check).await.error();
    assert!(status == 400 && message.contains("gpus is neither a whole number nor a GRES"), "{message}");
}

#[tokio::test]
async fn an_advisors_client_has_its_own_types_where_it_asks_for_them() {
    let site = site();
    site.account(physics()).await;
    let ask = |path: &'static str, more: Value| {
        let mut body = json!({ "account": "physics", "estimated_cost": 25 });
        more.as_object().unwrap().iter().for_each(|(field, value)| body[field] = value.clone());
        let site = &site;
        async move { site.call(&site.reader, "POST", path, body).await }
    };
    // Now is 1000 s: half an hour is left for it, and an hour is what it takes here.
    let late = json!({
        "estimated_local_time": 60, "job_deadline": "1970-01-01T00:46:40Z", "job_priority": "high", "job_metadata": {},
    });
    let documented = ask("/api/v1/asba/affordability-check", late.clone()).await.json::<Value>();
    let client = ask("/api/v1/asba/affordability-check?compat=asba-client", late).await.json::<Value>();
    assert_eq!(documented["budget_impact"], 25.0, "{documented}");
    for (field, expected) in [
        ("cost_as_percent_of_budget", json!(25.0)),
        ("cost_as_percent_of_remaining", json!(25.0)),
        ("opportunity_cost", Value::Null),
        ("budget_after_cost", json!(75.0)),
    ] {
        assert_eq!(client["budget_impact"][field], expected, "{field}: {client}");
    }
    for (field, expected) in [
        ("affordable", json!(true)),
        ("recommended_decision", json!("AWS")),
        ("decision", json!("AWS")),
        ("confidence_level", Value::Null),
        ("cost_opportunity_ratio", Value::Null),
        ("time_to_deadline", json!(30)),
        ("local_completion_time", json!("1970-01-01T01:16:40Z")),
        ("aws_completion_time", Value::Null),
        ("deadline_risk", json!("HIGH")),
        ("alternative_options", json!([])),
    ] {
        assert_eq!(client[field], expected, "{field}: {client}");
        assert_eq!(documented[field], expected, "{field}: {documented}");
    }
    assert_eq!(client["risk_assessment"]["deadline_risk"], "HIGH", "{client}");
    // In time here, without a deadline, over already, and too dear.
    for (more, decision) in [
        (json!({ "estimated_local_time": 5, "job_deadline": "1970-01-01T00:46:40Z" }), "EITHER"),
        (json!({ "job_deadline": "0001-01-01T00:00:00Z" }), "EITHER"),
        (json!({ "estimated_local_time": 5, "job_deadline": "1970-01-01T00:01:00Z" }), "EITHER"),
        (
            json!({ "estimated_cost": 101, "estimated_local_time": 60, "job_deadline": "1970-01-01T00:46:40Z" }),
            "LOCAL",
        ),
    ] {
        let answer: Value = ask("/api/v1/asba/affordability-check", more.clone()).await.json();
        assert_eq!(answer["recommended_decision"], decision, "{more}: {answer}");
        let action: Value = ask("/api/v1/asba/burst-decision", more.clone()).await.json();
        assert_eq!(action["recommended_action"], "LOCAL", "{more}: {action}");
    }
    for path in ["/api/v1/asba/affordability-check?compat=other", "/api/v1/asba/affordability-check?x=1"] {
        assert_eq!(ask(path, json!({})).await.error().0, 400, "{path}");
    }
}

#[tokio::test]
async fn parts_that_came_and_runs_by_hand_are_metrics() {
    let site = site();
    let mut body = physics();
    body["has_incremental_budget"] = json!(true);
    body["allocation_schedule"] = json!({
        "total_budget": 100, "allocation_amount": 40, "allocation_frequency": "daily", "start_date": "1970-01-01",
        "auto_allocate": false,
    });
    assert_eq!(site.account(body).await.status, StatusCode::CREATED);
    let process = |dry: bool| {
        let site = &site;
        async move {
            site.call(&site.operator, "POST", "/api/v1/allocations/process", json!({ "dry_run": dry })).await
        }
    };
    let shown = || async { site.get("/metrics").await.body };
    let text = shown().await;
    for line in [
        "tonnage_allocation_schedules{standing=\"active\"} 1",
        "tonnage_allocation_parts{way=\"hand\"} 0",
        "tonnage_allocation_due_dollars{account=\"physics\"} 40",
        "tonnage_allocation_next_timestamp_seconds{account=\"physics\"} 86400",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert_eq!(process(true).await.json::<Value>()["exact"]["total_allocated"], "40.000000000");
    let done: Value = process(false).await.json();
    assert_eq!(done["allocations"][0]["exact"]["allocated_amount"], "40.000000000", "{done}");
    assert_eq!(process(false).await.status, StatusCode::OK);
    let none = json!({ "schedule_id": 1 });
    assert_eq!(site.call(&site.operator, "POST", "/api/v1/allocations/process", none).await.error().0, 404);
    let text = shown().await;
    for result in ["allocated", "nothing_due", "dry_run", "failed"] {
        let line = format!("tonnage_allocation_runs_total{{result=\"{result}\"}} 1");
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_request_without_details_or_with_empty_ones_is_answered() {
    let site = site();
    site.account(physics()).await;
    let mut without = submit();
    without.as_object_mut().unwrap().remove("job_details");
    let mut empty = submit();
    empty["job_details"] = json!({});
    for (at, body) in [without, empty].into_iter().enumerate() {
        let held = site.check(body).await;
        assert_eq!(held.status, StatusCode::OK, "{}", held.body);
        let id = held.json::<Value>()["transaction_id"].clone();
        let metadata = if at == 0 { Value::from("") } else { Value::Null };
        let reconcile =
            json!({ "job_id": "", "actual_cost": 0, "transaction_id": id, "job_metadata": metadata });
        let settled = site.call(&site.gate, "POST", "/api/v1/budget/reconcile", reconcile).await;
        assert_eq!(settled.status, StatusCode::OK, "{}", settled.body);
        let shown = site
            .call(&site.reader, "GET", &format!("/api/v1/holds/{}", id.as_str().unwrap()), Value::Null)
            .await;
        assert_eq!(shown.json::<Value>()["metadata"], json!({}), "{}", shown.body);
    }
    let report = json!({ "job_cost_data": { "job_id": 7, "job_metadata": "", "cost_breakdown": {} } });
    assert_eq!(site.call(&site.gate, "POST", "/api/v1/asbx/reconcile", report).await.status, StatusCode::OK);
    // A schedule of which all has come has no next date.
    let mut whole = physics();
    whole["slurm_account"] = json!("whole");
    whole["budget_limit"] = json!(0);
    whole["has_incremental_budget"] = json!(true);
    whole["allocation_schedule"] = json!({
        "total_budget": 5, "allocation_amount": 5, "allocation_frequency": "yearly", "start_date": "1970-01-01",
    });
    let made = site.account(whole).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let made: Value = made.json();
    assert_eq!((&made["budget_limit"], made.get("next_allocation_date")), (&json!(5.0), None), "{made}");
}

#[tokio::test]
async fn no_answer_about_a_budget_is_a_constant() {
    let site = site();
    site.account(physics()).await;
    // The pod of the ledger is its own: it has spent a third.
    let other = json!({
        "slurm_account": "other", "name": "Other", "budget_limit": 2, "start_date": "1970-01-01T00:00:00Z",
        "end_date": "1970-03-01T00:00:00Z", "bindings": [{ "namespace": "ml", "from": "1970-01-01T00:00:00Z" }],
    });
    assert_eq!(site.account(other).await.status, StatusCode::CREATED);
    site.check(submit()).await;
    let ask = |path: &'static str, account: &'static str| {
        let body = json!({ "account": account, "estimated_aws_cost": 1 });
        let site = &site;
        async move { site.call(&site.reader, "POST", path, body).await.json::<Value>() }
    };
    let path = "/api/v1/asba/budget-status";
    let (one, two) = (ask(path, "physics").await, ask(path, "other").await);
    assert_eq!(two["budget_used"], 0.333_333_333, "{two}");
    for field in [
        "account",
        "budget_limit",
        "budget_used",
        "budget_held",
        "budget_available",
        "budget_utilization",
        "grant_end_date",
        "days_remaining",
        "grant_days_remaining",
        "expected_daily_rate",
        "budget_health_score",
        "health_score",
        "health_status",
    ] {
        assert_ne!(one[field], two[field], "{field}: {one} {two}");
    }
    let path = "/api/v1/asba/affordability-check";
    let (one, two) = (ask(path, "physics").await, ask(path, "other").await);
    assert_ne!(one["budget_impact"], two["budget_impact"], "{one} {two}");
    assert_ne!(one["reasoning"], two["reasoning"], "{one} {two}");
    // What nobody measured is null, and no number.
    let before = site.call(&site.reader, "GET", "/api/v1/asbx/status", Value::Null).await.json::<Value>();
    for field in ["average_reconciliation_time", "cost_model_accuracy", "asbx_version", "last_data_import"] {
        assert_eq!(before[field], Value::Null, "{field}: {before}");
    }
}

#[tokio::test]
async fn an_account_that_is_sent_back_as_it_was_answered_stays_as_it_is() {
    let site = site();
    let mut body = physics();
    body["limits"] = json!([{ "amount": "9", "period": { "kind": "calendar", "unit": "month" } }]);
    site.account(body).await;
    site.at(1000);
    let put = |body: Value| {
        let site = &site;
        async move { site.call(&site.operator, "PUT", "/api/v1/accounts/physics", body).await }
    };
    // One of its bindings has ended.
    put(json!({ "bindings": [{ "account": "physics", "partition": "gpu" }] })).await;
    let get = || site.call(&site.reader, "GET", "/api/v1/accounts/physics", Value::Null);
    let first: Value = get().await.json();
    assert_eq!(
        (first["limits"].as_array().unwrap().len(), first["bindings"].as_array().unwrap().len()),
        (2, 2)
    );
    for sent in [
        first.clone(),
        first.clone(),
        json!({ "limits": first["limits"] }),
        json!({ "bindings": first["bindings"] }),
    ] {
        let answer = put(sent).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        let mut again: Value = answer.json();
        again["updated_at"] = first["updated_at"].clone();
        assert_eq!(again, first);
    }
    // And an end is taken away again.
    let endless: Value = put(json!({ "end_date": "" })).await.json();
    assert_eq!((&endless["end_date"], &endless["budget_limit"]), (&Value::Null, &json!(100.0)), "{endless}");
}
