//! Paths, links and whiteouts.

use super::build::{Head, Tar, assert_refused, kind, one, only, read, record, refusal, refusal_of};
use crate::image::layer::Kind;

fn path(name: &[u8]) -> Vec<u8> {
    one(Head::new(b'0', name)).path.as_bytes().to_owned()
}

#[test]
fn a_path_leads_down_and_is_told_in_one_form() {
    for (name, normal) in [
        (&b"a/b"[..], &b"a/b"[..]),
        (b"./a/./b", b"a/b"),
        (b"/etc/x", b"etc/x"),
        (b"//x", b"x"),
        (b"a//b", b"a/b"),
        (b".../x", b".../x"),
        (b"..x", b"..x"),
        (b"C:\\x\\..\\y", b"C:\\x\\..\\y"),
        (b"\\x", b"\\x"),
        (b"a\nb\r", b"a\nb\r"),
        (b"\xff\xfe", b"\xff\xfe"),
        ("\u{202e}gpj".as_bytes(), "\u{202e}gpj".as_bytes()),
    ] {
        assert_eq!(path(name), normal, "{}", name.escape_ascii());
    }
    assert!(one(Head::new(b'5', b"./")).path.is_root());
    assert!(one(Head::new(b'5', b"/")).path.is_root());
    assert_eq!(one(Head::new(b'5', b"a/b/")).path.as_bytes(), b"a/b");
}

#[test]
fn a_path_that_leads_upwards_is_refused() {
    for name in [&b"../x"[..], b"a/../../x", b"..", b"./..//x", b"/..", b"a/..", b"a/../b", b"a/b/.."] {
        assert_refused(Head::new(b'0', name), "its path leads upwards");
        let pax = Tar::default().pax(&record(b"path", name)).file(b"x", b"");
        assert!(refusal_of(&pax.end()).contains("its path leads upwards"));
        let long = Tar::default().long(b'L', name).file(b"x", b"");
        assert!(refusal_of(&long.end()).contains("its path leads upwards"));
    }
}

#[test]
fn the_root_is_a_directory_and_files_have_names() {
    for name in [&b"."[..], b"", b"./."] {
        assert_refused(Head::new(b'0', name), "the root of a layer is a directory");
    }
    assert_refused(Head::new(b'2', b"./.").link(b"/etc"), "the root of a layer is a directory");
    assert_refused(Head::new(b'0', b"a/"), "its name is one of a directory");
    assert_refused(Head::new(b'2', b"a/").link(b"b"), "its name is one of a directory");
}

#[test]
fn a_zero_byte_in_a_path_is_refused() {
    for key in [&b"path"[..], b"linkpath"] {
        let tar = Tar::default().pax(&record(key, b"a\0b")).head(Head::new(b'2', b"x").link(b"y"));
        assert!(refusal_of(&tar.end()).contains(" that is none"));
    }
    assert!(
        refusal_of(&Tar::default().long(b'L', b"a\0b\0").file(b"x", b"").end()).contains("a long name that is none")
    );
}

#[test]
fn a_path_is_as_long_as_linux_has_it() {
    let named = |name: Vec<u8>| Tar::default().long(b'L', &[&name[..], b"\0"].concat()).file(b"x", b"").end();
    let refused = |name: Vec<u8>| refusal_of(&named(name));
    assert_eq!(read(&named(vec![b'a'; 255])).unwrap()[0].0.path.as_bytes(), vec![b'a'; 255]);
    assert!(refused(vec![b'a'; 256]).contains("a component of more than 255 bytes"));
    let deep = |count: usize| vec!["d"; count].join("/").into_bytes();
    assert_eq!(read(&named(deep(256))).unwrap()[0].0.path.components().count(), 256);
    assert!(refused(deep(257)).contains("257 components, and the limit is 256"));
    assert!(refused(deep(10_000)).contains("10000 components"));
    let long = |last: usize| [vec![vec![b'a'; 255]; 15], vec![vec![b'b'; last]]].concat().join(&b'/');
    assert_eq!(long(255).len(), 4095);
    assert_eq!(read(&named(long(255))).unwrap()[0].0.path.as_bytes(), long(255));
    assert!(refused([long(255), b"/c".to_vec()].concat()).contains("4097 bytes, and the limit is 4095"));
}

#[test]
fn an_error_names_the_entry_without_giving_it_a_say() {
    let archive = Tar::default().file(b"ok", b"1").head(Head::new(b'0', b"a\n\x1b[2J\xff/..")).end();
    let text = refusal_of(&archive);
    assert_eq!(text, "image: entry 2 \"a\\n\\u{1b}[2J\\xff/..\": its path leads upwards");
    let long = Tar::default().long(b'L', &[vec![b'x'; 5000], b"/..\0".to_vec()].concat()).file(b"x", b"").end();
    assert!(refusal_of(&long).len() < 300);
}

