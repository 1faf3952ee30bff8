//! U01 to U21: layers that are made to reach out of their directory, or to be half there. Judged by a tree beside the
//! store, and by what is left in it.

use belljar::{Error, ErrorKind, Layer, Ownership, Rootfs, Sandbox, UnpackLimits};

use crate::harness::is_root;
use crate::store::tell_inside;
use crate::store_made::{Place, Tar, image};

fn tar() -> Tar {
    Tar::default()
}

/// What is in the image, by name: type, mode, and what a link leads to.
fn tree(place: &Place, layers: &[Tar]) -> Vec<String> {
    let image = place.store.unpack(&image(layers).1).unwrap();
    let lines = tell_inside(Sandbox::new().rootfs(Rootfs::image(&image)).user(0, 0));
    lines.iter().skip(1).map(|line| short(line)).collect()
}

fn short(line: &str) -> String {
    let (front, back) = line.split_once('\'').unwrap();
    let mut front = front.split(' ');
    let (name, more) = back.split_once('\'').unwrap();
    let more = more.split(" same as").next().filter(|more| more.starts_with(" ->")).unwrap_or_default();
    format!("{} {} {name}{more}", front.next().unwrap(), front.next().unwrap())
}

#[track_caller]
fn assert_refused(place: &Place, what: &str, layers: &[Tar], words: &str) -> Error {
    let finished = place.names("layers").len();
    let error = place.unpack(layers).map(drop).expect_err(what);
    assert_eq!((error.layer(), error.kind()), (Layer::Image, ErrorKind::InvalidImage), "{what}: {error}");
    assert!(error.to_string().contains(words), "{what}: {error}: not {words}");
    place.assert_untouched(what);
    assert!(place.names("layers").len() < finished + layers.len(), "{what}: the refused layer is not there");
    error
}

#[test]
fn u01_names_that_lead_elsewhere() {
    let place = Place::new();
    for name in ["../x", "a/../../x", "..", "./..//x", "/../x", "../canary/secret", "a/../x"] {
        assert_refused(&place, name, &[tar().file(name, "x")], "leads upwards");
    }
    let absolute = place.canary("secret");
    let found = tree(&place, &[tar().file(&absolute, "x").file("//y", "").file(r"C:\z", "").file(r"..\w", "")]);
    // The temporary directory is one of the sandbox's own: what is below it is covered.
    let names = [r"file 0644 ..\\w", r"file 0644 C:\\z", "file 0644 y"];
    assert_eq!(
        found.iter().filter(|line| line.starts_with("file")).collect::<Vec<_>>(),
        names.iter().collect::<Vec<_>>()
    );
    place.assert_untouched("absolute names");
}

#[test]
fn u03_links_are_no_way_for_what_comes_after_them() {
    let place = Place::new();
    let out = place.canary("dir");
    for target in [out.as_str(), "../../../../canary/dir", "."] {
        let link = tar().dir("a", 0o755).symlink("a/d", target);
        let way = "stands in its way";
        assert_refused(&place, target, &[link.clone().file("a/d/file", "x")], way);
        assert_refused(&place, target, &[link.clone().dir("a/d/sub", 0o777)], way);
        assert_refused(&place, target, &[link.clone().symlink("a/d/file", "x")], way);
        assert_refused(&place, target, &[link.clone().entry(b'6', "a/d/fifo", "", 0o644)], way);
        assert_refused(&place, target, &[link.clone().file("f", "").hard_link("a/d/file", "f")], way);
        assert_refused(&place, target, &[link.clone().hard_link("copy", "a/d/file")], way);
        // The directory itself, after the link or before it: the last one is there, or none.
        assert_eq!(tree(&place, &[link.clone().dir("a/d", 0o700)]), ["dir 0755 a", "dir 0700 a/d"]);
        assert_refused(&place, target, &[tar().dir("d", 0o755).symlink("d", target)], way);
        // Hiding what is behind a link hides nothing: the link does.
        let marks = link.clone().file("a/d/.wh.file", "").file("a/d/.wh..wh..opq", "").file("a/d/sub/.wh.file", "");
        assert_eq!(
            tree(&place, &[tar().file("a/d/file", "x"), marks]),
            ["dir 0755 a".to_owned(), format!("link 0777 a/d' -> '{target}'").replacen('\'', "", 1)]
        );
        place.assert_untouched(target);
    }
}

