//! What a process is: namespaces, identity, limits, signals, and its end.

use core::ffi::{CStr, c_int, c_ulong};
use core::mem::{MaybeUninit, size_of, zeroed};
use std::os::fd::{AsFd, BorrowedFd};

use super::{CStringArray, Errno, Fd, Result, call, ptr, raw};

/// The capability numbers that [`limit_bounding_set`] tries: 64 bits is what the kernel's sets hold.
const CAPABILITIES: usize = 64;

/// setns(2), by the pidfd of a process that is in the namespaces.
pub(crate) fn setns(process: BorrowedFd<'_>, namespaces: u64) -> Result<()> {
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_setns, [raw(process), namespaces as usize]) }.map(drop)
}

/// setns(2), by a descriptor of the namespace itself.
pub(crate) fn setns_fd(namespace: BorrowedFd<'_>, kind: c_int) -> Result<()> {
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_setns, [raw(namespace), kind as usize]) }.map(drop)
}

/// unshare(2).
pub(crate) fn unshare(namespaces: u64) -> Result<()> {
    // SAFETY: No pointers; no flag here takes memory away from the process.
    unsafe { call(libc::SYS_unshare, [namespaces as usize]) }.map(drop)
}

/// sethostname(2).
pub(crate) fn sethostname(name: &CStr) -> Result<()> {
    // SAFETY: The kernel reads as many bytes as are given.
    unsafe { call(libc::SYS_sethostname, [ptr(name), name.to_bytes().len()]) }.map(drop)
}

/// setdomainname(2).
pub(crate) fn setdomainname(name: &CStr) -> Result<()> {
    // SAFETY: The kernel reads as many bytes as are given.
    unsafe { call(libc::SYS_setdomainname, [ptr(name), name.to_bytes().len()]) }.map(drop)
}

/// Brings the loopback interface up: socket(2), then ioctl(2) with `SIOCSIFFLAGS` (netdevice(7)).
pub(crate) fn loopback_up() -> Result<()> {
    let kind = (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as usize;
    // SAFETY: No pointers.
    let socket = Fd::new(unsafe { call(libc::SYS_socket, [libc::AF_INET as usize, kind, 0]) }?);
    // SAFETY: All zeroes is a value of this plain structure.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from as _;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as _;
    let args = [raw(socket.as_fd()), libc::SIOCSIFFLAGS as usize, &raw const request as usize];
    // SAFETY: This request reads one `struct ifreq`, which outlives the call.
    unsafe { call(libc::SYS_ioctl, args) }.map(drop)
}

/// setgroups(2) with an empty list.
pub(crate) fn drop_groups() -> Result<()> {
    // SAFETY: With a length of 0 the kernel reads nothing.
    unsafe { call(libc::SYS_setgroups, [0, 0]) }.map(drop)
}

/// setresgid(2), all three.
pub(crate) fn setgid(id: u32) -> Result<()> {
    // SAFETY: No pointers. The raw call changes this process alone; libc's would change every thread of it.
    unsafe { call(libc::SYS_setresgid, [id as usize; 3]) }.map(drop)
}

/// setresuid(2), all three.
pub(crate) fn setuid(id: u32) -> Result<()> {
    // SAFETY: No pointers. The raw call changes this process alone; libc's would change every thread of it.
    unsafe { call(libc::SYS_setresuid, [id as usize; 3]) }.map(drop)
}

/// setsid(2).
pub(crate) fn setsid() -> Result<()> {
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_setsid, []) }.map(drop)
}

/// keyctl(2) with `KEYCTL_JOIN_SESSION_KEYRING` and no name: a new, empty session keyring.
pub(crate) fn join_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: usize = 1;
    // SAFETY: Without a name the kernel reads nothing.
    unsafe { call(libc::SYS_keyctl, [KEYCTL_JOIN_SESSION_KEYRING, 0]) }.map(drop)
}

/// umask(2).
pub(crate) fn umask(mask: u32) {
    // SAFETY: No pointers. The mask belongs to this process: it was cloned without `CLONE_FS`.
    let _ = unsafe { call(libc::SYS_umask, [mask as usize]) };
}

