//! Plans as golden tests: they run anywhere, as any user, and start nothing.
//!
//! A golden plan is compared as a whole. What the caller's ids decide is marked in it: `<uid>` and `<gid>` stand for
//! the caller's, and a line that starts with `<root>` or `<user>` is there only for a caller that is root, or that is
//! not; one that starts with `<leaves>`, only for root that can leave its groups. The caller is in no groups but its
//! own, unless a test says otherwise. What every plan has in common is spelled out once, in the plan of the default sandbox, and is a word in the
//! others: `<proc>`, `<dev>`, `<state>`. Empty lines count for nothing.

use std::fmt::Write as _;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command as Process;

use belljar::{
    Command, ErrorKind, IdMap, Landlock, Layer, Namespaces, Network, Rootfs, Sandbox, Seccomp, Stdio, Tmpfs,
};

use crate::harness::{children, is_root, open_fds, real, temp_dir};
use crate::skip;

const PROC: &str = "
  mount         proc /proc
  namespaces    max_user_namespaces 0
  mount         mask /proc/acpi
  mount         mask /proc/asound
  mount         mask /proc/interrupts
  mount         mask /proc/kcore
  mount         mask /proc/keys
  mount         mask /proc/latency_stats
  mount         mask /proc/sched_debug
  mount         mask /proc/scsi
  mount         mask /proc/timer_list
  mount         mask /proc/timer_stats
  mount         mask /proc/kpagecgroup
  mount         mask /proc/kpagecount
  mount         mask /proc/kpageflags
<root>  mount         seal /proc
<user>  mount         read-only /proc/bus
<user>  mount         read-only /proc/fs
<user>  mount         read-only /proc/irq
<user>  mount         read-only /proc/sys
<user>  mount         read-only /proc/sysrq-trigger
";

const DEV: &str = "
  mount         tmpfs /dev size=1048576 nr_inodes=64 mode=0755
  mount         device /dev/null -> /dev/null
  mount         device /dev/zero -> /dev/zero
  mount         device /dev/full -> /dev/full
  mount         device /dev/random -> /dev/random
  mount         device /dev/urandom -> /dev/urandom
  mount         device /dev/tty -> /dev/tty
  mount         symlink /proc/self/fd <- /dev/fd
  mount         symlink /proc/self/fd/0 <- /dev/stdin
  mount         symlink /proc/self/fd/1 <- /dev/stdout
  mount         symlink /proc/self/fd/2 <- /dev/stderr
  mount         symlink pts/ptmx <- /dev/ptmx
  mount         dir /dev/pts
  mount         devpts /dev/pts
  mount         tmpfs /dev/shm size=1073741824 nr_inodes=65536 mode=1777
  mount         seal /dev
";

/// What the program inherits: from the cell, where there is one with an init.
const INHERITED: &str = "
  process       sched_setattr SCHED_OTHER nice 0
  process       ioprio_set default
  process       sched_setaffinity all
  process       personality linux
  process       timer slack 50000 ns
  capabilities  bounding set none
";

const STATE: &str = "
  process       umask 022
  limits        rlimit AS unlimited:unlimited
  limits        rlimit CORE 1:1
  limits        rlimit CPU unlimited:unlimited
  limits        rlimit DATA unlimited:unlimited
  limits        rlimit FSIZE unlimited:unlimited
  limits        rlimit MEMLOCK 8388608:8388608
  limits        rlimit MSGQUEUE 819200:819200
  limits        rlimit NICE 0:0
  limits        rlimit NOFILE 1024:524288
  limits        rlimit RTPRIO 0:0
  limits        rlimit STACK 8388608:unlimited
  limits        rlimit LOCKS unlimited:unlimited
  limits        rlimit NPROC unlimited:unlimited
  limits        rlimit RSS unlimited:unlimited
  limits        rlimit RTTIME unlimited:unlimited
  limits        rlimit SIGPENDING unlimited:unlimited
";

/// The start of a plan in which init writes the maps.
const OWN_MAPS: &str = "
host:
  namespaces    clone cell user,mount,ipc,uts,cgroup
cell:
  namespaces    unshare pid
  namespaces    clone init
init:
  ids           write /proc/self/setgroups deny
  ids           write /proc/self/uid_map <uid> <uid> 1
  ids           write /proc/self/gid_map <gid> <gid> 1
  namespaces    sethostname belljar
  namespaces    setdomainname (none)
  process       umask 022
  mount         tmpfs workspace
";

/// The rest of it, from the last mount on.
const REST: &str = "
  mount         seal /
  network       setns net
  mount         pivot_root
  exec          execveat init
cell:
  namespaces    stat pid namespace
  namespaces    unshare net
<inherited>
  namespaces    clone program
program:
  process       setsid
  process       oom_score_adj 500
  network       pass net to init
  process       wait for init
  fds           dup null -> 0
  fds           dup null -> 1
  fds           dup null -> 2
  fds           close_range 3-
<state>
  capabilities  securebits 0xef
  process       session keyring new
  exec          look at /program
  capabilities  ambient set none
  capabilities  capset none
  capabilities  no_new_privs
  process       chdir /
  process       signals default
  exec          execve /program []
";

