//! Azure: the instance metadata service, one document in JSON.

use hyper::header::HeaderValue;
use serde::Deserialize;

use super::{Client, CloudError, named};
use crate::facts::Machine;

const PATH: &str = "/metadata/instance?api-version=2021-02-01";
const TRUE: HeaderValue = HeaderValue::from_static("true");

pub(super) async fn ask(client: &Client) -> Result<Machine, CloudError> {
    parse(&client.get(PATH, ("metadata", TRUE)).await?.text)
}

#[derive(Deserialize)]
struct Document {
    compute: Compute,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Compute {
    vm_id: String,
    #[serde(default)]
    vm_size: String,
    #[serde(default)]
    location: String,
    #[serde(default)]
    zone: String,
    #[serde(default)]
    priority: String,
}

fn parse(text: &str) -> Result<Machine, CloudError> {
    let document: Document = serde_json::from_str(text).map_err(|error| CloudError::Value {
        path: PATH.to_owned(),
        value: error.to_string(),
        right: "should be JSON with compute.vmId",
    })?;
    let Compute { vm_id, vm_size, location, zone, priority } = document.compute;
    let told = |field: &str, text: &str| match text.trim() {
        "" => Ok(String::new()),
        text => named(&format!("{PATH} compute.{field}"), text),
    };
    let (region, zone) = (told("location", &location)?, told("zone", &zone)?);
    Ok(Machine {
        instance_id: named(&format!("{PATH} compute.vmId"), &vm_id)?,
        instance_type: told("vmSize", &vm_size)?,
        // As Kubernetes labels it: a number alone would be a zone of every region.
        zone: if zone.is_empty() { zone } else { told("zone", &format!("{region}-{zone}"))? },
        region,
        capacity_type: match told("priority", &priority)?.as_str() {
            "Spot" | "Low" => "spot".to_owned(),
            "Regular" => "on-demand".to_owned(),
            // Often empty; that does not say which.
            other => other.to_lowercase(),
        },
        ..Machine::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cut from Azure's own example; the rest is skipped.
    const ANSWER: &str = r#"{"compute":{"azEnvironment":"AzurePublicCloud","location":"westeurope","name":"gpu-0",
        "osType":"Linux","priority":"Spot","tagsList":[{"name":"a","value":"b"}],
        "vmId":"02aab8a4-74ef-476e-8182-f6d2ba4166a6","vmSize":"Standard_ND96isr_H100_v5","zone":"1"},
        "network":{"interface":[]}}"#;

    #[test]
    fn the_document_tells_all_of_it() {
        let machine = parse(ANSWER).unwrap();
        assert_eq!(machine.instance_id, "02aab8a4-74ef-476e-8182-f6d2ba4166a6");
        assert_eq!(machine.instance_type, "Standard_ND96isr_H100_v5");
        assert_eq!((machine.region.as_str(), machine.zone.as_str()), ("westeurope", "westeurope-1"));
        assert_eq!(machine.capacity_type, "spot");
        let regular = parse(&ANSWER.replace("Spot", "Regular")).unwrap();
        assert_eq!(regular.capacity_type, "on-demand");
        let unsaid = parse(&ANSWER.replace("\"Spot\"", "\"\"").replace("\"1\"", "\"\"")).unwrap();
        assert_eq!((unsaid.capacity_type.as_str(), unsaid.zone.as_str()), ("", ""));
    }

    #[test]
    fn what_is_no_such_document_is_refused_by_name() {
        for (text, part) in [
            ("<html>", "should be JSON"),
            ("{}", "compute"),
            (r#"{"compute":{"vmId":"a\u0007"}}"#, "compute.vmId"),
            (r#"{"compute":{"vmId":"a","location":"x\ny"}}"#, "compute.location"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
