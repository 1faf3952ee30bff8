//! Many spawners at once: how many spawns a second the host gets done.

use crate::common::sections::combine;
use crate::common::sections::threads::rate;
use crate::common::table::{Seen, Table, number, target};
use crate::common::{Bench, Result};
use crate::peers::{ONE_SHOT, POOL, PREPARED, Peer, present, self_filling_pool, working};
use crate::plot::{Line, Lines, Plots};

const SPAWNERS: [usize; 6] = [1, 2, 4, 8, 16, 32];
const PASSES: usize = 3;

/// The pool fills itself, so what counts is what it keeps up, and not what it had at the start.
const POOL_SIZE: usize = 8;

const OTHERS: [&str; 8] = ["plain spawn", PREPARED, ONE_SHOT, "hakoniwa", "ferroday-cage", "bwrap", "crun", "runc"];

pub(crate) fn threads(bench: &Bench, plots: &Plots) -> Result {
    let mut peers = working(vec![self_filling_pool(bench, POOL_SIZE)?]);
    peers.extend(present(bench, &OTHERS)?);
    let mut rates = vec![vec![Vec::new(); SPAWNERS.len()]; peers.len()];
    for _ in 0..PASSES {
        for (column, spawners) in SPAWNERS.into_iter().enumerate() {
            for (peer, rates) in peers.iter().zip(&mut rates) {
                let rate = rate(peer.contender(), spawners)?;
                rates.get_mut(column).into_iter().for_each(|rates| rates.push(rate));
                peer.settle()?;
            }
        }
    }
    let rates: Vec<Vec<Seen>> = rates.into_iter().map(|row| row.into_iter().map(seen).collect()).collect();
    let header = SPAWNERS.map(|spawners| format!("{spawners} spawners"));
    let header: Vec<&str> = ["spawns a second"].into_iter().chain(header.iter().map(String::as_str)).collect();
    let mut table = Table::new(&header);
    for (peer, rates) in peers.iter().zip(&rates) {
        table.row(peer.name(), rates.iter().map(|rate| number(rate.median, 0)));
    }
    table.print();
    println!();
    targets(&peers, &rates);
    let lines = peers.iter().zip(&rates).map(|(peer, rates)| {
        let points = SPAWNERS.iter().zip(rates).map(|(spawners, rate)| (*spawners as f64, rate.median));
        Line { name: peer.name(), points: points.collect() }
    });
    let plot = Lines { title: "Spawns a second, by the number of threads that spawn", lines: lines.collect() };
    plots.save("threads", &plot.svg(plots.machine()))
}

fn targets(peers: &[Peer], rates: &[Vec<Seen>]) {
    let of = |name: &str, spawners: usize| {
        let row = peers.iter().position(|peer| peer.name() == name).and_then(|index| rates.get(index));
        let column = SPAWNERS.iter().position(|other| *other == spawners);
        row.zip(column).and_then(|(row, column)| row.get(column).copied()).unwrap_or(NOTHING)
    };
    for name in [POOL, PREPARED, ONE_SHOT] {
        let kept = combine(of(name, 2), of(name, 32), |two, many| two / many);
        target(&format!("{name}: the rate of 2 spawners, at most that of 32"), kept, 1.0);
        let peer = combine(of("bwrap", 32), of(name, 32), |bwrap, ours| bwrap / ours);
        target(&format!("{name}: bwrap's rate with 32 spawners, at most 0.17 of it"), peer, 1.0 / 6.0);
    }
}

const NOTHING: Seen = Seen { median: f64::NAN, min: f64::NAN };

/// The middle of the rates; in the place of the least time, the highest rate.
fn seen(mut rates: Vec<f64>) -> Seen {
    rates.sort_by(f64::total_cmp);
    let at = |rank: usize| rates.get(rank).copied().unwrap_or(f64::NAN);
    Seen { median: at(rates.len() / 2), min: rates.last().copied().unwrap_or(f64::NAN) }
}
