//! Entries: what is put into the root with more to say about it than the setters of the policy do.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::path::{HostKind, host_path, inside_or_root};
use super::{DEVICE_LINKS, DEVICES, MASKED, PROTECTED, Setting, Source, Tmpfs, shown, text};
use crate::error::{Error, Layer, Result};
use crate::plan::{Content, EntryStep, EntryUpper, HostPath, Inside, InsideKind, Step, attr};
use crate::sys::{self, Errno};

/// One thing to put into the root, where [`Sandbox::bind`](crate::Sandbox::bind) and its like say too little:
/// for [`Sandbox::entry`](crate::Sandbox::entry).
///
/// Entries and those setters are taken in the order of the calls, each over what is there by then. The target of an entry
/// may be `/`: what is mounted there is the root from then on.
///
/// # Examples
///
/// ```no_run
/// use belljar::{Entry, Rootfs, Sandbox};
///
/// let sandbox = Sandbox::new()
///     .rootfs(Rootfs::bare())
///     .entry(Entry::bind("/", "/").read_only())
///     .entry(Entry::dev("/dev"))
///     .entry(Entry::proc("/proc"))
///     .entry(Entry::bind("/dev/dri", "/dev/dri").with_devices())
///     .entry(Entry::data("/etc/hostname", "build\n").mode(0o644).read_only());
/// ```
#[derive(Clone, Debug)]
pub struct Entry {
    path: PathBuf,
    what: What,
    mode: Option<u32>,
    read_only: bool,
    with_devices: bool,
    unmasked: bool,
}

#[derive(Clone, Debug)]
enum What {
    Bind(PathBuf),
    BindFd(Arc<OwnedFd>),
    Dir,
    File(Content),
    Data(Content),
    Proc,
    Dev,
    Mqueue,
    Overlay { layers: Vec<PathBuf>, upper: Upper },
    Mode(u32),
    Seal,
}

#[derive(Clone, Debug)]
enum Upper {
    Nothing,
    Memory,
    Dirs([PathBuf; 2]),
}

impl Entry {
    fn new(path: impl AsRef<Path>, what: What) -> Self {
        let path = path.as_ref().to_owned();
        Self { path, what, mode: None, read_only: false, with_devices: false, unmasked: false }
    }

    /// A file or directory of the host, with what is mounted below it: as [`Sandbox::bind`](crate::Sandbox::bind).
    pub fn bind(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        Self::new(target, What::Bind(source.as_ref().to_owned()))
    }

    /// The file or directory that a descriptor is open on, which may be one of `O_PATH`.
    ///
    /// It is looked for by its path, and must still be there: the start fails where something else is.
    pub fn bind_fd(fd: impl Into<OwnedFd>, target: impl AsRef<Path>) -> Self {
        Self::new(target, What::BindFd(Arc::new(fd.into())))
    }

    /// A directory, made if it is missing, with mode 0755 unless another is set.
    pub fn dir(path: impl AsRef<Path>) -> Self {
        Self::new(path, What::Dir)
    }

