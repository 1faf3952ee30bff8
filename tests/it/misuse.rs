//! Bad input: each gets an error that says which layer refused what and why, and never a panic, a guess or a weaker
//! sandbox.
//!
//! What [`refused`] takes is refused by the plan already, which starts nothing.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::Duration;

use belljar::{Cause, Command, Error, ErrorKind, IdMap, Layer, Namespaces, Network, Rootfs, Sandbox, Stdio, Tmpfs};

use crate::harness::{compile_static, host, is_root, noop, real, sh, temp_dir, with_program};
use crate::plan::policies;

/// The parts of an error, in one line.
type Parts<'a> = (Layer, ErrorKind, &'a str, Option<i32>, Option<&'a Path>);

fn parts(error: &Error) -> Parts<'_> {
    (error.layer(), error.kind(), error.step(), error.raw_os_error(), error.path())
}

/// The error of a command that is refused before any process exists: the plan has it too.
#[track_caller]
fn refused(mut command: impl std::borrow::BorrowMut<Command>) -> Error {
    let command = command.borrow_mut();
    let planned = command.plan().expect_err("the plan is refused");
    let spawned = command.spawn().expect_err("the start is refused");
    assert_eq!(planned.to_string(), spawned.to_string());
    assert_eq!(parts(&planned), parts(&spawned));
    planned
}

/// A refusal of the policy, by layer and step.
#[track_caller]
fn invalid(command: impl std::borrow::BorrowMut<Command>, layer: Layer, step: &str) -> Error {
    let error = refused(command);
    assert_eq!((error.layer(), error.kind(), error.step()), (layer, ErrorKind::InvalidPolicy, step), "{error}");
    error
}

/// The error of a command whose plan is fine, and which the kernel refuses.
#[track_caller]
fn failed(mut command: impl std::borrow::BorrowMut<Command>) -> Error {
    let command = command.borrow_mut();
    command.plan().expect("the plan is fine");
    let error = command.spawn().expect_err("the start fails");
    assert_eq!(error.kind(), ErrorKind::Os, "{error}");
    error
}

fn open_null() -> OwnedFd {
    fs::File::open("/dev/null").unwrap().into()
}

fn program(sandbox: &Sandbox) -> Command {
    sandbox.command("/program")
}

// Row 1: the root.

#[test]
fn a_root_that_is_no_directory_is_refused() {
    let dir = temp_dir();
    let dir = real(dir.path());
    let missing = dir.join("missing");
    let error = refused(program(&Sandbox::new().rootfs(&missing)));
    let step = format!("root {}", missing.display());
    assert_eq!(parts(&error), (Layer::Mount, ErrorKind::Os, &*step, Some(libc::ENOENT), Some(&*missing)));
    let file = dir.join("file");
    fs::write(&file, "").unwrap();
    let error = refused(program(&Sandbox::new().rootfs(&file)));
    let step = format!("root {}", file.display());
    assert_eq!(parts(&error), (Layer::Mount, ErrorKind::InvalidPolicy, &*step, Some(libc::ENOTDIR), Some(&*file)));
    let error = invalid(program(&Sandbox::new().rootfs("")), Layer::Mount, "root ");
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn a_root_that_the_caller_may_not_reach_is_refused() {
    let dir = temp_dir();
    let closed = real(dir.path()).join("closed");
    fs::create_dir_all(closed.join("root")).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o600)).unwrap();
    let command = program(&Sandbox::new().rootfs(closed.join("root")));
    if is_root() {
        // Nothing is closed to root.
        command.plan().unwrap();
    } else {
        let error = refused(command);
        assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Os, Some(libc::EACCES)));
        assert_eq!(error.path(), Some(&*closed.join("root")));
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn the_hosts_root_is_refused_under_every_name() {
    for root in ["/", "//", "/.", "/./", "/usr/..", "/usr/../usr/.."] {
        let error = invalid(program(&Sandbox::new().rootfs(root)), Layer::Mount, &format!("root {root}"));
        assert_eq!(error.path(), Some(Path::new(root)));
        assert!(error.hint().unwrap().contains("Rootfs::host()"), "{error:?}");
    }
    // Links that lead there: of the kernel, and of a user.
    let dir = temp_dir();
    symlink("/", dir.path().join("link")).unwrap();
    for root in ["/proc/self/root", "/proc/thread-self/root", &real(dir.path()).join("link").to_string_lossy()] {
        let error = refused(program(&Sandbox::new().rootfs(root)));
        assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::InvalidPolicy, Some(libc::ELOOP)), "{error}");
    }
}

#[test]
fn a_root_behind_a_link_is_refused_and_a_roundabout_path_is_fine() {
    let dir = temp_dir();
    let dir = real(dir.path());
    fs::create_dir_all(dir.join("root/proc")).unwrap();
    symlink("root", dir.join("link")).unwrap();
    let error = refused(program(&Sandbox::new().rootfs(dir.join("link"))));
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::InvalidPolicy, Some(libc::ELOOP)));
    assert!(error.to_string().ends_with("link is a symbolic link"), "{error}");
    assert!(error.hint().unwrap().contains("canonicalize"), "{error:?}");
    let plan = program(&Sandbox::new().rootfs(dir.join("root/../root/./proc/.."))).plan().unwrap().to_string();
    assert!(plan.contains(&format!("root {}/root under", dir.display())), "{plan}");
}

