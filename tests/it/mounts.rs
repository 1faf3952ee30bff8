//! What is mounted into the root: what can be changed there, and what can be undone.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use belljar::{Error, ErrorKind, Landlock, Layer, Namespaces, Rootfs, Sandbox, Seccomp, Tmpfs};

use crate::again::{again, is_again, own_mounts, works};
use crate::harness::{host, in_memory, is_root, mounts, real, sh, temp_dir, token};
use crate::probe::{inside, outside, waiting};
use crate::{for_root, skip};

/// What a directory looks like from outside: every file with its metadata and content.
pub(crate) fn snapshot(dir: &Path) -> String {
    let mut lines = Vec::new();
    let mut rest = vec![dir.to_owned()];
    while let Some(path) = rest.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let content = match (stat.is_file(), stat.is_symlink()) {
            (true, _) => format!("{:?}", fs::read(&path).ok()),
            (_, true) => format!("{:?}", fs::read_link(&path).unwrap()),
            _ => String::new(),
        };
        let times = (stat.mtime(), stat.mtime_nsec(), stat.nlink());
        let owner = (stat.uid(), stat.gid(), stat.rdev());
        lines.push(format!("{} {:o} {times:?} {owner:?} {content}", path.display(), stat.mode()));
        if stat.is_dir() {
            rest.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    lines.sort();
    lines.join("\n")
}

/// A directory as the probe's `writes` wants it.
fn furnish(dir: &Path) {
    fs::write(dir.join("file"), "content").unwrap();
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/inner"), "content").unwrap();
}

/// The attempts of `writes` that hold only for a file that is there.
const NOT_A_CHANGE: [&str; 1] = ["chdir"];

#[test]
fn a_read_only_bind_refuses_every_change_and_a_bind_takes_it() {
    let dir = temp_dir();
    furnish(dir.path());
    let before = snapshot(dir.path());
    let told = inside(&Sandbox::new().bind_ro(real(dir.path()), "/work"), &["writes", "/work"]);
    // A mapping to write to wants a descriptor to write to.
    told.refused(&[libc::EROFS, libc::EACCES], &NOT_A_CHANGE);
    assert_eq!(told.errno("chdir"), 0);
    assert_eq!(told.errno("create"), libc::EROFS);
    assert_eq!(snapshot(dir.path()), before);

    // The same attempts, with that layer off. The directory is not empty, which is no matter of permission.
    let told = inside(&Sandbox::new().bind(real(dir.path()), "/work"), &["writes", "/work"]);
    told.granted(&["rmdir", "tmpfile"]);
    assert!(dir.path().join("newdir").is_dir(), "the host sees what was made");
}

#[test]
fn a_directory_as_root_refuses_every_change() {
    let dir = temp_dir();
    furnish(dir.path());
    let before = snapshot(dir.path());
    // With every mount point there, and with a private layer for those that are missing.
    for layered in [true, false] {
        if !layered {
            for name in ["proc", "dev", "tmp"] {
                fs::create_dir(dir.path().join(name)).unwrap();
            }
            fs::write(dir.path().join("probe"), "").unwrap();
        }
        let before = if layered { before.clone() } else { snapshot(dir.path()) };
        let told = inside(&Sandbox::new().rootfs(real(dir.path())), &["writes", "/"]);
        told.refused(&[libc::EROFS, libc::EACCES], &["chdir"]);
        assert_eq!(snapshot(dir.path()), before, "layered: {layered}");
    }
    let told = outside(&["writes", dir.path().to_str().unwrap()]);
    told.granted(&["rmdir", "tmpfile"]);
}

#[test]
fn a_read_only_bind_is_read_only_below_its_submounts_too() {
    if !is_again() {
        if !works(&[own_mounts(), &["true"]].concat()) {
            skip!("unshare(1) makes no mount namespace here");
        }
        again("mounts::a_read_only_bind_is_read_only_below_its_submounts_too", own_mounts());
        return;
    }
    let dir = temp_dir();
    let dir = real(dir.path());
    fs::create_dir(dir.join("sub")).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(dir.join("sub")).status().unwrap();
    assert!(mount.success());
    furnish(&dir.join("sub"));
    let told = inside(&Sandbox::new().bind_ro(&dir, "/work"), &["writes", "/work/sub"]);
    told.refused(&[libc::EROFS, libc::EACCES], &NOT_A_CHANGE);
    let told = inside(&Sandbox::new().bind(&dir, "/work"), &["writes", "/work/sub"]);
    told.granted(&["rmdir", "tmpfile"]);

    // And under a root directory, whose mounts come along.
    for name in ["proc", "dev", "tmp"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    fs::write(dir.join("probe"), "").unwrap();
    fs::remove_file(dir.join("sub/new")).unwrap();
    let before = snapshot(&dir.join("sub"));
    let told = inside(&Sandbox::new().rootfs(&dir), &["writes", "/sub"]);
    assert_eq!(told.errno("create"), libc::EROFS, "{told:?}");
    assert_eq!(snapshot(&dir.join("sub")), before);
    assert!(Command::new("umount").arg(dir.join("sub")).status().unwrap().success());
}

#[test]
fn nothing_of_the_mounts_shows_on_the_host_or_is_left_there() {
    if !is_again() {
        if !works(&[own_mounts(), &["true"]].concat()) {
            skip!("unshare(1) makes no mount namespace here");
        }
        again("mounts::nothing_of_the_mounts_shows_on_the_host_or_is_left_there", own_mounts());
        return;
    }
    // Every mount here is shared, as systemd has it: what is mounted in a copy of it comes back, unless it is cut off.
    assert!(mounts().contains("shared:"), "the control: {}", mounts());
    let before = mounts();
    let dir = temp_dir();
    let sandbox = host().bind(real(dir.path()), "/work").tmpfs("/scratch").mask("/usr/share");
    let mut child = sandbox.command("sleep").arg("1000").spawn().unwrap();
    assert_eq!(mounts(), before, "while it runs");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(mounts(), before, "after it");
    // A start that fails halfway leaves nothing either.
    sandbox.clone().bind("/usr", "/work/missing").command("true").spawn().unwrap_err();
    assert_eq!(mounts(), before, "after a failure");
}

#[test]
fn mounts_can_not_be_undone_from_inside() {
    let dir = temp_dir();
    let secret = token();
    fs::write(dir.path().join("secret"), &secret).unwrap();
    let dir = real(dir.path());
    let sandbox = Sandbox::new().bind_ro(&dir, "/work").bind(&dir, "/masked").mask("/masked/secret");
    let places = ["/work", "/masked/secret", "/proc/sys", "/proc/interrupts", "/dev"];
    let told = inside(&sandbox, &[&["remount"], &places[..]].concat());
    told.refused(&[libc::EPERM], &[]);
    // And as root of a user namespace of its own, where there is one to be had: the mounts are locked.
    let nesting = sandbox.clone().landlock(Landlock::off()).seccomp(Seccomp::off().allow(["unshare"]));
    let told = inside(&nesting, &[&["nested"], &places[..]].concat());
    if told.errno("unshare") == 0 {
        // The control: it has the privilege that the rest would need.
        assert_eq!([told.errno("tmpfs"), told.errno("umount-own")], [0, 0], "{told:?}");
        for name in ["remount-rw", "umount", "move"] {
            for (place, errno) in places.iter().zip(told.all(name)) {
                let errno: i32 = errno.parse().unwrap();
                assert!([libc::EPERM, libc::EINVAL, libc::EACCES].contains(&errno), "{name} {place}: {errno}");
            }
        }
        told.refused(&[0, libc::EPERM, libc::EINVAL, libc::EACCES, libc::EBUSY], &[]);
        for name in ["bind-proc", "bind-root"] {
            assert_eq!(told.errno(name), libc::EINVAL, "what is below would show: {told:?}");
        }
        assert_eq!(told.errno("proc"), libc::EPERM, "a fresh /proc would have no masks: {told:?}");
        assert_eq!(told.errno("sysfs"), libc::EPERM, "{told:?}");
    }
    // The flags, as the host sees them.
    let mut child = waiting(&sandbox.tmpfs("/scratch"));
    let table = fs::read_to_string(format!("/proc/{}/mountinfo", child.id())).unwrap();
    child.kill().unwrap();
    for line in table.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let (place, flags) = (fields[4], fields[5]);
        assert!(flags.contains("nosuid"), "{line}");
        // Through the device's own file, as through the rest, nothing of the host's is changed.
        let read_only = !["/masked", "/tmp", "/scratch", "/dev/shm", "/dev/pts"].contains(&place);
        assert_eq!(flags.starts_with("ro"), read_only, "{line}");
        // Devices work where the sandbox has put them, and in its own terminals.
        assert_eq!(!flags.contains("nodev"), place.starts_with("/dev") && place != "/dev/shm", "{line}");
    }
}

#[test]
fn a_mask_hides_by_every_name_of_the_path() {
    let dir = temp_dir();
    let secret = token();
    fs::create_dir(dir.path().join("keys")).unwrap();
    for path in ["secret", "keys/secret"] {
        fs::write(dir.path().join(path), &secret).unwrap();
    }
    let plain = Sandbox::new().bind(real(dir.path()), "/work");
    let masked = plain.clone().mask("/work/secret").mask("/work/keys").mask("/work/missing");
    let aliases = [
        "/work/secret",
        "//work//secret",
        "/work/./secret",
        "/work/../work/secret",
        "/proc/self/root/work/secret",
        "/proc/self/cwd/work/secret",
        "/proc/thread-self/root/work/secret",
        "/dev/fd/../root/work/secret",
        "/work/keys/secret",
        "/proc/self/root/work/keys/secret",
    ];
    let reads = [&["reads"], &aliases[..]].concat();
    let told = inside(&plain, &reads);
    assert_eq!(told.0.matches(&secret).count(), aliases.len(), "the control: {told:?}");
    let told = inside(&masked, &reads);
    assert!(!told.0.contains(&secret), "{told:?}");
    // It can't be written either, nor taken away to see what is below.
    let told = sh(
        &host().bind(real(dir.path()), "/work").mask("/work/secret").mask("/work/keys"),
        "for f in secret keys; do rm -rf /work/$f; mv /work/$f /work/x; ln /work/$f /work/y; echo x >/work/$f; done \
         2>/dev/null || true; cat /work/secret; ls -A /work /work/keys",
    );
    assert_eq!(told, "/work:\nkeys\nsecret\n\n/work/keys:\n");
    assert_eq!(fs::read_to_string(dir.path().join("keys/secret")).unwrap(), secret);
}

#[test]
fn kernel_files_are_masked_or_read_only() {
    // What container engines mask, and make read-only: moby's oci/defaults.go.
    let masked = ["acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "timer_list", "timer_stats"];
    let masked = masked.into_iter().chain(["sched_debug", "scsi"]);
    let there: Vec<_> = masked.filter(|name| Path::new("/proc").join(name).exists()).collect();
    assert!(there.contains(&"interrupts"), "the control: {there:?}");
    for name in there {
        let told = sh(&host(), &format!("cd /proc; if test -d {name}; then ls -A {name}; else cat {name}; fi"));
        assert_eq!(told, "", "/proc/{name}");
    }
    for name in ["/sys", "/proc/sys/fs/binfmt_misc/register"] {
        assert_eq!(sh(&host(), &format!("ls -A {name} 2>/dev/null || true")), "", "{name}");
    }
    let told = inside(&Sandbox::new(), &["writable", "/proc"]);
    let refused = told.all("refused");
    for path in ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/user/max_user_namespaces"] {
        assert!(refused.contains(&path) || !Path::new(path).exists(), "{path}: {told:?}");
    }
    assert!(refused.len() > 500, "the probe has looked at /proc/sys: {}", refused.len());
    // What anybody may open for writing outside too: of pressure, triggers need a privilege of their own.
    for path in told.all("writable") {
        assert!(path.starts_with("/proc/pressure/"), "{path} can be opened for writing");
    }
}

/// The mode of a kernel's file as a /proc has it that nobody has looked at before: the host's remembers older ones.
fn mode_in_a_new_proc(path: &str) -> Option<String> {
    let script = format!("mount -t proc proc /mnt && stat -c %a /mnt/{path}");
    let output = std::process::Command::new("unshare").args(["-m", "sh", "-c", &script]).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

#[test]
fn modes_of_kernel_files_can_not_be_changed_by_a_program_of_roots() {
    for_root!();
    // Every /proc has them in common, the host's too. Of this one nothing depends on its mode.
    const FILE: &str = "execdomains";
    let Some(before) = mode_in_a_new_proc(FILE) else { skip!("a mount namespace with a /proc") };
    let dir = temp_dir();
    fs::create_dir_all(dir.path().join("proc")).unwrap();
    let root = || Rootfs::dir(dir.path());
    let off = Sandbox::new().landlock(Landlock::off()).seccomp(Seccomp::off());
    let no_user = Sandbox::new().namespaces(Namespaces::default() - Namespaces::USER);
    let changed = in_memory(root()).map(|root| Sandbox::new().rootfs(root));
    for sandbox in [Sandbox::new(), off, no_user].into_iter().chain(changed) {
        inside(&sandbox, &["chmod", "/proc/execdomains", "0400"]).refused(&[libc::EROFS], &[]);
        assert_eq!(mode_in_a_new_proc(FILE).as_deref(), Some(&*before));
    }
    // The control: who asks for a /proc to write to, to the maps of a user namespace, say, gives this away.
    let open = Sandbox::new().landlock(Landlock::derived().allow_write("/proc"));
    inside(&open, &["chmod", "/proc/execdomains", "0444"]).granted(&[]);
    assert_eq!(before, "444\n");
}

#[test]
fn kernel_files_can_not_be_written_by_root_inside_or_a_root_caller_without_user_namespace() {
    let mut policies = vec![Sandbox::new().user(0, 0)];
    if is_root() {
        policies.push(Sandbox::new().namespaces(Namespaces::default() - Namespaces::USER));
        // The control: on the host, root opens nearly all of them.
        assert!(outside(&["writable", "/proc/sys"]).all("writable").len() > 100);
    }
    for policy in policies {
        let told = inside(&policy, &["writable", "/proc/sys"]);
        assert_eq!(told.all("writable"), Vec::<&str>::new());
        let told = inside(&policy, &["writable", "/proc"]);
        for path in told.all("writable") {
            assert!(path.starts_with("/proc/pressure/") || path == "/proc/mtrr", "{path} can be opened for writing");
        }
    }
}

#[test]
fn a_tmpfs_is_bounded_in_bytes_and_files() {
    let sandbox = Sandbox::new().tmpfs(Tmpfs::new("/scratch").size(1 << 20).inodes(50)).tmpfs("/plain");
    let told = inside(&sandbox, &["fill", "/scratch", "4000000", "1000"]);
    assert_eq!((told.errno("bytes"), told.one("written")), (libc::ENOSPC, "1048576"));
    assert_eq!((told.errno("files"), told.one("made")), (libc::ENOSPC, "49"), "its root counts");
    // The control: within the bounds, all goes well.
    let told = inside(&sandbox, &["fill", "/plain", "4000000", "1000"]);
    assert_eq!((told.errno("bytes"), told.errno("files")), (0, 0));
    for dir in ["/tmp", "/dev/shm", "/plain"] {
        let told = inside(&sandbox, &["fill", dir, "4000", "70000"]);
        assert_eq!(told.errno("files"), libc::ENOSPC, "{dir}");
        let [size, inodes] = ["size", "inodes"].map(|name| told.one(name).parse::<u64>().unwrap());
        assert_eq!((size, inodes), (1 << 30, 65_536), "{dir}");
    }
    // Nothing can be written where nobody has said that something could.
    for dir in ["/", "/dev", "/proc"] {
        let told = inside(&sandbox, &["fill", dir, "1", "1"]);
        assert_ne!((told.errno("files"), told.one("made")), (0, "1"), "{dir}");
    }
}

#[test]
fn each_sandbox_has_a_tmp_of_its_own() {
    let name = token();
    assert_eq!(sh(&host(), &format!("touch /tmp/{name} /dev/shm/{name}; ls /tmp /dev/shm | grep -c {name}")), "2\n");
    assert_eq!(sh(&host(), "ls -A /tmp /dev/shm"), "/dev/shm:\n\n/tmp:\n");
    for dir in ["/tmp", "/dev/shm", "/var/tmp"] {
        assert!(!Path::new(dir).join(&name).exists(), "{dir}");
    }
}

#[test]
fn files_directories_and_links_are_put_as_told() {
    let sandbox = host()
        .dir("/srv/a/b")
        .file("/srv/hello", b"hello\0\xff")
        .file("/etc/passwd", "ours")
        .symlink("../srv/hello", "/opt/link")
        .symlink("../srv/hello", "/opt/link")
        .tmpfs("/scratch")
        .dir("/scratch/dir")
        .file("/scratch/file", "f");
    let script = "od -An -c /opt/link; cat /etc/passwd; stat -c %a:%F /srv/a/b /srv/hello; readlink /opt/link; \
                  touch /scratch/dir/new; ls /scratch/dir; cat /scratch/file";
    assert_eq!(
        sh(&sandbox, script),
        "   h   e   l   l   o  \\0 377\nours755:directory\n444:regular file\n../srv/hello\nnew\nf"
    );
    let script = "for f in /srv/hello /etc/passwd /scratch/file; do (echo x >$f) 2>/dev/null && echo $f; rm -f $f \
                  2>/dev/null && echo rm $f; chmod 777 $f 2>/dev/null && echo chmod $f; done; touch /srv/a/x \
                  2>/dev/null && echo dir; true";
    assert_eq!(sh(&sandbox, script), "");
    // What comes later covers what came before.
    assert_eq!(sh(&sandbox.clone().file("/srv/hello", "later"), "cat /srv/hello"), "later");
}

fn refused(sandbox: &Sandbox) -> Error {
    let error = sandbox.command("/bin/true").spawn().unwrap_err();
    assert_eq!(error.layer(), Layer::Mount, "{error}");
    error
}

#[test]
fn a_missing_target_inside_a_bind_is_an_error_and_nothing_is_made_on_the_host() {
    let dir = temp_dir();
    let dir = real(dir.path());
    fs::create_dir(dir.join("there")).unwrap();
    let before = snapshot(&dir);
    for bound in [host().bind(&dir, "/work"), host().bind_ro(&dir, "/work")] {
        for sandbox in [
            bound.clone().dir("/work/missing"),
            bound.clone().dir("/work/missing/deep"),
            bound.clone().file("/work/missing", "x"),
            bound.clone().symlink("x", "/work/missing"),
            bound.clone().bind("/usr", "/work/missing"),
            bound.clone().bind_ro("/etc/passwd", "/work/missing"),
            bound.clone().tmpfs("/work/missing"),
        ] {
            let error = refused(&sandbox);
            assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Os, Some(libc::ENOENT)), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("of the host")), "{error:?}");
            assert!(error.path().unwrap().starts_with("/work/missing"), "{error:?}");
            assert_eq!(snapshot(&dir), before, "{error}");
        }
        // The control: what is there is a target.
        assert_eq!(sh(&bound.tmpfs("/work/there"), "ls -A /work/there; touch /work/there/x"), "");
    }
    assert_eq!(snapshot(&dir), before);
}

