//! A policy made ready for many starts.

use std::ffi::OsStr;
use std::sync::Arc;

use crate::command::Command;
use crate::compile::template;
use crate::error::Result;
use crate::plan::Template;
use crate::pool::Pool;
use crate::sandbox::Sandbox;

/// A policy of which all that starts can have in common is made once: a root that is mounted, and what is compiled.
///
/// It is cheap to clone, and starts programs from any number of threads at once. A start takes three fifths of the time of
/// one from the [`Sandbox`] itself (`benches/README.md` says how that is measured), and isolates as much: what a program can write to, its processes, users, names and
/// network are its own, and gone with it. To have sandboxes built ahead, make a [`pool`](Prepared::pool).
///
/// What no program can write to is the same for all, as files of the host's are: locks on it (flock(2)) and notices of its
/// use (inotify(7)) reach from one sandbox to another.
///
/// What the policy refers to on the host is taken when it is prepared:
///
/// - The content of files and directories is seen as it is, whenever it was changed. One that was renamed, removed or
///   replaced by another since is the old one, as for a process that has it open. But where it is bound below what each
///   start has for itself, such as /tmp, the kernel binds nothing that is removed, and starts fail.
/// - File systems that are mounted below a bind source later are not seen, and those that are unmounted on the host stay.
/// - Small files of the host that [`Rootfs::host`](crate::Rootfs::host) copies are as they were.
///
/// It holds some file descriptors, and no process and no memory of note. Those are closed with the last clone, command,
/// and pool of it.
///
/// Some policies leave nothing to share, and each start is an ordinary one: with id maps that take more than the caller's
/// own ids, a root that keeps what is written apart ([`ephemeral`](crate::Rootfs::ephemeral),
/// [`overlay`](crate::Rootfs::overlay), [`copied`](crate::Rootfs::copied)), copies, a /proc of the caller's, links inside
/// on the way to a mount, or without a user, mount or PID namespace. With [`Network::Loopback`](crate::Network::Loopback),
/// or with capabilities that are kept, each start makes a network namespace, which takes as long as all else.
/// [`Command::plan`] shows what is done.
///
/// # Examples
///
/// ```
/// use belljar::{Rootfs, Sandbox};
///
/// let prepared = Sandbox::new().rootfs(Rootfs::host()).prepare()?;
/// for name in ["one", "two", "three"] {
///     let output = prepared.command("echo").arg(name).output()?;
///     assert_eq!(output.stdout, format!("{name}\n").into_bytes());
/// }
/// # Ok::<(), belljar::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Prepared {
    sandbox: Arc<Sandbox>,
    template: Option<Arc<Template>>,
}

impl Sandbox {
    /// Makes what the starts from this policy can have in common: see [`Prepared`].
    ///
    /// # Errors
    ///
    /// As for [`Command::spawn`], as far as they are not about the program.
    pub fn prepare(&self) -> Result<Prepared> {
        let command = self.command("/");
        command.plan()?;
        let template = template(&command)?.map(Arc::new);
        Ok(Prepared { sandbox: Arc::new(self.clone()), template })
    }
}

impl Prepared {
    /// Starts a command line, as [`Sandbox::command`] does.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(self.sandbox.clone(), program.as_ref());
        command.template = self.template.clone();
        command
    }

    /// Builds `size` sandboxes ahead, and keeps as many ready by a thread of the pool's own.
    ///
    /// # Errors
    ///
    /// As for [`Command::spawn`]: of the sandboxes, the first that can't be built.
    pub fn pool(&self, size: usize) -> Result<Pool> {
        Pool::new(self, size)
    }

    /// Like [`pool`](Prepared::pool), without a thread: [`Pool::refill`] has to be called from time to time.
    ///
    /// # Errors
    ///
    /// As for `pool`.
    pub fn pool_by_hand(&self, size: usize) -> Result<Pool> {
        Pool::by_hand(self, size)
    }

    pub(crate) fn sandbox(&self) -> &Arc<Sandbox> {
        &self.sandbox
    }
}
