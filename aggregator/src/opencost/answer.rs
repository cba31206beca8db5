//! OpenCost's JSON: envelopes, allocations and their summaries. Field names are OpenCost's to the letter.
//!
//! Figures are decimal numbers with nine places, never a double on the way; what is not known is null, never NaN.

use std::collections::BTreeMap;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::allocation::{Allocation, Allocations, Rest};
use super::figures::{COSTS, Figures, Set};
use super::number::Number;
use super::params::time;
use crate::api::error::ApiError;
use crate::api::window::Window;
use crate::model::GpuTime;

const HOUR_NS: i128 = 3_600_000_000_000;
const NANOS: i128 = 1_000_000_000;

/// The envelope of every answer that is no error.
#[derive(Debug, Serialize)]
pub(super) struct Envelope<T> {
    pub(super) code: u16,
    pub(super) status: &'static str,
    pub(super) data: T,
    /// What the reader of these numbers should know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) warning: Option<String>,
}

impl<T: Serialize> Envelope<T> {
    pub(super) fn bytes(data: T, warnings: &[String]) -> Result<Vec<u8>, serde_json::Error> {
        let warning = (!warnings.is_empty()).then(|| warnings.join("; "));
        serde_json::to_vec(&Self { code: 200, status: "success", data, warning })
    }
}

/// A whole answer's JSON.
pub(super) fn json(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

/// An error in OpenCost's shape.
pub(super) fn refused(error: &ApiError) -> Response {
    let status = error.status();
    let body = serde_json::json!({ "code": status.as_u16(), "message": error.message() });
    let mut response = json(status, body.to_string().into_bytes());
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Start and end.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Span {
    pub(super) start: String,
    pub(super) end: String,
}

impl Span {
    pub(super) fn of((start_ns, end_ns): Window) -> Self {
        Self { start: time(start_ns), end: time(end_ns) }
    }
}

/// What all allocations of a set have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    window: Window,
    /// The part of it that has passed.
    passed: Window,
}

impl Frame {
    pub(super) fn new(window: Window, now_ns: i64) -> Self {
        Self { window, passed: (window.0, now_ns.clamp(window.0, window.1)) }
    }

    pub(super) fn passed_ns(&self) -> i128 {
        i128::from(self.passed.1 - self.passed.0)
    }

    pub(super) fn minutes(&self) -> Number {
        Number(self.passed_ns() / 60)
    }

    pub(super) fn window(&self) -> Span {
        Span::of(self.window)
    }

    pub(super) fn passed(&self) -> Span {
        Span::of(self.passed)
    }

    /// GPUs on average.
    fn average(&self, time: GpuTime) -> Number {
        Number(time.ns()).over(Number(self.passed_ns())).unwrap_or_default()
    }
}

/// In hours, rounded down to nine places.
pub(super) fn hours(time: GpuTime) -> Number {
    Number(time.ns() * NANOS / HOUR_NS)
}

/// An allocation as it is written: ours, and the upstream's figures of the same name.
pub(super) struct Shown<'a> {
    name: &'a str,
    frame: Frame,
    gpu: &'a Allocation,
    rest: &'a Figures,
}

/// The allocations of a set and the upstream's together, each by its name.
pub(super) struct Merged<'a> {
    pub(super) frame: Frame,
    pub(super) allocations: &'a Allocations,
    pub(super) upstream: Option<&'a Set>,
    pub(super) summary: bool,
}

impl Serialize for Merged<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (no_gpu, no_rest) = (Allocation::default(), Figures::default());
        let mut all: BTreeMap<&str, (Option<&Allocation>, Option<&Figures>)> = BTreeMap::new();
        for (name, gpu) in self.allocations {
            all.entry(name).or_default().0 = Some(gpu);
        }
        for (name, rest) in self.upstream.into_iter().flatten() {
            all.entry(name).or_default().1 = Some(rest);
        }
        serializer.collect_map(all.iter().map(|(name, (gpu, rest))| {
            let (gpu, rest) = (gpu.unwrap_or(&no_gpu), rest.unwrap_or(&no_rest));
            let shown = Shown { name, frame: self.frame, gpu, rest };
            (*name, if self.summary { Form::Summary(shown) } else { Form::Whole(shown) })
        }))
    }
}

/// What is known of whom an allocation is of.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties<'a> {
    #[serde(flatten)]
    names: &'a BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    namespace_labels: &'a BTreeMap<String, String>,
}

