//! The steps that make a process the program.

use core::ffi::CStr;
use core::sync::atomic::Ordering::Relaxed;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Done, HEAD, State, Writable};
use crate::plan::{Fault, interpreter};
use crate::sys::{self, CStringArray, Errno, Fd, LandlockHandled, Stat};

impl State<'_> {
    pub(super) fn install(&self, given: usize, fd: i32) -> Done {
        let source = self.context.given.get(given).ok_or(Errno(libc::EBADF))?;
        Ok(sys::dup_to(sys::borrow(*source), fd)?)
    }

    /// Goes on without where there is no /proc, or where the host is already a better victim.
    ///
    /// Only a process that was cloned with `CLONE_VFORK` may: for another that shares the host's memory, the kernel sets
    /// the host's score too (`__set_oom_adj`).
    pub(super) fn set_oom_score(&self, data: &[u8]) -> Done {
        let flags = libc::O_WRONLY | libc::O_NONBLOCK;
        let opened = self.context.open_proc(c"/proc/self/oom_score_adj", flags, libc::RESOLVE_NO_MAGICLINKS);
        if let Ok(file) = opened {
            let _ = sys::write_once(file.as_fd(), data);
        }
        Ok(())
    }

    pub(super) fn landlock_ruleset(&mut self, handled: &LandlockHandled, version: u32) -> Done {
        self.ruleset = Some(sys::landlock_create_ruleset(handled, version)?);
        Ok(())
    }

    pub(super) fn landlock_path(&self, path: &CStr, mount: Option<usize>, access: u64, file: u64) -> Done {
        let place = sys::openat2(sys::CWD, path, libc::O_PATH, 0, libc::RESOLVE_NO_MAGICLINKS)?;
        if let Some(mount) = mount {
            // Somebody outside may have renamed a directory on the way since it was mounted.
            let made = Writable::all(self.context.writable).nth(mount);
            let root = sys::root_of_mount(place.as_fd())?;
            if !root.zip(made).is_some_and(|(root, made)| made.is(root)) {
                return Err(Errno(libc::ESTALE).into());
            }
        }
        let stat = sys::fstat(place.as_fd())?;
        if mount.is_none() {
            self.note_named(stat);
        }
        let access = if stat.is_dir() { access } else { file };
        Ok(sys::landlock_allow_path(self.ruleset()?, place.as_fd(), access)?)
    }

    /// Remembers what a rule is about: a command that enters later has the same rule, whatever the name leads to by then.
    fn note_named(&self, Stat { device, inode, .. }: Stat) {
        let free = self.context.named.chunks_exact(2).find(|known| known.iter().all(|word| word.load(Relaxed) == 0));
        if let Some([known_device, known_inode]) = free {
            known_device.store(device, Relaxed);
            known_inode.store(inode, Relaxed);
        }
    }

    pub(super) fn landlock_passed(&self, fds: &[i32], read: u64, write: u64) -> Done {
        for fd in fds {
            let file = sys::borrow(*fd);
            let flags = sys::status_flags(file)?;
            let access = match flags & libc::O_ACCMODE {
                // What is only a place is open for nothing; and below a directory may be more of the host than was meant.
                _ if flags & libc::O_PATH != 0 || sys::fstat(file)?.is_dir() => continue,
                libc::O_RDONLY => read,
                libc::O_WRONLY => write,
                _ => read | write,
            };
            match sys::landlock_allow_path(self.ruleset()?, file, access) {
                // Pipes, sockets and memfds are nowhere in the file system, and no rule holds for them.
                Ok(()) | Err(Errno(libc::EBADFD)) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    pub(super) fn landlock_restrict(&mut self, flags: u32) -> Done {
        sys::landlock_restrict_self(self.ruleset()?, flags)?;
        self.ruleset = None;
        Ok(())
    }

    pub(super) fn ruleset(&self) -> Result<BorrowedFd<'_>, Fault> {
        self.ruleset.as_ref().map(AsFd::as_fd).ok_or(Errno(libc::EBADF).into())
    }

    pub(super) fn chdir_first(&mut self, paths: &[CString]) -> Done {
        let mut done = Err(Errno(libc::ENOENT).into());
        for (index, path) in paths.iter().enumerate() {
            done = chdir(path);
            if done.is_ok() {
                self.directory = index;
                break;
            }
        }
        done
    }

    /// The host's /dev/null could be changed through its own mount, its mode and times, by whoever is root there.
    pub(super) fn install_null(&self, given: usize, write: bool, fd: i32) -> Done {
        let flags = if write { libc::O_WRONLY } else { libc::O_RDONLY };
        let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY;
        match sys::openat2(sys::CWD, c"/dev/null", flags, 0, libc::RESOLVE_NO_SYMLINKS) {
            // What the caller has put there may be anything, or nothing, or on a mount without devices.
            Err(Errno(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENXIO | libc::EACCES)) => {
                self.install(given, fd)
            }
            Err(errno) => Err(errno.into()),
            Ok(null) if sys::fstat(null.as_fd())?.is_null() => {
                sys::set_blocking(null.as_fd())?;
                Ok(null.put_at(fd)?)
            }
            Ok(_) => self.install(given, fd),
        }
    }

    /// Tries the candidates as execvp(3) does, and reports what became of them.
    pub(super) fn exec(&self, candidates: &[CString], argv: &CStringArray, envp: &CStringArray) -> Done {
        let mut worst = Errno(libc::ENOENT);
        for (index, path) in candidates.iter().enumerate() {
            match sys::execve(path, argv, envp, self.directory) {
                Errno(libc::ENOENT | libc::ENOTDIR) => {
                    // The file may be there, and what it needs to start be missing.
                    if self.report_head(index, path) {
                        return Err(Errno(libc::ENOENT).into());
                    }
                }
                Errno(libc::EACCES) => {
                    worst = Errno(libc::EACCES);
                    self.reports.head.set(index, &[]);
                }
                errno => {
                    self.report_head(index, path);
                    return Err(errno.into());
                }
            }
        }
        Err(worst.into())
    }

    /// Hands the start of a file to the parent. False means that it can't be read, if there is one.
    fn report_head(&self, index: usize, path: &CStr) -> bool {
        // The file may be anything: a FIFO must not block.
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
        let opened = sys::openat2(sys::CWD, path, flags, 0, libc::RESOLVE_NO_MAGICLINKS);
        // A filter may refuse this call by any error: then execve(2) alone says what is there.
        let Ok(file) = opened else { return false };
        let mut head = [0; HEAD];
        let length = sys::pread(file.as_fd(), &mut head, 0).unwrap_or(0);
        self.reports.head.set(index, head.get(..length).unwrap_or_default());
        true
    }
}

/// The agent can't read its own file, which makes it not dumpable: nobody inside traces it.
pub(super) fn exec_agent(image: &[u8], argv: &CStringArray, envp: &CStringArray) -> Done {
    let agent = sys::executable(image, 0o111)?;
    Err(sys::fexecve(agent.as_fd(), argv, envp).into())
}

pub(super) fn close(ranges: &[[u32; 2]]) -> Done {
    for [first, last] in ranges {
        sys::close_range(*first, *last)?;
    }
    Ok(())
}

/// Goes on with the host's value where only privilege could better it: sched(7).
pub(super) fn default_nice() -> Done {
    match sys::set_nice(0) {
        Err(Errno(libc::EPERM | libc::EACCES)) => Ok(()),
        result => Ok(result?),
    }
}

/// One byte there, and one back. The host's end is closed if it has decided otherwise.
pub(super) fn hold(socket: Option<&OwnedFd>) -> Done {
    let socket = socket.ok_or(Errno(libc::EBADF))?.as_fd();
    sys::send(socket, b".")?;
    match sys::receive(socket, &mut [0])? {
        0 => Err(Errno(libc::ECANCELED).into()),
        _ => Ok(()),
    }
}

/// Never through a link of /proc, which could lead out: the root is this process's own already.
pub(super) fn chdir(path: &CStr) -> Done {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let dir = sys::openat2(sys::CWD, path, flags, 0, libc::RESOLVE_NO_MAGICLINKS)?;
    Ok(sys::fchdir(dir.as_fd())?)
}

/// Lets nothing be executed through /proc that is the host's own program file, as this process still is: neither a
/// program, nor an interpreter. What can't be looked at is left to the exec.
pub(super) fn look(directory: &CStr, candidates: &[CString]) -> Done {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let Some(directory) = there(sys::openat2(sys::CWD, directory, flags, 0, libc::RESOLVE_NO_MAGICLINKS))? else {
        return Ok(());
    };
    candidates.iter().try_for_each(|path| look_at(directory.as_fd(), path))
}

/// How many interpreters the kernel goes through, from one to the next (execve(2)).
const INTERPRETERS: usize = 5;

fn look_at(directory: BorrowedFd<'_>, path: &CStr) -> Done {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut name = [0; HEAD];
    let mut path = path;
    for _ in 0..=INTERPRETERS {
        let file = match sys::openat2(directory, path, flags, 0, libc::RESOLVE_NO_MAGICLINKS) {
            Err(Errno(libc::ELOOP)) => return refuse_own(directory, path),
            opened => match there(opened)? {
                Some(file) => file,
                None => return Ok(()),
            },
        };
        let mut head = [0; HEAD];
        let length = match sys::pread(file.as_fd(), &mut head, 0) {
            // A directory, or a device: neither is executed.
            Err(Errno(libc::EISDIR | libc::EINVAL | libc::ESPIPE)) => return Ok(()),
            length => length?,
        };
        let Some(next) = interpreter(head.get(..length).unwrap_or_default()) else { return Ok(()) };
        name.fill(0);
        name.iter_mut().zip(next).for_each(|(to, from)| *to = *from);
        let Ok(next) = CStr::from_bytes_until_nul(&name) else { return Ok(()) };
        path = next;
    }
    Ok(())
}

/// Refuses what leads over a link of /proc to the file that this process runs.
fn refuse_own(directory: BorrowedFd<'_>, path: &CStr) -> Done {
    let Some(file) = there(sys::openat2(directory, path, libc::O_PATH, 0, 0))? else { return Ok(()) };
    let own = sys::openat2(sys::CWD, c"/proc/self/exe", libc::O_PATH, 0, 0)?;
    let [file, own] = [sys::fstat(file.as_fd())?, sys::fstat(own.as_fd())?];
    match (file.device, file.inode) == (own.device, own.inode) {
        true => Err(Errno(libc::EACCES).into()),
        false => Ok(()),
    }
}

/// What was opened, if it is there to be read.
fn there(opened: sys::Result<Fd>) -> Result<Option<Fd>, Fault> {
    match opened {
        Err(Errno(libc::ENOENT | libc::ENOTDIR | libc::EACCES | libc::ENXIO | libc::ELOOP | libc::ENAMETOOLONG)) => {
            Ok(None)
        }
        opened => Ok(Some(opened?)),
    }
}

pub(super) fn default_signals() -> Done {
    sys::signals().try_for_each(sys::default_signal)?;
    sys::set_signal_mask(0)?;
    Ok(())
}

/// That SIGPIPE is ignored may be the doing of the host's runtime: Rust's is, before `main`.
pub(super) fn default_caught_signals() -> Done {
    for signal in sys::signals() {
        if signal == libc::SIGPIPE || !sys::ignores_signal(signal)? {
            sys::default_signal(signal)?;
        }
    }
    sys::set_signal_mask(0)?;
    Ok(())
}
