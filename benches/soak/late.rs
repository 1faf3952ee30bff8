//! By how much a sandbox outlives its wall time, on a machine that does nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use belljar::{Cause, Command, Limits, Sandbox};

/// Longer than a start takes.
const TIME: Duration = Duration::from_millis(100);

/// Prints a table: each sandbox has two processes that never end, and is waited for.
pub(crate) fn measure(dir: &Path, runs: usize) {
    let sandbox = Sandbox::new().bind_ro(dir.join("pause"), "/pause").limits(Limits::new().wall_time(TIME));
    let prepared = sandbox.prepare().unwrap();
    let pool = prepared.pool_by_hand(1).unwrap();
    println!("\n| over a wall time of {TIME:?}, {runs} runs | min | median | max |\n|---|--:|--:|--:|");
    row("spawn", runs, || sandbox.command("/pause"));
    row("prepared", runs, || prepared.command("/pause"));
    row("a pool", runs, || {
        pool.refill().unwrap();
        pool.command("/pause")
    });
}

fn row(name: &str, runs: usize, command: impl Fn() -> Command) {
    let mut over: Vec<_> = std::iter::repeat_with(|| one(command())).flatten().take(runs).collect();
    over.sort_unstable();
    let us = |at: usize| format!("{} µs", over[at].as_micros());
    println!("| {name} | {} | {} | {} |", us(0), us(runs / 2), us(runs - 1));
}

/// From the start on, until the end of everything in the sandbox is known. None if time was up before the program ran.
fn one(mut command: Command) -> Option<Duration> {
    let start = Instant::now();
    let outcome = command.spawn().and_then(|mut child| child.wait());
    let time = start.elapsed();
    match outcome {
        Err(error) if error.raw_os_error() == Some(libc::ETIMEDOUT) => return None,
        outcome => assert_eq!(outcome.unwrap().cause(), Cause::TimedOut),
    }
    Some(time.checked_sub(TIME).expect("it has not ended before its time"))
}
