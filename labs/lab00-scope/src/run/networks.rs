//! The network namespaces in which the commands have sockets: two hosts with a cable are two more.

use std::fs::{self, File};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

/// Something to do in a network.
type Job = Box<dyn FnOnce() + Send>;

/// One of them.
struct Network {
    /// Such as `net:[4026531840]`.
    name: String,
    /// A thread that has gone there, as going to and fro takes the kernel many milliseconds; `None` for the own network.
    there: Option<Sender<Job>>,
}

/// All of them; the first is that of this program.
pub struct Networks(Vec<Network>);

impl Networks {
    /// The own one.
    ///
    /// # Errors
    /// /proc is not there.
    pub fn own() -> Result<Networks> {
        Ok(Networks(vec![Network { name: kernel::namespace::own()?, there: None }]))
    }

    /// That of a thread of a command, if it is not known yet. Whether it is new.
    ///
    /// # Errors
    /// The thread is gone, or its network is somebody else's; no more threads are allowed.
    pub fn add(&mut self, thread: i32) -> Result<bool> {
        let path = format!("/proc/{thread}/ns/net");
        let name = fs::read_link(&path).with_context(|| format!("readlink {path}"))?.to_string_lossy().into_owned();
        if self.0.iter().any(|known| known.name == name) {
            return Ok(false);
        }
        let file = File::open(&path).with_context(|| format!("open {path}"))?;
        let (jobs, to_do) = channel::<Job>();
        let (entered, answer) = channel();
        let work = move || {
            let entering = setns(file, CloneFlags::CLONE_NEWNET).context("setns");
            let inside = entering.is_ok();
            let _ = entered.send(entering); // somebody waits for it below
            if inside {
                to_do.iter().for_each(|job: Job| job());
            }
        };
        thread::Builder::new().spawn(work).context("cannot start a thread; see the limit: ulimit -u")?;
        answer.recv().context("a thread ended")??;
        self.0.push(Network { name, there: Some(jobs) });
        Ok(true)
    }

    /// Does something in each network; the last is the newest.
    ///
    /// # Errors
    /// What `job` fails with.
    pub fn in_each<T: Send + 'static>(&self, job: fn() -> Result<T>) -> Result<Vec<T>> {
        self.0.iter().map(|network| network.run(job)).collect()
    }

    /// Does something in the newest network.
    ///
    /// # Errors
    /// What `job` fails with.
    pub fn in_newest<T: Send + 'static>(&self, job: fn() -> Result<T>) -> Result<T> {
        self.0.last().context("no network")?.run(job)
    }
}

impl Network {
    fn run<T: Send + 'static>(&self, job: fn() -> Result<T>) -> Result<T> {
        let Some(there) = &self.there else { return job() };
        let (done, result) = channel();
        let work: Job = Box::new(move || {
            let _ = done.send(job()); // whoever asked waits for it
        });
        there.send(work).ok().context("a thread ended")?;
        result.recv().context("a thread ended")?
    }
}
