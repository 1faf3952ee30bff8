//! What a program has changed of its root: listed, and copied out; as docker tells it; and against hostile programs.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use belljar::{ChangeKind, ChangeLimits, Changes, ErrorKind, FileType, Layer, Outcome, Rootfs, Sandbox};

use crate::harness::{compile_static, in_memory, is_root, real, temp_dir, token};

/// A directory that is gone at the end, with directories in it that nobody may enter: of overlayfs's, and of images.
pub(crate) struct Scratch(tempfile::TempDir);

pub(crate) fn scratch() -> Scratch {
    Scratch(temp_dir())
}

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = Command::new("chmod").args(["-R", "u+rwX"]).arg(self.path()).status();
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

/// Runs a script, which has to succeed, and lists what it has changed.
pub(crate) fn changed(sandbox: &Sandbox, script: &str) -> Changes {
    ran(sandbox, script).changes().unwrap()
}

fn ran(sandbox: &Sandbox, script: &str) -> Outcome {
    let output = sandbox.command("sh").args(["-ec", script]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.outcome.success(), "{script}: {:?}\n{stderr}", output.outcome);
    output.outcome
}

fn mkdir(path: PathBuf) -> PathBuf {
    fs::create_dir(&path).unwrap();
    path
}

/// Makes files with their names as content, and the directories above them.
fn make_files(dir: &Path, names: &[&str]) {
    for name in names {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
}

/// Two layers with some content, of which the upper hides some of the lower.
fn layers(dir: &Path) -> [PathBuf; 2] {
    let [low, high] = ["low", "high"].map(|name| mkdir(real(dir).join(name)));
    make_files(&low, &["etc/a", "etc/b", "etc/conf.d/x", "opt/tree/1", "opt/tree/sub/2", "var/old/gone", "var/data"]);
    make_files(&high, &["etc/a", "opt/tree/3", "usr/.keep", "var/old/new"]);
    symlink("a", low.join("etc/link")).unwrap();
    fs::set_permissions(low.join("etc/b"), fs::Permissions::from_mode(0o640)).unwrap();
    let hide = |path: &Path| {
        let status = Command::new("setfattr").args(["-n", "user.overlay.opaque", "-v", "y"]).arg(path).status();
        assert!(status.unwrap().success());
    };
    hide(&high.join("var/old"));
    [low, high]
}

/// A root of these layers with its changes in `kept`, and where the kernel can, one with its changes in memory.
fn roots(layers: &[PathBuf; 2], kept: &Path) -> Vec<Rootfs> {
    let kept = mkdir(real(kept).join(format!("kept-{}", token())));
    [Some(Rootfs::layers(layers).overlay(kept)), in_memory(Rootfs::layers(layers))].into_iter().flatten().collect()
}

/// One of them, for one run.
fn root(layers: &[PathBuf; 2], kept: &Path) -> Rootfs {
    roots(layers, kept).pop().unwrap()
}

#[test]
fn changes_are_listed_with_type_and_size() {
    let dir = scratch();
    let layers = layers(dir.path());
    let script = "
        echo new >/etc/new; echo longer >>/etc/a; rm /etc/b
        rm -r /opt/tree; mkdir /opt/tree; echo again >/opt/tree/3; mkdir /opt/tree/sub
        rm /var/old/new; ln -s ../data /var/old/link; mkfifo /var/fifo
        rm -r /etc/conf.d; echo file >/etc/conf.d
        rm /var/data; mkdir /var/data; echo x >/var/data/x
        mv /etc/link /etc/renamed; mkdir -p /srv/a/b; chmod 700 /usr 2>/dev/null || true";
    let expected = "\
        C /etc/a File 12\n\
        D /etc/b File 5\n\
        C /etc/conf.d File 5\n\
        D /etc/link Symlink 1\n\
        A /etc/new File 4\n\
        A /etc/renamed Symlink 1\n\
        D /opt/tree/1 File 10\n\
        C /opt/tree/3 File 6\n\
        D /opt/tree/sub/2 File 14\n\
        A /srv Directory 0\n\
        A /srv/a Directory 0\n\
        A /srv/a/b Directory 0\n\
        C /var/data Directory 0\n\
        A /var/data/x File 2\n\
        A /var/fifo Fifo 0\n\
        A /var/old/link Symlink 7\n\
        D /var/old/new File 11\n";
    for root in roots(&layers, dir.path()) {
        let changes = changed(&tools(root), script);
        let line = |change: &belljar::Change| format!("{change} {:?} {}\n", change.file_type(), change.size());
        assert_eq!(changes.iter().map(line).collect::<String>(), expected);
        assert_eq!((changes.len(), changes.is_empty()), (17, false));
        let first = changes.iter().next().unwrap();
        assert_eq!((first.path(), first.kind()), (Path::new("/etc/a"), ChangeKind::Modified));
        let sorted: BTreeSet<_> = changes.iter().map(belljar::Change::path).collect();
        assert!(sorted.into_iter().eq(changes.iter().map(belljar::Change::path)), "{changes}");
        assert!(changes.to_string().starts_with("C /etc/a\nD /etc/b\n"));
    }
}

#[test]
fn what_is_as_it_was_is_no_change_and_what_looks_so_is_one() {
    let dir = scratch();
    let layers = layers(dir.path());
    for root in roots(&layers, dir.path()) {
        // Opened for writing, the file is copied; touched, the directory is; read, nothing is.
        let script = ": >>/etc/a; touch -d @1000000000 /opt; cat /var/data; chmod 640 /etc/b";
        assert_eq!(changed(&tools(root.clone()), script).to_string(), "");
        let script = "touch -r /etc/a /tmp/time; tr e E </etc/a >/tmp/a; cat /tmp/a >/etc/a; touch -r /tmp/time /etc/a
            chmod 600 /etc/b; chmod 700 /opt/tree; touch -d @1 /var/data; ln -sf b /etc/link";
        let text = "C /etc/a\nC /etc/b\nC /etc/link\nC /opt/tree\nC /var/data\n";
        assert_eq!(changed(&tools(root.clone()), script).to_string(), text);
        let script = "setfattr -n user.color -v red /etc/conf.d; setfattr -n user.color -v red /etc/a";
        if Path::new("/usr/bin/setfattr").exists() && !text.contains("conf.d") {
            let text = changed(&tools(root), script).to_string();
            assert!(text.contains("C /etc/a\n") && text.contains("C /etc/conf.d\n"), "{text}");
        }
    }
}

#[test]
fn what_the_sandbox_itself_puts_into_the_root_is_no_change() {
    let dir = scratch();
    let layers = layers(dir.path());
    let data = mkdir(real(dir.path()).join("data"));
    let around = [Rootfs::empty(), Rootfs::host()].into_iter().filter_map(in_memory);
    for root in roots(&layers, dir.path()).into_iter().chain(around) {
        let host = root == Rootfs::host().ephemeral();
        let sandbox = if host { Sandbox::new().rootfs(root) } else { tools(root) };
        let sandbox =
            sandbox.bind(&data, "/made/deep/data").tmpfs("/scratch").file("/made/file", "x").dir("/empty/dir");
        let script = "echo x >/tmp/x; echo x >/made/deep/data/x; echo x >/scratch/x; echo x >/dev/shm/x";
        assert_eq!(changed(&sandbox, script).to_string(), "");
        // Beside what it has made, there are the program's own files; and its links can be replaced.
        let script = "echo x >/made/deep/x; chmod 711 /empty; rmdir /empty/dir; rm /lib64";
        let text = changed(&sandbox, script).to_string();
        assert_eq!(text, "C /empty\nD /empty/dir\nD /lib64\nA /made/deep/x\n");
    }
}

#[test]
fn a_root_that_keeps_no_changes_has_none_to_tell() {
    let dir = scratch();
    let [low, _] = layers(dir.path());
    for root in [Rootfs::dir(&low), Rootfs::host(), Rootfs::empty(), Rootfs::dir(&low).copied()] {
        let outcome = tools(root.clone()).command("true").status().unwrap();
        for error in [outcome.changes().unwrap_err(), outcome.copy_out("/etc", dir.path().join("x")).unwrap_err()] {
            assert_eq!((error.layer(), error.kind()), (Layer::Mount, ErrorKind::InvalidPolicy), "{root:?} {error}");
            assert!(error.hint().unwrap().contains("Rootfs::ephemeral"), "{error}");
        }
    }
}

#[test]
fn changes_of_an_overlay_are_those_of_all_runs_and_wait_for_the_next() {
    let dir = scratch();
    let layers = layers(dir.path());
    let kept = roots(&layers, dir.path()).remove(0);
    let sandbox = tools(kept);
    changed(&sandbox, "echo x >/etc/x");
    let second = changed(&sandbox, "echo y >/etc/y; rm /etc/a");
    assert_eq!(second.to_string(), "D /etc/a\nA /etc/x\nA /etc/y\n");
    // While another one runs, what it writes would be told half.
    let outcome = sandbox.command("true").status().unwrap();
    let mut command = sandbox.command("sh");
    let mut child = command.args(["-c", "read line; rm /etc/x"]).stdin(belljar::Stdio::piped()).spawn().unwrap();
    for error in [outcome.changes().unwrap_err(), outcome.copy_out("/etc", real(dir.path()).join("etc")).unwrap_err()] {
        assert_eq!(error.raw_os_error(), Some(libc::EWOULDBLOCK), "{error}");
        assert!(error.hint().unwrap().contains("another sandbox"), "{error}");
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(outcome.changes().unwrap().to_string(), "D /etc/a\nA /etc/y\n");
    // A list stays as it was.
    assert_eq!(second.len(), 3);
}

#[test]
fn names_may_be_any_bytes_and_are_escaped() {
    let dir = scratch();
    let layers = layers(dir.path());
    let changing = root(&layers, dir.path());
    let script = r"cd /etc; echo 1 >$(printf 'a\n\033[31m\377'); mkdir $(printf '\200'); echo 2 >$(printf '\200/\201')";
    let outcome = ran(&tools(changing), script);
    let changes = outcome.changes().unwrap();
    let paths: Vec<_> = changes.iter().map(|change| change.path().as_os_str().as_bytes()).collect();
    assert_eq!(paths, [&b"/etc/a\n\x1b[31m\xff"[..], b"/etc/\x80", b"/etc/\x80/\x81"]);
    let text = outcome.changes().unwrap().to_string();
    assert!(text.lines().count() == 3 && !text.contains('\x1b'), "{text}");
    let out = real(dir.path()).join("out");
    outcome.copy_out(OsStr::from_bytes(b"/etc/\x80"), &out).unwrap();
    assert_eq!(fs::read(out.join(OsStr::from_bytes(b"\x81"))).unwrap(), b"2\n");
}

/// Tries to make overlayfs's marks, which it would be believed by.
const FORGER: &str = r#"
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
    printf("mknod %d\n", mknod("/etc/whiteout", S_IFCHR, makedev(0, 0)));
    mkdir("/forged", 0755);
    close(open("/forged/empty", O_CREAT | O_WRONLY, 0644));
    setxattr("/etc", "user.overlay.opaque", "y", 1, 0);
    setxattr("/forged", "user.overlay.opaque", "x", 1, 0);
    setxattr("/forged/empty", "user.overlay.whiteout", "y", 1, 0);
    setxattr("/forged", "user.overlay.redirect", "/etc", 4, 0);
    setxattr("/forged/empty", "user.overlay.metacopy", "", 0, 0);
    printf("trusted %d\n", setxattr("/etc", "trusted.overlay.opaque", "y", 1, 0));
    return 0;
}
"#;

#[test]
fn a_program_can_not_forge_the_marks() {
    let dir = scratch();
    let layers = layers(dir.path());
    let forger = compile_static("forger", FORGER);
    for root in roots(&layers, dir.path()) {
        let output = tools(root).bind_ro(&forger, "/forger").command("/forger").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "mknod -1\ntrusted -1\n");
        let outcome = output.outcome;
        // Whatever it has set: nothing of /etc is gone.
        let text = outcome.changes().unwrap().to_string();
        assert!(text.ends_with("A /forged\nA /forged/empty\n") && !text.contains('D'), "{text}");
        let out = real(dir.path()).join(token());
        outcome.copy_out("/etc", &out).unwrap();
        assert!(out.join("conf.d/x").exists() && out.join("b").exists());
        outcome.copy_out("/forged/empty", out.join("empty")).unwrap();
    }
}

