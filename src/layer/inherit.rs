//! What of the host process's own state the program keeps, where the policy says so.

bitflags::bitflags! {
    /// What a program takes over from the host process instead of defined values: for [`Sandbox::inherit`].
    ///
    /// The default is nothing of it. Commands that enter a sandbox ([`Child::command`](crate::Child::command)) take over
    /// scheduling and score from the host process as it is then, and the mask that the program has; they always have a
    /// session of their own, and the default action for every signal.
    ///
    /// [`Sandbox::inherit`]: crate::Sandbox::inherit
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Inherit: u32 {
        /// The session and process group, and with them the controlling terminal: for programs that a shell's user sits
        /// at. What is not protected: on Linux before 6.2 such a program can type into the terminal (TIOCSTI), unless the
        /// filter of system calls refuses that; and it can take its group to the foreground.
        const SESSION = 1 << 0;
        /// The file mode creation mask: umask(2).
        const UMASK = 1 << 1;
        /// Nice value and I/O priority, the set of processors, timer slack, and execution domain.
        const SCHEDULING = 1 << 2;
        /// Resource limits: getrlimit(2). What is not protected: a limit of core files that is not 1 lets a crash write
        /// one, or start the host's handler.
        const LIMITS = 1 << 3;
        /// The score for the out-of-memory killer: proc_pid_oom_score_adj(5).
        const OOM_SCORE = 1 << 4;
        /// Which signals are ignored, as under nohup(1). SIGPIPE is not, whatever the host process does: the runtime of a
        /// Rust program ignores it before `main`, and so nobody knows what was meant. In a sandbox that waits in a
        /// [`Pool`](crate::Pool), they are those of when that was built. Where SIGCHLD is among them, the kernel reaps the
        /// program's own children, and their ends are lost to it: sigaction(2).
        const IGNORED_SIGNALS = 1 << 5;
    }
}

/// The host process's umask: there is no call that only reads it. 022 where /proc does not tell.
pub(crate) fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
}
