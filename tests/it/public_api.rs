//! The public names: that what other programs are written against compiles, with the types that it has.

use std::ffi::{OsStr, OsString};
use std::fmt::{Debug, Display};
use std::fs::File;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::time::Duration;

use belljar::{
    Cause, Child, Command, Error, ErrorKind, IdMap, Layer, Namespaces, Network, Outcome, Output, Plan, Rootfs, Sandbox,
    Stdio, Tmpfs, Usage,
};

use crate::harness::host;

fn is_shared<T: Send + Sync + 'static>() {}
fn is_debug<T: Debug>() {}
fn is_value<T: Clone + Debug + Send + Sync + 'static>() {}
fn is_plain<T: Copy + Eq + Debug + Send + Sync + 'static>() {}

#[test]
fn what_can_be_shared_cloned_and_printed() {
    is_value::<Sandbox>();
    is_value::<Command>();
    is_value::<Rootfs>();
    is_value::<Tmpfs>();
    is_value::<belljar::Entry>();
    is_plain::<belljar::Inherit>();
    is_value::<Stdio>();
    is_value::<Output>();
    is_value::<Outcome>();
    is_value::<belljar::Changes>();
    is_value::<belljar::Change>();
    is_value::<belljar::ChangeLimits>();
    is_plain::<IdMap>();
    is_plain::<Namespaces>();
    is_plain::<Network>();
    is_plain::<Usage>();
    is_plain::<Cause>();
    is_plain::<ErrorKind>();
    is_plain::<Layer>();
    is_shared::<Child>();
    is_shared::<Error>();
    is_shared::<Plan>();
    is_debug::<Child>();
    is_debug::<Error>();
    is_debug::<Plan>();
    fn is_default<T: Default>() {}
    is_default::<Sandbox>();
    is_default::<Namespaces>();
    is_default::<Network>();
    fn is_error<T: std::error::Error + Into<std::io::Error>>() {}
    is_error::<Error>();
    fn is_shown<T: Display>() {}
    is_shown::<Plan>();
    is_shown::<Layer>();
    fn is_pollable<T: AsFd>() {}
    is_pollable::<Child>();
}

/// The policy of the contract, with what there is of it.
fn policy() -> Sandbox {
    Sandbox::new()
        .rootfs(Rootfs::dir("/srv/trixie"))
        .bind("/home/me/project", "/work")
        .bind_ro("/home/me/.cargo/registry", "/registry")
        .tmpfs("/scratch")
        .dir("/empty")
        .file("/etc/hostname", b"build\n")
        .symlink("usr/bin", "/bin")
        .mask("/proc/version")
        .namespaces(Namespaces::all())
        .uid_map(IdMap::new(1000, 1000, 1))
        .gid_map(IdMap { inside: 1000, outside: 1000, count: 1 })
        .user(1000, 1000)
        .hostname("build")
        .network(Network::None)
}

#[test]
fn a_policy_touches_nothing_until_a_command_is_started() {
    // Nothing of this is there.
    let sandbox = policy();
    assert_eq!(format!("{:?}", sandbox.clone()), format!("{sandbox:?}"));
    let error: Error = sandbox.command("/bin/sh").plan().unwrap_err();
    assert_eq!(error.layer(), Layer::Mount);
}

#[test]
fn arguments_are_taken_as_std_takes_them() {
    let (path, buffer) = (Path::new("/srv"), PathBuf::from("/srv"));
    let _: [Rootfs; 8] = [
        "/srv".into(),
        path.into(),
        buffer.clone().into(),
        (&buffer).into(),
        String::from("/srv").into(),
        OsString::from("/srv").into(),
        Rootfs::host(),
        Rootfs::empty(),
    ];
    let sandbox = Sandbox::new().rootfs("/srv").rootfs(path).rootfs(buffer.clone()).rootfs(String::from("/srv"));
    let sandbox = sandbox.bind(path, &buffer).bind_ro(String::from("/a"), OsStr::new("/b")).tmpfs(path).tmpfs(buffer);
    let sandbox = sandbox.tmpfs(Tmpfs::new("/t").size(1 << 20).inodes(100).mode(0o700));
    let sandbox = sandbox.file("/f", "text").file("/f", b"bytes").file("/f", vec![0, 1]).file("/f", String::new());
    let sandbox = sandbox.hostname("a").hostname(String::from("b"));
    let mut command = sandbox.command(OsStr::new("program"));
    command.arg("a").arg(OsString::from("b")).arg(path).args(["c"]).args(vec![String::from("d")]);
    command.env("A", "b").env(OsStr::new("A"), path).envs([("C", "d")]).env_remove("A").env_clear();
    command.current_dir("/").current_dir(path);
    let clone: Command = command.clone();
    assert_eq!(format!("{clone:?}"), format!("{command:?}"));
}

