//! Landlock alone, where nothing else holds, and together with mounts; each time with the same attempts without it.

use std::ffi::CString;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use belljar::{Enforcement, Error, ErrorKind, Landlock, Layer, Namespaces, Network, Sandbox, Seccomp};

use crate::again::{again, is_again};
use crate::alone::Until;
use crate::filter::{ABSENT, SWITCHED_OFF, filter, landlock_version};
use crate::harness::{children, compile_static, host, real, sh, temp_dir, token};
use crate::skip;

/// The program of attempts, a path of the host. A test that runs again finds the one of the first run.
fn program() -> PathBuf {
    compile_static("landlock", include_str!("landlock.c"))
}

/// No namespaces and no filter: what is refused, Landlock refuses.
fn alone(rules: Landlock) -> Sandbox {
    Sandbox::new().namespaces(Namespaces::empty()).seccomp(Seccomp::off()).landlock(rules)
}

/// Rules under which the program of attempts can start.
fn rules() -> Landlock {
    Landlock::new().allow_execute(program())
}

/// The error numbers of attempts, in order, with 0 for success.
fn tried(sandbox: &Sandbox, attempts: &[String]) -> Vec<i32> {
    let own = !format!("{sandbox:?}").contains("Namespaces(0x0)");
    let (sandbox, path) = match own {
        true => (sandbox.clone().bind_ro(program(), "/attempts"), PathBuf::from("/attempts")),
        false => (sandbox.clone(), program()),
    };
    let output = sandbox.command(path).args(attempts).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let told: Vec<_> = told.lines().map(|line| line.parse().unwrap()).collect();
    assert!(output.outcome.success() && told.len() == attempts.len(), "{attempts:?}: {told:?} {:?}", output.outcome);
    told
}

/// Every attempt fails with one of these numbers.
#[track_caller]
fn refused(sandbox: &Sandbox, attempts: &[String], errnos: &[i32]) {
    for (attempt, errno) in attempts.iter().zip(tried(sandbox, attempts)) {
        assert!(errnos.contains(&errno), "{attempt}: {errno}, not one of {errnos:?}");
    }
}

#[track_caller]
fn granted(sandbox: &Sandbox, attempts: &[String]) {
    refused(sandbox, attempts, &[0]);
}

fn version() -> u32 {
    belljar::host::probe().landlock_abi().unwrap_or(0)
}

macro_rules! needs {
    ($version:literal) => {
        if version() < $version {
            skip!("this kernel has Landlock ABI {}, and this takes {}", version(), $version);
        }
    };
}

/// Two directories of the host that everybody may change, with a file and a program in each.
struct Tree {
    _dir: tempfile::TempDir,
    inside: String,
    outside: String,
}

impl Tree {
    fn new() -> Self {
        let dir = temp_dir();
        let [inside, outside] = ["inside", "outside"].map(|name| {
            let path = real(dir.path()).join(name);
            fs::create_dir_all(path.join("sub")).unwrap();
            fs::write(path.join("file"), "content").unwrap();
            assert!(std::process::Command::new("cp").arg(program()).arg(path.join("run")).status().unwrap().success());
            path.to_str().unwrap().to_owned()
        });
        Self { _dir: dir, inside, outside }
    }
}

fn words(verbs: &[&str], path: &str) -> Vec<String> {
    verbs.iter().map(|verb| format!("{verb} {path}")).collect()
}

#[test]
fn files_outside_the_rules_are_out_of_reach() {
    needs!(1);
    let Tree { inside, outside, .. } = &Tree::new();
    let mut attempts = Vec::new();
    // By their names, and over the links of /proc.
    for prefix in ["", "/proc/self/root", "/proc/self/cwd/proc/self/root"] {
        attempts.extend(words(&["read", "write", "read-write"], &format!("{prefix}{outside}/file")));
        attempts.extend(words(&["readdir"], &format!("{prefix}{outside}")));
        attempts.extend(words(&["exec"], &format!("{prefix}{outside}/run")));
    }
    let sandbox = alone(rules().allow_read(inside));
    refused(&sandbox, &attempts, &[libc::EACCES]);
    granted(&alone(Landlock::off()), &attempts);
    // A rule gives what it says, and no more.
    granted(&sandbox, &[format!("read {inside}/file"), format!("readdir {inside}"), format!("stat {outside}/file")]);
    let more = [format!("write {inside}/file"), format!("exec {inside}/run"), format!("mkdir {inside}/new")];
    refused(&sandbox, &more, &[libc::EACCES]);
    granted(&alone(rules().allow_execute(inside)), &[format!("exec {inside}/run"), format!("read {inside}/file")]);
    refused(&alone(rules().allow_execute(inside)), &[format!("write {inside}/file")], &[libc::EACCES]);
    // For one file, and not its neighbour.
    let one = alone(rules().allow_write(format!("{inside}/file")));
    granted(&one, &words(&["read-write", "truncate"], &format!("{inside}/file")));
    refused(&one, &[format!("read {inside}/run"), format!("unlink {inside}/file")], &[libc::EACCES]);
}

