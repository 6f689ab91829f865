//! No bytes make the message splitter panic. The input is headers, a NUL, and the body.
#![no_main]

use hybrid_core::message::TaskMessage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |byte| *byte == 0);
    if let (Some(headers), Some(body)) = (parts.next(), parts.next()) {
        let _ = TaskMessage::split(headers, body);
    }
});
