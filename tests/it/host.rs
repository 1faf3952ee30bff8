//! What the host can do, judged by other programs, and hosts that forbid user namespaces, made for the purpose.
//!
//! What changes a whole process, or needs one that nobody else works in, runs in a process of its own: the test binary
//! once more, for one test, started by whatever makes the host that the test is about.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use belljar::{Error, ErrorKind, Layer, Namespaces, Sandbox, host};

use crate::harness::{children, is_root, mounts, open_fds, real, temp_dir};
use crate::skip;

/// Set in the process that a test has started for itself.
const INNER: &str = "BELLJAR_TEST_INNER";

fn is_inner() -> bool {
    std::env::var_os(INNER).is_some()
}

/// Runs one test once more, as the last arguments of `wrapper`; it must run there, and pass.
fn again(test: &str, wrapper: &[&str]) {
    again_as(&std::env::current_exe().unwrap(), test, wrapper);
}

fn again_as(binary: &Path, test: &str, wrapper: &[&str]) {
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(binary).args([test, "--exact", "--nocapture", "--test-threads=1"]);
    let output = command.env(INNER, test).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{test} under {wrapper:?}:\n{said}");
}

/// What must be the same before and after.
#[derive(Debug, PartialEq, Eq)]
struct Snapshot {
    fds: BTreeSet<String>,
    children: Vec<String>,
    mounts: String,
    namespaces: Vec<PathBuf>,
    /// Ids, capabilities, signals and seccomp.
    status: Vec<String>,
    dumpable: i32,
    directory: PathBuf,
}

impl Snapshot {
    fn take() -> Self {
        let namespaces = fs::read_dir("/proc/thread-self/ns").unwrap();
        let namespaces = namespaces.map(|entry| fs::read_link(entry.unwrap().path()).unwrap()).collect();
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let fields =
            ["Uid", "Gid", "Groups", "Cap", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "NoNewPrivs", "Seccomp"];
        let kept = |line: &&str| fields.iter().any(|field| line.starts_with(field));
        Self {
            fds: open_fds(),
            children: children(),
            mounts: mounts(),
            namespaces,
            status: status.lines().filter(kept).map(str::to_owned).collect(),
            // SAFETY: No pointers.
            dumpable: unsafe { libc::prctl(libc::PR_GET_DUMPABLE) },
            directory: std::env::current_dir().unwrap(),
        }
    }
}

/// A program that is not there: a sandbox that gets as far as executing it has been built.
fn spawn() -> Error {
    Sandbox::new().command("/none").spawn().unwrap_err()
}

/// Whether this host builds sandboxes at all.
fn works() -> bool {
    spawn().layer() == Layer::Exec
}

/// A default sandbox is refused with a hint that has these words, and nothing is left of the attempt.
fn refused(layer: Layer, errno: i32, words: &[&str]) {
    refused_by(&Sandbox::new(), layer, errno, words);
}

fn refused_by(sandbox: &Sandbox, layer: Layer, errno: i32, words: &[&str]) {
    let before = Snapshot::take();
    let error = sandbox.command("/none").spawn().unwrap_err();
    assert_eq!(Snapshot::take(), before);
    let told = (error.kind(), error.layer(), error.raw_os_error());
    assert_eq!(told, (ErrorKind::Unsupported, layer, Some(errno)), "{error}");
    let hint = error.hint().unwrap_or_default();
    for word in words {
        assert!(hint.contains(word), "{word:?} in {hint:?}");
    }
}

/// The line of the table for an item.
fn line(probe: &host::Probe, item: &str) -> String {
    let table = probe.to_string();
    table.lines().find(|line| line.starts_with(item)).unwrap_or_else(|| panic!("{item} in\n{table}")).to_owned()
}

fn has_unshare() -> bool {
    Command::new("unshare").args(["-Ur", "true"]).output().is_ok_and(|output| output.status.success())
}

#[test]
fn the_probe_changes_nothing_and_leaves_nothing() {
    if !is_inner() {
        return again("host::the_probe_changes_nothing_and_leaves_nothing", &["env"]);
    }
    let before = Snapshot::take();
    let first = host::probe().to_string();
    let probes: Vec<_> = (0..4).map(|_| std::thread::spawn(|| host::probe().to_string())).collect();
    for probe in probes {
        assert_eq!(probe.join().unwrap(), first);
    }
    assert_eq!(Snapshot::take(), before);
}

