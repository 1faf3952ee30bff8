//! Languages and tools of the host under the default policy, unchanged: their threads, processes and build systems.

use std::path::{Path, PathBuf};
use std::process::Command;

use belljar::Sandbox;

use crate::harness::host;
use crate::skip;

/// Runs a script of bash, or of another shell, and returns what it wrote. It must succeed.
#[track_caller]
fn run(sandbox: &Sandbox, program: &str, args: &[&str]) -> String {
    let output = sandbox.command(program).args(args).env("LC_ALL", "C").env("HOME", "/tmp").output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error} ({:?})", error.hint()));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.outcome.success(), "{program} {args:?}: {:?}\n{stdout}\n{stderr}", output.outcome);
    stdout.into_owned()
}

/// The path of a program below /usr, as the sandbox has it.
fn find(program: &str) -> Option<String> {
    let paths = ["/usr/bin", "/usr/local/bin"].map(|dir| format!("{dir}/{program}"));
    paths.into_iter().find(|path| Path::new(path).exists())
}

/// The path of a program below /usr; skips the test without it.
macro_rules! needs {
    ($program:literal) => {
        match find($program) {
            Some(path) => path,
            None => skip!("there is no {} in /usr", $program),
        }
    };
}

#[test]
fn shells_run_jobs_pipes_and_substitutions() {
    let script = "cd /tmp; for i in 1 2 3; do (echo $i >out$i) & done; wait; cat out*; mkfifo f; echo x >f & cat f; \
                  trap 'echo trapped' USR1; kill -USR1 $$; ulimit -n >/dev/null; echo done | tr a-z A-Z";
    assert_eq!(run(&host(), "sh", &["-ec", script]), "1\n2\n3\nx\ntrapped\nDONE\n");
    let bash = needs!("bash");
    let script = "coproc cat; echo co >&${COPROC[1]}; read -u ${COPROC[0]} line; echo $line; mapfile -t a < <(seq 3); \
                  echo ${#a[@]}; timeout 20 sleep 0; echo $?";
    assert_eq!(run(&host(), &bash, &["-ec", script]), "co\n3\n0\n");
}

#[test]
fn python_runs_threads_processes_and_loops() {
    let python = needs!("python3");
    let script = r"
import asyncio, concurrent.futures, ctypes, multiprocessing, mmap, os, signal, socket, sqlite3, subprocess, threading
def square(n): return n * n
async def main():
    process = await asyncio.create_subprocess_exec('echo', 'child', stdout=-1)
    server = await asyncio.start_server(lambda r, w: (w.write(b'served'), w.close()), sock=listener())
    path = '/tmp/socket'
    r, w = await asyncio.open_unix_connection(path)
    answer = await r.read(); w.close(); server.close()
    gathered = await asyncio.gather(*[asyncio.sleep(0, n) for n in range(5)])
    return (await process.stdout.read()).decode().strip(), answer.decode(), sum(gathered)
def listener():
    s = socket.socket(socket.AF_UNIX); s.bind('/tmp/socket'); s.listen(); return s
if __name__ == '__main__':
    with concurrent.futures.ThreadPoolExecutor(8) as pool: print(sum(pool.map(square, range(10))))
    for method in 'fork', 'spawn', 'forkserver':
        with multiprocessing.get_context(method).Pool(2) as pool: print(method, sum(pool.map(square, range(10))))
    print(asyncio.run(main()))
    queue = multiprocessing.Queue(); queue.put(7); print(queue.get())
    print(subprocess.run('echo $((6 * 7))', shell=True, capture_output=True).stdout.decode().strip())
    m = mmap.mmap(-1, 4096); m[:1] = b'x'; print(ctypes.CDLL(None).getpid() == os.getpid())
    print(sqlite3.connect('/tmp/db').execute('select 6 * 7').fetchone()[0])
    os.memfd_create('m'); signal.setitimer(signal.ITIMER_REAL, 0); os.sched_getaffinity(0); print('end')
";
    let expected = "285\nfork 285\nspawn 285\nforkserver 285\n('child', 'served', 10)\n7\n42\nTrue\n42\nend\n";
    let sandbox = host().file("/src/main.py", script);
    assert_eq!(run(&sandbox, &python, &["/src/main.py"]), expected);
}

