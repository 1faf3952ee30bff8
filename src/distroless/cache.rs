//! Where the loader of glibc is told to look: /etc/ld.so.cache, or the configuration that it is made from.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::elf::Machine;
use super::tree::{Kind, Tree};

/// The form that glibc has read since 2.2 and written alone since 2.32: sysdeps/generic/dl-cache.h there.
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;

/// `FLAG_ELF_LIBC6`: a library for this libc.
const LIBC6: u32 = 3;

/// The most that is read of a cache, and of a file of the configuration.
const CACHE_MAX: u64 = 16 << 20;
const CONF_MAX: u64 = 1 << 16;

/// How many files of configuration are read, and how deep they include each other.
const CONF_FILES: usize = 256;
const CONF_DEPTH: usize = 8;

/// The most directories that the configuration names.
const CONF_DIRS: usize = 1024;

/// Where each library lies, by its name.
#[derive(Debug, Default)]
pub(crate) struct Cache(BTreeMap<OsString, Vec<PathBuf>>);

impl Cache {
    /// The cache of a tree, if it has one that can be read.
    pub(crate) fn of(tree: &mut Tree) -> Option<Self> {
        parse(&read(tree, Path::new("/etc/ld.so.cache"), CACHE_MAX)?)
    }

    /// The places of a library, in the order of preference.
    pub(crate) fn places(&self, name: &OsStr) -> &[PathBuf] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Reads a cache. What glibc-hwcaps(7) has for some processors is left out: the base is there for all of them.
fn parse(data: &[u8]) -> Option<Cache> {
    // Older versions wrote another table before it.
    let start = match data.starts_with(MAGIC) {
        true => 0,
        false => data.windows(MAGIC.len()).take(CACHE_MAX as usize).position(|window| window == MAGIC)?,
    };
    let data = data.get(start..)?;
    let count = number(data, MAGIC.len())? as usize;
    let mut cache = Cache::default();
    for entry in data.get(HEADER..)?.chunks_exact(ENTRY).take(count) {
        let flags = number(entry, 0)?;
        let hwcap = entry.get(16..24)?;
        if flags & 0xff != LIBC6 || hwcap.iter().any(|byte| *byte != 0) {
            continue;
        }
        let (Some(name), Some(path)) = (string(data, number(entry, 4)?), string(data, number(entry, 8)?)) else {
            continue;
        };
        let (name, path) = (OsString::from_vec(name.to_vec()), PathBuf::from(OsStr::from_bytes(path)));
        if path.is_absolute() {
            cache.0.entry(name).or_default().push(path);
        }
    }
    Some(cache)
}

fn number(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn string(data: &[u8], at: u32) -> Option<&[u8]> {
    let data = data.get(at as usize..)?;
    let data = data.get(..data.len().min(libc::PATH_MAX as usize))?;
    data.get(..data.iter().position(|byte| *byte == 0)?)
}

/// Writes a cache of these libraries, for programs of one machine: the loader then finds each where it is.
pub(crate) fn write(libraries: &BTreeMap<OsString, PathBuf>, machine: Machine) -> Option<Vec<u8>> {
    // `FLAG_X8664_LIB64` and `FLAG_AARCH64_LIB64`, `FLAG_ARM_LIBHF`.
    let flags = LIBC6
        | match machine.name()? {
            "x86_64" => 0x0300,
            "aarch64" => 0x0a00,
            "arm" => 0x0900,
            "i386" => 0,
            _ => return None,
        };
    let mut sorted: Vec<_> =
        libraries.iter().map(|(name, path)| (name.as_bytes(), path.as_os_str().as_bytes())).collect();
    // The loader searches by halves, in the order of its own comparison, from the greatest on.
    sorted.sort_by(|(one, _), (other, _)| compare(other, one));
    let start = HEADER + ENTRY * sorted.len();
    let (mut entries, mut strings) = (Vec::new(), Vec::new());
    for (name, path) in &sorted {
        let [key, value] = [name, path].map(|string| {
            let at = start + strings.len();
            strings.extend_from_slice(string);
            strings.push(0);
            at as u32
        });
        [flags, key, value, 0, 0, 0].into_iter().for_each(|word| entries.extend(word.to_ne_bytes()));
    }
    let mut data = MAGIC.to_vec();
    data.extend((sorted.len() as u32).to_ne_bytes());
    data.extend((strings.len() as u32).to_ne_bytes());
    // `cache_file_new_flags_endian_little` or `_big`, then padding and the place of extensions, of which there are none.
    data.extend([if cfg!(target_endian = "little") { 2 } else { 3 }]);
    data.resize(HEADER, 0);
    data.extend(entries);
    data.extend(strings);
    Some(data)
}

/// `_dl_cache_libcmp` of glibc: numbers in names are compared as numbers.
fn compare(mut one: &[u8], mut other: &[u8]) -> std::cmp::Ordering {
    use std::cmp::Ordering;
    loop {
        match (one, other) {
            ([], []) => return Ordering::Equal,
            ([a, ..], [b, ..]) if a.is_ascii_digit() && b.is_ascii_digit() => {
                let (first, second) = (digits(&mut one), digits(&mut other));
                match first.cmp(&second) {
                    Ordering::Equal => {}
                    unequal => return unequal,
                }
            }
            ([a, ..], _) if a.is_ascii_digit() => return Ordering::Greater,
            (_, [b, ..]) if b.is_ascii_digit() => return Ordering::Less,
            ([], _) => return Ordering::Less,
            (_, []) => return Ordering::Greater,
            // Plain chars, which have a sign on some processors: libraries have ASCII names.
            ([a, rest_one @ ..], [b, rest_other @ ..]) => match a.cmp(b) {
                Ordering::Equal => (one, other) = (rest_one, rest_other),
                unequal => return unequal,
            },
        }
    }
}

fn digits(text: &mut &[u8]) -> i32 {
    let mut value = 0_i32;
    while let [digit @ b'0'..=b'9', rest @ ..] = *text {
        value = value.wrapping_mul(10).wrapping_add(i32::from(*digit - b'0'));
        *text = rest;
    }
    value
}

/// The directories that /etc/ld.so.conf names, with what it includes.
pub(crate) fn configured(tree: &mut Tree) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    let mut files = CONF_FILES;
    read_conf(tree, Path::new("/etc/ld.so.conf"), CONF_DEPTH, &mut files, &mut dirs);
    dirs
}

fn read_conf(tree: &mut Tree, path: &Path, depth: usize, files: &mut usize, dirs: &mut Vec<PathBuf>) {
    if depth == 0 || *files == 0 {
        return;
    }
    *files -= 1;
    let Some(text) = read(tree, path, CONF_MAX) else { return };
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
        let mut words = line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty());
        match words.next() {
            Some(b"include") => {
                for pattern in words {
                    let pattern = path.parent().unwrap_or(path).join(OsStr::from_bytes(pattern));
                    for file in matching(tree, &pattern) {
                        read_conf(tree, &file, depth - 1, files, dirs);
                    }
                }
            }
            Some(b"hwcap") | None => {}
            Some(_) if dirs.len() < CONF_DIRS && line.starts_with(b"/") => {
                dirs.push(PathBuf::from(OsStr::from_bytes(line)));
            }
            Some(_) => {}
        }
    }
}

