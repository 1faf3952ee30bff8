//! Thousands of spawns, good and bad: is the host as it was at the start?
//!
//! `cargo bench --bench soak` runs 10,000 spawns from one thread, then 10,000 from eight; `-- --at-once 64` adds a run
//! with so many sandboxes at a time, and `-- --spawns N` changes the number. It prints what the process holds before
//! and after, and the latency of a spawn at the start and at the end, and fails where something is left over.

#![allow(clippy::unwrap_used, unsafe_code)]

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use belljar::{Sandbox, Stdio};

/// How many of the latencies, at the start and at the end, are compared.
const SAMPLE: usize = 1000;

/// What may grow: memory that the allocator keeps for later.
const RSS_SLACK_KIB: u64 = 8 * 1024;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    // `cargo test` builds benches, and runs those without a harness to see that they start.
    if !args.iter().any(|arg| arg == "--bench") {
        return ExitCode::SUCCESS;
    }
    let number = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1)?.parse::<usize>().ok()
    };
    let spawns = number("--spawns").unwrap_or(10_000);
    let dir = tempfile::tempdir().unwrap();
    let temporary = dir.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    // SAFETY: There is no other thread yet.
    unsafe { std::env::set_var("TMPDIR", &temporary) };
    let programs = Programs::build(dir.path());
    // What is allocated once.
    run(&programs, 200, 8);
    let mut clean = true;
    let at_once = number("--at-once").map(|threads| ("at once", threads));
    for (name, threads) in [("serial", 1), ("threads", 8)].into_iter().chain(at_once) {
        println!("{name}: {spawns} spawns from {threads} thread(s)");
        clean &= soak(&programs, spawns, threads);
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One run, with what is left of it. True if that is nothing.
fn soak(programs: &Programs, spawns: usize, threads: usize) -> bool {
    let before = Holdings::look();
    let start = Instant::now();
    let latencies = run(programs, spawns, threads);
    let time = start.elapsed();
    let after = Holdings::look();
    println!("  before  {before}\n  after   {after}");
    let sample = SAMPLE.min(latencies.len() / 2);
    println!("  first {sample}: {}", Percentiles::of(&latencies[..sample]));
    println!("  last {sample}:  {}", Percentiles::of(&latencies[latencies.len() - sample..]));
    println!("  {:.0} spawns a second", spawns as f64 / time.as_secs_f64());
    let clean = after.is_back_at(&before);
    if !clean {
        println!("  FAILED: not back at the start");
    }
    clean
}

/// The static programs that are run, and the policy.
struct Programs {
    sandbox: Sandbox,
}

impl Programs {
    fn build(dir: &Path) -> Self {
        let compile = |name: &str, source: &str| -> PathBuf {
            let (code, program) = (dir.join(name).with_extension("c"), dir.join(name));
            fs::write(&code, source).unwrap();
            let status = Command::new("cc").arg("-static").arg("-o").arg(&program).arg(&code).status();
            assert!(status.unwrap().success(), "cc compiles {name}");
            program
        };
        let noop = compile("noop", "int main(void) { return 7; }");
        let pause = compile("pause", "#include <unistd.h>\nint main(void) { fork(); for (;;) pause(); }");
        let crash = compile("crash", "#include <stdlib.h>\nint main(void) { abort(); }");
        let sandbox = Sandbox::new().bind_ro(noop, "/noop").bind_ro(pause, "/pause").bind_ro(crash, "/crash");
        Self { sandbox }
    }

    /// One spawn of the mix, judged. Returns how long it took until the program ran, or was refused.
    fn spawn(&self, number: usize) -> Duration {
        let start = Instant::now();
        let command = |program: &str| self.sandbox.command(program);
        match number % 16 {
            0 => {
                let error = command("/missing").spawn().unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
                start.elapsed()
            }
            1 => {
                let sandbox = self.sandbox.clone().tmpfs("/noop/x");
                assert_eq!(sandbox.command("/noop").spawn().unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
                start.elapsed()
            }
            2 | 3 => {
                let mut child = command("/pause").spawn().unwrap();
                let time = start.elapsed();
                child.kill().unwrap();
                assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
                time
            }
            4 | 5 => {
                let child = command("/pause").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
                let time = start.elapsed();
                drop(child);
                time
            }
            6 => {
                let mut child = command("/pause").spawn().unwrap();
                let time = start.elapsed();
                assert_eq!(child.wait_timeout(Duration::from_millis(1)).unwrap(), None);
                time
            }
            7 => {
                let mut child = command("/crash").spawn().unwrap();
                let time = start.elapsed();
                assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGABRT));
                time
            }
            8 | 9 => {
                let child = command("/noop").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
                let time = start.elapsed();
                assert_eq!(child.wait_with_output().unwrap().outcome.code(), Some(7));
                time
            }
            _ => {
                let mut child = command("/noop").spawn().unwrap();
                let time = start.elapsed();
                assert_eq!(child.wait().unwrap().code(), Some(7));
                time
            }
        }
    }
}