/// `struct sched_attr` of sched_setattr(2), as it was first.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// sched_setattr(2): `SCHED_OTHER` with this nice value.
pub(crate) fn set_nice(nice: i32) -> Result<()> {
    let attr = SchedAttr { size: size_of::<SchedAttr>() as u32, nice, ..SchedAttr::default() };
    // SAFETY: `attr` outlives the call and names its own size; the kernel only reads it.
    unsafe { call(libc::SYS_sched_setattr, [0, &raw const attr as usize, 0]) }.map(drop)
}

/// ioprio_set(2): the default class, which follows the nice value.
pub(crate) fn reset_io_priority() -> Result<()> {
    const IOPRIO_WHO_PROCESS: usize = 1;
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_ioprio_set, [IOPRIO_WHO_PROCESS, 0, 0]) }.map(drop)
}

/// sched_setaffinity(2): every processor that the cpuset allows.
pub(crate) fn reset_affinity() -> Result<()> {
    let all = [u64::MAX; 128];
    // SAFETY: The kernel reads as many bytes of `all` as are given.
    unsafe { call(libc::SYS_sched_setaffinity, [0, size_of::<[u64; 128]>(), all.as_ptr() as usize]) }.map(drop)
}

/// sched_getaffinity(2): how many processors the caller may use; 0 if that can't be told.
pub(crate) fn processors() -> u32 {
    let mut allowed = [0_u64; 128];
    // SAFETY: The kernel writes at most as many bytes to `allowed` as are given.
    let told = unsafe { call(libc::SYS_sched_getaffinity, [0, size_of_val(&allowed), allowed.as_mut_ptr() as usize]) };
    told.map_or(0, |_| allowed.iter().map(|word| word.count_ones()).sum())
}

/// sched_setaffinity(2): moves a process off the processor that the caller runs on, if the caller may use another. It may come
/// back.
pub(crate) fn push_off_this_processor(pid: libc::pid_t) -> Result<()> {
    let mut processor = 0_u32;
    // SAFETY: The kernel writes one number of 32 bits.
    unsafe { call(libc::SYS_getcpu, [&raw mut processor as usize, 0, 0]) }?;
    let mut allowed = [0_u64; 128];
    let size = size_of::<[u64; 128]>();
    // SAFETY: The kernel writes at most as many bytes to `allowed` as are given.
    unsafe { call(libc::SYS_sched_getaffinity, [0, size, allowed.as_mut_ptr() as usize]) }?;
    if let Some(word) = allowed.get_mut((processor / 64) as usize) {
        *word &= !(1 << (processor % 64));
    }
    // SAFETY: The kernel reads as many bytes of `allowed` as are given. None left is EINVAL.
    unsafe { call(libc::SYS_sched_setaffinity, [pid as usize, size, allowed.as_ptr() as usize]) }?;
    if let Some(word) = allowed.get_mut((processor / 64) as usize) {
        *word |= 1 << (processor % 64);
    }
    // SAFETY: The kernel reads as many bytes of `allowed` as are given.
    unsafe { call(libc::SYS_sched_setaffinity, [pid as usize, size, allowed.as_ptr() as usize]) }.map(drop)
}

/// personality(2): plain Linux, with no flags.
pub(crate) fn reset_personality() -> Result<()> {
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_personality, [0]) }.map(drop)
}

/// prlimit(2) of this process: the hard limit.
pub(crate) fn hard_limit(resource: u32) -> Result<u64> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let args = [0, resource as usize, 0, &raw mut limit as usize];
    // SAFETY: The kernel writes one `struct rlimit64`.
    unsafe { call(libc::SYS_prlimit64, args) }?;
    Ok(limit.rlim_max)
}

/// prlimit(2) of this process: at most `soft` and `hard`, where the hard limit in force is lower.
pub(crate) fn lower_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let args = [0, resource as usize, 0, &raw mut limit as usize];
    // SAFETY: The kernel writes one `struct rlimit64`.
    unsafe { call(libc::SYS_prlimit64, args) }?;
    let hard = hard.min(limit.rlim_max);
    let limit = libc::rlimit64 { rlim_cur: soft.min(hard), rlim_max: hard };
    let args = [0, resource as usize, &raw const limit as usize, 0];
    // SAFETY: The kernel reads one `struct rlimit64`, which outlives the call.
    unsafe { call(libc::SYS_prlimit64, args) }.map(drop)
}

