//! What bounds a sandbox, in its place among the other layers.

use super::Resolved;
use super::arrange::unshare;
use crate::command::Command;
use crate::error::Result;
use crate::layer::limits::{self, Cgroup, Setting};
use crate::layer::mount::{self, Source};
use crate::layer::namespaces::Namespaces;
use crate::plan::{Plan, Step};
use crate::sandbox::Sandbox;

impl Resolved<'_> {
    /// What bounds the sandbox from outside: made before there is a process.
    pub(super) fn lower_bounds(&self, command: &Command, plan: &mut Plan) {
        let Sandbox { limits, .. } = self.sandbox;
        plan.bounds.cpu_time = limits.cpu_time;
        plan.bounds.wall = limits.wall(command.agent.is_some());
        plan.steps.extend(plan.bounds.wall.map(|wall| Step::Timer { time: wall.time, grace: wall.grace }));
        plan.bounds.cgroup = plan.extend(self.cgroup.iter().flat_map(Cgroup::steps));
    }

    /// Into the sandbox's cgroup, which its cgroup namespace then starts at.
    pub(super) fn lower_entry_to_cgroup(&self) -> Vec<Step> {
        let namespace = || unshare(self.own & Namespaces::CGROUP);
        self.cgroup.iter().flat_map(|_| [Some(Step::EnterCgroup), namespace()].into_iter().flatten()).collect()
    }

    /// What the program makes by itself, when it is in its cgroup.
    pub(super) fn made_by_program(&self) -> Namespaces {
        if self.cgroup.is_some() { Namespaces::CGROUP } else { Namespaces::empty() }
    }

    pub(super) fn lower_limits(&self, agent: bool, steps: &mut Vec<Step>) -> Result<()> {
        let is_bare = self.sandbox.rootfs.as_ref().is_some_and(|root| matches!(root.root.source, Source::Bare));
        let setting = Setting {
            agent,
            holds_pids: self.cgroup.as_ref().is_some_and(Cgroup::holds_pids),
            // In one whose maps are somebody else's may be anybody.
            user_namespace: self.has(Namespaces::USER) && self.ids.maps_are_known(),
            has_init: self.has_init(),
            outside: self.ids.outside_uid(),
            // Another id of init's is counted apart.
            same_as_init: !self.ids.changes || self.ids.caller_unmapped,
            own_tmp: self.has(Namespaces::MOUNT) && !is_bare && !mount::replaces(&self.sandbox.mounts, "/tmp"),
        };
        limits::lower(&self.sandbox.limits, &setting, steps)
    }

    /// What the program starts with, in a cell: a bound on what follows. The cell sees to that of init.
    pub(super) fn lower_start(&self) -> Vec<Step> {
        let deadline = self.sandbox.limits.wall_time.map(|_| Step::Deadline);
        deadline.into_iter().chain(self.lower_entry_to_cgroup()).collect()
    }
}
