//! The order.
//!
//! Every layer lowers its part of the policy to steps; this is where they are put in order, one line a layer, each
//! with its reason. All validation, allocation and looking at the host happens here, before any process exists.

use std::ffi::CString;

use crate::command::Command;
use crate::error::{Error, Layer, Result};
use crate::layer::exec::Program;
use crate::layer::fds::Stdio;
use crate::layer::ids::{Caller, Lowered, Writer};
use crate::layer::mount::{Setting, Source};
use crate::layer::namespaces::Namespaces;
use crate::layer::network::Network;
use crate::layer::{capabilities, fds, ids, limits, mount, namespaces, network, process};
use crate::plan::{Cell, Holder, Launch, Memory, Plan, Step};
use crate::sandbox::Sandbox;
use crate::sys::CStringArray;

/// Lowers a command and its policy to a plan.
pub(crate) fn compile(command: &Command, streams: [&Stdio; 3]) -> Result<Plan> {
    let policy = Resolved::new(&command.sandbox)?;
    let mut inside = Vec::new();
    policy.lower_cell(&mut inside)?;
    let mut program = Vec::new();
    let given = policy.lower_program(command, streams, &mut program)?;
    let mut plan = Plan { steps: Vec::new(), holder: None, cell: None, program: Launch::default(), given };
    policy.lower_holder(&mut plan);
    match policy.own.contains(Namespaces::PID) {
        true => policy.arrange_cell(inside, program, &mut plan),
        false => policy.arrange_single(inside, program, &mut plan),
    }
    Ok(plan)
}

/// A policy with its defaults filled in, for the caller at hand.
struct Resolved<'a> {
    sandbox: &'a Sandbox,
    /// The namespaces of the sandbox's own.
    own: Namespaces,
    network: Network,
    caller: Caller,
    ids: Lowered,
}

impl<'a> Resolved<'a> {
    fn new(sandbox: &'a Sandbox) -> Result<Self> {
        let caller = Caller::current();
        let own = match (sandbox.namespaces, sandbox.network) {
            (Some(own), _) => own,
            (None, Some(Network::Host)) => Namespaces::default() - Namespaces::NET,
            (None, _) => Namespaces::default(),
        };
        namespaces::check(own, caller.privileged())?;
        let network = sandbox.network.unwrap_or(match own.contains(Namespaces::NET) {
            true => Network::None,
            false => Network::Host,
        });
        let ids = match own.contains(Namespaces::USER) {
            true => ids::lower(&sandbox.ids, caller)?,
            false => ids::lower_without_namespace(&sandbox.ids, caller)?,
        };
        Ok(Self { sandbox, own, network, caller, ids })
    }

    fn has(&self, namespace: Namespaces) -> bool {
        self.own.contains(namespace)
    }