/// The ids of the caller.
fn caller() -> (u32, u32) {
    // SAFETY: No arguments, and it never fails.
    let uid = unsafe { libc::geteuid() };
    // SAFETY: The same holds for the group.
    let gid = unsafe { libc::getegid() };
    (uid, gid)
}

/// The marks of lines that are there for this caller, and of those that are not.
fn marks() -> [Vec<&'static str>; 2] {
    let marks = [("<root>", is_root()), ("<user>", !is_root()), ("<leaves>", leaves_groups())];
    [true, false].map(|kept| marks.iter().filter(|(_, holds)| *holds == kept).map(|(mark, _)| *mark).collect())
}

/// What a golden plan reads like for this caller.
fn expand(golden: &str) -> String {
    let (uid, gid) = caller();
    let [kept, dropped] = marks();
    let mut text = String::new();
    let there = |line: &&str| !line.is_empty() && !dropped.iter().any(|mark| line.starts_with(mark));
    let golden = golden.replace("<proc>", PROC.trim_matches('\n')).replace("<state>", STATE.trim_matches('\n'));
    for line in golden.lines().filter(there) {
        match kept.iter().find_map(|mark| line.strip_prefix(mark)).unwrap_or(line) {
            "<dev>" => text.push_str(&DEV[1..]),
            "<inherited>" => text.push_str(&INHERITED[1..]),
            line => writeln!(text, "{line}").unwrap(),
        }
    }
    text.replace("<uid>", &uid.to_string()).replace("<gid>", &gid.to_string())
}

/// Puts the calling thread, and no other, into these groups. Only root can, and not where user_namespaces(7) denies it.
fn set_groups(groups: &[libc::gid_t]) -> bool {
    // SAFETY: The kernel reads as many ids as are given.
    unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) == 0 }
}

/// Runs `body` in a thread that is in these groups, as far as the caller can have that.
fn in_groups<T: Send>(groups: &[libc::gid_t], body: impl FnOnce(bool) -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(|| body(set_groups(groups))).join()).unwrap()
}

/// Whether the caller is root, and can leave its groups.
fn leaves_groups() -> bool {
    in_groups(&[], |set| set)
}

/// The plan for a caller in no groups but its own.
fn plan(command: &Command) -> String {
    in_groups(&[], |_| command.plan().unwrap().to_string())
}

/// Without the layers whose steps depend on the kernel: they have a plan of their own.
fn unconfined(sandbox: &Sandbox) -> Sandbox {
    sandbox.clone().landlock(Landlock::off()).seccomp(Seccomp::off())
}

