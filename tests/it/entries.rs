//! Entries, a bare root, and what else of the host a program gets where the policy says so: each allowed and denied.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use belljar::{
    Capabilities, Entry, ErrorKind, Inherit, Landlock, Layer, Limits, Namespaces, Rootfs, Sandbox, Seccomp, Stdio,
    Tmpfs,
};

use crate::harness::{host, is_root, real, sh, temp_dir, token};
use crate::{for_root, skip};

/// The host's root, read-only, as a bare root; nothing of belljar's own.
fn bare() -> Sandbox {
    let sandbox = Sandbox::new().rootfs(Rootfs::bare()).landlock(Landlock::off()).seccomp(Seccomp::off());
    sandbox.entry(Entry::bind("/", "/").read_only())
}

/// The same with a shell's needs alone.
fn own_root() -> Sandbox {
    let sandbox = Sandbox::new().rootfs(Rootfs::bare());
    ["/usr", "/bin", "/lib", "/lib64"].into_iter().filter(|path| Path::new(path).exists()).fold(
        sandbox,
        |sandbox, path| match fs::read_link(path) {
            Ok(link) => sandbox.symlink(link, path),
            Err(_) => sandbox.bind_ro(path, path),
        },
    )
}

fn error(sandbox: &Sandbox) -> belljar::Error {
    sandbox.command("true").spawn().map(drop).unwrap_err()
}

