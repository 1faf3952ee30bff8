//! By what each limit is held.

use super::{Cgroup, Limits};

/// For each limit of the policy: the cgroup, each process by itself, the clock.
pub(crate) fn told(limits: &Limits, cgroup: Option<&Cgroup>) -> Option<String> {
    let pids = if cgroup.is_some_and(Cgroup::holds_pids) { "cgroup" } else { "RLIMIT_NPROC" };
    let cpu_time = if cgroup.is_some() { "cgroup and RLIMIT_CPU" } else { "RLIMIT_CPU, each process by itself" };
    let of_memory = limits.memory.is_some() || limits.memory_high.is_some() || limits.swap.is_some();
    let all = [
        ("memory", of_memory, "cgroup"),
        ("pids", limits.pids.is_some(), pids),
        ("cpu_max", limits.cpu_max.is_some(), "cgroup"),
        ("io", limits.io_weight.is_some() || !limits.io_max.is_empty(), "cgroup"),
        ("cpu_time", limits.cpu_time.is_some(), cpu_time),
        ("wall_time", limits.wall_time.is_some(), "timer"),
    ];
    let mut told: Vec<_> = all.iter().filter(|(_, set, _)| *set).map(|(name, _, by)| format!("{name}: {by}")).collect();
    told.extend(cgroup.map(|cgroup| format!("cgroup below {}", cgroup.directory().display())));
    (!told.is_empty()).then(|| told.join("; "))
}
