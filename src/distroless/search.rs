//! Where a loader looks for a library, in its own order: ld.so(8), and musl's ldso/dynlink.c.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::cache::{self, Cache};
use super::elf::{Machine, Needs};
use super::tree::Tree;

/// The most that is read of musl's list of directories.
const PATH_FILE_MAX: u64 = 1 << 16;

/// The most places that are looked at for one library.
const PLACES_MAX: usize = 4096;

/// A file that the loader has loaded.
#[derive(Debug)]
pub(super) struct Object {
    /// By the name that it was found under.
    pub(super) path: PathBuf,
    pub(super) real: PathBuf,
    pub(super) needs: Needs,
    /// Which one had it loaded.
    pub(super) by: Option<usize>,
}

/// A loader, as far as it looks for files.
#[derive(Debug)]
pub(super) enum Loader {
    Glibc {
        cache: Option<Cache>,
        /// What takes the place of a cache where there is none.
        configured: Vec<PathBuf>,
        default: Vec<PathBuf>,
        /// What `$LIB` stands for.
        lib: OsString,
        machine: Machine,
    },
    Musl {
        system: Vec<PathBuf>,
    },
}

impl Loader {
    pub(super) fn is_musl_path(interpreter: &Path) -> bool {
        interpreter.file_name().is_some_and(|name| name.as_bytes().starts_with(b"ld-musl-"))
    }

    /// The loader of glibc, or one that is like it; `real` is where it really lies.
    pub(super) fn glibc(tree: &mut Tree, real: Option<&Path>, machine: Machine) -> Self {
        let cache = Cache::of(tree);
        let configured = if cache.is_some() { Vec::new() } else { cache::configured(tree) };
        let default = default_dirs(machine);
        let lib = real.and_then(lib_dir).unwrap_or_else(|| "lib64".into());
        Loader::Glibc { cache, configured, default, lib, machine }
    }

    /// The loader of musl, and the file that tells it where to look, if there is one.
    pub(super) fn musl(tree: &mut Tree, interpreter: &Path) -> (Self, Option<PathBuf>) {
        // /lib/ld-musl-x86_64.so.1 reads /etc/ld-musl-x86_64.path, and one in another place the file beside it.
        let prefix = interpreter.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        let mut name =
            interpreter.file_stem().and_then(|name| Path::new(name).file_stem()).unwrap_or_default().to_owned();
        name.push(".path");
        let file = prefix.join("etc").join(name);
        let text = cache::read(tree, &file, PATH_FILE_MAX);
        let found = text.is_some().then_some(file);
        let text = text.unwrap_or_else(|| b"/lib:/usr/local/lib:/usr/lib".to_vec());
        let dirs = text.split(|byte| [b':', b'\n'].contains(byte)).filter(|dir| dir.starts_with(b"/"));
        (Loader::Musl { system: dirs.map(|dir| OsStr::from_bytes(dir).into()).collect() }, found)
    }

    /// What stands for the loader itself, whatever it is called.
    pub(super) fn is_itself(&self, name: &OsStr) -> bool {
        const RESERVED: [&[u8]; 7] = [b"c.", b"pthread.", b"rt.", b"m.", b"dl.", b"util.", b"xnet."];
        let rest = name.as_bytes().strip_prefix(b"lib");
        matches!(self, Loader::Musl { .. })
            && rest.is_some_and(|rest| RESERVED.iter().any(|reserved| rest.starts_with(reserved)))
    }

    /// The places where a library that `needer` names may be, in order.
    pub(super) fn places(&self, name: &OsStr, needer: usize, objects: &[Object]) -> Vec<PathBuf> {
        let Some(object) = objects.get(needer) else { return Vec::new() };
        let mut places: Vec<PathBuf> = match self {
            _ if name.as_bytes().contains(&b'/') => return self.expand(name, object).into_iter().collect(),
            Loader::Glibc { cache, configured, default, .. } => {
                let mut places = in_each(self.glibc_paths(needer, objects), name);
                let usable = |place: &&PathBuf| {
                    !(object.needs.no_default && place.parent().is_some_and(|dir| default.iter().any(|one| one == dir)))
                };
                places.extend(cache.iter().flat_map(|cache| cache.places(name)).filter(usable).cloned());
                places.extend(in_each(configured.clone(), name));
                if !object.needs.no_default {
                    places.extend(in_each(default.clone(), name));
                }
                places
            }
            Loader::Musl { system } => {
                let paths = chain(needer, objects).filter_map(|one| {
                    one.needs.runpath.as_deref().or(one.needs.rpath.as_deref()).map(|path| self.split(path, one))
                });
                in_each(paths.flatten().chain(system.iter().cloned()).collect(), name)
            }
        };
        places.truncate(PLACES_MAX);
        places
    }

