//! Landlock: rules for files, TCP ports, signals and abstract sockets that no mount, link or descriptor gets around.
//!
//! The rules are added by the child: they name files by what they are, and those of the sandbox's own file systems
//! only exist there.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Layer, Result};
use crate::plan::Step;
use crate::sys::{Errno, LandlockHandled, landlock_version};

/// Landlock rules: see landlock(7).
///
/// The default, [`Landlock::derived`], says the same as the sandbox's mounts in a second language: everything in the root can be
/// read and executed, and what is mounted writable can be written, the root included if it is. With [`Network::None`](crate::Network::None) it also
/// denies TCP; and it keeps signals and abstract sockets inside. It is applied as far as the kernel's Landlock goes, and
/// [`Child::report`](crate::Child::report) tells how far that is. A rule that is added by name is enforced, or the start
/// fails.
///
/// A rule that follows from a mount is for that mount and no other: where somebody outside renames directories of a shared
/// volume in that moment, so that its place leads elsewhere, the start fails.
///
/// What is not protected: a directory that is mounted read-only inside of a writable one is held by the mount alone; file
/// attributes, such as modes and times, sockets in the file system, UDP and raw sockets are not Landlock's.
///
/// What it takes from programs: they can't mount, nor open POSIX message queues, nor write to files of /proc, their own
/// `comm` and `oom_score_adj` included, for which there is `allow_write("/proc")`, also in a sandbox of root's, whose /proc is read-only otherwise; and a directory that is passed as a
/// descriptor leads to nothing below it. A passed file can be opened once more, through `/dev/stdout` or `/proc/self/fd`,
/// for what it is open for already.
///
/// # Kernel
///
/// Linux 5.13 or later, with Landlock among its security modules. Moving files between directories needs 5.19
/// (Landlock ABI 2), truncation is controlled from 6.2 (ABI 3), TCP from 6.7 (ABI 4), device ioctls from 6.10 (ABI 5),
/// signals and abstract sockets from 6.12 (ABI 6), audit from 6.15 (ABI 7).
///
/// # Examples
///
/// ```
/// use belljar::{Landlock, Namespaces, Sandbox, Seccomp};
///
/// // No namespace at all, as where a container engine forbids them: Landlock and seccomp alone.
/// let sandbox = Sandbox::new()
///     .namespaces(Namespaces::empty())
///     .landlock(Landlock::new().allow_execute("/usr").allow_read("/etc/ld.so.cache").allow_write("/dev/null"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landlock {
    base: Base,
    paths: Vec<(PathBuf, u64)>,
    ports: Vec<(u16, u64)>,
    audit: bool,
    /// Whether device files may be made where the mounts are writable.
    devices: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Off,
    Derived,
    Nothing,
}

/// Access rights to files, from `linux/landlock.h`.
mod fs {
    pub(super) const EXECUTE: u64 = 1 << 0;
    pub(super) const WRITE_FILE: u64 = 1 << 1;
    pub(super) const READ_FILE: u64 = 1 << 2;
    pub(super) const READ_DIR: u64 = 1 << 3;
    pub(super) const REFER: u64 = 1 << 13;
    pub(super) const TRUNCATE: u64 = 1 << 14;
    pub(super) const IOCTL_DEV: u64 = 1 << 15;

    pub(super) const READ: u64 = READ_FILE | READ_DIR;
    pub(super) const RUN: u64 = READ | EXECUTE;
    /// Writing, and bits 4 to 12: removing and making files of every kind.
    pub(super) const WRITE: u64 = WRITE_FILE | 0x1ff0 | REFER | TRUNCATE;
    /// Making device files, of characters and of blocks.
    pub(super) const MAKE_DEVICE: u64 = 1 << 6 | 1 << 11;
    /// What makes sense for something that is no directory.
    pub(super) const FILE: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;
}

const BIND_TCP: u64 = 1 << 0;
const CONNECT_TCP: u64 = 1 << 1;
const SCOPES: u64 = 0b11;
const LOG_NEW_EXEC: u32 = 1 << 1;

/// The versions that brought something.
const REFER: u32 = 2;
const TRUNCATE: u32 = 3;
const TCP: u32 = 4;
const IOCTL: u32 = 5;
const SCOPE: u32 = 6;
const AUDIT: u32 = 7;

