//! Many mounts asked for: recursive read-only binds of a small directory, each to a place of its own.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use belljar::Sandbox;

use super::{combine, seen};
use crate::common::contender::{Contender, bwrap_with, present, sandbox};
use crate::common::measure::{Samples, interleave};
use crate::common::table::{Table, target, us};
use crate::common::{Bench, Result};

const COUNTS: [usize; 6] = [1, 10, 100, 500, 1000, 2000];
const ROUNDS: usize = 15;

/// More than these take bwrap seconds.
const BWRAP_COUNTS: [usize; 2] = [100, 500];
const BWRAP_ROUNDS: usize = 5;

/// How much dearer the second thousand may be than the first, and still count as the same price each.
const LINEAR: f64 = 1.5;

pub(crate) fn binds(bench: &Bench) -> Result {
    let (noop, source) = (bench.noop()?, bench.path("bound")?);
    fs::create_dir_all(&source)?;
    fs::write(source.join("file"), "content\n")?;
    let mut table = Table::new(&["", "binds", "median µs", "min µs", "µs each"]);
    let all = COUNTS.map(|count| sandbox("belljar", policy(&noop, &source, count)));
    let ours = measure(&all, &COUNTS, ROUNDS, &mut table)?;
    let peers = BWRAP_COUNTS.map(|count| bwrap_with("bwrap", options(&noop, &source, count)));
    measure(&peers, &BWRAP_COUNTS, BWRAP_ROUNDS, &mut table)?;
    table.print();
    println!();
    let at = |count| COUNTS.iter().position(|other| *other == count).and_then(|index| ours.get(index));
    let at = |count| seen(at(count));
    target("2,000 binds in milliseconds, at most 100", combine(at(2000), at(1), |most, _| most / 1000.0), 100.0);
    let first = combine(at(1000), at(1), |more, less| (more - less) / 999.0);
    let second = combine(at(2000), at(1000), |more, less| (more - less) / 1000.0);
    target(
        "linear: a bind of the second thousand, at most 1.5 times one of the first",
        combine(second, first, |second, first| second / first),
        LINEAR,
    );
    Ok(())
}

/// Adds a row for each contender, and returns the samples.
fn measure(all: &[Contender], counts: &[usize], rounds: usize, table: &mut Table) -> Result<Vec<Samples>> {
    let contenders = present(all);
    let mut samples = vec![Samples::default(); contenders.len()];
    interleave(&contenders, rounds, &mut samples)?;
    for ((contender, count), samples) in contenders.iter().zip(counts).zip(&samples) {
        let (median, min) = (samples.median(), samples.min());
        table.row(contender.name, [count.to_string(), us(median), us(min), us(median / *count as f64)]);
    }
    Ok(samples)
}

fn policy(noop: &Path, source: &Path, count: usize) -> Sandbox {
    let bare = Sandbox::new().bind_ro(noop, "/noop");
    (0..count).fold(bare, |sandbox, number| sandbox.bind_ro(source, format!("/bound/{number}")))
}

fn options(noop: &Path, source: &Path, count: usize) -> Vec<OsString> {
    let bare = ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"].map(OsString::from);
    let mut options = Vec::from(bare);
    let mut bind = |source: &Path, target: String| options.extend(["--ro-bind".into(), source.into(), target.into()]);
    bind(noop, "/noop".to_owned());
    (0..count).for_each(|number| bind(source, format!("/bound/{number}")));
    options
}
