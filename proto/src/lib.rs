//! Every contract on the wire, and nothing else: no logic beyond the arithmetic that both ends must agree on.
//!
//! - [`metering`]: the uplink between agent and ledger, generated from `metering.proto`, whose comments are
//!   the contract's text.
//! - [`podresources`]: what an agent asks its kubelet, generated from `podresources.proto`.
//! - [`limits`]: sizes, versions and the grid of time that both ends keep.
//! - [`method`]: the bits that say how a figure was obtained.
//! - [`rest`]: the types of the REST API, shared by the aggregator and the command line.
//! - [`token`]: how a token looks, and how none gets into what people read.
//! - [`decimal`]: how exact money and time are written in text.

mod codec;
pub mod decimal;
pub mod limits;
pub mod method;
pub mod rest;
pub mod token;

/// The kubelet's pod-resources API, version 1. Generated; `podresources.proto` says what is in it.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod podresources {
    tonic::include_proto!("v1");
}

/// The uplink, version 1. Generated; the text of the contract is in `metering.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod metering {
    tonic::include_proto!("tonnage.metering.v1");
}
