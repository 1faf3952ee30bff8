//! Descriptors: the program gets its standard streams and what was passed by number, and nothing else.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::error::{Error, Layer, Result};
use crate::plan::{Given, Step};

/// Where a standard stream of the program comes from or goes to: as in [`std::process::Stdio`].
#[derive(Clone, Debug)]
pub struct Stdio(pub(crate) Kind);

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Inherit,
    Null,
    Piped,
    /// The program's own terminal.
    Pty,
    Fd(Arc<OwnedFd>),
}

impl Stdio {
    /// The terminal of the program, which it has to have.
    pub(crate) const PTY: Self = Stdio(Kind::Pty);

    /// The stream of the host process. Where that is closed, `/dev/null`.
    pub fn inherit() -> Self {
        Stdio(Kind::Inherit)
    }

    /// `/dev/null`: empty for reading, and for writing without end.
    pub fn null() -> Self {
        Stdio(Kind::Null)
    }

    /// A new pipe, with its other end in the [`Child`](crate::Child).
    pub fn piped() -> Self {
        Stdio(Kind::Piped)
    }
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Stdio(Kind::Fd(Arc::new(fd)))
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        OwnedFd::from(file).into()
    }
}

impl From<std::process::ChildStdin> for Stdio {
    fn from(stream: std::process::ChildStdin) -> Self {
        OwnedFd::from(stream).into()
    }
}

impl From<std::process::ChildStdout> for Stdio {
    fn from(stream: std::process::ChildStdout) -> Self {
        OwnedFd::from(stream).into()
    }
}

impl From<std::process::ChildStderr> for Stdio {
    fn from(stream: std::process::ChildStderr) -> Self {
        OwnedFd::from(stream).into()
    }
}

/// A descriptor that is passed under a number.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    pub(crate) number: i32,
    pub(crate) fd: Arc<OwnedFd>,
}

/// Lowers the three streams and what else is passed; returns what the steps refer to by index.
pub(crate) fn lower(streams: [&Stdio; 3], passed: &[Passed], steps: &mut Vec<Step>) -> Result<Vec<Given>> {
    let mut given = Vec::new();
    let mut kept = vec![0, 1, 2];
    for (fd, Stdio(kind)) in (0..).zip(streams) {
        match kind {
            Kind::Inherit if is_open(fd) => steps.push(Step::Inherit { fd }),
            Kind::Inherit | Kind::Null => {
                let write = fd != 0;
                steps.push(Step::InstallNull { given: given.len(), write, fd });
                given.push(Given::Null { write });
            }
            Kind::Pty => steps.push(Step::InstallPty { fd }),
            Kind::Piped => install("pipe", Given::Pipe { write: fd != 0 }, fd, &mut given, steps),
            Kind::Fd(source) => install("fd", Given::Fd(source.clone()), fd, &mut given, steps),
        }
    }
    for Passed { number, fd } in passed {
        check_number(*number, &kept)?;
        kept.push(*number);
        install("fd", Given::Fd(fd.clone()), *number, &mut given, steps);
    }
    kept.sort_unstable();
    steps.push(Step::CloseRest { ranges: gaps(&kept) });
    Ok(given)
}

fn install(what: &'static str, source: Given, fd: i32, given: &mut Vec<Given>, steps: &mut Vec<Step>) {
    steps.push(Step::Install { what, given: given.len(), fd });
    given.push(source);
}

fn check_number(number: i32, kept: &[i32]) -> Result<()> {
    let invalid = |cause: &str| Err(Error::invalid(Layer::Fds, format!("fd {number}"), cause));
    match number {
        ..0 => invalid("a descriptor has a number from 3 on"),
        0..=2 => invalid("0, 1 and 2 are set by stdin, stdout and stderr"),
        _ if kept.contains(&number) => invalid("two descriptors can't have one number"),
        _ => Ok(()),
    }
}

/// What lies between the kept numbers, which are sorted.
fn gaps(kept: &[i32]) -> Vec<[u32; 2]> {
    let mut ranges = Vec::new();
    let mut next = 0;
    for fd in kept.iter().map(|fd| fd.unsigned_abs()) {
        if next < fd {
            ranges.push([next, fd - 1]);
        }
        next = fd + 1;
    }
    ranges.push([next, u32::MAX]);
    ranges
}

fn is_open(fd: i32) -> bool {
    crate::sys::fstat(crate::sys::borrow(fd)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_the_kept_descriptors_lies_in_the_gaps() {
        assert_eq!(gaps(&[0, 1, 2]), [[3, u32::MAX]]);
        assert_eq!(gaps(&[0, 1, 2, 3, 9]), [[4, 8], [10, u32::MAX]]);
    }
}
