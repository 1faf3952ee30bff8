//! Why namespaces are denied: what can be known of the caller and the host, and what follows from it.
//!
//! The kernel says EPERM or ENOSPC for half a dozen reasons, each with a remedy of its own. The facts are read only
//! after a failure; what they come to is a pure function of them.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::kind::{KINDS, Kind};
use crate::layer::namespaces::Namespaces;

/// What the kernel has refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Making these namespaces.
    New(Namespaces),
    /// What every process may do in a user namespace of its own: write its maps, mount.
    Inside,
    /// A mount that nothing but a security module denies.
    Mount,
}

/// Why namespaces, or what they are needed for, were refused, with the remedy; None if nothing is known to forbid them.
pub(crate) fn why_denied(errno: i32, refused: Refused) -> Option<String> {
    decide(errno, refused, &Facts::read())
}

/// What has a say in whether the caller gets a user namespace.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// `/proc/sys/user/max_*_namespaces`, in the user namespace of the caller.
    limits: Vec<(&'static Kind, u64)>,
    /// The namespaces that this kernel is built without.
    missing: Vec<&'static Kind>,
    /// `kernel.unprivileged_userns_clone` is 0: a switch of Debian's kernels, and of others.
    switched_off: bool,
    /// `kernel.apparmor_restrict_unprivileged_userns` is 1: Ubuntu 23.10 and later.
    apparmor: bool,
    /// The AppArmor profile that is enforced on the calling thread.
    profile: Option<String>,
    /// A seccomp filter is on the calling thread.
    seccomp: bool,
    /// The caller has `CAP_SYS_ADMIN` in the first user namespace, or in what looks like it.
    admin: bool,
    /// The root directory of the caller is not that of its mount namespace.
    chrooted: bool,
    /// An id of the caller has no name in its user namespace.
    unmapped: bool,
    /// The caller is in a user namespace that somebody has made.
    nested: bool,
}

fn decide(errno: i32, refused: Refused, facts: &Facts) -> Option<String> {
    if let (libc::EINVAL | libc::ENOSYS, Refused::New(asked)) = (errno, refused) {
        if let Some(kind) = facts.missing.iter().find(|kind| asked.contains(kind.flag)) {
            return Some(format!("this kernel is built without {}: it takes another kernel", kind.config));
        }
    }
    match (errno, refused) {
        // EUSERS: Linux before 4.9, and sandboxes that imitate it.
        (libc::ENOSPC | libc::EUSERS, Refused::New(asked)) => Some(limit(asked, facts)),
        (libc::EPERM | libc::EACCES, Refused::New(asked)) if asked.contains(Namespaces::USER) => Some(denied(facts)),
        (libc::EPERM | libc::EACCES, Refused::New(_) | Refused::Inside) => suspects(facts),
        (libc::EACCES, Refused::Mount) => facts.profile.as_deref().map(confined),
        (libc::ENOSYS, Refused::New(_) | Refused::Inside) if facts.seccomp => Some(SECCOMP.to_owned()),
        _ => None,
    }
}

const SECCOMP: &str = "a seccomp filter is on this process, most likely the default profile of a container engine, which \
    forbids user namespaces: run the container with a profile that allows them, or with \
    `--security-opt seccomp=unconfined`";

const APPARMOR: &str = "AppArmor takes away what a program without a profile may do in a user namespace \
    (kernel.apparmor_restrict_unprivileged_userns is 1): give the program a profile with the rule `userns,` in \
    /etc/apparmor.d, or, as root, `sysctl kernel.apparmor_restrict_unprivileged_userns=0`";

/// What a profile may keep from the process. It takes `userns,` from Linux 6.7 on.
fn confined(profile: &str) -> String {
    format!(
        "AppArmor confines this process by the profile {profile:?}, which needs the rules `userns,`, `mount,`, `umount,` and \
         `pivot_root,`: add them in /etc/apparmor.d, or run a container with `--security-opt apparmor=unconfined`"
    )
}

const SWITCHED_OFF: &str = "kernel.unprivileged_userns_clone is 0, so that only root gets user namespaces: as root, \
    `sysctl kernel.unprivileged_userns_clone=1`";

const CHROOTED: &str = "the caller is in a chroot, where the kernel gives nobody a user namespace: start it outside, or \
    in a container (pivot_root) instead of the chroot; root can leave Namespaces::USER out";

const UNMAPPED: &str = "the user or group id of the caller is not mapped in its own user namespace, and then it gets no \
    other: map it there (/proc/self/uid_map and gid_map)";

