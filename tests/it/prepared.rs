//! Starts from a template: as closed as any other, apart from each other, and nothing left over.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use belljar::{
    Capabilities, Child, ErrorKind, IdMap, Inherit, Landlock, Layer, Namespaces, Network, Prepared, Rootfs, Sandbox,
    Seccomp, Stdio,
};

use crate::again::{again, is_again};
use crate::alone::alone;
use crate::filter;
use crate::for_root;
use crate::harness::{
    children, compile_static, host, is_root, mounts, namespaces_alone, noop, open_fds, real, temp_dir, with_program,
};
use crate::inherited::one_processor;

/// Runs a script in a sandbox of the template; it must succeed.
fn sh(prepared: &Prepared, script: &str) -> String {
    let output = prepared.command("sh").args(["-ec", script]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.outcome.success(), "{script}: {:?}\n{stderr}", output.outcome);
    String::from_utf8(output.stdout).unwrap()
}

/// Whether starts go on from a template.
fn shares(prepared: &Prepared) -> bool {
    prepared.command("/program").plan().unwrap().to_string().contains("setns template")
}

fn siblings() -> std::path::PathBuf {
    compile_static("siblings", include_str!("siblings.c"))
}

/// Every place that a program can write to.
fn writable(program: &Path) -> Sandbox {
    with_program(program).tmpfs("/scratch").dir("/tmp/below").file("/tmp/file", "content")
}

/// Starts a program that leaves what it can, and goes on until its input ends.
fn leave(prepared: &Prepared) -> (Child, BTreeSet<String>) {
    let mut child = prepared.command("/program").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(|line| line.unwrap());
    let left = lines.take_while(|line| line != "ready").filter_map(|line| Some(line.strip_prefix("left ")?.to_owned()));
    let left = left.collect();
    (child, left)
}

fn look(prepared: &Prepared, how: &str) -> BTreeSet<String> {
    let output = prepared.command("/program").arg(how).output().unwrap();
    assert!(output.outcome.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("looked\n"), "{text}");
    text.lines().filter_map(|line| Some(line.strip_prefix("found ")?.to_owned())).collect()
}

#[test]
fn sandboxes_of_one_template_meet_nowhere() {
    let program = siblings();
    let policies = [writable(&program), namespaces_alone(&writable(&program))];
    for (policy, network) in policies.iter().flat_map(|policy| [(policy, Network::None), (policy, Network::Loopback)]) {
        let prepared = policy.clone().network(network).prepare().unwrap();
        assert!(shares(&prepared));
        assert_eq!(look(&prepared, "look"), BTreeSet::new(), "nothing is there at first");
        let (first, left) = leave(&prepared);
        assert!(left.len() >= 8, "{left:?}");
        // At the same time, and afterwards, when what the first had is used again.
        assert_eq!(look(&prepared, "look"), BTreeSet::new(), "{network:?}: of a sandbox that runs");
        drop(first);
        for _ in 0..3 {
            assert_eq!(look(&prepared, "look"), BTreeSet::new(), "{network:?}: of one that has ended");
        }
        // The control: whoever is in the same sandbox finds it all.
        let found = look(&prepared, "both");
        let wanted = ["/tmp", "/dev/shm", "/scratch", "/tmp/below", "abstract", "name", "port", "process", "pty"];
        assert!(wanted.iter().all(|what| found.contains(*what)), "{found:?}");
    }
    // Where nothing but namespaces is in the way of those.
    let found = look(&policies[1].prepare().unwrap(), "both");
    assert!(["shm", "mq", "counter"].iter().all(|what| found.contains(*what)), "{found:?}");
}

/// Until it is executed, init is a process with the host's memory that the program could look into.
#[test]
fn no_program_runs_before_init_has_a_memory_of_its_own() {
    alone("prepared::no_program_runs_before_init_has_a_memory_of_its_own", || {
        let program = compile_static("first", include_str!("first.c"));
        let prepared = namespaces_alone(&with_program(&program)).prepare().unwrap();
        assert!(shares(&prepared));
        // Init makes its image, and nobody else does that here.
        filter::slow(libc::SYS_memfd_create, Duration::from_millis(300));
        assert_eq!(first_seen(&mut prepared.command("/program")), "belljar-init\n");
    });
}

