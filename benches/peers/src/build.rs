//! A parallel build of a real project, with every call of the compiler in a sandbox of its own: the interpreter Lua.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use belljar::{Rootfs, Sandbox};

use crate::common::contender::{bwrap_mounts, ended, host_policy, status};
use crate::common::measure::{Samples, in_turns};
use crate::common::sections::{combine, seen};
use crate::common::table::{Seen, Table, number, target};
use crate::common::{Bench, Result};
use crate::peers::{ONE_SHOT, POOL, PREPARED};
use crate::plot::{Bar, Bars, Plots};
use crate::usage::processor_time;

const ROUNDS: usize = 3;

/// Where the sources and the objects are, inside.
const SOURCES: &str = "/src";
const OBJECTS: &str = "/out";

/// Runs one command line, to its end. The second argument is where the objects are, for it.
type Run = Box<dyn Fn(&[String]) -> Result + Sync>;

/// One way to run every command of the build.
struct Builder {
    name: &'static str,
    /// The directory of its objects, on the host.
    objects: PathBuf,
    /// The same, as its commands are told.
    told: PathBuf,
    run: Run,
}

pub(crate) fn build(bench: &Bench, plots: &Plots) -> Result {
    let sources = match sources() {
        Ok(sources) => sources,
        Err(error) => {
            println!("left out: no sources to build: {error}");
            return Ok(());
        }
    };
    let files = c_files(&sources)?;
    let workers = thread::available_parallelism()?.get();
    println!("Lua, {} files, {workers} at a time\n", files.len());
    let builders = builders(bench, &sources, workers)?;
    let mut wall = vec![Samples::default(); builders.len()];
    let mut processor = wall.clone();
    in_turns(builders.len(), ROUNDS, |index| {
        if let (Some(builder), Some(wall), Some(processor)) =
            (builders.get(index), wall.get_mut(index), processor.get_mut(index))
        {
            let (time, spent) = builder.build(&files, workers)?;
            wall.push(time);
            processor.push(spent);
        }
        Ok(())
    })?;
    same_objects(&builders)?;
    report(&builders, &wall, &processor);
    let ms = |value| number(value / 1e3, 0);
    // Processors' time: on a busy machine the time of a build tells whom the scheduler favours.
    let known = builders.iter().zip(&processor).filter(|(builder, _)| builder.name != "bwrap");
    let bars = known.map(|(builder, samples)| Bar::new(builder.name, seen(Some(samples)), ms));
    let title = "Processor time of a parallel build of Lua, every compiler call in its own sandbox, ms";
    plots.save("build", &Bars { title, logarithmic: false, bars: bars.collect() }.svg(plots.machine()))
}

fn report(builders: &[Builder], wall: &[Samples], processor: &[Samples]) {
    let floor = |samples: &[Samples]| seen(samples.first());
    let mut table = Table::new(&["ms: median (min)", "time", "x plain", "processors' time", "x plain"]);
    for (index, builder) in builders.iter().enumerate() {
        let figures = [wall, processor].map(|samples| {
            let (seen, floor) = (seen(samples.get(index)), floor(samples));
            let ms = format!("{} ({})", number(seen.median / 1e3, 0), number(seen.min / 1e3, 0));
            [ms, number(seen.median / floor.median, 3)]
        });
        // bwrap does not wait for its last process: nobody learns here what that took.
        let figures = figures.into_iter().enumerate();
        let figures = figures.filter(|(column, _)| *column == 0 || builder.name != "bwrap");
        table.row(builder.name, figures.flat_map(|(_, figures)| figures));
    }
    table.print();
    println!();
    for (index, builder) in builders.iter().enumerate().filter(|(_, builder)| builder.name.starts_with("belljar")) {
        for (samples, what) in [(wall, "time"), (processor, "processors' time")] {
            let ratio: Seen = combine(seen(samples.get(index)), floor(samples), |ours, plain| ours / plain);
            target(&format!("{}: {what} at most 1.05 of the build without sandboxes", builder.name), ratio, 1.05);
        }
    }
}

impl Builder {
    /// The whole build: how long it took, and how long the processors were at it.
    fn build(&self, files: &[String], workers: usize) -> Result<(Duration, Duration)> {
        // The directory stays: it is bound in the sandboxes that wait.
        for object in fs::read_dir(&self.objects)? {
            fs::remove_file(object?.path())?;
        }
        let (start, before) = (Instant::now(), processor_time()?);
        let next = AtomicUsize::new(0);
        let worker = || -> Result {
            while let Some(file) = files.get(next.fetch_add(1, Relaxed)) {
                let object = self.told.join(file).with_extension("o");
                self.call(&["cc", "-O2", "-std=gnu99", "-DLUA_USE_POSIX", "-c", file, "-o"], &[object])?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
        })?;
        let objects: Vec<PathBuf> = files.iter().map(|file| self.told.join(file).with_extension("o")).collect();
        self.call(&["ar", "rcD"], &[&[self.told.join("liblua.a")], objects.as_slice()].concat())?;
        Ok((start.elapsed(), processor_time()?.saturating_sub(before)))
    }

