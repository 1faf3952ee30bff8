//! Many spawners at once: how many spawns a second the host gets done.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::contender::{Contender, bwrap, host, plain, pool, prepared, present};
use crate::common::floor::every_layer_at_once;
use crate::common::table::{Table, number};
use crate::common::{Bench, Result};

const SPAWNERS: [usize; 4] = [1, 2, 8, 32];
const PASSES: usize = 3;
const SLICE: Duration = Duration::from_millis(500);

pub(crate) fn threads(bench: &Bench) -> Result {
    let floor = every_layer_at_once(bench, SPAWNERS[3]);
    let all = [plain(bench)?, floor, host(bench)?, prepared(bench)?, pool(bench)?, bwrap(bench)?];
    let contenders = present(&all);
    let mut rates = vec![vec![Vec::new(); SPAWNERS.len()]; contenders.len()];
    for _ in 0..PASSES {
        for (column, spawners) in SPAWNERS.into_iter().enumerate() {
            for (contender, rates) in contenders.iter().zip(&mut rates) {
                if let Some(rates) = rates.get_mut(column) {
                    rates.push(rate(contender, spawners)?);
                }
            }
        }
    }
    let header = SPAWNERS.map(|spawners| format!("{spawners} spawners"));
    let mut table = Table::new(&["spawns a second", &header[0], &header[1], &header[2], &header[3]]);
    for (contender, rates) in contenders.iter().zip(rates) {
        table.row(contender.name, rates.into_iter().map(|rates| number(middle(rates), 0)));
    }
    table.print();
    Ok(())
}

/// Spawns a second, with so many threads at it.
pub(crate) fn rate(contender: &Contender, spawners: usize) -> Result<f64> {
    let start_together = Barrier::new(spawners);
    let spawner = || -> Result<(Instant, Instant, usize)> {
        start_together.wait();
        let start = Instant::now();
        let mut done = 0;
        while start.elapsed() < SLICE {
            contender.run()?;
            done += 1;
        }
        Ok((start, Instant::now(), done))
    };
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..spawners).map(|_| scope.spawn(spawner)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a spawner does not panic")).collect()
    });
    let results = results.into_iter().collect::<Result<Vec<_>>>()?;
    let start = results.iter().map(|result| result.0).min();
    let end = results.iter().map(|result| result.1).max();
    let time = start.zip(end).map_or(f64::NAN, |(start, end)| (end - start).as_secs_f64());
    Ok(results.iter().map(|result| result.2).sum::<usize>() as f64 / time)
}

fn middle(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN)
}
