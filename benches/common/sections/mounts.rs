//! A host with many mounts: a new mount namespace starts as a copy of the host's table.

use std::thread;

use super::{combine, find, seen};
use crate::common::contender::{Contender, bwrap, host, plain, pool_by_hand, prepared, present, unshare};
use crate::common::host::{is_root, mount_many, private_mounts};
use crate::common::measure::{Samples, interleave};
use crate::common::table::{Table, target, us};
use crate::common::{Bench, Result};

const MOUNTS: usize = 5000;
const ROUNDS: usize = 40;

pub(crate) fn mounts(bench: &Bench) -> Result {
    if !is_root() {
        println!("left out: only root can give a process thousands of mounts");
        return Ok(());
    }
    // In a thread with a mount table of its own: the host's is left alone, and the mounts are gone with the thread.
    let measured = thread::scope(|scope| scope.spawn(|| measure(bench)).join());
    measured.map_err(|_| "the thread has panicked")?
}

fn measure(bench: &Bench) -> Result {
    private_mounts()?;
    let all = [plain(bench)?, prepared(bench)?, pool_by_hand(bench)?, host(bench)?, bwrap(bench)?, unshare(bench)?];
    let contenders = present(&all);
    let mut few = vec![Samples::default(); contenders.len()];
    let mut many = few.clone();
    round(&contenders, &mut few)?;
    mount_many(&bench.path("mounts")?, MOUNTS)?;
    round(&contenders, &mut many)?;
    let more = format!("{MOUNTS} more");
    let mut table = Table::new(&["µs: median (min)", "as it is", &more, "µs each"]);
    for ((contender, few), many) in contenders.iter().zip(&few).zip(&many) {
        let figures = [few, many].map(|samples| format!("{} ({})", us(samples.median()), us(samples.min())));
        let each = (many.median() - few.median()) / MOUNTS as f64;
        table.row(contender.name, figures.into_iter().chain([us(each)]));
    }
    table.print();
    println!();
    for name in ["belljar prepared", "belljar pool"] {
        let [few, many] = [&few, &many].map(|samples| seen(find(name, &contenders, samples)));
        target(
            &format!("{name}: at most 1.1 of its time with few mounts"),
            combine(many, few, |many, few| many / few),
            1.1,
        );
    }
    Ok(())
}

/// Those that leave a copy of the table to be freed, which the kernel does later, for themselves: the others would wait for it.
fn round(contenders: &[&Contender], samples: &mut [Samples]) -> Result {
    let copies = contenders.iter().position(|contender| contender.name == "belljar host").unwrap_or(contenders.len());
    let (others, those) = contenders.split_at(copies);
    let (of_others, of_those) = samples.split_at_mut(copies);
    interleave(others, ROUNDS, of_others)?;
    interleave(those, ROUNDS, of_those)
}
