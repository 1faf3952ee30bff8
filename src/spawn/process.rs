//! Owning processes: by pidfd, so that no process id is ever mistaken for another.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use super::leaf::Leaf;
use super::strays;
use crate::outcome::Cause;
use crate::plan::Lease;
use crate::sys::{self, Cloned, Ended, Errno};

/// How many milliseconds init, which takes everybody inside along, has to take a tracer along.
const TRACED: usize = 100;

/// A child of the host process. Dropping it does not end it.
#[derive(Clone, Debug)]
pub(crate) struct Process(Arc<Known>);

#[derive(Debug)]
struct Known {
    pid: libc::pid_t,
    pidfd: OwnedFd,
    /// How it has ended, if it was reaped for whoever will wait for it.
    ended: Mutex<Option<Ended>>,
    /// What it was ended for, where the host knows that of a command that has entered a sandbox.
    ended_for: OnceLock<Cause>,
}

impl From<Cloned> for Process {
    fn from(Cloned { pid, pidfd }: Cloned) -> Self {
        let pidfd = OwnedFd::from(pidfd);
        // A host that has closed a standard stream would get it there, and the next sandbox would inherit it.
        let pidfd = match pidfd.as_raw_fd() {
            0..=2 => super::duplicate_from(pidfd.as_fd(), 3).unwrap_or(pidfd),
            _ => pidfd,
        };
        Self(Arc::new(Known { pid, pidfd, ended: Mutex::new(None), ended_for: OnceLock::new() }))
    }
}

impl Process {
    pub(crate) fn pid(&self) -> libc::pid_t {
        self.0.pid
    }

    /// Waits for the end with waitid(2), and reaps.
    pub(crate) fn wait(&self, options: i32) -> sys::Result<Option<Ended>> {
        match sys::wait(self.as_fd(), options) {
            Err(Errno(libc::ECHILD)) => lock(&self.0.ended).map(Some).ok_or(Errno(libc::ECHILD)),
            result => result,
        }
    }

    /// Reaps what was killed, as soon as it has ended. Not if somebody who traces it does not let go of it (ptrace(2)): there
    /// it stays as it is, and the host does not wait.
    pub(crate) fn reap_killed(&self) -> Ending {
        if !strays::wait_killed(self) {
            return Ending::Held;
        }
        for _ in 0..TRACED {
            match sys::wait(self.as_fd(), libc::WNOHANG) {
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                result => return Ending::Over(result.ok().flatten()),
            }
        }
        Ending::Held
    }

    /// Whether it has not ended.
    pub(crate) fn runs(&self) -> bool {
        matches!(self.wait(libc::WNOHANG | libc::WNOWAIT), Ok(None))
    }

    /// Notes what it is ended for, unless that is known already.
    pub(crate) fn note(&self, cause: Cause) {
        let _ = self.0.ended_for.set(cause);
    }

    pub(crate) fn ended_for(&self) -> Option<Cause> {
        self.0.ended_for.get().copied()
    }

    /// Whether it has stopped for whoever traces it, at its end if it was killed.
    pub(crate) fn is_held(&self) -> bool {
        strays::is_held(self.pid())
    }

    /// The processor time of a process that has ended and is not reaped: its own, without that of children that it has
    /// waited for, which rusage has in the same number. See proc_pid_stat(5). None while it runs.
    pub(crate) fn own_time(&self, options: i32) -> Option<Duration> {
        self.wait(options | libc::WNOWAIT).ok()??;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        let mut fields = stat.rsplit(')').next()?.split_whitespace().skip(11);
        let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        // In hundredths of a second on every processor here: USER_HZ.
        Some(Duration::from_millis((user + system) * 10))
    }

    pub(crate) fn kill(&self) -> sys::Result<()> {
        self.signal(libc::SIGKILL)
    }

    pub(crate) fn signal(&self, signal: i32) -> sys::Result<()> {
        sys::pidfd_send_signal(self.as_fd(), signal)
    }

