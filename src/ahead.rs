//! Asks the processor for memory that will be needed soon, so that it comes while something else is done. Where there is
//! much in memory, waiting for what lies in it is a large part of what a query costs.

/// Has the line of the processor's cache brought near in which this begins.
#[inline]
pub fn fetch<T>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    safe_arch::prefetch_t0(what);
    // elsewhere it comes when it is needed
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}
