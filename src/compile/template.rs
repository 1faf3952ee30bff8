//! Templates: which part of a root all starts can have in common, and how a start goes on from there.
//!
//! A step is each start's own if it mounts something that its program alone may see, or lies below such a mount, or
//! covers one. What such a step takes from the host, a start has no way to: the template keeps it.

use std::ffi::{CStr, CString};
use std::path::Path;
use std::sync::Arc;

use super::Resolved;
use super::arrange::{clone_in_cell, exec_init, unshare};
use crate::command::Command;
use crate::error::Result;
#[cfg(feature = "image")]
use crate::image::{Settled, settle};
use crate::layer::fds::Stdio;
use crate::layer::ids::{self, Writer};
use crate::layer::namespaces::{self, Namespaces};
use crate::layer::network::Network;
use crate::plan::{Cell, Inside, Launch, Memory, Networks, Plan, Step, Template, Upper, attr, os};
use crate::report::Report;
use crate::sandbox::Sandbox;
use crate::spawn::make_template;

/// Makes the template of a policy. None if its starts can have nothing in common.
pub(crate) fn template(command: &Command) -> Result<Option<Template>> {
    #[cfg(feature = "image")]
    if let Some(Settled { command, stored }) = settle(command)? {
        let template = lower(&command.sandbox)?;
        return Ok(template.map(|template| Template { keeps: stored.map(|stored| stored as _), ..template }));
    }
    lower(&command.sandbox)
}

fn lower(sandbox: &Sandbox) -> Result<Option<Template>> {
    let policy = Resolved::new(sandbox)?;
    if !policy.can_share() {
        return Ok(None);
    }
    let mut content = Vec::new();
    policy.lower_root(&mut content)?;
    policy.forbid_user_namespaces(0, &mut content);
    let Some(Halves { shared, mut private, shares }) = split(&content) else { return Ok(None) };
    let mut steps = vec![policy.clone_template()];
    ids::write_identity(policy.caller, &mut steps);
    steps.extend(shared);
    let made = match make_template(steps) {
        // A path inside leads over a link: only when all is mounted can be told what is whose.
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(None),
        made => made?,
    };
    private.splice(0..0, [Step::Umask { mask: 0o022 }, Step::TakeUp]);
    private.push(Step::CoverProc);
    let mut files = made.writable.into_iter();
    Ok(Some(Template {
        user: made.user,
        mount: made.mount,
        kept: made.kept,
        proc: made.proc,
        networks: policy.reuses_networks().then(Networks::new),
        content,
        private,
        writable: shares.into_iter().map(|shared| if shared { files.next() } else { None }).collect(),
        caller: policy.ids_of_caller(),
        keeps: None,
    }))
}

