//! One step, its layer, and how it is told.

use std::ffi::{CStr, CString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Layer;
use crate::sys::{BpfInstruction, CStringArray, LandlockHandled};

/// What the kernel is asked for, once.
#[derive(Debug)]
pub(crate) enum Step {
    /// Clones a process into new namespaces, or into those of its parent.
    Clone {
        process: &'static str,
        namespaces: u64,
        memory: Memory,
    },
    /// Writes the id maps of the holder from outside.
    Maps {
        uid: MapLines,
        gid: MapLines,
    },
    /// Writes a file of the process's own in /proc.
    WriteProc {
        layer: Layer,
        path: &'static CStr,
        data: Vec<u8>,
    },
    /// Joins the namespaces of the holder.
    EnterHolder {
        namespaces: u64,
    },
    /// Kills the holder, whose user namespace the process is in.
    EndHolder,
    /// Makes namespaces that start with the next process.
    Unshare {
        namespaces: u64,
    },
    /// Hands the network namespace to init.
    PassNetwork,
    /// Joins the network namespace that the cell has made meanwhile.
    JoinNetwork,
    /// Brings the loopback interface up.
    LoopbackUp,
    /// Sets the host name.
    Hostname {
        name: CString,
    },
    /// Clears the NIS domain name.
    Domainname,
    /// Cuts the copied mounts off from the host's.
    Private,
    /// Mounts the tmpfs that everything of our own is made on; it goes with the host's mounts.
    Workspace,
    /// Makes an empty root.
    RootEmpty,
    /// Makes a directory of the host the root, read-only.
    RootDir {
        source: HostPath,
    },
    /// Makes a directory of the host the root, under a private layer for what it lacks.
    RootLayered {
        source: HostPath,
    },
    /// Mounts an overlay of empty directories, and lets go of it: only the probe does.
    OverlayTrial,
    /// Makes a directory.
    Dir {
        at: Inside,
    },
    /// Makes a file with this content.
    File {
        at: Inside,
        name: CString,
        data: Content,
    },
    /// Makes a symbolic link.
    Symlink {
        target: CString,
        at: Inside,
    },
    /// Binds a file or directory of the host, and all that is mounted below.
    Bind {
        source: HostPath,
        at: Inside,
        attributes: u64,
    },
    /// Mounts a tmpfs.
    Tmpfs {
        at: Inside,
        size: CString,
        inodes: CString,
        mode: CString,
        attributes: u64,
    },
    /// Mounts the cell's own /proc.
    Proc {
        at: Inside,
    },
    /// Mounts a devpts of the cell's own.
    Devpts {
        at: Inside,
    },
    /// Hides a file or directory behind an empty one.
    Mask {
        at: Inside,
    },
    /// Makes a part of a mount read-only.
    Protect {
        at: Inside,
    },
    /// Makes a mount read-only.
    Seal {
        at: Inside,
        attributes: u64,
    },
    /// Makes the new root the root, and lets go of the host's.
    Pivot,
    /// Becomes init, from a file of this mode.
    ExecInit {
        mode: u32,
        securebits: u64,
        argv: CStringArray,
        envp: CStringArray,
    },
    /// Starts a session of its own, with no controlling terminal.
    Setsid,
    /// Leaves an inherited standard stream open.
    Inherit {
        fd: i32,
    },
    /// Puts a descriptor in its place.
    Install {
        what: &'static str,
        given: usize,
        fd: i32,
    },
    /// Puts /dev/null in its place: the cell's, or what the host has opened where there is none.
    InstallNull {
        given: usize,
        write: bool,
        fd: i32,
    },
    /// Closes all other descriptors.
    CloseRest {
        ranges: Vec<[u32; 2]>,
    },
    /// Offers the process to the out-of-memory killer before the host.
    OomScore {
        data: &'static [u8],
    },
    Nice,
    IoPriority,
    Affinity,
    Personality,
    TimerSlack {
        nanoseconds: u64,
    },
    Umask {
        mask: u32,
    },
    /// Lowers a resource limit to a defined value.
    Limit {
        name: &'static str,
        resource: u32,
        soft: u64,
        hard: u64,
    },
    /// Leaves the supplementary groups.
    DropGroups,
    SetGid {
        id: u32,
    },
    SetUid {
        id: u32,
    },
    Securebits {
        bits: u64,
    },
    BoundingSet {
        kept: u64,
    },
    AmbientSet,
    CapabilitySets {
        kept: u64,
    },
    RaiseAmbient {
        kept: u64,
    },
    NoNewPrivs,
    Chdir {
        path: CString,
    },
    /// Makes a set of Landlock rules.
    LandlockRuleset {
        handled: LandlockHandled,
        version: u32,
    },
    /// Allows what lies at a path inside; `file` is what makes sense if that is no directory.
    LandlockPath {
        path: CString,
        access: u64,
        file: u64,
    },
    /// Allows a TCP port.
    LandlockPort {
        port: u16,
        access: u64,
    },
    /// Allows to open the files among what is passed once more, for what they are open for.
    LandlockPassed {
        fds: Vec<i32>,
        read: u64,
        write: u64,
    },
    /// Takes the rules upon itself, for good.
    LandlockRestrict {
        flags: u32,
    },
    /// Takes a filter of system calls upon itself, for good.
    Seccomp {
        program: Arc<[BpfInstruction]>,
    },
    /// Resets every signal action, then unblocks all.
    Signals,
    /// Becomes the program: the first of `candidates` that can be executed.
    Exec {
        program: CString,
        candidates: Vec<CString>,
        argv: CStringArray,
        envp: CStringArray,
    },
}

/// A map of ids, and who writes it.
#[derive(Clone, Debug)]
pub(crate) struct MapLines {
    /// Inside, outside, count.
    pub(crate) lines: Vec<[u32; 3]>,
    /// Whether newuidmap(1) or newgidmap(1) has to.
    pub(crate) helper: bool,
}

/// Whose memory a child runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// The host's, as with vfork(2): the cost does not grow with the host.
    Shared,
    /// A copy, as with fork(2): for a child that changes its ids. In shared memory that would clear the dumpable
    /// flag of the host, and let processes of the new id reach the host's memory.
    Copied,
    /// The host's, or a copy where the kernel refuses a time namespace in shared memory, as Linux 6.1 does.
    SharedIfAllowed,
}

