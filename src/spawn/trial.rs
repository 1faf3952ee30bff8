//! A short-lived process that takes a few steps, to see whether this host lets it.

use super::{BlockedSignals, Process, arena, children, diagnosis, own_devices, words};
use crate::error::Result;
use crate::plan::{Plan, Step};
use crate::postfork::Context;
use crate::sys::Errno;

/// Takes `steps` in a process of their own, the first of which clones it, and says which one failed and why.
///
/// Nothing is left of it: namespaces and mounts end with the process, and the process has ended on return.
pub(crate) fn attempt(steps: Vec<Step>) -> Result<()> {
    let plan = Plan::of_one(steps);
    let own = own_devices(&plan);
    let words = words(&plan, arena::sharing(&plan))?;
    carry_out(&plan, &Context { own: &own, writable: &words, ..Context::default() })
}

/// Carries out the plan of one process, and waits for its end.
pub(super) fn carry_out(plan: &Plan, context: &Context<'_>) -> Result<()> {
    let arena = arena::take(plan)?;
    let report = &arena.program;
    let blocked = BlockedSignals::new()?;
    let cloned = children(plan, context, &arena).clone_single(&plan.program, report);
    drop(blocked);
    cloned.map_err(|Errno(errno)| diagnosis::failed(plan, 0, errno))?;
    let ended = report.process.take().and_then(|process| Process::from(process).wait(0).ok().flatten());
    match (report.fault(), ended) {
        (Some(fault), _) => Err(diagnosis::step(plan, report, &arena, fault)),
        (None, Some(ended)) if ended.code != libc::CLD_EXITED => Err(diagnosis::died(plan, report.step(), Some(ended))),
        (None, _) => Ok(()),
    }
}