#[test]
fn u05_hard_links() {
    let place = Place::new();
    let secret = place.canary("secret");
    assert_refused(&place, "absolute", &[tar().hard_link("x", &secret)], "no file of this layer");
    assert_refused(&place, "upwards", &[tar().hard_link("x", "../canary/secret")], "leads upwards");
    assert_refused(&place, "nowhere", &[tar().hard_link("x", "y")], "no file of this layer");
    assert_refused(&place, "a directory", &[tar().dir("d", 0o755).hard_link("x", "d")], "no file");
    assert_refused(
        &place,
        "over a directory",
        &[tar().file("f", "").dir("d", 0o755).hard_link("d", "f")],
        "in its way",
    );
    // A name of a link is a link, and a file in its place is a file.
    let link = tar().symlink("s", &secret).hard_link("h", "s");
    let target = format!("-> '{secret}'");
    assert_eq!(
        tree(&place, std::slice::from_ref(&link)),
        [format!("link 0777 h {target}"), format!("link 0777 s {target}")]
    );
    assert_eq!(tree(&place, &[link.file("h", "x")]), ["file 0644 h".to_owned(), format!("link 0777 s {target}")]);
    place.assert_untouched("links");
}

#[test]
fn u05_hard_links_to_the_layers_below() {
    let place = Place::new();
    let base = tar().file("a/f", "x").symlink("s", "a/f").dir("d", 0o755).entry(b'6', "p", "", 0o644);
    let link = tar().hard_link("h", "a/f");
    let nothing = "no file of this layer or of one below";
    assert!(tree(&place, &[base.clone(), link.clone()]).contains(&"file 0644 h".to_owned()));
    assert!(
        tree(&place, &[base.clone(), tar().file("unrelated", ""), link.clone()]).contains(&"file 0644 h".to_owned())
    );
    // A file that is there already makes way for it, a directory does not.
    assert!(
        tree(&place, &[base.clone(), tar().file("h", "").hard_link("h", "a/f")]).contains(&"file 0644 h".to_owned())
    );
    assert_refused(&place, "directory", &[base.clone(), tar().dir("h", 0o755).hard_link("h", "a/f")], "in its way");
    for (what, between) in [
        ("a whiteout", tar().file("a/.wh.f", "")),
        ("a whiteout above", tar().file(".wh.a", "")),
        ("an opaque directory", tar().dir("a", 0o755).file("a/.wh..wh..opq", "")),
        ("an opaque root", tar().file(".wh..wh..opq", "")),
        ("a file in place of the directory", tar().file("a", "")),
        ("a link in place of the directory", tar().symlink("a", "d")),
        ("a directory in place of the file", tar().dir("a/f", 0o755)),
    ] {
        assert_refused(&place, what, &[base.clone(), between, link.clone()], nothing);
    }
    for other in ["s", "d", "p", "s/f", "a/f/x"] {
        assert_refused(&place, other, &[base.clone(), tar().hard_link("h", other)], nothing);
    }
    // What is copied is bounded, as what is told is.
    let big = Tar::default().file("big", vec![1; 1 << 20]);
    let links = (0..10).fold(tar(), |tar, number| tar.hard_link(format!("l{number}"), "big"));
    let small = place.store.clone().limits(UnpackLimits::new().bytes(5 << 20));
    let error = small.unpack(&image(&[big, links]).1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidImage);
    assert!(error.to_string().contains("\"l5\": more is copied"), "{error}");
    place.assert_untouched("copies");
}

