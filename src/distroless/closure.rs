//! What a program needs to start: its interpreter or loader, and the libraries, as the loader itself finds them.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::elf::{Flaw, Machine, Needs, needs_of};
use super::listing::{Listing, NODES_MAX, Node};
use super::search::{Loader, Object};
use super::tree::{Found, Kind, Tree};
use super::{cache, shown};
use crate::error::{Error, ErrorKind, Layer, Result};
use crate::layer::exec::DEFAULT_ENV;

/// How many interpreters a script may have one after the other, as for the kernel (`exec_binprm` in fs/exec.c).
const SCRIPTS_MAX: usize = 5;

/// What the kernel reads of a script for its first line (`BINPRM_BUF_SIZE`).
const FIRST_LINE: u64 = 256;

/// What libc loads by itself: to look names up, before glibc 2.34, and to unwind a thread that is cancelled or exits.
const OPENED_BY_LIBC: [&str; 3] = ["libnss_files.so.2", "libnss_dns.so.2", "libgcc_s.so.1"];

/// How many directory entries are looked at for files that need libraries, and how deep.
const SCAN_MAX: usize = 65_536;
const SCAN_DEPTH: usize = 32;

/// How many libraries the files of a root need, all together: a large one has some thousands.
const NAMES_MAX: usize = 262_144;

/// The collecting of a root.
#[derive(Debug)]
pub(super) struct Closure<'a> {
    pub(super) tree: &'a mut Tree,
    pub(super) listing: Listing,
    /// What was asked for, in words.
    words: String,
    /// What has been read already, by its real path.
    read: HashMap<PathBuf, std::result::Result<Needs, Flaw>>,
    /// How many libraries they need, each counted for each.
    names: usize,
    /// For the cache of the loader inside: libraries by their names.
    libraries: BTreeMap<OsString, PathBuf>,
    machine: Option<Machine>,
}

/// A program and what its loader has loaded.
#[derive(Debug)]
pub(super) struct Linked {
    loader: Loader,
    machine: Machine,
    objects: Vec<Object>,
    names: HashMap<OsString, usize>,
    /// Where the loader is among the objects.
    itself: Option<usize>,
}

impl<'a> Closure<'a> {
    pub(super) fn new(tree: &'a mut Tree, words: String) -> Self {
        let (listing, read) = (Listing::default(), HashMap::new());
        Self { tree, listing, words, read, names: 0, libraries: BTreeMap::new(), machine: None }
    }

    /// Adds a program with all that it needs to start. What it is linked to is returned, for what it opens later.
    pub(super) fn program(&mut self, path: &Path) -> Result<Option<Linked>> {
        let mut path = path.to_owned();
        for _ in 0..=SCRIPTS_MAX {
            let found = self.named(&path)?;
            match self.needs(&found.real) {
                Ok(needs) => return self.executable(&path, &found, &needs),
                Err(Flaw::NotElf) => path = self.interpreter(&found.real)?,
                Err(flaw) => return Err(self.broken(&found.real, flaw)),
            }
        }
        Err(self.failed(libc::ELOOP, &path))
    }

    /// Adds a file or directory that the program opens by itself.
    pub(super) fn extra(&mut self, path: &Path, linked: &mut Option<Linked>) -> Result<()> {
        let found = self.named_any(path)?;
        if found.kind == Kind::Dir {
            return self.directory(&found.real, linked);
        }
        match self.needs(&found.real) {
            Ok(needs) if needs.interpreter.is_some() => self.executable(path, &found, &needs).map(drop),
            Ok(needs) => self.opened(vec![(path.to_owned(), found.real, needs)], linked),
            // What holds data may be closed to the caller and open to the program.
            Err(Flaw::NotElf | Flaw::Closed(_)) => Ok(()),
            Err(flaw) => Err(self.broken(&found.real, flaw)),
        }
    }

    /// The configuration that the loader inside finds the libraries by. Only glibc's has one of this form.
    pub(super) fn loader_cache(&self) -> Option<Vec<u8>> {
        cache::write(&self.libraries, self.machine?)
    }

    /// Adds what a path of the caller's leads to: a regular file.
    fn named(&mut self, path: &Path) -> Result<Found> {
        let found = self.named_any(path)?;
        match found.kind {
            Kind::File => Ok(found),
            _ => Err(self.failed(libc::EACCES, path).with_hint("a program is a regular file")),
        }
    }

