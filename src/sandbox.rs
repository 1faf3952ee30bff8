//! The policy.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::command::Command;
use crate::layer::capabilities::Capabilities;
use crate::layer::ids::{IdMap, Ids};
use crate::layer::inherit::Inherit;
use crate::layer::landlock::Landlock;
use crate::layer::limits::Limits;
use crate::layer::mount::{Entry, Mount, Tmpfs};
use crate::layer::namespaces::{Join, Namespaces};
use crate::layer::network::Network;
use crate::layer::seccomp::Seccomp;
use crate::plan::{Content, Hook};
use crate::rootfs::Rootfs;

/// A policy: what a program gets to see and to use. A plain value, to be built once and used for many commands.
///
/// Every setter takes the policy and returns it, never fails and touches nothing: what does not fit is told when a
/// [`Command`] is started. The default denies: every namespace (but for time), an empty root, no network, no
/// capabilities, nothing of the host's environment or descriptors.
///
/// # Examples
///
/// ```no_run
/// use belljar::{Rootfs, Sandbox};
///
/// let sandbox = Sandbox::new()
///     .rootfs(Rootfs::host())
///     .bind("/home/me/project", "/work")
///     .hostname("build");
/// let output = sandbox.command("make").current_dir("/work").output()?;
/// # Ok::<(), belljar::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    pub(crate) rootfs: Option<Rootfs>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) namespaces: Option<Namespaces>,
    /// Namespaces that somebody else has made.
    pub(crate) join: Join,
    pub(crate) ids: Ids,
    /// What writes the maps of ids, if that is the caller's own.
    pub(crate) maps: Option<Hook>,
    pub(crate) hostname: Option<String>,
    pub(crate) network: Option<Network>,
    pub(crate) capabilities: Capabilities,
    pub(crate) landlock: Landlock,
    pub(crate) seccomp: Option<Seccomp>,
    pub(crate) limits: Limits,
    /// The directory of cgroup version 2 that the sandbox gets its own below.
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) inherit: Inherit,
    /// Whether user namespaces may be made inside.
    pub(crate) nests: bool,
    /// Whether the program is process 1.
    pub(crate) program_is_init: bool,
    /// Whether the program ends with the thread that starts it.
    pub(crate) ends_with_thread: bool,
    /// What says what the caller leaves open.
    #[cfg(feature = "image")]
    pub(crate) image: Option<crate::image::Image>,
}

impl Sandbox {
    /// The default policy: every namespace but [`TIME`](Namespaces::TIME), an empty root, no network, the caller's
    /// own ids, no capabilities.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the root file system. The default is [`Rootfs::empty`]. Needs [`Namespaces::MOUNT`]; without that, the
    /// program has the host's files as they are.
    pub fn rootfs(mut self, root: impl Into<Rootfs>) -> Self {
        self.rootfs = Some(root.into());
        self
    }

    /// Puts a file or directory of the host at `target`, an absolute path inside, to read and write it there.
    ///
    /// File systems mounted below the directory come along, as they are when the sandbox starts. Set-user-ID bits and
    /// devices have no effect. The program does there what the caller may do: files that it makes belong to the id
    /// that its own is mapped to. What is put later covers what was put earlier; a missing target is made, but never in a
    /// directory of the host.
    ///
    /// A relative `source` is taken from the working directory at the time a command is started. A symbolic link in
    /// `source` is followed where the system has made it (in /, /var, and anywhere in /usr, /etc and the like) and
    /// refused elsewhere: an earlier sandbox may have left it there. Pass what [`std::fs::canonicalize`] returns
    /// for links of your own.
    ///
    /// What is not protected: sockets and FIFOs below `source` can be connected to and written, as by the caller.
    pub fn bind(self, source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        self.mount(Mount::Bind { source: source.as_ref().into(), target: target.as_ref().into(), write: true })
    }

    /// Like [`bind`](Sandbox::bind), but read-only, and so is every file system mounted below.
    ///
    /// What is not protected: sockets and FIFOs can be used even so; read-only means that no file is changed.
    pub fn bind_ro(self, source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        self.mount(Mount::Bind { source: source.as_ref().into(), target: target.as_ref().into(), write: false })
    }

    /// Puts an empty, writable file system in memory at a path inside: 1 GiB at most, or as [`Tmpfs`] says.
    pub fn tmpfs(self, tmpfs: impl Into<Tmpfs>) -> Self {
        self.mount(Mount::Tmpfs(tmpfs.into()))
    }