#[test]
fn what_is_truncated_has_to_be_writable() {
    needs!(3);
    let Tree { inside, outside, .. } = &Tree::new();
    let attempts =
        [words(&["truncate", "read-trunc", "creat"], &format!("{outside}/file")), vec!["ftruncate 5".into()]];
    let attempts = attempts.concat();
    let told = |sandbox: &Sandbox| {
        fs::write(format!("{outside}/file"), "content").unwrap();
        let file = fs::File::options().write(true).open(format!("{outside}/file")).unwrap();
        let output = sandbox.command(program()).args(&attempts).fd(5, file).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    // What was open before may be cut, as it may be written.
    assert_eq!(told(&alone(rules().allow_read(outside).allow_write(inside))), "13\n13\n13\n0\n");
    assert_eq!(told(&alone(Landlock::off())), "0\n0\n0\n0\n", "the control");
    granted(&alone(rules().allow_write(inside)), &words(&["truncate", "read-trunc"], &format!("{inside}/file")));
}

#[test]
fn nothing_gains_rights_by_being_moved() {
    needs!(2);
    let Tree { inside, outside, .. } = &Tree::new();
    let across = [
        format!("link {outside}/file {inside}/linked"),
        format!("rename {outside}/file {inside}/moved"),
        format!("rename {inside}/file {outside}/moved"),
        format!("rename {outside}/sub {inside}/directory"),
    ];
    let sandbox = alone(rules().allow_read(outside).allow_write(inside));
    refused(&sandbox, &across, &[libc::EACCES, libc::EXDEV]);
    assert_eq!(fs::read_dir(inside).unwrap().count(), 3);
    assert_eq!(fs::read_dir(outside).unwrap().count(), 3);
    let within = [format!("rename {inside}/file {inside}/sub/file"), format!("link {inside}/sub/file {inside}/file")];
    granted(&sandbox, &within);
    // Twice writable is no boundary, but executable on one side only is.
    let sandbox = alone(rules().allow_write(outside).allow_write(inside).allow_execute(inside));
    refused(&sandbox, &[format!("rename {outside}/run {inside}/gained")], &[libc::EACCES, libc::EXDEV]);
    granted(&alone(Landlock::off()), &across);
}

/// The derived rules let through what a writable mount is for.
#[test]
fn a_writable_bind_serves_builds() {
    let Tree { inside, .. } = &Tree::new();
    let sandbox = Sandbox::new().bind(inside, "/work").bind_ro(inside, "/read");
    let attempts = [
        "create /work/a",
        "mkdir /work/dir",
        "rename /work/a /work/dir/a",
        "rename /work/dir /work/sub/dir",
        "link /work/sub/dir/a /work/a",
        "symlink a /work/link",
        "mkfifo /work/fifo",
        "listen /work/socket",
        "unix /work/socket",
        "flock /work/a",
        "truncate /work/a",
        "chmod /work/a",
        "tmpfile /work /work/named",
        "exec /work/run",
        "unlink /work/sub/dir/a",
        "rmdir /work/sub/dir",
        "rmdir /work/sub",
        "creat /dev/null",
        "create /tmp/a",
        "create /dev/shm/a",
        "read-write /dev/ptmx",
        "listen-abstract x",
        "kill 0 0",
    ];
    granted(&sandbox, &attempts.map(str::to_owned));
    refused(&sandbox, &["create /new".into(), "create /dev/new".into()], &[libc::EROFS, libc::EACCES]);
    refused(&sandbox, &words(&["write", "truncate"], "/read/file"), &[libc::EROFS, libc::EACCES]);
    // Device files are for nobody. The stable kernels of 2026 and later take what no driver can have, a whiteout of
    // overlayfs, for a file instead (landlock-lsm/linux, "Creation of whiteout objects is not restrictable").
    if version() >= 1 {
        refused(&sandbox, &["mkblock /work/block".to_owned()], &[libc::EACCES]);
        refused(&sandbox, &["mkchar /work/char".to_owned()], &[libc::EACCES, 0]);
    }
    let devices = ["mkchar /work/other", "mkblock /work/block"].map(str::to_owned);
    let off = sandbox.landlock(Landlock::off());
    assert_eq!(tried(&off, &devices), [0, libc::EPERM], "without it, one takes no privilege");
}

#[test]
fn compilers_and_tools_work_in_a_writable_bind() {
    let dir = temp_dir();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let sandbox = host().bind(dir.path(), "/work");
    let has = |name: &str| ["/usr/bin", "/usr/local/bin"].iter().any(|dir| Path::new(dir).join(name).exists());
    let cases = [
        ("cc", "printf 'int main(void) { return 7; }' >/work/a.c; cc -o /work/a /work/a.c; /work/a || test $? = 7"),
        (
            "git",
            "mkdir /work/r; cd /work/r; git init -q .; echo x >f; git add f; \
             git -c user.name=a -c user.email=a@b commit -qm one; git gc -q; git clone -q . ../c; test -e ../c/f",
        ),
        (
            "python3",
            "cd /work; python3 -c 'import tempfile, os; f = tempfile.TemporaryFile(dir=\".\"); f.write(b\"x\")'",
        ),
        ("python3", "python3 -c 'import subprocess; subprocess.run([\"true\"], check=True)'"),
        (
            "sh",
            "mkdir -p /work/a1/b/c; touch /work/a1/b/c/d; mv /work/a1/b /work/b; cp -r /work/b /work/e; rm -rf /work/b",
        ),
    ];
    for (program, script) in cases.iter().filter(|(program, _)| *program == "sh" || has(program)) {
        eprintln!("{program}");
        sh(&sandbox, script);
    }
}

/// `>/dev/stderr` opens what is passed once more; with no other right than it was passed with, and no neighbour.
#[test]
fn a_passed_file_can_be_opened_once_more() {
    let dir = temp_dir();
    let path = dir.path().join("log");
    fs::write(dir.path().join("neighbour"), "").unwrap();
    fs::set_permissions(dir.path().join("neighbour"), fs::Permissions::from_mode(0o666)).unwrap();
    let log = fs::File::options().create(true).append(true).open(&path).unwrap();
    let mut command = host().command("sh");
    command.args([
        "-c",
        "echo one >/dev/stderr; cat /proc/self/fd/2; echo $?; cat /proc/self/fd/5; echo x >/proc/self/fd/5; echo $?",
    ]);
    let read = fs::File::open(dir.path().join("neighbour")).unwrap();
    let output = command.stderr(log.try_clone().unwrap()).fd(5, read).output().unwrap();
    let log = fs::read_to_string(&path).unwrap();
    assert!(log.starts_with("one\n"), "{log}");
    if version() >= 1 {
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "1\n2\n", "{log}");
        assert_eq!(fs::read_to_string(dir.path().join("neighbour")).unwrap(), "");
    }
    // A directory leads nowhere.
    let directory = || fs::File::open(dir.path()).unwrap();
    let through = |sandbox: &Sandbox| {
        let mut command = sandbox.command("cat");
        command.arg("/proc/self/fd/5/log").fd(5, directory()).output().unwrap().outcome.success()
    };
    assert!(version() < 1 || !through(&host()));
    assert!(through(&host().landlock(Landlock::off())), "the control");
}