#[test]
fn u06_links_and_directories_of_different_layers() {
    let place = Place::new();
    let out = place.canary("dir");
    let link = tar().symlink("d", &out);
    assert_eq!(tree(&place, &[link.clone(), tar().file("d/file", "x")]), ["dir 0755 d", "file 0644 d/file"]);
    tree(&place, &[link.clone(), tar().file("d/.wh.file", "").file("d/.wh..wh..opq", "")]);
    place.assert_untouched("a whiteout through a link below");
    let layers = [tar().dir("d", 0o755).file("d/old", ""), link, tar().file("d/file", "x")];
    assert_eq!(tree(&place, &layers), ["dir 0755 d", "file 0644 d/file"]);
    place.assert_untouched("three layers");
}

#[test]
fn u07_whiteouts_of_nothing() {
    let place = Place::new();
    for name in [".wh.", ".wh..", ".wh...", ".wh.../x", "d/.wh.", ".wh.a/b", ".wh..wh.plnk", "d/.wh..wh.aufs"] {
        assert_refused(&place, name, &[tar().file(name, "")], name);
    }
    assert_refused(&place, ".wh.a/../../b", &[tar().file(".wh.a/../../b", "")], "leads upwards");
    assert_refused(&place, "with content", &[tar().file(".wh.a", "x")], "no empty file");
    assert_refused(&place, "a device", &[tar().entry(b'3', "x", "", 0o644)], "overlayfs");
    let twice = tar().file(".wh.a", "").file(".wh.a", "").file(".wh..wh..opq", "").file(".wh..wh..opq", "");
    assert_eq!(tree(&place, &[tar().file("a", "").file("b", ""), twice]), [""; 0]);
    place.assert_untouched("twice");
}

#[test]
fn u18_what_is_there_twice_is_what_came_last_or_refused() {
    let place = Place::new();
    let out = place.canary("secret");
    let kinds = ["file", "dir", "link", "hard link", "fifo", "device", "opaque"];
    let add = |tar: Tar, kind: &str| match kind {
        "file" => tar.file_of("x", "content", 0o600, (0, 0)),
        "dir" => tar.dir("x", 0o711),
        "link" => tar.symlink("x", &out),
        "hard link" => tar.hard_link("x", "y"),
        "fifo" => tar.entry(b'6', "x", "", 0o622),
        "opaque" => tar.file("x/.wh..wh..opq", ""),
        _ => tar.pax(&[]).entry(b'4', "x", "", 0o644),
    };
    let told = |kind: &str| match kind {
        "file" => "file 0600 x".to_owned(),
        "dir" => "dir 0711 x".to_owned(),
        "link" => format!("link 0777 x -> '{out}'"),
        "hard link" => "file 0644 x".to_owned(),
        _ => "fifo 0622 x".to_owned(),
    };
    for first in kinds {
        for second in kinds {
            let what = format!("{first}, then {second}");
            let layer = add(add(tar().file("y", ""), first), second);
            let is_dir = |kind| kind == "dir";
            let not_made = |kind| kind == "device" || kind == "opaque";
            if is_dir(first) && !is_dir(second) && !not_made(second) {
                assert_refused(&place, &what, &[layer], "in its way");
                continue;
            }
            let found = tree(&place, &[layer]);
            let last = if not_made(second) { first } else { second };
            let expected = match last {
                "device" if first == "opaque" || second == "opaque" => Some("dir 0755 x".to_owned()),
                "opaque" => Some("dir 0755 x".to_owned()),
                "device" => None,
                last => Some(told(last)),
            };
            assert_eq!(found.iter().find(|line| line.contains(" x")), expected.as_ref(), "{what}");
            place.assert_untouched(&what);
        }
    }
}

