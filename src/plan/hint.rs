//! What helps when a step has failed, as far as the step and the error number show it.

use super::{Fault, Operand, Step, Upper};
use crate::error::Layer;

/// A remedy, where one is known.
pub(crate) fn hint(step: &Step, fault: Fault) -> Option<&'static str> {
    let hint = match (step, fault.operand, fault.errno) {
        (Step::WriteProc { .. }, _, libc::ENOENT) => "/proc is not mounted in this host process's view",
        (Step::Join { .. }, _, libc::EPERM) => {
            "it takes CAP_SYS_ADMIN there: a user namespace has to be one that the caller, or an ancestor of its, has made below \
             its own, and a PID namespace one that belongs to the user namespace that is joined"
        }
        (Step::Join { .. }, _, libc::EINVAL) => {
            "a user namespace has to be another than the process's own, and a PID namespace its own or one below"
        }
        (Step::Unshare { namespaces }, _, libc::EINVAL) if namespaces & libc::CLONE_NEWPID as u64 != 0 => {
            "a PID namespace below a joined one has to belong to the same user namespace, or to one below: join that too"
        }
        (step, _, libc::EOVERFLOW) if step.layer() == Layer::Mount => {
            "the ids of the caller are not mapped in the user namespace: name some that are with Sandbox::user"
        }
        (_, _, libc::EFBIG) => "the host process has a limit on the size of files: RLIMIT_FSIZE",
        (Step::Install { .. }, _, libc::EBADF) => {
            "a descriptor has a number below the host process's own soft RLIMIT_NOFILE"
        }
        (Step::Proc { .. }, Operand::Call, libc::EPERM) => {
            "the /proc of this host is partly masked, as in a container, and the kernel then lets nobody mount a new \
             one: run the outer container with its /proc unmasked, or leave Namespaces::PID out"
        }
        (Step::RootOverlay { upper, .. }, operand, errno) => return overlay(upper, operand, errno),
        (Step::OverlayTrial, Operand::Call, libc::EPERM | libc::ENODEV) => OVERLAY_MISSING,
        (Step::RootCopy { .. }, _, libc::ENOSPC) => {
            "the root directory holds more than its copy may: set size and inodes, or copy less"
        }
        (Step::Copy { .. }, _, libc::ENOSPC) => "the tmpfs is too small for the copy: set its size and inodes",
        (Step::Copy { .. }, _, libc::ELOOP) => "the directory is nested too deeply, or its path has become a link",
        (Step::RootCopy { .. }, _, libc::EACCES) => "the caller may not read all of the root directory",
        (Step::RootCopy { .. }, _, libc::ELOOP) => "the root directory is nested too deeply",
        (Step::OpenPty { .. }, Operand::Target, _) => {
            "a terminal needs a /dev with the sandbox's own ptmx and pts, or the host's without Namespaces::MOUNT"
        }
        (Step::Place { .. }, Operand::Target, libc::ENOTDIR) => "a file is on the way to the target",
        (Step::Place { .. }, Operand::Target, libc::EACCES) => MISSING_AT_NOBODYS,
        (Step::Bind { .. } | Step::Tmpfs { .. } | Step::File { .. }, Operand::Target, libc::ENOENT) => {
            "the target does not exist, and is not made because it lies in a directory of the host, or in /proc"
        }
        (Step::Attach { .. }, Operand::Target, libc::ENOENT) => {
            "the target does not exist, or the source was removed or replaced by another since the policy was prepared"
        }
        (Step::Dir { .. } | Step::Symlink { .. }, Operand::Target, libc::ENOENT) => {
            "it would lie in a directory of the host, or in /proc, where nothing is made"
        }
        (
            Step::Bind { .. } | Step::Tmpfs { .. } | Step::File { .. } | Step::Dir { .. } | Step::Symlink { .. },
            Operand::Target,
            libc::EACCES,
        ) => MISSING_AT_NOBODYS,
        // What move_mount(2) says to a directory over a file.
        (Step::Bind { .. } | Step::Tmpfs { .. } | Step::File { .. }, Operand::Target, libc::EINVAL) => {
            "a directory can be put only over a directory, and a file only over a file"
        }
        (Step::Dir { .. }, Operand::Target, libc::ENOTDIR) => "a file is there, or on the way there",
        (_, Operand::Target, libc::ENOTDIR) => "a file is on the way to the target",
        (Step::Symlink { .. }, Operand::Target, libc::EEXIST) => "something else than this link is there",
        (_, Operand::Target, libc::EROFS) => {
            "the target does not exist, and can't be made in what is read-only by then, as /dev is"
        }
        (Step::Bind { .. }, Operand::Source, libc::ELOOP) => "the path of the host has become a symbolic link",
        (_, Operand::Target, libc::ELOOP) => "the path inside leads over too many links, or a magic one of /proc",
        (Step::Chdir { .. }, _, libc::ENOENT) => "the working directory does not exist inside",
        (Step::Chdir { .. }, _, libc::ENOTDIR) => "the working directory is a file inside",
        (Step::Chdir { .. }, _, libc::EACCES) => "the program's user may not enter the working directory",
        (Step::Chdir { .. }, _, libc::ELOOP) => "the working directory can't be reached through a link of /proc",
        (Step::Look { .. }, _, libc::EACCES) => {
            "it, or an interpreter that it names, is a link to the host process's own program file"
        }
        (Step::SetUid { .. } | Step::SetGid { .. }, _, libc::EINVAL) => "the id is not mapped",
        (Step::ExecInit { .. } | Step::ExecAgent { .. }, _, libc::EACCES) => {
            "this host forbids executable memfds: sysctl vm.memfd_noexec must be below 2"
        }
        (Step::LandlockPath { .. }, _, libc::ENOENT) => "what a rule of Landlock allows has to exist inside",
        (Step::LandlockPath { .. }, _, libc::ESTALE) => {
            "something else is there now than what was mounted: a directory on the way was renamed meanwhile"
        }
        (Step::LandlockRestrict { .. }, _, libc::E2BIG) => {
            "the kernel nests at most 16 layers of Landlock, and this process is in as many: use Landlock::off()"
        }
        (Step::Hostname { .. } | Step::LoopbackUp | Step::Workspace, _, libc::EPERM | libc::EACCES) => {
            "a security module may take capabilities away inside user namespaces; and Landlock, if this process is under \
             rules for files, forbids it to mount: use Namespaces::empty() there"
        }
        _ => return None,
    };
    Some(hint)
}

