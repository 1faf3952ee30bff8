//! What becomes of what a program writes to the root: through, in memory, kept, copied; and stacks of directories.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use belljar::{Child, ErrorKind, IdMap, Layer, Namespaces, Outcome, Rootfs, Sandbox, Stdio};

use crate::alone::{again, is_role};
use crate::harness::{in_memory, noop, real, removable, sh, temp_dir};
use crate::mounts::snapshot;
use crate::{for_root, memory, skip};

/// A directory that is gone at the end, with what overlayfs has made in it.
struct Scratch(tempfile::TempDir);

fn scratch() -> Scratch {
    Scratch(temp_dir())
}

impl Scratch {
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for base in ["", "kept", "other"] {
            removable(&self.path().join(base));
        }
    }
}

/// The host's programs, on a root that has none.
fn tools(root: impl Into<Rootfs>) -> Sandbox {
    let mut sandbox = Sandbox::new().rootfs(root).bind_ro("/usr", "/usr");
    for link in ["bin", "sbin", "lib", "lib64"] {
        sandbox = sandbox.symlink(format!("usr/{link}"), format!("/{link}"));
    }
    sandbox
}

/// Runs a script that may fail, and returns what it wrote to both streams.
fn tried(sandbox: &Sandbox, script: &str) -> (Outcome, String) {
    let output = sandbox.command("sh").args(["-c", script]).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.outcome, String::from_utf8(text).unwrap())
}

/// Roots that take changes: in memory where the kernel can, kept, and copied.
fn roots(lower: &Path, base: &Path) -> Vec<Rootfs> {
    let root = Rootfs::dir(lower);
    in_memory(root.clone()).into_iter().chain([root.clone().overlay(base), root.copied()]).collect()
}

/// A directory with some content to change.
fn lower(dir: &Path) -> PathBuf {
    let lower = real(dir).join("lower");
    for name in ["etc/conf.d", "var/lib/data", "usr"] {
        fs::create_dir_all(lower.join(name)).unwrap();
    }
    fs::write(lower.join("etc/hello"), "hello\n").unwrap();
    fs::write(lower.join("etc/conf.d/a"), "a\n").unwrap();
    fs::write(lower.join("var/lib/data/1"), "1\n").unwrap();
    fs::hard_link(lower.join("etc/hello"), lower.join("etc/again")).unwrap();
    lower
}

fn mkdir(path: PathBuf) -> PathBuf {
    fs::create_dir(&path).unwrap();
    path
}

/// Everything that a package manager does to files.
const CHANGES: &str = "
    echo changed >/etc/hello; cat /etc/hello
    sed -i s/a/b/ /etc/conf.d/a; cat /etc/conf.d/a
    rm /var/lib/data/1; rmdir /var/lib/data; mkdir /var/lib/data; ls -A /var/lib/data
    rm -r /etc/conf.d; mkdir -p /etc/conf.d; echo new >/etc/conf.d/new; ls /etc/conf.d
    mv /etc/hello /etc/moved; ln -s moved /etc/link; ln /etc/moved /etc/hard; cat /etc/link /etc/hard
    mkdir -p /opt/a; mv /opt/a /opt/b; chmod 750 /opt/b; stat -c %a /opt/b
    echo x >/top; cat /top
";
const CHANGED: &str = "changed\nb\nnew\nchanged\nchanged\n750\nx\n";

#[test]
fn an_ephemeral_root_takes_every_change_and_the_directory_none() {
    memory!();
    let dir = scratch();
    let lower = lower(dir.path());
    let before = snapshot(&lower);
    let sandbox = tools(Rootfs::dir(&lower).ephemeral());
    for _ in 0..2 {
        assert_eq!(sh(&sandbox, CHANGES), CHANGED);
        assert_eq!(snapshot(&lower), before);
    }
    // The control: without, nothing is taken.
    let (outcome, _) = tried(&tools(Rootfs::dir(&lower)), "echo x >/top");
    assert!(!outcome.success());
}

#[test]
fn the_root_looks_like_the_directory_that_it_is_made_from() {
    let dir = scratch();
    let lower = lower(dir.path());
    fs::set_permissions(&lower, fs::Permissions::from_mode(0o1775)).unwrap();
    let base = mkdir(real(dir.path()).join("kept"));
    let (uid, gid) = (fs::metadata(&lower).unwrap().uid(), fs::metadata(&lower).unwrap().gid());
    for root in roots(&lower, &base) {
        let seen = sh(&tools(root.clone()), "stat -c '%a %u %g' /");
        assert_eq!(seen, format!("1775 {uid} {gid}\n"), "{root:?}");
    }
}

