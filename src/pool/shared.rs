//! What a pool, its commands and its thread share.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::start::{Parked, defaults};
use crate::error::{Error, Layer, Result};
use crate::layer::limits;
use crate::plan::Step;
use crate::prepared::Prepared;
use crate::spawn::{BlockedSignals, Cell};

/// How long a pool keeps its size without a start.
const IDLE: Duration = Duration::from_secs(60);

/// How many cells may wait to be waited for: each is a zombie and two descriptors.
const ENDED: usize = 64;

pub(crate) struct Shared {
    prepared: Prepared,
    /// What may not allow what the agent does, the caller's own filter first of all: the agent takes it on last.
    filters: Vec<Step>,
    /// Where the agents are.
    directory: PathBuf,
    /// The home directory that an image gives to its user.
    home: Option<OsString>,
    /// The process that has started what waits: not a fork of it.
    owner: u32,
    size: usize,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    parked: VecDeque<Parked>,
    /// Whose programs have ended, and who have not been waited for.
    ended: Vec<Cell>,
    /// How many are being built.
    building: usize,
    /// How many there should be: less than the size after a while without a start.
    wanted: usize,
    last: Instant,
    idle: Duration,
    closed: bool,
}

impl Shared {
    pub(super) fn new(prepared: &Prepared, size: usize) -> Result<Self> {
        if size == 0 {
            return Err(Error::invalid(Layer::Process, "pool", "a pool has at least one sandbox"));
        }
        let state = State {
            parked: VecDeque::new(),
            ended: Vec::new(),
            building: 0,
            wanted: size,
            last: Instant::now(),
            idle: IDLE,
            closed: false,
        };
        let sandbox = prepared.sandbox();
        let mut filters: Vec<Step> = limits::last(&sandbox.limits)?.into_iter().collect();
        sandbox.seccomp.as_ref().map_or(Ok(()), |named| named.lower(&mut filters))?;
        let (directory, home) = defaults(sandbox)?;
        let (state, changed, owner) = (Mutex::new(state), Condvar::new(), std::process::id());
        Ok(Self { prepared: prepared.clone(), filters, directory, home, owner, size, state, changed })
    }

    pub(super) fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn home(&self) -> Option<&OsStr> {
        self.home.as_deref()
    }

    /// Whether this process is the one that has made the pool.
    pub(super) fn is_own(&self) -> bool {
        self.owner == std::process::id()
    }

    pub(super) fn filters(&self) -> &[Step] {
        &self.filters
    }

    /// A sandbox that waits, if there is one. The oldest: it has had the time to settle.
    pub(super) fn take(&self) -> Option<Parked> {
        if !self.is_own() {
            return None;
        }
        let mut state = self.lock();
        state.last = Instant::now();
        state.wanted = self.size;
        state.parked.pop_front()
    }

    /// Has what is missing built.
    pub(super) fn has_taken(&self) {
        self.changed.notify_one();
    }

    /// Waits for the end of a cell later, unless there is nobody to do it.
    pub(crate) fn bury(&self, cell: Cell) {
        if !self.is_own() {
            return drop(cell);
        }
        let mut state = self.lock();
        if state.closed || state.ended.len() >= ENDED {
            drop(state);
            return drop(cell);
        }
        state.ended.push(cell);
        drop(state);
        self.changed.notify_one();
    }

    /// Waits for the cells whose programs have ended.
    fn clear(&self) {
        let ended = std::mem::take(&mut self.lock().ended);
        drop(ended);
    }

    /// Builds until there are as many as there should be.
    pub(super) fn fill(&self) -> Result<()> {
        if !self.is_own() {
            return Ok(());
        }
        self.clear();
        while let Some(building) = self.begin() {
            let built = Parked::build(&self.prepared)?;
            let mut state = self.lock();
            if state.closed {
                // Ended outside of the lock, as what else waits was.
                drop(state);
                return Ok(());
            }
            state.parked.push_back(built);
            drop(state);
            drop(building);
        }
        Ok(())
    }

    /// Begins to build one, if there should be more.
    fn begin(&self) -> Option<Building<'_>> {
        let mut state = self.lock();
        if state.closed || state.parked.len() + state.building >= state.wanted {
            return None;
        }
        state.building += 1;
        Some(Building(self))
    }

    pub(super) fn ready(&self) -> usize {
        if self.is_own() { self.lock().parked.len() } else { 0 }
    }

    pub(super) fn set_idle_timeout(&self, timeout: Duration) {
        self.lock().idle = timeout;
        self.changed.notify_one();
    }

    /// Ends what waits, and lets nothing be built any more.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let left = (std::mem::take(&mut state.parked), std::mem::take(&mut state.ended));
        drop(state);
        self.changed.notify_all();
        drop(left);
    }

    /// Waits until there is something to build; gives up what nobody has wanted for long. False at the end.
    fn wait(&self) -> bool {
        let mut state = self.lock();
        loop {
            if state.closed {
                return false;
            }
            if !state.ended.is_empty() || state.parked.len() + state.building < state.wanted {
                return true;
            }
            let unused = state.last.elapsed();
            if state.wanted > 1 && unused >= state.idle {
                state.wanted = 1;
                let kept = state.parked.len().min(1);
                let surplus = state.parked.split_off(kept);
                drop(state);
                drop(surplus);
                state = self.lock();
                continue;
            }
            let left = state.idle.saturating_sub(unused);
            state = match state.wanted > 1 {
                true => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                false => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Waits for the next start: what could not be built just now may be built then.
    fn wait_for_start(&self) {
        let state = self.lock();
        if !state.closed {
            drop(self.changed.wait_timeout(state, Duration::from_secs(1)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked; and if it did, the state would be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that is being built, until it is, or could not be.
struct Building<'a>(&'a Shared);

impl Drop for Building<'_> {
    fn drop(&mut self) {
        self.0.lock().building -= 1;
    }
}

/// Starts the thread that keeps a pool filled. No signal handler of the host's runs in it.
pub(super) fn keep_filled(shared: Arc<Shared>) -> Result<JoinHandle<()>> {
    let failed = |error: std::io::Error| {
        Error::os(Layer::Process, "start the pool's thread", error.raw_os_error().unwrap_or(libc::EAGAIN))
    };
    // A new thread has the mask of the one that starts it.
    let _blocked = BlockedSignals::new()?;
    let thread = std::thread::Builder::new().name("belljar-pool".to_owned()).spawn(move || {
        while shared.wait() {
            // A start that finds nothing builds its own, and tells what is wrong.
            if shared.fill().is_err() {
                shared.wait_for_start();
            }
        }
    });
    thread.map_err(failed)
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("size", &self.size).finish_non_exhaustive()
    }
}