#[test]
fn u20_entries_before_their_parents() {
    let place = Place::new();
    let child = tar().file("p/c", "x");
    assert_eq!(tree(&place, &[child.clone().dir("p", 0o700)]), ["dir 0700 p", "file 0644 p/c"]);
    assert_eq!(tree(&place, &[child.clone().dir("p", 0)]), ["dir 0000 p", "file 0644 p/c"]);
    assert_eq!(tree(&place, &[child.clone().dir("p", 0o700).dir("p", 0o555)]), ["dir 0555 p", "file 0644 p/c"]);
    assert_refused(&place, "a link", &[child.clone().symlink("p", place.canary(""))], "in its way");
    assert_refused(&place, "a file", &[child.clone().file("p", "")], "in its way");
    assert_refused(&place, "the other way round", &[tar().file("p", "").file("p/c/d", "")], "in its way");
}

#[test]
fn u20_directories_without_an_entry_are_as_the_layers_below_have_them() {
    let place = Place::new();
    let base = tar().dir("spool", 0o1777).dir("root", 0o700).dir("gone", 0o700).dir("same", 0o711);
    let upper = tar().file("spool/file", "").file("root/deep/file", "").file("root/.wh.none", "");
    let upper = upper.file(".wh.gone", "").file("gone/file", "").file("same/.wh..wh..opq", "");
    let found = tree(&place, &[base, tar().file("other", ""), upper.clone()]);
    for line in ["dir 1777 spool", "dir 0700 root", "dir 0755 root/deep", "dir 0755 gone", "dir 0711 same"] {
        assert!(found.contains(&line.to_owned()), "{line}: {found:?}");
    }
    // The same layer over something else is not that one.
    let found = tree(&place, &[tar().dir("spool", 0o750), upper]);
    assert!(found.contains(&"dir 0750 spool".to_owned()) && found.contains(&"dir 0755 root".to_owned()), "{found:?}");
}

#[test]
fn u10_and_u21_modes_and_times() {
    let place = Place::new();
    let locked = tar().dir("d", 0).file_of("d/f", "x", 0, (0, 0)).dir("r", 0o555).file("r/f", "").dir("r/d", 0);
    let found = tree(&place, &[locked.file_of("all", "", 0o7777, (0, 0)).dir("s", 0o3777)]);
    let all =
        ["file 7777 all", "dir 0000 d", "file 0000 d/f", "dir 0555 r", "dir 0000 r/d", "file 0644 r/f", "dir 3777 s"];
    assert_eq!(found, all);
    for (time, told) in [("-1", -1), ("-9000000000", i64::MIN), ("99999999999", i64::MAX), ("1.999999999", 1)] {
        let image = place.unpack(&[tar().pax(&[("mtime", time.as_bytes())]).file("f", "")]).unwrap();
        let lines = tell_inside(Sandbox::new().rootfs(Rootfs::image(&image)).user(0, 0));
        let found: i64 = lines[1].split(' ').nth(6).unwrap().parse().unwrap();
        // A file system clamps what it can't hold.
        assert!(
            found == told || told == i64::MIN && found < -1 || told == i64::MAX && found > 1 << 31,
            "{found} {time}"
        );
    }
    place.unpack(&[tar().pax(&[("mtime", b"NaN")]).file("f", "")]).unwrap_err();
    place.store.remove(&image(&[tar()]).1).unwrap();
    place.assert_untouched("modes and times");
}

#[test]
fn u11_attributes() {
    let place = Place::new();
    let attribute = |name: &str, value: &[u8]| tar().pax(&[(&format!("SCHILY.xattr.{name}"), value)]).file("f", "x");
    let told = |tar: Tar| {
        let image = place.unpack(&[tar]).unwrap();
        let lines = tell_inside(Sandbox::new().rootfs(Rootfs::image(&image)).user(0, 0));
        (lines[1].split(' ').skip(7).collect::<Vec<_>>().join(" "), image.left_out())
    };
    assert_eq!(told(attribute("user.color", b"blue")), ("user.color=626c7565".to_owned(), (0, 0)));
    for name in
        ["security.capability", "security.selinux", "system.posix_acl_access", "trusted.x", "user.rootlesscontainers"]
    {
        assert_eq!(told(attribute(name, b"\x01\0\0\x02")), (String::new(), (0, 1)), "{name}");
    }
    for name in ["user.overlay.opaque", "user.overlay.whiteout", "trusted.overlay.redirect"] {
        assert_refused(&place, name, &[attribute(name, b"y")], "an order to overlayfs");
    }
    // More than fits into a message, and than most file systems hold: set, or an error of the host's.
    let large = [7; 60_000];
    let all: Vec<_> = ["a", "b"].iter().map(|name| (format!("SCHILY.xattr.user.{name}"), &large[..])).collect();
    let all: Vec<_> = all.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    if let Err(error) = place.unpack(&[tar().pax(&all).file("f", "x")]) {
        assert!(matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::E2BIG)), "{error}");
    }
    place.assert_untouched("attributes");
}

