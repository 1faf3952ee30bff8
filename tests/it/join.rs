//! Namespaces that somebody else has made.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio as Std};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use belljar::{
    Capabilities, Child, Error, ErrorKind, IdMap, Landlock, Layer, Namespaces, PtySize, Sandbox, Seccomp, Stdio,
};

use crate::alone::{alone, pipe};
use crate::for_root;
use crate::harness::{children, compile_static, host, is_root, namespaces_alone, open_fds, sh};

/// Namespaces, kept by processes that end with this.
pub(crate) struct Kept {
    keeper: std::process::Child,
    user: i32,
    first: i32,
    below: i32,
}

impl Kept {
    /// With the ids mapped that root may map, or the caller's own.
    pub(crate) fn new() -> Self {
        // SAFETY: No arguments, and it never fails.
        let own = unsafe { libc::geteuid() };
        match own {
            0 => Self::mapping([0, 0, 1000]),
            own => Self::mapping([own, own, 1]),
        }
    }

    /// The user and the group have the same number, as they do on Debian.
    pub(crate) fn mapping(line: [u32; 3]) -> Self {
        let program = compile_static("join-keeper", include_str!("join.c"));
        let arguments = line.map(|number| number.to_string());
        let mut keeper =
            Process::new(program).args(arguments).stdin(Std::piped()).stdout(Std::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let ids: Vec<i32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let [user, first, below] = ids[..] else { panic!("the keeper says {line:?}") };
        Self { keeper, user, first, below }
    }

    pub(crate) fn user(&self) -> File {
        namespace(self.user, "user")
    }

    pub(crate) fn pid(&self) -> File {
        namespace(self.first, "pid")
    }

    /// The user namespace below.
    pub(crate) fn inner(&self) -> File {
        namespace(self.below, "user")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// A PID namespace that root has made, in the host's user namespace.
struct Outside(std::process::Child);

impl Outside {
    fn new() -> Self {
        let arguments = ["--pid", "--fork", "--kill-child", "sh", "-c", "echo; read line"];
        let mut command = Process::new("unshare");
        let mut keeper = command.args(arguments).stdin(Std::piped()).stdout(Std::piped()).spawn().unwrap();
        keeper.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self(keeper)
    }

    fn pid(&self) -> File {
        File::open(format!("/proc/{}/ns/pid_for_children", self.0.id())).unwrap()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn namespace(pid: i32, name: &str) -> File {
    File::open(format!("/proc/{pid}/ns/{name}")).unwrap()
}

/// The name that links to a namespace have, `user:[4026531837]`.
fn name(kind: &str, file: &File) -> String {
    format!("{kind}:[{}]", file.metadata().unwrap().ino())
}

fn host_name(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_str().unwrap().to_owned()
}

/// The host's userland in a joined user namespace.
fn in_user(kept: &Kept) -> Sandbox {
    host().join(Namespaces::USER, kept.user())
}

/// In the PID namespace too.
fn in_both(kept: &Kept) -> Sandbox {
    in_user(kept).join(Namespaces::PID, kept.pid())
}

/// With a PID namespace of its own below that.
fn nested(kept: &Kept) -> Sandbox {
    in_both(kept).namespaces(Namespaces::default() - Namespaces::USER)
}

/// A program that waits.
fn waiting(sandbox: &Sandbox) -> Child {
    sandbox.command("sleep").arg("1000").stdout(Stdio::null()).spawn().unwrap()
}

fn run(child: &Child, script: &str) -> String {
    let output = child.command("sh").args(["-ec", script]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.outcome.success(), "{script}: {:?}\n{stderr}", output.outcome);
    String::from_utf8(output.stdout).unwrap()
}

fn refused(sandbox: &Sandbox) -> Error {
    let plan = sandbox.command("true").plan().unwrap_err();
    let error = sandbox.command("true").spawn().unwrap_err();
    assert_eq!((plan.to_string(), plan.kind()), (error.to_string(), error.kind()));
    assert_eq!(error.kind(), ErrorKind::InvalidPolicy, "{error}");
    error
}

#[test]
fn a_program_is_in_the_user_namespace_and_confined_as_ever() {
    let kept = Kept::new();
    let sandbox = in_user(&kept);
    let user = name("user", &kept.user());
    assert_eq!(sh(&sandbox, "readlink /proc/self/ns/user").trim(), user);
    assert_ne!(sh(&host(), "readlink /proc/self/ns/user").trim(), user);
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let seen = sh(&sandbox, &format!("readlink /proc/self/ns/{kind}"));
        assert_ne!(seen.trim(), host_name(kind));
    }
    let status = sh(&sandbox, "grep -E '^(Cap|NoNewPrivs|Seccomp):?' /proc/self/status");
    for line in status.lines().filter(|line| line.starts_with("Cap")) {
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    assert!(sh(&sandbox, "! echo x 2>/dev/null > /etc/new && echo $$").trim() == "2");
}

#[test]
fn the_report_says_what_is_not_the_sandbox_s_own() {
    let kept = Kept::new();
    let mut child = waiting(&in_user(&kept));
    let told = child.report().to_string();
    assert!(told.contains("made by somebody else: user"), "{told}");
    assert!(told.contains("as the joined user namespace maps them"), "{told}");
    assert!(!told.contains("shared with the host: user"), "{told}");
    child.kill().unwrap();
}

#[test]
fn ids_are_as_the_namespace_maps_them() {
    // SAFETY: No arguments, and it never fails.
    let own = unsafe { libc::geteuid() };
    let kept = Kept::mapping([7, own, 1]);
    assert_eq!(sh(&in_user(&kept), "echo $(id -u) $(id -g)"), "7 7\n");
    assert_eq!(sh(&in_user(&kept).user(7, 7), "echo $(id -u) $(id -g)"), "7 7\n");
    let error = in_user(&kept).user(7, 8).command("true").spawn().unwrap_err();
    assert_eq!((error.layer(), error.step(), error.raw_os_error()), (Layer::Ids, "setresgid 8", Some(libc::EINVAL)));
    assert_eq!(error.hint().unwrap(), "the id is not mapped");
    // A terminal belongs to whoever the program is.
    for sandbox in [in_user(&kept), in_user(&kept).user(7, 7)] {
        let shown = sandbox.command("sh").args(["-c", "stat -c %u $(tty)"]).pty(PtySize::default()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&shown.stdout).trim(), "7");
    }
}

#[test]
fn a_caller_without_an_id_there_has_to_name_one() {
    for_root!();
    let kept = Kept::mapping([0, 100_000, 1000]);
    let error = in_user(&kept).command("true").spawn().unwrap_err();
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Mount, Some(libc::EOVERFLOW)), "{error}");
    assert!(error.hint().unwrap().contains("Sandbox::user"), "{error}");
    let sandbox = in_user(&kept).user(5, 6);
    assert_eq!(
        sh(&sandbox, "echo $(id -u) $(id -g) $(id -G); grep ^Cap /proc/self/status | sort -u -k2 | wc -l"),
        "5 6 6\n1\n"
    );
    let mut child = waiting(&sandbox);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    assert!(status.contains("Uid:\t100005\t100005\t100005\t100005"), "{status}");
    assert_eq!(
        run(&child, "echo $(id -u) $(id -g); readlink /proc/self/ns/user"),
        format!("5 6\n{}\n", name("user", &kept.user()))
    );
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn a_program_is_one_of_the_processes_of_a_pid_namespace() {
    let kept = Kept::new();
    let sandbox = in_both(&kept);
    assert_eq!(
        sh(&sandbox, "cat /proc/1/comm; readlink /proc/self/ns/pid"),
        format!("join-keeper\n{}\n", name("pid", &kept.pid()))
    );
    let mut child = waiting(&sandbox);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    assert_eq!(ids.split_whitespace().next().unwrap(), child.id().to_string());
    assert_eq!(
        ids.split_whitespace().count(),
        fs::read_to_string("/proc/self/status")
            .unwrap()
            .lines()
            .find(|line| line.starts_with("NSpid"))
            .unwrap()
            .split_whitespace()
            .count()
    );
    // There is no init of the sandbox's.
    let error = child.command("true").spawn().unwrap_err();
    assert_eq!((error.layer(), error.kind()), (Layer::Namespaces, ErrorKind::InvalidPolicy));
    assert!(error.to_string().contains("Namespaces::PID"), "{error}");
    assert_eq!(child.signal_all(libc::SIGTERM).unwrap_err().kind(), ErrorKind::InvalidPolicy);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn a_pid_namespace_of_its_own_lies_below_the_joined_one() {
    let kept = Kept::new();
    let sandbox = nested(&kept);
    assert_eq!(sh(&sandbox, "cat /proc/1/comm; echo $$").lines().last(), Some("2"));
    assert_ne!(sh(&sandbox, "readlink /proc/self/ns/pid").trim(), name("pid", &kept.pid()));
    let mut child = waiting(&sandbox);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let ids: Vec<&str> =
        status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap().split_whitespace().collect();
    assert_eq!((ids[0], *ids.last().unwrap()), (&*child.id().to_string(), "2"));
    // Those in the joined one see it, by another id.
    let seen = sh(&in_both(&kept), &format!("cat /proc/{}/comm", ids[ids.len() - 2]));
    assert_eq!(seen, "sleep\n");
    assert_eq!(
        run(&child, "readlink /proc/self/ns/pid /proc/self/ns/user").lines().last().unwrap(),
        name("user", &kept.user())
    );
    assert_eq!(run(&child, "cat /proc/2/comm"), "sleep\n");
    child.signal_all(libc::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    // A program that can't be executed there leaves nothing.
    let error = sandbox.command("/nothing").spawn().unwrap_err();
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Exec, Some(libc::ENOENT)));
    let left = sh(&in_both(&kept), "set -- /proc/[0-9]*; echo $#");
    // Process 1, who keeps the user namespace below, and the shell.
    assert_eq!(left, "3\n");
}

#[test]
fn root_joins_a_pid_namespace_without_any_user_namespace() {
    for_root!();
    let kept = Kept::new();
    let sandbox =
        host().join(Namespaces::PID, kept.pid()).namespaces(Namespaces::default() - Namespaces::USER - Namespaces::PID);
    assert_eq!(
        sh(&sandbox, "cat /proc/1/comm; readlink /proc/self/ns/user"),
        format!("join-keeper\n{}\n", host_name("user"))
    );
    let error = sandbox.namespaces(Namespaces::default() - Namespaces::USER).command("true").spawn().unwrap_err();
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Namespaces, Some(libc::EINVAL)), "{error}");
    assert!(error.hint().unwrap().contains("has to belong to"), "{error:?}");
    // In one that belongs to no other user namespace.
    let outside = Outside::new();
    let sandbox = host().join(Namespaces::PID, outside.pid()).namespaces(Namespaces::default() - Namespaces::USER);
    assert_eq!(sh(&sandbox, "echo $$"), "2\n");
}

#[test]
fn another_command_in_a_joined_user_namespace() {
    let kept = Kept::new();
    let mut child = waiting(&in_user(&kept));
    let script = "readlink /proc/self/ns/user; id -u; grep CapBnd /proc/self/status";
    assert_eq!(run(&child, script), sh(&in_user(&kept), script));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_program_goes_on_to_the_inner_user_namespace() {
    let kept = Kept::new();
    let script = "readlink /proc/self/ns/user; grep -E '^Cap(Eff|Bnd)' /proc/self/status";
    let none = "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n";
    for sandbox in [in_user(&kept), in_both(&kept), nested(&kept)] {
        let sandbox = sandbox.inner_user_namespace(kept.inner());
        assert_eq!(sh(&sandbox, script), format!("{}\n{none}", name("user", &kept.inner())));
        // What is kept there, holds for nothing of the sandbox's.
        let sandbox = namespaces_alone(&sandbox).capabilities(Capabilities::SYS_ADMIN);
        let seen = sh(
            &sandbox,
            "grep CapEff /proc/self/status; mount -t tmpfs x /tmp 2>&1 && echo mounted; hostname new 2>&1 && echo named; true",
        );
        assert!(
            seen.starts_with("CapEff:\t0000000000200000\n") && !seen.contains("mounted") && !seen.contains("named"),
            "{seen}"
        );
        let mut child = waiting(&sandbox);
        let error = child.command("true").spawn().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPolicy, "{error}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // The control: without, it does.
    let outer = namespaces_alone(&in_user(&kept)).capabilities(Capabilities::SYS_ADMIN);
    assert!(sh(&outer, "mount -t tmpfs x /tmp && echo mounted").contains("mounted"));
    if is_root() {
        let without = host().namespaces(Namespaces::default() - Namespaces::USER).inner_user_namespace(kept.inner());
        let seen = sh(&without.user(5, 6), &format!("{script}\necho $(id -u) $(id -G)"));
        assert_eq!(seen, format!("{}\n{none}5 6\n", name("user", &kept.inner())));
    }
    let error = in_user(&kept).inner_user_namespace(kept.user()).command("true").spawn().unwrap_err();
    assert_eq!(
        (error.layer(), error.step(), error.raw_os_error()),
        (Layer::Namespaces, "setns inner user", Some(libc::EINVAL))
    );
}

#[test]
fn what_is_no_such_namespace_is_refused_before_there_is_a_process() {
    let kept = Kept::new();
    let (pipe, _other) = pipe();
    let uts = || File::open("/proc/self/ns/uts").unwrap();
    let user = Namespaces::USER;
    let cases: Vec<(Sandbox, &str)> = vec![
        (
            host().join(user, File::open("/dev/null").unwrap()),
            "namespaces: join user: the descriptor is of no namespace",
        ),
        (host().join(user, pipe), "namespaces: join user: the descriptor is of no namespace"),
        (
            host().join(user, File::open("/proc/self/ns").unwrap()),
            "namespaces: join user: the descriptor is of no namespace",
        ),
        (host().join(user, uts()), "namespaces: join user: the descriptor is of a namespace of another kind: uts"),
        (host().join(user, kept.pid()), "another kind: pid"),
        (
            in_user(&kept).join(Namespaces::PID, kept.user()),
            "namespaces: join pid: the descriptor is of a namespace of another kind: user",
        ),
        (
            host().join(Namespaces::UTS, uts()),
            "namespaces: join: only Namespaces::USER and Namespaces::PID can be joined",
        ),
        (host().join(user | Namespaces::PID, kept.user()), "only Namespaces::USER and Namespaces::PID can be joined"),
        (host().join(Namespaces::empty(), kept.user()), "only Namespaces::USER and Namespaces::PID can be joined"),
        (in_user(&kept).join(user, kept.inner()), "namespaces: join user: two of the kind are joined"),
        (in_user(&kept).namespaces(Namespaces::default()), "Namespaces::USER is to be made and to be joined"),
        (host().join(Namespaces::PID, kept.pid()), "namespaces: join pid: a new user namespace has no rights"),
        (host().inner_user_namespace(kept.inner()), "namespaces: inner user namespace: nobody else can have made"),
        (in_user(&kept).inner_user_namespace(uts()), "another kind: uts"),
        (
            in_user(&kept).uid_map(IdMap::new(0, 0, 1)),
            "ids: uid_map: the maps of this user namespace are written by somebody else",
        ),
        (
            in_user(&kept).gid_map(IdMap::new(0, 0, 1)),
            "ids: gid_map: the maps of this user namespace are written by somebody else",
        ),
        (in_user(&kept).user(u32::MAX, 0), "ids: user: 4294967295 is not an id"),
        (in_user(&kept).write_id_maps(|_| Ok(())), "ids: write_id_maps: an id map needs Namespaces::USER"),
        (
            host().write_id_maps(|_| Ok(())).uid_map(IdMap::new(0, 0, 1)),
            "ids: uid_map: the maps of this user namespace are written",
        ),
    ];
    for (sandbox, words) in cases {
        let error = refused(&sandbox);
        assert!(error.to_string().contains(words), "{error}");
    }
    if !is_root() {
        let without = Namespaces::empty();
        for sandbox in
            [Sandbox::new().join(Namespaces::PID, kept.pid()), Sandbox::new().inner_user_namespace(kept.inner())]
        {
            let error = refused(&sandbox.namespaces(without));
            assert_eq!((error.layer(), error.raw_os_error()), (Layer::Namespaces, Some(libc::EPERM)), "{error}");
        }
    }
}

#[test]
fn what_the_kernel_refuses_is_told_with_its_step() {
    let kept = Kept::new();
    let own = File::open("/proc/self/ns/user").unwrap();
    let error = host().join(Namespaces::USER, own).command("true").spawn().unwrap_err();
    assert_eq!(error.to_string(), "namespaces: setns joined user: Invalid argument (os error 22)");
    assert!(error.hint().unwrap().contains("another than the process's own"), "{error:?}");
    if is_root() {
        // Nobody in the joined one has a say over what lies outside of it.
        not_permitted(&in_user(&kept).join(Namespaces::PID, Outside::new().pid()));
    } else {
        not_permitted(&in_user(&kept).join(Namespaces::PID, File::open("/proc/self/ns/pid").unwrap()));
    }
}

fn not_permitted(sandbox: &Sandbox) {
    let error = sandbox.command("true").spawn().unwrap_err();
    assert_eq!(error.to_string(), "namespaces: setns joined pid: Operation not permitted (os error 1)");
    assert!(error.hint().unwrap().contains("CAP_SYS_ADMIN"), "{error:?}");
}

/// Tries to read the memory of a process, by somebody in the namespaces with the capability for that.
fn attack(kept: &Kept, pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let inside = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .unwrap()
        .split_whitespace()
        .last()
        .unwrap()
        .to_owned();
    let sandbox = in_both(kept)
        .landlock(Landlock::off())
        .seccomp(Seccomp::off())
        .capabilities(Capabilities::SYS_PTRACE | Capabilities::DAC_OVERRIDE | Capabilities::DAC_READ_SEARCH);
    let script = "for name in environ maps auxv; do head -c 1 /proc/ID/$name >/dev/null && echo $name; done; readlink /proc/ID/fd/0 >/dev/null && echo fd; test -d /proc/ID";
    let script = script.replace("ID", &inside);
    let output = sandbox.command("sh").args(["-c", &script]).output().unwrap();
    assert!(output.outcome.success(), "process {inside} is not there");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn who_is_there_does_not_see_the_memory_or_the_descriptors_of_the_host() {
    let (kept, seen) = (std::sync::Arc::new(Kept::new()), std::sync::Arc::new(Mutex::new(String::new())));
    let sandbox = namespaces_alone(&in_both(&kept));
    let mut command = sandbox.command("cat");
    let (attacked, told) = (kept.clone(), seen.clone());
    command.before_exec(move |pid| {
        *told.lock().unwrap() = attack(&attacked, pid);
        Ok(())
    });
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    assert_eq!(*seen.lock().unwrap(), "");
    // The program itself they do.
    assert_eq!(attack(&kept, child.id()), "environ\nmaps\nauxv\nfd\n");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_host_process_stays_as_it_was() {
    alone("join::the_host_process_stays_as_it_was", || {
        let kept = Kept::new();
        // Whether it sleeps by now, does not matter.
        let known = || children().iter().map(|child| child.split(')').next().unwrap().to_owned()).collect::<Vec<_>>();
        let (fds, before) = (open_fds(), known());
        for sandbox in [in_user(&kept), in_both(&kept), nested(&kept), nested(&kept).inner_user_namespace(kept.inner())]
        {
            assert!(sandbox.command("true").status().unwrap().success());
            sandbox.command("/nothing").spawn().unwrap_err();
            drop(waiting(&sandbox));
        }
        let failing = host().write_id_maps(|_| Err(io::Error::from_raw_os_error(libc::ENOSPC)));
        failing.command("true").spawn().unwrap_err();
        // SAFETY: No pointers.
        assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }, 1);
        assert_eq!((open_fds(), known()), (fds, before));
    });
}

#[test]
fn prepared_sandboxes_and_pools_join_too() {
    let kept = Kept::new();
    let prepared = in_user(&kept).user(ids().0, ids().1).prepare().unwrap();
    let pool = prepared.pool_by_hand(1).unwrap();
    for mut command in [prepared.command("readlink"), pool.command("readlink")] {
        let output = command.arg("/proc/self/ns/user").output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), name("user", &kept.user()));
    }
}

/// Ids that the kept namespace maps.
fn ids() -> (u32, u32) {
    // SAFETY: No arguments, and it never fails.
    let own = unsafe { libc::geteuid() };
    if own == 0 { (5, 6) } else { (own, own) }
}

#[test]
fn the_plan_joins_before_anything_is_made() {
    let kept = Kept::new();
    let sandbox = Sandbox::new().join(Namespaces::USER, kept.user()).join(Namespaces::PID, kept.pid());
    let cell = |sandbox: &Sandbox| {
        let plan = sandbox.command("/x").plan().unwrap().to_string();
        let lines = plan
            .lines()
            .skip_while(|line| *line != "host:")
            .take_while(|line| !line.starts_with("program:") && !line.starts_with("init:"));
        lines
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .filter(|line| line != "ids setgroups none")
            .collect::<Vec<_>>()
            .join("\n")
    };
    let entry = "host:\nnamespaces clone cell in copied memory\ncell:\nprocess oom_score_adj 500\nprocess dumpable 0\nnamespaces setns joined user\nprocess dumpable 0";
    assert_eq!(
        cell(&sandbox),
        format!("{entry}\nnamespaces setns joined pid\nnamespaces clone program mount,net,ipc,uts,cgroup")
    );
    let own = sandbox.clone().namespaces(Namespaces::MOUNT | Namespaces::PID).user(1, 2);
    let ids = "capabilities securebits 0xef\nids setresgid 2\nids setresuid 1\nprocess dumpable 0";
    assert_eq!(
        cell(&own),
        format!(
            "{entry}\n{ids}\nnamespaces setns joined pid\nnamespaces clone cell in joined pid\nnamespaces unshare mount,pid\nnamespaces clone init"
        )
    );
    let inner = sandbox.inner_user_namespace(kept.inner()).command("/x").plan().unwrap().to_string();
    let at = |words: &str| inner.find(words).unwrap_or_else(|| panic!("{words} is not in\n{inner}"));
    assert!(at("pivot_root") < at("setns inner user") && at("setns inner user") < at("bounding set none"), "{inner}");
    assert!(at("bounding set none") < at("no_new_privs"), "{inner}");
}

fn write_maps(pid: u32, line: &str) -> io::Result<()> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    fs::write(dir.join("setgroups"), "deny")?;
    fs::write(dir.join("gid_map"), line)?;
    fs::write(dir.join("uid_map"), line)
}

