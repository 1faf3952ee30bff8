//! The handle of a running program.

use std::any::Any;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::changes::Written;
use crate::error::{Error, Layer, Result};
use crate::outcome::{Cause, Outcome, Usage, UsageSource};
use crate::pool;
use crate::report::Report;
use crate::spawn::{Cell, Limited, Process};
use crate::sys::{self, Ended, Errno};

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

/// A program that runs in a sandbox.
///
/// When the program ends, everything else in the sandbox ends: processes that it has left behind are killed by the
/// kernel, also if nobody waits. Dropping the handle kills the whole sandbox and reaps it; so does the death of the
/// host process, however it dies. [`detach`](Child::detach) opts out of both. Without
/// [`Namespaces::PID`](crate::Namespaces::PID) all that holds for the program alone.
///
/// The handle works in any thread, whether the one that started the program still runs or not, and whatever the host
/// process does with SIGCHLD.
///
/// It lends its pidfd ([`AsFd`]), which can be polled: it is readable when the program has ended.
#[derive(Debug)]
pub struct Child {
    /// The end of a pipe to the program's standard input, if that was piped.
    pub stdin: Option<ChildStdin>,
    /// The end of a pipe from the program's standard output, if that was piped.
    pub stdout: Option<ChildStdout>,
    /// The end of a pipe from the program's standard error, if that was piped.
    pub stderr: Option<ChildStderr>,
    program: Process,
    cell: Option<Cell>,
    started: Instant,
    host_peak: u64,
    killed: bool,
    outcome: Option<Outcome>,
    report: Report,
    written: Option<Arc<Written>>,
    /// Who waits for the end of the cell; else it is waited for with the program.
    pool: Option<Arc<pool::Shared>>,
    /// What has to stay as long as the program.
    keeps: Option<Arc<dyn Any + Send + Sync>>,
    limited: Limited,
}

/// What a new child starts from.
pub(crate) struct Parts {
    pub(crate) program: Process,
    pub(crate) cell: Option<Cell>,
    pub(crate) streams: [Option<OwnedFd>; 3],
    pub(crate) started: Instant,
    /// The host's peak memory in KiB, at the program's start or later.
    pub(crate) host_peak: u64,
    pub(crate) report: Report,
    pub(crate) keeps: Option<Arc<dyn Any + Send + Sync>>,
    pub(crate) limited: Limited,
}

impl Child {
    pub(crate) fn new(parts: Parts) -> Self {
        let [stdin, stdout, stderr] = parts.streams;
        Self {
            stdin: stdin.map(Into::into),
            stdout: stdout.map(Into::into),
            stderr: stderr.map(Into::into),
            program: parts.program,
            cell: parts.cell,
            started: parts.started,
            host_peak: parts.host_peak,
            killed: false,
            outcome: None,
            report: parts.report,
            written: None,
            pool: None,
            keeps: parts.keeps,
            limited: parts.limited,
        }
    }

    /// Takes over a program that was parked in a pool until now.
    pub(crate) fn adopt(&mut self, streams: [Option<OwnedFd>; 3], started: Instant, pool: Arc<pool::Shared>) {
        self.pool = Some(pool);
        let [stdin, stdout, stderr] = streams;
        self.stdin = stdin.map(Into::into);
        self.stdout = stdout.map(Into::into);
        self.stderr = stderr.map(Into::into);
        self.started = started;
    }

    /// Starts to count the time of a program that was parked until now.
    pub(crate) fn begin(&mut self, started: Instant) -> Result<()> {
        self.limited.begin(started)
    }

    pub(crate) fn set_written(&mut self, written: Written) {
        self.written = Some(Arc::new(written));
    }

    /// The program's process id, as the host sees it. To signal it, use the pidfd: an id may be used again.
    pub fn id(&self) -> u32 {
        self.program.pid.unsigned_abs()
    }

    /// Tells which layers are in force, and where one is not whole, why.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Kills the program and everything else in the sandbox, with SIGKILL. Fine if it has ended already.
    ///
    /// # Errors
    ///
    /// None is known: the kernel lets the host process kill what it has started.
    pub fn kill(&mut self) -> Result<()> {
        if self.outcome.is_some() {
            return Ok(());
        }
        // A program that has ended by itself was not killed.
        self.killed |= matches!(self.program.wait(libc::WNOHANG | libc::WNOWAIT), Ok(None));
        self.kill_all()
    }

    fn kill_all(&self) -> Result<()> {
        self.limited.kill();
        // Init takes everything else with it. The program does not wait for that: init may be late, if it was steered.
        for process in self.cell.as_ref().map(Cell::init).into_iter().chain([&self.program]) {
            match process.kill() {
                // It ended in the meantime.
                Ok(()) | Err(Errno(libc::ESRCH)) => {}
                Err(Errno(errno)) => return Err(Error::os(Layer::Process, "kill", errno)),
            }
        }
        Ok(())
    }

