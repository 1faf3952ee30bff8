//! A process that holds a new user namespace while its maps are written from outside.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitStatus, Stdio};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{Cell, Limited, children, diagnosis, lifeline, start_single};
use crate::error::{Error, ErrorKind, Layer, Result};
use crate::hold::failed;
use crate::layer::ids::check_subordinate;
use crate::plan::{Holder, Launch, MapLines, Plan, Step};
use crate::postfork::{Context, Reports};
use crate::sys::{self, Arena, Errno};

/// One of the two maps.
struct Map<'a> {
    name: &'static str,
    map: &'a MapLines,
    helper: &'static str,
    ranges: &'static str,
    own: u32,
}

/// How much of what a helper says is told.
const WORDS: u64 = 4096;

/// Starts the holder, and writes its maps. It ends when it is dropped.
pub(super) fn start(
    plan: &Plan,
    holder: &Holder,
    arena: &Arena<Reports>,
    init: &[u8],
    limited: &Limited,
) -> Result<Cell> {
    if let Some(step @ Step::MapsByCaller { hook }) = plan.steps.get(holder.maps) {
        let cell = hold(plan, holder, arena, init)?;
        (hook.0)(cell.init().pid().unsigned_abs()).map_err(|error| failed(Layer::Ids, &step.to_string(), &error))?;
        return Ok(cell);
    }
    let maps = maps(plan, holder)?;
    // Whatever can be known to fail, before a process exists.
    let helpers = maps.each_ref().map(Map::check);
    let [uid_helper, gid_helper] = helpers;
    let (uid_helper, gid_helper) = (uid_helper?, gid_helper?);
    let cell = hold(plan, holder, arena, init)?;
    let [uid, gid] = &maps;
    // The group map first, while the writer is still in no doubt about who it is.
    gid.write(cell.init().pid(), gid_helper.as_deref(), limited)?;
    uid.write(cell.init().pid(), uid_helper.as_deref(), limited)?;
    Ok(cell)
}

/// Starts the process that holds the namespace.
fn hold(plan: &Plan, holder: &Holder, arena: &Arena<Reports>, init: &[u8]) -> Result<Cell> {
    let (inner, outer) = lifeline()?;
    let lifeline = inner.as_raw_fd();
    let context = Context { lifeline, init, ..Context::default() };
    let launch = Launch { clone: holder.clone, body: holder.body.clone() };
    let children = children(plan, &context, arena);
    Ok(Cell::new(start_single(children, &launch, &arena.holder)?, outer, (0, 0), None))
}

