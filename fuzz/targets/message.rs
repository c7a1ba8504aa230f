#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| rcmpd_fuzz::message::check(bytes));
