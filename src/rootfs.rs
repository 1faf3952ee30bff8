//! Where the root file system comes from, and what becomes of what is written to it.

use std::path::Path;

#[cfg(feature = "image")]
use crate::layer::mount::Distroless;
use crate::layer::mount::{Root, Source, Writes};

/// The root file system of a sandbox: a snapshot of a userland, read-only unless it says otherwise.
///
/// Whatever it is made from, a sandbox adds a /proc of its own, with the kernel's files masked or read-only; a minimal
/// /dev; and a private, bounded /tmp. Mount points that a directory lacks are made on a private layer over it, never
/// in the directory itself.
///
/// For callers that are root, /proc is read-only as a whole, the program's own `comm` and `oom_score_adj` included: a program
/// whose id is 0 outside owns the kernel's files there, and their modes are those of every /proc, the host's too. It can
/// be written to, and they can be changed, where that is asked for by [`Landlock::allow_write`](crate::Landlock::allow_write)
/// of something in `/proc`, or where [`Seccomp::allow`](crate::Seccomp::allow) names what makes user namespaces.
///
/// What becomes of what the program writes to the root:
///
/// | | |
/// |---|---|
/// | by default | it is refused |
/// | [`ephemeral`](Rootfs::ephemeral) | it is kept in memory, and gone at the end |
/// | [`overlay`](Rootfs::overlay) | it is kept in another directory, and there at the next start |
/// | [`writable`](Rootfs::writable) | it goes through to the directory |
/// | [`copied`](Rootfs::copied) | as ephemeral, in a copy: where the kernel can't stack directories |
///
/// What an ephemeral root and an overlay have kept can be listed, copied out and made an image of:
/// [`Outcome::changes`](crate::Outcome::changes).
///
/// Of these the last that is called counts. /proc, /dev, /tmp and what else is mounted stay what they are; read-only binds
/// in a writable root are held by the mount table alone, since Landlock's rules only add up.
///
/// A path converts into [`Rootfs::dir`], so that `.rootfs("/srv/trixie")` works.
///
/// # Owners
///
/// The kernel lets nobody write to files of an owner who is not mapped: they are nobody's inside, and writing to or in
/// them fails with EACCES, through an overlay too. With the default map, which has the caller's own id and no other, a
/// program can change what belongs to the caller: for a tree that belongs to root map a range of ids
/// ([`Sandbox::uid_map`](crate::Sandbox::uid_map)), or have it [`copied`](Rootfs::copied), which makes everything the caller's.
///
/// # Examples
///
/// ```no_run
/// use belljar::{Rootfs, Sandbox};
///
/// // Writes to the tree as it likes, and leaves it as it was.
/// let sandbox = Sandbox::new().rootfs(Rootfs::dir("/srv/trixie").ephemeral().size(256 << 20));
/// sandbox.command("apt-get").args(["install", "-y", "/debs/hello.deb"]).status()?;
/// # Ok::<(), belljar::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rootfs {
    pub(crate) root: Root,
    /// Whose layers the directories are: they are looked up at the start.
    #[cfg(feature = "image")]
    pub(crate) image: Option<crate::image::Image>,
}

impl Rootfs {
    /// An empty root: what is in it is what the policy puts there.
    pub fn empty() -> Self {
        Self::of(Source::Empty)
    }

    /// An empty root in memory that can be written to, and nothing is added to it: no /proc, no /dev, no /tmp.
    ///
    /// What is in it is what [`Sandbox::entry`](crate::Sandbox::entry) and its like put there, in their order. What is
    /// not protected: the memory has the kernel's bound, half of the machine's; [`Entry::seal`](crate::Entry::seal) of `/`, as the
    /// last entry, makes it read-only.
    pub fn bare() -> Self {
        Self::of(Source::Bare)
    }

    /// Makes missing targets of mounts, directories, files and links in directories of the host too, where these are bound
    /// to be written to: as the caller, and before the program starts. By default that is refused.
    ///
    /// What is not protected: what is made there stays, and what the program of an earlier sandbox has left there decides
    /// where: a link of its leads elsewhere inside, though never out.
    pub fn make_places(mut self) -> Self {
        self.root.make_places = true;
        self
    }

    /// The host's userland: /usr, with /bin, /lib*, and /sbin as they are on the host.
    ///
    /// Of /etc there is what programs need to start: the loader's cache and configuration, the alternatives, the
    /// trusted certificates and the time zone; with [`Network::Host`](crate::Network::Host) also `resolv.conf` and
    /// `hosts`. passwd, group and nsswitch.conf are small ones of the sandbox's own, with root, nobody, and the
    /// program's user. Of /home, /root, /var, /run, /opt and the rest of /etc there is nothing.
    ///
    /// All of this stays read-only when the root is [`ephemeral`](Rootfs::ephemeral): the program can write around it.
    ///
    /// What is not protected: everything in /usr can be read, as by any user of the host.
    pub fn host() -> Self {
        Self::of(Source::Host)
    }

    /// A directory of the host that holds a distribution's userland, with everything mounted below it.
    ///
    /// The directory is never written to, unless it is [`writable`](Rootfs::writable). What the policy puts where the
    /// directory has no place for it is made on an overlay that is private to the sandbox; through that, as through
    /// every other overlay, other file systems mounted below the directory can't be seen. A relative path is taken from the
    /// working directory at the time a command is started. Symbolic links that the system has not made are refused: see
    /// [`Sandbox::bind`](crate::Sandbox::bind).
    ///
    /// # Kernel
    ///
    /// The private layer needs Linux 5.11 without root.
    pub fn dir(path: impl AsRef<Path>) -> Self {
        Self::of(Source::Dir(path.as_ref().to_owned()))
    }