#[test]
fn a_bare_root_holds_nothing_else_and_is_written_to_until_it_is_sealed() {
    let sandbox = own_root();
    assert_eq!(sh(&sandbox, "echo /*; echo x >/new; cat /new"), "/bin /lib /lib64 /usr\nx\n");
    let sealed = sandbox.entry(Entry::seal("/"));
    let output = sealed.command("sh").args(["-c", "echo x >/new"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("Read-only file system"), "{output:?}");
    let kept = error(&Sandbox::new().rootfs(Rootfs::bare().ephemeral()));
    assert_eq!((kept.kind(), kept.layer()), (ErrorKind::InvalidPolicy, Layer::Mount));
}

#[test]
fn the_hosts_root_is_bound_without_our_own_mounts_and_later_entries_lie_over_it() {
    let dir = temp_dir();
    let dir = real(dir.path());
    fs::write(dir.join("file"), "host").unwrap();
    let sandbox = bare().tmpfs(Tmpfs::new("/mnt").kernel_bounds()).entry(Entry::bind(&dir, "/mnt/dir"));
    let script = "cat /mnt/dir/file; echo; cut -d' ' -f5,10 /proc/self/mountinfo; echo x >/mnt/new && cat /mnt/new";
    let seen = sh(&sandbox, script);
    assert!(seen.starts_with("host\n") && seen.ends_with("x\n"), "{seen}");
    assert!(!seen.contains("belljar-workspace"), "{seen}");
    assert_eq!(seen.lines().filter(|line| *line == "/" || line.starts_with("/ ")).count(), 1, "{seen}");
    // The same bind is of no use where the root is another.
    let other = error(&host().entry(Entry::bind("/", "/")));
    assert_eq!(other.kind(), ErrorKind::InvalidPolicy, "{other}");
    assert!(other.to_string().contains("only a bare one"), "{other}");
}

#[test]
fn files_and_directories_have_the_modes_that_are_set_and_hide_the_way_to_them() {
    let sandbox = own_root()
        .entry(Entry::dir("/a/b").mode(0o700))
        .entry(Entry::dir("/open"))
        .entry(Entry::file("/open/file", "in place").mode(0o640))
        .entry(Entry::data("/open/data", "bound").read_only())
        .entry(Entry::data("/open/rw", "bound"))
        .entry(Entry::permissions("/open", 0o711));
    let script = "stat -c %a /a /a/b /open /open/file /open/data /open/rw; cat /open/file /open/data; \
                  echo >/open/rw; ! echo >/open/data";
    assert_eq!(sh(&sandbox, script), "700\n700\n711\n640\n600\n600\nin placebound");
    for (entry, cause) in [
        (Entry::dir("/a").mode(0o10000), "0o7777"),
        (Entry::proc("/proc").mode(0o700), "have a mode"),
        (Entry::dir("/a").read_only(), "read-only"),
        (Entry::dir("/a").with_devices(), "devices"),
        (Entry::dir("/a").unmasked(), "masked"),
        (Entry::overlay("/a", ["/usr"]), "two"),
        (Entry::dir("a"), "absolute"),
    ] {
        let error = error(&own_root().entry(entry));
        assert_eq!((error.kind(), error.layer()), (ErrorKind::InvalidPolicy, Layer::Mount), "{error}");
        assert!(error.to_string().contains(cause), "{error}");
    }
}

#[test]
fn devices_below_a_bind_work_only_with_a_word_for_it() {
    let [with, without] = [Entry::bind("/dev/zero", "/zero").with_devices(), Entry::bind("/dev/zero", "/zero")];
    let script = "head -c 3 /zero | od -An -tx1";
    assert_eq!(sh(&own_root().landlock(Landlock::off()).entry(with), script).trim(), "00 00 00");
    let output = own_root().entry(without).command("sh").args(["-c", "cat </zero"]).output().unwrap();
    assert!(!output.outcome.success(), "{output:?}");
}

#[test]
fn a_descriptor_is_bound_while_it_is_what_its_path_leads_to() {
    let dir = temp_dir();
    let dir = real(dir.path());
    fs::create_dir(dir.join("there")).unwrap();
    fs::write(dir.join("there/file"), "there").unwrap();
    let sandbox = own_root().entry(Entry::bind_fd(File::open(dir.join("there")).unwrap(), "/in").read_only());
    assert_eq!(sh(&sandbox, "cat /in/file; ! echo >/in/file"), "there");
    fs::rename(dir.join("there"), dir.join("moved")).unwrap();
    // The kernel tells where it is now.
    assert_eq!(sh(&sandbox, "cat /in/file"), "there");
    fs::remove_dir_all(dir.join("moved")).unwrap();
    let gone = error(&sandbox);
    assert_eq!(gone.raw_os_error(), Some(libc::ENOENT), "{gone}");
}

#[test]
fn places_in_directories_of_the_host_are_made_only_where_that_is_said() {
    let dir = temp_dir();
    let dir = real(dir.path());
    let with = |root: Rootfs| {
        let sandbox = own_root().rootfs(root).bind(&dir, "/in");
        sandbox.entry(Entry::dir("/in/new").mode(0o750)).entry(Entry::file("/in/new/file", "x"))
    };
    let refused = error(&with(Rootfs::bare()));
    assert_eq!((refused.raw_os_error(), fs::read_dir(&dir).unwrap().count()), (Some(libc::ENOENT), 0), "{refused}");
    assert!(with(Rootfs::bare().make_places()).command("true").status().unwrap().success());
    assert_eq!(fs::metadata(dir.join("new")).unwrap().permissions().mode() & 0o7777, 0o750);
    assert_eq!(fs::read_to_string(dir.join("new/file")).unwrap(), "x");
}

#[test]
fn a_dev_and_a_proc_are_put_where_they_are_asked_for() {
    let sandbox = own_root().entry(Entry::dev("/d")).entry(Entry::proc("/p"));
    let seen = sh(&sandbox, "head -c 0 /d/null; ls -d /d/pts/ptmx /d/shm; cat /p/1/comm; cat /p/kcore | wc -c");
    assert_eq!(seen, "/d/pts/ptmx\n/d/shm\nmemfd:belljar\n0\n");
    let masks = |entry| sh(&own_root().landlock(Landlock::off()).entry(entry), "grep -c ' /p/' /p/self/mountinfo || :");
    let [masked, unmasked] = [Entry::proc("/p"), Entry::proc("/p").unmasked()].map(masks);
    assert!(masked.trim().parse::<u32>().unwrap() > 3, "{masked}");
    assert!(is_root() || unmasked.trim() == "0", "{unmasked}");
    let pids = Namespaces::default() - Namespaces::PID;
    let shared = error(&own_root().namespaces(pids).entry(Entry::proc("/p")));
    assert!(shared.to_string().contains("Namespaces::PID"), "{shared}");
}

#[test]
fn message_queues_are_those_of_the_sandbox() {
    let sandbox = own_root().entry(Entry::mqueue("/q")).entry(Entry::proc("/proc"));
    assert_eq!(sh(&sandbox, "ls /q | wc -l; grep -c ' /q .* mqueue ' /proc/self/mountinfo"), "0\n1\n");
}

#[test]
fn directories_are_stacked_at_any_place() {
    let dir = temp_dir();
    let dir = real(dir.path());
    for (name, content) in [("low", "low"), ("high", "high")] {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("both"), content).unwrap();
        fs::write(dir.join(name).join(name), "").unwrap();
    }
    for name in ["upper", "work"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    let layers = [dir.join("low"), dir.join("high")];
    let stacked = || Entry::overlay("/o", &layers);
    assert_eq!(sh(&own_root().entry(stacked()), "cat /o/both; echo; ls /o; ! echo >/o/new"), "high\nboth\nhigh\nlow\n");
    assert_eq!(sh(&own_root().entry(stacked().in_memory()), "echo new >/o/both; cat /o/both"), "new\n");
    assert_eq!(fs::read_to_string(dir.join("high/both")).unwrap(), "high");
    let kept = stacked().upper(dir.join("upper"), dir.join("work"));
    sh(&own_root().entry(kept), "echo kept >/o/both");
    assert_eq!(fs::read_to_string(dir.join("upper/both")).unwrap(), "kept\n");
    crate::harness::removable(&dir);
}

#[test]
fn state_of_the_host_process_is_inherited_only_by_name() {
    let own = fs::read_to_string("/proc/self/limits").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let limit: u64 = own.split_whitespace().next().unwrap().parse().unwrap();
    let files = |inherit| sh(&host().inherit(inherit), "ulimit -n").trim().parse::<u64>().unwrap();
    assert_eq!(files(Inherit::LIMITS), limit);
    assert_eq!(files(Inherit::empty()), limit.min(1024));
    // SAFETY: No pointers.
    let own = unsafe { libc::getsid(0) };
    let session = |inherit| {
        let sandbox = bare().namespaces(Namespaces::default() - Namespaces::PID).inherit(inherit);
        sh(&sandbox, "cut -d' ' -f6 /proc/self/stat").trim().parse::<i32>().unwrap()
    };
    assert_eq!(session(Inherit::SESSION), own);
    assert_ne!(session(Inherit::empty()), own);
    let score = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let scored = |inherit| sh(&bare().inherit(inherit).entry(Entry::proc("/proc")), "cat /proc/self/oom_score_adj");
    assert_eq!(scored(Inherit::OOM_SCORE), score);
    assert_eq!(scored(Inherit::empty()), "500\n");
}

#[test]
fn the_program_is_process_1_where_that_is_said() {
    let pid = |sandbox: &Sandbox| sh(sandbox, "echo $$");
    assert_eq!((pid(&host()), pid(&host().program_is_init())), ("2\n".to_owned(), "1\n".to_owned()));
    let mut child = host().program_is_init().command("sh").args(["-c", "sleep 100 & exec sleep 100"]).spawn().unwrap();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn user_namespaces_inside_are_to_be_had_by_name() {
    let makes = |sandbox: Sandbox| sandbox.command("unshare").args(["-U", "true"]).output().unwrap().outcome.success();
    let sandbox = || host().seccomp(Seccomp::off()).landlock(Landlock::off());
    if !makes(sandbox().user_namespaces_inside()) {
        skip!("this host makes no user namespace in another");
    }
    assert!(!makes(sandbox()));
}

#[test]
fn a_program_is_held_back_until_the_hook_returns() {
    let dir = temp_dir();
    let (dir, token) = (real(dir.path()), token());
    static PID: AtomicU32 = AtomicU32::new(0);
    let file = Mutex::new(dir.join("file"));
    let mut command = host().bind(&dir, "/dir").command("cat");
    let content = token.clone();
    command.arg("/dir/file").before_exec(move |pid| {
        PID.store(pid, Relaxed);
        let own = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
        assert_ne!(own(&pid.to_string()), own("self"));
        fs::write(&*file.lock().unwrap(), &content)
    });
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(child.id(), PID.load(Relaxed));
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), token);
    command.before_exec(|_| Err(std::io::Error::from_raw_os_error(libc::ENOSPC)));
    let error = command.spawn().map(drop).unwrap_err();
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Process, Some(libc::ENOSPC)), "{error}");
    // What fails before it, is told as ever.
    let error = host().bind("/nothing", "/x").command("true").before_exec(|_| Ok(())).spawn().map(drop).unwrap_err();
    assert_eq!(error.layer(), Layer::Mount, "{error}");
    let error = host().command("/nothing").before_exec(|_| Ok(())).spawn().map(drop).unwrap_err();
    assert_eq!(error.layer(), Layer::Exec, "{error}");
}

