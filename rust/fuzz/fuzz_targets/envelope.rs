//! No bytes make the envelope reader panic, and a body it finds can be decoded.
#![no_main]

use hybrid_core::envelope::{Body, BodyEncoding, Envelope};
use hybrid_core::message::Reader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(Envelope { body: Some(span), .. }) = Envelope::read(data, Reader::skip) else { return };
    for encoding in [BodyEncoding::Text, BodyEncoding::Base64] {
        if let Ok(body) = Body::new(span, encoding) {
            let mut out = vec![0; body.len()];
            let decoded = body.decode_into(&mut out);
            assert!(encoding == BodyEncoding::Base64 || decoded.is_ok());
        } else {
            assert!(encoding == BodyEncoding::Base64, "the span of a string has a text");
        }
    }
});
