//! The handle of a running program, for tasks of a tokio runtime.
//!
//! Nothing here has a thread of its own, and nothing waits for SIGCHLD: a task waits for pidfds, and waitid(2) reaps the one
//! process that a pidfd stands for.

mod pty;
mod readable;
mod signal;
mod streams;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};

use super::capture::Capture;
use super::wait::{Held, TRACED, is_readable};
use super::{Child, Output, Reaped};
use crate::command::Command;
use crate::error::{Error, Layer, Result};
use crate::outcome::Outcome;
use crate::report::Report;
use crate::spawn::{Cell, Search};
pub use pty::AsyncPty;
pub(crate) use readable::in_runtime;
use readable::readable;
pub use streams::{AsyncChildStderr, AsyncChildStdin, AsyncChildStdout};

/// A program that runs in a sandbox, for tasks of a tokio runtime: what [`Command::spawn_async`] returns.
///
/// Dropping it kills the whole sandbox and reaps it; [`detach`](AsyncChild::detach) opts out. It may be dropped anywhere, also
/// after the runtime.
///
/// It has the names of tokio's `Child`, and does what [`Child`] does. What differs from [`Child`]:
///
/// - `wait`, `wait_with_output`, `kill` and `terminate` are futures. A dropped one loses nothing, but for
///   `wait_with_output`, which owns the handle: that kills the sandbox.
/// - [`kill`](AsyncChild::kill) waits for the end too, as tokio's does; [`start_kill`](AsyncChild::start_kill) does not.
/// - [`id`](AsyncChild::id) is None once the program has been waited for.
/// - The streams and the terminal are for tasks, and do not block. They belong to the runtime in which the program was
///   started. To wait works in any.
/// - There is no `wait_timeout`: `tokio::time::timeout` bounds any future.
/// - There is no `wait_forwarding`, which would block signals in a thread that is the runtime's: a task that waits for
///   signals with `tokio::signal` passes them on by [`signal`](AsyncChild::signal).
///
/// What differs from tokio's: a drop kills, as if `kill_on_drop` were set there; the end is told as an [`Outcome`], which
/// has the usage and the cause too; and what `wait_with_output` keeps is bounded. `report`, `command`, `signal`, `signal_all`,
/// `pause`, `resume`, `terminate`, `detach` and `pty` are ours.
///
/// What is not asynchronous: a drop waits until the sandbox is gone, as a drop of [`Child`] does. That takes some 0.3 ms, and 30
/// µs more for every process that is left in it. Where that is too long for a thread of the runtime,
/// [`kill`](AsyncChild::kill) it first, which waits in the task: the thread is held for some 0.05 ms then, however many there are.
///
/// The feature `tokio` is needed for all this.
///
/// # Examples
///
/// ```
/// use belljar::{Rootfs, Sandbox, Stdio};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
/// # runtime.block_on(async {
/// let mut command = Sandbox::new().rootfs(Rootfs::host()).command("cat");
/// let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn_async()?;
/// if let Some(mut stdin) = child.stdin.take() {
///     stdin.write_all(b"meow").await?;
/// }
/// let mut text = String::new();
/// if let Some(stdout) = &mut child.stdout {
///     stdout.read_to_string(&mut text).await?;
/// }
/// assert_eq!(text, "meow");
/// assert!(child.wait().await?.success());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [`Command::spawn_async`]: crate::Command::spawn_async
#[derive(Debug)]
pub struct AsyncChild {
    // The first to be dropped: what is killed sees no end of its input, and is not hung up.
    child: Child,
    /// The end of a pipe to the program's standard input, if that was piped.
    pub stdin: Option<AsyncChildStdin>,
    /// The end of a pipe from the program's standard output, if that was piped.
    pub stdout: Option<AsyncChildStdout>,
    /// The end of a pipe from the program's standard error, if that was piped.
    pub stderr: Option<AsyncChildStderr>,
    /// The host's end of the program's terminal, if it has [one](crate::Command::pty).
    pub pty: Option<AsyncPty>,
    /// What is known of a program that is reaped, until the rest of the sandbox has ended too.
    reaped: Option<Result<Reaped>>,
}

