#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    probeprune_fuzz::config(bytes);
});
