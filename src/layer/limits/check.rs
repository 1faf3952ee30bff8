//! What no host could carry out.

use std::time::Duration;

use super::Limits;
use crate::error::{Error, Layer, Result};

/// What the kernel takes for a quota and a period of cpu.max: at least a millisecond, and no period above a second.
const CPU_MIN: Duration = Duration::from_millis(1);
const PERIOD_MAX: Duration = Duration::from_secs(1);

/// Refuses what contradicts itself or means nothing.
pub(crate) fn check(limits: &Limits) -> Result<()> {
    let positive = [
        ("memory", limits.memory),
        ("memory_high", limits.memory_high),
        ("pids", limits.pids),
        ("open_files", limits.open_files),
        ("file_size", limits.file_size),
        ("output", limits.output),
        ("tmp_size", limits.tmp_size),
    ];
    for (name, value) in positive {
        // More than the kernel's signed numbers hold is a mistake, and it would take some for "no limit".
        if value.is_some_and(|value| value == 0 || i64::try_from(value).is_err()) {
            return Err(invalid(name, "it must be 1 to 2^63 - 1"));
        }
    }
    if limits.swap.is_some_and(|value| i64::try_from(value).is_err()) {
        return Err(invalid("swap", "it must be at most 2^63 - 1"));
    }
    check_times(limits)?;
    check_pairs(limits)?;
    check_io(limits)
}

fn check_times(limits: &Limits) -> Result<()> {
    let times = [("cpu_time", limits.cpu_time), ("wall_time", limits.wall_time), ("term_grace", limits.term_grace)];
    for (name, time) in times {
        // A deadline in nanoseconds has to fit 63 bits: 292 years.
        if time.is_some_and(|time| time.is_zero() || i64::try_from(time.as_nanos()).is_err()) {
            return Err(invalid(name, "it must be more than 0, and less than 292 years"));
        }
    }
    let Some((quota, period)) = limits.cpu_max else { return Ok(()) };
    match period < CPU_MIN || period > PERIOD_MAX || quota < CPU_MIN || quota > period * 10_000 {
        true => Err(invalid("cpu_max", "the quota must be from 1 ms on, and the period from 1 ms to 1 s")),
        false => Ok(()),
    }
}

fn check_pairs(limits: &Limits) -> Result<()> {
    if limits.memory_high.zip(limits.memory).is_some_and(|(high, max)| high > max) {
        return Err(invalid("memory_high", "it is above memory, and so would never be met"));
    }
    if limits.term_grace.is_some() && limits.wall_time.is_none() {
        return Err(invalid("term_grace", "it needs a wall_time to come after"));
    }
    Ok(())
}

fn check_io(limits: &Limits) -> Result<()> {
    if limits.io_weight.is_some_and(|weight| !(1..=10_000).contains(&weight)) {
        return Err(invalid("io_weight", "it must be 1 to 10,000"));
    }
    for (index, max) in limits.io_max.iter().enumerate() {
        let failed = |cause| Err(invalid("io_max", cause).with_path(&max.device));
        let values = [max.read_bytes, max.write_bytes, max.read_operations, max.write_operations];
        if values.iter().all(Option::is_none) {
            return failed("it limits nothing");
        }
        if values.iter().flatten().any(|value| *value == 0 || i64::try_from(*value).is_err()) {
            return failed("a limit must be 1 to 2^63 - 1");
        }
        if limits.io_max.iter().take(index).any(|earlier| earlier.device == max.device && earlier != max) {
            return failed("the policy has another for the same device");
        }
    }
    Ok(())
}

fn invalid(name: &str, cause: &str) -> Error {
    Error::invalid(Layer::Limits, name, cause).with_errno(libc::EINVAL)
}
