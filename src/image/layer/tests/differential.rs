//! What we read is what others read: GNU tar, Python's tarfile, and Go's archive/tar, which engines have. Over what these
//! and bsdtar write, and over archives by the thousand that are slightly wrong. We may refuse what they read; what we read,
//! they read too, and alike.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::build::read;
use super::mutate::{Random, mutate};
use crate::image::layer::{Entry, Kind};

/// One entry, in the form that all are brought to.
#[derive(Clone, PartialEq, Eq)]
struct Line {
    kind: char,
    size: u64,
    mode: u32,
    owner: (u32, u32),
    mtime: i64,
    device: (u32, u32),
    path: Vec<u8>,
    link: Vec<u8>,
    /// The sum of all bytes of the data.
    sum: u64,
}

impl Line {
    fn of((entry, data): &(Entry, Vec<u8>)) -> Self {
        let mut line = Line {
            kind: '-',
            size: 0,
            mode: entry.mode,
            owner: (entry.uid, entry.gid),
            mtime: entry.mtime.seconds,
            device: (0, 0),
            path: entry.path.as_bytes().to_vec(),
            link: Vec::new(),
            sum: data.iter().map(|byte| u64::from(*byte)).sum(),
        };
        let marked = |path: &[u8], name: &[u8]| [path, b"/", name].concat();
        match &entry.kind {
            Kind::File { size } => line.size = *size,
            Kind::Dir => line.kind = 'd',
            Kind::Symlink(target) => (line.kind, line.link) = ('l', target.clone()),
            Kind::HardLink(other) => (line.kind, line.link) = ('h', other.as_bytes().to_vec()),
            Kind::CharDevice { major, minor } => (line.kind, line.device) = ('c', (*major, *minor)),
            Kind::BlockDevice { major, minor } => (line.kind, line.device) = ('b', (*major, *minor)),
            Kind::Fifo => line.kind = 'p',
            Kind::Opaque => line.path = normal(&marked(entry.path.as_bytes(), b".wh..wh..opq")),
            Kind::Whiteout => {
                let (dir, name) = entry.path.split().unwrap();
                line.path = normal(&marked(dir.as_bytes(), &[b".wh.", name].concat()));
            }
        }
        line
    }

    /// A line of `list.py` and `list.go`, if it is one of an entry that we could read.
    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let [kind, size, mode, uid, gid, mtime, major, minor, path, link, sum] = words[..] else { return None };
        let link = unhex(link)?;
        Some(Line {
            kind: kind.chars().next()?,
            size: size.parse().ok()?,
            mode: mode.parse().ok()?,
            owner: (uid.parse().ok()?, gid.parse().ok()?),
            mtime: mtime.parse().ok()?,
            device: (major.parse().ok()?, minor.parse().ok()?),
            path: normal(&unhex(path)?),
            link: if kind == "h" { normal(&link) } else { link },
            sum: sum.parse().ok()?,
        })
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {:?}", gnu(self), self.mtime, self.sum, self.device)
    }
}

/// As everybody takes a path: without `.`, and without slashes that say nothing.
fn normal(path: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    parts.join(&b'/')
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let text = if text == "-" { "" } else { text };
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

fn is_there(program: &str) -> bool {
    let there = Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("SKIPPED: there is no {program} to compare with");
        assert!(std::env::var_os("BELLJAR_TEST_REQUIRE").is_none(), "skipped, and everything has to run");
    }
    there
}

/// What `list.py` or `list.go` says about each archive: the lines, or that it could not read it.
fn listed(mut lister: Command, archives: &[PathBuf]) -> Vec<Result<Vec<String>, String>> {
    let output = lister.args(archives).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lists = Vec::new();
    let mut lines = Vec::new();
    for line in text.lines() {
        match line.split_at(1) {
            ("=", _) => lines = Vec::new(),
            (".", _) => lists.push(Ok(std::mem::take(&mut lines))),
            ("!", _) => lists.push(Err(line.to_owned())),
            _ => lines.push(line.to_owned()),
        }
    }
    assert_eq!(lists.len(), archives.len());
    lists
}

