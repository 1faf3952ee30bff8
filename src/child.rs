//! The handle of a running program.

#[cfg(feature = "tokio")]
mod asynchronous;
mod capture;
mod nonblocking;
mod pty;
mod signal;
mod wait;

use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::changes::Written;
use crate::enter::Inside;
use crate::error::{Error, Layer, Result};
use crate::outcome::{Cause, Outcome, Usage};
use crate::pool;
use crate::report::Report;
use crate::sandbox::Sandbox;
use crate::spawn::{Cell, Ending, Entered, Limited, Process};
use crate::sys::Errno;

#[cfg(feature = "tokio")]
pub(crate) use asynchronous::in_runtime;
#[cfg(feature = "tokio")]
pub use asynchronous::{AsyncChild, AsyncChildStderr, AsyncChildStdin, AsyncChildStdout, AsyncPty};
pub use capture::Output;
pub use pty::Pty;

/// A program that runs in a sandbox.
///
/// When the program ends, everything else in the sandbox ends: processes that it has left behind are killed by the
/// kernel, also if nobody waits. Dropping the handle kills the whole sandbox and reaps it; so does the death of the
/// host process, however it dies. [`detach`](Child::detach) opts out of both. Without
/// [`Namespaces::PID`](crate::Namespaces::PID) all that holds for the program alone.
///
/// What is not protected: no kernel ends two processes that stop each other at their ends, where the filter lets them
/// trace (ptrace(2), `PTRACE_O_TRACEEXIT`): both are dying, so no further signal reaches them, and each is let go only by
/// the other. They execute nothing more, and keep their memory and their ids until the machine ends. After a
/// [`kill`](Child::kill), or a limit that has ended the sandbox, a [`wait`](Child::wait) for a program that is held like this
/// is an error after half a second, with `EDEADLK`; a drop leaves it after as long. If others in the sandbox hold each other, the
/// outcome is told as ever, and they are left behind. The default filter refuses to trace.
///
/// The handle works in any thread, whether the one that started the program still runs or not. It has no use for SIGCHLD,
/// which may be blocked, handled or, from Linux 6.15 on, ignored.
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
    /// The host's end of the program's terminal, if it has [one](crate::Command::pty).
    pub pty: Option<Pty>,
    program: Process,
    cell: Option<Cell>,
    started: Instant,
    host_peak: u64,
    /// What the host has ended the program for.
    ended: Option<Cause>,
    /// How many bytes of each stream the program may write where they are captured.
    output_limit: Option<u64>,
    /// What asks the program to end.
    stop_signal: i32,
    outcome: Option<Outcome>,
    report: Report,
    written: Option<Arc<Written>>,
    /// Who waits for the end of the cell; else it is waited for with the program.
    pool: Option<Arc<pool::Shared>>,
    /// What has to stay as long as the program.
    keeps: Option<Arc<dyn Any + Send + Sync>>,
    /// What other commands in the sandbox start from; none without init.
    pub(crate) inside: Option<Arc<Inside>>,
    pub(crate) policy: Option<Arc<Sandbox>>,
    limited: Limited,
}

/// What is known of a program when it is reaped.
#[derive(Debug)]
struct Reaped {
    status: ExitStatus,
    usage: Usage,
    /// The limit that has ended it, if one has.
    met: Option<Cause>,
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
    pub(crate) inside: Option<Arc<Inside>>,
    pub(crate) limited: Limited,
}