/// Attributes and pathname sockets are not Landlock's: what it leaves open, mounts hold.
#[test]
fn what_landlock_leaves_open_is_held_by_mounts() {
    needs!(1);
    let Tree { outside, .. } = &Tree::new();
    let listener = UnixListener::bind(format!("{outside}/socket")).unwrap();
    listener.set_nonblocking(true).unwrap();
    fs::set_permissions(format!("{outside}/socket"), fs::Permissions::from_mode(0o777)).unwrap();
    let changes = words(&["chmod", "utime"], &format!("{outside}/file"));
    let looks = words(&["stat", "access", "inotify"], &format!("{outside}/file"));
    let connect = [format!("unix {outside}/socket")];
    granted(&alone(rules()), &[&changes[..], &looks].concat());
    assert_eq!(fs::metadata(format!("{outside}/file")).unwrap().permissions().mode() & 0o777, 0o640);
    if version() < 9 {
        granted(&alone(rules()), &connect);
        assert!(listener.accept().is_ok());
    }
    // Nothing of it is there, or it is read-only.
    refused(&Sandbox::new(), &[&changes[..], &looks, &connect].concat(), &[libc::ENOENT]);
    let read_only = Sandbox::new().bind_ro(outside, "/there");
    refused(&read_only, &words(&["chmod", "utime", "setxattr", "write"], "/there/file"), &[libc::EROFS]);
    assert!(listener.accept().is_err());
}

