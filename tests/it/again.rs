//! Running one test again in a process of its own: for what belongs to the whole process.

use std::ffi::OsStr;
use std::process::{Command, Output};

const VARIABLE: &str = "BELLJAR_TEST_AGAIN";

/// Whether this is the second run, in a process of its own.
pub(crate) fn is_again() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Runs the test `name` once more, alone, through the words of `wrapper`. It must succeed; returns what it wrote.
///
/// Standard input is null: a test has no use for the terminal.
pub(crate) fn again(name: &str, wrapper: &[&str]) -> String {
    let output = output(name, wrapper, |_| {});
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{name} again, through {wrapper:?}: {:?}\n{stdout}\n{stderr}", output.status);
    assert!(stdout.contains("1 passed"), "{name} is the name of a test:\n{stdout}\n{stderr}");
    // A skip in there must be as loud as one out here.
    eprint!("{}", stderr.lines().filter(|line| line.starts_with("SKIPPED")).collect::<Vec<_>>().join("\n"));
    stdout
}

/// The same, with more to set, and no opinion on the outcome.
pub(crate) fn output(name: &str, wrapper: &[&str], set: impl FnOnce(&mut Command)) -> Output {
    // A copy that everybody may execute: the wrapper may change the user, and a target directory be private.
    let dir = crate::harness::temp_dir();
    let program = dir.path().join("it");
    // By another process: what this one has open for writing, a child that another thread forks would hold open too,
    // and then it can't be executed (ETXTBSY).
    let copied =
        Command::new("install").args(["-m", "755"]).arg(std::env::current_exe().unwrap()).arg(&program).status();
    assert!(copied.unwrap().success());
    let words = wrapper.iter().map(OsStr::new).chain([program.as_os_str()]);
    let words: Vec<_> = words
        .chain([name, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"].map(OsStr::new))
        .collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env(VARIABLE, name).env("RUST_BACKTRACE", "0");
    command.env(crate::probe::VARIABLE, crate::probe::program()).stdin(std::process::Stdio::null());
    set(&mut command);
    command.output().unwrap()
}

/// What gives a process mounts of its own, with privilege over them.
pub(crate) fn own_mounts() -> &'static [&'static str] {
    match crate::harness::is_root() {
        true => &["unshare", "--mount", "--propagation", "shared"],
        false => &["unshare", "--user", "--map-root-user", "--mount", "--propagation", "shared"],
    }
}

/// Whether a command can be had, by trying it.
pub(crate) fn works(words: &[&str]) -> bool {
    Command::new(words[0]).args(&words[1..]).output().is_ok_and(|output| output.status.success())
}
