//! The resources of getrlimit(2).

/// A resource that the kernel limits for each process by itself: see getrlimit(2), where each is described at length.
///
/// What a process is held to, every process that it makes is held to as well, each by itself: ten processes may have ten
/// times as much. What holds a whole sandbox are [`Limits::memory`](crate::Limits::memory) and its like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// `RLIMIT_AS`: the address space, in bytes, whether there is memory behind it or not.
    AddressSpace,
    /// `RLIMIT_CORE`: the size of a core dump, in bytes. The default is 1, by which the kernel writes none and starts no
    /// program for it (core(5)).
    CoreSize,
    /// `RLIMIT_CPU`: processor time, in seconds. Also [`Limits::cpu_time`](crate::Limits::cpu_time).
    CpuTime,
    /// `RLIMIT_DATA`: data segment and private writable memory, in bytes.
    DataSize,
    /// `RLIMIT_FSIZE`: the size of a file, in bytes. Also [`Limits::file_size`](crate::Limits::file_size).
    FileSize,
    /// `RLIMIT_MEMLOCK`: memory that is locked, in bytes; for each user in a user namespace. The default is 8 MiB.
    LockedMemory,
    /// `RLIMIT_MSGQUEUE`: POSIX message queues, in bytes; for each user in a user namespace. The default is 819,200.
    MessageQueues,
    /// `RLIMIT_NICE`: how far the nice value may be lowered, as 20 less it. The default is 0.
    Nice,
    /// `RLIMIT_NOFILE`: one more than the greatest descriptor. The default is 1024 and 524,288. Also
    /// [`Limits::open_files`](crate::Limits::open_files).
    OpenFiles,
    /// `RLIMIT_SIGPENDING`: signals that are queued; for each user in a user namespace.
    PendingSignals,
    /// `RLIMIT_NPROC`: processes and threads, for each user in a user namespace. It does not bind the host's user 0. Also
    /// [`Limits::pids`](crate::Limits::pids).
    Processes,
    /// `RLIMIT_RTPRIO`: the greatest real-time priority. The default is 0.
    RealtimePriority,
    /// `RLIMIT_RTTIME`: processor time in a real-time class without a system call that waits, in microseconds.
    RealtimeTime,
    /// `RLIMIT_STACK`: the stack of a process, in bytes, with arguments and environment. The default is 8 MiB, which the
    /// program may raise.
    StackSize,
}

impl Resource {
    /// The kernel's name, without its prefix, and number.
    // The C libraries disagree about the type of the numbers.
    #[allow(clippy::unnecessary_cast)]
    pub(super) fn name_and_number(self) -> (&'static str, u32) {
        match self {
            Resource::AddressSpace => ("AS", libc::RLIMIT_AS as u32),
            Resource::CoreSize => ("CORE", libc::RLIMIT_CORE as u32),
            Resource::CpuTime => ("CPU", libc::RLIMIT_CPU as u32),
            Resource::DataSize => ("DATA", libc::RLIMIT_DATA as u32),
            Resource::FileSize => ("FSIZE", libc::RLIMIT_FSIZE as u32),
            Resource::LockedMemory => ("MEMLOCK", libc::RLIMIT_MEMLOCK as u32),
            Resource::MessageQueues => ("MSGQUEUE", libc::RLIMIT_MSGQUEUE as u32),
            Resource::Nice => ("NICE", libc::RLIMIT_NICE as u32),
            Resource::OpenFiles => ("NOFILE", libc::RLIMIT_NOFILE as u32),
            Resource::PendingSignals => ("SIGPENDING", libc::RLIMIT_SIGPENDING as u32),
            Resource::Processes => ("NPROC", libc::RLIMIT_NPROC as u32),
            Resource::RealtimePriority => ("RTPRIO", libc::RLIMIT_RTPRIO as u32),
            Resource::RealtimeTime => ("RTTIME", libc::RLIMIT_RTTIME as u32),
            Resource::StackSize => ("STACK", libc::RLIMIT_STACK as u32),
        }
    }
}