#[test]
fn relative_sources_are_taken_from_the_working_directory() {
    // The working directory of tests is the package's, or wherever the binary was started.
    let here = real(std::env::current_dir().unwrap());
    if here == Path::new("/") {
        let error = invalid(program(&Sandbox::new().rootfs(".")), Layer::Mount, "root .");
        assert!(error.hint().unwrap().contains("Rootfs::host()"), "{error:?}");
    }
    let plan = program(&Sandbox::new().bind_ro(".", "/here")).plan().unwrap().to_string();
    assert!(plan.contains(&format!("bind_ro {} -> /here", here.display())), "{plan}");
}

// Row 2: zero bytes.

#[test]
fn a_zero_byte_is_refused_wherever_it_is() {
    let (bad, shown) = ("/a\0b", "/a\\u{0}b");
    let (mount, exec) = (Layer::Mount, Layer::Exec);
    let cases = [
        (Sandbox::new().rootfs(bad), format!("root {shown}")),
        (Sandbox::new().bind(bad, "/b"), format!("bind {shown} -> /b")),
        (Sandbox::new().bind_ro(bad, "/b"), format!("bind_ro {shown} -> /b")),
        (Sandbox::new().bind("/usr", bad), format!("bind /usr -> {shown}")),
        (Sandbox::new().tmpfs(bad), format!("tmpfs {shown}")),
        (Sandbox::new().dir(bad), format!("dir {shown}")),
        (Sandbox::new().file(bad, ""), format!("file {shown}")),
        (Sandbox::new().symlink(bad, "/b"), format!("symlink {shown} <- /b")),
        (Sandbox::new().symlink("b", bad), format!("symlink b <- {shown}")),
        (Sandbox::new().mask(bad), format!("mask {shown}")),
    ];
    for (sandbox, step) in cases {
        let error = invalid(program(&sandbox), mount, &step);
        assert_eq!(error.to_string(), format!("mount: {step}: the path has a zero byte"));
        assert_eq!(error.path(), Some(Path::new(bad)));
    }
    invalid(program(&Sandbox::new().hostname("a\0")), Layer::Namespaces, "sethostname");
    let error = invalid(program(&Sandbox::new()).current_dir(bad), Layer::Process, "chdir");
    assert_eq!(error.path(), Some(Path::new(bad)));
    let says = |command: &mut Command| invalid(command, exec, "execve").to_string();
    assert_eq!(says(&mut Sandbox::new().command(bad)), "exec: execve: the program has a zero byte");
    let mut command = program(&Sandbox::new());
    assert_eq!(says(command.args(["fine", "b\0"])), "exec: execve: argument 2 has a zero byte");
    let mut command = program(&Sandbox::new());
    assert_eq!(says(command.env("NAME", "secret\0")), "exec: execve: the variable NAME has a zero byte");
    let mut command = program(&Sandbox::new());
    assert_eq!(says(command.env("A\0B", "")), "exec: execve: the variable A\\u{0}B has a zero byte");
    let mut command = Sandbox::new().command("name");
    assert_eq!(says(command.env("PATH", "/bin:/a\0")), "exec: execve: the program has a zero byte");
    // A file may hold any byte.
    let sandbox = host().file("/etc/zero", b"a\0b");
    assert_eq!(sh(&sandbox, "wc -c < /etc/zero").trim(), "3");
}

// Row 3: the program.

/// A dynamic program, for a loader that does not exist.
fn with_loader(dir: &Path, loader: &str) -> PathBuf {
    let (program, source) = (real(dir).join("program"), dir.join("program.c"));
    fs::write(&source, "int main(void) { return 0; }").unwrap();
    let linked = Process::new("cc")
        .arg(format!("-Wl,--dynamic-linker={loader}"))
        .args([OsStr::new("-o"), program.as_os_str(), source.as_os_str()])
        .status();
    assert!(linked.unwrap().success());
    program
}

/// A file that may be executed.
fn executable(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = real(dir).join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn exec_failed(command: impl std::borrow::BorrowMut<Command>, errno: i32, path: &str) -> String {
    let error = failed(command);
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Exec, Some(errno)), "{error}");
    assert!(error.step().starts_with("execve "), "{error}");
    assert_eq!(error.path(), Some(Path::new(path)), "{error}");
    error.hint().expect("a failed exec has a hint")
}

