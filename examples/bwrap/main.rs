//! bubblewrap's command line, bwrap(1) of version 0.11, on top of the library.
//!
//! usage: bwrap [OPTIONS...] [--] COMMAND [ARGS...]
//!
//! Every option means what it means there, in the same order, with the same messages and exit codes. What differs:
//!
//! - Where the set-up of the sandbox fails, what comes after `bwrap: ` are the library's words: layer, step, path and cause.
//! - Only the three standard streams reach the program, and what `--pass-fd FD` names; `--inherit-fds` passes on
//!   everything that is open, but for what other options name.
//! - SIGPIPE has its default action, whatever the caller does with it; what is closed of the standard streams is /dev/null.
//! - A host name is printable ASCII.
//! - The sandbox ends with this process, whether that is killed or not, where it has a PID namespace.
//! - In namespaces that `--userns` and `--pidns` join, nobody but root learns of the others by `--json-status-fd`, or locks a file
//!   inside: what sets the sandbox up is hidden there. With `--userns-block-fd`, `child-pid` is a process that ends with the set-up.
//! - A filter that stops the set-up is a message, and never a sandbox without it.
//!
//! tests/it/bwrap.rs has the list of all differences with their reasons.

mod fds;
mod joined;
mod options;
mod parse;
mod policy;
mod status;

use std::ffi::OsStr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use belljar::{Child, Command, Error, Layer, Namespaces, Sandbox};
use nix::sys::signal;

use options::{Failure, Options, Result};
use parse::Asked;
use status::Watchers;

const USAGE: &str = include_str!("usage.txt");

static PREFIXED: AtomicBool = AtomicBool::new(false);

/// From now on, messages start with their severity.
fn prefix_levels() {
    PREFIXED.store(true, Ordering::Relaxed);
}

/// A warning.
fn say(message: &str) {
    let level = if PREFIXED.load(Ordering::Relaxed) { "<4>" } else { "" };
    eprintln!("{level}bwrap: {message}");
}

