//! What a program has changed, as an image: by its own store, and by the tools that people have.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use belljar::{Changes, ErrorKind, Image, Ownership, Rootfs, Sandbox, Store};

use crate::changes::{Scratch, changed, scratch};
use crate::fixtures::{docker, tell_tree};
use crate::harness::{in_memory, is_root, real};
use crate::{docker, for_root, images, skip};

/// Everything that a layer can tell, with the image's busybox.
const SCRIPT: &str = "
    cd /
    echo new >etc/new; echo more >>etc/passwd; chmod 4751 etc/new; touch -d '2001-02-03 04:05:06' etc/new
    mkdir -p srv/a/b srv/closed; ln etc/new srv/hard; ln -s ../etc/new srv/link; mkfifo -m 640 srv/fifo
    echo long >srv/a/$(printf %0120d 7); ln -s $(printf %0150d 8) srv/a/long-link
    echo odd >srv/a/$(printf 'new\\nline \\377'); chmod 1777 srv/closed
    rm -r data/opaque; mkdir data/opaque; echo again >data/opaque/kept
    rm data/linked data/relative-link; echo x >data/modified; mv data/added data/renamed
    rm bin/vi; head -c 100000 /dev/zero >srv/zero
";

/// An image in a store, and a sandbox of it whose root can be changed.
struct Base {
    dir: Scratch,
    image: Image,
    sandbox: Sandbox,
}

fn base(images: &Path, reference: &str, ownership: Ownership) -> Base {
    let dir = scratch();
    let image = Image::options().reference(reference).open(images.join("layout")).unwrap();
    let store = Store::open(real(dir.path()).join("store")).unwrap().ownership(ownership);
    let image = store.unpack(&image).unwrap();
    let sandbox = Sandbox::from_image(&image).rootfs(changeable(&image, dir.path()));
    Base { dir, image, sandbox }
}

/// Where changes are kept that would be in memory.
const KEPT: &str = "in-place-of-memory";

/// The root of an image, with changes in memory where the kernel can, else in a new directory of `dir`.
fn changeable(image: &Image, dir: &Path) -> Rootfs {
    let root = Rootfs::image(image);
    in_memory(root.clone()).unwrap_or_else(|| {
        let kept = real(dir).join(KEPT);
        fs::create_dir(&kept).unwrap();
        root.overlay(kept)
    })
}

/// What a tree looks like inside, without what is mounted there and what changes by looking.
fn unpacked(store: &Path, image: &Image) -> String {
    let store = Store::open(store).unwrap();
    let image = store.unpack(image).unwrap();
    let sandbox = Sandbox::from_image(&image).rootfs(Rootfs::image(&image));
    seen(&sandbox)
}

