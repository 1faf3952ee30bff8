//! Signals to what runs in a sandbox.

use std::os::fd::AsFd;
use std::time::Duration;

use super::Child;
use super::wait::{Held, TRACED, wait_readable};
use crate::error::{Error, Layer, Result};
use crate::outcome::Outcome;
use crate::sys::{self, Errno, LAST_SIGNAL, SignalSet};

impl Child {
    /// Sends a signal to the program, and to nothing else: a number of signal(7), from 1 to 64, such as `libc::SIGHUP`.
    /// Fine if the program has ended already, as [`kill`](Child::kill) is.
    ///
    /// It goes by the pidfd, and so never to another process that has got the same id.
    ///
    /// Of a signal that ends the program the outcome tells as of one that somebody inside has sent:
    /// [`Cause::Signaled`](crate::Cause::Signaled), for SIGKILL too. The program may catch or ignore any but SIGKILL and
    /// SIGSTOP; and what it has started gets none of them.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`](crate::ErrorKind::InvalidPolicy): there is no such signal.
    ///
    /// # Examples
    ///
    /// ```
    /// use belljar::{Rootfs, Sandbox};
    ///
    /// let mut child = Sandbox::new().rootfs(Rootfs::host()).command("sleep").arg("60").spawn()?;
    /// child.signal(15)?;
    /// assert_eq!(child.wait()?.signal(), Some(15));
    /// # Ok::<(), belljar::Error>(())
    /// ```
    pub fn signal(&self, signal: i32) -> Result<()> {
        check("signal", signal)?;
        if self.outcome.is_some() {
            return Ok(());
        }
        match self.program.signal(signal) {
            // It has ended, and somebody else in the host process has reaped it.
            Ok(()) | Err(Errno(libc::ESRCH)) => Ok(()),
            Err(Errno(errno)) => Err(Error::os(Layer::Process, format!("signal {signal}"), errno)),
        }
    }