#[test]
fn a_program_without_a_name_is_refused() {
    let error = invalid(Sandbox::new().command(""), Layer::Exec, "execve");
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn a_program_that_is_missing_or_not_executable_is_an_error_of_spawn() {
    let dir = temp_dir();
    let sandbox = with_program(&noop()).bind_ro(real(dir.path()), "/dir").file("/text", "text");
    for missing in ["/nope", "/dir/nope", "/program/nope"] {
        let hint = exec_failed(sandbox.command(missing), libc::ENOENT, missing);
        assert!(hint.contains("no such file"), "{hint}");
    }
    for path in ["/dir", "/text"] {
        let hint = exec_failed(sandbox.command(path), libc::EACCES, path);
        assert!(hint.contains("execute permission"), "{hint}");
    }
    let long = "x".repeat(5000);
    let error = failed(sandbox.command(format!("/{long}")));
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Exec, Some(libc::ENAMETOOLONG)));
    // The control: the sandbox can run what is there.
    assert!(program(&sandbox).status().unwrap().success());
}

#[test]
fn a_program_that_the_kernel_can_not_run_is_an_error_of_spawn() {
    let dir = temp_dir();
    let mut foreign = fs::read(noop()).unwrap();
    // e_machine, in the header of elf(5): a processor that nobody has.
    foreign[18..20].copy_from_slice(&[0xfe, 0xca]);
    let truncated = &fs::read(noop()).unwrap()[..64];
    for (name, content) in
        [("text", &b"echo no shebang\n"[..]), ("foreign", &foreign), ("empty", &[]), ("truncated", truncated)]
    {
        let file = executable(dir.path(), name, content);
        let sandbox = host().bind_ro(&file, "/program");
        let hint = exec_failed(program(&sandbox), libc::ENOEXEC, "/program");
        assert!(hint.contains("neither a program for this processor nor a script"), "{name}: {hint}");
    }
}

#[test]
fn a_missing_loader_or_interpreter_is_named() {
    let dir = temp_dir();
    let unloadable = with_loader(dir.path(), "/lib/nope.so");
    let sandbox = host().bind_ro(&unloadable, "/program");
    let hint = exec_failed(program(&sandbox), libc::ENOENT, "/program");
    assert_eq!(hint, "the ELF loader /lib/nope.so is missing inside");
    let script = executable(dir.path(), "script", "#! /opt/nope -x\n");
    let sandbox = host().bind_ro(script, "/script");
    let hint = exec_failed(sandbox.command("/script"), libc::ENOENT, "/script");
    assert!(hint.starts_with("the interpreter /opt/nope of the script"), "{hint}");
    // An interpreter that is there, and lacks its own loader.
    let script = executable(dir.path(), "second", "#!/program\n");
    let sandbox = host().bind_ro(&unloadable, "/program").bind_ro(script, "/script");
    let hint = exec_failed(sandbox.command("/script"), libc::ENOENT, "/script");
    assert!(hint.starts_with("the interpreter /program of the script, or what that needs to start"), "{hint}");
    // An interpreter that may not be executed.
    let script = executable(dir.path(), "third", "#!/etc/passwd\n");
    let sandbox = host().bind_ro(script, "/script");
    let hint = exec_failed(sandbox.command("/script"), libc::EACCES, "/script");
    assert!(hint.contains("or the interpreter that it names"), "{hint}");
}

#[test]
fn a_hostile_interpreter_line_does_not_reach_the_terminal() {
    let dir = temp_dir();
    let script = executable(dir.path(), "script", b"#!/\x1b]0;title\x07\xff\n");
    let hint = exec_failed(host().bind_ro(script, "/script").command("/script"), libc::ENOENT, "/script");
    assert!(hint.contains("/\\u{1b}]0;title\\u{7}\\xff"), "{hint}");
    assert!(!hint.contains(char::is_control), "{hint:?}");
}

#[test]
fn a_name_is_looked_for_in_the_programs_path_past_what_can_not_be_executed() {
    let dir = temp_dir();
    for place in ["a", "b", "c"] {
        fs::create_dir(dir.path().join(place)).unwrap();
    }
    fs::write(dir.path().join("a/found"), "not executable").unwrap();
    fs::create_dir(dir.path().join("b/found")).unwrap();
    executable(&dir.path().join("c"), "found", "#!/bin/sh\nprintf \"$0\"\n");
    let sandbox = host().bind_ro(real(dir.path()), "/p");
    let search = |path: &str| {
        let mut command = sandbox.command("found");
        command.env("PATH", path);
        command
    };
    assert_eq!(search("/p/a:/p/b:/p/none:/usr/bin/env:/p/c").output().unwrap().stdout, b"/p/c/found");
    let hint = exec_failed(search("/p/none:/p/a:/p/none"), libc::EACCES, "/p/a/found");
    assert!(hint.contains("execute permission"), "{hint}");
    exec_failed(search("/p/none:/usr/bin/env"), libc::ENOENT, "found");
    exec_failed(search(""), libc::ENOENT, "found");
    exec_failed(search(":::"), libc::ENOENT, "found");
    // With a slash, nothing is looked for; from the working directory.
    let mut command = sandbox.command("./found");
    assert_eq!(command.current_dir("/p/c").output().unwrap().stdout, b"./found");
    exec_failed(sandbox.command("./found").env("PATH", "/p/c"), libc::ENOENT, "./found");
}

// Row 4: lengths.

