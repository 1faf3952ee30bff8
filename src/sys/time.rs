//! Clocks and timers.

use core::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::{Fd, Result, call, raw};

/// A point in time of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Duration);

impl Moment {
    /// clock_gettime(2): now.
    pub(crate) fn now() -> Result<Self> {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let args = [libc::CLOCK_MONOTONIC as usize, &raw mut now as usize];
        // SAFETY: The kernel writes one `struct timespec`.
        unsafe { call(libc::SYS_clock_gettime, args) }?;
        Ok(Self(Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)))
    }

    pub(super) fn timespec(self) -> libc::timespec {
        timespec(self.0)
    }

    /// None is further ahead than the kernel can count.
    pub(crate) fn after(self, time: Duration) -> Option<Self> {
        self.0.checked_add(time).filter(|moment| i64::try_from(moment.as_nanos()).is_ok()).map(Self)
    }
}

fn timespec(time: Duration) -> libc::timespec {
    libc::timespec { tv_sec: time.as_secs() as libc::time_t, tv_nsec: time.subsec_nanos().into() }
}

/// timerfd_create(2): a timer of `CLOCK_MONOTONIC` that is not armed.
pub(crate) fn timer() -> Result<Fd> {
    let args = [libc::CLOCK_MONOTONIC as usize, (libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) as usize];
    // SAFETY: No pointers.
    unsafe { call(libc::SYS_timerfd_create, args) }.map(Fd::new)
}

/// timerfd_settime(2): it expires at `moment`, and then after each `interval`, if that is not zero.
pub(crate) fn arm(timer: BorrowedFd<'_>, moment: Moment, interval: Duration) -> Result<()> {
    let times = libc::itimerspec { it_interval: timespec(interval), it_value: timespec(moment.0) };
    let args = [raw(timer), libc::TFD_TIMER_ABSTIME as usize, &raw const times as usize, 0];
    // SAFETY: The kernel reads one `struct itimerspec`, which outlives the call.
    unsafe { call(libc::SYS_timerfd_settime, args) }.map(drop)
}

/// timer_create(2) and timer_settime(2): has the kernel kill this process at `moment`, unless it has executed a program by
/// then.
pub(crate) fn die_at(moment: Moment) -> Result<()> {
    let event = MaybeUninit::<libc::sigevent>::zeroed();
    // SAFETY: All zeroes is a value of this plain structure.
    let mut event = unsafe { event.assume_init() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = libc::SIGKILL;
    let mut timer: libc::c_int = 0;
    let args = [libc::CLOCK_MONOTONIC as usize, &raw const event as usize, &raw mut timer as usize];
    // SAFETY: The kernel reads one `struct sigevent` and writes the timer's number, an int.
    unsafe { call(libc::SYS_timer_create, args) }?;
    let times = libc::itimerspec { it_interval: timespec(Duration::ZERO), it_value: timespec(moment.0) };
    let args = [timer as usize, libc::TIMER_ABSTIME as usize, &raw const times as usize, 0];
    // SAFETY: The kernel reads one `struct itimerspec`, which outlives the call.
    unsafe { call(libc::SYS_timer_settime, args) }.map(drop)
}
