//! The probe: a static C program that attempts what a sandbox has to refuse, and tells every error number.

use std::io::Read;
use std::path::PathBuf;
use std::process::Command;

use belljar::{Child, Sandbox, Stdio};

use crate::harness::compile_static;

/// Where a test that runs again finds what the first run has compiled.
pub(crate) const VARIABLE: &str = "BELLJAR_TEST_PROBE";

/// The compiled program, a path of the host.
pub(crate) fn program() -> PathBuf {
    match std::env::var_os(VARIABLE) {
        Some(path) => path.into(),
        None => compile_static("probe", include_str!("probe.c")),
    }
}

/// Puts the probe into a sandbox, at `/probe`, and runs it there.
pub(crate) fn inside(sandbox: &Sandbox, args: &[&str]) -> Told {
    let sandbox = sandbox.clone().bind_ro(program(), "/probe");
    let output = sandbox.command("/probe").args(args).output().unwrap();
    assert!(output.outcome.success(), "{args:?}: {:?}", output.outcome);
    Told(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts the probe in a sandbox, to be looked at: it waits for ever, in two threads.
pub(crate) fn waiting(sandbox: &Sandbox) -> Child {
    let sandbox = sandbox.clone().bind_ro(program(), "/probe");
    let mut child = sandbox.command("/probe").arg("wait").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"ready\n");
    child
}

/// Runs the probe on the host: the positive control.
pub(crate) fn outside(args: &[&str]) -> Told {
    let output = Command::new(program()).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {:?}", output.status);
    Told(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What the probe wrote: lines of a name and a value, which for an attempt is its error number.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told(pub(crate) String);

impl Told {
    /// Every value under this name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.0.lines().filter_map(|line| line.split_once(' '));
        lines.filter(|(known, _)| *known == name).map(|(_, value)| value).collect()
    }

    /// The one value under this name.
    pub(crate) fn one(&self, name: &str) -> &str {
        match self.all(name)[..] {
            [value] => value,
            ref values => panic!("one {name}, not {values:?}, in:\n{}", self.0),
        }
    }

    /// The error number of an attempt, with 0 for success.
    pub(crate) fn errno(&self, name: &str) -> i32 {
        self.one(name).parse().unwrap()
    }

    /// Every attempt with its error number.
    pub(crate) fn attempts(&self) -> Vec<(&str, i32)> {
        let lines = self.0.lines().filter_map(|line| line.split_once(' '));
        lines.filter_map(|(name, value)| Some((name, value.parse().ok()?))).collect()
    }

    /// Asserts that every attempt, but for the names in `but`, failed with one of these error numbers.
    pub(crate) fn refused(&self, errnos: &[i32], but: &[&str]) {
        let attempts = self.attempts();
        assert!(!attempts.is_empty(), "the probe has told nothing");
        for (name, errno) in attempts.into_iter().filter(|(name, _)| !but.contains(name)) {
            assert!(errnos.contains(&errno), "{name}: {errno}, not one of {errnos:?}, in:\n{}", self.0);
        }
    }

    /// Asserts that every attempt, but for the names in `but`, succeeded.
    pub(crate) fn granted(&self, but: &[&str]) {
        self.refused(&[0], but);
    }
}