#[test]
fn tcp_is_denied_and_other_protocols_take_a_network_namespace() {
    needs!(4);
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    tcp.set_nonblocking(true).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_nonblocking(true).unwrap();
    let [tcp_port, udp_port] = [tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port()];
    let attempts = [format!("tcp {tcp_port}"), "bind 0".into(), format!("udp {udp_port}")];
    // No network asked for is none, even where there is no namespace for it.
    assert_eq!(tried(&alone(rules()), &attempts), [libc::EACCES, libc::EACCES, 0]);
    assert!(tcp.accept().is_err());
    assert!(udp.recv(&mut [0; 8]).is_ok(), "UDP is not Landlock's");
    granted(&alone(Landlock::off()), &attempts);
    assert!(tcp.accept().is_ok() && udp.recv(&mut [0; 8]).is_ok(), "the control");
    let told = tried(&Sandbox::new(), &attempts);
    assert_eq!(told[..2], [libc::EACCES; 2]);
    assert_eq!(told[2], libc::ENETUNREACH);
    assert!(udp.recv(&mut [0; 8]).is_err());
}

#[test]
fn ports_are_allowed_one_by_one() {
    needs!(4);
    let listeners = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.iter().for_each(|listener| listener.set_nonblocking(true).unwrap());
    let [one, other] = [0, 1].map(|index: usize| listeners[index].local_addr().unwrap().port());
    let came = || [0, 1].map(|index: usize| std::iter::from_fn(|| listeners[index].accept().ok()).count());
    let connects = [format!("tcp {one}"), format!("tcp {other}")];
    for sandbox in [alone(Landlock::off()), Sandbox::new().network(Network::Host)] {
        let base = if format!("{sandbox:?}").contains("Namespaces(0x0)") { rules() } else { Landlock::derived() };
        granted(&sandbox, &connects);
        assert_eq!(came(), [1, 1], "the control");
        let allowed = sandbox.clone().landlock(base.clone().connect_tcp(one));
        assert_eq!(tried(&allowed, &connects), [0, libc::EACCES]);
        assert_eq!(came(), [1, 0]);
        // The ports are taken: who may listen there, is told that.
        let binds = [format!("bind {one}"), format!("bind {other}")];
        let allowed = sandbox.clone().landlock(base.clone().bind_tcp(one).bind_tcp(0));
        assert_eq!(tried(&allowed, &binds), [libc::EADDRINUSE, libc::EACCES]);
        granted(&allowed, &["bind 0".into()]);
        assert_eq!(tried(&sandbox, &binds), [libc::EADDRINUSE; 2], "the control");
    }
    // On a loopback of its own, too; and with no network, it makes no sense.
    let own = Sandbox::new().network(Network::Loopback).landlock(Landlock::derived().bind_tcp(4242));
    assert_eq!(tried(&own, &["bind 4242".into(), "bind 4243".into()]), [0, libc::EACCES]);
    let error = Sandbox::new().landlock(Landlock::derived().connect_tcp(1)).command("/none").spawn().unwrap_err();
    assert_eq!((error.layer(), error.kind()), (Layer::Landlock, ErrorKind::InvalidPolicy), "{error}");
}

#[test]
fn signals_and_abstract_sockets_stay_inside() {
    needs!(6);
    let name = token();
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let attempts = [format!("abstract {name}"), format!("kill {} {}", std::process::id(), libc::SIGURG)];
    let shared = Namespaces::default() - Namespaces::PID - Namespaces::NET;
    for sandbox in [alone(Landlock::derived()), alone(rules()), Sandbox::new().namespaces(shared)] {
        refused(&sandbox, &attempts, &[libc::EPERM]);
        assert!(listener.accept().is_err());
        let sandbox = sandbox.landlock(Landlock::off());
        assert_eq!(tried(&sandbox, &attempts)[0], 0, "the control");
        assert!(listener.accept().is_ok());
        // In a user namespace of its own it has the ids still.
        assert_eq!(tried(&sandbox, &attempts)[1], 0, "the control");
        let _ = listener.accept();
    }
}

