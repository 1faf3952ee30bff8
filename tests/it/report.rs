//! What a child's report says of each layer, compared with what the host sees of the program.

use belljar::{Enforcement, Landlock, Layer, Namespaces, Network, Report, Sandbox, Seccomp, Stdio};

use crate::again::{again, is_again, own_mounts, works};
use crate::filter::{ABSENT, SWITCHED_OFF, filter};
use crate::harness::host;
use crate::skip;

const LAYERS: [Layer; 10] = [
    Layer::Namespaces,
    Layer::Ids,
    Layer::Mount,
    Layer::Network,
    Layer::Fds,
    Layer::Limits,
    Layer::Capabilities,
    Layer::Process,
    Layer::Landlock,
    Layer::Seccomp,
];

/// Starts a program that waits, and returns the report on it, with how many filters the host sees it under.
fn reported(sandbox: &Sandbox) -> (Report, u32) {
    let mut child = sandbox.command("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let report = child.report().clone();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let filters = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:")).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    (report, filters.trim().parse().unwrap())
}

/// The layers that are not in force, with how far they are, and why.
fn exceptions(report: &Report) -> Vec<(Layer, Enforcement, String)> {
    let layers: Vec<_> = report.layers().map(belljar::LayerStatus::layer).collect();
    assert_eq!(layers, LAYERS, "every layer once, in order");
    let all = report.layers().filter(|status| status.enforcement() != Enforcement::InForce || status.why().is_some());
    all.map(|status| (status.layer(), status.enforcement(), status.why().unwrap_or("no reason").to_owned())).collect()
}

/// Whether the kernel has the newest Landlock that there is a word for.
fn newest() -> bool {
    belljar::host::probe().landlock_abi().is_some_and(|version| version >= 6)
}

#[test]
fn by_default_every_layer_is_in_force() {
    let (report, filters) = reported(&host());
    let outer = std::fs::read_to_string("/proc/self/status").unwrap();
    let outer = outer.lines().find_map(|line| line.strip_prefix("Seccomp_filters:")).unwrap();
    assert_eq!(filters, outer.trim().parse::<u32>().unwrap() + 1, "one filter of the sandbox's own");
    if newest() {
        assert_eq!(exceptions(&report), []);
    }
    assert_eq!(report.layer(Layer::Seccomp).unwrap().enforcement(), Enforcement::InForce);
    assert_eq!(report.layer(Layer::Exec), None, "no protection of its own");
}

#[test]
fn a_layer_that_is_switched_off_is_told() {
    let off = |layer| (layer, Enforcement::Off, "switched off by the policy".to_owned());
    let (report, filters) = reported(&host().seccomp(Seccomp::off()));
    assert_eq!(filters, reported(&host()).1 - 1);
    assert!(exceptions(&report).contains(&off(Layer::Seccomp)), "{report}");
    let (report, _) = reported(&host().landlock(Landlock::off()));
    assert_eq!(exceptions(&report), [off(Layer::Landlock)]);
}

#[test]
fn what_is_shared_with_the_host_is_told() {
    let (report, _) = reported(&host().network(Network::Host));
    let [namespaces, network] = [Layer::Namespaces, Layer::Network].map(|layer| report.layer(layer).unwrap());
    assert_eq!(namespaces.enforcement(), Enforcement::Partly);
    assert_eq!(namespaces.why(), Some("shared with the host: net"));
    assert_eq!((network.enforcement(), network.why()), (Enforcement::Off, Some("the host's network")));

    let (report, _) = reported(&host().namespaces(Namespaces::default() - Namespaces::IPC - Namespaces::UTS));
    assert_eq!(report.layer(Layer::Namespaces).unwrap().why(), Some("shared with the host: ipc, uts"));
}

#[test]
fn without_namespaces_the_other_layers_are_told() {
    let (report, _) = reported(&Sandbox::new().namespaces(Namespaces::empty()));
    for layer in [Layer::Namespaces, Layer::Ids, Layer::Mount, Layer::Network] {
        assert_eq!(report.layer(layer).unwrap().enforcement(), Enforcement::Off, "{report}");
    }
    let landlock = report.layer(Layer::Landlock).unwrap();
    if newest() {
        assert_eq!(landlock.enforcement(), Enforcement::Partly, "{report}");
        assert!(landlock.why().unwrap().contains("files are not restricted"), "{report}");
    }
    assert_eq!(report.layer(Layer::Seccomp).unwrap().enforcement(), Enforcement::InForce);
    // Rules by name restrict files, with or without mounts of the sandbox's own.
    let rules = Landlock::new().allow_execute("/");
    let (report, _) = reported(&Sandbox::new().namespaces(Namespaces::empty()).landlock(rules));
    if newest() {
        let landlock = report.layer(Layer::Landlock).unwrap();
        assert_eq!((landlock.enforcement(), landlock.why()), (Enforcement::InForce, None));
    }
}

#[test]
fn a_kernel_without_landlock_is_told() {
    if !is_again() {
        again("report::a_kernel_without_landlock_is_told", &["env"]);
        return;
    }
    for (errno, words) in [(ABSENT, "no Landlock"), (SWITCHED_OFF, "switched off on this kernel")] {
        let told = std::thread::spawn(move || {
            filter(libc::SYS_landlock_create_ruleset, errno);
            reported(&host()).0
        });
        let report = told.join().unwrap();
        let landlock = report.layer(Layer::Landlock).unwrap();
        assert_eq!(landlock.enforcement(), Enforcement::Off, "{report}");
        assert!(landlock.why().unwrap().contains(words), "{report}");
        assert_eq!(exceptions(&report).len(), 1, "{report}");
    }
}

#[test]
fn printed_it_is_a_table() {
    let (report, _) = reported(&host().landlock(Landlock::off()).network(Network::Host));
    let table = report.to_string();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), LAYERS.len(), "{table}");
    for (line, layer) in lines.iter().zip(LAYERS) {
        let (name, rest) = line.split_at(14);
        assert_eq!(name.trim_end(), layer.to_string(), "{table}");
        assert!(name.ends_with("  "), "the columns are apart:\n{table}");
        let state = ["in force", "partly  ", "off     "].iter().find(|state| rest.starts_with(**state));
        let reason = rest.get(10..).unwrap_or_default();
        assert_eq!(state == Some(&"in force"), reason.is_empty(), "a reason for the others:\n{table}");
    }
    assert!(table.contains("landlock      off       switched off by the policy"), "{table}");
}

#[test]
fn user_namespaces_that_could_not_be_bounded_are_told() {
    const NAME: &str = "report::user_namespaces_that_could_not_be_bounded_are_told";
    let some = host().namespaces(Namespaces::default() - Namespaces::PID);
    if !is_again() {
        let (report, _) = reported(&some);
        assert!(!report.to_string().contains("user namespaces"), "the control: {report}");
        let mount = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec \"$@\"";
        let words = [own_mounts(), &["sh", "-ec", mount, "sh"]].concat();
        if !works(&[&words[..], &["true"]].concat()) {
            skip!("no mount namespace is to be had here");
        }
        again(NAME, &words);
        return;
    }
    let (report, _) = reported(&some);
    let namespaces = report.layer(Layer::Namespaces).unwrap();
    assert_eq!(namespaces.enforcement(), Enforcement::Partly);
    let why = "shared with the host: pid; new user namespaces are not bounded: /proc/sys can't be written on this host";
    assert_eq!(namespaces.why(), Some(why));
}
