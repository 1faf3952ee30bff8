//! The order.
//!
//! Every layer lowers its part of the policy to steps; this is where they are put in order, one line a layer, each
//! with its reason. All validation, allocation and looking at the host happens here, before any process exists.

mod arrange;
mod bounds;
mod handle;
mod join;
mod report;
mod template;

use std::ffi::CString;

use crate::command::Command;
#[cfg(feature = "image")]
use crate::distroless;
use crate::error::{Error, ErrorKind, Layer, Result};
#[cfg(feature = "image")]
use crate::image::{Settled, settle};
use crate::layer::exec::Program;
use crate::layer::fds::Stdio;
use crate::layer::ids::{Caller, Lowered, Writer};
use crate::layer::inherit::Inherit;
use crate::layer::limits::{Cgroup, Limits};
use crate::layer::mount::{Mount, Root, Setting, Source};
use crate::layer::namespaces::{Joined, Namespaces};
use crate::layer::network::Network;
use crate::layer::seccomp::Seccomp;
use crate::layer::{capabilities, exec, fds, inherit, landlock, limits, mount, namespaces, network, process, seccomp};
use crate::plan::{Given, Inside, InsideKind, Plan, Step, attr};
use crate::report::Report;
use crate::sandbox::Sandbox;
use join::lower_ids;
pub(crate) use template::template;

/// Lowers a command and its policy to a plan, and tells which layers are in force once it is carried out.
pub(crate) fn compile(command: &Command, streams: [&Stdio; 3]) -> Result<(Plan, Report)> {
    #[cfg(feature = "image")]
    if let Some(Settled { command, stored }) = settle(command)? {
        let (mut plan, report) = lower(&command, streams)?;
        plan.keeps = stored.map(|stored| stored as _);
        return Ok((plan, report));
    }
    lower(command, streams)
}

fn lower(command: &Command, streams: [&Stdio; 3]) -> Result<(Plan, Report)> {
    let policy = Resolved::new(&command.sandbox)?;
    if let Some(template) = command.template.as_ref().filter(|template| template.caller == policy.ids_of_caller()) {
        return policy.lower_from(template, command, streams);
    }
    let mut inside = Vec::new();
    policy.lower_cell(&mut inside)?;
    let mut program = Vec::new();
    let (given, report) = policy.lower_program(command, streams, &inside, &mut program)?;
    let mut plan = Plan { given, ..Plan::default() };
    plan.ids = policy.maps();
    policy.lower_bounds(command, &mut plan);
    policy.lower_holder(&mut plan);
    match policy.has_init() {
        true => policy.arrange_cell(inside, program, &mut plan),
        false => policy.arrange_single(inside, program, &mut plan),
    }
    Ok((plan, report))
}

/// A policy with its defaults filled in, for the caller at hand.
struct Resolved<'a> {
    sandbox: &'a Sandbox,
    /// The namespaces of the sandbox's own.
    own: Namespaces,
    /// Those that somebody else has made.
    joined: Joined,
    network: Network,
    caller: Caller,
    ids: Lowered,
    cgroup: Option<Cgroup>,
}

impl<'a> Resolved<'a> {
    fn new(sandbox: &'a Sandbox) -> Result<Self> {
        limits::check(&sandbox.limits)?;
        let caller = Caller::current();
        let own = own_namespaces(sandbox);
        let joined = sandbox.join.lower(own, caller.privileged())?;
        namespaces::check(own, caller.privileged() || joined.user.is_some())?;
        let network = sandbox.network.unwrap_or(match own.contains(Namespaces::NET) {
            true => Network::None,
            false => Network::Host,
        });
        let ids = lower_ids(sandbox, own, &joined, caller)?;
        let cgroup = Cgroup::lower(&sandbox.limits, sandbox.cgroup.as_deref())?;
        Ok(Self { sandbox, own, joined, network, caller, ids, cgroup })
    }

    fn has(&self, namespace: Namespaces) -> bool {
        self.own.contains(namespace)
    }

    /// Whether ids and capabilities are those of a user namespace, its own or a joined one.
    fn in_user_namespace(&self) -> bool {
        self.has(Namespaces::USER) || self.joined.user.is_some()
    }

    /// Whether process 1 is an init.
    fn has_init(&self) -> bool {
        self.has(Namespaces::PID) && !self.sandbox.program_is_init
    }

    fn inherits(&self, what: Inherit) -> bool {
        self.sandbox.inherit.contains(what)
    }

    /// Whether the processes have capabilities over their namespaces, to be used and then dropped.
    fn privileged(&self) -> bool {
        self.in_user_namespace() || self.caller.privileged()
    }

