//! The same spawn from a small host process and from a large one.

use super::{combine, seen};
use crate::common::contender::{Contender, fork, host, plain, present};
use crate::common::host::{Memory, Pages, available_memory};
use crate::common::measure::{Samples, interleave};
use crate::common::table::{Seen, Table, target, times, us};
use crate::common::{Bench, Result};

const MIB: usize = 1 << 20;
const SIZES: [(&str, usize); 4] = [("1 MiB", MIB), ("64 MiB", 64 * MIB), ("1 GiB", 1024 * MIB), ("4 GiB", 4096 * MIB)];

const PASSES: usize = 6;
const ROUNDS: usize = 25;

/// A fork of a large host takes its time.
const FORK_ROUNDS: usize = 2;

pub(crate) fn memory(bench: &Bench) -> Result {
    let all = [plain(bench)?, host(bench)?, fork(bench)?];
    let contenders = present(&all);
    let available = available_memory()?;
    let (sizes, too_large): (Vec<_>, Vec<_>) = SIZES.iter().partition(|(_, size)| size + size / 4 < available);
    for (name, _) in too_large {
        println!("left out: {name}: this machine has {} MiB to spare", available / MIB);
    }
    let mut header = vec!["µs: median (min)"];
    header.extend(sizes.iter().map(|(name, _)| *name));
    header.push("x at most");
    let mut table = Table::new(&header);
    let mut worst = Seen { median: f64::NAN, min: f64::NAN };
    for (kind, pages) in [("4 KiB pages", Pages::Small), ("huge pages", Pages::Huge)] {
        let sizes: Vec<usize> = sizes.iter().map(|(_, size)| *size).collect();
        let measured = measure(&contenders, &sizes, pages)?;
        for (index, contender) in contenders.iter().enumerate() {
            let row: Vec<&Samples> = measured.iter().filter_map(|at_size| at_size.get(index)).collect();
            let growth = growth(&row);
            let figures = row.iter().map(|samples| format!("{} ({})", us(samples.median()), us(samples.min())));
            table.row(&format!("{}, {kind}", contender.name), figures.chain([times(growth.median)]));
            if contender.name == "belljar host" {
                worst = combine(growth, worst, f64::max);
            }
        }
    }
    table.print();
    println!();
    target("belljar host with 4 GiB, at most 1.15 times its median at 1 MiB", worst, 1.15);
    Ok(())
}

/// The samples of each contender at each size.
fn measure(contenders: &[&Contender], sizes: &[usize], pages: Pages) -> Result<Vec<Vec<Samples>>> {
    let mut measured = vec![vec![Samples::default(); contenders.len()]; sizes.len()];
    let forks = contenders.iter().position(|contender| contender.name == "plain fork").unwrap_or(contenders.len());
    // Sizes take turns, so that what changes on the machine in the meantime hits all of them.
    for _ in 0..PASSES {
        for (size, samples) in sizes.iter().zip(&mut measured) {
            let _memory = Memory::touched(*size, pages)?;
            let (others, forks) = (contenders.split_at(forks), samples.split_at_mut(forks));
            interleave(others.0, ROUNDS, forks.0)?;
            interleave(others.1, FORK_ROUNDS, forks.1)?;
        }
    }
    Ok(measured)
}

/// The largest time, against the one of the smallest size.
fn growth(row: &[&Samples]) -> Seen {
    let first = seen(row.first().copied());
    let ratios = row.iter().map(|samples| combine(seen(Some(samples)), first, |time, first| time / first));
    ratios.fold(Seen { median: f64::NAN, min: f64::NAN }, |most, ratio| combine(most, ratio, f64::max))
}