/// What a program sees of its root: names, types, modes, owners, sizes, times, links and content.
fn seen(sandbox: &Sandbox) -> String {
    let script = "cd /; find . -path ./proc -prune -o -path ./dev -prune -o -path ./tmp -prune -o -print0 | sort -z |
        xargs -0 stat -c '%A %u:%g %h %s %Y %N'; find . -path ./proc -prune -o -path ./dev -prune -o -path ./tmp -prune -o \
        -type f -print0 | sort -z | xargs -0 sha256sum";
    let output = sandbox.command("sh").args(["-ec", script]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn tool(name: &str, args: &[&str]) -> Option<String> {
    let output = match Command::new(name).args(args).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        output => output.unwrap(),
    };
    assert!(output.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// That two lists have the same lines, in the same order: tells those that only one of them has.
#[track_caller]
fn assert_lines(left: &[String], right: &[String]) {
    let only = |of: &[String], other: &[String]| -> Vec<_> {
        of.iter().filter(|line| !other.contains(line)).cloned().collect()
    };
    assert!(left == right, "{:#?}\nand {:#?}", only(left, right), only(right, left));
}

fn ownership() -> Ownership {
    if is_root() { Ownership::Root } else { Ownership::Caller }
}

#[test]
fn a_commit_is_what_the_program_saw() {
    let images = images!();
    let Base { dir, image, sandbox } = base(&images, "third", ownership());
    let changes = changed(&sandbox, SCRIPT);
    println!("{changes}");
    let dir = real(dir.path());
    let when = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for (name, gzip) in [("plain", false), ("packed", true)] {
        let mut commit = changes.commit(&image, "example/new:1").created(when);
        if gzip {
            commit = commit.gzip();
        }
        let layout = commit.write_layout(dir.join(name)).unwrap();
        let archive = commit.write_archive(dir.join(format!("{name}.tar"))).unwrap();
        assert_eq!(layout.digest(), archive.digest(), "the same changes make the same image");
        assert!(layout.reference().unwrap().ends_with("example/new:1"));
        assert_eq!(layout.layers().len(), image.layers().len() + 1);
        assert_eq!(layout.config().env().collect::<Vec<_>>(), image.config().env().collect::<Vec<_>>());
        assert_eq!(layout.config().created(), Some("2001-09-09T01:46:40Z"));
        let media_type = layout.layers().last().unwrap().media_type();
        assert_eq!(media_type.ends_with("+gzip"), gzip, "{media_type}");
        for image in [layout, archive] {
            let tree = unpacked(&dir.join("store"), &image);
            assert!(tree.contains("./srv/hard") && !tree.contains("data/linked'"), "{tree}");
        }
    }
    // The layer alone.
    let mut layer = Vec::new();
    changes.write_layer(&mut layer).unwrap();
    fs::write(dir.join("layer.tar"), &layer).unwrap();
    let listed = tool("tar", &["-tf", dir.join("layer.tar").to_str().unwrap()]).unwrap();
    assert!(listed.contains("data/opaque/.wh..wh..opq\n") && listed.contains("etc/passwd\n"), "{listed}");
    assert!(!listed.contains("proc") && !listed.contains("dev/"), "{listed}");
    // Nothing is left but what was asked for.
    let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names.retain(|name| name != KEPT);
    assert_eq!(names, ["layer.tar", "packed", "packed.tar", "plain", "plain.tar", "store"]);
}

/// The same script again, in the image that it made: nothing is different from what it was.
#[test]
fn what_is_committed_is_in_the_next_sandbox_as_it_was() {
    let images = images!();
    for ownership in [ownership(), Ownership::Caller] {
        let Base { dir, image, sandbox } = base(&images, "second", ownership);
        let kept = real(dir.path()).join("kept");
        fs::create_dir(&kept).unwrap();
        let sandbox = sandbox.rootfs(Rootfs::image(&image).overlay(&kept)).user(0, 0);
        let changes = changed(&sandbox, SCRIPT);
        let before = seen(&sandbox);
        assert!(before.lines().count() > 50, "{before}");
        let image = changes.commit(&image, "next").write_archive(real(dir.path()).join("next.tar")).unwrap();
        let image = Store::open(real(dir.path()).join("store")).unwrap().ownership(ownership).unpack(&image).unwrap();
        let next = Sandbox::from_image(&image).user(0, 0);
        println!("{ownership:?}");
        assert_lines(&lines(&seen(&next)), &lines(&before));
    }
}

/// Without the number of names of directories and their size, which overlayfs does not count.
fn lines(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        match line.starts_with('d') && words.len() > 4 {
            true => [&words[..2], &words[4..]].concat().join(" "),
            false => line.to_owned(),
        }
    };
    // The time of the root itself is in no layer.
    text.lines().filter(|line| !line.ends_with(" .")).map(line).collect()
}

#[test]
fn tools_take_it_and_unpack_the_same_tree() {
    let images = images!();
    for_root!();
    let Base { dir, image, sandbox } = base(&images, "third", Ownership::Root);
    let ids = belljar::IdMap::new(0, 0, 65_536);
    let sandbox = sandbox.uid_map(ids).gid_map(ids).user(0, 0);
    let changes = changed(&sandbox, SCRIPT);
    let dir = real(dir.path());
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let commit = changes.commit(&image, "example/new:1").gzip();
    commit.write_layout(path("layout")).unwrap();
    commit.write_archive(path("image.tar")).unwrap();
    for source in ["oci:layout:example/new:1", "oci-archive:image.tar:example/new:1", "docker-archive:image.tar"] {
        let (kind, rest) = source.split_once(':').unwrap();
        let source = format!("{kind}:{}/{rest}", dir.display());
        let Some(inspected) = tool("skopeo", &["inspect", &source]) else { skip!("there is no skopeo") };
        assert!(inspected.contains("\"Layers\""), "{inspected}");
        let to = format!("oci:{}:copied", path(&format!("copy-{kind}")));
        tool("skopeo", &["--insecure-policy", "copy", "-q", &source, &to]);
    }
    // umoci's tree, of the layout and of a copy, is the store's.
    let Some(_) = tool("umoci", &["unpack", "--image", &format!("{}:example/new:1", path("layout")), &path("bundle")])
    else {
        skip!("there is no umoci")
    };
    tool("umoci", &["unpack", "--image", &format!("{}:copied", path("copy-docker-archive")), &path("bundle-2")]);
    let told = tell_tree(&dir.join("bundle/rootfs"));
    assert_eq!(tell_tree(&dir.join("bundle-2/rootfs")), told);
    for word in ["file 4751", "'srv/hard'", "same as", "fifo 0640", "'data/opaque/kept'"] {
        assert!(told.contains(word), "{word}: {told}");
    }
    // As the program saw it.
    let kept = dir.join("kept");
    fs::create_dir(&kept).unwrap();
    let again = sandbox.rootfs(Rootfs::image(&image).overlay(&kept));
    changed(&again, SCRIPT);
    let before = seen(&again);
    let umoci = Sandbox::new().rootfs(Rootfs::dir(dir.join("bundle/rootfs"))).uid_map(ids).gid_map(ids).user(0, 0);
    assert_lines(&paths(&seen(&umoci)), &paths(&before));
}

/// The names of what was seen, with types, modes and owners.
fn paths(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        [&words[..2], &words[5..]].concat().join(" ")
    };
    let is_told = |line: &&str| line.contains(':') && !line.starts_with(['b', 'c']);
    text.lines().filter(is_told).map(line).collect()
}

#[test]
fn docker_takes_it_and_runs_it() {
    for_root!();
    let (images, docker_root) = (images!(), docker!());
    let Base { dir, image, sandbox } = base(&images, "second", Ownership::Root);
    let ids = belljar::IdMap::new(0, 0, 65_536);
    let changes = changed(&sandbox.uid_map(ids).gid_map(ids).user(0, 0), SCRIPT);
    let dir = real(dir.path());
    changes.commit(&image, "example/new:1").write_archive(dir.join("image.tar")).unwrap();
    changes.commit(&image, "example/new:2").gzip().write_layout(dir.join("layout")).unwrap();
    let script = "docker load -q -i image.tar
        docker run --rm --network none --user 0 example/new:1 sh -c 'cat /etc/new /data/opaque/kept; ls /data/opaque; stat -c %a /etc/new'
        mkdir tree; docker export $(docker create --network none example/new:1 true) | tar -C tree -xf -
        cd tree; rm .dockerenv etc/hosts etc/hostname etc/resolv.conf etc/mtab; find dev -mindepth 1 -delete";
    let output = docker(&docker_root, &dir, script);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text, "Loaded image: example/new:1\nnew\nagain\nkept\n4751\n");
    let layout = format!("{}:example/new:2", dir.join("layout").display());
    let Some(_) = tool("umoci", &["unpack", "--image", &layout, dir.join("bundle").to_str().unwrap()]) else {
        skip!("there is no umoci")
    };
    let without = |tree: String| -> Vec<String> {
        let is_dockers = |line: &&str| {
            let own = ["'etc/hosts'", "'etc/hostname'", "'etc/resolv.conf'", "'etc/mtab'", "'dev", "'proc", "'sys"];
            !own.iter().any(|name| line.contains(name)) && !line.contains(" 'etc' ") && !line.ends_with(" '.'")
        };
        let line = |line: &str| line.split(" user.").next().unwrap().split(" security.").next().unwrap().to_owned();
        tree.lines().filter(is_dockers).map(line).collect()
    };
    assert_lines(&without(tell_tree(&dir.join("tree"))), &without(tell_tree(&dir.join("bundle/rootfs"))));
}

