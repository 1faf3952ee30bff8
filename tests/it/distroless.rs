//! The smallest root for one program: what is in it, by the loaders' own word, and that real programs run there.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use belljar::{Distroless, DistrolessFrom, ErrorKind, Layer, Network, Rootfs, Sandbox};

use crate::again::works;
use crate::harness::{compile_static, is_root, real, temp_dir};
use crate::skip;

/// What libc opens by itself, and what that needs: in the root, though no loader lists it.
const OPENED_BY_LIBC: [&str; 4] = ["libnss_files.so.2", "libnss_dns.so.2", "libgcc_s.so.1", "libresolv.so.2"];

/// Runs a command of the host's, which must succeed.
#[track_caller]
fn make(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Compiles C in a directory; `args` come after the source, and paths in them are relative to the directory.
#[track_caller]
fn cc(compiler: &str, dir: &Path, name: &str, source: &str, args: &[&str]) -> PathBuf {
    let code = dir.join("source.c");
    fs::write(&code, source).unwrap();
    let mut command = Command::new(compiler);
    command.current_dir(dir).args(["-O1", "-w", "-o", name, "source.c"]).args(args);
    assert!(command.status().unwrap().success(), "{command:?}");
    fs::remove_file(code).unwrap();
    dir.join(name)
}

/// Runs a program in its own root, and returns what it wrote.
#[track_caller]
fn run(root: Distroless, program: impl AsRef<Path>, args: &[&str]) -> String {
    run_in(&Sandbox::new().rootfs(root), program, args)
}

#[track_caller]
fn run_in(sandbox: &Sandbox, program: impl AsRef<Path>, args: &[&str]) -> String {
    let output = sandbox.command(program.as_ref()).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error} ({:?})", program.as_ref().display(), error.hint()));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.outcome.success(), "{}: {:?}\n{stderr}", program.as_ref().display(), output.outcome);
    String::from_utf8(output.stdout).unwrap()
}

/// The files of the host in a root.
fn sources(root: &Distroless) -> BTreeSet<PathBuf> {
    let source = |file: belljar::DistrolessFile| match file.from() {
        DistrolessFrom::File(path) => Some(path.clone()),
        _ => None,
    };
    root.files().unwrap_or_else(|error| panic!("{error} ({:?})", error.hint())).into_iter().filter_map(source).collect()
}

/// The files that ldd(1) or the loader lists, by their real paths.
fn listed(text: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| {
        let place = line.split(" => ").last()?.trim().split(" (").next()?;
        place.starts_with('/').then(|| real(place))
    };
    text.lines().filter_map(path).collect()
}

/// Programs of /usr/bin that are linked dynamically, spread over the alphabet.
fn programs(count: usize) -> Vec<PathBuf> {
    let entries = fs::read_dir("/usr/bin").unwrap().map(|entry| entry.unwrap().path());
    let elf = |path: &PathBuf| {
        let metadata = path.symlink_metadata().unwrap();
        let mut magic = [0; 4];
        let read = fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic));
        metadata.is_file() && metadata.mode() & 0o6000 == 0 && read.is_ok() && magic == *b"\x7fELF"
    };
    let mut all: Vec<PathBuf> = entries.filter(elf).collect();
    all.sort();
    let step = (all.len() / count).max(1);
    all.into_iter().step_by(step).collect()
}

#[test]
fn the_closure_is_what_the_loader_lists() {
    let (mut compared, mut libraries) = (0, 0);
    let mut chosen = programs(50);
    chosen.extend(["/usr/bin/qemu-system-x86_64", "/usr/bin/gdb", "/usr/bin/curl"].map(PathBuf::from));
    for program in chosen.into_iter().filter(|program| program.exists()) {
        let output = Command::new("ldd").arg(&program).env("LC_ALL", "C").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() || text.contains("statically linked") {
            continue;
        }
        assert!(!text.contains("not found"), "{}: {text}", program.display());
        let expected = listed(&text);
        // The loader itself, asked without the script around it.
        let loader = "/lib64/ld-linux-x86-64.so.2";
        if Path::new(loader).exists() {
            assert_eq!(listed(&make(loader, &["--list", program.to_str().unwrap()])), expected);
        }
        let mut ours = sources(&Rootfs::distroless(&program));
        assert!(ours.remove(&real(&program)));
        ours.retain(|path| expected.contains(path) || !OPENED_BY_LIBC.iter().any(|name| path.ends_with(name)));
        assert_eq!(ours, expected, "{}", program.display());
        compared += 1;
        libraries += expected.len();
    }
    println!("{compared} programs, {libraries} libraries");
    assert!(compared >= 35, "{compared} programs are not enough to compare");
}