#[test]
fn the_probe_agrees_with_unshare() {
    if Command::new("unshare").arg("--version").output().is_err() {
        skip!("unshare(1) is not installed");
    }
    let flags = [
        (Namespaces::USER, "--user"),
        (Namespaces::MOUNT, "--mount"),
        (Namespaces::PID, "--pid"),
        (Namespaces::NET, "--net"),
        (Namespaces::IPC, "--ipc"),
        (Namespaces::UTS, "--uts"),
        (Namespaces::CGROUP, "--cgroup"),
        (Namespaces::TIME, "--time"),
    ];
    let works = |args: &[&str]| Command::new("unshare").args(args).output().unwrap().status.success();
    let unshare = |flag| works(&["-Ur", "--fork", flag, "true"]) || (is_root() && works(&["--fork", flag, "true"]));
    let expected: Namespaces =
        flags.iter().filter(|(_, flag)| unshare(flag)).map(|(namespace, _)| *namespace).collect();
    let probe = host::probe();
    assert_eq!(probe.namespaces(), expected, "\n{probe}");
    assert_eq!(line(&probe, "user namespace").contains("yes"), expected.contains(Namespaces::USER));
}

#[test]
fn the_probe_agrees_with_a_sandbox() {
    if !works() {
        skip!("this host builds no sandbox: {}", spawn());
    }
    let probe = host::probe();
    assert!(probe.namespaces().contains(Namespaces::default()), "\n{probe}");
    assert!(probe.fresh_proc(), "\n{probe}");
    // A target that is missing in a directory of the host is made on an overlay.
    let dir = temp_dir();
    let layered = Sandbox::new().rootfs(belljar::Rootfs::dir(real(dir.path()))).dir("/missing");
    let error = layered.command("/none").spawn().unwrap_err();
    assert_eq!(probe.overlay(), error.layer() == Layer::Exec, "{error}\n{probe}");
}

#[test]
fn the_table_is_aligned_and_has_every_item_once() {
    let probe = host::probe();
    let table = probe.to_string();
    let items = [
        "kernel",
        "user namespace",
        "mount namespace",
        "pid namespace",
        "net namespace",
        "ipc namespace",
        "uts namespace",
        "cgroup namespace",
        "time namespace",
        "newuidmap",
        "newgidmap",
        "subuid ranges",
        "subgid ranges",
        "overlay",
        "new /proc",
        "Landlock",
        "seccomp filters",
        "clone3",
        "cgroup",
    ];
    assert_eq!(table.lines().count(), items.len(), "{table}");
    for (line, item) in table.lines().zip(items) {
        let (name, verdict) = line.split_at(items.iter().map(|item| item.len()).max().unwrap());
        assert_eq!(name.trim_end(), item, "{table}");
        assert!(["  yes", "  no ", "  -  "].iter().any(|word| verdict.starts_with(word)), "{table}");
    }
    let uname = Command::new("uname").arg("-r").output().unwrap();
    assert_eq!(probe.kernel(), String::from_utf8(uname.stdout).unwrap().trim());
    // SAFETY: For this question the kernel wants no structure.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) };
    assert_eq!(probe.landlock_abi(), u32::try_from(abi).ok());
    let filters = Path::new("/proc/sys/kernel/seccomp/actions_avail").exists();
    assert_eq!(probe.seccomp(), filters);
}

#[test]
fn a_limit_of_zero_is_named() {
    const NAME: &str = "host::a_limit_of_zero_is_named";
    if is_inner() {
        refused(Layer::Namespaces, libc::ENOSPC, &["user.max_user_namespaces is 0", "sysctl"]);
        let probe = host::probe();
        assert!(line(&probe, "user namespace").contains("user.max_user_namespaces is 0"), "\n{probe}");
        // Root of the namespace around can do without.
        assert_eq!(probe.namespaces(), Namespaces::all() - Namespaces::USER, "\n{probe}");
        return;
    }
    if !has_unshare() || !works() {
        skip!("unshare(1) makes no user namespace here");
    }
    again(NAME, &["unshare", "-Ur", "sh", "-ec", "echo 0 >/proc/sys/user/max_user_namespaces; exec \"$@\"", "sh"]);
}

