//! Starting a program from a task of a tokio runtime.

use std::future::Future;

use super::Command;
use crate::child::{AsyncChild, Output, in_runtime};
use crate::error::Result;
use crate::layer::fds::Stdio;
use crate::outcome::Outcome;

impl Command {
    /// Starts the program, as [`spawn`](Command::spawn) does, and returns a handle for tasks of a tokio runtime.
    ///
    /// The start itself is a call that blocks the thread, for about a millisecond, or a tenth of one from a
    /// [`Pool`](crate::Pool): the kernel suspends a thread that starts a program in its own memory until that is executed.
    /// In a runtime that has to answer faster, call it in `tokio::task::spawn_blocking`, and take the handle from there. Do so
    /// for [another command](AsyncChild::command) in a sandbox whose program is not trusted: that can be slow to let it in,
    /// by stopping it again and again, for 30 seconds at most.
    ///
    /// # Errors
    ///
    /// - As for [`spawn`](Command::spawn).
    /// - [`InvalidPolicy`](crate::ErrorKind::InvalidPolicy): there is no tokio runtime around. Nothing was started.
    ///
    /// # Panics
    ///
    /// In a runtime that was built without `enable_io`, if a stream is piped or there is a terminal. The sandbox is ended
    /// then.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use belljar::{Cause, Rootfs, Sandbox};
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    /// # runtime.block_on(async {
    /// let mut child = Sandbox::new().rootfs(Rootfs::host()).command("sleep").arg("1000").spawn_async()?;
    /// if tokio::time::timeout(Duration::from_millis(10), child.wait()).await.is_err() {
    ///     child.kill().await?;
    /// }
    /// assert_eq!(child.wait().await?.cause(), Cause::Killed);
    /// # Ok::<(), belljar::Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn spawn_async(&mut self) -> Result<AsyncChild> {
        self.spawn_async_with(&Stdio::inherit(), &Stdio::inherit())
    }

    /// Runs the program to its end, and waits for the whole sandbox to be gone, in a task.
    ///
    /// The program is started by the call, as [`spawn_async`](Command::spawn_async) starts it, and owned by the future:
    /// dropping that kills the sandbox.
    ///
    /// # Errors
    ///
    /// As for [`spawn_async`](Command::spawn_async) and [`AsyncChild::wait`].
    ///
    /// # Panics
    ///
    /// As for [`AsyncChild::wait`].
    pub fn status_async(&mut self) -> impl Future<Output = Result<Outcome>> + Send + use<> {
        let (child, has_pty) = (self.spawn_async(), self.pty.is_some());
        async move {
            match has_pty {
                false => child?.wait().await,
                // Nobody else reads what is shown.
                true => Ok(child?.wait_with_output().await?.outcome),
            }
        }
    }

    /// Runs the program to its end, and collects what it writes, in a task; with the streams of [`output`](Command::output).
    ///
    /// The program is started by the call, as [`spawn_async`](Command::spawn_async) starts it, and owned by the future:
    /// dropping that kills the sandbox.
    ///
    /// # Errors
    ///
    /// As for [`spawn_async`](Command::spawn_async) and [`AsyncChild::wait_with_output`].
    ///
    /// # Panics
    ///
    /// As for [`AsyncChild::wait`].
    ///
    /// # Examples
    ///
    /// ```
    /// use belljar::{Rootfs, Sandbox};
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    /// # runtime.block_on(async {
    /// let sandbox = Sandbox::new().rootfs(Rootfs::host());
    /// let [mut one, mut two] = ["one", "two"].map(|word| sandbox.command("echo").arg(word).clone());
    /// let (one, two) = tokio::join!(one.output_async(), two.output_async());
    /// assert_eq!([one?.stdout, two?.stdout], [b"one\n", b"two\n"]);
    /// # Ok::<(), belljar::Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn output_async(&mut self) -> impl Future<Output = Result<Output>> + Send + use<> {
        let child = self.spawn_async_with(&Stdio::null(), &Stdio::piped());
        async { child?.wait_with_output().await }
    }

    fn spawn_async_with(&self, input: &Stdio, output: &Stdio) -> Result<AsyncChild> {
        in_runtime("spawn")?;
        AsyncChild::new(self.spawn_with(input, output)?)
    }
}
