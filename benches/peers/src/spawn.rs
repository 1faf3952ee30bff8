//! One spawn after the other: start, run, wait and tear down.

use crate::common::measure::{Samples, in_turns};
use crate::common::sections::{combine, seen};
use crate::common::table::{Seen, Table, target, times, us};
use crate::common::{Bench, Result};
use crate::peers::{ONE_SHOT, PEERS, POOL, PREPARED, Peer, present};
use crate::plot::{Bar, Bars, Plots};

const ROUNDS: usize = 150;

pub(crate) fn spawn(bench: &Bench, plots: &Plots) -> Result {
    let names: Vec<&str> = PEERS.iter().map(|(name, _)| *name).filter(|name| *name != "plain fork").collect();
    let peers = present(bench, &names)?;
    let mut samples = vec![Samples::default(); peers.len()];
    in_turns(peers.len(), ROUNDS, |index| {
        if let (Some(peer), Some(samples)) = (peers.get(index), samples.get_mut(index)) {
            samples.push(peer.timed()?);
            peer.settle()?;
        }
        Ok(())
    })?;
    let of = |name: &str| find(name, &peers, &samples);
    let (floor, bwrap) = (of("plain spawn"), of("bwrap"));
    let mut table = Table::new(&["µs", "median", "min", "x floor", "x bwrap"]);
    for (peer, samples) in peers.iter().zip(&samples) {
        let (median, min) = (samples.median(), samples.min());
        let ratios = [times(median / floor.median), number(median / bwrap.median)];
        table.row(peer.name(), [us(median), us(min)].into_iter().chain(ratios));
    }
    table.print();
    println!();
    let ratio = |name, of| combine(find(name, &peers, &samples), of, |ours, theirs| ours / theirs);
    target("belljar pool, at most 1.5 of a plain spawn", ratio(POOL, floor), 1.5);
    target("belljar prepared, at most 0.125 of bwrap", ratio(PREPARED, bwrap), 0.125);
    target("belljar one-shot, at most 0.25 of bwrap", ratio(ONE_SHOT, bwrap), 0.25);
    let bars = peers.iter().zip(&samples).map(|(peer, samples)| Bar::new(peer.name(), seen(Some(samples)), us));
    let title = "Start, run, wait and tear down a program that does nothing, µs";
    plots.save("spawn", &Bars { title, logarithmic: true, bars: bars.collect() }.svg(plots.machine()))
}

/// The figure of the contender of this name, or no number.
pub(crate) fn find(name: &str, peers: &[Peer], samples: &[Samples]) -> Seen {
    let index = peers.iter().position(|peer| peer.name() == name);
    seen(index.and_then(|index| samples.get(index)))
}

/// A ratio, with the digits that small ones need.
fn number(value: f64) -> String {
    crate::common::table::number(value, 3)
}