    /// Waits for the end of the program, and of everything else in the sandbox; closes standard input first.
    ///
    /// # Errors
    ///
    /// Where somebody else in the host process has reaped the program, by ignoring SIGCHLD or by waiting for any child,
    /// and the kernel does not tell its status even so, which it does from Linux 6.15 on.
    pub fn wait(&mut self) -> Result<Outcome> {
        drop(self.stdin.take());
        while let Some(look) = self.next_look()? {
            if let Some(outcome) = self.wait_timeout(look)? {
                return Ok(outcome);
            }
        }
        self.end(0)?.ok_or_else(|| Error::os(Layer::Process, "wait", libc::EAGAIN))
    }

    /// Tells how the program ended, if it has.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Child::wait).
    pub fn try_wait(&mut self) -> Result<Option<Outcome>> {
        self.next_look()?;
        self.end(libc::WNOHANG)
    }

    /// Waits for the end of the program for at most `timeout`. None means that it still runs, unharmed.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Child::wait).
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Outcome>> {
        if let Some(outcome) = self.outcome.clone() {
            return Ok(Some(outcome));
        }
        // A deadline that lies too far ahead to be told is none.
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let look = self.next_look()?.into_iter().chain(left).min();
            let mut fds = [PollFd::new(self.program.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, poll_timeout(look)) {
                Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(None),
                Ok(0) | Err(nix::Error::EINTR) => {}
                Ok(_) => return self.end(0),
                Err(errno) => return Err(Error::os(Layer::Process, "wait", errno as i32)),
            }
        }
    }

    /// Waits for the end, and collects what was written to the piped streams meanwhile. Closes standard input first.
    ///
    /// Returns when the sandbox is over, also if somebody outside holds an end of a pipe that the program has passed on.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Child::wait), and where reading a pipe fails.
    pub fn wait_with_output(mut self) -> Result<Output> {
        drop(self.stdin.take());
        let mut streams = [self.stdout.take().map(OwnedFd::from), self.stderr.take().map(OwnedFd::from)]
            .map(|stream| Stream { file: stream.map(File::from), data: Vec::new() });
        let failed =
            |error: io::Error| Error::os(Layer::Process, "read output", error.raw_os_error().unwrap_or(libc::EIO));
        for stream in &streams {
            stream.set_nonblocking().map_err(failed)?;
        }
        while streams.iter().any(|stream| stream.file.is_some()) {
            let look = self.next_look()?;
            let over = wait_readable(self.program.as_fd(), &streams, look).map_err(failed)?;
            if over {
                break;
            }
            for stream in &mut streams {
                stream.read().map_err(failed)?;
            }
        }
        let outcome = self.wait()?;
        // What is in the pipes now is the rest, and no more: somebody in another sandbox who was passed an end may go on
        // writing for ever.
        for stream in &mut streams {
            let end = stream.data.len() + stream.waiting();
            while stream.data.len() < end && stream.read().map_err(failed)? {}
        }
        let [stdout, stderr] = streams.map(|stream| stream.data);
        Ok(Output { outcome, stdout, stderr })
    }

    /// Lets the sandbox run on after the handle is dropped, and after the host process has ended; it ends with the
    /// program.
    ///
    /// As with a child of std that nobody waits for, the ended program stays a zombie until the host process ends; and the
    /// layers of an image stay in their store until then. After that, nothing but its user keeps them from being removed
    /// under a sandbox that runs on.
    ///
    /// # Errors
    ///
    /// Where the sandbox can't be told any more because it has ended.
    pub fn detach(mut self) -> Result<()> {
        if let Some(cell) = self.cell.take() {
            cell.detach().map_err(|Errno(errno)| Error::os(Layer::Process, "detach", errno))?;
        }
        self.limited.leave();
        // For as long as the host lasts: nobody will tell when the program has ended.
        std::mem::forget(self.keeps.take());
        // What the drop goes by: there is nothing left to end.
        self.outcome = Some(Outcome::new(ExitStatus::default(), None, Usage::default(), None));
        Ok(())
    }