/// What of the policy the rules depend on.
#[derive(Debug)]
pub(crate) struct Setting {
    /// What is mounted, in this order. None without mounts of the sandbox's own.
    pub(crate) places: Option<Vec<Place>>,
    /// Whether there is a /dev of the sandbox's own.
    pub(crate) devices: bool,
    /// Whether the program has no network at all.
    pub(crate) no_network: bool,
    /// The descriptors that the program is given.
    pub(crate) passed: Vec<i32>,
}

/// A mount inside.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) path: CString,
    pub(crate) dir: bool,
    pub(crate) write: bool,
    /// Which of the mounts that can be written this is, if it is one.
    pub(crate) mount: Option<usize>,
}

/// What the rules come to.
#[derive(Debug)]
pub(crate) struct Lowered {
    /// Before privileges are gone: what may be used is looked up.
    pub(crate) rules: Vec<Step>,
    /// After no_new_privs.
    pub(crate) restrict: Option<Step>,
    /// How far the kernel goes, if not all the way.
    pub(crate) lacking: Option<String>,
}

impl Default for Landlock {
    fn default() -> Self {
        Self::derived()
    }
}

impl Landlock {
    fn with(base: Base) -> Self {
        Self { base, paths: Vec::new(), ports: Vec::new(), audit: false, devices: false }
    }

    /// Rules that follow from the mounts, the network and what is passed to the program. Without
    /// [`Namespaces::MOUNT`](crate::Namespaces::MOUNT) there are no mounts to follow from, and files are not restricted,
    /// unless rules are added.
    pub fn derived() -> Self {
        Self::with(Base::Derived)
    }

    /// No Landlock: for programs that mount file systems, which it forbids. They also need capabilities that are kept, or
    /// a user namespace of their own: see [`Seccomp::allow`](crate::Seccomp::allow).
    pub fn off() -> Self {
        Self::with(Base::Off)
    }

    /// No file may be touched but what is allowed by name; and where the kernel controls it, no TCP port used.
    ///
    /// A program needs more than itself to start: if it is linked dynamically, to execute the loader, and to read libraries.
    pub fn new() -> Self {
        Self::with(Base::Nothing)
    }

    /// Allows reading what is at `path`, an absolute path inside, and below.
    pub fn allow_read(self, path: impl AsRef<Path>) -> Self {
        self.path(path, fs::READ)
    }

    /// Allows reading and writing what is at `path` and below, making and removing files included.
    pub fn allow_write(self, path: impl AsRef<Path>) -> Self {
        self.path(path, fs::READ | fs::WRITE | fs::IOCTL_DEV)
    }

    /// Allows reading and executing what is at `path` and below.
    pub fn allow_execute(self, path: impl AsRef<Path>) -> Self {
        self.path(path, fs::RUN)
    }

    /// Allows connecting to a TCP port; to no other, once one is named. Needs Linux 6.7, and a network.
    pub fn connect_tcp(self, port: u16) -> Self {
        self.port(port, CONNECT_TCP)
    }

    /// Allows listening at a TCP port; at no other, once one is named. Port 0 stands for one that the kernel chooses.
    /// Needs Linux 6.7, and a network.
    pub fn bind_tcp(self, port: u16) -> Self {
        self.port(port, BIND_TCP)
    }

    /// Has the kernel's audit log tell what is denied to the program. Needs Linux 6.15.
    pub fn audit(mut self) -> Self {
        self.audit = true;
        self
    }

    /// Lets device files be made too, as far as the kernel does: the marks of an overlay are such.
    #[cfg(feature = "image")]
    pub(crate) fn with_devices(mut self) -> Self {
        self.devices = true;
        self
    }

    fn path(mut self, path: impl AsRef<Path>, access: u64) -> Self {
        self.paths.push((path.as_ref().to_owned(), access));
        self
    }

    fn port(mut self, port: u16, access: u64) -> Self {
        self.ports.push((port, access));
        self
    }

    pub(crate) fn is_off(&self) -> bool {
        self.base == Base::Off
    }

    /// Whether the caller has asked for writing to something in `dir`.
    pub(crate) fn lets_write_below(&self, dir: &str) -> bool {
        self.paths.iter().any(|(path, access)| access & fs::WRITE != 0 && path.starts_with(dir))
    }