#[test]
fn the_caller_stays_unrestricted_and_every_thread_inside_is_not() {
    needs!(1);
    let Tree { outside, .. } = &Tree::new();
    let path = format!("{outside}/file");
    refused(&alone(rules()), &[format!("threads {path}")], &[libc::EACCES]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "content");
    let write = |word: &str| fs::write(&path, word).unwrap();
    write("this thread");
    std::thread::scope(|scope| scope.spawn(|| write("another thread")).join().unwrap());
    granted(&alone(Landlock::off()), &[format!("threads {path}")]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "another threadxxxx", "the control");
}

/// A policy that would start a program which leaves a mark; and the error that it comes to instead.
#[track_caller]
fn unsupported(sandbox: &Sandbox, words: &str) -> Error {
    let dir = temp_dir();
    let before = children();
    let mut command = sandbox.command("/bin/sh");
    let mark = dir.path().join("mark");
    let error = command.arg("-c").arg(format!("touch {}", mark.display())).spawn().unwrap_err();
    assert_eq!((error.layer(), error.kind()), (Layer::Landlock, ErrorKind::Unsupported), "{error}");
    assert!(error.to_string().contains(words), "{error}");
    assert!(!mark.exists() && children() == before);
    error
}

#[test]
fn without_landlock_the_default_goes_on_and_rules_by_name_do_not() {
    if !is_again() {
        again("landlock::without_landlock_the_default_goes_on_and_rules_by_name_do_not", &["env"]);
        return;
    }
    for (errno, words) in [(ABSENT, "no Landlock"), (SWITCHED_OFF, "switched off")] {
        let filtered = std::thread::spawn(move || {
            filter(libc::SYS_landlock_create_ruleset, errno);
            let named = [
                Landlock::new(),
                Landlock::derived().allow_read("/"),
                Landlock::derived().allow_write("/"),
                Landlock::derived().allow_execute("/"),
                Landlock::derived().audit(),
            ];
            for rules in named {
                for sandbox in [host(), Sandbox::new().namespaces(Namespaces::empty())] {
                    let error = unsupported(&sandbox.landlock(rules.clone()), words);
                    assert_eq!(error.raw_os_error(), Some(errno));
                }
            }
            for ports in [Landlock::derived().connect_tcp(1), Landlock::derived().bind_tcp(1)] {
                unsupported(&host().network(Network::Host).landlock(ports), words);
            }
            assert_eq!(sh(&host(), "echo goes on"), "goes on\n");
            assert_eq!(sh(&host().landlock(Landlock::off()), "echo goes on"), "goes on\n");
        });
        filtered.join().unwrap();
    }
    // The control: the same process, without a filter.
    if version() >= 1 {
        sh(&host().landlock(Landlock::derived().allow_read("/")), "true");
    }
}

/// What each version brought is used from there on, and told before.
#[test]
fn older_kernels_get_what_they_know() {
    needs!(7);
    if !is_again() {
        again("landlock::older_kernels_get_what_they_know", &["env"]);
        return;
    }
    for version in 1..=7 {
        std::thread::spawn(move || old_kernel(version)).join().unwrap();
    }
}

fn old_kernel(version: u32) {
    landlock_version(version.into());
    let since = [(2, "moving files"), (3, "truncation"), (4, "TCP"), (5, "ioctls"), (6, "signals")];
    let mut child = host().command("true").spawn().unwrap();
    let status = child.report().layer(Layer::Landlock).unwrap().clone();
    child.wait().unwrap();
    let whole = version >= 6;
    assert_eq!(status.enforcement(), if whole { Enforcement::InForce } else { Enforcement::Partly }, "{version}");
    for (since, words) in since {
        let told = status.why().unwrap_or_default().contains(words);
        assert_eq!(told, version < since, "{version}: {words} in {status:?}");
    }
    // What the kernel then does: where it is not handled, it is not refused.
    let Tree { inside, outside, .. } = &Tree::new();
    let sandbox = alone(rules().allow_read(outside).allow_write(inside));
    refused(&sandbox, &words(&["write", "creat"], &format!("{outside}/file")), &[libc::EACCES]);
    let told =
        tried(&sandbox, &[format!("truncate {outside}/file"), format!("rename {inside}/file {inside}/sub/file")]);
    assert_eq!(
        told,
        [if version < 3 { 0 } else { libc::EACCES }, if version < 2 { libc::EXDEV } else { 0 }],
        "{version}"
    );
    let host = host().network(Network::Host);
    let tcp = host.clone().landlock(Landlock::derived().connect_tcp(1));
    match version {
        0..4 => drop(unsupported(&tcp, "ABI 4")),
        _ => drop(sh(&tcp, "true")),
    }
    let audited = host.landlock(Landlock::derived().audit());
    match version {
        0..7 => drop(unsupported(&audited, "ABI 7")),
        _ => {
            sh(&audited, "true");
            // The log is the administrator's: what can be seen is what the kernel is asked for.
            assert!(audited.command("true").plan().unwrap().to_string().contains("restrict_self audited"));
        }
    }
}

