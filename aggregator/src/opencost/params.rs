//! OpenCost's parameters: from the query of a request to the windows and names that are asked for. Pure.
//!
//! A parameter that is not in a list here is refused by its name: a client that believes that it was served would take
//! other numbers for its own.

use axum::http::Uri;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tonnage_proto::limits::{DAY_NS, HOUR_NS, SLOT_NS};

use super::property::{DETAIL, KNOWN, POD, Place, Property, UNKNOWN, behind};
use crate::api::cost::fields;
use crate::api::error::{ApiError, quoted};
use crate::api::params::Params;
use crate::api::window::{self, Window};
use crate::filter::Expr;
use crate::store::query::{Dimension, Field};

/// Sets in one answer.
pub(super) const SETS_MAX: usize = 1_000;
const PARAMETERS: [&str; 11] = [
    "window",
    "aggregate",
    "step",
    // Prometheus's, in OpenCost; the ledger knows every nanosecond, so it has no effect here.
    "resolution",
    "includeIdle",
    "idle",
    "shareIdle",
    "idleByNode",
    "accumulate",
    "accumulateBy",
    "filter",
];
const BY_MAX: usize = 10;
const MONTH_NS_MAX: i64 = 32 * DAY_NS;

/// What becomes of time that nobody held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Idle {
    /// Allocations of its own.
    pub(super) include: bool,
    /// One for each node, or each node's shared out to its own holders.
    pub(super) by_node: bool,
    /// Its cost is shared out to holders, in proportion to their own.
    pub(super) share: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Accumulate {
    No,
    All,
    By(Unit),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Unit {
    Hour,
    Day,
    Week,
    Month,
}

/// A request for allocations, as it was said: a window is still in words that move with time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Request {
    window: String,
    step_ns: Option<i64>,
    accumulate: Accumulate,
    /// In OpenCost's language, and good.
    filter: Option<String>,
    pub(super) by: Vec<Property>,
    pub(super) idle: Idle,
}

/// What a request means at a moment. Times are nanoseconds since the Unix epoch, on slots' edges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) window: Window,
    /// One set of allocations for each; together they are the window.
    pub(super) sets: Vec<Window>,
}

impl Request {
    /// Reads the parameters of `uri`.
    ///
    /// # Errors
    /// The first that is not served or wrong, by name.
    pub(super) fn read(uri: &Uri) -> Result<Self, ApiError> {
        let mut params = Params::read(uri, &PARAMETERS)?;
        let Some(window) = params.take("window") else {
            return Err(ApiError::invalid("window", "window is missing; say of what time, as in window=7d"));
        };
        params.take("resolution");
        let step_ns = params.take("step").map(|text| step(&text)).transpose()?;
        let by = params.take("aggregate").map_or_else(|| Ok(by_container()), |list| aggregate(&list))?;
        // `idle` is Kubecost's spelling.
        let idle = flag(&mut params, "idle")?.unwrap_or(false);
        let idle = Idle {
            include: flag(&mut params, "includeIdle")?.unwrap_or(idle),
            by_node: flag(&mut params, "idleByNode")?.unwrap_or(false),
            share: flag(&mut params, "shareIdle")?.unwrap_or(false),
        };
        let all = flag(&mut params, "accumulate")?.unwrap_or(false);
        let accumulate = match params.take("accumulateBy").as_deref() {
            None if all => Accumulate::All,
            None => Accumulate::No,
            Some("all") => Accumulate::All,
            Some("hour") => Accumulate::By(Unit::Hour),
            Some("day") => Accumulate::By(Unit::Day),
            Some("week") => Accumulate::By(Unit::Week),
            Some("month") => Accumulate::By(Unit::Month),
            Some(other) => {
                let message =
                    format!("accumulateBy {:?} is none of hour, day, week, month and all", quoted(other));
                return Err(ApiError::invalid("accumulateBy", message));
            }
        };
        let request = Self { window, step_ns, accumulate, filter: params.take("filter"), by, idle };
        request.condition()?;
        Ok(request)
    }

