//! The containment suite: every attack of a list, without a sandbox, with one layer at a time, and with all.
//!
//! A check counts only if its attack works outside. Whether it has worked is judged by the host, wherever the host can
//! see it. What holds it is asserted layer by layer, so that none stops to hold behind another's back.

mod checks;
mod jail;
mod stage;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use belljar::Capabilities;

use crate::again::{is_again, output};
use crate::alone::watch;
use crate::harness::{children, compile_static, host, is_root, mounts, namespaces_alone, open_fds, sh, token};
use crate::skip;

use checks::{ALONE, CHECKS, Check, ELSEWHERE, Judge, Needs};
use jail::Jail;
use stage::Stage;

/// What the caller's environment has, its open files, its memory and the files of the host: nothing of it may come out.
const SECRET: &str = "BELLJAR_TEST_SECRET";

fn probe() -> PathBuf {
    compile_static("containment", include_str!("probe.c"))
}

/// What the host must have after the suite as it had it before.
fn snapshot() -> [String; 4] {
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    [mounts(), format!("{:#?}", open_fds()), format!("{:#?}", children()), hostname]
}

/// What has come of one attack: in which jails it was held.
struct Row {
    check: &'static Check,
    held: BTreeSet<Jail>,
    ran: BTreeSet<Jail>,
    /// The same with root's capabilities kept: what would hold if it had them after all.
    held_from_root: BTreeSet<Jail>,
}

impl Row {
    fn of(check: &'static Check) -> Self {
        let ran: BTreeSet<_> = Jail::ALL.into_iter().filter(|jail| jail.is_here()).collect();
        // A race may be lost by chance.
        let tries = if check.attack.first() == Some(&"race") { 10 } else { 1 };
        let holds = |jail: Jail, kept| (0..tries).all(|_| !breached(check, jail, kept));
        let held: BTreeSet<_> = ran.iter().filter(|jail| holds(**jail, Capabilities::empty())).copied().collect();
        let kept = is_root() && held.contains(&Jail::Always);
        let again = if kept { &Jail::WITH_CAPABILITIES[..] } else { &[] };
        let held_from_root = again.iter().filter(|jail| holds(**jail, own_capabilities())).copied().collect();
        Self { check, held, ran, held_from_root }
    }

    fn is_void(&self) -> bool {
        self.held.contains(&Jail::Outside)
    }

    /// The layers that hold it alone. What is always on is part of every jail: where that holds, the others are told by
    /// what they do with capabilities kept, if it is their lack that has held.
    fn layers(&self) -> Vec<&'static str> {
        let layers = [(Jail::Namespaces, "namespaces"), (Jail::Landlock, "landlock"), (Jail::Seccomp, "seccomp")];
        let held_by = |held: &BTreeSet<Jail>| {
            let held = layers.iter().filter(|(jail, _)| held.contains(jail) && !held.contains(&Jail::Always));
            held.map(|(_, name)| *name).collect()
        };
        match self.held.contains(&Jail::Always) {
            true => [vec!["always"], held_by(&self.held_from_root)].concat(),
            false => held_by(&self.held),
        }
    }

    /// Whether the host itself refuses it to everybody, so that there is nothing to prove here.
    fn is_missing(&self) -> bool {
        self.is_void() && matches!(self.check.needs, Needs::Feature | Needs::X86)
    }

    fn faults(&self) -> Vec<String> {
        let Check { id, tried, .. } = self.check;
        let mut faults = Vec::new();
        let claimed: Vec<_> = self.check.held.split_whitespace().collect();
        let layers = self.layers();
        if self.is_void() {
            faults.push(format!("{id}: {tried}: void, for the attack fails outside"));
        }
        let holds_more = claimed.iter().all(|layer| layers.contains(layer)) && on_another_kernel();
        if layers != claimed && !holds_more {
            faults.push(format!("{id}: {tried}: held by {layers:?}, not by {claimed:?}"));
        }
        for (jail, prepared) in Jail::PREPARED {
            if self.held.contains(&jail) != self.held.contains(&prepared) {
                faults.push(format!("{id}: {tried}: prepared, it is {}: {prepared:?}", self.word(prepared)));
            }
        }
        if self.held.contains(&Jail::All) == claimed.is_empty() {
            faults.push(format!("{id}: {tried}: with all layers it is {}", self.word(Jail::All)));
        }
        faults
    }

    fn word(&self, jail: Jail) -> &'static str {
        match (self.ran.contains(&jail), self.held.contains(&jail)) {
            (false, _) => "-",
            (true, true) => "held",
            (true, false) => "BROKEN",
        }
    }
}

/// What the caller has: root of a container lacks some.
fn own_capabilities() -> Capabilities {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let permitted = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).unwrap().trim();
    Capabilities::from_bits_truncate(u64::from_str_radix(permitted, 16).unwrap())
}

/// Performs an attack once, and tells whether it has worked.
fn breached(check: &Check, jail: Jail, kept: Capabilities) -> bool {
    let mut stage = Stage::new(check.attack);
    let output = jail.run(&stage, &stage.fill(check.attack, jail.sees_host()), kept);
    stage.is_breached(check.judge, &output)
}

