//! Other commands in a sandbox that is in use.

use std::io::{Read, Write};

use belljar::{Child, ErrorKind, Layer, Sandbox, Stdio};

use crate::harness::host;

/// A sandbox whose program waits for the end of its standard input.
fn waiting(sandbox: &Sandbox) -> Child {
    sandbox.command("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

/// Runs a script in a sandbox that is in use, and returns what it wrote. It must succeed.
fn sh(child: &Child, script: &str) -> String {
    let output = child.command("sh").args(["-ec", script]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.outcome.success(), "{script}: {:?}\n{stderr}", output.outcome);
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_command_runs_beside_the_program_and_ends_by_itself() {
    let mut child = waiting(&host());
    assert_eq!(sh(&child, "echo one > /tmp/note; cat /tmp/note"), "one\n");
    assert_eq!(sh(&child, "cat /tmp/note"), "one\n", "it is the same root");
    let outcome = child.command("sh").args(["-c", "exit 7"]).status().unwrap();
    assert_eq!(outcome.code(), Some(7));
    assert!(child.try_wait().unwrap().is_none(), "the program does not mind");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let error = child.command("true").spawn().unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Os, Some(libc::ESRCH)), "{error}");
}
