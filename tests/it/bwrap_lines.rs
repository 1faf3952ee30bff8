//! Command lines for both programs, and the differences that are meant.

/// For whom a difference shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Both,
    Root,
    User,
}

/// A difference that is meant, and why.
#[derive(Debug)]
pub(super) struct Intended {
    /// A word of the command line, or nothing for all.
    line: &'static str,
    /// The start of the name of what differs.
    name: &'static str,
    fits: fn(own: &str, reference: &str) -> bool,
    who: Who,
    /// Shown where it is none any more.
    #[allow(dead_code)]
    reason: &'static str,
}

impl Intended {
    pub(super) fn is_for(&self, who: Who) -> bool {
        self.who == Who::Both || self.who == who
    }

    pub(super) fn fits(&self, line: &str, name: &str, own: &str, reference: &str) -> bool {
        let is_there = self.line.is_empty() || line.split_whitespace().any(|word| word == self.line);
        is_there && name.starts_with(self.name) && (self.fits)(own, reference)
    }
}

pub(super) const fn intended(
    line: &'static str,
    name: &'static str,
    fits: fn(&str, &str) -> bool,
    who: Who,
    reason: &'static str,
) -> Intended {
    Intended { line, name, fits, who, reason }
}

const ROOT_AND_PROC: &str =
    "what root could change of the host in /proc is read-only, sysctls and file systems' files too";
const DEVICES: &str = "a device works on a read-only mount, and its file can't be changed there";

const ONE_NAMESPACE: &str = "one user namespace is enough for pseudo-terminals, and there is no other around it";

pub(super) const INTENDED: &[Intended] = &[
    intended("--dev", "uid_map", |own, reference| own != reference, Who::User, ONE_NAMESPACE),
    intended("--dev", "gid_map", |own, reference| own != reference, Who::User, ONE_NAMESPACE),
    intended("--dev", "file /dev/pts", |own, _| own.ends_with("Permission denied\n"), Who::User, ONE_NAMESPACE),
    intended(
        "--proc",
        "mount ",
        |own, reference| own.starts_with("proc ro,") && reference.is_empty(),
        Who::Root,
        ROOT_AND_PROC,
    ),
    intended(
        "--unshare-pid",
        "file /proc/sys/kernel/hostname",
        |own, _| own.contains("Read-only"),
        Who::Root,
        ROOT_AND_PROC,
    ),
    intended("", "status CapInh", is_kept_by_user_0, Who::Root, AMBIENT),
    intended("", "status CapAmb", is_kept_by_user_0, Who::Root, AMBIENT),
    intended("--uid", "status CapBnd", |own, reference| own < reference, Who::Root, BOUND),
    intended("--cap-drop", "status CapBnd", |own, reference| own < reference, Who::Root, BOUND),
    intended(
        "/a/../b",
        "file /a",
        |own, _| own.starts_with("No such"),
        Who::Both,
        "\"..\" is taken as text: what is before it is not made",
    ),
    intended(
        "",
        "ignored 13",
        |own, _| own.is_empty(),
        Who::Both,
        "SIGPIPE is the default one: the runtime of a Rust program ignores it before it can see what its caller does",
    ),
    intended("", "fd ", |own, _| own.is_empty(), Who::Both, "only the three streams reach the program: --inherit-fds"),
    intended(
        "--new-session",
        "session",
        |own, reference| own == "own\n" && reference == "shared\n",
        Who::Both,
        "the program leads its session itself, with an init too",
    ),
    intended(
        "--dev",
        "mount ",
        |own, reference| own.starts_with("devtmpfs ro,nosuid,noexec") && reference.starts_with("devtmpfs rw,nosuid"),
        Who::Both,
        DEVICES,
    ),
    intended(
        "--mqueue",
        "mount /a",
        |own, _| own.starts_with("mqueue rw,nosuid,nodev,noexec"),
        Who::Both,
        "no program is executed from message queues",
    ),
    intended(
        "--ro-overlay",
        "mount /a",
        |own, _| own.starts_with("overlay ro,"),
        Who::Both,
        "the mount is read-only, not only the overlay",
    ),
    intended(
        "",
        "file /a",
        |own, reference| own.starts_with("40755") && reference.starts_with("40700"),
        Who::Both,
        "directories on the way are 0755, as bwrap(1) says, and as it is before 0.12",
    ),
];