#[test]
fn the_rules_follow_from_the_mounts() {
    needs!(3);
    let Tree { inside, outside, .. } = &Tree::new();
    let rules = |sandbox: &Sandbox| -> Vec<String> {
        let plan = sandbox.command("/none").plan().unwrap().to_string();
        let rules = plan.lines().filter_map(|line| line.trim().strip_prefix("landlock      allow "));
        rules.map(str::to_owned).collect()
    };
    let base = ["rx /", "rwx /dev", "rwx /tmp", "rwx /dev/shm"].map(str::to_owned);
    let with = |more: &[&str]| {
        let mut rules: Vec<_> = base.iter().cloned().chain(more.iter().map(|rule| (*rule).to_owned())).collect();
        rules.sort();
        rules
    };
    let cases = [
        (Sandbox::new(), with(&[])),
        (Sandbox::new().bind_ro(inside, "/a").tmpfs("/b"), with(&["rwx /b"])),
        (Sandbox::new().bind(inside, "/a").bind(format!("{outside}/file"), "/f"), with(&["rwx /a", "rwx /f"])),
        // Within, the outer rule holds; over it, only the last mount counts; a name that starts alike is another.
        (Sandbox::new().bind(inside, "/a").tmpfs("/a/sub").tmpfs("/ab"), with(&["rwx /a", "rwx /ab"])),
        (Sandbox::new().bind(inside, "/a").bind_ro(outside, "/a"), with(&[])),
        (Sandbox::new().bind(inside, "/a/sub").bind_ro(outside, "/a"), with(&[])),
        (Sandbox::new().bind_ro(inside, "/a").bind(outside, "/a/sub"), with(&["rwx /a/sub"])),
    ];
    for (sandbox, expected) in cases {
        let mut told: Vec<_> = rules(&sandbox).into_iter().filter(|rule| !rule.starts_with("files passed")).collect();
        told.sort();
        assert_eq!(told, expected, "{sandbox:?}");
        let started = sandbox.bind_ro(program(), "/attempts").command("/attempts").status().unwrap();
        assert!(started.success());
    }
}

#[test]
fn a_rule_has_to_make_sense() {
    needs!(1);
    for rules in
        [Landlock::off().allow_read("/"), Landlock::off().connect_tcp(1), Landlock::derived().allow_read("usr")]
    {
        let error = host().landlock(rules).command("true").spawn().unwrap_err();
        assert_eq!((error.layer(), error.kind()), (Layer::Landlock, ErrorKind::InvalidPolicy), "{error}");
    }
    for sandbox in [host(), Sandbox::new().namespaces(Namespaces::empty())] {
        let error = sandbox.landlock(Landlock::derived().allow_read("/not/there")).command("true").spawn().unwrap_err();
        assert_eq!((error.layer(), error.raw_os_error()), (Layer::Landlock, Some(libc::ENOENT)), "{error}");
        assert_eq!(error.path(), Some(Path::new("/not/there")));
        assert!(error.to_string().contains("/not/there") && error.hint().unwrap().contains("exist"), "{error}");
    }
}

/// Layers of the kernel's own, on the calling thread: they control abstract sockets, and nothing that a start needs.
fn nest(layers: usize) {
    restrict(layers, [0, 0, 1]);
}

fn restrict(layers: usize, handled: [u64; 3]) {
    // SAFETY: No pointers but to three numbers, which outlive the call; the descriptor is this thread's own.
    #[allow(clippy::multiple_unsafe_ops_per_block)]
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let ruleset = libc::syscall(libc::SYS_landlock_create_ruleset, handled.as_ptr(), 24, 0);
        for _ in 0..layers {
            assert_eq!(libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0), 0);
        }
        libc::close(ruleset as i32);
    }
}

