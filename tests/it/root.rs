//! The root: what is in it, that nothing leads out of it, and what a hostile one can do.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use belljar::{ErrorKind, Layer, Rootfs, Sandbox};

use crate::harness::{host, is_root, real, sh, temp_dir, token};
use crate::mounts::snapshot;
use crate::probe::{inside, outside, waiting};

/// Makes a small root directory, without the places that a sandbox mounts at.
pub(crate) fn userland(root: &Path) {
    for dir in ["etc", "srv/data"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("etc/hello"), "hello from the root\n").unwrap();
}

/// Directories of the host where people keep what is theirs.
fn private_places() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let user = PathBuf::from(format!("/run/user/{}", nix_uid()));
    let places = ["/root", "/home", "/tmp", "/var/tmp", "/run", "/srv", "/opt", "/mnt", "/dev/shm"].map(PathBuf::from);
    places.into_iter().chain(home).chain([user]).filter(|place| place.is_dir()).collect()
}

fn nix_uid() -> u32 {
    // SAFETY: No arguments, and it never fails.
    unsafe { libc::geteuid() }
}

/// A file with a secret in a directory of the host, gone at the end.
struct Canary(PathBuf);

impl Drop for Canary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn canaries_in_the_private_places_of_the_host_are_not_found() {
    let secret = token();
    let plant = |place: PathBuf| {
        let canary = Canary(place.join(&secret));
        fs::write(&canary.0, &secret).is_ok().then_some(canary)
    };
    let canaries: Vec<_> = private_places().into_iter().filter_map(plant).collect();
    assert!(canaries.len() >= 2, "at least /tmp and /var/tmp can be written");
    let paths: Vec<_> = canaries.iter().map(|canary| canary.0.to_str().unwrap().to_owned()).collect();
    let mut reads = vec!["reads".to_owned()];
    for path in &paths {
        let prefixes = ["", "/proc/self/root", "/proc/self/cwd", "/proc/1/root", "/proc/1/cwd", "/../../../.."];
        reads.extend(prefixes.map(|prefix| format!("{prefix}{path}")));
    }
    let reads: Vec<_> = reads.iter().map(String::as_str).collect();
    assert!(outside(&reads).0.contains(&secret), "the control");
    for sandbox in [Sandbox::new(), host()] {
        let told = inside(&sandbox, &reads);
        // The names hold the secret too: it is the content that must not be there.
        told.refused(&[libc::ENOENT, libc::EACCES, libc::EPERM], &[]);
    }
    // By looking everywhere, but in what the host's userland is by definition.
    let script = format!(
        "find / \\( -path /usr -o -path /proc \\) -prune -o -name '*{secret}*' -print; \
         grep -rl {} / --exclude-dir=usr --exclude-dir=proc --exclude-dir=dev 2>/dev/null || true",
        &secret[..20]
    );
    assert_eq!(sh(&host(), &script), "");
    let script = format!("find {} -maxdepth 1 -name '*{secret}*'", canaries[0].0.parent().unwrap().display());
    let found = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(String::from_utf8_lossy(&found.stdout).contains(&secret), "the control");
}

#[test]
fn an_empty_root_holds_what_the_policy_puts_there() {
    let mut child = waiting(&Sandbox::new().file("/hello", "x"));
    let names = |dir: &str| {
        let dir = format!("/proc/{}/root{dir}", child.id());
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("/"), ["dev", "hello", "probe", "proc", "tmp"]);
    let devices = ["fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom"];
    assert_eq!(names("/dev"), [&devices[..], &["zero"]].concat());
    assert_eq!(names("/tmp"), Vec::<&str>::new());
    child.kill().unwrap();
}

#[test]
fn the_hosts_userland_is_there_and_its_state_is_not() {
    let there = "test -x /usr/bin/env; test -x /bin/sh; id -u >/dev/null; ls /etc";
    let etc = sh(&host(), there);
    for name in ["passwd", "group", "nsswitch.conf", "hosts"] {
        assert!(etc.lines().any(|line| line == name), "{etc}");
    }
    for name in ["shadow", "fstab", "machine-id", "hostname", "ssh", "resolv.conf", "sudoers", "subuid"] {
        assert!(!etc.lines().any(|line| line == name), "{etc}");
    }
    let script =
        "for d in /home /root /var /run /opt /srv /mnt /media /boot /sys; do test -e $d && echo $d; done; true";
    assert_eq!(sh(&host(), script), "");
    // passwd has no user of the host's but the program's own.
    assert!(sh(&host(), "cat /etc/passwd").lines().count() <= 3);
    assert!(fs::read_to_string("/etc/passwd").unwrap().lines().count() > 3, "the control");
}