/// The files that a pattern means, whose last component alone has stars.
fn matching(tree: &mut Tree, pattern: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (pattern.parent(), pattern.file_name()) else { return Vec::new() };
    let Ok(found) = tree.find(dir) else { return Vec::new() };
    let names = tree.list(&found.real, CONF_FILES).unwrap_or_default();
    names.into_iter().filter(|one| fits(name.as_bytes(), one.as_bytes())).map(|one| dir.join(one)).collect()
}

/// Whether a name fits a pattern of `*` and `?`; as for a shell, a leading dot has to be named.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    if name.starts_with(b".") && !pattern.starts_with(b".") {
        return false;
    }
    // Where to go on from if what follows the last star does not fit.
    let (mut at, mut read, mut star) = (0, 0, None);
    while read < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at + 1, read));
                at += 1;
            }
            Some(char) if *char == b'?' || Some(char) == name.get(read) => {
                at += 1;
                read += 1;
            }
            _ => {
                let Some((after, from)) = star else { return false };
                star = Some((after, from + 1));
                (at, read) = (after, from + 1);
            }
        }
    }
    pattern.get(at..).is_none_or(|rest| rest.iter().all(|byte| *byte == b'*'))
}

/// The content of a file, unless it is larger than it should be.
pub(crate) fn read(tree: &mut Tree, path: &Path, max: u64) -> Option<Vec<u8>> {
    let found = tree.find(path).ok().filter(|found| found.kind == Kind::File)?;
    let mut data = Vec::new();
    tree.read(&found.real).ok()?.take(max + 1).read_to_end(&mut data).ok()?;
    (data.len() as u64 <= max).then_some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_and_bad_caches_are_not() {
        let machine = Machine { wide: true, little: true, number: object::elf::EM_X86_64 };
        let libraries = [("libc.so.6", "/lib/libc.so.6"), ("liba.so", "/opt/liba.so"), ("libb10.so", "/b10")];
        let libraries: BTreeMap<OsString, PathBuf> =
            libraries.iter().map(|(name, path)| (OsString::from(name), PathBuf::from(path))).collect();
        let data = write(&libraries, machine).unwrap();
        let cache = parse(&data).unwrap();
        for (name, path) in &libraries {
            assert_eq!(cache.places(name), std::slice::from_ref(path));
        }
        assert!(cache.places(OsStr::new("libx.so")).is_empty());
        for end in 0..data.len() {
            // Whatever is cut off, it is no more than less.
            let found = parse(&data[..end]).map_or(0, |cache| cache.0.len());
            assert!(found <= libraries.len());
        }
        let mut hostile = data.clone();
        hostile[20..24].fill(0xff);
        assert!(parse(&hostile).is_none_or(|cache| cache.0.len() < 50));
        assert!(parse(b"").is_none());
    }

    #[test]
    fn names_are_compared_as_the_loader_does() {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let cases = [("liba.so.2", "liba.so.10", Less), ("liba.so", "libb.so", Less), ("lib1", "liba", Greater)];
        for (one, other, order) in cases {
            assert_eq!(compare(one.as_bytes(), other.as_bytes()), order, "{one} {other}");
            assert_eq!(compare(other.as_bytes(), one.as_bytes()), order.reverse(), "{other} {one}");
        }
        assert_eq!(compare(b"lib01", b"lib1"), Equal);
        assert_eq!(compare(b"lib", b"lib1"), Less);
    }

    #[test]
    fn patterns_fit_as_for_a_shell() {
        for (pattern, name) in [("*.conf", "a.conf"), ("a?c*", "abc"), ("*a*b", "xaxxab"), ("x", "x"), (".*", ".x")] {
            assert!(fits(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
        for (pattern, name) in [("*.conf", "a.conf~"), ("*.conf", ".conf"), ("a?c", "ac"), ("x", "xy"), ("", "x")] {
            assert!(!fits(pattern.as_bytes(), name.as_bytes()), "{pattern} {name}");
        }
    }
}
