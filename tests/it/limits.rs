//! The limits of each process, and what of [`Limits`] no host could carry out.

use std::time::Duration;

use belljar::{Cause, ErrorKind, IdMap, IoMax, Layer, Limits, Namespaces, Resource, Sandbox, UsageSource};

use crate::for_root;
use crate::harness::{compile_static, host, is_root, sh, with_program};

const SECOND: Duration = Duration::from_secs(1);

/// Starts nothing: the limit is refused before.
fn refused(limits: Limits) -> belljar::Error {
    let error = Sandbox::new().limits(limits).command("/missing").spawn().unwrap_err();
    assert_eq!((error.layer(), error.kind()), (Layer::Limits, ErrorKind::InvalidPolicy), "{error}");
    error
}

#[test]
fn what_means_nothing_is_refused_by_name() {
    let new = Limits::new;
    let device = || IoMax::new("/dev/sda");
    for (name, limits) in [
        ("memory", new().memory(0)),
        ("memory", new().memory(u64::MAX)),
        ("memory_high", new().memory(1 << 20).memory_high(2 << 20)),
        ("swap", new().swap(1 << 63)),
        ("pids", new().pids(0)),
        ("cpu_time", new().cpu_time(Duration::ZERO)),
        ("wall_time", new().wall_time(Duration::ZERO)),
        ("wall_time", new().wall_time(Duration::MAX)),
        ("term_grace", new().term_grace(SECOND)),
        ("open_files", new().open_files(0)),
        ("file_size", new().file_size(0)),
        ("output", new().output(0)),
        ("tmp_size", new().tmp_size(0)),
        ("tmp_size", new().tmp_size(1 << 63)),
        ("cpu_max", new().cpu_max(Duration::ZERO, SECOND)),
        ("cpu_max", new().cpu_max(SECOND, 2 * SECOND)),
        ("io_weight", new().io_weight(0)),
        ("io_weight", new().io_weight(10_001)),
        ("io_max", new().io_max(device())),
        ("io_max", new().io_max(device().read_bytes(0))),
        ("io_max", new().io_max(device().read_bytes(1)).io_max(device().read_bytes(2))),
    ] {
        assert_eq!(refused(limits).step(), name);
    }
}

#[test]
fn rlimits_that_contradict_each_other_or_the_host_are_refused() {
    let error = refused(Limits::new().rlimit(Resource::StackSize, 2, 1));
    assert_eq!((error.step(), error.raw_os_error()), ("rlimit STACK 2:1", Some(libc::EINVAL)));
    let twice = Limits::new().rlimit(Resource::DataSize, 1, 1).rlimit(Resource::DataSize, 2, 2);
    assert!(refused(twice).to_string().contains("the policy also has rlimit DATA 1:1"));
    assert_eq!(refused(Limits::new().open_files(5).rlimit(Resource::OpenFiles, 6, 6)).step(), "rlimit NOFILE 6:6");
    let mut own = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: The kernel writes one `struct rlimit`.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut own) }, 0);
    let error = refused(Limits::new().open_files(own.rlim_max + 1));
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    assert!(error.hint().unwrap().contains("RLIMIT_NOFILE"), "{error:?}");
}

#[test]
fn each_process_has_the_limits_that_are_set_and_can_only_lower_them() {
    let limits = Limits::new()
        .open_files(64)
        .file_size(1 << 20)
        .cpu_time(Duration::from_millis(59_500))
        .rlimit(Resource::AddressSpace, 1 << 30, 2 << 30)
        .tmp_size(3 << 20);
    let sandbox = host().limits(limits);
    let text = sh(&sandbox, "cat /proc/self/limits");
    let has = |name: &str, soft: &str, hard: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        let words: Vec<_> = line[name.len()..].split_whitespace().collect();
        assert_eq!((words[0], words[1]), (soft, hard), "{line}");
    };
    has("Max open files", "64", "64");
    has("Max file size", "1048576", "1048576");
    has("Max cpu time", "60", "61");
    has("Max address space", "1073741824", "2147483648");
    let script =
        "ulimit -Hn 65 2>/dev/null && echo raised; dd if=/dev/zero of=/tmp/f bs=1M count=2 2>/dev/null || echo big";
    assert_eq!(sh(&sandbox, script), "big\n");
    assert_eq!(sh(&sandbox, "df --output=size -B1 /tmp | tail -1").trim(), (3 << 20).to_string());
}

/// A program that makes as many processes as it can, and says how many.
fn bomb() -> std::path::PathBuf {
    compile_static(
        "bomb",
        r#"
        #include <stdio.h>
        #include <time.h>
        #include <unistd.h>
        int main(void) {
            /* The processes that have started this one may be counted for a moment. */
            usleep(200000);
            int made = 0;
            for (int i = 0; i < 200; i++) { pid_t pid = fork(); if (pid == 0) for (;;) pause(); made += pid > 0; }
            printf("%d\n", made);
            return 0;
        }
        "#,
    )
}

