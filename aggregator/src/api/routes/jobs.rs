//! Endpoints about jobs that have ended, what they typically cost, and what was held for them elsewhere.

use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodRouter, get, post};

use super::{Route, Shared};
use crate::api::budgets;
use crate::api::budgets::asbx::status::{AsbxStatusAnswer, status};
use crate::api::budgets::asbx::{
    AsbxReconcileBody, EpilogAnswer, EpilogBody, ReconciledAnswer, epilog, reconcile,
};
use crate::api::budgets::estimates::{EstimateAnswer, estimates};
use crate::api::budgets::given::{GivenBody, give};
use crate::api::budgets::join::{JoinBody, join};
use crate::api::budgets::tasks::{TasksAnswer, TasksBody, name};

pub(super) fn jobs() -> Vec<Route> {
    let limited = |router: MethodRouter<Shared>| router.layer(DefaultBodyLimit::max(budgets::BODY_BYTES_MAX));
    vec![
        Route::json::<ReconciledAnswer>(
            "/api/v1/asbx/reconcile",
            limited(post(reconcile)),
            "What a job cost by others' books: kept, compared, and its hold settled; wants the role gate",
        )
        .posted(&[413])
        .reads::<AsbxReconcileBody>(),
        Route::json::<EpilogAnswer>(
            "/api/v1/asbx/epilog",
            limited(post(epilog)),
            "A job has ended: its hold, if it has one, is settled; wants the role gate",
        )
        .posted(&[413])
        .reads::<EpilogBody>(),
        Route::json::<AsbxStatusAnswer>(
            "/api/v1/asbx/status",
            get(status),
            "How reports of jobs come in, and how near holds' estimates were",
        ),
        Route::json::<Vec<EstimateAnswer>>(
            "/api/v1/analytics/estimates",
            get(estimates),
            "What work was charged, as a part of what its holds said that it may cost",
        )
        .takes(&budgets::burn::HEALTH_PARAMETERS, budgets::accounts::LIMIT_MAX)
        .fails_with(&[404]),
        Route::json::<TasksAnswer>(
            "/api/v1/holds/{transaction_id}/tasks",
            limited(post(name)),
            "Says that a hold is also of an array's tasks, by their own job ids; wants the role gate",
        )
        .posted(&[404, 409, 413])
        .reads::<TasksBody>(),
        Route::json::<budgets::HoldAnswer>(
            "/api/v1/holds/{transaction_id}/join",
            limited(post(join)),
            "Makes a hold for more of a job one with the job's own; wants the role gate",
        )
        .posted(&[404, 409, 413])
        .reads::<JoinBody>(),
        Route::json::<budgets::HoldAnswer>(
            "/api/v1/holds",
            limited(post(give)),
            "A hold of a given amount, which another system holds already; wants the role operator",
        )
        .posted(&[404, 409, 413])
        .reads::<GivenBody>(),
    ]
}
