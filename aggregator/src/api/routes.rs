//! Every endpoint, once: what the router routes, and what the document of the API says of it ([`super::openapi`]).

use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodRouter, delete, get, post, put};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use tonnage_proto::rest::explain::ExplainAnswer;
use tonnage_proto::rest::{
    AuditLogAnswer, CostAnswer, DevicesAnswer, IdleAnswer, LiveAnswer, NodesAnswer, OrderAnswer,
    PricesAnswer, QuarantineAnswer, QuarantineExplained, UnobservedAnswer, VerifyAnswer, VersionAnswer,
};

use super::budgets::accounts::{AccountAnswer, AccountBody};
use super::budgets::burn::{BurnAnswer, HealthAnswer};
use super::cost::months::{ClusterAnswer, MonthsAnswer};
use super::cost::plain::PlainAnswer;
use super::{
    Shared, alerts, audit, budgets, cost, explain, export, idle, inventory, openapi, orders, prices, process,
    quarantine, unobserved,
};
use crate::budgets::allocation::Step;
use crate::prices::book::BOOK_BYTES_MAX;
use crate::store::query::Dimension;

mod grants;
mod jobs;

/// What a good answer is.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    Json(fn(&mut SchemaGenerator) -> Schema),
    /// Media types of text or bytes.
    Other(&'static [&'static str]),
    /// JSON unless something else is asked for.
    Mixed(fn(&mut SchemaGenerator) -> Schema, &'static [&'static str]),
}

/// An endpoint.
pub(super) struct Route {
    pub(super) path: String,
    pub(super) router: MethodRouter<Shared>,
    /// In small letters.
    pub(super) method: &'static str,
    pub(super) summary: &'static str,
    pub(super) params: Vec<&'static str>,
    /// The most that `limit` and `months` may be.
    pub(super) count_max: usize,
    pub(super) answer: Answer,
    /// Statuses of errors, besides those that whatever wants a token has.
    pub(super) errors: &'static [u16],
    /// The status of a good answer.
    pub(super) success: u16,
    /// What its body is, where it is JSON.
    pub(super) body: Option<fn(&mut SchemaGenerator) -> Schema>,
    /// It wants a token.
    pub(super) guarded: bool,
    /// Bytes of a price book that it takes.
    pub(super) book_bytes_max: Option<usize>,
}

impl Route {
    fn new(path: &str, router: MethodRouter<Shared>, summary: &'static str, answer: Answer) -> Self {
        Self {
            path: path.to_owned(),
            router,
            method: "get",
            summary,
            params: Vec::new(),
            count_max: 0,
            answer,
            errors: &[],
            success: 200,
            body: None,
            guarded: true,
            book_bytes_max: None,
        }
    }

    fn json<T: JsonSchema>(path: &str, router: MethodRouter<Shared>, summary: &'static str) -> Self {
        Self::new(path, router, summary, Answer::Json(SchemaGenerator::subschema_for::<T>))
    }