#[test]
fn the_same_is_seen_inside_and_nothing_else() {
    let root = Rootfs::distroless("/usr/bin/find");
    let listing: BTreeSet<String> =
        root.files().unwrap().iter().map(|file| file.path().display().to_string()).collect();
    let seen = run(
        root,
        "/usr/bin/find",
        &["/", "(", "-path", "/proc", "-o", "-path", "/dev", ")", "-prune", "-o", "!", "-type", "d", "-print"],
    );
    let seen: BTreeSet<String> = seen.lines().map(str::to_owned).collect();
    let dirs = ["/root", "/tmp", "/home/nonroot"].map(str::to_owned);
    assert_eq!(seen.union(&dirs.into()).cloned().collect::<BTreeSet<_>>(), listing);
    assert!(seen.contains("/usr/bin/find") && seen.contains("/etc/os-release"));
}

#[test]
fn a_dynamically_linked_cpp_program_runs() {
    let dir = temp_dir();
    let dir = real(dir.path());
    let source = "#include <iostream>\n#include <map>\n#include <thread>\n#include <stdexcept>\n#include <pthread.h>\n\
        int main() { std::map<std::string, int> m; std::thread t([&] { m[\"x\"] = 42; }); t.join();\n\
        try { throw std::runtime_error(\"thrown\"); } catch (std::exception &e) { std::cout << e.what() << m[\"x\"]; }\n\
        pthread_t p; pthread_create(&p, 0, [](void *) -> void * { pthread_exit(0); }, 0); pthread_join(p, 0); }\n";
    fs::write(dir.join("main.cpp"), source).unwrap();
    let program = dir.join("main");
    make("c++", &["-o", program.to_str().unwrap(), dir.join("main.cpp").to_str().unwrap(), "-pthread"]);
    assert_eq!(run(Rootfs::distroless(&program), &program, &[]), "thrown42");
    // pthread_exit(3) from C: libgcc_s is opened by libc then, and nothing else names it.
    let exits = "#include <pthread.h>\n#include <stdio.h>\nvoid *f(void *x) { pthread_exit(x); }\n\
        int main(void) { pthread_t p; void *r; pthread_create(&p, 0, f, \"left\"); pthread_join(p, &r); puts(r); return 0; }";
    let program = cc("cc", &dir, "exits", exits, &["-pthread"]);
    assert_eq!(run(Rootfs::distroless(&program), &program, &[]), "left\n");
}

#[test]
fn a_static_server_in_go_serves_on_its_own_loopback() {
    if !works(&["go", "version"]) {
        skip!("there is no Go");
    }
    let dir = temp_dir();
    let dir = real(dir.path());
    let source = r#"package main
import ("fmt"; "io"; "net"; "net/http"; "os/user"; "time"; "crypto/x509")
func main() {
    listener, err := net.Listen("tcp", "127.0.0.1:0")
    if err != nil { panic(err) }
    go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "served ", r.URL.Path) }))
    response, err := http.Get("http://" + listener.Addr().String() + "/it")
    if err != nil { panic(err) }
    body, _ := io.ReadAll(response.Body)
    zone, err := time.LoadLocation("America/Sao_Paulo")
    if err != nil { panic(err) }
    me, err := user.Current()
    if err != nil { panic(err) }
    pool, err := x509.SystemCertPool()
    if err != nil { panic(err) }
    hosts, err := net.LookupHost("localhost")
    if err != nil { panic(err) }
    fmt.Println(string(body), zone, me.Username, len(pool.Subjects()) > 10, hosts[0] == "127.0.0.1" || hosts[0] == "::1")
}
"#;
    fs::write(dir.join("main.go"), source).unwrap();
    let mut build = Command::new("go");
    build.args(["build", "-o", "server", "main.go"]).current_dir(&dir).env("CGO_ENABLED", "0");
    build.env("GOCACHE", dir.join("cache")).env("GOPATH", dir.join("path")).env("GO111MODULE", "off").env("HOME", &dir);
    assert!(build.status().unwrap().success());
    let server = dir.join("server");
    let root = Rootfs::distroless(&server).with_ca_certificates().with_tzdata().with_user("app", 4242);
    // Linked statically: of the host there is nothing but itself and what was named.
    assert_eq!(sources(&root).iter().filter(|path| path.to_string_lossy().contains(".so")).count(), 0);
    let sandbox = Sandbox::new().rootfs(root).network(Network::Loopback).user(4242, 4242);
    assert_eq!(run_in(&sandbox, &server, &[]), "served /it America/Sao_Paulo app true true\n");
    // The control: what was not named is not there.
    let bare = Sandbox::new().rootfs(Rootfs::distroless(&server)).network(Network::Loopback);
    let output = bare.command(&server).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("unknown time zone"), "{output:?}");
}

