//! A policy made ready for many starts.

use std::ffi::OsStr;
use std::sync::Arc;

use crate::command::Command;
use crate::error::Result;
use crate::pool::Pool;
use crate::sandbox::Sandbox;

/// A policy that was checked once, to start many programs from.
///
/// It is cheap to clone, and starts programs from any number of threads at once. A start takes as long as one from the
/// [`Sandbox`] itself, which looks at the host anew: to have sandboxes built ahead, make a [`pool`](Prepared::pool).
#[derive(Clone, Debug)]
pub struct Prepared(Arc<Sandbox>);

impl Sandbox {
    /// Checks the policy, for many starts.
    ///
    /// # Errors
    ///
    /// As for [`Command::spawn`], as far as they are about the policy.
    pub fn prepare(&self) -> Result<Prepared> {
        self.command("/").plan()?;
        Ok(Prepared(Arc::new(self.clone())))
    }
}

impl Prepared {
    /// Starts a command line, as [`Sandbox::command`] does.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command::new(self.0.clone(), program.as_ref())
    }

    /// Builds `size` sandboxes ahead, and keeps as many ready by a thread of the pool's own.
    ///
    /// # Errors
    ///
    /// As for [`Command::spawn`]: of the sandboxes, the first that can't be built.
    pub fn pool(&self, size: usize) -> Result<Pool> {
        Pool::new(&self.0, size)
    }

    /// Like [`pool`](Prepared::pool), without a thread: [`Pool::refill`] has to be called from time to time.
    ///
    /// # Errors
    ///
    /// As for `pool`.
    pub fn pool_by_hand(&self, size: usize) -> Result<Pool> {
        Pool::by_hand(&self.0, size)
    }
}
