//! Any bytes as a program.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|program: &[u8]| {
    belljar::fuzzing::read_program(program);
});
