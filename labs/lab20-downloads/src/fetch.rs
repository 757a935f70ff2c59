//! Terminal 2: the lecture's download manager, in one thread or in several, with a timeline at its end.

use std::{
    env, fs,
    io::{IsTerminal, stdout},
    os::fd::AsFd,
    process::ExitCode,
    time::Instant,
};

use anyhow::{Result, ensure};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use kernel::Patience;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shared::{At, Pause, Screen, Stop};

use crate::{
    FetchArgs,
    download::{Job, Options, State, Url, part_of},
    manager::Manager,
    timeline::{Timeline, short},
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
    let options = Options { folder, resume: args.resume, close: args.close };
    let threads = usize::from(args.threads).min(urls.len());
    let mut manager = Manager::new(&urls, &options, threads);
    let mut shown = Shown::new(&manager.jobs);
    let start = Instant::now();
    for number in 1..=threads {
        if stop.requested() {
            break;
        }
        pause.before(&mut screen, format_args!("start Thread-{number}"));
        manager.start_thread()?;
    }

    let (mut patience, mut last_seen) = (Patience::new(args.deadline), 0);
    while !manager.is_finished() {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(LOOK_AGAIN_MS)); // EINTR after Ctrl-Z and fg: look again
        shown.update(&manager.jobs, &mut screen);
        let seen: u64 = manager.jobs.iter().map(Job::state).map(|state| state.received + count_ended(&state)).sum();
        if seen != last_seen {
            (patience, last_seen) = (Patience::new(args.deadline), seen);
        }
        let silent = !args.deadline.is_zero() && patience.is_over();
        if silent || stop.requested() {
            shown.clear();
            let ended = if silent { format!("No byte for {:?}", args.deadline) } else { "Interrupted".into() };
            let parts = manager.jobs.iter().filter(|job| part_of(&options.folder.join(&job.url.name)).exists()).count();
            screen.line(format_args!("{ended}: {parts} files in part; fetch --resume goes on"));
            // The end of the process ends the threads and closes their connections; each byte is written already.
            return Ok(if silent { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
    }
    shown.update(&manager.jobs, &mut screen);
    shown.clear();
    manager.join()?;

    let timeline = Timeline::of(&manager.jobs);
    timeline.text().iter().for_each(|line| screen.line(line));
    if let Some(path) = &args.svg {
        fs::write(path, timeline.svg()).at("write", path.display())?;
    }
    let states: Vec<State> = manager.jobs.iter().map(Job::state).collect();
    let failed = states.iter().filter(|state| state.failure.is_some()).count();
    screen.line(format_args!("{} files in {}", states.len() - failed, options.folder.display()));
    screen.line(format_args!("Terminating, total time spent {:.2} sec ...", start.elapsed().as_secs_f64()));
    if failed > 0 {
        screen.line(format_args!("{failed} files are missing; fetch --resume gets what is left"));
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What `files` serves.
fn default_urls() -> Vec<Url> {
    (1..=4).filter_map(|number| format!("http://127.0.0.1:8020/{number}.bin").parse().ok()).collect()
}

fn count_ended(state: &State) -> u64 {
    u64::from(state.ended.is_some())
}

/// What was said of each download: a bar on a terminal, lines as in the lecture's log everywhere.
struct Shown {
    start: Instant,
    bars: MultiProgress,
    rows: Vec<(ProgressBar, bool, bool)>,
}

impl Shown {
    fn new(jobs: &[Job]) -> Shown {
        let visible = stdout().is_terminal();
        let bars = MultiProgress::with_draw_target(if visible {
            ProgressDrawTarget::stdout()
        } else {
            ProgressDrawTarget::hidden()
        });
        let style = ProgressStyle::with_template("{prefix:12}  [{bar:40}] {bytes}/{total_bytes}");
        let style = style.map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "));
        let row = |job: &Job| {
            let bar = bars.add(ProgressBar::new(0).with_style(style.clone()));
            bar.set_prefix(short(&job.url.name));
            (bar, false, false)
        };
        let rows = jobs.iter().map(row).collect();
        Shown { start: Instant::now(), bars, rows }
    }

    fn update(&mut self, jobs: &[Job], screen: &mut Screen) {
        for (job, (bar, begun, ended)) in jobs.iter().zip(&mut self.rows) {
            let state = job.state();
            let mut say = |text: String, moment: Option<Instant>| {
                let since = moment.unwrap_or_else(Instant::now).duration_since(self.start).as_secs_f64();
                self.bars.suspend(|| screen.line(format_args!("{since:6.2} {:<9} {text}", state.thread)));
            };
            if state.asked.is_some() && !*begun {
                *begun = true;
                say(format!("Downloading {}", job.url), state.asked);
            }
            bar.set_length(state.size.unwrap_or(state.before + state.received));
            bar.set_position(state.before + state.received);
            if state.ended.is_some() && !*ended {
                *ended = true;
                let told = match &state.failure {
                    Some(failure) => format!("Failed {}: {failure}", job.url.name),
                    None if state.received == 0 && state.asked.is_some() && state.size.is_none() => {
                        format!("{} is there already: {} bytes", job.url.name, state.before)
                    }
                    None => {
                        let checksum = if state.checksum { "the checksum holds" } else { "no checksum was told" };
                        let before = if state.before > 0 { format!(" after {}", state.before) } else { String::new() };
                        format!("Finished downloading {}: {} bytes{before}, {checksum}", job.url.name, state.received)
                    }
                };
                say(told, state.ended);
            }
        }
    }

    /// The bars go, the lines stay.
    fn clear(&self) {
        let _ = self.bars.clear(); // the terminal is gone
    }
}
