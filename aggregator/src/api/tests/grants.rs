//! Grants as their clients see them. The pod of the one slot held 300 s, which cost a third.

use serde_json::json;

use super::*;
use crate::model::{Description, Subject, SubjectKind};
use crate::store::described::{self, Text};
use crate::store::write::{Mark, set_mark};

impl Site {
    async fn asked(&self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request =
            Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
        self.send(request.body(body).unwrap()).await
    }
}

fn grant(number: &str) -> Value {
    json!({
        "grant_number": number, "account": "physics", "funding_agency": "NSF", "agency_program": "CSSI",
        "principal_investigator": "Ada", "co_investigators": ["Grace"], "institution": "University",
        "grant_start_date": "1970-01-01T00:00:00Z", "grant_end_date": "1971-01-01", "total_award_amount": 1.55,
        "indirect_cost_rate": 0.55, "budget_period_months": 6, "compliance_requirements": "2 CFR 200",
        "federal_award_id": "", "internal_project_code": "P-1", "cost_center": "C-1",
    })
}

async fn with_account() -> Site {
    let site = site();
    let account = json!({
        "slurm_account": "physics", "start_date": "1970-01-01T00:00:00Z", "bindings": [{ "namespace": "ml", "from": "1970-01-01" }],
    });
    let made = site.asked(&site.operator, "POST", "/api/v1/accounts", account).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    site
}

#[tokio::test]
async fn a_grant_is_made_read_changed_and_closed_under_the_names_that_clients_use() {
    let site = with_account().await;
    let made = site.asked(&site.operator, "POST", "/api/v1/grants", grant("NSF/1 a")).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    let path = "/api/v1/grants/NSF%2F1%20a";
    let shown: Value = site.get(path).await.json();
    assert_eq!(shown, made.json::<Value>());
    for (field, expected) in [
        ("direct_costs", json!(1.0)),
        ("indirect_costs", json!(0.55)),
        ("indirect_cost_rate", json!(0.55)),
        ("spent_amount", json!(0.333333333)),
        ("remaining_amount", json!(0.666666667)),
        ("current_budget_period", json!(1)),
        ("status", json!("active")),
        ("co_investigators", json!(["Grace"])),
    ] {
        assert_eq!(shown[field], expected, "{field}: {shown}");
    }
    let periods: Vec<Value> = site.get(&format!("{path}/periods")).await.json();
    assert_eq!((periods.len(), &periods[1]["status"]), (2, &json!("future")));
    assert_eq!(
        (&periods[0]["period_spent_amount"], &periods[1]["actual_burn_rate"]),
        (&json!(0.333333333), &Value::Null)
    );
    let change = json!({ "status": "suspended", "total_award_amount": "3.10" });
    let would: Value =
        site.asked(&site.operator, "PUT", &format!("{path}?dry_run=true"), change.clone()).await.json();
    assert_eq!((&would["status"], &would["direct_costs"]), (&json!("suspended"), &json!(2.0)));
    assert_eq!(site.get(path).await.json::<Value>(), shown, "a dry run changes nothing");
    let changed: Value = site.asked(&site.operator, "PUT", path, change).await.json();
    assert_eq!(
        (&changed["status"], &changed["exact"]["direct_costs"]),
        (&json!("suspended"), &json!("2.000000000"))
    );
    for (status, count) in [("suspended", 1), ("active", 0)] {
        let listed: Vec<Value> =
            site.get(&format!("/api/v1/grants?status={status}&account=physics")).await.json();
        assert_eq!(listed.len(), count);
    }
    let closed = site.asked(&site.operator, "DELETE", path, Value::Null).await;
    assert_eq!((closed.status, closed.body.as_str()), (StatusCode::NO_CONTENT, ""));
    assert_eq!(site.asked(&site.operator, "DELETE", path, Value::Null).await.status, StatusCode::CONFLICT);
    let cancelled: Value = site.get(path).await.json();
    assert_eq!(
        (&cancelled["status"], &cancelled["spent_amount"]),
        (&json!("cancelled"), &json!(0.333333333))
    );
}

#[tokio::test]
async fn roles_keep_to_what_is_theirs_and_what_is_wrong_is_named() {
    let site = with_account().await;
    for (method, path) in
        [("POST", "/api/v1/grants"), ("PUT", "/api/v1/grants/a"), ("DELETE", "/api/v1/grants/a")]
    {
        let answer = site.asked(&site.gate, method, path, grant("a")).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{method} {path}: {}", answer.body);
    }
    for (field, value) in [
        ("grant_number", Value::Null),
        ("funding_agency", json!("")),
        ("grant_start_date", json!("1970-01-01T01:00:00Z")),
        ("grant_end_date", Value::Null),
        ("total_award_amount", json!(-1)),
        ("indirect_cost_rate", json!(2)),
        ("budget_period_months", json!(0)),
        ("status", json!("completed")),
    ] {
        let mut body = grant("a");
        body[field] = value;
        let error = site.asked(&site.operator, "POST", "/api/v1/grants", body).await.error();
        assert_eq!((error.0, error.2.as_deref()), (400, Some(field)), "{error:?}");
    }
    assert_eq!(site.get("/api/v1/grants/none").await.status, StatusCode::NOT_FOUND);
    assert_eq!(site.get("/api/v1/grants").await.body, "[]");
}

