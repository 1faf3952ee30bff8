//! The smallest root of a program with many libraries: to find them, and a whole start.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use belljar::{Network, Rootfs, Sandbox};

use crate::common::contender::{Contender, ended, present, status};
use crate::common::measure::{Samples, interleave};
use crate::common::sections::{combine, find, seen};
use crate::common::table::{Table, number, target};
use crate::common::{Bench, Result};

const ROUNDS: usize = 100;

/// How many libraries the program has, besides that of C.
const LIBRARIES: usize = 30;

/// How long a start with all of it may take, in milliseconds.
const MOST: f64 = 30.0;

const WHOLE: &str = "distroless, found and started";

pub(crate) fn distroless(bench: &Bench) -> Result {
    let program = program(bench)?;
    let all = contenders(&program);
    let contenders = present(&all);
    let mut samples = vec![Samples::default(); contenders.len()];
    interleave(&contenders, ROUNDS, &mut samples)?;
    let mut table = Table::new(&["ms", "median", "min"]);
    for (contender, samples) in contenders.iter().zip(&samples) {
        table.row(contender.name, [samples.median(), samples.min()].map(|us| number(us / 1000.0, 2)));
    }
    table.print();
    println!("\nentries of the root: {}", Rootfs::distroless(&program).files()?.len());
    let whole = seen(find(WHOLE, &contenders, &samples));
    let whole = combine(whole, whole, |us, _| us / 1000.0);
    target("a program with 30 libraries in milliseconds, at most 30", whole, MOST);
    Ok(())
}

fn contenders(program: &Path) -> Vec<Contender> {
    let [own, found, whole, host] = [(); 4].map(|()| program.to_owned());
    let dir = program.parent().unwrap_or(program).to_owned();
    vec![
        Contender::new("plain spawn", move || status(&mut Command::new(&own))),
        Contender::new("distroless, found alone", move || Ok(Rootfs::distroless(&found).files().map(drop)?)),
        Contender::new(WHOLE, move || {
            let sandbox = Sandbox::new().rootfs(Rootfs::distroless(&whole)).network(Network::None);
            ended(&mut sandbox.command(&whole))
        }),
        Contender::new("the host's userland", move || {
            let sandbox = Sandbox::new().rootfs(Rootfs::host()).bind_ro(&dir, &dir);
            ended(&mut sandbox.command(&host))
        }),
    ]
}

/// A program that needs so many libraries beside it, the first of which needs all others too.
fn program(bench: &Bench) -> Result<PathBuf> {
    let dir = bench.path("libraries")?;
    fs::create_dir_all(&dir)?;
    let build = |source: String, out: &Path, options: &[String]| -> Result {
        let code = dir.join("code.c");
        fs::write(&code, source)?;
        status(Command::new("cc").arg("-o").arg(out).arg(&code).args(options))
    };
    let mut options: Vec<String> = ["-Wl,-rpath,$ORIGIN", "-Wl,--no-as-needed", "-L"].map(str::to_owned).into();
    options.push(dir.to_str().ok_or("the directory has an odd name")?.to_owned());
    for number in (0..LIBRARIES).rev() {
        let library = dir.join(format!("libn{number}.so"));
        let own = ["-shared".to_owned(), "-fPIC".to_owned()];
        let all: Vec<String> = if number == 0 { own.into_iter().chain(options.clone()).collect() } else { own.into() };
        build(format!("int f{number}(void) {{ return 0; }}\n"), &library, &all)?;
        options.push(format!("-ln{number}"));
    }
    let program = dir.join("program");
    build("int main(void) { return 0; }\n".to_owned(), &program, &options)?;
    Ok(program)
}