    /// Reaps the program and ends the cell.
    fn end(&mut self, options: i32) -> Result<Option<Outcome>> {
        if let Some(outcome) = self.outcome.clone() {
            return Ok(Some(outcome));
        }
        let own_time = self.limited.own_time(&self.program, options);
        let ended = match self.program.wait(options) {
            Ok(None) => return Ok(None),
            Ok(Some(ended)) => Ok((status(&ended), usage(&ended, self.host_peak))),
            Err(errno) => self.status_after_reaping(errno),
        };
        let wall_time = self.started.elapsed();
        let met = ended.as_ref().ok().and_then(|(status, usage)| {
            let own_time = own_time.unwrap_or(usage.user_time + usage.system_time);
            self.limited.cause(*status, own_time, self.cell.as_ref())
        });
        let ended = ended.map(|(status, usage)| (status, self.limited.usage(usage)));
        self.limited.release();
        // Whatever is left in the sandbox ends now, the outcome known or not.
        self.end_cell();
        self.release_changes();
        let (status, usage) = ended?;
        let killed = (self.killed && status.signal() == Some(libc::SIGKILL)).then_some(Cause::Killed);
        let outcome = Outcome::new(status, met.or(killed), Usage { wall_time, ..usage }, self.written.clone());
        self.outcome = Some(outcome.clone());
        Ok(Some(outcome))
    }

    /// When to look at the limits again that the kernel does not enforce, if there are any; looks now, and ends what has met one.
    fn next_look(&mut self) -> Result<Option<Duration>> {
        if self.outcome.is_none() && self.limited.end_for_cpu_time() {
            self.kill_all()?;
            return Ok(None);
        }
        Ok(self.limited.next_look().filter(|_| self.outcome.is_none()))
    }

    /// Nobody inside writes to the root any more.
    fn release_changes(&self) {
        if let Some(written) = &self.written {
            written.release();
        }
    }

    /// Init ends by itself with the program; to wait for that takes longer than a small program runs.
    fn end_cell(&mut self) {
        match (self.cell.take(), self.pool.take()) {
            (Some(cell), Some(pool)) => pool.bury(cell),
            (cell, _) => drop(cell),
        }
    }

    /// What the pidfd tells of a program that is gone. waitid(2) has no child any more a moment before it does.
    fn exit_info(&self) -> crate::sys::Result<i32> {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            match self.program.exit_info() {
                Err(Errno(libc::ENODATA)) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_micros(50));
                }
                result => return result,
            }
        }
    }

    /// The status of a program that somebody else has reaped.
    fn status_after_reaping(&self, Errno(errno): Errno) -> Result<(ExitStatus, Usage)> {
        match self.exit_info() {
            Ok(status) => Ok((ExitStatus::from_raw(status), Usage::default())),
            Err(_) => Err(Error::os(Layer::Process, "wait", errno).with_hint(
                "the host process ignores SIGCHLD, or waits for any child: before Linux 6.15 the status is lost then",
            )),
        }
    }
}

impl AsFd for Child {
    /// The program's pidfd.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.outcome.is_none() {
            let _ = self.kill();
            // The program first: init ends only when all processes of the cell are reaped.
            let _ = self.program.wait(0);
            self.end_cell();
            self.release_changes();
        }
    }
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

/// Waits for one of the streams, for the time to look at the limits, or for the end of the program, which it returns.
fn wait_readable(program: BorrowedFd<'_>, streams: &[Stream], look: Option<Duration>) -> io::Result<bool> {
    let files = streams.iter().filter_map(|stream| stream.file.as_ref());
    let fds = [program].into_iter().chain(files.map(AsFd::as_fd));
    let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    loop {
        match poll(&mut fds, poll_timeout(look)) {
            Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => break,
        }
    }
    Ok(fds.first().and_then(PollFd::any).unwrap_or(false))
}

/// In milliseconds, rounded up, so that a wait never ends early; None waits for ever.
fn poll_timeout(left: Option<Duration>) -> PollTimeout {
    let Some(left) = left else { return PollTimeout::NONE };
    let milliseconds = left.as_nanos().div_ceil(1_000_000);
    i32::try_from(milliseconds).ok().and_then(|ms| PollTimeout::try_from(ms).ok()).unwrap_or(PollTimeout::MAX)
}

fn status(ended: &Ended) -> ExitStatus {
    // The form of wait(2): the exit code in the second byte, or the signal, with 0x80 for a core dump.
    ExitStatus::from_raw(match ended.code {
        libc::CLD_EXITED => (ended.status & 0xff) << 8,
        libc::CLD_DUMPED => ended.status | 0x80,
        _ => ended.status,
    })
}

fn usage(ended: &Ended, host_peak: u64) -> Usage {
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    let peak = ended.usage.ru_maxrss.unsigned_abs();
    Usage {
        wall_time: Duration::ZERO,
        user_time: duration(ended.usage.ru_utime),
        system_time: duration(ended.usage.ru_stime),
        time_source: UsageSource::Process,
        peak_memory: (peak > host_peak).then(|| (peak.saturating_mul(1024), UsageSource::Process)),
    }
}
