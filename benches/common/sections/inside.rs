//! What the layers cost a program that runs: file-heavy work, and single system calls.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use belljar::{Landlock, Sandbox, Seccomp};

use super::{combine, find, seen};
use crate::common::contender::{Contender, bwrap_mounts, ended, host_policy, present, status};
use crate::common::host::children_time;
use crate::common::measure::{Samples, in_turns};
use crate::common::table::{Table, number, target, times};
use crate::common::{Bench, Result};

/// Work as a script, in a directory of its own that is bound writable.
///
/// GNU tar reads no file if it sees that it writes to /dev/null.
const WORK: [(&str, &str); 3] = [
    ("compile", "cc -O1 -o calls calls.c hosts.c 2>&1"),
    ("find", "find /usr 2>/dev/null | wc -l >count"),
    ("tar", "tar cf - /usr/include 2>/dev/null | wc -c >count"),
];
const ROUNDS: usize = 15;

/// Programs for the compiler, with plenty of headers; the first measures single system calls.
const SOURCES: [(&str, &str); 2] = [("calls.c", include_str!("calls.c")), ("hosts.c", HEADERS)];
const HEADERS: &str = r#"
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
int host(const char *name, char *text, size_t size) {
    struct addrinfo *found, hints = { .ai_family = AF_INET, .ai_socktype = SOCK_STREAM };
    if (getaddrinfo(name, 0, &hints, &found) != 0) return -1;
    const struct sockaddr_in *first = (const void *)found->ai_addr;
    const char *told = inet_ntop(AF_INET, &first->sin_addr, text, size);
    freeaddrinfo(found);
    return told ? 0 : -errno;
}
"#;

/// The directory of the work, inside.
const JOB: &str = "/job";

const CALL_ROUNDS: usize = 5;

/// BPF_RET with SECCOMP_RET_ALLOW: the shortest filter, which costs what any does.
const ALLOW: [u16; 4] = [0x06, 0, 0, 0x7fff];

pub(crate) fn inside(bench: &Bench) -> Result {
    let job = bench.path("job")?;
    fs::create_dir_all(&job)?;
    for (name, source) in SOURCES {
        fs::write(job.join(name), source)?;
    }
    WORK.into_iter().try_for_each(|(name, script)| work(bench, &job, name, script))?;
    status(Command::new("cc").args(["-O1", "-o", "calls", "calls.c"]).current_dir(&job))?;
    calls(bench, &job)
}

/// The work by every contender: the time that it takes, and the time that processors spend on it.
///
/// Nobody learns the latter of bwrap, which does not wait for the process that it makes the program's parent.
fn work(bench: &Bench, job: &Path, name: &str, script: &'static str) -> Result {
    let all = contenders(bench, job, script)?;
    let contenders = present(&all);
    let mut wall = vec![Samples::default(); contenders.len()];
    let mut processor = wall.clone();
    in_turns(contenders.len(), ROUNDS, |index| {
        if let (Some(contender), Some(wall), Some(processor)) =
            (contenders.get(index), wall.get_mut(index), processor.get_mut(index))
        {
            let (start, spent) = (Instant::now(), children_time()?);
            contender.run()?;
            wall.push(start.elapsed());
            if contender.name != "bwrap" {
                processor.push(children_time()?.saturating_sub(spent));
            }
        }
        Ok(())
    })?;
    println!("{name}: `{script}`\n");
    let mut table =
        Table::new(&["ms: median (min)", "time", "x without layers", "processors' time", "x without layers"]);
    for (index, contender) in contenders.iter().enumerate() {
        let figures = [&wall, &processor].map(|samples| {
            let (seen, bare) = (seen(samples.get(index)), seen(find("without layers", &contenders, samples)).median);
            let ms = format!("{} ({})", number(seen.median / 1e3, 1), number(seen.min / 1e3, 1));
            [ms, number(seen.median / bare, 3)]
        });
        table.row(contender.name, figures.into_iter().flatten());
    }
    table.print();
    println!();
    for (samples, what) in [(&wall, "time"), (&processor, "processors' time")] {
        let figure = |name| seen(find(name, &contenders, samples));
        let ratio = combine(figure("every layer"), figure("without layers"), |all, none| all / none);
        target(&format!("{name}: {what} with every layer, at most 1.05 of that without"), ratio, 1.05);
        let ratio = combine(figure("least layers"), figure("without layers"), |least, none| least / none);
        println!(
            "  the least that the kernel's mechanisms take: {} (by minima {})",
            times(ratio.median),
            times(ratio.min)
        );
    }
    println!();
    Ok(())
}

