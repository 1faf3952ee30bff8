//! The list of checks: an attack a line, with the layers that hold it, each alone.

use std::fs;

use crate::harness::{is_root, mounts};

/// One attack, and what is claimed of it.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) id: &'static str,
    pub(super) guarantee: &'static str,
    pub(super) tried: &'static str,
    /// The name of the attack in the probe, and its arguments, with names that the stage fills in.
    pub(super) attack: &'static [&'static str],
    pub(super) judge: Judge,
    /// The layers that hold it alone, in the order of the jails; nothing for what is not protected.
    pub(super) held: &'static str,
    pub(super) needs: Needs,
}

/// What the host looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judge {
    /// Whether the secret has come out.
    Prints,
    /// Whether a file of the host is another: its content, attributes, links, or that it is there.
    Changed,
    /// Whether anything has been made in the writable directory.
    Made,
    /// Whether a listener of the host has been reached.
    Reached,
    /// Whether a descriptor has been handed out.
    Handed,
    /// Whether a process of the host has got a signal, or has other memory, limits or another priority.
    Harmed,
    /// Whether a key is in the caller's keyring.
    Key,
    /// What the probe says: for what nobody outside can see.
    Told,
}

/// What the attack needs to work outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    Root,
    /// A caller without root's privilege.
    User,
    /// Something that a kernel may be built without, or may refuse to everybody.
    Feature,
    X86,
    /// Root, and a file system of cgroups at its usual place.
    Cgroups,
    /// A hierarchy of cgroup v1.
    CgroupV1,
    /// A host that leaves core files in the working directory, and a caller that may have them.
    Cores,
}

impl Needs {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Root => "root",
            Self::User => "an unprivileged caller",
            Self::Feature => "a feature of the kernel",
            Self::X86 => "x86-64",
            Self::Cgroups => "root, and cgroups that are mounted",
            Self::CgroupV1 => "a hierarchy of cgroup v1",
            Self::Cores => "a host that leaves core files in the working directory",
        }
    }
}

impl Check {
    pub(super) fn runs_here(&self) -> bool {
        match self.needs {
            Needs::Nothing | Needs::Feature => true,
            Needs::Root => is_root(),
            Needs::User => !is_root(),
            Needs::X86 => cfg!(target_arch = "x86_64"),
            Needs::Cgroups => is_root() && mounts().contains(" - cgroup"),
            // cgroups(7): version 2 alone has the hierarchy 0.
            Needs::CgroupV1 => {
                fs::read_to_string("/proc/self/cgroup").unwrap().lines().any(|line| !line.starts_with("0:"))
            }
            Needs::Cores => leaves_core_files(),
        }
    }

    /// Why one layer alone holds it, if one does.
    pub(super) fn alone(&self) -> Option<&'static str> {
        ALONE.iter().find(|(_, tried)| tried.contains(&self.tried)).map(|(why, _)| *why)
    }

    const fn needs(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }
}

/// Whether a process that crashes leaves a core file where it is: core(5).
fn leaves_core_files() -> bool {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let hard = limits.lines().find_map(|line| line.strip_prefix("Max core file size")?.split_whitespace().nth(1));
    !pattern.trim().is_empty() && !pattern.contains(['|', '@', '/']) && hard != Some("0") && hard != Some("1")
}

const fn check(
    id: &'static str,
    guarantee: &'static str,
    tried: &'static str,
    attack: &'static [&'static str],
    judge: Judge,
    held: &'static str,
) -> Check {
    Check { id, guarantee, tried, attack, judge, held, needs: Needs::Nothing }
}

