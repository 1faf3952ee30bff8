//! What a program could do by way of its embedder: by names that are taken for options, by what it preloads, by sockets
//! at the usual places, and by files at names that can be guessed.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::FromRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use belljar::{IdMap, Landlock, Namespaces, Sandbox};

use crate::again::{is_again, output, own_mounts, works};
use crate::harness::{compile_static, host, is_root, namespaces_alone, real, temp_dir};
use crate::ids::subordinate;
use crate::skip;

/// Runs a test again, with variables of the embedder's, and fails as it does.
fn again_with(name: &str, wrapper: &[&str], variables: &[(&str, &str)]) {
    let output = output(name, wrapper, |command| {
        command.envs(variables.iter().copied());
    });
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success() && stdout.contains("1 passed"), "{:?}\n{stdout}\n{stderr}", output.status);
    eprint!("{}", stderr.lines().filter(|line| line.starts_with("SKIPPED")).collect::<Vec<_>>().join("\n"));
}

/// Where the helpers are that a test has in its PATH.
const HELPERS: &str = "BELLJAR_TEST_HELPERS";

/// A directory that everybody may write, with the helpers for ids: they tell their arguments, and do what the real ones do.
/// Unlike those they are not set-user-ID, so that the loader obeys their environment.
fn helpers() -> tempfile::TempDir {
    let dir = temp_dir();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    for name in ["newuidmap", "newgidmap"] {
        let path = dir.path().join(name);
        let told = dir.path().display();
        let fail = format!("if test -e {told}/fail; then printf '\\033[2Jno\\a\\n' >&2; exit 1; fi");
        fs::write(
            &path,
            format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >>{told}/told\n{fail}\nexec /usr/bin/{name} \"$@\"\n"),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

/// Runs a test again, with the helpers first in PATH. In there: the directory.
fn with_helpers(name: &str) -> Option<PathBuf> {
    if is_again() {
        return std::env::var_os(HELPERS).map(PathBuf::from);
    }
    let dir = helpers();
    let dir = real(dir.path());
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    again_with(name, &["env"], &[("PATH", &path), (HELPERS, dir.to_str().unwrap())]);
    None
}

/// A sandbox with more ids than the caller's, if it can have them; the helpers map them for whoever is not root.
fn with_ids(sandbox: Sandbox) -> Option<Sandbox> {
    if is_root() {
        let range = IdMap::new(0, 100_000, 1000);
        return Some(sandbox.uid_map(range).gid_map(range));
    }
    let (first, _) = subordinate()?;
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let more = IdMap::new(1, first, 1000);
    let sandbox = sandbox.uid_map(IdMap::new(0, uid, 1)).gid_map(IdMap::new(0, gid, 1));
    Some(sandbox.uid_map(more).gid_map(more))
}

/// The sandbox, and the same with more ids. Says so where these can't be had.
fn policies(sandbox: &Sandbox) -> Vec<Sandbox> {
    let more = with_ids(sandbox.clone());
    if more.is_none() {
        eprintln!("SKIPPED: {}: no subordinate ids are given to this user: newuidmap is not tried", file!());
        assert!(std::env::var_os("BELLJAR_TEST_REQUIRE").is_none(), "everything has to run");
    }
    [sandbox.clone()].into_iter().chain(more).collect()
}

/// Asserts that the helpers have been called where they are needed, with numbers and nothing else.
fn assert_numbers_only(helpers: &Path) {
    if is_root() || subordinate().is_none() {
        return;
    }
    let told = fs::read_to_string(helpers.join("told")).unwrap();
    assert!(told.lines().count() > 6, "{told}");
    assert!(told.lines().all(|line| line.bytes().all(|byte| byte.is_ascii_digit()) && !line.is_empty()), "{told:?}");
}

/// Names that somebody may take for options, or for several words.
const NAMES: [&str; 8] = ["--bind", "-", "--", "-c", "--ro-bind=x", "a\nb", "--bind\n-c\nx", "-\x1b[2J\x07"];

/// Tells its arguments, and where something is mounted: all separated by null bytes.
const TELL: &str = r#"
#include <stdio.h>
int main(int argc, char **argv) {
    char line[4096], target[4096];
    for (int i = 0; i < argc; i++) fwrite(argv[i], 1, __builtin_strlen(argv[i]) + 1, stdout);
    FILE *mounts = fopen("/proc/self/mountinfo", "r");
    while (fgets(line, sizeof line, mounts))
        if (sscanf(line, "%*s %*s %*s %*s %4095s", target) == 1) fwrite(target, 1, __builtin_strlen(target) + 1, stdout);
    return 0;
}"#;

/// What the program of this name tells, its name aside.
fn told(sandbox: &Sandbox, name: &str) -> Vec<u8> {
    let mut command = sandbox.command(name);
    let output =
        command.args(["--bind", "/", "/host", "-c", "a\nb"]).env("PATH", "/bin").current_dir("/--bind").output();
    let output = output.unwrap_or_else(|error| panic!("{name:?}: {error}"));
    assert!(output.outcome.success(), "{name:?}: {:?}", output.outcome);
    let rest = output.stdout.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"\0"));
    rest.unwrap_or_else(|| panic!("{name:?} is told as {:?}", String::from_utf8_lossy(&output.stdout))).to_vec()
}

