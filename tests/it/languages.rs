//! Real compilers, shells and interpreters of the host, in a fresh root, from several threads at once.

use std::path::{Path, PathBuf};

use belljar::{Output, Sandbox};

use crate::again::works;
use crate::harness::host;
use crate::skip;

const THREADS: usize = 8;

/// Runs a program from all threads at once; every run must succeed and write the same.
fn run(sandbox: &Sandbox, program: &str, args: &[&str]) -> String {
    let one = || -> Output {
        let output = sandbox.command(program).args(args).env("LC_ALL", "C").output();
        output.unwrap_or_else(|error| panic!("{program}: {error} ({:?})", error.hint()))
    };
    let outputs: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for output in &outputs {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.outcome.success(), "{program} {args:?}: {:?}\n{stderr}", output.outcome);
        assert_eq!(output.stdout, outputs[0].stdout);
    }
    String::from_utf8(outputs[0].stdout.clone()).unwrap()
}

/// Whether the host has the program where its userland is; what lies elsewhere is not inside.
fn has(program: &str) -> bool {
    ["/usr/bin", "/usr/local/bin", "/bin"].iter().any(|dir| Path::new(dir).join(program).exists())
}

#[test]
fn a_shell_with_pipes_jobs_and_files() {
    let script = "set -e; cd /tmp; seq 1 1000 | sort -r | head -n 3 | tr '\\n' ' ' >out; (sleep 0; echo job >job) & wait; \
                  cat out job; test \"$(printf %s abc | wc -c)\" -eq 3; trap 'echo bye' EXIT; f() { return 7; }; f || echo $?";
    assert_eq!(run(&host(), "sh", &["-c", script]), "999 998 997 job\n7\nbye\n");
}

#[test]
fn bash_and_awk() {
    if has("bash") {
        let script = "a=(1 2 3); for i in ${a[@]}; do echo $((i * i)); done; diff <(echo x) <(echo x) && echo same";
        assert_eq!(run(&host(), "bash", &["-c", script]), "1\n4\n9\nsame\n");
    }
    let program = "BEGIN { for (i = 1; i <= 10; i++) s += i; print s; \"echo pipe\" | getline x; print x }";
    assert_eq!(run(&host(), "awk", &[program]), "55\npipe\n");
}

#[test]
fn gcc_compiles_and_the_program_runs() {
    if !has("cc") {
        skip!("there is no C compiler in /usr");
    }
    let source = "#include <stdio.h>\n#include <pthread.h>\n#include <math.h>\nstatic void *f(void *x) { return x; }\n\
                  int main(int argc, char **argv) { pthread_t t; void *r; pthread_create(&t, 0, f, argv[1]);\
                  pthread_join(t, &r); printf(\"%s %.0f\\n\", (char *)r, pow(2, argc + 8)); return 0; }\n";
    let sandbox = host().file("/src/main.c", source);
    let script = "set -e; cc -O1 -Wall -o /tmp/main /src/main.c -pthread -lm; /tmp/main hello";
    assert_eq!(run(&sandbox, "sh", &["-c", script]), "hello 1024\n");
    // A compiler's failure is its own, with its message.
    let output = host().file("/src/bad.c", "int main(").command("cc").args(["-c", "/src/bad.c"]).output().unwrap();
    assert_eq!(output.outcome.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bad.c"));
}

#[test]
fn python() {
    // By its path: another one may come first in the PATH of whoever runs this.
    if !Path::new("/usr/bin/python3").exists() {
        skip!("there is no python3 in /usr/bin");
    }
    let script = "import os, subprocess, tempfile, threading, json, hashlib, multiprocessing\n\
        r = []\nt = [threading.Thread(target=r.append, args=(i,)) for i in range(5)]\n\
        [x.start() for x in t]; [x.join() for x in t]\n\
        with tempfile.NamedTemporaryFile() as f: f.write(b'x'); f.flush(); assert os.stat(f.name).st_size == 1\n\
        print(sum(r), subprocess.check_output(['echo', 'sub']).decode().strip(), json.dumps([1, None]))\n\
        print(hashlib.sha256(b'x').hexdigest()[:8], multiprocessing.Lock() is not None, os.urandom(4) != b'')\n";
    assert_eq!(run(&host(), "/usr/bin/python3", &["-c", script]), "10 sub [1, null]\n2d711642 True True\n");
}

#[test]
fn perl() {
    if !has("perl") {
        skip!("there is no perl in /usr");
    }
    let script = "use strict; use File::Temp; my ($h, $f) = File::Temp::tempfile(); print $h 'x'; close $h; \
                  print -s $f, ' ', `echo sub`, join(',', map { $_ * 2 } 1..3), \"\\n\"; \
                  my $p = fork; exit 3 unless $p; waitpid $p, 0; print $? >> 8, \"\\n\"";
    assert_eq!(run(&host(), "perl", &["-e", script]), "1 sub\n2,4,6\n3\n");
}

/// The directory that holds rustc, its libraries and its linker's part, wherever it is installed.
fn rust() -> Option<PathBuf> {
    let output = std::process::Command::new("rustc").args(["--print", "sysroot"]).output().ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    output.status.success().then_some(path)?.canonicalize().ok()
}

#[test]
fn rustc_compiles_and_the_program_runs() {
    let Some(rust) = rust() else {
        // Rust is often installed for root alone.
        crate::for_root!();
        skip!("there is no rustc here")
    };
    if !works(&["cc", "--version"]) {
        skip!("rustc needs a linker");
    }
    let source =
        "fn main() { let sum: u32 = std::thread::spawn(|| (1..=10).sum()).join().unwrap(); println!(\"{sum}\"); }";
    let sandbox = host().bind_ro(&rust, "/rust").file("/src/main.rs", source);
    let script = "set -e; /rust/bin/rustc -o /tmp/main /src/main.rs; /tmp/main";
    // Once is enough for one this heavy.
    let output = sandbox.command("sh").args(["-c", script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "55\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn other_interpreters_of_the_host() {
    let mut found = 0;
    for (program, args) in [
        ("node", ["-e", "console.log(6 * 7)"]),
        ("ruby", ["-e", "puts 6 * 7"]),
        ("lua", ["-e", "print(6 * 7)"]),
        ("php", ["-r", "echo 6 * 7, \"\\n\";"]),
        ("guile", ["-c", "(display (* 6 7)) (newline)"]),
    ] {
        if has(program) {
            found += 1;
            assert_eq!(run(&host(), program, &args), "42\n", "{program}");
        }
    }
    println!("{found} more interpreters");
}
