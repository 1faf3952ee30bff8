//! By how much a sandbox outlives its wall time, on a machine that does nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use belljar::{Cause, Command, Limits, Sandbox};

/// Longer than any start takes.
const TIME: Duration = Duration::from_millis(50);

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
    let mut over: Vec<_> = (0..runs).map(|_| one(command())).collect();
    over.sort_unstable();
    let us = |at: usize| format!("{} µs", over[at].as_micros());
    println!("| {name} | {} | {} | {} |", us(0), us(runs / 2), us(runs - 1));
}

/// From the start on, until the end of everything in the sandbox is known.
fn one(mut command: Command) -> Duration {
    let start = Instant::now();
    let outcome = command.spawn().unwrap().wait().unwrap();
    let time = start.elapsed();
    assert_eq!(outcome.cause(), Cause::TimedOut);
    time.checked_sub(TIME).expect("it has not ended before its time")
}
