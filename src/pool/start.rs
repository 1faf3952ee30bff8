//! A parked sandbox, and starting a program in it.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use crate::agent::{Agent, Calls, Executed, Order, PARKED, sent};
use crate::child::Child;
use crate::command::Command;
use crate::error::{Error, Layer, Result};
use crate::layer::exec::Program;
use crate::layer::fds::{self, Stdio};
use crate::layer::process;
use crate::plan::Step;
use crate::prepared::Prepared;
use crate::sandbox::Sandbox;
use crate::spawn::Wiring;
use crate::sys::Errno;

/// A sandbox with an agent in the place of its program.
#[derive(Debug)]
pub(crate) struct Parked(Agent);

impl Parked {
    pub(super) fn build(prepared: &Prepared) -> Result<Self> {
        let failed = |(_, Errno(errno))| Error::os(Layer::Process, "park a sandbox", errno);
        let mut agent = Agent::start_unfiltered(prepared.command(""))?;
        agent.move_socket(PARKED)?.map_err(failed)?;
        // What a link to /proc/self/exe leads to when the program is executed: an ordinary start refuses that too. The
        // agent has only its own file there, if it has a /proc.
        let mut calls = Calls::default();
        let own = calls.data(b"/proc/self/exe\0");
        calls.attempt(libc::SYS_fchmodat, [libc::AT_FDCWD.into(), own, 0.into()]);
        agent.run(&calls, &[])?.map_err(failed)?;
        Ok(Self(agent))
    }
}

/// What an image says of every command: where it starts, which is where a parked agent is, and its home directory.
#[cfg(feature = "image")]
pub(crate) fn defaults(sandbox: &Arc<Sandbox>) -> Result<(PathBuf, Option<OsString>)> {
    let none = (PathBuf::from("/"), None);
    if sandbox.image.is_none() {
        return Ok(none);
    }
    let settled = crate::image::settle(&Command::new(sandbox.clone(), "".as_ref()))?;
    let Some(command) = settled.map(|settled| settled.command) else { return Ok(none) };
    let home = command.env.get(OsStr::new("HOME")).filter(|_| command.home_of_image).cloned();
    Ok((command.directory.unwrap_or_else(|| PathBuf::from("/")), home))
}

#[cfg(not(feature = "image"))]
pub(crate) fn defaults(_: &Arc<Sandbox>) -> Result<(PathBuf, Option<OsString>)> {
    Ok((PathBuf::from("/"), None))
}

/// The environment of a command, which starts with that of its image.
pub(crate) fn environment(command: &Command, home: Option<&OsStr>) -> BTreeMap<OsString, OsString> {
    let mut env = command.env.clone();
    env.extend(home.filter(|_| command.home_of_image).map(|home| ("HOME".into(), home.to_owned())));
    env
}

/// Starts a command in a parked sandbox. None if there is none, or the program can't be executed by it: then an ordinary
/// start does it, or tells why not.
pub(crate) fn start(
    shared: &Arc<Shared>,
    command: &Command,
    streams: [&Stdio; 3],
    started: Instant,
) -> Result<Option<Child>> {
    let mut steps = Vec::new();
    let given = fds::lower(streams, &command.passed, &mut steps)?;
    // /dev/null it has in the place of each stream already.
    steps.retain(|step| !matches!(step, Step::InstallNull { .. }));
    let directory = command.directory.as_deref().filter(|directory| *directory != shared.directory());
    let directory = directory.map(|directory: &Path| process::directory(Some(directory))).transpose()?;
    let mut wiring = Wiring::open(&steps, &given)?;
    let sent = sent(&steps, &wiring);
    Program { program: &command.program, args: &command.args, env: environment(command, shared.home()) }
        .lower(&mut steps)?;
    let order = order(shared.filters(), directory, sent, steps.last())?;
    if !order.calls.fits() {
        return Ok(None);
    }
    let agent = executed(shared, &order, started);
    // Only now: what builds the next would compete with this start.
    shared.has_taken();
    Ok(agent.map(|agent| agent.into_child(wiring.streams(), started, shared.clone())))
}

/// An agent that has become the program, if there is one that could.
fn executed(shared: &Shared, order: &Order<'_>, started: Instant) -> Option<Agent> {
    while let Some(Parked(mut agent)) = shared.take() {
        match agent.begin(started).and_then(|()| agent.carry_out(order)) {
            Ok(Executed::Yes) => return Some(agent),
            // Ended from outside while it waited.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => {}
            Ok(Executed::No(_)) | Err(_) => return None,
        }
    }
    None
}

fn order<'a>(
    filters: &[Step],
    directory: Option<CString>,
    sent: Vec<(BorrowedFd<'a>, RawFd)>,
    exec: Option<&Step>,
) -> Result<Order<'a>> {
    let mut order = Order::new(sent, filters)?;
    if let Some(directory) = directory {
        // Before anything is moved: now the number of what is opened is known.
        let opened = order.next();
        order.calls.change_directory(&directory, opened);
    }
    order.put_in_place();
    filters.iter().for_each(|step| order.calls.add_last(step));
    if let Some(Step::Exec { candidates, argv, envp, .. }) = exec {
        order.calls.execute_one(candidates, argv, envp);
    }
    Ok(order)
}
