//! One spawn after the other: start, run, wait and tear down.

use super::{combine, find, seen};
use crate::common::contender::{bare, bwrap, empty, host, plain, prepared, present, unshare};
use crate::common::floor::{every_layer, namespaces, one_shot};
use crate::common::measure::{Samples, interleave};
use crate::common::table::{Table, target, times, us};
use crate::common::{Bench, Result};

const ROUNDS: usize = 200;

pub(crate) fn spawn(bench: &Bench) -> Result {
    let all = [
        plain(bench)?,
        namespaces(bench),
        every_layer(bench),
        one_shot(bench),
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
    println!();
    let figure = |name| seen(find(name, &contenders, &samples));
    let (bare, host, prepared) = (figure("belljar bare"), figure("belljar host"), figure("belljar prepared"));
    let added = combine(host, bare, |host, bare| host - bare);
    let layers = "what Landlock and the filter of system calls add, at most 1.2 of a plain spawn";
    target(layers, combine(added, plain, |added, plain| added / plain), 1.2);
    for (name, ours, at_most) in
        [("bare", bare, 1.0 / 3.0), ("host", host, 1.0 / 4.0), ("prepared", prepared, 1.0 / 8.0)]
    {
        let words = format!("median of belljar {name}, at most {at_most:.3} of bwrap's");
        target(&words, combine(ours, peer, |ours, peer| ours / peer), at_most);
    }
    let floors = ["floor, every layer", "floor, one-shot", "floor, namespaces"].map(figure);
    let [every, one_shot, namespaces] = floors;
    for (words, one, of) in [
        ("belljar prepared, of the floor with every layer", prepared, every),
        ("the floor with every layer, of bwrap's", every, peer),
        ("belljar host, of the floor of a one-shot start", host, one_shot),
        ("the floor of a one-shot start, of bwrap's", one_shot, peer),
        ("the floor with namespaces alone, of bwrap's", namespaces, peer),
    ] {
        let ratio = combine(one, of, |one, of| one / of);
        println!("  median of {words}: {} (by minima {})", times(ratio.median), times(ratio.min));
    }
    Ok(())
}
