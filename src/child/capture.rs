//! Collecting what a program writes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Child;
use crate::error::{Error, Layer, Result};
use crate::outcome::{Cause, Outcome};
use crate::sys;

/// How much of each stream is kept where no limit says it.
pub(crate) const KEPT: u64 = 32 << 20;

/// What [`Child::wait_with_output`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Output {
    /// How the program ended.
    pub outcome: Outcome,
    /// What was written to standard output, if that was piped: the first 32 MiB, or as much as
    /// [`Limits::output`](crate::Limits::output) says.
    pub stdout: Vec<u8>,
    /// What was written to standard error, if that was piped; as much.
    pub stderr: Vec<u8>,
    /// Whether more was written to one of them than is kept.
    pub truncated: bool,
}

impl Child {
    /// Waits for the end, and collects what was written to the piped streams meanwhile. Closes standard input first.
    ///
    /// Of each stream it keeps the first 32 MiB; what comes then is read and forgotten, so that the program does not wait, and
    /// [`Output::truncated`] says so. With [`Limits::output`](crate::Limits::output) it keeps as much as that says, and
    /// the sandbox is killed when there is more.
    ///
    /// Returns when the sandbox is over, also if somebody outside holds an end of a pipe that the program has passed on.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Child::wait), and where reading a pipe fails.
    pub fn wait_with_output(mut self) -> Result<Output> {
        drop(self.stdin.take());
        let fds = [self.stdout.take().map(Into::into), self.stderr.take().map(Into::into)];
        let mut capture = Capture::new(fds, self.output_limit)?;
        while capture.is_open() {
            let over = wait_readable(self.program.as_fd(), capture.fds()).map_err(failed)?;
            if over {
                break;
            }
            self.capture(&mut capture)?;
        }
        let outcome = self.wait()?;
        capture.finish(outcome)
    }

    /// Reads what is there now, and kills the sandbox if that is more than the limit.
    pub(super) fn capture(&mut self, capture: &mut Capture) -> Result<()> {
        capture.read()?;
        if capture.is_over_limit() { self.kill_for(Cause::OutputLimit) } else { Ok(()) }
    }
}

/// What is collected of the piped streams.
pub(super) struct Capture {
    streams: [Stream; 2],
    limit: Option<u64>,
}

impl Capture {
    pub(super) fn new(fds: [Option<OwnedFd>; 2], limit: Option<u64>) -> Result<Self> {
        let kept = || Kept::new(limit.unwrap_or(KEPT));
        let streams = fds.map(|fd| Stream { file: fd.map(File::from), kept: kept() });
        for stream in &streams {
            stream.set_nonblocking().map_err(failed)?;
        }
        Ok(Self { streams, limit })
    }

    /// Whether there may be more to read.
    pub(super) fn is_open(&self) -> bool {
        self.streams.iter().any(|stream| stream.file.is_some())
    }

    /// What to wait for.
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.streams.iter().filter_map(|stream| stream.file.as_ref()).map(AsFd::as_fd)
    }

    /// Reads each stream once, and waits for none.
    fn read(&mut self) -> Result<()> {
        self.streams.iter_mut().try_for_each(|stream| stream.read().map(drop)).map_err(failed)
    }

    fn is_truncated(&self) -> bool {
        self.streams.iter().any(|stream| stream.kept.truncated)
    }

    fn is_over_limit(&self) -> bool {
        self.limit.is_some() && self.is_truncated()
    }

    /// Reads the rest, when the sandbox is over.
    pub(super) fn finish(mut self, outcome: Outcome) -> Result<Output> {
        self.streams.iter_mut().try_for_each(Stream::read_rest).map_err(failed)?;
        let truncated = self.is_truncated();
        let outcome = if self.is_over_limit() { outcome.over_output() } else { outcome };
        let [stdout, stderr] = self.streams.map(|stream| stream.kept.data);
        Ok(Output { outcome, stdout, stderr, truncated })
    }
}

fn failed(error: io::Error) -> Error {
    Error::os(Layer::Process, "read output", error.raw_os_error().unwrap_or(libc::EIO))
}

/// How much is read of a pipe at once: what it holds, unless somebody has enlarged it.
const CHUNK: usize = 65_536;

/// The start of what was written, and whether there was more.
pub(crate) struct Kept {
    pub(crate) data: Vec<u8>,
    bound: usize,
    pub(crate) truncated: bool,
}

impl Kept {
    pub(crate) fn new(bound: u64) -> Self {
        Self { data: Vec::new(), bound: usize::try_from(bound).unwrap_or(usize::MAX), truncated: false }
    }

    /// Reads once; returns how much there was.
    pub(crate) fn read(&mut self, from: &mut impl Read) -> io::Result<usize> {
        let length = self.data.len();
        let room = CHUNK.min(self.bound - length);
        if room == 0 {
            let read = from.read(&mut [0; CHUNK])?;
            self.truncated |= read > 0;
            return Ok(read);
        }
        self.make_room(room)?;
        self.data.resize(length + room, 0);
        let read = from.read(self.data.get_mut(length..).unwrap_or_default());
        self.data.truncate(length + read.as_ref().map_or(0, |read| *read));
        read
    }

    /// Never for more than the bound, which doubling would exceed.
    fn make_room(&mut self, room: usize) -> io::Result<()> {
        let length = self.data.len();
        if self.data.capacity() - length >= room {
            return Ok(());
        }
        let wanted = length.saturating_mul(2).clamp(length + room, self.bound);
        self.data.try_reserve_exact(wanted - length).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))
    }
}

/// A captured stream; no file at its end.
struct Stream {
    file: Option<File>,
    kept: Kept,
}

impl Stream {
    fn set_nonblocking(&self) -> io::Result<()> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let Some(file) = &self.file else { return Ok(()) };
        let flags = OFlag::from_bits_truncate(fcntl(file, FcntlArg::F_GETFL)?);
        fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(())
    }

    /// Reads once; returns how much there was. None means that nothing is there now.
    fn read(&mut self) -> io::Result<Option<usize>> {
        let Some(file) = &mut self.file else { return Ok(None) };
        match self.kept.read(file) {
            Ok(0) => self.file = None,
            Ok(read) => return Ok(Some(read)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Some(0)),
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    /// Reads what is there now, and no more: somebody in another sandbox who was passed an end may go on writing for ever.
    fn read_rest(&mut self) -> io::Result<()> {
        let waiting = |file: &File| sys::bytes_waiting(file.as_fd()).unwrap_or(0);
        let mut left = self.file.as_ref().map_or(0, waiting);
        while left > 0 {
            let Some(read) = self.read()? else { break };
            left = left.saturating_sub(read);
        }
        Ok(())
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
