//! What is run: programs that end well, end badly, do not end, or can't be started.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use belljar::{Pool, Sandbox, Stdio};

/// What a start goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Policy,
    Pool,
}

/// More than the sandboxes of a pool hold, and the 64 network namespaces that it keeps for the next, with six files each.
const MOST_OPEN: usize = 500;

/// The static programs that are run, and the policy.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) sandbox: Sandbox,
    pool: Pool,
}

impl Programs {
    /// Compiles them.
    pub(crate) fn build(dir: &Path) {
        let compile = |name: &str, source: &str| {
            let (code, program) = (dir.join(name).with_extension("c"), dir.join(name));
            fs::write(&code, source).unwrap();
            let status = Command::new("cc").arg("-static").arg("-o").arg(&program).arg(&code).status();
            assert!(status.unwrap().success(), "cc compiles {name}");
        };
        compile("noop", "int main(void) { return 7; }");
        compile("pause", "#include <unistd.h>\nint main(void) { fork(); for (;;) pause(); }");
        compile("crash", "#include <stdlib.h>\nint main(void) { abort(); }");
    }

    /// Takes them from where they have been compiled.
    pub(crate) fn find(dir: &Path) -> Self {
        let programs = ["noop", "pause", "crash"];
        let bind = |sandbox: Sandbox, name| sandbox.bind_ro(dir.join(name), format!("/{name}"));
        let sandbox = programs.into_iter().fold(Sandbox::new(), bind);
        let pool = sandbox.prepare().unwrap().pool(8).unwrap();
        // Not used in every run, and still to be the same at its end.
        let pool = pool.idle_timeout(Duration::from_secs(1 << 20));
        Self { sandbox, pool }
    }

    /// Waits until the pool is full, and has nothing of those that have ended.
    pub(crate) fn settle(&self) {
        while self.pool.ready() < 8 {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.pool.refill().unwrap();
        let open = fs::read_dir("/proc/self/fd").unwrap().count();
        assert!(open < MOST_OPEN, "{open} files are open");
    }

    /// One spawn of the mix, judged. Returns how long it took until the program ran, or was refused.
    pub(crate) fn spawn(&self, from: From, number: usize) -> Duration {
        let start = Instant::now();
        let command = |program: &str| match from {
            From::Policy => self.sandbox.command(program),
            From::Pool => self.pool.command(program),
        };
        match number % 16 {
            0 => {
                let error = command("/missing").spawn().unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
                start.elapsed()
            }
            1 => {
                let sandbox = self.sandbox.clone().tmpfs("/noop/x");
                assert_eq!(sandbox.command("/noop").spawn().unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
                start.elapsed()
            }
            2 | 3 => {
                let mut child = command("/pause").spawn().unwrap();
                let time = start.elapsed();
                child.kill().unwrap();
                assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
                time
            }
            4 | 5 => {
                let child = command("/pause").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
                let time = start.elapsed();
                drop(child);
                time
            }
            6 => {
                let mut child = command("/pause").spawn().unwrap();
                let time = start.elapsed();
                assert_eq!(child.wait_timeout(Duration::from_millis(1)).unwrap(), None);
                time
            }
            7 => {
                let mut child = command("/crash").spawn().unwrap();
                let time = start.elapsed();
                assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGABRT));
                time
            }
            8 | 9 => {
                let child = command("/noop").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
                let time = start.elapsed();
                assert_eq!(child.wait_with_output().unwrap().outcome.code(), Some(7));
                time
            }
            _ => {
                let mut child = command("/noop").spawn().unwrap();
                let time = start.elapsed();
                assert_eq!(child.wait().unwrap().code(), Some(7));
                time
            }
        }
    }
}

/// Numbers that look random and are the same in every run: xorshift64.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
