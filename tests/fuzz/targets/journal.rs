//! See [`minitunnel_fuzz::journal`].
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    minitunnel_fuzz::journal(data);
});
