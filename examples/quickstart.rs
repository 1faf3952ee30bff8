//! Compiles and runs a small C program in a sandbox, or runs the command given after `--`.
//!
//! The program gets the host's userland, read-only; a directory to work in, at /work; and no network:
//!
//! ```text
//! cargo run --example quickstart
//! cargo run --example quickstart -- --plan
//! cargo run --example quickstart -- -- sh -c 'id; ls -la / /work; cat /etc/passwd'
//! ```

use std::error::Error;
use std::fs;

use belljar::{Rootfs, Sandbox};

/// Tells what it sees, and then tries what it should not be able to do.
const PROGRAM: &str = include_str!("quickstart.c");

fn main() -> Result<(), Box<dyn Error>> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let whole_plan = args.first().is_some_and(|arg| arg == "--plan");
    if whole_plan || args.first().is_some_and(|arg| arg == "--") {
        args.remove(0);
    }

    let work = tempfile::tempdir()?;
    let sandbox =
        Sandbox::new().rootfs(Rootfs::host()).bind(work.path().canonicalize()?, "/work").hostname("quickstart");

    if args.is_empty() {
        fs::write(work.path().join("program.c"), PROGRAM)?;
        let compiler = sandbox.command("cc").args(["-o", "program", "program.c"]).current_dir("/work").status()?;
        assert!(compiler.success(), "cc: {:?}", compiler.status());
        let home = std::env::var("HOME").unwrap_or_else(|_| "/root".to_owned());
        args = vec!["/work/program".to_owned(), home, std::process::id().to_string()];
    }
    let (program, args) = args.split_first().ok_or("no command")?;
    let mut command = sandbox.command(program);
    command.args(args).current_dir("/work");

    let plan = command.plan()?.to_string();
    match whole_plan {
        true => println!("The plan:\n{plan}"),
        false => println!("The plan, {} steps (--plan shows all):\n{}", plan.lines().count(), abridged(&plan)),
    }
    let outcome = command.status()?;
    let usage = outcome.usage();
    println!("\nThe outcome: {:?}, {}", outcome.cause(), outcome.status());
    println!("wall {:?}, user {:?}, system {:?}", usage.wall_time(), usage.user_time(), usage.system_time());
    Ok(())
}

/// The plan with the steps of one layer on one line, as far as they fit.
fn abridged(plan: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut last = "";
    for line in plan.lines() {
        let (layer, step) = line.trim().split_once("  ").unwrap_or((line, ""));
        match lines.last_mut() {
            Some(line) if layer == last && line.len() < 90 => line.push_str(&format!("; {}", step.trim())),
            Some(line) if layer == last && !line.ends_with("...") => line.push_str("; ..."),
            Some(_) if layer == last => {}
            _ => lines.push(line.to_owned()),
        }
        last = layer;
    }
    lines.join("\n")
}
