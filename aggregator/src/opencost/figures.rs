//! What an OpenCost upstream says of processors, memory, storage and network: the bytes of its answer to figures by
//! name. Pure.
//!
//! All of it is outside input. An allocation with a figure that is negative, no number, or absurd is left out and
//! counted; an answer that is none, or has other sets than were asked for, is refused as a whole. What it says of GPUs
//! is not read.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::hardware::Hardware;
use super::number::Number;

/// Figures of an allocation in OpenCost's words, and whether they may be negative, as corrections are.
pub(super) const FIELDS: [(&str, bool); 31] = [
    ("cpuCores", false),
    ("cpuCoreRequestAverage", false),
    ("cpuCoreUsageAverage", false),
    ("cpuCoreHours", false),
    ("cpuCost", false),
    ("cpuCostAdjustment", true),
    ("cpuCostIdle", false),
    ("ramBytes", false),
    ("ramByteRequestAverage", false),
    ("ramByteUsageAverage", false),
    ("ramByteHours", false),
    ("ramCost", false),
    ("ramCostAdjustment", true),
    ("ramCostIdle", false),
    ("pvBytes", false),
    ("pvByteHours", false),
    ("pvCost", false),
    ("pvCostAdjustment", true),
    ("networkTransferBytes", false),
    ("networkReceiveBytes", false),
    ("networkCost", false),
    ("networkCrossZoneCost", false),
    ("networkCrossRegionCost", false),
    ("networkInternetCost", false),
    ("networkCostAdjustment", true),
    ("loadBalancerCost", false),
    ("loadBalancerCostAdjustment", true),
    ("sharedCost", false),
    ("externalCost", false),
    ("cpuCoreLimitAverage", false),
    ("ramByteLimitAverage", false),
];
/// Those that make up `totalCost`, with the GPU's.
pub(super) const COSTS: [&str; 12] = [
    "cpuCost",
    "cpuCostAdjustment",
    "ramCost",
    "ramCostAdjustment",
    "pvCost",
    "pvCostAdjustment",
    "networkCost",
    "networkCostAdjustment",
    "loadBalancerCost",
    "loadBalancerCostAdjustment",
    "sharedCost",
    "externalCost",
];
/// A hundred million of the currency, of one allocation.
const COST_MAX: Number = Number(100_000_000_000_000_000);
/// Names of an answer, over all sets.
pub(super) const NAMES_MAX: usize = 100_000;
const NAME_BYTES_MAX: usize = 2_048;

/// Figures of one allocation; what is not said is 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Figures([Number; FIELDS.len()]);

impl Default for Figures {
    fn default() -> Self {
        Self([Number::default(); FIELDS.len()])
    }
}

impl Figures {
    /// The figure of this name; 0 of a name that is in no list here.
    #[must_use]
    pub(super) fn get(&self, name: &str) -> Number {
        FIELDS.iter().position(|(field, _)| *field == name).map_or(Number(0), |at| self.0[at])
    }

    /// Every figure with its name.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, Number)> {
        std::iter::zip(FIELDS, self.0).map(|((name, _), figure)| (name, figure))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let said: HashMap<String, &RawValue> =
            serde_json::from_str(text).map_err(|_| "it is not an object".to_owned())?;
        let mut figures = Self::default();
        for (figure, (name, signed)) in std::iter::zip(&mut figures.0, FIELDS) {
            *figure = number(&said, name, signed)?;
        }
        Ok(figures)
    }
}

/// A figure of an object; 0 if that does not have it.
///
/// # Errors
/// If it is one that cannot be.
pub(super) fn number(said: &HashMap<String, &RawValue>, name: &str, signed: bool) -> Result<Number, String> {
    let Some(value) = said.get(name) else { return Ok(Number(0)) };
    let value = value.get();
    let wrong = |what: &str| format!("{name} {:?} {what}", value.chars().take(40).collect::<String>());
    let number = Number::parse(value).ok_or_else(|| wrong("is no number that can be"))?;
    if number < Number(0) && !signed {
        return Err(wrong("is negative"));
    }
    let cost = name.contains("Cost");
    if cost && !(Number(-COST_MAX.0)..=COST_MAX).contains(&number) {
        return Err(wrong("is beyond any bill"));
    }
    Ok(number)
}

/// One set of allocations, by name.
pub(super) type Set = BTreeMap<String, Figures>;

/// A good answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) sets: Vec<Set>,
    /// Nodes and disks by its keys, if it was asked for them.
    pub(super) hardware: BTreeMap<String, Hardware>,
    /// Allocations, nodes and disks that were left out, and what was wrong with the first.
    pub(super) rejected: usize,
    pub(super) first: String,
}

