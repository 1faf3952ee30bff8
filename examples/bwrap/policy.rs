//! From options to a policy.

use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};

use belljar::{Capabilities, Entry, Inherit, Landlock, Namespaces, Network, Rootfs, Sandbox, Seccomp, Tmpfs};

use crate::fds;
use crate::joined;
use crate::options::{Access, Failure, Kind, Mount, Options, Result, Upper};

/// The namespaces that a sandbox gets: others than root's need one of users.
pub(crate) fn namespaces(options: &Options) -> Namespaces {
    let implied = if is_root() || options.userns.is_some() { Namespaces::empty() } else { Namespaces::USER };
    options.unshare | options.unshare_try | implied | Namespaces::MOUNT
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// What bubblewrap gives: mounts and namespaces as they are asked for, nothing else of a filter or of rules.
pub(crate) fn policy(options: &Options, namespaces: Namespaces) -> Result<Sandbox> {
    let inherit = if options.new_session { Inherit::all() - Inherit::SESSION } else { Inherit::all() };
    let own = |namespace| namespaces.contains(namespace);
    let mut sandbox = Sandbox::new()
        .rootfs(Rootfs::bare().make_places())
        .namespaces(namespaces)
        .network(if own(Namespaces::NET) { Network::Loopback } else { Network::Host })
        .landlock(Landlock::off())
        .seccomp(filters(options)?)
        .capabilities(capabilities(options, namespaces))
        .inherit(inherit);
    if !options.disable_userns {
        sandbox = sandbox.user_namespaces_inside();
    }
    if options.as_pid_1 {
        sandbox = sandbox.program_is_init();
    }
    if options.die_with_parent && (options.as_pid_1 || !own(Namespaces::PID)) {
        sandbox = sandbox.end_with_thread();
    }
    sandbox = joined::join(options, sandbox)?;
    sandbox = users(options, own(Namespaces::USER) || options.userns.is_some(), sandbox)?;
    if own(Namespaces::UTS) {
        sandbox = sandbox.hostname(hostname(options)?);
    } else if options.hostname.is_some() {
        return Err(Failure::new("Specifying --hostname requires --unshare-uts"));
    }
    for mount in &options.mounts {
        sandbox = put(mount, own(Namespaces::PID) || options.pidns.is_some(), sandbox)?;
    }
    Ok(sandbox)
}

fn users(options: &Options, own: bool, sandbox: Sandbox) -> Result<Sandbox> {
    for (name, id) in [("uid", options.uid), ("gid", options.gid)] {
        if id.is_some() && !own {
            return Err(Failure::new(format!("Specifying --{name} requires --unshare-user or --userns")));
        }
    }
    match (options.uid, options.gid) {
        (None, None) => Ok(sandbox),
        (uid, gid) => {
            let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
            let asked = (uid.unwrap_or(own.0), gid.unwrap_or(own.1));
            // Whatever the namespace calls them.
            let stays = options.userns.is_some() && asked == own;
            Ok(if stays { sandbox } else { sandbox.user(asked.0, asked.1) })
        }
    }
}

fn hostname(options: &Options) -> Result<String> {
    let name = match &options.hostname {
        Some(name) => name.to_string_lossy().into_owned(),
        None => fs::read_to_string("/proc/sys/kernel/hostname")
            .map_err(|error| Failure::os("Can't read the host name", &error))?,
    };
    Ok(name.trim_end_matches('\n').to_owned())
}

fn filters(options: &Options) -> Result<Seccomp> {
    let mut seccomp = Seccomp::off();
    for fd in &options.seccomp {
        let program = fds::content(*fd).map_err(|error| Failure::os("Can't read seccomp data", &error))?;
        if program.len() % 8 != 0 {
            return Err(Failure::new("Invalid seccomp data, must be multiple of 8"));
        }
        seccomp = seccomp.bpf(program);
    }
    Ok(seccomp)
}

/// Root keeps what it has, others nothing, unless it is said otherwise.
fn capabilities(options: &Options, namespaces: Namespaces) -> Capabilities {
    let own = if is_root() { Capabilities::permitted() } else { Capabilities::empty() };
    if options.capabilities.is_empty() && options.uid.is_some_and(|uid| uid != 0) {
        // Being root is what keeps them.
        return Capabilities::empty();
    }
    let add_or_drop = |kept, (add, named): &(bool, Capabilities)| if *add { kept | *named } else { kept - *named };
    let kept = options.capabilities.iter().fold(own, add_or_drop);
    match namespaces.contains(Namespaces::USER) || options.userns.is_some() {
        true => kept,
        false => kept & own,
    }
}

/// One operation on the file system.
fn put(mount: &Mount, own_pids: bool, sandbox: Sandbox) -> Result<Sandbox> {
    let Mount { target, kind, perms } = mount;
    let read = |fd: &i32| {
        let failed = |error| Failure::os(format!("Can't write data to file {}", target.display()), &error);
        fds::content(*fd).map_err(failed)
    };
    let entry = match kind {
        Kind::Bind { source, access, optional } => match real(source) {
            Ok(source) => with(*access, Entry::bind(source, target)),
            Err(error) if *optional && error.kind() == ErrorKind::NotFound => return Ok(sandbox),
            Err(error) => return Err(no_source(source, &error)),
        },
        Kind::BindFd { fd, access } => {
            let path = PathBuf::from(format!("/proc/self/fd/{fd}"));
            let file = fds::inherited(*fd);
            let file = file.map_err(|_| no_source(&path, &ErrorKind::NotFound.into()))?;
            with(*access, Entry::bind_fd(file, target))
        }
        Kind::RemountReadOnly => Entry::seal(target),
        Kind::Proc if own_pids => Entry::proc(target).unmasked(),
        Kind::Proc => return Ok(shared_proc(target, sandbox)),
        Kind::Dev => return Ok(devices(target, sandbox)),
        Kind::Tmpfs { size } => {
            // Directories on the way deny to others what this does.
            let place = Entry::dir(target).mode(perms.unwrap_or(0o755));
            let sandbox = if perms.is_some() { sandbox.entry(place) } else { sandbox };
            let tmpfs = Tmpfs::new(target).kernel_bounds().mode(perms.unwrap_or(0o755));
            return Ok(sandbox.tmpfs(match size {
                Some(size) => tmpfs.size(*size),
                None => tmpfs,
            }));
        }
        Kind::Mqueue => Entry::mqueue(target),
        Kind::Dir => Entry::dir(target).mode(perms.unwrap_or(0o755)),
        Kind::File { fd } => Entry::file(target, read(fd)?).mode(perms.unwrap_or(0o666)),
        Kind::Data { fd, access } => with(*access, Entry::data(target, read(fd)?).mode(perms.unwrap_or(0o600))),
        Kind::Symlink { content } => return Ok(sandbox.symlink(content, target)),
        Kind::Chmod { mode } => Entry::permissions(target, *mode),
        Kind::Overlay { layers, upper } => overlay(target, layers, upper)?,
    };
    Ok(sandbox.entry(entry))
}

/// A path of the host without links, which the library would not follow: whoever writes a command line answers for it.
fn real(path: &Path) -> std::io::Result<PathBuf> {
    fs::canonicalize(path)
}

fn no_source(path: &Path, error: &std::io::Error) -> Failure {
    match error.raw_os_error() {
        Some(_) => Failure::os(format!("Can't find source path {}", path.display()), error),
        None => Failure::new(format!("Can't find source path {}: No such file or directory", path.display())),
    }
}

fn with(access: Access, entry: Entry) -> Entry {
    match access {
        Access::ReadOnly => entry.read_only(),
        Access::ReadWrite => entry,
        Access::Devices => entry.with_devices(),
    }
}

/// The host's, whose processes are the sandbox's; for root without what it could change there of the host.
fn shared_proc(target: &Path, sandbox: Sandbox) -> Sandbox {
    let covered: &[&str] = if is_root() { &["sys", "sysrq-trigger", "irq", "bus"] } else { &[] };
    covered.iter().fold(sandbox.entry(Entry::bind("/proc", target)), |sandbox, name| {
        let path = Path::new("/proc").join(name);
        match path.exists() {
            true => sandbox.entry(Entry::bind(&path, target.join(name)).read_only()),
            false => sandbox,
        }
    })
}

/// With the terminal that the program writes to as the console, so that it finds its name.
fn devices(target: &Path, sandbox: Sandbox) -> Sandbox {
    let sandbox = sandbox.entry(Entry::dev(target));
    let terminal = || fs::read_link("/proc/self/fd/1").ok().filter(|path| path.starts_with("/dev"));
    match std::io::stdout().is_terminal().then(terminal).flatten() {
        Some(terminal) => sandbox.entry(Entry::bind(terminal, target.join("console")).with_devices()),
        None => sandbox,
    }
}

fn overlay(target: &Path, layers: &[PathBuf], upper: &Upper) -> Result<Entry> {
    let real = |path: &PathBuf| real(path).map_err(|error| no_source(path, &error));
    let layers = layers.iter().map(real).collect::<Result<Vec<_>>>()?;
    let entry = Entry::overlay(target, layers);
    Ok(match upper {
        Upper::Nowhere => entry,
        Upper::Memory => entry.in_memory(),
        Upper::Dirs(upper, work) => entry.upper(real(upper)?, real(work)?),
    })
}

/// The environment of the program, and the directories that it may start in.
pub(crate) fn environment(options: &Options) -> Vec<(OsString, OsString)> {
    let mut variables: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    for (name, value) in &options.environment {
        match name {
            None => variables.clear(),
            Some(name) => {
                variables.retain(|(known, _)| known != name);
                variables.extend(value.clone().map(|value| (name.clone(), value)));
            }
        }
    }
    variables
}
