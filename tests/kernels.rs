//! What has to work on every kernel that the crate claims, with nothing but a static busybox at /bin/busybox; and what a
//! kernel has, for the table in README.md.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use belljar::{Enforcement, ErrorKind, IdMap, Landlock, Layer, Limits, Namespaces, Network, Output, Rootfs, Sandbox};

const BUSYBOX: &str = "/bin/busybox";

/// Runs a script by busybox, or says why not.
fn run(sandbox: &Sandbox, script: &str) -> Option<Output> {
    if !Path::new(BUSYBOX).exists() {
        eprintln!("SKIPPED: {BUSYBOX} is missing");
        assert!(std::env::var_os("BELLJAR_TEST_REQUIRE").is_none(), "skipped, and everything has to run");
        return None;
    }
    let sandbox = sandbox.clone().bind_ro(BUSYBOX, "/busybox").symlink("/busybox", "/bin/sh");
    let mut command = sandbox.command("/busybox");
    Some(command.args(["sh", "-c", script]).env("PATH", "/bin").output().unwrap())
}

fn stdout(sandbox: &Sandbox, script: &str) -> Option<String> {
    let output = run(sandbox, script)?;
    assert!(output.outcome.success(), "{script}: {output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_default_sandbox_is_closed_and_tells_the_truth() {
    let script = "/busybox hostname; /busybox ls /; /busybox readlink /proc/1/fd/0 /proc/1/exe; /busybox cat /proc/1/maps 2>/dev/null; exit 7";
    let Some(output) = run(&Sandbox::new(), script) else { return };
    assert_eq!(output.outcome.code(), Some(7), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "belljar\nbin\nbusybox\ndev\nproc\ntmp\n");
    let status = stdout(&Sandbox::new(), "/busybox grep -E '^(Cap|NoNewPrivs)' /proc/self/status").unwrap();
    assert!(status.lines().filter(|line| line.starts_with("Cap")).all(|line| line.ends_with("\t0000000000000000")));
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
}

#[test]
fn every_namespace_is_another() {
    let names = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];
    for name in names {
        let path = format!("/proc/self/ns/{name}");
        let outside = std::fs::read_link(&path).unwrap();
        let sandbox = Sandbox::new().namespaces(Namespaces::all());
        let Some(inside) = stdout(&sandbox, &format!("/busybox readlink {path}")) else { return };
        assert_ne!(inside.trim(), outside.to_str().unwrap(), "{name}");
    }
}

#[test]
fn the_root_is_read_only_and_private_where_places_are_missing() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), None, None).unwrap();
    let sandbox = Sandbox::new().rootfs(dir.path().canonicalize().unwrap());
    let Some(output) = run(&sandbox, "echo x > /file") else { return };
    assert_eq!(output.outcome.code(), Some(1));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is made on the host");
    let output = run(&sandbox, "echo x > /tmp/file && echo y > /proc/sys/kernel/hostname").unwrap();
    assert_eq!(output.outcome.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("/proc/sys/kernel/hostname: Read-only file system"), "{text}");
}

#[test]
fn the_loopback_interface_is_up_and_alone() {
    let script = "/busybox ifconfig lo; /busybox ls /proc/sys/net/ipv4/conf";
    let Some(text) = stdout(&Sandbox::new().network(Network::Loopback), script) else { return };
    assert!(text.contains("UP LOOPBACK RUNNING"), "{text}");
    let text = stdout(&Sandbox::new(), "/busybox ifconfig lo").unwrap();
    assert!(!text.contains("UP"), "{text}");
}

#[test]
fn ids_are_mapped() {
    let Some(text) = stdout(&Sandbox::new().user(0, 0), "/busybox id -u; /busybox id -g") else { return };
    assert_eq!(text, "0\n0\n");
    if nix::unistd::geteuid().is_root() {
        let line = IdMap::new(0, 100_000, 65_536);
        let sandbox = Sandbox::new().uid_map(line).gid_map(line).user(7, 8);
        assert_eq!(stdout(&sandbox, "/busybox id -u; /busybox id -g"), Some("7\n8\n".to_owned()));
    }
}