#[rustfmt::skip]
pub(super) const CHECKS: &[Check] = &[
    // Files are not read.
    check("FS01", "G1", "read a private file by its path", &["read", "{secret}/canary"], Judge::Prints, "namespaces landlock"),
    check("FS02", "G1", "climb above the root", &["climb", "{secret}/canary"], Judge::Prints, "namespaces landlock"),
    check("FS02", "G1", "break out of a chroot", &["chroot", "{rw}", "{secret}/canary"], Judge::Prints, "namespaces landlock seccomp"),
    check("FS16", "G1", "read by /proc/self/root", &["through", "/proc/self/root", "{secret}/canary"], Judge::Prints, "namespaces landlock"),
    check("FS16", "G1", "read by /proc/self/cwd/..", &["through", "/proc/self/cwd/../../../../../..", "{secret}/canary"], Judge::Prints, "namespaces landlock"),
    check("FS16", "G1", "read by a path with // and /./", &["through", "//.//", "{secret}//./canary"], Judge::Prints, "namespaces landlock"),
    check("FS16", "G1", "read by a way up out of a bind", &["read", "{ro}/../secret/canary"], Judge::Prints, "namespaces landlock"),
    check("FS16", "G1", "read by the root of another process", &["through", "/proc/{victim}/root", "{secret}/canary"], Judge::Prints, "namespaces landlock"),
    check("FS13", "G1", "read by a link in a writable directory", &["symlink-read", "{rw}", "{secret}/canary"], Judge::Prints, "namespaces landlock"),
    check("FS12", "G1", "read by a link that comes and goes, 200 times", &["race", "{rw}", "{secret}/canary"], Judge::Prints, "namespaces landlock"),
    check("LL01", "G1", "write to a private file", &["write", "{secret}/canary"], Judge::Changed, "namespaces landlock"),
    check("LL01", "G1", "make a file in a private directory", &["create", "{secret}/new"], Judge::Changed, "namespaces landlock"),
    check("LL01", "G1", "remove a private file", &["unlink", "{secret}/canary"], Judge::Changed, "namespaces landlock"),
    // What is bound read-only is not written.
    check("FS04", "G1", "write to a file bound read-only", &["write", "{ro}/file"], Judge::Changed, "namespaces landlock"),
    check("FS04", "G1", "write to its memory", &["mmap", "{ro}/file"], Judge::Changed, "namespaces landlock"),
    check("FS04", "G1", "make a file there", &["create", "{ro}/new"], Judge::Changed, "namespaces landlock"),
    check("FS04", "G1", "make a nameless file there and name it", &["tmpfile", "{ro}", "{ro}/new"], Judge::Changed, "namespaces landlock"),
    check("FS04", "G1", "make a directory there", &["mkdir", "{ro}/new"], Judge::Changed, "namespaces landlock"),
    check("FS04", "G1", "make a FIFO there", &["mkfifo", "{ro}/new"], Judge::Changed, "namespaces landlock"),
    check("FS04", "G1", "make a link there", &["symlink", "{ro}/new"], Judge::Changed, "namespaces landlock"),
    check("FS04", "G1", "remove a file there", &["unlink", "{ro}/file"], Judge::Changed, "namespaces landlock"),
    check("FS04", "G1", "rename a file there", &["rename", "{ro}/file", "{ro}/new"], Judge::Changed, "namespaces landlock"),
    check("LL02", "G1", "truncate a file there", &["truncate", "{ro}/file"], Judge::Changed, "namespaces landlock"),
    check("LL02", "G1", "truncate it by opening it to read", &["open-trunc", "{ro}/file"], Judge::Changed, "namespaces landlock"),
    check("LL03", "G1", "link a file to where it may be written", &["link-write", "{ro}/file", "{rw}/link"], Judge::Changed, "namespaces landlock"),
    check("LL03", "G1", "move a file to where it may be written", &["rename-write", "{ro}/dir/file", "{rw}/moved"], Judge::Changed, "namespaces landlock"),
    check("LL05", "G1", "change its mode", &["chmod", "{ro}/file"], Judge::Changed, "namespaces"),
    check("LL05", "G1", "change its owner", &["chown", "{ro}/file"], Judge::Changed, "namespaces"),
    check("LL05", "G1", "change its times", &["utimes", "{ro}/file"], Judge::Changed, "namespaces"),
    check("LL05", "G1", "change its extended attributes", &["xattr", "{ro}/file"], Judge::Changed, "namespaces"),
    check("FS06", "G1", "mount it again, writable, and write", &["remount", "{ro}", "{ro}/file"], Judge::Changed, "namespaces landlock"),
    check("FS17", "G1", "make a device in a writable directory", &["mknod", "{rw}/device"], Judge::Made, "always namespaces").needs(Needs::Root),
    check("FS20", "G1", "write to a FIFO below a read-only bind", &["fifo", "{ro}/fifo"], Judge::Reached, "landlock"),
    // A socket below a bind is handed in by the caller.
    check("FS20", "G8", "connect to a socket below a read-only bind", &["connect-unix", "{ro}/socket"], Judge::Reached, ""),
    // No network.
    check("NS08", "G2", "connect to a TCP port of the host", &["connect-tcp", "{tcp}"], Judge::Reached, "namespaces landlock"),
    check("NS08", "G2", "the same by an IPv6 socket", &["connect-mapped", "{tcp}"], Judge::Reached, "namespaces landlock").needs(Needs::Feature),
    check("NS08", "G2", "the same with the first data (TCP fast open)", &["fast-open", "{tcp}"], Judge::Reached, "namespaces").needs(Needs::Feature),
    check("LL07", "G2", "send a UDP datagram to the host", &["send-udp", "{udp}"], Judge::Reached, "namespaces"),
    check("IO06", "G2", "connect to an abstract socket of the host", &["connect-abstract", "{abstract}"], Judge::Reached, "namespaces landlock"),
    check("IO06", "G2", "send to an abstract socket of the host", &["send-abstract", "{datagram}"], Judge::Reached, "namespaces landlock"),
    check("LL06", "G2", "connect to a socket in a private directory", &["connect-unix", "{secret}/socket"], Judge::Reached, "namespaces"),
    check("NS08", "G2", "have a vsock socket", &["hand-socket", "40", "1", "0"], Judge::Handed, "seccomp").needs(Needs::Feature),
    check("NS08", "G2", "have a packet socket", &["hand-socket", "17", "3", "0"], Judge::Handed, "always seccomp").needs(Needs::Root),
    // No signal, trace, IPC or key.
    check("IO12", "G3", "signal a process of the host", &["kill", "{victim}"], Judge::Harmed, "namespaces landlock"),
    check("IO12", "G3", "signal its process group", &["kill-group", "{victim}"], Judge::Harmed, "namespaces landlock"),
    check("IO12", "G3", "signal its thread", &["tgkill", "{victim}"], Judge::Harmed, "namespaces landlock"),
    check("IO12", "G3", "queue a signal", &["sigqueue", "{victim}"], Judge::Harmed, "namespaces landlock"),
    check("IO12", "G3", "signal it by a pidfd", &["pidfd", "{victim}"], Judge::Harmed, "namespaces landlock"),
    check("IO12", "G3", "have the kernel signal the owner of a socket", &["fown", "{victim}"], Judge::Harmed, "namespaces landlock"),
    check("NS13", "G3", "change its limits", &["prlimit", "{victim}"], Judge::Harmed, "namespaces"),
    check("NS13", "G3", "change its priority", &["nice", "{victim}"], Judge::Harmed, "namespaces"),
    check("SC06", "G3", "trace it and read its memory", &["trace", "{victim}", "{address}"], Judge::Prints, "namespaces landlock seccomp"),
    check("SC06", "G3", "read its memory (process_vm_readv)", &["vm-read", "{victim}", "{address}"], Judge::Prints, "namespaces landlock seccomp"),
    check("SC06", "G3", "write to its memory (process_vm_writev)", &["vm-write", "{victim}", "{address}"], Judge::Harmed, "namespaces landlock seccomp"),
    check("SC06", "G3", "read /proc/PID/mem", &["mem-read", "{victim}", "{address}"], Judge::Prints, "namespaces landlock"),
    check("SC06", "G3", "write to /proc/PID/mem", &["mem-write", "{victim}", "{address}"], Judge::Harmed, "namespaces landlock"),
    check("SC06", "G3", "take a descriptor of it", &["getfd", "{victim}", "{fd}"], Judge::Prints, "namespaces landlock seccomp"),
    check("SC06", "G4", "compare itself with it (kcmp)", &["kcmp", "{victim}"], Judge::Told, "namespaces landlock seccomp"),
    check("IO07", "G3", "read shared memory of the host by its key", &["shm", "{shm}"], Judge::Prints, "namespaces"),
    check("IO07", "G3", "receive from a message queue of the host", &["mq", "{mq}"], Judge::Prints, "namespaces landlock").needs(Needs::Feature),
    check("IO05", "G3", "add a key to the user's keyring", &["add-key", "{name}"], Judge::Key, "namespaces seccomp"),
    check("IO05", "G3", "read a key of the caller's session", &["read-key", "{key}"], Judge::Prints, "always"),
    // No privilege.
    check("NS01", "G4", "have a capability in any set, as root", &["capability"], Judge::Told, "always").needs(Needs::Root),
    check("NS01", "G4", "have a capability in any set, as nobody", &["capability"], Judge::Told, "namespaces").needs(Needs::User),
    check("NS01", "G4", "gain privilege by executing", &["new-privileges"], Judge::Told, "always"),
    check("NS05", "G4", "make a user namespace: unshare", &["userns"], Judge::Told, "namespaces seccomp"),
    check("NS05", "G4", "make a user namespace: clone", &["userns-clone"], Judge::Told, "namespaces seccomp"),
    check("SC03", "G4", "make a user namespace: clone3", &["userns-clone3"], Judge::Told, "namespaces seccomp"),
    check("NS05", "G4", "be root of namespaces of its own", &["namespaces"], Judge::Told, "namespaces seccomp"),
    check("FS08", "G4", "mount a /proc without masks", &["fresh-proc"], Judge::Told, "namespaces landlock seccomp"),
    check("SC05", "G4", "mount a tmpfs", &["mount", "{rw}"], Judge::Told, "namespaces landlock seccomp"),
    check("SC05", "G4", "mount a directory elsewhere", &["bind", "{rw}"], Judge::Told, "namespaces landlock seccomp"),
    check("SC05", "G4", "the same by the new system calls", &["move-mount", "{rw}"], Judge::Told, "namespaces landlock seccomp"),
    check("SC05", "G4", "pivot the root", &["pivot", "{rw}"], Judge::Told, "namespaces landlock seccomp"),
    check("SC05", "G4", "reach the parsers of mount options (fsopen)", &["fsopen"], Judge::Told, "namespaces seccomp"),
    check("NS10", "G4", "change the name of the host", &["sethostname"], Judge::Told, "namespaces seccomp"),
    check("NS10", "G4", "open a kernel parameter to write", &["open-write", "/proc/sys/kernel/domainname"], Judge::Told, "namespaces landlock").needs(Needs::Root),
    check("NS11", "G4", "open a file of a cgroup to write", &["cgroup"], Judge::Handed, "namespaces landlock").needs(Needs::Cgroups),
    check("NS11", "G4", "mount the cgroups of a namespace of its own", &["mount-cgroup2", "{rw}"], Judge::Handed, "namespaces landlock seccomp").needs(Needs::Feature),
    check("NS11", "G4", "the same, of cgroup v1", &["mount-cgroup1", "{rw}"], Judge::Handed, "namespaces landlock seccomp").needs(Needs::CgroupV1),
    check("SC04", "G4", "io_uring", &["io-uring"], Judge::Told, "seccomp").needs(Needs::Feature),
    check("SC07", "G4", "perf_event_open", &["perf"], Judge::Told, "seccomp").needs(Needs::Feature),
    check("SC07", "G4", "userfaultfd", &["userfaultfd"], Judge::Told, "seccomp").needs(Needs::Feature),
    check("SC07", "G4", "vmsplice", &["vmsplice"], Judge::Told, "seccomp"),
    check("SC07", "G4", "fanotify_init", &["fanotify"], Judge::Told, "seccomp").needs(Needs::Feature),
    check("SC07", "G4", "bpf", &["bpf"], Judge::Told, "always namespaces seccomp").needs(Needs::Root),
    check("FS21", "G4", "open a file by its handle", &["handle", "{ro}", "{ro}/file"], Judge::Told, "always namespaces seccomp").needs(Needs::Root),
    check("SC08", "G4", "personality: executable memory", &["read-implies-exec"], Judge::Told, "seccomp"),
    check("SC08", "G4", "personality: addresses that can be guessed", &["no-randomize"], Judge::Told, "seccomp"),
    check("SC08", "G4", "modify_ldt", &["ldt"], Judge::Told, "seccomp").needs(Needs::X86),
    check("SC02", "G4", "enter the kernel as a 32-bit program", &["int80"], Judge::Told, "seccomp").needs(Needs::X86),
    // Nothing is left.
    check("NS12", "G5", "leave a core file in a writable directory", &["crash", "{rw}"], Judge::Made, "always").needs(Needs::Cores),
    // No secret of the caller's.
    check("FD01", "G8", "read a descriptor that was left open", &["descriptors"], Judge::Prints, "always"),
    check("IO08", "G8", "read the caller's environment", &["environment"], Judge::Prints, "always"),
    check("IO08", "G8", "read the environment of a process of the host", &["read", "/proc/{victim}/environ"], Judge::Prints, "namespaces landlock"),
];