    fn takes(mut self, params: &[&'static str], count_max: usize) -> Self {
        (self.params, self.count_max) = (params.to_vec(), count_max);
        self
    }

    fn posted(mut self, errors: &'static [u16]) -> Self {
        (self.method, self.errors) = ("post", errors);
        self
    }

    fn by(mut self, method: &'static str, success: u16) -> Self {
        (self.method, self.success) = (method, success);
        self
    }

    fn reads<T: JsonSchema>(mut self) -> Self {
        self.body = Some(SchemaGenerator::subschema_for::<T>);
        self
    }

    fn fails_with(mut self, errors: &'static [u16]) -> Self {
        self.errors = errors;
        self
    }

    fn open(mut self, errors: &'static [u16]) -> Self {
        (self.guarded, self.errors) = (false, errors);
        self
    }
}

/// All of them, in the order in which they are documented.
pub(super) fn all() -> Vec<Route> {
    let mut routes = Vec::new();
    for (table, by) in cost::TABLES {
        let handler = move |api, uri| cost::cost(api, uri, table, by);
        let (path, summary) = (format!("/api/v1/cost/{table}"), "Costs and time of a window, in groups");
        let answer = match table {
            "namespaces" | "pods" => Answer::Json(plain_or_exact),
            _ => Answer::Json(SchemaGenerator::subschema_for::<CostAnswer>),
        };
        let route = Route::new(&path, get(handler), summary, answer);
        routes.push(route.takes(&cost::request::known(), cost::request::LIMIT_MAX));
    }
    routes.extend(reads());
    routes.extend(orders());
    routes.extend(accounts());
    routes.extend(holds());
    routes.extend(jobs::jobs());
    routes.extend(burn());
    routes.extend(allocations());
    routes.extend(grants::grants());
    routes.extend(asba());
    routes.extend(alerts());
    routes.extend(open());
    routes
}

/// With `aggregate` an answer has groups, else a list of plain numbers besides.
fn plain_or_exact(generator: &mut SchemaGenerator) -> Schema {
    let (plain, exact) = (generator.subschema_for::<PlainAnswer>(), generator.subschema_for::<CostAnswer>());
    json_schema!({ "anyOf": [plain, exact] })
}

fn reads() -> Vec<Route> {
    vec![
        Route::json::<MonthsAnswer>(
            "/api/v1/cost/monthly",
            get(cost::months::monthly),
            "Costs of the last months",
        )
        .takes(&cost::months::monthly_known(), cost::months::MONTHS_MAX),
        Route::json::<ClusterAnswer>(
            "/api/v1/cost/cluster",
            get(cost::months::cluster),
            "Costs of one cluster, or of all, as a whole",
        )
        .takes(&cost::months::cluster_known(), 0),
        Route::json::<NodesAnswer>("/api/v1/nodes", get(inventory::nodes), "Nodes that usage came from"),
        Route::json::<DevicesAnswer>(
            "/api/v1/devices",
            get(inventory::devices),
            "GPUs, and how they are cut",
        ),
        Route::json::<LiveAnswer>("/api/v1/live", get(inventory::live), "Who is on the GPUs now"),
        Route::json::<IdleAnswer>(
            "/api/v1/idle",
            get(idle::idle),
            "GPUs that are held and not used, or used by others than their holders",
        )
        .takes(&idle::PARAMETERS, idle::LIMIT_MAX),
        Route::json::<ExplainAnswer>(
            "/api/v1/explain",
            get(explain::explain),
            "One slot of a GPU, an instance, a pod or a job, line by line",
        )
        .takes(&explain::PARAMETERS, 0)
        .fails_with(&[404]),
        Route::new(
            "/api/v1/export/focus",
            get(export::focus),
            "What was posted, by FOCUS (docs/focus.md)",
            Answer::Other(&export::MEDIA),
        )
        .takes(&export::PARAMETERS, 0),
        Route::json::<UnobservedAnswer>(
            "/api/v1/unobserved",
            get(unobserved::unobserved),
            "Time of GPUs that nobody observed, by device and reason",
        )
        .takes(&unobserved::PARAMETERS, 0),
        Route::json::<QuarantineAnswer>(
            "/api/v1/quarantine",
            get(quarantine::list),
            "Windows that are not counted, oldest first",
        )
        .takes(&quarantine::PARAMETERS, quarantine::LIMIT_MAX),
        Route::json::<QuarantineExplained>(
            "/api/v1/quarantine/{id}",
            get(quarantine::explain),
            "Why a window is not counted",
        )
        .fails_with(&[404]),
        Route::json::<AuditLogAnswer>("/api/v1/audit/log", get(audit::log), "The journal, oldest first")
            .takes(&audit::PARAMETERS, audit::LIMIT_MAX),
        Route::json::<PricesAnswer>("/api/v1/prices", get(prices::current), "The price book in force"),
    ]
}

fn orders() -> Vec<Route> {
    let book = post(prices::check).layer(DefaultBodyLimit::max(BOOK_BYTES_MAX));
    let check =
        Route::json::<PricesAnswer>("/api/v1/prices/check", book, "Checks a price book; changes nothing");
    vec![
        Route::json::<OrderAnswer>(
            "/api/v1/devices/{uuid}/retire",
            post(orders::retire),
            "Says that a device is gone; wants the role operator",
        )
        .takes(&orders::RETIRE_PARAMETERS, 0)
        .posted(&[404, 409]),
        Route::json::<OrderAnswer>(
            "/api/v1/quarantine/{id}/release",
            post(orders::release),
            "Counts a window of the quarantine; wants the role operator",
        )
        .posted(&[404, 409]),
        Route::json::<VerifyAnswer>(
            "/api/v1/audit/verify",
            post(audit::verify),
            "Recomputes the whole ledger from the journal and compares; one at a time",
        )
        .posted(&[]),
        Route { book_bytes_max: Some(BOOK_BYTES_MAX), ..check.posted(&[413, 422]) },
    ]
}

fn accounts() -> Vec<Route> {
    const ONE: &str = "/api/v1/accounts/{account}";
    let limited = |router: MethodRouter<Shared>| router.layer(DefaultBodyLimit::max(budgets::BODY_BYTES_MAX));
    vec![
        Route::json::<Vec<AccountAnswer>>(
            "/api/v1/accounts",
            get(budgets::accounts::list),
            "Accounts, and what is left of them",
        )
        .takes(&budgets::accounts::LIST_PARAMETERS, budgets::accounts::LIMIT_MAX),
        Route::json::<AccountAnswer>(
            "/api/v1/accounts",
            limited(post(budgets::accounts::create)),
            "Makes an account; wants the role operator",
        )
        .posted(&[409, 413])
        .by("post", 201)
        .reads::<AccountBody>(),
        Route::json::<AccountAnswer>(ONE, get(budgets::accounts::one), "An account, and what is left of it")
            .fails_with(&[404]),
        Route::json::<AccountAnswer>(
            ONE,
            limited(put(budgets::accounts::update)),
            "Changes what is given of an account; wants the role operator",
        )
        .by("put", 200)
        .fails_with(&[404, 409, 413])
        .reads::<AccountBody>(),
        Route::new(
            ONE,
            delete(budgets::accounts::close),
            "Closes an account for good and erases nothing; wants the role operator",
            Answer::Other(&[]),
        )
        .by("delete", 204)
        .fails_with(&[404, 409]),
    ]
}

fn holds() -> Vec<Route> {
    let limited = |router: MethodRouter<Shared>| router.layer(DefaultBodyLimit::max(budgets::BODY_BYTES_MAX));
    vec![
        Route::json::<budgets::CheckAnswer>(
            "/api/v1/budget/check",
            limited(post(budgets::check)),
            "Is there enough? Then it is held, in one step; wants the role gate",
        )
        .posted(&[402, 404, 409, 413])
        .reads::<budgets::CheckBody>(),
        Route::json::<budgets::ReconcileAnswer>(
            "/api/v1/budget/reconcile",
            limited(post(budgets::reconcile)),
            "Settles a hold whose job has ended; wants the role gate",
        )
        .posted(&[404, 409, 413])
        .reads::<budgets::ReconcileBody>(),
        Route::json::<Vec<budgets::transactions::TransactionAnswer>>(
            "/api/v1/transactions",
            get(budgets::transactions::list),
            "Holds and refused checks, newest first; by type also what became of them",
        )
        .takes(&budgets::transactions::PARAMETERS, budgets::transactions::LIMIT_MAX)
        .fails_with(&[404]),
        Route::json::<budgets::transactions::TransactionAnswer>(
            "/api/v1/holds/{transaction_id}",
            get(budgets::transactions::one),
            "A hold, or a refused check",
        )
        .fails_with(&[404]),
        Route::json::<budgets::recover::RecoverAnswer>(
            "/api/v1/holds/recover",
            limited(post(budgets::recover::recover)),
            "Ends holds that were left behind, or says which; wants the role operator",
        )
        .posted(&[404, 413])
        .reads::<budgets::recover::RecoverBody>(),
        Route::json::<budgets::HoldAnswer>(
            "/api/v1/holds/{transaction_id}/bind",
            limited(post(budgets::bind)),
            "Says which job or pod a hold is for; wants the role gate",
        )
        .posted(&[404, 409, 413])
        .reads::<budgets::BindBody>(),
        Route::json::<budgets::HoldAnswer>(
            "/api/v1/holds/{transaction_id}/renew",
            post(budgets::renew),
            "Another lease for a hold, from now on; wants the role gate",
        )
        .posted(&[404, 409]),
        Route::json::<budgets::HoldAnswer>(
            "/api/v1/holds/{transaction_id}/void",
            post(budgets::void),
            "Ends a hold whose work will never run; wants the role gate",
        )
        .posted(&[404, 409]),
        Route::json::<budgets::jobs::JobsAnswer>(
            "/api/v1/usage/jobs",
            limited(post(budgets::jobs::report)),
            "What jobs without GPUs ran for, to be charged; wants the role gate",
        )
        .posted(&[413])
        .reads::<budgets::jobs::JobsBody>(),
    ]
}

fn burn() -> Vec<Route> {
    let usage = get(move |api, uri| cost::cost(api, uri, "usage", &[Dimension::Budget]));
    vec![
        Route::json::<CostAnswer>(
            "/api/v1/usage",
            usage,
            "Costs and time of a window, by the budget that they are of",
        )
        .takes(&cost::request::known(), cost::request::LIMIT_MAX),
        Route::json::<BurnAnswer>(
            "/api/v1/burn-rate/{account}",
            get(budgets::burn::one),
            "How fast an account's limit is spent, and whether it lasts",
        )
        .takes(&budgets::burn::PARAMETERS, 0)
        .fails_with(&[404]),
        Route::json::<BurnAnswer>(
            "/api/v1/burn-rate/grant/{number}",
            get(budgets::burn::grant::one),
            "How fast a grant's direct costs are spent, and whether they last",
        )
        .takes(&budgets::burn::PARAMETERS, 0)
        .fails_with(&[404]),
        Route::json::<Vec<HealthAnswer>>(
            "/api/v1/analytics/health-score",
            get(budgets::burn::health),
            "How the limits of accounts stand against what was expected by now",
        )
        .takes(&budgets::burn::HEALTH_PARAMETERS, budgets::accounts::LIMIT_MAX)
        .fails_with(&[404]),
    ]
}

fn asba() -> Vec<Route> {
    use budgets::asba::affordability::{AffordabilityAnswer, AffordabilityBody, affordability};
    use budgets::asba::burst::{BurstAnswer, BurstBody, burst};
    use budgets::asba::timeline::{PARAMETERS, TimelineAnswer, TimelineBody, timeline};
    use budgets::asba::{StatusAnswer, StatusBody, status};
    let limited = |router: MethodRouter<Shared>| router.layer(DefaultBodyLimit::max(budgets::BODY_BYTES_MAX));
    vec![
        Route::json::<StatusAnswer>(
            "/api/v1/asba/budget-status",
            limited(post(status)),
            "How an account stands, for whoever advises on where work runs",
        )
        .posted(&[404, 413])
        .reads::<StatusBody>(),
        Route::json::<AffordabilityAnswer>(
            "/api/v1/asba/affordability-check",
            limited(post(affordability)),
            "Would there be enough for work of some cost? Holds nothing",
        )
        .takes(&PARAMETERS, 0)
        .posted(&[404, 413])
        .reads::<AffordabilityBody>(),
        Route::json::<TimelineAnswer>(
            "/api/v1/asba/grant-timeline",
            limited(post(timeline)),
            "What comes of a grant, and when",
        )
        .takes(&PARAMETERS, 0)
        .posted(&[404, 413])
        .reads::<TimelineBody>(),
        Route::json::<BurstAnswer>(
            "/api/v1/asba/burst-decision",
            limited(post(burst)),
            "Is work to run elsewhere for money, by the budget and its deadline? Holds nothing",
        )
        .takes(&PARAMETERS, 0)
        .posted(&[404, 413])
        .reads::<BurstBody>(),
    ]
}

fn allocations() -> Vec<Route> {
    use budgets::allocations::{AllocationAnswer, LIST_PARAMETERS, ProcessAnswer, ProcessBody, ScheduleBody};
    use budgets::allocations::{create, decide, list, one, process};
    let limited = |router: MethodRouter<Shared>| router.layer(DefaultBodyLimit::max(budgets::BODY_BYTES_MAX));
    let about = |verb: &str, step: Step, summary: &'static str| {
        let handler = post(move |api, identity, id, uri| decide(api, identity, id, uri, step));
        Route::json::<AllocationAnswer>(&format!("/api/v1/allocations/{{id}}/{verb}"), handler, summary)
            .posted(&[404, 409])
    };
    vec![
        Route::json::<Vec<AllocationAnswer>>("/api/v1/allocations", get(list), "Schedules by which budgets come in parts")
            .takes(&LIST_PARAMETERS, 0)
            .fails_with(&[404]),
        Route::json::<AllocationAnswer>(
            "/api/v1/allocations",
            limited(post(create)),
            "Another schedule of an account; wants the role operator",
        )
        .posted(&[404, 409, 413])
        .by("post", 201)
        .reads::<ScheduleBody>(),
        Route::json::<ProcessAnswer>(
            "/api/v1/allocations/process",
            limited(post(process)),
            "Allocates parts that are due and do not come by themselves, or says which; wants the role operator",
        )
        .posted(&[404, 409, 413])
        .reads::<ProcessBody>(),
        Route::json::<AllocationAnswer>("/api/v1/allocations/{id}", get(one), "A schedule, and what came by it")
            .fails_with(&[404]),
        about("pause", Step::Pause, "From now on its dates bring nothing; wants the role operator"),
        about("resume", Step::Resume, "Its dates bring parts again; wants the role operator"),
        about("cancel", Step::Cancel, "It brings no part any more, for good; wants the role operator"),
    ]
}