/// The signals whose actions can be set: signal(7).
pub(crate) fn signals() -> impl Iterator<Item = c_int> {
    (1..=64).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal))
}

/// rt_sigaction(2): the default action.
pub(crate) fn default_signal(signal: c_int) -> Result<()> {
    set_action(signal, libc::SIG_DFL)
}

/// rt_sigaction(2): whether this process ignores it.
pub(crate) fn ignores_signal(signal: c_int) -> Result<bool> {
    let mut action = KernelAction::default();
    // SAFETY: The kernel writes one of its `struct sigaction`, and reads nothing.
    unsafe { call(libc::SYS_rt_sigaction, [signal as usize, 0, &raw mut action as usize, 8]) }?;
    Ok(action[0] == libc::SIG_IGN as u64)
}

/// rt_sigaction(2): children are reaped by the kernel.
pub(crate) fn ignore_children() -> Result<()> {
    set_action(libc::SIGCHLD, libc::SIG_IGN)
}

/// The kernel's `struct sigaction`: handler, flags, restorer, mask; 32 bytes on both processors.
type KernelAction = [u64; 4];

fn set_action(signal: c_int, handler: libc::sighandler_t) -> Result<()> {
    let action: KernelAction = [handler as u64, 0, 0, 0];
    // SAFETY: The kernel reads one of its `struct sigaction`, and writes nothing. The table of actions belongs
    // to this process: it was cloned without `CLONE_SIGHAND`.
    unsafe { call(libc::SYS_rt_sigaction, [signal as usize, action.as_ptr() as usize, 0, 8]) }.map(drop)
}

/// A set of signals as the kernel has it.
pub(crate) type SignalSet = u64;

/// rt_sigprocmask(2) with `SIG_SETMASK`, of the calling thread; returns the old mask.
///
/// libc's would leave out the signals that it keeps for itself.
pub(crate) fn set_signal_mask(mask: SignalSet) -> Result<SignalSet> {
    let mut old: SignalSet = 0;
    let args = [libc::SIG_SETMASK as usize, &raw const mask as usize, &raw mut old as usize, 8];
    // SAFETY: The kernel reads one set of 8 bytes and writes another.
    unsafe { call(libc::SYS_rt_sigprocmask, args) }?;
    Ok(old)
}

fn prctl(option: c_int, args: [usize; 4]) -> Result<usize> {
    let [a, b, c, d] = args;
    // SAFETY: The options used in this file take no pointers.
    unsafe { call(libc::SYS_prctl, [option as usize, a, b, c, d]) }
}

/// prctl(2) with `PR_SET_TIMERSLACK`.
pub(crate) fn set_timer_slack(nanoseconds: c_ulong) -> Result<()> {
    prctl(libc::PR_SET_TIMERSLACK, [nanoseconds as usize, 0, 0, 0]).map(drop)
}

/// prctl(2) with `PR_SET_PDEATHSIG` and SIGKILL.
pub(crate) fn end_with_parent() -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, [libc::SIGKILL as usize, 0, 0, 0]).map(drop)
}

/// prctl(2) with `PR_SET_NO_NEW_PRIVS`.
pub(crate) fn no_new_privs() -> Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).map(drop)
}

/// prctl(2) with `PR_SET_SECUREBITS`.
pub(crate) fn set_securebits(bits: c_ulong) -> Result<()> {
    prctl(libc::PR_SET_SECUREBITS, [bits as usize, 0, 0, 0]).map(drop)
}

/// prctl(2) with `PR_CAP_AMBIENT_CLEAR_ALL`.
pub(crate) fn clear_ambient_set() -> Result<()> {
    prctl(libc::PR_CAP_AMBIENT, [libc::PR_CAP_AMBIENT_CLEAR_ALL as usize, 0, 0, 0]).map(drop)
}