    /// What the ledger is asked by: [`DETAIL`], and what it names of pods.
    pub(super) fn detail(&self) -> Vec<Dimension> {
        DETAIL.into_iter().chain(behind(&self.by)).collect()
    }

    /// Are its allocations of one pod each?
    pub(super) fn names_pods(&self) -> bool {
        self.by.iter().any(|by| by.place == Place::Detail(POD))
    }

    /// What its filter lets through.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(super) fn condition(&self) -> Result<Option<Expr<Field>>, ApiError> {
        self.filter.as_deref().map(fields::condition).transpose()
    }

    /// What it means at `now_ns`.
    ///
    /// # Errors
    /// If the window is none, or has too many steps.
    pub(super) fn plan(&self, now_ns: i64) -> Result<Plan, ApiError> {
        let window = parse_window(&self.window, now_ns)?;
        let sets = self.sets(window).ok_or_else(|| {
            let message = format!("step makes more than {SETS_MAX} sets of this window; make it longer");
            ApiError::invalid("step", message)
        })?;
        Ok(Plan { window, sets })
    }

    fn sets(&self, (start_ns, end_ns): Window) -> Option<Vec<Window>> {
        let mut sets: Vec<Window> = Vec::new();
        let mut at_ns = start_ns;
        while at_ns < end_ns {
            let next_ns = match (self.accumulate, self.step_ns) {
                (Accumulate::All, _) | (Accumulate::No, None) => end_ns,
                (_, Some(step_ns)) => at_ns.saturating_add(step_ns),
                (Accumulate::By(unit), None) => unit.next(at_ns),
            };
            let next_ns = next_ns.min(end_ns);
            match (self.accumulate, sets.last_mut()) {
                (Accumulate::By(unit), Some(last)) if unit.floor(last.0) == unit.floor(at_ns) => {
                    last.1 = next_ns
                }
                _ => sets.push((at_ns, next_ns)),
            }
            at_ns = next_ns;
            if sets.len() > SETS_MAX {
                return None;
            }
        }
        Some(sets)
    }

    /// The same request in OpenCost's words, for `window`.
    #[must_use]
    pub(super) fn upstream_query(&self, window: Window) -> String {
        let mut query = span(window);
        let names: Vec<String> = self.by.iter().map(|by| escaped(&by.name)).collect();
        query += &format!("&aggregate={}", if names.is_empty() { "all".to_owned() } else { names.join(",") });
        for (name, on) in [
            ("includeIdle", self.idle.include),
            ("idleByNode", self.idle.by_node),
            ("shareIdle", self.idle.share),
        ] {
            query += &format!("&{name}={on}");
        }
        if let Some(filter) = &self.filter {
            query += &format!("&filter={}", escaped(filter));
        }
        if let Some(step_ns) = self.step_ns {
            query += &format!("&step={}m", step_ns / 60_000_000_000);
        }
        match self.accumulate {
            Accumulate::No => {}
            Accumulate::All => query += "&accumulate=true",
            Accumulate::By(unit) => query += &format!("&accumulateBy={}", unit.name()),
        }
        query
    }
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// Where the unit of UTC begins in which `at_ns` lies.
    fn floor(self, at_ns: i64) -> i64 {
        let day_ns = at_ns - at_ns.rem_euclid(DAY_NS);
        match self {
            Self::Hour => at_ns - at_ns.rem_euclid(HOUR_NS),
            Self::Day => day_ns,
            Self::Week => window::monday(day_ns),
            Self::Month => window::first_of_month(day_ns),
        }
    }

    /// Where the next one begins.
    fn next(self, at_ns: i64) -> i64 {
        let start_ns = self.floor(at_ns);
        match self {
            Self::Hour => start_ns + HOUR_NS,
            Self::Day => start_ns + DAY_NS,
            Self::Week => start_ns + 7 * DAY_NS,
            Self::Month => window::first_of_month(start_ns + MONTH_NS_MAX),
        }
    }
}

