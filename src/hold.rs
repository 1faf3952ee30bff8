//! Holding a program back until the host has done something about it.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};

use crate::error::{Error, ErrorKind, Layer, Result};
use crate::plan::{Hook, Plan};
use crate::spawn::above_streams;
use crate::sys::{self, Errno};

impl Hook {
    pub(crate) fn new(hook: impl Fn(u32) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    /// Has `start` carry out the plan, and runs the hook meanwhile: the thread that starts a program waits for its exec.
    pub(crate) fn around<T>(&self, mut plan: Plan, start: impl FnOnce(&Plan) -> Result<T>) -> Result<T> {
        let os = |error: io::Error| Error::os(Layer::Process, "hold", error.raw_os_error().unwrap_or(libc::EIO));
        let (inner, outer) = UnixStream::pair().map_err(os)?;
        setsockopt(&outer, sockopt::PassCred, &true).map_err(|errno| os(errno.into()))?;
        plan.hold(Arc::new(above_streams(inner.into())?));
        let (started, hooked) = std::thread::scope(|scope| {
            let hooked = std::thread::Builder::new().spawn_scoped(scope, || self.run(&Outer(outer))).map_err(os)?;
            let started = start(&plan);
            // The last end but the child's: if that has ended, the other thread is told.
            drop(plan);
            Ok((started, hooked.join()))
        })?;
        match hooked {
            Ok(Err(error)) => Err(failed(Layer::Process, "hold", &error)),
            Ok(Ok(())) => started,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Waits for the program to come to its step, and lets it go on after the hook.
    fn run(&self, Outer(socket): &Outer) -> io::Result<()> {
        let mut space = nix::cmsg_space!(nix::libc::ucred);
        let mut byte = [0];
        let mut data = [io::IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = loop {
            match recvmsg::<()>(socket.as_raw_fd(), &mut data, Some(&mut space), flags) {
                Err(nix::Error::EINTR) => {}
                result => break result?,
            }
        };
        if message.bytes == 0 {
            // What has failed before, `start` tells.
            return Ok(());
        }
        // The kernel tells the id as it is in the namespace of the reader: unix(7).
        let pid = message.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmCredentials(credentials) => u32::try_from(credentials.pid()).ok(),
            _ => None,
        });
        (self.0)(pid.ok_or(io::ErrorKind::InvalidData)?)?;
        match sys::send(socket.as_fd(), b".") {
            // The process has ended meanwhile: why, `start` tells.
            Ok(()) | Err(Errno(nix::libc::EPIPE | nix::libc::ECONNRESET)) => Ok(()),
            Err(Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// What the caller's own function has failed with.
pub(crate) fn failed(layer: Layer, step: &str, error: &io::Error) -> Error {
    let errno = error.raw_os_error().unwrap_or(libc::ECANCELED);
    Error::new(layer, ErrorKind::Os, step, error.to_string()).with_errno(errno)
}

/// The host's end, of which the child has a copy: so to close it tells nothing, and it is shut down, after a panic too.
struct Outer(UnixStream);

impl Drop for Outer {
    fn drop(&mut self) {
        // What has been written before can still be read.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