/// prctl(2) with `PR_CAPBSET_DROP`, for every capability that the kernel knows but those that are kept.
pub(crate) fn limit_bounding_set(kept: u64) -> Result<()> {
    for capability in 0..CAPABILITIES {
        if kept >> capability & 1 == 1 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, [capability, 0, 0, 0]) {
            // The first number that the kernel does not know.
            Err(Errno(libc::EINVAL)) if capability > 0 => break,
            result => result?,
        };
    }
    Ok(())
}

/// prctl(2) with `PR_CAPBSET_READ`: the capabilities that the kernel knows, as a mask.
pub(crate) fn known_capabilities() -> u64 {
    let known = |capability: &usize| prctl(libc::PR_CAPBSET_READ, [*capability, 0, 0, 0]).is_ok();
    (0..CAPABILITIES).take_while(known).fold(0, |mask, capability| mask | 1 << capability)
}

/// prctl(2) with `PR_CAP_AMBIENT_RAISE`, for each of these capabilities.
pub(crate) fn raise_ambient_set(kept: u64) -> Result<()> {
    for capability in (0..CAPABILITIES).filter(|capability| kept >> capability & 1 == 1) {
        prctl(libc::PR_CAP_AMBIENT, [libc::PR_CAP_AMBIENT_RAISE as usize, capability, 0, 0])?;
    }
    Ok(())
}

/// capset(2): these capabilities, effective, permitted and inheritable, and no other.
pub(crate) fn set_capabilities(kept: u64) -> Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let (low, high) = (kept as u32, (kept >> 32) as u32);
    let sets = [low, low, low, high, high, high];
    // SAFETY: The kernel reads the header of 8 bytes and, for this version, two entries of 12 bytes.
    unsafe { call(libc::SYS_capset, [header.as_ptr() as usize, sets.as_ptr() as usize]) }.map(drop)
}

/// execve(2), with a variant of the environment. Returns only to say why it failed.
pub(crate) fn execve(path: &CStr, argv: &CStringArray, envp: &CStringArray, variant: usize) -> Errno {
    let args = [ptr(path), argv.as_ptr() as usize, envp.variant(variant) as usize];
    // SAFETY: All strings end in a zero byte and both arrays in a null pointer; the kernel only reads them.
    unsafe { call(libc::SYS_execve, args) }.err().unwrap_or(Errno(libc::EIO))
}

/// execveat(2) of the file that `file` is. Returns only to say why it failed.
pub(crate) fn fexecve(file: BorrowedFd<'_>, argv: &CStringArray, envp: &CStringArray) -> Errno {
    let flags = libc::AT_EMPTY_PATH as usize;
    let args = [raw(file), ptr(c""), argv.as_ptr() as usize, envp.as_ptr() as usize, flags];
    // SAFETY: All strings end in a zero byte and both arrays in a null pointer; the kernel only reads them.
    unsafe { call(libc::SYS_execveat, args) }.err().unwrap_or(Errno(libc::EIO))
}

/// exit_group(2).
pub(crate) fn exit(status: c_int) -> ! {
    // SAFETY: No pointers.
    let _ = unsafe { call(libc::SYS_exit_group, [status as usize]) };
    // Only a filter of system calls could have refused.
    super::arch::trap()
}

/// pidfd_send_signal(2).
pub(crate) fn pidfd_send_signal(process: BorrowedFd<'_>, signal: c_int) -> Result<()> {
    // SAFETY: Without a siginfo the kernel reads nothing.
    unsafe { call(libc::SYS_pidfd_send_signal, [raw(process), signal as usize, 0, 0]) }.map(drop)
}

/// pidfd_open(2).
pub(crate) fn pidfd_open(pid: libc::pid_t) -> Result<Fd> {
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_pidfd_open, [pid as usize, 0]) }.map(Fd::new)
}

/// ioctl(2) with `NS_GET_PARENT`: the PID or user namespace that this one was made in.
pub(crate) fn parent_namespace(namespace: BorrowedFd<'_>) -> Result<Fd> {
    const NS_GET_PARENT: usize = 0xb702;
    // SAFETY: The request takes no argument.
    unsafe { call(libc::SYS_ioctl, [raw(namespace), NS_GET_PARENT]) }.map(Fd::new)
}

