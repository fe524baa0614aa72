//! Where the processor keeps memory that a device will write to.

/// The length of a cache line of x86-64, in bytes.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Puts `bytes`, which this core has read, into the cache that all cores share: the next read of a device into them is
/// faster for it (docs/streaming.md has by how much).
///
/// What a core has read is in its own caches, and the shared one may have dropped it, so that a write from elsewhere has
/// to take it away from the core or goes to memory. A line that was asked out of the core's caches and then touched again
/// is in both; neither alone was a gain. Takes some 0.1 ns a byte.
#[cfg(target_arch = "x86_64")]
pub(crate) fn hand_over(bytes: &[u8]) {
    let lines = || bytes.chunks(LINE).map(<[u8]>::as_ptr);
    for line in lines() {
        // SAFETY: CLDEMOTE is a hint that changes no byte and faults at no address; a processor that does not know it
        // takes it for a NOP, as which its code has always been reserved.
        unsafe {
            std::arch::asm!("cldemote [{}]", in(reg) line, options(nostack, preserves_flags, readonly))
        };
    }
    for line in lines() {
        // SAFETY: a prefetch is a hint that faults at no address.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(line.cast()) };
    }
}

/// Other processors have not been measured.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn hand_over(_: &[u8]) {}