/// The command of the golden plans: its plan does not depend on the host's streams.
fn program(sandbox: &Sandbox) -> Command {
    let mut command = unconfined(sandbox).command("/program");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[track_caller]
fn assert_plan(command: &Command, golden: &str) {
    assert_same(&plan(command), &expand(golden));
}

#[track_caller]
fn assert_same(plan: &str, golden: &str) {
    assert!(plan == golden, "{}", difference(plan, golden));
}

/// Both plans, with the first line that differs.
fn difference(plan: &str, golden: &str) -> String {
    let differs = plan.lines().zip(golden.lines()).position(|(plan, golden)| plan != golden);
    let line = differs.unwrap_or(plan.lines().count().min(golden.lines().count())) + 1;
    format!("differs at line {line}\n--- plan\n{plan}\n--- golden\n{golden}")
}

#[test]
fn the_default_sandbox() {
    let golden = format!(
        "{OWN_MAPS}  mount         root empty\n{PROC}{DEV}  \
         mount         tmpfs /tmp size=1073741824 nr_inodes=65536 mode=1777\n{REST}"
    );
    assert_plan(&program(&Sandbox::new()), &golden);
    assert_plan(&program(&Sandbox::default().rootfs(Rootfs::empty())), &golden);
    assert_plan(&program(&Sandbox::new().namespaces(Namespaces::default())), &golden);
    assert_plan(&program(&Sandbox::new().network(Network::None)), &golden);
}

#[test]
fn an_empty_root_with_every_kind_of_mount_in_the_callers_order() {
    let dir = temp_dir();
    let dir = real(dir.path());
    fs::write(dir.join("input"), "").unwrap();
    let sandbox = Sandbox::new()
        .mask("/proc/version")
        .symlink("usr/bin", "/bin")
        .file("/etc/passwd", b"root:x:0:0::/:\n")
        .dir("/var/empty")
        .tmpfs(Tmpfs::new("/cache").size(4096).inodes(7).mode(0o750))
        .tmpfs("/scratch")
        .bind_ro(dir.join("input"), "/input")
        .bind(&dir, "/work")
        .bind_ro(&dir, "/work/again");
    let root = dir.display();
    let mounts = format!(
        "
  mount         root empty
<proc>
<dev>
  mount         tmpfs /tmp size=1073741824 nr_inodes=65536 mode=1777
  mount         mask /proc/version
  mount         symlink usr/bin <- /bin
  mount         file /etc/passwd (15 bytes)
  mount         dir /var/empty
  mount         tmpfs /cache size=4096 nr_inodes=7 mode=0750
  mount         tmpfs /scratch size=1073741824 nr_inodes=65536 mode=1777
  mount         bind_ro {root}/input -> /input
  mount         bind {root} -> /work
  mount         bind_ro {root} -> /work/again
"
    );
    assert_plan(&program(&sandbox), &format!("{OWN_MAPS}{mounts}{REST}"));
}

#[test]
fn what_the_caller_mounts_at_dev_proc_or_tmp_is_there_instead() {
    let sandbox = Sandbox::new().dir("/proc").tmpfs("/dev/").tmpfs(Tmpfs::new("/tmp").size(1).inodes(1));
    let mounts = "
  mount         root empty
  mount         dir /proc
  mount         tmpfs /dev size=1073741824 nr_inodes=65536 mode=1777
  mount         tmpfs /tmp size=1 nr_inodes=1 mode=1777
";
    // Without a /proc of its own, it is the host's that is written through.
    let start = OWN_MAPS.replace("(none)\n", "(none)\n  namespaces    max_user_namespaces 0\n");
    assert_plan(&program(&sandbox), &format!("{start}{mounts}{REST}"));
}

#[test]
fn a_directory_as_the_root_gets_a_private_layer_only_for_what_it_lacks() {
    let dir = temp_dir();
    let dir = real(dir.path());
    for place in ["proc", "dev", "tmp", "work"] {
        fs::create_dir(dir.join(place)).unwrap();
    }
    let root = dir.display();
    let golden = |layer: &str, mount: &str| {
        let tmp = "  mount         tmpfs /tmp size=1073741824 nr_inodes=65536 mode=1777";
        format!("{OWN_MAPS}  mount         root {root}{layer}\n<proc>\n<dev>\n{tmp}\n{mount}{REST}")
    };
    let sandbox = Sandbox::new().rootfs(&dir);
    assert_plan(&program(&sandbox), &golden("", ""));
    let tmpfs = "  mount         tmpfs /work size=1073741824 nr_inodes=65536 mode=1777\n";
    assert_plan(&program(&sandbox.clone().tmpfs("/work")), &golden("", tmpfs));
    let missing = "  mount         dir /work/missing\n";
    assert_plan(&program(&sandbox.clone().dir("/work/missing")), &golden(" under a private layer", missing));
    fs::remove_dir(dir.join("tmp")).unwrap();
    assert_plan(&program(&sandbox), &golden(" under a private layer", ""));
}

/// What there is to make of directories, and of what is written to them.
#[test]
fn what_is_written_to_a_root_and_what_that_takes() {
    let dir = temp_dir();
    let dir = real(dir.path());
    for layer in ["low", "high", "kept"] {
        fs::create_dir(dir.join(layer)).unwrap();
    }
    let (low, high, kept) = (dir.join("low"), dir.join("high"), dir.join("kept"));
    let golden = |root: &str, seal: &str| {
        let root = root.replace("DIR", dir.to_str().unwrap());
        let tmp = "  mount         tmpfs /tmp size=1073741824 nr_inodes=65536 mode=1777";
        let rest = REST.replacen("\n  mount         seal /\n", seal, 1);
        format!("{OWN_MAPS}{root}\n<proc>\n<dev>\n{tmp}\n{rest}")
    };
    let sealed = "\n  mount         seal /\n";
    let layers = Rootfs::layers([&low, &high]);
    let stacked = "  mount         root DIR/low and 1 more on it";
    let sandbox = |root: Rootfs| program(&Sandbox::new().rootfs(root));
    assert_plan(&sandbox(layers.clone()), &golden(&format!("{stacked} under a private layer"), sealed));
    let places = "  mount         place /proc\n  mount         place /dev\n  mount         place /tmp";
    let staged = |upper: &str| format!("{stacked} under a layer for places\n{places}\n{stacked} under {upper}");
    let memory = "a tmpfs size=1073741824 nr_inodes=7";
    assert_plan(&sandbox(layers.clone().ephemeral().inodes(7)), &golden(&staged(memory), "\n"));
    assert_plan(&sandbox(layers.clone().overlay(&kept)), &golden(&staged("DIR/kept"), "\n"));
    let copied = "  mount         root copied to a tmpfs size=5 nr_inodes=65536";
    assert_plan(&sandbox(layers.clone().copied().size(5)), &golden(&format!("{stacked}\n{copied}"), "\n"));
    let empty = "  mount         root empty";
    let empty = format!("{empty} under a layer for places\n{places}\n{empty} under DIR/kept");
    assert_plan(&sandbox(Rootfs::empty().overlay(&kept)), &golden(&empty, "\n"));
    // With all places, nothing has to be made.
    for place in ["proc", "dev", "tmp"] {
        fs::create_dir(low.join(place)).unwrap();
    }
    assert_plan(&sandbox(layers.clone()), &golden(stacked, sealed));
    assert_plan(&sandbox(layers.ephemeral().inodes(7)), &golden(&format!("{stacked} under {memory}"), "\n"));
    let one = "  mount         root DIR/low";
    assert_plan(&sandbox(Rootfs::layers([&low])), &golden(one, sealed));
    assert_plan(&sandbox(Rootfs::dir(&low).writable()), &golden(&format!("{one} writable"), "\n"));
    assert_plan(&sandbox(Rootfs::dir(&low).overlay(&kept)), &golden(&format!("{one} under DIR/kept"), "\n"));
    assert!(kept.read_dir().unwrap().next().is_none(), "a plan makes nothing");
}

/// Everything that a program gets, whatever the namespaces.
const PROGRAM: &str = "
  process       setsid
  fds           dup null -> 0
  fds           dup null -> 1
  fds           dup null -> 2
  fds           close_range 3-
  process       sched_setattr SCHED_OTHER nice 0
  process       ioprio_set default
  process       sched_setaffinity all
  process       personality linux
  process       timer slack 50000 ns
<privileged>  capabilities  bounding set none
  process       oom_score_adj 500
<state>
";

#[test]
fn no_namespaces() {
    let golden = format!(
        "
host:
  namespaces    clone program
program:
{}<root>  capabilities  securebits 0xef
<leaves>  ids           setgroups none
  process       session keyring new
<root>  capabilities  ambient set none
  capabilities  capset none
  capabilities  no_new_privs
  process       chdir /
  process       signals default
  exec          execve /program []
",
        PROGRAM.replace("<privileged>", "<root>")
    );
    assert_plan(&program(&Sandbox::new().namespaces(Namespaces::empty())), &golden);
}

/// The caller's own map, written from outside.
const CALLERS_MAPS: &str = "  ids           write uid_map <uid> <uid> 1; write gid_map <gid> <gid> 1";

#[test]
fn without_a_pid_namespace_one_process_takes_all_steps_and_there_is_no_proc() {
    let mounts = "
  process       umask 022
  mount         tmpfs workspace
  mount         root empty
<dev>
  mount         tmpfs /tmp size=1073741824 nr_inodes=65536 mode=1777
  mount         seal /
  mount         pivot_root
";
    let names = "
  namespaces    sethostname belljar
  namespaces    setdomainname (none)
  namespaces    max_user_namespaces 0
";
    let program_steps = PROGRAM.replace("<privileged>", "");
    let rest = "
  capabilities  securebits 0xef
  process       session keyring new
  exec          look at /program
  capabilities  ambient set none
  capabilities  capset none
  capabilities  no_new_privs
  process       chdir /
  process       signals default
  exec          execve /program []
";
    let golden = format!(
        "
host:
  namespaces    clone program user,mount,net,ipc,uts,cgroup
program:
  ids           write /proc/self/setgroups deny
  ids           write /proc/self/uid_map <uid> <uid> 1
  ids           write /proc/self/gid_map <gid> <gid> 1
{names}{mounts}{program_steps}{rest}"
    );
    assert_plan(&program(&Sandbox::new().namespaces(Namespaces::default() - Namespaces::PID)), &golden);
    // A process has to be in the user namespace already to make one for times, and the program would see the holder.
    let golden = format!(
        "
host:
  namespaces    clone holder user
holder:
  exec          execveat init
host:
{CALLERS_MAPS}
  namespaces    clone cell
cell:
<leaves>  ids           setgroups none
  namespaces    setns holder user
  namespaces    kill holder
  namespaces    unshare time
  namespaces    clone program mount,net,ipc,uts,cgroup
program:
{names}{mounts}{program_steps}{rest}"
    );
    assert_plan(&program(&Sandbox::new().namespaces(Namespaces::all() - Namespaces::PID)), &golden);
}

#[test]
fn a_time_namespace_starts_with_the_program() {
    let tmp = "  mount         tmpfs /tmp size=1073741824 nr_inodes=65536 mode=1777\n";
    let inherited = "<inherited>\n";
    let rest = REST.replace(inherited, &format!("  namespaces    unshare time\n{inherited}"));
    let golden = format!("{OWN_MAPS}  mount         root empty\n<proc>\n<dev>\n{tmp}{rest}");
    assert_plan(&program(&Sandbox::new().namespaces(Namespaces::all())), &golden);
}

#[test]
fn a_loopback_of_its_own_and_the_hosts_network() {
    let tmp = "  mount         tmpfs /tmp size=1073741824 nr_inodes=65536 mode=1777\n";
    let golden = format!("{OWN_MAPS}  mount         root empty\n<proc>\n<dev>\n{tmp}{REST}");
    let start = "  process       wait for init\n";
    let loopback = golden.replace(start, &format!("{start}  network       lo up\n"));
    assert_plan(&program(&Sandbox::new().network(Network::Loopback)), &loopback);
    let net = |line: &&str| !line.ends_with("unshare net");
    let host = golden.lines().filter(net).collect::<Vec<_>>().join("\n");
    let host = host.replace("  network       pass net to init", "  process       ready");
    let host = host.replace("  network       setns net", "  process       wait until the other is ready");
    assert_plan(&program(&Sandbox::new().network(Network::Host)), &host);
    assert_plan(&program(&Sandbox::new().namespaces(Namespaces::default() - Namespaces::NET)), &host);
}

#[test]
fn without_a_user_namespace_the_mounts_are_cut_off_and_only_root_can() {
    let command = program(&Sandbox::new().namespaces(Namespaces::default() - Namespaces::USER));
    if !is_root() {
        let error = command.plan().unwrap_err();
        assert_eq!((error.layer(), error.kind()), (Layer::Namespaces, ErrorKind::InvalidPolicy));
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        return;
    }
    let tmp = "  mount         tmpfs /tmp size=1073741824 nr_inodes=65536 mode=1777\n";
    let start = "
host:
  namespaces    clone cell mount,ipc,uts,cgroup
cell:
  namespaces    unshare pid
  namespaces    clone init
init:
  namespaces    sethostname belljar
  namespaces    setdomainname (none)
  mount         private /
  process       umask 022
  mount         tmpfs workspace
  mount         root empty
";
    // The groups are left inside: nothing denies that without a user namespace.
    let rest = REST.replace("securebits 0xef\n", "securebits 0xef\n<leaves>  ids           setgroups none\n");
    // The host's own bound is the host's.
    let proc = PROC.replace("  namespaces    max_user_namespaces 0\n", "");
    assert_plan(&command, &format!("{start}{proc}<dev>\n{tmp}{rest}"));
}

#[test]
fn a_program_that_may_use_keys_gets_a_keyring_of_its_own() {
    let text = |seccomp| plan(&Sandbox::new().seccomp(seccomp).command("/program"));
    let allowed = [Seccomp::off(), Seccomp::off().deny(["keyctl"]), Seccomp::container().allow(["request_key"])];
    for seccomp in allowed {
        assert!(text(seccomp.clone()).contains("session keyring new"), "{seccomp:?}");
    }
    for seccomp in [Seccomp::container(), Seccomp::new(), Seccomp::off().kill(["add_key", "keyctl", "request_key"])] {
        assert!(!text(seccomp.clone()).contains("session keyring new"), "{seccomp:?}");
    }
}

#[test]
fn new_user_namespaces_are_to_be_had_by_name() {
    let bound = "max_user_namespaces 0";
    let text = |seccomp| plan(&Sandbox::new().seccomp(seccomp).command("/program"));
    for seccomp in [Seccomp::off(), Seccomp::container(), Seccomp::container().allow(["ptrace"]).deny(["unshare"])] {
        assert!(text(seccomp.clone()).contains(bound), "{seccomp:?}");
    }
    for name in ["clone", "clone3", "unshare"] {
        assert!(!text(Seccomp::container().allow([name])).contains(bound), "{name}");
        assert!(!text(Seccomp::off().allow([name])).contains(bound), "{name}");
    }
}

#[test]
fn the_arguments_are_told_and_the_environment_is_not() {
    let mut command = program(&Sandbox::new());
    let plan = command.args(["-c", "a b\n\u{1b}"]).env("NAME", "value").plan().unwrap().to_string();
    assert!(plan.ends_with("  exec          execve /program [\"-c\", \"a b\\n\\u{1b}\"]\n"), "{plan}");
    assert!(!plan.contains("NAME") && !plan.contains("value"), "{plan}");
}

#[test]
fn the_name_of_the_host_and_the_working_directory() {
    let tmp = "  mount         tmpfs /tmp size=1073741824 nr_inodes=65536 mode=1777\n";
    let golden = format!("{OWN_MAPS}  mount         root empty\n<proc>\n<dev>\n{tmp}{REST}");
    let golden = golden.replace("sethostname belljar", "sethostname build-1").replace("chdir /\n", "chdir /tmp\n");
    let mut command = program(&Sandbox::new().hostname("build-1"));
    assert_plan(command.current_dir("/tmp"), &golden);
}

#[test]
fn the_caller_is_the_user_asked_for() {
    let tmp = "  mount         tmpfs /tmp size=1073741824 nr_inodes=65536 mode=1777\n";
    let golden = format!("{OWN_MAPS}  mount         root empty\n<proc>\n<dev>\n{tmp}{REST}");
    let golden = golden.replace("<uid> <uid> 1", "1234 <uid> 1").replace("<gid> <gid> 1", "2345 <gid> 1");
    assert_plan(&program(&Sandbox::new().user(1234, 2345)), &golden);
    let (uid, gid) = caller();
    let mapped = Sandbox::new().uid_map(IdMap::new(1234, uid, 1)).gid_map(IdMap::new(2345, gid, 1));
    assert_plan(&program(&mapped), &golden);
    assert_plan(&program(&mapped.user(1234, 2345)), &golden);
}

/// The plan of maps that are written from outside: their text, how the cell is cloned, how init starts, and how the
/// program changes its ids, the groups first.
fn written_outside(maps: &str, clone: &str, init: &str, change: &str) -> String {
    let tmp = "  mount         tmpfs /tmp size=1073741824 nr_inodes=65536 mode=1777\n";
    let rest = REST.replace("securebits 0xef\n", &format!("securebits 0xef\n{change}\n"));
    format!(
        "
host:
  namespaces    clone holder user
holder:
  exec          execveat init
host:
{maps}
  namespaces    {clone}
cell:
<leaves>  ids           setgroups none
  namespaces    setns holder user
  namespaces    unshare mount,pid,ipc,uts,cgroup
  namespaces    clone init
init:
{init}
  namespaces    sethostname belljar
  namespaces    setdomainname (none)
  process       umask 022
  mount         tmpfs workspace
  mount         root empty
<proc>
<dev>
{tmp}{rest}"
    )
}

#[test]
fn maps_of_several_lines_are_written_while_a_process_holds_the_namespace() {
    let (uid, gid) = caller();
    let sandbox = Sandbox::new()
        .uid_map(IdMap::new(0, uid, 1))
        .uid_map(IdMap::new(1, 100_000, 65_536))
        .gid_map(IdMap::new(0, gid, 1))
        .gid_map(IdMap::new(1, 200_000, 65_536));
    let maps = "
<root>  ids           write uid_map 0 <uid> 1, 1 100000 65536; write gid_map 0 <gid> 1, 1 200000 65536
<user>  ids           newuidmap uid_map 0 <uid> 1, 1 100000 65536; newgidmap gid_map 0 <gid> 1, 1 200000 65536";
    assert_plan(&program(&sandbox), &written_outside(maps, "clone cell", "", HELPERS_GROUPS));
    // Another id than the one that the caller is inside: the program's process changes, in memory that is not the host's.
    let change = format!("{HELPERS_GROUPS}\n  ids           setresgid 8\n  ids           setresuid 7");
    let golden = written_outside(maps, "clone cell in copied memory", "", &change);
    assert_plan(&program(&sandbox.user(7, 8)), &golden);
}

/// Where newgidmap(1) has written the map, groups can be left inside, and only there.
const HELPERS_GROUPS: &str = "<user>  ids           setgroups none";

#[test]
fn root_leaves_its_groups_before_it_enters_a_user_namespace() {
    crate::for_root!();
    if !leaves_groups() {
        skip!("only root can have other groups, and leave them");
    }
    let command = program(&Sandbox::new());
    let (_, gid) = caller();
    let [own, others] = [&[gid][..], &[gid, 12_345]]
        .map(|groups| in_groups(groups, |set| set.then(|| command.plan().unwrap().to_string())).unwrap());
    assert_same(&others, &expand(&written_outside(CALLERS_MAPS, "clone cell", "", "")));
    assert_same(&own, &plan(&command));
    assert_ne!(own, others);
}

#[test]
fn a_caller_who_is_not_mapped_changes_its_ids_before_the_root_is_built() {
    let sandbox = Sandbox::new().uid_map(IdMap::new(5, 100_000, 10)).gid_map(IdMap::new(6, 100_000, 10));
    let maps = "
<root>  ids           write uid_map 5 100000 10; write gid_map 6 100000 10
<user>  ids           newuidmap uid_map 5 100000 10; newgidmap gid_map 6 100000 10";
    let change = "  ids           setresgid 6\n  ids           setresuid 5";
    // In memory that it has in common with the program, which writes to its own file in the host's /proc before that.
    let init = format!("  process       wait until the other is ready\n  capabilities  securebits 0xef\n{change}");
    let groups = format!("{HELPERS_GROUPS}\n{change}");
    let golden = written_outside(maps, "clone cell in copied memory", &init, &groups);
    let pass = "  network       pass net to init";
    assert_plan(&program(&sandbox), &golden.replace(pass, &format!("  process       ready\n{pass}")));
}

#[test]
fn streams_and_passed_descriptors() {
    let file = || OwnedFd::from(fs::File::open("/dev/null").unwrap());
    let tmp = "  mount         tmpfs /tmp size=1073741824 nr_inodes=65536 mode=1777\n";
    let golden = format!("{OWN_MAPS}  mount         root empty\n<proc>\n<dev>\n{tmp}{REST}");
    let streams = |fds: &str| {
        let (front, rest) = golden.split_once("  fds           dup null -> 0\n").unwrap();
        let (_, rest) = rest.split_once("close_range 3-\n").unwrap();
        format!("{front}{fds}{rest}")
    };
    let mut command = unconfined(&Sandbox::new()).command("/program");
    command.stdin(Stdio::piped()).stdout(file()).stderr(Stdio::piped());
    let fds = "
  fds           dup pipe -> 0
  fds           dup fd -> 1
  fds           dup pipe -> 2
  fds           close_range 3-
";
    assert_plan(&command, &streams(fds));
    let mut command = unconfined(&Sandbox::new()).command("/program");
    command.fd(9, file()).fd(3, file()).fd(4, file());
    let fds = "
  fds           inherit 0
  fds           inherit 1
  fds           inherit 2
  fds           dup fd -> 9
  fds           dup fd -> 3
  fds           dup fd -> 4
  fds           close_range 5-8 10-
";
    assert_plan(&command, &streams(fds));
}

#[test]
fn the_userland_of_the_host_has_nothing_of_its_users_or_its_state() {
    let plan = Sandbox::new().rootfs(Rootfs::host()).command("id").plan().unwrap().to_string();
    assert!(plan.contains("  mount         bind_ro /usr -> /usr\n"), "{plan}");
    for hidden in ["/home", "/root", "/var", "/run", "/opt", "/srv", "/boot", "/sys", "/etc/shadow"] {
        let shown = plan.lines().find(|line| line.split(' ').any(|word| Path::new(word).starts_with(hidden)));
        assert_eq!(shown, None);
    }
    let resolver = "/etc/resolv.conf";
    assert!(!plan.contains(resolver), "{plan}");
    let plan = Sandbox::new().rootfs(Rootfs::host()).network(Network::Host).command("id").plan().unwrap().to_string();
    assert_eq!(plan.contains(resolver), Path::new(resolver).exists(), "{plan}");
}

/// Policies of every sort that this caller can use.
pub(crate) fn policies() -> Vec<(String, Command)> {
    let dir = real(std::env::temp_dir());
    let (uid, gid) = caller();
    let range = Sandbox::new().uid_map(IdMap::new(0, 100_000, 9)).gid_map(IdMap::new(0, 100_000, 9));
    let mut sandboxes = vec![
        Sandbox::new(),
        Sandbox::new().rootfs(Rootfs::host()),
        Sandbox::new().rootfs(&dir).tmpfs("/missing/place").file("/missing/place/file", ""),
        Sandbox::new().bind(&dir, "/a").bind_ro(&dir, "/b").mask("/b").dir("/c/d").symlink("c", "/e"),
        Sandbox::new().network(Network::Loopback).hostname("name"),
        Sandbox::new().network(Network::Host).rootfs(Rootfs::host()),
        Sandbox::new().user(5, 5),
        range.clone(),
        range.user(3, 3),
        Sandbox::new().uid_map(IdMap::new(uid, uid, 1)).gid_map(IdMap::new(gid, gid, 1)),
    ];
    // Each namespace left out, and each alone with a user namespace.
    for namespace in Namespaces::all().iter() {
        sandboxes.push(Sandbox::new().namespaces(Namespaces::all() - namespace));
        sandboxes.push(Sandbox::new().namespaces(Namespaces::USER | namespace));
    }
    sandboxes.push(Sandbox::new().namespaces(Namespaces::empty()));
    let commands = sandboxes.iter().map(|sandbox| (format!("{sandbox:?}"), sandbox.command("/no/such/program")));
    let commands = commands.filter(|(_, command)| match command.plan() {
        Ok(_) => true,
        // Root alone can do without a user namespace; that refusal has a test of its own.
        Err(error) => is_root() || error.raw_os_error() != Some(libc::EPERM),
    });
    commands.collect()
}

/// A plan, taken apart: process, layer, step.
fn steps(plan: &str) -> Vec<(String, String, String)> {
    let mut process = String::new();
    let mut steps = Vec::new();
    for line in plan.lines() {
        match line.strip_prefix("  ") {
            None => process = line.strip_suffix(':').expect("a line without a step names a process").to_owned(),
            Some(line) => {
                let (layer, step) = line.split_once(' ').expect("a step has a layer");
                steps.push((process.clone(), layer.to_owned(), step.trim_start().to_owned()));
            }
        }
    }
    steps
}

/// The plans of all policies; those of root also for a caller in more groups than its own.
fn plans() -> Vec<(String, String)> {
    let mut plans: Vec<_> = policies().iter().map(|(policy, command)| (policy.clone(), plan(command))).collect();
    let in_more = |(policy, command): (String, Command)| {
        let plan = in_groups(&[12_345], |set| set.then(|| command.plan().unwrap().to_string()));
        Some((format!("{policy}, in groups"), plan?))
    };
    plans.extend(policies().into_iter().filter_map(in_more));
    plans
}

const LAYERS: [&str; 11] = [
    "namespaces",
    "ids",
    "mount",
    "network",
    "fds",
    "limits",
    "capabilities",
    "landlock",
    "seccomp",
    "process",
    "exec",
];

#[test]
fn in_every_plan_each_step_has_a_process_a_layer_and_words() {
    let plans = plans();
    assert!(plans.len() >= 15, "{}", plans.len());
    for (policy, plan) in plans {
        for (process, layer, step) in steps(&plan) {
            assert!(["host", "holder", "cell", "init", "program"].contains(&process.as_str()), "{policy}: {process}");
            assert!(LAYERS.contains(&layer.as_str()), "{policy}: {layer}: {step}");
            assert!(!step.is_empty(), "{policy}: {layer}");
        }
    }
}

#[test]
fn in_every_plan_the_pivot_comes_after_every_mount() {
    for (policy, plan) in plans() {
        let steps = steps(&plan);
        let pivot = steps.iter().position(|(_, _, step)| step == "pivot_root");
        let last = steps.iter().rposition(|(_, layer, _)| layer == "mount");
        assert_eq!(pivot, last, "{policy}");
        let makes = |step: &str| step.starts_with("clone ") || step.starts_with("unshare ");
        let made = steps.iter().any(|(_, _, step)| makes(step) && step.contains("mount"));
        assert_eq!(pivot.is_some(), made, "{policy}");
    }
}

#[test]
fn in_every_plan_only_init_mounts_and_only_without_one_the_program() {
    for (policy, plan) in plans() {
        let steps = steps(&plan);
        let builder = if steps.iter().any(|(process, ..)| process == "init") { "init" } else { "program" };
        for (process, layer, step) in &steps {
            assert!(layer != "mount" || process == builder, "{policy}: {process}: {step}");
        }
        let start = steps.iter().position(|(_, _, step)| step == "setsid").unwrap();
        let mount = steps.iter().rposition(|(_, layer, _)| layer == "mount");
        assert!(mount.is_none_or(|mount| mount < start), "{policy}");
    }
}

#[test]
fn in_every_plan_with_an_init_it_joins_the_network_namespace_that_the_program_passes() {
    let mut seen = [false; 2];
    for (policy, plan) in plans() {
        let steps = steps(&plan);
        let at = |process: &str, step: &str| steps.iter().rposition(|(p, _, s)| p == process && s == step);
        let Some(init) = at("cell", "clone init") else { continue };
        let (made, pass) = (at("cell", "unshare net"), at("program", "pass net to init"));
        seen[usize::from(made.is_some())] = true;
        assert_eq!(pass.is_some(), made.is_some(), "{policy}");
        // Without one, init is told all the same that the program is there, and its root can be changed; and with one, where it
        // waits before it changes its ids.
        let waits_early = at("init", "wait until the other is ready").is_some();
        assert_eq!(at("program", "ready").is_some(), waits_early, "{policy}");
        assert!(made.is_some() || waits_early, "{policy}");
        let joined = at("init", if made.is_some() { "setns net" } else { "wait until the other is ready" });
        // While init is there, and before the program is; and where /proc is still the host's.
        assert!(made.is_none_or(|made| init < made && Some(made) < at("cell", "clone program")), "{policy}");
        let pivot = at("init", "pivot_root");
        assert!(joined.is_some() && (pivot.is_none() || joined.map(|joined| joined + 1) == pivot), "{policy}");
        // And the program waits with all else.
        let waits = at("program", "wait for init").unwrap();
        assert!(at("program", "close_range 3-").is_some_and(|next| waits < next), "{policy}");
    }
    assert_eq!(seen, [true; 2]);
}

#[test]
fn in_every_plan_privilege_is_dropped_after_its_last_use_and_never_comes_back() {
    for (policy, plan) in plans() {
        let steps = steps(&plan);
        let late = |layer: &str| layer == "landlock" || layer == "seccomp";
        let others = steps.iter().filter(|(_, layer, _)| !late(layer));
        let ends: Vec<&str> = others.rev().take(5).map(|(_, _, step)| step.as_str()).collect();
        // What is left after it needs no privilege, and each is there once.
        let end = ["execve /no/such/program []", "signals default", "chdir /", "no_new_privs", "capset none"];
        assert_eq!(ends, end, "{policy}");
        for once in end {
            assert_eq!(steps.iter().filter(|(_, _, step)| step == once).count(), 1, "{policy}: {once}");
        }
        let user = steps.iter().any(|(_, layer, step)| layer == "namespaces" && step.contains("user"));
        let privileged = is_root() || user;
        for set in ["securebits 0xef", "bounding set none", "ambient set none"] {
            assert_eq!(plan.contains(set), privileged, "{policy}: {set}");
        }
    }
}

#[test]
fn in_every_plan_descriptors_are_closed_and_every_limit_is_set() {
    for (policy, plan) in plans() {
        assert_eq!(plan.matches("  fds           close_range 3-\n").count(), 1, "{policy}");
        assert_eq!(plan.matches("  process       setsid\n").count(), 1, "{policy}");
        assert_eq!(plan.matches("  process       oom_score_adj 500\n").count(), 1, "{policy}\n{plan}");
        assert!(plan.contains(STATE.trim_start()), "{policy}\n{plan}");
    }
}

/// The word by which a test process knows that it was started to run one test, alone.
const ALONE: &str = "BELLJAR_TEST_ALONE";

#[test]
fn a_plan_leaves_no_descriptors_and_no_children_and_needs_no_program() {
    if std::env::var_os(ALONE).is_none() {
        // In this process other tests open files and start programs at the same time.
        let name = "plan::a_plan_leaves_no_descriptors_and_no_children_and_needs_no_program";
        let output = Process::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let failed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{said}\n{failed}");
        return;
    }
    let before = (open_fds(), children());
    for (_, mut command) in policies() {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let plan = command.plan().unwrap();
        assert!(plan.to_string().ends_with("  exec          execve /no/such/program []\n"), "{plan}");
        assert_eq!((open_fds(), children()), before, "while there is a plan");
    }
    assert_eq!((open_fds(), children()), before);
    // The control: a descriptor that is open, and a child that runs, would be seen.
    let file = fs::File::open("/dev/null").unwrap();
    assert_ne!(open_fds(), before.0);
    drop(file);
    let mut child = Process::new("sleep").arg("60").spawn().unwrap();
    assert_ne!(children(), before.1);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_last_layers_come_after_the_last_mount_and_the_filter_last() {
    let sandbox = Sandbox::new().bind("/usr/share", "/work").bind_ro("/usr/lib", "/lib");
    let plan = sandbox.command("/program").plan().unwrap().to_string();
    let step = |line: &str| plan.lines().position(|step| step.trim_start().starts_with(line));
    if step("landlock").is_none() || step("seccomp").is_none() {
        skip!("this kernel has no Landlock, or no filters of system calls");
    }
    let order: Vec<_> = ["mount         pivot_root", "landlock      ruleset", "capabilities  no_new_privs"]
        .into_iter()
        .chain(["landlock      restrict_self", "seccomp       filter", "exec          execve /program"])
        .map(|line| step(line).unwrap_or_else(|| panic!("{line} in\n{plan}")))
        .collect();
    assert!(order.is_sorted(), "{order:?} in\n{plan}");
    assert_eq!(step("seccomp").map(|at| at + 1), step("exec          execve /program"), "{plan}");
    // What is mounted writable can be written, and nothing else.
    let rules: Vec<_> = plan.lines().filter_map(|line| line.trim().strip_prefix("landlock      allow ")).collect();
    assert_eq!(rules, ["rx /", "rwx /dev", "rwx /dev/shm", "rwx /tmp", "rwx /work", "files passed as 0 1 2"]);
}