#[test]
fn python_runs_with_its_library_certificates_and_time_zones() {
    let Ok(python) = Path::new("/usr/bin/python3").canonicalize() else { skip!("there is no python3 in /usr/bin") };
    let library = Path::new("/usr/lib").join(python.file_name().unwrap());
    if !library.is_dir() {
        skip!("the library of {} is elsewhere", python.display());
    }
    let root = Rootfs::distroless("/usr/bin/python3").with(&library).with_ca_certificates().with_tzdata();
    let script = "import ssl, json, zoneinfo, datetime, os, sqlite3, ctypes, hashlib\n\
        certificates = ssl.create_default_context().cert_store_stats()['x509_ca']\n\
        noon = datetime.datetime(2024, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin'))\n\
        print(json.dumps([certificates > 10, str(noon.utcoffset()), os.path.exists('/bin/sh'), os.path.exists('/etc/shadow')]))";
    // Found by its name, through the links on the way.
    assert_eq!(run(root, "python3", &["-c", script]), "[true, \"2:00:00\", false, false]\n");
    // A script of it, by either first line.
    let dir = temp_dir();
    for line in ["/usr/bin/python3 -I", "/usr/bin/env python3", "/usr/bin/env -S python3 -I"] {
        let program = real(dir.path()).join("script");
        fs::write(&program, format!("#!{line}\nimport sys\nprint(6 * 7, sys.argv[1])\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let root = Rootfs::distroless(&program).with(&library);
        assert_eq!(run(root, &program, &["last"]), "42 last\n", "{line}");
    }
}

#[test]
fn a_rust_program_runs() {
    if !works(&["rustc", "--version"]) {
        // Rust is often installed for root alone.
        crate::for_root!();
        skip!("there is no rustc here");
    }
    let dir = temp_dir();
    let dir = real(dir.path());
    let source = "fn main() { let sum: u32 = std::thread::spawn(|| (1..=10).sum()).join().unwrap();\n\
        println!(\"{sum} {:?}\", std::panic::catch_unwind(|| panic!()).is_err()); }";
    fs::write(dir.join("main.rs"), source).unwrap();
    let program = dir.join("main");
    make("rustc", &["-o", program.to_str().unwrap(), dir.join("main.rs").to_str().unwrap()]);
    assert_eq!(run(Rootfs::distroless(&program), &program, &[]), "55 true\n");
}

#[test]
fn a_static_pie_needs_nothing() {
    let dir = temp_dir();
    let program = cc("cc", &real(dir.path()), "pie", "int main(void) { puts(\"pie\"); return 0; }", &["-static-pie"]);
    let root = Rootfs::distroless(&program);
    assert_eq!(sources(&root), BTreeSet::from([program.clone()]));
    assert_eq!(run(root, &program, &[]), "pie\n");
}

#[test]
fn a_packed_program_runs() {
    let Some(tree) = crate::fixtures::root("upx") else {
        skip!("no tree with upx-ucl is in BELLJAR_TEST_CACHE: ci/test makes one")
    };
    // Large enough to be worth it for the packer, which itself runs in a root of another release.
    let source = "#include <stdio.h>\nstatic char filler[200000] = \"x\"; int main(void) { printf(\"packed %d\\n\", filler[1]); return 0; }";
    let program = compile_static("unpacked", source);
    let dir = temp_dir();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let upx = Sandbox::new().rootfs(Rootfs::distroless("/usr/bin/upx-ucl").from_root(&tree));
    let upx = upx.bind_ro(&program, "/unpacked").bind(real(dir.path()), "/out");
    let said = run_in(&upx, "/usr/bin/upx-ucl", &["-o", "/out/packed", "/unpacked"]);
    assert!(said.contains("Packed 1 file"), "{said}");
    let packed = real(dir.path()).join("packed");
    assert!(fs::metadata(&packed).unwrap().len() < fs::metadata(&program).unwrap().len() / 2);
    let root = Rootfs::distroless(&packed);
    assert_eq!(sources(&root), BTreeSet::from([packed.clone()]));
    assert_eq!(run(root, &packed, &[]), "packed 0\n");
}

#[test]
fn a_program_for_musl_runs_with_its_own_loader() {
    if !works(&["musl-gcc", "--version"]) {
        skip!("there is no musl-gcc");
    }
    let dir = temp_dir();
    let dir = real(dir.path());
    fs::create_dir(dir.join("deep")).unwrap();
    cc(
        "musl-gcc",
        &dir,
        "deep/libbelow.so",
        "int below(void) { return 20; }",
        &["-shared", "-fPIC", "-Wl,-soname,libbelow.so"],
    );
    cc(
        "musl-gcc",
        &dir,
        "libabove.so",
        "int below(void); int above(void) { return below() + 22; }",
        &["-shared", "-fPIC", "deep/libbelow.so", "-Wl,-soname,libabove.so"],
    );
    // musl looks at what the program says for the libraries of its libraries too, whichever tag it is.
    let program = cc(
        "musl-gcc",
        &dir,
        "program",
        "int above(void); int main(void) { printf(\"musl %d\\n\", above()); return 0; }",
        &[
            "libabove.so",
            "-Wl,--enable-new-dtags,-rpath,$ORIGIN:${ORIGIN}/deep",
            "-Wl,--allow-shlib-undefined",
            "-Ldeep",
        ],
    );
    let root = Rootfs::distroless(&program);
    let names: BTreeSet<_> = sources(&root).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    for name in ["libabove.so", "program"] {
        assert!(names.contains(std::ffi::OsStr::new(name)), "{names:?}");
    }
    assert!(!names.contains(std::ffi::OsStr::new("libc.so.6")), "{names:?}");
    assert_eq!(run(root, &program, &[]), "musl 42\n");
}

/// A program that needs liba, which needs libb; `rpath` is the program's, and `below` liba's.
fn chained(dir: &Path, rpath: &[&str], below: &[&str]) -> PathBuf {
    fs::create_dir_all(dir.join("lib/inner")).unwrap();
    cc("cc", dir, "lib/inner/libb.so", "int b(void) { return 40; }", &["-shared", "-fPIC", "-Wl,-soname,libb.so"]);
    let mut args = vec!["-shared", "-fPIC", "-Wl,-soname,liba.so", "-Llib/inner", "-lb"];
    args.extend(below);
    cc("cc", dir, "lib/liba.so", "int b(void); int a(void) { return b() + 2; }", &args);
    let mut args = vec!["-Llib", "-la", "-Wl,--allow-shlib-undefined"];
    args.extend(rpath);
    cc("cc", dir, "program", "int a(void); int main(void) { printf(\"%d\\n\", a()); return 0; }", &args)
}

#[test]
fn paths_in_the_files_are_followed_as_the_loader_does() {
    const OLD: &str = "-Wl,--disable-new-dtags";
    const NEW: &str = "-Wl,--enable-new-dtags";
    let cases: [(&[&str], &[&str], bool); 6] = [
        // DT_RPATH counts for the libraries of libraries, DT_RUNPATH does not.
        (&[OLD, "-Wl,-rpath,$ORIGIN/lib:$ORIGIN/lib/inner"], &[], true),
        (&[NEW, "-Wl,-rpath,$ORIGIN/lib:$ORIGIN/lib/inner"], &[], false),
        (&[NEW, "-Wl,-rpath,${ORIGIN}/lib"], &[NEW, "-Wl,-rpath,$ORIGIN/inner"], true),
        (&[OLD, "-Wl,-rpath,$ORIGIN/lib"], &[OLD, "-Wl,-rpath,$ORIGIN/inner"], true),
        // A library with a DT_RUNPATH of its own is not found for by the program's DT_RPATH.
        (&[OLD, "-Wl,-rpath,$ORIGIN/lib:$ORIGIN/lib/inner"], &[NEW, "-Wl,-rpath,$ORIGIN/nowhere"], false),
        (&[OLD, "-Wl,-rpath,$ORIGIN/../$ORIGIN_/nowhere:$ORIGIN/lib/inner/..:$ORIGIN/lib/./inner"], &[], true),
    ];
    for (rpath, below, found) in cases {
        let dir = temp_dir();
        let program = chained(&real(dir.path()), rpath, below);
        // The host's own loader is the judge.
        let outside = Command::new(&program).output().unwrap();
        assert_eq!(outside.status.success(), found, "{rpath:?} {below:?}: {outside:?}");
        let root = Rootfs::distroless(&program);
        match found {
            true => assert_eq!(run(root, &program, &[]), "42\n", "{rpath:?} {below:?}"),
            false => {
                let error = root.files().unwrap_err();
                assert!(error.to_string().contains("libb.so (needed by "), "{error}");
            }
        }
    }
}

#[test]
fn the_configuration_of_the_loader_is_read_where_there_is_no_cache() {
    let dir = temp_dir();
    let dir = real(dir.path());
    let program = chained(&dir, &[], &[]);
    // A tree of its own, with what the program needs in odd places, and links that only make sense in it.
    let tree = dir.join("tree");
    for path in ["usr/lib64", "usr/lib", "opt/one", "opt/two", "etc/ld.so.conf.d", "bin"] {
        fs::create_dir_all(tree.join(path)).unwrap();
    }
    let text = make("ldd", &["/bin/true"]);
    for path in listed(&text) {
        fs::copy(&path, tree.join("usr/lib64").join(path.file_name().unwrap())).unwrap();
    }
    symlink("/usr/lib64", tree.join("lib64")).unwrap();
    symlink("usr/lib", tree.join("lib")).unwrap();
    fs::rename(dir.join("lib/liba.so"), tree.join("opt/one/liba.so.real")).unwrap();
    symlink("/opt/../opt/one/liba.so.real", tree.join("opt/one/liba.so")).unwrap();
    fs::rename(dir.join("lib/inner/libb.so"), tree.join("opt/two/libb.so")).unwrap();
    fs::copy(&program, tree.join("bin/program")).unwrap();
    fs::write(tree.join("etc/ld.so.conf"), "# comment\ninclude ld.so.conf.d/*.conf\n").unwrap();
    fs::write(tree.join("etc/ld.so.conf.d/a.conf"), "/opt/one\n").unwrap();
    fs::write(tree.join("etc/ld.so.conf.d/b.conf"), "/opt/two # more\ninclude /etc/ld.so.conf\n").unwrap();
    fs::write(tree.join("etc/ld.so.conf.d/not"), "/opt/three\n").unwrap();
    let root = Rootfs::distroless("/bin/program").from_root(&tree);
    assert_eq!(run(root.clone(), "/bin/program", &[]), "42\n");
    // Without one of them, it is missing.
    fs::remove_file(tree.join("etc/ld.so.conf.d/b.conf")).unwrap();
    let error = root.files().unwrap_err();
    assert!(error.to_string().contains("libb.so (needed by /opt/one/liba.so) is not found"), "{error}");
    assert!(error.hint().unwrap().contains("/opt/one"), "{error:?}");
    // A link that leads out of the tree leads to its top.
    fs::remove_file(tree.join("lib64")).unwrap();
    symlink("../../../../../../../../lib64", tree.join("lib64")).unwrap();
    let error = root.files().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("ld-linux"), "{error}");
}

#[test]
fn a_program_of_another_release_runs_with_its_own_libraries() {
    // Three generations of glibc; the oldest opens the modules for names itself.
    for release in ["bullseye", "trixie", "sid"] {
        let Some(tree) = crate::fixtures::root(release) else {
            skip!("no root {release} is in BELLJAR_TEST_CACHE: run tests/make-rootfs.sh for it")
        };
        let root = Rootfs::distroless("/bin/bash").from_root(&tree).with("/usr/bin/id");
        assert!(sources(&root).iter().all(|path| path.starts_with(&tree)));
        let sandbox = Sandbox::new().rootfs(root).user(65532, 65532);
        let script = "echo ${BASH_VERSION%%.*}; id -un; ls 2>/dev/null || echo alone";
        assert_eq!(run_in(&sandbox, "/bin/bash", &["-c", script]), "5\nnonroot\nalone\n", "{release}");
    }
}

#[test]
fn what_is_missing_is_named_before_anything_starts() {
    let dir = temp_dir();
    let dir = real(dir.path());
    let program = chained(&dir, &["-Wl,-rpath,$ORIGIN/lib"], &[]);
    fs::remove_file(dir.join("lib/inner/libb.so")).unwrap();
    let error = Sandbox::new().rootfs(Rootfs::distroless(&program)).command(&program).spawn().unwrap_err();
    let expected =
        format!("mount: distroless {0}/program: libb.so (needed by {0}/lib/liba.so) is not found", dir.display());
    assert_eq!(error.to_string(), expected);
    assert_eq!(
        (error.layer(), error.kind(), error.raw_os_error()),
        (Layer::Mount, ErrorKind::Unsupported, Some(libc::ENOENT))
    );
    assert!(error.hint().unwrap().starts_with("searched: "), "{error:?}");
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::NotFound);

    // A loader.
    let program =
        cc("cc", &dir, "strange", "int main(void) { return 0; }", &["-Wl,--dynamic-linker=/lib/ld-no-such.so.9"]);
    let error = Rootfs::distroless(&program).files().unwrap_err();
    assert!(error.to_string().contains("/lib/ld-no-such.so.9 (needed by"), "{error}");
    // The program, an interpreter, and what env looks for.
    let error = Rootfs::distroless(dir.join("none")).files().unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Os, Some(libc::ENOENT)), "{error}");
    for (line, missing) in [("/no/such/shell", "/no/such/shell"), ("/usr/bin/env no-such-program", "no-such-program")] {
        fs::write(dir.join("script"), format!("#!{line}\n")).unwrap();
        let error = Rootfs::distroless(dir.join("script")).files().unwrap_err();
        assert!(
            error.to_string().contains(&format!("{missing} ")) && error.raw_os_error() == Some(libc::ENOENT),
            "{error}"
        );
    }
    // What is named by hand.
    let error = Rootfs::distroless("/bin/true").with(dir.join("no\nfile")).files().unwrap_err();
    assert!(error.to_string().contains("no\\nfile is not found"), "{error}");
    // Certificates, time zones and a shell, where there are none.
    let tree = dir.join("tree");
    fs::create_dir(&tree).unwrap();
    fs::copy(compile_static("noop", "int main(void) { return 0; }"), tree.join("noop")).unwrap();
    let root = Rootfs::distroless("/noop").from_root(&tree);
    root.files().unwrap();
    for (root, remedy) in [
        (root.clone().with_ca_certificates(), "apt install ca-certificates"),
        (root.clone().with_tzdata(), "apt install tzdata"),
        (root.with_shell(), "apt install busybox-static"),
    ] {
        let error = root.files().unwrap_err();
        assert_eq!((error.kind(), error.hint().as_deref()), (ErrorKind::Unsupported, Some(remedy)), "{error}");
    }
}

