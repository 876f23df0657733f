//! Named points at which a test has the process die as if its power were cut.

/// Dies here when the environment names this point, `NAME`, or this point and a count, `NAME:3`, for the third time that
/// it is reached; in builds with debug assertions only.
pub fn point(name: &'static str) {
    #[cfg(debug_assertions)]
    named::reached(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod named {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WANTED: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let at = std::env::var("RESULTS_PROJECTOR_DIE_AT").ok()?;
        Some(match at.split_once(':') {
            Some((name, count)) => (name.to_owned(), count.parse().unwrap_or(1)),
            None => (at, 1),
        })
    });
    static TIMES: AtomicU64 = AtomicU64::new(0);

    pub(super) fn reached(name: &str) {
        let Some((wanted, count)) = &*WANTED else { return };
        if wanted == name && TIMES.fetch_add(1, Ordering::SeqCst) + 1 == *count {
            // Nothing is cleaned up, nothing flushed: what is not on its way to the disk is lost.
            let _killed =
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}