    /// Whether the processes have capabilities over their namespaces, to be used and then dropped.
    fn privileged(&self) -> bool {
        self.has(Namespaces::USER) || self.caller.privileged()
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

    fn lower_holder(&self, plan: &mut Plan) {
        if self.holder() {
            let namespaces = libc::CLONE_NEWUSER as u64;
            let clone = Step::Clone { process: "holder", namespaces, memory: Memory::Shared };
            // It has to be dumpable: else its maps can't be written, nor its namespace be joined. Nobody inside sees it,
            // for it is in the host's PID namespace; where the program is too, it ends before there is a program.
            let init = exec_init(0o555, vec![c"belljar-init".into(), c"holder".into()]);
            plan.steps.extend([clone, init, self.ids.write_outside()]);
            plan.holder = Some(Holder { clone: 0, body: 1..2, maps: 2 });
        }
    }

    /// What is set up in new namespaces.
    fn lower_cell(&self, steps: &mut Vec<Step>) -> Result<()> {
        // Maps first: until then every id is the overflow id, and nothing can be made.
        if self.has(Namespaces::USER) && !self.holder() {
            self.ids.write_own(steps);
        }
        // The builder of the root needs ids that mean something inside.
        if self.ids.caller_unmapped {
            capabilities::lower_first(self.privileged(), steps);
            self.ids.change(steps);
        }
        // Names are independent of all else; they need the capabilities that are left at the start.
        namespaces::lower_names(self.own, self.sandbox.hostname.as_deref(), steps)?;
        // The root last: /proc/self, which the maps are written through, goes with the host's mounts.
        self.lower_root(steps)
    }

    fn lower_root(&self, steps: &mut Vec<Step>) -> Result<()> {
        let Sandbox { rootfs, mounts, .. } = self.sandbox;
        if !self.has(Namespaces::MOUNT) {
            return match rootfs.is_some() || !mounts.is_empty() {
                false => Ok(()),
                true => Err(Error::invalid(Layer::Mount, "root", "a root or a mount needs Namespaces::MOUNT")),
            };
        }
        let setting = Setting {
            root: rootfs.as_ref().map_or(&Source::Empty, |root| &root.0),
            mounts,
            pid_namespace: self.has(Namespaces::PID),
            private: !self.has(Namespaces::USER),
            host_network: self.network == Network::Host,
            ids: (self.ids.uid, self.ids.gid),
        };
        mount::lower(&setting, steps)
    }

    /// What makes a process in the cell the program.
    fn lower_program(
        &self,
        command: &Command,
        streams: [&Stdio; 3],
        steps: &mut Vec<Step>,
    ) -> Result<Vec<crate::plan::Given>> {
        // An interface needs the capabilities that are left at the start.
        network::lower(self.network, self.has(Namespaces::NET), steps)?;
        // A session first: it takes the controlling terminal away.
        process::lower_session(steps);
        // Descriptors before the limits: a low limit of open files must not be in the way.
        let given = fds::lower(streams, &command.passed, steps)?;
        // What is inherited, before the capabilities that may better it are gone.
        process::lower_state(steps);
        limits::lower(steps);
        // Ids before capabilities, which a change needs; securebits before ids, so that a change does not take them.
        capabilities::lower_first(self.privileged(), steps);
        // The caller's groups: inside only newgidmap(1) leaves that allowed, and without it only root can.
        if self.ids.gid_writer == Writer::Helper || (!self.has(Namespaces::USER) && self.caller.sets_groups()) {
            steps.push(Step::DropGroups);
        }
        self.ids.change(steps);
        capabilities::lower(self.privileged(), steps);
        // The directory without capabilities: the program must be able to go there.
        process::lower_directory(command.directory.as_deref(), steps)?;
        // Signals last: from here on one may end the child.
        process::lower_signals(steps);
        Program { program: &command.program, args: &command.args, env: command.env.clone() }.lower(steps)?;
        Ok(given)
    }

    /// A cell, whose init builds the root, and the program in it.
    fn arrange_cell(&self, mut inside: Vec<Step>, program: Vec<Step>, plan: &mut Plan) {
        let net = self.has(Namespaces::NET);
        if net {
            // Init too, or /proc/1/net would show the host's. Late: by then it is made. Before the root is another, in
            // whose /proc the cell, which has it to pass, is not.
            let last = inside.iter().position(|step| matches!(step, Step::Pivot)).unwrap_or(inside.len());
            inside.insert(last, Step::JoinNetwork);
        }
        inside.push(exec_init(0o111, vec![c"belljar-init".into()]));
        let later = Namespaces::PID | Namespaces::NET | Namespaces::TIME;
        let first = self.own - later;
        let clone = match self.holder() {
            true => plan.push(self.clone("cell", Namespaces::empty())),
            false => plan.push(self.clone("cell", first)),
        };
        let mut body = self.lower_entry();
        let with_holder = if self.holder() { first - Namespaces::USER } else { Namespaces::empty() };
        body.extend(unshare(with_holder | Namespaces::PID));
        let body = plan.extend(body);
        let clone_init = plan.push(Step::Clone { process: "init", namespaces: 0, memory: Memory::Shared });
        let init = Launch { clone: clone_init, body: plan.extend(inside) };
        // The network namespace takes longer to make than all others together: meanwhile, the root is built.
        let network = unshare(self.own & Namespaces::NET).into_iter().chain(net.then_some(Step::PassNetwork));
        let meanwhile = plan.extend(network.chain(unshare(self.own & Namespaces::TIME)));
        plan.cell = Some(Cell { clone, body, init: Some(init), meanwhile });
        let clone = plan.push(clone_in_cell(self.own, Namespaces::empty()));
        plan.program = Launch { clone, body: plan.extend(program) };
    }

    /// Without a PID namespace there is no init: one process takes all steps.
    fn arrange_single(&self, mut inside: Vec<Step>, program: Vec<Step>, plan: &mut Plan) {
        inside.extend(program);
        let mut made = self.own - Namespaces::TIME;
        if self.holder() {
            made -= Namespaces::USER;
        }
        let mut body = self.lower_entry();
        if self.holder() {
            // The program would see it, and could trace it: a process with the host's files and network.
            body.push(Step::EndHolder);
        }
        body.extend(unshare(self.own & Namespaces::TIME));
        if !body.is_empty() {
            let clone = plan.push(self.clone("cell", Namespaces::empty()));
            let body = plan.extend(body);
            plan.cell = Some(Cell { clone, body, init: None, meanwhile: 0..0 });
        }
        let clone = plan.push(match plan.cell {
            Some(_) => clone_in_cell(self.own, made),
            None => self.clone("program", made),
        });
        plan.program = Launch { clone, body: plan.extend(inside) };
    }

    /// Goes into the user namespace whose maps were written from outside, without the groups that root has there.
    fn lower_entry(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.holder() {
            // Root's groups while it is root: setgroups is denied inside.
            if self.caller.sets_groups() {
                steps.push(Step::DropGroups);
            }
            steps.push(Step::EnterHolder { namespaces: libc::CLONE_NEWUSER as u64 });
        }
        steps
    }

    /// The step that clones a process of the host.
    fn clone(&self, process: &'static str, namespaces: Namespaces) -> Step {
        let changes = self.ids.changes || self.ids.caller_unmapped;
        let memory = if changes { Memory::Copied } else { Memory::Shared };
        Step::Clone { process, namespaces: namespaces.bits().into(), memory }
    }
}

/// The step that clones the program from the cell, whose memory is a copy already where it has to be.
fn clone_in_cell(own: Namespaces, made: Namespaces) -> Step {
    let memory = if own.contains(Namespaces::TIME) { Memory::SharedIfAllowed } else { Memory::Shared };
    Step::Clone { process: "program", namespaces: made.bits().into(), memory }
}

fn unshare(namespaces: Namespaces) -> Option<Step> {
    (!namespaces.is_empty()).then(|| Step::Unshare { namespaces: namespaces.bits().into() })
}

/// Init sees no argument and no environment of the host's. One that can't read its own file is not dumpable.
fn exec_init(mode: u32, argv: Vec<CString>) -> Step {
    let (argv, envp) = (CStringArray::new(argv), CStringArray::new(Vec::new()));
    Step::ExecInit { mode, securebits: capabilities::SECUREBITS, argv, envp }
}
