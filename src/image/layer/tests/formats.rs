//! What headers say, and where readers differ in what they mean.

use super::build::{Head, Tar, assert_refused, kind, one, only, read, record, refusal, refusal_of};
use crate::image::layer::{Kind, Time};

fn of(tar: Tar) -> String {
    refusal_of(&tar.end())
}

#[test]
fn files_are_read_to_the_byte_and_the_rest_is_found() {
    for length in [0, 1, 511, 512, 513, 1024, 300_000, (256 << 10) - 512, 256 << 10] {
        let data: Vec<u8> = (0..length).map(|at| (at * 7 % 251) as u8).collect();
        let entries = read(&Tar::default().file(b"a", &data).file(b"b", b"after").end()).unwrap();
        assert_eq!(entries[0].0.kind, Kind::File { size: length as u64 });
        assert!(entries[0].1 == data, "{length} bytes");
        assert_eq!(entries[1].1, b"after");
    }
}

#[test]
fn every_type_is_known_or_refused() {
    assert_eq!(kind(Head::new(b'0', b"a")), Kind::File { size: 0 });
    assert_eq!(kind(Head::new(0, b"a")), Kind::File { size: 0 });
    assert_eq!(kind(Head::new(b'7', b"a")), Kind::File { size: 0 });
    assert_eq!(kind(Head::new(b'5', b"a")), Kind::Dir);
    assert_eq!(kind(Head::new(0, b"a/")), Kind::Dir);
    assert_eq!(kind(Head::new(b'6', b"a")), Kind::Fifo);
    assert_eq!(kind(Head::new(b'3', b"a").device(1, 3)), Kind::CharDevice { major: 1, minor: 3 });
    assert_eq!(kind(Head::new(b'4', b"a").device(8, 0)), Kind::BlockDevice { major: 8, minor: 0 });
    for other in (1..=255).filter(|kind| !b"01234567gxLKS".contains(kind)) {
        assert_refused(Head::new(other, b"a"), "which is not known");
    }
}

#[test]
fn devices_have_numbers_that_the_kernel_has() {
    assert_refused(Head::new(b'3', b"a").device(0, 0), "overlayfs takes for a file that is not there");
    assert_eq!(kind(Head::new(b'4', b"a").device(0, 0)), Kind::BlockDevice { major: 0, minor: 0 });
    assert_refused(Head::new(b'3', b"a").device(4096, 0), "no device");
    assert_refused(Head::new(b'3', b"a").device(1, 1 << 20), "no device");
    let version_7 = Head::new(b'3', b"a").device(1, 3).put(257, &[0; 8]);
    assert_refused(version_7, "in a format that has none");
}

#[test]
fn only_files_have_a_size() {
    for kind in *b"1234567" {
        let head = || Head::new(kind, b"a").link(b"b").device(1, 1);
        let tar = |size| Tar::default().head(head().size(size)).data(&vec![0; size as usize]);
        assert!(read(&tar(0).end()).is_ok());
        let sized = read(&tar(3).end());
        assert_eq!(sized.is_ok(), kind == b'7', "{sized:?}");
        let pax = Tar::default().pax(&record(b"size", b"3")).head(head()).data(b"abc").end();
        assert_eq!(read(&pax).is_ok(), kind == b'7');
        // Both are looked at.
        let pax = Tar::default().pax(&record(b"size", b"0")).head(head().size(3)).end();
        assert_eq!(read(&pax).is_ok(), kind == b'7');
    }
}

#[test]
fn modes_are_permissions_and_nothing_else() {
    assert_eq!(one(Head::new(b'0', b"a").mode(0o177_777)).mode, 0o7777);
    assert_eq!(one(Head::new(b'0', b"a").mode(0o104_755)).mode, 0o4755);
    assert_eq!(one(Head::new(b'5', b"a").mode(0)).mode, 0);
}

