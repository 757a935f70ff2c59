//! When threads help a program that waits for the network, decided by the clock, the processors and the socket table.

mod broken;
mod connections;
mod hashing;
mod times;

use std::{
    env,
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow, ensure};
use kernel::{
    Need, State,
    need::{BACKLOGS, BUFFERS, DESCRIPTORS, LOOPBACK, PORTS, TIME_WAIT_BUCKETS},
    tcp_sockets,
};
use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::{Pid, getpid},
};
use shared::{At, Experiment, Lesson, Role, Stage};

use crate::{
    job::{Job, Options},
    manager::Manager,
    url::Url,
};

/// How long a state may take; far more than loopback needs.
const LIMIT: Duration = Duration::from_secs(10);

const TEMPORARY_FOLDER: Need =
    Need { what: "a folder for temporary files", provided_by: "export TMPDIR=$HOME", met: || Folder::new().is_ok() };

const TWO_PROCESSORS: Need = Need {
    what: "two processors that this program may use",
    provided_by: "taskset -pc 0,1 $$, or a machine with more processors",
    met: || processors().is_ok_and(|processors| processors.len() >= 2),
};

/// Time that a task ran.
const SCHEDSTAT: Need = Need {
    what: "/proc/self/schedstat, the kernel's account of running and waiting",
    provided_by: "a kernel with CONFIG_SCHEDSTATS or CONFIG_TASK_DELAY_ACCT, as distributions build it",
    met: || fs::read_to_string("/proc/self/schedstat").is_ok_and(|text| text.split_whitespace().count() >= 2),
};

pub const LESSON: Lesson = Lesson {
    lab: crate::LAB,
    setting: "server and client are on this machine",
    needs: &[LOOPBACK, PORTS, DESCRIPTORS, BUFFERS, BACKLOGS, TEMPORARY_FOLDER],
    experiments: &[
        Experiment {
            id: "four-files",
            starred: true,
            minutes: 6,
            claim: "Several tasks take the same time together, in a row or by multitasking: there is no actual gain in \
                    performance.",
            source: "notes ch.3, What is multitasking?",
            needs: &[],
            play: times::four_files,
        },
        Experiment {
            id: "one-link",
            starred: true,
            minutes: 6,
            claim: "To download four files simultaneously wins against downloading them one after another.",
            source: "notes ch.4, Threads in network applications, Simple example",
            needs: &[],
            play: times::one_link,
        },
        Experiment {
            id: "broken-halfway",
            starred: true,
            minutes: 7,
            claim: "A download may break halfway, while others are under way. A second run brings what is missing.",
            source: "ours",
            needs: &[],
            play: broken::broken_halfway,
        },
        Experiment {
            id: "kept-connection",
            starred: false,
            minutes: 5,
            claim: "The program of the notes calls urlretrieve for each file.",
            source: "notes ch.4, figure 4.1; the question is ours",
            needs: &[TIME_WAIT_BUCKETS],
            play: connections::kept_connection,
        },
        Experiment {
            id: "more-threads",
            starred: false,
            minutes: 5,
            claim: "The program of the notes starts a thread for each file, however many there are.",
            source: "notes ch.4, figure 4.2; the question is ours",
            needs: &[],
            play: times::more_threads,
        },
        Experiment {
            id: "hashing",
            starred: false,
            minutes: 5,
            claim: "For more efficient computations we have to deploy all the cores of our processor.",
            source: "notes ch.4, Threads in network applications",
            needs: &[TWO_PROCESSORS, SCHEDSTAT],
            play: hashing::hashing,
        },
    ],
    next: &[
        ("by hand", "cargo lab20 files             (or: files --link, files --break 2)"),
        ("", "cargo lab20 fetch --threads 4 (or: fetch, fetch --resume)"),
        ("watch", "scripts/states.sh 8020 --watch"),
        ("sheet", "cargo lab20 sheet"),
    ],
};

/// The real server as a child process, on a port of the kernel's choice.
fn server(stage: &mut Stage, options: &[&str]) -> Result<(Role, SocketAddr)> {
    let mut server = Role::start(&[&["files", "0"], options].concat())?;
    for call in ["socket(", "bind(", "listen("] {
        let line = server.line_with(call)?;
        stage.server(line.trim_end());
    }
    let banner = server.line_with(" bytes: http://")?;
    let addr = banner.split("http://").nth(1).and_then(|rest| rest.split('/').next()?.parse().ok());
    Ok((server, addr.context("no address in the banner")?))
}

/// Downloads from this server into a new folder.
struct Downloads {
    manager: Manager,
    folder: Folder,
}

impl Downloads {
    fn new(addr: SocketAddr, files: u16, threads: usize, close: bool) -> Result<Downloads> {
        let folder = Folder::new()?;
        let manager = Downloads::manager(&folder, addr, files, threads, close, false)?;
        Ok(Downloads { manager, folder })
    }

    /// The same files once more, as `fetch --resume`; all connections so far are closed.
    fn again(&mut self, addr: SocketAddr, files: u16, threads: usize) -> Result<()> {
        self.manager = Downloads::manager(&self.folder, addr, files, threads, false, true)?;
        Ok(())
    }

    fn manager(
        folder: &Folder,
        addr: SocketAddr,
        files: u16,
        threads: usize,
        close: bool,
        resume: bool,
    ) -> Result<Manager> {
        let url = |number| format!("http://{addr}/{number}.bin").parse::<Url>().map_err(|error| anyhow!(error));
        let urls = (1..=files).map(url).collect::<Result<Vec<_>>>()?;
        Ok(Manager::new(&urls, &Options { folder: folder.0.clone(), resume, close }, threads))
    }

    /// Starts the threads and waits for their ends. The connections are still open.
    fn run(&mut self, threads: usize) -> Result<()> {
        (0..threads).try_for_each(|_| self.manager.start_thread())?;
        self.manager.join()
    }

    /// Fails where one of the files is not whole, or has another checksum than the server told.
    fn ensure_whole(&self) -> Result<()> {
        for job in self.manager.jobs.iter() {
            let state = job.state();
            ensure!(state.failure.is_none(), "{}: {}", job.url.name, state.failure.unwrap_or_default());
            ensure!(state.checksum, "{}: no checksum", job.url.name);
        }
        Ok(())
    }

    fn received(&self) -> u64 {
        self.manager.jobs.iter().map(Job::state).map(|state| state.received).sum()
    }

    /// The names of the files that are there, sorted.
    fn names(&self) -> Result<Vec<String>> {
        let names = fs::read_dir(&self.folder.0).at("open", self.folder.0.display())?;
        let mut names: Vec<String> =
            names.flatten().map(|entry| OsStr::to_string_lossy(&entry.file_name()).into_owned()).collect();
        names.sort();
        Ok(names)
    }
}

/// The ends of a server's connections in this state, from the kernel's table.
fn ends_in(addr: SocketAddr, state: State) -> Result<usize> {
    let rows = tcp_sockets(addr.port())?;
    Ok(rows.iter().filter(|row| row.pair.local == addr && row.state == state).count())
}

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

/// A folder that is removed with its owner.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Folder> {
        let path = env::temp_dir().join(format!("lab20-{}-{}", getpid(), UNIX_EPOCH.elapsed()?.as_nanos()));
        fs::create_dir(&path).at("mkdir", path.display()).context("TMPDIR names a folder for temporary files")?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0); // nobody is left who could be told
    }
}
