//! What the kernel says of the tasks of a process: a task is what it schedules, and each thread is one.

use std::{fs, time::Duration};

use anyhow::{Context, Error, Result};
use nix::{errno::Errno, unistd::Pid};
use shared::{At, CallError};

/// A task, as /proc/PID/task/TID/stat shows it: proc_pid_stat(5).
pub struct Task {
    pub tid: i32,
    /// The thread's name, cut after 15 bytes.
    pub name: String,
    /// R, S, D, T, Z and others: proc_pid_stat(5), field 3.
    pub state: char,
    /// The processor that it ran on last: field 39.
    pub processor: usize,
}

/// All tasks of a process, but those that end meanwhile.
pub fn tasks(pid: Pid) -> Result<Vec<Task>> {
    let folder = format!("/proc/{pid}/task");
    let mut tids = Vec::new();
    for entry in fs::read_dir(&folder).at("open", &folder)? {
        tids.extend(entry.at("getdents64", &folder)?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    tids.sort_unstable();
    tids.into_iter().map(|tid| task(pid, tid)).filter(|task| !task.as_ref().is_err_and(has_ended)).collect()
}

/// Its file is gone; if it was open before, read(2) says so.
fn has_ended(error: &Error) -> bool {
    let errno = error.downcast_ref::<CallError>().and_then(|error| error.errno);
    matches!(errno, Some(Errno::ENOENT | Errno::ESRCH))
}

/// One of them.
pub fn task(pid: Pid, tid: i32) -> Result<Task> {
    let path = format!("/proc/{pid}/task/{tid}/stat");
    let stat = fs::read_to_string(&path).at("open", &path)?;
    parsed(&stat).with_context(|| format!("{path} has {stat:?}"))
}

/// `17 (a name) S 1 ...`: the name may hold blanks and brackets.
fn parsed(stat: &str) -> Option<Task> {
    let (tid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect(); // the first of these is field 3
    let state = fields.first()?.chars().next()?;
    Some(Task { tid: tid.parse().ok()?, name: name.into(), state, processor: fields.get(39 - 3)?.parse().ok()? })
}

/// How long a task has run, and how long it waited for a processor: /proc/PID/task/TID/schedstat, in nanoseconds.
pub fn ran_and_waited(pid: Pid, tid: i32) -> Result<[Duration; 2]> {
    let path = format!("/proc/{pid}/task/{tid}/schedstat");
    let text = fs::read_to_string(&path).at("open", &path)?;
    let mut times = text.split_whitespace().filter_map(|word| word.parse().ok()).map(Duration::from_nanos);
    Ok([times.next(), times.next()].map(Option::unwrap_or_default))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let numbers = (4..=52).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
        let task = parsed(&format!("17 (a) S (b) R {numbers}\n")).unwrap();
        assert_eq!((task.tid, task.name.as_str(), task.state, task.processor), (17, "a) S (b", 'R', 39));
        assert!(parsed("17 (cut off").is_none());
    }

    #[test]
    fn this_process_has_a_task_that_runs() {
        let own = tasks(nix::unistd::getpid()).unwrap();
        let tid = nix::unistd::gettid().as_raw();
        assert!(own.iter().any(|task| task.tid == tid && task.state == 'R'));
    }
}
