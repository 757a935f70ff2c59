//! The lecture's manager and workers: threads that take one URL after another from the same list.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, anyhow};
use ureq::Agent;

use crate::{
    download::agent,
    files::NO_THREAD,
    job::{Job, Options},
    url::Url,
};

/// Downloads that are under way.
pub struct Manager {
    pub jobs: Arc<Vec<Job>>,
    /// The first job that no thread has taken yet.
    next: Arc<AtomicUsize>,
    options: Options,
    /// Holds the connections that are kept; they are closed with it.
    agent: Agent,
    threads: Vec<JoinHandle<()>>,
}

impl Manager {
    pub fn new(urls: &[Url], options: &Options, threads: usize) -> Manager {
        let jobs = urls.iter().cloned().map(Job::new).collect();
        let next = Arc::new(AtomicUsize::new(0));
        Manager { jobs: Arc::new(jobs), next, options: options.clone(), agent: agent(threads), threads: Vec::new() }
    }

    /// Starts one more thread. It ends when the list does.
    pub fn start_thread(&mut self) -> Result<()> {
        let (jobs, next, options) = (self.jobs.clone(), self.next.clone(), self.options.clone());
        let agent = self.agent.clone();
        let work = move || {
            while let Some(job) = jobs.get(next.fetch_add(1, Relaxed)) {
                job.get(&agent, &options);
            }
        };
        let name = format!("Thread-{}", self.threads.len() + 1);
        self.threads.push(thread::Builder::new().name(name).spawn(work).context(NO_THREAD)?);
        Ok(())
    }

    /// Waits for all threads. Their connections stay open as long as the manager lives.
    pub fn join(&mut self) -> Result<()> {
        self.threads.drain(..).try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked")))
    }
}
