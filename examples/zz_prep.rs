use belljar::*;
fn main() {
    let n: usize = std::env::args().nth(2).and_then(|n| n.parse().ok()).unwrap_or(1);
    let mode = std::env::args().nth(1).unwrap();
    let s =
        Sandbox::new().rootfs(Rootfs::host()).bind_ro(std::env::args().nth(3).unwrap_or("/bin/true".into()), "/noop");
    let p = s.prepare().unwrap();
    if mode == "plan" {
        println!("{}", p.command("/noop").plan().unwrap());
    }
    let mut t = vec![];
    for _ in 0..n {
        let a = std::time::Instant::now();
        let o = match &*mode {
            "one" => s.command("/noop").status(),
            _ => p.command("/noop").status(),
        };
        t.push(a.elapsed().as_nanos() as f64 / 1000.0);
        if !o.as_ref().is_ok_and(|o| o.success()) {
            println!("{o:?}");
        }
    }
    t.sort_by(f64::total_cmp);
    println!("{mode}: min {} median {}", t[0], t[t.len() / 2]);
}