#[test]
fn the_caller_writes_the_maps_itself() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    // SAFETY: No arguments, and it never fails.
    let own = unsafe { libc::geteuid() };
    let sandbox = host().write_id_maps(move |pid| {
        CALLS.fetch_add(1, Relaxed);
        assert!(Path::new(&format!("/proc/{pid}/ns/user")).exists());
        write_maps(pid, &format!("9 {own} 1"))
    });
    for sandbox in [
        sandbox.clone(),
        sandbox.clone().user(9, 9),
        sandbox.clone().namespaces(Namespaces::default() - Namespaces::PID),
    ] {
        assert_eq!(sh(&sandbox, "id -u"), "9\n");
        assert_ne!(sh(&sandbox, "test -e /proc/self || exit 0; readlink /proc/self/ns/user").trim(), host_name("user"));
    }
    assert_eq!(CALLS.load(Relaxed), 6);
    let mut child = waiting(&sandbox.clone().user(9, 9));
    assert_eq!(run(&child, "id -u; id -g"), "9\n9\n");
    child.kill().unwrap();
    child.wait().unwrap();
    let plan = sandbox.command("true").plan().unwrap().to_string();
    assert!(plan.contains("uid_map, gid_map by the caller"), "{plan}");
    assert_eq!(CALLS.load(Relaxed), 7);
    let error = sandbox.user(5, 5).command("true").spawn().unwrap_err();
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Ids, Some(libc::EINVAL)), "{error}");
    // Nobody has written any.
    let error = host().write_id_maps(|_| Ok(())).command("true").spawn().unwrap_err();
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Mount, Some(libc::EOVERFLOW)), "{error}");
    let error = host().write_id_maps(|_| Err(io::Error::other("no such map"))).command("true").spawn().unwrap_err();
    assert_eq!(error.to_string(), "ids: uid_map, gid_map by the caller: no such map");
    assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
}

/// Where the example is: beside the tests, or where those say who run them elsewhere.
#[test]
fn the_example_waits_until_somebody_has_written_the_maps() {
    let beside = || std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/bwrap");
    let program = std::env::var_os("BELLJAR_TEST_BWRAP").map_or_else(beside, PathBuf::from);
    if !program.exists() {
        crate::skip!("no example bwrap beside the tests");
    }
    // SAFETY: No arguments, and it never fails.
    let own = unsafe { libc::geteuid() };
    // Its standard error tells of the process, and its standard input says that the maps are there.
    let arguments = ["--unshare-user", "--userns-block-fd", "0", "--info-fd", "2", "--ro-bind", "/", "/", "id", "-u"];
    let mut command = Process::new(program);
    let mut child =
        command.args(arguments).stdin(Std::piped()).stdout(Std::piped()).stderr(Std::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("child-pid") {
        line.clear();
        assert_ne!(told.read_line(&mut line).unwrap(), 0);
    }
    let pid = line.split(':').nth(1).unwrap().trim().trim_end_matches(',').parse().unwrap();
    write_maps(pid, &format!("9 {own} 1")).unwrap();
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "9\n");
}