#[test]
fn perl_forks_and_has_sockets() {
    let perl = needs!("perl");
    let script = "use strict; use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Local => '/tmp/s', Listen => 1) or die $!; \
        my $p = fork; if (!$p) { my $c = IO::Socket::UNIX->new(Peer => '/tmp/s') or die $!; print $c \"hello\\n\"; exit 5 } \
        my $c = $s->accept; print scalar <$c>; waitpid $p, 0; print $? >> 8, \"\\n\"; print `echo sub`; \
        local $SIG{ALRM} = sub { print \"alarm\\n\" }; alarm 1; select undef, undef, undef, 20;";
    assert_eq!(run(&host(), &perl, &["-e", script]), "hello\n5\nsub\nalarm\n");
}

#[test]
fn node_runs_workers_and_children() {
    let node = needs!("node");
    let script = r"
const { Worker, isMainThread, parentPort } = require('worker_threads');
const { execFileSync, fork } = require('child_process'), fs = require('fs'), net = require('net'), crypto = require('crypto');
if (!isMainThread) parentPort.postMessage(6 * 7);
else if (process.argv[2]) process.send('forked');
else (async () => {
    const workers = [1, 2, 3].map(() => new Promise(done => new Worker(__filename).on('message', done)));
    console.log((await Promise.all(workers)).join(' '));
    console.log(execFileSync('echo', ['child']).toString().trim());
    console.log(await new Promise(done => fork(__filename, ['x']).on('message', done)));
    await fs.promises.writeFile('/tmp/x', 'content');
    console.log((await fs.promises.readFile('/tmp/x')).toString());
    console.log((await new Promise(done => crypto.pbkdf2('a', 'b', 10, 8, 'sha1', (e, key) => done(key)))).length);
    const server = net.createServer(socket => socket.end('served')).listen('/tmp/s', () =>
        net.connect('/tmp/s').on('data', data => { console.log(data.toString()); server.close(); }));
})();
";
    let expected = "42 42 42\nchild\nforked\ncontent\n8\nserved\n";
    assert_eq!(run(&host().file("/src/main.js", script), &node, &["/src/main.js"]), expected);
}

/// The directories of /etc that Debian's Java has its configuration in.
fn java_configuration() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/etc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("java-")).collect()
}

#[test]
fn java_compiles_and_runs_threads_and_processes() {
    let (Some(java), Some(javac)) = (find("java"), find("javac")) else { skip!("there is no JDK in /usr") };
    let source = r#"
import java.util.concurrent.*;
import java.util.stream.*;
public class Main {
    public static void main(String[] args) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(4);
        System.out.println(pool.invokeAll(IntStream.range(0, 9).mapToObj(n -> (Callable<Integer>) () -> n).toList()).size());
        pool.shutdown();
        System.out.println(IntStream.range(0, 1000).parallel().sum());
        Process child = new ProcessBuilder("echo", "child").start();
        System.out.print(new String(child.getInputStream().readAllBytes()) + child.waitFor() + "\n");
        java.nio.file.Files.writeString(java.nio.file.Path.of("/tmp/x"), "content");
        System.gc();
    }
}
"#;
    let sandbox = java_configuration().iter().fold(host(), |sandbox, path| sandbox.bind_ro(path, path));
    let script = format!("{javac} -d /tmp/classes /src/Main.java && {java} -cp /tmp/classes Main && cat /tmp/x");
    assert_eq!(run(&sandbox.file("/src/Main.java", source), "sh", &["-ec", &script]), "9\n499500\nchild\n0\ncontent");
}

