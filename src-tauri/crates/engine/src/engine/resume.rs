//! The machine's sleep, as seen after it.

use tokio::sync::mpsc;

use crate::reducer::Input;

/// Sends [`Input::Resumed`] whenever the wall clock has jumped against the time that the machine was awake: after a sleep,
/// and when the clock was set. Without such a signal, a lost cluster would be noticed by time alone.
#[cfg(target_os = "linux")]
pub(super) fn watch(inputs: mpsc::Sender<Input>) {
    use std::{io, os::fd::AsFd};

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::net::unix::pipe;

    /// A timer that never goes off, and is cancelled by a jump (`timerfd_create(2)`).
    fn arm(timer: impl AsFd) -> io::Result<()> {
        let never = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec {
                tv_sec: i64::from(u32::MAX) * 2,
                tv_nsec: 0,
            },
        };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(timer, flags, &never)?;
        Ok(())
    }

    let open = || -> io::Result<pipe::Receiver> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
        arm(&timer)?;
        // The one safe way to have the runtime wait for a descriptor that can be read from.
        pipe::Receiver::from_owned_fd_unchecked(timer)
    };
    let timer = match open() {
        Ok(timer) => timer,
        Err(error) => {
            tracing::warn!(%error, "a sleep of the machine can't be noticed at its end");
            return;
        }
    };
    tokio::spawn(async move {
        loop {
            tokio::select! {
                ready = timer.readable() => if ready.is_err() {
                    return;
                },
                () = inputs.closed() => return,
            }
            // It is cancelled, which is an error, or it goes off in some centuries.
            match timer.try_read(&mut [0; 8]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                _ => {}
            }
            if arm(&timer).is_err() || inputs.send(Input::Resumed).await.is_err() {
                return;
            }
        }
    });
}

/// Time alone tells.
#[cfg(not(target_os = "linux"))]
pub(super) fn watch(_inputs: mpsc::Sender<Input>) {}