#[test]
fn arguments_have_the_bounds_of_the_kernel() {
    let too_big = |command: &mut Command, what: &str| {
        let error = invalid(command, Layer::Exec, "execve");
        assert_eq!(error.raw_os_error(), Some(libc::E2BIG));
        assert!(error.to_string().contains(what), "{error}");
    };
    let sandbox = with_program(&noop());
    assert!(program(&sandbox).arg("a".repeat(131_071)).status().unwrap().success());
    too_big(program(&sandbox).arg("a".repeat(131_072)), "argument 1 has 131072 bytes");
    too_big(program(&sandbox).env("BIG", "a".repeat(1 << 20)), "the variable BIG has 1048580 bytes");
    too_big(program(&sandbox).args(vec!["a"; 300_000]), "arguments and environment take");
    too_big(&mut sandbox.command("p".repeat(131_072)), "the program has 131072 bytes");
}

#[test]
fn the_total_of_arguments_and_environment_is_refused_where_the_kernel_would() {
    // A quarter of the stack's limit, of which each string takes its bytes, a zero byte, and a pointer.
    const TOTAL: usize = 2 << 20;
    let sandbox = with_program(&noop());
    // The path of the program is there twice: as the first argument, and by itself.
    let fixed = 2 * "/program\0".len() + 8;
    let command = |total: usize| {
        let mut left = total - fixed;
        let mut command = program(&sandbox);
        command.env_clear();
        while left > 0 {
            let string = left.min(100_000);
            command.arg("a".repeat(string - 9));
            left -= string;
        }
        command
    };
    assert!(command(TOTAL).status().unwrap().success());
    let error = invalid(command(TOTAL + 1), Layer::Exec, "execve");
    assert_eq!(error.raw_os_error(), Some(libc::E2BIG));
}

// Row 5: the environment.

#[test]
fn names_of_variables_are_checked_and_the_last_value_wins() {
    for name in ["", "=", "A=B", "=A"] {
        let error = invalid(program(&Sandbox::new()).env(name, "secret"), Layer::Exec, "environment");
        assert!(error.to_string().contains(&format!("\"{name}\" can't be the name of a variable")), "{error}");
        assert!(!format!("{error:?}").contains("secret"));
    }
    let mut command = host().command("sh");
    command.args(["-c", "printf \"$A\""]).env("A", "first").env("A", "last=");
    assert_eq!(command.output().unwrap().stdout, b"last=");
}

// What is not UTF-8 is not bad.

