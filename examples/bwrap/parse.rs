//! Reading the command line: bwrap(1), of bubblewrap 0.11.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use belljar::{Capabilities, Namespaces};

use crate::fds;
use crate::options::{Access, Failure, Kind, Mount, Options, Result, Upper};

/// What ends the reading without a command.
pub(crate) enum Asked {
    Help,
    Version,
    Nothing(Box<Options>),
}

/// The most arguments, those from descriptors included.
const ARGUMENTS_MAX: usize = 9000;

#[derive(Default)]
struct Parser {
    options: Options,
    /// What the next option takes.
    perms: Option<u32>,
    size: Option<u64>,
    layers: Vec<PathBuf>,
    count: usize,
    in_file: bool,
    asked: Option<Asked>,
}

/// Reads the arguments after the program's name.
pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Asked> {
    let mut arguments: VecDeque<_> = arguments.collect();
    let mut parser = Parser { options: Options::new(), count: arguments.len(), ..Parser::default() };
    parser.check_count()?;
    parser.read(&mut arguments)?;
    if let Some(asked) = parser.asked.take() {
        return Ok(asked);
    }
    parser.options.command = arguments.into();
    parser.options.check()?;
    Ok(Asked::Nothing(Box::new(parser.options)))
}

impl Parser {
    /// Reads up to the first argument that is no option, which it leaves.
    fn read(&mut self, arguments: &mut VecDeque<OsString>) -> Result<()> {
        while self.asked.is_none() {
            let Some(name) = arguments.front().cloned() else { break };
            if !name.as_bytes().starts_with(b"-") {
                break;
            }
            arguments.pop_front();
            if name == "--" {
                break;
            }
            let option = name.to_string_lossy().into_owned();
            let (perms, size, layers) = (self.perms.take(), self.size.take(), std::mem::take(&mut self.layers));
            let given = Given { perms, size, layers };
            let values = take(&option, arguments)?;
            self.option(&option, &values, given)?;
        }
        match self.layers.is_empty() {
            true => Ok(()),
            false => Err(lonely_layers()),
        }
    }

    fn option(&mut self, name: &str, values: &[OsString], given: Given) -> Result<()> {
        let given = match self.modifier(name, values, given)? {
            None => return Ok(()),
            Some(given) => given,
        };
        let makes = ["--dir", "--file", "--bind-data", "--ro-bind-data", "--tmpfs"].contains(&name);
        let known = match self.mount(name, values, &given)? {
            Some(mount) => {
                self.options.mounts.push(mount);
                true
            }
            None => self.flag(name)? || self.namespace(name, values)? || self.value(name, values)?,
        };
        if !known {
            return Err(Failure::new(format!("Unknown option {name}")));
        }
        if given.size.is_some() && name != "--tmpfs" {
            return Err(Failure::new("--size must be followed by --tmpfs"));
        }
        if given.perms.is_some() && !makes {
            return Err(Failure::new("--perms must be followed by an option that creates a file"));
        }
        match given.layers.is_empty() || ["--overlay", "--tmp-overlay", "--ro-overlay"].contains(&name) {
            true => Ok(()),
            false => Err(lonely_layers()),
        }
    }

    /// Options about the next one. Gives back what was given if this is another.
    fn modifier(&mut self, name: &str, values: &[OsString], given: Given) -> Result<Option<Given>> {
        let twice = || Failure::new(format!("{name} given twice for the same action"));
        (self.perms, self.size) = (given.perms, given.size);
        match (name, values) {
            ("--perms", [mode]) => {
                if self.perms.replace(octal(name, mode)?).is_some() {
                    return Err(twice());
                }
            }
            ("--size", [size]) => {
                if self.size.replace(bytes(size)?).is_some() {
                    return Err(twice());
                }
            }
            ("--overlay-src", [layer]) => {
                if given.size.is_some() || given.perms.is_some() {
                    return Err(Failure::new("--perms must be followed by an option that creates a file"));
                }
                self.layers = given.layers;
                self.layers.push(layer.into());
                return Ok(None);
            }
            _ => {
                (self.perms, self.size) = (None, None);
                return Ok(Some(given));
            }
        }
        match given.layers.is_empty() {
            true => Ok(None),
            false => Err(lonely_layers()),
        }
    }