/// What a file gets to hold.
#[derive(Clone)]
pub(crate) struct Content(pub(crate) Arc<[u8]>);

impl fmt::Debug for Content {
    /// Leaves the bytes out: they may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

/// An absolute path of the host that has no symbolic links.
#[derive(Clone, Debug)]
pub(crate) struct HostPath(pub(crate) CString);

/// What a path inside is, where it has to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InsideKind {
    Dir,
    File,
}

/// An absolute path inside, split up for making what is missing.
#[derive(Clone, Debug)]
pub(crate) struct Inside {
    pub(crate) path: CString,
    pub(crate) kind: InsideKind,
    /// Each component from the top: the directory that holds it, and its name.
    pub(crate) components: Vec<[CString; 2]>,
}

/// What a step failed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operand {
    /// The call itself.
    Call,
    /// What it takes from the host.
    Source,
    /// The place inside.
    Target,
}

/// Why a step failed: what its child reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) errno: i32,
    pub(crate) operand: Operand,
}

/// Mount attributes: see mount_setattr(2).
pub(crate) mod attr {
    pub(crate) const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    pub(crate) const NO_SUID: u64 = libc::MOUNT_ATTR_NOSUID;
    pub(crate) const NO_DEV: u64 = libc::MOUNT_ATTR_NODEV;
    pub(crate) const NO_EXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
}

impl Step {
    /// The layer that the step belongs to.
    pub(crate) fn layer(&self) -> Layer {
        match self {
            Step::Clone { .. } | Step::EnterHolder { .. } | Step::Unshare { .. } => Layer::Namespaces,
            Step::EndHolder | Step::Hostname { .. } | Step::Domainname => Layer::Namespaces,
            Step::Maps { .. } | Step::DropGroups | Step::SetGid { .. } | Step::SetUid { .. } => Layer::Ids,
            Step::WriteProc { layer, .. } => *layer,
            Step::LoopbackUp | Step::PassNetwork | Step::JoinNetwork => Layer::Network,
            Step::Inherit { .. } | Step::Install { .. } | Step::InstallNull { .. } | Step::CloseRest { .. } => {
                Layer::Fds
            }
            Step::Limit { .. } => Layer::Limits,
            Step::Securebits { .. }
            | Step::BoundingSet { .. }
            | Step::AmbientSet
            | Step::CapabilitySets { .. }
            | Step::RaiseAmbient { .. }
            | Step::NoNewPrivs => Layer::Capabilities,
            Step::Setsid
            | Step::OomScore { .. }
            | Step::Nice
            | Step::IoPriority
            | Step::Affinity
            | Step::Personality
            | Step::TimerSlack { .. }
            | Step::Umask { .. }
            | Step::Chdir { .. }
            | Step::Signals => Layer::Process,
            Step::LandlockRuleset { .. }
            | Step::LandlockPath { .. }
            | Step::LandlockPort { .. }
            | Step::LandlockPassed { .. }
            | Step::LandlockRestrict { .. } => Layer::Landlock,
            Step::Seccomp { .. } => Layer::Seccomp,
            Step::ExecInit { .. } | Step::Exec { .. } => Layer::Exec,
            _ => Layer::Mount,
        }
    }