    /// Whether the maps are written by somebody outside, while a process holds the user namespace.
    ///
    /// Without a PID namespace a time namespace takes that too: to make one, the cell has to be in the user namespace
    /// already. And so do groups of root's, which have to be left outside.
    fn holder(&self) -> bool {
        let outside = self.ids.uid_writer != Writer::Own || self.ids.gid_writer != Writer::Own;
        let time = self.has(Namespaces::TIME) && !self.has(Namespaces::PID);
        self.has(Namespaces::USER) && (outside || time || (self.caller.in_groups && self.caller.sets_groups()))
    }

    /// What is set up in new namespaces.
    fn lower_cell(&self, steps: &mut Vec<Step>) -> Result<()> {
        // Maps first: until then every id is the overflow id, and nothing can be made.
        if self.has(Namespaces::USER) && !self.holder() {
            self.ids.write_own(steps);
        }
        // The builder of the root needs ids that mean something inside.
        if self.ids.caller_unmapped {
            if self.has_init() {
                // A change of ids makes the memory not dumpable that init and the program share, and what the program has to
                // write to in the host's /proc is root's then.
                steps.push(Step::AwaitReady);
            }
            capabilities::lower_first(self.sandbox.capabilities, self.privileged(), steps);
            self.ids.change(steps);
        }
        // Names are independent of all else; they need the capabilities that are left at the start.
        namespaces::lower_names(self.own, self.sandbox.hostname.as_deref(), steps)?;
        // The root last: /proc/self, which the maps are written through, goes with the host's mounts.
        let before_root = steps.len();
        self.lower_root(steps)?;
        self.forbid_user_namespaces(before_root, steps);
        Ok(())
    }

    /// No user namespaces below the sandbox's own, unless the policy allows by name what makes them: a second layer next
    /// to the filter, and so not a matter of whether there is one.
    fn forbid_user_namespaces(&self, before_root: usize, steps: &mut Vec<Step>) {
        let allowed = self.sandbox.nests || self.sandbox.seccomp.as_ref().is_some_and(Seccomp::allows_namespaces);
        if self.has(Namespaces::USER) && !allowed {
            // In a /proc of the sandbox's own, before a part of it is made read-only. The kernel keeps an entry for
            // every user namespace in the /proc that was used: with many sandboxes, the host's would become slow.
            let proc = steps.iter().position(|step| matches!(step, Step::Proc { .. }));
            steps.insert(proc.map_or(before_root, |proc| proc + 1), Step::NoUserNamespaces);
        }
    }

    fn lower_root(&self, steps: &mut Vec<Step>) -> Result<()> {
        let Sandbox { rootfs, mounts, .. } = self.sandbox;
        if !self.has(Namespaces::MOUNT) {
            return match rootfs.is_some() || !mounts.is_empty() {
                false => Ok(()),
                true => Err(Error::invalid(Layer::Mount, "root", "a root or a mount needs Namespaces::MOUNT")),
            };
        }
        let empty = Root::from(Source::Empty);
        let root = rootfs.as_ref().map_or(&empty, |root| &root.root);
        // What makes a root for one program comes before what the caller puts there.
        let mut made = self.program_mounts(&root.source)?;
        let mounts = match made.is_empty() {
            true => mounts,
            false => {
                made.extend_from_slice(mounts);
                &made
            }
        };
        let setting = Setting {
            root,
            mounts,
            pid_namespace: self.has(Namespaces::PID) || self.joined.pid.is_some(),
            private: !self.has(Namespaces::USER),
            host_network: self.network == Network::Host,
            ids: (self.ids.uid, self.ids.gid),
            seals_proc: self.seals_proc(),
            tmp_size: self.sandbox.limits.tmp_size,
            privileged: self.caller.privileged(),
        };
        mount::lower(&setting, steps)
    }

    /// Whether /proc is read-only. A program of root's owns the kernel's files there: it could change their modes, which
    /// every /proc has in common, the host's too. To write the maps of a user namespace takes one that is writable.
    ///
    /// Where Landlock is to keep every program from writing there, the mount does it too: that is one step, and to protect
    /// the kernel's files one by one takes many.
    fn seals_proc(&self) -> bool {
        let Sandbox { seccomp, landlock, nests, .. } = self.sandbox;
        let maps = *nests || seccomp.as_ref().is_some_and(Seccomp::allows_namespaces);
        let writes = landlock.lets_write_below("/proc");
        !maps && !writes && (self.caller.privileged() || landlock.lets_write_nothing_at("/proc"))
    }

    #[cfg(feature = "image")]
    fn program_mounts(&self, root: &Source) -> Result<Vec<Mount>> {
        match root {
            Source::Distroless(distroless) => distroless::mounts(distroless, self.network == Network::Host),
            _ => Ok(Vec::new()),
        }
    }

