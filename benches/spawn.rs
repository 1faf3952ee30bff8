//! What a sandbox costs: belljar side by side with a plain spawn and with its peers, in one run.
//!
//! `cargo bench --bench spawn` runs every section, `cargo bench --bench spawn -- memory fds` runs two of them, and
//! `-- --libc` runs a program with a C library. How to read the tables is in README.md beside this file.

mod common;

use std::process::ExitCode;

use common::{Bench, Result, sections};

/// Takes the figures of one section, and prints them.
type Section = fn(&Bench) -> Result;

/// The sections, in the order in which they run.
const SECTIONS: [(&str, Section); 8] = [
    ("spawn", sections::spawn),
    ("pool", sections::pool),
    ("memory", sections::memory),
    ("fds", sections::fds),
    ("binds", sections::binds),
    ("threads", sections::threads),
    ("mounts", sections::mounts),
    ("inside", sections::inside),
];

fn main() -> ExitCode {
    let (flags, chosen): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|arg| arg.starts_with('-'));
    // Only `cargo bench` passes this: `cargo test --all-targets` runs the program too, and has no use for figures.
    if !flags.iter().any(|flag| flag == "--bench") {
        println!("figures are taken by `cargo bench --bench spawn`");
        return ExitCode::SUCCESS;
    }
    let names: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = chosen.iter().find(|chosen| !names.contains(&chosen.as_str())) {
        eprintln!("there is no section {unknown:?}: the sections are {}", names.join(", "));
        return ExitCode::from(2);
    }
    match run(&chosen, flags.iter().any(|flag| flag == "--libc")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the chosen sections: all of them if none is chosen.
fn run(chosen: &[String], libc: bool) -> Result {
    let bench = Bench::new(libc)?;
    println!("{bench}");
    for (name, section) in SECTIONS {
        if chosen.is_empty() || chosen.iter().any(|chosen| chosen == name) {
            println!("\n## {name}\n");
            section(&bench)?;
        }
    }
    Ok(())
}