impl<'a> Properties<'a> {
    fn of(allocation: &'a Allocation) -> Self {
        let Allocation { properties: names, labels, namespace_labels, .. } = allocation;
        Self { names, labels, namespace_labels }
    }
}

enum Form<'a> {
    Whole(Shown<'a>),
    Summary(Shown<'a>),
}

impl Serialize for Form<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Whole(shown) => shown.whole(&mut map)?,
            Self::Summary(shown) => shown.summary(&mut map)?,
        }
        map.end()
    }
}

impl Shown<'_> {
    fn whole<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let Self { name, frame, gpu, rest } = self;
        let passed = frame.passed();
        map.serialize_entry("name", name)?;
        map.serialize_entry("properties", &Properties::of(gpu))?;
        map.serialize_entry("window", &frame.window())?;
        map.serialize_entry("start", &passed.start)?;
        map.serialize_entry("end", &passed.end)?;
        map.serialize_entry("minutes", &frame.minutes())?;
        for (field, figure) in rest.all() {
            map.serialize_entry(field, &figure)?;
        }
        map.serialize_entry("cpuEfficiency", &efficiency(rest, "cpuCore"))?;
        map.serialize_entry("ramEfficiency", &efficiency(rest, "ramByte"))?;
        let held = frame.average(gpu.held);
        // An idle allocation requests and uses nothing.
        let (requested, used) =
            if gpu.rest.is_some() { (Number(0), Some(Number(0))) } else { (held, self.used()) };
        map.serialize_entry("gpuCount", &held)?;
        map.serialize_entry("gpuHours", &hours(gpu.held))?;
        map.serialize_entry("gpuCost", &Number(gpu.gpu_cost_nanos()))?;
        map.serialize_entry("gpuCostAdjustment", &Number(0))?;
        map.serialize_entry("gpuCostIdle", &Number(gpu.idle_share_nanos))?;
        map.serialize_entry("gpuEfficiency", &self.gpu_efficiency())?;
        map.serialize_entry("gpuRequestAverage", &requested)?;
        map.serialize_entry("gpuUsageAverage", &used)?;
        let allocation = (!gpu.uuids.is_empty()).then(|| GpuAllocation {
            gpu_device: "",
            gpu_model: Allocation::named(&gpu.models),
            gpu_uuid: Allocation::named(&gpu.uuids),
            shared: gpu.shared,
            used,
            requested,
        });
        map.serialize_entry("gpuAllocation", &allocation)?;
        map.serialize_entry("pvs", &None::<()>)?;
        map.serialize_entry("lbAllocations", &None::<()>)?;
        map.serialize_entry("totalCost", &self.total())?;
        map.serialize_entry("totalEfficiency", &self.total_efficiency())?;
        if let Some(rest) = &gpu.rest {
            map.serialize_entry("tonnage", &Unallocated::of(rest))?;
        }
        Ok(())
    }

    fn summary<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let Self { name, frame, gpu, rest } = self;
        let passed = frame.passed();
        map.serialize_entry("name", name)?;
        map.serialize_entry("start", &passed.start)?;
        map.serialize_entry("end", &passed.end)?;
        for field in [
            "cpuCoreRequestAverage",
            "cpuCoreUsageAverage",
            "cpuCost",
            "ramByteRequestAverage",
            "ramByteUsageAverage",
            "ramCost",
            "networkCost",
            "loadBalancerCost",
            "pvCost",
            "sharedCost",
            "externalCost",
        ] {
            map.serialize_entry(field, &rest.get(field))?;
        }
        map.serialize_entry("gpuCost", &Number(gpu.gpu_cost_nanos()))?;
        map.serialize_entry("totalCost", &self.total())?;
        map.serialize_entry("totalEfficiency", &self.total_efficiency())
    }

    fn used(&self) -> Option<Number> {
        match self.gpu.busy {
            Some(busy) => Some(self.frame.average(busy)),
            None => (self.gpu.held == GpuTime::default()).then_some(Number(0)),
        }
    }

    /// Busy time of held time; 0 of nothing, null where the driver did not say.
    fn gpu_efficiency(&self) -> Option<Number> {
        if self.gpu.rest.is_some() || self.gpu.held == GpuTime::default() {
            return Some(Number(0));
        }
        self.gpu.busy.map(|busy| Number(busy.share_of(self.gpu.held, NANOS)))
    }

    fn total(&self) -> Number {
        let rest: i128 = COSTS.iter().map(|name| self.rest.get(name).0).sum();
        Number(rest + self.gpu.gpu_cost_nanos())
    }

    /// Efficiencies weighed by cost, over processors, memory, and GPUs whose use is known.
    fn total_efficiency(&self) -> Option<Number> {
        let gpu = self.gpu_efficiency().map(|of| (of, Number(self.gpu.gpu_cost_nanos())));
        let cpu = (efficiency(self.rest, "cpuCore"), self.rest.get("cpuCost"));
        let ram = (efficiency(self.rest, "ramByte"), self.rest.get("ramCost"));
        let (mut used, mut paid) = (0_i128, 0_i128);
        for (of, cost) in [cpu, ram].into_iter().chain(gpu) {
            used = used.checked_add(of.0.checked_mul(cost.0)?)?;
            paid += cost.0;
        }
        if paid == 0 { Some(Number(0)) } else { Some(Number(used.div_euclid(paid))) }
    }
}

