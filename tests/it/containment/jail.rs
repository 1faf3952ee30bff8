//! The jails: the same program with no layer, one, or all of them.

use std::os::fd::OwnedFd;
use std::process::Command;

use belljar::{Capabilities, Landlock, Namespaces, Sandbox, Seccomp};

use super::stage::Stage;

/// What is between the program and the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Jail {
    /// Nothing: the control.
    Outside,
    /// What can't be switched off: no capability, no_new_privs, no descriptor, no environment, a session of its own.
    Always,
    /// That, and all namespaces.
    Namespaces,
    /// What is always on, and Landlock; no namespace, so that nothing else holds.
    Landlock,
    /// What is always on, and the filter of system calls.
    Seccomp,
    /// The default.
    All,
    /// The default, prepared.
    Prepared,
    /// Namespaces, prepared.
    PreparedNamespaces,
    /// Bubblewrap, with a policy that binds the same.
    Bwrap,
}

/// What a run has come to.
pub(super) struct Output {
    /// Whether the probe says that the attack has worked.
    pub(super) success: bool,
    pub(super) told: Vec<u8>,
}

impl Jail {
    pub(super) const ALL: [Self; 9] = [
        Self::Outside,
        Self::Always,
        Self::Namespaces,
        Self::Landlock,
        Self::Seccomp,
        Self::All,
        Self::Prepared,
        Self::PreparedNamespaces,
        Self::Bwrap,
    ];

    /// What starts the same in another way.
    pub(super) const PREPARED: [(Self, Self); 2] =
        [(Self::All, Self::Prepared), (Self::Namespaces, Self::PreparedNamespaces)];

    /// Those in which capabilities that are kept tell what else holds.
    pub(super) const WITH_CAPABILITIES: [Self; 4] = [Self::Always, Self::Namespaces, Self::Landlock, Self::Seccomp];

    pub(super) fn is_here(self) -> bool {
        self != Self::Bwrap || crate::again::works(&["bwrap", "--version"])
    }

    /// Whether the files of the host are there, at their paths.
    pub(super) fn sees_host(self) -> bool {
        matches!(self, Self::Outside | Self::Always | Self::Landlock | Self::Seccomp)
    }

    /// Runs the probe, which keeps capabilities if it is in a sandbox of ours.
    pub(super) fn run(self, stage: &Stage, args: &[String], kept: Capabilities) -> Output {
        match self {
            Self::Outside => plain(Command::new(super::probe()), stage, args),
            Self::Bwrap => plain(bwrap(stage), stage, args),
            _ => self.sandboxed(stage, args, kept),
        }
    }

    fn sandboxed(self, stage: &Stage, args: &[String], kept: Capabilities) -> Output {
        let (program, [ro, rw]) = (super::probe(), stage.bound());
        let bound = Sandbox::new().bind_ro(&program, "/probe").bind_ro(&ro, "/ro").bind(&rw, "/rw");
        let bare = Sandbox::new().namespaces(Namespaces::empty()).landlock(Landlock::off()).seccomp(Seccomp::off());
        // What the derived rules allow in such a sandbox.
        let rules = Landlock::new().allow_execute(&program).allow_read(&ro).allow_write(&rw).allow_execute("/proc");
        let sandbox = match self {
            Self::All | Self::Prepared => bound,
            Self::Namespaces | Self::PreparedNamespaces => bound.landlock(Landlock::off()).seccomp(Seccomp::off()),
            Self::Landlock => bare.landlock(rules),
            Self::Seccomp => bare.seccomp(Seccomp::container()),
            _ => bare,
        };
        let sandbox = sandbox.capabilities(kept);
        let mut command = match self {
            Self::Prepared | Self::PreparedNamespaces => sandbox.prepare().unwrap().command("/probe"),
            _ if self.sees_host() => sandbox.command(&program),
            _ => sandbox.command("/probe"),
        };
        let output = command.args(args).stdin(OwnedFd::from(stage.channel())).output();
        let output = output.unwrap_or_else(|error| panic!("{self:?}: {error}"));
        Output { success: output.outcome.success(), told: [output.stdout, output.stderr].concat() }
    }
}

fn plain(mut command: Command, stage: &Stage, args: &[String]) -> Output {
    let output = command.args(args).stdin(OwnedFd::from(stage.channel())).output().unwrap();
    Output { success: output.status.success(), told: [output.stdout, output.stderr].concat() }
}

fn bwrap(stage: &Stage) -> Command {
    let (program, [ro, rw]) = (super::probe(), stage.bound());
    let mut command = Command::new("bwrap");
    command.args(["--unshare-all", "--die-with-parent", "--tmpfs", "/tmp", "--proc", "/proc", "--dev", "/dev"]);
    command.arg("--ro-bind").arg(program).arg("/probe");
    command.arg("--ro-bind").arg(ro).arg("/ro").arg("--bind").arg(rw).arg("/rw").args(["--", "/probe"]);
    command
}
