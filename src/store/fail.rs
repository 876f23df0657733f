//! Named points at which a test has the process die as if its power were cut, or the thread hang as on a disk that does not
//! answer.

/// Dies, or hangs, here when the environment names this point, `NAME`, or this point and a count, `NAME:3`, for the third time
/// that it is reached; in builds with debug assertions only.
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

    struct Wanted {
        name: String,
        count: u64,
        times: AtomicU64,
    }

    impl Wanted {
        fn of(variable: &str) -> Option<Self> {
            let at = std::env::var(variable).ok()?;
            let (name, count) = at.split_once(':').unwrap_or((&at, "1"));
            Some(Self {
                name: name.to_owned(),
                count: count.parse().unwrap_or(1),
                times: AtomicU64::new(0),
            })
        }

        fn is_now(&self, name: &str) -> bool {
            self.name == name && self.times.fetch_add(1, Ordering::SeqCst) + 1 == self.count
        }
    }

    static DIE: LazyLock<Option<Wanted>> = LazyLock::new(|| Wanted::of("RESULTS_PROJECTOR_DIE_AT"));
    static HANG: LazyLock<Option<Wanted>> = LazyLock::new(|| Wanted::of("RESULTS_PROJECTOR_HANG_AT"));

    pub(super) fn reached(name: &str) {
        if DIE.as_ref().is_some_and(|wanted| wanted.is_now(name)) {
            // Nothing is cleaned up, nothing flushed: what is not on its way to the disk is lost.
            let _killed =
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        if HANG.as_ref().is_some_and(|wanted| wanted.is_now(name)) {
            loop {
                std::thread::park();
            }
        }
    }
}
