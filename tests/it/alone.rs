//! Tests that need a process of their own: for what is process-wide, and for hosts that die; and what they share.

use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const ROLE: &str = "BELLJAR_TEST_ROLE";
const DONE: &str = "the body has run to its end";

/// Runs `body` in a process of its own: this binary again, with this test alone. `test` is the test's full name.
pub(crate) fn alone(test: &str, body: impl FnOnce()) {
    if is_role(test) {
        watch(Duration::from_secs(180));
        body();
        println!("{DONE}");
        return;
    }
    let output = again(test, test).stdin(Stdio::null()).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    eprint!("{stderr}");
    // Without the word the name is wrong, and nothing has run.
    assert!(output.status.success() && stdout.contains(DONE), "{test}: {}\n{stdout}", output.status);
}

/// This binary again, as what `role` names in the test `test`.
pub(crate) fn again(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, role);
    command
}

/// Whether this process is the one that `role` names.
pub(crate) fn is_role(role: &str) -> bool {
    std::env::var(ROLE).is_ok_and(|value| value == role)
}

/// Ends a process that hangs, so that the suite does not. An emulated processor takes its time.
pub(crate) fn watch(limit: Duration) {
    let limit = if std::env::var_os("BELLJAR_TEST_VM").is_some() { limit * 5 } else { limit };
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        eprintln!("still running after {limit:?}");
        std::process::abort();
    });
}

/// Numbers that look random and are the same in every run: xorshift64.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A pipe, to read from and to write to, that no program of another test inherits.
pub(crate) fn pipe() -> (File, File) {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    (reader.into(), writer.into())
}

/// Ends the threads that run until then, also if the test panics.
pub(crate) struct Until<'a>(pub(crate) &'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