impl Resolved<'_> {
    pub(super) fn ids_of_caller(&self) -> (u32, u32) {
        (self.caller.uid, self.caller.gid)
    }

    /// Whether the user namespace of a start can lie in another, and its root be one that is there already.
    fn can_share(&self) -> bool {
        let needed = Namespaces::USER | Namespaces::MOUNT | Namespaces::PID;
        let own = self.ids.uid_writer == Writer::Own && self.ids.gid_writer == Writer::Own;
        // What only a whole start can do: nested user namespaces, a program that is process 1 or inherits what others do not.
        let Sandbox { nests, inherit, ends_with_thread, .. } = self.sandbox;
        let plain = self.has_init() && !nests && !ends_with_thread && inherit.is_empty();
        self.own.contains(needed) && own && !self.ids.changes && plain
    }

    /// Whether an empty network namespace does, in which the program has no capability.
    fn reuses_networks(&self) -> bool {
        self.has(Namespaces::NET) && self.network == Network::None && self.sandbox.capabilities.is_empty()
    }

    fn clone_template(&self) -> Step {
        let namespaces = Namespaces::USER | Namespaces::MOUNT | Namespaces::PID;
        Step::Clone { process: "template", namespaces: namespaces.bits().into(), memory: Memory::Shared }
    }

    /// A start that goes on from a template.
    pub(super) fn lower_from(
        &self,
        template: &Arc<Template>,
        command: &Command,
        streams: [&Stdio; 3],
    ) -> Result<(Plan, Report)> {
        let mut program = Vec::new();
        let (given, report) = self.lower_program(command, streams, &template.content, &mut program)?;
        let mut plan = Plan { given, template: Some(template.clone()), ..Plan::default() };
        plan.ids = self.maps();
        plan.keeps = template.keeps.clone();
        self.lower_bounds(command, &mut plan);
        // Not what waits in a pool: each namespace of the stock takes descriptors of the host's, and nobody waits for that start.
        let joins = template.networks().is_some() && command.agent.is_none();
        let makes = self.has(Namespaces::NET) && !joins;
        let clone = plan.push(self.clone("cell", Namespaces::empty()));
        let mut body = Vec::new();
        // The groups of root's while it is root: setgroups is denied inside.
        if self.caller.in_groups && self.caller.sets_groups() {
            body.push(Step::DropGroups);
        }
        body.push(Step::EnterTemplate { network: joins });
        body.extend(unshare(self.own - Namespaces::NET - Namespaces::TIME - self.made_by_program()));
        namespaces::lower_names(self.own, self.sandbox.hostname.as_deref(), &mut body)?;
        let body = plan.extend(body);
        let clone_init = plan.push(Step::Clone { process: "init", namespaces: 0, memory: Memory::Shared });
        let mut init = Vec::new();
        self.ids.write_nested(&mut init);
        let mut private = template.private.clone();
        let mut start = self.lower_first();
        if makes {
            // As long as the namespace takes, init builds the root.
            init.append(&mut private);
            init.push(Step::JoinNetwork);
            start = self.lower_before(makes);
        } else {
            init.push(Step::Ready);
            // What it mounts needs its ids. It builds its own part of the root, while init is executed.
            start.push(Step::AwaitReady);
            // Till then init has the host's memory, and the program sees it as process 1.
            private.push(Step::AwaitInit);
        }
        // Not by the cell: the program waits for that one.
        init.push(Step::NotePidNamespace);
        init.push(exec_init(0o111, self.kept_for_init(), vec![c"belljar-init".into()]));
        start.append(&mut private);
        start.append(&mut program);
        let init = Launch { clone: clone_init, body: plan.extend(init) };
        let meanwhile = plan.extend(self.lower_meanwhile(makes));
        plan.cell = Some(Cell { clone, body, below: None, init: Some(init), meanwhile });
        let clone = plan.push(clone_in_cell(self.own, Namespaces::empty()));
        plan.program = Launch { clone, body: plan.extend(start) };
        Ok((plan, report))
    }
}

/// The steps of a root, as the template takes them, and each start.
#[derive(Default)]
struct Halves {
    shared: Vec<Step>,
    private: Vec<Step>,
    /// Of the mounts that can be written, in their order: whether it is the template's.
    shares: Vec<bool>,
}

/// Splits the steps of a root. None if that can't be done without changing what they come to.
fn split(content: &[Step]) -> Option<Halves> {
    // The kernel lets nobody mount the starts' own where the template's is not.
    content.iter().find(|step| matches!(step, Step::Proc { .. }))?;
    let mut halves = Halves::default();
    let mut staged = Vec::new();
    let mut places: Vec<&CStr> = Vec::new();
    for step in content {
        let own = is_own(step, content)?;
        // A seal is for one mount, whatever lies below.
        let touches = if matches!(step, Step::Seal { .. }) { covers } else { touch };
        let private = place(step).filter(|at| own || places.iter().any(|place| touches(place, &at.path)));
        if step.mounts_writable() {
            halves.shares.push(private.is_none());
        }
        match (private, step) {
            (Some(at), _) => {
                halves.leave_place(step, at, &places);
                places.extend(mounts(step).then_some(at.path.as_c_str()));
                halves.private.push(keep(step, &mut staged)?);
            }
            (None, Step::NoUserNamespaces) => halves.private.push(step.clone()),
            (None, _) => halves.shared.push(step.clone()),
        }
    }
    let workspace = halves.shared.iter().position(|step| matches!(step, Step::Workspace))?;
    halves.shared.splice(workspace + 1..workspace + 1, staged);
    // In the place of what an ordinary start does last.
    halves.shared.retain(|step| !matches!(step, Step::Pivot));
    halves.shared.extend([Step::Keep, Step::PivotOver, Step::HandOver]);
    Some(halves)
}

