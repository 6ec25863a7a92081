//! libFuzzer over [`millstream_fuzz::batch`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    millstream_fuzz::batch::check(data);
});