    fn mount(&mut self, name: &str, values: &[OsString], given: &Given) -> Result<Option<Mount>> {
        let Some(target) = values.last() else { return Ok(None) };
        let kind = match (name.strip_suffix("-try").unwrap_or(name), values) {
            ("--bind" | "--ro-bind" | "--dev-bind", [source, _]) => {
                let access = match name.as_bytes().get(2) {
                    Some(b'r') => Access::ReadOnly,
                    Some(b'd') => Access::Devices,
                    _ => Access::ReadWrite,
                };
                Kind::Bind { source: source.into(), access, optional: name.ends_with("-try") }
            }
            ("--bind-fd", [fd, _]) => Kind::BindFd { fd: self.fd(fd)?, access: Access::ReadWrite },
            ("--ro-bind-fd", [fd, _]) => Kind::BindFd { fd: self.fd(fd)?, access: Access::ReadOnly },
            ("--remount-ro", [_]) => Kind::RemountReadOnly,
            ("--proc", [_]) => Kind::Proc,
            ("--dev", [_]) => Kind::Dev,
            ("--tmpfs", [_]) => Kind::Tmpfs { size: given.size },
            ("--mqueue", [_]) => Kind::Mqueue,
            ("--dir", [_]) => Kind::Dir,
            ("--file", [fd, _]) => Kind::File { fd: self.fd(fd)? },
            ("--bind-data", [fd, _]) => Kind::Data { fd: self.fd(fd)?, access: Access::ReadWrite },
            ("--ro-bind-data", [fd, _]) => Kind::Data { fd: self.fd(fd)?, access: Access::ReadOnly },
            ("--symlink", [content, _]) => Kind::Symlink { content: content.into() },
            ("--chmod", [mode, _]) => Kind::Chmod { mode: octal(name, mode)? },
            ("--tmp-overlay", [_]) => overlay(name, given, Upper::Memory)?,
            ("--ro-overlay", [_]) => overlay(name, given, Upper::Nowhere)?,
            ("--overlay", [upper, work, _]) => overlay(name, given, Upper::Dirs(upper.into(), work.into()))?,
            _ => return Ok(None),
        };
        Ok(Some(Mount { target: inside(Path::new(target)), kind, perms: given.perms }))
    }