#[test]
fn what_lies_over_proc_is_masked_and_sealed_by_that_name() {
    let dir = temp_dir();
    let (dir, token) = (real(dir.path()), token());
    fs::write(dir.join("secret"), &token).unwrap();
    let over = Entry::bind(&dir, "/proc");
    for (name, sandbox) in [
        ("over it", own_root().entry(Entry::proc("/proc")).entry(over.clone())),
        ("beside it", own_root().entry(Entry::proc("/other")).entry(over.clone())),
        ("before another", own_root().entry(over.clone()).entry(Entry::proc("/other"))),
        (
            "over a link",
            own_root().entry(Entry::proc("/proc")).symlink("proc", "/link").entry(Entry::bind(&dir, "/link")),
        ),
    ] {
        assert_eq!(sh(&sandbox, "cat /proc/secret"), token, "{name}");
        assert_eq!(sh(&sandbox.clone().mask("/proc/secret"), "cat /proc/secret"), "", "{name}");
        let sealed = sandbox.entry(Entry::seal("/proc"));
        assert_eq!(sh(&sealed, "! echo x 2>/dev/null >/proc/new"), "", "{name}");
    }
    assert!(!dir.join("new").exists());
    // The sandbox's own is meant where that is what lies there.
    let own = own_root().entry(Entry::proc("/proc")).entry(Entry::proc("/other")).mask("/proc/version");
    assert_eq!(sh(&own, "cat /proc/version; wc -l </other/version"), "1\n");
}

