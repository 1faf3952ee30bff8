//! The library in plugins: several copies of it in one process, each with its own statics, and each taken out again, while a
//! program that it has started runs on.

use std::ffi::{CString, c_char, c_int, c_void};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = r#"
use std::os::unix::ffi::OsStrExt;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn run(dir: *const std::ffi::c_char) -> i32 {
    let dir = unsafe { std::ffi::CStr::from_ptr(dir) };
    let dir = std::path::Path::new(std::ffi::OsStr::from_bytes(dir.to_bytes()));
    let bind = |sandbox: belljar::Sandbox, name: &str| sandbox.bind_ro(dir.join(name), format!("/{name}"));
    let sandbox = ["noop", "pause"].into_iter().fold(belljar::Sandbox::new(), bind);
    let pool = sandbox.prepare().unwrap().pool(2).unwrap();
    for mut command in [sandbox.command("/noop"), pool.command("/noop")] {
        assert_eq!(command.status().unwrap().code(), Some(7));
    }
    let child = sandbox.command("/pause").spawn().unwrap();
    let pid = child.id();
    child.detach().unwrap();
    pid as i32
}
"#;

type Run = unsafe extern "C" fn(*const c_char) -> c_int;

/// Makes the plugin from the library that this program was linked with: the newest beside it.
pub(crate) fn build(dir: &Path) {
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let libraries = fs::read_dir(&deps).unwrap().map(|entry| entry.unwrap().path());
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("libbelljar-") && name.ends_with(".rlib")
    };
    let newest = libraries.filter(is_it).max_by_key(|path| path.metadata().unwrap().modified().unwrap()).unwrap();
    let source = dir.join("plugin.rs");
    fs::write(&source, SOURCE).unwrap();
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
    rustc.args(["--edition", "2024", "--crate-type", "cdylib", "-O", "-o"]).arg(dir.join("plugin.so"));
    rustc.arg(format!("-Ldependency={}", deps.display())).arg(format!("--extern=belljar={}", newest.display()));
    assert!(rustc.arg(&source).status().unwrap().success(), "rustc makes a plugin");
    // Another file is another library to the loader.
    fs::copy(dir.join("plugin.so"), dir.join("copy.so")).unwrap();
}

/// Loads two copies, runs both at once, and takes them out again.
pub(crate) fn load_and_unload(dir: &Path) {
    let name = |path: &Path| CString::new(path.as_os_str().as_bytes()).unwrap();
    let argument = &name(dir);
    let one = |file: &str| {
        let path = name(&dir.join(file));
        // SAFETY: The name ends in a zero byte; the library's constructors are std's.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!library.is_null(), "{file} is loaded");
        // SAFETY: The library is loaded, and the name ends in a zero byte.
        let symbol = unsafe { libc::dlsym(library, c"run".as_ptr()) };
        assert!(!symbol.is_null());
        // SAFETY: The function has this type.
        let run = unsafe { std::mem::transmute::<*mut c_void, Run>(symbol) };
        // SAFETY: The argument ends in a zero byte.
        let pid = unsafe { run(argument.as_ptr()) };
        // SAFETY: Nothing of it is used any more; what a thread is to drop at its end keeps it loaded until then.
        assert_eq!(unsafe { libc::dlclose(library) }, 0);
        // SAFETY: No pointers: it is a child of this process that nobody has reaped. It runs on without the library.
        assert_eq!(unsafe { libc::kill(pid, 0) }, 0);
        // SAFETY: As above.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        // SAFETY: A null pointer is allowed for the status.
        assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) }, pid);
    };
    std::thread::scope(|scope| {
        let threads = ["plugin.so", "copy.so"].map(|file| scope.spawn(move || one(file)));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
    // Init of a detached sandbox is a child too, and ends with the program.
    // SAFETY: A null pointer is allowed for the status.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL) } > 0 {}
}