#[test]
fn what_is_kept_is_there_at_the_next_start_and_in_diff() {
    let dir = scratch();
    let lower = lower(dir.path());
    let before = snapshot(&lower);
    let base = mkdir(real(dir.path()).join("kept"));
    let sandbox = tools(Rootfs::dir(&lower).overlay(&base));
    assert_eq!(sh(&sandbox, CHANGES), CHANGED);
    assert_eq!(sh(&sandbox, "cat /top /etc/moved; ls /etc/conf.d; test ! -e /etc/hello"), "x\nchanged\nnew\n");
    assert_eq!(snapshot(&lower), before);
    // The program's own changes, and none of the places that the sandbox made.
    let mut names: Vec<_> = fs::read_dir(base.join("diff")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["etc", "opt", "top", "var"]);
    assert_eq!(fs::read_to_string(base.join("diff/top")).unwrap(), "x\n");
    // Another directory knows nothing of it.
    let other = mkdir(real(dir.path()).join("other"));
    assert_eq!(sh(&tools(Rootfs::dir(&lower).overlay(other)), "cat /etc/hello"), "hello\n");
}

#[test]
fn a_directory_for_changes_has_one_sandbox_at_a_time() {
    let dir = scratch();
    let lower = lower(dir.path());
    let base = mkdir(real(dir.path()).join("kept"));
    let sandbox = tools(Rootfs::dir(&lower).overlay(&base));
    let waiting = || -> Child {
        let mut command = sandbox.command("sh");
        command.args(["-c", "read line"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    let refused = || {
        let error = sandbox.command("true").spawn().unwrap_err();
        assert_eq!((error.layer(), error.raw_os_error()), (Layer::Mount, Some(libc::EWOULDBLOCK)), "{error}");
        assert_eq!(error.path(), Some(&*base));
        assert!(error.hint().unwrap().contains("another sandbox"), "{error}");
    };
    let mut first = waiting();
    refused();
    first.wait().unwrap();
    // The handle is there, and the sandbox is over.
    assert!(sandbox.command("true").status().unwrap().success());
    drop(first);
    // A detached one holds the lock by itself.
    let mut second = waiting();
    let stdin = second.stdin.take();
    second.detach().unwrap();
    refused();
    drop(stdin);
    let again = || sandbox.command("true").status();
    let mut result = again();
    while result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EWOULDBLOCK)) {
        std::thread::yield_now();
        result = again();
    }
    assert!(result.unwrap().success());
    drop(waiting());
    assert!(again().unwrap().success());
}

#[test]
fn a_writable_root_is_the_directory_itself() {
    let dir = scratch();
    let lower = lower(dir.path());
    let root = Rootfs::dir(&lower).writable();
    let error = tools(root.clone()).command("sh").spawn().unwrap_err();
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Mount, Some(libc::ENOENT)), "{error}");
    assert_eq!(error.path(), Some(Path::new("/proc")));
    for name in ["proc", "dev", "tmp"] {
        mkdir(lower.join(name));
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), lower.join(name)).unwrap();
    }
    let sandbox = Sandbox::new().rootfs(root).bind_ro("/usr", "/usr");
    let before = fs::read_dir(&lower).unwrap().count();
    assert_eq!(sh(&sandbox, "echo x >/top; echo new >>/etc/hello; rm /etc/conf.d/a; cat /etc/hello"), "hello\nnew\n");
    assert_eq!(fs::read_to_string(lower.join("top")).unwrap(), "x\n");
    assert_eq!(fs::read_to_string(lower.join("etc/hello")).unwrap(), "hello\nnew\n");
    assert!(!lower.join("etc/conf.d/a").exists());
    assert_eq!(fs::read_dir(&lower).unwrap().count(), before + 1);
    assert!(
        lower.join("proc").read_dir().unwrap().next().is_none()
            && lower.join("tmp").read_dir().unwrap().next().is_none()
    );
}