const MISSING_AT_NOBODYS: &str = "it is missing in a directory of the root whose owner is nobody inside, so that nothing \
                                  can be made there: make it in the root directory, or map the owner";

const OVERLAY_MISSING: &str = "an overlay in a user namespace needs Linux 5.11, and an overlay anywhere the overlay \
                               module: make the mount points in the root directory, or use Rootfs::copied";

/// What helps where layers can't be stacked.
fn overlay(upper: &Upper, operand: Operand, errno: i32) -> Option<&'static str> {
    let hint = match (upper, operand, errno) {
        (_, Operand::Call, libc::EPERM | libc::ENODEV) => OVERLAY_MISSING,
        (Upper::Tmpfs { .. }, Operand::Target, libc::EOPNOTSUPP) => {
            "before Linux 6.6 a tmpfs has no attributes in user.*, without which an overlay can't remove directories: use \
             Rootfs::copied, or Rootfs::overlay with a directory on a disk"
        }
        (_, Operand::Target, libc::EOPNOTSUPP) => {
            "the file system has no attributes in user.*, without which an overlay can't remove directories: keep the \
             changes on another"
        }
        (_, Operand::Target, libc::EWOULDBLOCK) => "another sandbox writes there: it has to end first",
        (_, Operand::Target, libc::EACCES | libc::EROFS) => {
            "the directory for the changes has to be the caller's, or the id's that root inside is mapped to, and writable"
        }
        (_, Operand::Target, libc::ELOOP | libc::ENOTDIR) => {
            "\"diff\" and \"work\" in the directory for the changes have to be directories"
        }
        (_, Operand::Source, libc::ELOOP) => "the path of a layer has become a symbolic link",
        (_, _, libc::EMFILE) => {
            "every layer takes a descriptor for a moment: RLIMIT_NOFILE of the host process is too low"
        }
        (_, Operand::Call, libc::ELOOP) => "two of the directories are the same, or one lies in the other",
        (Upper::Tmpfs { .. } | Upper::Kept { .. }, Operand::Call, libc::EINVAL) => {
            "a file system of the directories can't be a layer of an overlay, as where the changes would be kept on an \
             overlay, or another file system is mounted below one of them: use Rootfs::copied"
        }
        (_, Operand::Call, libc::EINVAL) => {
            "the file system of the root directory can't be a layer of an overlay, or another is mounted below it: make \
             the mount points in the root directory instead"
        }
        _ => return None,
    };
    Some(hint)
}