fn alerts() -> Vec<Route> {
    let limited = |router: MethodRouter<Shared>| router.layer(DefaultBodyLimit::max(budgets::BODY_BYTES_MAX));
    let knows = "Says that a person knows of an alert; wants the role operator";
    vec![
        Route::json::<Vec<alerts::AlertAnswer>>(
            "/api/v1/alerts",
            get(alerts::list),
            "What somebody is to know of budgets and of the ledger, newest first",
        )
        .takes(&alerts::PARAMETERS, alerts::LIMIT_MAX),
        Route::json::<alerts::AlertAnswer>(
            "/api/v1/alerts/acknowledge",
            limited(post(alerts::acknowledge)),
            knows,
        )
        .posted(&[404, 409, 413])
        .reads::<alerts::AcknowledgeBody>(),
        Route::json::<alerts::AlertAnswer>(
            "/api/v1/alerts/{alert_id}/acknowledge",
            limited(post(alerts::acknowledge_one)),
            knows,
        )
        .posted(&[404, 409, 413])
        .reads::<alerts::AcknowledgeBody>(),
    ]
}

fn open() -> Vec<Route> {
    const TEXT: Answer = Answer::Other(&["text/plain"]);
    let version = Route::json::<VersionAnswer>("/version", get(process::version), "Version and ledger");
    let document = Answer::Json(|_| json_schema!({ "type": "object" }));
    vec![
        version.open(&[]),
        Route::new("/healthz", get(process::healthz), "Does the process work?", TEXT).open(&[503]),
        Route::new("/readyz", get(process::readyz), "Does it do its work for others?", TEXT).open(&[503]),
        Route::new("/metrics", get(process::metrics), "Metrics for Prometheus", TEXT).open(&[]),
        Route::new("/api/v1/openapi.json", get(openapi::serve), "This document", document).open(&[]),
    ]
}
