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
    let mut check = submit();
    check["gpus"] = json!(-1);
    let (status, .., message) = site.check(check).await.error();
    assert!(status == 400 && message.contains("gpus is neither a whole number nor a GRES"), "{message}");
}
