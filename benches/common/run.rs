//! What the benches have in common as programs: sections that are chosen by name.

use std::process::ExitCode;

use super::{Bench, Result};

/// Takes the figures of one section, and prints them.
pub(crate) type Section = fn(&Bench) -> Result;

/// Runs the sections that the command line names: all of them if it names none.
pub(crate) fn run(bench: &str, sections: &[(&str, Section)]) -> ExitCode {
    let (flags, chosen): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|arg| arg.starts_with('-'));
    // Only `cargo bench` passes this: `cargo test --all-targets` runs the program too, and has no use for figures.
    if !flags.iter().any(|flag| flag == "--bench") {
        println!("figures are taken by `cargo bench --bench {bench}`");
        return ExitCode::SUCCESS;
    }
    let names: Vec<&str> = sections.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = chosen.iter().find(|chosen| !names.contains(&chosen.as_str())) {
        eprintln!("there is no section {unknown:?}: the sections are {}", names.join(", "));
        return ExitCode::from(2);
    }
    match run_chosen(sections, &chosen, flags.iter().any(|flag| flag == "--libc")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run_chosen(sections: &[(&str, Section)], chosen: &[String], libc: bool) -> Result {
    let bench = Bench::new(libc)?;
    println!("{bench}");
    for (name, section) in sections {
        if chosen.is_empty() || chosen.iter().any(|chosen| chosen == name) {
            println!("\n## {name}\n");
            section(&bench)?;
        }
    }
    Ok(())
}