#[test]
fn a_file_and_a_directory_can_not_cover_each_other() {
    let dir = temp_dir();
    let dir = real(dir.path());
    furnish(&dir);
    let bound = host().bind(&dir, "/work");
    for sandbox in [
        bound.clone().bind(dir.join("file"), "/work/sub"),
        bound.clone().bind(&dir, "/work/file"),
        bound.clone().tmpfs("/work/file"),
        bound.clone().file("/work/sub", "x"),
    ] {
        let error = refused(&sandbox);
        assert!(error.hint().unwrap().contains("only over a"), "{error:?}");
    }
}

#[test]
fn missing_targets_are_made_on_a_private_layer_and_never_in_the_root() {
    let dir = temp_dir();
    let root = real(dir.path());
    crate::root::userland(&root);
    let before = snapshot(&root);
    let source = temp_dir();
    fs::write(source.path().join("file"), "bound").unwrap();
    let sandbox = Sandbox::new()
        .rootfs(&root)
        .bind(real(source.path()), "/work/deep")
        .file("/made/file", "made")
        .dir("/made/dir")
        .symlink("/made/file", "/made/link")
        .tmpfs("/scratch");
    let told = inside(&sandbox, &["reads", "/work/deep/file", "/made/link"]);
    assert_eq!(told.0, "/work/deep/file 0\nbound/made/link 0\nmade");
    assert_eq!(snapshot(&root), before);
    // The next sandbox sees nothing of it.
    let told = inside(&Sandbox::new().rootfs(&root), &["reads", "/made/file"]);
    assert_eq!(told.errno("/made/file"), libc::ENOENT);
}

