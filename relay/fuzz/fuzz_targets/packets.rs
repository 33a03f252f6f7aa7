//! Any packet, before its sender is known; `tieline_relay_fuzz::run` says what holds for each.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    tieline_relay_fuzz::run(data);
});
