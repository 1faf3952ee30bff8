//! The example `bwrap` beside Debian's: whole processes, of the same command lines.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::seen;
use crate::common::contender::{Contender, present, status};
use crate::common::measure::{Samples, interleave};
use crate::common::table::{Table, target, times, us};
use crate::common::{Bench, Result};

const ROUNDS: usize = 200;

/// Command lines as they are used, where `NOOP` stands for the program.
const LINES: [(&str, &str); 4] = [
    ("the host's root, read-only", "--ro-bind / / NOOP"),
    (
        "an agent's shell",
        "--ro-bind / / --dev /dev --proc /proc --unshare-pid --unshare-ipc --die-with-parent --new-session --bind DIR DIR \
         --chdir DIR NOOP",
    ),
    (
        "a root of its own, every namespace",
        "--unshare-all --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 --proc \
         /proc --dev /dev --tmpfs /tmp --dir /run --setenv HOME /tmp --ro-bind NOOP NOOP NOOP",
    ),
    (
        "the same with the host's network",
        "--unshare-all --share-net --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 \
         /lib64 --proc /proc --dev /dev --tmpfs /tmp --dir /run --setenv HOME /tmp --ro-bind NOOP NOOP NOOP",
    ),
];

pub(crate) fn command_lines(bench: &Bench) -> Result {
    let program = example()?;
    let mut table = Table::new(&["µs", "ours, median", "min", "bwrap, median", "min", "x bwrap"]);
    let mut worst = (f64::NAN, f64::NAN);
    for (name, line) in LINES {
        let all = [run(bench, "ours", &program, line)?, run(bench, "bwrap", Path::new("bwrap"), line)?];
        let contenders = present(&all);
        let mut samples = vec![Samples::default(); contenders.len()];
        interleave(&contenders, ROUNDS, &mut samples)?;
        let [ours, theirs] = [0, 1].map(|index| seen(samples.get(index).filter(|_| contenders.len() == 2)));
        let (median, min) = (ours.median / theirs.median, ours.min / theirs.min);
        worst = (worst.0.max(median), worst.1.max(min));
        table.row(name, [us(ours.median), us(ours.min), us(theirs.median), us(theirs.min), times(median)]);
    }
    table.print();
    println!();
    let worst = crate::common::table::Seen { median: worst.0, min: worst.1 };
    target("the dearest line, of bwrap's time, less than 1", worst, 1.0);
    Ok(())
}

/// The example, which has to be built before.
fn example() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.ancestors().nth(2).map(|dir| dir.join("examples/bwrap"));
    match path.filter(|path| path.exists()) {
        Some(path) => Ok(path),
        None => Err("build it first: cargo build --release --example bwrap".into()),
    }
}

fn run(bench: &Bench, name: &'static str, program: &Path, line: &str) -> Result<Contender> {
    let (noop, dir) = (bench.noop()?, bench.path("")?);
    let word = |word: &str| match word {
        "NOOP" => noop.clone().into_os_string(),
        "DIR" => dir.clone().into_os_string(),
        word => word.into(),
    };
    let arguments: Vec<OsString> = line.split_whitespace().map(word).collect();
    let program = program.to_owned();
    Ok(Contender::new(name, move || status(Command::new(&program).args(&arguments))))
}
