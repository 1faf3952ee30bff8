//! The example `bwrap` against bubblewrap itself: the same command lines, and what is seen inside compared.
//!
//! The reference is trixie's, unpacked in the test cache, since Debian 12's lacks options; what differs on purpose is in
//! [`INTENDED`], and everything else fails, as does a difference there that is none any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::harness::{compile_static, is_root, real, removable, temp_dir};
use crate::skip;

#[path = "bwrap_joined.rs"]
mod joined;
#[path = "bwrap_lines.rs"]
mod lines;
use lines::{INTENDED, Intended, MISTAKES, Who, pairs, singles};

/// Where the two programs are.
struct Programs {
    own: PathBuf,
    reference: PathBuf,
}

impl Programs {
    fn find() -> Option<Self> {
        let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("examples/bwrap"));
        let own = std::env::var_os("BELLJAR_TEST_BWRAP").map(PathBuf::from).or_else(beside)?;
        let cache = std::env::var_os("BELLJAR_TEST_CACHE").unwrap_or("/var/cache/belljar-test".into());
        let reference = Path::new(&cache).join("bubblewrap");
        (own.exists() && reference.join("usr/bin/bwrap").exists()).then_some(Self { own, reference })
    }

    /// With its own loader and libraries, in which its name is what the loader is told.
    fn reference(&self) -> Command {
        let dir = |name: &str| fs::read_dir(self.reference.join(name)).unwrap().map(|entry| entry.unwrap().path());
        let starts = |path: &PathBuf, name: &str| path.file_name().unwrap().to_str().unwrap().starts_with(name);
        let loader = dir("usr/lib64").chain(dir("usr/lib")).find(|path| starts(path, "ld-linux")).unwrap();
        let libraries = dir("usr/lib").find(|path| path.to_str().unwrap().ends_with("-linux-gnu")).unwrap();
        let mut command = within_time(loader);
        command.args(["--argv0", "bwrap", "--library-path"]).arg(libraries).arg(self.reference.join("usr/bin/bwrap"));
        command
    }
}

/// By a caller that ignores some signals. Bubblewrap's own processes wait for each other for ever when some of its set-ups
/// fail.
fn within_time(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "20", "env", "--ignore-signal=HUP,USR1,CHLD,PIPE"]).arg(program);
    command
}

/// Content for the descriptors that command lines name: 20 to 22 are files, 23 a directory, 24 a filter that allows all,
/// 25 a list of arguments, 26 for what is written, 27 and up namespaces.
fn descriptors(dir: &Path) -> Vec<(OwnedFd, i32)> {
    let content = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        File::create(&path).unwrap().write_all(bytes).unwrap();
        OwnedFd::from(File::open(path).unwrap())
    };
    let allow = [0x06_u8, 0, 0, 0, 0, 0, 0xff, 0x7f];
    let written = OwnedFd::from(File::create(dir.join("written")).unwrap());
    let all = vec![
        (content("first", b"first"), 20),
        (content("second", b"second"), 21),
        (content("third", b"third"), 22),
        (File::open(dir).unwrap().into(), 23),
        (content("filter", &allow), 24),
        (content("arguments", b"--setenv\0FROM\0args\0--dir\0/args"), 25),
        (written, 26),
    ];
    let joined = joined::namespaces();
    // Out of the way of those numbers, which other threads may have open here.
    let apart = |(fd, number): (OwnedFd, i32)| {
        // SAFETY: No pointers.
        let moved = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 100) };
        assert!(moved >= 100);
        // SAFETY: The kernel has just made this descriptor, which nobody else knows.
        let moved = unsafe { OwnedFd::from_raw_fd(moved) };
        (moved, number)
    };
    all.into_iter().chain(joined).map(apart).collect()
}

