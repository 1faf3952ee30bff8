//! The source tree itself: which module may import which, where `unsafe` may be, and what the papers must name.

use std::fs;
use std::path::{Path, PathBuf};

use crate::skip;

/// A source file without its comments and its unit tests.
struct Source {
    /// Below `src`.
    path: PathBuf,
    /// Every line, for what stands in comments.
    lines: Vec<String>,
    /// The lines of code, with the numbers that they have in the file, from 0 on.
    code: Vec<(usize, String)>,
}

/// The package, if it is here: the tests may have been copied to another machine.
fn package() -> Option<PathBuf> {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(package.join("Cargo.toml")).is_ok().then_some(package)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Everything below `src`.
fn sources(package: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut dirs = vec![package.join("src")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let path = entry.unwrap().path();
            match path.extension() {
                // Unit tests that fill files of their own: `mod tests` at the end of a file names them.
                _ if path.ends_with("tests") => {}
                // What fuzzers run is a test too.
                _ if path.ends_with("fuzzing.rs") => {}
                _ if path.is_dir() => dirs.push(path),
                Some(extension) if extension == "rs" => sources.push(Source::new(package, &path)),
                _ => panic!("{} is no source file", path.display()),
            }
        }
    }
    assert!(sources.len() > 20, "{} files are not the crate", sources.len());
    sources
}

impl Source {
    fn new(package: &Path, path: &Path) -> Self {
        let lines: Vec<String> = read(path).lines().map(str::to_owned).collect();
        let tests = lines.iter().position(|line| line == "#[cfg(test)]").unwrap_or(lines.len());
        let code = lines.iter().take(tests).enumerate().map(|(number, line)| (number, code(line).to_owned()));
        let code = code.collect();
        Self { path: path.strip_prefix(package.join("src")).unwrap().to_owned(), lines, code }
    }

    fn is_in(&self, module: &str) -> bool {
        self.path.starts_with(module) || self.path == Path::new(&format!("{module}.rs"))
    }

    fn at(&self, number: usize) -> String {
        format!("src/{}:{}", self.path.display(), number + 1)
    }

    /// The paths in the code that start with `prefix`, without it: the rest of the path, and where.
    fn paths(&self, prefix: &str) -> Vec<(String, String)> {
        let mut paths = Vec::new();
        for (number, line) in &self.code {
            for (start, _) in line.match_indices(prefix) {
                let word = |char: char| char.is_alphanumeric() || char == '_';
                if line[..start].ends_with(word) {
                    continue;
                }
                let rest = &line[start + prefix.len()..];
                let end = rest.find(|char: char| !word(char) && char != ':').unwrap_or(rest.len());
                // A group is told by its brace.
                let end = if rest[end..].starts_with('{') { end + 1 } else { end };
                paths.push((rest[..end].to_owned(), self.at(*number)));
            }
        }
        paths
    }
}

/// A line without its comment. A string with "//" in it is cut too, which no check here minds.
fn code(line: &str) -> &str {
    line.find("//").map_or(line, |comment| &line[..comment])
}

/// The first component of a path.
fn first(path: &str) -> &str {
    path.split("::").next().unwrap_or(path)
}

macro_rules! package {
    () => {
        match package() {
            Some(package) => package,
            None => skip!("the package is not at {}, or can't be read", env!("CARGO_MANIFEST_DIR")),
        }
    };
}

/// Modules that a module may import from the crate, itself aside.
#[track_caller]
fn assert_imports_only(package: &Path, module: &str, allowed: &[&str]) {
    let sources = sources(package);
    let sources: Vec<_> = sources.iter().filter(|source| source.is_in(module)).collect();
    assert!(!sources.is_empty(), "there is a module {module}");
    let mut seen = 0;
    for source in sources {
        for (path, at) in source.paths("crate::") {
            seen += 1;
            let name = first(&path);
            assert!(name == module || allowed.contains(&name), "{at}: {module} imports crate::{path}");
        }
        // The module file itself has nothing above it but the crate.
        let root =
            source.path.ends_with(format!("{module}/mod.rs")) || source.path == Path::new(&format!("{module}.rs"));
        for (path, at) in source.paths("super::") {
            assert!(!root && first(&path) != "super", "{at}: {module} imports super::{path}");
        }
        assert!(source.paths("belljar::").is_empty(), "{}", source.at(0));
    }
    // The control: without any import, this test would look at nothing.
    assert!(seen > 0 || allowed.is_empty(), "{module} imports nothing");
}

#[test]
fn what_runs_after_clone_imports_the_plan_and_the_system_calls_only() {
    assert_imports_only(&package!(), "postfork", &["plan", "sys"]);
}

#[test]
fn the_system_calls_import_nothing_of_the_crate() {
    assert_imports_only(&package!(), "sys", &[]);
}

#[test]
fn the_plan_knows_no_layer_and_no_process() {
    assert_imports_only(&package!(), "plan", &["error", "sys"]);
}

