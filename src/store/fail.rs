//! Named points at which a test has the process die as if its power were cut.

/// Dies here when the environment names this point; in builds for tests only.
pub fn point(name: &str) {
    #[cfg(debug_assertions)]
    if std::env::var("RESULTS_PROJECTOR_DIE_AT").is_ok_and(|at| at == name) {
        // Nothing is cleaned up, nothing flushed: what is not on its way to the disk is lost.
        let _killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