    pub(super) fn named_any(&mut self, path: &Path) -> Result<Found> {
        let found = self.tree.find(path).map_err(|errno| self.failed(errno, path))?;
        if let Some(link) = found.foreign_link().filter(|_| self.tree.is_host()) {
            let cause = format!("{} is a symbolic link", shown(link));
            let hint = "a program that could write there may have made it; if it is yours, pass what \
                        std::fs::canonicalize returns";
            return Err(self.invalid(cause).with_errno(libc::ELOOP).with_path(path).with_hint(hint));
        }
        let kernel = ["/proc", "/dev", "/sys"].iter().any(|dir| found.real.starts_with(dir));
        if kernel || found.real == Path::new("/") || found.kind == Kind::Other {
            let cause = format!("{} is not of the files that a root is made of", shown(&found.real));
            return Err(self.invalid(cause).with_path(path));
        }
        self.add(&found)?;
        Ok(found)
    }

    fn add(&mut self, found: &Found) -> Result<()> {
        match self.listing.add(found) {
            true => Ok(()),
            false => Err(self.invalid(format!("the root would have more than {NODES_MAX} files"))),
        }
    }

    /// What an ELF file needs; each is read once.
    fn needs(&mut self, real: &Path) -> std::result::Result<Needs, Flaw> {
        if let Some(known) = self.read.get(real) {
            return known.clone();
        }
        let needs = self.tree.read(real).map_err(Flaw::Closed).and_then(needs_of);
        self.names += needs.as_ref().map_or(0, |needs| needs.needed.len());
        if self.names > NAMES_MAX {
            return Err(Flaw::Bad("the number of names, with those of other files"));
        }
        self.read.insert(real.to_owned(), needs.clone());
        needs
    }

    /// The program that a script is run by.
    fn interpreter(&mut self, script: &Path) -> Result<PathBuf> {
        let mut line = Vec::new();
        let file = self.tree.read(script).map_err(|errno| self.failed(errno, script))?;
        let read = file.take(FIRST_LINE).read_to_end(&mut line);
        read.map_err(|error| self.failed(error.raw_os_error().unwrap_or(libc::EIO), script))?;
        let line = line.split(|byte| *byte == b'\n').next().and_then(|line| line.strip_prefix(b"#!"));
        let Some(line) = line else {
            let cause = format!("{} is neither an ELF file nor a script with a #! line", shown(script));
            return Err(Error::new(Layer::Mount, ErrorKind::InvalidImage, &*self.words, cause)
                .with_errno(libc::ENOEXEC)
                .with_path(script));
        };
        let mut words = line.split(|byte| byte.is_ascii_whitespace() || *byte == 0).filter(|word| !word.is_empty());
        let path = Path::new(OsStr::from_bytes(words.next().unwrap_or_default())).to_owned();
        if !path.is_absolute() {
            let cause = format!("the interpreter of {} has no absolute path", shown(script));
            return Err(self.invalid(cause).with_path(script));
        }
        if path.file_name() != Some(OsStr::new("env")) {
            return Ok(path);
        }
        // env(1) looks for another: with its own needs, and then those of the other.
        let option = |word: &&[u8]| word.starts_with(b"-") || word.contains(&b'=');
        let Some(name) = words.find(|word| !option(word)) else { return Ok(path) };
        self.program(&path)?;
        self.in_path(OsStr::from_bytes(name), script)
    }

    /// Where a program is that is named without a directory.
    fn in_path(&mut self, name: &OsStr, script: &Path) -> Result<PathBuf> {
        if name.as_bytes().contains(&b'/') {
            return Ok(Path::new("/").join(name));
        }
        let dirs = DEFAULT_ENV[0].1.split(':').map(|dir| Path::new(dir).join(name));
        let mut found = dirs.filter(|path| self.tree.find(path).is_ok_and(|found| found.kind == Kind::File));
        let first = found.next();
        drop(found);
        first.ok_or_else(|| self.missing(shown(Path::new(name)), script, DEFAULT_ENV[0].1.to_owned()))
    }

    /// Adds what an executable is linked to.
    fn executable(&mut self, path: &Path, found: &Found, needs: &Needs) -> Result<Option<Linked>> {
        if !needs.machine.runs_here() {
            let cause = format!("{} is for {}", shown(path), needs.machine);
            let hint = format!("this host runs programs for {}", std::env::consts::ARCH);
            return Err(Error::new(Layer::Mount, ErrorKind::Unsupported, &*self.words, cause)
                .with_errno(libc::ENOEXEC)
                .with_path(path)
                .with_hint(hint));
        }
        // Linked statically: it needs nothing else.
        let Some(interpreter) = needs.interpreter.as_ref().map(PathBuf::from) else { return Ok(None) };
        let mut linked = self.linked(&interpreter, &found.real, needs)?;
        // The loader takes the program for where it really is.
        let program = Object { path: found.real.clone(), real: found.real.clone(), needs: needs.clone(), by: None };
        linked.objects.insert(0, program);
        linked.itself = Some(1);
        self.load(&mut linked, 0)?;
        if matches!(linked.loader, Loader::Glibc { .. }) && linked.names.contains_key(OsStr::new("libc.so.6")) {
            let libc = linked.names.get(OsStr::new("libc.so.6")).copied().unwrap_or(0);
            let from = linked.objects.len();
            for name in OPENED_BY_LIBC {
                self.library(OsStr::new(name), libc, &mut linked)?;
            }
            self.load(&mut linked, from)?;
        }
        Ok(Some(linked))
    }