#[test]
fn owners_are_numbers_that_the_kernel_has() {
    let base_256 = |at: usize, number: i64| {
        let bytes = number.to_be_bytes();
        let first = if number < 0 { 0xff } else { 0x80 };
        Head::new(b'0', b"a").gnu().put(at, &[&[first][..], &bytes[1..]].concat())
    };
    assert_eq!(one(Head::new(b'0', b"a").octal(108, 7, 0o7_777_777)).uid, 0o7_777_777);
    assert_eq!(one(base_256(108, 1 << 31)).uid, 1 << 31);
    assert_eq!(one(base_256(116, (1 << 32) - 2)).gid, u32::MAX - 1);
    for number in [(1 << 32) - 1, 1 << 32, i64::MAX >> 8] {
        assert_refused(base_256(108, number), "the largest is 4294967294");
        assert_refused(base_256(116, number), "the largest is 4294967294");
        let pax = Tar::default().pax(&record(b"uid", number.to_string().as_bytes())).file(b"a", b"");
        assert!(of(pax).contains("the largest is 4294967294"));
    }
    assert_refused(base_256(108, -1), "its user id is negative");
    assert!(of(Tar::default().pax(&record(b"gid", b"-1")).file(b"a", b"")).contains("a \"gid\" that is none"));
}