/// Use by what was asked for; all of it, where nothing was.
fn efficiency(figures: &Figures, of: &str) -> Number {
    let [used, asked] = ["UsageAverage", "RequestAverage"].map(|end| figures.get(&format!("{of}{end}")));
    match used.over(asked) {
        Some(efficiency) => efficiency,
        None if used > Number(0) => Number(NANOS),
        None => Number(0),
    }
}

#[derive(Serialize)]
struct GpuAllocation {
    #[serde(rename = "gpuDevice")]
    gpu_device: &'static str,
    #[serde(rename = "gpuModel")]
    gpu_model: String,
    #[serde(rename = "gpuUUID")]
    gpu_uuid: String,
    #[serde(rename = "isGPUShared")]
    shared: bool,
    #[serde(rename = "gpuUsageAverage")]
    used: Option<Number>,
    #[serde(rename = "gpuRequestAverage")]
    requested: Number,
}

/// What `__idle__` is made of, which OpenCost has no words for.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Unallocated {
    idle_cost: Number,
    unobserved_cost: Number,
    rounding_cost: Number,
    idle_hours: Number,
    unobserved_hours: Number,
}

impl Unallocated {
    fn of(rest: &Rest) -> Self {
        Self {
            idle_cost: Number(rest.idle_nanos),
            unobserved_cost: Number(rest.unobserved_nanos),
            rounding_cost: Number(rest.rounding_nanos),
            idle_hours: hours(rest.idle),
            unobserved_hours: hours(rest.unobserved),
        }
    }
}

/// `/allocation/summary`.
#[derive(Serialize)]
pub(super) struct Summary<'a> {
    /// Of the first set, in nanoseconds.
    pub(super) step: i64,
    pub(super) sets: Vec<SummarySet<'a>>,
    pub(super) window: Span,
}