#[test]
fn a_hook_goes_on_after_signals_and_time_is_up_in_it() {
    crate::alone::alone("entries::a_hook_goes_on_after_signals_and_time_is_up_in_it", || {
        use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
        extern "C" fn ignore(_: libc::c_int) {}
        let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
        // SAFETY: The handler does nothing.
        unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
                        let task: i32 = task.file_name().to_str().unwrap().parse().unwrap();
                        // SAFETY: Numbers alone.
                        unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), task, libc::SIGUSR1) };
                    }
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            });
            let started: Vec<_> = (0..10).map(|_| host().command("true").before_exec(|_| Ok(())).status()).collect();
            stop.store(true, Relaxed);
            for outcome in started {
                assert!(outcome.unwrap().success());
            }
        });
        let limits = Limits::new().wall_time(std::time::Duration::from_millis(300));
        let mut late = host().limits(limits).command("true");
        late.before_exec(|_| {
            std::thread::sleep(std::time::Duration::from_millis(600));
            Ok(())
        });
        let error = late.spawn().map(drop).unwrap_err();
        assert_eq!((error.layer(), error.raw_os_error()), (Layer::Limits, Some(libc::ETIMEDOUT)), "{error}");
    });
}

#[test]
fn a_program_that_ends_while_it_is_held_is_no_end_of_the_host() {
    crate::alone::alone("entries::a_program_that_ends_while_it_is_held_is_no_end_of_the_host", || {
        // SAFETY: The default action: to write to what nobody reads any more ends this process.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        for sandbox in [host(), host().namespaces(Namespaces::default() - Namespaces::PID)] {
            let mut command = sandbox.command("true");
            command.before_exec(|pid| {
                // SAFETY: No pointers; the process is not reaped while the hook runs.
                unsafe { libc::kill(pid as libc::pid_t, libc::SIGKILL) };
                // Until it has: its descriptors are closed by then.
                while fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
                    std::thread::yield_now();
                }
                Ok(())
            });
            let error = command.spawn().map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Os, "{error}");
            assert!(error.to_string().contains("a signal ended the process: 9"), "{error}");
        }
    });
}