#[test]
fn u12_owners_that_nobody_has() {
    let place = Place::new();
    let layer = [tar().file_of("f", "", 0o644, (1 << 31, u32::MAX - 1))];
    let image = place.unpack(&layer).unwrap();
    assert_eq!(image.ownership(), Some(if is_root() { Ownership::Root } else { Ownership::Caller }));
    assert_refused(&place, "no id", &[tar().file_of("f", "", 0o644, (u32::MAX, 0))], "user id");
    let subordinate = place.store.clone().ownership(Ownership::Subordinate);
    let error = subordinate.unpack(&crate::store_made::image(&layer).1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.hint().is_some(), "{error}");
    place.assert_untouched("owners");
}

#[test]
fn u17_long_paths_are_made_and_removed() {
    let place = Place::new();
    let store = place.store.clone().limits(UnpackLimits::new().depth(3000));
    let longest = vec![vec![b'n'; 255]; 15].join(&b'/');
    let longest = [longest.as_slice(), b"/", &[b'm'; 4095 - 15 * 256]].concat();
    assert_eq!(longest.len(), 4095);
    let deep = "d/".repeat(2047) + "f";
    let (_layout, image) = image(&[tar().file(&longest, "x").file(&deep, "x")]);
    drop(store.unpack(&image).unwrap());
    store.remove(&image).unwrap();
    assert_eq!(store.collect().unwrap().layers, 1);
    place.assert_untouched("removed");
    assert_eq!(place.names("layers"), [""; 0]);
    let (_layout, image) = crate::store_made::image(&[tar().file(&longest, "x").file("../x", "")]);
    store.unpack(&image).unwrap_err();
    place.assert_untouched("refused in the middle");
    assert_refused(&place, "too deep", &[tar().file(&deep, "")], "2048 components, and the limit is 256");
    assert_refused(&place, "too long", &[tar().file(["n"; 2048].join("/") + "/f", "")], "the limit is");
}

#[test]
fn u17_many_entries_in_one_directory() {
    let place = Place::new();
    let many = (0..10_000).fold(tar(), |tar, number| tar.file(format!("d/{number}"), ""));
    let (_layout, image) = image(&[many]);
    drop(place.store.unpack(&image).unwrap());
    place.store.remove(&image).unwrap();
    assert_eq!(place.store.collect().unwrap().layers, 1);
    place.assert_untouched("many");
    let few = place.store.clone().limits(UnpackLimits::new().entries(5_000));
    assert_eq!(few.unpack(&image).unwrap_err().kind(), ErrorKind::InvalidImage);
    place.assert_untouched("too many");
}

#[test]
fn u19_odd_names_stay_apart() {
    let place = Place::new();
    let names: [&[u8]; 8] =
        [b"a", b"A", b"\xc3\xa9", b"e\xcc\x81", b"new\nline", b"\r", b"\xff\xfe", b"\xe2\x80\xaegpj"];
    let layer = names.iter().fold(tar(), |tar, name| tar.file(name, name));
    assert_eq!(tree(&place, &[layer]).len(), names.len());
    let layer = tar().file(b"bad\x1b[31m\n/../x".as_slice(), "");
    let error = assert_refused(&place, "a terminal's", &[layer], r"bad\u{1b}[31m\n/../x");
    assert!(!error.to_string().contains('\x1b'));
}