#[test]
fn gcc_gplusplus_and_make_build_what_runs() {
    let (Some(_), Some(_), Some(_)) = (find("gcc"), find("g++"), find("make")) else {
        skip!("there are no gcc, g++ and make in /usr");
    };
    let c = "int sum(int a, int b) { return a + b; }\n";
    let main = "#include <iostream>\n#include <future>\n#include <vector>\n#include <filesystem>\nextern \"C\" int sum(int, int);\n\
                int main() { std::vector<std::future<int>> v;\n\
                for (int i = 0; i < 4; i++) v.push_back(std::async(std::launch::async, sum, i, 1));\n\
                int all = 0; for (auto &f : v) all += f.get();\n\
                try { throw all; } catch (int n) { std::cout << n << std::filesystem::exists(\"/tmp\") << std::endl; } }\n";
    let makefile = "all: main libsum.so\n\t./main\nmain: main.o sum.o\n\tg++ -pthread -o $@ $^\n\
                    libsum.so: sum.o\n\tgcc -shared -flto -o $@ $^\n%.o: /src/%.c\n\tgcc -O2 -pipe -fPIC -c -o $@ $<\n\
                    %.o: /src/%.cc\n\tg++ -O1 -c -o $@ $<\n";
    let sandbox = host().file("/src/sum.c", c).file("/src/main.cc", main).file("/src/Makefile", makefile);
    let script = "mkdir /tmp/build; cd /tmp/build; make -s -j2 -f /src/Makefile";
    assert_eq!(run(&sandbox, "sh", &["-ec", script]), "101\n");
}

#[test]
fn git_tar_and_awk_keep_and_pack_a_tree() {
    let git = needs!("git");
    let script = format!(
        "cd /tmp; export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b; \
         {git} init -q repo; cd repo; seq 1 100 >numbers; mkdir sub; ln -s ../numbers sub/link; {git} add .; \
         {git} commit -qm first; {git} clone -q . ../clone; {git} -C ../clone log --format=%s; {git} gc -q; {git} fsck; \
         tar -cf ../all.tar .; mkdir ../out; tar -xf ../all.tar -C ../out; \
         {git} -C ../out status --porcelain; awk '{{ s += $1 }} END {{ print s }}' ../out/sub/link; \
         tar -czf - . | gzip -d | tar -tf - | grep -c numbers"
    );
    assert_eq!(run(&host(), "sh", &["-ec", &script]), "first\n5050\n1\n");
}

#[test]
fn cargo_builds_a_program_that_runs() {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        // Rust is often installed for root alone.
        crate::for_root!();
        skip!("there is no rustc here")
    };
    let rust = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()).canonicalize().unwrap();
    if !rust.join("bin/cargo").exists() || find("cc").is_none() {
        skip!("there is no cargo beside rustc, or no linker");
    }
    let manifest = "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2021\"\n";
    let main = "fn main() { let n: u32 = std::thread::spawn(|| (1..=10).sum()).join().unwrap(); \
                let out = std::process::Command::new(\"echo\").arg(n.to_string()).output().unwrap(); \
                print!(\"{}\", String::from_utf8(out.stdout).unwrap()); }\n#[test]\nfn works() {}\n";
    let sandbox = host().bind_ro(&rust, "/rust").file("/src/Cargo.toml", manifest).file("/src/src/main.rs", main);
    let script = "cp -r /src /tmp/hello; cd /tmp/hello; export PATH=/rust/bin:$PATH CARGO_HOME=/tmp/cargo; \
                  cargo run -q --offline; cargo test -q --offline | grep -c 'test result: ok. 1 passed'";
    assert_eq!(run(&sandbox, "sh", &["-ec", script]), "55\n1\n");
}

#[test]
fn go_builds_and_runs() {
    let go = needs!("go");
    let source = "package main\nimport (\"fmt\"; \"os/exec\"; \"sync\")\nfunc main() { var g sync.WaitGroup\n\
        for i := 0; i < 50; i++ { g.Add(1); go g.Done() }\ng.Wait()\n\
        out, err := exec.Command(\"echo\", \"child\").Output(); fmt.Print(string(out), err, \"\\n\") }\n";
    let sandbox = host().file("/src/main.go", source);
    let script = format!("export GOCACHE=/tmp/cache GOTOOLCHAIN=local; {go} run /src/main.go");
    assert_eq!(run(&sandbox, "sh", &["-ec", &script]), "child\n<nil>\n");
}