/// What `lister` reads in other ways than we do.
fn differences(who: &str, lister: Command, archives: &[(PathBuf, Vec<Line>)]) -> Vec<String> {
    let paths: Vec<PathBuf> = archives.iter().map(|(path, _)| path.clone()).collect();
    let mut differences = Vec::new();
    for ((path, ours), theirs) in archives.iter().zip(listed(lister, &paths)) {
        let difference = match theirs {
            Err(error) => Some(format!("does not read it: {error}")),
            Ok(theirs) => first_difference(ours, &theirs.iter().map(|line| Line::parse(line)).collect::<Vec<_>>()),
        };
        differences.extend(difference.map(|difference| format!("{}: {who} {difference}", path.display())));
    }
    differences
}

fn first_difference(ours: &[Line], theirs: &[Option<Line>]) -> Option<String> {
    let at = (0..ours.len().max(theirs.len())).find(|at| ours.get(*at) != theirs.get(*at).and_then(Option::as_ref))?;
    Some(format!("reads {:?}\n  and we {:?}", theirs.get(at), ours.get(at)))
}

/// The same of GNU tar's own listing, of names and everything that it prints in numbers.
fn difference_of_gnu_tar(path: &Path, ours: &[Line]) -> Option<String> {
    let mut tar = Command::new("tar");
    tar.args(["--list", "--verbose", "--numeric-owner", "--quoting-style=c", "--full-time", "--absolute-names", "-f"]);
    let output = tar.arg(path).env("LC_ALL", "C").env("TZ", "UTC").output().unwrap();
    if !output.status.success() {
        return Some(format!("GNU tar does not read it: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8(output.stdout).unwrap();
    let (theirs, ours): (Vec<_>, Vec<_>) = (text.lines().map(gnu_line).collect(), ours.iter().map(gnu).collect());
    let at = (0..ours.len().max(theirs.len())).find(|at| ours.get(*at) != theirs.get(*at))?;
    Some(format!("GNU tar reads {:?}\n  and we {:?}", theirs.get(at), ours.get(at)))
}

/// An entry as GNU tar prints it, but for spaces, the time, and normalized.
fn gnu(line: &Line) -> String {
    let bits = |shift: u32, special: char, bit: u32| {
        let bits = line.mode >> shift;
        let execute = match (line.mode & bit != 0, bits & 1 != 0) {
            (true, true) => special,
            (true, false) => special.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        };
        [if bits & 4 != 0 { 'r' } else { '-' }, if bits & 2 != 0 { 'w' } else { '-' }, execute]
    };
    let mode: String =
        [bits(6, 's', 0o4000), bits(3, 's', 0o2000), bits(0, 't', 0o1000)].concat().into_iter().collect();
    let (major, minor) = line.device;
    let size = if "cb".contains(line.kind) { format!("{major},{minor}") } else { line.size.to_string() };
    let (uid, gid) = line.owner;
    format!("{}{mode} {uid}/{gid} {size} {} {}", line.kind, line.path.escape_ascii(), line.link.escape_ascii())
}

/// A line of GNU tar in the same form.
fn gnu_line(line: &str) -> String {
    let (attributes, names) = line.split_at(line.find('"').unwrap());
    let words: Vec<&str> = attributes.split_whitespace().collect();
    let (name, rest) = unquoted(names);
    let link = rest.find('"').map(|quote| unquoted(&rest[quote..]).0).unwrap_or_default();
    let hard = words[0].starts_with('h');
    let link = if hard { normal(&link) } else { link };
    // A contiguous file is a file.
    let mode = words[0].replacen('C', "-", 1);
    format!("{mode} {} {} {} {}", words[1], words[2], normal(&name).escape_ascii(), link.escape_ascii())
}

/// A string as C writes it, and what follows it.
fn unquoted(text: &str) -> (Vec<u8>, &str) {
    let mut bytes = text.bytes().enumerate().skip(1);
    let mut name = Vec::new();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return (name, &text[at + 1..]),
            b'\\' => {
                let (at, escaped) = bytes.next().unwrap();
                let control = b"abtnvfr".iter().position(|letter| *letter == escaped);
                name.push(match (escaped, control) {
                    (b'0'..=b'7', _) => {
                        let _ = (bytes.next(), bytes.next());
                        u8::from_str_radix(&text[at..at + 3], 8).unwrap()
                    }
                    (_, Some(place)) => 7 + place as u8,
                    (other, None) => other,
                });
            }
            other => name.push(other),
        }
    }
    panic!("{text} has no end")
}

/// What the script makes; the fuzzers start from it too.
fn corpus(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let script = include_str!("make-corpus.sh");
    let made =
        Command::new("bash").args(["-c", script, "make-corpus.sh"]).arg(dir).env("TMPDIR", dir).status().unwrap();
    assert!(made.success());
    let mut corpus: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    corpus.sort();
    corpus
        .iter()
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap()))
        .collect()
}