    /// Puts a copy of a directory of the host at a path inside, in memory: for the program to change, and gone at the end.
    ///
    /// The bounds are those of the tmpfs that it is in; what does not fit makes the start fail. Links are copied as links, and
    /// none is followed, in `source` or on the way to it ([`bind`](Sandbox::bind) says which of those are allowed). What the
    /// caller may not read is left out, and so are devices and attributes; files whose owner is not mapped become the
    /// caller's. The start takes as long as the copy: to read is all that [`bind_ro`](Sandbox::bind_ro) needs.
    ///
    /// # Examples
    ///
    /// ```
    /// use belljar::{Rootfs, Sandbox, Tmpfs};
    ///
    /// let sandbox = Sandbox::new()
    ///     .rootfs(Rootfs::host())
    ///     .copy_in("/etc/ssl", Tmpfs::new("/work").size(16 << 20));
    /// assert!(sandbox.command("sh").args(["-c", "rm -r /work/certs"]).status()?.success());
    /// # Ok::<(), belljar::Error>(())
    /// ```
    pub fn copy_in(self, source: impl AsRef<Path>, target: impl Into<Tmpfs>) -> Self {
        self.mount(Mount::Copy { source: source.as_ref().into(), target: target.into() })
    }

    /// Makes a directory, mode 0755, with its parents. In the root it is read-only, in a tmpfs it is not.
    pub fn dir(self, path: impl AsRef<Path>) -> Self {
        self.mount(Mount::Dir(path.as_ref().into()))
    }

    /// Puts a read-only file with this content, mode 0444, at a path inside, over what is there.
    pub fn file(self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Self {
        self.mount(Mount::File { path: path.as_ref().into(), data: Content(content.as_ref().into()) })
    }

    /// Makes a symbolic link to `target` at `link`, a path inside. If the same link is there, it stays.
    pub fn symlink(self, target: impl AsRef<Path>, link: impl AsRef<Path>) -> Self {
        self.mount(Mount::Symlink { target: target.as_ref().into(), link: link.as_ref().into() })
    }

    /// Hides a file or directory inside behind an empty, read-only one. What does not exist needs no mask.
    ///
    /// What is not protected: the mask is over the path, and lasts as long as the sandbox. Below a writable bind, the
    /// program can move a directory above it, and then a later sandbox finds the file elsewhere.
    pub fn mask(self, path: impl AsRef<Path>) -> Self {
        self.mount(Mount::Mask(path.as_ref().into()))
    }

    /// Puts something there that says more about itself: see [`Entry`].
    pub fn entry(self, entry: Entry) -> Self {
        self.mount(Mount::Entry(entry))
    }

    fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// Sets the namespaces that the sandbox has of its own. The default is [`Namespaces::default`]: all but time.
    pub fn namespaces(mut self, namespaces: Namespaces) -> Self {
        self.namespaces = Some(namespaces);
        self
    }

    /// Has the sandbox join a namespace that somebody else has made, by an open `/proc/ID/ns/user` or `/proc/ID/ns/pid`, in
    /// the place of one of its own. The default is none. `namespace` is [`Namespaces::USER`] or [`Namespaces::PID`], which the
    /// default of [`namespaces`](Sandbox::namespaces) then leaves out.
    ///
    /// In a joined user namespace the ids are as it maps them: the program's user is the caller, whatever that is called
    /// there, or the one of [`user`](Sandbox::user), which has to be mapped. A caller that is not mapped has to name one. The
    /// sandbox may still have all other namespaces of its own.
    ///
    /// In a joined PID namespace the program is one process among others, and /proc shows them all. It has to belong to the user
    /// namespace that is joined, unless the caller is root and [`Namespaces::USER`] is left out. With [`Namespaces::PID`] named
    /// in `namespaces`, the sandbox has its own below it, with an init, and only the processes of the joined one see into that.
    ///
    /// Filters, rules, limits and the loss of capabilities are those of any sandbox. It is always started in the ordinary way,
    /// prepared or not, and in a copy of the host's memory, which takes the longer, the larger that is.
    ///
    /// A hook of [`Command::before_exec`] has no way to look into the process's files in /proc there, unless it is root's.
    ///
    /// What is not protected: the sandbox from those who are in the namespaces already. Who has capabilities in the user
    /// namespace, or the program's user id, can signal and trace what it can name: everything in a joined PID namespace, or in one
    /// above it. Nor they from the program, as far as its rules let it: it sees in a joined /proc what they run and with which
    /// arguments, and may send signals to the same user (from Linux 6.12 on, [`Landlock`] forbids that). The host's own arguments
    /// can be seen there for a moment; its memory and descriptors can't, but by who has `CAP_SYS_PTRACE` in the host's user
    /// namespace. A joined PID namespace ends with its own process 1 and takes the sandbox along; what the program leaves behind
    /// in it stays. The number of user namespaces that may be made inside is not bounded: that would bind the others too.
    ///
    /// # Errors
    ///
    /// [`Command::spawn`] and [`Command::plan`] refuse, as [`InvalidPolicy`](crate::ErrorKind::InvalidPolicy), a descriptor of
    /// anything but such a namespace, two of a kind, any other kind, and what contradicts it: [`Namespaces::USER`] to be made
    /// and joined, a [`uid_map`](Sandbox::uid_map), a PID namespace with a user namespace that is not the one it belongs to.
    /// What the kernel refuses is an [`Os`](crate::ErrorKind::Os) error of the step `setns joined ...`.
    ///
    /// # Kernel
    ///
    /// setns(2) wants `CAP_SYS_ADMIN` in the user namespace, which the user has who has made it from the caller's own.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::File;
    /// use std::process::{Command, Stdio};
    /// use belljar::{Namespaces, Rootfs, Sandbox};
    ///
    /// // A user namespace, held by a process that ends with its standard input.
    /// let mut holder = Command::new("unshare")
    ///     .args(["--user", "--map-root-user", "sh", "-c", "echo; read line"])
    ///     .stdin(Stdio::piped())
    ///     .stdout(Stdio::piped())
    ///     .spawn()?;
    /// std::io::Read::read_exact(holder.stdout.as_mut().expect("it is piped"), &mut [0])?;
    /// let user = File::open(format!("/proc/{}/ns/user", holder.id()))?;
    ///
    /// let sandbox = Sandbox::new().rootfs(Rootfs::host()).join(Namespaces::USER, user);
    /// assert_eq!(sandbox.command("id").arg("-u").output()?.stdout, b"0\n");
    /// # drop(holder.stdin.take());
    /// # holder.wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn join(mut self, namespace: Namespaces, fd: impl Into<OwnedFd>) -> Self {
        self.join.add(namespace, fd.into());
        self
    }