#[test]
fn more_than_the_bounds_is_an_error() {
    let dir = scratch();
    let layers = layers(dir.path());
    let changing = root(&layers, dir.path());
    let script = "mkdir /many; cd /many; i=0; while [ $i -lt 300 ]; do : >$i; i=$((i+1)); done
        truncate -s 4E /sparse 2>/dev/null || truncate -s 1T /sparse";
    let output = tools(changing).command("sh").args(["-ec", script]).output().unwrap();
    assert!(output.outcome.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let outcome = output.outcome;
    assert_eq!(outcome.changes().unwrap().len(), 302);
    let fails = |result: Result<(), belljar::Error>| {
        let error = result.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFBIG), "{error}");
        assert!(error.hint().unwrap().contains("ChangeLimits"), "{error}");
    };
    fails(outcome.changes_within(ChangeLimits::new().entries(301)).map(drop));
    let out = real(dir.path()).join("out");
    fails(outcome.copy_out("/sparse", &out));
    assert!(!out.exists());
    fails(outcome.copy_out_within("/etc", &out, ChangeLimits::new().bytes(3)));
    assert!(!out.exists(), "nothing is left");
    outcome.copy_out("/many", &out).unwrap();
    assert_eq!(fs::read_dir(&out).unwrap().count(), 300);
    // Names that are long, and deeper than a path may be.
    let changing = root(&layers, dir.path());
    let script = "d=$(printf %0200d 0); cd /opt; i=0; while [ $i -lt 40 ]; do mkdir $d; cd $d; i=$((i+1)); done";
    let outcome = tools(changing).command("bash").args(["-c", script]).status().unwrap();
    let error = outcome.changes().unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(libc::ENAMETOOLONG | libc::EFBIG)), "{error}");
    assert!(error.hint().is_some(), "{error}");
}

