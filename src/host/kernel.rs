//! What the kernel is, and has.

use nix::sys::utsname::uname;

use super::denied::Status;
use super::finding::Finding;
use crate::sys::{self, Errno};

/// The oldest kernel that this crate is made for.
const FLOOR: (u32, u32) = (5, 15);

/// The release of the kernel.
pub(super) fn release() -> (String, Finding) {
    let release = uname().map(|names| names.release().to_string_lossy().into_owned()).unwrap_or_default();
    let finding = match version(&release) {
        Some(version) if version >= FLOOR => Finding::yes(&release),
        _ => Finding::no(&release).remedy("belljar is made for Linux 5.15 and later: it takes another kernel"),
    };
    (release, finding)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|char: char| !char.is_ascii_digit()).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// The version of the Landlock interface.
pub(super) fn landlock() -> (Option<u32>, Finding) {
    let version = sys::landlock_version();
    let finding = match version {
        Ok(version) => Finding::yes(format!("ABI {version}")),
        Err(Errno(libc::ENOSYS)) => {
            let remedy = "it takes Linux 5.13 with CONFIG_SECURITY_LANDLOCK, and no seccomp filter that forbids it";
            Finding::no("the kernel has no such system call").remedy(remedy)
        }
        Err(Errno(libc::EOPNOTSUPP)) => {
            let remedy = "add landlock to the list of modules at boot: lsm=landlock,...";
            Finding::no("built in, but switched off").remedy(remedy)
        }
        Err(Errno(errno)) => Finding::no(filtered("landlock_create_ruleset", errno)),
    };
    (version.ok(), finding)
}

/// Whether there are seccomp filters, and whether one is in force already.
pub(super) fn seccomp() -> Finding {
    match sys::seccomp_has(libc::SECCOMP_RET_ERRNO) {
        Ok(()) if Status::read().seccomp() => Finding::yes("this process is under one already"),
        Ok(()) => Finding::yes(""),
        Err(Errno(libc::ENOSYS | libc::EINVAL)) => {
            Finding::no("the kernel has none").remedy("it takes a kernel with CONFIG_SECCOMP_FILTER")
        }
        Err(Errno(errno)) => Finding::no(filtered("seccomp", errno)),
    }
}

/// Whether clone3(2) can be had; all works without it.
pub(super) fn clone3() -> Finding {
    match sys::clone3_refusal() {
        // The arguments were looked at.
        Errno(libc::EINVAL) => Finding::yes(""),
        Errno(errno) => Finding::no(format!("{}; clone serves instead", filtered("clone3", errno))),
    }
}

fn filtered(call: &str, errno: i32) -> String {
    format!("{call}: {}, as seccomp filters answer", std::io::Error::from_raw_os_error(errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(version("6.18.5-arch1-1"), Some((6, 18)));
        assert_eq!(version("5.4.0-150-generic"), Some((5, 4)));
        assert_eq!(version("6.1"), Some((6, 1)));
        assert_eq!(version("6"), None);
        assert_eq!(version("none"), None);
        assert!(version("5.15.0-rc1") >= Some(FLOOR) && version("5.9.16") < Some(FLOOR));
    }
}
