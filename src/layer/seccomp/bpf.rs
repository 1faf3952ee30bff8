//! Filters as programs for the kernel's classic BPF machine: a balanced tree over ranges of system call numbers.
//!
//! The kernel runs a filter once for every system call when it is installed (`seccomp_cache_prepare`), so that the depth
//! counts at every start, and not only at every call: a list of comparisons costs more than all other layers together.

use std::collections::BTreeMap;

use super::{Action, Clauses, Operator, SyscallArg};
use crate::sys::{AUDIT_ARCH, BpfInstruction};

/// `struct seccomp_data`: the number, the processor, the instruction pointer, six arguments.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// Numbers of the x32 mode have this bit; and no mode has numbers as large.
pub(super) const TOO_LARGE: u32 = 0x4000_0000;

pub(super) const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
pub(super) const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
pub(super) const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
pub(super) const IF_EQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
pub(super) const IF_GT: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
pub(super) const IF_GE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
pub(super) const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Compiles what is decided of each system call; `default` is for those that are not named.
pub(super) fn compile(rules: &BTreeMap<u32, Clauses>, default: Action) -> Vec<BpfInstruction> {
    let enosys = Action::Errno(libc::ENOSYS as u16);
    let mut program = vec![
        instruction(LOAD, ARCH),
        branch(IF_EQ, AUDIT_ARCH, 1, 0),
        result(enosys),
        instruction(LOAD, NUMBER),
        branch(IF_GE, TOO_LARGE, 0, 1),
        result(enosys),
    ];
    program.extend(tree(&ranges(rules, default)));
    program
}

/// A range of numbers, by its start, for which the same is decided.
type Range = (u32, Clauses);

fn ranges(rules: &BTreeMap<u32, Clauses>, default: Action) -> Vec<Range> {
    let otherwise: Clauses = vec![(Vec::new(), default)];
    let mut ranges: Vec<Range> = Vec::new();
    let mut add = |start: u32, clauses: &Clauses| {
        if ranges.last().is_none_or(|(_, last)| last != clauses) {
            ranges.push((start, clauses.clone()));
        }
    };
    let mut next = 0;
    for (number, clauses) in rules {
        if next < *number {
            add(next, &otherwise);
        }
        add(*number, &with_default(clauses, default));
        next = number.saturating_add(1);
    }
    add(next, &otherwise);
    ranges
}

/// Clauses that always come to a decision.
fn with_default(clauses: &Clauses, default: Action) -> Clauses {
    let end = clauses.iter().position(|(args, _)| args.is_empty()).map(|at| at + 1);
    let mut clauses: Clauses = clauses.iter().take(end.unwrap_or(clauses.len())).cloned().collect();
    if end.is_none() {
        clauses.push((Vec::new(), default));
    }
    clauses
}

/// The tree over some ranges: halves them until one is left.
fn tree(ranges: &[Range]) -> Vec<BpfInstruction> {
    match ranges {
        [] => Vec::new(),
        [(_, clauses)] => decision(clauses),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let middle = high.first().map_or(0, |(start, _)| *start);
            let (low, high) = (tree(low), tree(high));
            let mut program = match u8::try_from(low.len()) {
                Ok(skip) => vec![branch(IF_GE, middle, skip, 0)],
                // A conditional jump goes 255 instructions far, an unconditional one anywhere.
                Err(_) => vec![branch(IF_GE, middle, 0, 1), instruction(JUMP, low.len() as u32)],
            };
            program.extend(low);
            program.extend(high);
            program
        }
    }
}

/// The clauses of one system call, in order.
fn decision(clauses: &Clauses) -> Vec<BpfInstruction> {
    clauses.iter().flat_map(|(args, action)| clause(args, *action)).collect()
}

/// Tests every condition, and returns if all hold; goes on behind the clause if not.
fn clause(args: &[SyscallArg], action: Action) -> Vec<BpfInstruction> {
    let mut program = vec![result(action)];
    for arg in args.iter().rev() {
        // How far the end of the clause lies behind the instructions of this condition.
        let rest = program.len() as u8;
        let mut test = condition(arg, rest);
        test.append(&mut program);
        program = test;
    }
    program
}

/// One condition: falls through if it holds, and skips `rest` more instructions if not.
///
/// The machine has 32 bits, so that each half is compared by itself.
fn condition(arg: &SyscallArg, rest: u8) -> Vec<BpfInstruction> {
    let SyscallArg { index, operator, mask, value } = *arg;
    let (low, high) = (ARGS + 8 * u32::from(index), ARGS + 8 * u32::from(index) + 4);
    let half = |number: u64, shift: u32| (number >> shift) as u32;
    if (operator, half(mask, 32)) == (Operator::Eq, 0) && half(value, 32) == 0 {
        let mut program = load_masked(low, half(mask, 0));
        program.push(branch(IF_EQ, half(value, 0), 0, rest));
        return program;
    }
    let (load_low, load_high) = (load_masked(low, half(mask, 0)), load_masked(high, half(mask, 32)));
    let (value_low, value_high) = (half(value, 0), half(value, 32));
    let second = load_low.len() as u8 + 1;
    let mut program = load_high;
    match operator {
        Operator::Eq => {
            program.push(branch(IF_EQ, value_high, 0, second + rest));
            program.extend(load_low);
            program.push(branch(IF_EQ, value_low, 0, rest));
        }
        Operator::Ne => {
            program.push(branch(IF_EQ, value_high, 0, second));
            program.extend(load_low);
            program.push(branch(IF_EQ, value_low, rest, 0));
        }
        Operator::Ge | Operator::Gt => {
            let last = if operator == Operator::Ge { IF_GE } else { IF_GT };
            program.push(branch(IF_GT, value_high, second + 1, 0));
            program.push(branch(IF_EQ, value_high, 0, second + rest));
            program.extend(load_low);
            program.push(branch(last, value_low, 0, rest));
        }
        // The opposite of the above, with the ways exchanged.
        Operator::Lt | Operator::Le => {
            let last = if operator == Operator::Lt { IF_GE } else { IF_GT };
            program.push(branch(IF_GT, value_high, second + 1 + rest, 0));
            program.push(branch(IF_EQ, value_high, 0, second));
            program.extend(load_low);
            program.push(branch(last, value_low, rest, 0));
        }
    }
    program
}

