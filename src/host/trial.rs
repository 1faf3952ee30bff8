//! What is really tried, each in a short-lived process of its own, with the steps that a sandbox takes.

use super::finding::Finding;
use crate::error::Result;
use crate::layer::ids::{self, Caller, Ids};
use crate::layer::namespaces::Namespaces;
use crate::plan::{Inside, InsideKind, Memory, Step};
use crate::spawn::attempt;

/// What gives the caller capabilities for other namespaces.
#[derive(Clone, Copy, Debug)]
pub(super) enum Base {
    /// A user namespace of its own.
    User,
    /// Being root.
    Root,
    Nothing,
}

impl Base {
    pub(super) fn new(user: bool, root: bool) -> Self {
        match (user, root) {
            (true, _) => Base::User,
            (false, true) => Base::Root,
            (false, false) => Base::Nothing,
        }
    }

    /// Makes namespaces.
    pub(super) fn namespaces(self, made: Namespaces) -> Finding {
        self.attempt(made, Vec::new())
    }

    /// Mounts an overlay of directories on a tmpfs.
    pub(super) fn overlay(self) -> Finding {
        self.attempt(Namespaces::MOUNT, vec![Step::Workspace, Step::OverlayTrial])
    }

    /// Mounts a new /proc in an empty root.
    pub(super) fn proc(self) -> Finding {
        let components = vec![[c"/".into(), c"proc".into()]];
        let at = Inside { path: c"/proc".into(), kind: InsideKind::Dir, components };
        self.attempt(Namespaces::MOUNT | Namespaces::PID, vec![Step::Workspace, Step::RootEmpty, Step::Proc { at }])
    }

    fn attempt(self, made: Namespaces, steps: Vec<Step>) -> Finding {
        match self {
            Base::User => Finding::of(take(made | Namespaces::USER, steps), ""),
            Base::Root => Finding::of(take(made, steps), "as root, without a user namespace"),
            Base::Nothing => Finding::no("takes a user namespace, or root"),
        }
    }
}

/// Makes namespaces by themselves.
pub(super) fn namespaces(made: Namespaces) -> Finding {
    Finding::of(take(made, Vec::new()), "")
}

/// Makes namespaces, writes the id maps of a user namespace, and takes the steps in there.
fn take(made: Namespaces, inside: Vec<Step>) -> Result<()> {
    let cloned = (made - Namespaces::TIME).bits().into();
    let mut steps = vec![Step::Clone { process: "trial", namespaces: cloned, memory: Memory::Shared }];
    if made.contains(Namespaces::USER) {
        // The clone may work and the namespace be worth nothing: AppArmor lets it happen, and takes the capabilities.
        ids::lower(&Ids::default(), Caller::current())?.write_own(&mut steps);
    } else if made.contains(Namespaces::MOUNT) {
        steps.push(Step::Private);
    }
    if made.contains(Namespaces::TIME) {
        steps.push(Step::Unshare { namespaces: libc::CLONE_NEWTIME as u64 });
    }
    steps.extend(inside);
    attempt(steps)
}
