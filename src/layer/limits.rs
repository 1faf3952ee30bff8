//! Resource limits: for now the defined values that a program starts with, whatever the host's are.

use crate::plan::Step;

const MIB: u64 = 1 << 20;
const NONE: u64 = libc::RLIM64_INFINITY;

/// Soft and hard limits as a host has them that nobody has tuned: see getrlimit(2). Where the host's hard limit is
/// lower, that binds.
// The C libraries disagree about the type of the resource numbers.
#[allow(clippy::unnecessary_cast)]
const DEFAULTS: [(&str, u32, u64, u64); 16] = [
    ("AS", libc::RLIMIT_AS as u32, NONE, NONE),
    // 1, not 0: the kernel starts no core dump handler for a limit of 1 (core(5)), and does for 0.
    ("CORE", libc::RLIMIT_CORE as u32, 1, 1),
    ("CPU", libc::RLIMIT_CPU as u32, NONE, NONE),
    ("DATA", libc::RLIMIT_DATA as u32, NONE, NONE),
    ("FSIZE", libc::RLIMIT_FSIZE as u32, NONE, NONE),
    ("MEMLOCK", libc::RLIMIT_MEMLOCK as u32, 8 * MIB, 8 * MIB),
    ("MSGQUEUE", libc::RLIMIT_MSGQUEUE as u32, 819_200, 819_200),
    ("NICE", libc::RLIMIT_NICE as u32, 0, 0),
    ("NOFILE", libc::RLIMIT_NOFILE as u32, 1024, 524_288),
    ("RTPRIO", libc::RLIMIT_RTPRIO as u32, 0, 0),
    ("STACK", libc::RLIMIT_STACK as u32, 8 * MIB, NONE),
    ("LOCKS", libc::RLIMIT_LOCKS as u32, NONE, NONE),
    ("NPROC", libc::RLIMIT_NPROC as u32, NONE, NONE),
    ("RSS", libc::RLIMIT_RSS as u32, NONE, NONE),
    ("RTTIME", libc::RLIMIT_RTTIME as u32, NONE, NONE),
    ("SIGPENDING", libc::RLIMIT_SIGPENDING as u32, NONE, NONE),
];

pub(crate) fn lower(steps: &mut Vec<Step>) {
    steps.extend(DEFAULTS.map(|(name, resource, soft, hard)| Step::Limit { name, resource, soft, hard }));
}
