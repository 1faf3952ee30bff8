//! The store: layers of real images, unpacked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use belljar::{Capabilities, ErrorKind, IdMap, Image, Ownership, Rootfs, Sandbox, Store};

use crate::harness::{is_root, real, sh, temp_dir};
use crate::{images, skip};

/// Where Python is inside, and what else is there that no image has brought.
const NOT_OF_THE_IMAGE: &str = r#"e in (b"belljar-test", b"proc", b"dev", b"tmp", b"sys")"#;

/// What is in the root of a sandbox, as `tests/tell-tree` tells it from inside.
pub(crate) fn tell_inside(sandbox: Sandbox) -> Vec<String> {
    let program = include_str!("../tell-tree");
    let all = "sorted(os.listdir(path))";
    let program = program
        .replace(all, &format!(r#"sorted(e for e in os.listdir(path) if not (name == b"." and {NOT_OF_THE_IMAGE}))"#));
    let arch = std::env::consts::ARCH;
    let loader = match arch {
        "x86_64" => real("/lib64/ld-linux-x86-64.so.2"),
        _ => real("/lib/ld-linux-aarch64.so.1"),
    };
    let loader = Path::new("/belljar-test").join(loader.strip_prefix("/usr").unwrap());
    let sandbox = sandbox
        .bind_ro("/usr", "/belljar-test")
        .capabilities(Capabilities::DAC_OVERRIDE | Capabilities::DAC_READ_SEARCH);
    let mut command = sandbox.command(loader);
    command.args(["--library-path", &format!("/belljar-test/lib/{arch}-linux-gnu"), "/belljar-test/bin/python3"]);
    command.args(["-c", &program, "/"]).env("PYTHONHOME", "/belljar-test").env("PYTHONUTF8", "1").current_dir("/");
    let output = command.output().unwrap();
    assert!(output.outcome.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The same of what `umoci` or another has unpacked: without what a sandbox has of its own, and devices.
fn told(text: &str) -> Vec<String> {
    let of_the_image = |line: &&str| {
        let path = line.split('\'').nth(1).unwrap();
        let first = path.split('/').next().unwrap();
        !["proc", "dev", "tmp", "sys"].contains(&first) && !line.starts_with("char ") && !line.starts_with("block ")
    };
    text.lines().filter(of_the_image).map(str::to_owned).collect()
}

/// Without the words that begin with one of these.
fn without(lines: &[String], prefixes: &[&str]) -> Vec<String> {
    let kept = |word: &&str| !prefixes.iter().any(|prefix| word.starts_with(prefix));
    lines.iter().map(|line| line.split(' ').filter(kept).collect::<Vec<_>>().join(" ")).collect()
}

/// Without who the files belong to.
fn without_owners(lines: &[String]) -> Vec<String> {
    let word = |(index, word): (usize, &str)| if index == 2 { "-".to_owned() } else { word.to_owned() };
    lines.iter().map(|line| line.split(' ').enumerate().map(word).collect::<Vec<_>>().join(" ")).collect()
}

/// A temporary directory with a store: the directories in there may have no mode, and std can't remove those.
pub(crate) struct Removable(pub(crate) tempfile::TempDir);

impl Removable {
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Removable {
    fn drop(&mut self) {
        let _ = Command::new("chmod").args(["-R", "u+rwX"]).arg(self.path()).output();
    }
}

fn store() -> (Removable, Store) {
    let dir = Removable(temp_dir());
    let store = Store::open(real(dir.path()).join("store")).unwrap();
    (dir, store)
}

fn open(images: &Path, tag: &str) -> Image {
    Image::options().reference(tag).open(images.join("layout")).unwrap()
}

/// The image as root inside, with the ids that its files belong to.
fn as_root(image: &Image) -> Sandbox {
    let sandbox = Sandbox::new().rootfs(Rootfs::image(image)).user(0, 0);
    match image.ownership() {
        Some(Ownership::Root) => {
            let all = IdMap::new(0, 0, u32::MAX);
            sandbox.uid_map(all).gid_map(all)
        }
        _ => sandbox,
    }
}

#[track_caller]
fn assert_same(what: &str, found: &[String], expected: &[String]) {
    let missing: Vec<_> = expected.iter().filter(|line| !found.contains(line)).collect();
    let more: Vec<_> = found.iter().filter(|line| !expected.contains(line)).collect();
    assert!(missing.is_empty() && more.is_empty(), "{what}: missing {missing:#?}\nmore {more:#?}");
    assert_eq!(found.len(), expected.len(), "{what}");
}

/// What is not as umoci has it: see the table in tests/README.md.
fn expected(images: &Path, tag: &str) -> Vec<String> {
    let text = fs::read_to_string(images.join("trees").join(tag)).unwrap();
    let mut lines = told(&text);
    match tag {
        // A link to a file of a layer below is a copy: overlayfs would part them at the first change, too.
        "strict" => {
            let link = " same as 'data/hard-to-lower'";
            let kept = lines.iter_mut().find(|line| line.ends_with(link)).unwrap();
            kept.truncate(kept.len() - link.len());
        }
        // umoci takes the link in place of a directory for the way to what a whiteout hides, and removes another file.
        "replaced" => {
            let base = fs::read_to_string(images.join("trees/base")).unwrap();
            lines.extend(base.lines().filter(|line| line.contains("'data/mode-changes/file'")).map(str::to_owned));
        }
        // As docker has it: what another layer has is no way to somewhere else. umoci goes through the link.
        "through" => {
            let link = lines.iter().position(|line| line.contains("'var/run' ->")).unwrap();
            lines[link] = "dir 0755 0:0 'var/run'".to_owned();
            let file = lines.iter_mut().find(|line| line.contains("'run/through'")).unwrap();
            let file = std::mem::take(file).replace("'run/through'", "'var/run/through'");
            lines.retain(|line| !line.is_empty());
            lines.push(file);
        }
        _ => {}
    }
    // What gives a program rights is left out.
    without(&lines, &["security."])
}

const TAGS: [&str; 10] = ["base", "second", "replaced", "third", "hand", "strict", "through", "v7", "ustar", "gnu"];

#[test]
fn every_image_unpacks_to_the_tree_of_umoci() {
    let images = images!();
    let (_dir, store) = store();
    for tag in TAGS {
        let image = store.unpack(&open(&images, tag)).unwrap();
        let found = tell_inside(as_root(&image));
        let expected = expected(&images, tag);
        match is_root() {
            true => assert_same(tag, &found, &expected),
            false => {
                let found = without(&without_owners(&found), &["user.rootlesscontainers="]);
                assert_same(tag, &found, &without_owners(&expected));
            }
        }
        assert_eq!(image.ownership(), Some(if is_root() { Ownership::Root } else { Ownership::Caller }));
    }
    assert_eq!(store.unpack(&open(&images, "base")).unwrap().left_out(), (2, 1), "two devices, and a capability");
}

/// The range that a file gives the caller.
fn range(file: &str) -> Option<(u32, u32)> {
    let name = Command::new("id").arg("-un").output().unwrap().stdout;
    let name = String::from_utf8(name).unwrap();
    let text = fs::read_to_string(file).ok()?;
    let mut fields = text.lines().find_map(|line| line.strip_prefix(name.trim())?.strip_prefix(':'))?.split(':');
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[test]
fn subordinate_ids_keep_owners_apart() {
    let images = images!();
    let (dir, store) = store();
    let store = store.ownership(Ownership::Subordinate);
    let (Some(uids), Some(gids)) = (range("/etc/subuid"), range("/etc/subgid")) else {
        let error = store.unpack(&open(&images, "base")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("usermod --add-subuids")), "{error}");
        return;
    };
    let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    for tag in ["base", "second", "third", "strict"] {
        let image = store.unpack(&open(&images, tag)).unwrap();
        let sandbox = Sandbox::new().rootfs(Rootfs::image(&image)).user(0, 0);
        let sandbox = sandbox.uid_map(IdMap::new(0, own.0, 1)).uid_map(IdMap::new(1, uids.0, uids.1));
        let sandbox = sandbox.gid_map(IdMap::new(0, own.1, 1)).gid_map(IdMap::new(1, gids.0, gids.1));
        assert_same(tag, &tell_inside(sandbox), &expected(&images, tag));
        store.remove(&open(&images, tag)).unwrap_err();
        drop(image);
        store.remove(&open(&images, tag)).unwrap();
    }
    assert!(store.collect().unwrap().layers >= 4, "the caller could not remove them");
    assert_eq!(fs::read_dir(dir.path().join("store/work")).unwrap().count(), 0);
}

#[test]
fn sparse_files_are_refused_and_leave_nothing() {
    let images = images!();
    let (dir, store) = store();
    for tag in ["gnu-sparse", "pax"] {
        let error = store.unpack(&open(&images, tag)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidImage);
        assert!(error.to_string().contains("it is a sparse file"), "{error}");
    }
    assert_eq!(fs::read_dir(dir.path().join("store/work")).unwrap().count(), 0);
}

#[test]
fn every_form_unpacks_to_the_same_tree() {
    let images = images!();
    let (_dir, store) = store();
    let third = expected(&images, "third");
    for form in ["oci.tar", "oci-zstd.tar", "oci-plain", "docker-legacy.tar"] {
        let image = store.unpack(&Image::open(images.join(form)).unwrap()).unwrap();
        let found = tell_inside(as_root(&image));
        match is_root() {
            true => assert_same(form, &found, &third),
            false => assert_same(
                form,
                &without(&without_owners(&found), &["user.rootlesscontainers="]),
                &without_owners(&third),
            ),
        }
    }
    for (form, tree) in
        [("docker-hybrid.tar", "docker"), ("oci-buildah.tar", "buildah"), ("docker-buildah.tar", "buildah")]
    {
        let Ok(image) = Image::open(images.join(form)) else { skip!("there is no image {form}") };
        let image = store.unpack(&image).unwrap();
        let leave = ["security.", "user."];
        let found = without(&without_owners(&tell_inside(as_root(&image))), &leave);
        assert_same(form, &found, &without(&without_owners(&expected(&images, tree)), &leave));
    }
    let multi = store.unpack(&Image::options().reference("both").open(images.join("multi-platform")).unwrap()).unwrap();
    assert!(!tell_inside(as_root(&multi)).is_empty());
}

/// The caller's own unpacking by `umoci`, of which the root is returned.
fn umoci(images: &Path, tag: &str, dir: &Path) -> PathBuf {
    let bundle = dir.join(format!("bundle-{tag}"));
    let mut command = Command::new("umoci");
    command.args(["unpack", "--rootless", "--image"]).arg(format!("{}:{tag}", images.join("layout").display()));
    let output = command.arg(&bundle).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    bundle.join("rootfs")
}

#[test]
fn owners_are_kept_as_umoci_keeps_them() {
    let images = images!();
    if is_root() {
        // umoci takes root for what it is.
        return;
    }
    let (dir, store) = store();
    for tag in ["base", "second", "third", "hand", "gnu"] {
        let root = umoci(&images, tag, &real(dir.path()));
        let theirs = tell_inside(Sandbox::new().rootfs(Rootfs::dir(&root)).user(0, 0));
        let ours = tell_inside(as_root(&store.unpack(&open(&images, tag)).unwrap()));
        // For a device, umoci makes an empty file.
        let theirs: Vec<_> =
            theirs.into_iter().filter(|line| !line.contains("'data/disk'") && !line.contains("'data/null'")).collect();
        assert_same(tag, &ours, &theirs);
        let made = Command::new("chmod").args(["-R", "u+rwX"]).arg(&root).status().unwrap();
        assert!(made.success());
    }
}

#[test]
fn a_large_image_is_unpacked_once_and_runs() {
    let images = images!();
    let dir = temp_dir();
    let store = Store::open(real(dir.path()).join("store")).unwrap();
    let image = store.unpack(&Image::open(images.join("large.tar")).unwrap()).unwrap();
    assert!(sh(&Sandbox::from_image(&image), "cat /etc/os-release").contains("trixie"));
    let mut told = Vec::new();
    let again = store.unpack_with(&image, |progress| told.push(progress.bytes)).unwrap();
    assert_eq!(told, [0, again.size()], "nothing was read");
}