#[test]
fn nesting_too_deep_is_named() {
    needs!(6);
    if !is_again() {
        again("landlock::nesting_too_deep_is_named", &["env"]);
        return;
    }
    let deep = |layers| {
        std::thread::spawn(move || {
            nest(layers);
            host().command("true").status()
        })
        .join()
        .unwrap()
    };
    assert!(deep(15).unwrap().success(), "the control");
    let error = deep(16).unwrap_err();
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Landlock, Some(libc::E2BIG)), "{error}");
    assert!(error.hint().unwrap().contains("16 layers"), "{error}");
}

/// Rules for files, which a caller is under itself, forbid it to mount; the layers that mount nothing still work.
#[test]
fn under_rules_for_files_nothing_can_be_mounted() {
    needs!(6);
    if !is_again() {
        again("landlock::under_rules_for_files_nothing_can_be_mounted", &["env"]);
        return;
    }
    let path = program();
    let restricted = std::thread::spawn(move || {
        const MAKE_BLOCK: u64 = 1 << 11;
        restrict(1, [MAKE_BLOCK, 0, 0]);
        let error = Sandbox::new().command("/none").spawn().unwrap_err();
        assert_eq!((error.layer(), error.raw_os_error()), (Layer::Mount, Some(libc::EPERM)), "{error}");
        assert!(error.hint().unwrap().contains("Landlock"), "{error} {:?}", error.hint());
        assert!(alone(rules()).command(path).status().unwrap().success());
    });
    restricted.join().unwrap();
}

#[test]
fn a_program_that_mounts_needs_landlock_off() {
    needs!(1);
    let mounts = ["mount /tmp".to_owned()];
    let unprivileged = Sandbox::new().seccomp(Seccomp::off().allow(["unshare"]));
    assert_eq!(tried(&unprivileged, &mounts), [libc::EPERM]);
    let off = unprivileged.landlock(Landlock::off());
    granted(&off, &mounts);
}

/// Another thread exchanges two directories of a volume, in one of which a sandbox mounts what it may write to.
#[test]
fn a_race_over_the_target_never_allows_another_directory() {
    needs!(1);
    let (volume, source) = (temp_dir(), temp_dir());
    let (volume, source) = (real(volume.path()), real(source.path()));
    let path = |name: &str| CString::new(volume.join(name).to_str().unwrap()).unwrap();
    let fifos = ["real/target/fifo", "decoy/target/fifo"];
    // Writing to a FIFO is what a read-only mount does not refuse. Each has a reader, so that nobody waits.
    let _readers = fifos.map(|name| {
        fs::create_dir_all(volume.join(name).parent().unwrap()).unwrap();
        // SAFETY: The string ends in a zero byte, and is only read.
        assert_eq!(unsafe { libc::mkfifo(path(name).as_ptr(), 0o666) }, 0);
        fs::File::options().read(true).write(true).open(volume.join(name)).unwrap()
    });
    let sandbox = Sandbox::new().bind_ro(&volume, "/volume").bind_ro(program(), "/attempts");
    let attempts = fifos.map(|name| format!("write /volume/{name}"));
    let control = sandbox.clone().landlock(Landlock::derived().allow_write("/volume"));
    assert_eq!(control.command("/attempts").args(&attempts).output().unwrap().stdout, b"0\n0\n", "the control");
    let sandbox = sandbox.bind(&source, "/volume/real/target");
    let (one, other) = (path("real"), path("decoy"));
    let stop = AtomicBool::new(false);
    let (mut won, mut lost) = (0, 0);
    std::thread::scope(|scope| {
        let _stop = Until(&stop);
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                // SAFETY: Both strings end in a zero byte, and are only read.
                unsafe { libc::renameat2(-1, one.as_ptr(), -1, other.as_ptr(), libc::RENAME_EXCHANGE) };
            }
        });
        while won < 20 || lost < 20 {
            match sandbox.command("/attempts").args(&attempts).output() {
                Ok(output) => {
                    let told = String::from_utf8(output.stdout).unwrap();
                    assert!(told.lines().count() == 2 && !told.lines().any(|errno| errno == "0"), "{told}");
                    won += 1;
                }
                Err(error) => {
                    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Landlock, Some(libc::ESTALE)), "{error}");
                    assert!(error.hint().unwrap().contains("renamed"), "{error}");
                    lost += 1;
                }
            }
        }
    });
}

