//! What of the limits a cgroup of version 2 holds: see the kernel's *Control Group v2*.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::Limits;
use super::place::{Directory, Place, is_delegated};
use crate::error::{Error, ErrorKind, Layer, Result};
use crate::plan::{HostPath, Step};

/// What has to come first where version 1 has the controllers.
pub(crate) const UNIFY: &str =
    "boot with `systemd.unified_cgroup_hierarchy=1`, which puts the controllers in version 2";

/// How a caller without privilege gets a directory.
pub(crate) const DELEGATE: &str = "start this program with `systemd-run --user --scope -p Delegate=yes`, and there in a \
    group of its own below, since the kernel gives controllers only to groups whose parent has no processes: `c=/sys/fs/\
    cgroup$(sed -n s/^0:://p /proc/self/cgroup); mkdir $c/main && echo $$ >$c/main/cgroup.procs`";

/// How root gets one.
pub(crate) const AS_ROOT: &str = "as root, `mkdir /sys/fs/cgroup/belljar`, write the controllers as \"+cpu +io +memory \
    +pids\" to /sys/fs/cgroup/cgroup.subtree_control, and pass that directory to Sandbox::cgroup";

/// The `f_type` of cgroup version 2: statfs(2).
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// The cgroup that a sandbox gets.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    directory: Directory,
    path: HostPath,
    /// What has to be enabled for groups in the directory.
    controllers: Vec<&'static str>,
    files: Vec<File>,
}

#[derive(Clone, Debug)]
struct File {
    controller: &'static str,
    name: &'static str,
    data: String,
    optional: bool,
}

impl Cgroup {
    /// What the policy comes to. None where it needs no cgroup, or can do without and there is none.
    pub(crate) fn lower(limits: &Limits, named: Option<&Path>) -> Result<Option<Self>> {
        let files = files(limits)?;
        let needed = files.iter().find(|file| file.controller != "pids");
        let wanted = !files.is_empty() || limits.cpu_time.is_some();
        let directory = match named {
            Some(path) => open(path)?,
            None if !wanted => return Ok(None),
            None => match (delegated(&files), needed) {
                (Some(directory), _) => directory,
                (None, Some(file)) => return Err(none(file)),
                (None, None) => return Ok(None),
            },
        };
        if let Some(file) = needed_but_missing(&directory, &files) {
            return Err(lacks(&directory, file));
        }
        // A directory without the pids controller holds the rest.
        let files: Vec<File> = files.into_iter().filter(|file| directory.can(file.controller)).collect();
        let mut controllers: Vec<_> = files.iter().map(|file| file.controller).collect();
        controllers.dedup();
        controllers.retain(|name| !directory.enabled.iter().any(|enabled| enabled == name));
        let path = HostPath(CString::new(directory.path.as_os_str().as_bytes()).map_err(|_| zero(&directory.path))?);
        Ok(Some(Self { directory, path, controllers, files }))
    }

    /// Whether it holds the number of processes.
    pub(crate) fn holds_pids(&self) -> bool {
        self.files.iter().any(|file| file.controller == "pids")
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// What the host does before there is a process.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if !self.controllers.is_empty() {
            let controllers: Vec<_> = self.controllers.iter().map(|name| format!("+{name}")).collect();
            steps.push(Step::CgroupEnable { directory: self.path.clone(), controllers: controllers.join(" ") });
        }
        steps.push(Step::Cgroup { directory: self.path.clone() });
        let write = |File { name, data, optional, .. }: &File| Step::CgroupFile {
            name,
            data: data.clone(),
            optional: *optional,
        };
        steps.extend(self.files.iter().map(write));
        steps
    }
}

/// What is written, each file with its controller.
fn files(limits: &Limits) -> Result<Vec<File>> {
    let mut files = Vec::new();
    let mut add = |controller, name, data: String| files.push(File { controller, name, data, optional: false });
    let bytes = |value: Option<u64>| value.map(|value| value.to_string());
    let of_memory = [("memory.high", limits.memory_high), ("memory.max", limits.memory)];
    for (name, value) in of_memory {
        bytes(value).into_iter().for_each(|value| add("memory", name, value));
    }
    bytes(limits.swap).into_iter().for_each(|value| add("memory", "memory.swap.max", value));
    bytes(limits.pids).into_iter().for_each(|value| add("pids", "pids.max", value));
    if let Some((quota, period)) = limits.cpu_max {
        add("cpu", "cpu.max", format!("{} {}", quota.as_micros(), period.as_micros()));
    }
    if let Some(weight) = limits.io_weight {
        add("io", "io.weight", format!("default {weight}"));
    }
    for max in &limits.io_max {
        let (major, minor) = device(&max.device)?;
        let values = [
            ("rbps", max.read_bytes),
            ("wbps", max.write_bytes),
            ("riops", max.read_operations),
            ("wiops", max.write_operations),
        ];
        let values = values.iter().filter_map(|(key, value)| Some(format!(" {key}={}", (*value)?)));
        add("io", "io.max", format!("{major}:{minor}{}", values.collect::<String>()));
    }
    if files.iter().any(|file| file.controller == "memory") {
        // All or none: what is left of a program without some of its processes is of no use.
        let group = ("memory.oom.group", "1", false);
        // A kernel that does not count swap has no such file.
        let swap = ("memory.swap.max", "0", true);
        let swap = limits.swap.is_none().then_some(swap);
        let first = [Some(group), swap].into_iter().flatten();
        let first =
            first.map(|(name, data, optional)| File { controller: "memory", name, data: data.into(), optional });
        files.splice(0..0, first);
    }
    Ok(files)
}