#[test]
fn a_part_of_the_root_is_copied_as_the_program_has_left_it() {
    let dir = scratch();
    let layers = layers(dir.path());
    for root in roots(&layers, dir.path()) {
        let out = |name: &str| real(dir.path()).join(format!("{name}-{}", token()));
        let script = "
            echo new >/opt/tree/new; rm /opt/tree/1; rm /var/old/new; echo y >/var/old/y
            chmod 4777 /opt/tree/3; chmod 400 /opt/tree/new; mkdir -m 500 /opt/tree/closed; touch -d @1000000000 /opt/tree/3
            ln -s sub/2 /opt/tree/in; ln -s ../3 /opt/tree/sub/up; ln /opt/tree/3 /opt/tree/hard";
        let outcome = ran(&tools(root), script);
        let tree = out("tree");
        outcome.copy_out("/opt/tree", &tree).unwrap();
        let mut names: Vec<_> = fs::read_dir(&tree).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["3", "closed", "hard", "in", "new", "sub"]);
        assert_eq!(fs::read_to_string(tree.join("in")).unwrap(), "opt/tree/sub/2");
        assert_eq!(fs::read_to_string(tree.join("sub/up")).unwrap(), "opt/tree/3");
        let mode = |name: &str| fs::metadata(tree.join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("3"), mode("new"), mode("closed"), mode("sub")), (0o755, 0o600, 0o700, 0o755));
        assert_eq!(fs::metadata(tree.join("3")).unwrap().mtime(), 1_000_000_000);
        assert_eq!(fs::metadata(tree.join("hard")).unwrap().nlink(), 1);
        // What a layer hides stays hidden, and what is below is seen.
        outcome.copy_out("/var/old", out("old")).unwrap();
        let old = out("again");
        outcome.copy_out("/var//old/.", &old).unwrap();
        assert_eq!(fs::read_dir(&old).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["y"]);
        let data = out("data");
        outcome.copy_out("/var/data", &data).unwrap();
        assert_eq!(fs::read_to_string(&data).unwrap(), "var/data");
    }
}