/// A rule can't tell the files of processes, which come and go, from the kernel's parameters, which root outside may write.
#[test]
fn files_of_proc_are_written_only_by_name() {
    needs!(1);
    let own = words(&["write"], "/proc/self/comm");
    let own = [own, words(&["write"], "/proc/self/oom_score_adj")].concat();
    // In a sandbox of root's, by the mount already.
    refused(&Sandbox::new(), &own, &[libc::EACCES, libc::EROFS]);
    // What leads elsewhere goes by where it leads.
    let script = "echo out >/dev/stdout; echo tmp >/tmp/a; exec 5<>/tmp/a; echo x >/proc/self/fd/5; cat /tmp/a";
    assert_eq!(sh(&host(), script), "out\nx\n");
    granted(&Sandbox::new().landlock(Landlock::derived().allow_write("/proc")), &own);
    let parameter = words(&["write"], "/proc/sys/kernel/domainname");
    let off = Sandbox::new().landlock(Landlock::off());
    refused(&off, &parameter, &[libc::EACCES, libc::EROFS]);
}

/// Through /proc/self/exe, a child that still is the host could execute the host's own program: CVE-2019-5736.
#[test]
fn the_hosts_own_program_is_not_executed() {
    needs!(1);
    let dir = temp_dir();
    let script = dir.path().join("script");
    fs::write(&script, "#!/proc/self/exe --list\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let binary = std::env::current_exe().unwrap();
    let before = fs::read(&binary).unwrap();
    let sandbox = host().bind_ro(&script, "/script").symlink("/proc/self/exe", "/link");
    for program in ["/script", "/link", "/proc/self/exe", "/proc/1/exe"] {
        let error = sandbox.command(program).arg("--list").spawn().unwrap_err();
        assert_eq!(error.layer(), Layer::Exec, "{program}: {error}");
        assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{program}: {error}");
    }
    let attempts = ["write", "read-write", "truncate"].iter().flat_map(|verb| words(&[verb], "/proc/1/exe"));
    refused(&sandbox, &attempts.collect::<Vec<_>>(), &[libc::EACCES, libc::EPERM]);
    let own = words(&["write", "truncate"], "/proc/self/exe");
    refused(&sandbox, &own, &[libc::EACCES, libc::EROFS, libc::ETXTBSY]);
    assert!(fs::read(&binary).unwrap() == before, "it is as it was");
    // The control: a child of std executes the host's program over that link.
    let output = std::process::Command::new(&script).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("0 tests"), "{output:?}");
    // And what is no link of /proc may be executed, if it is bound in.
    let off = sandbox.landlock(Landlock::off());
    let output = off.clone().bind_ro(&binary, "/binary").command("/binary").arg("--list").output().unwrap();
    assert!(output.outcome.success(), "{output:?}");
    // Without rules, what is executed is looked at before: also by a script of a script, from a directory of /proc, and
    // where nobody inside may read the script.
    for (name, text) in
        [("chain", "#!/script x\n"), ("relative", "#! ./exe\t-x\n"), ("root", "#!/proc/self/root/proc/self/exe\0")]
    {
        fs::write(dir.path().join(name), text).unwrap();
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["chain", "relative", "root"] {
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o111)).unwrap();
    }
    let off = off.bind_ro(real(dir.path()), "/scripts");
    let programs =
        ["/script", "/link", "/proc/self/exe", "/scripts/chain", "/scripts/relative", "/scripts/root", "./exe", "exe"];
    for program in programs {
        let mut command = off.command(program);
        command.arg("--list").env("PATH", "/none:/proc/self").current_dir("/proc/self");
        let error = command.spawn().unwrap_err();
        assert_eq!((error.layer(), error.raw_os_error()), (Layer::Exec, Some(libc::EACCES)), "{program}: {error}");
        assert_eq!(error.step(), format!("look at {program}"));
        assert!(error.hint().unwrap().contains("host process"), "{program}: {:?}", error.hint());
    }
    // A program that is passed as a descriptor is no file of the host's that nobody has handed in.
    let mut passed = off.command("/proc/self/fd/7");
    passed.fd(7, fs::File::open("/bin/true").unwrap());
    assert!(passed.status().unwrap().success());
}
