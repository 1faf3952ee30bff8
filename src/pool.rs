//! Sandboxes built ahead.
//!
//! A parked sandbox is whole: its root is built, and in it waits an agent that wears every layer, as the process that
//! will be the program. It gets descriptors, directory, arguments and environment in one message, and executes. Each is
//! used once.

mod shared;
mod start;

use std::ffi::OsStr;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::command::Command;
use crate::error::Result;
use crate::prepared::Prepared;
pub(crate) use shared::Shared;
pub(crate) use start::{defaults, environment, start};

/// Sandboxes of one policy that wait for a program each.
///
/// A start from a pool costs about what a plain process does: the sandbox is there, and only the program has to be executed. Each is used
/// once, by one program, and what it leaves behind ends with it; a thread of the pool's own builds the next. If none
/// is left, a start builds one, as [`Prepared::command`] does. Nobody has to wait for another: commands of one pool can be started
/// from many threads at once.
///
/// A start that gets no sandbox from the pool, or whose program can't be executed there, is made again in the ordinary way: errors
/// are the same, and arguments of more than some 160 KiB or a thousand descriptors take longer.
///
/// Dropping the pool ends the sandboxes that wait. Those with a program live on with their handles.
///
/// When a program has ended, the kernel kills what it has left behind, as always; but [`Child::wait`](crate::Child::wait) does
/// not wait for that: the pool does, in its thread or in [`refill`](Pool::refill).
///
/// In a fork of the host process the pool is empty, and its commands start sandboxes of their own.
///
/// What is different from an ordinary start: what the policy refers to on the host (bind sources, the root's directory) is taken
/// when the sandbox is built, not when its program is started; the content is seen as it is. A regular file that is passed as
/// a stream or a descriptor can be used, but not opened once more through `/dev/stdout` or `/proc/self/fd`.
///
/// # Examples
///
/// ```
/// use belljar::{Rootfs, Sandbox};
///
/// let pool = Sandbox::new().rootfs(Rootfs::host()).prepare()?.pool(2)?;
/// for name in ["one", "two", "three"] {
///     let output = pool.command("echo").arg(name).output()?;
///     assert_eq!(output.stdout, format!("{name}\n").into_bytes());
/// }
/// # Ok::<(), belljar::Error>(())
/// ```
pub struct Pool {
    shared: Arc<Shared>,
    /// Builds what is missing; none if that is done by hand.
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Pool {
    pub(crate) fn new(prepared: &Prepared, size: usize) -> Result<Self> {
        let mut pool = Self::by_hand(prepared, size)?;
        let shared = pool.shared.clone();
        pool.thread = Some(shared::keep_filled(shared)?);
        Ok(pool)
    }

    pub(crate) fn by_hand(prepared: &Prepared, size: usize) -> Result<Self> {
        let pool = Self { shared: Arc::new(Shared::new(prepared, size)?), thread: None };
        pool.shared.fill()?;
        Ok(pool)
    }

    /// Starts a command line, as [`Prepared::command`] does.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.shared.prepared().command(program).pooled(self.shared.clone())
    }

    /// How many sandboxes wait.
    pub fn ready(&self) -> usize {
        self.shared.ready()
    }

    /// Builds what is missing, in this thread. Pools with a thread of their own need it not.
    ///
    /// # Errors
    ///
    /// As for [`Command::spawn`].
    pub fn refill(&self) -> Result<()> {
        self.shared.fill()
    }

    /// Sets after how long without a start all but one of the waiting sandboxes are given up, until the next
    /// start. The default is one minute. A pool that is filled by hand does not shrink.
    pub fn idle_timeout(self, timeout: Duration) -> Self {
        self.shared.set_idle_timeout(timeout);
        self
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let thread = self.thread.take();
        // In a fork of the host there is no such thread, and the sandboxes are not its own.
        if !self.shared.is_own() {
            return std::mem::forget((thread, self.shared.clone()));
        }
        self.shared.close();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("ready", &self.ready())
            .field("sandbox", self.shared.prepared().sandbox())
            .finish_non_exhaustive()
    }
}