    /// Directories of the host that are stacked, as the layers of an image are: the first is the lowest, and of files
    /// with the same path the last directory's is seen. At most 499.
    ///
    /// None may be there twice or lie in another. While a sandbox runs, nothing else should change them: what the program
    /// sees then is undefined (the kernel's documentation of overlayfs), though never anything but what is in them. A
    /// directory hides what lies below it by overlayfs's marks: a character device 0/0, or the attributes
    /// `user.overlay.opaque` and `user.overlay.whiteout`. What carries marks that lead elsewhere can't be opened, or is what it
    /// would be without.
    ///
    /// # Kernel
    ///
    /// Linux 5.11 without root. The marks in attributes other than `opaque` need 6.7.
    pub fn layers<P: AsRef<Path>>(dirs: impl IntoIterator<Item = P>) -> Self {
        Self::of(Source::Layers(dirs.into_iter().map(|dir| dir.as_ref().to_owned()).collect()))
    }

    /// The layers of an image, stacked.
    ///
    /// They are those of the [`Store`](crate::Store) that has unpacked the image; one that is not unpacked is unpacked into
    /// the caller's own store ([`Store::open_default`](crate::Store::open_default)) when a command is started.
    #[cfg(feature = "image")]
    pub fn image(image: &crate::image::Image) -> Self {
        Rootfs { image: Some(image.clone()), ..Self::layers::<&Path>([]) }
    }

    fn of(source: Source) -> Self {
        Rootfs {
            root: source.into(),
            #[cfg(feature = "image")]
            image: None,
        }
    }

    /// Lets the program write through to the directory. Only for [`dir`](Rootfs::dir).
    ///
    /// The sandbox itself makes nothing there: /proc, /dev, /tmp, and the place of everything else that is mounted have to
    /// exist, or the start fails.
    pub fn writable(self) -> Self {
        self.written(Writes::Through)
    }

    /// Keeps what the program writes in memory, private to this run and gone at its end: 1 GiB and 65,536 files at most,
    /// or as [`size`](Rootfs::size) and [`inodes`](Rootfs::inodes) say. The directories below are never changed.
    ///
    /// What an overlay can't do: a directory from below is not renamed (EXDEV: mv(1) copies it), and a file with several
    /// names is one file for each name once it is written to.
    ///
    /// # Kernel
    ///
    /// Linux 6.6, where a tmpfs has the attributes that an overlay marks removed directories with; before, the start
    /// fails, and [`copied`](Rootfs::copied) and [`overlay`](Rootfs::overlay) are left.
    pub fn ephemeral(self) -> Self {
        self.written(Writes::Ephemeral)
    }

    /// Keeps what the program writes in `base`, an existing directory of the caller's, where it is there at the next start.
    ///
    /// In `base` the sandbox makes two directories: `diff`, with what the program has made and changed, and overlayfs's marks for
    /// what it has removed; and `work`, which is overlayfs's own, with a
    /// directory in it that nobody may enter (mode 0). While a sandbox runs, it holds a lock (flock(2)) on
    /// `base`, and the start of another one on it fails. The layers have to be the same at each start.
    ///
    /// What is not protected: `diff` is the program's: names, links, FIFOs and modes in there are its choice.
    ///
    /// As with [`ephemeral`](Rootfs::ephemeral), directories from below are not renamed, and hard links from below are broken.
    ///
    /// # Kernel
    ///
    /// Linux 5.11 without root. The file system has to have attributes in `user.*`, as those on disks have and tmpfs has from
    /// 6.6 on, and can't be an overlay itself, as a container's root is.
    pub fn overlay(self, base: impl AsRef<Path>) -> Self {
        self.written(Writes::Kept(base.as_ref().to_owned()))
    }

    /// Copies the directories into memory at every start, for the program to change: as [`ephemeral`](Rootfs::ephemeral),
    /// with the same bounds, on hosts where that does not work. Only for [`dir`](Rootfs::dir) and
    /// [`layers`](Rootfs::layers).
    ///
    /// The start takes as long as the copy. What the caller may not read is left out, and so are devices and attributes;
    /// hard links become files of their own; files whose owner is not mapped become the caller's.
    ///
    /// # Kernel
    ///
    /// A copy of one directory needs no overlay. Layers need Linux 5.11 without root.
    pub fn copied(self) -> Self {
        self.written(Writes::Copied)
    }

    /// Sets how many bytes an [`ephemeral`](Rootfs::ephemeral) or [`copied`](Rootfs::copied) root takes at most, in whole
    /// pages: at least 1, at most 2^63 - 1. The default is 1 GiB.
    pub fn size(mut self, bytes: u64) -> Self {
        self.root.size = Some(bytes);
        self
    }

    /// Sets how many files and directories such a root takes at most, some of the overlay's own included: at least 1.
    /// The default is 65,536.
    pub fn inodes(mut self, inodes: u64) -> Self {
        self.root.inodes = Some(inodes);
        self
    }

    fn written(mut self, writes: Writes) -> Self {
        self.root.writes = writes;
        self
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
        Self::of(Source::Distroless(distroless))
    }
}

impl<P: AsRef<Path>> From<P> for Rootfs {
    fn from(path: P) -> Self {
        Rootfs::dir(path)
    }
}
