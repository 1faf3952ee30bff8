//! Starts from a pool, in a small host, a large one, and one with many open files.

use super::{combine, find, seen};
use crate::common::contender::{Contender, bwrap, host, plain, pool as with_thread, pool_by_hand, present};
use crate::common::host::{Memory, Pages, available_memory, open_files};
use crate::common::measure::{Samples, interleave};
use crate::common::table::{Seen, Table, target, times, us};
use crate::common::{Bench, Result};

const GIB: usize = 1 << 30;
const OPEN: usize = 20_000;
const PASSES: usize = 4;
const ROUNDS: usize = 50;

pub(crate) fn pool(bench: &Bench) -> Result {
    let all = [plain(bench)?, pool_by_hand(bench)?, with_thread(bench)?, host(bench)?, bwrap(bench)?];
    let contenders = present(&all);
    let mut hosts = vec!["1 MiB"];
    if 4 * GIB + GIB < available_memory()? {
        hosts.push("4 GiB");
    } else {
        println!("left out: 4 GiB: this machine has less to spare");
    }
    let open = format!("{OPEN} open files");
    hosts.push(&open);
    let mut samples = vec![vec![Samples::default(); contenders.len()]; hosts.len()];
    for _ in 0..PASSES {
        for (host, samples) in hosts.iter().zip(&mut samples) {
            let _memory = (*host == "4 GiB").then(|| Memory::touched(4 * GIB, Pages::Small)).transpose()?;
            let _files = (*host == open).then(|| open_files(OPEN)).transpose()?;
            interleave(&contenders, ROUNDS, samples)?;
        }
    }
    for (host, samples) in hosts.iter().zip(&samples) {
        report(host, &contenders, samples);
    }
    Ok(())
}

fn report(host: &str, contenders: &[&Contender], samples: &[Samples]) {
    let floor = seen(find("plain spawn", contenders, samples));
    let ratio = |one: Seen| combine(one, floor, |one, floor| one / floor);
    let mut table = Table::new(&[&format!("µs, host of {host}"), "median", "min", "x plain", "x plain, by minima"]);
    for (contender, samples) in contenders.iter().zip(samples) {
        let one = seen(Some(samples));
        table.row(contender.name, [us(one.median), us(one.min), times(ratio(one).median), times(ratio(one).min)]);
    }
    println!();
    table.print();
    println!();
    let ours = seen(find("belljar pool", contenders, samples));
    target("a start from a pool, at most 1.5 times a plain spawn", ratio(ours), 1.5);
}
