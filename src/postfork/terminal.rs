//! The steps that give the program a terminal of its own.

use std::os::fd::{AsFd, BorrowedFd};

use super::{Done, State, on};
use crate::plan::{Fault, Operand};
use crate::sys::{self, Errno, Fd};

/// The two ends of a terminal.
pub(super) struct Pty {
    master: Fd,
    terminal: Fd,
}

impl State<'_> {
    pub(super) fn open_pty(&mut self, rows: u16, columns: u16, owner: u32) -> Done {
        let master = on(Operand::Target, sys::open_master(crate::plan::PTMX))?;
        // Whatever the caller has put there may be something else.
        on(Operand::Target, sys::terminal_number(master.as_fd()))?;
        sys::unlock_terminal(master.as_fd())?;
        sys::set_terminal_size(master.as_fd(), rows, columns)?;
        let terminal = sys::open_terminal(master.as_fd())?;
        // The program may have another id than who opens it, and wants to open it by its name. The group stays.
        sys::fchown(terminal.as_fd(), owner, u32::MAX)?;
        // A host that has closed its standard streams gets new descriptors there, where others are put.
        let terminal = sys::duplicate_above(terminal.as_fd(), 3)?;
        self.pty = Some(Pty { master, terminal });
        Ok(())
    }

    pub(super) fn take_terminal(&self) -> Done {
        Ok(sys::take_terminal(self.terminal()?)?)
    }

    /// Before anything of the sandbox's runs: nobody inside can hand something else over.
    pub(super) fn hand_pty_over(&self) -> Done {
        let pty = self.pty.as_ref().ok_or(Errno(libc::EBADF))?;
        Ok(sys::send_fd(sys::borrow(self.context.handover), pty.master.as_fd())?)
    }

    pub(super) fn install_pty(&self, fd: i32) -> Done {
        Ok(sys::dup_to(self.terminal()?, fd)?)
    }

    fn terminal(&self) -> Result<BorrowedFd<'_>, Fault> {
        Ok(self.pty.as_ref().ok_or(Errno(libc::EBADF))?.terminal.as_fd())
    }
}
