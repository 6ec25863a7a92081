//! libFuzzer over [`millstream_fuzz::recovery`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    millstream_fuzz::recovery::check(data);
});
