//! The system calls that a serving process needs, and no others (seccomp, through the crate `seccompiler`).
//!
//! The unit's `SystemCallFilter=` says the same more roughly, from outside; this one also holds without systemd. A call
//! that is not listed fails with ENOSYS, as in an older kernel, which the C library knows how to live with.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Calls that take whatever arguments they like.
const FREE: &[i64] = &[
    // datagrams, streams, and waiting for them
    libc::SYS_recvmmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fcntl,
    libc::SYS_pipe2,
    // files, which Landlock rules on
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getcwd,
    libc::SYS_pread64,
    libc::SYS_unlinkat,
    // memory
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // threads and time
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    // signals
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
];

/// The older forms, which only this machine still has.
#[cfg(target_arch = "x86_64")]
const OLDER: &[i64] = &[
    libc::SYS_epoll_wait,
    libc::SYS_poll,
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_unlink,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[i64] = &[];

/// The kinds of sockets that may be made: IPv4, IPv6, local ones for log and service manager, and the kernel's messages
/// about the network.
const FAMILIES: &[libc::c_int] = &[libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_NETLINK];
/// Requests of ioctl(2) that the standard library makes.
const REQUESTS: &[libc::Ioctl] = &[libc::FIONBIO, libc::FIOCLEX, libc::TCGETS];

/// Confines this thread and all that it starts to these calls. Gives their number; `None` where the crate does not know
/// the machine.
///
/// # Errors
/// If the kernel does not take the filter.
pub fn confine() -> Result<Option<usize>, String> {
    let Ok(machine) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(None) };
    let (program, count) = program(machine).map_err(|error| error.to_string())?;
    seccompiler::apply_filter(&program).map_err(|error| error.to_string())?;
    Ok(Some(count))
}

fn program(machine: TargetArch) -> Result<(BpfProgram, usize), seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = FREE.iter().chain(OLDER).map(|&call| (call, Vec::new())).collect();
    let one_of = |argument: u8, values: Vec<u64>| {
        let rule = |value| SeccompRule::new(vec![condition(argument, SeccompCmpOp::Eq, value)?]);
        values.into_iter().map(rule).collect::<Result<Vec<_>, _>>()
    };
    // sign extension would be wrong here, and none of them is negative
    let families = FAMILIES.iter().map(|&family| u64::from(family.unsigned_abs())).collect();
    rules.insert(libc::SYS_socket, one_of(0, families)?);
    rules.insert(libc::SYS_socketpair, one_of(0, vec![u64::from(libc::AF_UNIX.unsigned_abs())])?);
    rules.insert(libc::SYS_ioctl, one_of(1, REQUESTS.to_vec())?);
    // no memory ever becomes code
    let executable = u64::from(libc::PROT_EXEC.unsigned_abs());
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let rule = SeccompRule::new(vec![condition(2, SeccompCmpOp::MaskedEq(executable), 0)?])?;
        rules.insert(call, vec![rule]);
    }
    let count = rules.len();
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let filter = SeccompFilter::new(rules, unknown, SeccompAction::Allow, machine)?;
    Ok((filter.try_into()?, count))
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::confine;

    #[test]
    fn programs_cannot_be_started_but_sockets_and_threads_work() {
        // the filter holds for the thread that asks for it, and for nobody else
        let thread = std::thread::spawn(|| {
            let count = confine().unwrap();
            assert!(count.is_some_and(|count| count > 50), "{count:?}");
            assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_ok());
            assert!(std::os::unix::net::UnixStream::pair().is_ok());
            let started = std::process::Command::new("/bin/true").status().unwrap_err();
            assert_eq!(started.raw_os_error(), Some(libc::ENOSYS));
            assert_eq!(nix::sched::unshare(nix::sched::CloneFlags::empty()), Err(nix::errno::Errno::ENOSYS));
            std::thread::spawn(|| ()).join().unwrap();
        });
        thread.join().unwrap();
        assert!(std::process::Command::new("/bin/true").status().is_ok());
    }
}
