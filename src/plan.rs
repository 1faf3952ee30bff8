//! The plan: what the policy comes to, as a flat list of steps.
//!
//! A step is one system call, or an open-use-close triple, with its arguments already in kernel form, so that the
//! child has nothing to decide and nothing to allocate. A child that fails hands back the index of the step and the
//! error number; the words are here, with the parent.

mod hint;
mod step;

use std::fmt;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::report::Report;

pub(crate) use hint::hint;
pub(crate) use step::{
    Content, Escaped, Fault, HostPath, Inside, InsideKind, MapLines, Memory, Operand, Step, attr, os,
};

/// Every step that a spawn takes, in order. Printed, it reads like the trace of the processes that take them.
///
/// A plan is made by [`Command::plan`](crate::Command::plan), and tells what would be done: nothing is run. Each
/// line has the layer and the step; lines that end in a colon name the process:
///
/// - `host`: the calling thread;
/// - `holder`: a process that only holds the user namespace, where its maps have to be written from outside;
/// - `cell`: the first process of the new namespaces, which builds the root and becomes init, process 1;
/// - `program`: the process that enters them, and becomes the program.
///
/// The words are for people: they may change in any release.
#[derive(Debug)]
pub struct Plan {
    pub(crate) steps: Vec<Step>,
    /// Id maps that somebody in the parent's user namespace has to write.
    pub(crate) holder: Option<Holder>,
    /// The process that builds the cell; none without a PID namespace.
    pub(crate) cell: Option<Launch>,
    pub(crate) program: Launch,
    /// What is opened for the program; [`Step::Install`] has indices into it.
    pub(crate) given: Vec<Given>,
    /// Which layers are in force when the program runs.
    pub(crate) report: Report,
}

/// A descriptor for the program, before it is opened.
#[derive(Clone, Debug)]
pub(crate) enum Given {
    /// /dev/null.
    Null { write: bool },
    /// The program's end of a new pipe: the one for writing, or the one for reading.
    Pipe { write: bool },
    /// A descriptor of the caller's.
    Fd(Arc<OwnedFd>),
}

/// How one process is started, as ranges of [`Plan::steps`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Launch {
    /// What a go-between does first, in namespaces that exist: it then clones the process as its sibling.
    pub(crate) enter: Range<usize>,
    /// The step that clones the process, and stands for that call in errors.
    pub(crate) clone: usize,
    /// What the process itself does.
    pub(crate) body: Range<usize>,
}

/// A process that only holds a new user namespace, while its maps are written from outside.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    /// The step that clones it.
    pub(crate) clone: usize,
    /// What it does: become a second init.
    pub(crate) body: Range<usize>,
    /// The step that writes the maps.
    pub(crate) maps: usize,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut section = "";
        for (index, step) in self.steps.iter().enumerate() {
            let now = self.section(index);
            if now != section {
                section = now;
                writeln!(f, "{section}:")?;
            }
            writeln!(f, "  {:<12}  {step:#}", step.layer())?;
        }
        Ok(())
    }
}

impl Plan {
    fn section(&self, index: usize) -> &'static str {
        // A go-between clones; where there is none, the host does.
        let clones = |launch: &Launch| index == launch.clone && !launch.enter.is_empty();
        let holds = |launch: &Launch| launch.body.contains(&index) || launch.enter.contains(&index) || clones(launch);
        if self.holder.as_ref().is_some_and(|holder| holder.body.contains(&index)) {
            "holder"
        } else if self.cell.as_ref().is_some_and(holds) {
            "cell"
        } else if holds(&self.program) {
            "program"
        } else {
            "host"
        }
    }
}
