//! Descriptors: what is passed arrives, and nothing else, whatever the host has open.

// A fixture is a group of calls on this process, and one comment says what makes them sound.
#![allow(clippy::multiple_unsafe_ops_per_block)]

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use belljar::{ErrorKind, Layer, Sandbox, Stdio};

use crate::again::{again, is_again, output};
use crate::harness::{host, real, sh, temp_dir, token};
use crate::probe::{Told, inside};

/// The numbers that the probe has seen, by /proc and by trying each.
fn numbers(told: &Told) -> [Vec<i32>; 2] {
    let mut listed: Vec<i32> = Vec::new();
    for line in told.0.lines().filter(|line| !line.starts_with("open ")) {
        listed.push(line.split(' ').next().unwrap().parse().unwrap());
    }
    listed.sort_unstable();
    [listed, told.all("open").iter().map(|number| number.parse().unwrap()).collect()]
}

fn duplicate_to(fd: &impl AsRawFd, number: i32) {
    // SAFETY: No pointers; the number is one that this process does not use.
    let result = unsafe { libc::dup2(fd.as_raw_fd(), number) };
    assert_eq!(result, number, "{}", std::io::Error::last_os_error());
}

#[test]
fn nothing_that_the_host_has_open_arrives() {
    const NAME: &str = "fds::nothing_that_the_host_has_open_arrives";
    if !is_again() {
        again(NAME, &["env"]);
        return;
    }
    // SAFETY: The kernel reads one structure.
    let raised = unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max.min(20_000);
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        limit.rlim_cur as i32
    };
    let dir = temp_dir();
    fs::write(dir.path().join("file"), "x").unwrap();
    let file = File::open(dir.path().join("file")).unwrap();
    let open_dir = File::open(dir.path()).unwrap();
    let root = File::open("/").unwrap();
    let (pipe, _writer) = crate::alone::pipe();
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    // None of the copies is closed on exec: low numbers, high ones, with gaps.
    for (number, fd) in [(40, file.as_raw_fd()), (41, open_dir.as_raw_fd()), (100, root.as_raw_fd())] {
        duplicate_to(&fd, number);
    }
    duplicate_to(&pipe, 500);
    duplicate_to(&socket, raised - 1);
    // The control: a program of std's gets them all.
    let plain = crate::probe::outside(&["descriptors"]);
    for number in [40, 41, 100, 500, raised - 1] {
        assert!(numbers(&plain)[1].contains(&number), "{number} in {plain:?}");
    }
    let told = inside(&Sandbox::new(), &["descriptors"]);
    assert_eq!(numbers(&told), [vec![0, 1, 2], vec![0, 1, 2]], "{told:?}");
    // Those that are passed arrive, and the number of a descriptor of the host's can be one of theirs.
    let sandbox = Sandbox::new().bind_ro(crate::probe::program(), "/probe");
    let mut command = sandbox.command("/probe");
    let output = command.arg("descriptors").fd(40, socket).fd(7, file).fd(2000, pipe).output().unwrap();
    let told = Told(String::from_utf8(output.stdout).unwrap());
    let expected = vec![0, 1, 2, 7, 40, 2000];
    assert_eq!(numbers(&told), [expected.clone(), expected]);
    assert!(told.one("40").starts_with("socket:"), "{told:?}");
    assert!(told.one("7").ends_with("/file"), "{told:?}");
    assert!(told.one("2000").starts_with("pipe:"), "{told:?}");
}

#[test]
fn a_host_without_standard_streams_gives_null_and_nothing_else() {
    const NAME: &str = "fds::a_host_without_standard_streams_gives_null_and_nothing_else";
    if !is_again() {
        let dir = temp_dir();
        let result = dir.path().join("result");
        output(NAME, &["env"], |command| {
            command.env("BELLJAR_TEST_RESULT", &result);
        });
        let told = fs::read_to_string(&result).unwrap_or_default();
        assert_eq!(told, "ok", "what the process without streams has found");
        return;
    }
    // std opens closed streams at the start of a process: so they are closed now.
    // SAFETY: Nothing of this process uses the three from here on.
    unsafe {
        libc::close(0);
        libc::close(1);
        libc::close(2);
    }
    // Nobody could read a panic: the file is the one witness.
    let found = std::panic::catch_unwind(without_streams).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    });
    fs::write(std::env::var_os("BELLJAR_TEST_RESULT").unwrap(), found).unwrap();
    // SAFETY: Ends the process; the test framework would write to streams that are not there.
    unsafe { libc::_exit(0) };
}

