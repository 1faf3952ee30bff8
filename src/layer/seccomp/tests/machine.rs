//! The kernel's classic BPF machine, as far as our filters use it, for tests.

use super::super::bpf::{AND, IF_EQ, IF_GE, IF_GT, JUMP, LOAD, RETURN};
use crate::sys::BpfInstruction;

/// What a filter answers.
pub(in super::super) fn run(program: &[BpfInstruction], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = start(arch, number);
    data.extend(0_u64.to_ne_bytes());
    args.iter().for_each(|arg| data.extend(arg.to_ne_bytes()));
    execute(program, &data).unwrap()
}

/// What a filter answers without a look at an argument, if it does: what it allows so, the kernel allows from then on
/// without running it (`seccomp_is_const_allow`, since Linux 5.11).
pub(in super::super) fn constant(program: &[BpfInstruction], arch: u32, number: u32) -> Option<u32> {
    execute(program, &start(arch, number))
}

fn start(arch: u32, number: u32) -> Vec<u8> {
    [number.to_ne_bytes(), arch.to_ne_bytes()].concat()
}

/// None if the program reads what is not in `data`.
fn execute(program: &[BpfInstruction], data: &[u8]) -> Option<u32> {
    let (mut at, mut a) = (0, 0_u32);
    loop {
        let BpfInstruction { code, jt, jf, k } = program[at];
        at += 1;
        let mut jump = |condition: bool| at += usize::from(if condition { jt } else { jf });
        match code {
            LOAD => a = u32::from_ne_bytes(data.get(k as usize..k as usize + 4)?.try_into().unwrap()),
            AND => a &= k,
            JUMP => at += k as usize,
            IF_EQ => jump(a == k),
            IF_GT => jump(a > k),
            IF_GE => jump(a >= k),
            RETURN => return Some(k),
            _ => panic!("{code:#x}"),
        }
    }
}

/// The most instructions that the machine can take, whatever it is given.
pub(in super::super) fn longest_path(program: &[BpfInstruction]) -> usize {
    let mut longest = vec![0; program.len()];
    for (at, BpfInstruction { code, jt, jf, k }) in program.iter().enumerate().rev() {
        let from = |skipped: usize| longest[at + 1 + skipped];
        longest[at] = 1 + match *code {
            RETURN => 0,
            JUMP => from(*k as usize),
            IF_EQ | IF_GT | IF_GE => from((*jt).into()).max(from((*jf).into())),
            _ => from(0),
        };
    }
    longest[0]
}
