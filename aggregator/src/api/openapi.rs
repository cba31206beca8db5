//! The document of the API by OpenAPI 3.1 <https://spec.openapis.org/oas/v3.1.1>, made of the routes (`super::routes`) and of the
//! types that are sent. `docs/openapi.json` is a copy that a test holds against it.

use axum::Json;
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};
use tonnage_proto::rest::ErrorAnswer;

use super::params::VALUE_BYTES_MAX;
use super::routes::{self, Answer, Route};

mod grants;

/// What whatever wants a token may answer besides.
const GUARDED: [u16; 5] = [400, 401, 403, 500, 503];
const BOOK: &str = "currency = \"USD\"\n\n[[price]]\nprice = \"3.60\"\nunit = \"gpu_hour\"\n";
/// Any text but an empty one, without U+0000.
const TEXT: &str = r"^[^\x00]+$";
const WINDOW: &str =
    r"^(today|yesterday|week|month|lastweek|lastmonth|[0-9]{4}-[0-9]{2}|[0-9]+[mhdw]|[^,]+,[^,]+)$";

/// `GET /api/v1/openapi.json`.
pub(super) async fn serve() -> Json<Value> {
    Json(document())
}

/// The whole document.
#[must_use]
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    // An answer has all its fields; a request may leave out those with a default.
    let mut answers = SchemaGenerator::new(settings.clone().for_serialize());
    let mut requests = SchemaGenerator::new(settings.for_deserialize());
    let mut paths: Map<String, Value> = Map::new();
    for route in routes::all() {
        let operation = operation(&route, &mut answers, &mut requests);
        let method = route.method;
        paths.entry(route.path).or_insert_with(|| json!({}))[method] = operation;
    }
    let mut schemas = answers.take_definitions(true);
    // What is in both is as requests have it, which says less.
    schemas.extend(requests.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tonnage",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "GPU time, whose it was, and what it cost. Money and time are decimal texts, exact to the last \
                            digit; times are RFC 3339 in UTC. Every answer has a header x-request-id.",
            "license": { "name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE") },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "Of the role reader or more: tonnage-aggregator token add",
            } },
            "schemas": schemas,
        },
    })
}

fn operation(route: &Route, answers: &mut SchemaGenerator, requests: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| parameter(name, "path", route))
        .collect();
    parameters.extend(route.params.iter().map(|name| parameter(name, "query", route)));
    let good = match route.answer {
        Answer::Json(schema) => json!({ "application/json": { "schema": schema(answers) } }),
        Answer::Mixed(schema, media) => {
            let mut content: Map<_, _> = media.iter().map(|media| ((*media).to_owned(), json!({}))).collect();
            content.insert("application/json".to_owned(), json!({ "schema": schema(answers) }));
            content.into()
        }
        Answer::Other(media) => {
            media.iter().map(|media| ((*media).to_owned(), json!({}))).collect::<Map<_, _>>().into()
        }
    };
    let mut responses = Map::new();
    responses
        .insert(route.success.to_string(), json!({ "description": "What was asked for", "content": good }));
    let error: Schema = answers.subschema_for::<ErrorAnswer>();
    let guarded = if route.guarded { &GUARDED[..] } else { &[] };
    for status in guarded.iter().chain(route.errors) {
        let content = json!({ "application/json": { "schema": error } });
        responses.insert(status.to_string(), json!({ "description": meaning(*status), "content": content }));
    }
    // By what is below the routes, which says no more than that.
    responses.insert("414".to_owned(), json!({ "description": meaning(414) }));
    let body = route.body.map(|body| body(requests));
    let mut operation = json!({
        "summary": route.summary,
        "operationId": operation_id(route),
        "parameters": parameters,
        "responses": responses,
    });
    if !route.guarded {
        operation["security"] = json!([]);
    }
    if let Some(schema) = body {
        operation["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": schema } },
        });
    }
    if let Some(bytes_max) = route.book_bytes_max {
        operation["requestBody"] = json!({
            "description": format!("A price book in TOML, at most {bytes_max} bytes"),
            "content": { "application/toml": { "schema": { "type": "string" }, "example": BOOK } },
        });
    }
    operation
}

/// The path in one word, for generators of clients.
fn operation_id(route: &Route) -> String {
    let path = route.path.trim_start_matches("/api/v1").trim_matches('/');
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = path.replace(['{', '}'], "").chars().map(word).collect();
    if route.method == "get" { name } else { format!("{}_{name}", route.method) }
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "A parameter is wrong; `field` names it",
        401 => "No token, or one that is not known",
        402 => "The account may not spend",
        403 => "The token's role may not do this",
        404 => "The ledger has no such thing",
        409 => "It does not fit what is in the ledger",
        413 => "The body is too large",
        414 => "The address is too long",
        422 => "The price book is wrong; the message says where",
        500 => "Something went wrong here; the log has it under the request's id",
        _ => "Not now; the header retry-after says when to ask again",
    }
}