#[test]
fn symlinks_keep_their_target_whatever_it_is() {
    for target in [&b".."[..], b"/etc/passwd", b"../../..", b"a b", b"\xff", b"."] {
        assert_eq!(kind(Head::new(b'2', b"d").link(target)), Kind::Symlink(target.to_owned()));
    }
    assert_refused(Head::new(b'2', b"d"), "a symbolic link to nothing");
    let long = |length: usize| Tar::default().long(b'K', &vec![b'a'; length]).head(Head::new(b'2', b"d").link(b"x"));
    assert_eq!(only(long(4095)).kind, Kind::Symlink(vec![b'a'; 4095]));
    assert!(refusal_of(&long(4096).end()).contains("4096 bytes, and the limit is 4095"));
}

#[test]
fn hard_links_lead_down_too() {
    let link = |target: &[u8]| Head::new(b'1', b"a/x").link(target);
    for (target, path) in [(&b"b"[..], &b"b"[..]), (b"/etc/passwd", b"etc/passwd"), (b"./b/c", b"b/c")] {
        let Kind::HardLink(other) = kind(link(target)) else { panic!("no hard link") };
        assert_eq!(other.as_bytes(), path);
    }
    for target in [&b"../x"[..], b"/..", b"a/../../x"] {
        assert_refused(link(target), "the other name of the hard link: its path leads upwards");
    }
    for target in [&b""[..], b"/", b"./a/x", b"b/"] {
        assert_refused(link(target), "a hard link to the root, to a directory or to itself");
    }
    assert_refused(link(b".wh.b"), "a hard link to a whiteout");
}

#[test]
fn whiteouts_name_what_they_remove() {
    let whiteout = |name: &[u8]| {
        let entry = one(Head::new(b'0', name).mode(0));
        (entry.path.as_bytes().to_owned(), entry.kind)
    };
    assert_eq!(whiteout(b"a/.wh.b"), (b"a/b".to_vec(), Kind::Whiteout));
    assert_eq!(whiteout(b".wh.b"), (b"b".to_vec(), Kind::Whiteout));
    assert_eq!(whiteout(b"/.wh...b"), (b"..b".to_vec(), Kind::Whiteout));
    assert_eq!(whiteout(b"a/b/.wh..wh..opq"), (b"a/b".to_vec(), Kind::Opaque));
    assert_eq!(whiteout(b".wh..wh..opq"), (b"".to_vec(), Kind::Opaque));
    // Not the prefix.
    assert_eq!(whiteout(b".wha"), (b".wha".to_vec(), Kind::File { size: 0 }));
    // As aufs writes the second of them.
    let link = one(Head::new(b'1', b".wh.b").link(b".wh.a"));
    assert_eq!((link.path.as_bytes(), link.kind), (&b"b"[..], Kind::Whiteout));
}

#[test]
fn whiteouts_of_nothing_and_through_others_are_refused() {
    for name in [&b".wh."[..], b"a/.wh.", b".wh..", b".wh...", b"a/.wh..."] {
        assert_refused(Head::new(b'0', name), "a whiteout of nothing that has a name");
    }
    for name in [&b".wh.../x"[..], b".wh.a/b", b".wh.a/.wh.b", b".wh..wh.plnk/1.2"] {
        assert_refused(Head::new(b'0', name), "goes through a whiteout");
    }
    assert_refused(Head::new(b'0', b".wh.a/../../b"), "leads upwards");
    for name in [&b".wh..wh.aufs"[..], b".wh..wh.orph", b".wh..wh.plnk"] {
        assert_refused(Head::new(b'0', name), "of aufs itself");
    }
    for kind in [b'2', b'5', b'6'] {
        assert_refused(Head::new(kind, b".wh.a").link(b"x"), "no empty file");
    }
    assert!(refusal_of(&Tar::default().file(b".wh.a", b"data").end()).contains("no empty file"));
    assert!(refusal(Head::new(b'5', b".wh..wh..opq")).contains("no empty file"));
}

#[test]
fn duplicates_and_missing_parents_are_left_to_who_unpacks() {
    let tar = Tar::default().file(b"a", b"1").head(Head::new(b'5', b"a/")).head(Head::new(b'2', b"a").link(b".."));
    let entries = read(&tar.file(b"a/x/y", b"").file(b"A", b"").end()).unwrap();
    let paths: Vec<_> = entries.iter().map(|(entry, _)| entry.path.as_bytes()).collect();
    assert_eq!(paths, [&b"a"[..], b"a", b"a", b"a/x/y", b"A"]);
}
