//! Compiles the .proto files with protox, so that no machine needs a `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = "proto/tonnage/metering/v1/metering.proto";
    println!("cargo:rerun-if-changed={file}");
    let descriptors = protox::compile([file], ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
