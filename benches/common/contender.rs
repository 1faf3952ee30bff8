//! Who is compared. Each runs the same program, with the same standard streams, and waits for its end.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use belljar::{Landlock, Pool, Rootfs, Sandbox, Seccomp};

use super::{Bench, Result};

/// The path of the program inside.
pub(crate) const INSIDE: &str = "/noop";

/// One way to run the program.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    run: Box<dyn Fn() -> Result<Duration> + Send + Sync>,
    prepare: Box<dyn Fn() -> Result + Send + Sync>,
    missing: Option<String>,
}

impl Contender {
    /// A contender that does not work here is kept, with the reason.
    pub(crate) fn new(name: &'static str, run: impl Fn() -> Result + Send + Sync + 'static) -> Self {
        Self::timing_itself(name, move || {
            let start = Instant::now();
            run().map(|()| start.elapsed())
        })
    }

    /// One that runs in a process of its own, and says how long that took.
    pub(crate) fn timing_itself(
        name: &'static str,
        run: impl Fn() -> Result<Duration> + Send + Sync + 'static,
    ) -> Self {
        let missing = run().err().map(|error| error.to_string());
        Self { name, run: Box::new(run), prepare: Box::new(|| Ok(())), missing }
    }

    /// What comes before each run, and is not part of it.
    pub(crate) fn prepare(&self) -> Result {
        (self.prepare)().map_err(|error| format!("{}: {error}", self.name).into())
    }

    pub(crate) fn run(&self) -> Result {
        self.timed().map(|_| ())
    }

    /// Runs it, and returns how long that took.
    pub(crate) fn timed(&self) -> Result<Duration> {
        (self.run)().map_err(|error| format!("{}: {error}", self.name).into())
    }

    /// Why there is nothing to compare with.
    pub(crate) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }
}

impl fmt::Debug for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contender").field("name", &self.name).field("missing", &self.missing).finish()
    }
}

/// Names those that are missing, and returns the others.
pub(crate) fn present(contenders: &[Contender]) -> Vec<&Contender> {
    for contender in contenders {
        if let Some(reason) = contender.missing() {
            println!("missing: {}: {reason}", contender.name);
        }
    }
    contenders.iter().filter(|contender| contender.missing().is_none()).collect()
}

/// The floor: what std does, by posix_spawn(3).
pub(crate) fn plain(bench: &Bench) -> Result<Contender> {
    let noop = bench.noop()?;
    Ok(Contender::new("plain spawn", move || status(&mut Command::new(&noop))))
}

/// What std does if it has to run something in the child: fork(2), which copies the host's page tables.
#[allow(unsafe_code)]
pub(crate) fn fork(bench: &Bench) -> Result<Contender> {
    let noop = bench.noop()?;
    Ok(Contender::new("plain fork", move || {
        let mut command = Command::new(&noop);
        // SAFETY: The closure does nothing.
        unsafe { command.pre_exec(|| Ok(())) };
        status(&mut command)
    }))
}

/// The default policy on the host's userland.
pub(crate) fn host(bench: &Bench) -> Result<Contender> {
    let sandbox = host_policy(bench)?;
    Ok(Contender::new("belljar host", move || outcome(&sandbox)))
}

/// The same, from a template.
pub(crate) fn prepared(bench: &Bench) -> Result<Contender> {
    let prepared = host_policy(bench)?.prepare()?;
    Ok(Contender::new("belljar prepared", move || ended(&mut prepared.command(INSIDE))))
}

/// The same without Landlock and the filter of system calls: namespaces and mounts alone.
pub(crate) fn bare(bench: &Bench) -> Result<Contender> {
    let policy = host_policy(bench)?.landlock(Landlock::off()).seccomp(Seccomp::off());
    Ok(sandbox("belljar bare", policy))
}

/// The least that runs the program: an empty root and one bind, with /proc, /dev and /tmp as always.
pub(crate) fn empty(bench: &Bench) -> Result<Contender> {
    Ok(sandbox("belljar empty", Sandbox::new().bind_ro(bench.noop()?, INSIDE)))
}

/// A pool that is filled before each run, which its time leaves out: what a start costs when sandboxes wait.
pub(crate) fn pool_by_hand(bench: &Bench) -> Result<Contender> {
    let pool = Arc::new(host_policy(bench)?.prepare()?.pool_by_hand(1)?);
    let filled = pool.clone();
    let contender = Contender::new("belljar pool", move || pooled(&pool));
    Ok(Contender { prepare: Box::new(move || Ok(filled.refill()?)), ..contender })
}

/// A pool whose thread builds the next sandboxes meanwhile.
pub(crate) fn pool(bench: &Bench) -> Result<Contender> {
    let pool = host_policy(bench)?.prepare()?.pool(8)?;
    Ok(Contender::new("belljar pool, its thread at work", move || pooled(&pool)))
}