#[test]
fn sets_without_pid_and_without_any_namespace_work() {
    let sandbox = Sandbox::new().namespaces(Namespaces::default() - Namespaces::PID);
    let Some(text) = stdout(&sandbox, "/busybox ls /") else { return };
    assert_eq!(text, "bin\nbusybox\ndev\ntmp\n");
    let output = Sandbox::new().namespaces(Namespaces::empty()).command(BUSYBOX).arg("true").output().unwrap();
    assert!(output.outcome.success(), "{output:?}");
}

#[test]
fn what_is_left_behind_ends_with_the_program() {
    let Some(output) = run(&Sandbox::new(), "/busybox setsid /busybox sleep 1000 & exit 0") else { return };
    assert!(output.outcome.success(), "{output:?}");
}

#[test]
fn hundreds_of_layers_are_a_root_to_write_to() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let layers: Vec<_> = (0..300).map(|number| dir.join(format!("layer:{number},"))).collect();
    for (number, layer) in layers.iter().enumerate() {
        std::fs::create_dir_all(layer.join("etc")).unwrap();
        std::fs::write(layer.join(format!("etc/{number}")), "").unwrap();
        std::fs::write(layer.join("top"), number.to_string()).unwrap();
    }
    let root = Rootfs::layers(&layers);
    let read = "set -e; /busybox cat /top; /busybox ls /etc | /busybox wc -l";
    let Some(text) = stdout(&Sandbox::new().rootfs(root.clone()), read) else { return };
    assert_eq!(text, "299300\n");
    let write = format!("{read}; /busybox rm -r /etc; /busybox mkdir /etc; echo x > /etc/x; /busybox ls /etc");
    assert_eq!(stdout(&Sandbox::new().rootfs(root.clone().copied()), &write).unwrap(), "299300\nx\n");
    let ephemeral = Sandbox::new().rootfs(root.ephemeral());
    // A tmpfs has attributes in user.* from Linux 6.6 on.
    if nix::sys::utsname::uname().unwrap().release().to_str().unwrap().starts_with("6.1.") {
        let sandbox = ephemeral.bind_ro(BUSYBOX, "/busybox");
        let error = sandbox.command("/busybox").spawn().unwrap_err();
        assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Unsupported, Some(libc::EOPNOTSUPP)), "{error}");
        assert!(error.hint().unwrap().contains("Linux 6.6"), "{error:?}");
    } else {
        assert_eq!(stdout(&ephemeral, &write).unwrap(), "299300\nx\n");
    }
    assert!(layers.iter().all(|layer| layer.join("etc").read_dir().unwrap().count() == 1));
}

/// How far a sandbox can be had: "yes", or since which Linux, as the error tells.
fn had(sandbox: &Sandbox) -> String {
    let error = sandbox.command("/none").spawn().unwrap_err();
    if error.layer() == Layer::Exec {
        return "yes".to_owned();
    }
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let words = format!("{error} {}", error.hint().unwrap_or_default());
    let version = words.split("Linux ").nth(1).map(|rest| rest.split([' ', ',', ':', ')']).next().unwrap());
    version.map_or("no".to_owned(), |version| format!("from {version}"))
}

/// Whether the limits that take a cgroup of version 2 can be had, where the tests are told of a directory for it.
fn by_cgroup() -> String {
    let limits = Limits::new().memory(64 << 20).pids(16).cpu_max(Duration::from_millis(50), Duration::from_millis(100));
    match std::env::var_os("BELLJAR_TEST_CGROUP") {
        Some(directory) => had(&Sandbox::new().limits(limits).cgroup(directory)),
        None => "none is delegated here".to_owned(),
    }
}

/// What the report says of one layer of a default sandbox.
fn reported(layer: Layer) -> String {
    let mut child = Sandbox::new().bind_ro(BUSYBOX, "/busybox").command("/busybox").arg("true").spawn().unwrap();
    let report = child.report().clone();
    child.wait().unwrap();
    let status = report.layer(layer).unwrap();
    match (status.enforcement(), status.why()) {
        (Enforcement::InForce, None) => "yes".to_owned(),
        (_, why) => why.unwrap_or("no").to_owned(),
    }
}

