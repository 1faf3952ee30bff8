//! What the sections share: the program that every contender runs, and the machine that they run on.

pub(crate) mod contender;
pub(crate) mod floor;
pub(crate) mod host;
pub(crate) mod measure;
pub(crate) mod run;
pub(crate) mod sections;
pub(crate) mod table;

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// What anything here comes to. An error ends the run: a contender that does not work is no error, but missing.
pub(crate) type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The program that does nothing, in the fewest instructions: exit_group(2) with 0.
///
/// Static: it needs nothing in a root. Without a library: the start of a C library is no contender's doing, and takes
/// longer than a spawn on a virtual machine whose host has to emulate the `cpuid` instruction, dozens of which glibc
/// executes.
const WITHOUT_LIBRARY: &str = r#"
void _start(void) {
#if defined(__x86_64__)
    __asm__ volatile("syscall" : : "a"(231), "D"(0));
#elif defined(__aarch64__)
    register long nr __asm__("x8") = 94, code __asm__("x0") = 0;
    __asm__ volatile("svc 0" : : "r"(nr), "r"(code));
#else
#error "no system call is known for this processor"
#endif
    __builtin_unreachable();
}
"#;
const BARE_OPTIONS: &[&str] = &["-O1", "-static", "-nostdlib"];

const WITH_LIBC: &str = "int main(void) { return 0; }\n";
const LIBC_OPTIONS: &[&str] = &["-O1", "-static"];

/// One run of the program.
#[derive(Debug)]
pub(crate) struct Bench {
    /// Gone at the end of the run, with all that was made in it.
    dir: TempDir,
}

impl Bench {
    /// Compiles the program that every contender runs: one without a library, or one with libc.
    pub(crate) fn new(libc: bool) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("belljar-bench-").tempdir()?;
        let bench = Self { dir };
        let (source, options) = if libc { (WITH_LIBC, LIBC_OPTIONS) } else { (WITHOUT_LIBRARY, BARE_OPTIONS) };
        bench.compile("noop", source, options).map(|_| bench)
    }

    /// Compiles a program in C, and returns its path.
    pub(crate) fn compile(&self, name: &str, source: &str, options: &[&str]) -> Result<PathBuf> {
        let (code, program) = (self.path(&format!("{name}.c"))?, self.path(name)?);
        fs::write(&code, source)?;
        let status = Command::new("cc").args(options).arg("-o").arg(&program).arg(code).status();
        match status.map_err(|error| format!("cc: {error}"))?.success() {
            true => Ok(program),
            false => Err(format!("cc can't compile {name}.c with {}", options.join(" ")).into()),
        }
    }

    /// A static program that does nothing.
    pub(crate) fn noop(&self) -> Result<PathBuf> {
        self.path("noop")
    }

    /// A path in the run's own directory, without links.
    pub(crate) fn path(&self, name: &str) -> Result<PathBuf> {
        Ok(self.dir.path().canonicalize()?.join(name))
    }
}

impl fmt::Display for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let user = if host::is_root() { "root" } else { "an unprivileged user" };
        writeln!(f, "Linux {}, {processors} processors, as {user}", read("/proc/sys/kernel/osrelease"))?;
        write!(f, "load average at the start: {}", read("/proc/loadavg"))
    }
}