/// What is mounted in a writable root stays what it is, by the mount table alone.
#[test]
fn what_is_read_only_stays_so_in_a_writable_root() {
    let dir = scratch();
    let lower = lower(dir.path());
    let base = mkdir(real(dir.path()).join("kept"));
    let other = mkdir(real(dir.path()).join("other"));
    fs::write(other.join("file"), "x").unwrap();
    for root in roots(&lower, &base) {
        let sandbox = tools(root.clone()).bind_ro(&other, "/srv/other").file("/etc/file", "given");
        let before = (snapshot(&other), snapshot(&lower));
        let script = "for f in /srv/other/file /srv/other/new /proc/sys/kernel/hostname /etc/file /dev/new /usr/new; do \
                      (echo x >$f) 2>/dev/null && echo wrote $f; done; rm -f /srv/other/file /etc/file 2>/dev/null || true; \
                      cat /etc/file; echo fine >/srv/mine; cat /srv/mine";
        assert_eq!(sh(&sandbox, script), "givenfine\n", "{root:?}");
        assert_eq!((snapshot(&other), snapshot(&lower)), before, "{root:?}");
    }
}

#[test]
fn memory_is_bounded() {
    let dir = scratch();
    let lower = lower(dir.path());
    let root = Rootfs::dir(&lower);
    let roots = [Some(root.clone().copied()), in_memory(root), in_memory(Rootfs::empty())];
    for root in roots.into_iter().flatten() {
        let sandbox = tools(root.clone().size(1 << 20).inodes(64));
        let (outcome, text) = tried(&sandbox, "head -c 2000000 /dev/zero >/big");
        assert!(!outcome.success() && text.contains("No space left"), "{root:?}: {text}");
        let (outcome, text) = tried(&sandbox, "i=0; while [ $i -lt 100 ]; do echo >/f$i || exit 1; i=$((i+1)); done");
        assert!(!outcome.success() && text.contains("No space left"), "{root:?}: {text}");
        assert_eq!(sh(&tools(root), "head -c 2000000 /dev/zero >/big; wc -c </big"), "2000000\n", "the control");
    }
}

