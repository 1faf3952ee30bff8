//! What the tests share: programs to run, and looks at the host from outside.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use belljar::{Landlock, Layer, Rootfs, Sandbox, Seccomp};

/// Says why a test does not run here, and fails where everything has to.
#[macro_export]
macro_rules! skip {
    ($($why:tt)*) => {{
        let why = format!($($why)*);
        eprintln!("SKIPPED: {}:{}: {why}", file!(), line!());
        assert!(std::env::var_os("BELLJAR_TEST_REQUIRE").is_none(), "skipped, and everything has to run: {why}");
        return;
    }};
}

/// Ends a test that only root can run. That is no skip: `ci/test` runs the suite as root too.
#[macro_export]
macro_rules! for_root {
    () => {
        if !$crate::harness::is_root() {
            eprintln!("FOR ROOT: {}:{}", file!(), line!());
            return;
        }
    };
}

/// Ends a test that keeps changes to a directory in memory, where the kernel can't.
#[macro_export]
macro_rules! memory {
    () => {
        if !$crate::harness::memory_takes_changes() {
            $crate::skip!("before Linux 6.6 a tmpfs has no attributes in user.*, which an overlay needs");
        }
    };
}

/// Whether the tests run as root: the suite is run twice.
pub(crate) fn is_root() -> bool {
    // SAFETY: No arguments, and it never fails.
    unsafe { libc::geteuid() == 0 }
}

/// Whether changes to a directory can be kept in memory: the start says so where they can't.
pub(crate) fn memory_takes_changes() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let dir = temp_dir();
        let root = Rootfs::dir(real(dir.path())).ephemeral();
        let error = Sandbox::new().rootfs(root).command("/none").spawn().unwrap_err();
        let refused = error.raw_os_error() == Some(libc::EOPNOTSUPP) && error.hint().unwrap().contains("Linux 6.6");
        assert!(refused || error.layer() == Layer::Exec, "{error}");
        !refused
    })
}

/// A root with its changes in memory, for a list of roots: it is left out where the kernel can't.
pub(crate) fn in_memory(root: Rootfs) -> Option<Rootfs> {
    memory_takes_changes().then(|| root.ephemeral())
}

/// A directory of this run that is gone with it, and that everybody may enter.
pub(crate) fn temp_dir() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("belljar-test-").tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Has std remove a directory that changes were kept in: overlayfs makes one in it that nobody may enter.
pub(crate) fn removable(base: &Path) {
    let _ = fs::set_permissions(base.join("work/work"), fs::Permissions::from_mode(0o700));
}

/// The real path of a directory: a bind source has no links but the system's.
pub(crate) fn real(path: impl AsRef<Path>) -> PathBuf {
    path.as_ref().canonicalize().unwrap()
}

/// A word that no file of the host has, for canaries.
pub(crate) fn token() -> String {
    use std::hash::{BuildHasher, Hasher};
    let random = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    format!("canary-{:016x}{:016x}", random(), random())
}

/// The host's userland, with no network: what most tests run a shell in.
pub(crate) fn host() -> Sandbox {
    Sandbox::new().rootfs(Rootfs::host())
}

/// The same sandbox without Landlock and without a filter of system calls: what is left are namespaces and mounts.
pub(crate) fn namespaces_alone(sandbox: &Sandbox) -> Sandbox {
    sandbox.clone().landlock(Landlock::off()).seccomp(Seccomp::off())
}

/// Runs a shell script in a sandbox, and returns what it wrote to standard output. It must succeed.
pub(crate) fn sh(sandbox: &Sandbox, script: &str) -> String {
    let output = sandbox.command("sh").args(["-ec", script]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.outcome.success(), "{script}: {:?}\n{stderr}", output.outcome);
    String::from_utf8(output.stdout).unwrap()
}

/// Compiles a C program, once for each source in a run of the tests. Static: it runs in an empty root.
pub(crate) fn compile_static(name: &str, source: &str) -> PathBuf {
    compile(name, source, &["-O1", "-static", "-pthread"])
}

/// The same, with other options.
pub(crate) fn compile(name: &str, source: &str, options: &[&str]) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    extern "C" fn clean_up() {
        let _ = DIR.get().map(fs::remove_dir_all);
    }
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = DIR.get_or_init(|| {
        // SAFETY: The handler takes nothing and stays as long as the program.
        assert_eq!(unsafe { libc::atexit(clean_up) }, 0);
        real(temp_dir().keep())
    });
    let program = dir.join(name);
    // Where a compiler takes long: what another run has compiled.
    if let Some(made) = std::env::var_os("BELLJAR_TEST_PROGRAMS").map(|made| Path::new(&made).join(name)) {
        if made.exists() {
            return made;
        }
    }
    if !program.exists() {
        let code = dir.join(format!("{name}.c"));
        fs::write(&code, source).unwrap();
        let status = Command::new("cc").args(options).arg("-o").arg(&program).arg(&code).status();
        assert!(status.unwrap().success(), "cc compiles {name}");
        if let Some(keep) = std::env::var_os("BELLJAR_TEST_KEEP_PROGRAMS") {
            // Who runs a test again, as another user or with less, may not: then the first run has it.
            let _ = fs::copy(&program, Path::new(&keep).join(name));
            // For another processor it has to be compiled again: the source, and how.
            let _ = fs::copy(&code, Path::new(&keep).join(format!("{name}.c")));
            let _ = fs::write(Path::new(&keep).join(format!("{name}.options")), options.join(" "));
        }
    }
    program
}

/// A static program that does nothing.
pub(crate) fn noop() -> PathBuf {
    compile_static("noop", "int main(void) { return 0; }")
}

/// A sandbox with an empty root and one static program in it, at `/program`.
pub(crate) fn with_program(program: &Path) -> Sandbox {
    Sandbox::new().bind_ro(program, "/program")
}

/// The open descriptors of this process, with what they refer to.
pub(crate) fn open_fds() -> BTreeSet<String> {
    let entry = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.ok()?.path();
        let target = fs::read_link(&path).ok()?;
        let name = path.file_name()?.to_string_lossy().into_owned();
        // Of another test's file, its test may have removed the name.
        let target = target.to_string_lossy().trim_end_matches(" (deleted)").to_owned();
        (!target.starts_with("/proc")).then(|| format!("{name} {target}"))
    };
    fs::read_dir("/proc/self/fd").unwrap().filter_map(entry).collect()
}

/// The children of this process, zombies included: `pid (name) state`.
pub(crate) fn children() -> Vec<String> {
    let me = std::process::id().to_string();
    let stat = |entry: std::io::Result<fs::DirEntry>| {
        let stat = fs::read_to_string(entry.ok()?.path().join("stat")).ok()?;
        let (front, back) = stat.rsplit_once(')')?;
        let mut fields = back.split_whitespace();
        let (state, parent) = (fields.next()?, fields.next()?);
        (parent == me).then(|| format!("{front}) {state}"))
    };
    fs::read_dir("/proc").unwrap().filter_map(stat).collect()
}

/// The mount table of this process.
pub(crate) fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}
