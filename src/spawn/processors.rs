//! Whether the host's processors are busy.

use std::fs;

use crate::sys;

/// Whether a processor has nothing to do at this moment, as far as can be seen: proc(5) has the number of runnable threads,
/// the calling one among them, in `/proc/loadavg`.
pub(crate) fn one_is_idle() -> bool {
    let running = fs::read_to_string("/proc/loadavg").ok().and_then(|loads| runnable(&loads));
    running.is_some_and(|running| running < sys::processors())
}

fn runnable(loads: &str) -> Option<u32> {
    loads.split(' ').nth(3)?.split_once('/')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runnable_threads_are_read_from_the_load() {
        assert_eq!(runnable("0.32 1.04 2.31 3/149 13067\n"), Some(3));
        assert_eq!(runnable("0.32 1.04 2.31\n"), None);
        assert!(runnable(&fs::read_to_string("/proc/loadavg").unwrap()).is_some_and(|running| running > 0));
    }
}
