//! belljar side by side with programs and crates that sandbox, in one run.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml` runs every section, `-- spawn build` two of them, and
//! `-- --svg DIR` draws each as a plot. How to read the tables is in README.md, in the directory above.

mod build;
mod cells;
// Shared with the benches of the crate, whose sections are not used here.
#[allow(dead_code, unused_imports)]
#[path = "../../common/mod.rs"]
mod common;
mod memory;
mod peers;
mod plot;
mod processor;
mod root;
mod spawn;
mod threads;
mod usage;

use std::process::ExitCode;

use common::{Bench, Result};
use plot::Plots;

/// Takes the figures of one section, prints them and draws them.
type Section = fn(&Bench, &Plots) -> Result;

/// The sections, in the order in which they run.
const SECTIONS: [(&str, Section); 6] = [
    ("spawn", spawn::spawn),
    ("processor", processor::processor),
    ("memory", memory::memory),
    ("threads", threads::threads),
    ("cells", cells::cells),
    ("build", build::build),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result {
    match args {
        // What this program calls itself with, where a figure is one of a whole process.
        [flag, name] if flag == processor::FLAG => return processor::alone(name),
        [flag, kind, group] if flag == cells::FLAG => return cells::alone(kind, group.as_ref()),
        _ => {}
    }
    let (dir, chosen) = split(args)?;
    let names: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = chosen.iter().find(|chosen| !names.contains(&chosen.as_str())) {
        return Err(format!("there is no section {unknown:?}: the sections are {}", names.join(", ")).into());
    }
    root::leave_hybrid_groups()?;
    let bench = Bench::new(false)?;
    println!("{bench}");
    let plots = Plots::new(dir, &bench)?;
    for (name, section) in SECTIONS {
        if chosen.is_empty() || chosen.iter().any(|chosen| chosen == name) {
            println!("\n## {name}\n");
            section(&bench, &plots)?;
        }
    }
    println!("\nload average at the end: {}", std::fs::read_to_string("/proc/loadavg")?.trim());
    Ok(())
}

/// The directory for plots, and the sections.
fn split(args: &[String]) -> Result<(Option<&str>, Vec<String>)> {
    let Some(at) = args.iter().position(|arg| arg == "--svg") else { return Ok((None, args.to_vec())) };
    let dir = args.get(at + 1).ok_or("--svg needs a directory")?;
    Ok((Some(dir), [args.get(..at), args.get(at + 2..)].into_iter().flatten().flatten().cloned().collect()))
}
