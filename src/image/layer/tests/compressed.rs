//! gzip, zstd, and what else is not a layer.

use std::io::{self, Cursor, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use sha2::{Digest, Sha256};

use super::build::{Head, Tar, read, read_with, refusal_of, refusal_with};
use crate::ErrorKind;
use crate::image::layer::{LayerReader, UnpackLimits};

fn archive() -> Vec<u8> {
    let data: Vec<u8> =
        (0..300_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()).take(300_000).collect();
    Tar::default().file(b"a", &data).file(b"b", b"end").end()
}

pub(super) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstd(data: &[u8]) -> Vec<u8> {
    compress_to_vec(data, CompressionLevel::Fastest)
}

fn skippable(data: &[u8]) -> Vec<u8> {
    [&[0x5a, 0x2a, 0x4d, 0x18][..], &(data.len() as u32).to_le_bytes(), data].concat()
}

#[track_caller]
fn assert_is_the_archive(layer: &[u8]) {
    let totals = LayerReader::new(Cursor::new(layer.to_vec()), &UnpackLimits::new()).unwrap().finish().unwrap();
    let sha256: [u8; 32] = Sha256::digest(archive()).into();
    assert_eq!(totals.sha256, sha256);
    assert_eq!((totals.bytes, totals.compressed), (archive().len() as u64, layer.len() as u64));
    assert_eq!(totals.entries, 2);
}

#[test]
fn the_same_comes_out_of_every_compression() {
    let (head, tail) = (&archive()[..100_000], &archive()[100_000..]);
    assert_is_the_archive(&archive());
    assert_is_the_archive(&gzip(&archive()));
    assert_is_the_archive(&zstd(&archive()));
    assert_is_the_archive(&[gzip(head), gzip(b""), gzip(tail)].concat());
    assert_is_the_archive(&[gzip(&archive()), vec![0; 70_000]].concat());
    assert_is_the_archive(&[zstd(head), zstd(tail)].concat());
    assert_is_the_archive(&[skippable(b"first"), zstd(head), skippable(b""), zstd(tail), skippable(b"last")].concat());
}

#[test]
fn what_follows_after_the_end_is_refused() {
    for more in [&b"x"[..], b"\0\0x", b"\x1f", &gzip(b"")[..9], &zstd(b"")] {
        refusal_of(&[&gzip(&archive()), more].concat());
    }
    for more in [&b"x"[..], b"\0\0\0\0", &skippable(b"long")[..9], &gzip(b"")] {
        refusal_of(&[&zstd(&archive()), more].concat());
    }
    assert!(refusal_of(&[gzip(&archive()), b"x".to_vec()].concat()).contains("gzip: something else follows"));
    assert!(refusal_of(&[zstd(&archive()), b"more".to_vec()].concat()).contains("zstd: something else follows"));
}

#[test]
fn what_is_cut_short_or_changed_is_refused() {
    for layer in [gzip(&archive()), zstd(&archive())] {
        for length in [7, 20, layer.len() / 2, layer.len() - 1] {
            refusal_of(&layer[..length]);
        }
    }
    let mut layer = gzip(&archive());
    let crc = layer.len() - 8;
    layer[crc] ^= 1;
    assert!(refusal_of(&layer).contains("gzip: "));
}

#[test]
fn the_checksum_of_zstd_is_checked() {
    // A frame with a checksum, of one raw block: its magic, the flag and one segment, its size, the block, the sum.
    let data = Tar::default().file(b"a", b"").end();
    let block = ((data.len() as u32) << 3 | 1).to_le_bytes();
    let frame = |sum: u32| {
        let head = [&b"\x28\xb5\x2f\xfd\xa4"[..], &(data.len() as u32).to_le_bytes(), &block[..3]].concat();
        [&head, &data[..], &sum.to_le_bytes()].concat()
    };
    let refusal = refusal_of(&frame(0));
    assert!(refusal.contains("zstd: a checksum does not match"), "{refusal}");
}

#[test]
fn other_compressions_are_named_and_have_a_remedy() {
    for (magic, name) in [(&b"\xfd7zXZ\0\0\x04"[..], "xz"), (b"BZh91AY&SY", "bzip2")] {
        let error = read(magic).unwrap_err();
        let text = format!("image: layer: it is compressed with {name}, which no image format has");
        assert_eq!((error.to_string(), error.kind()), (text, ErrorKind::InvalidImage));
        assert!(error.hint().unwrap().contains("gzip or zstd"));
    }
}

#[test]
fn a_window_of_zstd_is_bounded() {
    // The first frame of a stream and the next are not treated alike by the decoder.
    let frame = |descriptor: &[u8]| [&b"\x28\xb5\x2f\xfd"[..], descriptor].concat();
    let (gibibytes, mebibytes) = (frame(&[0, 21 << 3]), frame(&[0, (14 << 3) | 1]));
    let segment = frame(&[0xe0, 0, 0, 0, 0x80, 0, 0, 0, 0]);
    for layer in [gibibytes, mebibytes.clone(), segment] {
        for before in [Vec::new(), skippable(b"x"), zstd(&[0; 512])] {
            let refusal = refusal_of(&[before, layer.clone()].concat());
            assert!(refusal.contains("and the limit is 8388608"), "{refusal}");
        }
    }
    let more = UnpackLimits::new().zstd_window(18 << 20);
    assert!(!refusal_with(&mebibytes, &more).contains("window"));
    assert!(refusal_of(&frame(&[1, 0, 7])).contains("a dictionary"));
}

#[test]
fn a_failure_to_read_is_no_fault_of_the_layer() {
    struct Failing(Cursor<Vec<u8>>);
    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::Error::from_raw_os_error(libc::EIO)),
                length => Ok(length),
            }
        }
    }
    for layer in [archive(), gzip(&archive()), zstd(&archive())] {
        let cut = layer[..layer.len() / 2].to_vec();
        let reader = LayerReader::new(Failing(Cursor::new(cut)), &UnpackLimits::new());
        let error = reader.and_then(LayerReader::finish).unwrap_err();
        assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Os, Some(libc::EIO)), "{error}");
    }
}