    /// Adds the loader of a program, and whatever tells it where to look.
    fn linked(&mut self, interpreter: &Path, program: &Path, needs: &Needs) -> Result<Linked> {
        let path = Path::new("/").join(interpreter);
        let found = self.tree.find(&path).ok().filter(|found| found.kind == Kind::File);
        let Some(found) = found else {
            let cause = "the loader that the program is linked for comes with its libc, for instance glibc or musl";
            return Err(self.missing(shown(interpreter), program, cause.to_owned()));
        };
        self.add(&found)?;
        let own = self.needs(&found.real).map_err(|flaw| self.broken(&found.real, flaw))?;
        if own.machine != needs.machine {
            let cause =
                format!("{} is for {}, and {} for {}", shown(&path), own.machine, shown(program), needs.machine);
            return Err(Error::new(Layer::Mount, ErrorKind::InvalidImage, &*self.words, cause).with_path(path));
        }
        let loader = match Loader::is_musl_path(interpreter) {
            true => {
                let (loader, file) = Loader::musl(self.tree, &path);
                for file in file.iter().filter_map(|file| self.tree.find(file).ok()).collect::<Vec<_>>() {
                    self.add(&file)?;
                }
                loader
            }
            false => Loader::glibc(self.tree, Some(&found.real), needs.machine),
        };
        let names = [path.clone().into_os_string(), found.real.clone().into()].into_iter();
        let names = names.chain(own.soname.clone()).map(|name| (name, 1)).collect();
        let objects = vec![Object { path, real: found.real, needs: own, by: None }];
        Ok(Linked { loader, machine: needs.machine, objects, names, itself: Some(0) })
    }

    /// Loads what the objects from this one on need, and what that needs, breadth first, as loaders do.
    fn load(&mut self, linked: &mut Linked, from: usize) -> Result<()> {
        let mut index = from;
        while let Some(object) = linked.objects.get(index) {
            for name in object.needs.needed.clone() {
                if !self.library(&name, index, linked)? {
                    let Some(object) = linked.objects.get(index) else { break };
                    let places = linked.loader.places(&name, index, &linked.objects);
                    return Err(self.missing(shown(Path::new(&name)), &object.path, searched(&places)));
                }
            }
            index += 1;
        }
        Ok(())
    }

    /// Finds a library and adds it, unless it is loaded already. Tells whether it is there.
    fn library(&mut self, name: &OsStr, needer: usize, linked: &mut Linked) -> Result<bool> {
        if linked.names.contains_key(name) {
            return Ok(true);
        }
        if let Some(itself) = linked.itself.filter(|_| linked.loader.is_itself(name)) {
            linked.names.insert(name.to_owned(), itself);
            return Ok(true);
        }
        for place in linked.loader.places(name, needer, &linked.objects) {
            let found = match self.tree.find(&place) {
                Ok(found) if found.kind == Kind::File => found,
                Err(libc::E2BIG) => return Err(self.failed(libc::E2BIG, &place)),
                _ => continue,
            };
            let needs = match self.needs(&found.real) {
                Ok(needs) if needs.machine == linked.machine => needs,
                // Another machine's, which a loader skips.
                Ok(_) => continue,
                Err(flaw) => return Err(self.broken(&place, flaw)),
            };
            self.add(&found)?;
            if matches!(linked.loader, Loader::Glibc { .. }) {
                self.libraries.entry(name.to_owned()).or_insert_with(|| place.clone());
                self.machine.get_or_insert(linked.machine);
            }
            linked.push(name, Object { path: place, real: found.real, needs, by: Some(needer) });
            return Ok(true);
        }
        Ok(false)
    }

    /// Loads what the program opens by itself. Such files may be linked to each other, wherever they lie.
    fn opened(&mut self, files: Vec<(PathBuf, PathBuf, Needs)>, linked: &mut Option<Linked>) -> Result<()> {
        for (path, real, needs) in files {
            let linked = match linked {
                Some(linked) => linked,
                // The program is static, or a script's: the first that is opened stands for it.
                None => linked.insert(Linked::alone(self.tree, &needs)),
            };
            if needs.machine == linked.machine {
                let name = path.file_name().unwrap_or_default().to_owned();
                linked.push(&name, Object { path, real, needs, by: (!linked.objects.is_empty()).then_some(0) });
            }
        }
        match linked {
            Some(linked) => self.load(linked, 0),
            None => Ok(()),
        }
    }