/// What one layer alone holds of G1 to G4: the reason, and what was tried. Everything else there is held by two at least.
///
/// An entry that is not needed any more fails the suite, as one that is missing does.
#[rustfmt::skip]
pub(super) const ALONE: &[(&str, &[&str])] = &[
    ("Landlock has no right for attributes: the read-only mount holds", &[
        "change its mode",
        "change its owner",
        "change its times",
        "change its extended attributes",
    ]),
    ("this lack is what is always on: no other layer takes privilege away", &[
        "have a capability in any set, as root",
        "gain privilege by executing",
    ]),
    ("a read-only mount does not hold a FIFO: Landlock does", &[
        "write to a FIFO below a read-only bind",
    ]),
    ("Landlock looks at connect(2), and not at data that connects", &[
        "the same with the first data (TCP fast open)",
    ]),
    ("Landlock has TCP only", &[
        "send a UDP datagram to the host",
    ]),
    ("Landlock has no right for sockets in files yet: there is no such file inside", &[
        "connect to a socket in a private directory",
    ]),
    ("vsock has no namespaces", &[
        "have a vsock socket",
    ]),
    ("Landlock has no right for it, and programs set limits and priorities of their own", &[
        "change its limits",
        "change its priority",
    ]),
    ("Landlock and the filter do not know one object from another: the IPC namespace holds", &[
        "read shared memory of the host by its key",
    ]),
    ("a program that the filter does not keep from keys gets a session keyring of its own", &[
        "read a key of the caller's session",
    ]),
    ("only a user namespace lets an unprivileged process empty its bounding set, which is no use to it", &[
        "have a capability in any set, as nobody",
    ]),
    ("a system call that no other layer knows", &[
        "io_uring",
        "perf_event_open",
        "userfaultfd",
        "vmsplice",
        "fanotify_init",
        "personality: executable memory",
        "personality: addresses that can be guessed",
        "modify_ldt",
        "enter the kernel as a 32-bit program",
    ]),
];

