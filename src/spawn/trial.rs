//! A short-lived process that takes a few steps, to see whether this host lets it.

use super::{BlockedSignals, Process, arena, children, diagnosis, own_devices, writable_mounts};
use crate::error::Result;
use crate::plan::{self, Launch, Plan, Step};
use crate::postfork::{Bounds, Context};
use crate::sys::Errno;

/// Takes `steps` in a process of their own, the first of which clones it, and says which one failed and why.
///
/// Nothing is left of it: namespaces and mounts end with the process, and the process has ended on return.
pub(crate) fn attempt(steps: Vec<Step>) -> Result<()> {
    let program = Launch { clone: 0, body: 1..steps.len() };
    let plan = Plan {
        steps,
        holder: None,
        cell: None,
        program,
        given: Vec::new(),
        ids: None,
        bounds: plan::Bounds::default(),
        keeps: None,
    };
    let (own, writable) = (own_devices(&plan), writable_mounts(&plan));
    let context = Context {
        lifeline: -1,
        lifeline_host: -1,
        init: &[],
        holder: -1,
        given: &[],
        own: &own,
        writable: &writable,
        handover: -1,
        bounds: Bounds::NONE,
    };
    let arena = arena::take(&plan)?;
    let report = &arena.program;
    let blocked = BlockedSignals::new()?;
    let cloned = children(&plan, &context, &arena).clone_single(&plan.program, report);
    drop(blocked);
    cloned.map_err(|Errno(errno)| diagnosis::failed(&plan, 0, errno))?;
    let ended = report.process.take().and_then(|process| Process::from(process).wait(0).ok().flatten());
    match (report.fault(), ended) {
        (Some(fault), _) => Err(diagnosis::step(&plan, report, &arena, fault)),
        (None, Some(ended)) if ended.code != libc::CLD_EXITED => {
            Err(diagnosis::died(&plan, report.step(), Some(ended)))
        }
        (None, _) => Ok(()),
    }
}
