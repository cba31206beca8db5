//! `POST /api/v1/grants/reports` and `GET /api/v1/grants/{number}/report`: what was spent of a grant, on what, and how each figure
//! was measured; as JSON, CSV and PDF.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse as _, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tonnage_proto::limits::DAY_NS;

use super::super::{Body, one_of, read};
use super::words::date;
use super::{numbered, shown};
use crate::api::Api;
use crate::api::budgets::seen::Seen;
use crate::api::error::{ApiError, quoted};
use crate::api::params::Params;
use crate::budgets::Award;
use crate::export::pdf::pdf;
use crate::store::query;

mod collect;
mod form;
mod measured;
mod sheet;

pub(in crate::api) use form::Report;

pub(in crate::api) const PARAMETERS: [&str; 6] =
    ["format", "report_type", "start_date", "end_date", "budget_period", "include_details"];
/// Besides JSON.
pub(in crate::api) const MEDIA: [&str; 2] = [CSV, "application/pdf"];
const CSV: &str = crate::export::Format::Csv.content_type();

/// Which parts a report has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ReportKind")]
pub(in crate::api) enum Kind {
    /// By period, month and account.
    #[default]
    Financial,
    /// By month, user, and partition and model.
    Technical,
    /// By period, and by the evidence for it; with what the grant demands.
    Compliance,
    /// All of it; of one year of the grant unless told.
    Annual,
}

