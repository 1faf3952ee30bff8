//! Runs one action of a build: declared inputs read-only, one output directory, and nothing else.
//!
//! ```text
//! cargo run --example build_action -- OUTPUT_DIR INPUT... -- COMMAND ARGS...
//! ```
//!
//! Each input is found inside under /in by its file name; the command runs in /out, which is the output directory.
//! Without arguments, an action of two C files is run, and then one that has forgotten to declare an input.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use belljar::{Outcome, Rootfs, Sandbox};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.is_empty() {
        return demonstrate();
    }
    let usage = "usage: build_action OUTPUT_DIR INPUT... -- COMMAND ARGS...";
    let (paths, command) = args.split_at(args.iter().position(|arg| arg == "--").ok_or(usage)?);
    let (output, inputs) = paths.split_first().ok_or(usage)?;
    let inputs: Vec<PathBuf> = inputs.iter().map(PathBuf::from).collect();
    let outcome = run(&inputs, Path::new(output), &command[1..])?;
    std::process::exit(outcome.code().unwrap_or(1))
}

/// The sandbox is the declaration: what is not bound in is not there.
fn run(inputs: &[PathBuf], output: &Path, command: &[String]) -> Result<Outcome, Box<dyn Error>> {
    let mut sandbox = Sandbox::new().rootfs(Rootfs::host()).bind(output.canonicalize()?, "/out");
    for input in inputs {
        let name = input.file_name().ok_or("an input has no name")?;
        sandbox = sandbox.bind_ro(input.canonicalize()?, Path::new("/in").join(name));
    }
    let (program, args) = command.split_first().ok_or("no command")?;
    Ok(sandbox.command(program).args(args).current_dir("/out").status()?)
}

fn demonstrate() -> Result<(), Box<dyn Error>> {
    let project = tempfile::tempdir()?;
    let (source, header, output) =
        (project.path().join("answer.c"), project.path().join("answer.h"), project.path().join("output"));
    fs::write(&source, "#include \"answer.h\"\nint main(void) { return ANSWER; }\n")?;
    fs::write(&header, "#define ANSWER 42\n")?;
    fs::create_dir(&output)?;
    let compile = ["cc", "-o", "/out/answer", "/in/answer.c"].map(str::to_owned);

    let outcome = run(&[source.clone(), header], &output, &compile)?;
    println!("with both inputs declared: {}", outcome.status());
    let outcome = run(&[], &output, &["/out/answer".to_owned()])?;
    println!("what it built, in a sandbox of its own: {}", outcome.status());
    let outcome = run(&[source], &output, &compile)?;
    println!("with the header forgotten: {}", outcome.status());
    Ok(())
}
