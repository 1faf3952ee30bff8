//! Collecting what a program writes.

use std::io::{self, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::nonblocking::Nonblocking;
use super::wait::wait_readable;
use super::{Child, Pty};
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
    /// [`Limits::output`](crate::Limits::output) says. If it was not, what the program's terminal has shown, if it has
    /// [one](crate::Command::pty).
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
    /// Duplicates of the pipes that the caller has made stay as they are. Reading a duplicate of what is no pipe, a terminal
    /// for example, does not block meanwhile.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Child::wait), and where reading a pipe fails.
    pub fn wait_with_output(mut self) -> Result<Output> {
        drop(self.stdin.take());
        let fds = [self.stdout.take().map(OwnedFd::from), self.stderr.take().map(OwnedFd::from)];
        let mut capture = Capture::new(fds, self.pty.take(), self.output_limit)?;
        // What was killed writes no more: the rest is read at the end.
        while capture.is_open() && !self.is_killed() {
            let look = self.next_look()?.into_iter().chain(capture.pause()).min();
            let ended = wait_readable(self.ends(), capture.fds(), look);
            if ended.map_err(|errno| failed(errno.into()))? {
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

/// What is collected of standard output, standard error and the terminal.
pub(super) struct Capture {
    streams: [Stream; 3],
    limit: Option<u64>,
}

impl Capture {
    /// What the terminal shows is forgotten where standard output is kept.
    pub(super) fn new([stdout, stderr]: [Option<OwnedFd>; 2], pty: Option<Pty>, limit: Option<u64>) -> Result<Self> {
        let bound = Some(limit.unwrap_or(KEPT));
        let shown = bound.filter(|_| stdout.is_none());
        let stream =
            |fd: Option<OwnedFd>, bound, terminal| Stream::begin(fd, Kept::new(bound), terminal).map_err(failed);
        let streams = [
            stream(stdout, bound, false)?,
            stream(stderr, bound, false)?,
            stream(pty.map(OwnedFd::from), shown, true)?,
        ];
        Ok(Self { streams, limit })
    }

    /// Whether there may be more to read.
    pub(super) fn is_open(&self) -> bool {
        self.streams.iter().any(|stream| stream.file.is_some())
    }

    /// What to wait for, at most for the [`pause`](Capture::pause).
    pub(super) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let streams = self.streams.iter().filter(|stream| !stream.hung_up);
        streams.filter_map(|stream| stream.file.as_ref()).map(AsFd::as_fd)
    }

    /// After how long to look again whether somebody has opened a terminal that nobody had open.
    pub(super) fn pause(&self) -> Option<Duration> {
        self.streams.iter().any(|stream| stream.hung_up).then_some(AGAIN)
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
        let [stdout, stderr, shown] = self.streams.map(|stream| stream.kept.data);
        let stdout = if stdout.is_empty() { shown } else { stdout };
        Ok(Output { outcome, stdout, stderr, truncated })
    }
}

fn failed(error: io::Error) -> Error {
    Error::os(Layer::Process, "read output", error.raw_os_error().unwrap_or(libc::EIO))
}

/// How much is read of a pipe at once: what it holds, unless somebody has enlarged it.
const CHUNK: usize = 65_536;

/// More than a terminal holds: the kernel's buffers take 64 KiB (`TTYB_DEFAULT_MEM_LIMIT`) and 4 KiB.
const TERMINAL: usize = 1 << 20;

/// How often it is looked whether a terminal that nobody has open is open again.
const AGAIN: Duration = Duration::from_millis(20);

/// The start of what was written, and whether there was more.
pub(crate) struct Kept {
    pub(crate) data: Vec<u8>,
    /// None keeps nothing, and misses nothing.
    bound: Option<usize>,
    pub(crate) truncated: bool,
}

impl Kept {
    pub(crate) fn new(bound: Option<u64>) -> Self {
        let bound = bound.map(|bound| usize::try_from(bound).unwrap_or(usize::MAX));
        Self { data: Vec::new(), bound, truncated: false }
    }

    /// Reads once; returns how much there was.
    pub(crate) fn read(&mut self, from: &mut impl Read) -> io::Result<usize> {
        let length = self.data.len();
        let bound = self.bound.unwrap_or(0);
        let room = CHUNK.min(bound - length);
        self.make_room(room, bound)?;
        self.data.resize(length + room, 0);
        // What there is no room for is read along: of a packet (pipe(2), `O_DIRECT`, which the program may set) the kernel
        // forgets what is not read at once.
        let mut beyond = [0; CHUNK];
        let kept = IoSliceMut::new(self.data.get_mut(length..).unwrap_or_default());
        let beyond = IoSliceMut::new(beyond.get_mut(room..).unwrap_or_default());
        let result = from.read_vectored(&mut [kept, beyond]);
        let read = result.as_ref().map_or(0, |read| *read);
        self.data.truncate(length + room.min(read));
        self.truncated |= read > room && self.bound.is_some();
        result
    }

    /// Never for more than the bound, which doubling would exceed.
    fn make_room(&mut self, room: usize, bound: usize) -> io::Result<()> {
        let length = self.data.len();
        if self.data.capacity() - length >= room {
            return Ok(());
        }
        let wanted = length.saturating_mul(2).clamp(length + room, bound);
        self.data.try_reserve_exact(wanted - length).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))
    }
}

/// A captured stream; no file at its end.
struct Stream {
    file: Option<Nonblocking>,
    kept: Kept,
    /// Whether it is the master of a terminal.
    terminal: bool,
    /// Whether nobody had the terminal open just now.
    hung_up: bool,
}

impl Stream {
    /// Lets no read and no write wait; and types an end of file, as a pipe is closed.
    fn begin(fd: Option<OwnedFd>, kept: Kept, terminal: bool) -> io::Result<Self> {
        let mut file = fd.map(Nonblocking::new).transpose()?;
        if let Some(file) = file.as_mut().filter(|_| terminal) {
            const END_OF_FILE: &[u8] = b"\x04";
            // Where the program has not read what was typed before, there is no room.
            let _ = file.file().write(END_OF_FILE);
        }
        Ok(Self { file, kept, terminal, hung_up: false })
    }

    /// Reads once; returns how much there was. None means that nothing is there now.
    fn read(&mut self) -> io::Result<Option<usize>> {
        self.hung_up = false;
        let Some(file) = &mut self.file else { return Ok(None) };
        match self.kept.read(&mut file.file()) {
            Ok(0) => self.file = None,
            Ok(read) => return Ok(Some(read)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The program may open it again; and to close it now would send SIGHUP.
            Err(error) if self.terminal && error.raw_os_error() == Some(libc::EIO) => self.hung_up = true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Some(0)),
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    /// Reads what is there now, and no more: somebody in another sandbox who was passed an end may go on writing for ever.
    fn read_rest(&mut self) -> io::Result<()> {
        let waiting = |file: &Nonblocking| match self.terminal {
            true => TERMINAL,
            false => sys::bytes_waiting(file.as_fd()).unwrap_or(0),
        };
        let mut left = self.file.as_ref().map_or(0, waiting);
        while left > 0 {
            let Some(read) = self.read()? else { break };
            left = left.saturating_sub(read);
        }
        Ok(())
    }
}