#[test]
fn a_name_is_never_an_option() {
    let Some(helpers) = with_helpers("embedder::a_name_is_never_an_option") else { return };
    let program = compile_static("tell", TELL);
    let sandbox = Sandbox::new().dir("/--bind").bind_ro(&program, "/bin/plain");
    let sandbox = NAMES.iter().fold(sandbox, |all, name| all.bind_ro(&program, format!("/bin/{name}")));
    for sandbox in policies(&sandbox) {
        let plain = told(&sandbox, "plain");
        assert!(plain.starts_with(b"--bind\0/\0/host\0-c\0a\nb\0/\0"), "{:?}", String::from_utf8_lossy(&plain));
        for name in NAMES {
            assert_eq!(told(&sandbox, name), plain, "{name:?}");
            let error = sandbox.command(format!("{name}missing")).env("PATH", "/bin").spawn().unwrap_err();
            let text = format!("{error}{error:?}{}", error.hint().unwrap_or_default());
            assert!(!text.contains(char::is_control) && error.to_string().contains("missing"), "{text:?}");
        }
    }
    assert_numbers_only(&helpers);
    // What a helper says is not the terminal's either.
    if !is_root() && subordinate().is_some() {
        fs::write(helpers.join("fail"), "").unwrap();
        let error = with_ids(sandbox).unwrap().command("plain").spawn().unwrap_err().to_string();
        assert!(!error.contains(char::is_control) && error.contains("\\u{1b}[2Jno\\u{7}"), "{error:?}");
    }
}

/// A library that tells in which mount namespace it is loaded, in a file beside it.
fn marker(dir: &Path) -> PathBuf {
    let (source, library) = (dir.join("marker.c"), dir.join("marker.so"));
    let code = format!(
        r#"#include <fcntl.h>
        #include <unistd.h>
        __attribute__((constructor)) static void tell(void) {{
            char name[64];
            ssize_t length = readlink("/proc/self/ns/mnt", name, 63);
            int fd = open("{}/loaded", O_WRONLY | O_APPEND | O_CREAT, 0666);
            if (length > 0) name[length++] = '\n';
            if (fd >= 0 && length > 0) (void)!write(fd, name, length);
        }}
        unsigned la_version(unsigned version) {{ return version; }}
        void gconv_init(void) {{}}"#,
        dir.display()
    );
    fs::write(&source, code).unwrap();
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status().unwrap();
    assert!(status.success());
    library
}

