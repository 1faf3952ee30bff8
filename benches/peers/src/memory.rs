//! The same spawn from host processes of every size. Those contenders that run in the host's process, that is: a program of
//! its own is started by std, whose cost does not grow.

use std::time::Duration;

use crate::common::host::{Memory, Pages, available_memory};
use crate::common::measure::{Samples, in_turns};
use crate::common::sections::{combine, seen};
use crate::common::table::{Table, target, times, us};
use crate::common::{Bench, Result};
use crate::peers::{ONE_SHOT, POOL, PREPARED, Peer, present};
use crate::plot::{Line, Lines, Plots};

const IN_PROCESS: [&str; 7] = ["plain spawn", "plain fork", POOL, PREPARED, ONE_SHOT, "hakoniwa", "ferroday-cage"];
const MIB: [usize; 7] = [1, 4, 16, 64, 256, 1024, 4096];

const PASSES: usize = 3;
const ROUNDS: usize = 20;

/// How long a contender may take in one pass at one size: a fork of a large host takes its time.
const BUDGET: Duration = Duration::from_millis(400);

pub(crate) fn memory(bench: &Bench, plots: &Plots) -> Result {
    let peers = present(bench, &IN_PROCESS)?;
    let available = available_memory()? >> 20;
    let sizes: Vec<usize> = MIB.into_iter().filter(|size| size + size / 4 < available).collect();
    if sizes.len() < MIB.len() {
        println!("left out, with {available} MiB to spare: {:?} MiB", MIB.get(sizes.len()..).unwrap_or_default());
    }
    let measured = measure(&peers, &sizes)?;
    let names: Vec<String> = sizes.iter().map(|size| format!("{size} MiB")).collect();
    let header: Vec<&str> = ["µs: median (min)"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let mut table = Table::new(&[header.as_slice(), &["x largest"]].concat());
    let mut lines = Vec::new();
    for (index, peer) in peers.iter().enumerate() {
        let row: Vec<_> = measured.iter().map(|at_size| seen(at_size.get(index))).collect();
        let growth = growth(&row);
        let figures = row.iter().map(|seen| format!("{} ({})", us(seen.median), us(seen.min)));
        table.row(peer.name(), figures.chain([times(growth.median)]));
        let points = sizes.iter().zip(&row).map(|(size, seen)| (*size as f64, seen.median));
        lines.push(Line { name: peer.name(), points: points.collect() });
    }
    table.print();
    println!();
    for name in [POOL, PREPARED, ONE_SHOT] {
        let Some(index) = peers.iter().position(|peer| peer.name() == name) else { continue };
        let row: Vec<_> = measured.iter().map(|at_size| seen(at_size.get(index))).collect();
        target(&format!("{name} in the largest host, at most 1.1 of its time in the smallest"), growth(&row), 1.1);
    }
    let plot = Lines { title: "A spawn, µs, by the host's resident memory, MiB", lines };
    plots.save("memory", &plot.svg(plots.machine()))
}

/// The largest host's figure against the smallest's.
fn growth(row: &[crate::common::table::Seen]) -> crate::common::table::Seen {
    match (row.first(), row.last()) {
        (Some(first), Some(last)) => combine(*last, *first, |last, first| last / first),
        _ => seen(None),
    }
}

/// The samples of each contender at each size.
fn measure(peers: &[Peer], sizes: &[usize]) -> Result<Vec<Vec<Samples>>> {
    let mut measured = vec![vec![Samples::default(); peers.len()]; sizes.len()];
    // Sizes take turns, so that what changes on the machine in the meantime hits all of them.
    for _ in 0..PASSES {
        for (size, samples) in sizes.iter().zip(&mut measured) {
            let _memory = Memory::touched(size << 20, Pages::Small)?;
            let mut spent = vec![Duration::ZERO; peers.len()];
            in_turns(peers.len(), ROUNDS, |index| {
                let (Some(peer), Some(spent)) = (peers.get(index), spent.get_mut(index)) else { return Ok(()) };
                if *spent < BUDGET {
                    let time = peer.timed()?;
                    *spent += time;
                    samples.get_mut(index).into_iter().for_each(|samples| samples.push(time));
                    peer.settle()?;
                }
                Ok(())
            })?;
        }
    }
    Ok(measured)
}
