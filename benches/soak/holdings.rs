//! What the host process holds, and the kernel for its user.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

/// What may grow: memory that the allocator keeps for later, and stacks of threads that glibc keeps.
const MEMORY_SLACK_KIB: u64 = 8 * 1024;
const ADDRESS_SLACK_KIB: u64 = 256 * 1024;

/// How long the kernel may take to take apart what has ended.
const SOON: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub(crate) struct Holdings {
    fds: usize,
    threads: usize,
    children: usize,
    mounts: usize,
    temporary: usize,
    cgroups: usize,
    ipc: usize,
    devices: usize,
    keys: u64,
    rss: u64,
    address: u64,
    peak: u64,
}

impl Holdings {
    pub(crate) fn look() -> Self {
        let count = |dir: &str| fs::read_dir(dir).map_or(0, Iterator::count);
        let lines = |file: &str| fs::read_to_string(file).unwrap_or_default().lines().count();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let memory = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        Self {
            fds: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            children: count_children(),
            mounts: lines("/proc/self/mountinfo"),
            temporary: fs::read_dir(std::env::temp_dir()).unwrap().count(),
            cgroups: count_cgroups(),
            ipc: ["shm", "msg", "sem"].iter().map(|kind| lines(&format!("/proc/sysvipc/{kind}"))).sum(),
            devices: count("/sys/block") + count("/sys/class/net"),
            keys: count_keys(),
            rss: memory("VmRSS:"),
            address: memory("VmSize:"),
            peak: memory("VmPeak:"),
        }
    }

    /// Looks until nothing changes any more: a pool's thread is done with what has ended.
    pub(crate) fn look_settled() -> Self {
        let mut last = Self::look();
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let now = Self::look();
            if now.counts() == last.counts() {
                return now;
            }
            last = now;
        }
    }

    /// Looks until it is as before, which takes a moment: the kernel frees keys later.
    pub(crate) fn look_after(before: &Self) -> Self {
        let begun = Instant::now();
        loop {
            let now = Self::look();
            if now.is_back_at(before) || begun.elapsed() > SOON {
                return now;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn is_back_at(&self, before: &Holdings) -> bool {
        let counts = |held: &Holdings| held.counts();
        counts(self) == counts(before)
            && self.keys <= before.keys
            && self.rss <= before.rss + MEMORY_SLACK_KIB
            && self.address <= before.address + ADDRESS_SLACK_KIB
    }

    fn counts(&self) -> [usize; 8] {
        let Self { fds, threads, children, mounts, temporary, cgroups, ipc, devices, .. } = self;
        [*fds, *threads, *children, *mounts, *temporary, *cgroups, *ipc, *devices]
    }
}

/// The children that are there still, dead or alive.
fn count_children() -> usize {
    let me = std::process::id().to_string();
    let is_child = |entry: std::io::Result<fs::DirEntry>| {
        let stat = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.to_owned();
        (parent == me).then_some(())
    };
    fs::read_dir("/proc").unwrap().filter_map(is_child).count()
}

/// The keys of this user: proc_key-users(5).
fn count_keys() -> u64 {
    // SAFETY: No arguments, and it never fails.
    let user = format!("{}:", unsafe { libc::geteuid() });
    let text = fs::read_to_string("/proc/key-users").unwrap_or_default();
    let mut lines = text.lines().map(str::split_whitespace);
    let keys = lines.find_map(|mut words| (words.next() == Some(&user)).then(|| words.next()?.parse().ok()).flatten());
    keys.unwrap_or_default()
}

/// The directories below this process's own cgroup of version 2.
fn count_cgroups() -> usize {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned();
    let dirs = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(|root| format!("{root}{own}"));
    let below =
        |dir: &String| fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()).count();
    dirs.iter().filter(|dir| fs::exists(format!("{dir}/cgroup.procs")).unwrap_or(false)).map(below).sum()
}

impl fmt::Display for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts().map(|count| count.to_string()).join(" ");
        write!(f, "{counts} {} | {} {} {}", self.keys, self.rss, self.address, self.peak)
    }
}

/// What the numbers are.
pub(crate) const HEADER: &str =
    "fds threads children mounts files cgroups ipc devices keys | resident, mapped, most mapped, in KiB";
