//! What a sandbox costs: belljar side by side with a plain spawn and with its peers, in one run.
//!
//! `cargo bench --bench spawn` runs every section, `cargo bench --bench spawn -- memory fds` runs two of them, and
//! `-- --libc` runs a program with a C library. How to read the tables is in README.md beside this file.

mod common;

use std::process::ExitCode;

use common::run::{Section, run};
use common::sections;

/// The sections, in the order in which they run.
const SECTIONS: [(&str, Section); 9] = [
    ("spawn", sections::spawn),
    ("pool", sections::pool),
    ("memory", sections::memory),
    ("fds", sections::fds),
    ("binds", sections::binds),
    ("command-lines", sections::command_lines),
    ("threads", sections::threads),
    ("mounts", sections::mounts),
    ("inside", sections::inside),
];

fn main() -> ExitCode {
    run("spawn", &SECTIONS)
}
