//! The cgroup of one sandbox: a group of its own below a directory that is the caller's.
//!
//! Its directory is locked (flock(2)) for as long as the host process or init has it open. A host process that dies leaves
//! the directory: the next that uses the one above removes what nobody has locked. A new group without a lock yet may be
//! taken for such a one: then its maker makes another.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{DirBuilder, File, Metadata, Permissions};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::duplicate_from;
use crate::error::{Error, ErrorKind, Layer, Result};
use crate::plan::{Operand, Plan, Step};
use crate::sys::{self, Errno};

const PREFIX: &str = "belljar-";

/// The mode of a group of ours: with its name and its owner, what tells it from what somebody else has made.
const MODE: u32 = 0o1700;

/// The mode of a group whose sandbox was detached from its host: it is not ended for want of a lock.
const DETACHED: u32 = 0o1500;

/// How often a group is made anew that somebody takes for a dead host's.
const ATTEMPTS: usize = 100;

/// How long the kernel may take to see that the last process of a group has ended.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long its processes may take to stop: one that waits for a disk that does not answer can't.
const FREEZING: Duration = Duration::from_secs(1);

/// The cgroup of one sandbox, which is removed with it.
#[derive(Debug)]
pub(crate) struct Leaf {
    dir: OwnedFd,
    above: PathBuf,
    name: String,
    left: AtomicBool,
}

/// What the kernel has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuTime {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    pub(crate) total: Duration,
}

impl Leaf {
    /// Takes the host's steps of a plan that has a cgroup.
    pub(super) fn make(plan: &Plan) -> Result<Option<Self>> {
        let mut leaf = None;
        for index in plan.bounds.cgroup.clone() {
            let Some(step) = plan.steps.get(index) else { break };
            match step {
                Step::CgroupEnable { directory, controllers } => {
                    let path = Path::new(std::ffi::OsStr::from_bytes(directory.0.as_bytes()));
                    enable(path, controllers).map_err(|error| failed(step, &error))?;
                }
                Step::Cgroup { directory } => {
                    let path = Path::new(std::ffi::OsStr::from_bytes(directory.0.as_bytes()));
                    sweep_once(path);
                    late().retain(|(above, name)| remove(above, name).is_err());
                    leaf = Some(Self::new(path).map_err(|error| failed(step, &error))?);
                }
                Step::CgroupFile { name, data, optional } => {
                    let Some(leaf) = &leaf else { break };
                    match leaf.write(name, data.as_bytes()) {
                        Err(error) if *optional && error.kind() == io::ErrorKind::NotFound => {}
                        written => written.map_err(|error| failed(step, &error).with_path(leaf.path().join(name)))?,
                    }
                }
                _ => {}
            }
        }
        Ok(leaf)
    }

