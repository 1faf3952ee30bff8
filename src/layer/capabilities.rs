//! Privilege: the program has none, and can't gain any.

use crate::plan::Step;

/// All of capabilities(7), *The securebits flags*, set and locked, but for keeping capabilities over a change of
/// ids, which is locked as off: root inside is nobody special, and no capability can be made ambient.
pub(crate) const SECUREBITS: u64 = 0b1110_1111;

/// Settings that have to come before a change of ids.
pub(crate) fn lower_first(privileged: bool, steps: &mut Vec<Step>) {
    if privileged {
        steps.push(Step::Securebits { bits: SECUREBITS });
    }
}

/// Drops every capability from all five sets. Without privilege there is none, and no_new_privs is what holds.
pub(crate) fn lower(privileged: bool, steps: &mut Vec<Step>) {
    if privileged {
        steps.extend([Step::BoundingSet, Step::AmbientSet]);
    }
    steps.extend([Step::CapabilitySets, Step::NoNewPrivs]);
}
