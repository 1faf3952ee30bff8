//! How the process that keeps a cell alive becomes init, and how the program knows that it has.

use core::sync::atomic::Ordering::Relaxed;
use std::os::fd::AsFd;

use super::{Bounds, Done, State};
use crate::plan::Lack;
use crate::sys::{self, CStringArray, Errno, Fd};

impl State<'_> {
    /// Lets init send signals to programs whose ids are not its own; goes on without where the caller may not.
    fn keep_for_init(&self, kept: u64) -> sys::Result<u64> {
        const SET_BITS: u64 = 1 << 8; // CAP_SETPCAP
        if kept == 0 {
            return Ok(0);
        }
        match sys::set_capabilities(kept | SET_BITS).and_then(|()| sys::raise_ambient_set(kept)) {
            Ok(()) => Ok(kept),
            Err(Errno(libc::EPERM)) => {
                self.reports.lacks.fetch_or(Lack::SignalAll.bit(), Relaxed);
                Ok(0)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Sends the program a pipe whose end is reached when the returned descriptor is closed: exec does that once the memory is
    /// another, and wakes those who wait for the old one before that.
    fn show_exec(&self) -> sys::Result<Fd> {
        let (reader, writer) = sys::pipe()?;
        sys::send_fd(sys::borrow(self.context.lifeline), reader.as_fd())?;
        Ok(writer)
    }

    pub(super) fn exec_init(
        &self,
        mode: u32,
        kept: u64,
        securebits: u64,
        argv: &CStringArray,
        envp: &CStringArray,
    ) -> Done {
        // Dispositions other than "ignore" do not survive the exec, and the mask stays full: init needs no signal.
        sys::ignore_children()?;
        // By the exec, or by the end of this process, which has told its fault by then: never by a return.
        let _closed_by_exec = core::mem::ManuallyDrop::new(self.show_exec()?);
        sys::dup_to(sys::borrow(self.context.lifeline), 0)?;
        sys::close_on_exec(1)?;
        if let Some(kept) = &self.kept {
            // The lock goes with the last copy of this descriptor: it holds as long as init does.
            sys::dup_to(kept.as_fd(), 1)?;
        }
        // In this order: what comes later has a higher number already.
        let Bounds { timer, cgroup, .. } = self.context.bounds;
        timer.map_or(Ok(()), |timer| sys::dup_to(sys::borrow(timer), 2))?;
        // So does the lock of the sandbox's cgroup.
        cgroup.map_or(Ok(()), |cgroup| sys::dup_to(sys::borrow(cgroup), 3))?;
        let init = sys::executable(self.context.init, mode)?;
        // Init keeps at most the one to send signals, and being root inside gives it none at the exec. Without others it
        // can't read a file of mode 0111, which makes it not dumpable.
        let kept = self.keep_for_init(kept)?;
        sys::set_securebits(securebits)?;
        sys::set_capabilities(kept)?;
        Err(sys::fexecve(init.as_fd(), argv, envp).into())
    }

    /// Without a root of its own, nobody goes on: init tells why, and all in its namespace end with it.
    pub(super) fn await_init(&self) -> Done {
        let report = &self.reports.init;
        let exec = sys::receive_fd(sys::borrow(self.context.lifeline_host))?;
        sys::receive(exec.as_fd(), &mut [0])?;
        let init = self.plan.cell.as_ref().and_then(|cell| cell.init.as_ref());
        if !init.is_some_and(|init| report.executes(init)) {
            sys::exit(127);
        }
        Ok(())
    }
}