#[test]
fn what_cannot_be_run_is_told_apart() {
    let dir = temp_dir();
    let dir = real(dir.path());
    // For another processor: the machine is in bytes 18 and 19.
    let mut bytes = fs::read("/bin/true").unwrap();
    bytes[18..20].copy_from_slice(&243_u16.to_le_bytes());
    fs::write(dir.join("foreign"), &bytes).unwrap();
    let error = Rootfs::distroless(dir.join("foreign")).files().unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::Unsupported, Some(libc::ENOEXEC)), "{error}");
    assert!(error.to_string().contains("foreign is for riscv64"), "{error}");
    // One that the caller can't read, and so can't tell what it needs.
    fs::write(dir.join("closed"), &bytes).unwrap();
    fs::set_permissions(dir.join("closed"), fs::Permissions::from_mode(0o111)).unwrap();
    let error = Rootfs::distroless(dir.join("closed")).files().unwrap_err();
    let errno = if is_root() { libc::ENOEXEC } else { libc::EACCES };
    assert_eq!(error.raw_os_error(), Some(errno), "{error}");
    // Neither a program nor a script; and a directory.
    fs::write(dir.join("text"), "text").unwrap();
    let error = Rootfs::distroless(dir.join("text")).files().unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::InvalidImage, Some(libc::ENOEXEC)), "{error}");
    assert_eq!(Rootfs::distroless(&dir).files().unwrap_err().raw_os_error(), Some(libc::EACCES));
    // Scripts that are each other's interpreters.
    for (name, other) in [("one", "two"), ("two", "one")] {
        fs::write(dir.join(name), format!("#!{}\n", dir.join(other).display())).unwrap();
    }
    assert_eq!(Rootfs::distroless(dir.join("one")).files().unwrap_err().raw_os_error(), Some(libc::ELOOP));
    // Links that somebody may have left, as for binds.
    symlink("/bin/true", dir.join("link")).unwrap();
    for root in [Rootfs::distroless(dir.join("link")), Rootfs::distroless("/bin/true").with(dir.join("link"))] {
        let error = root.files().unwrap_err();
        assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::InvalidPolicy, Some(libc::ELOOP)), "{error}");
    }
    // What belongs to the kernel, or is everything.
    for path in ["/", "/proc/self/status", "/dev/null", ""] {
        let error = Rootfs::distroless("/bin/true").with(path).files().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPolicy, "{path}: {error}");
    }
    // Users that can't be.
    for (name, id) in
        [("", 1), ("a:b", 1), ("a\nb", 1), ("../x", 1), ("root", 1), ("x", 0), ("nobody", 7), ("x", u32::MAX)]
    {
        let error = Rootfs::distroless("/bin/true").with_user(name, id).files().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPolicy, "{name} {id}: {error}");
    }
    // Setters look at nothing.
    let _ = Rootfs::from(Rootfs::distroless("/no\0such").with("").with_user("\n", 0).from_root("nowhere"));
}

