#![no_main]

libfuzzer_sys::fuzz_target!(|input: esker_fuzz::journal::Image| esker_fuzz::journal::run(&input));
