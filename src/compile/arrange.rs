//! Which processes there are, and which steps each of them takes.

use std::ffi::CString;

use crate::layer::capabilities::{self, Capabilities};
use crate::layer::inherit::Inherit;
use crate::layer::namespaces::Namespaces;
use crate::layer::process;
use crate::plan::{Cell, Holder, Launch, Memory, Plan, Step};
use crate::sys::CStringArray;

use super::Resolved;

impl Resolved<'_> {
    pub(super) fn lower_holder(&self, plan: &mut Plan) {
        if self.holder() {
            let namespaces = libc::CLONE_NEWUSER as u64;
            let clone = plan.push(Step::Clone { process: "holder", namespaces, memory: Memory::Shared });
            // It has to be dumpable: else its maps can't be written, nor its namespace be joined. Nobody inside sees it,
            // for it is in the host's PID namespace; where the program is too, it ends before there is a program.
            let init = exec_init(0o555, Capabilities::empty(), vec![c"belljar-init".into(), c"holder".into()]);
            let body = plan.extend([init]);
            let maps = plan.push(match &self.sandbox.maps {
                Some(hook) => Step::MapsByCaller { hook: hook.clone() },
                None => self.ids.write_outside(),
            });
            plan.holder = Some(Holder { clone, body, maps });
        }
    }

    /// A cell, whose init builds the root, and the program in it.
    pub(super) fn arrange_cell(&self, mut inside: Vec<Step>, program: Vec<Step>, plan: &mut Plan) {
        let net = self.has(Namespaces::NET);
        // Init too, or /proc/1/net would show the host's. Late: by then it is made. Before the root is another, in whose
        // /proc the program, which has it to pass, is not: it is there by then, so pivot_root(2) changes its root as well.
        let last = inside.iter().position(|step| matches!(step, Step::Pivot)).unwrap_or(inside.len());
        inside.insert(last, if net { Step::JoinNetwork } else { Step::AwaitReady });
        inside.push(exec_init(0o111, self.kept_for_init(), vec![c"belljar-init".into()]));
        let later = Namespaces::PID | Namespaces::NET | Namespaces::TIME | self.made_by_program();
        let first = self.own - later;
        let entry = self.lower_entry();
        let (by_clone, by_cell) = match entry.is_empty() {
            true => (first, Namespaces::empty()),
            false => (Namespaces::empty(), if self.holder() { first - Namespaces::USER } else { first }),
        };
        let clone = plan.push(self.clone("cell", by_clone));
        let makes = unshare(by_cell | Namespaces::PID);
        let (body, below) = self.extend_entry(entry, makes, plan);
        let clone_init = plan.push(Step::Clone { process: "init", namespaces: 0, memory: Memory::Shared });
        let init = Launch { clone: clone_init, body: plan.extend(inside) };
        let mut meanwhile = vec![Step::NotePidNamespace];
        meanwhile.extend(self.lower_meanwhile(net));
        let meanwhile = plan.extend(meanwhile);
        plan.cell = Some(Cell { clone, body, below, init: Some(init), meanwhile });
        let clone = plan.push(clone_in_cell(self.own, Namespaces::empty()));
        let mut start = self.lower_before(net);
        start.extend(program);
        plan.program = Launch { clone, body: plan.extend(start) };
    }

    /// What the cell does while init takes its steps.
    pub(super) fn lower_meanwhile(&self, makes_network: bool) -> Vec<Step> {
        // The network namespace takes longer to make than all others together: meanwhile, the root is built.
        let network = if makes_network { self.own & Namespaces::NET } else { Namespaces::empty() };
        let mut steps: Vec<Step> = unshare(network).into_iter().collect();
        steps.extend(unshare(self.own & Namespaces::TIME));
        self.lower_inherited(&mut steps);
        steps
    }

    /// What the program does before all else: a session first, since no signal to the host's group reaches it then.
    pub(super) fn lower_first(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if !self.inherits(Inherit::SESSION) {
            process::lower_session(&mut steps);
        }
        steps.extend(self.lower_start());
        if !self.joined.any() && !self.inherits(Inherit::OOM_SCORE) {
            process::lower_oom_score(&mut steps);
        }
        steps
    }

    /// What the program does while init builds the root: it has a table of descriptors of its own, unlike the cell, and the
    /// host's /proc still, which it can write to.
    pub(super) fn lower_before(&self, makes_network: bool) -> Vec<Step> {
        let mut steps = self.lower_first();
        if makes_network && self.ids.caller_unmapped {
            steps.push(Step::Ready);
        }
        steps.extend([if makes_network { Step::PassNetwork } else { Step::Ready }, Step::AwaitInit]);
        steps
    }

    /// Without a PID namespace there is no init: one process takes all steps.
    pub(super) fn arrange_single(&self, mut inside: Vec<Step>, program: Vec<Step>, plan: &mut Plan) {
        inside.extend(program);
        let inside = self.lower_entry_to_cgroup().into_iter().chain(inside);
        let mut made = self.own - Namespaces::TIME - self.made_by_program();
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
            let (body, below) = self.extend_entry(body, None, plan);
            plan.cell = Some(Cell { clone, body, below, init: None, meanwhile: 0..0 });
        }
        let clone = plan.push(match plan.cell {
            Some(_) => clone_in_cell(self.own, made),
            None => self.clone("program", made),
        });
        plan.program = Launch { clone, body: plan.extend(inside) };
    }

    /// Goes into namespaces that are there: the user namespace whose maps were written from outside, without the groups that
    /// root has there, and those that are joined.
    fn lower_entry(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        // Root's groups while it is root: setgroups is denied inside.
        if (self.holder() || self.joined.user.is_some()) && self.caller.sets_groups() {
            steps.push(Step::DropGroups);
        }
        if self.holder() {
            steps.push(Step::EnterHolder { namespaces: libc::CLONE_NEWUSER as u64 });
        }
        self.lower_joined(&mut steps);
        steps
    }

    /// The step that clones a process of the host.
    pub(super) fn clone(&self, process: &'static str, namespaces: Namespaces) -> Step {
        let changes = self.ids.changes || self.ids.caller_unmapped || self.ids.at_entry.is_some();
        let memory = if changes || self.joined.any() { Memory::Copied } else { Memory::Shared };
        Step::Clone { process, namespaces: namespaces.bits().into(), memory }
    }
}

/// The step that clones the program from the cell, whose memory is a copy already where it has to be.
pub(super) fn clone_in_cell(own: Namespaces, made: Namespaces) -> Step {
    let memory = if own.contains(Namespaces::TIME) { Memory::SharedIfAllowed } else { Memory::Shared };
    Step::Clone { process: "program", namespaces: made.bits().into(), memory }
}

pub(super) fn unshare(namespaces: Namespaces) -> Option<Step> {
    (!namespaces.is_empty()).then(|| Step::Unshare { namespaces: namespaces.bits().into() })
}

/// Init sees no argument and no environment of the host's. One that can't read its own file is not dumpable.
pub(super) fn exec_init(mode: u32, kept: Capabilities, argv: Vec<CString>) -> Step {
    let (argv, envp) = (CStringArray::new(argv), CStringArray::new(Vec::new()));
    Step::ExecInit { mode, kept: kept.bits(), securebits: capabilities::SECUREBITS, argv, envp }
}
