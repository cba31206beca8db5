//! Endpoints of grants.

use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodRouter, delete, get, post, put};

use schemars::SchemaGenerator;

use super::{Answer, Route};
use crate::api::Shared;
use crate::api::budgets::BODY_BYTES_MAX;
use crate::api::budgets::grants::{
    CHANGE_PARAMETERS, GrantAnswer, GrantBody, LIMIT_MAX, LIST_PARAMETERS, PeriodAnswer, close, create, list,
    one, periods, update,
};

/// Reports, which are JSON or files.
fn reports() -> Vec<Route> {
    use crate::api::budgets::grants::report::{MEDIA, PARAMETERS, Report, ReportBody};
    use crate::api::budgets::grants::report::{get as read, post as ask};
    let answer = Answer::Mixed(SchemaGenerator::subschema_for::<Report>, &MEDIA);
    let summary = "What was spent of a grant, on what, and how each figure was measured";
    vec![
        Route::new(
            "/api/v1/grants/reports",
            post(ask).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)),
            summary,
            answer,
        )
        .posted(&[404, 413])
        .reads::<ReportBody>(),
        Route::new("/api/v1/grants/{number}/report", get(read), summary, answer)
            .takes(&PARAMETERS, 0)
            .fails_with(&[404]),
    ]
}

pub(super) fn grants() -> Vec<Route> {
    const ONE: &str = "/api/v1/grants/{number}";
    let limited = |router: MethodRouter<Shared>| router.layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    let mut routes = vec![
        Route::json::<Vec<GrantAnswer>>("/api/v1/grants", get(list), "Grants, and what is spent of them")
            .takes(&LIST_PARAMETERS, LIMIT_MAX),
        Route::json::<GrantAnswer>(
            "/api/v1/grants",
            limited(post(create)),
            "Makes a grant; wants the role operator",
        )
        .takes(&CHANGE_PARAMETERS, 0)
        .posted(&[404, 409, 413])
        .by("post", 201)
        .reads::<GrantBody>(),
        Route::json::<GrantAnswer>(ONE, get(one), "A grant, and what is spent of it").fails_with(&[404]),
        Route::json::<GrantAnswer>(
            ONE,
            limited(put(update)),
            "Changes what is given of a grant; wants the role operator",
        )
        .takes(&CHANGE_PARAMETERS, 0)
        .by("put", 200)
        .fails_with(&[404, 409, 413])
        .reads::<GrantBody>(),
        Route::new(
            ONE,
            delete(close),
            "Closes a grant for good and erases nothing; wants the role operator",
            Answer::Other(&[]),
        )
        .takes(&CHANGE_PARAMETERS, 0)
        .by("delete", 204)
        .fails_with(&[404, 409]),
        Route::json::<Vec<PeriodAnswer>>(
            "/api/v1/grants/{number}/periods",
            get(periods),
            "A grant's budget periods, and what was spent in each",
        )
        .fails_with(&[404]),
    ];
    routes.extend(reports());
    routes
}
