//! The API server: what it says of pods, namespaces, and of what controls pods, as [`Change`]s. The only file that touches
//! kube.
//!
//! Asks for metadata alone (`PartialObjectMetadata`): a pod is some hundred bytes then, whatever is in its spec. What is not
//! needed of it is let go of at once.

use std::fmt::Debug;
use std::path::Path;
use std::pin::pin;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod};
pub(super) use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_all};
use kube::{Api, Config, Resource};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tonnage_runtime::telemetry::chain;

use super::cluster::{Change, Kind, Object, Reference};

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("kubernetes_config {path}: cannot be used")]
    File {
        path: std::path::PathBuf,
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    #[error("this is no pod of a cluster; name a kubeconfig by kubernetes_config")]
    NoCluster(#[source] Box<kube::config::InClusterError>),
    #[error("its client cannot be made")]
    Client(#[source] Box<kube::Error>),
}

/// Whom to ask: as a kubeconfig says, or the cluster that this is a pod of.
pub(super) async fn client(kubeconfig: Option<&Path>) -> Result<Client, ApiError> {
    let config = match kubeconfig {
        Some(path) => {
            let file = |source| ApiError::File { path: path.to_owned(), source: Box::new(source) };
            let kubeconfig = Kubeconfig::read_from(path).map_err(file)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(file)?
        }
        None => Config::incluster().map_err(|source| ApiError::NoCluster(Box::new(source)))?,
    };
    Client::try_from(config).map_err(|source| ApiError::Client(Box::new(source)))
}

/// Lists and watches all objects of a kind, for as long as somebody takes what it says. After an error, which is said too, it
/// tries again by itself, less and less often up to twice a minute.
pub(super) async fn watch(client: Client, kind: Kind, out: mpsc::Sender<(Kind, Result<Change, String>)>) {
    match kind {
        Kind::Pod => follow::<Pod>(client, kind, out).await,
        Kind::Namespace => follow::<Namespace>(client, kind, out).await,
        Kind::ReplicaSet => follow::<ReplicaSet>(client, kind, out).await,
        Kind::Job => follow::<Job>(client, kind, out).await,
    }
}

async fn follow<K>(client: Client, kind: Kind, out: mpsc::Sender<(Kind, Result<Change, String>)>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + 'static,
{
    let api: Api<PartialObjectMeta<K>> = Api::all(client);
    let mut events = pin!(watch_all(api, watcher::Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        let change = match event {
            Ok(Event::Init) => Ok(Change::Listing),
            Ok(Event::InitDone) => Ok(Change::Listed),
            Ok(Event::InitApply(found) | Event::Apply(found)) => match object(found) {
                Some(object) => Ok(Change::Seen(object)),
                None => continue,
            },
            Ok(Event::Delete(found)) => match object(found) {
                Some(object) => Ok(Change::Gone(object)),
                None => continue,
            },
            Err(error) => Err(chain(&error)),
        };
        if out.send((kind, change)).await.is_err() {
            return;
        }
    }
}

/// `None` if it has no name or UID, as no object of an API server is.
fn object<K>(found: PartialObjectMeta<K>) -> Option<Object> {
    let metadata = found.metadata;
    let owners = metadata.owner_references.unwrap_or_default();
    let controller = owners.into_iter().find(|owner| owner.controller == Some(true));
    Some(Object {
        uid: metadata.uid.filter(|uid| !uid.is_empty())?,
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.filter(|name| !name.is_empty())?,
        created_ns: metadata
            .creation_timestamp
            .and_then(|at| i64::try_from(at.0.as_nanosecond()).ok())
            .unwrap_or(0),
        labels: metadata.labels.unwrap_or_default(),
        controller: controller.map(|owner| Reference { kind: owner.kind, name: owner.name, uid: owner.uid }),
    })
}