/// Unix seconds, which every version understands.
pub(super) fn span((start_ns, end_ns): Window) -> String {
    let time = |at_ns: i64| at_ns.div_euclid(1_000_000_000);
    format!("window={},{}", time(start_ns), time(end_ns))
}

/// As the REST API's, and `24h offset 1h`.
pub(super) fn parse_window(text: &str, now_ns: i64) -> Result<Window, ApiError> {
    let wrong = |message: String| ApiError::invalid("window", message);
    let Some((length, offset)) = text.split_once(" offset ") else {
        return window::parse(text, now_ns).map_err(wrong);
    };
    let then_ns = window::length(offset).and_then(|offset_ns| now_ns.checked_sub(offset_ns));
    match (window::length(length), then_ns) {
        (Some(_), Some(then_ns)) if then_ns >= 0 => window::parse(length, then_ns).map_err(wrong),
        _ => Err(wrong(format!(
            "window {:?} is not a length and an offset; use lengths such as 24h offset 1h",
            quoted(text)
        ))),
    }
}

fn step(text: &str) -> Result<i64, ApiError> {
    window::length(text).filter(|step_ns| step_ns % SLOT_NS == 0).ok_or_else(|| {
        let message = format!("step {:?} is not a multiple of 15m; use e.g. 15m, 1h, 1d, 1w", quoted(text));
        ApiError::invalid("step", message)
    })
}

fn by_container() -> Vec<Property> {
    std::iter::zip(KNOWN, 0..)
        .map(|(name, place)| Property { name: name.to_owned(), place: Place::Detail(place) })
        .collect()
}

fn aggregate(list: &str) -> Result<Vec<Property>, ApiError> {
    let wrong = |message: String| ApiError::invalid("aggregate", message);
    if list == "all" {
        return Ok(Vec::new());
    }
    let mut by = Vec::new();
    for name in list.split(',').map(str::trim) {
        let property = Property::parse(name).ok_or_else(|| {
            let (known, unknown) = (KNOWN.join(", "), UNKNOWN.join(", "));
            wrong(format!(
                "aggregate {:?} is not a property; use {known}, controller, controllerKind, team, label:NAME, all, or \
                 what is __unallocated__ here: {unknown}, annotation:NAME",
                quoted(name)
            ))
        })?;
        by.push(property);
        if by.len() > BY_MAX {
            return Err(wrong(format!("aggregate has more than {BY_MAX} properties; name fewer")));
        }
    }
    Ok(by)
}

/// Every spelling that OpenCost takes.
fn flag(params: &mut Params, name: &'static str) -> Result<Option<bool>, ApiError> {
    match params.take(name).as_deref() {
        None => Ok(None),
        Some("1" | "t" | "T" | "true" | "True" | "TRUE") => Ok(Some(true)),
        Some("0" | "f" | "F" | "false" | "False" | "FALSE") => Ok(Some(false)),
        Some(other) => {
            Err(ApiError::invalid(name, format!("{name} {:?} is neither true nor false", quoted(other))))
        }
    }
}