#[test]
fn paths_arguments_and_variables_need_not_be_utf_8() {
    let odd = |name: &[u8]| OsString::from_vec(name.to_vec());
    let dir = temp_dir();
    let source = real(dir.path()).join(odd(b"sour\xffce"));
    fs::create_dir(&source).unwrap();
    let name = odd(b"/tar\xfe get");
    let inside = Path::new(&name);
    let sandbox = host()
        .bind(&source, inside)
        .tmpfs(Tmpfs::new(odd(b"/tmp\xfd")))
        .dir(odd(b"/dir\xfc"))
        .file(odd(b"/file\xfb"), "content")
        .symlink(odd(b"to\xfa"), odd(b"/link\xf9"));
    let mut command = sandbox.command("sh");
    let script = "pwd; printf '%s\\n' \"$1\" \"$ODD\"; cat /file*; ls -d /dir* /tmp?; readlink /link*; : > made";
    command.args(["-ec", script, "sh"]).arg(odd(b"arg\xf8")).env("ODD", odd(b"value\xf7")).current_dir(inside);
    let output = command.output().unwrap();
    assert!(output.outcome.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let expected = b"/tar\xfe get\narg\xf8\nvalue\xf7\ncontent/dir\xfc\n/tmp\xfd\nto\xfa\n";
    assert_eq!(OsStr::from_bytes(&output.stdout), OsStr::from_bytes(expected));
    assert!(source.join("made").exists());
    let plan = command.plan().unwrap().to_string();
    assert!(plan.contains("sour\\xffce -> /tar\\xfe get\n"), "{plan}");
}

// Rows 7 to 9: id maps.

#[test]
fn maps_that_no_kernel_takes_are_refused() {
    let max = u32::MAX;
    let lines = |lines: &[(u32, u32, u32)]| -> Vec<IdMap> {
        lines.iter().map(|(inside, outside, count)| IdMap::new(*inside, *outside, *count)).collect()
    };
    let cases = [
        (lines(&[(0, 1000, 0)]), "maps no id"),
        (lines(&[(max, 1000, 1)]), "goes past the last id"),
        (lines(&[(0, max, 1)]), "goes past the last id"),
        (lines(&[(1, 0, max)]), "goes past the last id"),
        (lines(&[(0, 1000, 2), (1, 2000, 1)]), "overlap"),
        (lines(&[(0, 1000, 2), (5, 1001, 1)]), "overlap"),
        ((0..341).map(|id| IdMap::new(id, id, 1)).collect(), "341 lines: the kernel takes 340"),
    ];
    for (map, says) in cases {
        let uids = map.iter().fold(Sandbox::new(), |sandbox, line| sandbox.uid_map(*line));
        let error = invalid(program(&uids), Layer::Ids, "uid_map");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        let gids = map.iter().fold(Sandbox::new(), |sandbox, line| sandbox.gid_map(*line));
        let error = invalid(program(&gids), Layer::Ids, "gid_map");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_user_who_is_not_mapped_is_refused() {
    let mapped = Sandbox::new().uid_map(IdMap::new(0, 0, 5)).gid_map(IdMap::new(0, 0, 5));
    for (uid, gid, says) in [(5, 0, "uid 5 is not mapped"), (0, 5, "gid 5 is not mapped")] {
        let error = invalid(program(&mapped.clone().user(uid, gid)), Layer::Ids, "user");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
    // With no map, the caller is mapped to the id: which has to be one.
    invalid(program(&Sandbox::new().user(u32::MAX, 0)), Layer::Ids, "uid_map");
    invalid(program(&Sandbox::new().user(0, u32::MAX)), Layer::Ids, "gid_map");
}

#[test]
fn ids_of_others_need_root_or_a_range_that_is_given() {
    // Ids that no /etc/subuid gives to anybody.
    let line = IdMap::new(0, 4_000_000_000, 2);
    let sandbox = with_program(&noop()).uid_map(line).gid_map(line);
    let started = program(&sandbox).status();
    if is_root() {
        assert!(started.unwrap().success());
        return;
    }
    let error = started.unwrap_err();
    assert_eq!((error.layer(), error.kind()), (Layer::Ids, ErrorKind::Unsupported), "{error}");
    let hint = error.hint().expect("a remedy");
    match error.raw_os_error() {
        // Without the helper.
        Some(libc::ENOENT) => assert!(hint.contains("uidmap"), "{hint}"),
        // With it, and without the line.
        Some(libc::EPERM) => {
            assert_eq!(error.path(), Some(Path::new("/etc/subuid")));
            assert!(hint.contains(":4000000000:2` to /etc/subuid"), "{hint}");
        }
        _ => panic!("{error:?}"),
    }
}

// Row 14: mount targets.

#[test]
fn a_target_that_is_no_plain_absolute_path_is_refused() {
    let cases = [("", "absolute"), ("a/b", "absolute"), ("./a", "absolute"), ("/a/../b", "\"..\""), ("/..", "\"..\"")];
    let cases =
        cases.into_iter().chain([("/", "the root itself"), ("//", "the root itself"), ("/.", "the root itself")]);
    for (target, says) in cases {
        let path = Path::new(target);
        let policies = [
            (Sandbox::new().bind("/usr", path), format!("bind /usr -> {target}")),
            (Sandbox::new().bind_ro("/usr", path), format!("bind_ro /usr -> {target}")),
            (Sandbox::new().tmpfs(path), format!("tmpfs {target}")),
            (Sandbox::new().dir(path), format!("dir {target}")),
            (Sandbox::new().file(path, ""), format!("file {target}")),
            (Sandbox::new().symlink("to", path), format!("symlink to <- {target}")),
            (Sandbox::new().mask(path), format!("mask {target}")),
        ];
        for (sandbox, step) in policies {
            let error = invalid(program(&sandbox), Layer::Mount, &step);
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!((error.path(), error.raw_os_error()), (Some(path), Some(libc::EINVAL)));
        }
    }
    let error = invalid(program(&Sandbox::new().symlink("", "/link")), Layer::Mount, "symlink  <- /link");
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn a_target_of_the_wrong_kind_is_told() {
    let dir = temp_dir();
    let dir = real(dir.path());
    fs::write(dir.join("file"), "").unwrap();
    let sandbox = with_program(&noop()).file("/place", "").dir("/dir");
    let cases = [
        (sandbox.clone().bind(&dir, "/place"), libc::EINVAL, "/place"),
        (sandbox.clone().tmpfs("/place"), libc::EINVAL, "/place"),
        (sandbox.clone().bind(dir.join("file"), "/dir"), libc::EINVAL, "/dir"),
        (sandbox.clone().file("/dir", "content"), libc::EINVAL, "/dir"),
        (sandbox.clone().dir("/place"), libc::ENOTDIR, "/place"),
        (sandbox.clone().dir("/place/below"), libc::ENOTDIR, "/place/below"),
        (sandbox.clone().bind(&dir, "/place/below"), libc::ENOTDIR, "/place/below"),
        (sandbox.clone().symlink("to", "/place"), libc::EEXIST, "/place"),
        (sandbox.clone().symlink("a", "/link").symlink("b", "/link"), libc::EEXIST, "/link"),
    ];
    for (sandbox, errno, path) in cases {
        let error = failed(program(&sandbox));
        assert_eq!((error.layer(), error.raw_os_error()), (Layer::Mount, Some(errno)), "{error}");
        assert_eq!(error.path(), Some(Path::new(path)), "{error}");
        assert!(error.hint().is_some(), "{error}");
    }
    // The control; and a mask, which fits both.
    assert!(program(&sandbox.mask("/place").mask("/dir").mask("/none")).status().unwrap().success());
}

#[test]
fn a_missing_target_is_made_but_never_on_the_host() {
    let dir = temp_dir();
    let dir = real(dir.path());
    let sandbox = with_program(&noop());
    for (sandbox, path) in [
        (sandbox.clone().bind(&dir, "/b").tmpfs("/b/new"), "/b/new"),
        (sandbox.clone().bind_ro(&dir, "/b").bind(&dir, "/b/new"), "/b/new"),
        (sandbox.clone().bind(&dir, "/b").dir("/b/new/er"), "/b/new/er"),
        (sandbox.clone().bind(&dir, "/b").file("/b/new", ""), "/b/new"),
        (sandbox.clone().bind(&dir, "/b").symlink("to", "/b/new"), "/b/new"),
        (sandbox.clone().dir("/proc/new"), "/proc/new"),
    ] {
        let error = failed(program(&sandbox));
        assert_eq!((error.layer(), error.raw_os_error()), (Layer::Mount, Some(libc::ENOENT)), "{error}");
        assert_eq!(error.path(), Some(Path::new(path)));
        assert!(error.hint().unwrap().contains("directory of the host"), "{error:?}");
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    let error = failed(program(&sandbox.clone().file("/dev/new", "")));
    assert_eq!((error.raw_os_error(), error.path()), (Some(libc::EROFS), Some(Path::new("/dev/new"))));
    assert!(error.hint().unwrap().contains("/dev"), "{error:?}");
    // On what is the sandbox's own, it is made: the root, and a tmpfs.
    let made = sandbox.tmpfs("/t").bind(&dir, "/t/a/b").dir("/t/c/d").file("/new/file", "").symlink("x", "/t/e/f");
    assert!(program(&made).status().unwrap().success());
}

#[test]
fn what_is_mounted_later_covers_what_was_mounted_earlier() {
    let dir = temp_dir();
    fs::write(dir.path().join("file"), "bound").unwrap();
    let dir = real(dir.path());
    let twice = host().file("/f", "first").file("/f", "second").bind_ro(&dir, "/d").tmpfs("/d");
    assert_eq!(sh(&twice, "cat /f; ls /d | wc -l").trim(), "second0");
    let other = host().tmpfs("/d").bind_ro(&dir, "/d");
    assert_eq!(sh(&other, "cat /d/file"), "bound");
}

// Row 15: bind sources.

#[test]
fn a_source_that_is_missing_or_closed_is_refused() {
    let dir = temp_dir();
    let dir = real(dir.path());
    let missing = dir.join("missing");
    let shown = missing.display();
    for (sandbox, verb) in
        [(Sandbox::new().bind(&missing, "/b"), "bind"), (Sandbox::new().bind_ro(&missing, "/b"), "bind_ro")]
    {
        let error = refused(program(&sandbox));
        let step = format!("{verb} {shown} -> /b");
        assert_eq!(parts(&error), (Layer::Mount, ErrorKind::Os, &*step, Some(libc::ENOENT), Some(&*missing)));
        let text = format!("mount: {verb} {shown} -> /b: No such file or directory (os error 2)");
        assert_eq!(error.to_string(), text);
    }
    fs::write(dir.join("file"), "").unwrap();
    let error = refused(program(&Sandbox::new().bind(dir.join("file/below"), "/b")));
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Os, Some(libc::ENOTDIR)));
    let error = refused(program(&Sandbox::new().bind("", "/b")));
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::InvalidPolicy, Some(libc::ENOENT)));
    let error = refused(program(&Sandbox::new().bind(format!("/{}", "x/".repeat(3000)), "/b")));
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Os, Some(libc::ENAMETOOLONG)));
    symlink("loop", dir.join("loop")).unwrap();
    let error = refused(program(&Sandbox::new().bind(dir.join("loop"), "/b")));
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::InvalidPolicy, Some(libc::ELOOP)));
}