#[test]
fn sizes_are_taken_in_one_form() {
    let sized = |field: &[u8]| Head::new(b'0', b"a").gnu().put(124, field);
    for (field, words) in [
        (&b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..], "negative"),
        (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "too large"),
        (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", "too large"),
        (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", "the limit is 8589934592"),
        (b"\x81\0\0\0\0\0\0\0\0\0\0\x01", "no number"),
        (b"-0000000001\0", "no number"),
        (b"+0000000001\0", "no number"),
        (b"0x000000001\0", "no number"),
        (b"00000000_01\0", "no number"),
        (b"00000000008\0", "no number"),
        (b"00000000 01\0", "no number"),
        (b"0000000001\x001", "no number"),
        (b"777777777777", "the limit is 8589934592"),
    ] {
        assert_refused(sized(field), words);
    }
    for field in [&b"          3\0"[..], b"3\0\0\0\0\0\0\0\0\0\0\0", b"00000000003 ", b"\x80\0\0\0\0\0\0\0\0\0\0\x03"] {
        assert_eq!(only(Tar::default().head(sized(field)).data(b"abc")).kind, Kind::File { size: 3 });
    }
    // More than there is.
    assert!(of(Tar::default().head(Head::new(b'0', b"a").size(4096)).data(b"abc")).contains("cut short"));
}

#[test]
fn times_are_any_that_a_number_holds() {
    let pax = |value: &[u8]| Tar::default().pax(&record(b"mtime", value)).file(b"a", b"");
    for (value, seconds, nanoseconds) in [
        (&b"0"[..], 0, 0),
        (b"1.5", 1, 500_000_000),
        (b"-1", -1, 0),
        (b"-1.5", -2, 500_000_000),
        (b"-0.0000000001", -1, 999_999_999),
        (b"1.9999999999", 1, 999_999_999),
        (b"9223372036854775807", i64::MAX, 0),
        (b"-9223372036854775807.9", i64::MIN, 100_000_000),
    ] {
        assert_eq!(only(pax(value)).mtime, Time { seconds, nanoseconds });
    }
    for value in
        [&b"NaN"[..], b"inf", b"1e10", b"9223372036854775808", b"", b"1.", b".5", b"--1", b"1.-5", b" 1", b"0x1"]
    {
        assert!(of(pax(value)).contains("\"mtime\""), "{}", value.escape_ascii());
    }
    let negative = Head::new(b'0', b"a").gnu().put(136, &[&[0xff; 4][..], &(-5_i64).to_be_bytes()].concat());
    assert_eq!(one(negative).mtime.seconds, -5);
    let huge = Head::new(b'0', b"a").gnu().put(136, &[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert!(refusal(huge).contains("its time is too large"));
}

#[test]
fn checksums_are_checked_in_both_signs() {
    let mut wrong = Tar::default().file(b"a", b"").end();
    wrong[0] ^= 1;
    assert!(refusal_of(&wrong).contains("checksum"));
    let head = Head::new(b'0', b"\xff\xff");
    let signed: i64 = head.clone().put(148, b"        ").0.iter().map(|byte| i64::from(*byte as i8)).sum();
    let block = head.put(148, format!("{signed:06o}\0 ").as_bytes()).0;
    assert_eq!(only(Tar(block.to_vec())).path.as_bytes(), b"\xff\xff");
    assert!(refusal_of(&[b'x'; 2048]).contains("its checksum is no number"));
}

#[test]
fn an_archive_ends_with_zeros_or_where_a_header_could_be() {
    let tar = Tar::default().file(b"a", b"x");
    let count = |archive: &[u8]| read(archive).map(|entries| entries.len());
    assert_eq!(count(&tar.0).unwrap(), 1);
    for zeros in [512, 1024, 1536, 10240] {
        assert_eq!(count(&[&tar.0[..], &vec![0; zeros]].concat()).unwrap(), 1);
    }
    // Go reads two blocks of zeros, if there are any.
    assert!(refusal_of(&[&tar.0[..], &[0; 700]].concat()).contains("cut short"));
    for zeros in [512, 1024] {
        let more = [&tar.0[..], &vec![0; zeros], &tar.0].concat();
        assert!(refusal_of(&more).contains("something follows after the end"));
    }
    for length in 1..=512 {
        assert!(refusal_of(&tar.0[..length]).contains("cut short"), "{length}");
    }
    // The padding of the last file.
    for length in 513..1024 {
        assert_eq!(count(&tar.0[..length]).unwrap(), 1, "{length}");
    }
    assert_eq!(refusal_of(&[]), "image: layer: it is empty");
    assert!(refusal_of(&tar.0[..512]).contains("cut short"));
}

#[test]
fn the_size_of_the_extended_header_is_the_one_in_force() {
    // A reader that took the header's own size would see an entry in the data.
    let hidden = Tar::default().file(b"hidden", b"").0;
    let tar = Tar::default().pax(&record(b"size", hidden.len().to_string().as_bytes())).file(b"a", b"").data(&hidden);
    let entries = read(&tar.file(b"b", b"").end()).unwrap();
    let names: Vec<_> = entries.iter().map(|(entry, _)| entry.path.as_bytes()).collect();
    assert_eq!(names, [b"a", b"b"]);
    assert_eq!(entries[0].1, hidden);
    // And where it is not clear whose size it is, nothing is read.
    for kind in *b"LKxg" {
        let tar = Tar::default().pax(&record(b"size", b"512")).long(kind, b"x\0").file(b"a", b"");
        assert!(of(tar).contains("contradict each other"));
    }
}

#[test]
fn extended_headers_are_read_strictly() {
    for records in [
        &b"5 a=b"[..],
        b"x path=a\n",
        b"0 path=a\n",
        b"99 path=a\n",
        b"9 path=ab\n",
        b"11 path=a\n",
        b"9 path=a\n\0",
        b" 9 path=a\n",
        b"+9 path=a\n",
        b"99999999999999999999 path=a\n",
        b"5 =b\n",
        b"4 a\n",
        b"9 path=a\n9 path=b\n",
        b"8 path=\n",
    ] {
        let text = of(Tar::default().pax(records).file(b"x", b""));
        assert!(text.contains("its extended header"), "{text}");
    }
    // Bytes behind the records, where some readers go on.
    let mut tar = Tar::default().pax(b"9 path=a\n");
    tar.0[512 + 9..512 + 18].copy_from_slice(b"9 path=b\n");
    assert!(of(tar.file(b"x", b"")).contains("followed by something else"));
    let good =
        only(Tar::default().pax(&[record(b"path", b"a=b\nc"), record(b"vendor.x", b"\0")].concat()).file(b"x", b""));
    assert_eq!(good.path.as_bytes(), b"a=b\nc");
}

#[test]
fn global_headers_change_nothing_or_are_refused() {
    let global = |records: &[u8]| {
        Tar::default().head(Head::new(b'g', b"pax_global_header").size(records.len() as u64)).data(records)
    };
    assert_eq!(only(global(&record(b"comment", b"5e1f")).file(b"a", b"")).path.as_bytes(), b"a");
    assert!(of(global(&record(b"comment", b"x"))).contains("ends before the entry"));
    for key in [&b"path"[..], b"size", b"uid", b"mtime", b"SCHILY.xattr.user.a", b"GNU.sparse.major", b"hdrcharset"] {
        assert!(of(global(&record(key, b"1")).file(b"a", b"")).contains("a global header sets"));
    }
}

#[test]
fn sparse_files_are_refused_in_every_form() {
    assert_refused(Head::new(b'S', b"a").gnu().put(386, b"0000000000"), "\"a\": it is a sparse file");
    for key in ["GNU.sparse.size", "GNU.sparse.map", "GNU.sparse.major", "GNU.sparse.numblocks", "SCHILY.realsize"] {
        assert!(of(Tar::default().pax(&record(key.as_bytes(), b"1")).file(b"a", b"")).contains("sparse"));
    }
}

#[test]
fn long_names_belong_to_one_entry() {
    let long = Tar::default().long(b'L', b"long name\0").long(b'K', b"target\0").head(Head::new(b'2', b"x").link(b"y"));
    let entry = only(long);
    assert_eq!((entry.path.as_bytes(), entry.kind), (&b"long name"[..], Kind::Symlink(b"target".to_vec())));
    assert!(of(Tar::default().long(b'L', b"a\0").long(b'L', b"b\0").file(b"x", b"")).contains("contradict"));
    assert!(of(Tar::default().long(b'L', b"a\0").pax(&record(b"path", b"b")).file(b"x", b"")).contains("contradict"));
    for alone in [Tar::default().long(b'L', b"a\0"), Tar::default().pax(&record(b"path", b"b"))] {
        assert!(refusal_of(&alone.0).contains("ends before the entry"));
        assert!(of(alone).contains("ends before the entry"));
    }
    assert!(of(Tar::default().long(b'L', b"").file(b"x", b"")).contains("none"));
}

#[test]
fn prefixes_are_of_ustar_only() {
    let head = Head::new(b'0', b"name").put(345, b"some/dir");
    assert_eq!(one(head.clone()).path.as_bytes(), b"some/dir/name");
    assert_refused(head.clone().gnu(), "only some readers know");
    assert_refused(head.put(257, &[0; 8]), "only some readers know");
    assert_refused(Head::new(b'0', b"a").put(257, b"ustar\x0001"), "unknown format");
}

#[test]
fn attributes_are_kept_dropped_or_refused() {
    let with = |pairs: &[(&[u8], &[u8])]| {
        let records: Vec<u8> =
            pairs.iter().flat_map(|(key, value)| record(&[b"SCHILY.xattr.", *key].concat(), value)).collect();
        Tar::default().pax(&records).file(b"a", b"")
    };
    let entry = only(with(&[(b"user.a", b"1\n\0="), (b"security.capability", b"\x01"), (b"user.empty", b"")]));
    let kept: Vec<_> = entry.xattrs.iter().map(|(name, value)| (name.to_bytes(), &value[..])).collect();
    assert_eq!(kept, [(&b"user.a"[..], &b"1\n\0="[..]), (b"security.capability", b"\x01"), (b"user.empty", b"")]);
    let host: [&[u8]; 5] = [b"security.selinux", b"security.ima", b"trusted.x", b"system.posix_acl_access", b"unknown"];
    for name in host {
        let entry = only(with(&[(name, b"x")]));
        assert_eq!((entry.xattrs.len(), entry.dropped_xattrs[0].to_bytes()), (0, name));
    }
    for name in [&b"trusted.overlay.opaque"[..], b"user.overlay.whiteout", b"trusted.overlay.overlay.x"] {
        assert!(of(with(&[(name, b"y")])).contains("an order to overlayfs"));
    }
    assert!(of(with(&[(b"", b"y")])).contains("none that Linux has"));
    assert!(read(&with(&[(&[b"user.", &[b'a'; 250][..]].concat(), b"")]).end()).is_ok());
    assert!(of(with(&[(&[b"user.", &[b'a'; 251][..]].concat(), b"")])).contains("none that Linux has"));
    assert!(of(with(&[(b"user.a%3Db", b"")])).contains("readers differ in"));
    assert!(of(with(&[(b"user.a", b""), (b"user.a", b"")])).contains("twice"));
    assert!(read(&with(&[(b"user.a", &[0; 65_536])]).end()).is_ok());
    assert!(of(with(&[(b"user.a", &[0; 65_537])])).contains("none that Linux has"));
    assert!(of(with(&[(b"user.a\0b", b"")])).contains("malformed"));
}