#[test]
fn what_the_caller_may_not_read_is_not_copied() {
    let dir = scratch();
    let layers = layers(dir.path());
    for root in roots(&layers, dir.path()) {
        let outcome = ran(&tools(root), "mkdir -p /out/sub; echo x >/out/sub/x; chmod 0 /out/sub/x");
        assert_eq!(outcome.changes().unwrap().to_string(), "A /out\nA /out/sub\nA /out/sub/x\n");
        let out = real(dir.path()).join(token());
        let copied = outcome.copy_out("/out", &out);
        if is_root() {
            copied.unwrap();
            assert_eq!(fs::read_to_string(out.join("sub/x")).unwrap(), "x\n");
            continue;
        }
        let error = copied.unwrap_err();
        assert_eq!((error.raw_os_error(), error.path()), (Some(libc::EACCES), Some(Path::new("/out/sub/x"))));
        assert!(error.hint().is_some() && !out.exists(), "nothing is left");
    }
    // A directory that can't be read can't be listed, and is in the way of nothing else.
    let changing = root(&layers, dir.path());
    let outcome = ran(&tools(changing), "mkdir /out; echo y >/out/y; mkdir -m 0 /closed");
    if !is_root() {
        let error = outcome.changes().unwrap_err();
        assert_eq!((error.raw_os_error(), error.path()), (Some(libc::EACCES), Some(Path::new("/closed"))));
    }
    outcome.copy_out("/out", real(dir.path()).join("out")).unwrap();
    assert_eq!(fs::read_to_string(real(dir.path()).join("out/y")).unwrap(), "y\n");
}