/// Prints a line for each row of the table in README.md, which `tests/vm/table` makes of them.
#[test]
fn what_holds_on_this_kernel_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let [low, high, kept] = ["low", "high", "kept"].map(|name| dir.join(name));
    for dir in [&low, &high, &kept] {
        std::fs::create_dir(dir).unwrap();
    }
    let rooted = |root: Rootfs| had(&Sandbox::new().rootfs(root));
    let landlocked = |rules: fn(Landlock) -> Landlock| {
        had(&Sandbox::new().network(Network::Loopback).landlock(rules(Landlock::derived())))
    };
    let probe = belljar::host::probe();
    let rows = [
        ("namespaces of every kind", had(&Sandbox::new().namespaces(Namespaces::all()))),
        ("subordinate ids", ["no", "yes"][usize::from(probe.id_ranges())].to_owned()),
        ("a root of layers", rooted(Rootfs::layers([&low, &high]))),
        ("a root whose changes are kept in a directory", rooted(Rootfs::dir(&low).overlay(kept))),
        ("a root whose changes are in memory", rooted(Rootfs::dir(&low).ephemeral())),
        ("a root that is copied", rooted(Rootfs::dir(&low).copied())),
        ("Landlock's ABI", probe.landlock_abi().map_or("none".to_owned(), |version| version.to_string())),
        ("all that Landlock does by default", reported(Layer::Landlock)),
        ("Landlock for chosen ports of TCP", landlocked(|rules| rules.connect_tcp(80))),
        ("Landlock's audit", landlocked(Landlock::audit)),
        ("the filter of system calls", reported(Layer::Seccomp)),
        ("the wall time", had(&Sandbox::new().limits(Limits::new().wall_time(Duration::from_secs(60))))),
        ("memory, processes and processors of a whole sandbox, by a delegated cgroup", by_cgroup()),
    ];
    println!();
    for (row, value) in &rows {
        println!("holds: {row} = {value}");
    }
    // What the crate claims for every kernel.
    for row in [0, 2, 3, 5, 10, 11] {
        assert_eq!(rows[row].1, "yes", "{}", rows[row].0);
    }
}

#[test]
fn starts_from_a_template_are_as_closed_and_apart() {
    if !Path::new(BUSYBOX).exists() {
        // Told by `run`.
        return drop(run(&Sandbox::new(), ""));
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let base = Sandbox::new().bind_ro(BUSYBOX, "/busybox").bind(&dir, "/tmp/out").tmpfs("/scratch");
    for sandbox in [base.clone(), base.clone().network(Network::Loopback), base.namespaces(Namespaces::all())] {
        let prepared = sandbox.prepare().unwrap();
        let command = prepared.command("/busybox");
        assert!(command.plan().unwrap().to_string().contains("setns template"));
        let script = "set -e; /busybox ls /; /busybox ls /tmp /scratch; echo x > /scratch/left; echo x > /tmp/out/file; \
                      /busybox grep Cap /proc/self/status; ! echo y > /proc/sys/kernel/hostname; ! echo y > /file";
        let told = |mut command: belljar::Command| {
            let output = command.args(["sh", "-c", script]).env("PATH", "/bin").output().unwrap();
            assert!(output.outcome.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let once = told(sandbox.command("/busybox"));
        assert!(once.starts_with("busybox\ndev\nproc\nscratch\ntmp\n"), "{once}");
        std::fs::remove_file(dir.join("file")).unwrap();
        for _ in 0..3 {
            assert_eq!(told(prepared.command("/busybox")), once);
            std::fs::remove_file(dir.join("file")).unwrap();
        }
    }
}

#[test]
fn a_missing_program_is_an_error() {
    let error = Sandbox::new().command("/missing").status().unwrap_err();
    assert_eq!(error.to_string(), "exec: execve /missing: No such file or directory (os error 2)");
}
