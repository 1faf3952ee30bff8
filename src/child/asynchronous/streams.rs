//! The host's ends of the pipes, for tasks.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;

/// The end of a pipe to a program's standard input: [`AsyncChild::stdin`](super::AsyncChild::stdin).
///
/// It implements tokio's `AsyncWrite`. Dropping it closes the pipe.
#[derive(Debug)]
pub struct AsyncChildStdin(pipe::Sender);

/// The end of a pipe from a program's standard output: [`AsyncChild::stdout`](super::AsyncChild::stdout).
///
/// It implements tokio's `AsyncRead`.
#[derive(Debug)]
pub struct AsyncChildStdout(pipe::Receiver);

/// The end of a pipe from a program's standard error: [`AsyncChild::stderr`](super::AsyncChild::stderr).
///
/// It implements tokio's `AsyncRead`.
#[derive(Debug)]
pub struct AsyncChildStderr(pipe::Receiver);

impl AsyncChildStdin {
    /// The two ends of a pipe are two descriptions: the program's own is not changed by `O_NONBLOCK` on this one.
    pub(super) fn new(stdin: ChildStdin) -> io::Result<Self> {
        pipe::Sender::from_owned_fd(stdin.into()).map(Self)
    }

    /// Makes it a descriptor that blocks, to give to another program for example.
    ///
    /// # Errors
    ///
    /// None is known: it is fcntl(2) that could fail.
    pub fn into_owned_fd(self) -> io::Result<OwnedFd> {
        self.0.into_blocking_fd()
    }
}

impl AsyncChildStdout {
    pub(super) fn new(stdout: ChildStdout) -> io::Result<Self> {
        pipe::Receiver::from_owned_fd(stdout.into()).map(Self)
    }

    pub(super) fn into_nonblocking_fd(self) -> io::Result<OwnedFd> {
        self.0.into_nonblocking_fd()
    }

    /// Makes it a descriptor that blocks, to give to another program for example.
    ///
    /// # Errors
    ///
    /// None is known: it is fcntl(2) that could fail.
    pub fn into_owned_fd(self) -> io::Result<OwnedFd> {
        self.0.into_blocking_fd()
    }
}

impl AsyncChildStderr {
    pub(super) fn new(stderr: ChildStderr) -> io::Result<Self> {
        pipe::Receiver::from_owned_fd(stderr.into()).map(Self)
    }

    pub(super) fn into_nonblocking_fd(self) -> io::Result<OwnedFd> {
        self.0.into_nonblocking_fd()
    }

    /// Makes it a descriptor that blocks, to give to another program for example.
    ///
    /// # Errors
    ///
    /// None is known: it is fcntl(2) that could fail.
    pub fn into_owned_fd(self) -> io::Result<OwnedFd> {
        self.0.into_blocking_fd()
    }
}

impl AsyncWrite for AsyncChildStdin {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

impl AsyncRead for AsyncChildStdout {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncRead for AsyncChildStderr {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsFd for AsyncChildStdin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for AsyncChildStdout {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for AsyncChildStderr {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
