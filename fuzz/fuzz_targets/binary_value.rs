#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| hw_fuzz::run("binary_value", data));
