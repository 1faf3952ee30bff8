//! Landlock's rules once more, for what they were about at the first start.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use super::Inside;
use crate::error::{Error, Result};
use crate::layer::landlock::Landlock;
use crate::plan::Step;
use crate::postfork::Writable;
use crate::spawn::above_streams;
use crate::sys::{self, Errno};

/// The rules of the first start, with one for each file that is passed this time. `files` are what their names lead to now.
/// The host makes them: for that, only the files have to be found inside.
pub(super) fn ruleset(
    inside: &Inside,
    policy: &Landlock,
    files: &[OwnedFd],
    sent: &[(BorrowedFd<'_>, RawFd)],
) -> Result<Option<OwnedFd>> {
    let (mut ruleset, mut files, mut named) = (None, files.iter(), inside.named.chunks_exact(2));
    for step in &inside.steps {
        let failed = |Errno(errno)| Error::os(step.layer(), step.to_string(), errno);
        match (step, &ruleset) {
            (Step::LandlockRuleset { handled, version }, _) => {
                let made = sys::landlock_create_ruleset(handled, *version).map_err(failed)?;
                let made = above_streams(made.into())?;
                if let Some([read, write]) = policy.passed(handled) {
                    allow_passed(made.as_fd(), sent, read, write).map_err(failed)?;
                }
                ruleset = Some(made);
            }
            (Step::LandlockPath { mount, access, file, .. }, Some(ruleset)) => {
                let place = files.next().map(AsFd::as_fd).ok_or(failed(Errno(libc::EBADF)))?;
                let is_it = match mount {
                    Some(mount) => is_mount(place, Writable::all(&inside.mounts).nth(*mount)),
                    None => is_file(place, named.next()),
                };
                if is_it.map_err(failed)? {
                    let access = if sys::fstat(place).map_err(failed)?.is_dir() { *access } else { *file };
                    sys::landlock_allow_path(ruleset.as_fd(), place, access).map_err(failed)?;
                }
            }
            (Step::LandlockPort { port, access }, Some(ruleset)) => {
                sys::landlock_allow_port(ruleset.as_fd(), *port, *access).map_err(failed)?;
            }
            _ => {}
        }
    }
    Ok(ruleset)
}

/// Whether this is the root of the mount that was made for a rule.
fn is_mount(place: BorrowedFd<'_>, made: Option<Writable<'_>>) -> sys::Result<bool> {
    Ok(sys::root_of_mount(place)?.zip(made).is_some_and(|(root, made)| made.is(root)))
}

/// Whether this is the file that a rule was about.
fn is_file(place: BorrowedFd<'_>, known: Option<&[u64]>) -> sys::Result<bool> {
    let stat = sys::fstat(place)?;
    Ok(known == Some(&[stat.device, stat.inode][..]))
}

/// Lets the files that are passed be opened once more, for what they are open for, as an ordinary start does.
fn allow_passed(ruleset: BorrowedFd<'_>, sent: &[(BorrowedFd<'_>, RawFd)], read: u64, write: u64) -> sys::Result<()> {
    for (file, _) in sent {
        let flags = sys::status_flags(*file)?;
        let access = match flags & libc::O_ACCMODE {
            _ if flags & libc::O_PATH != 0 || sys::fstat(*file)?.is_dir() => continue,
            libc::O_RDONLY => read,
            libc::O_WRONLY => write,
            _ => read | write,
        };
        match sys::landlock_allow_path(ruleset, *file, access) {
            Ok(()) | Err(Errno(libc::EBADFD)) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