/// For a query: whatever is not plain by its bytes.
fn escaped(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:/".contains(byte);
    text.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// RFC 3339 in UTC and whole seconds, as OpenCost writes times.
pub(super) fn time(at_ns: i64) -> String {
    Timestamp::from_second(at_ns.div_euclid(1_000_000_000)).map_or_else(
        |_| String::new(),
        |at| at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-03-01T10:07:30Z";

    fn ns(text: &str) -> i64 {
        i64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    fn read(query: &str) -> Result<Request, ApiError> {
        Request::read(&format!("http://x/allocation?{query}").parse().unwrap())
    }

    fn sets(query: &str) -> Vec<(String, String)> {
        let plan = read(query).and_then(|request| request.plan(ns(NOW))).unwrap();
        plan.sets.into_iter().map(|(start, end)| (time(start), time(end))).collect()
    }

    #[test]
    fn a_window_is_one_set_unless_steps_or_accumulation_cut_it() {
        let pair = |a: &str, b: &str| (format!("2026-{a}:00Z"), format!("2026-{b}:00Z"));
        for (query, expected) in [
            ("window=1h", vec![pair("03-01T09:00", "03-01T10:15")]),
            ("window=1h%20offset%2030m", vec![pair("03-01T08:30", "03-01T09:45")]),
            (
                "window=yesterday&step=12h",
                vec![pair("02-28T00:00", "02-28T12:00"), pair("02-28T12:00", "03-01T00:00")],
            ),
            ("window=yesterday&step=1h&accumulate=true", vec![pair("02-28T00:00", "03-01T00:00")]),
            ("window=yesterday&step=1h&accumulateBy=all", vec![pair("02-28T00:00", "03-01T00:00")]),
            (
                "window=24h&accumulateBy=day",
                vec![pair("02-28T10:00", "03-01T00:00"), pair("03-01T00:00", "03-01T10:15")],
            ),
            (
                "window=24h&accumulateBy=month",
                vec![pair("02-28T10:00", "03-01T00:00"), pair("03-01T00:00", "03-01T10:15")],
            ),
            ("window=24h&accumulateBy=week", vec![pair("02-28T10:00", "03-01T10:15")]),
            (
                "window=24h&accumulateBy=day&step=6h",
                vec![pair("02-28T10:00", "03-01T04:00"), pair("03-01T04:00", "03-01T10:15")],
            ),
        ] {
            assert_eq!(sets(query), expected, "{query}");
        }
        assert_eq!(sets("window=7d&step=1h").len(), 169);
    }

    #[test]
    fn what_is_not_served_is_refused_by_its_name() {
        for (query, said) in [
            ("", "window is missing"),
            ("window=7d&filter=namespace:%22a", "filter"),
            ("window=7d&filter=tenant:%22a%22", "\"tenant\" is not a field"),
            ("window=7d&shareNamespaces=a", "\"shareNamespaces\" is not a parameter"),
            ("window=7d&includeIdle=yes", "includeIdle \"yes\" is neither"),
            ("window=7d&aggregate=pod,tenant", "aggregate \"tenant\" is not"),
            ("window=7d&aggregate=label:", "aggregate \"label:\" is not"),
            ("window=7d&step=5m", "step \"5m\" is not a multiple of 15m"),
            ("window=7d&accumulateBy=year", "accumulateBy \"year\" is none of"),
            ("window=7d&window=1d", "more than once"),
        ] {
            let error = read(query).unwrap_err();
            assert_eq!(error.status(), 400);
            assert!(error.message().contains(said), "{query}: {}", error.message());
        }
        for (query, said) in [
            ("window=fortnight", "window \"fortnight\" is not a window"),
            ("window=7d%20offset%20x", "is not a length and an offset"),
            ("window=7d%20offset%209999w", "is not a length and an offset"),
            ("window=300d&step=1h", "more than 1000 sets"),
        ] {
            let error = read(query).unwrap().plan(ns(NOW)).unwrap_err();
            assert!(error.message().contains(said), "{query}: {}", error.message());
        }
    }

    #[test]
    fn properties_are_opencosts_and_what_the_ledger_does_not_know_is_unallocated() {
        let request = read("window=1d&aggregate=Namespace,%20controllerkind,label:app,service").unwrap();
        let names: Vec<_> = request.by.iter().map(|by| by.name.as_str()).collect();
        assert_eq!(names, ["namespace", "controllerKind", "label:app", "service"]);
        assert_eq!(request.detail().len(), DETAIL.len() + 2);
        let key = ["c", "n", "ml", "p", "", "GPU-1", "H100", "", "Job", "trainer"].map(str::to_owned);
        let behind = behind(&request.by);
        let values: Vec<_> = request.by.iter().map(|by| by.value(&key, &behind)).collect();
        assert_eq!(values, ["ml", "Job", "trainer", "__unallocated__"]);
        assert_eq!(read("window=1d").unwrap().by.len(), 5);
        assert!(read("window=1d&aggregate=all").unwrap().by.is_empty());
    }
}