const AMBIENT: &str = "kept capabilities are ambient ones for root too: being user 0 gives none at an exec";
const BOUND: &str = "what is not kept is not in the bounding set either";

fn is_kept_by_user_0(own: &str, reference: &str) -> bool {
    own != "0000000000000000" && reference == "0000000000000000"
}

/// What is refused before anything is started: all of what is written has to be the same.
pub(super) const MISTAKES: &str = "
--foo
-x
--bind
--bind a
--bind-try a
--ro-bind
--ro-bind-try a
--dev-bind a
--dev-bind-try
--bind-fd 3
--ro-bind-fd 3
--bind-fd x /x
--remount-ro
--proc
--dev
--tmpfs
--mqueue
--dir
--file
--file 3
--file x /x
--bind-data
--bind-data -1 /x
--ro-bind-data 3
--symlink
--symlink a
--chmod
--chmod 7
--chmod x /a
--chmod 10000 /a
--perms
--perms x
--perms EMPTY
--perms 9
--perms 7777777
--perms 0700 --perms 0700 --dir /x
--perms 0700 --bind a b
--perms 0700 --proc /proc
--perms 0700 --symlink a b
--perms 0700 --setenv a b
--perms 0700 --chmod 0700 /x
--perms 0700 --foo
--perms 0700 --bind
--size
--size x
--size 0 --tmpfs /a
--size 10 --size 20 --tmpfs /x
--size 4096 --dir /x
--size 5 --setenv a b
--size 10 --perms 0700 --dir /x
--size 18446744073709551615 --tmpfs /x
--overlay
--overlay a b
--overlay-src
--overlay-src / --foo
--overlay-src / --bind
--overlay-src / --dir /x
--overlay-src / --perms 0700 --tmp-overlay /x
--overlay-src / true
--tmp-overlay
--tmp-overlay /x
--ro-overlay
--ro-overlay /x
--overlay-src / --ro-overlay /x
--overlay a b /x
--args
--args x
--args 77
--argv0
--argv0 a --argv0 b true
--level-prefix --foo
--level-prefix --uid x
--uid
--uid x
--uid -1
--uid EMPTY
--uid 0x10
--gid
--gid x
--hostname
--chdir
--setenv
--setenv a
--setenv a=b c
--setenv EMPTY c
--unsetenv
--unsetenv a=b
--lock-file
--sync-fd
--sync-fd x
--block-fd
--block-fd x
--userns-block-fd
--info-fd
--info-fd x
--json-status-fd
--json-status-fd x
--seccomp
--seccomp x
--seccomp 24 --add-seccomp-fd 24
--add-seccomp-fd
--cap-add
--cap-add foo
--cap-add SYS_ADMIN
--cap-drop
--cap-drop foo
--userns
--userns x
--userns2
--pidns
--pidns x
--exec-label
--exec-label foo true
--file-label
--file-label foo true
--as-pid-1 true
--as-pid-1 --unshare-all --lock-file /x true
--ro-bind / / --lock-file /nope true
--ro-bind / / --lock-file /etc/nope/x true
--disable-userns true
--disable-userns --unshare-all true
";

/// The root of most lines: empty, but for /proc and the program that looks around.
const BASE: &str = "--ro-bind PROBE PROBE --proc /proc";

/// Each option alone, and what takes more than two.
pub(super) fn singles() -> Vec<String> {
    filled(SINGLES)
}