/// Checks that tests of their own prove.
#[rustfmt::skip]
pub(super) const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("FS01", "G1", "root::canaries_in_the_private_places_of_the_host_are_not_found"),
    ("FS02", "G1", "root::nothing_climbs_out_of_the_root"),
    ("FS03", "G1", "root::no_mount_of_the_hosts_root_and_no_left_over_is_inside"),
    ("FS04", "G1", "mounts::a_read_only_bind_refuses_every_change_and_a_bind_takes_it"),
    ("FS07", "G1", "mounts::mounts_can_not_be_undone_from_inside"),
    ("FS09", "G4", "mounts::kernel_files_are_masked_or_read_only"),
    ("FS09", "G4", "mounts::a_race_over_proc_never_leaves_a_part_of_it_open"),
    ("FS12", "G1", "mounts::a_race_over_the_target_never_leads_out"),
    ("FS12", "G1", "mounts::a_race_over_the_source_never_binds_what_a_link_leads_to"),
    ("FS13", "G1", "mounts::a_bind_source_that_a_program_has_made_a_link_is_refused"),
    ("FS16", "G1", "mounts::a_mask_hides_by_every_name_of_the_path"),
    ("FS17", "G1", "mounts::devices_can_not_be_made_or_used_through_a_bind"),
    ("FS18", "G4", "root::set_user_id_files_of_an_output_belong_to_the_mapped_id"),
    ("FS22", "G5", "mounts::nothing_of_the_mounts_shows_on_the_host_or_is_left_there"),
    ("FS23", "G1", "mounts::missing_targets_are_made_on_a_private_layer_and_never_in_the_root"),
    ("FD01", "G8", "fds::nothing_that_the_host_has_open_arrives"),
    ("FD04", "G8", "fds::a_host_without_standard_streams_gives_null_and_nothing_else"),
    ("FD05", "G8", "fds::a_working_directory_is_inside_or_none"),
    ("FD08", "G3", "namespaces::two_sandboxes_share_no_namespace"),
    ("FD09", "G8", "fds::programs_that_the_host_starts_meanwhile_get_no_pipe_of_a_sandbox"),
    ("IO01", "G3", "inherited::a_terminal_of_the_host_is_no_controlling_one_and_takes_no_input"),
    ("IO07", "G3", "namespaces::objects_of_ipc_stay_apart"),
    ("IO08", "G8", "inherited::nothing_of_the_host_process_can_be_read_inside"),
    ("IO10", "G4", "embedder::what_the_program_preloads_is_never_loaded_outside"),
    ("IO11", "G2", "embedder::the_usual_sockets_of_a_session_are_not_reached"),
    ("IO12", "G3", "namespaces::no_signal_reaches_the_host"),
    ("IO13", "G7", "errors::what_others_have_named_can_not_write_to_a_terminal"),
    ("NS01", "G4", "privilege::every_thread_of_the_program_has_no_capability_in_any_set"),
    ("NS02", "G4", "namespaces::each_namespace_is_its_own_and_none_is_silently_shared"),
    ("NS03", "G4", "privilege::set_user_id_and_file_capabilities_have_no_effect"),
    ("NS04", "G4", "ids::the_groups_of_root_stay_outside"),
    ("NS06", "G4", "namespaces::namespaces_of_the_host_and_of_init_can_not_be_entered"),
    ("NS07", "G4", "ids::maps_and_groups_can_not_be_changed_from_inside"),
    ("NS08", "G2", "network::without_a_network_nothing_is_reached_not_even_itself"),
    ("NS11", "G4", "containment::no_cgroup_is_mounted_inside"),
    ("NS13", "G3", "namespaces::a_sibling_is_not_seen_and_not_reached"),
    ("PL03", "G5", "lifecycle::a_kill_ends_a_tree_that_resists"),
    ("PL04", "G5", "lifecycle::stopped_processes_end_like_others"),
    ("PL05", "G7", "lifecycle::a_program_can_do_nothing_to_init_or_to_its_own_status"),
    ("PL05", "G7", "lifecycle::no_child_that_a_program_makes_of_the_hosts_is_left_or_waited_for"),
    ("PL05", "G7", "namespaces::init_can_not_be_read_traced_or_ended_from_inside"),
    ("PL06", "G5", "lifecycle::no_process_survives_a_host_that_is_killed_at_any_moment"),
    ("PL09", "G7", "lifecycle::orphans_are_reaped_inside"),
    ("PL10", "G7", "handle::every_exit_code_is_told_as_it_is"),
    ("PL10", "G7", "handle::every_deadly_signal_is_told_as_it_is"),
    ("PL10", "G7", "handle::a_failed_exec_is_never_an_exit_code"),
    ("PL11", "G7", "lifecycle::a_host_that_ignores_sigchld_gets_true_statuses"),
    ("PL11", "G7", "lifecycle::a_host_that_waits_for_any_child_gets_true_statuses"),
    ("PL12", "G7", "inherited::a_program_is_born_the_same_whatever_the_host_has_set"),
    ("PL13", "G7", "handle::standard_input_that_nobody_reads_blocks_nobody"),
    ("EM02", "G5", "hazards::the_state_of_the_host_is_the_same_after_hundreds_of_spawns"),
    ("EM06", "G1", "embedder::a_name_is_never_an_option"),
    ("EM07", "G5", "embedder::no_file_is_made_in_a_directory_that_others_may_write"),
    ("EM08", "G7", "hazards::buffers_and_exit_handlers_of_the_host_run_once"),
    ("EM09", "G3", "hazards::the_dumpable_flag_of_the_host_never_changes"),
    ("RS03", "G6", "containment::a_caller_at_its_limit_of_processes_starts_or_is_told"),
    ("RS04", "G6", "mounts::a_tmpfs_is_bounded_in_bytes_and_files"),
    ("SC11", "G7", "seccomp::a_violation_that_kills_is_told_as_such_and_ends_everything"),
    ("SC11", "G7", "seccomp::a_call_whose_supervisor_is_killed_does_not_hang"),
    ("SC11", "G7", "seccomp::programs_may_have_filters_of_their_own"),
    ("SC10", "G4", "containment::system_calls_that_nobody_knows_yet_are_missing_and_not_refused"),
];
