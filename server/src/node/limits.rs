//! How many files this process may have open.

/// Descriptors beside client connections: data files, listeners, the origin, logs.
const BESIDE_CLIENTS: u64 = 1_024;

/// Raises the soft limit of open files to the hard one, as Redis does: the usual soft limit of 1,024 would
/// refuse connections long before `maxclients`. Says so where that is still too low.
pub(super) fn raise_descriptor_limit(maxclients: u32) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit, which outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        tracing::warn!(error = %std::io::Error::last_os_error(), "cannot read the limit of open files");
        return;
    }
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
        // SAFETY: setrlimit reads one rlimit, which outlives the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            limit = raised;
        }
    }
    let wanted = u64::from(maxclients) + BESIDE_CLIENTS;
    if limit.rlim_cur < wanted {
        tracing::warn!(
            limit = limit.rlim_cur,
            wanted,
            "the limit of open files is below what resp.maxclients may need; raise it (ulimit -n, LimitNOFILE) or \
             lower maxclients"
        );
    }
}
