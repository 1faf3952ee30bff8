//! Which layers are in force.

use super::Resolved;
use crate::error::Layer;
use crate::layer::limits;
use crate::layer::namespaces::Namespaces;
use crate::layer::network::Network;
use crate::layer::seccomp::Seccomp;
use crate::report::Report;
use crate::sandbox::Sandbox;

impl Resolved<'_> {
    /// Which layers are in force.
    pub(super) fn report(
        &self,
        (restricted, landlock_lacks): (bool, Option<String>),
        seccomp_lacks: Option<String>,
    ) -> Report {
        let joined = self.sandbox.join.kinds();
        let missing = Namespaces::default() - self.own - joined;
        let names: Vec<_> = missing.iter_names().map(|(name, _)| name.to_lowercase()).collect();
        let shared = (!names.is_empty()).then(|| format!("shared with the host: {}", names.join(", ")));
        let off = |is_off: bool, why: &str| is_off.then(|| why.to_owned());
        let mut report = Report::default();
        let joined: Vec<_> = joined.iter_names().map(|(name, _)| name.to_lowercase()).collect();
        let joined = (!joined.is_empty()).then(|| format!("made by somebody else: {}", joined.join(", ")));
        let lacks = [shared, joined].into_iter().flatten().collect::<Vec<_>>().join("; ");
        report.add(Layer::Namespaces, self.own.is_empty(), off(!lacks.is_empty(), &lacks));
        let ids = if self.joined.user.is_some() { "as the joined user namespace maps them" } else { "the host's ids" };
        report.add(Layer::Ids, !self.in_user_namespace(), off(!self.has(Namespaces::USER), ids));
        report.add(Layer::Mount, !self.has(Namespaces::MOUNT), off(!self.has(Namespaces::MOUNT), "the host's files"));
        let host_network = self.network == Network::Host;
        report.add(Layer::Network, host_network, off(host_network, "the host's network"));
        report.add(Layer::Fds, false, None);
        report.add(Layer::Limits, false, None);
        report.tell(Layer::Limits, limits::told(&self.sandbox.limits, self.cgroup.as_ref()));
        report.add(Layer::Capabilities, false, None);
        report.add(Layer::Process, false, None);
        let Sandbox { landlock, seccomp, .. } = self.sandbox;
        let lacks = off(landlock.is_off(), "switched off by the policy").or(landlock_lacks);
        report.add(Layer::Landlock, !restricted, lacks);
        let is_off = seccomp.as_ref().is_some_and(Seccomp::is_off);
        let lacks = off(is_off, "switched off by the policy").or(seccomp_lacks);
        report.add(Layer::Seccomp, lacks.is_some(), lacks);
        report
    }
}
