//! Drafts and sealed bytes in an agent's spool: whatever a disk gives back, the good drafts beside it are sealed.

use prost::Message as _;
use rand::rngs::StdRng;
use tonnage_agent::seal::{Header, seal, unseal};
use tonnage_proto::limits::BATCH_BYTES_MAX;
use tonnage_proto::metering as pb;

use crate::target::{Target, promise};
use crate::targets::batch;

pub(crate) fn target() -> Target {
    Target { name: "seal", generate, warp: batch::warp, words: &[], bytes_max: BATCH_BYTES_MAX, check }
}

fn generate(rng: &mut StdRng) -> Vec<u8> {
    batch::batch(rng).encode_to_vec()
}

fn check(bytes: &[u8]) -> Result<bool, String> {
    let header = Header { cluster: "c".into(), node: "n".into(), epoch: [7; 16], seq: 3, sealed_at_ns: 9 };
    let readable = pb::Batch::decode(bytes).is_ok();
    let draft = unseal(bytes);
    promise(draft.is_some() == readable, || "unseal and the decoder disagree".to_owned())?;
    // Between two good ones of another boot, and twice.
    let good = pb::Batch { boot_id: "another".into(), overlap_ns: 2, ..pb::Batch::default() }.encode_to_vec();
    let mut drafts = vec![bytes.to_vec(), draft.clone().unwrap_or_default(), good.clone(), good];
    let mut batches = 0;
    while !drafts.is_empty() {
        let (payload, taken) = seal(&drafts, &header);
        promise((1..=drafts.len()).contains(&taken), || format!("took {taken} of {} drafts", drafts.len()))?;
        let batch =
            pb::Batch::decode(payload.as_slice()).map_err(|e| format!("sealed what cannot be read: {e}"))?;
        promise((batch.seq, batch.cluster.as_str()) == (3, "c"), || "another cursor".to_owned())?;
        let windows = drafts[..taken].iter().filter_map(|draft| pb::Batch::decode(draft.as_slice()).ok());
        let windows: usize = windows.map(|draft| draft.windows.len()).sum();
        promise(batch.windows.len() == windows, || {
            format!("{windows} windows became {}", batch.windows.len())
        })?;
        drafts.drain(..taken);
        batches += 1;
    }
    promise(batches <= 4, || format!("{batches} batches of four drafts"))?;
    Ok(readable)
}
