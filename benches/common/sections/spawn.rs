//! One spawn after the other: start, run, wait and tear down.

use super::{combine, find, seen};
use crate::common::contender::{bwrap, empty, host, plain, present, unshare};
use crate::common::measure::{Samples, interleave};
use crate::common::table::{Table, target, times, us};
use crate::common::{Bench, Result};

const ROUNDS: usize = 200;

pub(crate) fn spawn(bench: &Bench) -> Result {
    let all = [plain(bench)?, empty(bench)?, host(bench)?, bwrap(bench)?, unshare(bench)?];
    let contenders = present(&all);
    let mut samples = vec![Samples::default(); contenders.len()];
    interleave(&contenders, ROUNDS, &mut samples)?;
    let floor = seen(find("plain spawn", &contenders, &samples)).median;
    let peer = seen(find("bwrap", &contenders, &samples));
    let mut table = Table::new(&["µs", "median", "min", "x floor", "x bwrap"]);
    for (contender, samples) in contenders.iter().zip(&samples) {
        let (median, min) = (samples.median(), samples.min());
        table.row(contender.name, [us(median), us(min), times(median / floor), times(median / peer.median)]);
    }
    table.print();
    let ours = seen(find("belljar host", &contenders, &samples));
    println!();
    target("median of belljar host, at most 0.33 of bwrap's", combine(ours, peer, |ours, peer| ours / peer), 1.0 / 3.0);
    Ok(())
}