/// Whole command lines of options and paths.
pub(super) fn filled(lines: &str) -> Vec<String> {
    let lines = lines.lines().filter(|line| !line.trim().is_empty());
    let line = |line: &str| match line.split_once(" | ") {
        Some((options, paths)) => format!("{BASE} {options} PROBE {paths}"),
        None => line.to_owned(),
    };
    lines.map(line).collect()
}

/// The options before the bar, and the paths that are looked at after it.
const SINGLES: &str = "
--dir /a | / /a
--dir /a/b/c | /a /a/b /a/b/c
--dir a/b | /a /a/b
--dir /a/../b | /a /b
--perms 0700 --dir /a/b | /a /a/b
--perms 0750 --dir /a/b | /a /a/b
--perms 0705 --dir /a/b | /a /a/b
--perms 1777 --dir /a | /a
--dir /a --perms 0700 --dir /a | /a
--dir /a --chmod 0711 /a | /a
--file 20 /a --chmod 0400 /a | /a
--chmod 0700 / | /
--chmod 0700 /nothing | /
--file 20 /a/b | /a /a/b
--perms 0640 --file 20 /a/b | /a /a/b
--file 20 /a --file 21 /a | /a
--bind-data 20 /a | /a
--perms 0444 --bind-data 20 /a/b | /a /a/b
--ro-bind-data 20 /a | /a
--perms 0444 --ro-bind-data 20 /a/b | /a /a/b
--file 20 /a --bind-data 21 /a | /a
--file 77 /a | /a
--symlink x /a | /a
--symlink x /a/b | /a /a/b
--symlink x /a --symlink x /a | /a
--symlink x /a --symlink y /a | /a
--dir /x --symlink x /a --dir /a/b | /a /x/b
--dir /x --symlink /x /a --dir /a/b | /a /x/b
--file 20 /a --symlink x /a | /a
--tmpfs /a | /a
--perms 0700 --tmpfs /a | /a
--perms 1777 --tmpfs /a/b | /a /a/b
--size 65536 --tmpfs /a | /a
--size 65536 --perms 0711 --tmpfs /a | /a
--tmpfs /a --remount-ro /a | /a
--tmpfs /a --dir /a/b --remount-ro /a | /a /a/b
--remount-ro / | /
--remount-ro /nothing | /
--dir /a --remount-ro /a | /a
--tmpfs / --dir /a | / /a
--bind DIR /a | /a /a/lower/low
--bind DIR/lower/low /a | /a
--ro-bind DIR/lower /a | /a /a/low
--ro-bind DIR/lower/low /a/b | /a /a/b
--bind DIR/link /a | /a /a/high
--ro-bind DIR/nothing /a | /a
--bind-try DIR/nothing /a | /a
--ro-bind-try DIR/nothing /a | /a
--dev-bind-try DIR/nothing /a | /a
--ro-bind-try DIR/lower/low/x /a | /a
--ro-bind EMPTY /a | /a
--dev-bind /dev /dev | /dev/null
--dev-bind /dev/null /a | /a
--bind /dev/null /a | /a
--ro-bind lower /a | /a /a/low
--bind DIR /a --dir /a/new | /a/new
--bind DIR /a --file 20 /a/new | /a/new
--bind DIR /a --symlink x /a/new | /a/new
--bind DIR /a --tmpfs /a/new/er | /a/new /a/new/er
--bind DIR /a --ro-bind DIR/lower /a/other/mounted | /a/other/mounted
--bind DIR /a --bind-data 20 /a/new | /a/new
--bind DIR /a --chmod 0700 /a/other | /a/other
--ro-bind DIR /a --dir /a/new | /a/new
--ro-bind DIR /a --tmpfs /a/other | /a /a/other
--ro-bind DIR /a --bind DIR/upper /a/upper | /a /a/upper
--bind DIR /a --remount-ro /a | /a
--bind-fd 23 /a | /a /a/lower
--ro-bind-fd 23 /a | /a /a/lower
--bind-fd 20 /a | /a
--bind-fd 77 /a | /a
--dev /dev | /dev /dev/null /dev/shm /dev/pts /dev/ptmx /dev/fd /dev/core /dev/stdin /dev/console /dev/zero /dev/tty
--dev /a/b | /a /a/b /a/b/null /a/b/shm
--dev /dev --dev-bind /dev/zero /dev/other | /dev/other
--dev /dev --remount-ro /dev | /dev /dev/null
--dev /dev --tmpfs /dev/shm | /dev/shm
--proc /a | /a/version
--proc /a/b --unshare-pid | /a/b/1
--unshare-pid --proc /proc | /proc/sys /proc/sys/kernel/hostname /proc/kcore /proc/bus
--mqueue /a | /a
--unshare-ipc --mqueue /a | /a
--overlay-src DIR/lower --tmp-overlay /a | /a /a/low
--overlay-src DIR/lower --overlay-src DIR/other --tmp-overlay /a | /a /a/low /a/high
--overlay-src DIR/lower --overlay-src DIR/other --ro-overlay /a | /a /a/low /a/high
--overlay-src DIR/lower --overlay DIR/upper DIR/work /a | /a /a/low
--overlay-src DIR/lower --tmp-overlay /a --dir /a/b | /a /a/b
--overlay-src DIR/nothing --tmp-overlay /a | /a
--overlay-src DIR/lower --tmp-overlay /a --overlay-src DIR/other --tmp-overlay /b | /a/low /b/high
--unshare-user | /
--unshare-user-try | /
--unshare-ipc | /
--unshare-pid | /
--unshare-net | /
--unshare-uts | /
--unshare-cgroup | /
--unshare-cgroup-try | /
--unshare-all | /
--unshare-all --share-net | /
--share-net | /
--unshare-net --share-net | /
--share-net --unshare-net | /
--unshare-user --uid 5 | /
--unshare-user --gid 6 | /
--unshare-user --uid 5 --gid 6 | / /proc
--unshare-user --uid ~5 | /
--unshare-user --uid 0 --gid 0 | /
--uid 5 | /
--gid 5 | /
--unshare-user --disable-userns | /
--unshare-user --disable-userns --assert-userns-disabled | /
--assert-userns-disabled | /
--unshare-uts --hostname other | /
--hostname other | /
--chdir / | /
--chdir /proc | /
--chdir /nothing | /
--chdir EMPTY | /
--chdir PROBE | /
--dir /home | /
--bind DIR DIR | /
--dir /home --chdir /home | /
--setenv B c | /
--setenv A c | /
--setenv A EMPTY | /
--setenv PWD x | /
--unsetenv A | /
--unsetenv B | /
--unsetenv A --setenv A d | /
--setenv B d --unsetenv B | /
--clearenv | /
--clearenv --setenv A d | /
--setenv A d --clearenv | /
--unsetenv PATH | /
--setenv HOME /proc | /
--args 25 | /args
--args 25 --dir /b | /args /b
--argv0 other | /
--level-prefix | /
--as-pid-1 --unshare-pid | /
--new-session | /
--die-with-parent | /
--die-with-parent --unshare-pid | /
--sync-fd 20 | /
--lock-file PROBE | /
--lock-file PROBE --unshare-pid | /
--sync-fd 77 | /
--block-fd 20 | /
--block-fd 77 | /
--info-fd 26 | /
--info-fd 26 --unshare-all | /
--json-status-fd 26 | /exit
--json-status-fd 26 --unshare-all | /
--json-status-fd 26 --unshare-pid --as-pid-1 | /exit
--info-fd 26 --chdir /nothing | /
--json-status-fd 26 --chdir /nothing | /
--seccomp 24 | /
--add-seccomp-fd 24 | /
--add-seccomp-fd 24 --add-seccomp-fd 24 | /
--seccomp 20 | /
--seccomp 77 | /
--cap-add ALL | /
--cap-drop ALL | /
--cap-drop CAP_CHOWN | /
--cap-add CAP_CHOWN | /
--cap-add cap_net_raw | /
--cap-drop ALL --cap-add CAP_CHOWN | /
--unshare-user --cap-add CAP_SYS_ADMIN | /
--unshare-user --cap-drop ALL --cap-add CAP_SYS_ADMIN | /
--unshare-user --uid 5 --cap-add CAP_CHOWN | /
--not-a-security-boundary | /
-- | /
--ro-bind / / PROBE / /etc/passwd /dev/null
--ro-bind / / --dev /dev --proc /proc PROBE / /dev/null
--ro-bind / / --dev /dev --proc /proc --unshare-all PROBE / /dev/null
--dev-bind / / PROBE / /dev/null
--dev-bind / / --unshare-all PROBE / /dev/null
--bind / / --remount-ro / PROBE / /dev/null
--ro-bind / / --tmpfs /tmp --ro-bind PROBE PROBE PROBE / /tmp
--ro-bind / / --dir /no-such-place PROBE /no-such-place
--ro-bind / / --tmpfs /no-such-place PROBE /no-such-place
--ro-bind / / --ro-bind / /mnt PROBE /mnt/etc
--ro-bind / / /nothing
--ro-bind / / nothing
--ro-bind / / /etc
--ro-bind / / /etc/passwd
--ro-bind / / true
--ro-bind / / false
--ro-bind / / sh -c exit~7
--ro-bind / / sh -c kill~-TERM~$$
--ro-bind / / --unshare-pid sh -c kill~-KILL~$$
--ro-bind / / --unshare-pid --as-pid-1 sh -c exit~9
--ro-bind / / --argv0 other sh -c echo~$0
--ro-bind / / -- sh -c echo~x
--ro-bind / / --chdir /usr sh -c pwd;echo~$PWD
--ro-bind / / --unshare-all --unshare-user --cap-add ALL --proc /proc sh -c mount~-t~tmpfs~x~/mnt&&echo~mounted
--ro-bind / / --bind DIR DIR sh -c echo~text>DIR/new&&cat~DIR/new
--ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 --proc /proc --dev /dev --unshare-all --die-with-parent --new-session sh -c echo~$PWD;ls~/;id
--overlay-src / --tmp-overlay / --proc /proc --dev /dev --ro-bind PROBE PROBE PROBE / /dev/null /etc/passwd
";

