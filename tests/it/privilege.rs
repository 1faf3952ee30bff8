//! Privilege: there is none, and none to be gained.

use std::fs;
use std::process::Command;

use belljar::{IdMap, Namespaces, Sandbox};

use crate::again::{again, is_again};
use crate::harness::{is_root, real, temp_dir};
use crate::probe::{inside, waiting};

/// The policies that give ids and namespaces in different ways.
fn policies() -> Vec<Sandbox> {
    let mut policies = vec![
        Sandbox::new(),
        Sandbox::new().user(0, 0),
        Sandbox::new().user(65_532, 65_532),
        Sandbox::new().namespaces(Namespaces::all()),
        Sandbox::new().namespaces(Namespaces::default() - Namespaces::PID),
    ];
    if is_root() {
        let map = IdMap::new(0, 100_000, 65_536);
        policies.extend([
            Sandbox::new().uid_map(map).gid_map(map),
            Sandbox::new().uid_map(map).gid_map(map).user(1000, 1000),
            Sandbox::new().namespaces(Namespaces::default() - Namespaces::USER),
            Sandbox::new().namespaces(Namespaces::default() - Namespaces::USER).user(1000, 1000),
        ]);
    }
    policies
}

/// The lines of a `status` file that tell of privilege.
fn privilege(status: &str) -> Vec<(String, u64)> {
    let names = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:"];
    let line = |name: &&str| status.lines().find(|line| line.starts_with(*name)).unwrap().to_owned();
    let split = |line: String| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_owned(), u64::from_str_radix(value.trim(), 16).unwrap())
    };
    names.iter().map(line).map(split).collect()
}

#[test]
fn every_thread_of_the_program_has_no_capability_in_any_set() {
    let full = fs::read_to_string("/proc/self/status").unwrap();
    let control = privilege(&full).iter().any(|(name, value)| name == "CapBnd" && *value != 0);
    assert!(control, "the host has a bounding set to lose");
    for sandbox in policies() {
        let mut child = waiting(&sandbox);
        let tasks: Vec<_> = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().collect();
        assert_eq!(tasks.len(), 2, "the probe has two threads");
        for task in tasks {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            for (name, value) in privilege(&status) {
                assert_eq!(value, u64::from(name == "NoNewPrivs"), "{name} with {sandbox:?}");
            }
        }
        child.kill().unwrap();
    }
}

#[test]
fn init_has_no_capability_but_to_signal_other_ids() {
    const NAME: &str = "privilege::init_has_no_capability_but_to_signal_other_ids";
    if !is_again() {
        again(NAME, &["env"]);
        return;
    }
    // In a process of its own: its other child is the init.
    for sandbox in policies() {
        let mut child = waiting(&sandbox);
        for pid in own_children() {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            for (name, value) in privilege(&status) {
                // What nobody gives a program to execute needs no promise to gain nothing by it; and the bounding
                // set counts only there.
                let executes = pid == child.id() || !["NoNewPrivs", "CapBnd"].contains(&&*name);
                let signals = pid != child.id() && executes && value == 1 << 5 && other_ids(pid, child.id());
                let expected = signals || value == u64::from(name == "NoNewPrivs");
                assert!(!executes || expected, "{name} of {pid} with {sandbox:?}");
            }
            // Descriptors of init: its lifeline, and the pidfd of the program. The kernel lets only root look.
            if is_root() && pid != child.id() {
                let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
                let links = links.map(|link| fs::read_link(link.unwrap().path()).unwrap());
                let known = |link: &std::path::PathBuf| {
                    let link = link.to_str().unwrap();
                    link.starts_with("socket:") || link.contains("pidfd")
                };
                assert!(links.filter(|link| !known(link)).count() == 0, "{pid}");
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Whether two processes have different users.
fn other_ids(one: u32, other: u32) -> bool {
    let uid = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned()
    };
    uid(one) != uid(other)
}

/// The ids of this process's children.
fn own_children() -> Vec<u32> {
    let children = crate::harness::children();
    children.iter().map(|child| child.split_whitespace().next().unwrap().parse().unwrap()).collect()
}

#[test]
fn what_takes_a_privilege_is_refused_to_root_inside_too() {
    for sandbox in policies() {
        let told = inside(&sandbox, &["privileges", "/nothing"]);
        let errnos = [libc::EPERM, libc::EACCES, libc::EINVAL, libc::ENOENT, libc::EROFS];
        told.refused(&errnos, &["rlimit", "setgroups-none"]);
        let told = inside(&sandbox, &["ids"]);
        assert_eq!(told.one("nnp"), "1");
        assert_eq!(told.one("securebits"), "239", "all set and locked, but for keeping capabilities: {sandbox:?}");
    }
}

#[test]
fn set_user_id_and_file_capabilities_have_no_effect() {
    if !is_root() {
        // Only root makes a program set-user-ID root; the suite is run as root too.
        return;
    }
    let dir = temp_dir();
    let dir = real(dir.path());
    let made = Command::new("install").args(["-m", "6755"]).arg(crate::probe::program()).arg(dir.join("suid")).status();
    assert!(made.unwrap().success());
    let made = Command::new("install").args(["-m", "755"]).arg(crate::probe::program()).arg(dir.join("caps")).status();
    assert!(made.unwrap().success());
    set_file_capability(&dir.join("caps"));
    let own_line = IdMap::new(0, 0, 1);
    let others = IdMap::new(1, 100_000, 65_535);
    let mapped = Sandbox::new().uid_map(own_line).uid_map(others).gid_map(own_line).gid_map(others).user(1000, 1000);
    let direct = Sandbox::new().namespaces(Namespaces::default() - Namespaces::USER).user(1000, 1000);
    for sandbox in [mapped, direct] {
        for place in ["/work", "root"] {
            let sandbox = match place {
                "root" => sandbox.clone().rootfs(&dir),
                _ => sandbox.clone().bind(&dir, "/work"),
            };
            let prefix = if place == "root" { "" } else { "/work" };
            let run = |name: &str| {
                let output = sandbox.command(format!("{prefix}/{name}")).arg("ids").output().unwrap();
                crate::probe::Told(String::from_utf8(output.stdout).unwrap())
            };
            let suid = run("suid");
            assert_eq!((suid.one("uid"), suid.one("gid")), ("1000 1000 1000", "1000 1000 1000"), "{place}");
            assert_eq!(run("caps").errno("raw-socket"), libc::EPERM, "{place}");
        }
    }
    // The control: on the host they have.
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let run = |name: &str| {
        let output = Command::new("setpriv").args(user).arg(dir.join(name)).arg("ids").output().unwrap();
        crate::probe::Told(String::from_utf8(output.stdout).unwrap())
    };
    let nosuid = crate::harness::mounts().lines().any(|line| line.contains(" /tmp ") && line.contains("nosuid"));
    if !nosuid {
        assert_eq!(run("suid").one("uid"), "65534 0 0");
        assert_eq!(run("caps").errno("raw-socket"), 0);
    }
}

/// CAP_NET_RAW, permitted and effective: capabilities(7), *File capabilities*.
fn set_file_capability(path: &std::path::Path) {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let mut value = [0_u8; 20];
    (value[0], value[3], value[5]) = (1, 2, 0x20);
    let name = c"security.capability".as_ptr();
    // SAFETY: Both strings end in a zero byte, and the kernel reads as many bytes of the value as are given.
    let done = unsafe { libc::setxattr(path.as_ptr(), name, value.as_ptr().cast(), value.len(), 0) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