const UNKNOWN: &str = "something forbids user namespaces, and it is none of the usual switches: a chroot, a security \
    module (/sys/kernel/security/lsm lists them, the audit log says which) or an old kernel's setting";

/// Why a clone is refused: what forbids it for certain, else what may.
fn denied(facts: &Facts) -> String {
    let certain =
        [(facts.switched_off && !facts.admin, SWITCHED_OFF), (facts.chrooted, CHROOTED), (facts.unmapped, UNMAPPED)];
    let certain = certain.into_iter().find_map(|(holds, words)| holds.then(|| words.to_owned()));
    certain.or_else(|| suspects(facts)).unwrap_or_else(|| UNKNOWN.to_owned())
}

/// What may have refused: that a filter or a module is there does not say that it was the one.
fn suspects(facts: &Facts) -> Option<String> {
    let apparmor = match &facts.profile {
        Some(profile) => Some(confined(profile)),
        None => (facts.apparmor && !facts.admin).then(|| APPARMOR.to_owned()),
    };
    match (facts.seccomp, apparmor) {
        (false, apparmor) => apparmor,
        (true, None) => Some(SECCOMP.to_owned()),
        (true, Some(apparmor)) => Some(format!("one of two: {SECCOMP}; or {apparmor}")),
    }
}

/// A limit of namespaces(7) is reached: one that is 0, or any of those asked for, here or further out.
fn limit(asked: Namespaces, facts: &Facts) -> String {
    let limits = || facts.limits.iter().filter(|(kind, _)| asked.contains(kind.flag));
    let Some((kind, value)) = limits().min_by_key(|(_, value)| *value) else {
        return "a limit on namespaces is reached: see user.max_user_namespaces in namespaces(7)".to_owned();
    };
    let name = kind.proc_name;
    match (value, facts.nested) {
        (0, _) => format!(
            "user.max_{name}_namespaces is 0, which forbids them: as root, `sysctl user.max_{name}_namespaces=15000`"
        ),
        (value, false) => format!(
            "user.max_{name}_namespaces is {value}, and this user has as many: end what holds them, or, as root, raise \
             it with `sysctl user.max_{name}_namespaces={}`",
            value.saturating_mul(2)
        ),
        (value, true) => format!(
            "user.max_{name}_namespaces is {value} here, and it, or that of an enclosing user namespace, is reached, or \
             namespaces are nested as deep as the kernel lets them be (32 levels): raise the limit, or nest less"
        ),
    }
}

/// What belongs to the calling thread, which may differ from the process.
const THREAD: &str = "/proc/thread-self";

impl Facts {
    fn read() -> Self {
        let is = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
        let status = Status::read();
        let nested = !(whole("uid_map") && whole("gid_map"));
        Self {
            limits: KINDS.iter().filter_map(|kind| Some((kind, kind.limit()?))).collect(),
            missing: KINDS.iter().filter(|kind| kind.is_missing()).collect(),
            switched_off: is("/proc/sys/kernel/unprivileged_userns_clone", "0"),
            apparmor: is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
            profile: profile(),
            seccomp: status.seccomp(),
            admin: status.admin() && !nested,
            chrooted: chrooted(),
            unmapped: !(maps("uid_map", nix::unistd::geteuid().as_raw())
                && maps("gid_map", nix::unistd::getegid().as_raw())),
            nested,
        }
    }
}

/// What /proc/thread-self/attr/apparmor/current names, without the mode, if that is not to complain only; its older place is
/// that of whichever security module was first.
fn profile() -> Option<String> {
    let read = |name: &str| fs::read_to_string(format!("{THREAD}/attr/{name}")).ok();
    let current = read("apparmor/current").or_else(|| read("current"))?;
    Some(current.trim_end().strip_suffix(" (enforce)")?.to_owned())
}

/// /proc/thread-self/status: see proc_pid_status(5).
pub(super) struct Status(String);