#[test]
fn namespaces_are_flags() {
    let all = Namespaces::USER
        | Namespaces::MOUNT
        | Namespaces::PID
        | Namespaces::NET
        | Namespaces::IPC
        | Namespaces::UTS
        | Namespaces::CGROUP
        | Namespaces::TIME;
    assert_eq!(all, Namespaces::all());
    assert_eq!(Namespaces::default(), Namespaces::all() - Namespaces::TIME);
    assert!((Namespaces::all() - Namespaces::NET).contains(Namespaces::PID));
    assert!(Namespaces::empty().is_empty());
    let IdMap { inside, outside, count } = const { IdMap::new(1, 2, 3) };
    assert_eq!((inside, outside, count), (1, 2, 3));
    assert_eq!(Network::default(), Network::None);
    let _ = [Network::None, Network::Loopback, Network::Host];
}

#[test]
fn streams_come_from_what_std_has() {
    let file = || File::open("/dev/null").unwrap();
    let (reader, writer) = UnixStream::pair().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut cat = std::process::Command::new("true");
    let mut child = cat.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut command = Sandbox::new().command("/program");
    command.stdin(Stdio::inherit()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.stdin(file()).stdout(OwnedFd::from(file()));
    command.stdin(child.stdout.take().unwrap()).stdout(child.stdin.take().unwrap());
    command.fd(3, file()).fd(4, socket).fd(5, reader).fd(6, writer);
    child.wait().unwrap();
    command.plan().unwrap();
}

#[test]
fn a_child_is_used_as_one_of_std() {
    let mut child: Child = host()
        .command("/bin/sh")
        .args(["-c", "cat; echo err >&2; exit 3"])
        .env("PATH", "/usr/bin:/bin")
        .current_dir("/tmp")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid: u32 = child.id();
    assert!(pid > 1);
    let pidfd: BorrowedFd<'_> = child.as_fd();
    assert!(pidfd.as_raw_fd() > 2);
    let running: Option<Outcome> = child.try_wait().unwrap();
    assert_eq!(running, None);
    let running: Option<Outcome> = child.wait_timeout(Duration::from_millis(1)).unwrap();
    assert_eq!(running, None);
    let stdin: Option<ChildStdin> = child.stdin.take();
    stdin.unwrap().write_all(b"through").unwrap();
    let stdout: Option<ChildStdout> = child.stdout.take();
    let stderr: Option<ChildStderr> = child.stderr.take();
    let (mut out, mut err) = (String::new(), String::new());
    stdout.unwrap().read_to_string(&mut out).unwrap();
    stderr.unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("through", "err\n"));
    let outcome: Outcome = child.wait().unwrap();
    assert_eq!((outcome.success(), outcome.code(), outcome.signal()), (false, Some(3), None));
    let (status, cause): (ExitStatus, Cause) = (outcome.status(), outcome.cause());
    assert_eq!((status.code(), cause), (Some(3), Cause::Exited));
    let usage: Usage = outcome.usage();
    let _: (Duration, Duration, Duration) = (usage.wall_time(), usage.user_time(), usage.system_time());
    let _: Option<u64> = usage.peak_memory();
    let () = child.kill().unwrap();
    let output: Output = child.wait_with_output().unwrap();
    assert_eq!((output.outcome, output.stdout, output.stderr), (outcome, Vec::new(), Vec::new()));
}

#[test]
fn the_short_ways_to_run_a_command() {
    let output: Output = Sandbox::new().rootfs(Rootfs::host()).command("id").output().unwrap();
    assert!(output.outcome.success() && output.stdout.starts_with(b"uid="));
    let outcome: Outcome = host().command("false").stdout(Stdio::null()).status().unwrap();
    assert_eq!(outcome.code(), Some(1));
    let plan: Plan = host().command("make").plan().unwrap();
    assert!(plan.to_string().ends_with("execve make []\n"));
    // Not called: a detached program is a zombie of this process for good.
    let _: fn(Child) -> Result<(), Error> = Child::detach;
}

/// An error has these parts; each enumeration can grow.
#[test]
fn an_error_is_one_opaque_word() {
    let error = Sandbox::new().command("").plan().unwrap_err();
    let _: (Layer, &str, ErrorKind) = (error.layer(), error.step(), error.kind());
    let _: (Option<i32>, Option<&Path>, Option<String>) = (error.raw_os_error(), error.path(), error.hint());
    match error.kind() {
        ErrorKind::InvalidPolicy | ErrorKind::Unsupported | ErrorKind::Os => {}
        // Without this arm it must not compile: ErrorKind is non-exhaustive.
        _ => unreachable!(),
    }
}
