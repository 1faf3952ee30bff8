//! The root file system and everything mounted in it.

#[cfg(feature = "image")]
mod distroless;
mod entry;
mod host;
mod overlay;
mod path;
mod tmpfs;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Layer, Result};
use crate::plan::{Content, EntryStep, Escaped, HostPath, Inside, InsideKind, Step, attr};
use path::{HostKind, host_path, inside, split};

#[cfg(feature = "image")]
pub use distroless::Distroless;
pub use entry::Entry;
#[cfg(feature = "image")]
pub(crate) use host::{HOSTS, NSSWITCH};
#[cfg(feature = "image")]
pub(crate) use path::is_system;
pub use tmpfs::Tmpfs;

pub(crate) use overlay::is_writable_root;

/// Where the root comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Empty,
    /// Empty, writable, and nothing is added.
    Bare,
    Host,
    Dir(PathBuf),
    /// Directories that are stacked, the first lowest.
    Layers(Vec<PathBuf>),
    /// An empty root, and mounts before the caller's that make it one for a program.
    #[cfg(feature = "image")]
    Distroless(Distroless),
}

/// What becomes of what the program writes to the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Writes {
    /// It is refused.
    #[default]
    Refused,
    /// It goes through to the directory.
    Through,
    /// It goes to a tmpfs on top.
    Ephemeral,
    /// It goes to a copy in a tmpfs.
    Copied,
    /// It goes to this directory on top.
    Kept(PathBuf),
}

/// The root file system.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Root {
    pub(crate) source: Source,
    pub(crate) writes: Writes,
    /// How much a tmpfs for what is written holds, unless it is the default.
    pub(crate) size: Option<u64>,
    pub(crate) inodes: Option<u64>,
    /// Whether missing places are made in directories of the host too.
    pub(crate) make_places: bool,
}

impl From<Source> for Root {
    fn from(source: Source) -> Self {
        Root { source, writes: Writes::default(), size: None, inodes: None, make_places: false }
    }
}

/// What the caller puts into the root, in the caller's order.
#[derive(Clone, Debug)]
pub(crate) enum Mount {
    Bind { source: PathBuf, target: PathBuf, write: bool },
    Tmpfs(Tmpfs),
    Copy { source: PathBuf, target: Tmpfs },
    Dir(PathBuf),
    File { path: PathBuf, data: Content },
    Symlink { target: PathBuf, link: PathBuf },
    Mask(PathBuf),
    Entry(Entry),
}

/// What of the policy the root depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) root: &'a Root,
    pub(crate) mounts: &'a [Mount],
    /// Whether there is a PID namespace, without which /proc would show the host's processes.
    pub(crate) pid_namespace: bool,
    /// Whether the mounts of the host have to be cut off: a user namespace of one's own does that.
    pub(crate) private: bool,
    /// Whether the program has the host's network, and so may want to resolve names.
    pub(crate) host_network: bool,
    /// The ids of the program, for the files that name them.
    pub(crate) ids: (u32, u32),
    /// Whether nothing of /proc may be written, not even what is the program's own.
    pub(crate) seals_proc: bool,
    /// How much the sandbox's own /tmp holds, unless it is the default.
    pub(crate) tmp_size: Option<u64>,
    /// Whether the caller is root.
    pub(crate) privileged: bool,
}

/// What container engines hide of /proc: it tells about the host, or lets one work on its hardware.
const MASKED: [(&str, InsideKind); 13] = [
    ("/proc/acpi", InsideKind::Dir),
    ("/proc/asound", InsideKind::Dir),
    ("/proc/interrupts", InsideKind::File),
    ("/proc/kcore", InsideKind::File),
    ("/proc/keys", InsideKind::File),
    ("/proc/latency_stats", InsideKind::File),
    ("/proc/sched_debug", InsideKind::File),
    ("/proc/scsi", InsideKind::Dir),
    ("/proc/timer_list", InsideKind::File),
    ("/proc/timer_stats", InsideKind::File),
    ("/proc/kpagecgroup", InsideKind::File),
    ("/proc/kpagecount", InsideKind::File),
    ("/proc/kpageflags", InsideKind::File),
];