    /// The path that a fault of the step is about.
    pub(crate) fn path(&self, operand: Operand) -> Option<PathBuf> {
        let path = match (self, operand) {
            (Step::Bind { source, .. }, Operand::Source) => &source.0,
            (Step::RootDir { source } | Step::RootLayered { source }, _) => &source.0,
            (Step::Bind { at, .. } | Step::Dir { at } | Step::File { at, .. } | Step::Symlink { at, .. }, _) => {
                &at.path
            }
            (Step::Tmpfs { at, .. } | Step::Proc { at } | Step::Devpts { at } | Step::Mask { at }, _) => &at.path,
            (Step::Protect { at } | Step::Seal { at, .. }, _) => &at.path,
            (Step::Chdir { path } | Step::LandlockPath { path, .. }, _) => path,
            (Step::Exec { program, .. }, _) => program,
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

impl fmt::Display for HostPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(self.0.to_bytes()).fmt(f)
    }
}

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(self.path.to_bytes()).fmt(f)
    }
}

/// Bytes that may have been chosen by somebody else, with everything but printable ASCII and UTF-8 escaped.
pub(crate) struct Escaped<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for char in chunk.valid().chars() {
                match char {
                    char if char.is_control() => write!(f, "{}", char.escape_default())?,
                    char => write!(f, "{char}")?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// The names of namespaces, as their clone flags.
struct Flags(u64);

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (libc::CLONE_NEWUSER, "user"),
            (libc::CLONE_NEWNS, "mount"),
            (libc::CLONE_NEWPID, "pid"),
            (libc::CLONE_NEWNET, "net"),
            (libc::CLONE_NEWIPC, "ipc"),
            (libc::CLONE_NEWUTS, "uts"),
            (libc::CLONE_NEWCGROUP, "cgroup"),
            (libc::CLONE_NEWTIME, "time"),
        ];
        let names = names.iter().filter(|(flag, _)| self.0 & *flag as u64 != 0);
        let names: Vec<_> = names.map(|(_, name)| *name).collect();
        f.write_str(&names.join(","))
    }
}

impl fmt::Display for MapLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, [inside, outside, count]) in self.lines.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{inside} {outside} {count}")?;
        }
        Ok(())
    }
}

/// Capabilities, by their mask.
struct Kept(u64);

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("none"),
            mask => write!(f, "{mask:#x}"),
        }
    }
}

