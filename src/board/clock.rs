//! Whether somebody keeps the system's clock right.
#![allow(unsafe_code)]

/// Whether the kernel's clock is kept right by a time service, so that others may be held against it: `adjtimex`, which every such service tells. `false` where
/// nobody does, and where the system doesn't say.
#[must_use]
pub fn clock_is_kept() -> bool {
    // SAFETY: `timex` is a struct of numbers for which all zeros is a value; with `modes` 0 the call only writes into it and changes nothing.
    let (answer, clock) = unsafe {
        let mut clock: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut clock), clock)
    };
    answer >= 0 && answer != libc::TIME_ERROR && clock.status & libc::STA_UNSYNC == 0
}

#[cfg(test)]
mod tests {
    /// `timedatectl` and `chronyc` ask the same; what it is here depends on the machine.
    #[test]
    fn the_system_can_be_asked() {
        assert_eq!(super::clock_is_kept(), super::clock_is_kept());
    }
}
