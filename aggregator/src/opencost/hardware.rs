//! What an OpenCost upstream says of nodes and disks: the bytes of its `/assets` to figures. Pure.
//!
//! All of it is outside input, as in `figures`. Assets of other types are not read, nor is anything that it says of GPUs; its
//! `adjustment` of a node is of the node with its GPUs, and so is not read either.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::figures::{Answer, NAMES_MAX, number};
use super::number::Number;
use crate::model::NodeName;

/// Longest name of a node, a cluster, a volume or a type of machine.
const TEXT_BYTES_MAX: usize = 512;
const ONE: i128 = 1_000_000_000;

/// A node without its GPUs, or a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hardware {
    Node(NodeName, Machine),
    Disk(NodeName, Disk),
}

/// Processors and memory of a node; what is not said is 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) node_type: String,
    pub(super) preemptible: bool,
    pub(super) cpu_cores: Number,
    pub(super) ram_bytes: Number,
    pub(super) cpu_core_hours: Number,
    pub(super) ram_byte_hours: Number,
    pub(super) cpu_cost: Number,
    pub(super) ram_cost: Number,
    /// Of both costs, which are shown without it.
    pub(super) discount: Number,
}

/// A volume, or a node's own disk, which has the node's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) bytes: Number,
    pub(super) byte_hours: Number,
    pub(super) total_cost: Number,
    pub(super) local: Number,
}

