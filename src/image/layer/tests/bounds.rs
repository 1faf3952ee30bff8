//! The limits, each at its edge.

use std::io::{self, Read};
use std::time::Duration;

use super::build::{Head, Tar, read, read_with, record, refusal_of, refusal_with};
use crate::ErrorKind;
use crate::image::layer::{LayerReader, UnpackLimits};

fn limits() -> UnpackLimits {
    UnpackLimits::new()
}

#[test]
fn each_limit_holds_what_it_says_and_no_more() {
    let three = Tar::default().file(b"a", b"").file(b"b", b"").file(b"c/d/e", b"12345").end();
    assert!(read_with(&three, &limits().entries(3)).is_ok());
    let refusal = refusal_with(&three, &limits().entries(2));
    assert_eq!(refusal, "image: entry 3 \"c/d/e\": the layer has more than 2 entries, which is the limit");
    assert!(read_with(&three, &limits().depth(3)).is_ok());
    assert!(refusal_with(&three, &limits().depth(2)).contains("3 components, and the limit is 2"));
    assert!(read_with(&three, &limits().path_bytes(5)).is_ok());
    assert!(refusal_with(&three, &limits().path_bytes(4)).contains("5 bytes, and the limit is 4"));
    assert!(read_with(&three, &limits().file_bytes(5)).is_ok());
    assert!(refusal_with(&three, &limits().file_bytes(4)).contains("5 bytes, and the limit is 4"));
    let all = three.len() as u64;
    assert!(read_with(&three, &limits().bytes(all)).is_ok());
    assert!(refusal_with(&three, &limits().bytes(all - 1)).contains("bytes, which is the limit"));
    assert!(refusal_with(&three, &limits().time(Duration::ZERO)).contains("takes longer than 0ns"));
}

#[test]
fn attributes_are_bounded_together() {
    let records = [record(b"SCHILY.xattr.user.a", b"12345"), record(b"SCHILY.xattr.trusted.b", b"1")].concat();
    let tar = Tar::default().pax(&records).file(b"a", b"").end();
    assert!(read_with(&tar, &limits().xattr_bytes(21)).is_ok());
    assert!(refusal_with(&tar, &limits().xattr_bytes(20)).contains("more than 20 bytes"));
}

#[test]
fn limits_that_cannot_be_are_told_before_anything_is_read() {
    for limits in [limits().path_bytes(4096), limits().zstd_window((100 << 20) + 1)] {
        let error = LayerReader::new(io::empty(), &limits).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPolicy, "{error}");
    }
}

/// A stream that goes on forever, and how much of it has been read.
struct Endless(Vec<u8>, usize);

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for byte in buffer.iter_mut() {
            *byte = self.0[self.1 % self.0.len()];
            self.1 += 1;
        }
        // A reader that does not stop at its limit would not stop at all.
        assert!(self.1 < 1 << 30);
        Ok(buffer.len())
    }
}

#[test]
fn an_endless_stream_ends_at_a_limit() {
    let entry = Tar::default().file(b"a", b"").0;
    let error = LayerReader::new(Endless(entry.clone(), 0), &limits().entries(10_000)).unwrap().finish().unwrap_err();
    assert!(error.to_string().contains("entry 10001 \"a\""), "{error}");
    let error = LayerReader::new(Endless(entry, 0), &limits().bytes(4 << 20)).unwrap().finish().unwrap_err();
    assert!(error.to_string().contains("more than 4194304 bytes"), "{error}");
    let comment = record(b"comment", b"x");
    let global = Tar::default().head(Head::new(b'g', b"g").size(comment.len() as u64)).data(&comment).0;
    let error = LayerReader::new(Endless(global, 0), &limits().entries(1000)).unwrap().finish().unwrap_err();
    assert!(error.to_string().contains("more than 1000 headers"), "{error}");
    let error = LayerReader::new(Endless(vec![0; 512], 0), &limits().bytes(4 << 20)).unwrap().finish().unwrap_err();
    assert!(error.to_string().contains("more than 4194304 bytes"), "{error}");
}

#[test]
fn a_long_name_is_not_read_before_it_is_measured() {
    for kind in *b"LKxg" {
        let tar = Tar::default().head(Head::new(kind, b"././@LongLink").size(1 << 30));
        let refusal = refusal_of(&tar.0);
        assert!(refusal.contains("1073741824 bytes, and the limit is 1048576"), "{refusal}");
    }
    let name = vec![b'a'; 1 << 20];
    assert!(
        refusal_of(&Tar::default().long(b'L', &name).file(b"a", b"").end()).contains("a component of more than 255")
    );
    assert!(read(&Tar::default().long(b'L', b"a").file(b"b", b"").end()).is_ok());
}
