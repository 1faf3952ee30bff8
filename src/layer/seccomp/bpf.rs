//! Filters as programs for the kernel's classic BPF machine: a balanced tree over ranges of system call numbers.
//!
//! The kernel runs a filter once for every system call when it is installed (`seccomp_cache_prepare`), so that the depth
//! counts at every start, and not only at every call: a list of comparisons costs more than all other layers together.
//! It compiles every instruction, too: what returns the same, or compares the same, does it by the same instructions.

use std::collections::BTreeMap;

use super::{Action, Clause, Clauses, Operator, SyscallArg};
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
    let mut program = Program(Vec::new());
    let tree = program.tree(&ranges(rules, default));
    let enosys = program.result(Action::Errno(libc::ENOSYS as u16));
    program.branch(IF_GE, TOO_LARGE, enosys, tree);
    let number = program.push(instruction(LOAD, NUMBER));
    program.branch(IF_EQ, AUDIT_ARCH, number, enosys);
    program.push(instruction(LOAD, ARCH));
    program.0.into_iter().rev().collect()
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

/// A program, from its end to its start: jumps only lead forward, so that a place is there before what leads to it.
struct Program(Vec<BpfInstruction>);

/// A place in a program: how many instructions there are from it to the end.
type Label = usize;

/// Half of an argument: where it is, and the bits that count.
type Half = (u32, u32);

/// A conditional jump goes 255 instructions far, less what may come between.
const NEAR: usize = 250;

impl Program {
    fn push(&mut self, instruction: BpfInstruction) -> Label {
        self.0.push(instruction);
        self.0.len()
    }

    /// A place from which a conditional jump reaches `to`: itself, or an unconditional jump, which goes any distance.
    fn near(&mut self, to: Label) -> Label {
        match self.0.len() - to {
            0..=NEAR => to,
            far => self.push(instruction(JUMP, far as u32)),
        }
    }

    fn branch(&mut self, code: u16, k: u32, holds: Label, fails: Label) -> Label {
        let (holds, fails) = (self.near(holds), self.near(fails));
        let skip = |to| (self.0.len() - to) as u8;
        self.push(BpfInstruction { code, jt: skip(holds), jf: skip(fails), k })
    }

    /// Returns the action: by an instruction that is there already, if one is near.
    fn result(&mut self, action: Action) -> Label {
        let result = instruction(RETURN, answer(action));
        let far = self.0.len().saturating_sub(NEAR);
        match self.0.iter().skip(far).position(|other| *other == result) {
            Some(at) => far + at + 1,
            None => self.push(result),
        }
    }

    /// The tree over some ranges: halves them until one is left.
    fn tree(&mut self, ranges: &[Range]) -> Label {
        match ranges {
            [] => self.0.len(),
            [(_, clauses)] => self.decision(clauses),
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let middle = high.first().map_or(0, |(start, _)| *start);
                let (high, low) = (self.tree(high), self.tree(low));
                self.branch(IF_GE, middle, high, low)
            }
        }
    }

    /// The clauses of one system call, in order.
    fn decision(&mut self, clauses: &Clauses) -> Label {
        let same = |(one, _): &Clause, (other, _): &Clause| half(one).is_some() && half(one) == half(other);
        clauses.chunk_by(same).rev().fold(self.0.len(), |next, clauses| self.alternatives(clauses, next))
    }

    /// Clauses that compare the same half of an argument, which is loaded once; or one clause of any kind.
    fn alternatives(&mut self, clauses: &[Clause], mut next: Label) -> Label {
        let loaded = clauses.first().and_then(|(args, _)| half(args));
        for (args, action) in clauses.iter().rev() {
            let holds = self.result(*action);
            next = match (loaded, args.as_slice()) {
                (Some(_), [arg]) => self.branch(IF_EQ, arg.value as u32, holds, next),
                _ => args.iter().rev().fold(holds, |holds, arg| self.condition(arg, holds, next)),
            };
        }
        loaded.map_or(next, |half| self.load(half))
    }

    /// The machine has 32 bits, so that each half is compared by itself.
    fn condition(&mut self, arg: &SyscallArg, holds: Label, fails: Label) -> Label {
        let [(low, value_low), (high, value_high)] = halves(arg);
        // Three of them are the opposites of the others, with the ways exchanged.
        let (code, holds, fails) = match arg.operator {
            Operator::Eq => (IF_EQ, holds, fails),
            Operator::Ne => (IF_EQ, fails, holds),
            Operator::Ge => (IF_GE, holds, fails),
            Operator::Lt => (IF_GE, fails, holds),
            Operator::Gt => (IF_GT, holds, fails),
            Operator::Le => (IF_GT, fails, holds),
        };
        self.branch(code, value_low, holds, fails);
        let last = self.load(low);
        if (high.1, value_high) == (0, 0) {
            return last;
        }
        let equal = self.branch(IF_EQ, value_high, last, fails);
        if code != IF_EQ {
            self.branch(IF_GT, value_high, holds, equal);
        }
        self.load(high)
    }

    /// Loads half of an argument, and what the mask leaves of it, for what was pushed last.
    fn load(&mut self, (at, mask): Half) -> Label {
        if mask != u32::MAX {
            self.push(instruction(AND, mask));
        }
        self.push(instruction(LOAD, at))
    }
}

/// The lower and the upper half of an argument, each with the value for it.
fn halves(arg: &SyscallArg) -> [(Half, u32); 2] {
    let at = ARGS + 8 * u32::from(arg.index);
    [(at, 0), (at + 4, 32)].map(|(at, shift)| ((at, (arg.mask >> shift) as u32), (arg.value >> shift) as u32))
}

/// What a clause compares, if it is no more than whether a lower half equals something.
fn half(args: &[SyscallArg]) -> Option<Half> {
    let [arg] = args else { return None };
    let [(low, _), ((_, mask_high), value_high)] = halves(arg);
    ((arg.operator, mask_high, value_high) == (Operator::Eq, 0, 0)).then_some(low)
}

fn instruction(code: u16, k: u32) -> BpfInstruction {
    BpfInstruction { code, jt: 0, jf: 0, k }
}

fn answer(action: Action) -> u32 {
    match action {
        Action::Allow => libc::SECCOMP_RET_ALLOW,
        Action::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
        Action::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        #[cfg(feature = "oci")]
        Action::Log => libc::SECCOMP_RET_LOG,
        #[cfg(feature = "oci")]
        Action::Trap => libc::SECCOMP_RET_TRAP,
    }
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
