//! Compiles the .proto files with protox, so that no machine needs a `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files =
        ["proto/tonnage/metering/v1/metering.proto", "proto/kubelet/podresources/v1/podresources.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().codec_path("crate::codec::Compact").compile_fds(descriptors)?;
    Ok(())
}
