//! What chapter 3 says of threads, decided by what the kernel shows of them in /proc.

mod ends;
mod python;
mod sharing;
mod states;
mod waits;

use std::{
    env, fs,
    path::PathBuf,
    process::Command,
    sync::OnceLock,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use kernel::{Need, need::DESCRIPTORS};
use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::{Pid, getpid},
};
use shared::{At, Experiment, Lesson, Role};

/// How long a state or an answer may take; far more than an idle machine needs, and less than the stage's own limit.
const LIMIT: Duration = Duration::from_secs(25);

/// The interpreter whose lock the notes describe; from 3.13 on there are builds without it.
const PYTHON: Need = Need {
    what: "python3, 3.8 or newer, with its global interpreter lock",
    provided_by: "apt-get install python3",
    met: || {
        static MET: OnceLock<bool> = OnceLock::new();
        const CHECK: &str = "import sys; sys.exit(sys.version_info < (3, 8) \
                             or not getattr(sys, '_is_gil_enabled', lambda: True)())";
        *MET.get_or_init(|| Command::new("python3").args(["-c", CHECK]).output().is_ok_and(|ran| ran.status.success()))
    },
};

const TWO_PROCESSORS: Need = Need {
    what: "two processors that this program may use",
    provided_by: "taskset -pc 0,1 $$, or a machine with more processors",
    met: || processors().is_ok_and(|processors| processors.len() >= 2),
};

/// Time that a task waited for a processor.
const SCHEDSTAT: Need = Need {
    what: "/proc/self/schedstat, the kernel's account of waiting for a processor",
    provided_by: "a kernel with CONFIG_SCHEDSTATS or CONFIG_TASK_DELAY_ACCT, as distributions build it",
    met: || fs::read_to_string("/proc/self/schedstat").is_ok_and(|text| text.split_whitespace().count() >= 2),
};

const TEMPORARY_FOLDER: Need =
    Need { what: "a folder for temporary files", provided_by: "export TMPDIR=$HOME", met: || Folder::new().is_ok() };

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "threads of this process and of others",
    needs: &[DESCRIPTORS],
    experiments: &[
        Experiment {
            id: "no-matter-what",
            starred: true,
            minutes: 6,
            claim: "A daemon thread completes its task no matter what happens to the hosting program.",
            source: "notes ch.3, Daemon threads",
            needs: &[TEMPORARY_FOLDER],
            play: ends::no_matter_what,
        },
        Experiment {
            id: "one-os-thread",
            starred: true,
            minutes: 8,
            claim: "Only one OS thread is created for the Python interpreter. So Python's threads are never scheduled \
                    to different processors.",
            source: "notes ch.4, Combining threading and multiprocessing",
            needs: &[PYTHON, TWO_PROCESSORS, SCHEDSTAT],
            play: python::one_os_thread,
        },
        Experiment {
            id: "lost-updates",
            starred: true,
            minutes: 6,
            claim: "Threads share the process's memory. Concurrent use of it without care brings errors that are hard \
                    to trace.",
            source: "notes ch.3, Processes and Threads; Locks in threads",
            needs: &[],
            play: sharing::lost_updates,
        },
        Experiment {
            id: "four-waits",
            starred: false,
            minutes: 5,
            claim: "On one processor, tasks together take the same time in a row and in threads: multitasking gains \
                    nothing.",
            source: "notes ch.3, What is multitasking?",
            needs: &[],
            play: waits::four_waits,
        },
        Experiment {
            id: "one-row",
            starred: false,
            minutes: 4,
            claim: "Kernel-level threads of a program appear as a single running process in ps.",
            source: "notes ch.3, Kernel-level thread managers, remark",
            needs: &[],
            play: states::one_row,
        },
        Experiment {
            id: "run-or-sleep",
            starred: false,
            minutes: 6,
            claim: "Each process in the process table has the state Run or the state Sleep.",
            source: "notes ch.3, Processes",
            needs: &[TEMPORARY_FOLDER],
            play: states::run_or_sleep,
        },
        Experiment {
            id: "if-for-while",
            starred: false,
            minutes: 6,
            claim: "A waiting consumer is woken up exactly when the queue has a new element, and takes the element.",
            source: "notes ch.3, Conditional Variables in threads, lines 24 to 31",
            needs: &[],
            play: sharing::if_for_while,
        },
        Experiment {
            id: "foreign-release",
            starred: false,
            minutes: 4,
            claim: "A lock is not owned by the thread that locked it.",
            source: "notes ch.3, Locks in threads, definition 24",
            needs: &[PYTHON],
            play: python::foreign_release,
        },
    ],
    next: &[
        ("by hand", "cargo lab18 hello 4 --stay"),
        ("", "cargo lab18 lock --speed 5         (or: condition, event, detached)"),
        ("watch", "ps -L -o pid,tid,stat,psr,comm -p \"$(pgrep -d, lab18)\""),
        ("sheet", "cargo lab18 sheet"),
    ],
};

/// The processors that this thread may use.
fn processors() -> Result<Vec<usize>> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).at("sched_getaffinity", "")?;
    Ok((0..CpuSet::count()).filter(|processor| allowed.is_set(*processor) == Ok(true)).collect())
}

/// A set of one processor.
fn only(processor: usize) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    set.set(processor).at("CPU_SET", processor)?;
    Ok(set)
}

/// Python as the subject: a program on its command line.
fn python(program: &str, arguments: &[String]) -> Result<Role> {
    Role::spawn(Command::new("python3").args(["-c", program]).args(arguments))
}

/// A folder that is removed with its owner.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder> {
        let path = env::temp_dir().join(format!("lab18-{}-{}", getpid(), UNIX_EPOCH.elapsed()?.as_nanos()));
        fs::create_dir(&path).at("mkdir", path.display()).context("TMPDIR names a folder for temporary files")?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // nobody is left who could be told
    }
}