fn first_seen(command: &mut belljar::Command) -> String {
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

/// Who is woken on the processor that init is on runs at once, and init goes on later: between any two of its instructions.
#[test]
fn no_program_runs_while_init_is_being_executed() {
    alone("prepared::no_program_runs_while_init_is_being_executed", || {
        one_processor();
        let program = compile_static("first", include_str!("first.c"));
        let sandbox = namespaces_alone(&with_program(&program)).inherit(Inherit::SCHEDULING);
        for _ in 0..300 {
            assert_eq!(first_seen(&mut sandbox.command("/program")), "belljar-init\n");
        }
    });
}

#[test]
fn a_network_namespace_is_not_used_again_while_a_socket_of_it_is_open() {
    let prepared = with_program(&compile_static("outlives", include_str!("outlives.c"))).prepare().unwrap();
    let run = |command: &mut belljar::Command| {
        let output = command.output().unwrap();
        assert!(output.outcome.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let first = run(&mut prepared.command("/program"));
    assert!(first.starts_with("free "), "{first}");
    run(&mut prepared.command("/program"));
    assert_eq!(run(&mut prepared.command("/program")), first, "the control: two are used in turn");
    run(&mut prepared.command("/program"));
    // Nobody receives what is sent: the socket stays open on its way.
    let (inside, outside) = std::os::unix::net::UnixDatagram::pair().unwrap();
    assert_eq!(run(prepared.command("/program").arg("send").fd(3, inside)), first);
    let others: Vec<_> = (0..4).map(|_| run(&mut prepared.command("/program"))).collect();
    assert!(others.iter().all(|other| other.starts_with("free ") && *other != first), "{others:?}");
    drop(outside);
}

#[test]
fn what_is_kept_for_each_start_is_out_of_sight() {
    let dir = temp_dir();
    fs::write(dir.path().join("file"), "content").unwrap();
    let prepared = host().bind(real(dir.path()), "/tmp/in").prepare().unwrap();
    assert!(shares(&prepared));
    let script = "cat /tmp/in/file; ls / /proc | grep -E '^(hidden|dir|file|[0-9]+)$'; ls /proc/sys >/dev/null; \
                  ! ls /proc/0 2>/dev/null; grep -c ' /proc ' /proc/self/mountinfo";
    let text = sh(&prepared, &format!("{{ {script}; }} || true"));
    assert!(text.starts_with("content"), "{text}");
    // Init, and what the script runs: the first number is of a process, and nothing has the name of what is kept.
    assert!(text.lines().skip(1).all(|line| line.contains("content") || line.parse::<u32>().is_ok()), "{text}");
}

#[test]
fn the_mounts_of_a_template_can_not_be_undone_by_a_capable_program() {
    // With every capability, and no filter: the tree is owned by a namespace above, so that nothing of it comes off.
    let policy = namespaces_alone(&host()).capabilities(Capabilities::all());
    let prepared = policy.prepare().unwrap();
    let script = "for at in /usr /dev/null /dev /; do umount $at 2>/dev/null && echo off $at; \
                  mount -o remount,bind,rw $at 2>/dev/null && echo writable $at; done; \
                  mount -t tmpfs none /tmp && echo control";
    assert_eq!(sh(&prepared, script), "control\n");
}

#[test]
fn a_namespace_made_inside_gets_no_proc_with_all_its_parts() {
    // What is hidden in /proc stays so for those who may make namespaces: the kernel refuses a /proc that shows more than
    // those do which are mounted already, wherever those are.
    let program = compile_static("revealed", include_str!("revealed.c"));
    let filter = Seccomp::off().allow(["clone", "unshare"]);
    let policy = with_program(&program).landlock(Landlock::off()).seccomp(filter);
    let prepared = policy.prepare().unwrap();
    assert!(shares(&prepared));
    for mut command in [policy.command("/program"), prepared.command("/program")] {
        let output = command.output().unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert_eq!((&*stdout, &*stderr), ("Operation not permitted\n", ""), "{command:?}");
    }
}

#[test]
fn the_content_of_the_hosts_files_is_seen_as_it_is_and_the_names_as_they_were() {
    let dir = temp_dir();
    let [bound, file] = [dir.path().join("bound"), dir.path().join("file")];
    fs::create_dir(&bound).unwrap();
    fs::write(bound.join("content"), "old").unwrap();
    fs::write(&file, "old").unwrap();
    let policy = host().bind_ro(real(&bound), "/bound").bind_ro(real(&file), "/file");
    let below = host().bind_ro(real(&file), "/tmp/file").prepare().unwrap();
    assert_eq!(sh(&below, "cat /tmp/file"), "old");
    let prepared = policy.prepare().unwrap();
    assert!(shares(&prepared));
    let script = "cat /bound/content /file; ls /bound";
    assert_eq!(sh(&prepared, script), "oldoldcontent\n");
    fs::write(bound.join("content"), "new").unwrap();
    fs::write(bound.join("more"), "").unwrap();
    fs::write(&file, "new").unwrap();
    assert_eq!(sh(&below, "cat /tmp/file"), "new");
    assert_eq!(sh(&prepared, script), "newnewcontent\nmore\n", "content and entries are seen as they are");
    // Another directory, and another file, in their places.
    fs::rename(&bound, dir.path().join("away")).unwrap();
    fs::create_dir(&bound).unwrap();
    fs::write(bound.join("content"), "other").unwrap();
    fs::write(dir.path().join("other"), "other").unwrap();
    fs::rename(dir.path().join("other"), &file).unwrap();
    assert_eq!(sh(&prepared, script), "newnewcontent\nmore\n", "it is what was prepared");
    assert_eq!(sh(&policy.prepare().unwrap(), script), "otherothercontent\n");
    let error = below.command("true").spawn().unwrap_err();
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Mount, Some(libc::ENOENT)), "{error}");
    assert!(error.hint().unwrap().contains("since the policy was prepared"), "{error:?}");
}

#[test]
fn a_file_system_that_is_mounted_later_is_not_seen() {
    for_root!();
    const NAME: &str = "prepared::a_file_system_that_is_mounted_later_is_not_seen";
    if !is_again() {
        again(NAME, &["unshare", "-m", "env"]);
        return;
    }
    let dir = temp_dir();
    let below = real(dir.path()).join("below");
    fs::create_dir(&below).unwrap();
    let prepared = host().bind_ro(real(dir.path()), "/bound").prepare().unwrap();
    let done = |command: &mut std::process::Command| assert!(command.status().unwrap().success());
    done(std::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&below));
    fs::write(below.join("file"), "").unwrap();
    assert_eq!(sh(&prepared, "ls /bound/below"), "");
    assert_eq!(sh(&host().bind_ro(real(dir.path()), "/bound").prepare().unwrap(), "ls /bound/below"), "file\n");
    done(std::process::Command::new("umount").arg(&below));
}

