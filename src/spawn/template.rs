//! Making what the starts from a template have in common.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use super::{above_streams, arena, lifeline, own_devices, trial, words};
use crate::error::{Error, Layer, Result};
use crate::plan::{Lease, Memory, NetworkNamespace, Plan, Step, Template};
use crate::postfork::{Context, Writable};
use crate::sys::{self, Errno};

/// What the process that makes a template has handed over.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) user: OwnedFd,
    pub(crate) mount: OwnedFd,
    pub(crate) proc: OwnedFd,
    pub(crate) kept: OwnedFd,
    /// The files that are mounted where the program may write, in the order of their steps.
    pub(crate) writable: Vec<(u64, u64)>,
}

/// Takes `steps` in a process of their own, the first of which clones it, and keeps the namespaces that it hands over.
///
/// No path of the root may lead over a link: it is decided by paths what each start has for itself.
pub(crate) fn make(steps: Vec<Step>) -> Result<Made> {
    let plan = Plan::of_one(steps);
    let (own, words) = (own_devices(&plan), words(&plan, arena::sharing(&plan))?);
    let (inner, outer) = lifeline()?;
    let proc = open_proc()?;
    let context = Context {
        own: &own,
        writable: &words,
        handover: inner.as_raw_fd(),
        proc: proc.as_raw_fd(),
        resolve: libc::RESOLVE_NO_SYMLINKS,
        ..Context::default()
    };
    trial::carry_out(&plan, &context)?;
    drop(inner);
    let (user, mount, kept) = (receive(&outer)?, receive(&outer)?, receive(&outer)?);
    let writable = Writable::all(&words).filter_map(Writable::file).collect();
    Ok(Made { user, mount, kept, proc, writable })
}

/// The network namespace that a start has to join, if it does not make its own.
pub(super) fn network(plan: &Plan) -> Result<Option<Lease>> {
    let joins = plan.steps.iter().any(|step| matches!(step, Step::EnterTemplate { network: true }));
    let Some(template) = plan.template.as_ref().filter(|_| joins) else { return Ok(None) };
    match template.free_network() {
        Some(lease) => Ok(Some(lease)),
        None => Ok(Some(template.lease(make_network(template)?))),
    }
}

/// A network namespace of the template's. The process that makes it ends at once.
fn make_network(template: &Arc<Template>) -> Result<NetworkNamespace> {
    let clone = Step::Clone { process: "network", namespaces: 0, memory: Memory::Shared };
    let unshare = Step::Unshare { namespaces: libc::CLONE_NEWNET as u64 };
    let plan = Plan::of_one(vec![clone, Step::EnterOwner, unshare, Step::HandOverNetwork]);
    let (inner, outer) = lifeline()?;
    let (template, proc) = (template.numbers(None), template.proc.as_raw_fd());
    trial::carry_out(&plan, &Context { handover: inner.as_raw_fd(), template, proc, ..Context::default() })?;
    drop(inner);
    let namespace = receive(&outer)?;
    let files = std::iter::from_fn(|| sys::receive_fd(outer.as_fd()).ok().map(OwnedFd::from)).map(above_streams);
    Ok(NetworkNamespace::new(namespace, files.collect::<Result<_>>()?))
}

fn receive(socket: &OwnedFd) -> Result<OwnedFd> {
    let received = sys::receive_fd(socket.as_fd()).map_err(|Errno(errno)| failed(errno))?;
    above_streams(received.into())
}

fn failed(errno: i32) -> Error {
    Error::os(Layer::Namespaces, "receive namespaces", errno)
}

fn open_proc() -> Result<OwnedFd> {
    let path = "/proc";
    let opened = File::options().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(path);
    let failed = |error: std::io::Error| {
        Error::os(Layer::Ids, "open /proc", error.raw_os_error().unwrap_or(libc::EIO)).with_path(path)
    };
    above_streams(opened.map_err(failed)?.into())
}
