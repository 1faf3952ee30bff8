//! Prints what this host can do, and the remedy where it can't.
//!
//! ```text
//! cargo run --example probe
//! ```

fn main() {
    println!("{}", belljar::host::probe());
}