    fn new(above: &Path) -> io::Result<Self> {
        let mut name = String::new();
        for _ in 0..ATTEMPTS {
            name = unused_name();
            match DirBuilder::new().mode(MODE).create(above.join(&name)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            match open_locked(&above.join(&name)) {
                Ok(Some(dir)) => {
                    let left = AtomicBool::new(false);
                    return Ok(Self { dir, above: above.to_owned(), name, left });
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let _ = std::fs::remove_dir(above.join(&name));
                    return Err(error);
                }
            }
        }
        Err(io::Error::other(format!("{name} was removed while it was made")))
    }

    pub(super) fn number(&self) -> RawFd {
        self.dir.as_raw_fd()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.above.join(&self.name)
    }

    fn open(&self, name: &str, flags: OFlag) -> io::Result<File> {
        Ok(openat(&self.dir, name, flags | OFlag::O_CLOEXEC, Mode::empty())?.into())
    }

    pub(crate) fn write(&self, name: &str, data: &[u8]) -> io::Result<()> {
        self.open(name, OFlag::O_WRONLY)?.write_all(data)
    }

    fn read(&self, name: &str) -> Option<String> {
        let mut text = String::new();
        self.open(name, OFlag::O_RDONLY).ok()?.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// A number of a file with a key in each line.
    fn keyed(&self, name: &str, key: &str) -> Option<u64> {
        value(&self.read(name)?, key)
    }

    /// Kills every process in it: `cgroup.kill`, Linux 5.14.
    pub(crate) fn kill(&self) {
        let _ = self.write("cgroup.kill", b"1");
    }

    /// Stops every process in it, and waits until they have: `cgroup.freeze`, Linux 5.2. What can't be stopped in time leaves
    /// none stopped.
    pub(crate) fn freeze(&self) -> io::Result<()> {
        self.write("cgroup.freeze", b"1")?;
        self.await_frozen(Instant::now() + FREEZING).inspect_err(|_| drop(self.thaw()))
    }

    fn await_frozen(&self, deadline: Instant) -> io::Result<()> {
        let mut events = self.open("cgroup.events", OFlag::O_RDONLY)?;
        loop {
            let mut text = String::new();
            events.rewind()?;
            events.read_to_string(&mut text)?;
            if value(&text, "frozen") == Some(1) {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
            }
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            // It says so when the file has changed since it was read.
            match poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], left) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Lets go on what was frozen.
    pub(crate) fn thaw(&self) -> io::Result<()> {
        self.write("cgroup.freeze", b"0")
    }

    /// Whether what runs in it is to be stopped.
    pub(crate) fn is_frozen(&self) -> bool {
        self.read("cgroup.freeze").is_some_and(|text| text.trim() == "1")
    }

    /// The processor time of all that have ever been in it.
    pub(crate) fn cpu_time(&self) -> Option<CpuTime> {
        let text = self.read("cpu.stat")?;
        let time = |key| value(&text, key).map(Duration::from_micros);
        Some(CpuTime { user: time("user_usec")?, system: time("system_usec")?, total: time("usage_usec")? })
    }

    /// The most memory that was ever in use: `memory.peak`, Linux 5.19.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        self.read("memory.peak")?.trim().parse().ok()
    }

    /// Whether a process was killed for want of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        self.keyed("memory.events", "oom_kill").is_some_and(|count| count > 0)
    }

    /// Whether there was ever no memory left.
    pub(crate) fn has_met_its_memory(&self) -> bool {
        self.keyed("memory.events", "max").is_some_and(|count| count > 0)
    }

    /// Leaves it to the next host: a sandbox runs on in it.
    pub(crate) fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
        let _ = std::fs::set_permissions(self.path(), Permissions::from_mode(DETACHED));
    }
}

impl AsFd for Leaf {
    /// Its directory.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        if self.left.load(Ordering::Relaxed) {
            return;
        }
        if remove(&self.above, &self.name).is_err() {
            self.kill();
            if !remove_patiently(&self.above, &self.name) {
                late().push((self.above.clone(), self.name.clone()));
            }
        }
    }
}