impl Status {
    pub(super) fn read() -> Self {
        Self(fs::read_to_string(format!("{THREAD}/status")).unwrap_or_default())
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    /// Whether a seccomp filter is in force.
    pub(super) fn seccomp(&self) -> bool {
        self.field("Seccomp") == Some("2")
    }

    pub(super) fn no_new_privs(&self) -> bool {
        self.field("NoNewPrivs") == Some("1")
    }

    fn admin(&self) -> bool {
        const CAP_SYS_ADMIN: u64 = 1 << 21;
        let effective = self.field("CapEff").and_then(|set| u64::from_str_radix(set, 16).ok());
        effective.is_some_and(|set| set & CAP_SYS_ADMIN != 0)
    }
}

/// The lines of a map: inside, outside, count. None if there is no such map to be read.
fn map(name: &str) -> Option<Vec<[u32; 3]>> {
    let text = fs::read_to_string(format!("{THREAD}/{name}")).ok()?;
    let line = |line: &str| {
        let numbers: Vec<u32> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        numbers.try_into().ok()
    };
    Some(text.lines().filter_map(line).collect())
}

/// Whether the map is that of the first user namespace, or of none at all.
fn whole(name: &str) -> bool {
    map(name).is_none_or(|lines| lines == [[0, 0, u32::MAX]])
}

fn maps(name: &str, id: u32) -> bool {
    map(name).is_none_or(|lines| {
        lines.iter().any(|[inside, _, count]| (*inside..inside.saturating_add(*count)).contains(&id))
    })
}

/// Whether the caller's root is not that of its mount namespace, as far as that shows: by a root that is no mount
/// point, or by a process above in the same mount namespace that has another root.
fn chrooted() -> bool {
    let Ok(mountinfo) = fs::read_to_string(format!("{THREAD}/mountinfo")) else { return false };
    let is_root = |line: &str| line.split(' ').nth(4) == Some("/");
    !mountinfo.lines().any(is_root) || an_ancestor_has_another_root()
}

/// No line of processes is longer, or it is not worth the search.
const ANCESTORS: usize = 64;

fn an_ancestor_has_another_root() -> bool {
    let namespace = |process: &str| fs::read_link(format!("{process}/ns/mnt")).ok();
    let (own_namespace, own_root) = (namespace(THREAD), Root::of(THREAD));
    if own_namespace.is_none() || own_root.is_none() {
        return false;
    }
    let mut parent = std::os::unix::process::parent_id();
    for _ in 0..ANCESTORS {
        let process = format!("/proc/{parent}");
        // A process of somebody else's can't be looked at, and shows nothing.
        let root = Root::of(&process);
        if root.is_some() && namespace(&process) == own_namespace && root != own_root {
            return true;
        }
        match parent_of(&process) {
            Some(above) if above != 0 => parent = above,
            _ => return false,
        }
    }
    false
}

fn parent_of(process: &str) -> Option<u32> {
    let status = Status(fs::read_to_string(format!("{process}/status")).ok()?);
    status.field("PPid")?.parse().ok()
}

/// A root directory: the same directory on another mount is another one.
#[derive(Debug, PartialEq, Eq)]
struct Root {
    mount: String,
    device: u64,
    inode: u64,
}

impl Root {
    fn of(process: &str) -> Option<Self> {
        let path = Path::new(process).join("root");
        let dir = File::options().read(true).custom_flags(libc::O_PATH).open(path).ok()?;
        let found = dir.metadata().ok()?;
        let info = fs::read_to_string(format!("{THREAD}/fdinfo/{}", dir.as_raw_fd())).ok()?;
        let mount = info.lines().find(|line| line.starts_with("mnt_id:"))?.to_owned();
        Some(Self { mount, device: found.dev(), inode: found.ino() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Refused = Refused::New(Namespaces::all());

    fn kind(name: &str) -> &'static Kind {
        KINDS.iter().find(|kind| kind.proc_name == name).unwrap()
    }

    fn limits(of: &[(&str, u64)]) -> Facts {
        Facts { limits: of.iter().map(|(name, value)| (kind(name), *value)).collect(), ..Facts::default() }
    }

    fn says(errno: i32, refused: Refused, facts: &Facts, words: &[&str]) {
        let hint = decide(errno, refused, facts).unwrap();
        for word in words {
            assert!(hint.contains(word), "{word:?} in {hint:?}");
        }
    }

    #[test]
    fn a_limit_is_named_with_its_value() {
        for errno in [libc::ENOSPC, libc::EUSERS] {
            says(errno, ALL, &limits(&[("user", 0), ("net", 9)]), &["user.max_user_namespaces is 0", "=15000"]);
        }
        says(libc::ENOSPC, ALL, &limits(&[("user", 9), ("net", 0)]), &["user.max_net_namespaces is 0"]);
        says(libc::ENOSPC, ALL, &limits(&[("user", 9), ("net", 9)]), &["user.max_user_namespaces is 9", "=18"]);
        let user = Refused::New(Namespaces::USER);
        says(libc::ENOSPC, user, &limits(&[("user", 9), ("net", 0)]), &["user.max_user_namespaces is 9"]);
        let nested = Facts { nested: true, ..limits(&[("user", 9)]) };
        says(libc::ENOSPC, ALL, &nested, &["user.max_user_namespaces is 9", "32 levels", "enclosing"]);
        says(libc::ENOSPC, ALL, &Facts::default(), &["user.max_user_namespaces"]);
        // Files that do not fit in a tmpfs are no matter of namespaces.
        assert_eq!(decide(libc::ENOSPC, Refused::Inside, &limits(&[("user", 0)])), None);
    }

    #[test]
    fn the_switches_are_told_apart() {
        let off = Facts { switched_off: true, ..Facts::default() };
        let apparmor = Facts { apparmor: true, ..Facts::default() };
        let seccomp = Facts { seccomp: true, ..Facts::default() };
        let chrooted = Facts { chrooted: true, ..Facts::default() };
        let unmapped = Facts { unmapped: true, ..Facts::default() };
        for errno in [libc::EPERM, libc::EACCES] {
            says(errno, ALL, &off, &["sysctl kernel.unprivileged_userns_clone=1"]);
            for refused in [ALL, Refused::Inside] {
                let words = ["kernel.apparmor_restrict_unprivileged_userns=0", "`userns,`", "/etc/apparmor.d"];
                says(errno, refused, &apparmor, &words);
                says(errno, refused, &seccomp, &["seccomp=unconfined"]);
            }
            says(errno, ALL, &chrooted, &["in a chroot"]);
            says(errno, ALL, &unmapped, &["not mapped"]);
            says(errno, ALL, &Facts::default(), &["none of the usual", "chroot", "security module"]);
            assert_eq!(decide(errno, Refused::Inside, &Facts::default()), None);
        }
        says(libc::ENOSYS, ALL, &seccomp, &["seccomp=unconfined"]);
    }

    #[test]
    fn a_profile_is_named_to_whom_it_confines() {
        let profile = Facts { profile: Some("docker-default".to_owned()), apparmor: true, ..Facts::default() };
        let words = ["the profile \"docker-default\"", "`userns,`", "`mount,`", "`pivot_root,`", "apparmor=unconfined"];
        for refused in [ALL, Refused::Inside] {
            says(libc::EACCES, refused, &profile, &words);
            // Root is confined too.
            says(libc::EACCES, refused, &Facts { admin: true, ..profile.clone() }, &words);
            says(libc::EACCES, refused, &Facts { seccomp: true, ..profile.clone() }, &["one of two", "docker-default"]);
        }
        says(libc::EACCES, Refused::Mount, &profile, &words);
        for (errno, facts) in [(libc::EPERM, &profile), (libc::EACCES, &Facts { profile: None, ..profile.clone() })] {
            assert_eq!(decide(errno, Refused::Mount, facts), None);
        }
        // The switch is for those without a profile.
        assert!(!decide(libc::EACCES, ALL, &profile).unwrap().contains("restrict_unprivileged_userns"));
    }

    #[test]
    fn what_is_certain_goes_before_what_is_possible() {
        let all = Facts { switched_off: true, chrooted: true, apparmor: true, seccomp: true, ..Facts::default() };
        says(libc::EPERM, ALL, &all, &["unprivileged_userns_clone"]);
        // A privileged caller is not who the switches are for.
        let root = Facts { admin: true, ..all };
        says(libc::EPERM, ALL, &root, &["in a chroot"]);
        let filtered = Facts { chrooted: false, ..root };
        assert_eq!(decide(libc::EPERM, ALL, &filtered).unwrap(), SECCOMP);
        let both = Facts { admin: false, switched_off: false, ..filtered };
        says(libc::EPERM, ALL, &both, &["one of two", "seccomp=unconfined", "`userns,`"]);
    }

    #[test]
    fn a_kernel_without_them_is_named() {
        let without = Facts { missing: vec![kind("user"), kind("time")], ..Facts::default() };
        for errno in [libc::EINVAL, libc::ENOSYS] {
            says(errno, Refused::New(Namespaces::USER), &without, &["without CONFIG_USER_NS:"]);
        }
        // Not what was asked for, or not what the error says.
        assert_eq!(decide(libc::EINVAL, Refused::New(Namespaces::NET), &without), None);
        assert_eq!(decide(libc::EINVAL, ALL, &Facts::default()), None);
        assert_eq!(decide(libc::ENOMEM, ALL, &without), None);
    }

    #[test]
    fn a_field_of_status_is_found_by_its_whole_name() {
        let status = Status("Name:\tx\nSeccomp_filters:\t1\nSeccomp:\t2\nNoNewPrivs:\t0\n".into());
        assert!(status.seccomp() && !status.no_new_privs() && !status.admin());
        assert!(Status("CapEff:\t0000000000200000\n".into()).admin());
        assert!(!Status(String::new()).seccomp());
    }
}
