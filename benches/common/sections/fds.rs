//! The same spawn from a host process with many open descriptors: a clone copies the table.

use super::{combine, seen};
use crate::common::contender::{fork, host, plain, present};
use crate::common::host::open_files;
use crate::common::measure::{Samples, interleave};
use crate::common::table::{Table, target, times, us};
use crate::common::{Bench, Result};

const OPEN: usize = 20_000;
const PASSES: usize = 5;
const ROUNDS: usize = 30;

pub(crate) fn fds(bench: &Bench) -> Result {
    let all = [plain(bench)?, host(bench)?, fork(bench)?];
    let contenders = present(&all);
    let mut few = vec![Samples::default(); contenders.len()];
    let mut many = few.clone();
    let mut open = 0;
    for _ in 0..PASSES {
        interleave(&contenders, ROUNDS, &mut few)?;
        let files = open_files(OPEN)?;
        open = files.len();
        interleave(&contenders, ROUNDS, &mut many)?;
    }
    if open < OPEN {
        println!("the limit of open files leaves room for {open}, not {OPEN}: `prlimit --nofile=65536` raises it");
    }
    let growth = |index: usize| combine(seen(many.get(index)), seen(few.get(index)), |many, few| many - few);
    let mut table = Table::new(&["µs: median (min)", "0 open", &format!("{open} open"), "growth", "x plain's"]);
    let floor = growth(0);
    for (index, contender) in contenders.iter().enumerate() {
        let figures = [&few, &many].into_iter().filter_map(|samples| samples.get(index));
        let figures = figures.map(|samples| format!("{} ({})", us(samples.median()), us(samples.min())));
        let growth = growth(index).median;
        table.row(contender.name, figures.chain([us(growth), times(growth / floor.median)]));
    }
    table.print();
    let ours = contenders.iter().position(|contender| contender.name == "belljar host").map(growth);
    let ratio = combine(ours.unwrap_or(seen(None)), floor, |ours, floor| ours / floor);
    println!();
    target("growth of belljar host, at most 2.5 times that of a plain spawn", ratio, 2.5);
    Ok(())
}
