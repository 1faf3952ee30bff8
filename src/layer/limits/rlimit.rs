//! The limits of each process by itself: getrlimit(2).

use super::{Limits, Resource};
use crate::error::{Error, Layer, Result};
use crate::plan::Step;
use crate::sys;

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

/// A limit that the policy names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named {
    resource: Resource,
    soft: u64,
    hard: u64,
}

pub(crate) fn lower(limits: &Limits, steps: &mut Vec<Step>) -> Result<()> {
    let named = named(limits)?;
    steps.extend(DEFAULTS.map(|(name, resource, soft, hard)| {
        let asked = named.iter().find(|named| named.resource.name_and_number().1 == resource);
        let (soft, hard) = asked.map_or((soft, hard), |named| (named.soft, named.hard));
        Step::Limit { name, resource, soft, hard }
    }));
    Ok(())
}

/// What the policy names, each once.
fn named(limits: &Limits) -> Result<Vec<Named>> {
    let mut named: Vec<Named> = Vec::new();
    // What has used its time is killed at once: both limits are the same.
    let seconds = limits.cpu_time.map(|time| time.as_secs() + u64::from(time.subsec_nanos() != 0));
    let of_their_own = [
        (Resource::OpenFiles, limits.open_files),
        (Resource::FileSize, limits.file_size),
        (Resource::CpuTime, seconds),
    ];
    let of_their_own = of_their_own.iter().filter_map(|(resource, value)| value.map(|v| (*resource, v, v)));
    for (resource, soft, hard) in of_their_own.chain(limits.rlimits.iter().copied()) {
        let limit = Named { resource, soft, hard };
        check(limit)?;
        match named.iter().find(|earlier| earlier.resource == resource) {
            Some(earlier) if *earlier == limit => {}
            Some(earlier) => return Err(contradicts(limit, *earlier)),
            None => named.push(limit),
        }
    }
    Ok(named)
}

fn check(limit: Named) -> Result<()> {
    let Named { resource, soft, hard } = limit;
    let (name, number) = resource.name_and_number();
    let words = limit.words();
    if soft > hard {
        let cause = "the soft limit is above the hard one";
        return Err(Error::invalid(Layer::Limits, words, cause).with_errno(libc::EINVAL));
    }
    // Nobody in a user namespace of its own may raise a hard limit, and without one only CAP_SYS_RESOURCE may.
    let own = sys::hard_limit(number).unwrap_or(NONE);
    if hard > own {
        let cause = format!("the hard limit of this process is {own}, and can't be raised");
        return Err(Error::invalid(Layer::Limits, words, cause)
            .with_errno(libc::EPERM)
            .with_hint(format!("raise RLIMIT_{name} where this process is started (prlimit(1))")));
    }
    Ok(())
}

fn contradicts(limit: Named, earlier: Named) -> Error {
    Error::invalid(Layer::Limits, limit.words(), format!("the policy also has {}", earlier.words()))
}

impl Named {
    fn words(self) -> String {
        let (name, resource) = self.resource.name_and_number();
        Step::Limit { name, resource, soft: self.soft, hard: self.hard }.to_string()
    }
}
