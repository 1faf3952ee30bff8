//! What this host can do, and the remedy where it can't.

use std::fs;

/// Why this host forbids user namespaces, with the remedy, if `errno` from one of the steps that make them says so.
pub(crate) fn why_no_user_namespace(errno: i32) -> Option<String> {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let is = |path: &str, value: &str| read(path).as_deref() == Some(value);
    match errno {
        libc::ENOSPC => Some(
            "the limit on user namespaces is reached, or 0: raise it with `sysctl user.max_user_namespaces=15000`"
                .into(),
        ),
        libc::EPERM | libc::EACCES if is("/proc/sys/kernel/unprivileged_userns_clone", "0") => {
            Some("unprivileged user namespaces are off: `sysctl kernel.unprivileged_userns_clone=1`".into())
        }
        _ => None,
    }
}