#[test]
fn the_limit_of_another_kind_is_named() {
    const NAME: &str = "host::the_limit_of_another_kind_is_named";
    let kinds = [("mnt", Namespaces::MOUNT), ("net", Namespaces::NET), ("time", Namespaces::TIME)];
    if is_inner() {
        let (name, kind) =
            *kinds.iter().find(|(name, _)| std::env::var("BELLJAR_TEST_WORDS").unwrap() == *name).unwrap();
        let words = format!("user.max_{name}_namespaces is 0");
        // Which is no limit for a sandbox that has none of the kind.
        let all = Sandbox::new().namespaces(Namespaces::all());
        refused_by(&all, Layer::Namespaces, libc::ENOSPC, &[&words]);
        assert_eq!(works(), kind == Namespaces::TIME);
        let probe = host::probe();
        assert_eq!(probe.namespaces(), Namespaces::all() - kind, "\n{probe}");
        assert!(probe.to_string().contains(&words), "\n{probe}");
        return;
    }
    if !has_unshare() || !works() {
        skip!("unshare(1) makes no user namespace here");
    }
    for (name, _) in kinds {
        let script =
            format!("export BELLJAR_TEST_WORDS={name}; echo 0 >/proc/sys/user/max_{name}_namespaces; exec \"$@\"");
        again(NAME, &["unshare", "-Ur", "sh", "-ec", &script, "sh"]);
    }
}

/// Root of a user namespace that anybody can make: its groups can't be left, and need not be.
#[test]
fn root_without_setgroups_is_served() {
    if is_inner() {
        return assert!(is_root() && works(), "{}", spawn());
    }
    if !has_unshare() || !works() {
        skip!("unshare(1) makes no user namespace here");
    }
    again("host::root_without_setgroups_is_served", &["unshare", "-Ur"]);
}

#[test]
fn nesting_too_deep_is_named() {
    const NAME: &str = "host::nesting_too_deep_is_named";
    if is_inner() {
        return refused(Layer::Namespaces, libc::ENOSPC, &["nested as deep as", "32 levels"]);
    }
    if !has_unshare() || !works() {
        skip!("unshare(1) makes no user namespace here");
    }
    // Goes one deeper until it goes no deeper.
    let deeper = "unshare -Ur true 2>/dev/null && exec unshare -Ur sh -c \"$0\" \"$0\" \"$@\"; exec \"$@\"";
    again(NAME, &["sh", "-c", deeper, deeper]);
}

#[test]
fn ids_that_are_not_mapped_are_named() {
    const NAME: &str = "host::ids_that_are_not_mapped_are_named";
    if is_inner() {
        return refused(Layer::Namespaces, libc::EPERM, &["not mapped"]);
    }
    if !has_unshare() || !works() {
        skip!("unshare(1) makes no user namespace here");
    }
    again(NAME, &["unshare", "-U"]);
}

/// In a chroot to a directory of a mount, to a mount with somebody outside, and to one with nobody outside.
#[test]
fn a_chroot_is_named() {
    const NAME: &str = "host::a_chroot_is_named";
    if is_inner() {
        let words = std::env::var("BELLJAR_TEST_WORDS").unwrap();
        return refused(Layer::Namespaces, libc::EPERM, &[&words]);
    }
    if !has_unshare() || !works() || Command::new("chroot").arg("--version").output().is_err() {
        skip!("unshare(1) makes no user namespace here, or there is no chroot(8)");
    }
    let dir = temp_dir();
    let root = real(dir.path()).display().to_string();
    let mount = format!("mount --rbind / {root}");
    let binds = format!(
        "mount -t tmpfs none {root}; mkdir {root}/new; cd {root}/new; \
         for d in /*; do test -d $d -a ! -L $d || continue; mkdir ./$d; mount --rbind $d ./$d; done; \
         for d in /*; do test ! -L $d || cp -P $d ./; done"
    );
    let certain = "export BELLJAR_TEST_WORDS='is in a chroot'";
    let possible = "export BELLJAR_TEST_WORDS='a chroot, a security'";
    let cases = [
        format!("{certain}; {binds}; exec chroot {root}/new \"$@\""),
        format!("{certain}; {mount}; chroot {root} \"$@\"; exit $?"),
        format!("{possible}; {mount}; exec chroot {root} \"$@\""),
    ];
    for case in &cases {
        again(NAME, &["unshare", "-Urm", "sh", "-ec", case, "sh"]);
    }
}