impl Answer {
    /// Keeps what could be read under its name, and counts what could not.
    pub(super) fn take<T>(&mut self, name: String, read: Result<T, String>, into: &mut BTreeMap<String, T>) {
        let long = || format!("its name has more than {NAME_BYTES_MAX} bytes");
        match read.and_then(|read| (name.len() <= NAME_BYTES_MAX).then_some(read).ok_or_else(long)) {
            Ok(read) => {
                into.insert(name, read);
            }
            Err(reason) => {
                if self.rejected == 0 {
                    self.first = format!("{:?}: {reason}", name.chars().take(80).collect::<String>());
                }
                self.rejected += 1;
            }
        }
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    code: u16,
    #[serde(borrow, default)]
    data: Option<Vec<Option<BTreeMap<String, &'a RawValue>>>>,
}

/// Reads an answer to a question for `sets` sets.
///
/// # Errors
/// What is wrong with it as a whole.
pub(super) fn parse(body: &[u8], sets: usize) -> Result<Answer, String> {
    let envelope: Envelope<'_> = serde_json::from_slice(body).map_err(|error| {
        format!("its answer is not OpenCost's: {error}").chars().take(200).collect::<String>()
    })?;
    let data = envelope.data.filter(|_| envelope.code == 200);
    let data = data.ok_or_else(|| format!("its answer has code {} or no data", envelope.code))?;
    if data.len() != sets {
        return Err(format!("its answer has {} sets; {sets} were asked for", data.len()));
    }
    if data.iter().flatten().map(BTreeMap::len).sum::<usize>() > NAMES_MAX {
        return Err(format!("its answer has more than {NAMES_MAX} allocations"));
    }
    let mut answer = Answer::default();
    for said in data {
        let mut set = Set::new();
        for (name, value) in said.unwrap_or_default() {
            answer.take(name, Figures::parse(value.get()), &mut set);
        }
        answer.sets.push(set);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &str) -> Result<Answer, String> {
        parse(format!(r#"{{"code":200,"status":"success","data":{data}}}"#).as_bytes(), 1)
    }

    #[test]
    fn figures_are_read_and_what_is_said_of_gpus_is_not() {
        let answer =
            read(r#"[{"ml":{"name":"ml","cpuCost":1.25,"ramByteHours":1.5e12,"gpuCost":-7,"pvs":null}}]"#)
                .unwrap();
        let figures = &answer.sets[0]["ml"];
        assert_eq!(figures.get("cpuCost"), Number(1_250_000_000));
        assert_eq!(figures.get("ramByteHours"), Number(1_500_000_000_000_000_000_000));
        assert_eq!((figures.get("gpuCost"), answer.rejected), (Number(0), 0));
        assert_eq!(read("[null]").unwrap().sets, [Set::new()]);
    }

    #[test]
    fn an_allocation_with_an_absurd_figure_is_left_out_and_said() {
        for (figure, said) in [
            (r#""cpuCost":-0.01"#, "cpuCost \"-0.01\" is negative"),
            (r#""ramCost":1e300"#, "ramCost \"1e300\" is no number"),
            (r#""ramCost":1e12"#, "ramCost \"1e12\" is beyond any bill"),
            (r#""pvCostAdjustment":-1e12"#, "is beyond any bill"),
            (r#""cpuCores":null"#, "cpuCores \"null\" is no number"),
            (r#""cpuCores":"many""#, "is no number"),
        ] {
            let answer = read(&format!(r#"[{{"a":{{{figure}}},"b":{{"cpuCost":1}}}}]"#)).unwrap();
            assert_eq!((answer.rejected, answer.sets[0].len()), (1, 1), "{figure}");
            assert!(answer.first.starts_with("\"a\": ") && answer.first.contains(said), "{}", answer.first);
        }
        assert_eq!(read(r#"[{"a":{"cpuCostAdjustment":-0.01}}]"#).unwrap().rejected, 0);
        assert_eq!(read(r#"[{"a":[1]}]"#).unwrap().rejected, 1);
        assert_eq!(read(&format!(r#"[{{"{}":{{}}}}]"#, "a".repeat(3000))).unwrap().rejected, 1);
    }

    #[test]
    fn what_is_no_answer_is_refused_whole() {
        for (body, said) in [
            ("<html>", "is not OpenCost's"),
            ("", "is not OpenCost's"),
            (r#"{"code":200,"data":{"a":{}}}"#, "is not OpenCost's"),
            (r#"{"code":500,"data":[{}]}"#, "code 500"),
            (r#"{"code":200,"data":null}"#, "no data"),
            (r#"{"code":200,"data":[{},{}]}"#, "has 2 sets; 1 were asked for"),
            (r#"{"code":200,"data":[{"a":{"cpuCost":NaN}}]}"#, "is not OpenCost's"),
        ] {
            let error = parse(body.as_bytes(), 1).unwrap_err();
            assert!(error.contains(said), "{body}: {error}");
        }
    }
}