/// What they make read-only: a process whose id is 0 outside can write there even with no capability.
const PROTECTED: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Lowers the root: what it comes from, what is in it, and the seal.
pub(crate) fn lower(setting: &Setting<'_>, steps: &mut Vec<Step>) -> Result<()> {
    let mut content = Vec::new();
    if setting.root.source == Source::Host {
        host::lower(setting.host_network, setting.ids, &mut content)?;
    }
    if setting.root.make_places {
        content.push(EntryStep::MakePlaces.into());
    }
    let bare = setting.root.source == Source::Bare;
    if !bare {
        lower_kernel_files(setting, &mut content)?;
    }
    for (index, mount) in setting.mounts.iter().enumerate() {
        match mount {
            Mount::Tmpfs(tmpfs) if bare => content.push(tmpfs.lower_anywhere()?),
            Mount::Entry(entry) => entry.lower(index, setting, &mut content)?,
            mount => lower_mount(mount, index, &mut content)?,
        }
    }
    if setting.private {
        steps.push(Step::Private);
    }
    // Whatever the host's umask is: the program may have another id than who builds its root.
    steps.extend([Step::Umask { mask: 0o022 }, Step::Workspace]);
    steps.extend(overlay::lower(setting.root, &content)?);
    steps.append(&mut content);
    if setting.root.writes == Writes::Refused && !bare {
        let root = Inside { path: c"/".into(), kind: InsideKind::Dir, components: Vec::new() };
        let attributes = attr::READ_ONLY | attr::NO_SUID | attr::NO_DEV;
        steps.push(Step::Seal { at: root, attributes });
    }
    steps.push(Step::Pivot);
    Ok(())
}

/// Whether something is mounted in the place of what the sandbox would have there itself.
pub(crate) fn replaces(mounts: &[Mount], path: &str) -> bool {
    mounts.iter().any(|mount| mount.target() == Path::new(path))
}

/// /proc, /dev and /tmp, but for what the caller mounts at the same place.
fn lower_kernel_files(setting: &Setting<'_>, steps: &mut Vec<Step>) -> Result<()> {
    let replaced = |path: &str| replaces(setting.mounts, path);
    if setting.pid_namespace && !replaced("/proc") {
        steps.push(Step::Proc { at: inside("/proc", InsideKind::Dir)? });
        for (path, kind) in MASKED {
            steps.push(Step::Mask { at: inside(path, kind)? });
        }
        match setting.seals_proc {
            true => {
                let attributes = attr::NO_SUID | attr::NO_DEV | attr::NO_EXEC | attr::READ_ONLY;
                steps.push(Step::Seal { at: inside("/proc", InsideKind::Dir)?, attributes });
            }
            false => {
                for path in PROTECTED {
                    steps.push(Step::Protect { at: inside(path, InsideKind::Dir)? });
                }
            }
        }
    }
    if !replaced("/dev") {
        lower_devices(steps)?;
    }
    if !replaced("/tmp") {
        let tmp = Tmpfs::new("/tmp");
        let tmp = match setting.tmp_size {
            Some(size) => tmp.size(size),
            None => tmp,
        };
        steps.push(tmp.lower()?);
    }
    Ok(())
}

fn lower_devices(steps: &mut Vec<Step>) -> Result<()> {
    let attributes = attr::NO_SUID | attr::NO_EXEC;
    steps.push(Tmpfs::new("/dev").size(1 << 20).inodes(64).mode(0o755).lower_with(attributes)?);
    for name in DEVICES {
        let path = format!("/dev/{name}");
        let source = HostPath(text(&path)?);
        // A device works on a read-only mount; its file, which a root caller owns, can't be changed there.
        let attributes = attributes | attr::READ_ONLY;
        steps.push(Step::Bind { source, at: inside(&path, InsideKind::File)?, attributes });
    }
    for (target, link) in DEVICE_LINKS {
        steps.push(Step::Symlink { target: text(target)?, at: inside(link, InsideKind::File)? });
    }
    steps.push(Step::Dir { at: inside("/dev/pts", InsideKind::Dir)? });
    steps.push(Step::Devpts { at: inside("/dev/pts", InsideKind::Dir)? });
    steps.push(Tmpfs::new("/dev/shm").lower()?);
    let at = inside("/dev", InsideKind::Dir)?;
    steps.push(Step::Seal { at, attributes: attributes | attr::READ_ONLY });
    Ok(())
}