/// A resource limit as getrlimit(2) has it.
struct Amount(u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            libc::RLIM64_INFINITY => f.write_str("unlimited"),
            amount => write!(f, "{amount}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Clone { process, namespaces: 0, memory } => write!(f, "clone {process}{memory}"),
            Step::Clone { process, namespaces, memory } => write!(f, "clone {process} {}{memory}", Flags(*namespaces)),
            Step::Maps { uid, gid } => {
                let by = |map: &MapLines, helper| if map.helper { helper } else { "write" };
                let (write_uid, write_gid) = (by(uid, "newuidmap"), by(gid, "newgidmap"));
                write!(f, "{write_uid} uid_map {uid}; {write_gid} gid_map {gid}")
            }
            Step::WriteProc { path, data, .. } => {
                write!(f, "write {} {}", Escaped(path.to_bytes()), String::from_utf8_lossy(data))
            }
            Step::EnterHolder { namespaces } => write!(f, "setns holder {}", Flags(*namespaces)),
            Step::EndHolder => f.write_str("kill holder"),
            Step::Unshare { namespaces } => write!(f, "unshare {}", Flags(*namespaces)),
            Step::PassNetwork => f.write_str("pass net to init"),
            Step::JoinNetwork => f.write_str("setns net"),
            Step::LoopbackUp => f.write_str("lo up"),
            Step::Hostname { name } => write!(f, "sethostname {}", Escaped(name.to_bytes())),
            Step::Domainname => f.write_str("setdomainname (none)"),
            Step::Private => f.write_str("private /"),
            Step::Workspace => f.write_str("tmpfs workspace"),
            Step::RootEmpty => f.write_str("root empty"),
            Step::RootDir { source } => write!(f, "root {source}"),
            Step::RootLayered { source } => write!(f, "root {source} under a private layer"),
            Step::OverlayTrial => f.write_str("overlay"),
            Step::Dir { at } => write!(f, "dir {at}"),
            Step::File { at, data, .. } => write!(f, "file {at} ({} bytes)", data.0.len()),
            Step::Symlink { target, at } => write!(f, "symlink {} <- {at}", Escaped(target.to_bytes())),
            Step::Bind { source, at, attributes } if attributes & attr::NO_DEV == 0 => {
                write!(f, "device {source} -> {at}")
            }
            Step::Bind { source, at, attributes } if attributes & attr::READ_ONLY != 0 => {
                write!(f, "bind_ro {source} -> {at}")
            }
            Step::Bind { source, at, .. } => write!(f, "bind {source} -> {at}"),
            Step::Tmpfs { at, size, inodes, mode, .. } => {
                let (size, inodes, mode) =
                    (Escaped(size.to_bytes()), Escaped(inodes.to_bytes()), Escaped(mode.to_bytes()));
                write!(f, "tmpfs {at} size={size} nr_inodes={inodes} mode={mode}")
            }
            Step::Proc { at } => write!(f, "proc {at}"),
            Step::Devpts { at } => write!(f, "devpts {at}"),
            Step::Mask { at } => write!(f, "mask {at}"),
            Step::Protect { at } => write!(f, "read-only {at}"),
            Step::Seal { at, .. } => write!(f, "seal {at}"),
            Step::Pivot => f.write_str("pivot_root"),
            Step::ExecInit { .. } => f.write_str("execveat init"),
            Step::Setsid => f.write_str("setsid"),
            Step::Inherit { fd } => write!(f, "inherit {fd}"),
            Step::Install { what, fd, .. } => write!(f, "dup {what} -> {fd}"),
            Step::InstallNull { fd, .. } => write!(f, "dup null -> {fd}"),
            Step::CloseRest { ranges } => {
                f.write_str("close_range")?;
                for [first, last] in ranges {
                    match *last {
                        u32::MAX => write!(f, " {first}-")?,
                        last => write!(f, " {first}-{last}")?,
                    }
                }
                Ok(())
            }
            Step::OomScore { data } => write!(f, "oom_score_adj {}", String::from_utf8_lossy(data)),
            Step::Nice => f.write_str("sched_setattr SCHED_OTHER nice 0"),
            Step::IoPriority => f.write_str("ioprio_set default"),
            Step::Affinity => f.write_str("sched_setaffinity all"),
            Step::Personality => f.write_str("personality linux"),
            Step::TimerSlack { nanoseconds } => write!(f, "timer slack {nanoseconds} ns"),
            Step::Umask { mask } => write!(f, "umask {mask:03o}"),
            Step::Limit { name, soft, hard, .. } => write!(f, "rlimit {name} {}:{}", Amount(*soft), Amount(*hard)),
            Step::DropGroups => f.write_str("setgroups none"),
            Step::SetGid { id } => write!(f, "setresgid {id}"),
            Step::SetUid { id } => write!(f, "setresuid {id}"),
            Step::Securebits { bits } => write!(f, "securebits {bits:#x}"),
            Step::BoundingSet { kept } => write!(f, "bounding set {}", Kept(*kept)),
            Step::AmbientSet => f.write_str("ambient set none"),
            Step::CapabilitySets { kept } => write!(f, "capset {}", Kept(*kept)),
            Step::RaiseAmbient { kept } => write!(f, "ambient set {}", Kept(*kept)),
            Step::NoNewPrivs => f.write_str("no_new_privs"),
            Step::Chdir { path } => write!(f, "chdir {}", Escaped(path.to_bytes())),
            Step::LandlockRuleset { handled, .. } => {
                let parts = [(handled.fs, " files"), (handled.net, " tcp"), (handled.scoped, " signals,sockets")];
                f.write_str("ruleset")?;
                parts.iter().filter(|(bits, _)| *bits != 0).try_for_each(|(_, name)| f.write_str(name))
            }
            Step::LandlockPath { path, access, .. } => {
                let kinds = [(1 << 2, "r"), (1 << 1, "w"), (1 << 0, "x")];
                let kinds: String = kinds.iter().filter(|(bit, _)| access & bit != 0).map(|(_, kind)| *kind).collect();
                write!(f, "allow {kinds} {}", Escaped(path.to_bytes()))
            }
            Step::LandlockPort { port, access } => {
                write!(f, "allow {} tcp {port}", if access & 1 != 0 { "bind" } else { "connect" })
            }
            Step::LandlockPassed { fds, .. } => {
                f.write_str("allow files passed as")?;
                fds.iter().try_for_each(|fd| write!(f, " {fd}"))
            }
            Step::LandlockRestrict { flags: 0 } => f.write_str("restrict_self"),
            Step::LandlockRestrict { .. } => f.write_str("restrict_self audited"),
            Step::Seccomp { program } => write!(f, "filter of {} instructions", program.len()),
            Step::Signals => f.write_str("signals default"),
            Step::Exec { program, argv, .. } if f.alternate() => {
                let args: Vec<_> = argv.iter().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
                write!(f, "execve {} {args:?}", Escaped(program.to_bytes()))
            }
            Step::Exec { program, .. } => write!(f, "execve {}", Escaped(program.to_bytes())),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Memory::Copied => f.write_str(" in copied memory"),
            Memory::Shared | Memory::SharedIfAllowed => Ok(()),
        }
    }
}