    /// DT_RPATH of what has had a library loaded, and of what has had that loaded, unless there is a DT_RUNPATH; then that.
    fn glibc_paths(&self, needer: usize, objects: &[Object]) -> Vec<PathBuf> {
        let Some(object) = objects.get(needer) else { return Vec::new() };
        if let Some(runpath) = &object.needs.runpath {
            return self.split(runpath, object);
        }
        // The program's own counts too, whoever asks.
        let rpath = |one: &Object| {
            let used = one.needs.rpath.as_deref().filter(|_| one.needs.runpath.is_none());
            used.map(|path| self.split(path, one)).unwrap_or_default()
        };
        chain(needer, objects).chain(objects.first()).flat_map(rpath).take(PLACES_MAX).collect()
    }

    /// The directories of a DT_RPATH or DT_RUNPATH. A relative one depends on where the program is started: no place.
    fn split(&self, path: &OsStr, object: &Object) -> Vec<PathBuf> {
        let dirs = path.as_bytes().split(|byte| *byte == b':').take(PLACES_MAX);
        dirs.filter_map(|dir| self.expand(OsStr::from_bytes(dir), object)).collect()
    }

    /// Puts in what `$ORIGIN`, `$LIB` and `$PLATFORM` stand for. What is not absolute then is no place.
    fn expand(&self, text: &OsStr, object: &Object) -> Option<PathBuf> {
        let origin = object.path.parent().unwrap_or(Path::new("/")).as_os_str();
        let mut tokens = vec![("ORIGIN", origin)];
        if let Loader::Glibc { lib, machine, .. } = self {
            tokens.extend([("LIB", lib.as_os_str()), ("PLATFORM", OsStr::new(machine.name().unwrap_or_default()))]);
        }
        let (mut rest, mut expanded) = (text.as_bytes(), Vec::new());
        while let Some(at) = rest.iter().position(|byte| *byte == b'$') {
            expanded.extend_from_slice(rest.get(..at)?);
            let after = rest.get(at + 1..)?;
            let token = tokens.iter().find_map(|(token, value)| Some((after_token(after, token.as_bytes())?, value)));
            match token {
                Some((after, value)) => {
                    expanded.extend_from_slice(value.as_bytes());
                    rest = after;
                }
                None => {
                    expanded.push(b'$');
                    rest = after;
                }
            }
            if expanded.len() > libc::PATH_MAX as usize {
                return None;
            }
        }
        expanded.extend_from_slice(rest);
        let path = PathBuf::from(OsString::from_vec(expanded));
        (path.is_absolute() && path.as_os_str().len() < libc::PATH_MAX as usize).then_some(path)
    }
}

/// What follows `TOKEN` or `{TOKEN}`.
fn after_token<'a>(text: &'a [u8], token: &[u8]) -> Option<&'a [u8]> {
    if let Some(inner) = text.strip_prefix(b"{") {
        return inner.strip_prefix(token)?.strip_prefix(b"}");
    }
    let rest = text.strip_prefix(token)?;
    let ends = rest.first().is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_');
    ends.then_some(rest)
}

/// An object, what has had it loaded, and so on up to the program.
fn chain(from: usize, objects: &[Object]) -> impl Iterator<Item = &Object> {
    std::iter::successors(objects.get(from), |object| objects.get(object.by?)).take(objects.len())
}

fn in_each(dirs: Vec<PathBuf>, name: &OsStr) -> Vec<PathBuf> {
    dirs.into_iter().map(|dir| dir.join(name)).collect()
}

/// What is built into loaders: Debian's directories of many architectures, those of others for 64 and 32 bits, and the
/// oldest. What fits another machine there is skipped.
fn default_dirs(machine: Machine) -> Vec<PathBuf> {
    let name = machine.name().unwrap_or("none");
    let triplet = match name {
        "arm" => "arm-linux-gnueabihf".to_owned(),
        "ppc64" => "powerpc64le-linux-gnu".to_owned(),
        name => format!("{name}-linux-gnu"),
    };
    let wide = if machine.wide { "lib64" } else { "lib32" };
    [&format!("lib/{triplet}"), wide, "lib"]
        .iter()
        .flat_map(|dir| [Path::new("/").join(dir), Path::new("/usr").join(dir)])
        .collect()
}

/// `$LIB`: the loader is in that directory, of / or /usr.
fn lib_dir(loader: &Path) -> Option<OsString> {
    let dir = loader.parent()?;
    let dir = dir.strip_prefix("/usr").or_else(|_| dir.strip_prefix("/")).ok()?;
    Some(dir.as_os_str().to_owned())
}