#[test]
fn libraries_that_need_each_other_are_no_endless_task() {
    let dir = temp_dir();
    let dir = real(dir.path());
    let shared = ["-shared", "-fPIC"];
    cc("cc", &dir, "liby.so", "int y(void) { return 1; }", &shared);
    cc(
        "cc",
        &dir,
        "libx.so",
        "int y(void); int x(void) { return y(); }",
        &["-shared", "-fPIC", "-L.", "-ly", "-Wl,-rpath,$ORIGIN"],
    );
    cc(
        "cc",
        &dir,
        "liby.so",
        "int x(void); int y(void) { return x ? 42 : 0; }",
        &["-shared", "-fPIC", "-L.", "-lx", "-Wl,-rpath,$ORIGIN"],
    );
    let program = cc(
        "cc",
        &dir,
        "program",
        "int x(void); int main(void) { printf(\"%d\\n\", x()); return 0; }",
        &["-L.", "-lx", "-Wl,-rpath,$ORIGIN"],
    );
    assert_eq!(run(Rootfs::distroless(&program), &program, &[]), "42\n");
}

#[test]
fn what_is_opened_later_is_named_by_hand() {
    let dir = temp_dir();
    let dir = real(dir.path());
    fs::create_dir_all(dir.join("plugins/more")).unwrap();
    fs::create_dir(dir.join("lib")).unwrap();
    cc("cc", &dir, "lib/libhelp.so", "int help(void) { return 42; }", &["-shared", "-fPIC"]);
    // It finds its library through the program's DT_RPATH, and another plugin because that is loaded by then.
    let plugin = ["-shared", "-fPIC", "-Llib", "-lhelp"];
    cc("cc", &dir, "plugins/plugin.so", "int help(void); int run(void) { return help(); }", &plugin);
    cc(
        "cc",
        &dir,
        "plugins/more/other.so",
        "int run(void); int other(void) { return run(); }",
        &["-shared", "-fPIC", "plugins/plugin.so", "-Wl,-soname,other.so"],
    );
    let source = "#include <dlfcn.h>\n#include <stdio.h>\nint main(int argc, char **argv) { void *p = dlopen(argv[1], RTLD_NOW);\
        if (!p) { puts(dlerror()); return 1; } int (*run)(void) = dlsym(p, \"run\"); printf(\"%d\\n\", run()); return 0; }";
    let program = cc("cc", &dir, "program", source, &["-ldl", "-Wl,--disable-new-dtags,-rpath,$ORIGIN/lib"]);
    let plugin = dir.join("plugins/plugin.so");
    let args = [plugin.to_str().unwrap()];
    let bare = Sandbox::new().rootfs(Rootfs::distroless(&program)).command(&program).args(args).output().unwrap();
    assert_eq!(bare.outcome.code(), Some(1), "the control: without, it is not there");
    assert_eq!(run(Rootfs::distroless(&program).with(&plugin), &program, &args), "42\n");
    fs::remove_file(dir.join("plugins/more/other.so")).unwrap();
    assert_eq!(run(Rootfs::distroless(&program).with(dir.join("plugins")), &program, &args), "42\n");
    // A program by hand brings what it needs.
    let root = Rootfs::distroless("/bin/true").with("/usr/bin/id").with("/etc/services");
    assert!(run(root, "/usr/bin/id", &["-u"]).trim().parse::<u32>().is_ok());
}

