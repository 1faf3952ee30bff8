//! Signals, from tasks.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::AsyncChild;
use super::is_readable;
use super::readable::readable;
use crate::error::Result;
use crate::outcome::Outcome;

impl AsyncChild {
    /// Sends a signal to the program, as [`Child::signal`](crate::Child::signal) does.
    ///
    /// # Errors
    ///
    /// As for [`Child::signal`](crate::Child::signal).
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.child.signal(signal)
    }

    /// Sends a signal to every process in the sandbox, as [`Child::signal_all`](crate::Child::signal_all) does.
    ///
    /// # Errors
    ///
    /// As for [`Child::signal_all`](crate::Child::signal_all).
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        self.child.signal_all(signal)
    }

    /// Stops every process in the sandbox, as [`Child::pause`](crate::Child::pause) does.
    ///
    /// # Errors
    ///
    /// As for [`Child::pause`](crate::Child::pause).
    pub fn pause(&mut self) -> Result<()> {
        self.child.pause()
    }

    /// Lets go on what was paused, as [`Child::resume`](crate::Child::resume) does.
    ///
    /// # Errors
    ///
    /// As for [`Child::resume`](crate::Child::resume).
    pub fn resume(&mut self) -> Result<()> {
        self.child.resume()
    }

    /// Asks the program to end, and kills it with all that is in the sandbox if it has not after `grace`, as
    /// [`Child::terminate`](crate::Child::terminate) does.
    ///
    /// If the future is dropped, the program has been asked, and is not killed.
    ///
    /// # Errors
    ///
    /// As for [`wait`](AsyncChild::wait).
    ///
    /// # Panics
    ///
    /// As for [`wait`](AsyncChild::wait).
    pub async fn terminate(&mut self, grace: Duration) -> Result<Outcome> {
        drop(self.stdin.take());
        self.child.signal(self.child.stop_signal)?;
        let until = Instant::now().checked_add(grace);
        while self.id().is_some() && !is_readable(self.child.program.as_fd()) {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                self.child.kill()?;
                break;
            }
            readable(&[self.child.program.as_fd()], left).await?;
        }
        self.wait().await
    }
}