    /// Has the program go on to this user namespace when its root is built: one that lies below the one that is
    /// [joined](Sandbox::join). Then it has no rights over the sandbox's own namespaces, whatever capabilities it keeps. The
    /// default is none.
    ///
    /// A root caller who leaves [`Namespaces::USER`] out needs to join none before. No other command can enter the sandbox:
    /// [`Child::command`](crate::Child::command) says so.
    ///
    /// What is not protected: as for `join`.
    ///
    /// # Errors
    ///
    /// As for `join`, of the step `setns inner user`.
    pub fn inner_user_namespace(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.join.set_inner(fd.into());
        self
    }

    /// Has `hook` write the maps of ids of the sandbox's own user namespace, in the host process, before anything else is set
    /// up there. It gets the id of a process that is in the namespace until the program runs: for `/proc/ID/uid_map`, or
    /// newuidmap(1). By default the library writes what [`uid_map`](Sandbox::uid_map) says.
    ///
    /// The program's user is the caller, whatever that is called then, or the one of [`user`](Sandbox::user), which has to be
    /// mapped. The hook is called at every start, in the thread that starts. If it fails, so does the start. Needs
    /// [`Namespaces::USER`].
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`](crate::ErrorKind::InvalidPolicy): there are maps too, or there is no user namespace to be made.
    ///
    /// # Examples
    ///
    /// ```
    /// use belljar::{Rootfs, Sandbox};
    ///
    /// let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    /// let sandbox = Sandbox::new().rootfs(Rootfs::host()).write_id_maps(move |pid| {
    ///     std::fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    ///     std::fs::write(format!("/proc/{pid}/gid_map"), format!("7 {gid} 1"))?;
    ///     std::fs::write(format!("/proc/{pid}/uid_map"), format!("7 {uid} 1"))
    /// });
    /// assert_eq!(sandbox.command("id").arg("-u").output()?.stdout, b"7\n");
    /// # Ok::<(), belljar::Error>(())
    /// ```
    pub fn write_id_maps(mut self, hook: impl Fn(u32) -> io::Result<()> + Send + Sync + 'static) -> Self {
        self.maps = Some(Hook(Arc::new(hook)));
        self
    }

    /// Adds a line to the map of user ids. Without any, the program's user is the caller, and no other id exists.
    ///
    /// A caller without privilege can map more than itself only to ids that `/etc/subuid` gives it, and needs
    /// newuidmap(1) from Debian's package `uidmap` for that. Root can map any. Needs [`Namespaces::USER`].
    pub fn uid_map(mut self, line: IdMap) -> Self {
        self.ids.uid_map.push(line);
        self
    }

