//! Namespaces that somebody else has made, and the sandbox joins.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::Namespaces;
use crate::error::{Error, Layer, Result};
use crate::plan::Step;
use crate::sys::{self, Errno};

/// What the policy says of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Join {
    named: Vec<(Namespaces, Arc<OwnedFd>)>,
    inner: Option<Arc<OwnedFd>>,
}

/// What that comes to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Joined {
    pub(crate) user: Option<Arc<OwnedFd>>,
    pub(crate) pid: Option<Arc<OwnedFd>>,
    /// The user namespace that the program goes on to.
    pub(crate) inner: Option<Arc<OwnedFd>>,
}

impl Join {
    pub(crate) fn add(&mut self, namespace: Namespaces, fd: OwnedFd) {
        self.named.push((namespace, Arc::new(fd)));
    }

    pub(crate) fn set_inner(&mut self, fd: OwnedFd) {
        self.inner = Some(Arc::new(fd));
    }

    pub(crate) fn has_inner(&self) -> bool {
        self.inner.is_some()
    }

    /// The kinds that are joined.
    pub(crate) fn kinds(&self) -> Namespaces {
        self.named.iter().fold(Namespaces::empty(), |all, (kind, _)| all | *kind)
    }

    /// Refuses what contradicts itself, and descriptors of something else.
    pub(crate) fn lower(&self, own: Namespaces, privileged: bool) -> Result<Joined> {
        let mut joined = Joined::default();
        for (kind, fd) in &self.named {
            let place = match *kind {
                Namespaces::USER => &mut joined.user,
                Namespaces::PID => &mut joined.pid,
                _ => {
                    return Err(invalid(
                        "join",
                        "only Namespaces::USER and Namespaces::PID can be joined, one at a time",
                    ));
                }
            };
            check_kind(*kind, fd)?;
            if place.replace(fd.clone()).is_some() {
                return Err(invalid(&step(*kind), "two of the kind are joined"));
            }
        }
        if let Some(fd) = &self.inner {
            check_kind(Namespaces::USER, fd)?;
            joined.inner = Some(fd.clone());
        }
        joined.check(own, privileged)?;
        Ok(joined)
    }
}

impl Joined {
    /// Whether a process of the sandbox is ever in a namespace where others may be already.
    pub(crate) fn any(&self) -> bool {
        self.user.is_some() || self.pid.is_some() || self.inner.is_some()
    }

    fn check(&self, own: Namespaces, privileged: bool) -> Result<()> {
        let makes_user = own.contains(Namespaces::USER);
        let not_permitted = |step, cause| Err(invalid(step, cause).with_errno(libc::EPERM));
        if self.user.is_some() && makes_user {
            return Err(invalid("join user", "Namespaces::USER is to be made and to be joined"));
        }
        if self.pid.is_some() && makes_user {
            let cause = "a new user namespace has no rights over a PID namespace from outside: join the user namespace that owns \
                         it too, or be root and leave Namespaces::USER out";
            return not_permitted("join pid", cause);
        }
        if self.inner.is_some() && makes_user {
            let cause = "nobody else can have made a user namespace in a new one: join the one that it was made in";
            return not_permitted("inner user namespace", cause);
        }
        match (self.user.is_none() && !privileged, &self.pid, &self.inner) {
            (true, Some(_), _) => {
                not_permitted("join pid", "it takes root, or the user namespace that owns it, joined too")
            }
            (true, None, Some(_)) => {
                not_permitted("inner user namespace", "it takes root, or the one that it was made in, joined")
            }
            _ => Ok(()),
        }
    }
}

/// Joins one.
pub(crate) fn enter(what: &'static str, kind: Namespaces, namespace: &Arc<OwnedFd>) -> Step {
    Step::Join { what, kind: kind.bits().into(), namespace: namespace.clone() }
}

fn invalid(step: &str, cause: &str) -> Error {
    Error::invalid(Layer::Namespaces, step, cause)
}

fn step(kind: Namespaces) -> String {
    format!("join {}", name(kind))
}

fn name(kind: Namespaces) -> String {
    kind.iter_names().next().map_or_else(|| "unknown".to_owned(), |(name, _)| name.to_lowercase())
}

/// Refuses a descriptor that is no namespace of this kind: setns(2) would say EINVAL to it.
fn check_kind(kind: Namespaces, fd: &OwnedFd) -> Result<()> {
    let cause = match sys::namespace_kind(fd.as_fd()) {
        Ok(found) if found == kind.bits() => return Ok(()),
        Ok(found) => {
            format!("the descriptor is of a namespace of another kind: {}", name(Namespaces::from_bits_truncate(found)))
        }
        Err(Errno(_)) => "the descriptor is of no namespace".to_owned(),
    };
    Err(invalid(&step(kind), &cause).with_errno(libc::EINVAL))
}