    #[cfg(not(feature = "image"))]
    fn program_mounts(&self, _: &Source) -> Result<Vec<Mount>> {
        Ok(Vec::new())
    }

    /// What makes a process in the cell the program.
    fn lower_program(
        &self,
        command: &Command,
        streams: [&Stdio; 3],
        inside: &[Step],
        steps: &mut Vec<Step>,
    ) -> Result<(Vec<Given>, Report)> {
        let given = self.lower_surroundings(command, streams, steps)?;
        self.lower_state(command, steps)?;
        // Ids before capabilities, which a change needs; securebits before ids, so that a change does not take them.
        capabilities::lower_first(self.sandbox.capabilities, self.privileged(), steps);
        self.lower_user(steps);
        let directories = directories(command)?;
        let executed = Program {
            program: &command.program,
            args: &command.args,
            env: command.env.clone(),
            arg0: command.arg0.as_deref(),
            pwd: if command.names_directory { directories.clone() } else { Vec::new() },
        };
        // Looks at files while the capabilities last, which may be needed for that: first at what is executed.
        if self.has(Namespaces::MOUNT) && command.agent.is_none() {
            directories.iter().try_for_each(|directory| executed.lower_look(directory, steps))?;
        }
        let landlock = self.lower_landlock(inside, steps)?;
        steps.extend(landlock.rules);
        capabilities::lower(self.sandbox.capabilities, self.privileged(), steps)?;
        let restricted = landlock.restrict.is_some();
        // In force after no_new_privs, which allows it, and after the last mount, since it forbids mounting.
        steps.extend(landlock.restrict);
        // The directory without capabilities: the program must be able to go there.
        process::lower_directories(directories, steps);
        if self.sandbox.ends_with_thread {
            process::lower_end_with_thread(steps);
        }
        // Signals: from here on one may end the child.
        match self.inherits(Inherit::IGNORED_SIGNALS) {
            true => process::lower_caught_signals(steps),
            false => process::lower_signals(steps),
        }
        // The filter last: it need not allow what sets a sandbox up, but for execve.
        let mut filter = Vec::new();
        let seccomp = self.lower_seccomp(&mut filter)?;
        if !command.filters_itself || self.sandbox.seccomp.is_none() {
            steps.append(&mut filter);
        }
        match &command.agent {
            Some(image) => exec::lower_agent(image.clone(), steps),
            None => executed.lower(steps)?,
        }
        let report = self.report((restricted, landlock.lacking), seccomp);
        Ok((given, report))
    }

    /// What surrounds the program: an interface, a session, a terminal, descriptors, and what it has from who clones it.
    fn lower_surroundings(&self, command: &Command, streams: [&Stdio; 3], steps: &mut Vec<Step>) -> Result<Vec<Given>> {
        // As soon as there is all that a host may have to do with.
        if command.hook.is_some() {
            process::lower_hold(steps);
        }
        // An interface needs the capabilities that are left at the start.
        network::lower(self.network, self.has(Namespaces::NET), steps)?;
        // A session first: it takes the controlling terminal away.
        if !self.has_init() && !self.inherits(Inherit::SESSION) {
            process::lower_session(steps);
        }
        // A terminal as soon as there is a session to control.
        if let Some(size) = command.pty {
            self.lower_terminal(size, steps)?;
        }
        // After what takes capabilities over the other namespaces, and before those of this one are dropped.
        self.lower_inner(steps);
        // Descriptors before the limits: a low limit of open files must not be in the way.
        let given = fds::lower(streams, &command.passed, steps)?;
        // What is inherited, before the capabilities that may better it are gone.
        if !self.has_init() {
            self.lower_inherited(steps);
        }
        if !self.has_init() && !self.joined.any() && !self.inherits(Inherit::OOM_SCORE) {
            process::lower_oom_score(steps);
        }
        Ok(given)
    }

    /// What a process has from the one that clones it: with a cell, that has the time to set it.
    fn lower_inherited(&self, steps: &mut Vec<Step>) {
        if !self.inherits(Inherit::SCHEDULING) {
            process::lower_priorities(steps);
        }
        capabilities::lower_bounding_set(self.sandbox.capabilities, self.privileged(), steps);
    }

    /// Who the program is.
    fn lower_user(&self, steps: &mut Vec<Step>) {
        // Who has gone on to another user namespace is that already.
        if self.joined.inner.is_none() {
            self.lower_ids(steps);
        }
        // As the program's user, whose key it is.
        if !self.refuses_keyrings() {
            process::lower_keyring(steps);
        }
    }