impl Halves {
    /// Has the template make the place for what each start mounts, unless a mount of the start's holds it.
    fn leave_place(&mut self, step: &Step, at: &Inside, places: &[&CStr]) {
        let makes = mounts(step) && !matches!(step, Step::Mask { .. });
        if makes && !places.iter().any(|place| covers(place, &at.path)) {
            self.shared.push(Step::Leave { step: Box::new(step.clone()), at: at.clone() });
        }
    }
}

/// Whether something lies over the place of a step afterwards.
fn mounts(step: &Step) -> bool {
    !matches!(step, Step::Dir { .. } | Step::Protect { .. } | Step::Seal { .. })
}

/// Whether a step mounts what each start has for itself. None if it is one that a start can't take.
fn is_own(step: &Step, content: &[Step]) -> Option<bool> {
    match step {
        Step::Proc { .. } | Step::Devpts { .. } => Some(true),
        // One that is read-only in the end holds nothing of a program's.
        Step::Tmpfs { at, .. } => Some(!content.iter().any(|other| seals(other, at))),
        Step::Copy { .. } | Step::RootCopy { .. } | Step::RootMemory | Step::Entry(_) => None,
        Step::RootOverlay { upper: Upper::Stage | Upper::Tmpfs { .. } | Upper::Kept { .. }, .. } => None,
        _ => Some(false),
    }
}

fn seals(step: &Step, at: &Inside) -> bool {
    matches!(step, Step::Seal { at: sealed, .. } if sealed.path == at.path)
}

/// Where a step of the content puts something.
fn place(step: &Step) -> Option<&Inside> {
    match step {
        Step::Bind { at, .. } | Step::Tmpfs { at, .. } | Step::Proc { at } | Step::Devpts { at } => Some(at),
        Step::Dir { at } | Step::File { at, .. } | Step::Symlink { at, .. } => Some(at),
        Step::Mask { at } | Step::Protect { at } => Some(at),
        // The root itself has no components: what is mounted in it is not sealed with it.
        Step::Seal { at, .. } if !at.components.is_empty() => Some(at),
        _ => None,
    }
}

/// A step as a start takes it, and what the template has to keep for that.
fn keep(step: &Step, staged: &mut Vec<Step>) -> Option<Step> {
    let name = CString::new(staged.len().to_string()).ok()?;
    match step {
        Step::Bind { source, at, attributes } => {
            let (source, at, attributes) = (source.clone(), at.clone(), *attributes);
            staged.push(Step::Stage { source: source.clone(), name: name.clone(), at: at.clone(), attributes });
            Some(Step::Attach { source: Some(source), name, at, attributes })
        }
        Step::File { at, data, .. } => {
            staged.push(Step::StageFile { name: name.clone(), at: at.clone(), data: data.clone() });
            let attributes = attr::READ_ONLY | attr::NO_SUID | attr::NO_DEV;
            Some(Step::Attach { source: None, name, at: at.clone(), attributes })
        }
        // Later paths could lead over it.
        Step::Symlink { .. } => None,
        _ => Some(step.clone()),
    }
}

/// Whether one of two places is the other, or lies below.
fn touch(a: &CStr, b: &CStr) -> bool {
    covers(a, b) || covers(b, a)
}

fn covers(dir: &CStr, path: &CStr) -> bool {
    Path::starts_with(os(path), os(dir))
}
