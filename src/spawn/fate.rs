//! What a command that has entered a sandbox was ended for, together with that.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Weak};

use super::leaf::Leaf;
use super::limited::Clock;
use crate::outcome::Cause;

/// The limits of a sandbox, as those see them who are not its program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fate {
    clock: Option<Arc<Clock>>,
    /// The cgroup, which is not to stay for that.
    leaf: Option<Weak<Leaf>>,
}

impl Fate {
    pub(super) fn new(clock: Option<&Arc<Clock>>, leaf: Option<&Arc<Leaf>>) -> Self {
        Self { clock: clock.cloned(), leaf: leaf.map(Arc::downgrade) }
    }

    /// The cgroup of the sandbox, if it has one.
    pub(crate) fn leaf(&self) -> Option<&Weak<Leaf>> {
        self.leaf.as_ref()
    }

    /// Why a command has ended like this; `known` is what the host has noted.
    ///
    /// Nobody tells when it has ended. So one that somebody inside has killed before its sandbox met a limit, and that was not
    /// looked at until then, is taken for one that the limit has ended.
    pub(super) fn cause(&self, status: ExitStatus, known: Option<Cause>) -> Option<Cause> {
        let killed = status.signal() == Some(libc::SIGKILL);
        let asked = status.signal() == Some(libc::SIGTERM);
        match known {
            Some(Cause::TimedOut) if killed || asked && self.asks() => return known,
            Some(cause) if killed && cause != Cause::Signaled => return known,
            None if self.has_run_out_of_time(killed, asked) => return Some(Cause::TimedOut),
            _ => {}
        }
        let leaf = self.leaf.as_ref().filter(|_| killed).and_then(Weak::upgrade);
        leaf.is_some_and(|leaf| leaf.ran_out_of_memory()).then_some(Cause::OutOfMemory)
    }

    /// Whether a SIGTERM comes first when time is up.
    fn asks(&self) -> bool {
        self.clock.as_ref().is_some_and(|clock| clock.asks())
    }

    fn has_run_out_of_time(&self, killed: bool, asked: bool) -> bool {
        let over = self.clock.as_ref().filter(|clock| clock.is_over());
        over.is_some_and(|clock| match clock.asks() {
            // It goes on to expire when init has read it, and is gone.
            true => killed || asked,
            false => killed && clock.was_seen(),
        })
    }
}