/// The latencies of `spawns` spawns, in the order of their start, as far as threads have one.
fn run(programs: &Programs, spawns: usize, threads: usize) -> Vec<Duration> {
    let next = AtomicUsize::new(0);
    let latencies = Mutex::new(vec![Duration::ZERO; spawns]);
    let work = || {
        loop {
            let number = next.fetch_add(1, Relaxed);
            if number >= spawns {
                break;
            }
            let time = programs.spawn(number);
            latencies.lock().unwrap()[number] = time;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        // A scope waits for the closures alone: a joined thread is gone.
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
    latencies.into_inner().unwrap()
}

/// What the process holds.
#[derive(Debug)]
struct Holdings {
    fds: usize,
    threads: usize,
    children: usize,
    mounts: usize,
    temporary: usize,
    rss: u64,
}

impl Holdings {
    fn look() -> Self {
        let count = |dir: &str| fs::read_dir(dir).unwrap().count();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Self {
            fds: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            children: count_children(),
            mounts: fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count(),
            temporary: fs::read_dir(std::env::temp_dir()).unwrap().count(),
            rss: rss.trim().trim_end_matches(" kB").parse().unwrap(),
        }
    }

    fn is_back_at(&self, before: &Holdings) -> bool {
        let counts = |held: &Holdings| [held.fds, held.threads, held.children, held.mounts, held.temporary];
        counts(self) == counts(before) && self.rss <= before.rss + RSS_SLACK_KIB
    }
}

/// Counts the children that are there still, dead or alive.
fn count_children() -> usize {
    let me = std::process::id().to_string();
    let is_child = |entry: std::io::Result<fs::DirEntry>| {
        let stat = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.to_owned();
        (parent == me).then_some(())
    };
    fs::read_dir("/proc").unwrap().filter_map(is_child).count()
}

impl fmt::Display for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fds, threads, children, mounts, temporary, rss } = self;
        write!(f, "{fds} fds, {threads} threads, {children} children, {mounts} mounts, {temporary} temporary files, ")?;
        write!(f, "{rss} KiB resident")
    }
}

/// Latencies of which so many per cent were no longer.
#[derive(Debug)]
struct Percentiles([Duration; 4]);

impl Percentiles {
    fn of(latencies: &[Duration]) -> Self {
        let mut sorted = latencies.to_vec();
        sorted.sort_unstable();
        let at =
            |percent: usize| sorted.get(sorted.len() * percent / 100).or(sorted.last()).copied().unwrap_or_default();
        Self([at(50), at(90), at(99), at(100)])
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [median, nine, ninetynine, most] = self.0.map(|time| time.as_micros());
        write!(f, "p50 {median} µs, p90 {nine} µs, p99 {ninetynine} µs, max {most} µs")
    }
}