    /// The wait status, though somebody else has reaped the process.
    pub(crate) fn exit_info(&self) -> sys::Result<i32> {
        sys::exit_info(self.as_fd())
    }

    /// Reaps a process that was killed for whoever waits for it later.
    fn reap_for_others(&self) {
        // Whoever does not get to reap it looks here next, and waits for this lock.
        let mut ended = lock(&self.0.ended);
        if let Ending::Over(Some(told)) = self.reap_killed() {
            *ended = Some(told);
        }
    }

    /// The same for one that has ended, or is left as it is.
    #[cfg(feature = "tokio")]
    pub(crate) fn reap_now_for_others(&self) {
        let mut ended = lock(&self.0.ended);
        if let Ok(Some(told)) = sys::wait(self.as_fd(), libc::WNOHANG) {
            *ended = Some(told);
        }
    }

    pub(crate) fn downgrade(&self) -> Watched {
        Watched(Arc::downgrade(&self.0))
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }
}

/// What has become of a process that was killed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// It has ended; how, if it was not somebody else who has reaped it.
    Over(Option<Ended>),
    /// Whoever traces it does not let go of it.
    Held,
}

/// A process that somebody else owns.
#[derive(Debug)]
pub(crate) struct Watched(Weak<Known>);

impl Watched {
    /// The process, while somebody owns it.
    pub(crate) fn upgrade(&self) -> Option<Process> {
        self.0.upgrade().map(Process)
    }
}

/// The commands that have entered a cell besides its program.
///
/// They are the host's children, and the kernel keeps init until they are reaped: so who ends the cell reaps them first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entered(Arc<Mutex<Commands>>);

#[derive(Debug, Default)]
struct Commands {
    /// Whether the cell has been ended.
    over: bool,
    running: Vec<Watched>,
}

impl Entered {
    /// Adds a command. False if the cell has been ended: then nobody will reap it but its owner.
    pub(crate) fn add(&self, command: &Process) -> bool {
        let mut commands = lock(&self.0);
        commands.running.retain(|known| known.0.strong_count() > 0);
        commands.running.push(command.downgrade());
        !commands.over
    }

    /// Notes for which of the commands that run now what they are ended for.
    pub(crate) fn note_running(&self, cause: Cause) {
        self.running().iter().filter(|command| command.runs()).for_each(|command| command.note(cause));
    }

    /// Notes what the commands were ended for of which nothing else is known.
    pub(crate) fn note(&self, cause: Cause) {
        self.running().iter().for_each(|command| command.note(cause));
    }

    fn running(&self) -> Vec<Process> {
        lock(&self.0).running.iter().filter_map(Watched::upgrade).collect()
    }

    /// Whether the cell has been ended.
    pub(crate) fn is_over(&self) -> bool {
        lock(&self.0).over
    }

    /// Kills the commands, and has no other come in.
    pub(crate) fn kill(&self) -> Vec<Process> {
        let mut commands = lock(&self.0);
        commands.over = true;
        let running: Vec<_> = commands.running.iter().filter_map(Watched::upgrade).collect();
        drop(commands);
        for command in &running {
            let _ = command.kill();
        }
        running
    }

    /// Forgets the commands, which are reaped or held.
    pub(crate) fn forget(&self) {
        lock(&self.0).running.clear();
    }

    fn end(&self) {
        self.kill().iter().for_each(Process::reap_for_others);
        self.forget();
    }
}

/// Nothing panics while one of these is locked; and if it did, what it holds would be whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Namespaces kept alive by an init. Dropping it ends every process in them, and waits for that.
///
/// The program must be reaped first: init ends when all other processes of its namespace are gone.
#[derive(Debug)]
pub(crate) struct Cell {
    init: Process,
    lifeline: Option<OwnedFd>,
    detached: bool,
    /// The PID namespace of init.
    namespace: (u64, u64),
    /// The network namespace, if another cell may have it afterwards.
    network: Option<Lease>,
    entered: Entered,
    /// Removed when init has ended, and so everything has.
    leaf: Option<Arc<Leaf>>,
}

