//! What the processors spend on a spawn: in the host, in the program, and in everybody between them.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::measure::{Samples, in_turns};
use crate::common::sections::seen;
use crate::common::table::{Table, times, us};
use crate::common::{Bench, Result};
use crate::peers::{PEERS, present};
use crate::plot::{Bar, Bars, Plots};
use crate::spawn::find;
use crate::usage::{adopt_orphans, processor_time, wait_for_all};

/// Has this program measure one contender in a process of its own, whose every child is the contender's.
pub(crate) const FLAG: &str = "--processor";

const PASSES: usize = 5;
const SPAWNS: u32 = 50;
const BUDGET: Duration = Duration::from_millis(500);

pub(crate) fn processor(bench: &Bench, plots: &Plots) -> Result {
    let peers = present(
        bench,
        &PEERS.map(|(name, _)| name).into_iter().filter(|name| *name != "plain fork").collect::<Vec<_>>(),
    )?;
    let mut samples = vec![Samples::default(); peers.len()];
    in_turns(peers.len(), PASSES, |index| {
        if let (Some(peer), Some(samples)) = (peers.get(index), samples.get_mut(index)) {
            samples.push(in_process_of_its_own(peer.name())?);
        }
        Ok(())
    })?;
    let floor = find("plain spawn", &peers, &samples);
    let mut table = Table::new(&["processors' µs a spawn", "median", "min", "x floor"]);
    for (peer, samples) in peers.iter().zip(&samples) {
        let (median, min) = (samples.median(), samples.min());
        table.row(peer.name(), [us(median), us(min), times(median / floor.median)]);
    }
    table.print();
    let bars = peers.iter().zip(&samples).map(|(peer, samples)| Bar::new(peer.name(), seen(Some(samples)), us));
    let title = "Processor time of a spawn, host included, µs";
    plots.save("processor", &Bars { title, logarithmic: true, bars: bars.collect() }.svg(plots.machine()))
}

fn in_process_of_its_own(name: &str) -> Result<Duration> {
    let output = Command::new(std::env::current_exe()?).args([FLAG, name]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let nanoseconds =
        text.trim().parse().map_err(|_| format!("{name}: {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// Prints the processors' nanoseconds for one spawn by the contender of this name.
pub(crate) fn alone(name: &str) -> Result {
    let (_, make) = PEERS.iter().find(|(other, _)| *other == name).ok_or("no such contender")?;
    let bench = Bench::new(false)?;
    adopt_orphans()?;
    let peer = make(&bench)?;
    let (start, before) = (Instant::now(), processor_time()?);
    let mut spawns = 0;
    while spawns < SPAWNS && start.elapsed() < BUDGET {
        peer.run()?;
        // What a pool has used up has to be built again, and is paid for here.
        peer.settle()?;
        spawns += 1;
    }
    drop(peer);
    wait_for_all()?;
    println!("{}", ((processor_time()? - before) / spawns).as_nanos());
    Ok(())
}