    /// Adds a line to the map of group ids: as [`uid_map`](Sandbox::uid_map), with `/etc/subgid`.
    pub fn gid_map(mut self, line: IdMap) -> Self {
        self.ids.gid_map.push(line);
        self
    }

    /// Sets the ids, as seen inside, that the program runs as. They must be mapped; with no map, they are mapped to the
    /// caller.
    ///
    /// The default is the caller's own, or the first of the map if that has not the caller.
    ///
    /// The supplementary groups of a root caller stay outside, but for its own group where that is the program's too. Those of a caller without privilege can't: the kernel
    /// lets nobody leave a group that a file may exclude by its mode. The program then has, on what is bound in, the
    /// access that they give; only maps by newuidmap(1) and newgidmap(1) leave them outside.
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.ids.user = Some((uid, gid));
        self
    }

    /// Sets the host name inside: 1 to 64 printable characters. The default is `belljar`. Needs [`Namespaces::UTS`].
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.hostname = Some(name.into());
        self
    }

    /// Sets the network. The default is [`Network::None`] with [`Namespaces::NET`], and the host's without it;
    /// [`Network::Host`] alone leaves that namespace out.
    pub fn network(mut self, network: Network) -> Self {
        self.network = Some(network);
        self
    }

    /// Sets the capabilities that the program keeps. The default is none.
    pub fn capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Sets the Landlock rules. The default is [`Landlock::derived`].
    pub fn landlock(mut self, landlock: Landlock) -> Self {
        self.landlock = landlock;
        self
    }

    /// Sets what of the host process's own state the program keeps. The default is nothing: it starts with the same values
    /// whatever the host has set.
    pub fn inherit(mut self, inherit: Inherit) -> Self {
        self.inherit = inherit;
        self
    }

    /// Lets user namespaces be made inside, and with them sandboxes, as far as the filter of system calls does. By default
    /// the kernel refuses them, with or without a filter.
    ///
    /// What is not protected: in a user namespace of its own a program has every capability over what it makes there, and
    /// so reaches more of the kernel.
    pub fn user_namespaces_inside(mut self) -> Self {
        self.nests = true;
        self
    }

    /// Makes the program process 1 of its PID namespace. The default is a small init, with the program as process 2. Needs
    /// [`Namespaces::PID`].
    ///
    /// What is not protected: signals that process 1 has no handler for do nothing, and processes that are left behind stay
    /// zombies unless it waits for them. The sandbox ends with the handle, but not with a host process that is killed.
    pub fn program_is_init(mut self) -> Self {
        self.program_is_init = true;
        self
    }

    /// Kills the program when the thread that has started it ends: PR_SET_PDEATHSIG(2const). By default, and without need
    /// of this, everything in a sandbox with an init ends with the host process; this is for those without, and then for the
    /// program alone.
    ///
    /// What is not protected: a program that gains privilege by an exec, which no_new_privs forbids, or that asks for
    /// another signal, lives on.
    pub fn end_with_thread(mut self) -> Self {
        self.ends_with_thread = true;
        self
    }

    /// Sets the filter of system calls. The default is [`Seccomp::container`].
    pub fn seccomp(mut self, seccomp: Seccomp) -> Self {
        self.seccomp = Some(seccomp);
        self
    }

    /// Sets what the sandbox may use. The default is [`Limits::new`]: no limit of its own.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the directory of cgroup version 2, delegated to the caller, that the sandbox gets its own cgroup in.
    ///
    /// The default is the caller's own cgroup, if that is delegated to it, where the policy has a limit that needs one. The
    /// kernel gives controllers only to groups whose parent has no processes of its own: a directory that is named here gets
    /// those enabled that are needed, and so must have none. The host process is never moved.
    ///
    /// Each sandbox has a group there for itself, called `belljar-` and a number, and it is removed with the sandbox. What a
    /// host process leaves that is killed, the next one removes that uses the directory.
    ///
    /// # Kernel
    ///
    /// `Usage::peak_memory` is counted there since Linux 5.19.
    pub fn cgroup(mut self, directory: impl AsRef<Path>) -> Self {
        self.cgroup = Some(directory.as_ref().into());
        self
    }

    /// Starts a command line: `program` is a path inside, or a name that is looked for in the program's `PATH`, inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command::new(Arc::new(self.clone()), program.as_ref())
    }
}