/// Where the marker was loaded since the last look.
fn loaded(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("loaded")).unwrap_or_default();
    let _ = fs::remove_file(dir.join("loaded"));
    text.lines().map(str::to_owned).collect()
}

#[test]
fn what_the_program_preloads_is_never_loaded_outside() {
    let Some(dir) = with_helpers("embedder::what_the_program_preloads_is_never_loaded_outside") else { return };
    let library = marker(&dir);
    let here = fs::read_link("/proc/self/ns/mnt").unwrap().into_os_string().into_string().unwrap();
    for variable in ["LD_PRELOAD", "LD_AUDIT"] {
        // A script, as the helpers are.
        assert!(Command::new("sh").args(["-c", "exit"]).env(variable, &library).status().unwrap().success());
        assert!(loaded(&dir).contains(&here), "the control: {variable}");
    }
    let sandbox = host().bind(&dir, &dir).file("/etc/ld.so.preload", library.to_str().unwrap());
    for sandbox in policies(&sandbox) {
        for variable in ["LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "GCONV_PATH", "LOCPATH", "NLSPATH", "PATH", "ENV"]
        {
            let value = if variable.starts_with("LD_") { &library } else { &dir };
            let mut command = sandbox.command("/bin/sh");
            assert!(command.args(["-c", "exit"]).env(variable, value).status().unwrap().success(), "{variable}");
            let loaded = loaded(&dir);
            assert!(!loaded.is_empty(), "the control: it is loaded inside");
            assert!(!loaded.contains(&here), "{variable}: {loaded:?}, and {here} is the host's");
        }
        sandbox.command("/bin/nothing").env("LD_PRELOAD", &library).spawn().unwrap_err();
        assert_eq!(loaded(&dir), Vec::<String>::new());
    }
    assert_numbers_only(&dir);
}

/// Sockets of a session and of the system, where they usually are.
const SOCKETS: [&str; 15] = [
    "/run/dbus/system_bus_socket",
    "/run/user/0/bus",
    "/run/user/0/wayland-0",
    "/run/user/0/gnupg/S.gpg-agent",
    "/run/user/0/keyring/ssh",
    "/run/user/0/pulse/native",
    "/run/user/0/docker.sock",
    "/run/user/0/podman/podman.sock",
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/systemd/private",
    "/tmp/.X11-unix/X77",
    "/tmp/.ICE-unix/77",
    "/tmp/ssh-canary/agent.77",
];

/// What tells a program where they are.
const VARIABLES: [(&str, &str); 9] = [
    ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/user/0/bus"),
    ("WAYLAND_DISPLAY", "wayland-0"),
    ("XDG_RUNTIME_DIR", "/run/user/0"),
    ("DISPLAY", ":77"),
    ("SSH_AUTH_SOCK", "/tmp/ssh-canary/agent.77"),
    ("GPG_AGENT_INFO", "/run/user/0/gnupg/S.gpg-agent:0:1"),
    ("PULSE_SERVER", "unix:/run/user/0/pulse/native"),
    ("DOCKER_HOST", "unix:///run/docker.sock"),
    ("CONTAINER_HOST", "unix:///run/podman/podman.sock"),
];

/// Empty directories of this run's own in place of those that everybody writes to.
fn cover(dirs: &[&str]) {
    for dir in dirs {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "mode=1777", "none", dir]).status().unwrap();
        assert!(mounted.success(), "{dir}");
    }
}

/// Listeners in place of all sockets, the abstract one of an X server last.
fn listeners() -> Vec<UnixListener> {
    let listen = |path: &&str| {
        fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        UnixListener::bind(path).unwrap()
    };
    let abstract_socket = SocketAddr::from_abstract_name("/tmp/.X11-unix/X77").unwrap();
    let listeners: Vec<_> =
        SOCKETS.iter().map(listen).chain([UnixListener::bind_addr(&abstract_socket).unwrap()]).collect();
    for listener in &listeners {
        listener.set_nonblocking(true).unwrap();
    }
    listeners
}

