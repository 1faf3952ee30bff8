//! One spawn after the other: start, run, wait and tear down.

use super::{combine, find, seen};
use crate::common::contender::{bare, bwrap, empty, host, plain, prepared, present, unshare};
use crate::common::floor::{every_layer, namespaces};
use crate::common::measure::{Samples, interleave};
use crate::common::table::{Table, target, times, us};
use crate::common::{Bench, Result};

const ROUNDS: usize = 200;

pub(crate) fn spawn(bench: &Bench) -> Result {
    let all = [
        plain(bench)?,
        namespaces(bench),
        every_layer(bench),
        empty(bench)?,
        bare(bench)?,
        host(bench)?,
        prepared(bench)?,
        bwrap(bench)?,
        unshare(bench)?,
    ];
    let contenders = present(&all);
    let mut samples = vec![Samples::default(); contenders.len()];
    interleave(&contenders, ROUNDS, &mut samples)?;
    let plain = seen(find("plain spawn", &contenders, &samples));
    let peer = seen(find("bwrap", &contenders, &samples));
    let mut table = Table::new(&["µs", "median", "min", "x plain", "x bwrap"]);
    for (contender, samples) in contenders.iter().zip(&samples) {
        let (median, min) = (samples.median(), samples.min());
        table.row(contender.name, [us(median), us(min), times(median / plain.median), times(median / peer.median)]);
    }
    table.print();
    let ours = seen(find("belljar host", &contenders, &samples));
    println!();
    let bare = seen(find("belljar bare", &contenders, &samples));
    let added = combine(ours, bare, |ours, bare| ours - bare);
    let layers = "what Landlock and the filter of system calls add, at most 1.2 of a plain spawn";
    target(layers, combine(added, plain, |added, plain| added / plain), 1.2);
    target("median of belljar bare, at most 0.33 of bwrap's", combine(bare, peer, |bare, peer| bare / peer), 1.0 / 3.0);
    target("median of belljar host, at most 0.25 of bwrap's", combine(ours, peer, |ours, peer| ours / peer), 1.0 / 4.0);
    let ours = seen(find("belljar prepared", &contenders, &samples));
    target(
        "median of belljar prepared, at most 0.125 of bwrap's",
        combine(ours, peer, |ours, peer| ours / peer),
        0.125,
    );
    let figure = |name| seen(find(name, &contenders, &samples));
    let (every, bare) = (figure("floor, every layer"), figure("floor, namespaces"));
    for (words, one, of) in [
        ("belljar prepared, of the floor with every layer", ours, every),
        ("the floor with every layer, of bwrap's", every, peer),
        ("the floor with namespaces alone, of bwrap's", bare, peer),
    ] {
        let ratio = combine(one, of, |one, of| one / of);
        println!("  median of {words}: {} (by minima {})", times(ratio.median), times(ratio.min));
    }
    Ok(())
}