impl Machine {
    /// Of processors and memory, less the discount; rounded down to a billionth.
    #[must_use]
    pub(super) fn total(&self) -> i128 {
        let gross = self.cpu_cost.0 + self.ram_cost.0;
        (gross * (ONE - self.discount.0)).div_euclid(ONE)
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    code: u16,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

type Assets<'a> = BTreeMap<String, &'a RawValue>;

#[derive(Deserialize)]
struct Named {
    r#type: String,
    #[serde(default)]
    properties: Properties,
    #[serde(default, rename = "nodeType")]
    node_type: String,
}

#[derive(Default, Deserialize)]
struct Properties {
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    name: String,
}

/// Reads an answer.
///
/// # Errors
/// What is wrong with it as a whole.
pub(super) fn parse(body: &[u8]) -> Result<Answer, String> {
    let wrong = |error: serde_json::Error| {
        format!("its answer is not OpenCost's: {error}").chars().take(200).collect::<String>()
    };
    let envelope: Envelope<'_> = serde_json::from_slice(body).map_err(wrong)?;
    let data = envelope.data.filter(|_| envelope.code == 200);
    let data = data.ok_or_else(|| format!("its answer has code {} or no data", envelope.code))?.get();
    // Kubecost's has a list of sets, here of one.
    let said: Assets<'_> = if data.starts_with('[') {
        let mut sets: Vec<Option<Assets<'_>>> = serde_json::from_str(data).map_err(wrong)?;
        if sets.len() > 1 {
            return Err(format!("its answer has {} sets of assets; 1 was asked for", sets.len()));
        }
        sets.pop().flatten().unwrap_or_default()
    } else {
        serde_json::from_str(data).map_err(wrong)?
    };
    if said.len() > NAMES_MAX {
        return Err(format!("its answer has more than {NAMES_MAX} assets"));
    }
    let (mut answer, mut found) = (Answer::default(), BTreeMap::new());
    for (key, value) in said {
        if let Some(read) = hardware(value.get()).transpose() {
            answer.take(key, read, &mut found);
        }
    }
    Ok(Answer { hardware: found, ..answer })
}

/// `None`: an asset of another type.
fn hardware(text: &str) -> Result<Option<Hardware>, String> {
    let named: Named = serde_json::from_str(text).map_err(|_| "it has no type or name".to_owned())?;
    let said: HashMap<String, &RawValue> = serde_json::from_str(text).unwrap_or_default();
    let Named { r#type, properties: Properties { cluster, name }, node_type } = named;
    if [&cluster, &name, &node_type].into_iter().any(|text| text.len() > TEXT_BYTES_MAX) {
        return Err(format!("it has a name of more than {TEXT_BYTES_MAX} bytes"));
    }
    let figure = |name: &str| number(&said, name, false);
    let place = NodeName { cluster, node: name };
    match r#type.as_str() {
        "Node" => {
            let discount = figure("discount")?;
            if discount.0 > ONE {
                return Err(format!("discount \"{discount}\" is more than all"));
            }
            let machine = Machine {
                node_type,
                preemptible: figure("preemptible")?.0 > 0,
                cpu_cores: figure("cpuCores")?,
                ram_bytes: figure("ramBytes")?,
                cpu_core_hours: figure("cpuCoreHours")?,
                ram_byte_hours: figure("ramByteHours")?,
                cpu_cost: figure("cpuCost")?,
                ram_cost: figure("ramCost")?,
                discount,
            };
            Ok(Some(Hardware::Node(place, machine)))
        }
        "Disk" => {
            let disk = Disk {
                bytes: figure("bytes")?,
                byte_hours: figure("byteHours")?,
                // Corrections may be larger than what they correct.
                total_cost: number(&said, "totalCost", true)?,
                local: figure("local")?,
            };
            Ok(Some(Hardware::Disk(place, disk)))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &str) -> Result<Answer, String> {
        parse(format!(r#"{{"code":200,"status":"success","data":{data}}}"#).as_bytes())
    }

    const NODE: &str = r#"{"a/Node/n":{"type":"Node","properties":{"cluster":"c","name":"n"},"nodeType":"p5",
        "cpuCores":8,"ramBytes":1e9,"cpuCost":1.5,"ramCost":0.5,"gpuCost":-77,"discount":0.3,"adjustment":-9},
        "a/Disk/n":{"type":"Disk","properties":{"cluster":"c","name":"n"},"totalCost":-0.25,"bytes":4e12,"local":1},
        "a/LoadBalancer/x":{"type":"LoadBalancer","totalCost":"much"}}"#;

    #[test]
    fn nodes_and_disks_are_read_and_what_is_said_of_gpus_is_not() {
        let answer = read(NODE).unwrap();
        assert_eq!((answer.hardware.len(), answer.rejected), (2, 0), "{}", answer.first);
        let Hardware::Node(place, machine) = &answer.hardware["a/Node/n"] else { panic!("{answer:?}") };
        assert_eq!((place.cluster.as_str(), place.node.as_str()), ("c", "n"));
        assert_eq!((machine.cpu_cores, machine.total()), (Number(8 * ONE), 1_400_000_000));
        let Hardware::Disk(_, disk) = &answer.hardware["a/Disk/n"] else { panic!("{answer:?}") };
        assert_eq!((disk.total_cost, disk.local), (Number(-250_000_000), Number(ONE)));
        assert_eq!(read(&format!("[{NODE}]")).unwrap(), answer);
        assert_eq!(read("[null]").unwrap(), Answer::default());
    }

    #[test]
    fn an_asset_with_an_absurd_figure_is_left_out_and_said() {
        for (asset, said) in [
            (r#"{"type":"Node","cpuCost":-1}"#, "cpuCost \"-1\" is negative"),
            (r#"{"type":"Node","ramCost":1e12}"#, "is beyond any bill"),
            (r#"{"type":"Node","discount":1.5}"#, "discount \"1.500000000\" is more than all"),
            (r#"{"type":"Disk","totalCost":null}"#, "is no number"),
            (r#"{"properties":{}}"#, "it has no type"),
            ("[1]", "it has no type"),
        ] {
            let answer = read(&format!(r#"{{"x":{asset},"y":{{"type":"Node"}}}}"#)).unwrap();
            assert_eq!((answer.rejected, answer.hardware.len()), (1, 1), "{asset}");
            assert!(answer.first.contains(said), "{}", answer.first);
        }
        let long = format!(r#"{{"x":{{"type":"Node","nodeType":"{}"}}}}"#, "a".repeat(600));
        assert!(read(&long).unwrap().first.contains("more than 512 bytes"));
    }

    #[test]
    fn what_is_no_answer_is_refused_whole() {
        for (body, said) in [
            ("<html>", "is not OpenCost's"),
            (r#"{"code":200,"data":7}"#, "is not OpenCost's"),
            (r#"{"code":500,"data":{}}"#, "code 500"),
            (r#"{"code":200,"data":null}"#, "no data"),
            (r#"{"code":200,"data":[{},{}]}"#, "2 sets of assets"),
        ] {
            let error = parse(body.as_bytes()).unwrap_err();
            assert!(error.contains(said), "{body}: {error}");
        }
    }
}
