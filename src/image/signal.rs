//! Names of signals, as images have them.

/// Linux's signals on x86-64 and AArch64, from 1 on: signal(7).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// Other names for the same.
const ALIASES: [(&str, i32); 3] = [("IOT", 6), ("CLD", 17), ("POLL", 29)];

/// The real-time signals that programs are given: the C library keeps the two below.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// The number of a signal: `SIGTERM`, `TERM`, `15`, `RTMIN+3` or `RTMAX-1`.
pub(super) fn parse(text: &str) -> Option<i32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok().filter(|number| (1..=*REAL_TIME.end()).contains(number));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let standard = NAMES.iter().zip(1..).find(|(known, _)| **known == name).map(|(_, number)| number);
    let alias = || ALIASES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    standard.or_else(alias).or_else(|| real_time(name))
}

fn real_time(name: &str) -> Option<i32> {
    let offset = |rest: &str, sign: char| match rest.strip_prefix(sign) {
        Some(digits) if digits.len() <= 2 && digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
        None if rest.is_empty() => Some(0),
        _ => None,
    };
    let from_start = || Some(REAL_TIME.start() + offset(name.strip_prefix("RTMIN")?, '+')?);
    let from_end = || Some(REAL_TIME.end() - offset(name.strip_prefix("RTMAX")?, '-')?);
    from_start().or_else(from_end).filter(|number| REAL_TIME.contains(number))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("SIGTERM", libc::SIGTERM),
            ("term", libc::SIGTERM),
            ("15", 15),
            ("SIGSYS", libc::SIGSYS),
            ("WINCH", libc::SIGWINCH),
            ("CHLD", libc::SIGCHLD),
            ("POLL", libc::SIGPOLL),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in
            ["", "0", "65", "-9", "+9", "SIG", "SIGSIGTERM", "RTMIN+31", "RTMIN-1", "RTMIN+", "RTMAX-31", "9 ", "FOO"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