fn main() -> ExitCode {
    let done = parse::parse(std::env::args_os().skip(1)).and_then(|asked| match asked {
        Asked::Help => {
            print!("{USAGE}");
            Ok(0)
        }
        Asked::Version => {
            println!("bubblewrap 0.11.0 (belljar {})", env!("CARGO_PKG_VERSION"));
            Ok(0)
        }
        Asked::Nothing(options) if options.command.is_empty() => {
            eprint!("{USAGE}");
            Ok(1)
        }
        Asked::Nothing(options) => await_children().and_then(|()| run(&options)),
    });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(Failure(message)) => {
            let level = if PREFIXED.load(Ordering::Relaxed) { "<3>" } else { "" };
            eprintln!("{level}bwrap: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command, and returns its exit code as a shell would.
fn run(options: &Options) -> Result<u8> {
    if options.assert_userns_disabled {
        joined::check_disabled(options)?;
    }
    if options.die_with_parent {
        die_with_parent()?;
    }
    let own = policy::namespaces(options);
    let watchers = Arc::new(Watchers::new(options, own)?);
    let started = match start(options, own, &watchers) {
        // What is to be tried only.
        Err(error)
            if error.layer() == Some(Layer::Namespaces) && (own & options.unshare_try) != Namespaces::empty() =>
        {
            start(options, own - options.unshare_try, &watchers)
        }
        started => started,
    };
    let mut child = started.map_err(|error| error.told(options))?;
    let outcome = child.wait().map_err(|error| Failure::new(error.to_string()))?;
    let code = outcome.code().or(outcome.signal().map(|signal| 128 + signal)).unwrap_or(1);
    watchers.ended(code);
    Ok(code as u8)
}

/// Why there is no program.
enum NotStarted {
    Failure(Failure),
    Error(Error),
}

impl NotStarted {
    fn layer(&self) -> Option<Layer> {
        match self {
            NotStarted::Error(error) => Some(error.layer()),
            NotStarted::Failure(_) => None,
        }
    }

    /// In bubblewrap's words where scripts look for them.
    fn told(self, options: &Options) -> Failure {
        let error = match self {
            NotStarted::Failure(failure) => return failure,
            NotStarted::Error(error) => error,
        };
        let words = error.to_string();
        // What this program has said itself, while the sandbox was held.
        if let Some(own) = words.strip_prefix("process: hold: ") {
            return Failure::new(own);
        }
        let Some(errno) = error.raw_os_error() else { return Failure::new(words) };
        if let Some(told) = joined::told(&error) {
            return told;
        }
        let os = std::io::Error::from_raw_os_error(errno);
        match (error.layer(), error.step()) {
            (Layer::Exec, _) => Failure::os(format!("execvp {}", options.command[0].to_string_lossy()), &os),
            (Layer::Process, step) if step.starts_with("chdir") => {
                let directory = options.chdir.as_deref().unwrap_or(OsStr::new("/"));
                Failure::os(format!("Can't chdir to {}", directory.to_string_lossy()), &os)
            }
            _ => Failure::new(words),
        }
    }
}

fn start(options: &Options, own: Namespaces, watchers: &Arc<Watchers>) -> std::result::Result<Child, NotStarted> {
    let sandbox = policy::policy(options, own).map_err(NotStarted::Failure)?;
    let sandbox = joined::wait_for_maps(options, sandbox, watchers);
    let [program, args @ ..] = options.command.as_slice() else { return Err(no_program()) };
    match command(options, &sandbox, program, args, watchers)?.spawn() {
        // As execvp(3): what is no program is a script.
        Err(error) if error.layer() == Layer::Exec && error.raw_os_error() == Some(nix::libc::ENOEXEC) => {
            let args: Vec<_> = std::iter::once(program).chain(args).cloned().collect();
            let mut shell = command(options, &sandbox, OsStr::new("/bin/sh"), &args, watchers)?;
            shell.spawn().map_err(NotStarted::Error)
        }
        started => started.map_err(NotStarted::Error),
    }
}

fn no_program() -> NotStarted {
    NotStarted::Failure(Failure::new("No command specified"))
}

fn command(
    options: &Options,
    sandbox: &Sandbox,
    program: &OsStr,
    args: &[std::ffi::OsString],
    watchers: &Arc<Watchers>,
) -> std::result::Result<Command, NotStarted> {
    let variables = policy::environment(options);
    let home = variables.iter().find(|(name, _)| name == "HOME").map(|(_, value)| value.clone());
    let mut command = sandbox.command(program);
    command.args(args).env_clear().envs(variables).env_pwd();
    if let Some(name) = &options.argv0 {
        command.arg0(name);
    }
    match (&options.chdir, std::env::current_dir()) {
        (Some(directory), _) if directory.is_empty() => {
            return Err(NotStarted::Failure(Failure::new("Can't chdir to : No such file or directory")));
        }
        (Some(directory), _) => drop(command.current_dir(std::path::Path::new("/").join(directory))),
        (None, Ok(directory)) => drop(command.current_dir(directory)),
        (None, Err(_)) => {}
    }
    if options.chdir.is_none() {
        home.filter(|home| home.as_encoded_bytes().starts_with(b"/")).map(|home| command.current_dir_or(home));
        command.current_dir_or("/");
    }
    let failed = |error| NotStarted::Failure(Failure::os("Can't pass a descriptor", &error));
    let mut passed = options.passed.clone();
    if options.inherit_fds {
        passed.extend(fds::passed_on().map_err(failed)?.into_iter().filter(|fd| !options.named.contains(fd)));
    }
    for fd in passed.into_iter().filter(|fd| *fd > 2) {
        command.fd(fd, fds::inherited(fd).map_err(failed)?);
    }
    if watchers.wait() {
        let watchers = watchers.clone();
        command.before_exec(move |pid| watchers.started(pid));
    }
    Ok(command)
}

/// A caller that ignores the ends of its children leaves neither this process nor the program without those of its own.
#[allow(unsafe_code)]
fn await_children() -> Result<()> {
    // SAFETY: No handler is set, and no other thread runs yet.
    let done = unsafe { signal::signal(signal::Signal::SIGCHLD, signal::SigHandler::SigDfl) };
    done.map(drop).map_err(|errno| Failure::os("sigaction", &errno.into()))
}

/// The sandbox then ends with this process.
fn die_with_parent() -> Result<()> {
    let parent = nix::unistd::getppid();
    nix::sys::prctl::set_pdeathsig(signal::Signal::SIGKILL).map_err(|errno| Failure::os("prctl", &errno.into()))?;
    match nix::unistd::getppid() == parent {
        true => Ok(()),
        false => Err(Failure::new("the parent has ended")),
    }
}