    /// Looks through a directory for what may need libraries.
    fn directory(&mut self, dir: &Path, linked: &mut Option<Linked>) -> Result<()> {
        let mut dirs = vec![(dir.to_owned(), SCAN_DEPTH)];
        let (mut left, mut files) = (SCAN_MAX, Vec::new());
        while let Some((dir, depth)) = dirs.pop() {
            let names = self.tree.list(&dir, left).map_err(|errno| self.failed(errno, &dir))?;
            left -= names.len();
            for name in names {
                let path = dir.join(&name);
                let library = name.as_bytes().windows(3).any(|part| part == b".so");
                match self.tree.kind(&path).map_err(|errno| self.failed(errno, &path))? {
                    Kind::Dir if depth == 0 => return Err(self.failed(libc::ELOOP, &path)),
                    Kind::Dir => dirs.push((path, depth - 1)),
                    Kind::File if library => {
                        files.extend(self.needs(&path).ok().map(|needs| (path.clone(), path, needs)))
                    }
                    _ => {}
                }
            }
        }
        self.opened(files, linked)
    }

    /// Puts a file of the tree at another place too.
    pub(super) fn copy(&mut self, source: &Path, target: &str) -> bool {
        let Some(found) = self.tree.find(source).ok().filter(|found| found.kind == Kind::File) else { return false };
        self.listing.put(target, Node::Copy(found.real));
        true
    }

    pub(super) fn failed(&self, errno: i32, path: &Path) -> Error {
        let named = self.words.ends_with(&shown(path));
        match errno {
            _ if named => Error::os(Layer::Mount, &*self.words, errno),
            libc::ENOENT => self.missing_errno(format!("{} is not found", shown(path))),
            _ => Error::os(Layer::Mount, format!("{}: {}", self.words, shown(path)), errno),
        }
        .with_path(path)
    }

    pub(super) fn missing_errno(&self, cause: String) -> Error {
        Error::new(Layer::Mount, ErrorKind::Unsupported, &*self.words, cause).with_errno(libc::ENOENT)
    }

    pub(super) fn invalid(&self, cause: impl Into<String>) -> Error {
        Error::invalid(Layer::Mount, &*self.words, cause)
    }

    fn missing(&self, what: String, by: &Path, hint: String) -> Error {
        let cause = format!("{what} (needed by {}) is not found", shown(by));
        self.missing_errno(cause).with_path(by).with_hint(hint)
    }

    fn broken(&self, path: &Path, flaw: Flaw) -> Error {
        let part = match flaw {
            Flaw::Closed(errno) => return self.failed(errno, path),
            Flaw::NotElf => "the header",
            Flaw::Bad(part) => part,
        };
        let cause = format!("{} can't be read as an ELF file: {part} is not as it should be", shown(path));
        Error::new(Layer::Mount, ErrorKind::InvalidImage, &*self.words, cause).with_errno(libc::ENOEXEC).with_path(path)
    }
}

impl Linked {
    /// Without a program: the libraries tell by their names which libc they are for.
    fn alone(tree: &mut Tree, needs: &Needs) -> Self {
        let musl = needs.needed.iter().any(|name| name.as_bytes().starts_with(b"libc.musl-") || name == "libc.so");
        let loader = match (musl, needs.machine.name()) {
            (true, Some(name)) => Loader::musl(tree, Path::new(&format!("/lib/ld-musl-{name}.so.1"))).0,
            _ => Loader::glibc(tree, None, needs.machine),
        };
        Self { loader, machine: needs.machine, objects: Vec::new(), names: HashMap::new(), itself: None }
    }

    /// Loads an object under a name, and under the one that it gives itself; a file that is loaded already gets one more.
    fn push(&mut self, name: &OsStr, object: Object) {
        let same = self.objects.iter().position(|other| other.real == object.real);
        let index = same.unwrap_or(self.objects.len());
        let musl = matches!(self.loader, Loader::Musl { .. });
        let soname = object.needs.soname.clone().filter(|_| !musl);
        for name in [Some(name.to_owned()), soname, Some(object.path.clone().into())].into_iter().flatten() {
            self.names.entry(name).or_insert(index);
        }
        if same.is_none() {
            self.objects.push(object);
        }
    }
}

/// Where was looked, for a person.
fn searched(places: &[PathBuf]) -> String {
    const SHOWN: usize = 16;
    let mut dirs: Vec<String> = places.iter().filter_map(|place| place.parent()).map(shown).collect();
    dirs.dedup();
    let more = dirs.len().saturating_sub(SHOWN);
    dirs.truncate(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    match dirs.is_empty() {
        true => "it is named by a relative path, which depends on where the program starts".to_owned(),
        false => format!("searched: {}{more}; name what else is needed with Distroless::with", dirs.join(", ")),
    }
}
