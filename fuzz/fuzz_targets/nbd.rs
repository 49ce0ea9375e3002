#![no_main]

libfuzzer_sys::fuzz_target!(|input: esker_fuzz::nbd::Script| esker_fuzz::nbd::run(&input));
