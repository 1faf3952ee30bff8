//! Runs a subprocess inside a container-grade sandbox: what a container engine does with an image and a command, as
//! one library call, in-process and without root.
//!
//! A container is a snapshot of some distribution's userland, run on the host's kernel, in isolation. This crate gives
//! that to any program:
//!
//! ```
//! use belljar::{Rootfs, Sandbox};
//!
//! // The host's userland, read-only; no network; nothing of $HOME, of the environment, of the open files.
//! let output = Sandbox::new().rootfs(Rootfs::host()).command("id").output()?;
//! assert!(output.outcome.success());
//! # Ok::<(), belljar::Error>(())
//! ```
//!
//! A policy is a plain value. It grows by what the program needs:
//!
//! ```no_run
//! use belljar::{IdMap, Limits, Namespaces, Network, Rootfs, Sandbox, Seccomp, Stdio};
//! use std::time::Duration;
//!
//! let sandbox = Sandbox::new()                            // every namespace, an empty root, no network
//!     .rootfs(Rootfs::dir("/srv/trixie"))                 // another distribution's userland, read-only
//!     .bind("/home/me/project", "/work")                  // a directory of the host, to read and write
//!     .bind_ro("/home/me/.cargo/registry", "/registry")   // and one to read, whatever is mounted below it
//!     .tmpfs("/scratch")                                  // memory, bounded
//!     .file("/etc/build.conf", "jobs = 2\n")              // content from the caller
//!     .namespaces(Namespaces::all())                      // the time namespace too
//!     .uid_map(IdMap::new(0, 1000, 1))                    // root inside is user 1000 outside
//!     .gid_map(IdMap::new(0, 1000, 1))
//!     .hostname("build")
//!     .network(Network::Loopback)                         // 127.0.0.1 is the sandbox itself
//!     .seccomp(Seccomp::container().allow(["ptrace"]))    // and a debugger may trace inside
//!     .limits(Limits::new().memory(512 << 20).wall_time(Duration::from_secs(600)));
//!
//! let mut child = sandbox.command("make")                 // looked for inside
//!     .arg("test")
//!     .env("CC", "gcc")                                   // the environment starts from a documented minimum
//!     .current_dir("/work")
//!     .stdout(Stdio::piped())
//!     .spawn()?;                                          // Ok: it executes, inside, fully confined
//! let outcome = child.wait()?;                            // the true status, and everything else inside has ended
//! println!("{:?} after {:?}", outcome.cause(), outcome.usage().wall_time());
//! # Ok::<(), belljar::Error>(())
//! ```
//!
//! Many programs of one policy start fastest from a [`Pool`], which keeps whole sandboxes ready:
//!
//! ```no_run
//! # let sandbox = belljar::Sandbox::new();
//! let prepared = sandbox.prepare()?;                      // the root is mounted once: prepared.command(..) starts from it
//! let pool = prepared.pool(8)?;                           // a thread of its own builds the next
//! let outcome = pool.command("make").status()?;           // each sandbox is used once
//! # Ok::<(), belljar::Error>(())
//! ```
//!
//! Who wants another root than these puts it together from [`Entry`]s, each over the ones before, on [`Rootfs::bare`]; the example
//! `bwrap` makes bubblewrap's command line of that.
//!
//! [`Sandbox::join`] takes namespaces that somebody else has made, of users and of processes, in the place of new ones.
//!
//! Tasks of a tokio runtime start and await programs with the feature `tokio`: `spawn_async`, `status_async` and `output_async` of
//! a [`Command`]. They wait for pidfds, with no thread and no signal handler; a future that owns a sandbox kills it when it is
//! dropped.
//!
//! A [`Child`] is signalled ([`signal`](Child::signal), [`signal_all`](Child::signal_all)), paused, and asked to end
//! ([`terminate`](Child::terminate)); [`Command::pty`] gives it a terminal. What is captured is bounded.
//!
//! [`Child::command`] runs another command in a sandbox that is in use, beside its program.
//!
//! [`Command::plan`] prints every step that a start takes, and takes none; [`host::probe`] tells what a host can do.
//!
//! # What holds
//!
//! The adversary is arbitrary code as the program, in control of the root file system's content, of every file that it may
//! write, of its output and its timing; not the caller's configuration. The kernel is taken as sound.
//!
//! - No file of the host is read or written but what was bound in, and /usr and the few files of /etc that
//!   [`Rootfs::host`] names, and what a program says that it needs, for `Rootfs::distroless`.
//! - With [`Network::None`], the default, there is no network, abstract sockets included.
//! - No signal, ptrace or IPC reaches the outside or another sandbox.
//! - No privilege is gained: no capability in any set, no_new_privs, root inside is nobody special, no new user namespace.
//! - Everything inside dies with the handle, with the program, and with the host process; nothing is left on the host, but what
//!   was written through, and layers of images in their store.
//! - An image or a layer makes files only in a new tree of the store: by calls of a process in a sandbox, resolved beneath
//!   that tree and over no link, within limits.
//! - A limit that is asked for binds, for root too, or the start fails: see [`Limits`].
//! - The outcome is true: it comes from the kernel, and nothing inside can forge it.
//! - Of the host process's environment, descriptors, memory and arguments nothing can be seen.
//!
//! Most attacks on files, network, other processes and privilege are held by two layers at least: mounts and Landlock,
//! namespaces and Landlock, capabilities and the filter of system calls, a bound of 0 on user namespaces and that
//! filter. SECURITY.md names the checks of each
//! guarantee; the suite behind them gives the reason for each that one layer holds alone.
//!
//! # What does not
//!
//! - A kernel with an exploitable bug, side channels and covert channels.
//! - What the caller hands in: sockets, FIFOs and devices below a bind or passed as descriptors, also below
//!   [`bind_ro`](Sandbox::bind_ro); terminal escapes in output that is printed raw. A directory that is passed as a
//!   descriptor, or inherited as a stream, leads to everything around it: Landlock alone opens nothing there. The mode
//!   and times of a passed file can be changed by its owner.
//! - Without Landlock, switched off or not in the kernel: a passed file can be opened anew for more than it was passed for;
//!   and that a program or an interpreter is a link to `/proc/self/exe`, over which the kernel would execute the host's own
//!   program file inside, is seen before the start, but not if somebody outside changes the file in that moment.
//! - What an image says is its author's: variables, user, directory, set-user-ID bits, which have no effect inside. The layers
//!   in a store are trusted once they are there.
//! - Paths of bind sources can be read in `/proc/self/mountinfo`.
//! - Supplementary groups of a caller without privilege stay in force for the files that are bound in: the kernel lets
//!   nobody drop them there (user_namespaces(7)). Root's are dropped, but for its own group where that is the program's too.
//! - A directory that is bound read-only inside of a writable one is held by the mount table alone: Landlock's rules
//!   only add up. So is everything that is mounted in a root that can be written to ([`Rootfs::ephemeral`] and its like):
//!   /proc, /dev, read-only binds.
//! - Behind the default filter, which refuses keyctl(2) and its like, the host's session keyring is inherited: a user has
//!   only 200 keys (keyrings(7)), and a keyring for every sandbox would take them from the host's other programs. A program
//!   that the filter does not keep from keys gets an empty session keyring; without [`Namespaces::USER`] it still has the
//!   keyrings of the user.
//! - What a layer can't do on an older kernel: [`Child::report`] tells. What Landlock does not cover when it is used alone:
//!   UDP and other protocols, attributes of files, sockets in the file system.
//! - Those who are in a namespace that is [joined](Sandbox::join) from the sandbox, and it from them, but for rules, filter and lost
//!   capabilities.
//! - Two processes that trace each other, where the filter lets them ([`Seccomp::allow`]): each can wait at its end for the other
//!   to let it go. No kernel ends those; [`Child`] says what becomes of them.
//! - What no [`Limits`] bound: the default policy takes as much memory, processor time and processes as there is. With a cgroup,
//!   `/proc/1/cgroup` tells where the host process's cgroup lies, seen from the sandbox's.
//!
//! # How it works
//!
//! The parent compiles the policy to a flat list of steps, each one system call or an open-use-close triple, with its
//! arguments already in kernel form. The children only take steps; on failure they hand back `(step, errno)`, and the
//! parent owns the words. A *cell* makes the namespaces and clones two others in them, the *init*
//! that keeps them alive and the *program*:
//!
//! ```text
//! Sandbox + Command ──compile()──▶ Plan { steps } ──spawn()──▶ children: run(steps) ─▶ exec
//!    the caller's values   all validation, allocation, opens      failure: (step, errno) ─▶ Error
//!
//! host thread ──clone(VM|VFORK|FILES|NEW*)──▶ cell ──clone(VM|PARENT)────────▶ init: id maps, root, pivot ─▶ exec, process 1
//!                                             │ meanwhile: the network namespace
//!                                             └───clone(VM|VFORK|PARENT)──▶ program: awaits init, steps ─▶ exec, process 2
//! ```
//!
//! - Children share the host's memory until they exec, as with vfork(2): a start costs the same in a host of any size.
//!   Between clone and exec nothing allocates, locks or panics. Where a child has to change its ids, the cell gets a copy
//!   instead: in shared memory, that would clear the host's dumpable flag and open its memory to the new id.
//! - The cell shares the host's table of descriptors, and opens nothing, so that nothing stays open in the host if somebody
//!   kills it; what needs files is left to the two others. It leaves nothing in the table but their pidfds: it clones
//!   them as its own siblings (`CLONE_PARENT`) and ends. So both are the host's own children, and the status and usage
//!   that waitid(2) gives for the program are the kernel's. The program is not process 1, so that signals do inside what
//!   they do outside.
//! - A network namespace takes longer to make than all the others together. The cell makes it while init builds the
//!   root on another processor; the program passes it to init, and waits for the root.
//! - A [`Prepared`] holds a *template*: a user namespace, in it a mount namespace with all of the root that starts can have in
//!   common, and what each of them takes, mounted where no path leads. A start goes on from a copy of that in a user namespace
//!   of its own, below the template's, so that what it finds mounted is locked. The program itself mounts what is its own: /proc,
//!   /dev/pts, every tmpfs. Nobody copies the host's mount table, pivots, or unmounts. A network namespace is lent to one sandbox
//!   at a time, and to another only if nothing in it tells of its last use, for which the host looks while it waits for the end
//!   of a sandbox: two serve starts that come one after the other. What a template can't hold is started as without.
//! - Init is a static program of some hundred bytes, in a sealed memfd, not dumpable, without capabilities but for the one to
//!   signal programs of other ids, with one descriptor: the *lifeline*, whose other end the handle holds; and others that hold a lock, where changes are kept
//!   in a directory and where there is a cgroup. It exits when the program has ended or the lifeline
//!   does, and the kernel kills whatever is left.
//! - The wall time is a timerfd that the host makes and init polls, so that it holds whoever waits. Init's exit code tells the host
//!   that time was up. (To send SIGTERM to a program of another id first, init keeps `CAP_KILL`.) While a sandbox is set up, the
//!   program has a timer that kills it until it is executed, and the cell waits for init no longer than that.
//! - Only the program is cloned into the sandbox's cgroup (`CLONE_INTO_CGROUP`), and there it makes its cgroup namespace. Init and
//!   the cell stay out: as long as a process shares the host's memory, it must not be one that is killed for want of it, since the
//!   kernel kills all that share it. The kernel passes over the program until it is executed, as a child of vfork(2).
//! - In a pool, the program of a sandbox that waits is the *agent*, a second static program of some hundred bytes, which
//!   wears every layer already; only a filter of the caller's own comes last, since it may not allow what the agent
//!   does. It gets its last system calls in one message, with the descriptors: to go to a directory, to put descriptors in
//!   place, to execute. Its socket, which the exec closes, tells the host that the program runs, or else what failed;
//!   then an ordinary start does it again, and finds the words.
//!
//! ```text
//! pool ──start()──▶ agent, process 2 of its own cell: recvmsg                                    (once, ahead)
//! pool.command(..).spawn() ──calls + descriptors──▶ agent: fchdir, dup3, seccomp, execve ─▶ program (once each)
//!                          ◀──end of the socket, or (call, errno)──
//! ```
//!
//! - Where a program runs already, nobody enters who shares the host's memory: an agent does. It joins the namespaces of init
//!   by its pidfd, still outside of the PID namespace, where nobody inside can name it; takes ids, capabilities and rules
//!   upon itself; and clones a copy of itself as the host's child, which is born inside, not dumpable, with a socket alone. That
//!   one gets the descriptors, finds the program with no more rights than any other there, and executes. A start prepares
//!   nothing for that.
//!
//! ```text
//! child.command(..).spawn() ──▶ agent: setns(init), ids, capabilities, Landlock ──clone(PARENT)──▶ copy: chdir, dup3, rlimits,
//!                                                                                                        seccomp, execve
//! ```
//!
//! - Mounts are made with the new mount API, by descriptor; every path inside is resolved by openat2(2) with
//!   `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`; and files are only made on file systems that the sandbox itself has made.
//! - Directories are stacked by overlayfs, with mount(2), whose one page of options has room for the descriptors of hundreds. What the program writes goes to an upper directory that has nothing else: the
//!   places of mounts are made on a layer of their own below it. Its descriptor is handed to the host, which reads it when
//!   the sandbox has ended: by name below that descriptor, never through a link ([`Outcome::changes`]).
//!
//! | module | runs | holds |
//! |---|---|---|
//! | `sandbox`, `command`, `rootfs` | at the caller's | values |
//! | `layer` | at the caller's, and before clone | each layer's policy, and its lowering to steps |
//! | `image` | at the caller's, and before clone | reading images, what they say about how they are run, and the store |
//! | `agent` | at the caller's | a process inside that makes the system calls it is told: what unpacks images, and waits in pools |
//! | `compile` | before clone | the order of the layers, each with its reason |
//! | `enter` | at any time | another command in a sandbox that is in use |
//! | `distroless` | before clone | what one program needs of a root, with the feature `image` |
//! | `plan` | before clone | the steps and their words |
//! | `postfork` | between clone and exec | taking the steps |
//! | `spawn`, `child` | after | starting, owning and ending processes |
//! | `changes` | after | what the program has left in its root |
//! | `hold` | beside a start | what the host does before the program executes |
//! | `prepared`, `pool` | at any time | what starts have in common, sandboxes built ahead, and starting programs in them |
//! | `host` | at any time | what the host can do |
//! | `sys` | everywhere | the only unsafe system calls; one small file a processor |
//!
//! # Kernel
//!
//! Linux 5.15 or later, on x86-64 or AArch64. The tests run on Linux 6.1 and later and on x86-64. On AArch64 a part of them
//! runs, on Linux 6.12 and an emulated processor.