/// What could not be removed in time: with the next group that is made, it is tried again.
fn late() -> MutexGuard<'static, Vec<(PathBuf, String)>> {
    static LATE: Mutex<Vec<(PathBuf, String)>> = Mutex::new(Vec::new());
    LATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn value(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

/// A name that no other group has: of any process, thread or PID namespace.
fn unused_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("{PREFIX}{}-{}-{:08x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed), random as u32)
}

/// Opens the directory of a group that nobody else has locked. None if somebody has, or has removed it meanwhile.
fn open_locked(path: &Path) -> io::Result<Option<OwnedFd>> {
    let dir = OwnedFd::from(File::open(path)?);
    // Above 3: init gets it there.
    let dir = if dir.as_raw_fd() > 3 { dir } else { duplicate_from(dir.as_fd(), 4)? };
    match sys::lock(dir.as_fd()) {
        Err(Errno(libc::EWOULDBLOCK)) => return Ok(None),
        locked => locked.map_err(|Errno(errno)| io::Error::from_raw_os_error(errno))?,
    }
    // Somebody else may have had the lock before, and removed it.
    Ok(path.join("cgroup.procs").exists().then_some(dir))
}

fn enable(directory: &Path, controllers: &str) -> io::Result<()> {
    File::options().write(true).open(directory.join("cgroup.subtree_control"))?.write_all(controllers.as_bytes())
}

fn remove(above: &Path, name: &str) -> io::Result<()> {
    let above = File::open(above)?;
    let name = CString::new(name)?;
    match unlinkat(&above, name.as_c_str(), UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Removes a group whose processes are ending, if they do so in time.
fn remove_patiently(above: &Path, name: &str) -> bool {
    let (deadline, mut pause) = (Instant::now() + PATIENCE, Duration::from_micros(100));
    while remove(above, name).is_err() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    true
}

/// Removes what dead hosts have left, when a directory is used first.
fn sweep_once(above: &Path) {
    static SWEPT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let first = SWEPT.lock().unwrap_or_else(PoisonError::into_inner).insert(above.to_owned());
    if first {
        sweep(above);
    }
}

/// Removes the groups that nobody has locked. One with processes is a dead host's, whose sandbox had no init to end it.
fn sweep(above: &Path) {
    let entries = std::fs::read_dir(above).into_iter().flatten().flatten();
    for entry in entries {
        let file_name = entry.file_name();
        let Some(name) = file_name.to_str().filter(|name| is_ours(name)) else { continue };
        let Some(mode) = entry.metadata().ok().and_then(|data| mode_of_ours(&data)) else { continue };
        let path = above.join(name);
        // Held until the group is gone.
        let Ok(Some(_lock)) = open_locked(&path) else { continue };
        if remove(above, name).is_err() && mode != DETACHED {
            let _ = std::fs::write(path.join("cgroup.kill"), "1");
            remove_patiently(above, name);
        }
    }
}

/// Whether a name is one that [`unused_name`] makes.
fn is_ours(name: &str) -> bool {
    let parts: Vec<_> = name.strip_prefix(PREFIX).unwrap_or_default().split('-').collect();
    match parts.as_slice() {
        [pid, count, random] => {
            pid.parse::<u32>().is_ok() && count.parse::<u64>().is_ok() && random.len() == 8 && is_hex(random)
        }
        _ => false,
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The mode of a directory that this user's processes have made for a sandbox.
fn mode_of_ours(data: &Metadata) -> Option<u32> {
    let mine = data.is_dir() && data.uid() == nix::unistd::geteuid().as_raw();
    let mode = data.permissions().mode() & 0o7777;
    (mine && [MODE, DETACHED].contains(&mode)).then_some(mode)
}

/// A step of the host's that failed.
fn failed(step: &Step, error: &io::Error) -> Error {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let failed = Error::os(step.layer(), step.to_string(), errno);
    let failed = step.path(Operand::Call).into_iter().fold(failed, Error::with_path);
    match hint(step, errno) {
        Some(hint) => failed.with_kind(ErrorKind::Unsupported).with_hint(hint),
        None => failed,
    }
}

fn hint(step: &Step, errno: i32) -> Option<&'static str> {
    match (step, errno) {
        (Step::CgroupEnable { .. }, libc::EBUSY) => Some(
            "the directory has processes of its own, and the kernel gives controllers only to groups whose parent has none: \
             use another directory, or move them to a group below",
        ),
        (Step::CgroupEnable { .. } | Step::CgroupFile { .. }, libc::EOPNOTSUPP) => {
            Some("the directory is threaded, or in a threaded group: cgroup.type must be \"domain\"")
        }
        (Step::CgroupEnable { .. }, libc::ENOENT) => Some("the directory above has not the controller to give"),
        (Step::Cgroup { .. }, libc::EAGAIN) => Some("cgroup.max.descendants or cgroup.max.depth is reached"),
        (Step::CgroupFile { .. }, libc::ENOENT) => Some("this kernel, or this directory, has no such limit"),
        (Step::CgroupFile { name: "io.max", .. }, libc::ENODEV) => Some("it has to be a whole device, no partition"),
        _ => None,
    }
}

/// Where an error of a clone into a cgroup comes from, if it does.
pub(super) fn entry_hint(errno: i32) -> Option<&'static str> {
    match errno {
        libc::EACCES => Some(
            "to move a process into a cgroup takes the right to write cgroup.procs of the nearest directory above both it and \
             this process: use a directory that is delegated together with this process's own",
        ),
        libc::EOPNOTSUPP => Some("the cgroup is threaded: cgroup.type of the directory must be \"domain\""),
        libc::EBUSY => Some("the cgroup has controllers enabled for groups below it"),
        _ => None,
    }
}

/// The layer of what goes wrong there.
pub(super) fn entry_failed(error: Error, errno: i32) -> Error {
    match entry_hint(errno) {
        Some(hint) => Error::os(Layer::Limits, error.step(), errno).with_hint(hint),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ours_are_known_and_no_others() {
        assert!(is_ours(&unused_name()));
        for other in [
            "belljar",
            "belljar-",
            "belljar-test-1-00000000",
            "belljar-1-2-0000000g",
            "belljar-1-2-000",
            "1-2-00000000",
        ] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