    fn call(&self, args: &[&str], paths: &[PathBuf]) -> Result {
        let args = args.iter().map(|arg| (*arg).to_owned());
        let paths = paths.iter().map(|path| path.to_string_lossy().into_owned());
        (self.run)(&args.chain(paths).collect::<Vec<_>>()).map_err(|error| format!("{}: {error}", self.name).into())
    }
}

/// The first is without sandboxes: what the others are compared with.
fn builders(bench: &Bench, sources: &Path, workers: usize) -> Result<Vec<Builder>> {
    let dir = sources.to_owned();
    let mut builders = vec![builder(bench, "plain spawn", |_| {
        Ok(Box::new(move |args| {
            let (program, args) = args.split_first().ok_or("no command")?;
            status(Command::new(program).args(args).current_dir(&dir))
        }))
    })?];
    if let Some(builder) = builders.first_mut() {
        builder.told.clone_from(&builder.objects);
    }
    let policy =
        |objects: &Path| Sandbox::new().rootfs(Rootfs::host()).bind_ro(sources, SOURCES).bind(objects, OBJECTS);
    builders.push(builder(bench, POOL, |objects| {
        let pool = policy(objects).prepare()?.pool(workers)?;
        Ok(Box::new(move |args| sandboxed(args, |program| pool.command(program))))
    })?);
    builders.push(builder(bench, PREPARED, |objects| {
        let prepared = policy(objects).prepare()?;
        Ok(Box::new(move |args| sandboxed(args, |program| prepared.command(program))))
    })?);
    builders.push(builder(bench, ONE_SHOT, |objects| {
        let sandbox = policy(objects);
        Ok(Box::new(move |args| sandboxed(args, |program| sandbox.command(program))))
    })?);
    let bwrap = builder(bench, "bwrap", |objects| {
        let policy = host_policy(bench)?.bind_ro(sources, SOURCES).bind(objects, OBJECTS);
        let mounts = bwrap_mounts(bench, &policy)?;
        let run = move |args: &[String]| {
            let mut command = Command::new("bwrap");
            status(command.arg("--unshare-all").args(&mounts).args(["--chdir", SOURCES]).args(args))
        };
        run(&["true".to_owned()])?;
        Ok(Box::new(run))
    });
    match bwrap {
        Ok(bwrap) => builders.push(bwrap),
        Err(error) => println!("missing: bwrap: {error}"),
    }
    Ok(builders)
}

fn sandboxed(args: &[String], command: impl Fn(&str) -> belljar::Command) -> Result {
    let (program, args) = args.split_first().ok_or("no command")?;
    ended(command(program).args(args).current_dir(SOURCES))
}

fn builder(bench: &Bench, name: &'static str, run: impl FnOnce(&Path) -> Result<Run>) -> Result<Builder> {
    let objects = bench.path(&name.replace(' ', "-"))?;
    fs::create_dir_all(&objects)?;
    Ok(Builder { name, run: run(&objects)?, told: OBJECTS.into(), objects })
}

/// The compiler saw the same everywhere: what it made is the same, byte for byte.
fn same_objects(builders: &[Builder]) -> Result {
    let library = |builder: &Builder| fs::read(builder.objects.join("liblua.a"));
    let Some((plain, others)) = builders.split_first() else { return Ok(()) };
    let expected = library(plain)?;
    for other in others {
        if library(other)? != expected {
            return Err(format!("{} built something else than {}", other.name, plain.name).into());
        }
    }
    Ok(())
}

/// The directory of the sources in the package lua-src, which cargo knows.
fn sources() -> Result<PathBuf> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Of other platforms there are packages that were never fetched.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let options = ["metadata", "--format-version=1", "--offline", "--filter-platform", &platform];
    let output = Command::new(cargo).args(options).args(["--manifest-path", manifest]).output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let package = text.split_once(r#""name":"lua-src","version""#).ok_or("cargo metadata knows no lua-src")?.1;
    let start = package.split_once(r#""manifest_path":""#).ok_or("the package has a manifest")?.1;
    let path = start.split_once('"').ok_or("a string ends")?.0;
    let package = Path::new(path).parent().ok_or("a manifest is in a directory")?;
    let versions = fs::read_dir(package)?.collect::<std::io::Result<Vec<_>>>()?;
    let of = |prefix: &str| versions.iter().map(fs::DirEntry::path).find(|path| name_starts(path, prefix));
    of("lua-5.4").ok_or_else(|| format!("{}: no lua-5.4 in it", package.display()).into())
}

fn name_starts(path: &Path, prefix: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

/// The largest first, so that nobody waits for a large one at the end.
fn c_files(sources: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(sources)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".c") {
            files.push((std::cmp::Reverse(entry.metadata()?.len()), name));
        }
    }
    files.sort_unstable();
    Ok(files.into_iter().map(|(_, name)| name).collect())
}
