//! What is told of a command in a sandbox in use that was ended together with it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use belljar::{Cause, Child, Command, Error, Limits, Outcome, Sandbox, Stdio};

use crate::alone::alone;
use crate::harness::host;

fn wait_for_input(mut command: Command) -> Result<Child, Error> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()
}

type Start = fn(&Sandbox) -> Result<Child, Error>;

/// What waits until a signal ends it, and is not ended by SIGTERM.
const STUBBORN: &str = "trap '' TERM; while :; do sleep 1000; done";

fn enter(child: &Child, script: &str) -> Result<Child, Error> {
    child.command("sh").args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

/// Starts in each way that there is: by itself, prepared, and from a pool.
fn starts(sandbox: &Sandbox) -> [Child; 3] {
    let prepared = sandbox.prepare().unwrap();
    let pool = prepared.pool_by_hand(1).unwrap();
    [sandbox.command("cat"), prepared.command("cat"), pool.command("cat")]
        .map(|command| wait_for_input(command).unwrap())
}

/// A sandbox of that little time with commands in it. On a slow machine that takes more time to make.
fn entered(start: Start, grace: Option<Duration>, scripts: &[&str]) -> (Child, Vec<Child>) {
    let limits = Limits::new();
    let limits = grace.into_iter().fold(limits, Limits::term_grace);
    let times = [Duration::from_millis(400), Duration::from_secs(4), Duration::from_secs(40)];
    let made = times.into_iter().find_map(|time| {
        let started = Instant::now();
        let child = start(&host().limits(limits.clone().wall_time(time))).ok()?;
        let commands = scripts.iter().map(|script| enter(&child, script)).collect::<Result<Vec<_>, _>>().ok()?;
        (started.elapsed() < time / 2).then_some((child, commands))
    });
    made.expect("it can be entered in time")
}

#[test]
fn a_command_whose_sandbox_has_run_out_of_time_says_so_whoever_is_asked_first() {
    alone("fate::a_command_whose_sandbox_has_run_out_of_time_says_so_whoever_is_asked_first", || {
        let ways: [Start; 3] = [
            |sandbox| wait_for_input(sandbox.command("cat")),
            |sandbox| wait_for_input(sandbox.prepare().unwrap().command("cat")),
            |sandbox| wait_for_input(sandbox.prepare().unwrap().pool_by_hand(1).unwrap().command("cat")),
        ];
        for (start, grace) in ways.into_iter().flat_map(|way| [(way, None), (way, Some(Duration::from_millis(5)))]) {
            for order in 0..3 {
                let (mut child, mut commands) = entered(start, grace, &["exec sleep 1000", STUBBORN]);
                let first = match order {
                    0 => Some(child.wait_with_open_input()),
                    1 => None,
                    _ => {
                        while child.try_wait().unwrap().is_none() {}
                        drop(child);
                        None
                    }
                };
                for command in &mut commands {
                    let outcome = command.wait().unwrap();
                    assert_eq!(outcome.cause(), Cause::TimedOut, "{order} {grace:?}: {outcome:?}");
                }
                if let Some(outcome) = first {
                    assert_eq!(outcome.cause(), Cause::TimedOut);
                }
            }
        }
    });
}

trait OpenInput {
    /// Waits without closing standard input, which would end the program.
    fn wait_with_open_input(&mut self) -> Outcome;
}

impl OpenInput for Child {
    fn wait_with_open_input(&mut self) -> Outcome {
        self.wait_timeout(Duration::MAX).unwrap().unwrap()
    }
}

#[test]
fn a_command_says_killed_if_the_sandbox_was_and_not_if_that_has_ended_by_itself() {
    alone("fate::a_command_says_killed_if_the_sandbox_was_and_not_if_that_has_ended_by_itself", || {
        let outcome = |command: &mut Child| {
            let outcome = command.wait().unwrap();
            assert_eq!(outcome.signal(), Some(libc::SIGKILL));
            outcome.cause()
        };
        for turn in 0..4 {
            for mut child in starts(&host().limits(Limits::new().wall_time(Duration::from_secs(1000)))) {
                let mut commands: Vec<Child> = (0..3).map(|_| enter(&child, STUBBORN).unwrap()).collect();
                // This one was ended before, as if by somebody inside: nothing that comes later is the reason.
                commands[0].signal(libc::SIGKILL).unwrap();
                while !has_ended(&commands[0]) {}
                let cause = match turn {
                    0 => {
                        child.kill().unwrap();
                        Cause::Killed
                    }
                    1 => {
                        drop(child);
                        Cause::Killed
                    }
                    2 => {
                        drop(child.stdin.take());
                        assert!(child.wait_with_open_input().success());
                        Cause::Signaled
                    }
                    _ => {
                        drop(child.stdin.take());
                        assert_eq!(outcome(&mut commands[2]), Cause::Signaled, "before the program is waited for");
                        Cause::Signaled
                    }
                };
                assert_eq!(outcome(&mut commands[0]), Cause::Signaled);
                assert_eq!(outcome(&mut commands[1]), cause, "{turn}");
                assert_eq!(outcome(&mut commands[2]), cause, "{turn}");
            }
        }
    });
}

fn has_ended(command: &Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", command.id())).unwrap();
    stat.rsplit(") ").next().unwrap().starts_with('Z')
}

#[test]
fn what_ended_a_command_first_is_what_is_told() {
    alone("fate::what_ended_a_command_first_is_what_is_told", || {
        for grace in [None, Some(Duration::from_millis(5))] {
            let start: Start = |sandbox| wait_for_input(sandbox.command("cat"));
            let scripts = ["exec sleep 1000", "exit 7", STUBBORN, "kill -TERM $$"];
            let (mut child, mut commands) = entered(start, grace, &scripts);
            // Its own kill, long before the time is up; and two that end by themselves.
            commands[0].kill().unwrap();
            assert_eq!(commands[3].wait().unwrap().cause(), Cause::Signaled);
            // Its time is up, and nobody has waited for the others.
            assert_eq!(child.wait_with_open_input().cause(), Cause::TimedOut);
            let causes: Vec<_> = commands.iter_mut().map(|command| command.wait().unwrap().cause()).collect();
            assert_eq!(causes, [Cause::Killed, Cause::Exited, Cause::TimedOut, Cause::Signaled]);
        }
        // A sandbox that has ended by itself before its time, and is asked afterwards.
        let time = Duration::from_secs(if std::env::var_os("BELLJAR_TEST_VM").is_some() { 20 } else { 3 });
        let started = Instant::now();
        let mut child = wait_for_input(host().limits(Limits::new().wall_time(time)).command("cat")).unwrap();
        let mut command = enter(&child, STUBBORN).unwrap();
        drop(child.stdin.take());
        while !has_ended(&command) {}
        assert!(started.elapsed() < time, "it takes less time");
        std::thread::sleep((time + Duration::from_millis(50)).saturating_sub(started.elapsed()));
        let outcome = command.wait().unwrap();
        assert_eq!((outcome.signal(), outcome.cause()), (Some(libc::SIGKILL), Cause::Signaled));
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn a_host_that_is_interrupted_is_told_the_same() {
    alone("fate::a_host_that_is_interrupted_is_told_the_same", || {
        use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
        extern "C" fn ignore(_: libc::c_int) {}
        let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
        // SAFETY: The handler does nothing.
        #[allow(unsafe_code)]
        unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
        let start: Start = |sandbox| wait_for_input(sandbox.command("cat"));
        let (mut child, mut commands) = entered(start, None, &[STUBBORN; 10]);
        let told = while_interrupted(|| {
            let told: Vec<_> = commands.iter_mut().map(|command| command.wait().unwrap().cause()).collect();
            (told, child.wait_with_open_input().cause())
        });
        assert_eq!(told, (vec![Cause::TimedOut; 10], Cause::TimedOut));
    });
}

/// Has another thread send this one signals, one after the other.
#[allow(unsafe_code)]
fn while_interrupted<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: The call has no precondition.
    let this = unsafe { libc::pthread_self() };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                // SAFETY: The thread runs: it joins this one later.
                unsafe { libc::pthread_kill(this, libc::SIGUSR1) };
            }
        });
        let result = body();
        done.store(true, Relaxed);
        result
    })
}
