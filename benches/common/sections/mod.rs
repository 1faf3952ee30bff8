//! The sections of a run: each prints its tables, and then what it is to reach beside what was seen.

mod binds;
mod command_lines;
mod fds;
mod inside;
mod memory;
mod mounts;
mod pool;
mod spawn;
pub(crate) mod threads;

pub(crate) use binds::binds;
pub(crate) use command_lines::command_lines;
pub(crate) use fds::fds;
pub(crate) use inside::inside;
pub(crate) use memory::memory;
pub(crate) use mounts::mounts;
pub(crate) use pool::pool;
pub(crate) use spawn::spawn;
pub(crate) use threads::threads;

use super::contender::Contender;
use super::measure::Samples;
use super::table::Seen;

/// The name that the figure of a contender is looked up by, in what was measured of those present.
pub(crate) fn find<'a>(name: &str, contenders: &[&Contender], samples: &'a [Samples]) -> Option<&'a Samples> {
    let index = contenders.iter().position(|contender| contender.name == name)?;
    samples.get(index)
}

/// A figure of some contender's, or no number if there is no such contender.
pub(crate) fn seen(samples: Option<&Samples>) -> Seen {
    Seen { median: samples.map_or(f64::NAN, Samples::median), min: samples.map_or(f64::NAN, Samples::min) }
}

/// What a figure is made of, by medians and by minima alike.
pub(crate) fn combine(a: Seen, b: Seen, with: impl Fn(f64, f64) -> f64) -> Seen {
    Seen { median: with(a.median, b.median), min: with(a.min, b.min) }
}