/// The word by which a test process knows that it was started to run one test, alone.
const ALONE: &str = "BELLJAR_TEST_UMASK";

#[test]
fn the_umask_of_the_host_changes_nothing() {
    if std::env::var_os(ALONE).is_none() {
        // In a process of its own: a umask is for all threads.
        let name = "misuse::the_umask_of_the_host_changes_nothing";
        let output = Process::new("sh")
            .args(["-c", "umask 077 && exec \"$@\"", "sh"])
            .arg(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    }
    let sandbox = host().dir("/made/dir").file("/made/file", "").tmpfs("/t").dir("/t/dir");
    let script = "umask; stat -c '%a %n' / /made /made/dir /made/file /t /t/dir /tmp /etc /etc/passwd /dev";
    let modes = "0022\n755 /\n755 /made\n755 /made/dir\n444 /made/file\n1777 /t\n755 /t/dir\n1777 /tmp\n755 /etc\n\
                 444 /etc/passwd\n755 /dev\n";
    assert_eq!(sh(&sandbox, script), modes);
    if is_root() {
        // A program with another id than the builder's could not even enter its root.
        let line = IdMap::new(0, 0, 10);
        assert_eq!(sh(&sandbox.uid_map(line).gid_map(line).user(7, 7), script), modes);
    }
}

// Row 16: sizes.

#[test]
fn bounds_of_a_tmpfs_that_mean_something_else_to_the_kernel_are_refused() {
    let tmpfs = |tmpfs: Tmpfs| program(&with_program(&noop()).tmpfs(tmpfs));
    let new = || Tmpfs::new("/t");
    for (bad, says) in [
        (new().size(0), "size"),
        (new().size(1 << 63), "size"),
        (new().size(u64::MAX), "size"),
        (new().inodes(0), "inodes"),
        (new().inodes(u64::MAX), "inodes"),
        (new().mode(0o10000), "mode"),
    ] {
        let error = invalid(tmpfs(bad), Layer::Mount, "tmpfs /t");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!((error.raw_os_error(), error.path()), (Some(libc::EINVAL), Some(Path::new("/t"))));
    }
    for good in [new().size(1).inodes(1).mode(0), new().size(i64::MAX as u64).mode(0o7777)] {
        assert!(tmpfs(good).status().unwrap().success());
    }
}

// Row 19: the name of the host.

#[test]
fn a_host_name_is_printable_and_short_and_never_the_hosts() {
    let before = fs::read("/proc/sys/kernel/hostname").unwrap();
    let (long, longest) = ("h".repeat(65), "h".repeat(64));
    for bad in ["", &long, "münchen", "a b", "a\nb", "a\tb", "\u{1b}[1m"] {
        invalid(program(&Sandbox::new().hostname(bad)), Layer::Namespaces, "sethostname");
    }
    let without = host().namespaces(Namespaces::default() - Namespaces::UTS);
    let error = invalid(program(&without.hostname("mine")), Layer::Namespaces, "sethostname");
    assert!(error.to_string().contains("Namespaces::UTS"), "{error}");
    for good in ["a", &longest] {
        assert_eq!(sh(&host().hostname(good), "cat /proc/sys/kernel/hostname").trim(), good);
    }
    assert_eq!(fs::read("/proc/sys/kernel/hostname").unwrap(), before);
}

// Row 20: the working directory.

#[test]
fn a_working_directory_that_the_program_can_not_have_is_told() {
    for relative in ["", "tmp", "./tmp", "../tmp"] {
        let error = invalid(program(&Sandbox::new()).current_dir(relative), Layer::Process, "chdir");
        assert_eq!(error.path(), Some(Path::new(relative)));
    }
    let sandbox = with_program(&noop()).file("/file", "").symlink("/nope", "/dangling").tmpfs(Tmpfs::new("/t").mode(0));
    for (path, errno) in [
        ("/nope", libc::ENOENT),
        ("/dangling", libc::ENOENT),
        ("/file", libc::ENOTDIR),
        // Links of /proc could lead out of the root.
        ("/proc/self/cwd", libc::ELOOP),
        ("/proc/self/root", libc::ELOOP),
        ("/proc/self/fd/0", libc::ELOOP),
        ("/proc/1/cwd", libc::EACCES),
    ] {
        let error = failed(program(&sandbox).current_dir(path));
        // Whoever may not look at init may not even see that it is a link.
        let errno = match (errno, error.raw_os_error()) {
            (libc::EACCES, Some(libc::ELOOP)) => libc::ELOOP,
            _ => errno,
        };
        let step = format!("chdir {path}");
        let parts = (Layer::Process, ErrorKind::Os, &*step, Some(errno), Some(Path::new(path)));
        assert_eq!(self::parts(&error), parts, "{error}");
        assert!(error.hint().is_some(), "{error:?}");
    }
    // Root's mode bits bind here too: it has no capability left.
    let closed = sandbox.clone().dir("/t/below");
    let error = failed(program(&closed).current_dir("/t/below"));
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Process, Some(libc::EACCES)));
    assert!(error.hint().unwrap().contains("may not enter"), "{error:?}");
    // "..", at the root, is the root.
    assert!(program(&sandbox).current_dir("/tmp/../..").status().unwrap().success());
}

