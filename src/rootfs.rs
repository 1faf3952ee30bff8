//! Where the root file system comes from.

use std::path::Path;

#[cfg(feature = "image")]
use crate::layer::mount::Distroless;
use crate::layer::mount::Source;

/// The root file system of a sandbox: a snapshot of a userland, read-only.
///
/// Whatever it is made from, a sandbox adds a /proc of its own, with the kernel's files masked or read-only; a minimal
/// /dev; and a private, bounded /tmp. Mount points that a directory lacks are made on a private layer over it, never
/// in the directory itself.
///
/// A path converts into [`Rootfs::dir`], so that `.rootfs("/srv/trixie")` works.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rootfs(pub(crate) Source);

impl Rootfs {
    /// An empty root: what is in it is what the policy puts there.
    pub fn empty() -> Self {
        Rootfs(Source::Empty)
    }

    /// The host's userland: /usr, with /bin, /lib*, and /sbin as they are on the host.
    ///
    /// Of /etc there is what programs need to start: the loader's cache and configuration, the alternatives, the
    /// trusted certificates and the time zone; with [`Network::Host`](crate::Network::Host) also `resolv.conf` and
    /// `hosts`. passwd, group and nsswitch.conf are small ones of the sandbox's own, with root, nobody, and the
    /// program's user. Of /home, /root, /var, /run, /opt and the rest of /etc there is nothing.
    ///
    /// What is not protected: everything in /usr can be read, as by any user of the host.
    pub fn host() -> Self {
        Rootfs(Source::Host)
    }

    /// A directory of the host that holds a distribution's userland, with everything mounted below it.
    ///
    /// The directory is never written to. What the policy puts where the directory has no place for it is made on an
    /// overlay that is private to the sandbox; through that, other file systems mounted below the directory can't
    /// be seen. A relative path is taken from the working directory at the time a command is started. Symbolic links
    /// that the system has not made are refused: see [`Sandbox::bind`](crate::Sandbox::bind).
    ///
    /// # Kernel
    ///
    /// The private layer needs Linux 5.11 without root.
    pub fn dir(path: impl AsRef<Path>) -> Self {
        Rootfs(Source::Dir(path.as_ref().to_owned()))
    }

    /// The smallest root that runs one program of the host: it, its loader and libraries, and a few small files. A script's
    /// is that of its interpreter. A relative path is taken from the working directory at the time a command is started.
    ///
    /// [`Distroless`] says what is in it, and takes more. Needs the feature `image`.
    ///
    /// # Examples
    ///
    /// ```
    /// use belljar::{Rootfs, Sandbox};
    ///
    /// let sandbox = Sandbox::new().rootfs(Rootfs::distroless("/usr/bin/id").with_user("app", 1000)).user(1000, 1000);
    /// ```
    #[cfg(feature = "image")]
    pub fn distroless(program: impl AsRef<Path>) -> Distroless {
        Distroless::new(program.as_ref())
    }
}

#[cfg(feature = "image")]
impl From<Distroless> for Rootfs {
    fn from(distroless: Distroless) -> Self {
        Rootfs(Source::Distroless(distroless))
    }
}

impl<P: AsRef<Path>> From<P> for Rootfs {
    fn from(path: P) -> Self {
        Rootfs::dir(path)
    }
}