    /// Its groups and ids, where it is when they are changed.
    fn lower_ids(&self, steps: &mut Vec<Step>) {
        // The caller's groups: inside only newgidmap(1) leaves that allowed, and without it only root can.
        if self.ids.gid_writer == Writer::Helper || (!self.in_user_namespace() && self.caller.sets_groups()) {
            steps.push(Step::DropGroups);
        }
        self.ids.change(steps);
    }

    /// Limits and mask: the host's, or defined ones. A single process has had another mask while it built the root.
    fn lower_state(&self, command: &Command, steps: &mut Vec<Step>) -> Result<()> {
        match (self.inherits(Inherit::UMASK), self.has_init()) {
            (false, _) => process::lower_state(0o022, steps),
            (true, true) => {}
            (true, false) => process::lower_state(inherit::umask(), steps),
        }
        match (self.inherits(Inherit::LIMITS), self.sandbox.limits == Limits::default()) {
            (false, _) => self.lower_limits(command.agent.is_some(), steps),
            (true, true) => Ok(()),
            (true, false) => Err(Error::invalid(Layer::Limits, "inherit", "limits are both set and inherited")),
        }
    }

    /// The rules that say in Landlock's terms what the steps inside have mounted.
    fn lower_landlock(&self, inside: &[Step], program: &[Step]) -> Result<landlock::Lowered> {
        let devices =
            inside.iter().any(|step| matches!(step, Step::Devpts { at } if at.path.as_c_str() == c"/dev/pts"));
        // The tmpfs of our own devices is read-only in the end.
        let is_dev = |at: &Inside| at.path.as_c_str() == c"/dev";
        let seals = inside.iter().any(|step| matches!(step, Step::Seal { at, .. } if is_dev(at)));
        let sealed = |at: &Inside| devices && seals && is_dev(at);
        let root = || landlock::Place { path: c"/".into(), dir: true, write: true, mount: None };
        let mut writable = 0..;
        let place = |step: &Step| {
            let mount = if step.mounts_writable() { writable.next() } else { None };
            let (at, write) = match step {
                step if mount::is_writable_root(step) => return Some(root()),
                Step::Bind { at, attributes, .. } => (at, attributes & attr::READ_ONLY == 0),
                Step::Tmpfs { at, .. } => (at, !sealed(at)),
                Step::Entry(entry) => entry.mounts()?,
                Step::Proc { at } | Step::Devpts { at } | Step::Mask { at } | Step::Protect { at } => (at, false),
                _ => return None,
            };
            Some(landlock::Place { path: at.path.clone(), dir: at.kind == InsideKind::Dir, write, mount })
        };
        let passed = |step: &Step| match step {
            Step::Inherit { fd } | Step::Install { fd, .. } | Step::InstallPty { fd } => Some(*fd),
            _ => None,
        };
        let setting = landlock::Setting {
            places: self.has(Namespaces::MOUNT).then(|| inside.iter().filter_map(place).collect()),
            passed: program.iter().filter_map(passed).collect(),
            devices,
            no_network: self.network == Network::None,
        };
        self.sandbox.landlock.lower(&setting)
    }

    /// Whether there is a filter that keeps the program from all keyrings.
    fn refuses_keyrings(&self) -> bool {
        let refuses = self.sandbox.seccomp.as_ref().is_none_or(Seccomp::refuses_keyrings);
        refuses && seccomp::why_none().is_none()
    }

    /// The filter, if the kernel has filters; one that is asked for by name is not left out.
    fn lower_seccomp(&self, steps: &mut Vec<Step>) -> Result<Option<String>> {
        match (&self.sandbox.seccomp, seccomp::why_none()) {
            (Some(named), None) => named.lower(steps).map(|()| None),
            (Some(named), Some(_)) if named.is_off() => Ok(None),
            (Some(_), Some(why)) => Err(Error::new(Layer::Seccomp, ErrorKind::Unsupported, "filter", why)),
            (None, None) => Seccomp::lower_default(steps).map(|()| None),
            (None, Some(why)) => Ok(Some(why)),
        }
    }
}

/// The namespaces that a sandbox has of its own.
pub(crate) fn own_namespaces(sandbox: &Sandbox) -> Namespaces {
    match (sandbox.namespaces, sandbox.network) {
        (Some(own), _) => own,
        (None, Some(Network::Host)) => Namespaces::default() - Namespaces::NET - sandbox.join.kinds(),
        (None, _) => Namespaces::default() - sandbox.join.kinds(),
    }
}

/// Where the program may start, in kernel form.
fn directories(command: &Command) -> Result<Vec<CString>> {
    let fallbacks = command.fallbacks.iter().map(|path| Some(path.as_path()));
    std::iter::once(command.directory.as_deref()).chain(fallbacks).map(process::directory).collect()
}
