//! Bytes of a line → packets → messages.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use uhr_edge::link::clock::At;
use uhr_edge::link::frame::Framer;

fuzz_target!(|bytes: &[u8]| {
    let mut framer = Framer::default();
    let at = At(Duration::from_secs(1));
    let mut left = bytes;
    loop {
        left = &left[framer.push(left, at)..];
        while let Some(raw) = framer.next(at) {
            let _ = (raw.source(), raw.message());
        }
        if left.is_empty() {
            break;
        }
    }
    // What waits for more is given up in the end.
    while framer.next(At(Duration::from_secs(9))).is_some() {}
});