// Row 21: the handle.

fn sleeper() -> Command {
    let source = "#include <unistd.h>\nint main(void) { for (;;) pause(); }";
    program(&with_program(&compile_static("sleeper", source)))
}

#[test]
fn a_wait_may_be_as_short_and_as_long_as_can_be() {
    let mut child = sleeper().spawn().unwrap();
    for timeout in [Duration::ZERO, Duration::from_nanos(1), Duration::from_millis(1)] {
        assert_eq!(child.wait_timeout(timeout).unwrap(), None);
    }
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    let outcome = child.wait_timeout(Duration::MAX).unwrap().unwrap();
    assert_eq!((outcome.cause(), outcome.signal(), outcome.code()), (Cause::Killed, Some(libc::SIGKILL), None));
    for timeout in [Duration::ZERO, Duration::from_secs(u64::MAX), Duration::MAX] {
        assert_eq!(child.wait_timeout(timeout).unwrap(), Some(outcome.clone()));
    }
}

#[test]
fn everything_can_be_done_twice_and_after_the_end() {
    let mut child = sleeper().stdin(Stdio::piped()).spawn().unwrap();
    child.kill().unwrap();
    child.kill().unwrap();
    let outcome = child.wait().unwrap();
    assert_eq!(child.wait().unwrap(), outcome);
    assert_eq!(child.try_wait().unwrap(), Some(outcome.clone()));
    child.kill().unwrap();
    assert_eq!(child.wait_with_output().unwrap().outcome, outcome);
    // A kill after the end changes nothing about how it was.
    let mut child = program(&with_program(&noop())).spawn().unwrap();
    let outcome = child.wait().unwrap();
    child.kill().unwrap();
    assert_eq!((child.wait().unwrap().cause(), outcome.cause()), (Cause::Exited, Cause::Exited));
    let mut child = program(&with_program(&noop())).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_handle_that_is_dropped_takes_the_program_along() {
    let child = sleeper().spawn().unwrap();
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    let ours = |proc: &Path| {
        let status = fs::read_to_string(proc.join("status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{}", std::process::id()))
    };
    assert!(ours(&proc));
    drop(child);
    assert!(!ours(&proc), "not even a zombie is left");
}

#[test]
fn a_command_and_a_policy_can_be_used_again_after_a_failure() {
    let sandbox = with_program(&noop());
    let mut command = sandbox.command("/program");
    command.current_dir("/nope");
    failed(&mut command);
    failed(&mut command);
    command.current_dir("/");
    for _ in 0..2 {
        assert!(command.status().unwrap().success());
    }
}

// Row 23: contradictions.

#[test]
fn options_that_contradict_each_other_are_refused() {
    let without = |namespace| Sandbox::new().namespaces(Namespaces::default() - namespace);
    let everything = || Sandbox::new().namespaces(Namespaces::all());
    let network = |sandbox: Sandbox| invalid(program(&sandbox), Layer::Network, "network").to_string();
    let (net, mount, user) = (Namespaces::NET, Namespaces::MOUNT, Namespaces::USER);
    assert!(network(everything().network(Network::Host)).contains("Network::Host contradicts Namespaces::NET"));
    assert!(network(without(net).network(Network::None)).contains("Network::None needs Namespaces::NET"));
    assert!(network(without(net).network(Network::Loopback)).contains("Network::Loopback needs Namespaces::NET"));
    for sandbox in [
        without(mount).rootfs(Rootfs::empty()),
        without(mount).rootfs(Rootfs::host()),
        without(mount).bind("/usr", "/b"),
        without(mount).tmpfs("/t"),
        without(mount).mask("/proc/cpuinfo"),
    ] {
        let error = invalid(program(&sandbox), Layer::Mount, "root");
        assert!(error.to_string().contains("needs Namespaces::MOUNT"), "{error}");
    }
    // Without a user namespace an unprivileged caller is refused before its maps are looked at.
    let none = Sandbox::new().namespaces(Namespaces::empty());
    let line = IdMap::new(0, 0, 1);
    invalid(program(&none.clone().uid_map(line)), Layer::Ids, "uid_map");
    invalid(program(&none.clone().gid_map(line)), Layer::Ids, "gid_map");
    if is_root() {
        let error = invalid(program(&none.user(u32::MAX, 0)), Layer::Ids, "user");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    } else {
        let error = invalid(program(&none.user(0, 0)), Layer::Ids, "user");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        let error = invalid(program(&without(user)), Layer::Namespaces, "clone");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
}

#[test]
fn what_a_plan_does_not_refuse_gets_as_far_as_the_program() {
    for (policy, mut command) in policies() {
        let error = command.spawn().expect_err("there is no such program");
        if error.kind() == ErrorKind::Unsupported && !is_root() {
            // Ids that nobody gives to this caller.
            assert_eq!(error.layer(), Layer::Ids, "{policy}: {error}");
            continue;
        }
        let parts = (Layer::Exec, ErrorKind::Os, "execve /no/such/program", Some(libc::ENOENT));
        assert_eq!((error.layer(), error.kind(), error.step(), error.raw_os_error()), parts, "{policy}: {error}");
    }
}

#[test]
fn numbers_of_descriptors_are_checked() {
    for number in [-1, i32::MIN, 0, 1, 2] {
        invalid(program(&Sandbox::new()).fd(number, open_null()), Layer::Fds, &format!("fd {number}"));
    }
    let error = invalid(program(&Sandbox::new()).fd(3, open_null()).fd(3, open_null()), Layer::Fds, "fd 3");
    assert!(error.to_string().contains("two descriptors"), "{error}");
    // More than any limit of open files lets through: the kernel says so.
    let error = failed(program(&with_program(&noop())).fd(i32::MAX, open_null()));
    assert!(error.hint().is_some_and(|hint| hint.contains("RLIMIT_NOFILE")), "{error}");
    assert_eq!((error.layer(), error.raw_os_error()), (Layer::Fds, Some(libc::EBADF)));
    assert_eq!(error.step(), "dup fd -> 2147483647");
}
