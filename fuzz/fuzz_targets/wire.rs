//! libFuzzer over [`millstream_fuzz::wire`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    millstream_fuzz::wire::check(data);
});
