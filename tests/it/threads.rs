//! Many threads: spawns at once, beside allocating threads, and beside plain commands.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;

use belljar::{Sandbox, Stdio};

use crate::alone::{Until, alone};
use crate::harness::{children, compile_static, host, noop, open_fds, with_program};

#[test]
fn threads_that_start_at_once_get_each_its_own_result() {
    const THREADS: i32 = 8;
    let barrier = Barrier::new(THREADS as usize);
    let sandbox = host();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (barrier, sandbox) = (&barrier, &sandbox);
            scope.spawn(move || {
                barrier.wait();
                for turn in 0..10 {
                    let code = thread * 10 + turn;
                    let script = format!("read line; echo $line; echo {code} >&2; exit {code}");
                    let mut command = sandbox.command("sh");
                    command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
                    let mut child = command.spawn().unwrap();
                    std::io::Write::write_all(child.stdin.as_mut().unwrap(), format!("in {code}\n").as_bytes())
                        .unwrap();
                    let output = child.wait_with_output().unwrap();
                    assert_eq!(output.outcome.code(), Some(code));
                    assert_eq!(output.stdout, format!("in {code}\n").as_bytes());
                    assert_eq!(output.stderr, format!("{code}\n").as_bytes());
                }
            });
        }
    });
}

#[test]
fn a_thread_pool_spawns_what_another_thread_waits_for() {
    let (jobs, queue) = mpsc::channel::<i32>();
    let queue = std::sync::Mutex::new(queue);
    let (done, results) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..4 {
            let (queue, done, sandbox) = (&queue, done.clone(), host());
            scope.spawn(move || {
                loop {
                    let job = queue.lock().unwrap().recv();
                    let Ok(code) = job else { break };
                    done.send((code, sandbox.command("sh").args(["-c", &format!("exit {code}")]).spawn().unwrap()))
                        .unwrap();
                }
            });
        }
        (0..60).for_each(|code| jobs.send(code).unwrap());
        drop((jobs, done));
        let codes: BTreeSet<i32> = results
            .iter()
            .map(|(code, mut child)| {
                assert_eq!(child.wait().unwrap().code(), Some(code));
                code
            })
            .collect();
        assert_eq!(codes.len(), 60);
    });
}

#[test]
fn spawns_stand_beside_threads_that_allocate_all_the_time() {
    let stop = AtomicBool::new(false);
    let program = noop();
    let missing = Sandbox::new();
    thread::scope(|scope| {
        let _until = Until(&stop);
        for seed in 1..=4_usize {
            let stop = &stop;
            scope.spawn(move || {
                let mut kept = Vec::new();
                let mut size = seed;
                while !stop.load(Ordering::Relaxed) {
                    size = (size * 1_103_515_245 + 12_345) % 300_000;
                    kept.push(std::hint::black_box(vec![seed as u8; size]));
                    if kept.len() > 20 {
                        assert!(kept.iter().flatten().all(|byte| *byte == seed as u8), "somebody has written here");
                        kept.clear();
                    }
                }
            });
        }
        for turn in 0..300 {
            if turn % 5 == 0 {
                missing.command("/missing").spawn().unwrap_err();
            }
            assert!(with_program(&program).command("/program").status().unwrap().success());
        }
    });
}

#[test]
fn plain_commands_that_start_at_the_same_time_inherit_nothing() {
    alone("threads::plain_commands_that_start_at_the_same_time_inherit_nothing", || {
        let stop = AtomicBool::new(false);
        let before = open_fds();
        let program = noop();
        // Static: a loader would open files of its own.
        let source = "#include <unistd.h>\nint main(void) { write(1, \"!\", 1); for (;;) pause(); }";
        let sleeper = compile_static("sleeper", source);
        let alone = inherited(&sleeper, true);
        thread::scope(|scope| {
            let _until = Until(&stop);
            for _ in 0..4 {
                let (stop, program) = (&stop, &program);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let mut command = with_program(program).command("/program");
                        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
                        assert!(command.spawn().unwrap().wait_with_output().unwrap().outcome.success());
                    }
                });
            }
            for turn in 0..200 {
                assert_eq!(inherited(&sleeper, turn % 2 == 0), alone);
            }
        });
        assert_eq!(open_fds(), before);
        assert_eq!(children(), Vec::<String>::new());
    });
}

/// The descriptors of a plain command of std, which forks or calls posix_spawn.
fn inherited(program: &Path, forks: bool) -> BTreeSet<String> {
    let mut command = std::process::Command::new(program);
    if forks {
        // SAFETY: The closure does nothing.
        unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, || Ok(())) };
    }
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    // The parent of a vfork goes on before the exec has closed what it closes: until it runs, it proves nothing.
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let fds = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
    let fds = fds.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    fds
}