#[test]
fn what_lies_in_and_under_each_other_is_as_in_an_ordinary_start() {
    let dir = temp_dir();
    for name in ["a", "b", "c"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join(name), "").unwrap();
    }
    let bound = |name: &str| real(dir.path().join(name));
    let policy = host()
        .bind_ro(bound("a"), "/one")
        .tmpfs("/two")
        .bind(bound("b"), "/two/b")
        .file("/two/file", "text")
        .tmpfs("/two/b/deep")
        .tmpfs("/three/four")
        .bind_ro(bound("c"), "/three")
        .dir("/two/dir")
        .mask("/one/a")
        .mask("/proc/version")
        .tmpfs("/one");
    // A place in a directory of the host is not made: this one is there.
    fs::create_dir(dir.path().join("b/deep")).unwrap();
    let prepared = policy.prepare().unwrap();
    assert!(shares(&prepared));
    let script = "find /one /two /three | sort; cat /two/file; cat /proc/version; echo x > /two/b/written; \
                  cut -d' ' -f4- /proc/self/mountinfo | grep -oE '/(one|two|three)[^ ]* r[ow]' | sort";
    let once = crate::harness::sh(&policy, script);
    assert!(once.contains("/two/b/b\n") && once.contains("/three/c\n") && !once.contains("/one/a\n"), "{once}");
    assert_eq!(sh(&prepared, script).replace("/two/b/written\n", ""), once);
    assert!(dir.path().join("b/written").exists());
}

#[test]
fn the_same_is_asked_for_and_in_force() {
    let once = host().command("true").spawn().unwrap().report().to_string();
    let prepared = host().prepare().unwrap();
    assert_eq!(prepared.command("true").spawn().unwrap().report().to_string(), once);
    let script = "grep -vE '^(Pid|Tgid|NSpid|NSpgid|NStgid|NSsid|PPid|Mems|Vm|Rss|.*ctxt|Sig|Cpus|Thread)' /proc/self/status; \
                  cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups /proc/self/oom_score_adj; hostname; \
                  cat /proc/self/limits; ls /dev /dev/pts /dev/shm /tmp /proc/self/fd; umask; \
                  cut -d' ' -f4- /proc/self/mountinfo | sed -E 's/ (master|shared):[0-9]+//; s/^[^ ]* //' | grep -v '^/proc ' | sort";
    assert_eq!(sh(&prepared, script), crate::harness::sh(&host(), script));
}

#[test]
fn many_threads_start_from_one_template() {
    let dir = temp_dir();
    let prepared = host().bind(real(dir.path()), "/out").prepare().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..32 {
            let prepared = prepared.clone();
            scope.spawn(move || {
                for turn in 0..4 {
                    let script =
                        format!("test $(ls /tmp | wc -l) = 0; echo {turn} > /tmp/mine; cp /tmp/mine /out/{thread}");
                    sh(&prepared, &script);
                }
            });
        }
    });
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 32);
}