#[test]
fn a_copy_has_its_place_to_itself() {
    let dir = scratch();
    let layers = layers(dir.path());
    let changing = root(&layers, dir.path());
    let outcome = ran(&tools(changing), "mkfifo /var/fifo");
    let out = real(dir.path());
    let error = |from: &str, to: &Path| {
        let error = outcome.copy_out(from, to).unwrap_err();
        (error.kind(), error.raw_os_error().unwrap())
    };
    fs::write(out.join("there"), "mine").unwrap();
    symlink("missing", out.join("dangling")).unwrap();
    for (from, to, kind, errno) in [
        ("/etc/a", "there", ErrorKind::Os, libc::EEXIST),
        ("/etc", "there", ErrorKind::Os, libc::EEXIST),
        ("/etc/a", "dangling", ErrorKind::Os, libc::EEXIST),
        ("/etc", "dangling", ErrorKind::Os, libc::EEXIST),
        ("/etc/a", "none/a", ErrorKind::Os, libc::ENOENT),
        ("/etc/a", "..", ErrorKind::Os, libc::EINVAL),
        ("/missing", "a", ErrorKind::Os, libc::ENOENT),
        ("/etc/a/b", "a", ErrorKind::Os, libc::ENOTDIR),
        ("/etc/link", "a", ErrorKind::Os, libc::ELOOP),
        ("/etc/link/b", "a", ErrorKind::Os, libc::ELOOP),
        ("/var/fifo", "a", ErrorKind::Os, libc::EINVAL),
        ("/var", "a", ErrorKind::Os, libc::EINVAL),
        ("etc/a", "a", ErrorKind::InvalidPolicy, libc::EINVAL),
        ("/etc/../etc/a", "a", ErrorKind::InvalidPolicy, libc::EINVAL),
    ] {
        assert_eq!(error(from, &out.join(to)), (kind, errno), "{from} {to}");
    }
    assert!(!out.join("a").exists() && !out.join("missing").exists());
    assert_eq!(fs::read_to_string(out.join("there")).unwrap(), "mine");
    assert!(outcome.changes().unwrap().iter().any(|change| change.file_type() == FileType::Fifo));
}

