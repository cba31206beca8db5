//! How messages are buffered on their way: as tonic-prost does, but for the size.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// A stream's buffers begin with so many bytes and grow as messages need it. tonic's 8 KiB, two of them for each stream,
/// are 160 MB for ten thousand agents whose messages have a few kilobytes every ten seconds.
const BUFFER_BYTES: usize = 1 << 10;
/// Encoded bytes that are sent before more are encoded: tonic's own.
const YIELD_BYTES: usize = 32 << 10;

/// Protobuf by prost, with small buffers.
#[derive(Debug)]
pub(crate) struct Compact<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Compact<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

fn settings() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}

impl<T, U> Codec for Compact<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(settings())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(settings())
    }
}