#[cfg(not(target_os = "linux"))]
compile_error!("belljar runs programs on Linux: there is no sandbox elsewhere");

mod agent;
mod changes;
mod child;
mod command;
mod compile;
#[cfg(feature = "image")]
mod distroless;
mod enter;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod hold;
pub mod host;
#[cfg(feature = "image")]
mod image;
mod layer;
mod outcome;
mod plan;
mod pool;
mod postfork;
mod prepared;
mod report;
mod rootfs;
mod sandbox;
mod spawn;
mod sys;

pub use changes::{Change, ChangeKind, ChangeLimits, Changes, FileType};
#[cfg(feature = "tokio")]
pub use child::{AsyncChild, AsyncChildStderr, AsyncChildStdin, AsyncChildStdout, AsyncPty};
pub use child::{Child, Output, Pty};
pub use command::Command;
#[cfg(feature = "image")]
pub use distroless::{DistrolessFile, DistrolessFrom};
pub use error::{Error, ErrorKind, Layer};
#[cfg(feature = "image")]
pub use image::{
    Collected, Commit, Image, ImageConfig, ImageOptions, LayerInfo, Ownership, Progress, Store, UnpackLimits,
};
pub use layer::capabilities::Capabilities;
pub use layer::fds::Stdio;
pub use layer::ids::IdMap;
pub use layer::inherit::Inherit;
pub use layer::landlock::Landlock;
pub use layer::limits::{IoMax, Limits, Resource};
#[cfg(feature = "image")]
pub use layer::mount::Distroless;
pub use layer::mount::{Entry, Tmpfs};
pub use layer::namespaces::Namespaces;
pub use layer::network::Network;
pub use layer::seccomp::{Seccomp, SyscallArg};
pub use layer::terminal::PtySize;
pub use outcome::{Cause, Outcome, Usage, UsageSource};
pub use plan::Plan;
pub use pool::Pool;
pub use prepared::Prepared;
pub use report::{Enforcement, LayerStatus, Report};
pub use rootfs::Rootfs;
pub use sandbox::Sandbox;