/// Links in what is copied, and how they end.
const LINKS: [(&str, bool); 8] = [
    ("ln -s /etc/passwd /out/l", false),
    ("ln -s ../etc/passwd /out/l", false),
    ("ln -s d/../../x /out/l", false),
    ("mkdir -p /out/a/b; ln -s ../.. /out/a/b/top; ln -s a/b/top/../x /out/l", false),
    ("mkdir -p /out/a; ln -s ../../x /out/a/l", false),
    ("mkdir -p /out/a; ln -s .. /out/a/l", true),
    ("ln -s l /out/l", true),
    ("ln -s missing/file /out/l", true),
];

#[test]
fn a_link_that_leads_out_of_a_copy_is_refused() {
    let dir = scratch();
    let layers = layers(dir.path());
    for (script, good) in LINKS {
        let changing = root(&layers, dir.path());
        let outcome = ran(&tools(changing), &format!("mkdir /out; echo x >/out/file; {script}"));
        let out = real(dir.path()).join(token());
        match outcome.copy_out("/out", &out) {
            Ok(()) => assert!(good && out.join("file").exists(), "{script}"),
            Err(error) => {
                assert!(!good && error.raw_os_error() == Some(libc::EXDEV), "{script}: {error}");
                assert!(!out.exists(), "{script}");
            }
        }
    }
}

/// The program of an earlier run has links where directories are looked for; and one more of the caller's processes
/// puts links in their places, over and over, while they are copied and listed.
#[test]
fn no_link_is_followed_even_if_it_comes_in_between() {
    let dir = scratch();
    let layers = layers(dir.path());
    let host = real(dir.path());
    let secret = token();
    let outside = mkdir(host.join("outside"));
    mkdir(outside.join("inner"));
    for name in ["file", "inner/file"] {
        fs::write(outside.join(name), &secret).unwrap();
    }
    let kept = mkdir(host.join("kept"));
    let sandbox = tools(Rootfs::layers(&layers).overlay(&kept));
    let outcome = ran(&sandbox, "mkdir -p /out/inner; echo own >/out/file; echo own >/out/inner/file");
    let diff = kept.join("diff/out");
    symlink(&outside, kept.join("diff/link")).unwrap();
    let error = outcome.copy_out("/link/file", host.join("copy")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{error}");
    symlink(outside.join("inner"), diff.join("other")).unwrap();
    symlink(outside.join("file"), diff.join("other-file")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let exchange = |a: &Path, b: &Path| {
        let [a, b] = [a, b].map(|path| std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap());
        // SAFETY: Both paths end in a zero byte, and are only read.
        unsafe { libc::renameat2(libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), libc::RENAME_EXCHANGE) };
    };
    let mut copied = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                exchange(&diff.join("inner"), &diff.join("other"));
                exchange(&diff.join("file"), &diff.join("other-file"));
            }
        });
        for _ in 0..1000 {
            for from in ["/out/file", "/out/inner", "/out/inner/file"] {
                let copy = host.join("copy");
                copied += u32::from(outcome.copy_out(from, &copy).is_ok());
                for file in [copy.clone(), copy.join("file")] {
                    assert!(!fs::read_to_string(file).is_ok_and(|text| text.contains(&secret)), "{from}");
                }
                let _ = if copy.is_dir() { fs::remove_dir_all(&copy) } else { fs::remove_file(&copy) };
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    // The control: some were copied.
    assert!(copied > 0);
}
