//! Extended headers of POSIX's pax format: records that are in force for one entry, or for all that follow.

use super::entry::Time;
use super::fault::{Checked, refuse};
use super::limits::UnpackLimits;
use super::xattr::Xattrs;
use crate::plan::Escaped;

/// What an extended header says about its entry.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Xattrs,
}

impl Pax {
    /// Reads the records of one entry.
    ///
    /// Keys that say nothing about the file are passed over, as POSIX has it; so are access lists and file flags, which
    /// no engine packs, and libarchive's second form of the extended attributes.
    pub(super) fn new(records: &[u8], limits: &UnpackLimits) -> Checked<Self> {
        let mut pax = Self::default();
        each(records, |key, value| match key {
            b"path" => set(&mut pax.path, name(value), "path"),
            b"linkpath" => set(&mut pax.link, name(value), "linkpath"),
            b"size" => set(&mut pax.size, decimal(value), "size"),
            b"uid" => set(&mut pax.uid, decimal(value), "uid"),
            b"gid" => set(&mut pax.gid, decimal(value), "gid"),
            b"mtime" => set(&mut pax.mtime, time(value), "mtime"),
            _ => match key.strip_prefix(b"SCHILY.xattr.") {
                Some(name) => pax.xattrs.add(name, value, limits.xattr_bytes),
                None => pass_over(key, value),
            },
        })?;
        Ok(pax)
    }
}

/// Reads the records for all entries that follow. GNU tar and Python apply them, engines don't: so only those are let
/// through that change nothing, like the comment that `git archive` writes.
pub(super) fn check_global(records: &[u8]) -> Checked<()> {
    each(records, |key, value| match key {
        b"comment" | b"atime" | b"ctime" | b"uname" | b"gname" => pass_over(key, value),
        _ => refuse!("a global header sets \"{}\", which readers differ in", Escaped(key)),
    })
}

/// What is no attribute of a file, if it doesn't change what the rest means.
fn pass_over(key: &[u8], value: &[u8]) -> Checked<()> {
    let sparse = key.starts_with(b"GNU.sparse.") || key == b"SCHILY.realsize";
    match key {
        _ if sparse => refuse!("it is a sparse file, which is not supported: pack it without holes"),
        _ if key.starts_with(b"GNU.volume.") || key == b"GNU.dumpdir" => {
            refuse!("it is of a backup in parts, and no file")
        }
        b"atime" | b"ctime" if time(value).is_none() => refuse!("its extended header has a time that is none"),
        b"hdrcharset" if !matches!(value, b"BINARY" | b"ISO-IR 10646 2000 UTF-8") => {
            refuse!("its names are in an encoding that is not known: {}", Escaped(value))
        }
        _ => Ok(()),
    }
}

/// Calls `take` with the key and the value of each record: `LENGTH KEY=VALUE\n`, where LENGTH is of all of it.
fn each(mut records: &[u8], mut take: impl FnMut(&[u8], &[u8]) -> Checked<()>) -> Checked<()> {
    while !records.is_empty() {
        let Some((key, value, rest)) = record(records) else { refuse!("its extended header is malformed") };
        take(key, value)?;
        records = rest;
    }
    Ok(())
}

fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&records[..space])?).ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let pair = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&pair[..equals], &pair[equals + 1..]);
    let plain = !key.is_empty() && key.iter().all(|byte| !matches!(byte, 0 | b'\n'));
    plain.then_some((key, value, rest))
}

fn set<T>(field: &mut Option<T>, value: Option<T>, key: &str) -> Checked<()> {
    match value {
        None => refuse!("its extended header has a \"{key}\" that is none"),
        Some(_) if field.is_some() => refuse!("its extended header has \"{key}\" twice"),
        Some(_) => *field = value,
    }
    Ok(())
}

fn name(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty() && !value.contains(&0)).then(|| value.to_owned())
}

/// Digits without a sign, of a number that every reader can hold.
fn decimal(digits: &[u8]) -> Option<u64> {
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(digits).ok().filter(|_| all)?.parse().ok()?;
    (number <= i64::MAX as u64).then_some(number)
}

/// Seconds, maybe negative, maybe with a fraction, of which nine digits are taken and the rest rounded down.
fn time(value: &[u8]) -> Option<Time> {
    let (negative, value) = value.strip_prefix(b"-").map_or((false, value), |value| (true, value));
    let dot = value.iter().position(|byte| *byte == b'.').unwrap_or(value.len());
    let (whole, fraction) = (decimal(&value[..dot])?, value.get(dot + 1..).unwrap_or_default());
    if !fraction.iter().all(u8::is_ascii_digit) || (dot < value.len() && fraction.is_empty()) {
        return None;
    }
    let digit = |place: usize| fraction.get(place).map_or(0, |digit| u32::from(digit - b'0'));
    let nanoseconds = (0..9).fold(0, |number, place| number * 10 + digit(place));
    let seconds = i64::try_from(whole).ok()?;
    if !negative {
        return Some(Time { seconds, nanoseconds });
    }
    let beyond = u32::from(fraction.iter().skip(9).any(|digit| *digit != b'0'));
    Some(match nanoseconds + beyond {
        0 => Time { seconds: -seconds, nanoseconds: 0 },
        nanoseconds => Time { seconds: (-seconds).checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}