#[tokio::test]
async fn a_report_on_an_account_that_is_bound_by_labels_has_what_these_held() {
    let site = site();
    let store = Store::open(site.files.0.path()).unwrap();
    let db = store.writer().unwrap();
    let transaction = db.begin().unwrap();
    let subject =
        Subject { kind: SubjectKind::Namespace, name: "ml".into(), namespace: "".into(), pod: "".into() };
    let labels = [("cost".to_owned(), "7".to_owned())].into();
    let text = Text::of(&Description { labels, ..Description::default() }).unwrap();
    let number = described::add(&transaction, "c", &subject).unwrap();
    described::describe(&transaction, number, 0, &text).unwrap();
    transaction.commit().unwrap();
    let account = json!({
        "slurm_account": "physics", "start_date": "1970-01-01T00:00:00Z",
        "bindings": [{ "namespace_labels": { "cost": "7" }, "from": "1970-01-01" }],
    });
    let made = site.asked(&site.operator, "POST", "/api/v1/accounts", account).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    site.asked(&site.operator, "POST", "/api/v1/grants", grant("a")).await;
    let shown: Value = site.get("/api/v1/grants/a").await.json();
    assert_eq!(shown["spent_amount"], json!(0.333333333));
    let report: Value = site.get("/api/v1/grants/a/report").await.json();
    assert_eq!(report["totals"]["charged"], "0.333333333", "{report}");
}

#[tokio::test]
async fn a_report_sums_to_the_ledger_and_what_is_purged_is_null_and_not_less() {
    let site = with_account().await;
    site.asked(&site.operator, "POST", "/api/v1/grants", grant("a")).await;
    let body = json!({ "grant_number": "a", "report_type": "annual" });
    let report: Value = site.asked(&site.reader, "POST", "/api/v1/grants/reports", body).await.json();
    assert_eq!(report["totals"]["charged"], "0.333333333", "{report}");
    // The first checkpoint is not written yet.
    assert_eq!(
        (&report["totals"]["posted"], &report["measurement"]["checkpoint"]),
        (&json!("0.000000000"), &Value::Null)
    );
    assert_eq!(
        (&report["measurement"]["coverage"], &report["accounts"][0]["key"]["account"]),
        (&json!("0.666"), &json!("physics"))
    );
    assert_eq!(report["evidence"][0]["methods"], json!(["held_cgroup"]));
    let csv = site.get("/api/v1/grants/a/report?format=csv&report_type=technical").await;
    assert_eq!(csv.headers["content-disposition"], "attachment; filename=\"grant-a-technical.csv\"");
    assert!(csv.body.contains("\nuser,") && !csv.body.contains("\nperiod,"), "{}", csv.body);
    let short: Value = site.get("/api/v1/grants/a/report?include_details=false").await.json();
    assert!(short["periods"].is_array() && short.get("months").is_none(), "{short}");
    for (query, field) in [
        ("budget_period=3", "budget_period"),
        ("budget_period=1&start_date=1970-01-01", "budget_period"),
        ("start_date=1971-01-01", "end_date"),
        ("format=doc", "format"),
        ("report_type=all", "report_type"),
    ] {
        let error = site.get(&format!("/api/v1/grants/a/report?{query}")).await.error();
        assert_eq!((error.0, error.2.as_deref()), (400, Some(field)), "{query}: {error:?}");
    }

    let store = Store::open(site.files.0.path()).unwrap();
    let db = store.writer().unwrap();
    let transaction = db.begin().unwrap();
    for mark in [Mark::PurgedUntil, Mark::HoursFrom, Mark::DaysFrom] {
        set_mark(&transaction, mark, DAY_NS).unwrap();
    }
    transaction.commit().unwrap();
    let shown: Value = site.get("/api/v1/grants/a").await.json();
    assert_eq!((&shown["spent_amount"], &shown["remaining_amount"]), (&Value::Null, &Value::Null));
    for path in ["grants/a/report", "burn-rate/grant/a"] {
        let error = site.get(&format!("/api/v1/{path}")).await.error();
        assert_eq!(error.0, 400, "{error:?}");
    }
}
