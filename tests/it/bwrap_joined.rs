//! Command lines with namespaces that are there: 27 is a user namespace, 28 a PID namespace in it, 29 a user namespace below.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use super::lines::{Intended, Who, filled, intended};
use crate::join::Kept;

/// Kept as long as this process runs.
pub(super) fn namespaces() -> [(OwnedFd, i32); 3] {
    static KEPT: OnceLock<Kept> = OnceLock::new();
    let kept = KEPT.get_or_init(Kept::new);
    [(kept.user().into(), 27), (kept.pid().into(), 28), (kept.inner().into(), 29)]
}

pub(super) fn lines() -> Vec<String> {
    filled(LINES)
}

pub(super) const INTENDED: &[Intended] = &[
    intended(
        "--pidns",
        "errors",
        |own, reference| own == "bwrap" && reference == "bwrapbwrap",
        Who::Both,
        "one message says it",
    ),
    intended(
        "--uid",
        "code",
        |own, reference| own == "Some(0)" && reference == "Some(1)",
        Who::Root,
        "other ids are taken on with the capabilities that the set-up takes, and dropped after it",
    ),
    intended("--userns2", "status Cap", |own, reference| own < reference, Who::Both, BOUND),
    intended("--userns-block-fd", "document ", |_, reference| reference != "\"child-pid\"", Who::Both, HOLDER),
    intended("--userns", "document ", is_without_namespaces, Who::User, HIDDEN),
];

const BOUND: &str = "what is not kept is not in the bounding set either, also after the last switch of user namespaces";
const HOLDER: &str = "the process that is told of only holds the new user namespace: the others are not made by then";
const HIDDEN: &str =
    "what sets the sandbox up is hidden from who is in the namespaces, and so from who is not root here";

/// A document without the lines, or the words, of namespaces.
fn is_without_namespaces(own: &str, reference: &str) -> bool {
    !own.contains("-namespace") && (reference.contains("-namespace") || reference == "}")
}

/// What contradicts itself, or has no descriptor.
pub(super) const MISTAKES: &str = "
--userns
--userns x
--userns -1
--userns2
--userns2 x
--pidns
--pidns x
--userns-block-fd
--userns-block-fd x
--userns 77 --ro-bind / / true
--userns 20 --ro-bind / / true
--userns 28 --ro-bind / / true
--unshare-user --userns 27 true
--userns 27 --unshare-user true
--userns 27 --unshare-user-try true
--userns 27 --unshare-all true
--userns 27 --disable-userns true
--userns 27 --userns-block-fd 20 true
--userns-block-fd 20 true
--userns-block-fd 20 --unshare-all true
--userns-block-fd 20 --unshare-user true
--userns-block-fd 20 --unshare-user --json-status-fd 26 true
--userns-block-fd 20 --unshare-user --info-fd 26 --disable-userns true
--userns 20 --userns 20 --ro-bind / / true
--userns 27 --assert-userns-disabled --ro-bind / / true
";

/// No user namespace below that can't be joined: then the reference leaves a process that waits for ever.
const LINES: &str = "
--userns 27 | / /a
--userns 27 --dir /a | / /a
--userns 27 --unshare-pid | / /proc
--userns 27 --unshare-net --unshare-ipc --unshare-uts --unshare-cgroup | /
--userns 27 --unshare-uts --hostname other | /
--userns 27 --uid 5 | /
--userns 27 --gid 6 | /
--userns 27 --uid 5 --gid 6 | /
--userns 27 --uid 5000 | /
--userns 27 --cap-add ALL | /
--userns 27 --cap-drop ALL | /
--userns 27 --cap-drop ALL --cap-add CAP_CHOWN | /
--userns 27 --dev /dev | /dev /dev/null
--userns 27 --tmpfs /a --bind DIR /b | /a /b
--userns 27 --new-session | /
--userns 27 --die-with-parent | /
--userns 27 --info-fd 26 --unshare-pid | /
--userns 27 --json-status-fd 26 | /exit
--userns 27 --chdir /nothing | /
--userns 27 --userns2 29 | /
--userns 27 --userns2 29 --unshare-pid | /
--userns 27 --userns2 29 --cap-add ALL | /
--userns 29 | /
--userns2 29 | /
--userns 27 --pidns 28 | / /proc/1/comm
--userns 27 --pidns 28 --pidns 28 | /
--userns 27 --pidns 28 --unshare-pid | / /proc
--userns 27 --pidns 28 --unshare-net --unshare-uts | /
--userns 27 --pidns 28 --json-status-fd 26 | /exit
--userns 27 --pidns 28 --unshare-pid --json-status-fd 26 | /exit
--userns 27 --pidns 28 --userns2 29 | /
--userns 27 --pidns 28 --unshare-pid --userns2 29 | /
--userns 27 --pidns 28 --die-with-parent | /
--userns 27 --pidns 20 | /
--userns 27 --pidns 27 | /
--userns 27 --pidns 77 | /
--pidns 28 | /
--pidns 28 --unshare-user | /
--userns 27 --seccomp 24 | /
--userns-block-fd 20 --unshare-user --info-fd 26 | /
--userns-block-fd 77 --unshare-user --info-fd 26 | /
--ro-bind / / --userns 27 --pidns 28 sh -c kill~-TERM~$$
--ro-bind / / --userns 27 --pidns 28 --unshare-pid sh -c kill~-KILL~$$
--ro-bind / / --userns 27 --pidns 28 --unshare-pid sh -c exit~7
";