fn made(sandbox: &Sandbox) -> String {
    let output = sandbox.command("/program").output().unwrap();
    assert!(output.outcome.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn processes_are_counted_for_a_user_and_for_a_root_that_is_another_outside() {
    let sandbox = with_program(&bomb());
    // The control: this many are possible.
    assert_eq!(made(&sandbox), "200");
    let limited = sandbox.limits(Limits::new().pids(9));
    let limited = match is_root() {
        true => limited.uid_map(IdMap::new(0, 70_000, 1)).gid_map(IdMap::new(0, 70_000, 1)),
        false => limited,
    };
    // Others of the same user, outside and in other sandboxes, do not count.
    let other = limited.command("/program").stdout(belljar::Stdio::null()).spawn().unwrap();
    assert_eq!(made(&limited), "8", "and the program itself");
    drop(other);
    let single = limited.namespaces(Namespaces::default() - Namespaces::PID);
    assert_eq!(made(&single), "8");
}

#[test]
fn what_does_not_bind_root_is_refused() {
    for_root!();
    let limits = || Limits::new().pids(9);
    let mut refused = vec![Sandbox::new().limits(Limits::new().rlimit(Resource::Processes, 9, 9))];
    // Where the host has the pids controller in version 2, and root's own group gives it, that binds.
    let plan = Sandbox::new().limits(limits()).command("/x").plan();
    if plan.is_err() {
        refused.push(Sandbox::new().limits(limits()));
        refused.push(Sandbox::new().namespaces(Namespaces::default() - Namespaces::USER).limits(limits()));
    }
    for sandbox in refused {
        let error = sandbox.command("/missing").spawn().unwrap_err();
        assert_eq!((error.layer(), error.kind()), (Layer::Limits, ErrorKind::Unsupported), "{error}");
        assert!(error.hint().unwrap().contains("Sandbox::cgroup"), "{error:?}");
    }
}

#[test]
fn limits_of_a_group_without_one_are_refused_and_say_what_helps() {
    let minute = Duration::from_secs(60);
    for (what, limits) in [
        ("memory.max", Limits::new().memory(64 << 20)),
        ("memory.high", Limits::new().memory_high(64 << 20)),
        ("memory.swap.max", Limits::new().swap(0)),
        ("cpu.max", Limits::new().cpu_max(SECOND / 20, SECOND / 10)),
        ("io.weight", Limits::new().io_weight(50)),
    ] {
        let Err(error) = Sandbox::new().limits(limits.wall_time(minute)).command("/x").plan() else {
            // This host gives it: the tests of cgroups say whether it holds.
            continue;
        };
        assert_eq!((error.layer(), error.kind()), (Layer::Limits, ErrorKind::Unsupported), "{what}: {error}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("systemd-run --user --scope -p Delegate=yes"), "{hint}");
    }
}

#[test]
fn a_process_that_has_used_its_time_is_told_from_one_that_was_killed() {
    let program = compile_static(
        "spinner",
        r#"
        #include <signal.h>
        #include <sys/wait.h>
        #include <time.h>
        #include <unistd.h>
        static void work(double seconds) { while (clock() < seconds * CLOCKS_PER_SEC) ; }
        int main(int argc, char **argv) {
            signal(SIGXCPU, SIG_IGN);
            if (argc > 1) {
                /* Children use more than the limit together, and then it kills itself. */
                for (int i = 0; i < 3; i++) { if (fork() == 0) { work(0.5); _exit(0); } wait(0); }
                kill(getpid(), SIGKILL);
            }
            for (;;) ;
        }
        "#,
    );
    let sandbox = with_program(&program).limits(Limits::new().cpu_time(Duration::from_millis(900)));
    let outcome = sandbox.command("/program").status().unwrap();
    // It ignores SIGXCPU.
    assert_eq!((outcome.cause(), outcome.signal()), (Cause::CpuTime, Some(libc::SIGKILL)));
    let used = outcome.usage().user_time() + outcome.usage().system_time();
    assert!(used >= Duration::from_millis(450) && used < 3 * SECOND, "{used:?}");
    let outcome = sandbox.command("/program").arg("children").status().unwrap();
    match outcome.usage().time_source() {
        UsageSource::Cgroup => assert_eq!(outcome.cause(), Cause::CpuTime),
        _ => assert_eq!(outcome.cause(), Cause::Signaled),
    }
}

#[test]
fn a_signal_that_a_program_sends_itself_is_no_limit() {
    let limits = Limits::new().cpu_time(Duration::from_secs(3600));
    let outcome = host().limits(limits).command("sh").args(["-c", "kill -XCPU $$"]).status().unwrap();
    assert_eq!((outcome.cause(), outcome.signal()), (Cause::Signaled, Some(libc::SIGXCPU)));
}

#[test]
fn a_pool_holds_its_programs_to_all_of_them() {
    let limits = Limits::new().open_files(5).file_size(1 << 20);
    let pool = host().limits(limits).prepare().unwrap().pool(1).unwrap();
    let output = pool.command("cat").arg("/proc/self/limits").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some("5"), "{line}");
}

#[test]
fn the_report_tells_by_what_each_limit_is_held() {
    let limits = Limits::new().wall_time(60 * SECOND).cpu_time(60 * SECOND);
    let child = host().limits(limits).command("true").spawn().unwrap();
    let how = child.report().layer(Layer::Limits).unwrap().how().unwrap().to_owned();
    assert!(how.contains("wall_time: timer") && how.contains("cpu_time: "), "{how}");
    assert!(child.report().to_string().contains(&how), "{}", child.report());
}

#[test]
fn a_plan_tells_the_limits_before_there_is_a_process() {
    let limits = Limits::new().wall_time(SECOND).term_grace(2 * SECOND).open_files(7);
    let text = host().limits(limits).command("true").plan().unwrap().to_string();
    assert!(text.starts_with("host:\n  limits        wall_time 1s, then SIGTERM and 2s\n"), "{text}");
    assert!(text.contains("  limits        rlimit NOFILE 7:7\n"), "{text}");
}
