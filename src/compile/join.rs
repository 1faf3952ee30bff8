//! Namespaces that somebody else has made: what joins them, and when.
//!
//! Others may be there, with every capability in the user namespace: who sets the sandbox up has a copy of the host's memory,
//! and descriptors of its, so it hides them before it joins anything. What is executed later has neither.

use std::ops::Range;

use super::Resolved;
use crate::error::{Error, Layer, Result};
use crate::layer::capabilities;
use crate::layer::ids::{self, Caller, Lowered};
use crate::layer::inherit::Inherit;
use crate::layer::namespaces::{Joined, Namespaces, enter};
use crate::layer::process;
use crate::plan::{Launch, Maps, Memory, Plan, Step};
use crate::sandbox::Sandbox;

/// Who the program is, by whoever maps its ids.
pub(super) fn lower_ids(sandbox: &Sandbox, own: Namespaces, joined: &Joined, caller: Caller) -> Result<Lowered> {
    let own = own.contains(Namespaces::USER);
    match (&sandbox.maps, own) {
        (Some(_), false) => Err(Error::invalid(Layer::Ids, "write_id_maps", "an id map needs Namespaces::USER")),
        (Some(_), true) => ids::lower_with_maps_of_others(&sandbox.ids, caller),
        (None, true) => ids::lower(&sandbox.ids, caller),
        (None, false) if joined.user.is_some() => ids::lower_with_maps_of_others(&sandbox.ids, caller),
        (None, false) => ids::lower_without_namespace(&sandbox.ids, caller),
    }
}

impl Resolved<'_> {
    /// The maps of ids, as far as they are known.
    pub(super) fn maps(&self) -> Maps {
        match (self.in_user_namespace(), self.ids.maps_are_known()) {
            (false, _) => Maps::None,
            (true, true) => Maps::Known(self.ids.maps()),
            (true, false) => Maps::OfOthers,
        }
    }

    /// Joins the namespaces, and takes on the ids that are asked for there.
    pub(super) fn lower_joined(&self, steps: &mut Vec<Step>) {
        if self.joined.any() {
            if !self.inherits(Inherit::OOM_SCORE) {
                // While the process's own files in /proc can still be written.
                process::lower_oom_score(steps);
            }
            steps.push(Step::NotDumpable);
        }
        if let Some(namespace) = &self.joined.user {
            // The kernel resets the flag there to what fs.suid_dumpable says.
            steps.extend([enter("joined", Namespaces::USER, namespace), Step::NotDumpable]);
        }
        if self.ids.at_entry.is_some() {
            capabilities::lower_first(self.sandbox.capabilities, self.privileged(), steps);
            self.ids.take_on(steps);
            steps.push(Step::NotDumpable);
        }
        if let Some(namespace) = &self.joined.pid {
            steps.push(enter("joined", Namespaces::PID, namespace));
        }
    }

    /// Has the program go on to the inner user namespace. The kernel gives it every capability there, and takes nothing along
    /// of what bounds them.
    pub(super) fn lower_inner(&self, steps: &mut Vec<Step>) {
        if let Some(namespace) = &self.joined.inner {
            // There the caller's groups, and other ids, may have no name.
            capabilities::lower_first(self.sandbox.capabilities, self.privileged(), steps);
            self.lower_ids(steps);
            steps.extend([enter("inner", Namespaces::USER, namespace), Step::NotDumpable]);
            capabilities::lower_bounding_set(self.sandbox.capabilities, self.privileged(), steps);
        }
    }

    /// The steps of the cell, which enters namespaces and then makes some. In a PID namespace that it has joined, another
    /// process has to do that: the kernel makes one only below that of who asks.
    pub(super) fn extend_entry(
        &self,
        mut entry: Vec<Step>,
        makes: Option<Step>,
        plan: &mut Plan,
    ) -> (Range<usize>, Option<Launch>) {
        if self.joined.pid.is_none() || !self.has(Namespaces::PID) {
            entry.extend(makes);
            return (plan.extend(entry), None);
        }
        let body = plan.extend(entry);
        let clone = plan.push(Step::Clone { process: "cell in joined pid", namespaces: 0, memory: Memory::Shared });
        (body, Some(Launch { clone, body: plan.extend(makes) }))
    }
}