#[derive(Serialize)]
pub(super) struct SummarySet<'a> {
    pub(super) allocations: Merged<'a>,
    pub(super) window: Span,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tonnage_proto::method::BUSY_PROCESS;

    use super::super::allocation::fold;
    use super::super::figures;
    use super::super::params::Request;
    use super::*;
    use crate::store::query::{Group, Sums};

    const HOUR: i64 = 3_600_000_000_000;

    /// An hour of `gpus` in a pod, busy for half of it if anybody knows.
    fn pod(gpus: usize, method: u32) -> Vec<Group> {
        let key =
            |gpu: usize| ["c", "n", "ml", "a", "main", &format!("GPU-{gpu}"), "H100", ""].map(str::to_owned);
        let [held, busy] = [HOUR, HOUR / 2].map(|ns| GpuTime::of_slices(ns.into(), 1));
        let sums = Sums { held, busy, method, held_cost_nanos: 3_000_000_001, ..Sums::default() };
        (0..gpus).map(|gpu| Group { key: key(gpu).to_vec(), sentinel: false, sums }).collect()
    }

    /// The set's JSON, an hour after the window of an hour began.
    fn written(groups: Vec<Group>, upstream: Option<&str>, summary: bool) -> Value {
        let request = Request::read(&"http://x/?window=1h&aggregate=pod".parse().unwrap()).unwrap();
        let allocations = fold(groups, &request.by, request.idle);
        let said = upstream.map(|set| {
            let body = format!(r#"{{"code":200,"data":[{set}]}}"#);
            figures::parse(body.as_bytes(), 1).unwrap().sets.remove(0)
        });
        let frame = Frame::new((0, HOUR), HOUR);
        let merged = Merged { frame, allocations: &allocations, upstream: said.as_ref(), summary };
        serde_json::from_slice(&Envelope::bytes([merged], &[]).unwrap()).unwrap()
    }

    #[test]
    fn every_name_that_clients_read_is_there() {
        let answer = written(pod(1, BUSY_PROCESS), None, false);
        assert_eq!((&answer["code"], &answer["status"]), (&json!(200), &json!("success")));
        let names = "name properties window start end minutes cpuCores cpuCoreRequestAverage cpuCoreUsageAverage \
            cpuCoreHours cpuCost cpuCostAdjustment cpuCostIdle cpuEfficiency gpuCount gpuRequestAverage \
            gpuUsageAverage gpuHours gpuCost gpuCostAdjustment gpuCostIdle gpuEfficiency networkTransferBytes \
            networkReceiveBytes networkCost networkCrossZoneCost networkCrossRegionCost networkInternetCost \
            networkCostAdjustment loadBalancerCost loadBalancerCostAdjustment pvBytes pvByteHours pvCost pvs \
            pvCostAdjustment ramBytes ramByteRequestAverage ramByteUsageAverage ramByteHours ramCost \
            ramCostAdjustment ramCostIdle ramEfficiency externalCost sharedCost totalCost totalEfficiency \
            lbAllocations gpuAllocation";
        let allocation = answer["data"][0]["a"].as_object().unwrap();
        for name in names.split_whitespace() {
            assert!(allocation.contains_key(name), "{name}");
        }
        let gpu = json!({
            "gpuDevice": "", "gpuModel": "H100", "gpuUUID": "GPU-0", "isGPUShared": false,
            "gpuUsageAverage": 0.5, "gpuRequestAverage": 1.0,
        });
        assert_eq!(allocation["gpuAllocation"], gpu);
        assert_eq!(
            allocation["window"],
            json!({"start": "1970-01-01T00:00:00Z", "end": "1970-01-01T01:00:00Z"})
        );
        let summary = written(pod(1, BUSY_PROCESS), None, true);
        assert_eq!(summary["data"][0]["a"]["totalCost"], json!(3.000_000_001));
    }

    #[test]
    fn efficiency_is_of_what_was_held_and_null_where_nobody_knows_the_use() {
        let a = &written(pod(4, BUSY_PROCESS), None, false)["data"][0]["a"];
        assert_eq!((&a["gpuCount"], &a["gpuUsageAverage"]), (&json!(4.0), &json!(2.0)));
        assert_eq!((&a["gpuEfficiency"], &a["totalEfficiency"]), (&json!(0.5), &json!(0.5)));
        let a = &written(pod(4, 0), None, false)["data"][0]["a"];
        assert!(a["gpuEfficiency"].is_null() && a["gpuUsageAverage"].is_null(), "{a}");
        assert_eq!(a["gpuAllocation"]["gpuUUID"], "GPU-0,GPU-1,GPU-2,GPU-3");
        assert_eq!(written(pod(17, 0), None, false)["data"][0]["a"]["gpuAllocation"]["gpuUUID"], "");
    }

    #[test]
    fn what_the_upstream_says_is_put_beside_what_the_ledger_says() {
        let said = r#"{"a":{"cpuCost":1,"cpuCoreUsageAverage":1,"cpuCoreRequestAverage":4,"pvCostAdjustment":-0.5,
            "gpuCost":9},"web":{"ramCost":2,"ramByteUsageAverage":7}}"#;
        let set = &written(pod(1, 0), Some(said), false)["data"][0];
        assert_eq!(
            (&set["a"]["gpuCost"], &set["a"]["totalCost"]),
            (&json!(3.000_000_001), &json!(3.500_000_001))
        );
        assert_eq!((&set["a"]["cpuEfficiency"], &set["a"]["totalEfficiency"]), (&json!(0.25), &json!(0.25)));
        assert_eq!((&set["web"]["gpuCost"], &set["web"]["totalCost"]), (&json!(0.0), &json!(2.0)));
        assert!(set["web"]["gpuAllocation"].is_null() && set["web"]["ramEfficiency"] == json!(1.0), "{set}");
    }
}
