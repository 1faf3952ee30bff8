//! The host's end of a program's terminal.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::error::{Error, Layer, Result};
use crate::layer::terminal::PtySize;
use crate::sys::{self, Errno};

/// The host's end of the terminal of a program that was started with [`Command::pty`](crate::Command::pty): what is
/// written to it is typed, and what is read from it was shown.
///
/// Reading ends when no process of the sandbox has the terminal open any more (where the kernel says `EIO`). Lines
/// end in `\r\n`, and what is typed is echoed, until the program sets the terminal otherwise: termios(3).
///
/// Dropping it hangs the terminal up: the program gets SIGHUP, which ends most.
///
/// It can be read and written by reference too, from several threads. It lends its descriptor ([`AsFd`]), to be polled
/// for example, and turns into an [`OwnedFd`].
#[derive(Debug)]
pub struct Pty {
    master: File,
}

impl Pty {
    /// Takes over what the set-up code of a sandbox has sent, if it is what it has to be.
    pub(crate) fn new(master: OwnedFd) -> Result<Self> {
        let failed = |Errno(errno)| Error::os(Layer::Fds, "receive pty", errno);
        sys::terminal_number(master.as_fd()).map_err(failed)?;
        Ok(Self { master: master.into() })
    }

    /// Sets the size. If it has changed, what runs in the terminal's foreground gets SIGWINCH.
    ///
    /// # Errors
    ///
    /// None is known.
    pub fn resize(&self, size: PtySize) -> Result<()> {
        let failed = |Errno(errno)| Error::os(Layer::Fds, format!("resize pty {}x{}", size.rows, size.columns), errno);
        sys::set_terminal_size(self.as_fd(), size.rows, size.columns).map_err(failed)
    }
}

impl Read for &Pty {
    /// Reads what was shown; 0 bytes when nobody has the terminal open.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match (&self.master).read(buffer) {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
            result => result,
        }
    }
}

impl Read for Pty {
    /// As for a reference.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }
}

impl Write for &Pty {
    /// Types.
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&self.master).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for Pty {
    /// As for a reference.
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&*self).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Pty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

impl AsRawFd for Pty {
    fn as_raw_fd(&self) -> RawFd {
        self.master.as_raw_fd()
    }
}

impl From<Pty> for OwnedFd {
    fn from(pty: Pty) -> OwnedFd {
        pty.master.into()
    }
}