/// How many listeners have been reached, after `run` has tried all of them.
fn reached(listeners: &[UnixListener], run: impl Fn(&[&str])) -> usize {
    for path in SOCKETS {
        run(&["connect-unix", path]);
    }
    run(&["connect-abstract", "/tmp/.X11-unix/X77"]);
    listeners.iter().filter(|listener| listener.accept().is_ok()).count()
}

#[test]
fn the_usual_sockets_of_a_session_are_not_reached() {
    const NAME: &str = "embedder::the_usual_sockets_of_a_session_are_not_reached";
    if !is_again() {
        if !works(&[own_mounts(), &["true"]].concat()) {
            skip!("unshare(1) makes no mount namespace here");
        }
        again_with(NAME, own_mounts(), &VARIABLES);
        return;
    }
    cover(&["/run", "/tmp"]);
    let listeners = listeners();
    let program = compile_static("containment", include_str!("containment/probe.c"));
    let outside = |words: &[&str]| drop(Command::new(&program).args(words).output().unwrap());
    assert_eq!(reached(&listeners, outside), listeners.len(), "the control");
    // Landlock has no right for sockets in files, and none of these rules allows them: that is the namespaces' part.
    let bare = Sandbox::new().namespaces(Namespaces::empty());
    let bare = bare.landlock(Landlock::new().allow_execute(&program));
    let without = |words: &[&str]| drop(bare.command(&program).args(words).output().unwrap());
    // Landlock keeps from abstract ones since ABI 6.
    let scoped = belljar::host::probe().landlock_abi().is_some_and(|abi| abi >= 6);
    let expected = if scoped { SOCKETS.len() } else { listeners.len() };
    assert_eq!(reached(&listeners, without), expected, "without namespaces all but the abstract one");
    for sandbox in [Sandbox::new(), host(), namespaces_alone(&Sandbox::new()), namespaces_alone(&host())] {
        let sandbox = sandbox.bind_ro(&program, "/probe");
        let inside = |words: &[&str]| drop(sandbox.command("/probe").args(words).output().unwrap());
        assert_eq!(reached(&listeners, inside), 0, "{sandbox:?}");
        let environment = sandbox.command("/probe").arg("environment").output().unwrap().stdout;
        let environment = String::from_utf8(environment).unwrap();
        assert!(environment.contains("HOME=") && std::env::var_os("DISPLAY").is_some(), "the control: {environment}");
        for (name, _) in VARIABLES {
            assert!(!environment.contains(&format!("{name}=")), "{environment}");
        }
    }
}

/// A watch over directories and files: inotify(7).
struct Watch(File);

impl Watch {
    fn new() -> Self {
        // SAFETY: No pointers: the call makes a new descriptor.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: The kernel has just made this descriptor, and nobody else knows it.
        Self(unsafe { File::from_raw_fd(fd) })
    }

    fn add(&self, path: &Path, events: u32) {
        use std::os::fd::AsRawFd;
        let name = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: The name ends in a zero byte, and is only read.
        let watch = unsafe { libc::inotify_add_watch(self.0.as_raw_fd(), name.as_ptr(), events) };
        assert!(watch >= 0, "{}", path.display());
    }

    /// The bytes of the events since the last look.
    fn seen(&mut self) -> usize {
        // More than is ever in its queue: one event of each link in each directory.
        match self.0.read(&mut [0; 1 << 20]) {
            Ok(length) => length,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                0
            }
        }
    }
}

const CHANGES: u32 = libc::IN_CREATE
    | libc::IN_DELETE
    | libc::IN_MOVED_FROM
    | libc::IN_MOVED_TO
    | libc::IN_MODIFY
    | libc::IN_ATTRIB
    | libc::IN_CLOSE_WRITE;