/// What the host tells init on the lifeline, once the program has started: that it was detached. All else is a signal.
const DETACHED: u8 = 0;

impl Cell {
    pub(super) fn new(init: Process, lifeline: OwnedFd, namespace: (u64, u64), network: Option<Lease>) -> Self {
        let (lifeline, entered) = (Some(lifeline), Entered::default());
        Self { init, lifeline, detached: false, namespace, network, entered, leaf: None }
    }

    /// Has the cgroup stay until everything in the cell has ended.
    pub(super) fn holds(&mut self, leaf: Option<Arc<Leaf>>) {
        self.leaf = leaf;
    }

    /// Whether init has seen that time was up before the program had ended, which has been reaped: then init ends by itself,
    /// and its exit code tells. None if it has not ended yet: what it takes along may be slow.
    pub(crate) fn ran_out_of_time(&self) -> Option<bool> {
        // Init ends when they are reaped: by whom their own handles ask, and not as strays, of whom nobody does.
        self.entered.kill().iter().for_each(Process::reap_for_others);
        strays::settle(&self.init, self.namespace);
        match self.init.wait(libc::WNOHANG | libc::WNOWAIT) {
            Ok(ended) => ended.map(|ended| (ended.code, ended.status) == (libc::CLD_EXITED, 1)),
            // Somebody else has reaped it. The form is that of wait(2).
            Err(_) => Some(self.init.exit_info().is_ok_and(|status| status == 1 << 8)),
        }
    }

    pub(crate) fn init(&self) -> &Process {
        &self.init
    }

    pub(crate) fn entered(&self) -> &Entered {
        &self.entered
    }

    /// Tells init that the program runs as process 2; the byte itself says nothing.
    pub(super) fn started(&self) -> sys::Result<()> {
        self.tell(DETACHED)
    }

    /// Has init send a signal to every other process in its namespace. Fine if there is none any more.
    pub(crate) fn signal_all(&self, signal: u8) -> sys::Result<()> {
        match self.tell(signal) {
            // Init has ended, and all with it.
            Err(Errno(libc::EPIPE | libc::ECONNRESET)) => Ok(()),
            result => result,
        }
    }

    /// Tells init to mind the program alone, and gives the cell up.
    pub(crate) fn detach(mut self) -> sys::Result<()> {
        let told = self.tell(DETACHED);
        self.detached = told.is_ok();
        told
    }

    /// Begins what dropping it does, and waits for nothing.
    pub(crate) fn begin_to_end(&mut self) {
        let _ = self.init.kill();
        self.let_go();
        self.entered.end();
    }

    /// Looks for what keeps init from ending. False means that init is to be left to it.
    #[cfg(feature = "tokio")]
    pub(crate) fn search(&self, search: &mut strays::Search) -> bool {
        search.again(&self.init, self.namespace)
    }

    /// Leaves a killed init to what keeps it from ending.
    pub(crate) fn leave(&mut self) {
        self.entered.kill();
        self.detached = true;
    }

    /// What hangs up when init ends, and the kernel kills all that is in its namespace.
    pub(crate) fn lifeline(&self) -> Option<BorrowedFd<'_>> {
        self.lifeline.as_ref().map(AsFd::as_fd)
    }

    /// Ends the lifeline, and so init.
    pub(crate) fn let_go(&mut self) {
        drop(self.lifeline.take());
    }

    fn tell(&self, what: u8) -> sys::Result<()> {
        let Some(lifeline) = &self.lifeline else { return Ok(()) };
        sys::send(lifeline.as_fd(), &[what])
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        if self.detached {
            return;
        }
        self.begin_to_end();
        if let Some(network) = &self.network {
            network.look_at_others();
        }
        let ended = strays::wait(&self.init, self.namespace);
        if let Some(network) = self.network.take().filter(|_| ended) {
            network.give_back();
        }
    }
}
