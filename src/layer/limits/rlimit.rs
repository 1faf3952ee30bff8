//! The limits of each process by itself: getrlimit(2).

use super::{AS_ROOT, Limits, Resource};
use crate::error::{Error, ErrorKind, Layer, Result};
use crate::plan::Step;
use crate::sys::{self, Errno};

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

/// What of the sandbox the limits depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// Whether it is for an agent that waits, which needs descriptors that its program may not have.
    pub(crate) agent: bool,
    /// Whether a cgroup holds the number of processes.
    pub(crate) holds_pids: bool,
    pub(crate) user_namespace: bool,
    pub(crate) pid_namespace: bool,
    /// The program's user, outside.
    pub(crate) outside: u32,
    /// Whether init has the same user.
    pub(crate) same_as_init: bool,
    /// Whether there is a /tmp of the sandbox's own.
    pub(crate) own_tmp: bool,
}

pub(crate) fn lower(limits: &Limits, setting: &Setting, steps: &mut Vec<Step>) -> Result<()> {
    if limits.tmp_size.is_some() && !setting.own_tmp {
        let cause = "the sandbox has no /tmp of its own, but what the policy puts there";
        return Err(Error::invalid(Layer::Limits, "tmp_size", cause));
    }
    if limits.wall_time.is_some() && !setting.pid_namespace {
        let cause = "without Namespaces::PID there is no init that would end the sandbox when nobody waits";
        return Err(Error::invalid(Layer::Limits, "wall_time", cause));
    }
    let mut named = named(limits, processes(limits, setting)?)?;
    named.retain(|named| !setting.agent || named.resource != Resource::OpenFiles);
    steps.extend(DEFAULTS.map(|(name, resource, soft, hard)| {
        let asked = named.iter().find(|named| named.resource.name_and_number().1 == resource);
        let (soft, hard) = asked.map_or((soft, hard), |named| (named.soft, named.hard));
        Step::Limit { name, resource, soft, hard }
    }));
    Ok(())
}

/// What an agent takes upon itself when it executes its program.
pub(crate) fn last(limits: &Limits) -> Result<Option<Step>> {
    let named = named(limits, None)?.into_iter().find(|named| named.resource == Resource::OpenFiles);
    Ok(named.map(Named::step))
}

/// The value of `RLIMIT_NPROC` where that has to hold the number of processes.
fn processes(limits: &Limits, setting: &Setting) -> Result<Option<u64>> {
    let named = limits.rlimits.iter().find(|(resource, soft, _)| *resource == Resource::Processes && *soft != NONE);
    let named = named.map(|(resource, soft, hard)| Named { resource: *resource, soft: *soft, hard: *hard }.words());
    let counted = limits.pids.filter(|_| !setting.holds_pids);
    let Some(words) = counted.map(|count| format!("pids {count}")).or(named) else { return Ok(None) };
    let unbound = |cause: &str| {
        let hint = format!("use a cgroup of version 2: {AS_ROOT}; or map the program's user to another than root");
        Error::new(Layer::Limits, ErrorKind::Unsupported, words.as_str(), cause).with_hint(hint)
    };
    if is_host_root(setting.outside) {
        return Err(unbound("no cgroup with the pids controller, and RLIMIT_NPROC does not bind the host's user 0"));
    }
    if counted.is_some() && !setting.user_namespace {
        let cause = "no cgroup with the pids controller, and without Namespaces::USER RLIMIT_NPROC counts all processes of \
                     the user on this host";
        return Err(unbound(cause));
    }
    // Init is one of that user's processes too.
    let own = u64::from(setting.pid_namespace && setting.same_as_init);
    Ok(counted.map(|count| count + own))
}

/// Whether this process's user is the host's user 0, which the kernel exempts (`INIT_USER`). In a user namespace, root may be
/// anybody outside: proc_pid_uid_map(5).
fn is_host_root(uid: u32) -> bool {
    let text = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let outside = text.lines().find_map(|line| {
        let mut fields = line.split_whitespace().map(|field| field.parse::<u32>().ok());
        let (inside, outside, count) = (fields.next()??, fields.next()??, fields.next()??);
        Some(outside + uid.checked_sub(inside).filter(|offset| *offset < count)?)
    });
    outside.unwrap_or(uid) == 0
}

/// What the policy names, each once.
fn named(limits: &Limits, processes: Option<u64>) -> Result<Vec<Named>> {
    let mut named: Vec<Named> = Vec::new();
    // What has used its time gets SIGXCPU, by which its end is told from others, and if it goes on, SIGKILL a second later.
    let seconds = limits.cpu_time.map(|time| time.as_secs() + u64::from(time.subsec_nanos() != 0));
    let of_their_own = [
        (Resource::OpenFiles, limits.open_files, 0),
        (Resource::FileSize, limits.file_size, 0),
        (Resource::CpuTime, seconds, 1),
        (Resource::Processes, processes, 0),
    ];
    let of_their_own = of_their_own.iter().filter_map(|(resource, value, more)| {
        let soft = (*value)?;
        Some((*resource, soft, soft.saturating_add(*more)))
    });
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
    let failed = |Errno(errno)| Error::os(Layer::Limits, limit.words(), errno);
    let own = sys::hard_limit(number).map_err(failed)?;
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
    fn step(self) -> Step {
        let (name, resource) = self.resource.name_and_number();
        Step::Limit { name, resource, soft: self.soft, hard: self.hard }
    }

    fn words(self) -> String {
        self.step().to_string()
    }
}