    /// Sends a signal to every process in the sandbox, the program among them: a number from 1 to 64. Fine if they have
    /// ended already.
    ///
    /// The sandbox's own process 1 sends it, to all at once: none that is just being started is left out, and nothing
    /// outside can be hit. It may do so a moment after this call has returned.
    ///
    /// What is not protected: a process that the program has handed to another user inside, where the report says that
    /// the caller had no CAP_KILL to lend.
    ///
    /// # Errors
    ///
    /// - [`InvalidPolicy`](crate::ErrorKind::InvalidPolicy): there is no such signal; or the sandbox has no
    ///   [`Namespaces::PID`](crate::Namespaces::PID), and so nobody knows what belongs to it; or this is the handle of
    ///   [another command](Child::command) in a sandbox.
    /// - [`Os`](crate::ErrorKind::Os): `EAGAIN`, if process 1 has hundreds of signals to send already.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        self.send_all("signal all", signal)
    }

    /// Stops every process in the sandbox, until [`resume`](Child::resume).
    ///
    /// Where the sandbox has a cgroup of its own ([`Sandbox::cgroup`](crate::Sandbox::cgroup), or a limit that takes one), the
    /// kernel freezes that: all have stopped when this call returns, none sees that it was stopped, and no SIGCONT has one run
    /// on. Else all get SIGSTOP, which none can catch or ignore, maybe a moment after this call has returned.
    ///
    /// The clock of a wall time runs on. [`kill`](Child::kill) and a drop end what is paused, and a frozen program is also
    /// ended by a signal that it leaves to its default action; other signals wait. No [other command](Child::command) can be
    /// started in a frozen sandbox.
    ///
    /// What is not protected: without a cgroup, a process can see that its children were stopped (wait(2), `WUNTRACED`), and
    /// one that somebody outside sends SIGCONT runs on.
    ///
    /// # Errors
    ///
    /// With a cgroup, [`Os`](crate::ErrorKind::Os): `ETIMEDOUT`, if a process has not stopped within a second, since it waits
    /// in the kernel for what does not answer, such as the server of a file system; all run on then. Without one, as for
    /// [`signal_all`](Child::signal_all).
    pub fn pause(&mut self) -> Result<()> {
        match self.limited.leaf() {
            Some(leaf) => leaf.freeze().map_err(|error| of_group("pause", &error)),
            None => self.send_all("pause", libc::SIGSTOP),
        }
    }

    /// Lets go on what was [paused](Child::pause). Without a cgroup that is a SIGCONT, and has also run on what has stopped
    /// itself.
    ///
    /// # Errors
    ///
    /// As for [`signal_all`](Child::signal_all), where the sandbox has no cgroup.
    pub fn resume(&mut self) -> Result<()> {
        match self.limited.leaf() {
            Some(leaf) => leaf.thaw().map_err(|error| of_group("resume", &error)),
            None => self.send_all("resume", libc::SIGCONT),
        }
    }

    /// Asks the program to end, and kills it with all that is in the sandbox if it has not after `grace`: what `docker
    /// stop` does. Waits for the end, and closes standard input first.
    ///
    /// The program gets the StopSignal of the image that the sandbox is [made of](crate::Sandbox::from_image), or
    /// SIGTERM. If that ends it, the cause is [`Exited`](crate::Cause::Exited) or [`Signaled`](crate::Cause::Signaled),
    /// and [`Killed`](crate::Cause::Killed) if it took the kill. One that is paused can't handle the signal in time.
    ///
    /// # Errors
    ///
    /// As for [`wait`](Child::wait).
    pub fn terminate(&mut self, grace: Duration) -> Result<Outcome> {
        drop(self.stdin.take());
        self.signal(self.stop_signal)?;
        if let Some(outcome) = self.wait_timeout(grace)? {
            return Ok(outcome);
        }
        self.kill()?;
        self.wait()
    }

    /// Waits for the end like [`wait`](Child::wait), and passes signals that the host process gets meanwhile on to the
    /// program: of a terminal those are SIGINT, SIGQUIT, SIGTERM, SIGHUP and SIGWINCH. The program has a session of its
    /// own, so that a Ctrl-C reaches the host process alone otherwise.
    ///
    /// The host process does not see a signal that is passed on. No handler is installed: the signals are blocked in the
    /// calling thread during the call, and taken from a signalfd(2). The mask is as it was afterwards, and a signal that
    /// comes after the end of the program does what it always does.
    ///
    /// What is not protected: a signal to the whole process may be taken by any thread that does not block it. So a host
    /// with other threads has to block these signals in all of them, best before it starts them; or it calls
    /// [`signal`](Child::signal) wherever its own handlers bring the signals.
    ///
    /// # Errors
    ///
    /// As for `wait`; and [`InvalidPolicy`](crate::ErrorKind::InvalidPolicy) for a number that is no signal, and for
    /// SIGKILL and SIGSTOP, which no process can block.
    pub fn wait_forwarding(&mut self, signals: impl IntoIterator<Item = i32>) -> Result<Outcome> {
        let signals = signals.into_iter().try_fold(0, |set, signal| Ok(set | forwarded(signal)?))?;
        drop(self.stdin.take());
        let failed = |Errno(errno)| Error::os(Layer::Process, "forward signals", errno);
        let _blocked = Blocked::new(signals).map_err(failed)?;
        let queue = sys::signalfd(signals).map_err(failed)?;
        let mut held = Held::default();
        while self.outcome.is_none() {
            let look = self.next_look()?.into_iter().chain(self.look_again()).min();
            let ended = wait_readable(self.ends(), [queue.as_fd()], look);
            let has_ended = ended.map_err(|errno| failed(Errno(errno as i32)))?;
            if self.try_wait()?.is_none() {
                while let Some(signal) = sys::next_signal(queue.as_fd()).map_err(failed)? {
                    self.signal(signal)?;
                }
                if has_ended {
                    std::thread::sleep(TRACED);
                }
                held.look(self)?;
            }
        }
        self.wait()
    }

    /// Has init send a signal to all.
    fn send_all(&self, what: &str, signal: i32) -> Result<()> {
        let number = check(what, signal)?;
        if self.outcome.is_some() {
            return Ok(());
        }
        let cell = self.cell.as_ref().ok_or_else(|| {
            let cause = match self.inside {
                None => "without Namespaces::PID only the program is known",
                Some(_) => "that is for the handle of the sandbox, not of another command in it",
            };
            Error::invalid(Layer::Process, what, cause).with_hint("use Child::signal, which reaches the program")
        })?;
        cell.signal_all(number).map_err(|Errno(errno)| Error::os(Layer::Process, what, errno))
    }
}

/// The sandbox's cgroup does not do as it is told.
fn of_group(what: &str, error: &std::io::Error) -> Error {
    Error::os(Layer::Process, what, error.raw_os_error().unwrap_or(libc::EIO))
}

/// The number of a signal, if it is one.
fn check(what: &str, signal: i32) -> Result<u8> {
    let invalid = || Error::invalid(Layer::Process, what, format!("there is no signal {signal}: they go from 1 to 64"));
    u8::try_from(signal).ok().filter(|_| (1..=LAST_SIGNAL).contains(&signal)).ok_or_else(invalid)
}

/// The set of a signal that can be blocked.
fn forwarded(signal: i32) -> Result<SignalSet> {
    check("forward signals", signal)?;
    match signal {
        libc::SIGKILL | libc::SIGSTOP => Err(Error::invalid(
            Layer::Process,
            "forward signals",
            "SIGKILL and SIGSTOP can't be passed on: no process sees them",
        )),
        _ => Ok(sys::set_of(signal)),
    }
}

/// Signals that are blocked in the calling thread; the mask is as it was when this is dropped.
struct Blocked(SignalSet);

impl Blocked {
    fn new(signals: SignalSet) -> sys::Result<Self> {
        sys::block_signals(signals).map(Self)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = sys::set_signal_mask(self.0);
    }
}