/// Directories that everybody may write, TMPDIR the first.
const SHARED: [&str; 5] = ["/tmp/shared", "/tmp", "/var/tmp", "/dev/shm", "/run"];

/// Links of somebody else's at names that can be guessed, which lead to `target`.
fn plant(target: &Path) {
    let pid = std::process::id();
    let own = (pid..pid + 200).flat_map(|pid| [format!("belljar-{pid}"), format!("belljar.{pid}"), format!(".{pid}")]);
    let fixed =
        ["belljar", ".belljar", "belljar-root", "belljar.lock", "belljar.sock", "newroot", "oldroot", "root", "init"];
    let names: Vec<_> = own.chain(fixed.map(str::to_owned)).collect();
    for dir in SHARED {
        for name in &names {
            let link = Path::new(dir).join(name);
            let _ = fs::remove_file(&link);
            symlink(target, link).unwrap();
        }
    }
}

/// Sandboxes that start, that fail at different steps, and that are killed.
fn start_all(program: &Path) {
    let plain = Sandbox::new().bind_ro(program, "/probe");
    let more = host()
        .file("/etc/made", "content")
        .tmpfs("/scratch")
        .dir("/made")
        .mask("/usr/share")
        .bind_ro(program, "/probe");
    for sandbox in [&plain, &more, &namespaces_alone(&more)] {
        for _ in 0..10 {
            assert!(sandbox.command("/probe").arg("environment").output().unwrap().outcome.success());
            sandbox.command("/missing").spawn().unwrap_err();
            sandbox.clone().tmpfs("/probe/x").command("/probe").spawn().unwrap_err();
            sandbox.command("/probe").arg("victim").spawn().unwrap().kill().unwrap();
        }
    }
    // Its own /tmp is another.
    assert!(more.command("sh").args(["-c", ">/tmp/inside; >/dev/shm/inside"]).status().unwrap().success());
}

#[test]
fn no_file_is_made_in_a_directory_that_others_may_write() {
    const NAME: &str = "embedder::no_file_is_made_in_a_directory_that_others_may_write";
    if !is_again() {
        if !works(&[own_mounts(), &["true"]].concat()) {
            skip!("unshare(1) makes no mount namespace here");
        }
        let program = compile_static("containment", include_str!("containment/probe.c"));
        let wrapper = [own_mounts(), &["env"]].concat();
        again_with(NAME, &wrapper, &[("TMPDIR", SHARED[0]), (HELPERS, program.to_str().unwrap())]);
        return;
    }
    cover(&["/mnt"]);
    let program = Path::new("/mnt/probe");
    fs::copy(std::env::var_os(HELPERS).unwrap(), program).unwrap();
    cover(&["/tmp", "/var/tmp", "/dev/shm", "/run"]);
    fs::create_dir(SHARED[0]).unwrap();
    fs::set_permissions(SHARED[0], fs::Permissions::from_mode(0o777)).unwrap();
    let canary = Path::new("/mnt/canary");
    fs::create_dir(canary).unwrap();
    fs::write(canary.join("file"), "canary").unwrap();
    let mut watch = Watch::new();
    watch.add(canary, libc::IN_ALL_EVENTS);
    // Who makes a directory follows the one, and who makes a file the other.
    for target in [canary.to_owned(), canary.join("file")] {
        plant(&target);
        SHARED.iter().for_each(|dir| watch.add(Path::new(dir), CHANGES));
        watch.seen();
        start_all(program);
        assert_eq!(watch.seen(), 0, "{}", target.display());
        for dir in SHARED {
            let link = Path::new(dir).join("belljar");
            fs::write(if target.is_dir() { link.join("file") } else { link }, "canary").unwrap();
            assert!(watch.seen() > 0, "the control: what a link in {dir} leads to");
            fs::write(Path::new(dir).join("file"), "").unwrap();
            assert!(watch.seen() > 0, "the control: {dir}");
        }
    }
}