#[test]
fn a_bind_source_that_a_program_has_made_a_link_is_refused() {
    let secret = temp_dir();
    let word = token();
    fs::write(secret.path().join("canary"), &word).unwrap();
    let output = temp_dir();
    let (output, target) = (real(output.path()), real(secret.path()));
    let before = snapshot(&target);
    // The first program leaves links where the second one's inputs are to be.
    let script = format!("ln -s {0} /out/dir; ln -s {0}/canary /out/file; mkdir /out/real", target.display());
    sh(&host().bind(&output, "/out"), &script);
    for name in ["dir", "file", "dir/canary"] {
        let error = refused(&host().bind(output.join(name), "/in"));
        assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::InvalidPolicy, Some(libc::ELOOP)), "{error}");
        let error = refused(&Sandbox::new().rootfs(output.join(name)));
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{error}");
    }
    // The control: a directory is taken.
    assert_eq!(sh(&host().bind(output.join("real"), "/in"), "ls -A /in"), "");
    assert_eq!(snapshot(&target), before);
}

/// Another thread exchanges the link that /proc is, while a sandbox hides parts of what it has mounted there.
#[test]
fn a_race_over_proc_never_leaves_a_part_of_it_open() {
    let volume = temp_dir();
    let volume = real(volume.path());
    for name in ["one", "two", "dev", "tmp", "probe"] {
        fs::create_dir(volume.join(name)).unwrap();
    }
    fs::remove_dir(volume.join("probe")).unwrap();
    fs::write(volume.join("probe"), "").unwrap();
    let links = ["proc", "other"].map(|name| volume.join(name));
    symlink("one", &links[0]).unwrap();
    symlink("two", &links[1]).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let racer = std::thread::spawn({
        let stop = stop.clone();
        let [one, other] = links.map(|link| std::ffi::CString::new(link.to_str().unwrap()).unwrap());
        move || {
            while !stop.load(Ordering::Relaxed) {
                // SAFETY: Both are strings that end in a zero byte, and are only read.
                unsafe { libc::renameat2(-1, one.as_ptr(), -1, other.as_ptr(), libc::RENAME_EXCHANGE) };
            }
        }
    });
    let sandbox = Sandbox::new().rootfs(Rootfs::dir(&volume).writable());
    let mut seen = [0, 0];
    for _ in 0..300 {
        let told = inside(&sandbox, &["reads", "/one/self/mountinfo", "/two/self/mountinfo"]);
        for (count, place) in seen.iter_mut().zip(["/one", "/two"]) {
            if told.0.contains(&format!(" {place} ")) {
                *count += 1;
                assert!(told.0.contains(&format!(" {place} ro,")), "read-only as a whole");
                for part in ["kcore", "keys"].iter().map(|part| format!("{place}/{part}")) {
                    let exists = Path::new("/proc").join(&part[5..]).exists();
                    assert!(!exists || told.0.contains(&format!(" {part} ")), "{part} in {}", told.0);
                }
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    racer.join().unwrap();
    assert_eq!(seen.iter().sum::<i32>(), 300);
}

/// At least 300 turns, and more until each side has won one: on a busy machine the other thread may sleep long.
fn raced_enough(turn: usize, start: Instant, won: usize, lost: usize) -> bool {
    turn >= 300 && (won > 0 && lost > 0 || start.elapsed() > Duration::from_secs(60))
}

/// Another thread exchanges a directory and a link to somewhere else, while sandboxes mount there.
#[test]
fn a_race_over_the_target_never_leads_out() {
    let (volume, outside) = (temp_dir(), temp_dir());
    let (volume, canary) = (real(volume.path()), real(outside.path()));
    fs::create_dir_all(volume.join("real/target")).unwrap();
    fs::create_dir(volume.join("real/dir")).unwrap();
    fs::create_dir(canary.join("target")).unwrap();
    // As an absolute path of the host, and as one that climbs out.
    symlink(&canary, volume.join("link")).unwrap();
    symlink(Path::new("../../../../../../..").join(canary.strip_prefix("/").unwrap()), volume.join("climb")).unwrap();
    let before = snapshot(&canary);
    let stop = Arc::new(AtomicBool::new(false));
    let racer = std::thread::spawn({
        let (volume, stop) = (volume.clone(), stop.clone());
        move || {
            let mut seed = 0x2545_f491_4f6c_dd1d_u64;
            let path = |name: &str| std::ffi::CString::new(volume.join(name).to_str().unwrap()).unwrap();
            let (real, links) = (path("real"), [path("link"), path("climb")]);
            while !stop.load(Ordering::Relaxed) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let link = &links[(seed >> 33) as usize % 2];
                for _ in 0..2 {
                    // SAFETY: Both are strings that end in a zero byte, and are only read.
                    unsafe {
                        libc::renameat2(-1, real.as_ptr(), -1, link.as_ptr(), libc::RENAME_EXCHANGE);
                    }
                }
            }
        }
    });
    let source = temp_dir();
    fs::write(source.path().join("mounted"), "").unwrap();
    let source = real(source.path());
    let base = Sandbox::new().rootfs(Rootfs::host()).bind(&volume, "/volume");
    let (mut won, mut lost) = (0, 0);
    let start = Instant::now();
    for turn in 0.. {
        if raced_enough(turn, start, won, lost) {
            break;
        }
        let sandbox = match turn % 3 {
            0 => base.clone().bind(&source, "/volume/real/target"),
            1 => base.clone().dir("/volume/real/new"),
            _ => base.clone().bind(&source, "/volume/real/target").file("/volume/real/dir/file", "x"),
        };
        // The host's mount table is another one: what could leak into it would need to be shared, which another
        // test has. Here, it is about where files are made, and which directory is covered.
        match sandbox.command("true").status() {
            Ok(outcome) => {
                assert!(outcome.success());
                won += 1;
            }
            Err(error) => {
                assert_eq!(error.layer(), Layer::Mount, "{error}");
                lost += 1;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    racer.join().unwrap();
    assert!(won > 0 && lost > 0, "the race was one: {won} and {lost}");
    assert_eq!(snapshot(&canary), before, "nothing was made outside");
    let names: Vec<_> = fs::read_dir(volume.join("real")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing was made in the volume: {names:?}");
    assert!(!mounts().contains(canary.to_str().unwrap()));
}

/// The same for the source, on the host's side of the bind.
#[test]
fn a_race_over_the_source_never_binds_what_a_link_leads_to() {
    let (volume, outside) = (temp_dir(), temp_dir());
    let (volume, canary) = (real(volume.path()), real(outside.path()));
    let secret = token();
    fs::write(canary.join("word"), &secret).unwrap();
    fs::create_dir(volume.join("real")).unwrap();
    fs::write(volume.join("real/word"), "fine").unwrap();
    symlink(&canary, volume.join("link")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let racer = std::thread::spawn({
        let (volume, stop) = (volume.clone(), stop.clone());
        move || {
            let path = |name: &str| std::ffi::CString::new(volume.join(name).to_str().unwrap()).unwrap();
            let (real, link) = (path("real"), path("link"));
            while !stop.load(Ordering::Relaxed) {
                // SAFETY: Both are strings that end in a zero byte, and are only read.
                unsafe {
                    libc::renameat2(-1, real.as_ptr(), -1, link.as_ptr(), libc::RENAME_EXCHANGE);
                }
            }
        }
    });
    let sandbox = Sandbox::new().bind_ro(volume.join("real"), "/in").bind_ro(crate::probe::program(), "/probe");
    let (mut won, mut lost) = (0, 0);
    let start = Instant::now();
    for turn in 0.. {
        if raced_enough(turn, start, won, lost) {
            break;
        }
        match sandbox.command("/probe").args(["reads", "/in/word"]).output() {
            Ok(output) => {
                let told = String::from_utf8(output.stdout).unwrap();
                assert!(!told.contains(&secret), "{told}");
                won += 1;
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{error}");
                lost += 1;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    racer.join().unwrap();
    assert!(won > 0 && lost > 0, "the race was one: {won} and {lost}");
}

#[test]
fn devices_can_not_be_made_or_used_through_a_bind() {
    let dir = temp_dir();
    let dir = real(dir.path());
    if is_root() {
        let made = Command::new("mknod").arg(dir.join("device")).args(["c", "1", "3"]).status().unwrap();
        assert!(made.success());
        fs::set_permissions(dir.join("device"), fs::Permissions::from_mode(0o666)).unwrap();
        // The control: it works outside.
        assert_eq!(outside(&["devices", dir.to_str().unwrap()]).errno("open-device"), 0);
        for name in ["char", "block", "memory"] {
            fs::remove_file(dir.join(name)).unwrap();
        }
    }
    let sandbox = Sandbox::new().bind(&dir, "/work");
    let told = inside(&sandbox, &["devices", "/work"]);
    let told_alone = inside(&crate::harness::namespaces_alone(&sandbox), &["devices", "/work"]);
    for name in ["mknod-char", "mknod-block", "mknod-memory"] {
        assert!([libc::EPERM, libc::EACCES].contains(&told.errno(name)), "{name}: {told:?}");
        assert_eq!(told_alone.errno(name), libc::EPERM, "{name}");
    }
    let there = is_root();
    assert_eq!(told.errno("open-device"), if there { libc::EACCES } else { libc::ENOENT });
    assert_eq!(told.errno("read-device"), if there { libc::EACCES } else { libc::ENOENT });
    assert_eq!(fs::read_dir(&dir).unwrap().count(), usize::from(there), "no new node on the host");
    if there {
        let told = inside(&Sandbox::new().rootfs(&dir), &["reads", "/device", "/dev/null"]);
        assert_eq!((told.errno("/device"), told.errno("/dev/null")), (libc::EACCES, 0));
    }
}

#[test]
fn the_device_files_of_the_host_can_not_be_changed() {
    let before = snapshot_devices();
    let script = "for f in null zero full random urandom tty; do touch -c -d @1 /dev/$f && echo touched $f; \
                  chmod 0666 /dev/$f && echo mode $f; rm -f /dev/$f && echo removed $f; done 2>/dev/null; \
                  echo discarded >/dev/null; head -c 3 /dev/zero | od -An -c; echo x 2>/dev/null >/dev/full || echo full; \
                  head -c 100 /dev/urandom | wc -c";
    assert_eq!(sh(&host(), script), "  \\0  \\0  \\0\nfull\n100\n");
    assert_eq!(snapshot_devices(), before);
}

/// Mode and owner of the devices that a sandbox has; their times are those of their last use by anybody.
fn snapshot_devices() -> Vec<(u32, u32, bool)> {
    let stat = |name| fs::metadata(Path::new("/dev").join(name)).unwrap();
    let known = |stat: fs::Metadata| (stat.mode(), stat.uid(), stat.mtime() == 1);
    ["null", "zero", "full", "random", "urandom", "tty"].map(stat).map(known).to_vec()
}

#[test]
fn a_copy_is_the_programs_to_change_and_bounded() {
    let dir = temp_dir();
    let source = real(dir.path()).join("in");
    fs::create_dir_all(source.join("below")).unwrap();
    fs::write(source.join("below/file"), "content").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", source.join("link")).unwrap();
    let sandbox = host().copy_in(&source, "/work");
    let script = "cat /work/below/file; readlink /work/link; echo more >>/work/below/file; rm -r /work/*; ls /work";
    assert_eq!(sh(&sandbox, script), "content/etc/passwd\n");
    assert_eq!(fs::read_to_string(source.join("below/file")).unwrap(), "content");
    // Into a root that is written to, and below another mount.
    if let Some(root) = in_memory(Rootfs::host()) {
        let sandbox = Sandbox::new().rootfs(root).tmpfs("/a").copy_in(&source, "/a/b/c");
        assert_eq!(sh(&sandbox, "cat /a/b/c/below/file"), "content");
    }
    fs::write(source.join("large"), vec![1_u8; 100_000]).unwrap();
    let small = host().copy_in(&source, Tmpfs::new("/work").size(65536));
    let error = small.command("true").spawn().unwrap_err();
    assert_eq!((error.raw_os_error(), error.kind()), (Some(libc::ENOSPC), ErrorKind::Os), "{error}");
    assert!(error.hint().unwrap().contains("size"), "{:?}", error.hint());
    for (wrong, errno) in [(source.join("below/file"), libc::ENOTDIR), (source.join("none"), libc::ENOENT)] {
        let error = host().copy_in(&wrong, "/work").command("true").plan().unwrap_err();
        assert_eq!((error.raw_os_error(), error.path()), (Some(errno), Some(wrong.as_path())), "{error}");
    }
    let link = source.join("link");
    assert_eq!(host().copy_in(link, "/w").command("true").plan().unwrap_err().raw_os_error(), Some(libc::ELOOP));
}
