//! What the handle of a running program needs to be there: for its signals, and for its terminal.

use super::Resolved;
use crate::error::{Error, Layer, Result};
use crate::layer::capabilities::{self, Capabilities};
use crate::layer::inherit::Inherit;
use crate::layer::terminal::{self, PtySize};
use crate::plan::Step;

impl Resolved<'_> {
    /// What init needs to send a signal to all: a capability where the ids of the program are, or can become, others.
    pub(super) fn kept_for_init(&self) -> Capabilities {
        let differ = self.ids.changes && !self.ids.caller_unmapped;
        match differ || self.sandbox.capabilities.contains(Capabilities::SETUID) {
            true => Capabilities::KILL,
            false => Capabilities::empty(),
        }
    }

    /// Gives the program a terminal.
    pub(super) fn lower_terminal(&self, size: PtySize, steps: &mut Vec<Step>) -> Result<()> {
        if self.inherits(Inherit::SESSION) {
            let cause = "a terminal needs a session of its own, and the policy inherits the caller's";
            return Err(Error::invalid(Layer::Process, "pty", cause));
        }
        // What belongs to nobody inside, nobody can give to the program's user.
        if self.ids.caller_unmapped {
            capabilities::lower_first(self.sandbox.capabilities, self.privileged(), steps);
            self.ids.change(steps);
        }
        // Nobody knows here what the caller is called inside, where it has no other id: fchown(2) leaves the owner then.
        let is_named = self.ids.maps_are_known() || self.ids.at_entry.is_some();
        terminal::lower(size, if is_named { self.ids.uid } else { u32::MAX }, steps);
        Ok(())
    }
}