fn without_streams() -> String {
    let dir = temp_dir();
    let sandbox = Sandbox::new().bind_ro(crate::probe::program(), "/probe").bind(real(dir.path()), "/out");
    // Inherited: what is closed there is null here.
    let outcome = sandbox.command("/probe").args(["writes", "/out"]).status().unwrap();
    assert!(outcome.success());
    assert!(dir.path().join("newdir").exists());
    let mut child = sandbox.command("/probe").arg("wait").spawn().unwrap();
    for fd in 0..3 {
        let link = fs::read_link(format!("/proc/{}/fd/{fd}", child.id())).unwrap();
        assert_eq!(link, std::path::Path::new("/dev/null"), "{fd}");
    }
    assert_eq!(fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().count(), 3);
    child.kill().unwrap();
    child.wait().unwrap();
    // Piped: the ends of the pipes, whatever numbers they had here.
    let output = sandbox.command("/probe").arg("descriptors").output().unwrap();
    let told = Told(String::from_utf8(output.stdout).unwrap());
    assert_eq!(numbers(&told)[0], [0, 1, 2]);
    assert_eq!(told.one("0"), "/dev/null");
    assert!(told.one("1").starts_with("pipe:") && told.one("2").starts_with("pipe:"), "{told:?}");
    // Passed ones, from a host whose own numbers are below 3.
    let file = File::open("/dev/zero").unwrap();
    assert_eq!(file.as_raw_fd(), 0, "the lowest number that is free");
    let output = sandbox.command("/probe").arg("descriptors").fd(3, file).output().unwrap();
    let told = Told(String::from_utf8(output.stdout).unwrap());
    assert_eq!((numbers(&told)[0].as_slice(), told.one("3")), (&[0, 1, 2, 3][..], "/dev/zero"));
    "ok".to_owned()
}

#[test]
fn streams_are_what_they_are_set_to() {
    let dir = temp_dir();
    let mut file = File::options().read(true).write(true).create_new(true).open(dir.path().join("file")).unwrap();
    file.write_all(b"from a file\n").unwrap();
    file.rewind().unwrap();
    let mut command = host().command("sh");
    let command = command.args(["-c", "cat; echo to stderr >&2"]);
    let mut child = command.stdin(file).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.stdin.is_none() && child.stderr.is_none());
    assert_eq!((text.as_str(), child.wait().unwrap().success()), ("from a file\n", true));

    let mut command = host().command("cat");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"by a pipe").unwrap();
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "by a pipe");
    child.wait().unwrap();

    // One file for two streams, and null for the third: nothing to read.
    let out = File::create(dir.path().join("out")).unwrap();
    let copy = out.try_clone().unwrap();
    let mut command = host().command("sh");
    let command = command.args(["-c", "cat; echo one; echo two >&2"]);
    command.stdin(Stdio::null()).stdout(out).stderr(copy).status().unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("out")).unwrap(), "one\ntwo\n");
}

#[test]
fn passed_descriptors_may_change_places_and_must_not_collide() {
    let dir = temp_dir();
    let open = |name: &str| -> OwnedFd {
        fs::write(dir.path().join(name), name).unwrap();
        File::open(dir.path().join(name)).unwrap().into()
    };
    let (a, b, c) = (open("a"), open("b"), open("c"));
    let (at_a, at_b, at_c) = (a.as_raw_fd(), b.as_raw_fd(), c.as_raw_fd());
    // Each gets the number that another one has in the host.
    let mut command = host().command("sh");
    let script = format!("cat <&{at_b}; cat <&{at_c}; cat <&{at_a}");
    let output = command.args(["-c", &script]).fd(at_b, a).fd(at_c, b).fd(at_a, c).output().unwrap();
    if [at_a, at_b, at_c].iter().all(|fd| *fd < 10) {
        assert_eq!(String::from_utf8_lossy(&output.stdout), "abc", "a shell knows numbers up to 9");
    }
    let mut command = Sandbox::new().bind_ro(crate::probe::program(), "/probe").command("/probe");
    let command = command.arg("descriptors").fd(21, open("x")).fd(20, open("y"));
    let output = command.output().unwrap();
    let told = Told(String::from_utf8(output.stdout).unwrap());
    assert!(told.one("21").ends_with("/x") && told.one("20").ends_with("/y"), "{told:?}");
    for (first, second) in [(-1, 5), (0, 5), (2, 5), (5, 5)] {
        let error = host().command("true").fd(first, open("p")).fd(second, open("q")).spawn().unwrap_err();
        assert_eq!((error.layer(), error.kind()), (Layer::Fds, ErrorKind::InvalidPolicy), "{first} {error}");
    }
}

