//! Namespaces that somebody else has made, and maps of ids that somebody else writes.

use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use belljar::{Error, Namespaces, Sandbox};
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};

use crate::fds;
use crate::options::{Failure, Options, Result};
use crate::status::Watchers;

const USER: &str = "Joining specified user namespace failed";
const INNER: &str = "Setting userns2 failed";
const PID: &str = "Setting pidns failed";

/// Has the sandbox join what options name.
pub(crate) fn join(options: &Options, mut sandbox: Sandbox) -> Result<Sandbox> {
    if let Some(fd) = options.userns {
        sandbox = sandbox.join(Namespaces::USER, open(fd, USER)?);
    }
    if let Some(fd) = options.userns2 {
        sandbox = sandbox.inner_user_namespace(open(fd, INNER)?);
    }
    if let Some(fd) = options.pidns {
        sandbox = sandbox.join(Namespaces::PID, open(fd, PID)?);
    }
    Ok(sandbox)
}

fn open(fd: RawFd, what: &str) -> Result<OwnedFd> {
    fds::inherited(fd).map_err(|error| Failure::os(what, &error))
}

/// Has somebody else write the maps, who learns of the namespace by what is written to the descriptor of `--info-fd`.
pub(crate) fn wait_for_maps(options: &Options, sandbox: Sandbox, watchers: &Arc<Watchers>) -> Sandbox {
    match options.userns_block_fd {
        Some(_) => {
            let watchers = watchers.clone();
            sandbox.write_id_maps(move |pid| watchers.made_users(pid))
        }
        None => sandbox,
    }
}

/// What bubblewrap says where one can't be joined.
pub(crate) fn told(error: &Error) -> Option<Failure> {
    let os = std::io::Error::from_raw_os_error(error.raw_os_error()?);
    match error.step() {
        "join user" | "setns joined user" if os.raw_os_error() == Some(libc::EINVAL) => Some(Failure::new(
            "Joining the specified user namespace failed, it might not be a descendant of the current user namespace.",
        )),
        "join user" | "setns joined user" => Some(Failure::os(USER, &os)),
        "inner user namespace" | "setns inner user" => Some(Failure::os(INNER, &os)),
        "join pid" | "setns joined pid" => Some(Failure::os(PID, &os)),
        _ => None,
    }
}

/// Fails if user namespaces can be made where the program will be.
pub(crate) fn check_disabled(options: &Options) -> Result<()> {
    let failed = || Failure::new("creation of new user namespaces was not disabled as requested");
    let users = [options.userns, options.userns2].into_iter().flatten().map(|fd| open(fd, USER));
    let users = users.collect::<Result<Vec<_>>>()?;
    if options.disable_userns {
        return Ok(());
    }
    let try_there = move || {
        users.iter().try_for_each(|user| setns(user, CloneFlags::CLONE_NEWUSER))?;
        match unshare(CloneFlags::CLONE_NEWUSER) {
            Ok(()) => Ok(()),
            // What is to be: there is nothing to execute.
            Err(_) => Err(std::io::Error::from_raw_os_error(libc::ECANCELED)),
        }
    };
    let mut trial = Command::new("/proc/self/exe");
    trial.arg("--version").stdout(std::process::Stdio::null());
    // SAFETY: In the child there are system calls only, on what is open there too.
    #[allow(unsafe_code)]
    let trial = unsafe { trial.pre_exec(try_there) };
    match trial.status() {
        Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => Ok(()),
        _ => Err(failed()),
    }
}