fn device(path: &Path) -> Result<(u32, u32)> {
    let failed = |error: std::io::Error| {
        Error::os(Layer::Limits, "io_max", error.raw_os_error().unwrap_or(libc::EIO)).with_path(path)
    };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    match metadata.file_type().is_block_device() {
        true => Ok((libc::major(metadata.rdev()), libc::minor(metadata.rdev()))),
        false => Err(Error::invalid(Layer::Limits, "io_max", "it is no block device")
            .with_errno(libc::ENOTBLK)
            .with_path(path)),
    }
}

/// The directory that the policy names: there is one of version 2, and the caller may make groups in it.
fn open(path: &Path) -> Result<Directory> {
    let words = "cgroup";
    let failed = |errno| Error::os(Layer::Limits, words, errno).with_path(path);
    let absolute = std::path::absolute(path).map_err(|_| failed(libc::ENOENT).with_kind(ErrorKind::InvalidPolicy))?;
    let stat = nix::sys::statfs::statfs(&absolute).map_err(|errno| failed(errno as i32))?;
    if stat.filesystem_type().0 as u64 != CGROUP2_MAGIC {
        let cause = "it is no directory of cgroup version 2";
        return Err(Error::invalid(Layer::Limits, words, cause).with_path(path).with_hint(AS_ROOT));
    }
    if !absolute.is_dir() {
        return Err(failed(libc::ENOTDIR).with_kind(ErrorKind::InvalidPolicy));
    }
    match is_delegated(&absolute) {
        true => Ok(Directory::read(&absolute)),
        false => Err(failed(libc::EACCES).with_hint(
            "the caller must be able to write the directory, and its files cgroup.procs and cgroup.subtree_control",
        )),
    }
}

/// The best of the caller's own that has what is needed; else one that has nothing, for what needs nothing.
fn delegated(files: &[File]) -> Option<Directory> {
    let directories = Place::current().delegated();
    let whole = |directory: &&Directory| files.iter().all(|file| directory.can(file.controller));
    let needed = |directory: &&Directory| needed_but_missing(directory, files).is_none();
    directories.iter().rev().find(whole).or_else(|| directories.iter().rev().find(needed)).cloned()
}

fn needed_but_missing<'a>(directory: &Directory, files: &'a [File]) -> Option<&'a File> {
    files.iter().find(|file| file.controller != "pids" && !directory.can(file.controller))
}

fn none(file: &File) -> Error {
    let place = Place::current();
    let cause = match (&place.own, place.legacy) {
        (None, true) => "there is only cgroup version 1 here".to_owned(),
        (None, false) => "cgroup version 2 is not mounted here".to_owned(),
        (Some(own), true) => {
            format!("{} can't give the {} controller, which may be in version 1", own.display(), file.controller)
        }
        (Some(own), false) => format!("{} is not delegated with the {} controller", own.display(), file.controller),
    };
    let error = Error::new(Layer::Limits, ErrorKind::Unsupported, format!("write {} {}", file.name, file.data), cause);
    let first = if place.legacy { format!("{UNIFY}; then, ") } else { String::new() };
    let error = place.own.into_iter().fold(error, Error::with_path);
    error.with_hint(first + &remedy(file.controller))
}

fn remedy(controller: &str) -> String {
    let other = match controller {
        "memory" => "; without any, rlimit(Resource::AddressSpace, ..) bounds each process by itself",
        _ => "",
    };
    format!("{DELEGATE}; or, {AS_ROOT}{other}")
}

fn lacks(directory: &Directory, file: &File) -> Error {
    let cause = format!("the directory has no {} controller", file.controller);
    let hint = format!(
        "write +{} to cgroup.subtree_control of the directory above it, which must have no processes of its own",
        file.controller
    );
    Error::new(Layer::Limits, ErrorKind::Unsupported, format!("write {} {}", file.name, file.data), cause)
        .with_path(&directory.path)
        .with_hint(hint)
}

fn zero(path: &Path) -> Error {
    Error::invalid(Layer::Limits, "cgroup", "the path has a zero byte").with_path(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(limits: &Limits) -> Vec<String> {
        files(limits).unwrap().iter().map(|file| format!("{} {}", file.name, file.data)).collect()
    }

    #[test]
    fn limits_come_to_the_kernels_files() {
        use std::time::Duration;
        assert_eq!(written(&Limits::new()), Vec::<String>::new());
        let limits = Limits::new().memory(1 << 20).pids(7);
        assert_eq!(written(&limits), ["memory.oom.group 1", "memory.swap.max 0", "memory.max 1048576", "pids.max 7"]);
        let limits = Limits::new().swap(5).cpu_max(Duration::from_millis(150), Duration::from_millis(100)).io_weight(3);
        let expected = ["memory.oom.group 1", "memory.swap.max 5", "cpu.max 150000 100000", "io.weight default 3"];
        assert_eq!(written(&limits), expected);
    }
}
