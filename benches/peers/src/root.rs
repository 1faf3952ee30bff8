//! The root that every contender makes: the mounts of belljar's default policy on the host's userland.

#![allow(unsafe_code)]

use std::ffi::{CStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::common::contender::{bwrap_mounts, host_policy};
use crate::common::{Bench, Result, host};

/// A read-only bind from the host.
pub(crate) struct Bind {
    pub(crate) from: PathBuf,
    pub(crate) to: PathBuf,
}

/// A link at the path `link`.
pub(crate) struct Link {
    pub(crate) target: PathBuf,
    pub(crate) link: PathBuf,
}

/// What bwrap is told, in a form for others. /proc, /dev and /tmp are not in it: each has words of its own for them.
pub(crate) struct Root {
    pub(crate) binds: Vec<Bind>,
    pub(crate) links: Vec<Link>,
}

impl Root {
    pub(crate) fn new(bench: &Bench) -> Result<Self> {
        let options: Vec<OsString> = bwrap_mounts(bench, &host_policy(bench)?)?;
        let mut root = Self { binds: Vec::new(), links: Vec::new() };
        for window in options.windows(3) {
            let [option, from, to] = window else { continue };
            let (from, to) = (PathBuf::from(from), PathBuf::from(to));
            match option.to_str() {
                Some("--ro-bind") => root.binds.push(Bind { from, to }),
                Some("--symlink") => root.links.push(Link { target: from, link: to }),
                _ => {}
            }
        }
        Ok(root)
    }

    /// A directory with the links and the mount points, for contenders that mount on a directory of the host's.
    pub(crate) fn skeleton(&self, dir: &Path) -> Result {
        // Another section of this run has made it.
        if dir.exists() {
            return Ok(());
        }
        for name in ["proc", "dev", "tmp", "sys"] {
            fs::create_dir_all(dir.join(name))?;
        }
        for Bind { from, to } in &self.binds {
            let point = below(dir, to);
            match from.is_dir() {
                true => fs::create_dir_all(point)?,
                false => {
                    fs::create_dir_all(point.parent().unwrap_or(dir))?;
                    fs::write(point, "")?;
                }
            }
        }
        for Link { target, link } in &self.links {
            let link = below(dir, link);
            fs::create_dir_all(link.parent().unwrap_or(dir))?;
            symlink(target, link)?;
        }
        Ok(())
    }
}

fn below(dir: &Path, path: &Path) -> PathBuf {
    dir.join(path.strip_prefix("/").unwrap_or(path))
}

/// crun refuses a host that mounts both versions of cgroups. As root, this process gets a mount table of its own in which it
/// does not.
pub(crate) fn leave_hybrid_groups() -> Result {
    const UNIFIED: &CStr = c"/sys/fs/cgroup/unified";
    if !host::is_root() || !Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists() {
        return Ok(());
    }
    host::private_mounts()?;
    // SAFETY: The path ends in a zero byte and is only read.
    match unsafe { libc::umount(UNIFIED.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error().into()),
    }
}