#[test]
fn the_small_files_are_those_of_the_base_image() {
    let cat = |root: Distroless, path: &str| run(root, "/bin/cat", &[path]);
    let root = Rootfs::distroless("/bin/cat");
    let nobody = "nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n";
    let passwd = format!(
        "root:x:0:0:root:/root:/sbin/nologin\n{nobody}nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"
    );
    assert_eq!(cat(root.clone(), "/etc/passwd"), passwd);
    assert_eq!(
        cat(root.clone(), "/etc/group"),
        "root:x:0:\nnobody:x:65534:\ntty:x:5:\nstaff:x:50:\nnonroot:x:65532:\n"
    );
    assert!(cat(root.clone(), "/etc/nsswitch.conf").contains("hosts: files dns\n"));
    assert!(cat(root.clone(), "/etc/os-release").contains("PRETTY_NAME=\"Distroless\"\n"));
    let ours = root.with_user("app", 1234);
    assert!(cat(ours.clone(), "/etc/passwd").ends_with("\napp:x:1234:1234:app:/home/app:/sbin/nologin\n"));
    // A file of the caller's own is the stronger.
    let own = Sandbox::new().rootfs(ours).file("/etc/passwd", "own\n");
    assert_eq!(run_in(&own, "/bin/cat", &["/etc/passwd"]), "own\n");
}