#[test]
fn owners_in_a_map_of_one_id_are_those_of_the_base() {
    let images = images!();
    let Base { dir, image, sandbox } = base(&images, "nonroot", Ownership::Caller);
    assert_eq!(image.config().user(), "65532");
    let changes = changed(&sandbox, "echo x >>/etc/passwd; mkdir /home/mine; echo y >/home/mine/y; chmod 700 /etc");
    let layer = real(dir.path()).join("layer.tar");
    changes.write_layer(fs::File::create(&layer).unwrap()).unwrap();
    let listed = tool("tar", &["--numeric-owner", "-tvf", layer.to_str().unwrap()]).unwrap();
    let owner = |path: &str| {
        let line = listed.lines().find(|line| line.ends_with(path)).unwrap_or_else(|| panic!("{path}: {listed}"));
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    // What was there keeps the owner that the base tells, though inside it was the program's; what is new is the program's.
    assert_eq!(owner(" etc/passwd"), "0/0");
    assert_eq!(owner(" etc/"), "0/0");
    assert_eq!(owner(" home/mine/"), "65532/65532");
    assert_eq!(owner(" home/mine/y"), "65532/65532");
}

#[test]
fn owners_are_those_inside() {
    for_root!();
    crate::memory!();
    let ids = belljar::IdMap::new(0, 100_000, 1000);
    let sandbox = Sandbox::new().rootfs(Rootfs::host().ephemeral()).uid_map(ids).gid_map(ids);
    let dir = scratch();
    for (uid, gid) in [(0, 0), (5, 7)] {
        // Somebody else than root may not write to the root itself.
        let sandbox = sandbox.clone().user(uid, gid).capabilities(belljar::Capabilities::DAC_OVERRIDE);
        let changes = changed(&sandbox, "echo x >/x");
        let layer = real(dir.path()).join("layer.tar");
        changes.write_layer(fs::File::create(&layer).unwrap()).unwrap();
        let listed = tool("tar", &["--numeric-owner", "-tvf", layer.to_str().unwrap()]).unwrap();
        assert!(listed.contains(&format!(" {uid}/{gid} ")) && listed.ends_with(" x\n"), "{listed}");
    }
}

/// Tries `commit`, and tells that nothing is left of it.
fn refused(changes: &Changes, image: &Image, dir: &Path) -> belljar::Error {
    let before = fs::read_dir(dir).unwrap().count();
    let archive = changes.commit(image, "example/new:1").write_archive(dir.join("new.tar")).unwrap_err();
    let layout = changes.commit(image, "example/new:1").gzip().write_layout(dir.join("new")).unwrap_err();
    assert_eq!((archive.kind(), archive.path()), (layout.kind(), layout.path()));
    assert_eq!(fs::read_dir(dir).unwrap().count(), before, "nothing is left");
    layout
}

#[test]
fn what_a_layer_can_not_tell_is_refused() {
    crate::memory!();
    let images = images!();
    let Base { dir, image, sandbox } = base(&images, "base", ownership());
    let dir = real(dir.path());
    for (script, path) in [
        ("echo x >/etc/.wh.passwd", "/etc/.wh.passwd"),
        ("mkdir /etc/.wh..wh..opq", "/etc/.wh..wh..opq"),
        ("mkdir /a; ln -s x /a/.wh.", "/a/.wh."),
    ] {
        let error = refused(&changed(&sandbox, script), &image, &dir);
        assert_eq!((error.kind(), error.path()), (ErrorKind::InvalidImage, Some(Path::new(path))), "{error}");
    }
    let changes = changed(&sandbox, "echo x >/x; truncate -s 1024G /sparse");
    assert_eq!(refused(&changes, &image, &dir).raw_os_error(), Some(libc::EFBIG));
    let good = changed(&sandbox, "echo x >/x");
    for reference in ["", "UPPER", "a b", "../x"] {
        let error = good.commit(&image, reference).write_archive(dir.join("new.tar")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPolicy, "{reference}: {error}");
    }
    fs::write(dir.join("there"), "mine").unwrap();
    let error = good.commit(&image, "new").write_archive(dir.join("there")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EEXIST), "{error}");
    assert_eq!(fs::read_to_string(dir.join("there")).unwrap(), "mine");
    if !is_root() {
        let error = refused(&changed(&sandbox, "echo x >/x; chmod 0 /x"), &image, &dir);
        assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
    }
}