/// ioctl(2) with `NS_GET_NSTYPE` (Linux 4.11): what kind of namespace this is, as its clone flag.
pub(crate) fn namespace_kind(namespace: BorrowedFd<'_>) -> Result<u32> {
    const NS_GET_NSTYPE: usize = 0xb703;
    // SAFETY: The request takes no argument.
    unsafe { call(libc::SYS_ioctl, [raw(namespace), NS_GET_NSTYPE]) }.map(|kind| kind as u32)
}

/// prctl(2) with `PR_SET_DUMPABLE`: nobody without privilege over this memory may look into it.
pub(crate) fn not_dumpable() -> Result<()> {
    prctl(libc::PR_SET_DUMPABLE, [0; 4]).map(drop)
}

/// How a process ended, with what it used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// `CLD_EXITED`, `CLD_KILLED` or `CLD_DUMPED`.
    pub(crate) code: c_int,
    /// The exit code, or the signal.
    pub(crate) status: c_int,
    /// The process, and the descendants that it has waited for.
    pub(crate) usage: libc::rusage,
}

/// waitid(2) for the end of a child, whatever its exit signal: reaps it, blocking if `options` has no `WNOHANG`.
/// None means that it has not ended.
pub(crate) fn wait(process: BorrowedFd<'_>, options: c_int) -> Result<Option<Ended>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let options = (libc::WEXITED | libc::__WALL | options) as usize;
    loop {
        let args =
            [libc::P_PIDFD as usize, raw(process), info.as_mut_ptr() as usize, options, usage.as_mut_ptr() as usize];
        // SAFETY: The kernel writes one `siginfo_t` and one `struct rusage`.
        match unsafe { call(libc::SYS_waitid, args) } {
            Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(errno),
            Ok(_) => break,
        }
    }
    // SAFETY: All zeroes is a value of this plain structure, and so is what the kernel has written.
    let info = unsafe { info.assume_init() };
    // SAFETY: As above.
    let usage = unsafe { usage.assume_init() };
    // SAFETY: A siginfo that waitid has filled, or left all zeroes, has a pid.
    let pid = unsafe { info.si_pid() };
    // SAFETY: The same holds for the status.
    let status = unsafe { info.si_status() };
    // Of a process that a thread of this one traces, the kernel tells stops too, unasked: wait(2), `__WNOTHREAD`.
    let ended = matches!(info.si_code, libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED);
    Ok((pid != 0 && ended).then_some(Ended { code: info.si_code, status, usage }))
}

/// The wait status of a process that has ended and was reaped by somebody else: ioctl(2) with `PIDFD_GET_INFO`
/// and `PIDFD_INFO_EXIT` (Linux 6.15).
pub(crate) fn exit_info(process: BorrowedFd<'_>) -> Result<c_int> {
    /// `struct pidfd_info` as it was first: 64 bytes.
    #[repr(C)]
    #[derive(Default)]
    struct PidfdInfo {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    // _IOWR(PIDFS_IOCTL_MAGIC = 0xff, 11, struct pidfd_info)
    const PIDFD_GET_INFO: usize = 3 << 30 | size_of::<PidfdInfo>() << 16 | 0xff << 8 | 11;
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    let args = [raw(process), PIDFD_GET_INFO, &raw mut info as usize];
    // SAFETY: The kernel reads and writes as much as the request says, which is the size of `info`.
    unsafe { call(libc::SYS_ioctl, args) }?;
    if info.mask & PIDFD_INFO_EXIT == 0 {
        return Err(Errno(libc::ENODATA));
    }
    Ok(info.exit_code)
}

/// getrusage(2) of this process: its peak resident memory, in KiB.
pub(crate) fn own_peak_memory() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: The kernel writes one `struct rusage`.
    let _ = unsafe { call(libc::SYS_getrusage, [libc::RUSAGE_SELF as usize, usage.as_mut_ptr() as usize]) };
    // SAFETY: All zeroes is a value of this plain structure, and so is what the kernel has written.
    let usage = unsafe { usage.assume_init() };
    usage.ru_maxrss.unsigned_abs()
}