/// Compares all that we read of `archives`, and tells how many that is.
fn compare(dir: &Path, archives: &[(String, Vec<u8>)]) -> usize {
    let mut ours = Vec::new();
    for (name, archive) in archives {
        if let Ok(entries) = read(archive) {
            let path = dir.join(name);
            // GNU tar insists on the padding of the last file.
            let mut whole = archive.clone();
            whole.resize(whole.len().next_multiple_of(512), 0);
            fs::write(&path, whole).unwrap();
            ours.push((path, entries.iter().map(Line::of).collect::<Vec<_>>()));
        }
    }
    let mut different = Vec::new();
    for (path, lines) in &ours {
        different
            .extend(difference_of_gnu_tar(path, lines).map(|difference| format!("{}: {difference}", path.display())));
    }
    let mut python = Command::new("python3");
    python.args(["-I", "-c", include_str!("list.py")]);
    different.extend(differences("Python", python, &ours));
    if let Some(go) = go_lister(dir) {
        different.extend(differences("Go", Command::new(go), &ours));
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    for (path, _) in &ours {
        fs::remove_file(path).unwrap();
    }
    ours.len()
}

fn go_lister(dir: &Path) -> Option<PathBuf> {
    let (source, program) = (dir.join("list.go"), dir.join("list"));
    if !is_there("go") {
        return None;
    }
    fs::write(&source, include_str!("list.go")).unwrap();
    let mut build = Command::new("go");
    build
        .args(["build", "-o"])
        .args([&program, &source])
        .env("GOCACHE", dir.join("go-cache"))
        .env("GO111MODULE", "off");
    assert!(build.status().unwrap().success());
    Some(program)
}

fn tools_are_there() -> bool {
    ["tar", "python3", "bash", "gzip"].iter().all(|tool| is_there(tool))
}

#[test]
fn what_tools_write_is_read_as_they_read_it() {
    if !tools_are_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let corpus = corpus(dir.path());
    let sparse = |name: &str| name.contains("sparse");
    for (name, archive) in &corpus {
        let read = read(archive);
        assert_eq!(read.is_err(), sparse(name), "{name}: {read:?}");
    }
    let plain: Vec<_> = corpus.into_iter().filter(|(name, _)| name.ends_with(".tar")).collect();
    let count = plain.iter().filter(|(name, _)| !sparse(name)).count();
    assert!(count >= 15, "{count} archives are few");
    assert_eq!(compare(dir.path(), &plain), count);
}

#[test]
fn what_is_slightly_wrong_is_read_alike_or_refused() {
    if !tools_are_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let corpus: Vec<_> = corpus(dir.path()).into_iter().filter(|(name, _)| name.ends_with(".tar")).collect();
    let mut random = Random(std::env::var("BELLJAR_TEST_SEED").map_or(20_240_229, |seed| seed.parse().unwrap()));
    let count = std::env::var("BELLJAR_TEST_MUTANTS").map_or(2000, |count| count.parse().unwrap());
    let mutants: Vec<_> = (0..count)
        .map(|number| {
            let (name, archive) = &corpus[random.below(corpus.len())];
            (format!("{number}-{name}"), mutate(archive, &mut random))
        })
        .collect();
    let read = compare(dir.path(), &mutants);
    println!("{read} of {count} are read");
    // The control: there is something to compare, and something to refuse.
    assert!(read > count / 20 && read < count, "{read} of {count}");
}
