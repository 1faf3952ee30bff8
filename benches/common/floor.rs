//! The kernel's own floor: a program in C that makes nothing but the system calls of a start.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use super::contender::{Contender, INSIDE, host_policy};
use super::{BARE_OPTIONS, Bench, Result};

/// A start from a template, with the layers of the default policy.
pub(crate) fn every_layer(bench: &Bench) -> Contender {
    floor("floor, every layer", start(bench, "every", 1))
}

/// The same, for so many at once.
pub(crate) fn every_layer_at_once(bench: &Bench, spawners: usize) -> Contender {
    floor("floor, every layer", start(bench, "every", spawners))
}

/// A start without a template, with the layers of the default policy.
pub(crate) fn one_shot(bench: &Bench) -> Contender {
    floor("floor, one-shot", start(bench, "whole", 1))
}

/// A start from a template, with the namespaces, /proc, /tmp and an init alone.
pub(crate) fn namespaces(bench: &Bench) -> Contender {
    floor("floor, namespaces", start(bench, "namespaces", 1))
}

fn start(bench: &Bench, layers: &str, count: usize) -> Result<Vec<Floor>> {
    let program = bench.compile(&format!("floor-{layers}"), include_str!("floor.c"), &["-O1"])?;
    let init = bench.compile(&format!("floor-{layers}-init"), include_str!("floor_init.c"), BARE_OPTIONS)?;
    (0..count).map(|_| Floor::start(&program, layers, &init, &binds(bench)?)).collect()
}

/// It takes its time itself: that it is another process, which has to be woken, is no part of a start.
fn floor(name: &'static str, idle: Result<Vec<Floor>>) -> Contender {
    let idle = idle.map(Mutex::new).map_err(|error| error.to_string());
    Contender::timing_itself(name, move || {
        let idle = idle.as_ref().map_err(String::as_str)?;
        let lock = || idle.lock().map_err(|_| "a run of it has panicked");
        let mut floor = lock()?.pop().ok_or("more spawners than programs")?;
        let time = floor.once()?;
        lock()?.push(floor);
        Ok(time)
    })
}

/// The program, with its template made, if it has one.
struct Floor {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Floor {
    fn start(program: &Path, layers: &str, init: &Path, binds: &[PathBuf]) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg(layers).arg(init).args(binds).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (to, from) = (child.stdin.take().ok_or("no pipe")?, child.stdout.take().ok_or("no pipe")?);
        let mut floor = Self { child, to, from: BufReader::new(from) };
        floor.answer().map(|_| floor)
    }

    /// One start: how long it took.
    fn once(&mut self) -> Result<Duration> {
        self.to.write_all(b"x")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Duration> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        line.trim().parse().map(Duration::from_nanos).map_err(|_| match line.trim() {
            "" => "it has ended".into(),
            error => error.into(),
        })
    }
}

impl Drop for Floor {
    /// Between two starts it has no processes.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the plan of the default policy binds, each with the path inside.
fn binds(bench: &Bench) -> Result<Vec<PathBuf>> {
    let plan = host_policy(bench)?.command(INSIDE).plan()?.to_string();
    let bound = plan.lines().filter_map(|line| {
        let (verb, rest) = line.trim().strip_prefix("mount ")?.trim().split_once(' ')?;
        ["bind_ro", "bind", "device"].contains(&verb).then_some(rest)?.split_once(" -> ")
    });
    Ok(bound.flat_map(|(from, to)| [from.into(), to.into()]).collect())
}