    /// Whether the rules are to keep every program from writing to `dir`, and to what is in it.
    pub(crate) fn lets_write_nothing_at(&self, dir: &str) -> bool {
        let above = |(path, access): &(PathBuf, u64)| access & fs::WRITE != 0 && Path::new(dir).starts_with(path);
        !self.is_off() && !self.lets_write_below(dir) && !self.paths.iter().any(above)
    }

    pub(crate) fn lower(&self, setting: &Setting) -> Result<Lowered> {
        let nothing = |lacking: Option<String>| Lowered { rules: Vec::new(), restrict: None, lacking };
        if self.is_off() {
            if !self.paths.is_empty() || !self.ports.is_empty() || self.audit {
                let cause = "rules contradict Landlock::off()";
                return Err(Error::invalid(Layer::Landlock, "rules", cause));
            }
            return Ok(nothing(None));
        }
        if setting.no_network && !self.ports.is_empty() {
            let cause = "rules for TCP ports contradict Network::None";
            let hint = "choose Network::Loopback or Network::Host";
            return Err(Error::invalid(Layer::Landlock, "rules", cause).with_hint(hint));
        }
        let named = self.named_paths()?;
        let version = match landlock_version() {
            Ok(version) => version,
            Err(errno) => {
                self.check_named(0, errno)?;
                return Ok(nothing(Some(why_none(errno))));
            }
        };
        self.check_named(version, Errno(libc::EOPNOTSUPP))?;
        let handled = self.handled(setting, version);
        if handled == LandlockHandled::default() {
            return Ok(nothing(Some("there is nothing to restrict".to_owned())));
        }
        let mut rules = vec![Step::LandlockRuleset { handled, version }];
        if handled.fs != 0 {
            let derived = if self.base == Base::Derived { derived(setting, self.devices) } else { Vec::new() };
            rules.extend(derived.into_iter().chain(named).map(|Rule { path, access, mount }| Step::LandlockPath {
                path,
                mount,
                access: access & handled.fs,
                file: access & handled.fs & fs::FILE,
            }));
        }
        if let Some([read, write]) = self.passed(&handled).filter(|_| !setting.passed.is_empty()) {
            rules.push(Step::LandlockPassed { fds: setting.passed.clone(), read, write });
        }
        rules.extend(self.ports.iter().map(|(port, access)| Step::LandlockPort { port: *port, access: *access }));
        let flags = if self.audit { LOG_NEW_EXEC } else { 0 };
        Ok(Lowered { rules, restrict: Some(Step::LandlockRestrict { flags }), lacking: lacking(version, handled) })
    }

    /// What is allowed to a file that is passed for reading, and to one for writing, if that follows from the descriptor.
    pub(crate) fn passed(&self, handled: &LandlockHandled) -> Option<[u64; 2]> {
        let [read, write] = [fs::READ_FILE | fs::IOCTL_DEV, fs::WRITE_FILE | fs::TRUNCATE | fs::IOCTL_DEV];
        let derived = handled.fs != 0 && self.base == Base::Derived;
        derived.then_some([read & handled.fs, write & handled.fs])
    }

    /// What is asked for by name is enforced, or nothing starts.
    fn check_named(&self, version: u32, Errno(errno): Errno) -> Result<()> {
        let needs = [
            (self.base == Base::Nothing || !self.paths.is_empty(), 1, "rules for files", "5.13"),
            (!self.ports.is_empty(), TCP, "rules for TCP ports", "6.7"),
            (self.audit, AUDIT, "audit", "6.15"),
        ];
        let missing = needs.into_iter().find(|(asked, needed, ..)| *asked && *needed > version);
        let Some((_, needed, what, linux)) = missing else { return Ok(()) };
        let cause = match version {
            0 => why_none(Errno(errno)),
            _ => format!("{what} need Landlock ABI {needed}, and this kernel has {version}"),
        };
        let hint = format!("it takes Linux {linux} or later, with Landlock among its security modules");
        Err(Error::new(Layer::Landlock, ErrorKind::Unsupported, what, cause).with_errno(errno).with_hint(hint))
    }