#[test]
fn the_user_is_known_and_has_a_home() {
    let root = Rootfs::distroless("/usr/bin/id").with_user("app", 1234).with_shell();
    if !works(&["busybox", "true"]) {
        skip!("there is no busybox");
    }
    let sandbox = Sandbox::new().rootfs(root).user(1234, 1234);
    let script = "id -un; id -gn; echo mine >$HOME/file; cat $HOME/file; stat -c %a:%u $HOME /tmp; ls /; touch /x 2>/dev/null || echo read-only";
    let mut command = sandbox.command("/busybox/sh");
    command.args(["-c", script]).env("PATH", "/busybox").env("HOME", "/home/app");
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let expected = "app\napp\nmine\n700:1234\n1777:1234\nbusybox\ndev\netc\nhome\n";
    assert!(text.starts_with(expected), "{text} {}", String::from_utf8_lossy(&output.stderr));
    assert!(text.ends_with("read-only\n"), "{text}");
    assert_eq!(run_in(&sandbox, "/usr/bin/id", &["-un"]), "app\n");
}

#[test]
fn a_directory_of_it_is_the_same_root() {
    let dir = temp_dir();
    let tree = real(dir.path()).join("tree");
    let root = Rootfs::distroless("/usr/bin/find").with_tzdata().with_ca_certificates();
    root.write_to(&tree).unwrap();
    let list = "( -path /proc -o -path /dev -o -path /tmp -o -path /home ) -prune -o ! -type d -printf %p,%l,%s,%m\\n";
    let list: Vec<&str> = ["/"].into_iter().chain(list.split(' ')).collect();
    let files = |root: Rootfs| -> BTreeSet<String> {
        let lines = run_in(&Sandbox::new().rootfs(root), "/usr/bin/find", &list);
        // Files of the crate's own are 0444 where nobody could change them anyway.
        lines.lines().map(|line| line.replace(",444", ",644")).collect()
    };
    let bound = files(root.clone().into());
    assert!(bound.len() > 500 && bound.iter().any(|line| line.starts_with("/etc/passwd,,")), "{bound:?}");
    assert_eq!(bound, files(Rootfs::dir(&tree)));
    let mode = |path: &str| fs::metadata(tree.join(path)).unwrap().mode() & 0o7777;
    assert_eq!(["", "tmp", "root", "home", "home/nonroot"].map(mode), [0o755, 0o1777, 0o700, 0o755, 0o700]);
    let owner = fs::metadata(tree.join("home/nonroot")).unwrap().uid();
    assert_eq!(owner, if is_root() { 65532 } else { fs::metadata(&tree).unwrap().uid() });
    // Nothing is overwritten.
    let error = root.write_to(&tree).unwrap_err();
    assert_eq!((error.raw_os_error(), error.path()), (Some(libc::EEXIST), Some(tree.as_path())), "{error}");
    assert!(tree.join("usr/bin/find").exists());
}