impl Kind {
    pub(in crate::api) const ALL: [(Self, &'static str); 4] = [
        (Self::Financial, "financial"),
        (Self::Technical, "technical"),
        (Self::Compliance, "compliance"),
        (Self::Annual, "annual"),
    ];

    fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ReportFormat")]
pub(in crate::api) enum Format {
    #[default]
    Json,
    Csv,
    Pdf,
}

impl Format {
    pub(in crate::api) const ALL: [(Self, &'static str); 3] =
        [(Self::Json, "json"), (Self::Csv, "csv"), (Self::Pdf, "pdf")];
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(in crate::api) struct ReportBody {
    grant_number: String,
    #[serde(default)]
    report_type: Option<Kind>,
    /// A day of UTC; with end_date, or instead of budget_period. The grant's first unless told.
    #[serde(default)]
    start_date: Option<String>,
    /// The first day that is not in it.
    #[serde(default)]
    end_date: Option<String>,
    /// By its number.
    #[serde(default)]
    budget_period: Option<i64>,
    #[serde(default)]
    format: Option<Format>,
    /// By user, month and the like, and not periods alone; true unless told.
    #[serde(default)]
    include_details: Option<bool>,
}

/// What is to be reported.
struct Wanted {
    kind: Kind,
    details: bool,
    /// On midnights of UTC.
    window_ns: (i64, i64),
    now_ns: i64,
}

pub(in crate::api) async fn post(
    State(api): State<Arc<Api>>,
    uri: Uri,
    body: Body,
) -> Result<Response, ApiError> {
    Params::read(&uri, &[])?;
    report(&api, read(body)?).await
}

pub(in crate::api) async fn get(
    State(api): State<Arc<Api>>,
    Path(number): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let mut params = Params::read(&uri, &PARAMETERS)?;
    let kind = params.take("report_type").map(|text| {
        let text = one_of("report_type", text, &Kind::ALL.map(|(_, name)| name))?;
        Ok::<_, ApiError>(Kind::ALL.into_iter().find(|(_, name)| *name == text).map(|(kind, _)| kind))
    });
    let format = params.take("format").map(|text| {
        let text = one_of("format", text, &Format::ALL.map(|(_, name)| name))?;
        Ok::<_, ApiError>(Format::ALL.into_iter().find(|(_, name)| *name == text).map(|(format, _)| format))
    });
    let period = params.take("budget_period").map(|text| {
        text.parse::<i64>().map_err(|_| {
            let message = format!("budget_period {:?} is not a number", quoted(&text));
            ApiError::invalid("budget_period", message)
        })
    });
    let body = ReportBody {
        grant_number: number,
        report_type: kind.transpose()?.flatten(),
        start_date: params.take("start_date"),
        end_date: params.take("end_date"),
        budget_period: period.transpose()?,
        format: format.transpose()?.flatten(),
        include_details: Some(params.take_bool("include_details", true)?),
    };
    report(&api, body).await
}

async fn report(api: &Api, body: ReportBody) -> Result<Response, ApiError> {
    let award = numbered(api, body.grant_number.clone()).await?;
    let now_ns = api.state.clock.wall_ns();
    let wanted = body.wanted(&award, now_ns)?;
    let kept = api.queries.run(|db, _| Ok(query::kept(db)?)).await?;
    let (start_ns, end_ns) = wanted.window_ns;
    kept.check(start_ns, end_ns).map_err(|message| ApiError::invalid("start_date", message))?;
    let book = Arc::clone(&api.state.prices.books.borrow());
    let ledger = api.state.ledger.clone();
    let name = format!("{}-{}", award.grant.number, wanted.kind.name());
    let report = api.queries.run(move |db, expired| {
        let grant = shown(db, &mut Seen::read(db, now_ns)?, &award)?;
        let found = collect::collect(db, &award, &wanted, &kept, expired)?;
        let measured = measured::measured(db, &award, &wanted, &found, (&ledger, &book, &kept))?;
        Ok(form::report(grant, &award, &wanted, found, measured, book.currency()))
    });
    let report = report.await?;
    let (bytes, media) = match body.format.unwrap_or_default() {
        Format::Json => return Ok(Json(report).into_response()),
        Format::Csv => (sheet::csv(&report).map_err(|_| ApiError::internal())?, CSV),
        Format::Pdf => (pdf(&sheet::document(&report)), MEDIA[1]),
    };
    file(bytes, media, &name)
}

/// A file that is named after the grant, with such characters of its number as every file system takes.
fn file(bytes: Vec<u8>, media: &'static str, name: &str) -> Result<Response, ApiError> {
    let word = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    let name: String = name.chars().map(word).collect();
    let ending = if media == CSV { "csv" } else { "pdf" };
    let disposition = format!("attachment; filename=\"grant-{name}.{ending}\"");
    let mut response = bytes.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    let disposition = HeaderValue::from_str(&disposition).map_err(|_| ApiError::internal())?;
    headers.insert(header::CONTENT_DISPOSITION, disposition);
    Ok(response)
}

impl ReportBody {
    fn wanted(&self, award: &Award, now_ns: i64) -> Result<Wanted, ApiError> {
        let kind = self.report_type.unwrap_or_default();
        let whole = award.grant.span_ns();
        let edge = |field: &'static str, text: &Option<String>| {
            let day = text.as_ref().map(|text| date(field, text)).transpose()?;
            Ok::<_, ApiError>(day.map(crate::budgets::grant::midnight_ns))
        };
        let (start, end) = (edge("start_date", &self.start_date)?, edge("end_date", &self.end_date)?);
        let (start_ns, end_ns) = match (self.budget_period, start.or(end)) {
            (Some(_), Some(_)) => {
                let message = "budget_period: give it, or start_date and end_date";
                return Err(ApiError::invalid("budget_period", message));
            }
            (Some(number), None) => {
                let period = award.grant.periods().into_iter().find(|period| period.number == number);
                let period = period.ok_or_else(|| {
                    let message = format!("budget_period: the grant has none of the number {number}");
                    ApiError::invalid("budget_period", message)
                })?;
                (period.start_ns, period.end_ns)
            }
            (None, None) if kind == Kind::Annual => award.grant.year(now_ns),
            (None, _) => (start.unwrap_or(whole.0), end.unwrap_or(whole.1)),
        };
        let (from_ns, to_ns) = (start_ns.max(whole.0), end_ns.min(whole.1));
        if from_ns >= to_ns || start_ns >= end_ns {
            let message = "end_date: no day of the grant lies between start_date and end_date";
            return Err(ApiError::invalid("end_date", message));
        }
        // What is to come has no figures, but the day that goes on has.
        let today_ns = now_ns - now_ns.rem_euclid(DAY_NS);
        let to_ns = to_ns.min(today_ns + DAY_NS).max(from_ns);
        let details = self.include_details.unwrap_or(true);
        Ok(Wanted { kind, details, window_ns: (from_ns, to_ns), now_ns })
    }
}