    /// What is denied unless a rule allows it.
    fn handled(&self, setting: &Setting, version: u32) -> LandlockHandled {
        let mut files = fs::RUN | fs::WRITE | fs::IOCTL_DEV;
        for (since, access) in [(REFER, fs::REFER), (TRUNCATE, fs::TRUNCATE), (IOCTL, fs::IOCTL_DEV)] {
            if version < since {
                files &= !access;
            }
        }
        let derivable = setting.places.is_some() || !self.paths.is_empty();
        let named = self.ports.iter().fold(0, |all, (_, access)| all | access);
        let all_tcp = setting.no_network || self.base == Base::Nothing;
        LandlockHandled {
            fs: if self.base == Base::Nothing || derivable { files } else { 0 },
            net: match version {
                0..TCP => 0,
                _ if all_tcp => BIND_TCP | CONNECT_TCP,
                _ => named,
            },
            scoped: if version < SCOPE { 0 } else { SCOPES },
        }
    }

    /// The rules that the caller has added.
    fn named_paths(&self) -> Result<Vec<Rule>> {
        let rule = |(path, access): &(PathBuf, u64)| {
            let invalid = |cause| Error::invalid(Layer::Landlock, "rules", cause).with_path(path);
            if !path.is_absolute() {
                return Err(invalid("a path inside must be absolute"));
            }
            let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| invalid("the path has a zero byte"))?;
            Ok(Rule { path, access: *access, mount: None })
        };
        self.paths.iter().map(rule).collect()
    }
}

/// What is allowed at a path inside, and below.
struct Rule {
    path: CString,
    access: u64,
    /// Which of the writable mounts that has to be, whoever may have renamed directories since.
    mount: Option<usize>,
}

/// The rules that follow from the mounts.
fn derived(setting: &Setting, devices: bool) -> Vec<Rule> {
    let Some(places) = &setting.places else { return Vec::new() };
    let mut rules = vec![Rule { path: c"/".into(), access: fs::RUN, mount: None }];
    if setting.devices {
        let access = fs::RUN | fs::WRITE_FILE | fs::TRUNCATE | fs::IOCTL_DEV;
        let mount = places.iter().find(|place| place.path.as_c_str() == c"/dev").and_then(|place| place.mount);
        rules.push(Rule { path: c"/dev".into(), access, mount });
    }
    // What is mounted over, nobody can reach; and below a writable directory its rule holds already.
    let last =
        |index: usize, place: &Place| !places.iter().skip(index + 1).any(|other| covers(&other.path, &place.path));
    let seen = places.iter().enumerate().filter(|(index, place)| place.write && last(*index, place));
    let seen: Vec<_> = seen.map(|(_, place)| place).collect();
    let within = |place: &Place| {
        seen.iter().any(|other| other.dir && other.path != place.path && covers(&other.path, &place.path))
    };
    for place in seen.iter().filter(|place| !within(place)) {
        let access = fs::RUN | (fs::WRITE & !(if devices { 0 } else { fs::MAKE_DEVICE }));
        let access = if place.dir { access } else { access & fs::FILE };
        rules.push(Rule { path: place.path.clone(), access, mount: place.mount });
    }
    rules
}

/// Whether `path` is `dir` or lies below.
fn covers(dir: &CStr, path: &CStr) -> bool {
    let rest = path.to_bytes().strip_prefix(dir.to_bytes());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || dir == c"/")
}

fn why_none(errno: Errno) -> String {
    match errno {
        Errno(libc::EOPNOTSUPP) => "Landlock is switched off on this kernel (boot parameter lsm=)".to_owned(),
        Errno(libc::ENOSYS) => "this kernel has no Landlock, or a filter of system calls hides it".to_owned(),
        Errno(errno) => format!("Landlock can't be asked: {}", std::io::Error::from_raw_os_error(errno)),
    }
}

/// What is left open: by the kernel's version, next to the newest, and for want of something to follow from.
fn lacking(version: u32, handled: LandlockHandled) -> Option<String> {
    let parts = [
        (handled.fs == 0, "files are not restricted, since the mounts are the host's"),
        (version < REFER, "moving files between directories is denied everywhere"),
        (version < TRUNCATE, "truncation is not controlled"),
        (version < TCP, "TCP is not controlled"),
        (version < IOCTL, "ioctls of devices are not controlled"),
        (version < SCOPE, "signals and abstract sockets are not kept inside"),
    ];
    let missing: Vec<_> = parts.iter().filter(|(missing, _)| *missing).map(|(_, what)| *what).collect();
    (!missing.is_empty()).then(|| format!("ABI {version}: {}", missing.join("; ")))
}