fn maps<'a>(plan: &'a Plan, holder: &Holder) -> Result<[Map<'a>; 2]> {
    let Some(Step::Maps { uid, gid }) = plan.steps.get(holder.maps) else {
        return Err(diagnosis::failed(plan, holder.maps, libc::EINVAL));
    };
    let (own_uid, own_gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    Ok([
        Map { name: "uid_map", map: uid, helper: "newuidmap", ranges: "/etc/subuid", own: own_uid },
        Map { name: "gid_map", map: gid, helper: "newgidmap", ranges: "/etc/subgid", own: own_gid },
    ])
}

impl Map<'_> {
    /// Finds the helper and checks the ranges, if there is need of them.
    fn check(&self) -> Result<Option<PathBuf>> {
        if !self.map.helper {
            return Ok(None);
        }
        let helper = find(self.helper).ok_or_else(|| {
            Error::new(Layer::Ids, ErrorKind::Unsupported, self.helper, "the program is not installed")
                .with_errno(libc::ENOENT)
                .with_path(self.helper)
                .with_hint("install the package uidmap (Debian, Ubuntu) or shadow-utils (Fedora)")
        })?;
        check_subordinate(&self.map.lines, self.own, &names(), Path::new(self.ranges))?;
        Ok(Some(helper))
    }

    fn write(&self, pid: libc::pid_t, helper: Option<&Path>, limited: &Limited) -> Result<()> {
        match helper {
            Some(helper) => self.run(helper, pid, limited),
            None => self.write_file(pid),
        }
    }

    fn write_file(&self, pid: libc::pid_t) -> Result<()> {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        let failed = |path: &Path, error: std::io::Error| {
            let step = format!("write {} {}", self.name, self.map);
            Error::os(Layer::Ids, step, error.raw_os_error().unwrap_or(libc::EIO)).with_path(path)
        };
        if self.name == "gid_map" {
            let path = dir.join("setgroups");
            std::fs::write(&path, "deny").map_err(|error| failed(&path, error))?;
        }
        let lines: Vec<String> = self.map.lines.iter().map(|[a, b, c]| format!("{a} {b} {c}")).collect();
        let path = dir.join(self.name);
        // One write: the kernel takes the map whole or not at all.
        std::fs::write(&path, lines.join("\n")).map_err(|error| failed(&path, error))
    }

    fn run(&self, helper: &Path, pid: libc::pid_t, limited: &Limited) -> Result<()> {
        let numbers = self.map.lines.iter().flatten().map(u32::to_string);
        let mut command = Command::new(helper);
        command.arg(pid.to_string()).args(numbers).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        let words = format!("{} {}", self.helper, self.map);
        let failed = |error: io::Error| {
            Error::os(Layer::Ids, &*words, error.raw_os_error().unwrap_or(libc::EIO)).with_path(helper)
        };
        let mut said = told_to(&mut command).map_err(failed)?;
        let status = match run_until(command, limited.set_up_ends()) {
            Ok(Some(status)) => status,
            Ok(None) => return Err(limited.too_late(&format!("{}: {words}", Layer::Ids)).with_path(helper)),
            // Where the host process ignores SIGCHLD, or waits for any child, nobody tells: the map does.
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) && self.is_written(pid) => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        if status.success() {
            return Ok(());
        }
        let cause = format!("{} ({status})", String::from_utf8_lossy(&words_of(&mut said)).trim().escape_debug());
        Err(Error::new(Layer::Ids, ErrorKind::Unsupported, words, cause)
            .with_errno(libc::EPERM)
            .with_path(helper)
            .with_hint(format!("{} must be set-user-ID root, and {} have the range", helper.display(), self.ranges)))
    }

    /// Whether the map is there: the kernel takes each once, and whole.
    fn is_written(&self, pid: libc::pid_t) -> bool {
        std::fs::read(format!("/proc/{pid}/{}", self.name)).is_ok_and(|map| !map.is_empty())
    }
}

/// Gives a helper a file for what it says: nobody reads while it runs, and a pipe would be full at some point.
fn told_to(command: &mut Command) -> io::Result<File> {
    let file = File::from(memfd_create(c"belljar", MFdFlags::MFD_CLOEXEC)?);
    command.stderr(file.try_clone()?);
    Ok(file)
}

fn words_of(said: &mut File) -> Vec<u8> {
    let mut words = Vec::new();
    let read = said.rewind().and_then(|()| said.take(WORDS).read_to_end(&mut words));
    read.map_or_else(|_| Vec::new(), |_| words)
}

/// Runs a helper, and kills it if it has not ended by then: None.
fn run_until(mut command: Command, deadline: Option<Instant>) -> io::Result<Option<ExitStatus>> {
    let mut child = command.spawn()?;
    let in_time = deadline.map_or(Ok(true), |deadline| ends_by(&child, deadline));
    if !matches!(in_time, Ok(true)) {
        // It has the caller's real user id, set-user-ID or not: kill(2).
        let _ = child.kill();
    }
    let status = child.wait()?;
    in_time.map(|in_time| in_time.then_some(status))
}

fn ends_by(child: &process::Child, deadline: Instant) -> io::Result<bool> {
    let of_kernel = |Errno(errno)| io::Error::from_raw_os_error(errno);
    let pidfd = OwnedFd::from(sys::pidfd_open(child.id() as libc::pid_t).map_err(of_kernel)?);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(nix::Error::EINTR) => {}
            ended => return ended.map(|_| true).map_err(Into::into),
        }
    }
}

/// Looks a helper up: in PATH, and where distributions put it.
pub(crate) fn find(helper: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).filter(|dir| dir.is_absolute());
    dirs.chain(["/usr/bin".into(), "/run/wrappers/bin".into()]).map(|dir| dir.join(helper)).find(|path| path.is_file())
}

/// What /etc/subuid may call the caller: by name, or by number.
pub(crate) fn names() -> Vec<String> {
    let uid = nix::unistd::getuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    user.map(|user| user.name).into_iter().chain([uid.to_string()]).collect()
}
