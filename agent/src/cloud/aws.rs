//! AWS: the instance metadata service, version 2 alone (a token by PUT first, which no forged request gets through).

use hyper::Method;
use hyper::header::HeaderValue;

use super::{Client, CloudError, named, optional};
use crate::facts::Machine;

const TOKEN: &str = "/latest/api/token";
const TOKEN_SECONDS: HeaderValue = HeaderValue::from_static("60");

pub(super) async fn ask(client: &Client) -> Result<Machine, CloudError> {
    let header = ("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_SECONDS);
    let token = client.call(Method::PUT, TOKEN, header).await?.text;
    let mut token = HeaderValue::from_str(token.trim()).map_err(|_| CloudError::Value {
        path: TOKEN.to_owned(),
        value: String::new(),
        right: "should be a token",
    })?;
    token.set_sensitive(true);
    let get = async |name: &str| {
        let path = format!("/latest/meta-data/{name}");
        let answer = client.get(&path, ("x-aws-ec2-metadata-token", token.clone())).await;
        optional(answer)?.map(|text| named(&path, &text)).transpose()
    };
    let instance_id = get("instance-id").await?.unwrap_or_default();
    if !instance_id.starts_with("i-") {
        let path = "/latest/meta-data/instance-id".to_owned();
        return Err(CloudError::Value { path, value: instance_id, right: "should begin with i-" });
    }
    Ok(Machine {
        instance_id,
        instance_type: get("instance-type").await?.unwrap_or_default(),
        region: get("placement/region").await?.unwrap_or_default(),
        zone: get("placement/availability-zone").await?.unwrap_or_default(),
        // `on-demand` and `spot` are the book's words too; others (`scheduled`, `capacity-block`) stay AWS's.
        capacity_type: get("instance-life-cycle").await?.unwrap_or_default(),
        ..Machine::default()
    })
}