#[test]
fn a_masked_proc_is_seen() {
    const NAME: &str = "host::a_masked_proc_is_seen";
    if is_inner() {
        let probe = host::probe();
        assert!(!probe.fresh_proc() && line(&probe, "new /proc").contains("masked"), "\n{probe}");
        assert!(probe.namespaces().contains(Namespaces::default()), "\n{probe}");
        return;
    }
    if !has_unshare() || !works() {
        skip!("unshare(1) makes no user namespace here");
    }
    again(NAME, &["unshare", "-Urm", "sh", "-ec", "mount --bind /dev/null /proc/version; exec \"$@\"", "sh"]);
}

/// Puts a filter on the calling thread: each of `calls` fails with its error number. clone fails only for flags with
/// `CLONE_NEWUSER`, as under a container engine.
fn filter(calls: &[(i64, i32)]) {
    let line = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |offset| line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let ret = |action| line(libc::BPF_RET | libc::BPF_K, 0, 0, action);
    let jeq = |nr: i64, jf| line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, jf, nr as u32);
    let jset = |bits: i32, jf| line(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, jf, bits as u32);
    let mut program = Vec::new();
    for (nr, errno) in calls {
        let fails = ret(libc::SECCOMP_RET_ERRNO | *errno as u32);
        match *nr {
            // The low half of the first argument: the flags.
            libc::SYS_clone => program.extend([load(0), jeq(*nr, 3), load(16), jset(libc::CLONE_NEWUSER, 1), fails]),
            _ => program.extend([load(0), jeq(*nr, 1), fails]),
        }
    }
    program.push(ret(libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: No pointers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: `program` and what it points to outlive the call.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) }, 0);
}

/// clone works, and the namespace is worth nothing: what AppArmor does with unprivileged user namespaces, done by a
/// filter that forbids the openat2 that the maps are written with.
#[test]
fn a_namespace_that_takes_no_maps_is_none() {
    const NAME: &str = "host::a_namespace_that_takes_no_maps_is_none";
    if !is_inner() {
        if !works() {
            skip!("this host builds no sandbox: {}", spawn());
        }
        return again(NAME, &["env"]);
    }
    assert!(works());
    let filtered = std::thread::spawn(|| {
        filter(&[(libc::SYS_openat2, libc::EPERM)]);
        refused(Layer::Ids, libc::EPERM, &["seccomp filter"]);
        let probe = host::probe();
        assert!(!probe.namespaces().contains(Namespaces::USER), "\n{probe}");
        assert!(line(&probe, "user namespace").contains("ids: write /proc/self/setgroups"), "\n{probe}");
    });
    filtered.join().unwrap();
}

#[test]
fn a_seccomp_filter_is_named() {
    const NAME: &str = "host::a_seccomp_filter_is_named";
    if !is_inner() {
        if !works() {
            skip!("this host builds no sandbox: {}", spawn());
        }
        return again(NAME, &["env"]);
    }
    // Only the thread under the filter sees it: the first thread of the process has none.
    let filtered = |landlock, said: &'static str| {
        std::thread::spawn(move || {
            filter(&[
                (libc::SYS_clone3, libc::ENOSYS),
                (libc::SYS_clone, libc::EPERM),
                (libc::SYS_landlock_create_ruleset, landlock),
            ]);
            refused(Layer::Namespaces, libc::EPERM, &["seccomp filter", "seccomp=unconfined"]);
            let before = Snapshot::take();
            let probe = host::probe();
            assert_eq!(Snapshot::take(), before);
            assert_eq!(probe.namespaces().contains(Namespaces::MOUNT), is_root(), "\n{probe}");
            assert!(!probe.namespaces().contains(Namespaces::USER), "\n{probe}");
            assert!(line(&probe, "user namespace").contains("seccomp=unconfined"), "\n{probe}");
            assert!(line(&probe, "seccomp filters").contains("under one already"), "\n{probe}");
            assert!(line(&probe, "clone3").contains("clone serves instead"), "\n{probe}");
            assert_eq!(probe.landlock_abi(), None);
            assert!(line(&probe, "Landlock").contains(said), "\n{probe}");
        })
    };
    filtered(libc::ENOSYS, "no such system call").join().unwrap();
    filtered(libc::EOPNOTSUPP, "switched off").join().unwrap();
    // The control: the same process, without a filter.
    assert!(works() && host::probe().namespaces().contains(Namespaces::default()));
    assert!(line(&host::probe(), "clone3").ends_with("yes"));
}