#[test]
fn nothing_is_left_over_and_descriptors_do_not_grow() {
    const NAME: &str = "prepared::nothing_is_left_over_and_descriptors_do_not_grow";
    if !is_again() {
        // Other tests open descriptors.
        again(NAME, &["env"]);
        return;
    }
    let policy = with_program(&noop()).tmpfs("/scratch");
    let run = |prepared: &Prepared| assert!(prepared.command("/program").status().unwrap().success());
    // What std and the C library open at first use.
    run(&policy.prepare().unwrap());
    let before = (open_fds(), mounts(), children());
    let prepared = policy.prepare().unwrap();
    // The first network namespace is looked at when the second sandbox ends.
    run(&prepared);
    run(&prepared);
    let held = open_fds();
    assert!(held.len() > before.0.len() && held.len() <= before.0.len() + 18, "{held:#?}");
    for _ in 0..1000 {
        run(&prepared);
    }
    assert_eq!(open_fds(), held);
    let (clone, command) = (prepared.clone(), prepared.command("/program"));
    drop(prepared);
    run(&clone);
    drop((clone, command));
    assert_eq!((open_fds(), mounts(), children()), before);
}

#[test]
fn policies_that_leave_nothing_to_share_start_as_ever() {
    let (program, dir) = (noop(), temp_dir());
    let policy = || with_program(&program);
    let root = real(dir.path());
    fs::create_dir(root.join("real")).unwrap();
    std::os::unix::fs::symlink("real", root.join("link")).unwrap();
    let linked = host().bind_ro(&root, "/in").rootfs(Rootfs::dir(&root)).bind_ro(&program, "/program");
    let mut ordinary = vec![
        policy().namespaces(Namespaces::default() - Namespaces::PID),
        policy().tmpfs("/proc"),
        policy().tmpfs("/scratch").symlink("/tmp", "/scratch/link"),
        linked.tmpfs("/link/below"),
    ];
    if is_root() {
        let line = IdMap::new(0, 100_000, 65_536);
        ordinary.push(policy().uid_map(line).gid_map(line));
    }
    for policy in ordinary {
        let prepared = policy.prepare().unwrap();
        assert!(!shares(&prepared), "{policy:?}");
        let [once, prepared] = [policy.command("/program").status(), prepared.command("/program").status()];
        assert_eq!(once.unwrap().code(), prepared.unwrap().code(), "{policy:?}");
    }
    // What comes close, and does share.
    for policy in [policy().network(Network::Loopback), policy().namespaces(Namespaces::default() - Namespaces::NET)] {
        let prepared = policy.prepare().unwrap();
        assert!(shares(&prepared), "{policy:?}");
        assert!(prepared.command("/program").status().unwrap().success(), "{policy:?}");
    }
}

#[test]
fn what_can_not_be_made_is_told_when_it_is_prepared() {
    let error = host().bind_ro("/missing", "/tmp/in").prepare().unwrap_err();
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Mount, Some(libc::ENOENT)), "{error}");
    assert_eq!(error.path(), Some(Path::new("/missing")));
    let dir = temp_dir();
    fs::create_dir(dir.path().join("a")).unwrap();
    let error = host().bind_ro(real(dir.path()), "/in").tmpfs("/in/none").prepare().unwrap_err();
    assert_eq!(
        error.to_string(),
        host().bind_ro(real(dir.path()), "/in").tmpfs("/in/none").command("true").spawn().unwrap_err().to_string()
    );
    let error = host().hostname("").prepare().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPolicy);
    let error = host().prepare().unwrap().command("/missing").spawn().unwrap_err();
    assert_eq!(error.to_string(), "exec: execve /missing: No such file or directory (os error 2)");
}

#[test]
fn the_default_root_and_directories_and_layers_share() {
    let dir = temp_dir();
    let root = real(dir.path());
    for name in ["tmp", "dev", "proc", "other"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    let upper = temp_dir();
    fs::write(upper.path().join("top"), "").unwrap();
    let program = noop();
    for root in
        [Rootfs::empty(), Rootfs::host(), Rootfs::dir(&root), Rootfs::layers([root.clone(), real(upper.path())])]
    {
        let prepared = with_program(&program).rootfs(root.clone()).prepare().unwrap();
        assert!(shares(&prepared), "{root:?}");
        assert!(prepared.command("/program").status().unwrap().success(), "{root:?}");
    }
}