    /// Options that are said or not.
    fn flag(&mut self, name: &str) -> Result<bool> {
        let options = &mut self.options;
        match name {
            "--help" => self.asked = Some(Asked::Help),
            "--version" => self.asked = Some(Asked::Version),
            "--level-prefix" => crate::prefix_levels(),
            "--clearenv" => options.environment.push((None, None)),
            "--new-session" => options.new_session = true,
            "--die-with-parent" => options.die_with_parent = true,
            "--as-pid-1" => options.as_pid_1 = true,
            "--disable-userns" => options.disable_userns = true,
            "--assert-userns-disabled" => options.assert_userns_disabled = true,
            "--inherit-fds" => options.inherit_fds = true,
            // All of our failures are.
            "--not-a-security-boundary" => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn namespace(&mut self, name: &str, values: &[OsString]) -> Result<bool> {
        let Options { unshare, unshare_try, .. } = &mut self.options;
        match name {
            "--unshare-all" => {
                *unshare |= Namespaces::default() - Namespaces::USER - Namespaces::CGROUP;
                *unshare_try |= Namespaces::USER | Namespaces::CGROUP;
            }
            "--unshare-user" => *unshare |= Namespaces::USER,
            "--unshare-user-try" => *unshare_try |= Namespaces::USER,
            "--unshare-ipc" => *unshare |= Namespaces::IPC,
            "--unshare-pid" => *unshare |= Namespaces::PID,
            "--unshare-net" => *unshare |= Namespaces::NET,
            "--unshare-uts" => *unshare |= Namespaces::UTS,
            "--unshare-cgroup" => *unshare |= Namespaces::CGROUP,
            "--unshare-cgroup-try" => *unshare_try |= Namespaces::CGROUP,
            "--share-net" => *unshare -= Namespaces::NET,
            "--userns" | "--userns2" | "--pidns" | "--userns-block-fd" => {
                let fd = self.fd(values.first().map_or(OsStr::new(""), OsString::as_os_str))?;
                let Options { userns, userns2, pidns, userns_block_fd, .. } = &mut self.options;
                let place = match name {
                    "--userns" => userns,
                    "--userns2" => userns2,
                    "--pidns" => pidns,
                    _ => userns_block_fd,
                };
                if place.replace(fd).is_some() {
                    crate::say(&format!("Only the last {name} option will take effect"));
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Options that say what something is.
    fn value(&mut self, name: &str, values: &[OsString]) -> Result<bool> {
        let [value, rest @ ..] = values else { return Ok(false) };
        match name {
            "--args" => self.arguments_from(value)?,
            "--argv0" => {
                if self.options.argv0.replace(value.clone()).is_some() {
                    return Err(Failure::new("--argv0 used multiple times"));
                }
            }
            "--uid" => self.options.uid = Some(id("uid", value)?),
            "--gid" => self.options.gid = Some(id("gid", value)?),
            "--hostname" => self.options.hostname = Some(value.clone()),
            "--chdir" => self.options.chdir = Some(value.clone()),
            "--setenv" => {
                self.options.environment.push((Some(variable(value, "setenv")?), rest.first().cloned()));
            }
            "--unsetenv" => self.options.environment.push((Some(variable(value, "unsetenv")?), None)),
            "--lock-file" => self.options.lock_files.push(value.clone()),
            // This process keeps what it has inherited, and outlives the sandbox.
            "--sync-fd" => drop(self.fd(value)?),
            "--pass-fd" => {
                let fd = self.fd(value)?;
                self.options.passed.push(fd);
            }
            "--block-fd" => self.options.block_fd = Some(self.fd(value)?),
            "--info-fd" => self.options.info_fd = Some(self.fd(value)?),
            "--json-status-fd" => self.options.json_status_fd = Some(self.fd(value)?),
            "--seccomp" | "--add-seccomp-fd" => self.filter(name, value)?,
            "--cap-add" => self.options.capabilities.push((true, capability(value)?)),
            "--cap-drop" => self.options.capabilities.push((false, capability(value)?)),
            // What bubblewrap says where there is no SELinux.
            "--exec-label" | "--file-label" => {
                return Err(Failure::new("labeling not supported on this system"));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn filter(&mut self, name: &str, value: &OsStr) -> Result<()> {
        let fd = self.fd(value)?;
        let seccomp = &mut self.options.seccomp;
        let alone = name == "--seccomp";
        match (alone, self.options.filters_alone.replace(alone)) {
            (false, Some(true)) => return Err(Failure::new("--add-seccomp-fd cannot be combined with --seccomp")),
            (true, Some(false)) => return Err(Failure::new("--seccomp cannot be combined with --add-seccomp-fd")),
            (true, Some(true)) => {
                crate::say("Only the last --seccomp option will take effect");
                seccomp.clear();
            }
            _ => {}
        }
        seccomp.push(fd);
        Ok(())
    }

    /// The number of a descriptor, which so has a purpose.
    fn fd(&mut self, value: &OsStr) -> Result<RawFd> {
        let fd = number(value).and_then(|fd| RawFd::try_from(fd).ok()).filter(|fd| *fd >= 0);
        let fd = fd.ok_or_else(|| Failure::new(format!("Invalid fd: {}", value.to_string_lossy())))?;
        self.options.named.push(fd);
        Ok(fd)
    }

    fn arguments_from(&mut self, value: &OsStr) -> Result<()> {
        if self.in_file {
            return Err(Failure::new("--args not supported in arguments file"));
        }
        let data = self.fd(value).map(fds::content)?;
        let data = data.map_err(|error| Failure::os("Can't read --args data", &error))?;
        let data = data.strip_suffix(&[0]).unwrap_or(&data);
        let split = data.split(|byte| *byte == 0).map(|argument| OsString::from_vec(argument.into()));
        let mut arguments: VecDeque<_> = if data.is_empty() { VecDeque::new() } else { split.collect() };
        self.count += arguments.len();
        self.check_count()?;
        self.in_file = true;
        let read = self.read(&mut arguments);
        self.in_file = false;
        read
    }

    fn check_count(&self) -> Result<()> {
        match self.count {
            ..=ARGUMENTS_MAX => Ok(()),
            _ => Err(Failure::new(format!("Exceeded maximum number of arguments {ARGUMENTS_MAX}"))),
        }
    }
}

/// What options before this one have said about it.
struct Given {
    perms: Option<u32>,
    size: Option<u64>,
    layers: Vec<PathBuf>,
}

fn lonely_layers() -> Failure {
    Failure::new(
        "--overlay-src must be followed by another --overlay-src or one of --overlay, --tmp-overlay, or --ro-overlay",
    )
}

/// Takes the values of an option from the arguments.
fn take(option: &str, arguments: &mut VecDeque<OsString>) -> Result<Vec<OsString>> {
    let (count, takes) = match option {
        "--overlay" => (3, "three arguments"),
        "--bind" | "--bind-try" | "--ro-bind" | "--ro-bind-try" | "--dev-bind" | "--dev-bind-try" | "--bind-fd"
        | "--ro-bind-fd" | "--file" | "--bind-data" | "--ro-bind-data" | "--symlink" | "--setenv" | "--chmod" => {
            (2, "two arguments")
        }
        "--argv0" | "--chdir" | "--remount-ro" => (1, "one argument"),
        "--args" | "--proc" | "--dev" | "--tmpfs" | "--mqueue" | "--dir" | "--tmp-overlay" | "--ro-overlay"
        | "--overlay-src" | "--perms" | "--size" | "--uid" | "--gid" | "--hostname" | "--unsetenv" | "--lock-file"
        | "--sync-fd" | "--pass-fd" | "--block-fd" | "--userns-block-fd" | "--info-fd" | "--json-status-fd"
        | "--seccomp" | "--add-seccomp-fd" | "--cap-add" | "--cap-drop" | "--exec-label" | "--file-label"
        | "--userns" | "--userns2" | "--pidns" => (1, "an argument"),
        _ => (0, ""),
    };
    match arguments.len() >= count {
        true => Ok(arguments.drain(..count).collect()),
        false if option == "--overlay-src" => Err(lonely_layers()),
        false if option == "--ro-bind-fd" => Err(Failure::new(format!("--bind-fd takes {takes}"))),
        false => Err(Failure::new(format!("{option} takes {takes}"))),
    }
}

fn overlay(name: &str, given: &Given, upper: Upper) -> Result<Kind> {
    let layers = given.layers.clone();
    match (&upper, layers.len()) {
        (Upper::Nowhere, 0..=1) => Err(Failure::new(format!("{name} requires at least two --overlay-src"))),
        (_, 0) => Err(Failure::new(format!("{name} requires at least one --overlay-src"))),
        _ => Ok(Kind::Overlay { layers, upper }),
    }
}

/// A number as strtol(3) reads it, the whole of the text.
fn number(value: &OsStr) -> Option<i64> {
    value.to_str()?.trim_start().parse().ok()
}

fn id(what: &str, value: &OsStr) -> Result<u32> {
    let id = number(value).and_then(|id| u32::try_from(id).ok()).filter(|id| *id != u32::MAX);
    id.ok_or_else(|| Failure::new(format!("Invalid {what}: {}", value.to_string_lossy())))
}

fn octal(option: &str, value: &OsStr) -> Result<u32> {
    let mode = value.to_str().and_then(|text| u32::from_str_radix(text.trim_start(), 8).ok());
    mode.filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| Failure::new(format!("{option} takes an octal argument <= 07777")))
}

fn bytes(value: &OsStr) -> Result<u64> {
    const MAX: u64 = i64::MAX as u64;
    match value.to_str().and_then(|text| text.trim_start().parse().ok()) {
        None | Some(0) => Err(Failure::new("--size takes a non-zero number of bytes")),
        Some(MAX..) => Err(Failure::new(format!("--size (for tmpfs) is limited to {MAX}"))),
        Some(size) => Ok(size),
    }
}

/// Capabilities by the names of capabilities(7).
fn capability(value: &OsStr) -> Result<Capabilities> {
    let name = value.to_string_lossy().to_uppercase();
    let named = || Capabilities::from_name(name.strip_prefix("CAP_")?);
    let found = if name == "ALL" { Some(Capabilities::all()) } else { named() };
    found.ok_or_else(|| Failure::new(format!("unknown cap: {}", value.to_string_lossy())))
}

fn variable(name: &OsStr, call: &str) -> Result<OsString> {
    match name.is_empty() || name.as_bytes().contains(&b'=') {
        true => Err(Failure::new(format!("{call} failed"))),
        false => Ok(name.to_owned()),
    }
}

/// A path inside: absolute, whatever the caller has written.
fn inside(path: &Path) -> PathBuf {
    let mut inside = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => inside.push(name),
            Component::ParentDir => drop(inside.pop()),
            _ => {}
        }
    }
    inside
}

impl Options {
    /// What contradicts itself, whatever the order.
    fn check(&self) -> Result<()> {
        let fail = |message: &str| Err(Failure::new(message));
        let user = self.unshare.contains(Namespaces::USER);
        if self.userns_block_fd.is_some() && !user {
            return fail("--userns-block-fd requires --unshare-user");
        }
        if self.userns_block_fd.is_some() && self.info_fd.is_none() {
            return fail("--userns-block-fd requires --info-fd");
        }
        if self.userns.is_some() && user {
            return fail("--userns is not compatible with --unshare-user");
        }
        if self.userns.is_some() && self.unshare_try.contains(Namespaces::USER) {
            return fail("--userns is not compatible with --unshare-user-try");
        }
        if self.disable_userns && !user {
            return fail("--disable-userns requires --unshare-user");
        }
        if self.disable_userns && self.userns_block_fd.is_some() {
            return fail("--disable-userns is not compatible with --userns-block-fd");
        }
        if self.as_pid_1 && !self.unshare.contains(Namespaces::PID) {
            return fail("Specifying --as-pid-1 requires --unshare-pid");
        }
        if self.as_pid_1 && !self.lock_files.is_empty() {
            return fail("Specifying --as-pid-1 and --lock-file is not permitted");
        }
        Ok(())
    }
}