#[test]
fn a_root_directory_is_the_root_and_is_left_as_it_was() {
    let dir = temp_dir();
    let root = real(dir.path());
    userland(&root);
    let before = snapshot(&root);
    let sandbox = Sandbox::new().rootfs(Rootfs::dir(&root));
    assert_eq!(inside(&sandbox, &["reads", "/etc/hello"]).0, "/etc/hello 0\nhello from the root\n");
    inside(&sandbox, &["reads", "/etc/passwd"]).refused(&[libc::ENOENT], &[]);
    assert_eq!(snapshot(&root), before);
    // The host's own root, or a file, is none.
    for path in [Path::new("/"), &root.join("etc/hello"), &root.join("missing")] {
        let error = Sandbox::new().rootfs(path).command("/x").spawn().unwrap_err();
        assert_eq!(error.layer(), Layer::Mount, "{error}");
        assert_eq!(error.path(), Some(path));
    }
}

#[test]
fn nothing_climbs_out_of_the_root() {
    let dir = temp_dir();
    userland(&real(dir.path()));
    for root in [Rootfs::empty(), Rootfs::host(), Rootfs::dir(real(dir.path()))] {
        let told = inside(&Sandbox::new().rootfs(root.clone()), &["escape"]);
        assert_eq!(told.errno("chroot"), libc::EPERM, "{root:?}");
        assert_eq!(told.errno("pivot_root"), libc::EPERM, "{root:?}");
        let host = fs::metadata("/").unwrap();
        let host = format!("{}:{}", host.dev(), host.ino());
        assert_ne!(told.one("up"), host, "{root:?}");
        assert_eq!(told.one("up"), told.one("up2"), "{root:?}");
        assert_eq!(outside(&["escape"]).one("up"), host, "the control");
    }
}

#[test]
fn no_mount_of_the_hosts_root_and_no_left_over_is_inside() {
    let split = |table: &str| {
        let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        table.lines().map(fields).collect::<Vec<_>>()
    };
    let outside = split(&crate::harness::mounts());
    let root = outside.iter().rev().find(|fields| fields[4] == "/").unwrap();
    let dir = temp_dir();
    userland(&real(dir.path()));
    for rootfs in [Rootfs::empty(), Rootfs::host(), Rootfs::dir(real(dir.path()))] {
        let mut child = waiting(&Sandbox::new().rootfs(rootfs));
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", child.id())).unwrap();
        for fields in split(&table) {
            assert!((&fields[2], &fields[3]) != (&root[2], &root[3]), "the host's root: {fields:?}");
            for word in ["old", "workspace", "pivot"] {
                assert!(!fields[4].contains(word), "{fields:?}");
            }
        }
        child.kill().unwrap();
    }
}

#[test]
fn links_of_a_hostile_root_resolve_inside() {
    let (dir, canary) = (temp_dir(), temp_dir());
    let (root, canary) = (real(dir.path()), real(canary.path()));
    let secret = token();
    fs::write(canary.join("secret"), &secret).unwrap();
    userland(&root);
    let climb = Path::new("../../../../../../../..").join(canary.strip_prefix("/").unwrap());
    symlink(&climb, root.join("climb")).unwrap();
    symlink(&canary, root.join("absolute")).unwrap();
    symlink("/proc/self/root/..", root.join("magic")).unwrap();
    symlink("/proc/1/cwd", root.join("init")).unwrap();
    symlink("/loop", root.join("loop")).unwrap();
    symlink("../../../../srv/data", root.join("fine")).unwrap();
    let before = (snapshot(&root), snapshot(&canary));
    let sandbox = Sandbox::new().rootfs(&root);
    let source = temp_dir();
    let source = real(source.path());
    for link in ["climb", "absolute", "magic", "init", "loop"] {
        for policy in [
            sandbox.clone().dir(format!("/{link}/x")),
            sandbox.clone().file(format!("/{link}/x"), "x"),
            sandbox.clone().symlink("x", format!("/{link}/x")),
            sandbox.clone().bind(&source, format!("/{link}/x")),
            sandbox.clone().tmpfs(format!("/{link}/x")),
            sandbox.clone().bind(&source, format!("/{link}")),
        ] {
            let error = policy.command("/probe").spawn().unwrap_err();
            assert_eq!((error.layer(), error.kind()), (Layer::Mount, ErrorKind::Os), "{link}: {error}");
            let errno = error.raw_os_error().unwrap();
            assert!([libc::ENOENT, libc::ELOOP, libc::EEXIST].contains(&errno), "{link}: {error}");
        }
        // Reading through them finds nothing of the host's either.
        let told = inside(&sandbox, &["reads", &format!("/{link}/secret")]);
        told.refused(&[libc::ENOENT, libc::ELOOP, libc::EACCES], &[]);
    }
    assert_eq!((snapshot(&root), snapshot(&canary)), before);
    // The control: a link that climbs, and leads to a place inside, is one.
    let told = inside(&sandbox.file("/fine/file", "arrived"), &["reads", "/srv/data/file"]);
    assert_eq!(told.0, "/srv/data/file 0\narrived");
    assert_eq!((snapshot(&root), snapshot(&canary)), before);
}