fn pooled(pool: &Pool) -> Result {
    ended(&mut pool.command(INSIDE))
}

/// A policy that has the program at `/noop`.
pub(crate) fn sandbox(name: &'static str, policy: Sandbox) -> Contender {
    Contender::new(name, move || outcome(&policy))
}

/// Bubblewrap, with the mounts of the default policy on the host's userland.
pub(crate) fn bwrap(bench: &Bench) -> Result<Contender> {
    Ok(bwrap_with("bwrap", bwrap_mounts(bench, &host_policy(bench)?)?))
}

/// Bubblewrap with these mounts.
pub(crate) fn bwrap_with(name: &'static str, mounts: Vec<OsString>) -> Contender {
    Contender::new(name, move || {
        let mut command = Command::new("bwrap");
        status(command.arg("--unshare-all").args(&mounts).arg(INSIDE))
    })
}

/// util-linux: the namespaces and a new /proc, on the host's own root.
pub(crate) fn unshare(bench: &Bench) -> Result<Contender> {
    const FLAGS: [&str; 5] = ["-Urmpf", "--net", "--ipc", "--uts", "--mount-proc"];
    let noop = bench.noop()?;
    Ok(Contender::new("unshare", move || status(Command::new("unshare").args(FLAGS).arg(&noop))))
}

pub(crate) fn host_policy(bench: &Bench) -> Result<Sandbox> {
    Ok(Sandbox::new().rootfs(Rootfs::host()).bind_ro(bench.noop()?, INSIDE))
}

/// The mounts of belljar's plan as options of bwrap(1).
///
/// What bwrap has no form for is left out, which favours it: the masks, and what its own --proc and --dev do by fewer
/// mounts. What is a file of belljar's own comes from a file that is there already.
pub(crate) fn bwrap_mounts(bench: &Bench, policy: &Sandbox) -> Result<Vec<OsString>> {
    let plan = policy.command(INSIDE).plan()?.to_string();
    let steps = plan.lines().filter_map(|line| line.trim().strip_prefix("mount "));
    let mut options: Vec<OsString> = Vec::new();
    for step in steps.map(str::trim) {
        let (verb, rest) = step.split_once(' ').unwrap_or((step, ""));
        let option: Vec<OsString> = match (verb, rest) {
            ("bind_ro", _) => two("--ro-bind", rest, " -> ")?,
            ("bind", _) => two("--bind", rest, " -> ")?,
            ("symlink", _) if rest.contains("<- /dev/") => continue,
            ("symlink", _) => two("--symlink", rest, " <- ")?,
            ("file", _) => {
                let (path, _) = rest.rsplit_once(" (").ok_or("a file step has its size")?;
                vec!["--ro-bind".into(), content(bench, path)?.into(), path.into()]
            }
            ("proc", _) => vec!["--proc".into(), "/proc".into()],
            ("tmpfs", _) if rest.starts_with("/dev ") => vec!["--dev".into(), "/dev".into()],
            ("tmpfs", _) if rest.starts_with("/tmp ") => vec!["--tmpfs".into(), "/tmp".into()],
            ("seal", "/") => vec!["--remount-ro".into(), "/".into()],
            _ => continue,
        };
        options.extend(option);
    }
    let has = |option: &str| options.iter().any(|other| other == option);
    // The plan's words may change: then this list has to follow, and not grow shorter in silence.
    let wanted = ["--ro-bind", "--symlink", "--proc", "--dev", "--tmpfs", "--remount-ro"];
    match wanted.into_iter().find(|option| !has(option)) {
        Some(option) => Err(format!("the plan has nothing that reads as bwrap's {option}:\n{plan}").into()),
        None => Ok(options),
    }
}

/// An option with what stands before and after `arrow`.
fn two(option: &str, text: &str, arrow: &str) -> Result<Vec<OsString>> {
    let (from, to) = text.split_once(arrow).ok_or_else(|| format!("{text:?} has no {arrow:?}"))?;
    Ok(vec![option.into(), from.into(), to.into()])
}

/// A small file to stand for one of belljar's own.
fn content(bench: &Bench, path: &str) -> Result<PathBuf> {
    let file = bench.path(&path.replace('/', "_"))?;
    fs::write(&file, "127.0.0.1\tlocalhost\n")?;
    Ok(file)
}

fn outcome(sandbox: &Sandbox) -> Result {
    ended(&mut sandbox.command(INSIDE))
}

/// Runs a command of belljar's, which is to succeed.
pub(crate) fn ended(command: &mut belljar::Command) -> Result {
    match command.status()? {
        outcome if outcome.success() => Ok(()),
        outcome => Err(format!("{outcome:?}").into()),
    }
}

/// Runs a command of std's, which is to succeed.
pub(crate) fn status(command: &mut Command) -> Result {
    match command.status()? {
        status if status.success() => Ok(()),
        status => Err(status.to_string().into()),
    }
}
