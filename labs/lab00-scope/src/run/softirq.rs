//! Whether the kernel still has packets to hand on. Where it has too many at once, it leaves them to its threads
//! ksoftirqd/N, which run as any other program does.

use std::fs;

use super::threads::Look;

/// The threads of the kernel that hand packets on, as far as /proc shows them.
pub struct Softirqs(Vec<i32>);

impl Softirqs {
    /// Looks for them: the kernel starts one for each processor early.
    pub fn find() -> Softirqs {
        let named = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("ksoftirqd/"))
        };
        let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut pids: Vec<i32> = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        pids.retain(named);
        Softirqs(pids)
    }

    /// Whether one of them has something to do.
    pub fn pending(&self) -> bool {
        self.0.iter().any(|pid| Look::at(*pid).is_some_and(|look| look.state == b'R'))
    }
}
