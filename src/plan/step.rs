//! One step, with its arguments in kernel form.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::entry::EntryStep;
use super::operand::{Content, Hook, HostPath, Inside, MapLines, Memory, Upper};
use crate::error::Layer;
use crate::sys::{BpfInstruction, CStringArray, LandlockHandled};

/// What the kernel is asked for, once.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Clones a process into new namespaces, or into those of its parent.
    Clone {
        process: &'static str,
        namespaces: u64,
        memory: Memory,
    },
    /// Makes the timer that init minds.
    Timer {
        time: Duration,
        grace: Option<Duration>,
    },
    /// Has the process killed when time is up.
    Deadline,
    /// Has the groups below a directory of cgroups have controllers.
    CgroupEnable {
        directory: HostPath,
        controllers: String,
    },
    /// Makes the sandbox's own cgroup, which goes with it.
    Cgroup {
        directory: HostPath,
    },
    /// Writes a file of it. One that may be missing says what the kernel may not have.
    CgroupFile {
        name: &'static str,
        data: String,
        optional: bool,
    },
    /// Goes into the sandbox's cgroup, where the clone could not do that.
    EnterCgroup,
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
    /// Has the caller write the id maps of the holder, from outside.
    MapsByCaller {
        hook: Hook,
    },
    /// Hides the memory, a copy of the host's, from those who may look into other processes of their namespaces.
    NotDumpable,
    /// Joins a namespace that somebody else has made.
    Join {
        what: &'static str,
        kind: u64,
        namespace: Arc<OwnedFd>,
    },
    /// Joins the namespaces of the holder.
    EnterHolder {
        namespaces: u64,
    },
    /// Joins the user namespace of the template.
    EnterOwner,
    /// Joins the namespaces of the template, and with `network` one that this start has for itself.
    EnterTemplate {
        network: bool,
    },
    /// Hands the host the user and the mount namespace, and the file system of what is hidden.
    HandOver,
    /// Hands the host the network namespace.
    HandOverNetwork,
    /// Kills the holder, whose user namespace the process is in.
    EndHolder,
    /// Makes namespaces that start with the next process.
    Unshare {
        namespaces: u64,
    },
    /// Has the host know the PID namespace of init: who can't end, and keeps init from it, is looked for there.
    NotePidNamespace,
    /// Lets the other of init and the program go on.
    Ready,
    /// Waits until the other is ready.
    AwaitReady,
    /// Waits until init is executed: then the root is built.
    AwaitInit,
    /// Hands the network namespace to init.
    PassNetwork,
    /// Joins the network namespace that the cell has made meanwhile, when the program passes it.
    JoinNetwork,
    /// Brings the loopback interface up.
    LoopbackUp,
    /// Has the kernel refuse new user namespaces inside.
    NoUserNamespaces,
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
    /// Makes an empty root that can be written to.
    RootMemory,
    /// Puts an entry of the caller's into the root.
    Entry(EntryStep),
    /// Makes a directory of the host the root.
    RootDir {
        source: HostPath,
        attributes: u64,
    },
    /// Makes directories of the host the root, stacked, the first lowest.
    RootOverlay {
        lowers: Vec<HostPath>,
        upper: Upper,
    },
    /// Puts a copy of the root, in a tmpfs, in its place.
    RootCopy {
        size: CString,
        inodes: CString,
    },
    /// Makes a place for what is mounted on the next root.
    Place {
        at: Inside,
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
    /// Keeps a bind for the starts, where no program gets to see it.
    Stage {
        source: HostPath,
        name: CString,
        at: Inside,
        attributes: u64,
    },
    /// Keeps a file for the starts.
    StageFile {
        name: CString,
        at: Inside,
        data: Content,
    },
    /// Makes the place for what each start takes this step for.
    Leave {
        step: Box<Step>,
        at: Inside,
    },
    /// Makes what is kept read-only, with a /proc in it.
    Keep,
    /// Takes up what is kept.
    TakeUp,
    /// Covers the /proc that is kept.
    CoverProc,
    /// Binds what is kept; `source` is where it comes from, if that is the host.
    Attach {
        source: Option<HostPath>,
        name: CString,
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
    /// Fills a tmpfs with a copy of a directory of the host.
    Copy {
        source: HostPath,
        at: Inside,
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
    /// The same, with the new root on top of what is kept: no path leads there.
    PivotOver,
    /// Becomes init, from a file of this mode, with these capabilities.
    ExecInit {
        mode: u32,
        kept: u64,
        securebits: u64,
        argv: CStringArray,
        envp: CStringArray,
    },
    /// Tells the host that the program is there, and waits until it may go on.
    Hold {
        socket: Option<Arc<OwnedFd>>,
    },
    /// Has the kernel kill the process when the thread that has started it ends.
    EndWithThread,
    /// Starts a session of its own, with no controlling terminal.
    Setsid,
    /// Opens a terminal that belongs to a user, by [`PTMX`].
    OpenPty {
        rows: u16,
        columns: u16,
        owner: u32,
    },
    /// Makes it the controlling terminal.
    TakeTerminal,
    /// Hands its master to the host.
    HandPtyOver,
    /// Puts it in the place of a stream.
    InstallPty {
        fd: i32,
    },
    /// Leaves the session keyring of the host process for an empty one.
    SessionKeyring,
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
    /// Goes to the first of these that is there and may be entered.
    ChdirFirst {
        paths: Vec<CString>,
    },
    /// Makes a set of Landlock rules.
    LandlockRuleset {
        handled: LandlockHandled,
        version: u32,
    },
    /// Allows what lies at a path inside; `file` is what makes sense if that is no directory. `mount` tells which of the
    /// writable mounts it has to be.
    LandlockPath {
        path: CString,
        mount: Option<usize>,
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
    /// Resets the actions of all signals but those that are ignored, and that of SIGPIPE, then unblocks all.
    CaughtSignals,
    /// Becomes the agent, from this file.
    ExecAgent {
        image: Content,
        argv: CStringArray,
        envp: CStringArray,
    },
    /// Looks whether what is to be executed is the host process's own program file.
    Look {
        program: CString,
        directory: CString,
        candidates: Vec<CString>,
    },
    /// Becomes the program: the first of `candidates` that can be executed.
    Exec {
        program: CString,
        candidates: Vec<CString>,
        argv: CStringArray,
        envp: CStringArray,
    },
}