#[test]
fn sandboxes_of_one_directory_do_not_meet() {
    memory!();
    let dir = scratch();
    let lower = lower(dir.path());
    let before = snapshot(&lower);
    let sandbox = tools(Rootfs::dir(&lower).ephemeral());
    std::thread::scope(|scope| {
        let run = |number: u32| {
            let sandbox = &sandbox;
            let script =
                format!("echo {number} >/etc/hello; sleep 0.1; cat /etc/hello; test ! -e /etc/n; echo >/etc/n");
            scope.spawn(move || assert_eq!(sh(sandbox, &script), format!("{number}\n")))
        };
        let threads: Vec<_> = (0..8).map(run).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(snapshot(&lower), before);
}

#[test]
fn hundreds_of_layers_are_one_root() {
    let dir = scratch();
    let dir = real(dir.path());
    let layers: Vec<_> =
        (0..300).map(|number| mkdir(dir.join(format!("layer, with: a \\ and number {number}")))).collect();
    for (number, layer) in layers.iter().enumerate() {
        fs::write(layer.join(format!("file{number}")), number.to_string()).unwrap();
        fs::write(layer.join("top"), format!("{number}\n")).unwrap();
    }
    let before = snapshot(&dir);
    let kept = scratch();
    let root = Rootfs::layers(&layers);
    let script = "ls /file* | wc -l; cat /top";
    assert_eq!(sh(&tools(root.clone()), script), "300\n299\n");
    assert_eq!(sh(&tools(root.clone().copied()), script), "300\n299\n");
    let written = format!("{script}; rm /file7; echo x >/top; ls /file* | wc -l; cat /top");
    if let Some(root) = in_memory(root.clone()) {
        assert_eq!(sh(&tools(root), &written), "300\n299\n299\nx\n");
    }
    let kept = tools(root.clone().overlay(real(kept.path())));
    assert_eq!(sh(&kept, &written), "300\n299\n299\nx\n");
    assert_eq!(sh(&kept, script), "299\nx\n");
    assert!(snapshot(&dir) == before, "no layer was changed");
    // One alone, and a few that have every place.
    assert_eq!(sh(&tools(Rootfs::layers(&layers[..1])), "cat /top"), "0\n");
    if let Some(root) = in_memory(Rootfs::layers(&layers[..1])) {
        assert_eq!(sh(&tools(root), "echo x >/top; cat /top"), "x\n");
    }
    for name in ["proc", "dev", "tmp", "usr"] {
        mkdir(layers[1].join(name));
    }
    let whole = Sandbox::new().rootfs(Rootfs::layers(&layers[..3])).bind_ro(noop(), "/tmp/noop");
    assert!(whole.command("/tmp/noop").status().unwrap().success());
    assert!(!whole.command("/tmp/noop").plan().unwrap().to_string().contains("private layer"));
}

#[test]
fn as_many_layers_as_are_told_of_and_no_more_are_one_root() {
    let dir = scratch();
    let dir = real(dir.path());
    let layers: Vec<_> = (0..500).map(|number| mkdir(dir.join(number.to_string()))).collect();
    fs::write(layers[0].join("lowest"), "").unwrap();
    assert_eq!(sh(&tools(Rootfs::layers(&layers[..499])), "ls -d /lowest"), "/lowest\n");
    let error = tools(Rootfs::layers(&layers)).command("true").spawn().unwrap_err();
    assert_eq!(error.kind(), belljar::ErrorKind::InvalidPolicy, "{error}");
}

#[test]
fn an_empty_and_the_hosts_root_can_be_written_around() {
    memory!();
    assert_eq!(sh(&tools(Rootfs::empty().ephemeral()), "echo x >/top; mkdir /a; cat /top; ls /a"), "x\n");
    let host = Sandbox::new().rootfs(Rootfs::host().ephemeral());
    let script = "mkdir -p /var/lib/x; echo y >/etc/new; cat /etc/new; touch /usr/new 2>/dev/null || echo refused";
    assert_eq!(sh(&host, script), "y\nrefused\n");
    assert!(!Path::new("/usr/new").exists() && !Path::new("/etc/new").exists());
    let dir = scratch();
    let kept = Sandbox::new().rootfs(Rootfs::host().overlay(real(dir.path())));
    sh(&kept, "echo z >/etc/new");
    assert_eq!(sh(&kept, "cat /etc/new"), "z\n");
    let diff: Vec<_> = fs::read_dir(dir.path().join("diff")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(diff, ["etc"]);
}

#[test]
fn what_makes_no_sense_is_told_before_anything_exists() {
    let dir = scratch();
    let lower = lower(dir.path());
    let inner = lower.join("etc");
    let many: Vec<_> = (0..500).map(|number| mkdir(real(dir.path()).join(number.to_string()))).collect();
    let none: [&Path; 0] = [];
    let file = inner.join("hello");
    for (root, errno) in [
        (Rootfs::layers(none), None),
        (Rootfs::layers(&many), None),
        (Rootfs::layers([&lower, &lower]), Some(libc::ELOOP)),
        (Rootfs::layers([&inner, &many[0], &lower]), Some(libc::ELOOP)),
        (Rootfs::layers([&lower, &file]), Some(libc::ENOTDIR)),
        (Rootfs::layers([&lower, &many[0]]).writable(), None),
        (Rootfs::empty().writable(), None),
        (Rootfs::host().writable(), None),
        (Rootfs::empty().copied(), None),
        (Rootfs::host().copied(), None),
        (Rootfs::dir(&lower).overlay(&inner), Some(libc::ELOOP)),
        (Rootfs::dir(&inner).overlay(&lower), Some(libc::ELOOP)),
        (Rootfs::dir(&lower).overlay(&lower), Some(libc::ELOOP)),
        (Rootfs::dir(&lower).overlay(&file), Some(libc::ELOOP)),
        (Rootfs::dir(&many[0]).overlay(&file), Some(libc::ENOTDIR)),
        (Rootfs::dir(&lower).ephemeral().size(0), Some(libc::EINVAL)),
        (Rootfs::dir(&lower).ephemeral().inodes(u64::MAX), Some(libc::EINVAL)),
        (Rootfs::dir(&lower).copied().size(1 << 63), Some(libc::EINVAL)),
        (Rootfs::dir(&lower).size(1), None),
        (Rootfs::dir(&lower).writable().inodes(1), None),
    ] {
        let error = tools(root.clone()).command("true").plan().unwrap_err();
        assert_eq!((error.layer(), error.kind()), (Layer::Mount, ErrorKind::InvalidPolicy), "{root:?}: {error}");
        if errno.is_some() || error.kind() != ErrorKind::InvalidPolicy {
            let known = if root == Rootfs::dir(&lower).overlay(&file) { Some(libc::ENOTDIR) } else { errno };
            assert_eq!(error.raw_os_error(), known, "{root:?}: {error}");
        }
    }
    let link = real(dir.path()).join("link");
    symlink(&lower, &link).unwrap();
    for root in [Rootfs::layers([&many[0], &link]), Rootfs::dir(&lower).overlay(&link)] {
        let error = tools(root).command("true").plan().unwrap_err();
        assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::InvalidPolicy, Some(libc::ELOOP)), "{error}");
    }
    let missing = real(dir.path()).join("missing");
    for root in [Rootfs::layers([&many[0], &missing]), Rootfs::dir(&lower).overlay(&missing)] {
        let error = tools(root).command("true").plan().unwrap_err();
        assert_eq!((error.raw_os_error(), error.path()), (Some(libc::ENOENT), Some(&*missing)), "{error}");
    }
    assert!(!missing.exists() && fs::read_dir(&many[0]).unwrap().next().is_none(), "nothing was made");
}

#[test]
fn marks_that_a_directory_has_planted_lead_nowhere() {
    let dir = scratch();
    let dir = real(dir.path());
    let [low, high] = ["low", "high"].map(|name| mkdir(dir.join(name)));
    for name in ["secret", "open"] {
        mkdir(low.join(name));
        fs::write(low.join(name).join("file"), "seen\n").unwrap();
        mkdir(high.join(name));
    }
    mkdir(high.join("moved"));
    fs::write(high.join("data"), "own\n").unwrap();
    let marks = [
        ("moved", "user.overlay.redirect", "/secret"),
        ("open", "user.overlay.redirect", "/secret"),
        ("data", "user.overlay.redirect", "/secret/file"),
        ("data", "user.overlay.metacopy", ""),
        ("secret", "user.overlay.opaque", "y"),
    ];
    for (name, key, value) in marks {
        let status = Command::new("setfattr").args(["-n", key, "-v", value]).arg(high.join(name)).status();
        match status {
            Ok(status) => assert!(status.success(), "{key}"),
            Err(error) => skip!("setfattr: {error}"),
        }
    }
    let before = snapshot(&dir);
    let layers = Rootfs::layers([&low, &high]);
    for root in [Some(layers.clone()), in_memory(layers)].into_iter().flatten() {
        // An opaque directory hides what lies below; nothing is found where it was not.
        let script = "for f in /moved /secret; do ls -A $f 2>&1; done; cat /open/file /data 2>&1";
        let (_, text) = tried(&tools(root), script);
        let shown = text.lines().filter(|line| !line.contains("Operation not permitted"));
        assert!(shown.clone().all(|line| line == "seen" || line == "own") && shown.count() <= 2, "{text}");
        assert!(text.matches("seen").count() <= 1, "{text}");
        println!("{text}");
    }
    assert_eq!(snapshot(&dir), before);
}

#[test]
fn files_of_somebody_who_is_not_mapped_stay_his_unless_copied() {
    for_root!();
    memory!();
    let dir = scratch();
    let lower = lower(dir.path());
    for path in ["etc", "etc/hello"] {
        std::os::unix::fs::chown(lower.join(path), Some(1234), Some(1234)).unwrap();
    }
    let script = "(echo x >/etc/hello) 2>&1; (echo x >/etc/new) 2>&1; (rm /etc/hello) 2>&1; chmod 600 /etc/hello 2>&1; \
                  cat /etc/hello";
    let (_, text) = tried(&tools(Rootfs::dir(&lower).ephemeral()), script);
    assert_eq!(text.matches("Permission denied").count(), 3, "{text}");
    assert!(text.ends_with("hello\n"), "{text}");
    let (outcome, text) = tried(&tools(Rootfs::dir(&lower).copied()), "echo x >/etc/hello; stat -c %u /etc/hello");
    assert!(outcome.success() && text == "0\n", "{text}");
    let map = IdMap::new(0, 0, 65_536);
    let mapped = tools(Rootfs::dir(&lower).ephemeral()).uid_map(map).gid_map(map).user(1234, 1234);
    assert_eq!(sh(&mapped, "echo x >/etc/hello; cat /etc/hello; stat -c %u /etc/hello"), "x\n1234\n");
}

#[test]
fn root_without_a_user_namespace_writes_the_same() {
    for_root!();
    let dir = scratch();
    let lower = lower(dir.path());
    let before = snapshot(&lower);
    let base = mkdir(real(dir.path()).join("kept"));
    for root in roots(&lower, &base) {
        for namespaces in [Namespaces::default() - Namespaces::USER, Namespaces::MOUNT] {
            let _ = fs::remove_dir_all(base.join("diff"));
            let sandbox = tools(root.clone()).namespaces(namespaces);
            assert_eq!(sh(&sandbox, CHANGES), CHANGED, "{root:?} {namespaces:?}");
            assert_eq!(snapshot(&lower), before);
        }
    }
}

#[test]
fn without_a_pid_namespace_it_is_the_same() {
    let dir = scratch();
    let lower = lower(dir.path());
    let base = mkdir(real(dir.path()).join("kept"));
    for root in roots(&lower, &base) {
        let sandbox = tools(root).namespaces(Namespaces::default() - Namespaces::PID);
        assert_eq!(sh(&sandbox, CHANGES), CHANGED);
    }
}

#[test]
fn a_copy_is_one_of_files_links_modes_and_times() {
    let dir = scratch();
    let lower = lower(dir.path());
    fs::set_permissions(lower.join("etc/hello"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(lower.join("var/lib/data"), fs::Permissions::from_mode(0o500)).unwrap();
    symlink("hello", lower.join("etc/link")).unwrap();
    assert!(Command::new("mkfifo").arg(lower.join("etc/fifo")).status().unwrap().success());
    fs::create_dir(lower.join("many")).unwrap();
    for number in 0..2000 {
        fs::write(lower.join(format!("many/a name that is not very short {number}")), "").unwrap();
    }
    let script = "cd $0; find etc var many -printf '%p %y %m %s %T@ %l\\n' | grep -v '/again ' | sort";
    let outside = Command::new("sh").args(["-ec", script]).arg(&lower).output().unwrap();
    let outside = String::from_utf8(outside.stdout).unwrap();
    assert!(outside.lines().count() > 2000, "{outside}");
    let inside = sh(&tools(Rootfs::dir(&lower).copied()), &script.replace("$0", "/"));
    let directories = |text: &str| -> Vec<String> {
        // The size of a directory is its file system's.
        text.lines().filter(|line| !line.contains(" d ")).map(str::to_owned).collect()
    };
    assert_eq!(directories(&inside), directories(&outside));
    assert!(inside.contains("var/lib/data d 500 "), "{inside}");
    fs::set_permissions(lower.join("var/lib/data"), fs::Permissions::from_mode(0o700)).unwrap();
    // Too much, and too deep.
    let error = tools(Rootfs::dir(&lower).copied().inodes(1000)).command("true").spawn().unwrap_err();
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Mount, Some(libc::ENOSPC)), "{error}");
    let deep: PathBuf = std::iter::repeat_n("d", 200).collect();
    fs::create_dir_all(lower.join(deep)).unwrap();
    let error = tools(Rootfs::dir(&lower).copied()).command("true").spawn().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{error}");
    assert!(error.hint().is_some());
}

/// In a container, all that there is may lie on an overlay.
#[test]
fn changes_can_not_be_kept_on_an_overlay_and_that_is_told() {
    const TEST: &str = "writes::changes_can_not_be_kept_on_an_overlay_and_that_is_told";
    if is_role(TEST) {
        let dir = real("/mnt/merged");
        let (lower, kept) = (mkdir(dir.join("lower")), mkdir(dir.join("kept")));
        let error = tools(Rootfs::dir(&lower).overlay(&kept)).command("true").plan().unwrap_err();
        assert_eq!((error.layer(), error.kind()), (Layer::Mount, ErrorKind::Unsupported), "{error}");
        assert_eq!(error.path(), Some(&*kept));
        assert!(error.hint().unwrap().contains("another file system"), "{error:?}");
        // As layers it is fine.
        assert_eq!(sh(&tools(Rootfs::dir(&lower).ephemeral()), "echo x >/x; cat /x"), "x\n");
        assert_eq!(sh(&tools(Rootfs::dir(&lower).copied()), "echo x >/x; cat /x"), "x\n");
        // Below one of them something else is mounted: in a user namespace the kernel lets nobody look behind it.
        let mounted = mkdir(dir.join("lower/mounted"));
        assert!(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&mounted).status().unwrap().success());
        let error = tools(Rootfs::dir(&lower).ephemeral()).command("true").spawn().unwrap_err();
        assert_eq!((error.layer(), error.raw_os_error()), (Layer::Mount, Some(libc::EINVAL)), "{error}");
        assert!(error.hint().unwrap().contains("mounted below"), "{error:?}");
        assert_eq!(sh(&tools(Rootfs::dir(&lower).copied()), "echo x >/mounted/x; cat /mounted/x"), "x\n");
        println!("the body has run");
        return;
    }
    memory!();
    let script = "mount -t tmpfs none /mnt && cd /mnt && mkdir lower upper work merged && \
                  mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work,userxattr none merged && exec \"$@\"";
    let inner = again(TEST, TEST);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(inner.get_program());
    command.args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = command.stdin(std::process::Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("the body has run"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