/// Loads a half of an argument, and what the mask leaves of it.
fn load_masked(at: u32, mask: u32) -> Vec<BpfInstruction> {
    match mask {
        u32::MAX => vec![instruction(LOAD, at)],
        mask => vec![instruction(LOAD, at), instruction(AND, mask)],
    }
}

fn instruction(code: u16, k: u32) -> BpfInstruction {
    BpfInstruction { code, jt: 0, jf: 0, k }
}

fn branch(code: u16, k: u32, jt: u8, jf: u8) -> BpfInstruction {
    BpfInstruction { code, jt, jf, k }
}

fn result(action: Action) -> BpfInstruction {
    instruction(
        RETURN,
        match action {
            Action::Allow => libc::SECCOMP_RET_ALLOW,
            Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
            #[cfg(feature = "oci")]
            Action::Log => libc::SECCOMP_RET_LOG,
            #[cfg(feature = "oci")]
            Action::Trap => libc::SECCOMP_RET_TRAP,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::machine::{longest_path, run};
    use super::*;

    fn holds(arg: &SyscallArg, args: [u64; 6]) -> bool {
        let given = args[usize::from(arg.index)] & arg.mask;
        match arg.operator {
            Operator::Eq => given == arg.value,
            Operator::Ne => given != arg.value,
            Operator::Ge => given >= arg.value,
            Operator::Gt => given > arg.value,
            Operator::Le => given <= arg.value,
            Operator::Lt => given < arg.value,
        }
    }

    #[test]
    fn conditions_compare_all_64_bits() {
        let numbers = [0, 1, 41, 42, 43, 1 << 32, (1 << 32) + 42, (7 << 32) + 41, u64::MAX];
        let deny = Action::Errno(1);
        for value in numbers {
            for given in numbers {
                let given = [0, given, 0, 0, 0, 5];
                let masked = SyscallArg::masked_eq(1, 0xffff_ffff, value & 0xffff_ffff);
                for arg in [
                    SyscallArg::eq(1, value),
                    SyscallArg::ne(1, value),
                    SyscallArg::ge(1, value),
                    SyscallArg::gt(1, value),
                    SyscallArg::le(1, value),
                    SyscallArg::lt(1, value),
                    masked,
                ] {
                    for also in [SyscallArg::eq(5, 5), SyscallArg::eq(5, 6)] {
                        let clauses = vec![(vec![arg, also], deny), (vec![], Action::Allow)];
                        let program = compile(&BTreeMap::from([(16, clauses)]), Action::Allow);
                        let expected = holds(&arg, given) && holds(&also, given);
                        let denied = run(&program, AUDIT_ARCH, 16, given) == libc::SECCOMP_RET_ERRNO | 1;
                        assert_eq!(denied, expected, "{arg:?} {given:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_large_tree_decides_as_its_rules_do_and_is_shallow() {
        let rules: BTreeMap<u32, Clauses> =
            (0..1000).filter(|n| n % 3 != 0).map(|n| (n, vec![(vec![], Action::Errno(n as u16))])).collect();
        let program = compile(&rules, Action::Allow);
        for number in 0..1100 {
            let expected = match rules.get(&number) {
                Some(_) => libc::SECCOMP_RET_ERRNO | number,
                None => libc::SECCOMP_RET_ALLOW,
            };
            assert_eq!(run(&program, AUDIT_ARCH, number, [0; 6]), expected, "{number}");
        }
        // 1001 ranges: 10 halvings, with a jump behind the comparison of a far one, and five before them.
        assert!((15..=25).contains(&longest_path(&program)), "{}", longest_path(&program));
    }

    #[test]
    fn other_modes_are_not_there() {
        let program = compile(&BTreeMap::new(), Action::Allow);
        let enosys = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        assert_eq!(run(&program, AUDIT_ARCH ^ 1, 0, [0; 6]), enosys);
        for number in [TOO_LARGE, TOO_LARGE | 1, u32::MAX] {
            assert_eq!(run(&program, AUDIT_ARCH, number, [0; 6]), enosys);
        }
        assert_eq!(run(&program, AUDIT_ARCH, 1, [0; 6]), libc::SECCOMP_RET_ALLOW);
    }
}