/// A copy of this binary that everybody may execute.
fn for_everybody(dir: &Path) -> PathBuf {
    let copy = dir.join("it");
    // By another process: a descriptor of ours, open for writing, could be inherited by what other tests start, and
    // a file that somebody has open for writing can't be executed (ETXTBSY).
    let done = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&copy).status().unwrap();
    assert!(done.success());
    copy
}

#[test]
fn the_id_helpers_and_ranges_are_those_of_the_caller() {
    const NAME: &str = "host::the_id_helpers_and_ranges_are_those_of_the_caller";
    const WORKS: &str = "/usr/bin/newuidmap, ";
    if is_inner() {
        let (probe, words) = (host::probe(), std::env::var("BELLJAR_TEST_WORDS").unwrap());
        assert!(line(&probe, "newuidmap").contains(&words), "{words} in\n{probe}");
        assert_eq!(probe.id_ranges(), words == WORKS, "\n{probe}");
        assert_eq!(line(&probe, "subuid ranges").split_whitespace().last(), Some("300000"), "\n{probe}");
        return;
    }
    let helper = Path::new("/usr/bin/newuidmap");
    if !is_root() {
        return eprintln!("for root, who can be another user with ranges");
    }
    if !helper.exists() || !Path::new("/usr/bin/setpriv").exists() {
        skip!("newuidmap(1) or setpriv(1) is not installed");
    }
    assert!(host::probe().id_ranges(), "root needs no ranges");
    let dir = temp_dir();
    let binary = for_everybody(dir.path());
    let (ranges, plain) = (dir.path().join("ranges"), dir.path().join("newuidmap"));
    fs::write(&ranges, "somebody:1:2\n65534:300000:7\n").unwrap();
    fs::copy(helper, &plain).unwrap();
    fs::set_permissions(&plain, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (ranges, plain) = (ranges.display(), plain.display());
    let cases = [
        (WORKS, String::new(), ""),
        ("not installed", "mount --bind /dev/null /usr/bin/newuidmap;".to_owned(), ""),
        ("neither set-user-ID root nor", format!("mount --bind {plain} /usr/bin/newuidmap;"), ""),
        ("no_new_privs", String::new(), "--no-new-privs"),
    ];
    for (words, mount, option) in cases {
        let script = format!(
            "export BELLJAR_TEST_WORDS='{}' PATH=/usr/bin:/bin:/usr/sbin:/sbin; {mount} \
             for file in subuid subgid; do test -e /etc/$file || exit 9; mount --bind {ranges} /etc/$file; done; \
             exec setpriv --reuid=65534 --regid=65534 --clear-groups {option} \"$@\"",
            words
        );
        again_as(&binary, NAME, &["unshare", "-m", "sh", "-ec", &script, "sh"]);
    }
}

#[test]
fn a_delegated_cgroup_is_the_callers_own() {
    const NAME: &str = "host::a_delegated_cgroup_is_the_callers_own";
    if is_inner() {
        let probe = host::probe();
        let expected = std::env::var_os("BELLJAR_TEST_OWN_CGROUP").map(PathBuf::from);
        assert_eq!(probe.cgroup(), expected.as_deref(), "\n{probe}");
        assert_eq!(line(&probe, "cgroup  ").contains("is not delegated"), expected.is_none(), "\n{probe}");
        return;
    }
    if !is_root() {
        return eprintln!("for root, who can delegate a cgroup");
    }
    let table = mounts();
    let mount = table.lines().find(|line| line.contains(" - cgroup2 "));
    let Some(mount) = mount.and_then(|line| line.split(' ').nth(4)) else {
        skip!("cgroup version 2 is not mounted");
    };
    let group = Path::new(mount).join(format!("belljar-test-{}", std::process::id()));
    if !Path::new("/usr/bin/setpriv").exists() || fs::create_dir(&group).is_err() {
        skip!("setpriv(1) is not installed, or the cgroup tree is read-only");
    }
    let group = Group(group);
    let dir = temp_dir();
    let binary = for_everybody(dir.path());
    let shown = group.0.display();
    let enter = format!("echo $$ >{shown}/cgroup.procs; ");
    let user = "exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
    again_as(&binary, NAME, &["sh", "-ec", &format!("{enter}{user}"), "sh"]);
    for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
        std::os::unix::fs::chown(group.0.join(file), Some(65534), Some(65534)).unwrap();
    }
    again_as(&binary, NAME, &["sh", "-ec", &format!("{enter}export BELLJAR_TEST_OWN_CGROUP={shown}; {user}"), "sh"]);
}

/// A cgroup that is removed in the end.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