/// Runs a program with these arguments, and exactly these descriptors.
#[allow(unsafe_code)]
fn run(mut command: Command, dir: &Path, arguments: &[String]) -> (Output, String) {
    let descriptors = descriptors(dir);
    command.args(arguments).env_clear().envs([("PATH", "/usr/bin:/bin"), ("HOME", "/home"), ("A", "a b")]);
    command.current_dir(dir).stdin(Stdio::null());
    let install = move || {
        for (fd, number) in &descriptors {
            // SAFETY: Both are descriptors, and the numbers are above all that this process opens in between.
            if unsafe { libc::dup2(fd.as_raw_fd(), *number) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: Only dup2(2) is called between fork and exec.
    unsafe { command.pre_exec(install) };
    let output = command.output().unwrap();
    drop(command);
    (output, fs::read_to_string(dir.join("written")).unwrap_or_default())
}

/// What one run has shown, by names.
type Seen = BTreeMap<String, String>;

fn seen((output, written): &(Output, String)) -> Seen {
    let mut seen = Seen::new();
    seen.insert("code".into(), format!("{:?}", output.status.code()));
    let errors = String::from_utf8_lossy(&output.stderr);
    // The words of a failed set-up are our own, but not whose they are.
    seen.insert("errors".into(), errors.lines().map(|line| line.split(':').next().unwrap_or_default()).collect());
    let text = String::from_utf8_lossy(&output.stdout);
    let mut mounts: BTreeMap<&str, String> = BTreeMap::new();
    for line in text.lines() {
        let (name, value) = line.split_once('\t').unwrap_or(("output", line));
        match name {
            "mount" => drop(mount(value).map(|(at, what)| mounts.insert(at, what))),
            "status" => status(value, &mut seen),
            "env" => {
                let (name, value) = value.split_once('=').unwrap_or((value, ""));
                seen.insert(format!("env {name}"), value.into());
            }
            // Which one it is, does not matter.
            _ if name.starts_with("ns ") => {
                let host = fs::read_link(format!("/proc/self/ns/{}", &name[3..])).unwrap();
                let what =
                    if value.is_empty() { "?" } else { ["own", "host's"][usize::from(host == Path::new(value))] };
                seen.insert(name.into(), what.into());
            }
            _ => {
                let known = seen.entry(name.into()).or_default();
                known.push_str(value);
                known.push('\n');
            }
        }
    }
    seen.extend(mounts.into_iter().map(|(at, what)| (format!("mount {at}"), what)));
    seen.extend(documents(written).map(|(index, names)| (format!("document {index}"), names)));
    seen
}

/// A line of mountinfo without numbers and the names of our own: what is on top at a place counts.
fn mount(line: &str) -> Option<(&str, String)> {
    let fields: Vec<&str> = line.split(' ').collect();
    let dash = fields.iter().position(|field| *field == "-")?;
    let (at, options, kind, all) = (fields.get(4)?, fields.get(5)?, fields.get(dash + 1)?, fields.get(dash + 3)?);
    let bound = all.split(',').find(|option| option.starts_with("size=")).unwrap_or_default();
    Some((at, format!("{kind} {options} {bound}")))
}

fn status(line: &str, seen: &mut Seen) {
    let (name, value) = line.split_once(':').unwrap();
    if name.starts_with("Cap") || ["NoNewPrivs", "Seccomp", "Seccomp_filters"].contains(&name) {
        seen.insert(format!("status {name}"), value.trim().into());
    }
}

/// The members of what was written to a status descriptor; values only where they do not depend on the run.
fn documents(written: &str) -> impl Iterator<Item = (usize, String)> {
    written.lines().enumerate().map(|(index, line)| {
        let member = |member: &str| match member.contains("-code") {
            true => member.trim().to_owned(),
            false => member.split(':').next().unwrap_or_default().trim_start().to_owned(),
        };
        (index, line.trim_end_matches([',', ' ']).split(", ").map(member).collect::<Vec<_>>().join(" "))
    })
}

/// A difference: its name, what ours shows, and what the reference does.
type Difference = (String, Option<String>, Option<String>);

/// Runs one line through both. `PROBE` stands for the program that tells what it sees, and `DIR` for a directory that is
/// made anew for each.
fn compare(programs: &Programs, probe: &Path, line: &str) -> Vec<Difference> {
    let [own, reference] = [within_time(&programs.own), programs.reference()].map(|command| {
        let top = temp_dir();
        let dir = real(top.path()).join("work");
        for name in ["lower", "upper", "work", "other/below"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        fs::write(dir.join("lower/low"), "low").unwrap();
        fs::write(dir.join("other/high"), "high").unwrap();
        std::os::unix::fs::symlink("other", dir.join("link")).unwrap();
        let word = |word: &str| {
            let word = word.replace("PROBE", probe.to_str().unwrap()).replace("DIR", dir.to_str().unwrap());
            word.replace('~', " ").replace("EMPTY", "")
        };
        let arguments: Vec<String> = line.split_whitespace().map(word).collect();
        let plain = |text: String| text.replace(dir.to_str().unwrap(), "DIR");
        let seen = seen(&run(command, &dir, &arguments));
        removable(&dir);
        seen.into_iter().map(|(name, value)| (plain(name), plain(value))).collect::<Seen>()
    });
    // Where one of them starts no program, that is all there is to say.
    if own.get("code") != reference.get("code") {
        return vec![("code".into(), own.get("code").cloned(), reference.get("code").cloned())];
    }
    let names: BTreeSet<&String> = own.keys().chain(reference.keys()).collect();
    let difference = |name: &String| (name.clone(), own.get(name).cloned(), reference.get(name).cloned());
    names.into_iter().map(difference).filter(|(_, own, reference)| own != reference).collect()
}

#[test]
fn what_a_program_sees_is_what_it_sees_in_bubblewrap() {
    let Some(programs) = Programs::find() else {
        skip!("no example bwrap beside the tests, or no bubblewrap in the test cache");
    };
    let probe = compile_static("bwrap-probe", include_str!("bwrap_probe.c"));
    let all: Vec<String> = singles().into_iter().chain(pairs()).chain(joined::lines()).collect();
    let intended: Vec<&Intended> = INTENDED.iter().chain(joined::INTENDED).collect();
    let next = AtomicUsize::new(0);
    // A start mostly waits for the kernel.
    let work = || {
        let one = |_| all.get(next.fetch_add(1, Relaxed)).map(|line| (line, compare(&programs, &probe, line)));
        (0..).map_while(one).collect::<Vec<_>>()
    };
    let compared: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(compared.len(), all.len());
    let (mut used, mut failures) = (BTreeSet::new(), BTreeMap::<String, Vec<&String>>::new());
    for (line, (name, own, reference)) in compared.iter().flat_map(|(line, all)| all.iter().map(move |one| (line, one)))
    {
        let [own, reference] = [own, reference].map(Option::as_deref);
        let fits = |known: &Intended| known.fits(line, name, own.unwrap_or(""), reference.unwrap_or(""));
        match intended.iter().position(|known| fits(known)) {
            Some(index) => drop(used.insert(index)),
            None => {
                let what = format!("{name}\n    ours      {own:?}\n    reference {reference:?}");
                failures.entry(what).or_default().push(line);
            }
        }
    }
    let group = |(what, lines): (&String, &Vec<&String>)| format!("{} x {what}; {}", lines.len(), lines[0]);
    let shown: Vec<_> = failures.iter().map(group).collect();
    assert!(failures.is_empty(), "{} differences in {} lines:\n{}", failures.len(), all.len(), shown.join("\n"));
    // Every difference in the list has to be one.
    let who = if is_root() { Who::Root } else { Who::User };
    let expected = |(index, known): &(usize, &Intended)| known.is_for(who) && !used.contains(index);
    let unseen: Vec<_> = intended.iter().copied().enumerate().filter(expected).map(|(_, known)| known).collect();
    assert!(unseen.is_empty(), "these differences are none any more: {unseen:#?}");
    eprintln!("{} command lines", all.len());
}

#[test]
fn mistakes_are_told_in_the_same_words() {
    let Some(programs) = Programs::find() else {
        skip!("no example bwrap beside the tests, or no bubblewrap in the test cache");
    };
    let dir = temp_dir();
    let dir = real(dir.path());
    let mut failures = Vec::new();
    for line in MISTAKES.lines().chain(joined::MISTAKES.lines()).filter(|line| !line.trim().is_empty()) {
        let arguments: Vec<String> = line.split_whitespace().map(|word| word.replace("EMPTY", "")).collect();
        let told = |command| {
            let (output, _) = run(command, &dir, &arguments);
            (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (own, reference) = (told(within_time(&programs.own)), told(programs.reference()));
        if own != reference {
            failures.push(format!("{line}\n  ours      {own:?}\n  reference {reference:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_help_names_every_option() {
    let Some(programs) = Programs::find() else {
        skip!("no example bwrap beside the tests, or no bubblewrap in the test cache");
    };
    let names = |mut command: Command| -> BTreeSet<String> {
        let told = command.arg("--help").output().unwrap();
        assert_eq!((told.status.code(), told.stderr.len()), (Some(0), 0), "{told:?}");
        let text = String::from_utf8(told.stdout).unwrap();
        let ends = |c: char| c.is_whitespace() || ",:/)".contains(c);
        text.split(ends).filter(|word| word.len() > 2 && word.starts_with("--")).map(str::to_owned).collect()
    };
    let (own, reference) = (names(within_time(&programs.own)), names(programs.reference()));
    assert!(reference.len() > 60, "{reference:?}");
    let more: Vec<_> = own.difference(&reference).collect();
    assert_eq!(more, ["--inherit-fds", "--pass-fd"]);
    let missing: Vec<_> = reference.difference(&own).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