#[test]
fn a_layer_knows_the_plan_and_no_other_layer() {
    let package = package!();
    let mut layers = 0;
    for source in sources(&package).iter().filter(|source| source.path.starts_with("layer")) {
        let below = source.path.strip_prefix("layer").unwrap();
        if below == Path::new("mod.rs") {
            continue;
        }
        layers += 1;
        let layer = below.with_extension("");
        let layer = layer.components().next().unwrap().as_os_str().to_str().unwrap().to_owned();
        for (path, at) in source.paths("crate::") {
            let own = path.starts_with(&format!("layer::{layer}"));
            assert!(own || ["error", "plan", "sys"].contains(&first(&path)), "{at}: {layer} imports crate::{path}");
        }
        // Above a file of a layer's own directory is the layer; above the layer are the others.
        let inner = below.components().count() == 2 && !below.ends_with("mod.rs");
        for (path, at) in source.paths("super::") {
            assert!(inner && first(&path) != "super", "{at}: {layer} imports super::{path}");
        }
    }
    assert!(layers >= 9, "{layers} files are not all layers");
}

#[test]
fn unsafe_code_is_in_sys_or_allowed_by_name_and_says_why_it_is_sound() {
    let package = package!();
    let mut outside = 0;
    for source in sources(&package) {
        let sys = source.is_in("sys");
        for (number, line) in &source.code {
            if line.contains("allow(unsafe_code)") {
                let whole = line.contains("#![");
                assert!(
                    !whole || source.path == Path::new("sys/mod.rs"),
                    "{}: allowed for a module",
                    source.at(*number)
                );
            }
            // Not the names of lints.
            let line = line.replace("unsafe_", "");
            let is_fn = line.contains("unsafe fn");
            if !line.split(|char: char| !char.is_alphanumeric()).any(|word| word == "unsafe") {
                continue;
            }
            let before = &source.lines[number.saturating_sub(12)..=*number];
            let has = |words: &str| before.iter().any(|line| line.contains(words));
            let why = if is_fn { has("# Safety") } else { has("// SAFETY: ") };
            assert!(why, "{}: unsafe, and no word on what makes it sound", source.at(*number));
            assert!(sys || has("#[allow(unsafe_code)]"), "{}: unsafe outside of sys", source.at(*number));
            outside += usize::from(!sys);
        }
    }
    // There are few; whoever adds one sees this line.
    assert!((1..=5).contains(&outside), "{outside} uses of unsafe outside of sys");
}

#[test]
fn the_library_neither_panics_nor_prints() {
    let forbidden = [
        ".unwrap()",
        "todo!",
        "unimplemented!",
        "unreachable!",
        "panic!",
        "dbg!",
        "print!",
        "println!",
        ".unwrap_unchecked(",
    ];
    for source in sources(&package!()) {
        for (number, line) in &source.code {
            let found = forbidden.iter().find(|word| line.contains(**word));
            assert_eq!(found, None, "{}: {line}", source.at(*number));
        }
    }
}

#[test]
fn unit_tests_are_at_the_end_of_a_file() {
    // What comes after them is not looked at by the other tests here.
    for source in sources(&package!()) {
        let tests = source.lines.iter().position(|line| line == "#[cfg(test)]");
        let Some(tests) = tests else { continue };
        assert_eq!(source.lines.get(tests + 1).map(String::as_str), Some("mod tests {"), "{}", source.at(tests));
        let end = source.lines.iter().skip(tests).position(|line| line == "}").unwrap() + tests + 1;
        assert_eq!(end, source.lines.len(), "{}: code after the tests", source.at(end));
    }
}

#[test]
fn the_changelog_has_the_version_of_the_package() {
    let text = read(&package!().join("CHANGELOG.md"));
    let version = env!("CARGO_PKG_VERSION");
    let heading = |line: &str| {
        let heading = line.strip_prefix("## ")?.trim_start_matches('[');
        heading.strip_prefix(version).map(|rest| rest.is_empty() || rest.starts_with([']', ' ']))
    };
    assert!(text.lines().any(|line| heading(line) == Some(true)), "CHANGELOG.md has no heading for {version}");
}

#[test]
fn the_readme_names_every_example_and_the_first_two_commands() {
    let package = package!();
    let readme = read(&package.join("README.md"));
    let dir = package.join("examples");
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    assert!(names.iter().any(|name| name == "quickstart.rs"), "{names:?}");
    for name in &names {
        // A program and its input have one name.
        let name = name.split('.').next().unwrap_or(name);
        let named = readme.split(|char: char| !char.is_alphanumeric() && char != '_').any(|word| word == name);
        assert!(named, "README.md does not name examples/{name}");
    }
    for command in ["cargo run --example quickstart", "./ci/test"] {
        assert!(readme.contains(command), "README.md does not name `{command}`");
    }
}

#[test]
fn no_runtime_is_among_the_dependencies_unless_it_is_asked_for() {
    let package = package!();
    let Some(cargo) = std::env::var_os("CARGO") else { skip!("this was not started by cargo") };
    let tree = |features: &[&str]| {
        let mut command = std::process::Command::new(&cargo);
        // Cargo.lock is there, for cargo has built this.
        command.current_dir(&package).args(["tree", "--offline", "--prefix", "none", "--edges", "normal,build"]);
        let output = command.args(features).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let has = |tree: &str, name: &str| tree.lines().any(|line| line.starts_with(&format!("{name} ")));
    for features in [&[][..], &["--no-default-features"], &["--features", "image,oci"]] {
        let tree = tree(features);
        assert!(has(&tree, "nix"), "{tree}");
        for name in ["tokio", "mio", "socket2"] {
            assert!(!has(&tree, name), "{features:?}: {name}\n{tree}");
        }
    }
    assert!(has(&tree(&["--features", "tokio"]), "tokio"));
}