#[test]
fn the_first_directory_that_is_there_is_taken_and_named() {
    let mut command = host().command("sh");
    command.args(["-c", "pwd; echo $PWD"]).current_dir("/nothing").current_dir_or("/usr").current_dir_or("/").env_pwd();
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "/usr\n/usr\n");
    let error = host().command("true").current_dir("/nothing").current_dir_or("/none").spawn().map(drop).unwrap_err();
    assert_eq!((error.layer(), error.path()), (Layer::Process, Some(Path::new("/none"))), "{error}");
    let output = host().command("sh").arg0("other").args(["-c", "echo $0"]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "other\n");
}

#[test]
fn what_ends_with_the_thread_and_what_does_not() {
    let sandbox = host().namespaces(Namespaces::default() - Namespaces::PID);
    let start = |sandbox: Sandbox| {
        let started = std::thread::spawn(move || sandbox.command("sleep").arg("100").spawn().unwrap());
        started.join().unwrap()
    };
    let mut child = start(sandbox.clone().end_with_thread());
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    let mut child = start(sandbox);
    assert_eq!(child.wait_timeout(std::time::Duration::from_millis(50)).unwrap(), None);
    child.kill().unwrap();
}

#[test]
fn roots_own_capabilities_can_be_kept() {
    for_root!();
    let permitted = Capabilities::permitted();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).unwrap();
    assert_eq!(permitted.bits(), u64::from_str_radix(line.trim(), 16).unwrap());
    let sandbox = bare().namespaces(Namespaces::MOUNT).capabilities(permitted);
    let kept = sh(&sandbox, "grep CapEff /proc/self/status");
    assert_eq!(kept.split_whitespace().nth(1), line.split_whitespace().next());
}

#[test]
fn the_plan_tells_every_entry_in_its_order() {
    let dir = temp_dir();
    let dir = real(dir.path());
    let shown = dir.display();
    let sandbox = Sandbox::new()
        .rootfs(Rootfs::bare().make_places())
        .entry(Entry::bind(&dir, "/").read_only())
        .entry(Entry::bind_fd(File::open(&dir).unwrap(), "/fd"))
        .entry(Entry::dir("/a").mode(0o700))
        .entry(Entry::file("/f", "12345"))
        .entry(Entry::data("/d", "123").read_only())
        .tmpfs(Tmpfs::new("/t").kernel_bounds().size(4096))
        .entry(Entry::mqueue("/q"))
        .entry(Entry::overlay("/o", [&dir]).in_memory())
        .entry(Entry::permissions("/f", 0o400))
        .entry(Entry::seal("/t"));
    let mut command = sandbox.program_is_init().inherit(Inherit::all()).end_with_thread().command("/p");
    command.before_exec(|_| Ok(())).current_dir("/x").current_dir_or("/y");
    let plan = command.plan().unwrap().to_string();
    let lines = |layer: &str| {
        let line = |line: &str| Some(line.trim().strip_prefix(layer)?.trim().to_owned());
        plan.lines().filter_map(line).collect::<Vec<_>>()
    };
    let mounts: Vec<_> = lines("mount").into_iter().skip_while(|line| !line.starts_with("root")).collect();
    let expected = [
        "root empty writable".to_owned(),
        "missing places are made in directories of the host".into(),
        format!("bind_ro {shown} -> /"),
        format!("bind descriptor of {shown} -> /fd"),
        "dir /a mode=0700".into(),
        "file /f (5 bytes) mode=0644".into(),
        "bind_ro data (3 bytes) -> /d mode=0600".into(),
        "tmpfs /t size=4096 nr_inodes=default mode=1777".into(),
        "mqueue /q".into(),
        format!("overlay /o: {shown} under memory"),
        "chmod 0400 /f".into(),
        "seal /t".into(),
        "pivot_root".into(),
    ];
    assert_eq!(mounts, expected, "{plan}");
    let process = lines("process");
    for line in ["hold", "chdir /x or /y", "pdeathsig KILL", "signals default, but for those ignored"] {
        assert!(process.iter().any(|other| other == line), "{line}: {plan}");
    }
    assert!(!plan.contains("setsid") && !plan.contains("rlimit") && !plan.contains("oom_score"), "{plan}");
}
