//! The document of the API against what the router does.

use serde_json::Value;

use super::*;
use crate::api::{openapi, routes};

#[test]
fn the_document_that_is_checked_in_is_that_of_this_code() {
    let written = serde_json::to_string_pretty(&openapi::document()).unwrap() + "\n";
    let is_same = include_str!("../../../../docs/openapi.json") == written;
    assert!(is_same, "docs/openapi.json is stale: tonnage-aggregator openapi > docs/openapi.json");
}

#[tokio::test]
async fn each_endpoint_takes_the_parameters_that_the_document_says_and_no_others() {
    let site = site();
    for route in routes::all().into_iter().filter(|route| route.guarded) {
        let path = route
            .path
            .replace("{id}", "1")
            .replace("{uuid}", "GPU-1")
            .replace("{account}", "a")
            .replace("{number}", "g");
        let path = path.replace("{transaction_id}", "txn_0").replace("{alert_id}", "1");
        let method = route.method.to_uppercase();
        let method = method.as_str();
        let request = Request::builder()
            .method(method)
            .uri(format!("{path}?nonsense=1"))
            .header("authorization", format!("Bearer {}", site.reader));
        let response = site.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{method} {path}");
        let body = to_bytes(response.into_body(), 1 << 16).await.unwrap();
        let error: ErrorAnswer = serde_json::from_slice(&body).unwrap();
        let takes = match route.params.as_slice() {
            [] => "takes none".to_owned(),
            params => format!("takes {}", params.join(", ")),
        };
        assert!(error.error.message.ends_with(&takes), "{path}: {} but {takes}", error.error.message);
    }
}

#[test]
fn everything_that_is_asked_says_what_it_is() {
    let document = openapi::document();
    let mut seen = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for operation in operations.as_object().unwrap().values() {
            let good = ["200", "201", "204"].iter().any(|status| operation["responses"][status].is_object());
            assert!(good && operation["summary"] != "", "{path}");
            for parameter in operation["parameters"].as_array().unwrap() {
                assert_ne!(parameter["description"], "", "{path}: {parameter}");
                seen += 1;
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

#[tokio::test]
async fn the_document_is_served_to_anybody_and_names_every_schema_that_it_refers_to() {
    let site = site();
    let request = Request::get("/api/v1/openapi.json").body(Body::empty()).unwrap();
    let response = site.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let body = to_bytes(response.into_body(), 1 << 22).await.unwrap();
    let document: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(document, openapi::document());
    let text = String::from_utf8(body.to_vec()).unwrap();
    let mut references = text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap());
    assert!(references.clone().count() > 50);
    assert_eq!(references.find(|reference| document.pointer(reference).is_none()), None);
}
