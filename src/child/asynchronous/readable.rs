//! Waiting in a task until a descriptor can be read.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::task::Poll;
use std::time::Duration;

use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

use crate::error::{Error, Layer, Result};

/// Waits until one of the descriptors can be read or is at its end, or the time is over. It may return too early.
///
/// They are registered anew each time, for the kernel then tells at once what is ready already: no edge can be missed, and
/// any runtime will do.
pub(super) async fn readable(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> Result<()> {
    in_runtime("wait")?;
    wait(fds, timeout).await.map_err(|error| super::failed("wait", &error))
}

async fn wait(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    // The runtime's own timers may be off; the kernel's are not.
    let timer = timeout.map(timer).transpose()?;
    let fds = fds.iter().copied().chain(timer.as_ref().map(AsFd::as_fd));
    let fds = fds.map(register).collect::<io::Result<Vec<_>>>()?;
    poll_fn(|context| {
        let mut ready = fds.iter().map(|fd| fd.poll_read_ready(context));
        ready.find(Poll::is_ready).map_or(Poll::Pending, |ready| ready.map_ok(drop))
    })
    .await
}

// `register` is newer than the tokio that is asked for, and unsafe for types that may close their descriptor too early.
#[allow(deprecated)]
fn register(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

fn timer(timeout: Duration) -> io::Result<TimerFd> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
    // 0 would mean that it is off (timerfd_create(2)); and nobody waits for a century.
    let timeout = timeout.clamp(Duration::from_nanos(1), Duration::from_secs(1 << 31));
    timer.set(Expiration::OneShot(timeout.into()), TimerSetTimeFlags::empty())?;
    Ok(timer)
}

/// Tokio itself would panic.
pub(crate) fn in_runtime(step: &str) -> Result<()> {
    match Handle::try_current() {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::invalid(Layer::Process, step, "there is no tokio runtime here")),
    }
}
