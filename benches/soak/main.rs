//! Thousands of spawns, good and bad: is the host as it was at the start?
//!
//! `cargo bench --bench soak` runs 10,000 spawns each from one thread, from 8 and from 64, from a pool, and some that
//! somebody kills while they start; and kills a host process 1,000 times while it starts them. `-- --short` does a twentieth
//! of each, `-- --spawns N` another number. It prints what the process holds before and after each run, and how long a start
//! took among the first and among the last; it fails where something is left over. In the end it tells by how much a
//! sandbox outlives its wall time.

#![allow(clippy::unwrap_used, unsafe_code)]

mod holdings;
mod killed;
mod late;
mod mix;
mod plugin;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use holdings::{HEADER, Holdings};
use mix::{From, Programs, Random};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == killed::ROLE) {
        killed::host(Path::new(&args[at + 1]));
    }
    // `cargo test` builds benches, and runs those without a harness to see that they start.
    if !args.iter().any(|arg| arg == "--bench") {
        return ExitCode::SUCCESS;
    }
    let number = args.iter().position(|arg| arg == "--spawns").map(|at| args[at + 1].parse().unwrap());
    let short = args.iter().any(|arg| arg == "--short");
    let spawns: usize = number.unwrap_or(if short { 500 } else { 10_000 });
    let dir = tempfile::tempdir().unwrap();
    let temporary = dir.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    // SAFETY: There is no other thread yet.
    unsafe { std::env::set_var("TMPDIR", &temporary) };
    if soak(dir.path(), spawns) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All runs. True if nothing is left of any.
fn soak(dir: &Path, spawns: usize) -> bool {
    Programs::build(dir);
    println!("{HEADER}\n");
    println!(
        "| run | spawns | a second | before | after | p50 first, last, ratio | p99 first, last, ratio | verdict |"
    );
    println!("|---|--:|--:|---|---|---|---|---|");
    let mut clean = true;
    for (name, from, threads) in [
        ("one thread", From::Policy, 1),
        ("8 threads", From::Policy, 8),
        ("64 threads", From::Policy, 64),
        ("a pool, one thread", From::Pool, 1),
        ("a pool, 64 threads", From::Pool, 64),
    ] {
        // What the pool keeps, as many network namespaces as there ever were at once, goes with it.
        let run = |spawns| {
            let programs = Programs::find(dir);
            let measured = run(spawns, threads, |number| programs.spawn(from, number));
            programs.settle();
            measured
        };
        // What is allocated once.
        run(200);
        let before = Holdings::look_settled();
        let (latencies, time) = run(spawns);
        clean &= row(name, &before, &latencies, time);
    }
    clean &= while_somebody_kills(dir, spawns);
    clean &= in_plugins(dir, spawns.div_ceil(100));
    let (before, start) = (Holdings::look_settled(), Instant::now());
    let hosts = spawns.div_ceil(10);
    let gone = killed::kill(dir, hosts);
    clean &= gone & row(&format!("{hosts} hosts killed"), &before, &[], start.elapsed());
    late::measure(dir, spawns.div_ceil(100).max(20));
    clean
}

/// Starts while another thread kills children of this process at random moments: each fails with an error, or the program
/// has ended by a signal.
fn while_somebody_kills(dir: &Path, spawns: usize) -> bool {
    let programs = Programs::find(dir);
    let start = || {
        let begun = Instant::now();
        let child = programs.sandbox.command("/pause").spawn();
        let time = begun.elapsed();
        if let Ok(mut child) = child {
            let outcome = child.wait_timeout(Duration::from_millis(2)).unwrap();
            assert!(outcome.is_none_or(|outcome| outcome.signal() == Some(libc::SIGKILL)));
        }
        time
    };
    run(200, 8, |_| start());
    programs.settle();
    let (before, over) = (Holdings::look_settled(), AtomicBool::new(false));
    let (latencies, time) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| kill_children(&over));
        let measured = run(spawns / 2, 8, |_| start());
        over.store(true, Relaxed);
        killer.join().unwrap();
        measured
    });
    programs.settle();
    row("8 threads, killed while they start", &before, &latencies, time)
}

/// Loads the library as two plugins, and takes it out again.
fn in_plugins(dir: &Path, turns: usize) -> bool {
    plugin::build(dir);
    // What the loader maps once.
    plugin::load_and_unload(dir);
    let before = Holdings::look_settled();
    let (latencies, time) = run(turns, 1, |_| {
        let begun = Instant::now();
        plugin::load_and_unload(dir);
        begun.elapsed()
    });
    row("loaded and unloaded twice at once", &before, &latencies, time)
}

/// Kills a third of what there is, time and again. Those that wait in the pool too.
fn kill_children(over: &AtomicBool) {
    let mut random = Random(7);
    while !over.load(Relaxed) {
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        for pid in children.collect::<String>().split_whitespace().filter_map(|pid| pid.parse().ok()) {
            if random.below(3) == 0 {
                // SAFETY: No pointers. It is a child, or has ended: ids are not used again so soon.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
        std::thread::sleep(Duration::from_micros(random.below(700)));
    }
}

/// The latencies of so many starts, in their order, as far as threads have one; and the time for all.
fn run(spawns: usize, threads: usize, start: impl Fn(usize) -> Duration + Sync) -> (Vec<Duration>, Duration) {
    let begun = Instant::now();
    let next = AtomicUsize::new(0);
    let latencies = Mutex::new(vec![Duration::ZERO; spawns]);
    let work = || {
        loop {
            let number = next.fetch_add(1, Relaxed);
            if number >= spawns {
                break;
            }
            let time = start(number);
            latencies.lock().unwrap()[number] = time;
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        // A scope waits for the closures alone: a joined thread is gone.
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
    (latencies.into_inner().unwrap(), begun.elapsed())
}

/// Prints a run. True if it has left nothing.
fn row(name: &str, before: &Holdings, latencies: &[Duration], time: Duration) -> bool {
    let after = Holdings::look_after(before);
    let clean = after.is_back_at(before);
    // A tenth of them, at the start and at the end.
    let sample = latencies.len() / 10;
    let (first, last) = (&latencies[..sample], &latencies[latencies.len() - sample..]);
    let compare = |percent| {
        let [first, last] = [first, last].map(|sample| percentile(sample, percent).as_secs_f64() * 1e6);
        if sample == 0 { "-".to_owned() } else { format!("{first:.0} µs, {last:.0} µs, {:.2}", last / first) }
    };
    let (spawns, rate) = (latencies.len(), latencies.len() as f64 / time.as_secs_f64());
    let verdict = if clean { "clean" } else { "LEFT OVER" };
    println!("| {name} | {spawns} | {rate:.0} | {before} | {after} | {} | {} | {verdict} |", compare(50), compare(99));
    clean
}

fn percentile(sample: &[Duration], percent: usize) -> Duration {
    let mut sorted = sample.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() * percent / 100).copied().unwrap_or_default()
}
