//! The kernel's classic BPF machine, as far as our filters use it, for tests.

use super::super::bpf::{AND, IF_EQ, IF_GE, IF_GT, JUMP, LOAD, RETURN};
use crate::sys::BpfInstruction;

/// What a filter answers.
pub(in super::super) fn run(program: &[BpfInstruction], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_ne_bytes());
    data.extend(arch.to_ne_bytes());
    data.extend(0_u64.to_ne_bytes());
    args.iter().for_each(|arg| data.extend(arg.to_ne_bytes()));
    let (mut at, mut a) = (0, 0_u32);
    loop {
        let BpfInstruction { code, jt, jf, k } = program[at];
        at += 1;
        let mut jump = |condition: bool| at += usize::from(if condition { jt } else { jf });
        match code {
            LOAD => a = u32::from_ne_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
            AND => a &= k,
            JUMP => at += k as usize,
            IF_EQ => jump(a == k),
            IF_GT => jump(a > k),
            IF_GE => jump(a >= k),
            RETURN => return k,
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