#[test]
fn a_directory_is_made_whole_and_without_privilege_or_not_at_all() {
    let dir = temp_dir();
    let dir = real(dir.path());
    let from = dir.join("from");
    for path in ["bin", "data", "tmp"] {
        fs::create_dir_all(from.join(path)).unwrap();
    }
    let noop = crate::harness::noop();
    for path in ["bin/noop", "tmp/noop", "data/tool"] {
        fs::copy(&noop, from.join(path)).unwrap();
        fs::set_permissions(from.join(path), fs::Permissions::from_mode(0o6755)).unwrap();
    }
    symlink("/etc/shadow", from.join("data/link")).unwrap();
    let root = |program: &str| Rootfs::distroless(program).from_root(&from);
    root("/bin/noop").with("/data").write_to(dir.join("one")).unwrap();
    for path in ["bin/noop", "data/tool"] {
        assert_eq!(fs::metadata(dir.join("one").join(path)).unwrap().mode() & 0o7777, 0o755, "{path}");
    }
    assert_eq!(fs::read_link(dir.join("one/data/link")).unwrap(), Path::new("/etc/shadow"));
    assert_eq!(run_in(&Sandbox::new().rootfs(dir.join("one")), "/bin/noop", &[]), "");
    // A sandbox has a /tmp of its own over that of the directory.
    let error = root("/tmp/noop").write_to(dir.join("two")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPolicy, "{error}");
    assert_eq!(run_in(&Sandbox::new().rootfs(root("/tmp/noop")), "/tmp/noop", &[]), "");
    // What fails in the middle is removed.
    make("mkfifo", &[from.join("data/fifo").to_str().unwrap()]);
    let error = root("/bin/noop").with("/data").write_to(dir.join("two")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "{error}");
    assert!(error.to_string().contains("data/fifo") && !dir.join("two").exists(), "{error}");
}

#[test]
fn names_are_resolved_as_by_the_host_with_its_network_only() {
    let Ok(host) = fs::read_to_string("/etc/resolv.conf") else { skip!("the host has no /etc/resolv.conf") };
    let root = Rootfs::distroless("/bin/cat");
    let sandbox = Sandbox::new().rootfs(root.clone()).network(Network::Host);
    assert_eq!(run_in(&sandbox, "/bin/cat", &["/etc/resolv.conf"]), host);
    assert_eq!(run_in(&sandbox, "/bin/cat", &["/etc/hosts"]), fs::read_to_string("/etc/hosts").unwrap());
    let output =
        Sandbox::new().rootfs(root).command("/bin/cat").args(["/etc/hosts", "/etc/resolv.conf"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "127.0.0.1\tlocalhost\n::1\tlocalhost\n");
    assert!(String::from_utf8_lossy(&output.stderr).contains("No such file"));
}

#[test]
fn a_task_without_end_is_refused() {
    let dir = temp_dir();
    let dir = real(dir.path());
    // 300 libraries, each searched for in 2000 directories, of which the last has them.
    let lib = dir.join("l");
    fs::create_dir(&lib).unwrap();
    let mut args = vec!["-Wl,--no-as-needed".to_owned()];
    cc("cc", &dir, "one.so", "int one;", &["-shared", "-fPIC", "-nostdlib"]);
    for index in 0..300 {
        fs::copy(dir.join("one.so"), lib.join(format!("lib{index}.so"))).unwrap();
        args.push(format!("-l{index}"));
    }
    args.extend(["-L.".into(), "-Ll".into(), format!("-Wl,-rpath,{}{}", "/:".repeat(1500), lib.display())]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let program = cc("cc", &dir, "program", "int main(void) { return 0; }", &args);
    let error = Rootfs::distroless(&program).files().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::E2BIG), "{error}");
}

/// A generator of numbers that are the same in every run: xorshift64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

#[test]
fn hostile_programs_are_refused_or_listed_and_never_more() {
    let dir = temp_dir();
    let dir = real(dir.path());
    let program = chained(&dir, &["-Wl,-rpath,$ORIGIN/lib"], &["-Wl,-rpath,$ORIGIN/inner"]);
    let good = fs::read(&program).unwrap();
    let path = dir.join("hostile");
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let (mut refused, mut listed) = (0, 0);
    // The headers and tables are in the first part and in .dynamic; what is between is code.
    let dynamic =
        good.windows(16).position(|window| window == [1, 0, 0, 0, 0, 0, 0, 0, window[8], window[9], 0, 0, 0, 0, 0, 0]);
    let dynamic = dynamic.expect("there is a DT_NEEDED");
    for round in 0..600 {
        let mut bytes = good.clone();
        for _ in 0..=numbers.next(4) {
            let at = if numbers.next(2) == 0 { numbers.next(0x400) } else { dynamic + numbers.next(0x180) };
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, numbers.next(256) as u8][numbers.next(6)];
        }
        if round % 10 == 0 {
            bytes.truncate(numbers.next(good.len()));
        }
        fs::write(&path, &bytes).unwrap();
        match Rootfs::distroless(&path).files() {
            Ok(_) => listed += 1,
            Err(error) => {
                refused += 1;
                let text = error.to_string();
                assert!(!text.chars().any(char::is_control), "{text:?}");
                assert_eq!(error.layer(), Layer::Mount, "{text}");
            }
        }
    }
    println!("{refused} refused, {listed} listed");
    assert!(refused > 100 && listed > 50, "{refused} refused, {listed} listed: one of them is not tried");
}
