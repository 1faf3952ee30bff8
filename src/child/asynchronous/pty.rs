//! The host's end of a program's terminal, for tasks.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::child::Pty;
use crate::error::Result;
use crate::layer::terminal::PtySize;

/// The host's end of a program's terminal: [`AsyncChild::pty`](super::AsyncChild::pty). It does what [`Pty`] does.
///
/// It implements tokio's `AsyncRead` and `AsyncWrite`, also by reference, so that one task can read while another writes; of
/// several that read, or of several that write, one alone is woken. Flushing does nothing, nor does shutting down: an end
/// of file is typed, as the byte 4 (Ctrl-D). Dropping it hangs the terminal up.
///
/// # Examples
///
/// ```
/// use belljar::{PtySize, Rootfs, Sandbox};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
/// # runtime.block_on(async {
/// let mut command = Sandbox::new().rootfs(Rootfs::host()).command("sh");
/// let mut child = command.args(["-c", "read line; stty size"]).pty(PtySize::new(24, 80)).spawn_async()?;
/// let mut pty = child.pty.take().expect("it has one");
/// pty.resize(PtySize::new(50, 132))?;
/// pty.write_all(b"go\n").await?;
/// let mut shown = String::new();
/// pty.read_to_string(&mut shown).await?;
/// assert_eq!(shown, "go\r\n50 132\r\n");
/// assert!(child.wait().await?.success());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct AsyncPty(AsyncFd<Pty>);

impl AsyncPty {
    /// The program's own end is another open file: it is not changed by `O_NONBLOCK` on this one.
    pub(super) fn new(pty: Pty) -> io::Result<Self> {
        set_nonblocking(&pty, OFlag::O_NONBLOCK)?;
        register(pty).map(Self)
    }

    /// Sets the size, as [`Pty::resize`] does.
    ///
    /// # Errors
    ///
    /// As for [`Pty::resize`].
    pub fn resize(&self, size: PtySize) -> Result<()> {
        self.0.get_ref().resize(size)
    }

    /// Makes it a descriptor that blocks.
    ///
    /// # Errors
    ///
    /// None is known: it is fcntl(2) that could fail.
    pub fn into_owned_fd(self) -> io::Result<OwnedFd> {
        let pty = self.into_pty();
        set_nonblocking(&pty, OFlag::empty())?;
        Ok(pty.into())
    }

    /// As it is, without the runtime.
    pub(super) fn into_pty(self) -> Pty {
        self.0.into_inner()
    }
}

// `register` is newer than the tokio that is asked for, and unsafe for types that may close their descriptor too early.
#[allow(deprecated)]
fn register(pty: Pty) -> io::Result<AsyncFd<Pty>> {
    AsyncFd::new(pty)
}

fn set_nonblocking(pty: &Pty, nonblocking: OFlag) -> io::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(pty, FcntlArg::F_GETFL)?);
    fcntl(pty, FcntlArg::F_SETFL(flags.difference(OFlag::O_NONBLOCK).union(nonblocking)))?;
    Ok(())
}

impl AsyncRead for &AsyncPty {
    /// Reads what was shown; nothing when nobody has the terminal open.
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            if let Ok(result) = ready.try_io(|pty| pty.get_ref().read(unfilled)) {
                return Poll::Ready(result.map(|read| buffer.advance(read)));
            }
        }
    }
}

impl AsyncWrite for &AsyncPty {
    /// Types.
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(context))?;
            if let Ok(result) = ready.try_io(|pty| pty.get_ref().write(data)) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for AsyncPty {
    /// As for a reference.
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut &*self).poll_read(context, buffer)
    }
}

impl AsyncWrite for AsyncPty {
    /// As for a reference.
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut &*self).poll_write(context, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsFd for AsyncPty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
