//! What bounds a whole sandbox.

use std::ops::Range;
use std::time::Duration;

/// What bounds a whole sandbox, and is seen to from outside of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounds {
    pub(crate) wall: Option<Wall>,
    /// The steps by which the host makes the sandbox's cgroup; none for no cgroup.
    pub(crate) cgroup: Range<usize>,
    /// The processor time of each process, and of all of them where there is a cgroup.
    pub(crate) cpu_time: Option<Duration>,
}

/// How long a sandbox may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wall {
    pub(crate) time: Duration,
    /// What is left after a SIGTERM.
    pub(crate) grace: Option<Duration>,
    /// Whether it starts to count later, when an agent is told what to execute.
    pub(crate) later: bool,
}
