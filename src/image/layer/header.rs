//! One header of an archive: a block of fields, as POSIX's ustar, GNU tar and Version 7 write them.
//!
//! Numbers are taken in the one form that all readers agree on, and in nothing that some of them guess at.

use super::fault::{Checked, refuse};
use super::stream::Block;

/// Who defined the header, told by its magic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Version7,
    Gnu,
    Ustar,
}

/// A header, each of whose numbers is one, whether its entry has a use for it or not: some readers stop at those that
/// are none.
pub(super) struct Header {
    block: Block,
    format: Format,
    /// The permission bits; writers put the type of the file above them.
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) size: u64,
    /// Seconds since 1970, or before it.
    pub(super) mtime: i64,
    major: u64,
    minor: u64,
}

impl Header {
    pub(super) fn new(block: Block) -> Checked<Self> {
        check_sum(&block)?;
        let header = Self {
            format: format(&block)?,
            mode: (natural("mode", &block[100..108])? & 0o7777) as u32,
            uid: natural("user id", &block[108..116])?,
            gid: natural("group id", &block[116..124])?,
            size: natural("size", &block[124..136])?,
            mtime: number("time", &block[136..148])?,
            major: natural("major number", &block[329..337])?,
            minor: natural("minor number", &block[337..345])?,
            block,
        };
        // GNU tar, Go and Python each take these fields for something else outside of ustar.
        // Those of a sparse file are known, and refused by its type.
        let sparse = header.kind() == b'S';
        if header.format != Format::Ustar && !sparse && block[345..500].iter().any(|byte| *byte != 0) {
            refuse!("its header has fields that only some readers know");
        }
        // The prefix is shorter in star's headers.
        if &block[508..] == b"tar\0" && block[475] != 0 {
            refuse!("its header is of the format of star, which is not known here");
        }
        Ok(header)
    }

    pub(super) fn kind(&self) -> u8 {
        self.block[156]
    }

    /// The name, with the prefix that ustar has for longer ones.
    pub(super) fn name(&self) -> Vec<u8> {
        let (prefix, name) = (text(&self.block[345..500]), text(&self.block[..100]));
        match (self.format, prefix) {
            (Format::Ustar, [_, ..]) => [prefix, name].join(&b'/'),
            _ => name.to_owned(),
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.block[157..257]).to_owned()
    }

    /// The major and the minor number of a device.
    pub(super) fn device(&self) -> Checked<(u32, u32)> {
        if self.format == Format::Version7 {
            refuse!("it is a device, in a format that has none");
        }
        // The kernel has 12 and 20 bits for them (linux/kdev_t.h).
        match (u32::try_from(self.major), u32::try_from(self.minor)) {
            (Ok(major @ 0..=0xfff), Ok(minor @ 0..=0xf_ffff)) => Ok((major, minor)),
            _ => refuse!("no device has the numbers {}, {}", self.major, self.minor),
        }
    }
}

fn format(block: &Block) -> Checked<Format> {
    match &block[257..265] {
        b"ustar  \0" => Ok(Format::Gnu),
        [b'u', b's', b't', b'a', b'r', 0, b'0', b'0'] => Ok(Format::Ustar),
        [0, ..] => Ok(Format::Version7),
        _ => refuse!("its header is of an unknown format"),
    }
}

/// The sum of all bytes, that of the checksum taken as spaces. Some old writers had signed characters.
fn check_sum(block: &Block) -> Checked<()> {
    let told = number("checksum", &block[148..156])?;
    let bytes = || block[..148].iter().chain(&[b' '; 8]).chain(&block[156..]);
    let unsigned: i64 = bytes().map(|byte| i64::from(*byte)).sum();
    let signed: i64 = bytes().map(|byte| i64::from(*byte as i8)).sum();
    if [unsigned, signed].contains(&told) {
        return Ok(());
    }
    refuse!("the checksum of its header is wrong")
}

/// What is before the first zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn natural(name: &str, field: &[u8]) -> Checked<u64> {
    let number = number(name, field)?;
    u64::try_from(number).or_else(|_| refuse!("its {name} is negative"))
}

/// A number in octal digits, or in GNU tar's base 256 for those that are too large or negative.
fn number(name: &str, field: &[u8]) -> Checked<i64> {
    match field {
        [0x80, digits @ ..] => base_256(name, digits, 0),
        [0xff, digits @ ..] => base_256(name, digits, -1),
        _ => octal(name, field),
    }
}

/// The digits of a number in two's complement, whose sign is `start`: 0 or -1.
fn base_256(name: &str, digits: &[u8], start: i64) -> Checked<i64> {
    let fits = |number: &i64| (*number < 0) == (start < 0);
    let append = |number: i64, digit: &u8| number.checked_mul(256)?.checked_add(i64::from(*digit));
    let number = digits.iter().try_fold(start, append).filter(fits);
    number.map_or_else(|| refuse!("its {name} is too large"), Ok)
}

/// Spaces, digits, and then nothing but spaces and zero bytes. A field without digits is 0.
fn octal(name: &str, field: &[u8]) -> Checked<i64> {
    let digits = field.trim_ascii_start();
    let length = digits.iter().take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    let (digits, rest) = digits.split_at(length);
    if rest.iter().any(|byte| !matches!(byte, 0 | b' ')) {
        refuse!("its {name} is no number");
    }
    // Twelve digits have 36 bits.
    Ok(digits.iter().fold(0, |number, digit| number * 8 + i64::from(digit - b'0')))
}