impl AsyncChild {
    /// Takes a child over. Its streams get the runtime that is entered here.
    pub(crate) fn new(mut child: Child) -> Result<Self> {
        let failed = |error: std::io::Error| failed("streams", &error);
        Ok(Self {
            stdin: child.stdin.take().map(AsyncChildStdin::new).transpose().map_err(failed)?,
            stdout: child.stdout.take().map(AsyncChildStdout::new).transpose().map_err(failed)?,
            stderr: child.stderr.take().map(AsyncChildStderr::new).transpose().map_err(failed)?,
            pty: child.pty.take().map(AsyncPty::new).transpose().map_err(failed)?,
            child,
            reaped: None,
        })
    }

    /// The program's process id, as the host sees it. None once it has been waited for: the id may be another's then.
    pub fn id(&self) -> Option<u32> {
        (self.child.outcome.is_none() && self.reaped.is_none()).then(|| self.child.id())
    }

    /// Tells which layers are in force, and where one is not whole, why.
    pub fn report(&self) -> &Report {
        self.child.report()
    }

    /// Makes a command that runs in this sandbox, beside the program, as [`Child::command`] does. A task starts it with
    /// [`spawn_async`](Command::spawn_async), [`status_async`](Command::status_async) or
    /// [`output_async`](Command::output_async).
    ///
    /// The command needs no handle any more: it can be started while a task waits for this one.
    ///
    /// # Errors
    ///
    /// As for [`Child::command`].
    ///
    /// # Examples
    ///
    /// ```
    /// use belljar::{Rootfs, Sandbox};
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    /// # runtime.block_on(async {
    /// let mut server = Sandbox::new().rootfs(Rootfs::host()).command("sleep").arg("1000").spawn_async()?;
    /// let output = server.command("sh").args(["-c", "echo here > /tmp/note; cat /tmp/note"]).output_async().await?;
    /// assert_eq!(output.stdout, b"here\n");
    /// server.kill().await?;
    /// # Ok::<(), belljar::Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.child.command(program)
    }

    /// Kills the program and everything else in the sandbox, with SIGKILL, and waits for its end. Fine if it has
    /// ended already.
    ///
    /// Dropping the future leaves the sandbox killed, and the handle as it is.
    ///
    /// # Errors
    ///
    /// As for [`wait`](AsyncChild::wait).
    pub async fn kill(&mut self) -> Result<()> {
        self.start_kill()?;
        self.wait().await.map(drop)
    }

    /// Kills the program and everything else in the sandbox, with SIGKILL, and does not wait. Fine if it has ended already.
    ///
    /// # Errors
    ///
    /// As for [`Child::kill`].
    pub fn start_kill(&mut self) -> Result<()> {
        self.child.kill()
    }

    /// Waits for the end of the program, and of everything else in the sandbox; closes standard input first.
    ///
    /// Nothing is lost if the future is dropped before its end: the program runs on, and can be waited for again.
    ///
    /// # Errors
    ///
    /// - As for [`Child::wait`].
    /// - [`InvalidPolicy`](crate::ErrorKind::InvalidPolicy): there is no tokio runtime around.
    ///
    /// # Panics
    ///
    /// In a runtime that was built without `enable_io`, as tokio's own do.
    pub async fn wait(&mut self) -> Result<Outcome> {
        drop(self.stdin.take());
        if let Some(outcome) = self.child.outcome.clone() {
            return Ok(outcome);
        }
        self.reap().await?;
        self.end_cell().await?;
        self.try_wait()?.ok_or_else(|| Error::os(Layer::Process, "wait", libc::EAGAIN))
    }

    /// Tells how the program ended, if it has. Waits for what else there is in the sandbox then, which the kernel kills.
    ///
    /// # Errors
    ///
    /// As for [`Child::wait`].
    pub fn try_wait(&mut self) -> Result<Option<Outcome>> {
        match self.reaped.take() {
            Some(reaped) => self.child.conclude(reaped).map(Some),
            None => self.child.try_wait(),
        }
    }

    /// Waits for the end, and collects what was written to the piped streams meanwhile, as much as
    /// [`Child::wait_with_output`] does. Closes standard input first.
    ///
    /// Returns when the sandbox is over, also if somebody outside holds an end of a pipe that the program has passed on.
    /// Dropping the future kills the sandbox.
    ///
    /// # Errors
    ///
    /// As for [`wait`](AsyncChild::wait), and where reading a pipe fails.
    ///
    /// # Panics
    ///
    /// As for [`wait`](AsyncChild::wait).
    pub async fn wait_with_output(mut self) -> Result<Output> {
        drop(self.stdin.take());
        let mut capture = self.capture()?;
        // Dropped before the other: what is killed is not hung up first.
        let mut running = self;
        while capture.is_open() && !running.child.is_killed() {
            let look = running.child.next_look()?.into_iter().chain(capture.pause()).min();
            let fds: Vec<_> = running.child.ends().chain(capture.fds()).collect();
            readable(&fds, look).await?;
            if is_readable(running.child.program.as_fd()) {
                break;
            }
            running.child.capture(&mut capture)?;
        }
        let outcome = running.wait().await?;
        capture.finish(outcome)
    }

    /// Lets the sandbox run on after the handle is dropped, as [`Child::detach`] does.
    ///
    /// # Errors
    ///
    /// As for [`Child::detach`].
    pub fn detach(mut self) -> Result<()> {
        if self.reaped.is_some() {
            self.try_wait()?;
        }
        self.child.detach()
    }

    fn capture(&mut self) -> Result<Capture> {
        let stdout = self.stdout.take().map(AsyncChildStdout::into_nonblocking_fd).transpose();
        let stderr = self.stderr.take().map(AsyncChildStderr::into_nonblocking_fd).transpose();
        let failed = |error: std::io::Error| failed("read output", &error);
        let pty = self.pty.take().map(AsyncPty::into_pty);
        Capture::new([stdout.map_err(failed)?, stderr.map_err(failed)?], pty, self.child.output_limit)
    }

    /// Waits for the program alone.
    async fn reap(&mut self) -> Result<()> {
        let mut held = Held::default();
        while self.reaped.is_none() {
            let look = self.child.next_look()?.into_iter().chain(self.child.look_again()).min();
            readable(&self.child.ends().collect::<Vec<_>>(), look).await?;
            self.reaped = self.child.reap(libc::WNOHANG);
            if self.reaped.is_none() {
                held.look(&self.child)?;
                if is_readable(self.child.program.as_fd()) {
                    // Somebody inside traces it, and has to let go of it first (ptrace(2)): init takes him along.
                    readable(&[], Some(TRACED)).await?;
                }
            }
        }
        Ok(())
    }

    /// Waits for the end of what else is in the sandbox, unless a pool does.
    async fn end_cell(&mut self) -> Result<()> {
        let Some(cell) = self.child.cell.as_mut().filter(|_| self.child.pool.is_none()) else { return Ok(()) };
        end_commands(cell).await?;
        cell.begin_to_end();
        let mut search = Search::default();
        loop {
            readable(&[cell.init().as_fd()], Some(Search::PAUSE)).await?;
            if is_readable(cell.init().as_fd()) {
                return Ok(());
            }
            if !cell.search(&mut search) {
                cell.leave();
                return Ok(());
            }
        }
    }
}

impl AsFd for AsyncChild {
    /// The program's pidfd. Whoever registers it with a runtime has to register a duplicate: [`wait`](AsyncChild::wait) may
    /// register this one.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}

/// Waits for the end of the commands that have entered a cell. Until all are reaped it knows them, in case that this is dropped.
async fn end_commands(cell: &Cell) -> Result<()> {
    for command in cell.entered().kill() {
        let mut search = Search::default();
        while !is_readable(command.as_fd()) && search.goes_on(command.is_held()) {
            // The one that its own handle waits for may be registered already.
            let pidfd = command.as_fd().try_clone_to_owned().map_err(|error| failed("wait", &error))?;
            readable(&[pidfd.as_fd()], Some(Search::PAUSE)).await?;
        }
        command.reap_now_for_others();
    }
    cell.entered().forget();
    Ok(())
}

fn failed(step: &str, error: &std::io::Error) -> Error {
    Error::os(Layer::Process, step, error.raw_os_error().unwrap_or(libc::EIO))
}