fn table(rows: &[Row]) -> String {
    let mut table = String::new();
    writeln!(table, "{:<5} {:<2}  {:<58} {:<29} {:<7} bwrap", "check", "", "tried", "held alone by", "all").unwrap();
    for row in rows {
        let Check { id, guarantee, tried, .. } = row.check;
        let layers = row.layers().join(" ");
        let layers = if layers.is_empty() { "nothing: not protected".to_owned() } else { layers };
        let (all, bwrap) = (row.word(Jail::All), row.word(Jail::Bwrap));
        writeln!(table, "{id:<5} {guarantee:<2}  {tried:<58} {layers:<29} {all:<7} {bwrap}").unwrap();
    }
    table
}

const TWO_LAYERS: [&str; 4] = ["G1", "G2", "G3", "G4"];

/// What of the guarantees that two layers have to hold is held by how many, as it was seen.
fn summary(rows: &[Row]) -> String {
    let mut summary = String::new();
    for guarantee in TWO_LAYERS {
        let rows = rows.iter().filter(|row| row.check.guarantee == guarantee && !row.is_missing());
        let (two, one): (Vec<_>, Vec<_>) = rows.partition(|row| row.layers().len() > 1);
        writeln!(summary, "{guarantee}: {} attacks held by two layers or more, {} by one:", two.len(), one.len())
            .unwrap();
        for row in one {
            let (layer, why) = (row.layers().join(" "), row.check.alone().unwrap_or("NO REASON IS KNOWN"));
            writeln!(summary, "    {layer:<11} {}: {why}", row.check.tried).unwrap();
        }
    }
    summary
}

/// Whether what is claimed is the least: Debian's kernels have mended Landlock's view of TCP fast open, and have no performance
/// counters for programs without privilege.
fn on_another_kernel() -> bool {
    std::env::var_os("BELLJAR_TEST_VM").is_some()
}

/// What is not as the list of what one layer holds alone has it.
fn single_faults(rows: &[Row]) -> Vec<String> {
    let strict = rows.iter().filter(|row| TWO_LAYERS.contains(&row.check.guarantee) && !row.is_missing());
    let wrong = strict.filter(|row| match row.layers().len() {
        0 | 1 => row.check.alone().is_none(),
        _ => row.check.alone().is_some() && !on_another_kernel(),
    });
    let fault = |row: &Row| {
        let Check { id, tried, .. } = row.check;
        format!("{id}: {tried}: held by {:?}, and the reason for one alone is {:?}", row.layers(), row.check.alone())
    };
    wrong.map(fault).collect()
}

