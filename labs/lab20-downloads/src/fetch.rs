//! Terminal 2: the lecture's download manager, in one thread or in several, with a timeline at its end.

use std::{env, fs, os::fd::AsFd, process::ExitCode, time::Instant};

use anyhow::{Result, ensure};
use kernel::Patience;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shared::{At, CallError, Pause, Screen, Stop};

use crate::{
    FetchArgs,
    download::part_of,
    job::{Job, Options, State},
    manager::Manager,
    shown::Shown,
    timeline::{LEGEND, Times},
    url::Url,
};

/// Between two looks at the downloads.
const LOOK_AGAIN_MS: u8 = 50;

/// Gets all files; fails if one is not whole. Ctrl-C keeps what has come.
pub fn run(args: &FetchArgs) -> Result<ExitCode> {
    let urls = if args.urls.is_empty() { default_urls() } else { args.urls.clone() };
    for (at, url) in urls.iter().enumerate() {
        ensure!(!urls[..at].iter().any(|other| other.name == url.name), "two URLs end in {}: one at a time", url.name);
    }
    let folder = args.to.clone().unwrap_or_else(|| env::temp_dir().join(crate::LAB));
    fs::create_dir_all(&folder).at("mkdir", folder.display())?;

    let stop = Stop::on_signals()?; // before any thread exists
    let mut pause = Pause::new(args.pause, &stop);
    let mut screen = Screen::new();
    screen.measure();
    let options = Options { folder, resume: args.resume, close: args.close };
    let threads = usize::from(args.threads).min(urls.len());
    let mut manager = Manager::new(&urls, &options, threads);
    let mut shown = Shown::new(&manager.jobs);
    let start = Instant::now();
    for number in 1..=threads {
        pause.before(&mut screen, format_args!("start Thread-{number}"));
        if stop.requested() {
            break;
        }
        manager.start_thread()?;
    }

    let (mut patience, mut last_seen) = (Patience::new(args.deadline), 0);
    loop {
        let states: Vec<State> = manager.jobs.iter().map(Job::state).collect();
        shown.update(&manager.jobs, &mut screen);
        if states.iter().all(|state| state.ended.is_some()) {
            break;
        }
        let seen: u64 = states.iter().map(|state| state.received + u64::from(state.ended.is_some())).sum();
        if seen != last_seen {
            (patience, last_seen) = (Patience::new(args.deadline), seen);
        }
        let silent = !args.deadline.is_zero() && patience.is_over();
        if silent || stop.requested() {
            shown.clear();
            let ended = if silent { format!("No byte for {:?}", args.deadline) } else { "Interrupted".into() };
            let parts = manager.jobs.iter().filter(|job| part_of(&options.folder.join(&job.url.name)).exists()).count();
            screen.line(format_args!("{ended}: {} in part; fetch --resume goes on", files(parts)));
            // The end of the process ends the threads and closes their connections; each byte is written already.
            return Ok(if silent { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(LOOK_AGAIN_MS)); // EINTR after Ctrl-Z and fg: look again
    }
    shown.clear();
    manager.join()?;

    let states: Vec<State> = manager.jobs.iter().map(Job::state).collect();
    let failed = states.iter().filter(|state| state.failure.is_some()).count();
    let first_error = manager.jobs.iter().find_map(Job::take_error);
    if let Some(error) = first_error.filter(|error| failed == states.len() && error.is::<CallError>()) {
        return Err(error); // nobody is there: an error like any client's, with its hint
    }
    let times = Times::of(&manager.jobs);
    screen.line(format_args!("\ntimeline      {LEGEND}"));
    let lines = times.drawn().text(screen.width() - 14);
    lines.iter().for_each(|(name, bar)| screen.line(format_args!("{name:<14}{bar}")));
    if let Some(path) = &args.svg {
        fs::write(path, times.drawn().svg(&times.summary())).at("write", path.display())?;
        screen.line(format_args!("wrote {}", path.display()));
    }
    screen.line(format_args!("{} in {}", files(states.len() - failed), options.folder.display()));
    screen.line(format_args!("Terminating, total time spent {:.2} sec ...", start.elapsed().as_secs_f64()));
    if failed > 0 {
        screen.line(format_args!("Not whole: {}; fetch --resume gets what is left", files(failed)));
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What `files` serves.
fn default_urls() -> Vec<Url> {
    (1..=4).filter_map(|number| format!("http://127.0.0.1:8020/{number}.bin").parse().ok()).collect()
}

fn files(number: usize) -> String {
    if number == 1 { "1 file".into() } else { format!("{number} files") }
}