    /// A file that is made where it is, with mode 0644 unless another is set; one that is there gets this content.
    pub fn file(path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Self {
        Self::new(path, What::File(Content(content.as_ref().into())))
    }

    /// A file in memory with this content, mounted over what is there: with mode 0600 unless another is set.
    pub fn data(path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Self {
        Self::new(path, What::Data(Content(content.as_ref().into())))
    }

    /// A /proc of the sandbox's own, with the kernel's files masked or read-only as in the one that every other root has.
    /// Needs [`Namespaces::PID`](crate::Namespaces::PID).
    pub fn proc(path: impl AsRef<Path>) -> Self {
        Self::new(path, What::Proc)
    }

    /// A minimal /dev: null, zero, full, random, urandom, tty, pseudo-terminals of its own, `shm`, and the usual links. It
    /// can be written to, by later entries and by the program, until it is [sealed](Entry::seal).
    pub fn dev(path: impl AsRef<Path>) -> Self {
        Self::new(path, What::Dev)
    }

    /// The POSIX message queues of the program's IPC namespace: mq_overview(7). Without [`Namespaces::IPC`](crate::Namespaces::IPC)
    /// those are the host's, as all that is not the sandbox's own.
    pub fn mqueue(path: impl AsRef<Path>) -> Self {
        Self::new(path, What::Mqueue)
    }

    /// Directories of the host, stacked, the first lowest: read-only, unless [`upper`](Entry::upper) or
    /// [`in_memory`](Entry::in_memory) says where writes go. Without either, there have to be two at least.
    ///
    /// # Kernel
    ///
    /// Linux 5.11 without root.
    pub fn overlay<P: AsRef<Path>>(path: impl AsRef<Path>, layers: impl IntoIterator<Item = P>) -> Self {
        let layers = layers.into_iter().map(|layer| layer.as_ref().to_owned()).collect();
        Self::new(path, What::Overlay { layers, upper: Upper::Nothing })
    }

    /// Sets the mode of what is there: on a file system of the sandbox's own, or of the host's with
    /// [`Rootfs::make_places`](crate::Rootfs::make_places).
    pub fn permissions(path: impl AsRef<Path>, mode: u32) -> Self {
        Self::new(path, What::Mode(mode))
    }

    /// Makes the mount at `path` read-only, and none of those below it.
    pub fn seal(path: impl AsRef<Path>) -> Self {
        Self::new(path, What::Seal)
    }

    /// Sets the mode of a new directory or file, at most 0o7777. What it denies to the group and to others, missing
    /// directories on the way are denied too.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Makes a bind, and every file system below it, read-only.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Lets devices below a bind be used. What is not protected: whatever they give to who may open them.
    pub fn with_devices(mut self) -> Self {
        self.with_devices = true;
        self
    }

    /// Shows all of /proc, which lets sandboxes be made inside: the kernel mounts no second /proc where the first is masked
    /// in part. What root could change there of the host is read-only even so, for callers that are root.
    pub fn unmasked(mut self) -> Self {
        self.unmasked = true;
        self
    }

    /// Has an overlay keep what is written in `upper`, a directory of the host; `work` is an empty one on the same file
    /// system, for overlayfs.
    pub fn upper(self, upper: impl AsRef<Path>, work: impl AsRef<Path>) -> Self {
        self.over(Upper::Dirs([upper.as_ref().to_owned(), work.as_ref().to_owned()]))
    }

    /// Has an overlay keep what is written in memory: it is gone at the end.
    pub fn in_memory(self) -> Self {
        self.over(Upper::Memory)
    }

    fn over(mut self, over: Upper) -> Self {
        match &mut self.what {
            What::Overlay { upper, .. } => *upper = over,
            // Refused when the entry is lowered, as what is no overlay.
            _ => self.what = What::Overlay { layers: Vec::new(), upper: over },
        }
        self
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The steps; `index` makes names unique.
    pub(super) fn lower(&self, index: usize, setting: &Setting<'_>, steps: &mut Vec<Step>) -> Result<()> {
        self.check(setting)?;
        let step = match &self.what {
            What::Bind(source) => self.bind_step(source)?,
            What::BindFd(fd) => self.same_step(fd)?,
            What::Dir => EntryStep::Dir { at: self.at(InsideKind::Dir)?, mode: self.mode.unwrap_or(0o755) }.into(),
            What::File(data) => {
                let (at, mode) = (self.at(InsideKind::File)?, self.mode.unwrap_or(0o644));
                EntryStep::File { at, mode, data: data.clone() }.into()
            }
            What::Data(data) => {
                let (at, mode) = (self.at(InsideKind::File)?, self.mode.unwrap_or(0o600));
                let attributes = attr::NO_SUID | attr::NO_DEV | self.read_only_attribute();
                let name = text(&format!("data.{index}"))?;
                EntryStep::Data { at, name, mode, data: data.clone(), attributes }.into()
            }
            What::Proc => return self.lower_proc(setting, steps),
            What::Dev => return self.lower_dev(steps),
            What::Mqueue => EntryStep::Mqueue { at: self.at(InsideKind::Dir)? }.into(),
            What::Overlay { layers, upper } => self.overlay_step(layers, upper, index)?,
            What::Mode(mode) => EntryStep::Mode { at: self.at(InsideKind::File)?, mode: *mode }.into(),
            What::Seal => Step::Seal { at: self.at(InsideKind::File)?, attributes: attr::READ_ONLY },
        };
        steps.push(step);
        Ok(())
    }

    /// Refuses what was said of an entry that has no such thing.
    fn check(&self, setting: &Setting<'_>) -> Result<()> {
        let invalid = |cause: &str| Err(self.error(cause).with_errno(libc::EINVAL));
        let mode = match self.what {
            What::Mode(mode) => Some(mode),
            _ => self.mode,
        };
        if mode.is_some_and(|mode| mode > 0o7777) {
            return invalid("the mode must be at most 0o7777");
        }
        let on_root = inside_or_root(&self.path, InsideKind::Dir).is_ok_and(|at| at.components.is_empty());
        if on_root && setting.root.source != Source::Bare {
            return invalid("the root itself is set by rootfs: only a bare one is mounted over");
        }
        let bind = matches!(self.what, What::Bind(_) | What::BindFd(_));
        if self.mode.is_some() && !matches!(self.what, What::Dir | What::File(_) | What::Data(_)) {
            return invalid("only new directories and files have a mode");
        }
        if self.read_only && !bind && !matches!(self.what, What::Data(_)) {
            return invalid("only binds and data are made read-only: seal does it for other mounts");
        }
        if self.with_devices && !bind {
            return invalid("only binds have devices");
        }
        if self.unmasked && !matches!(self.what, What::Proc) {
            return invalid("only /proc is masked");
        }
        Ok(())
    }

    fn words(&self) -> String {
        let verb = match &self.what {
            What::Bind(source) => return format!("bind {} -> {}", shown(source), shown(&self.path)),
            What::BindFd(_) => "bind descriptor ->",
            What::Dir => "dir",
            What::File(_) => "file",
            What::Data(_) => "data",
            What::Proc => "proc",
            What::Dev => "dev",
            What::Mqueue => "mqueue",
            What::Overlay { .. } => "overlay",
            What::Mode(_) => "chmod",
            What::Seal => "seal",
        };
        format!("{verb} {}", shown(&self.path))
    }

    fn error(&self, cause: &str) -> Error {
        Error::invalid(Layer::Mount, self.words(), cause).with_path(&self.path)
    }

    fn at(&self, kind: InsideKind) -> Result<Inside> {
        inside_or_root(&self.path, kind).map_err(|cause| self.error(cause).with_errno(libc::EINVAL))
    }

    fn read_only_attribute(&self) -> u64 {
        if self.read_only { attr::READ_ONLY } else { 0 }
    }

    fn attributes(&self) -> u64 {
        let devices = if self.with_devices { 0 } else { attr::NO_DEV };
        attr::NO_SUID | devices | self.read_only_attribute()
    }

    fn bind_step(&self, source: &Path) -> Result<Step> {
        let at = self.at(InsideKind::Dir)?;
        let (source, kind) = host_path(source, &self.words())?;
        let kind = if kind == HostKind::Dir { InsideKind::Dir } else { InsideKind::File };
        Ok(Step::Bind { source, at: Inside { kind, ..at }, attributes: self.attributes() })
    }

    fn same_step(&self, fd: &OwnedFd) -> Result<Step> {
        let failed = |errno| Error::os(Layer::Mount, self.words(), errno).with_path(&self.path);
        let stat = sys::fstat(fd.as_fd()).map_err(|Errno(errno)| failed(errno))?;
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let path = std::fs::read_link(link).map_err(|error| failed(error.raw_os_error().unwrap_or(libc::ENOENT)))?;
        let (source, _) = host_path(&path, &self.words())?;
        let at = self.at(if stat.is_dir() { InsideKind::Dir } else { InsideKind::File })?;
        let (file, attributes) = ([stat.device, stat.inode], self.attributes());
        Ok(EntryStep::Same { source, file, at, attributes }.into())
    }

    fn overlay_step(&self, layers: &[PathBuf], upper: &Upper, index: usize) -> Result<Step> {
        if layers.is_empty() || (layers.len() == 1 && matches!(upper, Upper::Nothing)) {
            return Err(self.error("an overlay has one directory at least, and two if nothing can be written"));
        }
        let dir = |path: &PathBuf| self.host_dir(path);
        let lowers = layers.iter().map(dir).collect::<Result<Vec<_>>>()?;
        let upper = match upper {
            Upper::Nothing => EntryUpper::Nothing,
            Upper::Memory => EntryUpper::Memory,
            Upper::Dirs([upper, work]) => EntryUpper::Dirs([dir(upper)?, dir(work)?]),
        };
        let name = |part: &str| text(&format!("overlay.{index}{part}"));
        let names = [name("")?, name(".upper")?, name(".work")?];
        Ok(EntryStep::Overlay { at: self.at(InsideKind::Dir)?, lowers, upper, names }.into())
    }

    fn host_dir(&self, path: &Path) -> Result<HostPath> {
        let words = format!("{}: {}", self.words(), shown(path));
        match host_path(path, &words)? {
            (path, HostKind::Dir) => Ok(path),
            _ => {
                let error = Error::invalid(Layer::Mount, words, "a layer of an overlay is a directory");
                Err(error.with_errno(libc::ENOTDIR).with_path(path))
            }
        }
    }

    fn below(&self, name: &str, kind: InsideKind) -> Result<Inside> {
        inside_or_root(&self.path.join(name), kind).map_err(|cause| self.error(cause))
    }

    fn lower_proc(&self, setting: &Setting<'_>, steps: &mut Vec<Step>) -> Result<()> {
        if !setting.pid_namespace {
            return Err(self.error("a /proc of the sandbox's own needs Namespaces::PID"));
        }
        let name = |path: &'static str| path.strip_prefix("/proc/").unwrap_or(path);
        steps.push(Step::Proc { at: self.at(InsideKind::Dir)? });
        if !self.unmasked {
            for (path, kind) in MASKED {
                steps.push(Step::Mask { at: self.below(name(path), kind)? });
            }
        }
        if setting.seals_proc && !self.unmasked {
            let attributes = attr::NO_SUID | attr::NO_DEV | attr::NO_EXEC | attr::READ_ONLY;
            steps.push(Step::Seal { at: self.at(InsideKind::Dir)?, attributes });
        } else if setting.privileged || !self.unmasked {
            for path in PROTECTED {
                steps.push(Step::Protect { at: self.below(name(path), InsideKind::Dir)? });
            }
        }
        Ok(())
    }

    fn lower_dev(&self, steps: &mut Vec<Step>) -> Result<()> {
        steps.push(Tmpfs::new(&self.path).kernel_bounds().mode(0o755).lower()?);
        for name in DEVICES {
            let source = HostPath(text(&format!("/dev/{name}"))?);
            // A device works on a read-only mount; its file, which a root caller owns, can't be changed there.
            let attributes = attr::NO_SUID | attr::NO_EXEC | attr::READ_ONLY;
            steps.push(Step::Bind { source, at: self.below(name, InsideKind::File)?, attributes });
        }
        for (target, link) in DEVICE_LINKS.into_iter().chain([("/proc/kcore", "/dev/core")]) {
            let link = link.strip_prefix("/dev/").unwrap_or(link);
            steps.push(Step::Symlink { target: text(target)?, at: self.below(link, InsideKind::File)? });
        }
        for name in ["pts", "shm"] {
            steps.push(Step::Dir { at: self.below(name, InsideKind::Dir)? });
        }
        steps.push(Step::Devpts { at: self.below("pts", InsideKind::Dir)? });
        Ok(())
    }
}

impl From<EntryStep> for Step {
    fn from(step: EntryStep) -> Self {
        Step::Entry(step)
    }
}