/// Nanoseconds for single system calls, by a program that makes many of each.
fn calls(bench: &Bench, job: &Path) -> Result {
    let all = contenders(bench, job, "./calls >figures")?;
    let contenders = present(&all);
    let mut least: Vec<Vec<(String, f64)>> = vec![Vec::new(); contenders.len()];
    in_turns(contenders.len(), CALL_ROUNDS, |index| {
        if let (Some(contender), Some(least)) = (contenders.get(index), least.get_mut(index)) {
            contender.run()?;
            keep_least(least, &fs::read_to_string(job.join("figures"))?)?;
        }
        Ok(())
    })?;
    let names: Vec<&str> = least.iter().take(1).flatten().map(|(name, _)| name.as_str()).collect();
    println!("single calls:\n");
    let mut table = Table::new(&[&["ns: min"], names.as_slice()].concat());
    for (contender, figures) in contenders.iter().zip(&least) {
        table.row(contender.name, figures.iter().map(|(_, figure)| number(*figure, 0)));
    }
    table.print();
    Ok(())
}

/// Takes lines of a name and a figure, and keeps the least figure of each name.
fn keep_least(least: &mut Vec<(String, f64)>, lines: &str) -> Result {
    for line in lines.lines() {
        let (name, figure) = line.rsplit_once(' ').ok_or("a figure has a name")?;
        let figure: f64 = figure.parse()?;
        match least.iter_mut().find(|(other, _)| other == name) {
            Some((_, least)) => *least = least.min(figure),
            None => least.push((name.to_owned(), figure)),
        }
    }
    Ok(())
}

/// Who runs the script.
fn contenders(bench: &Bench, job: &Path, script: &'static str) -> Result<Vec<Contender>> {
    let policy = host_policy(bench)?.bind(job, JOB);
    let filter: Vec<u8> = ALLOW.into_iter().flat_map(u16::to_ne_bytes).collect();
    let (no_landlock, no_filter) = (policy.clone().landlock(Landlock::off()), policy.clone().seccomp(Seccomp::off()));
    // To say what the mounts say takes at least a rule for what may be read, and one for what may be written.
    let rules = Landlock::new().allow_execute("/").allow_write(JOB).allow_write("/dev").allow_write("/tmp");
    let least = policy.clone().landlock(rules).seccomp(Seccomp::off().bpf(filter));
    let mounts = bwrap_mounts(bench, &policy)?;
    Ok(vec![
        plain(job.to_owned(), script),
        inside_of("without layers", no_landlock.clone().seccomp(Seccomp::off()), script),
        inside_of("Landlock alone", no_filter, script),
        inside_of("filter alone", no_landlock, script),
        inside_of("every layer", policy, script),
        inside_of("least layers", least, script),
        bwrap(mounts, script),
    ])
}

fn plain(job: PathBuf, script: &'static str) -> Contender {
    Contender::new("no sandbox", move || status(Command::new("/bin/sh").args(["-c", script]).current_dir(&job)))
}

fn inside_of(name: &'static str, policy: Sandbox, script: &'static str) -> Contender {
    Contender::new(name, move || ended(policy.command("/bin/sh").args(["-c", script]).current_dir(JOB)))
}

fn bwrap(mounts: Vec<OsString>, script: &'static str) -> Contender {
    Contender::new("bwrap", move || {
        let mut command = Command::new("bwrap");
        command.arg("--unshare-all").args(&mounts).args(["--chdir", JOB, "/bin/sh", "-c", script]);
        status(&mut command)
    })
}
