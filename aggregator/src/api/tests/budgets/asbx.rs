//! Jobs as bursting services and epilogs report them, details of checks, and holds that were made elsewhere.

use super::*;

impl Site {
    async fn gated(&self, path: &str, body: Value) -> Answer {
        self.call(&self.gate, "POST", path, body).await
    }

    async fn read(&self, path: &str) -> Value {
        self.call(&self.reader, "GET", path, Value::Null).await.json()
    }

    async fn epilog(&self, text: &str) -> Answer {
        let request = Request::builder().method("POST").uri("/api/v1/asbx/epilog");
        let request = request.header("authorization", format!("Bearer {}", self.gate));
        let response =
            self.router.clone().oneshot(request.body(Body::from(text.to_owned())).unwrap()).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = to_bytes(response.into_body(), 1 << 22).await.unwrap();
        Answer { status, headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    async fn held(&self, job: &str) -> String {
        let mut body = submit();
        body["job_id"] = json!(job);
        let answer: Value = self.check(body).await.json();
        answer["transaction_id"].as_str().unwrap().to_owned()
    }

    async fn state(&self, id: &str) -> Value {
        self.read(&format!("/api/v1/holds/{id}")).await["state"].clone()
    }
}

fn cost_data(job_id: Value, actual_cost: f64) -> Value {
    json!({ "job_cost_data": {
        "job_id": job_id, "account": "physics", "partition": "gpu", "user_id": "ada", "job_state": "COMPLETED",
        "exit_code": "0:0", "used_cpus": "16(x2)", "estimated_cost": 8.0, "actual_cost": actual_cost, "local_cost": 1.5,
        "aws_cost": 2, "completed_at": "1970-01-01T00:16:30Z", "burst_decision": "HYBRID", "instance_types": ["p4d"],
    }, "auto_reconcile": true })
}

#[tokio::test]
async fn a_check_has_details_of_what_is_held_and_of_its_partition() {
    let site = site();
    let mut body = physics();
    body["limits"] = json!([{ "amount": "50", "period": { "kind": "lifetime" }, "partition": "gpu" }]);
    site.account(body).await;
    site.check(submit()).await;
    let details = site.check(submit()).await.json::<Value>()["details"].clone();
    for (field, expected) in [
        ("account_balance", json!(40.4)),
        ("current_hold", json!(9.6)),
        ("partition_used", json!(0.0)),
        ("partition_held", json!(9.6)),
        ("partition_limit", json!(50.0)),
        ("hold_percentage", json!(1.2)),
        ("typical_cost", Value::Null),
        ("estimate", json!("price")),
    ] {
        assert_eq!(details[field], expected, "{field}: {details}");
    }
    let mut other = submit();
    other["partition"] = json!("cpu");
    let details = site.check(other).await.json::<Value>()["details"].clone();
    assert_eq!((details.get("partition_limit"), &details["current_hold"]), (None, &json!(19.2)));
    assert_eq!(site.read("/api/v1/analytics/estimates").await, json!([]));
    assert_eq!(site.read("/api/v1/accounts/physics").await["estimate"], "price");
}

#[tokio::test]
async fn a_reported_job_is_settled_by_its_id_and_the_same_report_is_the_same_answer() {
    let site = site();
    site.account(physics()).await;
    let id = site.held("7").await;
    let empty = site.read("/api/v1/asbx/status").await;
    for (field, expected) in [
        ("integration_enabled", json!(false)),
        ("total_jobs_reconciled", json!(0)),
        ("average_reconciliation_time", Value::Null),
        ("cost_model_accuracy", Value::Null),
        ("asbx_version", Value::Null),
    ] {
        assert_eq!(empty[field], expected, "{field}: {empty}");
    }
    let first = site.gated("/api/v1/asbx/reconcile", cost_data(json!(7), 3.5)).await;
    let answer: Value = first.json();
    for (field, expected) in [
        ("success", json!(true)),
        ("original_transaction", json!(id)),
        ("estimated_cost", json!(8.0)),
        ("actual_cost", json!(0.0)),
        ("reported_cost", json!(3.5)),
        ("reported_variance", json!(3.5)),
        ("cost_variance", json!(-8.0)),
        ("cost_variance_pct", json!(-100.0)),
        ("refund_amount", json!(9.6)),
        ("additional_charge", json!(0.0)),
        ("estimation_accuracy", Value::Null),
        ("model_update_applied", json!(false)),
    ] {
        assert_eq!(answer[field], expected, "{field}: {answer}");
    }
    assert!(answer["warnings"][0].as_str().unwrap().contains("3.500000000 was reported"), "{answer}");
    let again = site.gated("/api/v1/asbx/reconcile", cost_data(json!("7"), 3.5)).await;
    assert_eq!(again.body, first.body);
    let status = site.read("/api/v1/asbx/status").await;
    assert_eq!(
        (&status["total_jobs_reconciled"], &status["successful_reconciliations"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(status["average_reconciliation_time"], 10.0, "it ended at 990 s: {status}");
    assert_eq!(
        (&status["reported_cost"], &status["reported_aws_cost"]),
        (&json!("3.500000000"), &json!("2.000000000"))
    );
    assert_eq!(
        (&status["charged_cost"], &status["health_status"]),
        (&json!("0.000000000"), &json!("degraded"))
    );
}

#[tokio::test]
async fn what_a_report_says_of_its_hold_decides_which_one_it_is() {
    let site = site();
    site.account(physics()).await;
    let unbound = site.check(submit()).await.json::<Value>()["transaction_id"].as_str().unwrap().to_owned();
    let mut by_id = cost_data(json!("8.batch"), 1.0);
    by_id["job_cost_data"]["budget_transaction_id"] = json!(unbound);
    by_id["job_cost_data"]["account"] = json!("chemistry");
    let answer: Value = site.gated("/api/v1/asbx/reconcile", by_id).await.json();
    assert_eq!((&answer["success"], &answer["original_transaction"]), (&json!(true), &json!(unbound)));
    assert!(answer["warnings"].to_string().contains("the hold is of \\\"physics\\\""), "{answer}");
    assert_eq!(site.read(&format!("/api/v1/holds/{unbound}")).await["job_id"], "8");
    // Kept, and not settled.
    let kept = site.held("9").await;
    let mut only = cost_data(json!(9), 1.0);
    only["auto_reconcile"] = json!(false);
    assert_eq!(site.gated("/api/v1/asbx/reconcile", only).await.json::<Value>()["success"], false);
    assert_eq!(site.state(&kept).await, "open");
    // Ended otherwise.
    site.gated(&format!("/api/v1/holds/{kept}/void"), Value::Null).await;
    let answer: Value = site.gated("/api/v1/asbx/reconcile", cost_data(json!(9), 1.0)).await.json();
    assert_eq!((&answer["success"], &answer["actual_cost"]), (&json!(false), &Value::Null));
    assert!(answer["message"].as_str().unwrap().contains("is voided already"), "{answer}");
    let status = site.read("/api/v1/asbx/status").await;
    assert_eq!(status["failed_reconciliations"], 1, "{status}");
    assert_eq!(status["total_jobs_reconciled"], 2, "a job that was reported twice is one: {status}");
}

#[tokio::test]
async fn an_epilog_is_answered_whatever_it_writes_and_settles_what_is_its_jobs() {
    let site = site();
    site.account(physics()).await;
    let (plain, array, task) = (site.held("7").await, site.held("20").await, site.held("30_4").await);
    let sent = r#"{"job_id": 7, "account": "physics", "partition": "gpu", "job_state": "0:0", "exit_code": 0:0,
        "start_time": 900, "end_time": "990", "allocated_cpus": 16(x2), "allocated_gpus": , "max_rss": "1G",
        "slurm_accounting_data": {} }"#;
    let answer = site.epilog(sent).await;
    let body: Value = answer.json();
    assert_eq!((answer.status, &body["data_import_status"]), (StatusCode::OK, &json!("settled")), "{body}");
    assert_eq!((&body["job_id"], &body["reconciliation_triggered"]), (&json!("7"), &json!(true)));
    assert_eq!(site.epilog(sent).await.body, answer.body);
    assert_eq!(site.state(&plain).await, "settled");
    for (job, status) in
        [("99", "no_hold"), ("20_3", "no_hold"), ("30_4", "settled"), ("20_[1-9%2]", "settled")]
    {
        let body: Value = site.epilog(&json!({ "job_id": job }).to_string()).await.json();
        assert_eq!(
            (&body["success"], &body["data_import_status"]),
            (&json!(true), &json!(status)),
            "{job}: {body}"
        );
        let open = site.state(&array).await == "open";
        assert_eq!(open, job != "20_[1-9%2]", "a task of an array does not end its hold: {job}");
    }
    assert_eq!(site.state(&task).await, "settled");
    let voided = site.held("40").await;
    site.gated(&format!("/api/v1/holds/{voided}/void"), Value::Null).await;
    let body: Value = site.epilog("{\"job_id\":40}").await.json();
    assert_eq!((&body["success"], &body["data_import_status"]), (&json!(true), &json!("failed")));
    assert!(body["error_details"].as_str().unwrap().contains("voided"), "{body}");
    let odd = site.epilog("{\"job_id\": 99, \"account\": 1234, \"cluster\": , \"end_time\": null}").await;
    assert_eq!(odd.json::<Value>()["data_import_status"], "no_hold", "{}", odd.body);
    for text in [
        "",
        "{}",
        "[]",
        "7",
        "{\"job_id\":\"\"}",
        "{\"job_id\":[7]}",
        "{\"job_id\":\"7\\u0000\"}",
        "{\"job_id",
    ] {
        assert_eq!(site.epilog(text).await.error().0, 400, "{text}");
    }
}

#[tokio::test]
async fn a_hold_of_an_array_by_a_gate_is_not_ended_by_the_task_that_has_its_number() {
    let site = site();
    site.account(physics()).await;
    let mut body = submit();
    (body["job_id"], body["job_details"]) = (json!("50"), json!({ "array": "true" }));
    let id = site.check(body).await.json::<Value>()["transaction_id"].as_str().unwrap().to_owned();
    let answer: Value = site.epilog("{\"job_id\":50}").await.json();
    assert_eq!(answer["data_import_status"], "no_hold", "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("whole array"), "{answer}");
    assert_eq!(site.state(&id).await, "open");
    let mut named = cost_data(json!(50), 1.0);
    named["job_cost_data"]["budget_transaction_id"] = json!(id);
    assert_eq!(site.gated("/api/v1/asbx/reconcile", named).await.json::<Value>()["success"], true);
}

#[tokio::test]
async fn a_hold_that_another_system_had_is_an_operators_to_give_and_goes_by_its_former_id() {
    let site = site();
    site.account(physics()).await;
    let given = |amount: Value| json!({ "idempotency_key": "asbb:txn_1700_3", "account": "physics", "amount": amount, "cluster": "c" });
    let give = |token: &str, body: Value| {
        let (token, site) = (token.to_owned(), &site);
        async move { site.call(&token, "POST", "/api/v1/holds", body).await }
    };
    assert_eq!(give(&site.gate, given(json!(1))).await.status, StatusCode::FORBIDDEN);
    let first = give(&site.operator, given(json!(250.123_456_789))).await;
    let body: Value = first.json();
    assert_eq!(
        (&body["state"], &body["amount"]),
        (&json!("open"), &json!("250.123456789")),
        "more than there is"
    );
    assert_eq!(give(&site.operator, given(json!("250.123456789"))).await.body, first.body);
    assert_eq!(give(&site.operator, given(json!(1))).await.error().0, 409);
    for (body, field) in [
        (json!({ "idempotency_key": "", "account": "physics", "amount": 1 }), "idempotency_key"),
        (json!({ "idempotency_key": "a", "account": "physics", "amount": -1 }), "amount"),
        (json!({ "idempotency_key": "a", "account": "", "amount": 1 }), "account"),
    ] {
        assert_eq!(give(&site.operator, body).await.error().2.as_deref(), Some(field));
    }
    assert_eq!(site.state("txn_1700_3").await, "open");
    let reconcile = json!({ "job_id": "7", "actual_cost": 3.5, "transaction_id": "txn_1700_3" });
    let settled: Value = site.gated("/api/v1/budget/reconcile", reconcile).await.json();
    assert_eq!((&settled["success"], &settled["refund_amount"]), (&json!(true), &json!(250.123456789)));
    assert_eq!(site.state(body["transaction_id"].as_str().unwrap()).await, "settled");
    let unknown = json!({ "transaction_id": "txn_1700_4" });
    assert_eq!(site.gated("/api/v1/budget/reconcile", unknown).await.error().0, 400);
}
