//! The network: none, a private loopback, or the host's; judged by listeners on the host.

use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use belljar::{Landlock, Namespaces, Network, Sandbox};

use crate::harness::{host, namespaces_alone, sh, token};
use crate::probe::{Told, inside, outside};

/// What listens on the host, and counts who comes.
struct Listeners {
    tcp4: TcpListener,
    tcp6: Option<TcpListener>,
    unix: UnixListener,
    name: String,
}

impl Listeners {
    fn new() -> Self {
        let tcp4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp4.local_addr().unwrap().port();
        let tcp6 = TcpListener::bind(("::1", port)).ok();
        let name = token();
        let unix = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        tcp4.set_nonblocking(true).unwrap();
        tcp6.iter().for_each(|listener| listener.set_nonblocking(true).unwrap());
        unix.set_nonblocking(true).unwrap();
        Self { tcp4, tcp6, unix, name }
    }

    fn port(&self) -> String {
        self.tcp4.local_addr().unwrap().port().to_string()
    }

    /// How many have come since the last time: over IPv4, IPv6, and by the abstract name.
    fn came(&self) -> [usize; 3] {
        let tcp = |listener: &TcpListener| std::iter::from_fn(|| listener.accept().ok()).count();
        let unix = std::iter::from_fn(|| self.unix.accept().ok()).count();
        [tcp(&self.tcp4), self.tcp6.as_ref().map_or(0, tcp), unix]
    }

    fn tried_inside(&self, sandbox: &Sandbox) -> Told {
        inside(sandbox, &["connects", &self.port(), &self.name])
    }
}

#[test]
fn without_a_network_nothing_is_reached_not_even_itself() {
    let listeners = Listeners::new();
    let came = outside(&["connects", &listeners.port(), &listeners.name]);
    assert_eq!(came.errno("tcp4"), 0);
    assert_eq!(listeners.came()[..1], [1], "the control");
    let policies = [Sandbox::new(), Sandbox::new().network(Network::None), Sandbox::new().user(0, 0)];
    for (sandbox, alone) in
        policies.iter().flat_map(|policy| [(policy.clone(), false), (namespaces_alone(policy), true)])
    {
        let told = listeners.tried_inside(&sandbox);
        assert_eq!(listeners.came(), [0, 0, 0]);
        let mut unreachable = vec![libc::ENETUNREACH, libc::EADDRNOTAVAIL, libc::EAFNOSUPPORT, libc::ECONNREFUSED];
        // Landlock denies TCP as such, before there is a look for a way.
        unreachable.extend((!alone).then_some(libc::EACCES));
        for name in ["tcp4", "tcp6", "metadata", "self"] {
            assert!(unreachable.contains(&told.errno(name)), "{name}: {}", told.errno(name));
        }
        assert_eq!(told.errno("abstract"), libc::ECONNREFUSED);
        assert_eq!(told.errno("change-lo"), libc::EPERM);
        assert_eq!((told.one("interface"), told.one("lo-up")), ("lo", "0"));
    }
    // By the kernel's own files, and with the tools of a resolver.
    let script = "cat /proc/net/route; tail -n +3 /proc/net/dev | cut -d: -f1; cat /proc/net/unix | tail -n +2; \
                  ls /sys/class/net 2>/dev/null || getent hosts example.com || true";
    let told = sh(&host(), script);
    // The first file has a heading where the kernel knows IPv4 routes at all.
    let interfaces: Vec<_> = told.lines().map(str::trim).filter(|line| !line.starts_with("Iface")).collect();
    assert_eq!(interfaces, ["lo"], "{told}");
}

#[test]
fn a_loopback_is_the_sandbox_itself() {
    let listeners = Listeners::new();
    let told = listeners.tried_inside(&Sandbox::new().network(Network::Loopback));
    assert_eq!(listeners.came(), [0, 0, 0]);
    assert_eq!(told.errno("self"), 0, "the allowed: a connection within");
    assert_eq!((told.one("interface"), told.one("lo-up")), ("lo", "1"));
    assert_eq!([told.errno("tcp4"), told.errno("abstract")], [libc::ECONNREFUSED; 2]);
    assert_eq!(told.errno("metadata"), libc::ENETUNREACH);
    assert_ne!(told.errno("tcp6"), 0);
    assert_eq!(told.errno("change-lo"), libc::EPERM);
}

#[test]
fn siblings_have_a_loopback_each() {
    let script = "perl -MSocket -e 'socket(my $s, PF_INET, SOCK_STREAM, 0); bind($s, sockaddr_in(4242, INADDR_ANY)) \
                  or die \"bind: $!\"; listen($s, 1); $| = 1; print \"ready\\n\"; sleep 1000'";
    let sandbox = host().network(Network::Loopback);
    let mut command = sandbox.command("sh");
    let mut first = command.args(["-c", script]).stdout(belljar::Stdio::piped()).spawn().unwrap();
    let mut line = [0; 6];
    std::io::Read::read_exact(first.stdout.as_mut().unwrap(), &mut line).unwrap();
    assert_eq!(&line, b"ready\n");
    // The second can have the same port, and does not find the first one there.
    let told = inside(&sandbox, &["connects", "4242", "none"]);
    assert_eq!(told.errno("tcp4"), libc::ECONNREFUSED);
    first.kill().unwrap();
}

#[test]
fn the_hosts_network_is_had_by_name_only() {
    let listeners = Listeners::new();
    for sandbox in
        [Sandbox::new().network(Network::Host), Sandbox::new().namespaces(Namespaces::default() - Namespaces::NET)]
    {
        let told_alone = listeners.tried_inside(&sandbox.clone().landlock(Landlock::off()));
        assert_eq!([told_alone.errno("tcp4"), told_alone.errno("abstract")], [0, 0]);
        let came = listeners.came();
        assert_eq!([came[0], came[2]], [1, 1]);
        assert_eq!(told_alone.errno("change-lo"), libc::EPERM, "to use it is not to change it");
        let told = listeners.tried_inside(&sandbox);
        assert_eq!([told.errno("tcp4"), told.errno("change-lo")], [0, libc::EPERM]);
        // Abstract sockets are the host's, and stay there where the kernel's Landlock has scopes.
        let scoped = belljar::host::probe().landlock_abi().is_some_and(|version| version >= 6);
        assert_eq!(told.errno("abstract"), if scoped { libc::EPERM } else { 0 });
        let came = listeners.came();
        assert_eq!([came[0], came[2]], [1, usize::from(!scoped)]);
    }
    // A resolver's configuration comes with it, and not without.
    let there = std::path::Path::new("/etc/resolv.conf").exists();
    let script = "test -e /etc/resolv.conf && echo yes || echo no";
    assert_eq!(sh(&host().network(Network::Host), script), if there { "yes\n" } else { "no\n" });
    assert_eq!(sh(&host(), script), "no\n");
}

#[test]
fn datagrams_do_not_leave() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let port = socket.local_addr().unwrap().port();
    let script = format!(
        "perl -MSocket -e 'socket(my $s, PF_INET, SOCK_DGRAM, 0); \
         print send($s, \"x\", 0, sockaddr_in({port}, inet_aton(\"127.0.0.1\"))) ? \"sent\" : \"refused\"'"
    );
    assert_eq!(sh(&host(), &script), "refused");
    assert!(socket.recv(&mut [0; 8]).is_err());
    assert_eq!(sh(&host().network(Network::Host), &script), "sent", "the control");
    socket.set_nonblocking(false).unwrap();
    assert_eq!(socket.recv(&mut [0; 8]).unwrap(), 1);
}