/// A base whose layer is not what it is named by is found out, and nothing is made of it.
#[test]
fn a_base_that_was_changed_is_refused() {
    let images = images!();
    let dir = scratch();
    let dir = real(dir.path());
    let copy = dir.join("base.tar");
    fs::copy(images.join("docker-buildah.tar"), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
    let image = Image::open(&copy).unwrap();
    let store = Store::open(dir.join("store")).unwrap();
    let image = store.unpack(&image).unwrap();
    let sandbox = Sandbox::from_image(&image).user(0, 0).rootfs(changeable(&image, &dir));
    let changes = changed(&sandbox, "echo x >/x");
    changes.commit(&image, "good").write_archive(dir.join("good.tar")).unwrap();
    let mut bytes = fs::read(&copy).unwrap();
    let start = bytes.windows(7).position(|name| name == b"busybox").unwrap();
    bytes[start + 4096] ^= 1;
    fs::write(&copy, bytes).unwrap();
    let error = refused(&changes, &image, &dir);
    assert_eq!(error.kind(), ErrorKind::InvalidImage, "{error}");
}

/// Changes say nothing of other layers than those that they were made to.
#[test]
fn another_base_is_refused() {
    let images = images!();
    let Base { dir, sandbox, .. } = base(&images, "second", Ownership::Caller);
    let dir = real(dir.path());
    let changes = changed(&sandbox.user(0, 0), "echo x >/x");
    let open = |reference: &str| Image::options().reference(reference).open(images.join("layout")).unwrap();
    for other in ["base", "third"] {
        let error = refused(&changes, &open(other), &dir);
        assert_eq!(error.kind(), ErrorKind::InvalidPolicy, "{error}");
        assert!(error.to_string().ends_with("the changes were made to another image"), "{error}");
    }
    // The same image is the same, wherever it is opened.
    changes.commit(&open("second"), "good").write_archive(dir.join("good.tar")).unwrap();
}

/// The commands of one container, in docker and here.
const SAME: &str = "
    cd /
    echo new >etc/new; echo more >>etc/passwd; chmod 600 etc/group
    rm -r data/opaque; mkdir data/opaque; echo again >data/opaque/both; echo x >data/modified
    rm data/linked; mv data/added data/renamed; rm -r data/dir-to-file; echo file >data/dir-to-file
    rm data/empty; mkdir data/empty; echo x >data/empty/x; ln -sf empty data/relative-link; touch data/touched
    mkdir -p opt/x; mv opt/x opt/y; echo 1 >opt/y/1; ln opt/y/1 opt/y/2; ln -s 1 opt/y/3
    mv etc/new etc/renamed; mkdir -p srv/deep/deeper; touch srv/deep/deeper/file
    mkdir -p srv/n/sub; echo x >srv/n/sub/z; rm -r data/file-to-dir; mv srv/n/sub data/file-to-dir
    rm bin/vi; chmod 711 root; rmdir run; echo file >run
";

#[test]
fn docker_diff_says_the_same() {
    for_root!();
    let (images, docker_root) = (images!(), docker!());
    for tag in ["second", "third"] {
        let Base { dir, sandbox, .. } = base(&images, tag, Ownership::Root);
        let ids = belljar::IdMap::new(0, 0, 65_536);
        let changes = changed(&sandbox.uid_map(ids).gid_map(ids).user(0, 0), SAME);
        let dir = real(dir.path());
        let from = format!("oci:{}:{tag}", images.join("layout").display());
        let to = format!("docker-archive:{}:t/image:1", dir.join("base.tar").display());
        let Some(_) = tool("skopeo", &["--insecure-policy", "copy", "-q", &from, &to]) else {
            skip!("there is no skopeo")
        };
        fs::write(dir.join("script"), SAME).unwrap();
        let script = "docker load -q -i base.tar >/dev/null
            docker create -i --name same --network none --user 0 --entrypoint sh t/image:1 -eu >/dev/null
            docker start -ai same <script; docker diff same";
        let output = docker(&docker_root, &dir, script);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let mut theirs: Vec<_> = text.lines().map(str::to_owned).collect();
        let own: Vec<_> = changes.to_string().lines().map(str::to_owned).collect();
        // Docker also tells the directories above a change as changed.
        let is_above = |line: &String| {
            let path = line.strip_prefix("C ").map(PathBuf::from);
            path.is_some_and(|path| {
                !own.contains(line)
                    && changes.iter().any(|change| change.path() != path && change.path().starts_with(&path))
            })
        };
        theirs.retain(|line| !is_above(line));
        theirs.sort_by(|a, b| Path::new(&a[2..]).cmp(Path::new(&b[2..])));
        assert_lines(&own, &theirs);
        for line in ["D /data/file-to-dir/file", "A /data/file-to-dir/z", "D /data/opaque/", "C /run"] {
            assert!(own.iter().any(|own| own.starts_with(line)), "{line}: {own:?}");
        }
    }
}
