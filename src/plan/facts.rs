//! What is known of a step: its layer, the path that it is about, whether it makes something that can be written to.

use std::ffi::CStr;
use std::path::{Path, PathBuf};

use super::operand::{Operand, Upper, attr};
use super::step::Step;
use crate::error::Layer;

/// Where terminals are made: pts(4).
pub(crate) const PTMX: &CStr = c"/dev/ptmx";

impl Step {
    /// Whether the step makes a mount that the program may write to.
    pub(crate) fn mounts_writable(&self) -> bool {
        match self {
            Step::Bind { attributes, .. } => attributes & attr::READ_ONLY == 0,
            Step::Tmpfs { .. } => true,
            _ => false,
        }
    }

    /// The step that errors are told of.
    pub(crate) fn told(&self) -> &Step {
        match self {
            Step::Leave { step, .. } => step,
            _ => self,
        }
    }

    /// The layer that the step belongs to.
    pub(crate) fn layer(&self) -> Layer {
        match self {
            Step::Clone { .. } | Step::EnterHolder { .. } | Step::Unshare { .. } => Layer::Namespaces,
            Step::Join { .. } => Layer::Namespaces,
            Step::NotDumpable => Layer::Process,
            Step::EnterOwner | Step::EnterTemplate { .. } | Step::HandOver => Layer::Namespaces,
            Step::NotePidNamespace => Layer::Namespaces,
            Step::Ready | Step::AwaitReady | Step::AwaitInit => Layer::Process,
            Step::EndHolder | Step::NoUserNamespaces | Step::Hostname { .. } | Step::Domainname => Layer::Namespaces,
            Step::Maps { .. }
            | Step::MapsByCaller { .. }
            | Step::DropGroups
            | Step::SetGid { .. }
            | Step::SetUid { .. } => Layer::Ids,
            Step::WriteProc { layer, .. } => *layer,
            Step::LoopbackUp | Step::PassNetwork | Step::JoinNetwork | Step::HandOverNetwork => Layer::Network,
            Step::Inherit { .. } | Step::Install { .. } | Step::InstallNull { .. } | Step::CloseRest { .. } => {
                Layer::Fds
            }
            Step::OpenPty { .. } | Step::TakeTerminal | Step::HandPtyOver | Step::InstallPty { .. } => Layer::Fds,
            Step::Limit { .. }
            | Step::Timer { .. }
            | Step::Deadline
            | Step::CgroupEnable { .. }
            | Step::Cgroup { .. }
            | Step::CgroupFile { .. }
            | Step::EnterCgroup => Layer::Limits,
            Step::Securebits { .. }
            | Step::BoundingSet { .. }
            | Step::AmbientSet
            | Step::CapabilitySets { .. }
            | Step::RaiseAmbient { .. }
            | Step::NoNewPrivs => Layer::Capabilities,
            Step::Setsid
            | Step::Hold { .. }
            | Step::EndWithThread
            | Step::ChdirFirst { .. }
            | Step::SessionKeyring
            | Step::OomScore { .. }
            | Step::Nice
            | Step::IoPriority
            | Step::Affinity
            | Step::Personality
            | Step::TimerSlack { .. }
            | Step::Umask { .. }
            | Step::Chdir { .. }
            | Step::Signals
            | Step::CaughtSignals => Layer::Process,
            Step::LandlockRuleset { .. }
            | Step::LandlockPath { .. }
            | Step::LandlockPort { .. }
            | Step::LandlockPassed { .. }
            | Step::LandlockRestrict { .. } => Layer::Landlock,
            Step::Seccomp { .. } => Layer::Seccomp,
            Step::ExecInit { .. } | Step::ExecAgent { .. } | Step::Look { .. } | Step::Exec { .. } => Layer::Exec,
            _ => Layer::Mount,
        }
    }

    /// The path that a fault of the step is about.
    pub(crate) fn path(&self, operand: Operand) -> Option<PathBuf> {
        let path = match (self, operand) {
            (Step::Bind { source, .. } | Step::Copy { source, .. } | Step::Stage { source, .. }, Operand::Source) => {
                &source.0
            }
            (Step::RootDir { source, .. }, _) => &source.0,
            (Step::CgroupEnable { directory, .. } | Step::Cgroup { directory }, _) => &directory.0,
            (Step::RootOverlay { upper: Upper::Kept { base }, .. }, Operand::Target) => &base.0,
            (Step::RootOverlay { lowers, .. }, Operand::Call | Operand::Source) => match lowers.as_slice() {
                [only] => &only.0,
                _ => return None,
            },
            (Step::Place { at }, _) => &at.path,
            (Step::Entry(entry), Operand::Source) => &entry.source()?.0,
            (Step::Entry(entry), _) => &entry.at()?.path,
            (Step::Bind { at, .. } | Step::Dir { at } | Step::File { at, .. } | Step::Symlink { at, .. }, _) => {
                &at.path
            }
            (
                Step::Tmpfs { at, .. }
                | Step::Copy { at, .. }
                | Step::Proc { at }
                | Step::Devpts { at }
                | Step::Stage { at, .. }
                | Step::StageFile { at, .. }
                | Step::Leave { at, .. }
                | Step::Attach { at, .. }
                | Step::Mask { at },
                _,
            ) => &at.path,
            (Step::Protect { at } | Step::Seal { at, .. }, _) => &at.path,
            (Step::Chdir { path } | Step::LandlockPath { path, .. }, _) => path,
            (Step::ChdirFirst { paths }, _) => paths.last()?,
            (Step::Look { program, .. } | Step::Exec { program, .. }, _) => program,
            (Step::OpenPty { .. }, Operand::Target) => PTMX,
            (Step::WriteProc { path, .. }, _) => return Some(os(path).into()),
            _ => return None,
        };
        Some(os(path).into())
    }
}

/// A path of the kernel's form, as the rest of the world has it.
pub(crate) fn os(path: &CStr) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()))
}