#[test]
fn every_attack_is_held_by_the_layers_that_claim_it() {
    const NAME: &str = "containment::every_attack_is_held_by_the_layers_that_claim_it";
    if stage::landlock_version() < 6 {
        skip!("this kernel's Landlock keeps no signals inside: Linux 6.12 has ABI 6");
    }
    if !is_again() {
        // In a process of its own, of which the host can tell whether it has changed.
        let output = output(NAME, &["env"], |command| {
            command.env(SECRET, token());
        });
        let [stdout, stderr] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        println!("{stdout}");
        assert!(output.status.success() && stdout.contains("1 passed"), "{:?}\n{stderr}", output.status);
        return;
    }
    watch(Duration::from_secs(300));
    let _open = stage::leave_open();
    probe();
    let before = snapshot();
    let rows: Vec<_> = CHECKS.iter().filter(|check| check.runs_here()).map(Row::of).collect();
    println!("\n{}", table(&rows));
    println!("{}", summary(&rows));
    println!("proven by tests of their own:");
    for (id, guarantee, test) in ELSEWHERE {
        println!("{id:<5} {guarantee:<2}  {test}");
    }
    for check in CHECKS.iter().filter(|check| !check.runs_here()) {
        println!("not tried: {}: {}: it needs {}", check.id, check.tried, check.needs.words());
    }
    assert_eq!(snapshot(), before, "the host is as it was");
    for Check { id, tried, .. } in rows.iter().filter(|row| row.is_missing()).map(|row| row.check) {
        eprintln!("SKIPPED: {id}: {tried}: this host does not have it");
        assert!(on_another_kernel() || std::env::var_os("BELLJAR_TEST_REQUIRE").is_none(), "everything has to run");
    }
    let faults = rows.iter().filter(|row| !row.is_missing()).flat_map(Row::faults);
    let faults: Vec<_> = faults.chain(single_faults(&rows)).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn what_two_layers_can_hold_is_held_by_two() {
    // Also of what this host can't try.
    for check in CHECKS.iter().filter(|check| TWO_LAYERS.contains(&check.guarantee)) {
        let layers = check.held.split_whitespace().count();
        let (Check { id, tried, .. }, alone) = (check, check.alone());
        assert!((layers < 2) == alone.is_some(), "{id}: {tried}: {layers} layers, and the reason {alone:?}");
    }
    // Every entry is one of a check, and of one alone.
    for tried in ALONE.iter().flat_map(|(_, tried)| *tried) {
        let known = CHECKS.iter().filter(|check| check.tried == *tried);
        assert_eq!(known.map(|check| TWO_LAYERS.contains(&check.guarantee)).collect::<Vec<_>>(), [true], "{tried}");
    }
}

#[test]
fn the_word_of_the_probe_is_not_taken_for_what_the_host_can_see() {
    for Check { id, tried, guarantee, judge, .. } in CHECKS {
        let taken = matches!(judge, Judge::Told);
        assert!(!taken || !["G1", "G2", "G3"].contains(guarantee), "{id}: {tried}");
    }
}

/// The source tree, if it is here: the tests may have been copied to another machine.
fn package() -> Option<PathBuf> {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(package.join("Cargo.toml")).is_ok().then_some(package)
}

/// The names of all tests in a directory, as the test binary knows them.
fn tests_below(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let sources = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let module = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    sources.flat_map(|path| tests_in(&fs::read_to_string(&path).unwrap(), &module(&path))).collect()
}

/// The names of the tests in a source file.
fn tests_in(text: &str, module: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().collect();
    let marked = lines.windows(4).filter(|lines| lines[0] == "#[test]");
    let names = marked.filter_map(|lines| lines.iter().find_map(|line| line.strip_prefix("fn ")?.split('(').next()));
    names.map(|name| format!("{module}::{name}")).collect()
}

#[test]
fn every_test_that_proves_a_check_elsewhere_exists() {
    let Some(package) = package() else {
        // A checkout of root's may be closed to others.
        crate::for_root!();
        skip!("the source is not here")
    };
    let dir = package.join("tests/it");
    let mut tests = tests_below(&dir);
    let mine = fs::read_to_string(dir.join("containment/mod.rs")).unwrap();
    tests.extend(tests_in(&mine, "containment"));
    for (id, _, test) in ELSEWHERE {
        assert!(tests.iter().any(|known| known == test), "{id}: there is no test {test}");
    }
}

#[test]
fn the_security_policy_names_every_check_and_no_other() {
    let Some(package) = package() else {
        // A checkout of root's may be closed to others.
        crate::for_root!();
        skip!("the source is not here")
    };
    let text = fs::read_to_string(package.join("SECURITY.md")).unwrap();
    let is_id =
        |word: &&str| word.len() == 4 && word[..2].chars().all(char::is_uppercase) && word[2..].parse::<u8>().is_ok();
    let words = text.split(|char: char| !char.is_ascii_alphanumeric());
    let named: BTreeSet<_> = words.filter(is_id).collect();
    let ids = CHECKS.iter().map(|check| check.id).chain(ELSEWHERE.iter().map(|(id, ..)| *id));
    assert_eq!(named, ids.collect());
    // Each under the guarantee that it proves.
    for (id, guarantee) in CHECKS
        .iter()
        .map(|check| (check.id, check.guarantee))
        .chain(ELSEWHERE.iter().map(|(id, guarantee, _)| (*id, *guarantee)))
    {
        let start = text.find(&format!("**{guarantee}**")).unwrap_or_else(|| panic!("no {guarantee}"));
        let paragraph = text[start..].split("\n\n").next().unwrap();
        assert!(paragraph.contains(id), "{guarantee} does not name {id}");
    }
}

#[test]
fn system_calls_that_nobody_knows_yet_are_missing_and_not_refused() {
    for jail in [Jail::Outside, Jail::Seccomp, Jail::All] {
        let stage = Stage::new(&[]);
        assert!(jail.run(&stage, &["unknown".to_owned()], Capabilities::empty()).success, "{jail:?}");
    }
}

#[test]
fn no_cgroup_is_mounted_inside() {
    let script = "! grep ' - cgroup' /proc/self/mountinfo && cat /proc/self/cgroup";
    for sandbox in [host(), namespaces_alone(&host())] {
        // In a namespace of its own, every group that the program is in is a root.
        let groups = sh(&sandbox, script);
        assert!(!groups.is_empty() && groups.lines().all(|line| line.ends_with(":/")), "{groups}");
    }
}

#[test]
fn a_caller_at_its_limit_of_processes_starts_or_is_told() {
    const NAME: &str = "containment::a_caller_at_its_limit_of_processes_starts_or_is_told";
    if is_root() {
        eprintln!("root has no limit of processes");
        return;
    }
    if !is_again() {
        crate::again::again(NAME, &["env"]);
        return;
    }
    let program = crate::harness::noop();
    let limit = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
    // SAFETY: The kernel only reads the structure, which outlives the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit) }, 0);
    assert!(std::process::Command::new(&program).status().is_err(), "the control: the limit is in force");
    match crate::harness::with_program(&program).command("/program").status() {
        Ok(outcome) => assert!(outcome.success(), "{outcome:?}"),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EAGAIN), "{error}"),
    }
}
