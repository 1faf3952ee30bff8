//! Archives made by hand, wrong ones too, and their reading.

use std::io::Cursor;

use crate::ErrorKind;
use crate::error::{Layer, Result};
use crate::image::layer::{Entry, Kind, LayerReader, UnpackLimits};

/// An archive in the making.
#[derive(Clone, Default)]
pub(super) struct Tar(pub(super) Vec<u8>);

/// One header: ustar, of an empty file, until something else is set.
#[derive(Clone)]
pub(super) struct Head(pub(super) [u8; 512]);

impl Head {
    pub(super) fn new(kind: u8, name: &[u8]) -> Self {
        let mut head = Self([0; 512]).put(0, name).put(257, b"ustar\x0000");
        head.0[156] = kind;
        head.mode(0o644).octal(108, 7, 0).octal(116, 7, 0).size(0).octal(136, 11, 0)
    }

    pub(super) fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(super) fn octal(self, at: usize, digits: usize, number: u64) -> Self {
        let text = format!("{number:0digits$o}\0");
        assert_eq!(text.len(), digits + 1, "{number} fits");
        self.put(at, text.as_bytes())
    }

    pub(super) fn mode(self, mode: u64) -> Self {
        self.octal(100, 7, mode)
    }

    pub(super) fn size(self, size: u64) -> Self {
        self.octal(124, 11, size)
    }

    pub(super) fn link(self, target: &[u8]) -> Self {
        self.put(157, target)
    }

    pub(super) fn device(self, major: u64, minor: u64) -> Self {
        self.octal(329, 7, major).octal(337, 7, minor)
    }

    pub(super) fn gnu(self) -> Self {
        self.put(257, b"ustar  \0")
    }

    /// The block, with its checksum.
    pub(super) fn block(&self) -> [u8; 512] {
        let head = self.clone().put(148, b"        ");
        let sum: u64 = head.0.iter().map(|byte| u64::from(*byte)).sum();
        head.put(148, format!("{sum:06o}\0 ").as_bytes()).0
    }
}

impl Tar {
    pub(super) fn head(mut self, head: Head) -> Self {
        self.0.extend(head.block());
        self
    }

    /// Bytes, and zeros to the end of the block.
    pub(super) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, name: &[u8], data: &[u8]) -> Self {
        self.head(Head::new(b'0', name).size(data.len() as u64)).data(data)
    }

    pub(super) fn long(self, kind: u8, data: &[u8]) -> Self {
        self.head(Head::new(kind, b"././@LongLink").gnu().size(data.len() as u64)).data(data)
    }

    /// An extended header with `records`, which are made by `record`.
    pub(super) fn pax(self, records: &[u8]) -> Self {
        self.head(Head::new(b'x', b"PaxHeaders/x").size(records.len() as u64)).data(records)
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// `LENGTH KEY=VALUE\n`.
pub(super) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key, b"=", value, b"\n"].concat();
    let digits = (1..).find(|digits| (rest.len() + digits).to_string().len() == *digits).unwrap();
    [(rest.len() + digits).to_string().as_bytes(), &rest].concat()
}

/// Every entry, with the data of files.
pub(super) fn read_with(archive: &[u8], limits: &UnpackLimits) -> Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = LayerReader::new(Cursor::new(archive.to_vec()), limits)?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        loop {
            match reader.data()? {
                [] => break,
                chunk => data.extend(chunk),
            }
        }
        entries.push((entry, data));
    }
    assert_eq!(reader.finish()?.entries, entries.len() as u64);
    Ok(entries)
}

pub(super) fn read(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
    read_with(archive, &UnpackLimits::new())
}

/// The only entry of an archive of `head`.
pub(super) fn one(head: Head) -> Entry {
    only(Tar::default().head(head))
}

pub(super) fn only(tar: Tar) -> Entry {
    let mut entries = read(&tar.end()).unwrap();
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.remove(0).0
}

pub(super) fn kind(head: Head) -> Kind {
    one(head).kind
}

/// What the refusal of `archive` says: of an image, and with the entry.
#[track_caller]
pub(super) fn refusal_of(archive: &[u8]) -> String {
    refusal_with(archive, &UnpackLimits::new())
}

#[track_caller]
pub(super) fn refusal_with(archive: &[u8], limits: &UnpackLimits) -> String {
    let error = read_with(archive, limits).expect_err("it is refused");
    assert_eq!((error.layer(), error.kind()), (Layer::Image, ErrorKind::InvalidImage), "{error}");
    error.to_string()
}

#[track_caller]
pub(super) fn refusal(head: Head) -> String {
    refusal_of(&Tar::default().head(head).end())
}

#[track_caller]
pub(super) fn assert_refused(head: Head, words: &str) {
    let refusal = refusal(head);
    assert!(refusal.contains(words), "{refusal}");
}
