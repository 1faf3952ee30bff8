//! The plan: what the policy comes to, as a flat list of steps.
//!
//! A step is one system call, or an open-use-close triple, with its arguments already in kernel form, so that the
//! child has nothing to decide and nothing to allocate. A child that fails hands back the index of the step and the
//! error number; the words are here, with the parent.

mod bounds;
mod entry;
mod facts;
mod hint;
mod interpreter;
mod operand;
mod step;
mod template;
mod words;

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub(crate) use bounds::{Bounds, Wall};
pub(crate) use entry::{EntryStep, EntryUpper};
pub(crate) use facts::{PTMX, os};
pub(crate) use hint::hint;
pub(crate) use interpreter::interpreter;
pub(crate) use operand::{
    Content, Fault, Hook, HostPath, Inside, InsideKind, Lack, MapLines, Memory, Operand, Upper, attr,
};
pub(crate) use step::Step;
pub(crate) use template::{Lease, NetworkNamespace, Networks, Template};
pub(crate) use words::Escaped;

/// Every step that a spawn takes, in order. Printed, it reads like the trace of the processes that take them.
///
/// A plan is made by [`Command::plan`](crate::Command::plan), and tells what would be done: nothing is run. Each
/// line has the layer and the step; lines that end in a colon name the process:
///
/// - `host`: the calling thread;
/// - `holder`: a process that only holds the user namespace, where its maps have to be written from outside;
/// - `cell`: the process that makes or joins the namespaces, clones the others, and ends;
/// - `init`: the process that builds the root and becomes init, process 1, while `cell` goes on;
/// - `program`: the process that becomes the program.
///
/// The words are for people: they may change in any release.
#[derive(Debug, Default)]
pub struct Plan {
    pub(crate) steps: Vec<Step>,
    /// Id maps that somebody in the parent's user namespace has to write.
    pub(crate) holder: Option<Holder>,
    /// The process that makes or enters namespaces, and clones the others in them; none where the host can do that.
    pub(crate) cell: Option<Cell>,
    pub(crate) program: Launch,
    /// What is opened for the program; [`Step::Install`] has indices into it.
    pub(crate) given: Vec<Given>,
    /// The maps of user and group ids.
    pub(crate) ids: Maps,
    /// What the start goes on from, if that was made before.
    pub(crate) template: Option<Arc<Template>>,
    /// What bounds the whole sandbox.
    pub(crate) bounds: Bounds,
    /// What has to stay as long as the program: the layers of an image in their store.
    pub(crate) keeps: Option<Arc<dyn Any + Send + Sync>>,
}

/// Maps of user and group ids: inside, outside, count.
#[derive(Clone, Debug, Default)]
pub(crate) enum Maps {
    /// There are none: ids are the host's.
    #[default]
    None,
    Known([Vec<[u32; 3]>; 2]),
    /// Somebody else writes them: they are there with the program.
    OfOthers,
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

/// A process that clones others as its own siblings, and then ends: so they are the host's children.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    /// The step that clones it.
    pub(crate) clone: usize,
    /// What it does first.
    pub(crate) body: Range<usize>,
    /// A second such process, which the first clones in a PID namespace that it has joined: only from in there another can be
    /// made. Then it clones the others.
    pub(crate) below: Option<Launch>,
    /// The process that builds the root and becomes init; none without a PID namespace.
    pub(crate) init: Option<Launch>,
    /// What it does at the same time.
    pub(crate) meanwhile: Range<usize>,
}

/// How one process is started, as ranges of [`Plan::steps`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Launch {
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
    /// The plan of a process that takes these steps, the first of which clones it.
    pub(crate) fn of_one(steps: Vec<Step>) -> Self {
        let program = Launch { clone: 0, body: 1..steps.len() };
        Self { steps, program, ..Self::default() }
    }

    /// Adds a step, and returns its place.
    pub(crate) fn push(&mut self, step: Step) -> usize {
        self.steps.push(step);
        self.steps.len() - 1
    }

    /// Adds steps, and returns their places.
    pub(crate) fn extend(&mut self, steps: impl IntoIterator<Item = Step>) -> Range<usize> {
        let start = self.steps.len();
        self.steps.extend(steps);
        start..self.steps.len()
    }

    /// Gives the step that holds the program back its end of a socket.
    pub(crate) fn hold(&mut self, end: Arc<OwnedFd>) {
        for step in &mut self.steps {
            if let Step::Hold { socket } = step {
                *socket = Some(end.clone());
            }
        }
    }

    fn section(&self, index: usize) -> &'static str {
        let holder = |holder: &Holder| holder.body.contains(&index);
        let init = |cell: &Cell| cell.init.as_ref().is_some_and(|init| init.body.contains(&index));
        // What is cloned where there is a cell, is cloned by it.
        let cell = |cell: &Cell| index > cell.clone;
        if self.holder.as_ref().is_some_and(holder) {
            "holder"
        } else if self.program.body.contains(&index) {
            "program"
        } else if self.cell.as_ref().is_some_and(init) {
            "init"
        } else if self.cell.as_ref().is_some_and(cell) {
            "cell"
        } else {
            "host"
        }
    }
}
