//! Google Cloud: the metadata server. It marks its answers, so that nobody else's are taken for them.

use hyper::header::HeaderValue;

use super::{Answer, Client, CloudError, named, optional};
use crate::facts::Machine;

const FLAVOR: &str = "metadata-flavor";
const GOOGLE: HeaderValue = HeaderValue::from_static("Google");

pub(super) async fn ask(client: &Client) -> Result<Machine, CloudError> {
    let get = async |name: &str| {
        let path = format!("/computeMetadata/v1/instance/{name}");
        let answer = client.get(&path, (FLAVOR, GOOGLE)).await;
        let answer = answer.and_then(|answer| marked(&path, answer));
        optional(answer)?.map(|text| named(&path, &text)).transpose()
    };
    let Some(instance_id) = get("id").await? else { return Err(CloudError::Nobody) };
    let zone = get("zone").await?.map(|zone| last_part(&zone)).unwrap_or_default();
    let preemptible = get("scheduling/preemptible").await?;
    let model = get("scheduling/provisioning-model").await?;
    Ok(Machine {
        instance_id,
        instance_type: get("machine-type").await?.map(|name| last_part(&name)).unwrap_or_default(),
        region: region(&zone),
        zone,
        capacity_type: capacity_type(preemptible.as_deref(), model.as_deref()),
        ..Machine::default()
    })
}

fn marked(path: &str, answer: Answer) -> Result<Answer, CloudError> {
    if answer.headers.get(FLAVOR) == Some(&GOOGLE) {
        return Ok(answer);
    }
    let value = "an answer without Metadata-Flavor: Google".to_owned();
    Err(CloudError::Value { path: path.to_owned(), value, right: "should have that header" })
}

/// `projects/1/zones/us-central1-a` is `us-central1-a`.
fn last_part(name: &str) -> String {
    name.rsplit('/').next().unwrap_or_default().to_owned()
}

/// `us-central1-a` lies in `us-central1`.
fn region(zone: &str) -> String {
    zone.rsplit_once('-').map_or_else(String::new, |(region, _)| region.to_owned())
}

/// Spot machines are preemptible too; other models (`RESERVATION_BOUND`) keep Google's name, in small letters.
fn capacity_type(preemptible: Option<&str>, model: Option<&str>) -> String {
    match (preemptible, model) {
        (Some("TRUE"), _) | (_, Some("SPOT")) => "spot".to_owned(),
        (_, Some("STANDARD")) | (Some("FALSE"), None) => "on-demand".to_owned(),
        (_, Some(model)) => model.to_lowercase().replace('_', "-"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_last_parts_and_the_region_is_the_zones() {
        let zone = last_part("projects/123456789/zones/europe-west4-b");
        assert_eq!((zone.as_str(), region(&zone).as_str()), ("europe-west4-b", "europe-west4"));
        assert_eq!(last_part("projects/123456789/machineTypes/a3-highgpu-8g"), "a3-highgpu-8g");
        assert_eq!(region("odd"), "");
    }

    #[test]
    fn spot_is_what_may_be_preempted() {
        for (preemptible, model, expected) in [
            (Some("TRUE"), None, "spot"),
            (Some("FALSE"), Some("SPOT"), "spot"),
            (Some("FALSE"), None, "on-demand"),
            (Some("FALSE"), Some("STANDARD"), "on-demand"),
            (Some("FALSE"), Some("RESERVATION_BOUND"), "reservation-bound"),
            (None, None, ""),
        ] {
            assert_eq!(capacity_type(preemptible, model), expected, "{preemptible:?} {model:?}");
        }
    }
}
