//! The registers of a thread that is stopped at a system call: its number, its arguments, its result.

use nix::sys::ptrace;
use nix::unistd::Pid;

/// Where in a system call a thread is stopped.
pub enum Stop {
    /// Before it.
    Entry {
        /// Its number.
        number: u64,
        /// Its arguments.
        args: [u64; 6],
    },
    /// Behind it.
    Exit {
        /// What it returned: minus an errno on failure.
        result: i64,
    },
    /// Its numbers are those of another architecture.
    Foreign,
}

/// include/uapi/linux/audit.h
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
/// include/uapi/linux/ptrace.h
const PTRACE_SYSCALL_INFO_ENTRY: u8 = 1;
const PTRACE_SYSCALL_INFO_EXIT: u8 = 2;

/// Reads them; `None` where the thread is stopped elsewhere, or gone.
///
/// PTRACE_GET_SYSCALL_INFO says where and for which architecture. What it says beyond that is in a union, which only
/// unsafe code may read: the registers have it as well.
pub fn read(thread: i32) -> Option<Stop> {
    let pid = Pid::from_raw(thread);
    let info = ptrace::syscall_info(pid).ok()?;
    if info.arch != ARCHITECTURE {
        return (info.op == PTRACE_SYSCALL_INFO_ENTRY).then_some(Stop::Foreign);
    }
    let registers = ptrace::getregs(pid).ok()?;
    #[cfg(target_arch = "x86_64")]
    let (number, args, result) = (
        registers.orig_rax,
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9],
        registers.rax,
    );
    #[cfg(target_arch = "aarch64")]
    let (number, args, result) = {
        let [a, b, c, d, e, f, ..] = registers.regs;
        (registers.regs[8], [a, b, c, d, e, f], registers.regs[0])
    };
    match info.op {
        PTRACE_SYSCALL_INFO_ENTRY => Some(Stop::Entry { number, args }),
        PTRACE_SYSCALL_INFO_EXIT => Some(Stop::Exit { result: result as i64 }),
        _ => None,
    }
}
