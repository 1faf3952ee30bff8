//! Judges submissions: compiles each in one sandbox, and runs it on every test in another, from pools that are filled ahead.
//!
//! ```text
//! cargo run --release --example judge -- PROGRAM.c INPUT=EXPECTED...
//! ```
//!
//! Without arguments, three submissions are judged that are to add two numbers.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use belljar::{Pool, Rootfs, Sandbox, Stdio};

/// How long a submission may run on one test.
const LIMIT: Duration = Duration::from_secs(1);

const SUBMISSIONS: [(&str, &str); 3] = [
    ("right", "#include <stdio.h>\nint main(void) { int a, b; scanf(\"%d %d\", &a, &b); printf(\"%d\", a + b); }"),
    ("wrong", "#include <stdio.h>\nint main(void) { int a, b; scanf(\"%d %d\", &a, &b); printf(\"%d\", a * b); }"),
    ("endless", "int main(void) { for (;;); }"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let dir = tempfile::tempdir()?;
    let base = dir.path().canonicalize()?;
    let compilers = Sandbox::new().rootfs(Rootfs::host()).bind(&base, "/work").prepare()?.pool(2)?;
    let runners = Sandbox::new().rootfs(Rootfs::host()).bind_ro(&base, "/work").prepare()?.pool(8)?;
    let judge = |name: &str, source: &str, tests: &[(&str, &str)]| -> Result<(), Box<dyn Error>> {
        fs::write(base.join(name).with_extension("c"), source)?;
        let verdict = judge(&compilers, &runners, &Path::new("/work").join(name), tests)?;
        println!("{name}: {verdict}");
        Ok(())
    };
    let Some((program, tests)) = args.split_first() else {
        return SUBMISSIONS.iter().try_for_each(|(name, source)| judge(name, source, &[("1 2", "3"), ("2 2", "4")]));
    };
    let tests = tests.iter().map(|test| test.split_once('=').ok_or("a test is INPUT=EXPECTED"));
    judge("submission", &fs::read_to_string(program)?, &tests.collect::<Result<Vec<_>, _>>()?)
}

/// One verdict: the first that a test gives, if it is not the one hoped for.
fn judge(compilers: &Pool, runners: &Pool, program: &Path, tests: &[(&str, &str)]) -> Result<String, Box<dyn Error>> {
    let mut compiler = compilers.command("cc");
    let compiled = compiler.arg("-O1").arg("-o").args([program, &program.with_extension("c")]).output()?;
    if !compiled.outcome.success() {
        return Ok(format!("does not compile: {}", String::from_utf8_lossy(&compiled.stderr)));
    }
    for (number, (input, expected)) in tests.iter().enumerate() {
        let verdict = run(runners, program, input, expected)?;
        if verdict != "right" {
            return Ok(format!("{verdict} on test {}", number + 1));
        }
    }
    Ok("accepted".to_owned())
}

fn run(runners: &Pool, program: &Path, input: &str, expected: &str) -> Result<&'static str, Box<dyn Error>> {
    let mut command = runners.command(program);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    // A program that does not read its input has closed the pipe.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    if child.wait_timeout(LIMIT)?.is_none() {
        child.kill()?;
        child.wait()?;
        return Ok("too slow");
    }
    let output = child.wait_with_output()?;
    Ok(match output.stdout == expected.as_bytes() {
        _ if !output.outcome.success() => "failed",
        true => "right",
        false => "wrong",
    })
}