#[test]
fn a_hostile_root_can_not_redirect_the_mounts_of_the_system() {
    let (dir, work) = (temp_dir(), temp_dir());
    let (root, work) = (real(dir.path()), real(work.path()));
    // /dev, /proc and /tmp lead to where a host directory will be, to each other, and out.
    for links in [
        [("dev", "/work"), ("proc", "/work/proc"), ("tmp", "/work/tmp")],
        [("dev", "/proc"), ("proc", "/srv"), ("tmp", "/proc/sys")],
        [("dev", "../../../dev"), ("proc", "/../../proc"), ("tmp", "/../../../tmp")],
    ] {
        fs::create_dir_all(root.join("srv")).unwrap();
        for (link, target) in links {
            let _ = fs::remove_file(root.join(link));
            symlink(target, root.join(link)).unwrap();
        }
        let before = (snapshot(&root), snapshot(&work));
        let sandbox = Sandbox::new().rootfs(&root).bind(&work, "/work").bind_ro(crate::probe::program(), "/probe");
        // Whether it starts is not the question: what it would then see, and what is made, is.
        match sandbox.command("/probe").args(["writable", "/proc/sys"]).output() {
            Ok(output) => assert!(!String::from_utf8_lossy(&output.stdout).contains("writable")),
            Err(error) => assert_eq!(error.layer(), Layer::Mount, "{error}"),
        }
        assert_eq!((snapshot(&root), snapshot(&work)), before, "{links:?}");
    }
}

#[test]
fn a_link_to_a_writable_bind_has_nothing_made_there() {
    let (dir, work) = (temp_dir(), temp_dir());
    let (root, work) = (real(dir.path()), real(work.path()));
    fs::create_dir(root.join("work")).unwrap();
    symlink("/work", root.join("data")).unwrap();
    symlink("../work/missing", root.join("dangling")).unwrap();
    fs::create_dir(work.join("there")).unwrap();
    let before = (snapshot(&root), snapshot(&work));
    let source = temp_dir();
    let source = real(source.path());
    let sandbox = Sandbox::new().rootfs(&root).bind(&work, "/work");
    for policy in [
        sandbox.clone().dir("/data/x"),
        sandbox.clone().dir("/data/x/y"),
        sandbox.clone().bind(&source, "/data/x"),
        sandbox.clone().file("/data/x", "x"),
        sandbox.clone().symlink("x", "/data/x"),
        sandbox.clone().tmpfs("/data/x"),
        sandbox.clone().dir("/dangling"),
        sandbox.clone().dir("/dangling/x"),
    ] {
        let error = policy.command("/probe").spawn().unwrap_err();
        let errno = error.raw_os_error().unwrap();
        assert!([libc::ENOENT, libc::EEXIST].contains(&errno), "{error}");
        assert_eq!((snapshot(&root), snapshot(&work)), before, "{error}");
    }
    // The control: what is there can be mounted over.
    let told = inside(&sandbox.tmpfs("/data/there").file("/work/there/file", "x"), &["reads", "/work/there/file"]);
    assert_eq!(told.errno("/work/there/file"), 0);
    assert_eq!((snapshot(&root), snapshot(&work)), before);
}

#[test]
fn set_user_id_files_of_an_output_belong_to_the_mapped_id() {
    let dir = temp_dir();
    let dir = real(dir.path());
    fs::write(dir.join("file"), "x").unwrap();
    let told = inside(&Sandbox::new().bind(&dir, "/work"), &["privileges", "/work/file"]);
    assert_ne!(told.errno("setcap"), 0, "file capabilities take a privilege");
    // The bit stays: the file is the caller's, and so is what may be done with it. Root that binds a directory to
    // write does well to map ids, as here.
    assert_eq!(fs::metadata(dir.join("file")).unwrap().uid(), nix_uid());
    if is_root() {
        use belljar::IdMap;
        let map = IdMap::new(0, 100_000, 65_536);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        let sandbox = host().uid_map(map).gid_map(map).bind(&dir, "/work");
        sh(&sandbox, "cp /usr/bin/env /work/env; chmod 6755 /work/env");
        let file = fs::metadata(dir.join("env")).unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (100_000, 100_000, 0o6755));
    }
}
