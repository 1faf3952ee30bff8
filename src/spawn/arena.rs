//! The memory of the children: made once for each thread that starts sandboxes.

use std::cell::Cell;

use crate::error::{Error, Layer, Result};
use crate::plan::{Memory, Plan, Step};
use crate::postfork::Reports;
use crate::sys::{Arena, Errno, Sharing};

thread_local! {
    /// What the last start has left, some 30 KiB of memory: to map it and touch it anew takes longer than any step but the
    /// dearest, and in a large host the longer. It is unmapped when the thread ends.
    static SPARE: Cell<Option<Arena<Reports>>> = const { Cell::new(None) };
}

/// Stacks and reports for the children of one start. Children in copied memory can only be heard through shared memory.
pub(super) fn take(plan: &Plan) -> Result<Arena<Reports>> {
    if sharing(plan) == Sharing::Shared {
        return new(Sharing::Shared);
    }
    // No spare either in a thread that is about to end.
    match SPARE.try_with(Cell::take).ok().flatten() {
        Some(mut spare) => {
            spare.reset();
            Ok(spare)
        }
        None => new(Sharing::Private),
    }
}

/// How the children of a start are heard.
pub(super) fn sharing(plan: &Plan) -> Sharing {
    let copied = |step: &Step| matches!(step, Step::Clone { memory, .. } if *memory != Memory::Shared);
    if plan.steps.iter().any(copied) { Sharing::Shared } else { Sharing::Private }
}

/// Keeps the memory for the next start in this thread. All children have left it.
pub(super) fn give_back(arena: Arena<Reports>) {
    if arena.sharing() == Sharing::Private {
        let _ = SPARE.try_with(|spare| spare.set(Some(arena)));
    }
}

fn new(sharing: Sharing) -> Result<Arena<Reports>> {
    Arena::new(sharing).map_err(|Errno(errno)| Error::os(Layer::Process, "mmap", errno))
}