/// Options that go together: mounts, each with each in both orders, and the others, in one.
pub(super) fn pairs() -> Vec<String> {
    let (mounts, others) = PAIRED.split_once("\n\n").unwrap();
    let [mounts, others] = [mounts, others].map(|list| list.trim().lines().collect::<Vec<_>>());
    let mut pairs = Vec::new();
    for (index, one) in mounts.iter().enumerate() {
        let rest = mounts.iter().filter(|other| *other != one).chain(&others);
        pairs.extend(rest.map(|other| (one, other)));
        pairs.extend(
            others
                .get(index)
                .map(|one| others.iter().filter(move |other| *other != one))
                .into_iter()
                .flatten()
                .map(|other| (&others[index], other)),
        );
    }
    let line = |(one, other)| format!("{BASE} {one} {other} PROBE / /a /a/b /a/c /d /a/low /a/high");
    pairs.into_iter().map(line).collect()
}

const PAIRED: &str = "
--dir /a
--dir /a/b
--file 20 /a/b
--symlink d /a
--tmpfs /a
--perms 0700 --tmpfs /a/b
--bind DIR/lower /a
--ro-bind DIR/other /a
--ro-bind-data 21 /a/c
--remount-ro /a
--chmod 0700 /a
--overlay-src DIR/lower --tmp-overlay /a

--unshare-user --uid 7
--unshare-pid
--unshare-net
--new-session
--clearenv
--chdir /a
--cap-drop ALL
--argv0 other
";