/// A parameter has one meaning wherever it is taken.
fn parameter(name: &str, place: &str, route: &Route) -> Value {
    let text = || json!({ "type": "string", "pattern": TEXT, "maxLength": VALUE_BYTES_MAX });
    let one_of = |values: &[&str]| json!({ "type": "string", "enum": values });
    let count = || json!({ "type": "integer", "minimum": 1, "maximum": route.count_max });
    let known = grants::parameter(name, &route.path);
    let (schema, description) = known.unwrap_or_else(|| match name {
        "window" => (
            json!({ "type": "string", "pattern": WINDOW, "maxLength": VALUE_BYTES_MAX }),
            "A length up to now (30m, 12h, 7d, 2w; at most 400 days), today, yesterday, week, month, lastweek, lastmonth, a month \
             (2026-03), or start,end as RFC 3339 times or Unix seconds",
        ),
        "offset" if route.count_max > 0 && !route.params.contains(&"window") => {
            (json!({ "type": "integer", "minimum": 0 }), "So many of the first are left out")
        }
        "offset" => (
            json!({ "type": "string", "pattern": "^[0-9]+[mhdw]$", "maxLength": VALUE_BYTES_MAX }),
            "By how much earlier the window is, in whole quarters of an hour",
        ),
        "step" => (one_of(&["1h", "1d", "1w", "1mo"]), "Also answers for each such part of the window"),
        "aggregate" => (text(), "What to group by, with commas between (docs/queries.md)"),
        "idle" => {
            (one_of(&["true", "false"]), "Whether what nobody held is a group; true unless told otherwise")
        }
        "order" => (one_of(&super::cost::orders()), "What comes first; cost unless told otherwise"),
        "limit" => (count(), "Rows; those behind are summed, or on the next page"),
        "months" => (count(), "How many, this one with them"),
        "page" => (text(), "next_page of an answer to the same query"),
        "filter" => (text(), "By OpenCost's filter language (docs/queries.md)"),
        "after" => (
            json!({ "type": "integer", "format": "int64", "minimum": 0 }),
            "next of an answer: what comes behind",
        ),
        "at" => (text(), "RFC 3339; explain also takes Unix seconds. Now unless told otherwise"),
        "state" => (one_of(&["held", "released", "counted", "all"]), "held unless told otherwise"),
        "status" if route.path.ends_with("/transactions") => {
            (one_of(&super::budgets::STATUSES), "Only those that stand so; all unless told otherwise")
        }
        "status" if route.path.ends_with("/alerts") => {
            let names = crate::model::AlertState::ALL.map(|(_, name)| name);
            (one_of(&names), "Only those that stand so; all unless told otherwise")
        }
        "status" => (
            one_of(&crate::budgets::Standing::NAMES),
            "Only accounts that stand so; all unless told otherwise",
        ),
        "type" => (
            one_of(&super::budgets::transactions::TYPES),
            "Holds unless told otherwise; of those that have ended, what their jobs were charged, and what was left",
        ),
        "start_date" | "end_date" => {
            (text(), "RFC 3339, or a date in UTC: made from then on, or before then")
        }
        "transaction_id" => (json!({ "type": "string", "pattern": "^txn_[0-9a-f]{32}$" }), "Of a hold"),
        "period" => (
            one_of(&super::budgets::burn::PERIODS.map(|(name, _)| name)),
            "How many whole days before today count; 30d unless told otherwise",
        ),
        "include_projection" | "include_alerts" => {
            (json!({ "type": "boolean" }), "true unless told otherwise")
        }
        "job_id" => (text(), "A job's id, or a pod's UID"),
        "version" => (one_of(&["1.2", "1.3"]), "Of FOCUS; 1.2 unless told otherwise"),
        "format" => (one_of(&["csv", "parquet"]), "csv unless told otherwise"),
        "alert_id" => (json!({ "type": "integer", "format": "int64" }), "Of an alert"),
        "id" => (json!({ "type": "integer", "format": "int64" }), "Its id, as lists have it"),
        "uuid" => (text(), "Of a GPU"),
        "owner" => (text(), "A pod, a job, a user or a unit, by its name"),
        "device" | "instance" => (text(), "UUID"),
        "pod" => (text(), "NAMESPACE/NAME, or its uid"),
        "cluster" | "node" | "namespace" | "account" | "partition" | "profile" | "job" => {
            (text(), "Its name")
        }
        // A test finds one that is not above.
        _ => (text(), ""),
    });
    json!({
        "name": name,
        "in": place,
        "required": place == "path",
        "description": description,
        "schema": schema,
    })
}