#[test]
fn small_reads_change_nothing() {
    struct Slow(Cursor<Vec<u8>>);
    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(7);
            self.0.read(&mut buffer[..length])
        }
    }
    for layer in [archive(), gzip(&archive()), zstd(&archive())] {
        let totals = LayerReader::new(Slow(Cursor::new(layer)), &UnpackLimits::new()).unwrap().finish().unwrap();
        assert_eq!(totals.sha256, <[u8; 32]>::from(Sha256::digest(archive())));
    }
}

/// A frame of zstd with `blocks` blocks of 128 KiB zeros, in four bytes each, behind `start`.
fn zstd_bomb(start: &[u8], blocks: usize) -> Vec<u8> {
    let block = |kind: usize, size: usize, last: usize| ((size << 3 | kind << 1 | last) as u32).to_le_bytes();
    let mut frame = b"\x28\xb5\x2f\xfd\0\x50".to_vec();
    frame.extend(&block(0, start.len(), 0)[..3]);
    frame.extend(start);
    for _ in 0..blocks {
        frame.extend(&block(1, 128 << 10, 0)[..3]);
        frame.push(0);
    }
    [&frame, &block(0, 0, 1)[..3]].concat()
}

#[test]
fn bombs_are_refused() {
    let zeros = Tar::default().file(b"zeros", &vec![0; 17 << 20]).end();
    let zipped = gzip(&zeros);
    assert!(refusal_of(&zipped).contains("more than 500 times its size"));
    let file = Tar::default().head(Head::new(b'0', b"zeros").size(17 << 20)).0;
    assert!(refusal_of(&zstd_bomb(&file, 137)).contains("more than 500 times its size"));
    assert!(read_with(&zstd_bomb(&file, 137), &UnpackLimits::new().ratio(100_000)).is_ok());
    let generous = UnpackLimits::new().ratio(100_000);
    assert!(read_with(&zipped, &generous).is_ok());
    assert!(refusal_with(&zipped, &generous.bytes(16 << 20)).contains("more than 16777216 bytes"));
    assert!(read(&zeros).is_ok());
    // Zeros after the end count too.
    let whole = Tar::default().file(b"a", b"").end();
    assert!(refusal_of(&zstd_bomb(&whole, 137)).contains("more than 500 times its size"));
}

/// Frames of zstd to skip, without end.
struct Nothing(usize);

impl std::io::Read for Nothing {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        const HEADER: [u8; 8] = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 1, 0];
        for byte in buffer.iter_mut() {
            *byte = HEADER.get(self.0 % (8 + 65_536)).copied().unwrap_or(0);
            self.0 += 1;
        }
        Ok(buffer.len())
    }
}

#[test]
fn what_inflates_to_nothing_is_bounded_too() {
    let read = |limits: &UnpackLimits| match LayerReader::new(Nothing(0), limits) {
        Err(error) => error.to_string(),
        Ok(mut reader) => reader.next_entry().unwrap_err().to_string(),
    };
    let error = read(&UnpackLimits::new().bytes(1 << 20));
    assert!(error.contains("larger than the limit"), "{error}");
    let error = read(&UnpackLimits::new().time(std::time::Duration::from_millis(20)));
    assert!(error.contains("takes longer than 20ms"), "{error}");
}
