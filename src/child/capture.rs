//! Collecting what a program writes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Child;
use crate::error::{Error, Layer, Result};
use crate::outcome::Outcome;
use crate::sys;

/// What [`Child::wait_with_output`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// How the program ended.
    pub outcome: Outcome,
    /// What was written to standard output, if that was piped.
    pub stdout: Vec<u8>,
    /// What was written to standard error, if that was piped.
    pub stderr: Vec<u8>,
}

impl Child {
    /// Waits for the end, and collects what was written to the piped streams meanwhile. Closes standard input first.
    ///
    /// Returns when the sandbox is over, also if somebody outside holds an end of a pipe that the program has passed on.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Child::wait), and where reading a pipe fails.
    pub fn wait_with_output(mut self) -> Result<Output> {
        drop(self.stdin.take());
        let mut capture = Capture::new([self.stdout.take().map(Into::into), self.stderr.take().map(Into::into)])?;
        while capture.is_open() {
            let over = wait_readable(self.program.as_fd(), capture.fds()).map_err(failed)?;
            if over {
                break;
            }
            capture.read()?;
        }
        let outcome = self.wait()?;
        capture.finish(outcome)
    }
}

/// What is collected of the piped streams.
pub(super) struct Capture([Stream; 2]);

impl Capture {
    pub(super) fn new(fds: [Option<OwnedFd>; 2]) -> Result<Self> {
        let streams = fds.map(|fd| Stream { file: fd.map(File::from), data: Vec::new() });
        for stream in &streams {
            stream.set_nonblocking().map_err(failed)?;
        }
        Ok(Self(streams))
    }

    /// Whether there may be more to read.
    pub(super) fn is_open(&self) -> bool {
        self.0.iter().any(|stream| stream.file.is_some())
    }

    /// What to wait for.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().filter_map(|stream| stream.file.as_ref()).map(AsFd::as_fd)
    }

    /// Reads each stream once, and waits for none.
    pub(super) fn read(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(|stream| stream.read().map(drop)).map_err(failed)
    }

    /// Reads the rest, when the sandbox is over.
    pub(super) fn finish(mut self, outcome: Outcome) -> Result<Output> {
        // What is in the pipes now is the rest, and no more: somebody in another sandbox who was passed an end may go on
        // writing for ever.
        for stream in &mut self.0 {
            let end = stream.data.len() + stream.waiting();
            while stream.data.len() < end && stream.read().map_err(failed)? {}
        }
        let [stdout, stderr] = self.0.map(|stream| stream.data);
        Ok(Output { outcome, stdout, stderr })
    }
}

fn failed(error: io::Error) -> Error {
    Error::os(Layer::Process, "read output", error.raw_os_error().unwrap_or(libc::EIO))
}

/// How much is read of a pipe at once: what it holds, unless somebody has enlarged it.
const CHUNK: usize = 65_536;

/// A captured stream; no file at its end.
struct Stream {
    file: Option<File>,
    data: Vec<u8>,
}

impl Stream {
    fn set_nonblocking(&self) -> io::Result<()> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let Some(file) = &self.file else { return Ok(()) };
        let flags = OFlag::from_bits_truncate(fcntl(file, FcntlArg::F_GETFL)?);
        fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(())
    }

    /// How many bytes are there now.
    fn waiting(&self) -> usize {
        self.file.as_ref().map_or(0, |file| sys::bytes_waiting(file.as_fd()).unwrap_or(0))
    }

    /// Reads once. False means that nothing is there now.
    fn read(&mut self) -> io::Result<bool> {
        let Some(file) = &mut self.file else { return Ok(false) };
        let length = self.data.len();
        self.data.resize(length + CHUNK, 0);
        let read = file.read(self.data.get_mut(length..).unwrap_or_default());
        self.data.truncate(length + read.as_ref().map_or(0, |read| *read));
        match read {
            Ok(0) => self.file = None,
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        }
        Ok(false)
    }
}

/// Waits for one of the streams or for the end of the program, which it returns.
fn wait_readable<'a>(program: BorrowedFd<'a>, streams: impl Iterator<Item = BorrowedFd<'a>>) -> io::Result<bool> {
    let fds = [program].into_iter().chain(streams);
    let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => break,
        }
    }
    Ok(fds.first().and_then(PollFd::any).unwrap_or(false))
}