fn lower_mount(mount: &Mount, index: usize, steps: &mut Vec<Step>) -> Result<()> {
    let step = match mount {
        Mount::Bind { source, target, write } => {
            let verb = if *write { "bind" } else { "bind_ro" };
            let words = format!("{verb} {} -> {}", shown(source), shown(target));
            // The target's form first: it needs no look at the host.
            let mut at = inside_as(target, InsideKind::Dir, &words)?;
            let (source, kind) = host_path(source, &words)?;
            if kind == HostKind::Other {
                at.kind = InsideKind::File;
            }
            let read_only = if *write { 0 } else { attr::READ_ONLY };
            Step::Bind { source, at, attributes: attr::NO_SUID | attr::NO_DEV | read_only }
        }
        Mount::Tmpfs(tmpfs) => tmpfs.lower()?,
        Mount::Copy { source, target } => {
            steps.push(target.lower()?);
            copy(source, target.path())?
        }
        Mount::Dir(path) => Step::Dir { at: inside_as(path, InsideKind::Dir, &format!("dir {}", shown(path)))? },
        Mount::File { path, data } => {
            let at = inside_as(path, InsideKind::File, &format!("file {}", shown(path)))?;
            file(at, &format!("file/{index}"), data.clone())?
        }
        Mount::Symlink { target, link } => {
            let words = format!("symlink {} <- {}", shown(target), shown(link));
            let at = inside_as(link, InsideKind::File, &words)?;
            let invalid = |cause| Error::invalid(Layer::Mount, words.as_str(), cause).with_path(target);
            if target.as_os_str().is_empty() {
                return Err(invalid("a symbolic link can't be empty").with_errno(libc::ENOENT));
            }
            let target = CString::new(target.as_os_str().as_bytes());
            Step::Symlink { target: target.map_err(|_| invalid("the path has a zero byte"))?, at }
        }
        Mount::Mask(path) => Step::Mask { at: inside_as(path, InsideKind::File, &format!("mask {}", shown(path)))? },
        // Its steps are several, and depend on the setting.
        Mount::Entry(_) => return Ok(()),
    };
    steps.push(step);
    Ok(())
}

impl Mount {
    pub(crate) fn target(&self) -> &Path {
        match self {
            Mount::Bind { target, .. } => target,
            Mount::Tmpfs(tmpfs) | Mount::Copy { target: tmpfs, .. } => tmpfs.path(),
            Mount::Dir(path) | Mount::File { path, .. } | Mount::Mask(path) => path,
            Mount::Symlink { link, .. } => link,
            Mount::Entry(entry) => entry.path(),
        }
    }
}

/// The step that fills a tmpfs.
fn copy(source: &Path, target: &Path) -> Result<Step> {
    let words = format!("copy {} -> {}", shown(source), shown(target));
    let at = inside_as(target, InsideKind::Dir, &words)?;
    match host_path(source, &words)? {
        (source, HostKind::Dir) => Ok(Step::Copy { source, at }),
        (_, HostKind::Other) => Err(Error::invalid(Layer::Mount, words, "only directories are copied in")
            .with_errno(libc::ENOTDIR)
            .with_path(source)
            .with_hint("Sandbox::file puts the content of a file there, and bind_ro the file itself")),
    }
}

/// A file of our own, under a name in the workspace that is unique in the plan.
fn file(at: Inside, name: &str, data: Content) -> Result<Step> {
    Ok(Step::File { at, name: text(&name.replace('/', "."))?, data })
}

fn inside_as(path: &Path, kind: InsideKind, words: &str) -> Result<Inside> {
    split(path, kind)
        .map_err(|cause| Error::invalid(Layer::Mount, words, cause).with_path(path).with_errno(libc::EINVAL))
}

/// A path in words: whoever has named the file must not write to the terminal of whoever reads them.
fn shown(path: &Path) -> Escaped<'_> {
    Escaped(path.as_os_str().as_bytes())
}

/// A string of our own in kernel form.
fn text(string: &str) -> Result<CString> {
    let invalid = |_| Error::invalid(Layer::Mount, "mount", format!("{string:?} has a zero byte"));
    CString::new(string).map_err(invalid)
}