#[test]
fn a_working_directory_is_inside_or_none() {
    let dir = temp_dir();
    fs::write(dir.path().join("secret"), token()).unwrap();
    let passed = || File::open(dir.path()).unwrap();
    let linked = host().tmpfs("/scratch").symlink("/proc/self/fd/5", "/scratch/link");
    let linked = linked.symlink("/proc/self/cwd", "/scratch/cwd");
    // A directory that the caller has passed in is not a way to start outside of the root.
    for path in
        ["/proc/self/fd/5", "/proc/self/fd/5/..", "/scratch/link", "/dev/fd/5", "/proc/self/cwd", "/scratch/cwd"]
    {
        let error = linked.command("pwd").current_dir(path).fd(5, passed()).spawn().unwrap_err();
        assert_eq!((error.layer(), error.raw_os_error()), (Layer::Process, Some(libc::ELOOP)), "{path}: {error}");
    }
    // Numbers that are descriptors of the library's while it starts.
    for fd in 3..60 {
        let error = host().command("pwd").current_dir(format!("/proc/self/fd/{fd}")).spawn().unwrap_err();
        assert_eq!(error.layer(), Layer::Process, "{fd}: {error}");
    }
    for (path, errno) in [("/missing", libc::ENOENT), ("/etc/passwd", libc::ENOTDIR)] {
        let error = host().command("pwd").current_dir(path).spawn().unwrap_err();
        assert_eq!((error.layer(), error.raw_os_error()), (Layer::Process, Some(errno)), "{error}");
    }
    let error = host().command("pwd").current_dir("relative").spawn().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPolicy);
    // The allowed, and the default: never where the host is.
    let output = host().bind(real(dir.path()), "/work").command("pwd").current_dir("/work").output().unwrap();
    assert_eq!(output.stdout, b"/work\n");
    assert_eq!(sh(&host(), "pwd; readlink /proc/self/cwd"), "/\n/\n");
}

#[test]
fn programs_that_the_host_starts_meanwhile_get_no_pipe_of_a_sandbox() {
    const NAME: &str = "fds::programs_that_the_host_starts_meanwhile_get_no_pipe_of_a_sandbox";
    if !is_again() {
        again(NAME, &["env"]);
        return;
    }
    let listing = |pid: u32| {
        let mut links: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        links.sort();
        links
    };
    let sleep = || {
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    // posix_spawn(3) returns when the new program has its memory, which is before the kernel closes what is to be
    // closed: a look at once sees too much. What has leaked stays.
    let settled = |pid: u32, expected: &dyn Fn(&[String]) -> bool| {
        for _ in 0..1000 {
            let links = listing(pid);
            if expected(&links) {
                return links;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{pid} still has {:?}", listing(pid));
    };
    let mut alone = sleep();
    std::thread::sleep(std::time::Duration::from_millis(100));
    let expected = settled(alone.id(), &|links| links.contains(&"0".to_owned()));
    let sandbox = host();
    let spawner = std::thread::spawn(move || {
        for _ in 0..100 {
            let output = sandbox.command("echo").arg("done").output().unwrap();
            assert_eq!(output.stdout, b"done\n", "the end of the pipe came");
        }
    });
    let mut sleeps: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(|| (0..4).map(|_| sleep()).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    for sleep in &sleeps {
        settled(sleep.id(), &|links| links == expected);
    }
    spawner.join().unwrap();
    for sleep in sleeps.iter_mut().chain([&mut alone]) {
        sleep.kill().unwrap();
        sleep.wait().unwrap();
    }
}