impl Child {
    pub(crate) fn new(parts: Parts) -> Self {
        let [stdin, stdout, stderr] = parts.streams;
        Self {
            stdin: stdin.map(Into::into),
            stdout: stdout.map(Into::into),
            stderr: stderr.map(Into::into),
            pty: None,
            program: parts.program,
            cell: parts.cell,
            started: parts.started,
            host_peak: parts.host_peak,
            ended: None,
            output_limit: None,
            stop_signal: libc::SIGTERM,
            outcome: None,
            report: parts.report,
            written: None,
            pool: None,
            keeps: parts.keeps,
            inside: parts.inside,
            policy: None,
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

    pub(crate) fn set_output_limit(&mut self, bytes: Option<u64>) {
        self.output_limit = bytes;
    }

    pub(crate) fn set_stop_signal(&mut self, signal: i32) {
        self.stop_signal = signal;
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
        self.program.pid().unsigned_abs()
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
        self.kill_for(Cause::Killed)
    }

    /// Kills everything, for the first reason that there is.
    fn kill_for(&mut self, cause: Cause) -> Result<()> {
        if self.outcome.is_some() {
            return Ok(());
        }
        // A program that has ended by itself was not killed.
        if self.program.runs() {
            self.ended.get_or_insert(cause);
            self.program.note(cause);
            self.entered().for_each(|entered| entered.note_running(Cause::Killed));
        } else if self.limited.leaf().is_some_and(|leaf| leaf.ran_out_of_memory()) {
            self.entered().for_each(|entered| entered.note(Cause::OutOfMemory));
        }
        self.kill_all()
    }

    /// The other commands in the sandbox, if this is its program.
    fn entered(&self) -> impl Iterator<Item = &Entered> {
        self.cell.iter().map(Cell::entered)
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

    /// Waits for the end of the program, and of everything else in the sandbox; closes standard input first. What is left behind
    /// in a sandbox of a [`Pool`](crate::Pool), the pool waits for.
    ///
    /// # Errors
    ///
    /// - `ECHILD`: somebody else in the host process has reaped the program, by ignoring SIGCHLD or by waiting for any child,
    ///   and the kernel does not tell its status even so, which it does from Linux 6.15 on.
    /// - `EDEADLK`: everything was killed, but processes that trace each other [hold each other](Child) at their ends, the
    ///   program among them.
    pub fn wait(&mut self) -> Result<Outcome> {
        drop(self.stdin.take());
        self.wait_timeout(Duration::MAX)?.ok_or_else(|| Error::os(Layer::Process, "wait", libc::EAGAIN))
    }

    /// Tells how the program ended, if it has. Waits for what else there is in the sandbox then, which the kernel kills.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Child::wait).
    pub fn try_wait(&mut self) -> Result<Option<Outcome>> {
        self.next_look()?;
        self.end(libc::WNOHANG)
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
        let Some(reaped) = self.reap(options) else { return Ok(None) };
        self.conclude(reaped).map(Some)
    }

    /// Reaps the program. What else is in the sandbox may still be there.
    fn reap(&mut self, options: i32) -> Option<Result<Reaped>> {
        let own_time = self.limited.own_time(&self.program, options);
        let ended = match self.program.wait(options) {
            Ok(None) => return None,
            Ok(Some(ended)) => Ok((wait::status(&ended), wait::usage(&ended, self.host_peak))),
            Err(errno) => self.status_after_reaping(errno),
        };
        let wall_time = self.started.elapsed();
        Some(ended.map(|(status, usage)| {
            let own_time = own_time.unwrap_or(usage.user_time + usage.system_time);
            let met = self.limited.cause(status, own_time, (&self.program, self.cell.as_ref()));
            let of_all = met.filter(|met| matches!(met, Cause::TimedOut | Cause::OutOfMemory));
            self.entered().for_each(|entered| entered.note(of_all.unwrap_or(Cause::Signaled)));
            Reaped { status, usage: Usage { wall_time, ..self.limited.usage(usage) }, met }
        }))
    }

    /// Ends the cell of a program that is reaped.
    fn conclude(&mut self, reaped: Result<Reaped>) -> Result<Outcome> {
        self.limited.release();
        // Whatever is left in the sandbox ends now, the outcome known or not.
        self.end_cell();
        self.release_changes();
        let Reaped { status, usage, met } = reaped?;
        let ended = self.ended.filter(|_| status.signal() == Some(libc::SIGKILL));
        let outcome = Outcome::new(status, met.or(ended), usage, self.written.clone());
        self.outcome = Some(outcome.clone());
        Ok(outcome)
    }

    /// When to look at the limits again that the kernel does not enforce, if there are any; looks now, and ends what has met one.
    fn next_look(&mut self) -> Result<Option<Duration>> {
        if self.outcome.is_none() && self.limited.has_used_its_cpu_time() {
            self.entered().for_each(|entered| entered.note_running(Cause::CpuTime));
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
            // Where a filter keeps the host from killing, init does it; without one, nobody is waited for.
            let killed = self.kill().is_ok() || self.cell.as_mut().map(Cell::let_go).is_some();
            // The program first: init ends only when all processes of the cell are reaped.
            if !killed {
                let _ = self.program.wait(libc::WNOHANG);
            } else if let Ending::Held = self.program.reap_killed() {
                self.cell.iter_mut().for_each(Cell::leave);
            }
            self.end_cell();
            self.release_changes();
        }
    }
}
